//! Mount operations of a recording, by what was done.

use nstrace_common::mount_ops::Call;

use super::{Lengths, Tally};
use crate::mount_ops::{How, MountOp, What};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountKind {
    /// mount(2): a file system.
    Mount,
    /// mount(2): what is mounted already, at another place.
    Bind,
    /// mount(2): to another place.
    Move,
    /// mount(2): a mount and its file system, or a mount alone, is changed.
    Remount,
    /// mount(2): where mounts and unmounts go on to.
    Propagation,
    /// umount2(2), at once or not at all.
    Umount,
    /// umount2(2), with what is in use later.
    LazyUmount,
    /// Another call.
    Other(Call),
}

impl MountKind {
    fn of(op: &MountOp) -> MountKind {
        match op.what() {
            Some(What::New) => MountKind::Mount,
            Some(What::Bind) => MountKind::Bind,
            Some(What::Move) => MountKind::Move,
            Some(What::Remount | What::BindRemount) => MountKind::Remount,
            Some(What::Propagation(_)) => MountKind::Propagation,
            None if op.call == Call::Umount => match op.how() {
                How::Lazily => MountKind::LazyUmount,
                How::Plainly | How::Forcibly | How::Expired => MountKind::Umount,
            },
            None => MountKind::Other(op.call),
        }
    }

    /// Its name in output.
    pub fn name(self) -> &'static str {
        match self {
            MountKind::Mount => "mount",
            MountKind::Bind => "bind",
            MountKind::Move => "move",
            MountKind::Remount => "remount",
            MountKind::Propagation => "propagation",
            MountKind::Umount => "umount",
            MountKind::LazyUmount => "umount_lazy",
            MountKind::Other(call) => call.name(),
        }
    }
}

/// What the operations of a kind come to.
#[derive(Clone, Debug, Default)]
pub struct MountSums {
    /// How long they took.
    pub lengths: Lengths,
    /// How many failed.
    pub failed: u64,
    /// What with, positive.
    pub errnos: Tally<i32>,
    /// Mounts that were made, those by propagation among them.
    pub made: u64,
    /// Mounts that propagation made.
    pub made_by_propagation: u64,
    /// Mounts that were taken away, those by propagation among them.
    pub taken: u64,
    /// Mounts that propagation took away.
    pub taken_by_propagation: u64,
    /// Whether more may have been taken away than were counted.
    pub may_have_taken_more: bool,
}

impl MountSums {
    fn add(&mut self, op: &MountOp) {
        let record = op.record;
        self.lengths.add(op.took_ns());
        if let Some(errno) = op.errno() {
            self.failed += 1;
            self.errnos.add(errno);
        }
        for (sum, count) in [
            (&mut self.made, record.made),
            (&mut self.made_by_propagation, record.made_by_propagation),
            (&mut self.taken, record.taken),
            (&mut self.taken_by_propagation, record.taken_by_propagation),
        ] {
            *sum = sum.saturating_add(count.into());
        }
        self.may_have_taken_more |= op.may_have_taken_more();
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct MountOps(Vec<(MountKind, MountSums)>);

impl MountOps {
    /// Adds one.
    pub fn add(&mut self, op: &MountOp) {
        let kind = MountKind::of(op);
        let at = match self.0.binary_search_by_key(&kind, |(kind, _)| *kind) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (kind, MountSums::default()));
                at
            }
        };
        self.0[at].1.add(op);
    }

    /// By kind; those that there were.
    pub fn kinds(&self) -> impl Iterator<Item = (MountKind, &MountSums)> {
        self.0.iter().map(|(kind, sums)| (*kind, sums))
    }

    /// How many there were, and how many of them failed. Copies for new namespaces are parts
    /// of other operations.
    pub fn count(&self) -> (u64, u64) {
        let asked = self
            .kinds()
            .filter(|(kind, _)| *kind != MountKind::Other(Call::CopyMntNs));
        asked.fold((0, 0), |(count, failed), (_, sums)| {
            (count + sums.lengths.count(), failed + sums.failed)
        })
    }
}
