//! When a number was last given up.
//!
//! Numbers of namespaces and ids of tasks are used again. What is told late, or twice, of
//! one that has ended must not bring it back.

use std::collections::VecDeque;

use super::numbers::Numbers;

/// The last ends of numbers, of which the lowest is `FIRST`.
#[derive(Clone, Debug, Default)]
pub struct Graves<const FIRST: u32> {
    last: Numbers<u64, FIRST>,
    /// In the order in which they were told.
    told: VecDeque<(u32, u64)>,
}

impl<const FIRST: u32> Graves<FIRST> {
    /// Notes an end.
    pub fn put(&mut self, number: u32, time: u64) {
        if self.last.get(number) < time {
            self.last.set(number, time);
            self.told.push_back((number, time));
        }
    }

    /// Whether what had the number at that time has ended.
    pub fn has(&self, number: u32, time: u64) -> bool {
        let last = self.last.get(number);
        last != 0 && last >= time
    }

    /// Whether an end of the number is remembered.
    pub fn knows(&self, number: u32) -> bool {
        self.last.get(number) != 0
    }

    /// The ends that are remembered, in the order in which they were told.
    pub fn told(&self) -> &VecDeque<(u32, u64)> {
        &self.told
    }

    /// When that was which was told first.
    pub fn first(&self) -> Option<u64> {
        self.told.front().map(|(_, time)| *time)
    }

    /// Forgets what is older than `oldest`, and all but the last `most`.
    pub fn forget(&mut self, oldest: u64, most: usize) {
        while let Some((number, time)) = self.told.front().copied() {
            if time >= oldest && self.told.len() <= most {
                break;
            }
            self.told.pop_front();
            if self.last.get(number) == time {
                self.last.set(number, 0);
            }
        }
    }
}
