//! The records that cross the ring buffers, byte for byte.
//!
//! The kernel side fills them field by field; the user side reads them in place.
//! Every record starts with a [`Head`]. Integers are in the machine's own order:
//! a record never leaves the machine in this form. Lists of variable length
//! (marks, process ids) carry their length in the fixed part; ids follow it.
//!
//! The bytes are trusted no further than their length: an unknown discriminant is
//! an error of decode, never undefined behaviour, so enumerations cross as `u8`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kind::KINDS;

/// What a record is; [`Head::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RecordKind {
    /// [`OpRecord`] and the new task's [`PidAt`] chain.
    Op = 1,
    /// [`TaskRecord`]: a task was born; see [`crate::config::Tasks`] for which are told.
    TaskNew = 2,
    /// [`TaskRecord`]: a task exits.
    TaskExit = 3,
    /// [`OpRecord`] without lists but the ids: an operation whose record found no room, for
    /// the namespaces that it made.
    Birth = 4,
    /// [`LifeRecord`]: a namespace died.
    Death = 5,
    /// [`CgroupRecord`]: a cgroup was made.
    Cgroup = 6,
    /// [`TaskRecord`]: a task has another name, cgroup, or program, which can bring it
    /// another id and time namespace.
    TaskChange = 7,
    /// [`TaskRecord`]: what was left of a task that had exited is gone.
    TaskFree = 8,
    /// [`crate::writers::MountRecord`]: a mount died whose writer count was not zero.
    MountDeath = 9,
    /// [`crate::mount_ops::MountOpRecord`]: a mount operation.
    MountOp = 10,
    /// [`crate::mount_ops::BirthsRecord`]: mounts were made.
    MountBirths = 11,
}

/// How many slots [`RecordKind`] needs in an array indexed by it; slot 0 counts
/// the operations for which there was no room to gather them.
pub const RECORD_KINDS: usize = 12;

/// What a CPU counts, on a cache line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Counts {
    /// Records that found no room, by kind; 0 is for operations without a slot.
    pub lost: [u64; RECORD_KINDS],
    /// Deaths that were told by a twin, because the kernel had skipped the first program.
    pub by_twin: u64,
}

/// The start of every record.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// A [`RecordKind`].
    pub kind: u32,
    /// Explicit padding.
    pub pad: u32,
    /// `CLOCK_MONOTONIC`, in ns: when the operation ended or the event happened.
    pub time: u64,
}

/// What an operation is; [`OpRecord::op`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Op {
    /// clone(2).
    Clone = 1,
    /// clone3(2).
    Clone3 = 2,
    /// fork(2); only a failed one into a pid namespace below the first.
    Fork = 3,
    /// vfork(2); only a failed one into a pid namespace below the first.
    Vfork = 4,
    /// unshare(2).
    Unshare = 5,
    /// setns(2).
    Setns = 6,
    /// open_tree(2) with `OPEN_TREE_NAMESPACE`, from v7.0.
    OpenTree = 7,
    /// fsmount(2) with `FSMOUNT_NAMESPACE`, from v7.2.
    Fsmount = 8,
}

impl Op {
    /// Every operation, in the order of its discriminant.
    pub const ALL: [Op; 8] = [
        Op::Clone,
        Op::Clone3,
        Op::Fork,
        Op::Vfork,
        Op::Unshare,
        Op::Setns,
        Op::OpenTree,
        Op::Fsmount,
    ];

    /// The name of the system call.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Clone => "clone",
            Op::Clone3 => "clone3",
            Op::Fork => "fork",
            Op::Vfork => "vfork",
            Op::Unshare => "unshare",
            Op::Setns => "setns",
            Op::OpenTree => "open_tree",
            Op::Fsmount => "fsmount",
        }
    }

    /// The operation of that name.
    pub fn from_name(name: &str) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.name() == name)
    }

    /// The operation with that discriminant, if there is one.
    pub fn from_u8(raw: u8) -> Option<Op> {
        Op::ALL.get(usize::from(raw.wrapping_sub(1))).copied()
    }

    /// Whether it makes a task.
    pub const fn makes_task(self) -> bool {
        matches!(self, Op::Clone | Op::Clone3 | Op::Fork | Op::Vfork)
    }
}

/// How many ids of namespaces an operation has on a kernel that has them (from
/// v6.18): `ns_common.ns_id` of each kind, before and after. They are never reused.
pub const IDS: usize = 2 * KINDS;

/// The most elements that follow an [`OpRecord`].
pub const LIST: usize = IDS + MARKS + PID_LEVELS + size_of::<FailRecord>() / 8;

/// A point that an operation passed; the low byte of a mark.
///
/// Entries alone give the length of the copy functions: create_new_namespaces
/// calls them one after the other, so the entry of one is the end of the one
/// before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mark {
    /// create_user_ns (from copy_creds or unshare_userns) began to make a namespace.
    CreateUserNs = 1,
    /// Left it.
    CreateUserNsDone = 2,
    /// Left copy_namespaces.
    CopyNamespacesDone = 3,
    /// Entered create_new_namespaces.
    CreateNewNamespaces = 4,
    /// Left alloc_pid.
    AllocPidDone = 7,
    /// Entered switch_task_namespaces.
    Switch = 8,
    /// `Copy + kind`: copy_mnt_ns, copy_utsname, … began to make a namespace.
    Copy = 16,
    /// `Install + kind`: entered mntns_install, utsns_install, ….
    Install = 32,
}

/// How many marks an operation can set: seven copy functions, eight installs, and
/// six other points; the rest is for charges that are made again.
pub const MARKS: usize = 24;

/// A process id at one level of pid namespaces; a chain starts at the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PidAt {
    /// The id in that namespace.
    pub nr: u32,
    /// The inum of that namespace.
    pub ns: u32,
}

/// `MAX_PID_NS_LEVEL` of include/linux/pid_namespace.h, plus the first level.
pub const PID_LEVELS: usize = 33;

/// What a failed operation found: what its error is explained from.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FailRecord {
    /// The caller's effective capabilities.
    pub cap_effective: u64,
    /// The value of the limit that refused (`user.max_*_namespaces`).
    pub limit_max: u64,
    /// The inum of the user namespace whose limit that is; 0 if none refused.
    pub limit_ns: u32,
    /// The kind whose limit refused, by index.
    pub limit_kind: u32,
    /// Threads of the caller's process.
    pub threads: u32,
    /// Tasks that share the caller's `fs_struct`.
    pub fs_users: u32,
    /// `user_namespace.level` of the caller.
    pub user_level: u32,
    /// `pid_namespace.level` of the caller's `pid_ns_for_children`.
    pub pid_level: u32,
    /// Extents in the uid map of the caller's user namespace.
    pub uid_extents: u32,
    /// Return value of security_create_user_ns.
    pub lsm_ret: i32,
    /// The owning user namespace of the namespace that setns was to enter.
    pub target_owner: u32,
    /// [`FAIL_PID_NS_DEAD`], [`FAIL_CHROOTED`].
    pub bits: u32,
    /// What create_user_ns gave back: a negative errno; 0 if it succeeded or was not
    /// called.
    pub user_ret: i32,
    /// The same of copy_namespaces, which gives back what create_new_namespaces gave, if it
    /// called it.
    pub create_ret: i32,
    /// The same of alloc_pid.
    pub pid_ret: i32,
    /// The inum of the pid namespace that the caller itself is in.
    pub pid_active: u32,
    /// Extents in the gid map of the caller's user namespace.
    pub gid_extents: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// The init of the pid namespace for children is dead: `PIDNS_ADDING` is clear.
pub const FAIL_PID_NS_DEAD: u32 = 1;
/// The caller's root is not that of its mount namespace: it was changed by chroot(2).
pub const FAIL_CHROOTED: u32 = 2;

/// One operation, whole. Lists follow it, each of elements of 8 bytes:
///
/// 1. [`OpRecord::ids_len`] (none, or [`IDS`]) ids of namespaces: those of `before`,
///    then those of `after`;
/// 2. [`OpRecord::marks_len`] marks, each a u64 of (ns since `start`) << 8 | [`Mark`];
/// 3. [`OpRecord::pids_len`] elements of [`PidAt`]: the new task's chain;
/// 4. a [`FailRecord`], if `ret` is negative.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpRecord {
    /// [`RecordKind::Op`]; its time is the end of the operation.
    pub head: Head,
    /// `CLOCK_MONOTONIC`, in ns.
    pub start: u64,
    /// As the kernel sees them: `CLONE_*`; for setns its second argument; for
    /// open_tree and fsmount 0.
    pub flags: u64,
    /// What the system call gives back: 0, a process id in the caller's pid
    /// namespace, or a negative errno.
    pub ret: i64,
    /// The caller's cgroup v2 id, the inode number of its directory.
    pub cgroup: u64,
    /// The caller's process id (tgid) in the first pid namespace.
    pub pid: u32,
    /// The caller's thread id there.
    pub tid: u32,
    /// The caller's real uid, in the first user namespace.
    pub uid: u32,
    /// An [`Op`].
    pub op: u8,
    /// How many marks follow.
    pub marks_len: u8,
    /// How many [`PidAt`] follow.
    pub pids_len: u8,
    /// How many ids of namespaces follow.
    pub ids_len: u8,
    /// The caller's name: not necessarily UTF-8, ended by a NUL.
    pub comm: [u8; 16],
    /// The inums of the caller's namespaces when the operation began, by kind. For
    /// pid and time those of future children, as in `/proc/PID/ns/pid_for_children`.
    pub before: [u32; KINDS],
    /// At its end: the new task's for a clone, else the caller's. For open_tree and
    /// fsmount `mnt` is the new namespace.
    pub after: [u32; KINDS],
    /// The address of a new pid namespace; 0 without one. It tells the namespace from
    /// others that had its number before ([`LifeRecord::address`]).
    pub pid_ns: u64,
    /// The inum of the parent of a new pid namespace; 0 without one.
    pub pid_parent: u32,
    /// The inum of the parent of a new user namespace; 0 without one.
    pub user_parent: u32,
    /// The inum of the user namespace that owns the new namespaces of other kinds.
    pub owner: u32,
    /// The owner of a new user namespace, a uid in the first user namespace.
    pub owner_uid: u32,
    /// Mounts in a new mount namespace once it was made: those copied.
    pub mounts: u32,
    /// For setns with an nsfs descriptor, the inum of the namespace last asked for.
    pub target: u32,
}

/// A namespace died.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LifeRecord {
    /// [`RecordKind::Death`].
    pub head: Head,
    /// `ns_common.ns_id`; 0 before v6.18.
    pub id: u64,
    /// For the second word of the death of a pid namespace: its address; else 0.
    pub address: u64,
    /// `ns_common.inum`.
    pub inum: u32,
    /// The [`crate::kind::Kind`] by index; [`NO_KIND`] where the kernel does not
    /// say it at this point.
    pub ns_kind: u32,
    /// The process in whose context it happened. A death can happen in a kernel
    /// worker.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
}

/// The number of the first namespace that is no first one: `PROC_DYNAMIC_FIRST` of
/// fs/proc/generic.c, which v6.18 kernel/nscommon.c has kept.
pub const FIRST_INUM: u32 = 0xf000_0000;

/// Of so many numbers from there on a death that found no room is kept.
pub const INUMS: u32 = 1 << 19;

/// The last death of a number that found no room.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LostDeath {
    /// When it was told; 0 if there is none.
    pub time: u64,
    /// [`LifeRecord::address`].
    pub address: u64,
}

/// A kind that is not known.
pub const NO_KIND: u32 = u32::MAX;

/// What happened to a task. [`TaskRecord::pids_len`] elements of [`PidAt`] follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TaskRecord {
    /// [`RecordKind::TaskNew`], `TaskExit`, `TaskChange` or `TaskFree`.
    pub head: Head,
    /// Its cgroup v2 id; where only tasks below the first pid namespace are told, that of
    /// the task that it happens in: the parent or itself.
    pub cgroup: u64,
    /// When it started: `task_struct.start_time`, `CLOCK_MONOTONIC` in ns; 0 if the kernel
    /// does not say it there, and where only tasks below the first pid namespace are told.
    pub start: u64,
    /// The task's process id (tgid) in the first pid namespace.
    pub pid: u32,
    /// Its thread id there; differs from `pid` for a thread.
    pub tid: u32,
    /// At birth the process id of the task that made it; when a program was executed, the
    /// thread id before (fs/exec.c, de_thread); else 0.
    pub parent: u32,
    /// Its real uid, in the first user namespace.
    pub uid: u32,
    /// As wait(2) gives it; 0 at birth.
    pub exit_code: u32,
    /// How many [`PidAt`] follow.
    pub pids_len: u32,
    /// Its name.
    pub comm: [u8; 16],
    /// The inums of its namespaces, by kind; `pid` is that of its future children. 0 where
    /// only tasks below the first pid namespace are told, and when it is gone.
    pub namespaces: [u32; KINDS],
    /// Likewise, for its future children.
    pub time_for_children: u32,
    /// At birth, if an operation that is told made it: 1, and its `CLONE_NEW*` flags; else 0.
    pub made_with: u32,
}

/// The longest cgroup path that crosses whole, in bytes.
pub const CGROUP_PATH: usize = 256;

/// A cgroup was made: from here on its id has a path.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupRecord {
    /// [`RecordKind::Cgroup`].
    pub head: Head,
    /// Its cgroup v2 id.
    pub id: u64,
    /// Its path from the root of the hierarchy, ended by a NUL unless cut.
    pub path: [u8; CGROUP_PATH],
}

/// How many operations can be in flight at once. Beyond that, and when two meet in
/// one pair of slots, an operation is counted as lost.
pub const SLOTS: usize = 4096;

// Operations are numbered from 1 on, in their order.
const _: () = {
    let mut at = 0;
    while at < Op::ALL.len() {
        assert!(Op::ALL[at] as usize == at + 1);
        at += 1;
    }
};
const _: () = assert!(size_of::<Head>() == 16);
const _: () = assert!(size_of::<FailRecord>() == 80);
const _: () = assert!(size_of::<OpRecord>() == 176);
const _: () = assert!(size_of::<LifeRecord>() == 48);
const _: () = assert!(size_of::<TaskRecord>() == 112);
const _: () = assert!(size_of::<CgroupRecord>() == 280);
