//! Mount operations: what the record of one means.
//!
//! mount(2) is six system calls in one; which it is, path_mount of fs/namespace.c decides by
//! its flags in an order of its own, which [`MountOp::what`] follows.

use nstrace_common::mount_ops::{
    Birth, BirthsRecord, Call, Found, GIVEN, MountOpRecord, PathNames, TAKEN_MORE,
};

use crate::event::{comm_len, until_nul};

pub mod origins;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// An attempt to change the tree of mounts: a record whose discriminants were checked.
#[derive(Clone, Copy, Debug)]
pub struct MountOp<'a> {
    /// What the kernel side gathered.
    pub record: &'a MountOpRecord,
    /// What was called.
    pub call: Call,
}

/// Mounts that an operation made, told before it ends.
#[derive(Clone, Copy, Debug)]
pub struct MountBirths<'a> {
    /// Of which operation.
    pub record: &'a BirthsRecord,
    /// The mounts.
    pub births: &'a [Birth],
    /// What was called.
    pub call: Call,
}

/// What mount(2) was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Mount a file system.
    New,
    /// Mount what is mounted already, at another place.
    Bind,
    /// Mount it at another place instead.
    Move,
    /// Change a mount and its file system.
    Remount,
    /// Change a mount alone.
    BindRemount,
    /// Change where mounts and unmounts go on to.
    Propagation(Propagation),
}

/// To and from where mounts and unmounts go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// To its peers, and from them.
    Shared,
    /// Nowhere.
    Private,
    /// From its master.
    Slave,
    /// Nowhere, and it cannot be bound.
    Unbindable,
}

// include/uapi/linux/mount.h and include/uapi/linux/fcntl.h.
const MS_RDONLY: u64 = 1;
const MS_REMOUNT: u64 = 1 << 5;
const MS_BIND: u64 = 1 << 12;
const MS_MOVE: u64 = 1 << 13;
const MS_REC: u64 = 1 << 14;
const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;
const MS_MGC_VAL: u64 = 0xc0ed_0000;
const MS_MGC_MSK: u64 = 0xffff_0000;
const AT_RECURSIVE: u64 = 0x8000;
const AT_FDCWD: i32 = -100;

/// A flag, and the name of it.
type Name = (u64, &'static str);

/// Of mount(2), without `MS_`.
const MS: [Name; 24] = [
    (MS_RDONLY, "RDONLY"),
    (1 << 1, "NOSUID"),
    (1 << 2, "NODEV"),
    (1 << 3, "NOEXEC"),
    (1 << 4, "SYNCHRONOUS"),
    (MS_REMOUNT, "REMOUNT"),
    (1 << 6, "MANDLOCK"),
    (1 << 7, "DIRSYNC"),
    (1 << 8, "NOSYMFOLLOW"),
    (1 << 10, "NOATIME"),
    (1 << 11, "NODIRATIME"),
    (MS_BIND, "BIND"),
    (MS_MOVE, "MOVE"),
    (MS_REC, "REC"),
    (1 << 15, "SILENT"),
    (1 << 16, "POSIXACL"),
    (MS_UNBINDABLE, "UNBINDABLE"),
    (MS_PRIVATE, "PRIVATE"),
    (MS_SLAVE, "SLAVE"),
    (MS_SHARED, "SHARED"),
    (1 << 21, "RELATIME"),
    (1 << 23, "I_VERSION"),
    (1 << 24, "STRICTATIME"),
    (1 << 25, "LAZYTIME"),
];

/// Of umount2(2), without `MNT_` and `UMOUNT_`.
const UMOUNT: [Name; 4] = [
    (1, "FORCE"),
    (UMOUNT_DETACH, "DETACH"),
    (4, "EXPIRE"),
    (8, "NOFOLLOW"),
];
const UMOUNT_DETACH: u64 = 2;

/// Of move_mount(2), without `MOVE_MOUNT_`.
const MOVE_MOUNT: [Name; 8] = [
    (0x1, "F_SYMLINKS"),
    (0x2, "F_AUTOMOUNTS"),
    (0x4, "F_EMPTY_PATH"),
    (0x10, "T_SYMLINKS"),
    (0x20, "T_AUTOMOUNTS"),
    (0x40, "T_EMPTY_PATH"),
    (MOVE_MOUNT_SET_GROUP, "SET_GROUP"),
    (MOVE_MOUNT_BENEATH, "BENEATH"),
];
const MOVE_MOUNT_SET_GROUP: u64 = 0x100;
const MOVE_MOUNT_BENEATH: u64 = 0x200;

/// Of open_tree(2), without `OPEN_TREE_` and `AT_`.
const OPEN_TREE: [Name; 7] = [
    (0x1, "CLONE"),
    (0x2, "NAMESPACE"),
    (0x100, "SYMLINK_NOFOLLOW"),
    (0x800, "NO_AUTOMOUNT"),
    (0x1000, "EMPTY_PATH"),
    (AT_RECURSIVE, "RECURSIVE"),
    (0x8_0000, "CLOEXEC"),
];

/// Of mount_setattr(2), without `AT_`.
const SETATTR: [Name; 4] = [
    (0x100, "SYMLINK_NOFOLLOW"),
    (0x800, "NO_AUTOMOUNT"),
    (0x1000, "EMPTY_PATH"),
    (AT_RECURSIVE, "RECURSIVE"),
];

const FSMOUNT: [Name; 2] = [(1, "CLOEXEC"), (2, "NAMESPACE")];
const FSOPEN: [Name; 1] = [(1, "CLOEXEC")];
const FSPICK: [Name; 4] = [
    (1, "CLOEXEC"),
    (2, "SYMLINK_NOFOLLOW"),
    (4, "NO_AUTOMOUNT"),
    (8, "EMPTY_PATH"),
];

/// Attributes of mounts, without `MOUNT_ATTR_`, and as mount(8) has them. Those of times of
/// access are one number of several values.
const ATTRIBUTES: [(u64, &str, &str); 9] = [
    (0x1, "RDONLY", "ro"),
    (0x2, "NOSUID", "nosuid"),
    (0x4, "NODEV", "nodev"),
    (0x8, "NOEXEC", "noexec"),
    (0x10, "NOATIME", "noatime"),
    (0x20, "STRICTATIME", "strictatime"),
    (0x80, "NODIRATIME", "nodiratime"),
    (0x10_0000, "IDMAP", "idmap"),
    (0x20_0000, "NOSYMFOLLOW", "nosymfollow"),
];

/// Commands of fsconfig(2), without `FSCONFIG_`, by number.
const COMMANDS: [&str; 9] = [
    "SET_FLAG",
    "SET_STRING",
    "SET_BINARY",
    "SET_PATH",
    "SET_PATH_EMPTY",
    "SET_FD",
    "CMD_CREATE",
    "CMD_RECONFIGURE",
    "CMD_CREATE_EXCL",
];

/// Options that remounting can change, as mount(8) has them.
const OPTIONS: [Name; 11] = [
    (1 << 1, "nosuid"),
    (1 << 2, "nodev"),
    (1 << 3, "noexec"),
    (1 << 4, "sync"),
    (1 << 6, "mand"),
    (1 << 7, "dirsync"),
    (1 << 8, "nosymfollow"),
    (1 << 10, "noatime"),
    (1 << 11, "nodiratime"),
    (1 << 24, "strictatime"),
    (1 << 25, "lazytime"),
];

/// How umount2(2) was to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Unless it is in use.
    Plainly,
    /// At once, and the rest when it is not in use any more.
    Lazily,
    /// Even if a server does not answer.
    Forcibly,
    /// If it has not been used since this was last asked.
    Expired,
}

/// How mount(2) takes its flags, which once had a magic number before them.
fn mount_flags(flags: u64) -> u64 {
    match flags & MS_MGC_MSK == MS_MGC_VAL {
        true => flags & !MS_MGC_MSK,
        false => flags,
    }
}

/// The names of those flags that are set.
fn names(names: &'static [Name], flags: u64) -> impl Iterator<Item = &'static str> {
    let set = names.iter().filter(move |(flag, _)| flags & flag != 0);
    set.map(|(_, name)| *name)
}

impl<'a> MountOp<'a> {
    /// The errno that it failed with, positive.
    pub fn errno(&self) -> Option<i32> {
        (self.record.ret < 0).then(|| self.record.ret.wrapping_neg() as i32)
    }

    /// Its length in ns.
    pub fn took_ns(&self) -> u64 {
        self.record.head.time.saturating_sub(self.record.start)
    }

    /// The caller's name, as bytes: it may hold anything.
    pub fn comm(&self) -> &'a [u8] {
        &self.record.comm[..comm_len(&self.record.comm)]
    }

    /// The type of the file system, as bytes; empty if it is not known.
    pub fn fs(&self) -> &'a [u8] {
        until_nul(&self.record.fs)
    }

    /// The first path.
    pub fn source(&self) -> MountPath<'a> {
        let record = self.record;
        MountPath::new(
            &record.source,
            record.source_len,
            record.source_fd,
            &record.source_path,
        )
    }

    /// The second path.
    pub fn target(&self) -> MountPath<'a> {
        let record = self.record;
        MountPath::new(
            &record.target,
            record.target_len,
            record.target_fd,
            &record.target_path,
        )
    }

    /// What mount(2) was to do: v6.12 fs/namespace.c, path_mount. None of other calls.
    pub fn what(&self) -> Option<What> {
        if self.call != Call::Mount {
            return None;
        }
        let flags = mount_flags(self.record.flags);
        Some(match flags {
            _ if flags & MS_REMOUNT != 0 && flags & MS_BIND != 0 => What::BindRemount,
            _ if flags & MS_REMOUNT != 0 => What::Remount,
            _ if flags & MS_BIND != 0 => What::Bind,
            _ => match propagation(flags) {
                Some(propagation) => What::Propagation(propagation),
                None if flags & MS_MOVE != 0 => What::Move,
                None => What::New,
            },
        })
    }

    /// The propagation that mount_setattr was to change to.
    pub fn propagation(&self) -> Option<Propagation> {
        propagation(self.record.propagation)
    }

    /// Whether it is about all mounts below, too.
    pub fn is_recursive(&self) -> bool {
        let flags = self.record.flags;
        match self.call {
            Call::Mount => match self.what() {
                Some(What::Bind | What::Propagation(_)) => flags & MS_REC != 0,
                _ => false,
            },
            Call::OpenTree | Call::OpenTreeAttr | Call::MountSetattr => flags & AT_RECURSIVE != 0,
            _ => false,
        }
    }

    /// How it was to be unmounted.
    pub fn how(&self) -> How {
        match self.record.flags {
            flags if flags & UMOUNT_DETACH != 0 => How::Lazily,
            flags if flags & 1 != 0 => How::Forcibly,
            flags if flags & 4 != 0 => How::Expired,
            _ => How::Plainly,
        }
    }

    /// Whether it was to be mounted below what is mounted there.
    pub fn is_beneath(&self) -> bool {
        self.call == Call::MoveMount && self.record.flags & MOVE_MOUNT_BENEATH != 0
    }

    /// Whether move_mount only takes over a peer group.
    pub fn sets_group(&self) -> bool {
        self.call == Call::MoveMount && self.record.flags & MOVE_MOUNT_SET_GROUP != 0
    }

    /// The names of its flags, without what they all begin with.
    pub fn flag_names(&self) -> impl Iterator<Item = &'static str> {
        let flags = self.record.flags;
        let (table, flags): (&'static [Name], u64) = match self.call {
            Call::Mount => (&MS, mount_flags(flags)),
            Call::Umount => (&UMOUNT, flags),
            Call::MoveMount => (&MOVE_MOUNT, flags),
            Call::OpenTree | Call::OpenTreeAttr => (&OPEN_TREE, flags),
            Call::Fsmount => (&FSMOUNT, flags),
            Call::MountSetattr => (&SETATTR, flags),
            Call::Fsopen => (&FSOPEN, flags),
            Call::Fspick => (&FSPICK, flags),
            Call::PivotRoot | Call::Fsconfig | Call::CopyMntNs => (&[], 0),
        };
        names(table, flags)
    }

    /// The command of fsconfig.
    pub fn command(&self) -> Option<&'static str> {
        let number = usize::try_from(self.record.flags).ok()?;
        let command = COMMANDS.get(number).copied();
        command.filter(|_| self.call == Call::Fsconfig)
    }

    /// What remounting sets, as mount(8) has it; empty for what is no remounting.
    pub fn options(&self) -> impl Iterator<Item = &'static str> {
        let flags = mount_flags(self.record.flags);
        let remounts = matches!(self.what(), Some(What::Remount | What::BindRemount));
        let first = if flags & MS_RDONLY != 0 { "ro" } else { "rw" };
        let rest = names(&OPTIONS, if remounts { flags } else { 0 });
        remounts.then_some(first).into_iter().chain(rest)
    }

    /// Names of attributes that are set, without `MOUNT_ATTR_`.
    pub fn set(&self) -> impl Iterator<Item = &'static str> {
        attributes(self.record.attr_set).map(|(name, _)| name)
    }

    /// The same that are cleared.
    pub fn cleared(&self) -> impl Iterator<Item = &'static str> {
        attributes(self.record.attr_clear).map(|(name, _)| name)
    }

    /// The same as mount(8) has them: those that are set, and those that are cleared.
    pub fn changes(&self) -> [impl Iterator<Item = &'static str>; 2] {
        [self.record.attr_set, self.record.attr_clear]
            .map(|flags| attributes(flags).map(|(_, word)| word))
    }

    /// Whether more mounts may have been taken away than were counted.
    pub fn may_have_taken_more(&self) -> bool {
        self.record.found & TAKEN_MORE != 0
    }

    /// What was found on the way: `IS_NO_ROOT` and so on.
    pub fn found(&self, bit: u8) -> bool {
        self.record.found & bit != 0
    }
}

fn attributes(flags: u64) -> impl Iterator<Item = (&'static str, &'static str)> {
    let set = ATTRIBUTES
        .iter()
        .filter(move |(flag, ..)| flags & flag != 0);
    set.map(|(_, name, word)| (*name, *word))
}

/// Of several, the kernel refuses it: flags_to_propagation_type.
fn propagation(flags: u64) -> Option<Propagation> {
    Some(match flags {
        _ if flags & MS_SHARED != 0 => Propagation::Shared,
        _ if flags & MS_PRIVATE != 0 => Propagation::Private,
        _ if flags & MS_SLAVE != 0 => Propagation::Slave,
        _ if flags & MS_UNBINDABLE != 0 => Propagation::Unbindable,
        _ => return None,
    })
}

impl Propagation {
    /// As mount(8) has it.
    pub fn name(self) -> &'static str {
        match self {
            Propagation::Shared => "shared",
            Propagation::Private => "private",
            Propagation::Slave => "slave",
            Propagation::Unbindable => "unbindable",
        }
    }

    /// The same for all mounts below, too.
    pub fn recursive_name(self) -> &'static str {
        match self {
            Propagation::Shared => "rshared",
            Propagation::Private => "rprivate",
            Propagation::Slave => "rslave",
            Propagation::Unbindable => "runbindable",
        }
    }
}

impl What {
    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            What::New => "new",
            What::Bind => "bind",
            What::Move => "move",
            What::Remount => "remount",
            What::BindRemount => "bind_remount",
            What::Propagation(propagation) => propagation.name(),
        }
    }
}

impl<'a> MountBirths<'a> {
    /// The name of the task that made them, as bytes: it may hold anything.
    pub fn comm(&self) -> &'a [u8] {
        &self.record.comm[..comm_len(&self.record.comm)]
    }
}

/// A path of an operation: as the caller gave it, and as the kernel found it. Both may hold
/// anything.
#[derive(Clone, Copy, Debug)]
pub struct MountPath<'a> {
    /// As the caller gave it; none if it gave none.
    pub given: Option<&'a [u8]>,
    /// Whether that was cut.
    pub is_cut: bool,
    /// The descriptor that it begins at, if it begins at one.
    pub fd: Option<i32>,
    /// The names that the kernel found, the last of the path first.
    names: &'a [u8],
    /// What of it that is; none if the kernel did not get there.
    part: Option<Part>,
}

/// What of a path the kernel found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All.
    Whole,
    /// Its last names.
    Last,
    /// All, but it begins nowhere: what it is in was taken away.
    Loose,
}

impl<'a> MountPath<'a> {
    fn new(given: &'a [u8; GIVEN], len: u16, fd: i32, found: &'a PathNames) -> MountPath<'a> {
        let len = usize::from(len).min(GIVEN);
        let part = match found.found {
            found if found == Found::Whole as u32 => Some(Part::Whole),
            found if found == Found::Cut as u32 => Some(Part::Last),
            found if found == Found::Loose as u32 => Some(Part::Loose),
            _ => None,
        };
        let names = (found.len as usize).min(found.names.len());
        MountPath {
            given: (len > 0).then(|| until_nul(&given[..len])),
            is_cut: len == GIVEN,
            fd: (fd != AT_FDCWD && fd >= 0).then_some(fd),
            names: &found.names[..names],
            part,
        }
    }

    /// Whether the kernel found it.
    pub fn is_found(&self) -> bool {
        self.part.is_some()
    }

    /// As the kernel found it, from the root of the mount namespace; `…` stands before it
    /// if that is not all, and `?` if it begins nowhere. None if the kernel did not get
    /// there.
    pub fn found(&self) -> Option<Vec<u8>> {
        let mut path = match self.part? {
            Part::Whole => Vec::new(),
            Part::Last => "…".as_bytes().to_vec(),
            Part::Loose => b"?".to_vec(),
        };
        let names = self.names.strip_suffix(b"\0").unwrap_or(self.names);
        let names = names
            .rsplit(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        for name in names {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if self.part == Some(Part::Whole) && path.is_empty() {
            path.push(b'/');
        }
        Some(path)
    }
}
