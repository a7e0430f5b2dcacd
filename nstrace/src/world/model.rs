//! What is known of a namespace and of a task.

use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{Op, PidAt},
};

use super::{
    Known,
    arena::{Key, NONE},
};
use crate::event::{self, Holder, Operation, until_nul};

/// A namespace of a [`super::World`]: never that of another one which has its number
/// later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsKey(pub(super) Key);

/// A task of a [`super::World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey(pub(super) Key);

/// In what way a task belongs to a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Membership {
    /// It is in it.
    In(Kind),
    /// Its future children will be: of kind pid or time, as in
    /// `/proc/PID/ns/pid_for_children`.
    Children(Kind),
}

/// The ways in which a task can be a member, as an index.
pub(super) const SLOTS: usize = KINDS + 2;
pub(super) const PID_CHILDREN: usize = KINDS;
pub(super) const TIME_CHILDREN: usize = KINDS + 1;

pub(super) fn membership(slot: usize) -> Membership {
    match slot {
        PID_CHILDREN => Membership::Children(Kind::Pid),
        TIME_CHILDREN => Membership::Children(Kind::Time),
        kind => Membership::In(Kind::ALL[kind]),
    }
}

pub(super) fn slot(membership: Membership) -> Option<usize> {
    match membership {
        Membership::In(kind) => Some(kind as usize),
        Membership::Children(Kind::Pid) => Some(PID_CHILDREN),
        Membership::Children(Kind::Time) => Some(TIME_CHILDREN),
        Membership::Children(_) => None,
    }
}

/// Times here are `CLOCK_MONOTONIC` in ns.
///
/// What is looked at for nearly each event stands first, together.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Namespace {
    /// Its kind.
    pub kind: Kind,
    /// Whether something says that it lives: the last snapshot, or an event since.
    pub confirmed: bool,
    /// Its number, which others had before and will have later.
    pub inum: u32,
    /// Its id, which no other has while the machine is up; 0 where it is not known, as
    /// before v6.18.
    pub id: u64,
    /// When it died, and how that is known.
    pub death: Option<(u64, Known)>,
    /// From when on it is known to have lived.
    pub(super) first: u64,
    /// Up to when.
    pub(super) seen: u64,
    pub(super) inside: Members,
    pub(super) children: Members,
    /// Living namespaces of which it is parent or owner.
    pub(super) dependents: u32,
    /// For a user namespace the uid of its owner, in the first.
    pub owner_uid: Option<u32>,
    /// Its parent, for kinds pid and user. That may be forgotten by now.
    pub parent: Option<NsKey>,
    /// The user namespace that owns it; for a user namespace its parent, as
    /// `NS_GET_USERNS` has it.
    pub owner: Option<NsKey>,
    /// The address of a pid namespace; 0 if it is not known.
    pub(super) address: u64,
    /// When it was born, if that was told.
    pub born: Option<u64>,
    /// Who made it, if that was told.
    pub maker: Option<Maker>,
    /// What keeps it alive without being in it, as the last snapshot found it.
    pub(super) pins: Vec<Pin>,
}

/// A list of members that runs through the tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Members {
    pub head: u32,
    pub len: u32,
}

impl Members {
    const EMPTY: Members = Members { head: NONE, len: 0 };
}

/// Something that was found to keep a namespace alive.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    /// When it was found last.
    pub time: u64,
    pub what: OwnedHolder,
}

/// A [`Holder`] that keeps its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OwnedHolder {
    Descriptor { pid: u32, fd: u32 },
    Mount { mnt: u32, path: Box<[u8]> },
    Socket { pid: u32, fd: u32 },
    Proc { mnt: u32, path: Box<[u8]> },
}

impl OwnedHolder {
    pub fn new(holder: &Holder) -> OwnedHolder {
        match *holder {
            Holder::Descriptor { pid, fd } => OwnedHolder::Descriptor { pid, fd },
            Holder::Mount { mnt, path } => OwnedHolder::Mount {
                mnt,
                path: path.into(),
            },
            Holder::Socket { pid, fd } => OwnedHolder::Socket { pid, fd },
            Holder::Proc { mnt, path } => OwnedHolder::Proc {
                mnt,
                path: path.into(),
            },
        }
    }

    /// The number of the mount namespace that it is a mount in; none if it is not one.
    pub fn mnt(&self) -> Option<u32> {
        match self {
            OwnedHolder::Mount { mnt, .. } | OwnedHolder::Proc { mnt, .. } => Some(*mnt),
            OwnedHolder::Descriptor { .. } | OwnedHolder::Socket { .. } => None,
        }
    }

    pub fn get(&self) -> Holder<'_> {
        match self {
            OwnedHolder::Descriptor { pid, fd } => Holder::Descriptor { pid: *pid, fd: *fd },
            OwnedHolder::Mount { mnt, path } => Holder::Mount { mnt: *mnt, path },
            OwnedHolder::Socket { pid, fd } => Holder::Socket { pid: *pid, fd: *fd },
            OwnedHolder::Proc { mnt, path } => Holder::Proc { mnt: *mnt, path },
        }
    }
}

impl Namespace {
    #[inline(always)]
    pub(super) fn new(kind: Kind, inum: u32, id: u64, first: u64, seen: u64) -> Namespace {
        Namespace {
            kind,
            inum,
            id,
            born: None,
            maker: None,
            parent: None,
            owner: None,
            owner_uid: None,
            death: None,
            confirmed: true,
            pins: Vec::new(),
            dependents: 0,
            first,
            seen,
            address: 0,
            inside: Members::EMPTY,
            children: Members::EMPTY,
        }
    }

    /// Whether it lives, as far as is known.
    pub fn is_alive(&self) -> bool {
        self.death.is_none()
    }

    /// How many tasks are in it.
    pub fn members_len(&self) -> usize {
        self.inside.len as usize
    }

    /// How many tasks will have their future children in it.
    pub fn children_len(&self) -> usize {
        self.children.len as usize
    }

    /// How many living namespaces it is the parent or the owner of: they keep it alive.
    pub fn dependents_len(&self) -> usize {
        self.dependents as usize
    }

    /// What keeps it alive without being in it, as the last snapshot found it: that
    /// something is opened, closed or mounted is not told.
    pub fn holders(&self) -> impl Iterator<Item = Holder<'_>> {
        self.pins.iter().map(|pin| pin.what.get())
    }

    /// Whether anything is known that keeps it alive.
    pub fn is_held(&self) -> bool {
        self.has_members() || self.dependents > 0 || !self.pins.is_empty()
    }

    pub(super) fn has_members(&self) -> bool {
        self.inside.len + self.children.len > 0
    }

    /// Since when it is known to live: its birth, if that was told.
    pub fn since(&self) -> u64 {
        self.born.unwrap_or(self.first)
    }

    /// Notes that it is shown to live, if it is for sure what is shown, and nothing is learnt
    /// but that: what `World::shown` comes to nearly always, without a look for its number.
    #[inline(always)]
    pub(super) fn is_shown_again(&mut self, shown: event::Ns, time: u64) -> bool {
        debug_assert!(self.is_alive(), "tasks and numbers are of the living");
        let is_same = self.inum == shown.inum && (shown.id == 0 || self.id == shown.id);
        // Seen then, it had been born.
        let is_again = is_same && self.confirmed && time >= self.seen;
        if is_again {
            self.seen = time;
        }
        is_again
    }

    /// Whether it can be what has that kind and id.
    pub(super) fn is_like(&self, kind: Kind, id: u64) -> bool {
        self.kind == kind && (self.id == 0 || id == 0 || self.id == id)
    }

    pub(super) fn members(&mut self, slot: usize) -> &mut Members {
        if slot < KINDS {
            &mut self.inside
        } else {
            &mut self.children
        }
    }
}

/// Who made a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker {
    /// By which operation.
    pub op: Op,
    /// Its process id (tgid) in the first pid namespace.
    pub pid: u32,
    /// Its thread id there.
    pub tid: u32,
    /// Its real uid, in the first user namespace.
    pub uid: u32,
    /// Its cgroup v2 id, whose path names the container.
    pub cgroup: u64,
    pub(crate) comm: [u8; 16],
}

impl Maker {
    pub(super) fn of(op: &Operation) -> Maker {
        Maker {
            op: op.op,
            pid: op.record.pid,
            tid: op.record.tid,
            uid: op.record.uid,
            cgroup: op.record.cgroup,
            comm: op.record.comm,
        }
    }

    /// Its name, as bytes: it may hold anything.
    pub fn comm(&self) -> &[u8] {
        until_nul(&self.comm)
    }

    /// What a line has room for.
    pub fn in_short(&self) -> event::Maker {
        event::Maker {
            op: self.op,
            pid: self.pid,
            comm: self.comm,
        }
    }
}

/// A task: a process, or a thread of one.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its process id (tgid) in the first pid namespace.
    pub pid: u32,
    /// Its thread id there.
    pub tid: u32,
    /// Its cgroup v2 id when it was last heard of, whose path names the container; 0 if
    /// it is not known.
    pub cgroup: u64,
    /// When it started.
    pub start: Start,
    /// Whether it has exited, and is still in its namespaces of kinds pid and user: until its
    /// parent has taken notice, or, for the first process of a pid namespace, until the others
    /// in that are gone.
    pub exited: bool,
    /// Its ids, from the first pid namespace down; none if they are not known.
    pub pids: Box<[PidAt]>,
    pub(super) comm: [u8; 16],
    /// The time of the last that is known of it.
    pub(super) updated: u64,
    /// The time of the last of that which was told, not found.
    pub(super) told: u64,
    /// Whether a snapshot has found the pid namespace for its children, as the last that is
    /// known of it: then it can be seen.
    pub(super) has_found_children: bool,
    pub(super) links: [Link; SLOTS],
}

/// When a task started, in ns of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Then: it was told.
    At(u64),
    /// About then, as `/proc/PID/stat` says it.
    About(u64),
    /// Before that.
    Before(u64),
}

/// Where a task is in the members of a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub ns: u32,
    pub previous: u32,
    pub next: u32,
}

impl Link {
    pub const NONE: Link = Link {
        ns: NONE,
        previous: NONE,
        next: NONE,
    };
}

impl Task {
    /// Its name when it was last heard of, as bytes: it may hold anything.
    pub fn comm(&self) -> &[u8] {
        until_nul(&self.comm)
    }

    /// Whether it is a thread of a process, not its leader.
    pub fn is_thread(&self) -> bool {
        self.pid != self.tid
    }
}
