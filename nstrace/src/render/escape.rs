//! Makes what the traced chose safe to print.
//!
//! A name (`comm`, a cgroup, a path) may hold any byte. On a terminal a control
//! character of it could move the cursor, set the title or hide a line; a mark that
//! turns the direction of text round could make a line read as another one.
//!
//! A backslash is doubled, so that what was escaped is told from what was so named.

use super::Text;
use crate::event::comm_len;

/// Characters that a terminal acts upon or that change how others read, beside the
/// control characters: marks of direction, of width zero, of lines, of language
/// (Unicode's category Cf, and U+2028 and U+2029).
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a byte stands for itself, on a terminal and in a JSON string.
fn plain(byte: &u8) -> bool {
    (b' '..=b'~').contains(byte) & (*byte != b'\\') & (*byte != b'"')
}

/// Whether all bytes do: eight at a time, without a branch for each.
fn all_plain(name: &[u8]) -> bool {
    let eight = |eight: &[u8; 8]| eight.iter().fold(true, |all, byte| all & plain(byte));
    match name.last_chunk() {
        // The last eight overlap those before.
        Some(last) => name.as_chunks().0.iter().all(eight) && eight(last),
        None => name.iter().all(plain),
    }
}

/// Whether all of 16 bytes do. Not inlined: where the bytes are known to be halves of a
/// number, the compiler takes them apart one by one.
#[inline(never)]
fn sixteen_plain(bytes: &[u8; 16]) -> bool {
    bytes.iter().fold(true, |all, byte| all & plain(byte))
}

fn hex(out: &mut Text, value: u32, digits: u32) {
    for digit in (0..digits).rev() {
        out.push(char::from_digit(value >> (digit * 4) & 15, 16).unwrap_or('0'));
    }
}

/// Appends a name for a terminal: `\xNN` for control characters of ASCII and for
/// bytes that are not UTF-8, `\u{…}` for other characters that do not show, `\\` for
/// a backslash.
pub fn terminal(out: &mut Text, name: &[u8]) {
    if all_plain(name) {
        return out.push_ascii(name);
    }
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c => shown(out, c),
            }
        }
        chunk.invalid().iter().for_each(|b| byte(out, *b));
    }
}

/// Appends the name of a task, up to its NUL, as [`terminal`] does. Every line has one:
/// one that is plain is looked at as a whole, and copied with blanks behind it.
#[inline]
pub fn comm(out: &mut Text, comm: &[u8; 16]) {
    if out.push_same_comm(comm) {
        return;
    }
    const BLANKS: u128 = u128::from_le_bytes([b' '; 16]);
    let len = comm_len(comm);
    let behind = u128::MAX.checked_shl(8 * len as u32).unwrap_or(0);
    let padded = u128::from_le_bytes(*comm) & !behind | BLANKS & behind;
    let padded = padded.to_le_bytes();
    if sixteen_plain(&padded) {
        out.push_comm(*comm, padded, len);
    } else {
        terminal(out, &comm[..len]);
    }
}

/// Appends a message as a line of nstrace's, whatever names stand in it: characters that do not
/// show are written as in a name.
pub fn message(out: &mut Text, text: &str) {
    out.push_str("nstrace: ");
    for c in text.chars() {
        shown(out, c);
    }
    out.push('\n');
}

fn shown(out: &mut Text, c: char) {
    match c {
        c if !hidden(c) => out.push(c),
        c if c.is_ascii() => byte(out, c as u8),
        c => c.escape_unicode().for_each(|c| out.push(c)),
    }
}

fn byte(out: &mut Text, byte: u8) {
    out.push_str("\\x");
    hex(out, byte.into(), 2);
}

/// Appends a name as a JSON string, quoted. In the string, bytes that are not UTF-8
/// are `\xNN` and a backslash is `\\`; every other character is itself, written as
/// an escape of JSON if it does not show.
pub fn json_name(out: &mut Text, name: &[u8]) {
    out.push('"');
    if all_plain(name) {
        out.push_ascii(name);
    } else {
        json_escaped(out, name);
    }
    out.push('"');
}

fn json_escaped(out: &mut Text, name: &[u8]) {
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\\\\\"),
                c => json_char(out, c),
            }
        }
        for b in chunk.invalid() {
            out.push('\\');
            byte(out, *b);
        }
    }
}

/// Appends text as a JSON string, quoted.
pub fn json_text(out: &mut Text, text: &str) {
    out.push('"');
    text.chars().for_each(|c| json_char(out, c));
    out.push('"');
}

/// Appends a word of nstrace's own, in which there is nothing to escape, as a JSON
/// string, quoted.
pub fn json_word(out: &mut Text, word: &str) {
    debug_assert!(word.bytes().all(|byte| plain(&byte)));
    out.push('"');
    out.push_str(word);
    out.push('"');
}

fn json_char(out: &mut Text, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        c if hidden(c) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str("\\u");
                hex(out, (*unit).into(), 4);
            }
        }
        c => out.push(c),
    }
}

/// A name that prints itself as [`terminal`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escaped<'a>(pub &'a [u8]);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mut out = Text::new();
        terminal(&mut out, self.0);
        out.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;
    use crate::event::until_nul;

    fn shown(name: &[u8]) -> String {
        Escaped(name).to_string()
    }

    fn quoted(name: &[u8]) -> String {
        let mut out = Text::new();
        json_name(&mut out, name);
        out.to_string()
    }

    #[test]
    fn names_that_attack_a_terminal_are_shown() {
        assert_snapshot!(shown(b"\x1b[2J"), @r"\x1b[2J");
        assert_snapshot!(shown(b"a\nb\rc\x07\x7f"), @r"a\x0ab\x0dc\x07\x7f");
        assert_snapshot!(shown("\u{9b}2J".as_bytes()), @r"\u{9b}2J");
        assert_snapshot!(shown(b"\x9b2J"), @r"\x9b2J");
        assert_snapshot!(shown("\u{202e}gpj".as_bytes()), @r"\u{202e}gpj");
        assert_snapshot!(shown("a\u{200b}b\u{2028}c\u{feff}".as_bytes()), @r"a\u{200b}b\u{2028}c\u{feff}");
        assert_snapshot!(shown(br"\x1b"), @r"\\x1b");
        assert_snapshot!(shown("Grüße 日本 'a' \"b\"".as_bytes()), @r#"Grüße 日本 'a' "b""#);
    }

    #[test]
    fn a_message_is_one_line() {
        let mut out = Text::new();
        message(&mut out, "a\\b \x1b[2J\nc");
        assert_eq!(out.to_string(), "nstrace: a\\b \\x1b[2J\\x0ac\n");
    }

    #[test]
    fn json_keeps_characters_and_escapes_bytes() {
        assert_snapshot!(quoted(b"\x1b[2J"), @r#""\u001b[2J""#);
        assert_snapshot!(quoted(b"\x9b"), @r#""\\x9b""#);
        assert_snapshot!(quoted(br"\x9b"), @r#""\\\\x9b""#);
        assert_snapshot!(quoted(b"say \"x\"\n"), @r#""say \"x\"\u000a""#);
        assert_snapshot!(quoted("\u{202e}\u{e0041}\u{9b}".as_bytes()), @r#""\u202e\udb40\udc41\u009b""#);
        let value: String = serde_json::from_str(&quoted("\u{1b}\u{e0041}".as_bytes())).unwrap();
        assert_eq!(value, "\u{1b}\u{e0041}");
    }

    #[test]
    fn a_comm_is_shown_as_any_name_up_to_its_nul() {
        for name in [
            &b"runc:[1:CHILD]"[..],
            b"fifteen bytes..",
            b"",
            b"a\0behind\xff",
            b"\x1b[2J",
            br"\",
            "Gr\u{fc}\u{df}e".as_bytes(),
        ] {
            let mut bytes = [0; 16];
            bytes[..name.len()].copy_from_slice(name);
            let mut out = Text::new();
            comm(&mut out, &bytes);
            assert_eq!(out.to_string(), shown(until_nul(&bytes)));
        }
        let mut out = Text::new();
        comm(&mut out, b"sixteen bytes...");
        assert_eq!(out.to_string(), "sixteen bytes...");
    }

    proptest! {
        #[test]
        fn a_comm_ends_at_its_first_nul(comm: [u8; 16]) {
            let zeros = comm.map(|byte| byte & 3);
            prop_assert_eq!(&comm[..comm_len(&comm)], until_nul(&comm));
            prop_assert_eq!(&zeros[..comm_len(&zeros)], until_nul(&zeros));
        }

        #[test]
        fn nothing_escaped_controls_a_terminal(name: Vec<u8>) {
            prop_assert!(!shown(&name).chars().any(hidden));
            prop_assert!(!quoted(&name).chars().any(hidden));
        }

        #[test]
        fn escaping_is_injective(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(a == b, shown(&a) == shown(&b));
            prop_assert_eq!(a == b, quoted(&a) == quoted(&b));
        }

        #[test]
        fn every_name_is_a_json_string(name: Vec<u8>) {
            let value: Result<String, _> = serde_json::from_str(&quoted(&name));
            prop_assert!(value.is_ok());
        }
    }
}
