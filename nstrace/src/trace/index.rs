//! Where in a recording the states are.
//!
//! The block that ends a recording says it. Where there is none, or it has been damaged,
//! the heads of the blocks do: to walk over them is quick, too.

use std::io::{self, Read, Seek, SeekFrom};

use super::{
    block::{BlockHead, HEAD, Kind, MAGIC},
    bytes::{Bytes, put},
    clocks::Clocks,
};

/// So many states are listed at most: of more, every other one.
const STATES_MAX: usize = 4096;

/// So long are the last blocks at most, with so many and with clocks.
const LAST_MAX: u64 = 192 << 10;

/// A state: where its block begins, and of when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// `CLOCK_MONOTONIC`, ns.
    pub time: u64,
}

/// What is known of a whole recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Its states, from the first on.
    pub states: Vec<Place>,
    /// The earliest and the latest time of an event.
    pub times: Option<[u64; 2]>,
    /// When the clock was set.
    pub clocks: Clocks,
}

impl Index {
    /// Notes a state.
    pub(super) fn push(&mut self, place: Place) {
        self.states.push(place);
        if self.states.len() > STATES_MAX {
            let mut is_kept = false;
            self.states.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
    }

    /// Notes the times of a block.
    pub(super) fn widen(&mut self, [first, last]: [u64; 2]) {
        if last > 0 {
            let [from, until] = self.times.unwrap_or([first, last]);
            self.times = Some([from.min(first), until.max(last)]);
        }
    }

    /// The last state of that time or before.
    pub fn before(&self, time: u64) -> Option<Place> {
        let states = self.states.iter().rev();
        states.copied().find(|place| place.time <= time)
    }

    /// Appends the states, each as the differences from the one before.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut before = Place { offset: 0, time: 0 };
        for place in &self.states {
            put(out, place.offset.wrapping_sub(before.offset));
            put(out, place.time.wrapping_sub(before.time));
            before = *place;
        }
    }

    fn read(payload: &[u8], times: [u64; 2]) -> Option<Index> {
        let mut index = Index::default();
        index.widen(times);
        let (mut bytes, mut before) = (Bytes(payload), Place { offset: 0, time: 0 });
        while !bytes.0.is_empty() {
            before.offset = before.offset.wrapping_add(bytes.number()?);
            before.time = before.time.wrapping_add(bytes.number()?);
            index.states.push(before);
        }
        Some(index)
    }

    /// Of a recording.
    pub fn of(input: &mut (impl Read + Seek)) -> io::Result<Index> {
        let found = Index::at_end(input)?;
        if let Some(index) = found.as_ref().filter(|index| !index.states.is_empty()) {
            return Ok(index.clone());
        }
        let mut index = Index::by_heads(input)?;
        if let Some(times) = found.and_then(|found| found.times) {
            index.widen(times);
        }
        Ok(index)
    }

    /// As its last block has it; none if that says nothing.
    fn at_end(input: &mut (impl Read + Seek)) -> io::Result<Option<Index>> {
        let len = input.seek(SeekFrom::End(0))?;
        input.seek(SeekFrom::Start(len.saturating_sub(LAST_MAX)))?;
        let mut last = Vec::new();
        input.take(LAST_MAX).read_to_end(&mut last)?;
        let starts = last.windows(MAGIC.len()).enumerate();
        let starts = starts.filter(|(_, bytes)| *bytes == MAGIC);
        for (at, _) in starts.collect::<Vec<_>>().into_iter().rev() {
            let Some((head, payload)) = last[at..].split_first_chunk::<HEAD>() else {
                continue;
            };
            let Some(parsed) = BlockHead::parse(head) else {
                continue;
            };
            let is_last = parsed.kind == Kind::End as u8 && parsed.stored as usize == payload.len();
            if is_last && parsed.is_sound(head, payload) {
                let mut room = Vec::new();
                if parsed.unpack(payload, &mut room).is_none() {
                    return Ok(None);
                }
                let mut index = Index::read(&room, parsed.times);
                if let Some(index) = &mut index {
                    index.clocks = clocks_at_end(&last[..at]);
                }
                return Ok(index);
            }
        }
        Ok(None)
    }

    /// As the heads of its blocks say, up to the first that is damaged.
    fn by_heads(input: &mut (impl Read + Seek)) -> io::Result<Index> {
        let (mut index, mut offset, mut clocks) = (Index::default(), 0, None);
        // Where the ledger begins that the next state has.
        let mut ledger = None;
        let mut head = [0; HEAD];
        loop {
            input.seek(SeekFrom::Start(offset))?;
            match input.read_exact(&mut head) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                read => read?,
            }
            let Some(parsed) = BlockHead::parse(&head) else {
                break;
            };
            let time = parsed.times[1];
            match parsed.kind {
                kind if kind == Kind::Writers as u8 => _ = ledger.get_or_insert(offset),
                kind if kind == Kind::State as u8 => {
                    let offset = ledger.unwrap_or(offset);
                    index.states.push(Place { offset, time });
                }
                kind if kind == Kind::Events as u8 || kind == Kind::End as u8 => {
                    index.widen(parsed.times);
                }
                kind if kind == Kind::Clocks as u8 => clocks = Some((offset, parsed.stored)),
                _ => {}
            }
            if parsed.kind != Kind::Writers as u8 {
                ledger = None;
            }
            offset += (HEAD + parsed.stored as usize) as u64;
        }
        if let Some((offset, stored)) = clocks {
            let mut block = Vec::new();
            input.seek(SeekFrom::Start(offset))?;
            input
                .take(HEAD as u64 + u64::from(stored))
                .read_to_end(&mut block)?;
            index.clocks = clocks_at_end(&block);
        }
        Ok(index)
    }
}

/// Of bytes, the block at their end, if it says when the clock was set.
fn clocks_at_end(bytes: &[u8]) -> Clocks {
    let starts = bytes.windows(MAGIC.len()).enumerate();
    let mut starts = starts.filter(|(_, bytes)| *bytes == MAGIC);
    let found = starts.find_map(|(at, _)| {
        let (head, payload) = bytes[at..].split_first_chunk::<HEAD>()?;
        let parsed = BlockHead::parse(head)?;
        let is_one = parsed.kind == Kind::Clocks as u8 && parsed.stored as usize == payload.len();
        if !is_one || !parsed.is_sound(head, payload) {
            return None;
        }
        let mut room = Vec::new();
        parsed.unpack(payload, &mut room)?;
        Clocks::read(&room)
    });
    found.unwrap_or_default()
}
