//! What files of proc say: pure, and proof against names that the traced choose.

use nstrace_common::{
    kind::Kind,
    wire::{PID_LEVELS, PidAt},
};

pub use crate::mounts::info::unescape;

/// A decimal number that fills the bytes.
pub fn number<N: TryFrom<u64>>(bytes: &[u8]) -> Option<N> {
    if bytes.is_empty() {
        return None;
    }
    let mut number = 0_u64;
    for byte in bytes {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number = number.checked_mul(10)?.checked_add(digit.into())?;
    }
    N::try_from(number).ok()
}

/// The number in `name:[number]`, the text of a link that is no path.
fn numbered<N: TryFrom<u64>>(link: &[u8]) -> Option<(&[u8], N)> {
    let link = link.strip_suffix(b"]")?;
    let at = link.iter().position(|byte| *byte == b':')?;
    let inner = link[at + 1..].strip_prefix(b"[")?;
    Some((&link[..at], number(inner)?))
}

/// The namespace that a link of `/proc/PID/ns` or `/proc/PID/fd`, or the root of a mount of
/// nsfs, names: `net:[4026531840]`. A path begins with a slash, so none looks like that.
pub fn namespace(link: &[u8]) -> Option<(Kind, u32)> {
    let (name, inum) = numbered(link)?;
    let kind = Kind::from_name(std::str::from_utf8(name).ok()?)?;
    Some((kind, inum))
}

/// The number of the socket that a link of `/proc/PID/fd` names: `socket:[1234]`.
pub fn socket(link: &[u8]) -> Option<u64> {
    let (name, number) = numbered(link)?;
    (name == b"socket").then_some(number)
}

/// What is needed of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat<'a> {
    /// The task's name.
    pub comm: &'a [u8],
    /// `R`, `S`, `Z`, …
    pub state: u8,
    /// Whether it is on its way out, or has gone it: `PF_EXITING` (include/linux/sched.h).
    pub is_exiting: bool,
    /// When it started: `CLOCK_BOOTTIME` in hundredths of a second.
    pub start: u64,
}

/// Reads `/proc/PID/stat`. The name may hold anything, a parenthesis or a newline too; but
/// what follows it holds none.
pub fn stat(bytes: &[u8]) -> Option<Stat<'_>> {
    /// Of proc(5), counted from the state, which is 3.
    const FLAGS: usize = 9 - 3;
    const STARTTIME: usize = 22 - 3;
    const PF_EXITING: u64 = 4;
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let comm = bytes.get(open + 1..close)?;
    let rest = bytes[close + 1..].strip_prefix(b" ")?;
    let mut fields = rest.split(|byte| *byte == b' ');
    let state = *fields.next()?.first()?;
    let flags: u64 = number(fields.nth(FLAGS - 1)?)?;
    let is_exiting = flags & PF_EXITING != 0;
    let start = number(fields.nth(STARTTIME - FLAGS - 1)?)?;
    Some(Stat {
        comm,
        state,
        is_exiting,
        start,
    })
}

/// A task's ids, from the reader's pid namespace down, from `/proc/PID/status`. The inums
/// are left open. The name, which comes first, has its newlines escaped (fs/proc/array.c,
/// proc_task_name).
pub fn ns_pids(status: &[u8]) -> Option<([PidAt; PID_LEVELS], usize)> {
    let mut lines = status.split(|byte| *byte == b'\n');
    let ids = lines.find_map(|line| line.strip_prefix(b"NSpid:"))?;
    let mut pids = [PidAt::default(); PID_LEVELS];
    let mut len = 0;
    for id in ids.split(|byte| *byte == b'\t').skip(1) {
        pids.get_mut(len)?.nr = number(id)?;
        len += 1;
    }
    (len > 0).then_some((pids, len))
}

/// The path of a task's cgroup v2, from `/proc/PID/cgroup`. None if it is of a cgroup that
/// was removed, or not below the reader's root. No cgroup's name has a newline
/// (kernel/cgroup/cgroup.c, cgroup_mkdir).
pub fn cgroup(bytes: &[u8]) -> Option<&[u8]> {
    // What is cut has no newline at its end.
    let mut lines = bytes.strip_suffix(b"\n")?.split(|byte| *byte == b'\n');
    let path = lines.find_map(|line| line.strip_prefix(b"0::"))?;
    let is_inside = path.starts_with(b"/") && !path.starts_with(b"/..");
    (is_inside && !path.ends_with(b" (deleted)")).then_some(path)
}

/// A mount, from a line of `/proc/PID/mountinfo`; its paths are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Major and minor number of its file system.
    pub device: (u32, u32),
    /// What of the file system is mounted.
    pub root: &'a [u8],
    /// Where it is mounted.
    pub point: &'a [u8],
    /// The type of the file system.
    pub fstype: &'a [u8],
}

/// Reads a line of `/proc/PID/mountinfo`: `36 35 98:0 /root /point rw optional… - ext3 …`.
pub fn mount(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let colon = device.iter().position(|byte| *byte == b':')?;
    let device = (number(&device[..colon])?, number(&device[colon + 1..])?);
    let root = fields.next()?;
    let point = fields.next()?;
    fields.find(|field| *field == b"-")?;
    let fstype = fields.next()?;
    Some(Mount {
        device,
        root,
        point,
        fstype,
    })
}

/// The entries of a directory whose names are numbers, with their inode numbers: from what
/// getdents64 gave (`struct linux_dirent64`).
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = (u32, u64)> {
    let mut rest = bytes;
    let all = std::iter::from_fn(move || {
        let ino = u64::from_ne_bytes(*rest.first_chunk()?);
        let len = u16::from_ne_bytes(*rest.get(16..)?.first_chunk()?);
        let name = rest.get(19..usize::from(len))?;
        rest = &rest[usize::from(len)..];
        Some((name, ino))
    });
    all.filter_map(|(name, ino)| Some((number(crate::event::until_nul(name))?, ino)))
}
