//! Writes recordings.

use std::io::{self, Write};

use super::{
    block::{self, HEAD, Kind, PAYLOAD_MAX},
    clocks::{Clocks, STEP_MAX},
    head::{Head, VERSION},
    index::{Index, Place},
    record::Codec,
    state::StateOf,
    writers,
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
    /// When it was set, since it was the first.
    clocks: Clocks,
    first_clock: i64,
    began: u64,
    /// What stands in the payload already.
    facts: Option<Facts>,
    written: u64,
    /// So many bytes are written at most.
    most: u64,
    is_full: bool,
    index: Index,
    /// The bytes that were written before the next state is due.
    next_state: u64,
}

/// So many bytes the end has at most for each state.
const PLACE_MAX: usize = 20;

/// What stands at the beginning of a recording.
pub fn begin(head: &Head) -> io::Result<Vec<u8>> {
    Ok(Writer::new(Vec::new(), head, Options::default())?.into_inner())
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
            clocks: Clocks::default(),
            first_clock: head.wall_offset_ns,
            began: head.mono_ns,
            facts: None,
            written: 0,
            most: u64::MAX,
            is_full: false,
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
        self.block(Kind::Head)?;
        self.clock_set(head.mono_ns)
    }

    /// Not more than so many bytes are written from here on, the end among them: what has no
    /// room is left out.
    pub fn limit(&mut self, most: u64) {
        self.most = most;
    }

    /// Whether there was no room for something, and none is for what comes.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Adds an event.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        if !self.put(|codec, payload| codec.write(payload, event))? {
            return Ok(());
        }
        self.events += 1;
        if let Some(time) = event.time() {
            let [first, last] = self.times.unwrap_or([time; 2]);
            self.times = Some([first.min(time), last.max(time)]);
        }
        self.close_when_full()
    }

    /// Adds what an engine calls a container.
    pub fn name(&mut self, id: &[u8], name: &str) -> io::Result<()> {
        self.put(|codec, payload| codec.write_name(payload, id, name))?;
        self.close_when_full()
    }

    /// Notes what to add to `CLOCK_MONOTONIC` for the time of day from here on, which was seen
    /// at that time, or later.
    pub fn clock(&mut self, offset_ns: i64, time: u64) -> io::Result<()> {
        if std::mem::replace(&mut self.clock, offset_ns) == offset_ns {
            return Ok(());
        }
        self.put(|codec, payload| codec.write_clock(payload, offset_ns))?;
        self.clock_set(self.latest().max(time))?;
        self.close_when_full()
    }

    /// Notes it if the clock was set, at that time or later.
    fn clock_set(&mut self, time: u64) -> io::Result<()> {
        // Here, and at the end again.
        let clocks = HEAD + self.clocks.len_max() + STEP_MAX;
        if !self.has_room(HEAD + self.payload.len() + 2 * clocks) {
            return Ok(());
        }
        let time = time.max(self.began);
        if self.clocks.set(time, self.clock, self.first_clock) {
            self.write_out()?;
            self.write_clocks()?;
        }
        Ok(())
    }

    /// Writes when the clock was set, if it was.
    fn write_clocks(&mut self) -> io::Result<()> {
        if self.clocks.is_empty() || !self.has_room(HEAD + self.clocks.len_max()) {
            return Ok(());
        }
        self.clocks.write(&mut self.payload);
        self.block(Kind::Clocks)
    }

    /// Notes what the machine says about the failure that is the next event. It stands for
    /// those that follow in the same block, too.
    pub fn facts(&mut self, facts: &Facts) -> io::Result<()> {
        if self.facts.as_ref() != Some(facts)
            && self.put(|codec, payload| codec.write_facts(payload, facts))?
        {
            self.facts = Some(facts.clone());
        }
        Ok(())
    }

    /// Whether it is time to write what is known of the machine.
    pub fn wants_state(&self) -> bool {
        self.written >= self.next_state
    }

    /// Writes what is known of the machine after all events up to here, and the ledger. What is
    /// too large for a block, or for the limit, is left out.
    pub fn state(&mut self, state: &StateOf) -> io::Result<()> {
        self.write_out()?;
        let (offset, time) = (self.written, state.world.now());
        let mut ledger = Vec::new();
        if let Some(writers) = state.writers {
            writers::append(&mut self.codec, writers, time, &mut ledger);
        }
        state.write(&mut self.codec, self.clock, &mut self.payload);
        let is_short = self.payload.len() <= PAYLOAD_MAX;
        if is_short {
            self.times = Some([time; 2]);
            self.pack(Kind::State);
        }
        self.begin_block();
        if is_short && self.has_room(ledger.len() + self.block.len() + PLACE_MAX) {
            self.index.push(Place { offset, time });
            self.out.write_all(&ledger)?;
            self.written += ledger.len() as u64;
            self.emit()?;
            // Who begins to read here knows them.
            self.write_clocks()?;
        }
        let len = self.written - offset;
        self.next_state =
            self.written + self.options.state_every.max(len * self.options.state_share);
        Ok(())
    }

    /// Adds an entry. Near the limit a block is closed before it is full, and takes less room
    /// than it could have when it has been packed; says whether there is room.
    fn put(&mut self, write: impl Fn(&mut Codec, &mut Vec<u8>)) -> io::Result<bool> {
        if self.is_full {
            return Ok(false);
        }
        let before = self.payload.len();
        write(&mut self.codec, &mut self.payload);
        if self.payload_fits() {
            return Ok(true);
        }
        self.payload.truncate(before);
        let facts = self.facts.take();
        self.write_out()?;
        self.begin_block();
        if let Some(facts) = facts {
            self.codec.write_facts(&mut self.payload, &facts);
            self.facts = Some(facts);
        }
        write(&mut self.codec, &mut self.payload);
        if !self.payload_fits() {
            self.begin_block();
            self.is_full = true;
        }
        Ok(!self.is_full)
    }

    /// Whether the payload has room as it is.
    fn payload_fits(&self) -> bool {
        self.has_room(HEAD + self.payload.len())
    }

    /// Whether so many bytes have room, and the end behind them.
    fn has_room(&self, len: usize) -> bool {
        if self.most == u64::MAX {
            return true;
        }
        let end = HEAD + self.index.states.len() * PLACE_MAX;
        let end = match self.clocks.is_empty() {
            true => end,
            false => end + HEAD + self.clocks.len_max(),
        };
        (len + end) as u64 <= self.most.saturating_sub(self.written)
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
        if !self.clocks.is_empty() {
            self.clocks.write(&mut self.payload);
            self.block(Kind::Clocks)?;
        }
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

    /// The latest time of an event so far; 0 if there is none.
    pub fn latest(&self) -> u64 {
        let times = [self.times, self.index.times];
        times
            .into_iter()
            .flatten()
            .map(|[_, last]| last)
            .max()
            .unwrap_or(0)
    }

    fn block(&mut self, kind: Kind) -> io::Result<()> {
        self.pack(kind);
        self.emit()
    }

    /// Makes a block of the payload.
    fn pack(&mut self, kind: Kind) {
        self.block.clear();
        let times = self.times.take().unwrap_or_default();
        if kind == Kind::Events {
            self.index.widen(times);
        }
        let events = std::mem::take(&mut self.events);
        block::append(&mut self.block, kind, &self.payload, times, events);
        self.begin_block();
    }

    fn begin_block(&mut self) {
        self.payload.clear();
        self.codec.reset();
        self.facts = None;
    }

    /// Writes the block.
    fn emit(&mut self) -> io::Result<()> {
        self.out.write_all(&self.block)?;
        self.written += self.block.len() as u64;
        Ok(())
    }
}
