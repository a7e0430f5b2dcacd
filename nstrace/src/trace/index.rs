//! Where in a recording the states are.
//!
//! The block that ends a recording says it. Where there is none, or it has been damaged,
//! the heads of all blocks do, of those whose checksum is right.

use std::io::{self, Read, Seek, SeekFrom};

use super::{
    Head, Reader,
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
    /// Whether recordings stand behind each other in it whose times say nothing together: of
    /// several boots, or a later one first.
    pub is_mixed: bool,
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
        if let Some((index, end)) = Index::at_end(input)?
            && index.leads_to(end, input)?
        {
            return Ok(index);
        }
        Index::by_blocks(input)
    }

    /// Whether its last state is where it says, and from there block after block to the end.
    /// Not where something has got lost, or stands before it that was put there later; of one
    /// without states nobody can say.
    fn leads_to(&self, end: u64, input: &mut (impl Read + Seek)) -> io::Result<bool> {
        let Some(last) = self.states.last() else {
            return Ok(false);
        };
        let (mut offset, mut head) = (last.offset, [0; HEAD]);
        while offset < end {
            input.seek(SeekFrom::Start(offset))?;
            input.read_exact(&mut head)?;
            let Some(head) = BlockHead::parse(&head) else {
                return Ok(false);
            };
            let is = |kind: Kind| head.kind == kind as u8;
            let is_state = is(Kind::State) || is(Kind::Writers);
            if is(Kind::Head) || offset == last.offset && !(is_state && head.times[1] == last.time)
            {
                return Ok(false);
            }
            offset += (HEAD + head.stored as usize) as u64;
        }
        Ok(offset == end)
    }

    /// As its last block has it, and where that stands; none if that says nothing.
    fn at_end(input: &mut (impl Read + Seek)) -> io::Result<Option<(Index, u64)>> {
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
                let offset = len - (last.len() - at) as u64;
                return Ok(index.map(|index| (index, offset)));
            }
        }
        Ok(None)
    }

    /// As its blocks say.
    fn by_blocks(input: &mut (impl Read + Seek)) -> io::Result<Index> {
        input.rewind()?;
        let mut index = Index::default();
        // Where the ledger begins that the next state has.
        let mut ledger = None;
        let mut boot = None;
        Reader::new(input).blocks(&mut |offset, head, payload| {
            let time = head.times[1];
            let is = |kind: Kind| head.kind == kind as u8;
            if is(Kind::Writers) {
                _ = ledger.get_or_insert(offset);
                return;
            }
            let ledger = ledger.take();
            if is(Kind::State) {
                let offset = ledger.unwrap_or(offset);
                index.states.push(Place { offset, time });
            } else if is(Kind::Events) || is(Kind::End) {
                index.widen(head.times);
            } else if is(Kind::Clocks) {
                index.clocks = clocks_of(head, payload).unwrap_or_default();
            } else if is(Kind::Head)
                && let Some(head) = head_of(head, payload)
            {
                let last = index.times.map_or(0, |[_, last]| last);
                let boot = boot.get_or_insert_with(|| head.boot_id.clone());
                index.is_mixed |= *boot != head.boot_id || head.mono_ns < last;
            }
        })?;
        Ok(index)
    }
}

fn head_of(head: &BlockHead, payload: &[u8]) -> Option<Head> {
    let mut room = Vec::new();
    head.unpack(payload, &mut room)?;
    serde_json::from_slice(&room).ok()
}

fn clocks_of(head: &BlockHead, payload: &[u8]) -> Option<Clocks> {
    let mut room = Vec::new();
    head.unpack(payload, &mut room)?;
    Clocks::read(&room)
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
        clocks_of(&parsed, payload)
    });
    found.unwrap_or_default()
}
