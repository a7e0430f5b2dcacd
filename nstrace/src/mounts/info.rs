//! Lines of `/proc/PID/mountinfo`: proc(5), fs/proc_namespace.c.
//!
//! What the traced chose is escaped in it: a blank, a tab, a newline and a backslash in paths,
//! types and sources are three octal digits behind a backslash. The options of a file system
//! are what it prints; they are the rest of the line.

use super::{Device, Mount, Names};

/// Reads a line, without its newline:
/// `36 35 98:0 /root /point rw,noatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=continue`.
/// None if it is not of this form.
pub fn line(line: &[u8], names: &mut Names) -> Option<Mount> {
    let mut rest = line;
    let id = number(field(&mut rest)?)?;
    let parent = number(field(&mut rest)?)?;
    let device = str::from_utf8(field(&mut rest)?).ok()?.parse::<Device>();
    let (root, point) = (field(&mut rest)?, field(&mut rest)?);
    let options = field(&mut rest)?;
    let mut mount = Mount {
        id,
        unique: 0,
        parent,
        device: device.ok()?,
        fs: names.get(b""),
        source: names.get(b""),
        root: names.get(&unescape(root)),
        point: names.get(&unescape(point)),
        options: names.get(options),
        super_options: names.get(b""),
        group: 0,
        master: 0,
        from: 0,
        unbindable: false,
    };
    loop {
        match field(&mut rest)? {
            b"-" => break,
            tag => optional(&mut mount, tag),
        }
    }
    mount.fs = names.get(&unescape(field(&mut rest)?));
    // A source may be empty (v6.12 fs/proc_namespace.c, show_mountinfo: mangle of "").
    mount.source = names.get(&unescape(field(&mut rest).unwrap_or_default()));
    mount.super_options = names.get(rest);
    Some(mount)
}

/// One of the fields between the options and the dash; who knows a tag not must skip it.
fn optional(mount: &mut Mount, tag: &[u8]) {
    let value = |name: &[u8]| tag.strip_prefix(name).and_then(number);
    if let Some(group) = value(b"shared:") {
        mount.group = group;
    } else if let Some(group) = value(b"master:") {
        mount.master = group;
    } else if let Some(group) = value(b"propagate_from:") {
        mount.from = group;
    } else if tag == b"unbindable" {
        mount.unbindable = true;
    }
}

/// Takes a field from the front of a line; blanks are between them, one each. None behind the
/// last one.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if rest.is_empty() {
        return None;
    }
    let len = rest.iter().position(|byte| *byte == b' ');
    let (field, behind) = match len {
        Some(len) => (&rest[..len], &rest[len + 1..]),
        None => (*rest, &rest[rest.len()..]),
    };
    *rest = behind;
    Some(field)
}

fn number(bytes: &[u8]) -> Option<u32> {
    let digits = str::from_utf8(bytes).ok()?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// A name without the escapes of mountinfo: `\040` for a blank, and so on.
pub fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, octal(after)) {
            (b'\\', Some(escaped)) => {
                plain.push(escaped);
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

/// The byte that three octal digits stand for.
fn octal(bytes: &[u8]) -> Option<u8> {
    let digits = bytes.get(..3)?;
    let value = digits.iter().try_fold(0_u32, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        Some(value * 8 + u32::from(digit))
    })?;
    u8::try_from(value).ok()
}

/// The options of a list, each without its escapes.
pub fn options(list: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let all = list.split(|byte| *byte == b',');
    all.filter(|option| !option.is_empty()).map(unescape)
}
