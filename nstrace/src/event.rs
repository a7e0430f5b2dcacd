//! What happened, as the rest of nstrace sees it.
//!
//! An event borrows the record that it was read from: an operation has a hundred
//! numbers of which a view needs ten, so none is copied before it is asked for.

mod writers;

use nstrace_common::{
    flags::{CLONE_EMPTY_MNTNS, CLONE_NEW_ALL, CLONE_NEWNS, UNSHARE_EMPTY_MNTNS},
    kind::{KINDS, Kind},
    wire::{FailRecord, Op, OpRecord, PidAt, RecordKind, TaskRecord},
};

use crate::mount_ops::{MountBirths, MountOp};

pub use self::writers::{Access, Balance, Mount, MountKey, Unfiled, Warning, frames};

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// An attempt to change namespaces has ended.
    Op(Operation<'a>),
    /// A task was born; which are told is a setting ([`nstrace_common::config::Tasks`]).
    TaskNew(Task<'a>),
    /// A task exits. It may be reaped later.
    TaskExit(Task<'a>),
    /// A task has another name, cgroup, or program.
    TaskChange(Task<'a>),
    /// A task that had exited is gone.
    TaskFree(Task<'a>),
    /// A namespace was born.
    Birth(Life),
    /// The namespaces of an operation were born whose own record found no room.
    Births(Operation<'a>),
    /// A namespace died.
    Death(Life),
    /// A cgroup was made.
    Cgroup(Cgroup<'a>),
    /// Records did not get through.
    Lost(Lost),
    /// An operation hangs.
    Stall(Operation<'a>, Now),
    /// An attempt to change the tree of mounts has ended.
    MountOp(MountOp<'a>),
    /// Mounts were made, by such an attempt that has not ended yet.
    MountBirths(MountBirths<'a>),
    /// What follows, up to the end, was found on the machine: it has not happened now. All
    /// tasks are looked at again and again, until there is none that is new; then what
    /// holds namespaces.
    SnapshotBegin(Now),
    /// A namespace was found, after its parent and its owner.
    FoundNamespace(FoundNamespace),
    /// A task was found; threads are tasks too.
    FoundTask(FoundTask<'a>),
    /// Something was found that keeps a namespace alive without being in it.
    FoundHolder(FoundHolder<'a>),
    /// The snapshot is whole, but for what it could not see.
    SnapshotEnd(SnapshotEnd),
    /// The kernel warned about mounts.
    Warning(Warning<'a>),
    /// A mount died with writers, or one whose write access was watched.
    MountDied(Mount<'a>),
    /// The write access to a mount is watched from here on.
    MountWatched(Mount<'a>),
    /// Write access was taken or given back, with a stack that was not there before.
    Access(Access<'a>),
    /// How often that was, up to now.
    Balance(Balance),
    /// Write access was taken or given back that is in no balance.
    Unfiled(Unfiled),
    /// The kernel was asked for the number of a namespace that a snapshot had not found: it
    /// is not in use.
    FoundFree(FoundFree),
}

impl Event<'_> {
    /// When it was, `CLOCK_MONOTONIC` in ns; none for a cgroup, which has no time.
    pub fn time(&self) -> Option<u64> {
        Some(match self {
            Event::Op(op) | Event::Births(op) => op.record.head.time,
            Event::TaskNew(task)
            | Event::TaskExit(task)
            | Event::TaskChange(task)
            | Event::TaskFree(task) => task.record.head.time,
            Event::Birth(life) | Event::Death(life) => life.time,
            Event::MountOp(op) => op.record.head.time,
            Event::MountBirths(births) => births.record.head.time,
            Event::Cgroup(_) => return None,
            Event::Lost(lost) => lost.time,
            Event::Stall(_, now) | Event::SnapshotBegin(now) => now.time,
            Event::FoundNamespace(found) => found.time,
            Event::FoundTask(found) => found.time,
            Event::FoundHolder(found) => found.time,
            Event::SnapshotEnd(end) => end.time,
            Event::FoundFree(free) => free.time,
            Event::Warning(warning) => warning.time,
            Event::MountDied(mount) | Event::MountWatched(mount) => mount.record.head.time,
            Event::Access(access) => access.time,
            Event::Balance(balance) => balance.time,
            Event::Unfiled(unfiled) => unfiled.time,
        })
    }
}

/// One attempt to change namespaces: a record whose discriminants were checked.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// What the kernel side gathered.
    pub record: &'a OpRecord,
    /// The ids of its namespaces, before and after; see [`Operation::before`].
    pub ids: &'a [u64],
    /// The points that it passed: (ns since it began) << 8 | `Mark`.
    pub marks: &'a [u64],
    /// The new task's ids, from the first pid namespace down.
    pub pids: &'a [PidAt],
    /// What it found, if it failed.
    pub fail: Option<&'a FailRecord>,
    /// What it is.
    pub op: Op,
}

/// A namespace, of a kind that the place tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ns {
    /// Its number, as in `/proc/PID/ns` and `lsns`; reused.
    pub inum: u32,
    /// Its id, never reused; 0 before v6.18.
    pub id: u64,
}

impl<'a> Operation<'a> {
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

    /// The caller's namespace of a kind when it began.
    pub fn before(&self, kind: Kind) -> Ns {
        Ns {
            inum: self.record.before[kind as usize],
            id: self.ids.get(kind as usize).copied().unwrap_or(0),
        }
    }

    /// At its end: the new task's for a clone, else the caller's.
    pub fn after(&self, kind: Kind) -> Ns {
        Ns {
            inum: self.record.after[kind as usize],
            id: self.ids.get(KINDS + kind as usize).copied().unwrap_or(0),
        }
    }

    /// The kinds whose namespace is another one after it.
    pub fn changed(&self) -> impl Iterator<Item = Kind> + use<'a> {
        let OpRecord { before, after, .. } = self.record;
        let mut others = 0_u8;
        for (at, (before, after)) in before.iter().zip(after).enumerate() {
            others |= u8::from(before != after) << at;
        }
        let ids = self.ids.iter().zip(self.ids.iter().skip(KINDS));
        for (at, (before, after)) in ids.take(KINDS).enumerate() {
            others |= u8::from(before != after) << at;
        }
        kinds(others)
    }

    /// The `CLONE_NEW*` flags of the kinds of which it was to make a namespace.
    pub fn made_flags(&self) -> u64 {
        let flags = self.record.flags;
        let empty_mnt = match self.op {
            Op::Setns => return 0,
            Op::OpenTree | Op::Fsmount => return CLONE_NEWNS,
            Op::Unshare => UNSHARE_EMPTY_MNTNS,
            Op::Clone | Op::Clone3 | Op::Fork | Op::Vfork => CLONE_EMPTY_MNTNS,
        };
        let implied = if flags & empty_mnt != 0 {
            CLONE_NEWNS
        } else {
            0
        };
        (flags | implied) & CLONE_NEW_ALL
    }

    /// Whether it was to make a namespace of a kind.
    pub fn makes(&self, kind: Kind) -> bool {
        self.made_flags() & kind.flag() != 0
    }

    /// The namespaces that it made.
    pub fn born(&self) -> impl Iterator<Item = Life> {
        self.born_of(self.made_flags())
    }

    /// Those of these kinds.
    pub fn born_of(&self, flags: u64) -> impl Iterator<Item = Life> {
        kinds(kinds_of(flags)).filter_map(|kind| {
            let after = self.after(kind);
            (after != self.before(kind)).then(|| Life {
                time: self.record.head.time,
                kind: Some(kind),
                inum: after.inum,
                id: after.id,
                pid: self.record.pid,
                tid: self.record.tid,
                address: (kind == Kind::Pid).then_some(self.record.pid_ns),
                age: None,
                past: Past::default(),
            })
        })
    }

    /// What it found when it failed.
    pub fn failure(&self) -> Option<&'a FailRecord> {
        self.fail
    }
}

/// The kinds whose `CLONE_NEW*` flags are set, a bit for each.
#[inline]
pub fn kinds_of(flags: u64) -> u8 {
    let (mut left, mut kinds) = (flags & CLONE_NEW_ALL, 0);
    while left != 0 {
        kinds |= KIND_OF_BIT[left.trailing_zeros() as usize];
        left &= left - 1;
    }
    kinds
}

/// The bit of the kind whose flag each bit is.
const KIND_OF_BIT: [u8; u64::BITS as usize] = {
    let mut kinds = [0; u64::BITS as usize];
    let mut at = 0;
    while at < Kind::ALL.len() {
        kinds[Kind::ALL[at].flag().trailing_zeros() as usize] = 1 << at;
        at += 1;
    }
    kinds
};

/// Kinds of which there is a bit for each.
#[inline]
pub fn kinds(mut bits: u8) -> impl Iterator<Item = Kind> {
    std::iter::from_fn(move || {
        let at = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        Kind::from_index(at as u8)
    })
}

/// The kinds whose `CLONE_NEW*` flags are set, in an order.
#[inline]
pub fn flagged(order: &'static [Kind; KINDS], flags: u64) -> impl Iterator<Item = Kind> {
    let mut left = flags & CLONE_NEW_ALL;
    let mut order = order.iter().copied();
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let kind = order.find(|kind| left & kind.flag() != 0)?;
        left &= !kind.flag();
        Some(kind)
    })
}

/// What happened to a task.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// What the kernel side says.
    pub record: &'a TaskRecord,
    /// Its ids, from the first pid namespace down.
    pub pids: &'a [PidAt],
}

impl<'a> Task<'a> {
    /// Its name, as bytes: it may hold anything.
    pub fn comm(&self) -> &'a [u8] {
        &self.record.comm[..comm_len(&self.record.comm)]
    }

    /// Whether it is a thread of a process, not its leader.
    pub fn is_thread(&self) -> bool {
        self.record.pid != self.record.tid
    }
}

/// A namespace is born or dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// `CLOCK_MONOTONIC`, ns.
    pub time: u64,
    /// Its kind, if known.
    pub kind: Option<Kind>,
    /// Its number.
    pub inum: u32,
    /// Its id; 0 before v6.18.
    pub id: u64,
    /// The process in whose context it happened.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// For a pid namespace, from a birth or the second word of a death: its address.
    pub address: Option<u64>,
    /// At a death: how long it lived, in ns, if its birth was seen.
    pub age: Option<u64>,
    /// At a death: what is known of that life.
    pub past: Past,
}

impl Life {
    /// Whether a death can be that of what was born then.
    pub fn can_be_of(&self, birth: &Life) -> bool {
        let same = |one: u64, other: u64| one == 0 || other == 0 || one == other;
        let [own, its] = [self.address, birth.address].map(Option::unwrap_or_default);
        self.inum == birth.inum
            && self.time >= birth.time
            && (self.kind.is_none() || self.kind == birth.kind)
            && same(self.id, birth.id)
            && same(own, its)
    }

    /// The death of the namespace of a number, of which no more is known.
    pub fn death(time: u64, inum: u32) -> Life {
        Life {
            time,
            kind: None,
            inum,
            id: 0,
            pid: 0,
            tid: 0,
            address: None,
            age: None,
            past: Past::default(),
        }
    }
}

/// What is known of the life of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Who made it.
    pub maker: Option<Maker>,
    /// How many tasks came into it by an operation, or by a fork in a pid namespace.
    pub entered: u32,
    /// Of a mount namespace: how many mounts it was born with.
    pub mounts: u32,
}

/// Who made a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker {
    /// By which operation.
    pub op: Op,
    /// Its process id in the first pid namespace.
    pub pid: u32,
    /// Its name; NUL is behind it.
    pub comm: [u8; 16],
}

impl Maker {
    /// Who did an operation.
    pub fn of(op: &Operation) -> Maker {
        Maker {
            op: op.op,
            pid: op.record.pid,
            comm: op.record.comm,
        }
    }

    /// Its name, as bytes: it may hold anything.
    pub fn comm(&self) -> &[u8] {
        &self.comm[..comm_len(&self.comm)]
    }
}

/// A cgroup was made.
#[derive(Clone, Copy, Debug)]
pub struct Cgroup<'a> {
    /// Its cgroup v2 id.
    pub id: u64,
    /// Its path from the root of the hierarchy.
    pub path: &'a [u8],
}

/// Records did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// `CLOCK_MONOTONIC`, ns, when it was seen.
    pub time: u64,
    /// When nothing had been lost yet that was not told.
    pub since: u64,
    /// What they were.
    pub record: RecordKind,
    /// How many.
    pub count: u64,
}

/// A moment: that at which an operation was seen to hang, or a snapshot began.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// `CLOCK_MONOTONIC`, ns.
    pub time: u64,
}

/// A namespace was found, after the probes were attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundNamespace {
    /// `CLOCK_MONOTONIC`, ns, from before it was looked for.
    pub time: u64,
    /// Its kind.
    pub kind: Kind,
    /// Its number, and its id if it is known.
    pub ns: Ns,
    /// The inum of its parent, for kinds pid and user (`NS_GET_PARENT`); 0 if there is
    /// none, or it is not known.
    pub parent: u32,
    /// The inum of the user namespace that owns it (`NS_GET_USERNS`); likewise.
    pub owner: u32,
    /// For a user namespace the uid of its owner, in the first (`NS_GET_OWNER_UID`).
    pub owner_uid: Option<u32>,
}

/// A task was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundTask<'a> {
    /// `CLOCK_MONOTONIC`, ns, from before it was looked at.
    pub time: u64,
    /// When it started, by the same clock, rounded down as in `/proc/PID/stat`, which
    /// counts hundredths of a second; 0 if it is not known.
    pub start: u64,
    /// Its process id (tgid) in the first pid namespace.
    pub pid: u32,
    /// Its thread id there.
    pub tid: u32,
    /// Its cgroup v2 id; 0 if it is not known.
    pub cgroup: u64,
    /// Its name, as bytes: it may hold anything.
    pub comm: &'a [u8],
    /// Whether it has exited, and waits for its parent to take notice: of its namespaces
    /// only those of kinds pid and user are left.
    pub exited: bool,
    /// Its ids, from the first pid namespace down. The inum of a namespace is 0 if it is
    /// not known; the last is in `namespaces`.
    pub pids: &'a [PidAt],
    /// The inums of its namespaces by kind, as in `/proc/PID/ns`; 0 if it is not known.
    pub namespaces: [u32; KINDS],
    /// `pid_for_children`.
    pub pid_for_children: u32,
    /// `time_for_children`.
    pub time_for_children: u32,
}

/// What keeps a namespace alive without being in it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundHolder<'a> {
    /// `CLOCK_MONOTONIC`, ns, from before it was looked for.
    pub time: u64,
    /// The kind of the namespace.
    pub kind: Kind,
    /// Its number, and its id if it is known; 0 if it is not known which it holds.
    pub ns: Ns,
    /// What holds it.
    pub holder: Holder<'a>,
}

/// What keeps a namespace alive without being in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder<'a> {
    /// An open descriptor.
    Descriptor {
        /// The process that has it open.
        pid: u32,
        /// Its number.
        fd: u32,
    },
    /// A bind mount of its file in nsfs.
    Mount {
        /// The mount namespace in which it is mounted, by inum.
        mnt: u32,
        /// Where, as bytes: it may hold anything.
        path: &'a [u8],
    },
    /// A socket of a net namespace.
    Socket {
        /// The process that has it open.
        pid: u32,
        /// Its descriptor there.
        fd: u32,
    },
    /// A mount of an instance of proc, which holds its pid namespace.
    Proc {
        /// The mount namespace in which it is mounted, by inum.
        mnt: u32,
        /// Where, as bytes: it may hold anything.
        path: &'a [u8],
    },
}

impl Holder<'_> {
    /// The same, but where it is mounted.
    pub fn without_path(self) -> Self {
        match self {
            Holder::Mount { mnt, .. } => Holder::Mount { mnt, path: b"" },
            Holder::Proc { mnt, .. } => Holder::Proc { mnt, path: b"" },
            Holder::Descriptor { .. } | Holder::Socket { .. } => self,
        }
    }
}

/// A number that no namespace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundFree {
    /// `CLOCK_MONOTONIC` from before it was asked for, in ns.
    pub time: u64,
    /// The number.
    pub inum: u32,
}

/// A snapshot is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// `CLOCK_MONOTONIC`, ns.
    pub time: u64,
    /// What could not be looked at, though it was there.
    pub unseen: Unseen,
}

/// What a snapshot could not look at, though it was there: how many of each. What ended
/// while it was looked at does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// Tasks whose namespaces could not be read.
    pub tasks: u32,
    /// Processes whose descriptors could not be read.
    pub descriptors: u32,
    /// Mount namespaces whose mounts could not be read.
    pub mounts: u32,
    /// Sockets whose net namespace could not be learnt.
    pub sockets: u32,
    /// Mounts of proc whose pid namespace could not be learnt.
    pub procs: u32,
    /// Tasks whose children will be in a pid namespace that has had no process yet: the
    /// kernel does not tell which (kernel/pid_namespace.c, pidns_for_children_get).
    pub children: u32,
}

/// The name of a kind of records in output.
pub fn record_name(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Op => "op",
        RecordKind::TaskNew => "task_new",
        RecordKind::TaskExit => "task_exit",
        RecordKind::Birth => "ns_birth",
        RecordKind::Death => "ns_death",
        RecordKind::Cgroup => "cgroup",
        RecordKind::TaskChange => "task_change",
        RecordKind::TaskFree => "task_free",
        RecordKind::MountDeath => "mount_death",
        RecordKind::MountOp => "mount",
        RecordKind::MountBirths => "mount_births",
    }
}

/// The bytes of a C string in a fixed array.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().position(|byte| *byte == 0);
    &bytes[..len.unwrap_or(bytes.len())]
}

/// The length of a task's name, up to its NUL: [`until_nul`] for the array that every
/// line has, all of whose bytes are looked at as one number.
#[inline]
pub fn comm_len(comm: &[u8; 16]) -> usize {
    const ONES: u128 = u128::from_le_bytes([1; 16]);
    let bytes = u128::from_le_bytes(*comm);
    // The lowest bit that is set is the highest of the first byte that is 0: only there,
    // or above, does the subtraction borrow.
    let zeros = bytes.wrapping_sub(ONES) & !bytes & (ONES << 7);
    zeros.trailing_zeros() as usize / 8
}

const _: () = assert!(KINDS == Kind::ALL.len());
