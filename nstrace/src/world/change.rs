//! What an event changed in the tree.

use super::{Membership, NsKey, TaskKey};

/// A change of the tree, for a view that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A namespace was born.
    Born(NsKey),
    /// A namespace has come to be known that was there before.
    Found(NsKey),
    /// The birth is told of a namespace that something had shown before: it was not there
    /// before after all.
    BirthTold(NsKey),
    /// A namespace has died.
    Died {
        /// Which.
        ns: NsKey,
        /// How long it lived, in ns, if its birth was told.
        age_ns: Option<u64>,
        /// How that is known.
        known: Known,
    },
    /// What was remembered of a dead namespace is gone: its key is no longer good.
    Forgotten(NsKey),
    /// A task has come to be known. In which namespaces it is follows.
    Started(TaskKey),
    /// A task has exited. Which namespaces it left was said before: those of kinds pid and
    /// user are left, until it is reaped.
    Exited {
        /// Which.
        task: TaskKey,
        /// Its thread id in the first pid namespace.
        tid: u32,
        /// How that is known.
        known: Known,
    },
    /// What was left of a task that had exited is gone. Which namespaces it left was said
    /// before.
    Reaped {
        /// Which; the key is no longer good.
        task: TaskKey,
        /// Its thread id in the first pid namespace.
        tid: u32,
    },
    /// A task is in a namespace, or its children will be.
    Joined {
        /// Which task.
        task: TaskKey,
        /// Which namespace.
        ns: NsKey,
        /// In what way.
        membership: Membership,
    },
    /// That is over.
    Left {
        /// Which task.
        task: TaskKey,
        /// Which namespace.
        ns: NsKey,
        /// In what way.
        membership: Membership,
    },
    /// Something that is not in it keeps a namespace alive.
    Pinned(NsKey),
    /// Nothing of that kind does any more.
    Unpinned(NsKey),
    /// Nothing says any more that a namespace lives: a snapshot has not found it.
    Unconfirmed(NsKey),
    /// Something does again.
    Confirmed(NsKey),
    /// Events were lost; what the tree says may be wrong from here on.
    Lost(Interval),
    /// A snapshot has made good what was lost.
    Healed(Interval),
}

/// How something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It was told.
    Told,
    /// It was not, but follows from something that was.
    Inferred,
}

/// A span of `CLOCK_MONOTONIC`, in ns, in which events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// When nothing had been lost yet.
    pub from: u64,
    /// When the loss was seen.
    pub until: u64,
}
