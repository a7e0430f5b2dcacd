//! Records of the kernel side, less what is expected of them.
//!
//! A record is its members, then lists of words of 8 bytes ([`OpRecord`]). Which members
//! are not as expected says a mask, behind which their differences follow. Of lists each
//! word is expected to be that of the last record, in the same place.

use nstrace_common::wire::{
    FailRecord, IDS, LifeRecord, MARKS, OpRecord, PID_LEVELS, RecordKind, TaskRecord,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::bytes::{Bytes, put, put_signed};

/// A record of the kernel side that is told by its differences.
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout {
    /// How it is made up.
    const FORM: Layout;
}

/// How a kind of record is made up.
pub struct Layout {
    members: &'static [Member],
    /// Those that are expected to be as others, and these.
    same: &'static [[Member; 2]],
    /// The same, whole words as one where they can be.
    same_words: &'static [[Member; 2]],
    /// Of each word its first member.
    firsts: [u8; WORDS],
    /// A bit for each word that has a member in each half.
    halved: u32,
    /// The offset of the name whose bytes tell streams apart; none if all are of one.
    comm: Option<usize>,
}

/// A record in words of 8 bytes: more than the longest has, and a power of two, so that any
/// number can be made the place of one by a mask.
type Words = [u64; WORDS];
const WORDS: usize = 32;

/// A member of a record.
#[derive(Clone, Copy)]
struct Member {
    /// The word that it is in.
    word: u8,
    /// Where it begins there, in bits.
    shift: u8,
    /// The bits that it has there: all, or one half.
    bits: u64,
    guess: Guess,
}

/// What a member is expected to be.
#[derive(Clone, Copy)]
enum Guess {
    /// What it is in the last record of that kind and stream.
    Last,
    /// The time of the record before, of whatever kind.
    Time,
    /// That member of the same record, which comes before it.
    Same(u8),
}

/// Members one behind the other, by their widths in bytes, 4 or 8.
const fn members<const N: usize>(rows: [(u8, Guess); N]) -> [Member; N] {
    let mut members = [Member {
        word: 0,
        shift: 0,
        bits: 0,
        guess: Guess::Last,
    }; N];
    let (mut at, mut offset) = (0, 0);
    while at < N {
        let (width, guess) = rows[at];
        assert!(offset % width == 0);
        let shift = offset % 8 * 8;
        members[at] = Member {
            word: offset / 8,
            shift,
            bits: u64::MAX >> (64 - 8 * width) << shift,
            guess,
        };
        offset += width;
        at += 1;
    }
    members
}

use Guess::{Last, Same, Time};

const OP: [Member; 36] = members([
    // head: kind, pad, time
    (4, Last),
    (4, Last),
    (8, Time),
    // start, flags, ret, cgroup
    (8, Same(2)),
    (8, Last),
    (8, Last),
    (8, Last),
    // pid, tid, uid
    (4, Last),
    (4, Same(7)),
    (4, Last),
    // op and the lengths of the lists
    (4, Last),
    // comm
    (8, Last),
    (8, Last),
    // before
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    // after
    (4, Same(13)),
    (4, Same(14)),
    (4, Same(15)),
    (4, Same(16)),
    (4, Same(17)),
    (4, Same(18)),
    (4, Same(19)),
    (4, Same(20)),
    // pid_ns, pid_parent, user_parent, owner, owner_uid, mounts, target
    (8, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
]);

const TASK: [Member; 23] = members([
    // head: kind, pad, time
    (4, Last),
    (4, Last),
    (8, Time),
    // cgroup, start
    (8, Last),
    (8, Last),
    // pid, tid, parent, uid, exit_code, pids_len
    (4, Last),
    (4, Same(5)),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    // comm
    (8, Last),
    (8, Last),
    // namespaces
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    // time_for_children, made_with
    (4, Same(20)),
    (4, Last),
]);

const LIFE: [Member; 9] = members([
    // head: kind, pad, time
    (4, Last),
    (4, Last),
    (8, Time),
    // id, address, inum, ns_kind, pid, tid
    (8, Last),
    (8, Last),
    (4, Last),
    (4, Last),
    (4, Last),
    (4, Same(7)),
]);

impl Record for OpRecord {
    const FORM: Layout = Layout {
        comm: Some(std::mem::offset_of!(OpRecord, comm)),
        ..layout::<OpRecord>(&OP, &OP_SAME, &joined::<{ joined_len(&OP_SAME) }>(&OP_SAME))
    };
}
impl Record for TaskRecord {
    const FORM: Layout = Layout {
        comm: Some(std::mem::offset_of!(TaskRecord, comm)),
        ..layout::<TaskRecord>(
            &TASK,
            &TASK_SAME,
            &joined::<{ joined_len(&TASK_SAME) }>(&TASK_SAME),
        )
    };
}
impl Record for LifeRecord {
    const FORM: Layout = layout::<LifeRecord>(
        &LIFE,
        &LIFE_SAME,
        &joined::<{ joined_len(&LIFE_SAME) }>(&LIFE_SAME),
    );
}

const OP_SAME: [[Member; 2]; same_len(&OP)] = same(&OP);
const TASK_SAME: [[Member; 2]; same_len(&TASK)] = same(&TASK);
const LIFE_SAME: [[Member; 2]; same_len(&LIFE)] = same(&LIFE);

const fn same_len(members: &[Member]) -> usize {
    let (mut at, mut len) = (0, 0);
    while at < members.len() {
        len += matches!(members[at].guess, Guess::Same(_)) as usize;
        at += 1;
    }
    len
}

/// The members that are expected to be as others, and these: as wide, before them, and not
/// such members themselves.
const fn same<const N: usize>(members: &[Member]) -> [[Member; 2]; N] {
    let mut same = [[members[0]; 2]; N];
    let (mut at, mut len) = (0, 0);
    while at < members.len() {
        if let Guess::Same(other) = members[at].guess {
            assert!((other as usize) < at);
            let (own, other) = (members[at], members[other as usize]);
            assert!(own.bits.count_ones() == other.bits.count_ones());
            assert!(!matches!(other.guess, Guess::Same(_)));
            same[len] = [own, other];
            len += 1;
        }
        at += 1;
    }
    same
}

const fn joined_len(same: &[[Member; 2]]) -> usize {
    let (mut at, mut len) = (0, 0);
    while at < same.len() {
        at += pair(same, at).1;
        len += 1;
    }
    len
}

/// The same, both halves of a word as one where they are both halves of another.
const fn joined<const N: usize>(same: &[[Member; 2]]) -> [[Member; 2]; N] {
    let mut joined = [same[0]; N];
    let (mut at, mut len) = (0, 0);
    while at < same.len() {
        let (pair, width) = pair(same, at);
        joined[len] = pair;
        at += width;
        len += 1;
    }
    joined
}

/// What stands there, and how many are joined in it.
const fn pair(same: &[[Member; 2]], at: usize) -> ([Member; 2], usize) {
    let [mut own, mut other] = same[at];
    if at + 1 < same.len() {
        let [next, its] = same[at + 1];
        if next.word == own.word && its.word == other.word && own.shift == other.shift {
            own.bits |= next.bits;
            other.bits |= its.bits;
            return ([own, other], 2);
        }
    }
    ([own, other], 1)
}

/// The word that is the time of every record.
const TIME: usize = 1;

const fn layout<R>(
    members: &'static [Member],
    same: &'static [[Member; 2]],
    same_words: &'static [[Member; 2]],
) -> Layout {
    let mut at = 0;
    let mut halved = 0;
    let mut firsts = [0; WORDS];
    while at < members.len() {
        let Member {
            word, shift, guess, ..
        } = members[at];
        if shift == 0 {
            firsts[word as usize] = at as u8;
        } else {
            halved |= 1 << word;
        }
        let is_time = word as usize == TIME && shift == 0;
        assert!(is_time == matches!(guess, Guess::Time));
        at += 1;
    }
    let last = members[members.len() - 1];
    let end = last.word as usize * 8 + (u64::BITS - last.bits.leading_zeros()) as usize / 8;
    assert!(end == size_of::<R>() && size_of::<R>().is_multiple_of(8) && end <= 8 * WORDS);
    // A mask of them is shifted by so many.
    assert!(size_of::<R>() < 8 * u32::BITS as usize);
    Layout {
        members,
        same,
        same_words,
        firsts,
        halved,
        comm: None,
    }
}

// Numbers are read from the records as they are in memory.
const _: () = assert!(cfg!(target_endian = "little"));

impl Layout {
    /// A bit for each member.
    const fn all(&self) -> u64 {
        (1 << self.members.len()) - 1
    }
}

const _: () = assert!(OP.len() < 64 && TASK.len() < 64 && LIFE.len() < 64);

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

impl Layout {
    /// Bits of the members of a word that differ, and by what.
    #[inline(always)]
    fn differing(&self, word: usize, own: u64, guess: u64, differences: &mut Vec<i64>) -> u64 {
        if self.halved >> word & 1 == 0 {
            differences.push(own.wrapping_sub(guess).cast_signed());
            return 1 << self.firsts[word];
        }
        let mut bits = 0;
        for (half, shift) in [0, u32::BITS].into_iter().enumerate() {
            let difference = ((own >> shift) as u32).wrapping_sub((guess >> shift) as u32);
            if difference != 0 {
                differences.push(difference.cast_signed().into());
                bits |= 1 << half;
            }
        }
        bits << self.firsts[word]
    }
}

impl Member {
    #[inline]
    fn place(self) -> usize {
        usize::from(self.word) % WORDS
    }

    #[inline]
    fn get(self, words: &[u64]) -> u64 {
        (words[self.place()] & self.bits) >> self.shift
    }

    #[inline]
    fn set(self, words: &mut Words, value: u64) {
        let word = &mut words[self.place()];
        *word = *word & !self.bits | value << self.shift & self.bits;
    }

    /// Adds to it, and to nothing beside it.
    #[inline]
    fn add(self, words: &mut Words, value: u64) {
        let word = &mut words[self.place()];
        let sum = word.wrapping_add(value << self.shift);
        *word = *word & !self.bits | sum & self.bits;
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
