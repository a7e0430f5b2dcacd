//! What statmount(2) tells of a mount: `struct statmount` of include/uapi/linux/mount.h, as of
//! v6.13.
//!
//! It comes to what a line of mountinfo has, so that both ways give the same [`Mount`]. The
//! options of a mount are flags here and words there (fs/proc_namespace.c, show_vfsmnt_opts and
//! show_sb_opts). Strings come without escapes, but for the options of the file system.

use std::io;

use super::sys;
use crate::mounts::{Device, Mount, Names};

const SB_BASIC: u64 = 0x1;
const MNT_BASIC: u64 = 0x2;
const MNT_ROOT: u64 = 0x8;
const MNT_POINT: u64 = 0x10;
const FS_TYPE: u64 = 0x20;
/// From v6.11.
const MNT_OPTS: u64 = 0x80;
/// From v6.13.
const FS_SUBTYPE: u64 = 0x100;
const SB_SOURCE: u64 = 0x200;

/// All that a line of mountinfo has, but for `propagate_from`: of other namespaces than the
/// caller's that is not told rightly (v6.18 fs/namespace.c, statmount_propagate_from).
const WHOLE: u64 =
    SB_BASIC | MNT_BASIC | MNT_ROOT | MNT_POINT | FS_TYPE | MNT_OPTS | FS_SUBTYPE | SB_SOURCE;

/// Stands for the root of a namespace: `LSMT_ROOT`.
const ROOT: u64 = u64::MAX;

/// Where the strings begin.
const STRINGS: usize = 512;

/// So long an answer is read at first, and at most: an overlay can have 500 layers, each of
/// them with a path.
const ANSWER: usize = 8 << 10;
const ANSWER_MAX: usize = 16 << 20;

/// So many ids are asked for at once.
const IDS: usize = 4096;

/// What statmount can do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Can {
    /// Nothing of other namespaces: before v6.11, or a filter of system calls forbids it.
    Nothing,
    /// It tells the ids: v6.11, v6.12.
    Ids,
    /// It tells all that mountinfo does.
    Whole,
}

/// A buffer for answers.
#[derive(Debug)]
pub struct Answer(Vec<u8>);

/// The ids of a mount and its parent, and its file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ids {
    /// That which others get later.
    pub id: u32,
    /// That of its parent.
    pub parent: u32,
    /// Its file system.
    pub device: Device,
}

impl Answer {
    /// Nothing yet.
    pub fn new() -> Answer {
        Answer(vec![0; ANSWER])
    }

    /// Tries it on a mount of a namespace whose source has a name.
    pub fn can(&mut self, ns: u64, mount: u64) -> Can {
        if ns == 0 || self.ask(ns, mount, WHOLE).is_err() {
            return Can::Nothing;
        }
        let mask = self.long(8).unwrap_or(0);
        match mask & (MNT_BASIC | SB_SOURCE) {
            MNT_BASIC => Can::Ids,
            0 | SB_SOURCE => Can::Nothing,
            _ => Can::Whole,
        }
    }

    /// A mount of a namespace.
    pub fn mount(&mut self, ns: u64, mount: u64, names: &mut Names) -> io::Result<Mount> {
        self.ask(ns, mount, WHOLE)?;
        self.decode(names).ok_or(io::ErrorKind::InvalidData.into())
    }

    /// The ids of one.
    pub fn ids(&mut self, ns: u64, mount: u64) -> io::Result<Ids> {
        self.ask(ns, mount, SB_BASIC | MNT_BASIC)?;
        let ids = || {
            Some(Ids {
                id: self.word(56)?,
                parent: self.word(60)?,
                device: self.device()?,
            })
        };
        ids().ok_or(io::ErrorKind::InvalidData.into())
    }

    fn ask(&mut self, ns: u64, mount: u64, mask: u64) -> io::Result<()> {
        loop {
            match sys::statmount(ns, mount, mask, &mut self.0) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EOVERFLOW)
                        && self.0.len() < ANSWER_MAX =>
                {
                    self.0.resize(self.0.len() * 4, 0);
                }
                result => return result,
            }
        }
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn long(&self, at: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(*self.0.get(at..)?.first_chunk()?))
    }

    fn device(&self) -> Option<Device> {
        Some(Device {
            major: self.word(16)?,
            minor: self.word(20)?,
        })
    }

    /// The string that is told of by a bit of the mask; empty ones are not told of.
    fn string(&self, bit: u64, at: usize) -> Option<&[u8]> {
        if self.long(8)? & bit == 0 {
            return Some(b"");
        }
        let from = STRINGS.checked_add(self.word(at)? as usize)?;
        let rest = self.0.get(from..)?;
        let len = rest.iter().position(|byte| *byte == 0)?;
        Some(&rest[..len])
    }

    fn decode(&self, names: &mut Names) -> Option<Mount> {
        let mask = self.long(8)?;
        if mask & (SB_BASIC | MNT_BASIC) != SB_BASIC | MNT_BASIC {
            return None;
        }
        let fs = self.string(FS_TYPE, 36)?;
        let subtype = self.string(FS_SUBTYPE, 120)?;
        let fs = match subtype {
            b"" => names.get(fs),
            subtype => names.get(&[fs, b".", subtype].concat()),
        };
        let propagation = self.long(72)?;
        Some(Mount {
            id: self.word(56)?,
            unique: self.long(40)?,
            parent: self.word(60)?,
            device: self.device()?,
            fs,
            source: names.get(self.string(SB_SOURCE, 124)?),
            root: names.get(self.string(MNT_ROOT, 104)?),
            point: names.get(self.string(MNT_POINT, 108)?),
            options: names.get(&options(self.long(64)?)),
            super_options: names.get(&super_options(self.word(32)?, self.string(MNT_OPTS, 4)?)),
            group: u32::try_from(self.long(80)?).ok()?,
            master: u32::try_from(self.long(88)?).ok()?,
            from: 0,
            unbindable: propagation & libc::MS_UNBINDABLE != 0,
        })
    }
}

/// The flags of a mount as words.
fn options(attributes: u64) -> Vec<u8> {
    /// The two that say when access times are written are a number.
    const ATIME: u64 = 0x70;
    const NOATIME: u64 = 0x10;
    const RELATIME: u64 = 0;
    let has = |flag| attributes & flag != 0;
    let words = [
        (has(0x2), ",nosuid"),
        (has(0x4), ",nodev"),
        (has(0x8), ",noexec"),
        (attributes & ATIME == NOATIME, ",noatime"),
        (has(0x80), ",nodiratime"),
        (attributes & ATIME == RELATIME, ",relatime"),
        (has(0x20_0000), ",nosymfollow"),
        (has(0x10_0000), ",idmapped"),
    ];
    let mut text = access(has(0x1));
    for (_, word) in words.into_iter().filter(|(is_set, _)| *is_set) {
        text.extend_from_slice(word.as_bytes());
    }
    text
}

/// The same of a file system, and what it prints itself.
fn super_options(flags: u32, own: &[u8]) -> Vec<u8> {
    /// `SB_*` of include/linux/fs/super_types.h, which are those of mount(2).
    const LAZYTIME: u32 = 1 << 25;
    let has = |flag: u32| flags & flag != 0;
    let mut text = access(has(libc::MS_RDONLY as u32));
    for (flag, word) in [
        (libc::MS_SYNCHRONOUS as u32, ",sync"),
        (libc::MS_DIRSYNC as u32, ",dirsync"),
        (LAZYTIME, ",lazytime"),
    ] {
        if has(flag) {
            text.extend_from_slice(word.as_bytes());
        }
    }
    if !own.is_empty() {
        text.push(b',');
        text.extend_from_slice(own);
    }
    text
}

fn access(is_read_only: bool) -> Vec<u8> {
    let word: &[u8] = if is_read_only { b"ro" } else { b"rw" };
    word.to_vec()
}

/// The unique ids of a mount and of all below it, in the order of mountinfo.
pub fn list(ns: u64, root: u64) -> io::Result<Vec<u64>> {
    let mut ids = vec![root];
    extend(ns, root, &mut ids)?;
    ids.sort_unstable();
    Ok(ids)
}

/// Those of all mounts of a namespace that is asked from outside.
pub fn list_all(ns: u64) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    extend(ns, ROOT, &mut ids)?;
    Ok(ids)
}

fn extend(ns: u64, root: u64, ids: &mut Vec<u64>) -> io::Result<()> {
    let mut buf = vec![0; IDS];
    let mut after = 0;
    loop {
        let len = sys::listmount(ns, root, after, &mut buf)?;
        let Some(last) = buf[..len].last().copied().filter(|last| *last > after) else {
            return Ok(());
        };
        after = last;
        ids.extend_from_slice(&buf[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer made by hand.
    fn answer(fields: &[(usize, &[u8])], strings: &[u8]) -> Answer {
        let mut bytes = vec![0; STRINGS];
        for (at, field) in fields {
            bytes[*at..*at + field.len()].copy_from_slice(field);
        }
        bytes.extend_from_slice(strings);
        Answer(bytes)
    }

    #[test]
    fn an_answer_is_what_mountinfo_would_say() {
        let mask = WHOLE.to_ne_bytes();
        let strings = b"ext4\0/sub\0/mnt/a b\0size=4k,lower=a\\054b\0x\0/dev/sda 1\0";
        let word = |value: u32| value.to_ne_bytes();
        let long = |value: u64| value.to_ne_bytes();
        let answer = answer(
            &[
                (4, &word(19)),
                (8, &mask),
                (16, &word(8)),
                (20, &word(1)),
                (32, &word(1 | 16 | 128 | 1 << 25)),
                (36, &word(0)),
                (40, &long(0x8000_0024)),
                (48, &long(0x8000_0023)),
                (56, &word(36)),
                (60, &word(35)),
                (
                    64,
                    &long(0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x20_0000 | 0x10_0000),
                ),
                (72, &long(libc::MS_UNBINDABLE)),
                (80, &long(5)),
                (88, &long(6)),
                (104, &word(5)),
                (108, &word(10)),
                (120, &word(40)),
                (124, &word(42)),
            ],
            strings,
        );
        let mut names = Names::default();
        let mut mount = answer.decode(&mut names).unwrap();
        let line = b"36 35 8:1 /sub /mnt/a\\040b \
            rw,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow,idmapped shared:5 master:6 \
            unbindable - ext4.x /dev/sda\\0401 ro,sync,dirsync,lazytime,size=4k,lower=a\\054b";
        let told = crate::mounts::info::line(line, &mut names).unwrap();
        assert_eq!(mount.unique, 0x8000_0024);
        mount.unique = 0;
        assert_eq!(mount, told);
    }

    #[test]
    fn an_answer_that_is_cut_or_lies_is_none() {
        let mut names = Names::default();
        assert!(Answer(Vec::new()).decode(&mut names).is_none());
        assert!(answer(&[], b"").decode(&mut names).is_none());
        let mask = WHOLE.to_ne_bytes();
        let far = u32::MAX.to_ne_bytes();
        for string in [4, 36, 104, 108, 120, 124] {
            let lies = answer(&[(8, &mask), (string, &far)], b"a\0");
            assert!(lies.decode(&mut names).is_none(), "{string}");
        }
        // No NUL at the end.
        assert!(answer(&[(8, &mask)], b"abc").decode(&mut names).is_none());
        let whole = answer(&[(8, &mask)], b"abc\0").decode(&mut names);
        assert_eq!(&*whole.unwrap().root, b"abc");
    }
}
