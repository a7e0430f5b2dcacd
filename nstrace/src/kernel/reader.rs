//! Reads the rings, in the order of time, and sees what was lost.
//!
//! The kernel side wakes a sleeping reader with the next record and then leaves it
//! alone: the reader says when it sleeps ([`Reader::wait`]). Between a wake-up and
//! the reading there is a pause, in which the records of a burst gather.

use std::{os::fd::AsRawFd, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf, ring_buf::RingBufItem},
};
use nstrace_common::wire::{RECORD_KINDS, RecordKind};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    KernelError, clock,
    load::Kernel,
    plan::CLEANUP,
    shared::{Asleep, Counters, LostDeaths},
    symbols::Symbols,
};
use crate::{
    decode::{decode, record_kind},
    event::{Event, Life, Lost, Mount},
};

/// How long records gather after the one that woke the reader.
const GATHER: Duration = Duration::from_millis(10);

/// The rings and the counters of what was lost.
pub struct Reader {
    events: AsyncFd<RingBuf<MapData>>,
    lives: AsyncFd<RingBuf<MapData>>,
    counters: Counters,
    lost_deaths: LostDeaths,
    asleep: Asleep,
    /// What was lost up to now, by kind of record.
    lost_before: [u64; RECORD_KINDS],
    /// Deaths that found no room and were handed over before they were counted.
    told_uncounted: u64,
    /// When that was looked at.
    lost_looked: u64,
    /// What is earlier is not handed over.
    since: u64,
    /// What is later is not handed over.
    until: u64,
    /// Names of functions, where one was asked for.
    symbols: Symbols,
    stack: String,
}

impl Reader {
    /// Takes the maps out of the loaded kernel side. Needs a tokio runtime.
    pub fn new(kernel: &mut Kernel) -> Result<Self, KernelError> {
        let cpus = kernel.cpus;
        let bpf = &mut kernel.bpf;
        Ok(Reader {
            events: ring(bpf, "EVENTS")?,
            lives: ring(bpf, "LIVES")?,
            counters: Counters::new(map(bpf, "COUNTS"), cpus)?,
            lost_deaths: LostDeaths::new(map(bpf, "LOST_DEATHS"))?,
            asleep: Asleep::new(map(bpf, "ASLEEP"))?,
            lost_before: [0; RECORD_KINDS],
            told_uncounted: 0,
            lost_looked: clock::monotonic_ns(),
            since: kernel.attached,
            until: u64::MAX,
            symbols: Symbols::default(),
            stack: String::new(),
        })
    }

    /// Waits until there is something to read.
    pub async fn wait(&mut self) -> Result<(), KernelError> {
        self.asleep.set();
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

    /// Sets the end: what happens later is not handed over. Programs are detached one
    /// after the other, and what still runs sees only a part of what happens meanwhile.
    pub fn stop_at(&mut self, time: u64) {
        self.until = time;
    }

    /// Hands over everything that is there, then what was lost.
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> Result<(), KernelError> {
        self.records(&mut each)?;
        self.report_lost(each);
        Ok(())
    }

    /// How many deaths were told by twins.
    pub fn told_by_twins(&self) -> u64 {
        self.counters.by_twin()
    }

    /// Hands over everything that happened up to now: whoever makes more than can be read
    /// must not keep the reader from all else.
    ///
    /// A death is sent before its number can be used again, and after the operation
    /// that the namespace was born in. So: if an operation is there, then every death
    /// before it, looked for afterwards, is there too; and if a death is there, so is
    /// its birth, looked for once more.
    pub fn records(&mut self, mut each: impl FnMut(Event)) -> Result<(), KernelError> {
        let (events, lives) = (self.events.get_mut(), self.lives.get_mut());
        let (symbols, stack) = (&mut self.symbols, &mut self.stack);
        let now = clock::monotonic_ns();
        let span = self.since..=self.until;
        let mut each = |record: &[u8]| -> Result<(), KernelError> {
            if span.contains(&time(record)) {
                each(match decode(record)? {
                    Event::MountDied(mount) => {
                        stack.clear();
                        symbols.name(stack, mount.record, CLEANUP);
                        let stack = stack.as_bytes();
                        Event::MountDied(Mount { stack, ..mount })
                    }
                    event => event,
                });
            }
            Ok(())
        };
        // The time of the next death, if one was looked at and left.
        let mut left = None;
        loop {
            let Some(event) = next(events, now) else {
                let Some(death) = next(lives, now) else { break };
                let at = time(&death);
                while let Some(event) = next(events, at) {
                    each(&event)?;
                }
                each(&death)?;
                left = None;
                continue;
            };
            let at = time(&event);
            while left.is_none_or(|left| left < at)
                && let Some(death) = lives.next()
            {
                let died = time(&death);
                if died >= at {
                    left = Some(died);
                    leave(death);
                    break;
                }
                each(&death)?;
                left = None;
            }
            each(&event)?;
        }
        Ok(())
    }

    fn report_lost(&mut self, mut each: impl FnMut(Event)) {
        let now = clock::monotonic_ns();
        for (kind, total) in self.counters.lost().into_iter().enumerate() {
            let mut count = total - self.lost_before[kind];
            self.lost_before[kind] = total;
            if kind == RecordKind::Death as usize && count > 0 {
                let told = self.told_uncounted + self.report_lost_deaths(&mut each);
                self.told_uncounted = told.saturating_sub(count);
                count = count.saturating_sub(told);
            }
            if count > 0 {
                each(Event::Lost(Lost {
                    time: now,
                    since: self.lost_looked,
                    // 0 counts the operations for which there was no slot.
                    record: record_kind(kind as u32).unwrap_or(RecordKind::Op),
                    count,
                }));
            }
        }
        self.lost_looked = now;
    }
}

impl Reader {
    /// Hands over the deaths that found no room, as far as they are known by number, and
    /// gives how many.
    fn report_lost_deaths(&mut self, each: &mut impl FnMut(Event)) -> u64 {
        let mut count = 0;
        self.lost_deaths.take(|inum, lost| {
            count += 1;
            let address = (lost.address != 0).then_some(lost.address);
            each(Event::Death(Life {
                address,
                ..Life::death(lost.time, inum)
            }));
        });
        count
    }
}

/// The time of a record: `Head`'s.
fn time(record: &[u8]) -> u64 {
    let time = record.get(8..).and_then(<[u8]>::first_chunk);
    time.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// The next record, if it is not later than that.
pub(super) fn next(ring: &mut RingBuf<MapData>, until: u64) -> Option<RingBufItem<'_>> {
    let record = ring.next()?;
    if time(&record) > until {
        leave(record);
        return None;
    }
    Some(record)
}

/// Leaves a record in its ring: dropping it is what consumes it.
fn leave(record: RingBufItem) {
    std::mem::forget(record);
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
