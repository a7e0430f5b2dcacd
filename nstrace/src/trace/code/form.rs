//! What records are made up of, and what each member is expected to be.

use nstrace_common::wire::{LifeRecord, OpRecord, TaskRecord};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A record of the kernel side that is told by its differences.
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout {
    /// How it is made up.
    const FORM: Layout;
}

/// How a kind of record is made up.
pub struct Layout {
    pub members: &'static [Member],
    /// Those that are expected to be as others, and these.
    pub same: &'static [[Member; 2]],
    /// The same, whole words as one where they can be.
    pub same_words: &'static [[Member; 2]],
    /// Of each word its first member.
    firsts: [u8; WORDS],
    /// A bit for each word that has a member in each half.
    halved: u32,
    /// The offset of the name whose bytes tell streams apart; none if all are of one.
    pub comm: Option<usize>,
}

/// A record in words of 8 bytes: more than the longest has, and a power of two, so that any
/// number can be made the place of one by a mask.
pub type Words = [u64; WORDS];
pub const WORDS: usize = 32;

/// A member of a record.
#[derive(Clone, Copy)]
pub struct Member {
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
pub const TIME: usize = 1;

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
    pub const fn all(&self) -> u64 {
        (1 << self.members.len()) - 1
    }
}

const _: () = assert!(OP.len() < 64 && TASK.len() < 64 && LIFE.len() < 64);

impl Layout {
    /// Bits of the members of a word that differ, and by what.
    #[inline(always)]
    pub fn differing(&self, word: usize, own: u64, guess: u64, differences: &mut Vec<i64>) -> u64 {
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
    pub fn get(self, words: &[u64]) -> u64 {
        (words[self.place()] & self.bits) >> self.shift
    }

    #[inline]
    pub fn set(self, words: &mut Words, value: u64) {
        let word = &mut words[self.place()];
        *word = *word & !self.bits | value << self.shift & self.bits;
    }

    /// Adds to it, and to nothing beside it.
    #[inline]
    pub fn add(self, words: &mut Words, value: u64) {
        let word = &mut words[self.place()];
        let sum = word.wrapping_add(value << self.shift);
        *word = *word & !self.bits | sum & self.bits;
    }
}
