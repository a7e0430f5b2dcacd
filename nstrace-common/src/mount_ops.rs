//! What the two sides agree on about mount operations: the records of what changes the
//! tree of mounts, and of the mounts that it makes.
//!
//! An operation is one system call, from its beginning to its end, whatever the kernel does
//! on the way. That copy_mnt_ns copies the mounts of a namespace is one too: not because
//! somebody asked for it, but because every mount that it makes is the copy of another.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::Head;

/// What was called; [`MountOpRecord::call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Call {
    /// mount(2).
    Mount = 1,
    /// umount2(2).
    Umount = 2,
    /// pivot_root(2).
    PivotRoot = 3,
    /// move_mount(2).
    MoveMount = 4,
    /// open_tree(2) that makes a copy of a tree; any other only opens a path.
    OpenTree = 5,
    /// open_tree_attr(2), from v6.15, likewise.
    OpenTreeAttr = 6,
    /// fsmount(2).
    Fsmount = 7,
    /// mount_setattr(2), from v5.12.
    MountSetattr = 8,
    /// fsopen(2).
    Fsopen = 9,
    /// fspick(2).
    Fspick = 10,
    /// fsconfig(2) that makes or changes a file system, or fails.
    Fsconfig = 11,
    /// No system call: copy_mnt_ns copies the mounts of a namespace into a new one.
    CopyMntNs = 12,
}

impl Call {
    /// Every call, in the order of its discriminant.
    pub const ALL: [Call; 12] = [
        Call::Mount,
        Call::Umount,
        Call::PivotRoot,
        Call::MoveMount,
        Call::OpenTree,
        Call::OpenTreeAttr,
        Call::Fsmount,
        Call::MountSetattr,
        Call::Fsopen,
        Call::Fspick,
        Call::Fsconfig,
        Call::CopyMntNs,
    ];

    /// The name of the system call.
    pub const fn name(self) -> &'static str {
        match self {
            Call::Mount => "mount",
            Call::Umount => "umount",
            Call::PivotRoot => "pivot_root",
            Call::MoveMount => "move_mount",
            Call::OpenTree => "open_tree",
            Call::OpenTreeAttr => "open_tree_attr",
            Call::Fsmount => "fsmount",
            Call::MountSetattr => "mount_setattr",
            Call::Fsopen => "fsopen",
            Call::Fspick => "fspick",
            Call::Fsconfig => "fsconfig",
            Call::CopyMntNs => "copy_mnt_ns",
        }
    }

    /// The call of that name.
    pub fn from_name(name: &str) -> Option<Call> {
        Call::ALL.into_iter().find(|call| call.name() == name)
    }

    /// The call with that discriminant, if there is one.
    pub fn from_u8(raw: u8) -> Option<Call> {
        Call::ALL.into_iter().find(|call| *call as u8 == raw)
    }

    /// Its bit in [`crate::config::Config::ops`], behind those of `Op`.
    pub const fn bit(self) -> u32 {
        1 << (15 + self as u32)
    }
}

/// Bytes of a path as the caller gave it, and its NUL.
pub const GIVEN: usize = 256;

/// Bytes of a path as the kernel found it.
pub const PATH: usize = 512;

/// The longest name in such a path that crosses whole, and its NUL.
pub const NAME: usize = 128;

/// Bytes of the name of a file system's type.
pub const FS: usize = 32;

/// A path as the kernel found it, from the root of the mount namespace. Its names stand one
/// after the other, each ended by a NUL, the last of the path first.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PathNames {
    /// How many bytes there are.
    pub len: u32,
    /// A [`Found`].
    pub found: u32,
    /// The names.
    pub names: [u8; PATH],
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Found {
    /// Nothing.
    No = 0,
    /// All of it.
    Whole = 1,
    /// Its last names.
    Cut = 2,
    /// It does not begin at the root of a mount namespace: what it is in was taken away.
    Loose = 3,
}

/// A mount operation, whole.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MountOpRecord {
    /// `RecordKind::MountOp`; its time is the end of the operation.
    pub head: Head,
    /// `CLOCK_MONOTONIC`, in ns.
    pub start: u64,
    /// What the system call gives back: 0, a descriptor, or a negative errno.
    pub ret: i64,
    /// The flags of the call; of fsconfig its command.
    pub flags: u64,
    /// Attributes to set: of mount_setattr, and of fsmount (`MOUNT_ATTR_*`).
    pub attr_set: u64,
    /// Attributes to clear, of mount_setattr.
    pub attr_clear: u64,
    /// The propagation to change to, of mount_setattr (`MS_*`).
    pub propagation: u64,
    /// The caller's cgroup v2 id.
    pub cgroup: u64,
    /// `mnt_id_unique` of the mount that it is about; 0 before v6.8.
    pub unique: u64,
    /// The same of the mount that this one is a copy of.
    pub from_unique: u64,
    /// The caller's process id (tgid) in the first pid namespace.
    pub pid: u32,
    /// The caller's thread id there.
    pub tid: u32,
    /// The caller's real uid, in the first user namespace.
    pub uid: u32,
    /// A [`Call`].
    pub call: u8,
    /// What it found: [`IS_NO_ROOT`] and so on.
    pub found: u8,
    /// Bytes of `source` as the caller gave it with its NUL, [`GIVEN`] if it was cut; 0 if
    /// there is none.
    pub source_len: u16,
    /// The same of `target`.
    pub target_len: u16,
    /// Explicit padding.
    pub pad: u16,
    /// `mnt_id` of the mount that it is about, as in mountinfo: which was made, moved,
    /// changed or taken away; 0 if it is not known. Reused.
    pub id: u32,
    /// `mnt_id` of the mount that it is a copy of; 0 if it is none.
    pub from: u32,
    /// The inum of the mount namespace that the mount is in, or was; 0 if it is in none.
    pub ns: u32,
    /// The inum of the caller's mount namespace; of copy_mnt_ns that which is copied.
    pub caller_ns: u32,
    /// The device of its file system, as the kernel has it: 12 bits of major, 20 of minor.
    pub dev: u32,
    /// How many mounts it made; of an operation that failed 0.
    pub made: u32,
    /// How many of them by propagation.
    pub made_by_propagation: u32,
    /// How many mounts it took out of their namespaces.
    pub taken: u32,
    /// How many of them by propagation.
    pub taken_by_propagation: u32,
    /// The descriptor that `source` begins at; `AT_FDCWD` for the working directory.
    pub source_fd: i32,
    /// The same of `target`.
    pub target_fd: i32,
    /// The inum of the user namespace that owns the caller's mount namespace.
    pub owner: u32,
    /// The inum of the caller's user namespace.
    pub user: u32,
    /// The caller's effective capabilities.
    pub cap_effective: u64,
    /// The caller's name: not necessarily UTF-8, ended by a NUL.
    pub comm: [u8; 16],
    /// The type of the file system, ended by a NUL.
    pub fs: [u8; FS],
    /// What is mounted, bound, moved or copied, as the caller gave it; for fsconfig the key.
    pub source: [u8; GIVEN],
    /// Where, likewise; of pivot_root where the old root is put.
    pub target: [u8; GIVEN],
    /// The first of them as the kernel found it; of a mount of a device nothing.
    pub source_path: PathNames,
    /// The second.
    pub target_path: PathNames,
}

/// It was to take away what is not the root of a mount.
pub const IS_NO_ROOT: u8 = 1;
/// A mount of another namespace than the caller's.
pub const IS_FOREIGN: u8 = 2;
/// A mount that is locked to those above it: it came from a more privileged namespace.
pub const IS_LOCKED: u8 = 4;
/// A mount that others are mounted on.
pub const HAS_MOUNTS: u8 = 8;
/// There may be more mounts that were taken away than were counted.
pub const TAKEN_MORE: u8 = 16;

/// The caller has no CAP_SYS_ADMIN in the user namespace that owns its mount namespace.
pub const IS_POWERLESS: u8 = 32;

/// So many mounts that are taken away at once are counted.
pub const TAKEN_MOST: u32 = 4096;

/// A mount was made.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Birth {
    /// Its `mnt_id_unique`; 0 before v6.8.
    pub unique: u64,
    /// That of the mount that it was copied from; 0 if it is no copy.
    pub from_unique: u64,
    /// Its `mnt_id`.
    pub id: u32,
    /// That of the mount that it was copied from; 0 if it is no copy.
    pub from: u32,
}

/// So many births are told at once.
pub const BIRTHS: usize = 64;

/// Mounts that an operation made; told before the operation itself, which has the same
/// thread and beginning. [`BirthsRecord::len`] elements of [`Birth`] follow. If that fails, they are
/// gone again.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BirthsRecord {
    /// `RecordKind::MountBirths`.
    pub head: Head,
    /// [`MountOpRecord::start`].
    pub start: u64,
    /// The process that the operation is of.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// A [`Call`].
    pub call: u32,
    /// How many births follow.
    pub len: u32,
    /// Its name.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<PathNames>() == 8 + PATH);
const _: () = assert!(size_of::<Birth>() == 24);
const _: () = assert!(size_of::<BirthsRecord>() == 56);
const _: () =
    assert!(size_of::<MountOpRecord>() == 184 + FS + 2 * GIVEN + 2 * size_of::<PathNames>());
