//! Writes recordings.

use std::io::{self, Write};

use super::{
    block::{self, Kind, PAYLOAD_MAX},
    head::{Head, VERSION},
    index::{Index, Place},
    record::Codec,
    state::StateOf,
};
use crate::{event::Event, explain::Facts};

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A block is closed when so many bytes have gathered.
    pub block_len: usize,
    /// A state is due when so many bytes have been written since the last,
    pub state_every: u64,
    /// and so many times as many as that had.
    pub state_share: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            block_len: 128 << 10,
            state_every: 4 << 20,
            state_share: 16,
        }
    }
}

/// Gathers events, and writes them out in blocks.
pub struct Writer<W> {
    out: W,
    options: Options,
    codec: Codec,
    payload: Vec<u8>,
    block: Vec<u8>,
    /// The earliest and the latest time in the payload.
    times: Option<[u64; 2]>,
    events: u32,
    clock: i64,
    /// What stands in the payload already.
    facts: Option<Facts>,
    written: u64,
    index: Index,
    /// The bytes that were written before the next state is due.
    next_state: u64,
}

/// What stands at the end of a recording that is put together from blocks, and ends then.
pub fn end(time: u64) -> Vec<u8> {
    let mut block = Vec::new();
    block::append(&mut block, Kind::End, &[], [time; 2], 0);
    block
}

impl<W: Write> Writer<W> {
    /// Writes the head. Its version is that of this writer.
    pub fn new(out: W, head: &Head, options: Options) -> io::Result<Writer<W>> {
        let mut writer = Writer {
            out,
            options,
            codec: Codec::new(),
            payload: Vec::new(),
            block: Vec::new(),
            times: None,
            events: 0,
            clock: head.wall_offset_ns,
            facts: None,
            written: 0,
            index: Index::default(),
            next_state: options.state_every,
        };
        writer.head(head)?;
        Ok(writer)
    }

    /// Writes a head again: what follows does not go on where what was before ended.
    pub fn head(&mut self, head: &Head) -> io::Result<()> {
        self.write_out()?;
        let head = Head {
            version: VERSION,
            ..head.clone()
        };
        self.clock = head.wall_offset_ns;
        self.payload = serde_json::to_vec(&head)?;
        self.block(Kind::Head)
    }

    /// Adds an event.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.codec.write(&mut self.payload, event);
        self.events += 1;
        if let Some(time) = event.time() {
            let [first, last] = self.times.unwrap_or([time; 2]);
            self.times = Some([first.min(time), last.max(time)]);
        }
        self.close_when_full()
    }

    /// Adds what an engine calls a container.
    pub fn name(&mut self, id: &[u8], name: &str) -> io::Result<()> {
        self.codec.write_name(&mut self.payload, id, name);
        self.close_when_full()
    }

    /// Notes what to add to `CLOCK_MONOTONIC` for the time of day from here on.
    pub fn clock(&mut self, offset_ns: i64) -> io::Result<()> {
        if std::mem::replace(&mut self.clock, offset_ns) == offset_ns {
            return Ok(());
        }
        self.codec.write_clock(&mut self.payload, offset_ns);
        self.close_when_full()
    }

    /// Notes what the machine says about the failure that is the next event. It stands for
    /// those that follow in the same block, too.
    pub fn facts(&mut self, facts: &Facts) {
        if self.facts.as_ref() != Some(facts) {
            self.codec.write_facts(&mut self.payload, facts);
            self.facts = Some(facts.clone());
        }
    }

    /// Whether it is time to write what is known of the machine.
    pub fn wants_state(&self) -> bool {
        self.written >= self.next_state
    }

    /// Writes what is known of the machine after all events up to here. What is too large
    /// for a block is left out.
    pub fn state(&mut self, state: &StateOf) -> io::Result<()> {
        self.write_out()?;
        let (offset, time) = (self.written, state.world.now());
        state.write(&mut self.codec, self.clock, &mut self.payload);
        if self.payload.len() > PAYLOAD_MAX {
            self.payload.clear();
            self.codec.reset();
        } else {
            self.times = Some([time; 2]);
            self.index.push(Place { offset, time });
            self.block(Kind::State)?;
        }
        let len = self.written - offset;
        self.next_state =
            self.written + self.options.state_every.max(len * self.options.state_share);
        Ok(())
    }

    fn close_when_full(&mut self) -> io::Result<()> {
        match self.payload.len() >= self.options.block_len {
            true => self.block(Kind::Events),
            false => Ok(()),
        }
    }

    /// Writes out what has gathered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_out()?;
        self.out.flush()
    }

    fn write_out(&mut self) -> io::Result<()> {
        match self.payload.is_empty() {
            true => Ok(()),
            false => self.block(Kind::Events),
        }
    }

    /// Writes out what has gathered, and that it is all up to that time; 0 for the last event.
    pub fn finish(&mut self, time: u64) -> io::Result<()> {
        self.flush()?;
        self.index.write(&mut self.payload);
        let [first, last] = self.index.times.unwrap_or([time; 2]);
        self.times = Some([first, last.max(time)]);
        self.block(Kind::End)?;
        self.out.flush()
    }

    /// Where it is written to.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// The same, to change it.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// The same, and no more is written.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Bytes that were written.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn block(&mut self, kind: Kind) -> io::Result<()> {
        self.block.clear();
        let times = self.times.take().unwrap_or_default();
        if kind == Kind::Events {
            self.index.widen(times);
        }
        let events = std::mem::take(&mut self.events);
        block::append(&mut self.block, kind, &self.payload, times, events);
        self.payload.clear();
        self.codec.reset();
        self.facts = None;
        self.out.write_all(&self.block)?;
        self.written += self.block.len() as u64;
        Ok(())
    }
}
