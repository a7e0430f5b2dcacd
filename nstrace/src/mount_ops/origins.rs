//! Where mounts come from: who made each, when, and of which it is a copy, as far as it was
//! told.
//!
//! A mount is known by its number in mountinfo, of which the lowest that is free is given
//! next (v6.12 fs/namespace.c, mnt_alloc_id): so there are never more than mounts were alive
//! at once. A number that is used again is another mount's from then on.

use std::rc::Rc;

use foldhash::HashMap;
use nstrace_common::{
    mount_ops::{Birth, Call},
    writers::MountRecord,
};

use super::{MountBirths, MountOp};
use crate::event::{Event, comm_len};

/// The operation that made mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker {
    /// What was called.
    pub call: Call,
    /// When, `CLOCK_MONOTONIC` in ns: [`nstrace_common::mount_ops::MountOpRecord::start`].
    pub start: u64,
    /// By which process.
    pub pid: u32,
    /// By which thread.
    pub tid: u32,
    /// Its name; NUL is behind it.
    pub comm: [u8; 16],
}

impl Maker {
    /// What it did, in a word.
    pub fn verb(&self) -> &'static str {
        match self.call {
            Call::Mount => "mounted",
            Call::CopyMntNs => "copied",
            _ => "made",
        }
    }

    /// Its name, as bytes: it may hold anything.
    pub fn comm(&self) -> &[u8] {
        &self.comm[..comm_len(&self.comm)]
    }
}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What it is, and of which it is a copy.
    pub birth: Birth,
    /// What made it.
    pub maker: Rc<Maker>,
}

/// The origins of mounts, by number.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    mounts: HashMap<u32, Origin>,
    /// The operation that a thread is in, as far as mounts of it were told.
    makers: HashMap<u32, Rc<Maker>>,
}

impl Origins {
    /// Learns from an event.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::MountBirths(births) => self.births(births),
            Event::MountOp(op) => self.ended(op),
            _ => {}
        }
    }

    fn births(&mut self, births: &MountBirths) {
        let record = births.record;
        let maker = Maker {
            call: births.call,
            start: record.start,
            pid: record.pid,
            tid: record.tid,
            comm: record.comm,
        };
        let known = self
            .makers
            .get(&record.tid)
            .filter(|known| ***known == maker);
        let maker = known.cloned().unwrap_or_else(|| Rc::new(maker));
        self.makers.insert(record.tid, Rc::clone(&maker));
        for birth in births.births {
            let maker = Rc::clone(&maker);
            let birth = *birth;
            self.mounts.insert(birth.id, Origin { birth, maker });
        }
    }

    fn ended(&mut self, op: &MountOp) {
        let record = op.record;
        let Some(maker) = self.makers.remove(&record.tid) else {
            return;
        };
        if maker.start == record.start && op.errno().is_some() {
            self.mounts
                .retain(|_, origin| !Rc::ptr_eq(&origin.maker, &maker));
        }
    }

    /// Where a mount comes from; `unique` is its `mnt_id_unique`, or 0 if that is not known.
    pub fn get(&self, id: u32, unique: u64) -> Option<&Origin> {
        let origin = self.mounts.get(&id)?;
        let same = unique == 0 || origin.birth.unique == 0 || unique == origin.birth.unique;
        same.then_some(origin)
    }

    /// The same of one that has died or is watched.
    pub fn of(&self, mount: &MountRecord) -> Option<&Origin> {
        self.get(mount.id, mount.unique)
    }

    /// Where the mount comes from that an operation has taken away.
    pub fn taken_by(&self, op: &MountOp) -> Option<&Origin> {
        let record = op.record;
        let takes = op.call == Call::Umount && op.errno().is_none() && record.id != 0;
        self.get(record.id, record.unique).filter(|_| takes)
    }
}

#[cfg(test)]
mod tests {
    use nstrace_common::mount_ops::{Birth, Call};

    use super::*;
    use crate::mount_ops::testing::{births, mount_op};

    fn birth(id: u32, from: u32) -> Birth {
        let unique = |id: u32| if id == 0 { 0 } else { 1000 + u64::from(id) };
        Birth {
            id,
            from,
            unique: unique(id),
            from_unique: unique(from),
        }
    }

    /// Mounts of an operation of a thread that begins then, and whether it succeeds.
    fn made(origins: &mut Origins, tid: u32, start: u64, list: &[Birth], ret: i64) {
        let told = births(list).with(|record| (record.tid, record.start) = (tid, start));
        origins.apply(&Event::MountBirths(told.get()));
        let op = mount_op(Call::Mount, 0);
        let op = op.with(|record| (record.tid, record.start, record.ret) = (tid, start, ret));
        origins.apply(&Event::MountOp(op.get()));
    }

    #[test]
    fn what_failed_has_made_nothing() {
        let mut origins = Origins::default();
        made(&mut origins, 1, 10, &[birth(52, 0)], 0);
        made(&mut origins, 1, 20, &[birth(60, 52)], -12);
        assert_eq!(origins.get(60, 0), None);
        assert!(origins.get(52, 0).is_some());
    }

    #[test]
    fn a_number_that_is_used_again_is_another_mount() {
        let mut origins = Origins::default();
        made(&mut origins, 1, 10, &[birth(52, 0)], 0);
        made(&mut origins, 1, 20, &[birth(60, 52)], 0);
        let mut again = birth(52, 0);
        again.unique = 2000;
        made(&mut origins, 1, 30, &[again], 0);
        assert_eq!(origins.get(52, 1052), None);
        assert_eq!(
            origins.get(52, 0).map(|origin| origin.maker.start),
            Some(30)
        );
        assert_eq!(
            origins.get(60, 1060).map(|origin| origin.birth.from),
            Some(52)
        );
    }
}
