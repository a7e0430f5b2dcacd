//! Records of the kernel side, less what is expected of them.
//!
//! A record is its members, then lists of words of 8 bytes ([`nstrace_common::wire::OpRecord`]). Which members
//! are not as expected says a mask, behind which their differences follow. Of lists each
//! word is expected to be that of the last record, in the same place.

mod form;

use nstrace_common::wire::{FailRecord, IDS, MARKS, PID_LEVELS, RecordKind};
use zerocopy::{FromBytes as _, IntoBytes as _};

pub use self::form::Record;
use self::form::{TIME, WORDS, Words};
use super::bytes::{Bytes, put, put_signed};

/// The most words that follow the members.
pub const LISTS: usize = IDS + MARKS + PID_LEVELS + size_of::<FailRecord>() / 8;

/// Records of tasks of one name are alike: so many streams there are of each kind.
const STREAMS: usize = 32;

/// The last record of a stream.
#[derive(Clone)]
struct Stream {
    /// The block that it is of: in another it is as new.
    block: u64,
    mask: u64,
    words: Words,
    lists: Vec<u64>,
}

impl Stream {
    const NEW: Stream = Stream {
        block: 0,
        mask: 0,
        words: [0; WORDS],
        lists: Vec::new(),
    };
}

/// What is expected, by what came before in the same block.
pub struct Expected {
    block: u64,
    time: u64,
    streams: Vec<Stream>,
    /// Of the record that is written, for the mask stands before them.
    differences: Vec<i64>,
}

/// The mask is that of the last record.
const SAME_MASK: u8 = 0x80;

impl Expected {
    /// At the beginning of a block.
    pub fn new() -> Expected {
        Expected {
            block: 0,
            time: 0,
            streams: vec![Stream::NEW; STREAMS * usize::from(KINDS)],
            differences: Vec::new(),
        }
    }

    /// The same again.
    pub fn reset(&mut self) {
        self.time = 0;
        self.block += 1;
    }

    /// The time of the last record; the next is expected to be of the same.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// Notes a time.
    pub fn set_time(&mut self, time: u64) {
        self.time = time;
    }

    /// Appends a record and its lists.
    pub fn write<R: Record>(
        &mut self,
        out: &mut Vec<u8>,
        kind: RecordKind,
        record: &R,
        lists: &[u64],
    ) {
        let layout = const { &R::FORM };
        let which = stream(record);
        let stream = &mut self.streams[index(kind, which)];
        stream.enter(self.block);
        // Records are aligned to 8 bytes, and as long as some words: `layout` has seen to it.
        let Ok(own) = <[u64]>::ref_from_bytes(record.as_bytes()) else {
            return;
        };
        let guess = &mut stream.words;
        guess[TIME] = self.time;
        for [member, other] in layout.same_words {
            member.set(guess, other.get(own));
        }
        let mut words = 0_u32;
        // Most are as expected: four are looked at together. Times are among the first.
        let ((fours, rest), guesses) = (own.as_chunks::<4>(), guess.as_chunks::<4>().0);
        for (at, (own, guess)) in fours.iter().zip(guesses).enumerate() {
            if at == 0 || own != guess {
                words |= differing(own, guess) << (4 * at);
            }
        }
        let at = own.len() - rest.len();
        words |= differing(rest, &guess[at..]) << at;
        let mut mask = 0;
        self.differences.clear();
        while words != 0 {
            let at = words.trailing_zeros() as usize % WORDS;
            let (own, guess) = (own[at], std::mem::replace(&mut guess[at], own[at]));
            mask |= layout.differing(at, own, guess, &mut self.differences);
            words &= words - 1;
        }
        let same_mask = if mask == stream.mask { SAME_MASK } else { 0 };
        out.push(which | same_mask);
        if same_mask == 0 {
            put(out, mask);
        }
        for difference in &self.differences {
            put_signed(out, *difference);
        }
        self.time = own[TIME];
        stream.mask = mask;
        stream.write_lists(out, lists);
    }

    /// Reads a record and its lists.
    #[inline(always)]
    pub fn read<R: Record>(&mut self, bytes: &mut Bytes, kind: RecordKind) -> Option<(&R, &[u64])> {
        let layout = const { &R::FORM };
        // A copy, which need not be in memory.
        let mut left_bytes = *bytes;
        let head = left_bytes.byte()?;
        let which = head & !SAME_MASK;
        let stream = self
            .streams
            .get_mut(index(kind, which))
            .filter(|_| usize::from(which) < STREAMS)?;
        stream.enter(self.block);
        let mask = match head & SAME_MASK {
            0 => left_bytes.number()?,
            _ => stream.mask,
        };
        stream.mask = mask;
        // What is expected to be as another is the difference at first.
        let own = &mut stream.words;
        own[TIME] = self.time;
        for [member, _] in layout.same {
            member.set(own, 0);
        }
        let mut left = mask & layout.all();
        while left != 0 {
            let member = layout.members[left.trailing_zeros() as usize];
            member.add(own, left_bytes.signed()?.cast_unsigned());
            left &= left - 1;
        }
        for [member, other] in layout.same {
            member.add(own, other.get(own));
        }
        self.time = own[TIME];
        stream.read_lists(&mut left_bytes)?;
        *bytes = left_bytes;
        let (record, _) = R::ref_from_prefix(stream.words.as_bytes()).ok()?;
        let is_of_kind = stream.words[0] as u32 == kind as u32;
        is_of_kind.then_some((record, &stream.lists))
    }
}

/// A bit for each word that is not the other.
#[inline(always)]
fn differing(words: &[u64], others: &[u64]) -> u32 {
    let words = words.iter().zip(others).enumerate();
    let bits = words.map(|(at, (word, other))| u32::from(word != other) << at);
    bits.fold(0, |bits, bit| bits | bit)
}

impl Stream {
    fn enter(&mut self, block: u64) {
        if self.block != block {
            self.words = [0; WORDS];
            self.mask = 0;
            self.lists.clear();
            self.block = block;
        }
    }

    /// How many there are, and for each 64 of them what `write_words` does.
    #[inline(always)]
    fn write_lists(&mut self, out: &mut Vec<u8>, lists: &[u64]) {
        put(out, lists.len() as u64);
        if self.lists.len() != lists.len() {
            self.lists.resize(lists.len(), 0);
        }
        match lists.len() {
            0 => {}
            1..=64 => write_words(out, &mut self.lists, lists),
            _ => self.write_long_lists(out, lists),
        }
    }

    #[inline(never)]
    fn write_long_lists(&mut self, out: &mut Vec<u8>, lists: &[u64]) {
        for (last, words) in self.lists.chunks_mut(64).zip(lists.chunks(64)) {
            write_words(out, last, words);
        }
    }

    #[inline(always)]
    fn read_lists(&mut self, bytes: &mut Bytes) -> Option<()> {
        let len = usize::try_from(bytes.number()?).ok()?;
        if len != self.lists.len() {
            if len > LISTS {
                return None;
            }
            self.lists.resize(len, 0);
        }
        for lists in self.lists.chunks_mut(64) {
            let mut left = bytes.number()?;
            while let Some(word) = lists.get_mut(left.trailing_zeros() as usize) {
                *word = word.wrapping_add(bytes.signed()?.cast_unsigned());
                left &= left - 1;
            }
        }
        Some(())
    }
}

/// A mask of the words that are not those before, and their differences.
#[inline(always)]
fn write_words(out: &mut Vec<u8>, last: &mut [u64], words: &[u64]) {
    let mut left = 0;
    for (last, word) in last.iter().zip(words).rev() {
        left = left << 1 | u64::from(last != word);
    }
    put(out, left);
    while left != 0 {
        let at = left.trailing_zeros() as usize;
        put_signed(out, words[at].wrapping_sub(last[at]).cast_signed());
        last[at] = words[at];
        left &= left - 1;
    }
}

/// More than the kinds of records that have a layout.
const KINDS: u8 = 9;

fn index(kind: RecordKind, which: u8) -> usize {
    kind as usize * STREAMS + usize::from(which)
}

/// The stream of a record: by its task's name.
#[inline]
fn stream<R: Record>(record: &R) -> u8 {
    let name = const { R::FORM.comm }.and_then(|comm| record.as_bytes().get(comm..));
    let Some(word) = name.and_then(<[u8]>::first_chunk) else {
        return 0;
    };
    let mixed = u64::from_le_bytes(*word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 59) as u8
}
