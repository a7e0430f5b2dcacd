//! Lines of `/proc/PID/maps`: proc(5), fs/proc/task_mmu.c.

use crate::mounts::Device;

/// A file that is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped<'a> {
    /// From where to where, as `/proc/PID/map_files` names it.
    pub range: String,
    /// Its file system: that of the layer for a file on an overlay, before v6.8.
    pub device: Device,
    /// Its number there.
    pub ino: u64,
    /// Its path; a newline in it is `\012`.
    pub path: &'a [u8],
}

/// Reads a line:
/// `55d0a8a00000-55d0a8a02000 r--p 00000000 08:01 1234        /usr/bin/cat`. None if no file
/// that has a path is mapped.
pub fn line(line: &[u8]) -> Option<Mapped<'_>> {
    let mut rest = line;
    let range = range(field(&mut rest)?)?;
    field(&mut rest)?;
    field(&mut rest)?;
    let device = str::from_utf8(field(&mut rest)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let device = Device {
        major: hex(major)?,
        minor: hex(minor)?,
    };
    let ino = str::from_utf8(field(&mut rest)?).ok()?.parse().ok()?;
    let path = rest.trim_ascii_start();
    path.starts_with(b"/").then_some(Mapped {
        range,
        device,
        ino,
        path,
    })
}

/// The two addresses without the zeros before them.
fn range(field: &[u8]) -> Option<String> {
    let (from, to) = str::from_utf8(field).ok()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(format!("{:x}-{:x}", hex(from)?, hex(to)?))
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = rest.iter().position(|byte| *byte == b' ')?;
    let field = &rest[..len];
    *rest = &rest[len + 1..];
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_file_that_is_mapped() {
        let text = b"00400000-0040a000 r-xp 00000000 fd:1a 1234                 /a b (deleted)";
        let mapped = line(text).unwrap();
        assert_eq!(mapped.range, "400000-40a000");
        let device = Device {
            major: 253,
            minor: 26,
        };
        assert_eq!((mapped.device, mapped.ino), (device, 1234));
        assert_eq!(mapped.path, b"/a b (deleted)");
    }

    #[test]
    fn what_has_no_path_is_none() {
        for text in [
            &b""[..],
            b"7ffc1000-7ffc2000 rw-p 00000000 00:00 0                  [stack]",
            b"7ffc1000-7ffc2000 rw-p 00000000 00:00 0 ",
            b"7ffc1000-7ffc2000 rw-p 00000000 00:0e 7                  anon_inode:[io_uring]",
            b"7ffc1000 rw-p 00000000 00:0e 7                  /x",
            b"x-y rw-p 00000000 00:0e 7 /x",
            b"1-2 rw-p 00000000 000e 7 /x",
        ] {
            assert_eq!(line(text), None);
        }
    }
}
