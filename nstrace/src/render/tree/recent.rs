//! Which namespaces have just been born or have just died.

use foldhash::HashMap;

use crate::world::{Change, NsKey};

/// The namespaces that were born or died in the last while, for a view that marks them.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    born: HashMap<NsKey, u64>,
    died: HashMap<NsKey, u64>,
}

/// For how long they are marked.
const MARKED_NS: u64 = 3_000_000_000;

impl Recent {
    /// Notes the changes that an event made, at a time of `CLOCK_MONOTONIC` in ns.
    pub fn note(&mut self, changes: &[Change], now_ns: u64) {
        for change in changes {
            match *change {
                Change::Born(key) => {
                    self.born.insert(key, now_ns);
                }
                Change::Died { ns, .. } => {
                    self.died.insert(ns, now_ns);
                }
                Change::Forgotten(key) => {
                    self.born.remove(&key);
                    self.died.remove(&key);
                }
                Change::Found(_)
                | Change::BirthTold(_)
                | Change::Started(_)
                | Change::Exited { .. }
                | Change::Reaped { .. }
                | Change::Joined { .. }
                | Change::Left { .. }
                | Change::Pinned(_)
                | Change::Unpinned(_)
                | Change::Unconfirmed(_)
                | Change::Confirmed(_)
                | Change::Lost(_)
                | Change::Healed(_) => {}
            }
        }
    }

    /// Forgets what is not marked any more. Gives when the next one will not be, if one
    /// is: then the view changes without an event.
    pub fn expire(&mut self, now_ns: u64) -> Option<u64> {
        let mut next = None;
        for times in [&mut self.born, &mut self.died] {
            times.retain(|_, time| is_recent(*time, now_ns));
            next = next.into_iter().chain(times.values().copied()).min();
        }
        next.map(|time: u64| time.saturating_add(MARKED_NS))
    }

    /// How many are marked.
    pub fn len(&self) -> usize {
        self.born.len() + self.died.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it has just been born.
    pub fn born(&self, key: NsKey, now_ns: u64) -> bool {
        let time = self.born.get(&key);
        time.is_some_and(|time| is_recent(*time, now_ns))
    }

    /// Whether it has just died.
    pub fn died(&self, key: NsKey, now_ns: u64) -> bool {
        let time = self.died.get(&key);
        time.is_some_and(|time| is_recent(*time, now_ns))
    }
}

fn is_recent(time: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(time) < MARKED_NS
}
