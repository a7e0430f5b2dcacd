//! What the two sides agree on about write access to mounts: the records, the settings and
//! the probes of the object `nstrace-ebpf-writers`, which is loaded for `nstrace writers`
//! alone, and the record of a mount that dies unbalanced, which every object sends.
//!
//! The kernel counts write access in `mount.mnt_pcp->mnt_writers`, on each CPU apart. Who
//! takes it increments, who gives it back decrements, where it happens to run: the sum over
//! the CPUs is the number of writers (v6.12 fs/namespace.c, mnt_get_writers).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    field::Need,
    probe::{At, Probe},
    wire::Head,
};

/// Frames of a kernel stack that are kept, the innermost ones.
pub const FRAMES: usize = 48;

/// Room for a path. Its names stand one after the other, each ended by a NUL, the last of
/// the path first; none begins behind [`PATH_NAMES`].
pub const PATH: usize = PATH_NAMES + NAME;

/// A power of two.
pub const PATH_NAMES: usize = 512;

/// The longest name of a path that crosses whole, and its NUL.
pub const NAME: usize = 128;

/// What a mount is. Numbers are 0 where the kernel does not have them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MountRecord {
    /// `RecordKind::MountDeath`, or a [`Kind`] of this module's.
    pub head: Head,
    /// The address of its `struct mount`, which another will have after it.
    pub address: u64,
    /// `CLOCK_MONOTONIC` in ns when the ledger began to have it; 0 if it does not.
    pub since: u64,
    /// `mnt_id_unique`, from v6.8.
    pub unique: u64,
    /// The cgroup v2 id of the task.
    pub cgroup: u64,
    /// The inode number of its root.
    pub root_ino: u64,
    /// The sum of the writers over all CPUs; of one that is watched from here on, before the
    /// access that was seen first.
    pub count: i32,
    /// `mnt_id`, as in mountinfo; reused.
    pub id: u32,
    /// The device of its file system, as the kernel has it: 12 bits of major, 20 of minor.
    pub dev: u32,
    /// `mnt_flags`.
    pub flags: u32,
    /// The inum of its mount namespace; 0 if it is in none.
    pub ns: u32,
    /// [`PRIVATE`], [`KERNEL`].
    pub bits: u32,
    /// The process (tgid) in whose context it happens, in the first pid namespace.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// Its name.
    pub comm: [u8; 16],
    /// The type of its file system.
    pub fs: [u8; 16],
    /// What was mounted, as mount(2) was told.
    pub source: [u8; 64],
    /// Its root, from the root of the file system.
    pub root: [u8; PATH],
    /// Where it is mounted, from the root of its namespace; where it is not any more,
    /// nothing.
    pub point: [u8; PATH],
    /// How many frames there are.
    pub frames_len: u32,
    /// Explicit padding.
    pub pad: u32,
    /// The kernel stack, the innermost frame first.
    pub frames: [u64; FRAMES],
}

/// In place of the writers of a mount that is no more.
pub const GONE: i32 = i32::MIN;

/// A mount that is in no namespace: overlayfs makes such ones of its layers
/// (clone_private_mount).
pub const PRIVATE: u32 = 1;
/// A mount that the kernel has made for itself (kern_mount).
pub const KERNEL: u32 = 2;

/// The records of the ring `ACCESSES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// [`MountRecord`]: from here on the ledger has it.
    Watched = 64,
    /// [`MountRecord`]: a mount that the ledger has died.
    Died = 65,
    /// [`AccessRecord`].
    Access = 66,
}

impl Kind {
    /// The kind with that number.
    pub fn from_u32(raw: u32) -> Option<Kind> {
        let all = [Kind::Watched, Kind::Died, Kind::Access];
        all.into_iter().find(|kind| *kind as u32 == raw)
    }
}

/// An entry of the ledger: what is counted as one.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Key {
    /// [`MountRecord::address`].
    pub mount: u64,
    /// [`MountRecord::since`].
    pub since: u64,
    /// A number made of the stack; 0 if there is none.
    pub stack: u64,
    /// A [`Site`].
    pub site: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// The function whose program counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Site {
    /// `__mnt_want_write` (up to v6.7), mnt_get_write_access: write access was taken.
    Take = 0,
    /// Not from a program of this function's, but its failure in one that is seen at its
    /// entry: taken less.
    Untake = 1,
    /// `__mnt_drop_write` (up to v6.7), mnt_put_write_access: it was given back.
    Put = 2,
    /// mnt_drop_write: likewise.
    Drop = 3,
    /// `__mnt_drop_write_file` (up to v6.7), mnt_put_write_access_file: likewise.
    PutFile = 4,
    /// mnt_drop_write_file: likewise.
    DropFile = 5,
}

/// How many sites there are.
pub const SITES: usize = 6;

impl Site {
    /// The site with that number.
    pub fn from_u32(raw: u32) -> Option<Site> {
        const ALL: [Site; SITES] = [
            Site::Take,
            Site::Untake,
            Site::Put,
            Site::Drop,
            Site::PutFile,
            Site::DropFile,
        ];
        ALL.into_iter().find(|site| *site as u32 == raw)
    }
}

/// The first access with a key. How many there were is in the map `LEDGER`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AccessRecord {
    /// [`Kind::Access`].
    pub head: Head,
    /// What it is counted under.
    pub key: Key,
    /// How many frames there are; [`FRAMES`] may mean that there are more.
    pub frames_len: u32,
    /// Explicit padding.
    pub pad: u32,
    /// The kernel stack, the innermost frame first: at first those of the program itself.
    pub frames: [u64; FRAMES],
}

/// What is not in the ledger, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Unfiled {
    /// Accesses to mounts that found no room in the map of mounts.
    pub mounts: u64,
    /// Accesses that found no room in the ledger, or of whose stack nothing could be told.
    pub accesses: u64,
    /// Accesses without a stack.
    pub stacks: u64,
    /// Deaths that found no room in the ring.
    pub deaths: u64,
    /// Failures to take whose beginning is not known.
    pub untakes: u64,
}

/// The most file systems that a filter names.
pub const FS_NAMES: usize = 4;

/// Which mounts the ledger has. Each filter that is set admits
/// more.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Settings {
    /// Names of file systems, filled up with NUL.
    pub fs: [[u8; 16]; FS_NAMES],
    /// Not 0: every mount.
    pub all: u32,
    /// How many names of file systems are set.
    pub fs_len: u32,
    /// Not 0: the map `DEVICES` has some.
    pub devices: u32,
    /// Not 0: the map `MOUNT_IDS` has some.
    pub ids: u32,
    /// Not 0: the map `NAMESPACES` has some.
    pub namespaces: u32,
    /// Not 0: every private mount.
    pub private: u32,
    /// Not 0: the map `PRIVATE_ROOTS` has some.
    pub private_roots: u32,
}

impl Settings {
    /// Nothing.
    pub const NONE: Settings = Settings {
        fs: [[0; 16]; FS_NAMES],
        all: 0,
        fs_len: 0,
        devices: 0,
        ids: 0,
        namespaces: 0,
        private: 0,
        private_roots: 0,
    };
}

/// The root of a private mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Root {
    /// Its inode number.
    pub ino: u64,
    /// The device of its file system, as the kernel has it.
    pub dev: u64,
}

use At::{Entry, Exit};
use Need::{Optional, Required};

/// The probes of the ledger. Nothing is counted before all are attached. Which of them a kernel
/// has tells its version: see [`TAKES`].
pub const PROBES: &[Probe] = &[
    // void (struct mount *, enum umount_tree_flags)
    Probe::new(
        "umount_tree",
        Entry,
        Optional,
        "where mounts were that die with writers",
    ),
    // void (struct mount *)
    Probe::new("cleanup_mnt", Entry, Required, "deaths of mounts"),
    // void (struct file *)
    Probe::new(
        "mnt_drop_write_file",
        Entry,
        Required,
        "write access given back",
    ),
    Probe::new(
        "mnt_put_write_access_file",
        Entry,
        Optional,
        "write access given back",
    ),
    Probe::new(
        "__mnt_drop_write_file",
        Entry,
        Optional,
        "write access given back",
    ),
    // void (struct vfsmount *)
    Probe::new("mnt_drop_write", Entry, Required, "write access given back"),
    Probe::new(
        "mnt_put_write_access",
        Entry,
        Optional,
        "write access given back",
    ),
    Probe::new(
        "__mnt_drop_write",
        Entry,
        Optional,
        "write access given back",
    ),
    // int (struct vfsmount *)
    Probe::new("mnt_get_write_access", Exit, Optional, "write access taken"),
    Probe::new("__mnt_want_write", Exit, Optional, "write access taken"),
    // In a kretprobe the mount is not known.
    Probe::new(
        "mnt_get_write_access",
        Entry,
        Optional,
        "write access taken",
    )
    .for_kprobe(),
    Probe::new("__mnt_want_write", Entry, Optional, "write access taken").for_kprobe(),
];

/// Of these a kernel has one.
pub const TAKES: [&str; 2] = ["mnt_get_write_access", "__mnt_want_write"];

const _: () = assert!(size_of::<Key>() == 32);
const _: () = assert!(size_of::<AccessRecord>() == 56 + 8 * FRAMES);
const _: () = assert!(size_of::<MountRecord>() == 1856);
const _: () = assert!(size_of::<Settings>() == 92);
