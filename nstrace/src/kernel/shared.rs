//! Memory that the kernel side shares: arrays that are mapped, so that looking at them
//! takes no system call (the kernel side's `ASLEEP` says why).

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::Map;
use memmap2::{MmapOptions, MmapRaw};
use nstrace_common::wire::{Counts, FIRST_INUM, LostDeath, RECORD_KINDS};

use super::KernelError;

/// Whether the reader sleeps and wants to be woken.
pub struct Asleep(MmapRaw);

impl Asleep {
    pub fn new(map: Map) -> Result<Self, KernelError> {
        mapped(map, size_of::<AtomicU32>()).map(Asleep)
    }

    /// Asks to be woken by the next record.
    pub fn set(&self) {
        // SAFETY: the map's one element; whoever else uses it is in the kernel.
        let asleep = unsafe { &*self.0.as_ptr().cast::<AtomicU32>() };
        // What is looked for afterwards must not be looked for before.
        asleep.swap(1, Ordering::SeqCst);
    }
}

/// What the CPUs count.
pub struct Counters {
    memory: MmapRaw,
    cpus: usize,
}

impl Counters {
    /// The counters of so many CPUs.
    pub fn new(map: Map, cpus: usize) -> Result<Self, KernelError> {
        let memory = mapped(map, cpus * size_of::<Counts>())?;
        Ok(Counters { memory, cpus })
    }

    /// Records that were lost, by kind.
    pub fn lost(&self) -> [u64; RECORD_KINDS] {
        std::array::from_fn(|kind| self.sum(kind))
    }

    /// Deaths that were told by twins.
    pub fn by_twin(&self) -> u64 {
        self.sum(std::mem::offset_of!(Counts, by_twin) / size_of::<u64>())
    }

    /// The sum of a counter over all CPUs.
    fn sum(&self, counter: usize) -> u64 {
        const PER_CPU: usize = size_of::<Counts>() / size_of::<u64>();
        // SAFETY: the map's elements, which are counters alone; the kernel side adds
        // atomically.
        let counters = unsafe {
            std::slice::from_raw_parts(
                self.memory.as_ptr().cast::<AtomicU64>(),
                self.cpus * PER_CPU,
            )
        };
        let of_cpus = counters.iter().skip(counter).step_by(PER_CPU);
        of_cpus.map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

/// Deaths that found no room, by number.
pub struct LostDeaths {
    memory: MmapRaw,
    len: usize,
}

impl LostDeaths {
    pub fn new(map: Map) -> Result<Self, KernelError> {
        let Map::Array(map) = map else {
            unreachable!("the object has an array there")
        };
        let len = map.info().map_or(1, |info| info.max_entries()) as usize;
        let memory = mapped(Map::Array(map), len * size_of::<LostDeath>())?;
        Ok(LostDeaths { memory, len })
    }

    /// Takes them out: calls `each` with each and its number. Of two with one number there
    /// is the last.
    pub fn take(&mut self, mut each: impl FnMut(u32, LostDeath)) {
        // SAFETY: the map's elements, which the kernel side writes member by member.
        let deaths = unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().cast::<[AtomicU64; 2]>(), self.len)
        };
        for (inum, [time, address]) in (FIRST_INUM..).zip(deaths) {
            if time.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let before = address.load(Ordering::Acquire);
            let time = time.swap(0, Ordering::AcqRel);
            let is_same = address.load(Ordering::Acquire) == before;
            // Else another death of the number has come just now. So who has had it up to
            // this one is dead, whatever its address is.
            let address = if is_same { before } else { 0 };
            each(inum, LostDeath { time, address });
        }
    }
}

/// The elements of an array that was made with `BPF_F_MMAPABLE`. They stay when the
/// descriptor is closed.
fn mapped(map: Map, len: usize) -> Result<MmapRaw, KernelError> {
    let Map::Array(map) = map else {
        unreachable!("the object has an array there")
    };
    MmapOptions::new()
        .len(len)
        .map_raw(map.fd().as_fd().as_raw_fd())
        .map_err(KernelError::Share)
}
