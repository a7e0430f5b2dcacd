//! What a mount is, in words and as JSON.

use nstrace_common::{
    kind::Kind,
    writers::{KERNEL, PRIVATE},
};

use super::{
    Text, escape,
    json::Object,
    text::{namespace, number},
};
use crate::event::{Mount, frames, until_nul};

/// `-4 writers`.
pub(super) fn writers(out: &mut Text, count: i32) {
    signed(out, count.into());
    out.push_str(if count == 1 { " writer" } else { " writers" });
}

/// A number with its sign, if that is a minus.
pub(super) fn signed(out: &mut Text, value: i64) {
    if value < 0 {
        out.push('-');
    }
    number(out, value.unsigned_abs());
}

/// `tmpfs 0:35, root /upper, a private clone`.
pub(super) fn what(out: &mut Text, mount: &Mount) {
    let record = mount.record;
    escape::terminal(out, until_nul(&record.fs));
    out.push(' ');
    device(out, record.dev);
    out.push_str(", root ");
    escape::terminal(out, &mount.root());
    let source = until_nul(&record.source);
    if !source.is_empty() && source != until_nul(&record.fs) {
        out.push_str(", of ");
        escape::terminal(out, source);
    }
    let point = mount.point();
    if !point.is_empty() {
        out.push_str(", at ");
        escape::terminal(out, &point);
    }
    if record.ns != 0 {
        out.push_str(" in ");
        namespace(out, Kind::Mnt, record.ns);
    }
    if let Some(kind) = kind(record.bits) {
        out.push_str(", ");
        out.push_str(kind);
    }
}

fn kind(bits: u32) -> Option<&'static str> {
    match bits {
        bits if bits & PRIVATE != 0 => Some("a private clone"),
        bits if bits & KERNEL != 0 => Some("the kernel's own"),
        _ => None,
    }
}

/// `major:minor`, as mountinfo has it.
pub(super) fn device(out: &mut Text, dev: u32) {
    // include/linux/kdev_t.h: MINORBITS.
    number(out, dev >> 20);
    out.push(':');
    number(out, dev & 0xf_ffff);
}

/// The functions of a stack, the innermost first.
pub(super) fn calls(out: &mut Text, column: usize, stack: &[u8]) {
    chain(out, column, frames(stack).map(crate::writers::function));
}

/// Functions behind those that they called; the line begins at a column, and so do those that
/// it is broken into.
pub(super) fn chain<'f>(out: &mut Text, column: usize, functions: impl Iterator<Item = &'f [u8]>) {
    /// With what stands behind a function that another one follows.
    const WIDTH: usize = 100 - " <".len();
    let mut at = column;
    let mut word = Text::new();
    for (i, function) in functions.enumerate() {
        word.clear();
        escape::terminal(&mut word, function);
        if i > 0 {
            let is_long = at + 3 + word.len() > WIDTH;
            out.push_str(" <");
            if is_long {
                out.push('\n');
                (0..column).for_each(|_| out.push(' '));
                at = column;
            } else {
                out.push(' ');
                at += 3;
            }
        }
        at += word.len();
        // A recording may have any name.
        let word = String::from_utf8_lossy(word.as_bytes());
        word.chars().for_each(|c| out.push(c));
    }
}

/// What a mount is.
pub(super) fn json(object: &mut Object, mount: &Mount) {
    let record = mount.record;
    object.number("mount", record.id);
    object.some("mount_unique", record.unique);
    object.signed("writers", record.count.into());
    object.name("fs", until_nul(&record.fs));
    object.written("dev", |out| device(out, record.dev));
    object.name("root", &mount.root());
    object.name("source", until_nul(&record.source));
    let point = mount.point();
    if !point.is_empty() {
        object.name("point", &point);
    }
    object.some("mnt", record.ns);
    if record.bits & PRIVATE != 0 {
        object.flag("private");
    }
}

/// The frames of a stack, the innermost first.
pub(super) fn json_stack(object: &mut Object, key: &str, stack: &[u8]) {
    object.names(key, frames(stack));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fuzzing found it: what is printable stays as it is, and need not be ASCII.
    #[test]
    fn functions_of_a_recording_may_have_any_name() {
        let mut out = Text::new();
        calls(&mut out, 2, "\u{e9}t\u{e9}+0x1\n\u{1b}[2J+0x2".as_bytes());
        assert_eq!(out.to_string(), "\u{e9}t\u{e9} < \\x1b[2J");
    }
}
