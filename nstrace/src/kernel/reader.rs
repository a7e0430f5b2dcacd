//! Reads the rings, in the order of time, and sees what was lost.
//!
//! The kernel side wakes a sleeping reader with the next record and then leaves it
//! alone: the reader says when it sleeps ([`Reader::wait`]). Between a wake-up and
//! the reading there is a pause, in which the records of a burst gather.

use std::{os::fd::AsRawFd, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, MapData, PerCpuArray, RingBuf},
};
use nstrace_common::wire::{RECORD_KINDS, RecordKind};
use tokio::io::{Interest, unix::AsyncFd};

use super::{KernelError, clock};
use crate::{
    decode::{decode, record_kind},
    event::{Event, Lost},
};

/// How long records gather after the one that woke the reader.
const GATHER: Duration = Duration::from_millis(10);

/// The rings and the counters of what was lost.
pub struct Reader {
    events: AsyncFd<RingBuf<MapData>>,
    lives: AsyncFd<RingBuf<MapData>>,
    lost: PerCpuArray<MapData, u64>,
    asleep: Array<MapData, u32>,
    /// What was lost up to now, by kind of record.
    lost_before: [u64; RECORD_KINDS],
}

impl Reader {
    /// Takes the maps out of the loaded kernel side. Needs a tokio runtime.
    pub fn new(bpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Reader {
            events: ring(bpf, "EVENTS")?,
            lives: ring(bpf, "LIVES")?,
            lost: PerCpuArray::try_from(map(bpf, "LOST"))?,
            asleep: Array::try_from(map(bpf, "ASLEEP"))?,
            lost_before: [0; RECORD_KINDS],
        })
    }

    /// Waits until there is something to read.
    pub async fn wait(&mut self) -> Result<(), KernelError> {
        self.asleep.set(0, 1, 0)?;
        // What came before the kernel side knew wakes nobody: there may be some.
        if !readable(self.events.get_ref()) && !readable(self.lives.get_ref()) {
            let (events, lives) = (&mut self.events, &mut self.lives);
            tokio::select! {
                ready = events.readable_mut() => ready.map_err(KernelError::Wait)?.clear_ready(),
                ready = lives.readable_mut() => ready.map_err(KernelError::Wait)?.clear_ready(),
            }
        }
        tokio::time::sleep(GATHER).await;
        Ok(())
    }

    /// Hands over everything that is there, then what was lost.
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> Result<(), KernelError> {
        let (events, lives) = (self.events.get_mut(), self.lives.get_mut());
        // The times of the next ones, as long as they have not been handed over.
        let (mut event, mut life) = (None, None);
        loop {
            // A death is sent before its number can be used again, and after the
            // operation that the namespace was born in. So: if an operation is there,
            // then every death before it, looked for afterwards, is there too; and if
            // a death is there, so is its birth, looked for once more.
            event = event.or_else(|| next_time(events));
            if life.is_none() {
                life = next_time(lives);
                event = event.or_else(|| next_time(events));
            }
            let item = match (event, life) {
                (Some(at), death) if death.is_none_or(|death| at <= death) => {
                    event = None;
                    events.next()
                }
                (_, Some(_)) => {
                    life = None;
                    lives.next()
                }
                (_, None) => break,
            };
            if let Some(item) = item {
                each(decode(&item)?);
            }
        }
        self.report_lost(each)
    }

    fn report_lost(&mut self, mut each: impl FnMut(Event)) -> Result<(), KernelError> {
        for kind in 0..RECORD_KINDS {
            let total: u64 = self.lost.get(&(kind as u32), 0)?.iter().sum();
            let count = total - self.lost_before[kind];
            if count > 0 {
                self.lost_before[kind] = total;
                each(Event::Lost(Lost {
                    time: clock::monotonic_ns(),
                    // 0 counts the operations for which there was no slot.
                    record: record_kind(kind as u32).unwrap_or(RecordKind::Op),
                    count,
                }));
            }
        }
        Ok(())
    }
}

/// The time of the next record, which stays.
fn next_time(ring: &mut RingBuf<MapData>) -> Option<u64> {
    let item = ring.next()?;
    let time = item.get(8..16).and_then(|bytes| bytes.try_into().ok());
    // Dropping an item is what consumes it.
    std::mem::forget(item);
    Some(time.map_or(0, u64::from_ne_bytes))
}

fn ring(bpf: &mut Ebpf, name: &str) -> Result<AsyncFd<RingBuf<MapData>>, KernelError> {
    let ring = RingBuf::try_from(map(bpf, name))?;
    // SAFETY: the ring keeps its descriptor open for as long as it lives.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .map_err(|error| KernelError::Wait(error.into()))
}

/// A map of the object, which is of the same build.
pub(super) fn map(bpf: &mut Ebpf, name: &str) -> aya::maps::Map {
    bpf.take_map(name)
        .unwrap_or_else(|| unreachable!("the object has a map {name}"))
}

fn readable(ring: &RingBuf<MapData>) -> bool {
    let mut poll = libc::pollfd {
        fd: ring.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}
