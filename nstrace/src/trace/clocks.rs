//! When the clock on the wall was set: then, what to add to `CLOCK_MONOTONIC` for the time of
//! day changes.

use super::bytes::{Bytes, put, put_signed};

/// So many times are remembered: the first.
const STEPS_MAX: usize = 1000;

/// So many bytes one has at most.
pub(super) const STEP_MAX: usize = 20;

/// From when on what is to be added, both in ns, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clocks(Vec<(u64, i64)>);

impl Clocks {
    /// Less is a clock that is kept right, not one that was set.
    pub const STEP_NS: u64 = 1_000_000_000;

    /// From a time on this is to be added, where before it was another; says whether the clock
    /// was set.
    pub(crate) fn set(&mut self, time: u64, offset_ns: i64, first: i64) -> bool {
        let last = self.0.last().map_or(first, |(_, offset)| *offset);
        let is_set = last.abs_diff(offset_ns) > Clocks::STEP_NS && self.0.len() < STEPS_MAX;
        if is_set {
            self.0.push((time, offset_ns));
        }
        is_set
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of their bytes, how many there are at most.
    pub(super) fn len_max(&self) -> usize {
        self.0.len() * STEP_MAX
    }

    /// What is to be added at a time; `first` if it was not set before.
    pub fn at(&self, time: u64, first: i64) -> i64 {
        let steps = self.0.iter().rev();
        let last = steps.into_iter().find(|(from, _)| *from <= time);
        last.map_or(first, |(_, offset)| *offset)
    }

    /// Whether that was to be added at any time up to then.
    pub fn showed(&self, offset_ns: i64, until: u64, first: i64) -> bool {
        let mut spans = self.spans([0, until], first);
        spans.any(|([from, _], own)| from < until && own.abs_diff(offset_ns) <= Clocks::STEP_NS)
    }

    /// From when to when it was not set, and what is to be added meanwhile.
    pub fn spans(
        &self,
        [begin, end]: [u64; 2],
        first: i64,
    ) -> impl Iterator<Item = ([u64; 2], i64)> + Clone {
        let from = [(begin, first)].into_iter().chain(self.0.iter().copied());
        let until = self.0.iter().map(|(time, _)| *time).chain([end]);
        let within = move |time: u64| time.clamp(begin, end.max(begin));
        from.zip(until)
            .map(move |((from, offset), until)| ([within(from), within(until)], offset))
    }

    /// Appends the steps, each as the differences from the one before.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut before = (0_u64, 0_i64);
        for step in &self.0 {
            put(out, step.0.wrapping_sub(before.0));
            put_signed(out, step.1.wrapping_sub(before.1));
            before = *step;
        }
    }

    pub(super) fn read(payload: &[u8]) -> Option<Clocks> {
        let (mut bytes, mut last) = (Bytes(payload), (0_u64, 0_i64));
        let mut steps = Vec::new();
        while !bytes.0.is_empty() && steps.len() < STEPS_MAX {
            last.0 = last.0.wrapping_add(bytes.number()?);
            last.1 = last.1.wrapping_add(bytes.signed()?);
            steps.push(last);
        }
        Some(Clocks(steps))
    }
}
