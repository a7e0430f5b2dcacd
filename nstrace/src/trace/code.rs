//! Records of the kernel side, less what is expected of them.
//!
//! A record is its members, then lists of words of 8 bytes ([`OpRecord`]). Which members
//! are not as expected says a mask, behind which their differences follow. Of lists each
//! word is expected to be that of the last record, in the same place.

use nstrace_common::wire::{FailRecord, IDS, MARKS, OpRecord, PID_LEVELS, RecordKind, TaskRecord};
use zerocopy::IntoBytes as _;

use super::bytes::{Bytes, put, put_signed};

/// A member of a record.
#[derive(Clone, Copy)]
struct Member {
    /// Where it begins, in units of 4 bytes.
    half: u8,
    /// The bits that it has: 32, or 64 in two units.
    bits: u64,
    guess: Guess,
}

/// A record in units of 4 bytes: more than the longest has, and a power of two, so that any
/// number can be made the place of one by a mask.
type Halves = [u32; HALVES];
const HALVES: usize = 64;

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

/// How a kind of record is made up.
pub struct Layout {
    members: &'static [Member],
    /// Bytes of them.
    len: usize,
    /// Which member is the time.
    time: usize,
    /// A bit for each that is expected to be as another.
    same: u64,
    /// The offset of the name whose bytes tell streams apart.
    comm: usize,
}

/// Members one behind the other, by their widths in bytes, 4 or 8.
const fn members<const N: usize>(rows: [(u8, Guess); N]) -> [Member; N] {
    let mut members = [Member {
        half: 0,
        bits: 0,
        guess: Guess::Last,
    }; N];
    let (mut at, mut half) = (0, 0);
    while at < N {
        let (width, guess) = rows[at];
        let bits = u64::MAX >> (64 - 8 * width);
        members[at] = Member { half, bits, guess };
        half += width / 4;
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
    // time_for_children, pad
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

static OP_LAYOUT: Layout = Layout {
    members: &OP,
    same: same(&OP),
    len: 176,
    time: 2,
    comm: 64,
};
static TASK_LAYOUT: Layout = Layout {
    members: &TASK,
    same: same(&TASK),
    len: 112,
    time: 2,
    comm: 56,
};
static LIFE_LAYOUT: Layout = Layout {
    members: &LIFE,
    same: same(&LIFE),
    len: 48,
    time: 2,
    comm: 0,
};

/// The members that are expected to be as others, which come before and are not themselves
/// such.
const fn same(members: &[Member]) -> u64 {
    let (mut at, mut same) = (0, 0);
    while at < members.len() {
        if let Guess::Same(other) = members[at].guess {
            assert!((other as usize) < at && same >> other & 1 == 0);
            same |= 1 << at;
        }
        at += 1;
    }
    same
}

// Numbers are read from the records as they are in memory.
const _: () = assert!(cfg!(target_endian = "little"));

const fn end(members: &[Member]) -> usize {
    let last = members[members.len() - 1];
    last.half as usize * 4 + last.bits.count_ones() as usize / 8
}

const _: () = assert!(end(&OP) == OP_LAYOUT.len && OP_LAYOUT.len == size_of::<OpRecord>());
const _: () = assert!(end(&TASK) == TASK_LAYOUT.len && TASK_LAYOUT.len == size_of::<TaskRecord>());
const _: () = assert!(end(&LIFE) == LIFE_LAYOUT.len);
const _: () = assert!(OP_LAYOUT.comm == std::mem::offset_of!(OpRecord, comm));
const _: () = assert!(TASK_LAYOUT.comm == std::mem::offset_of!(TaskRecord, comm));

impl Layout {
    /// A bit for each member.
    fn all(&self) -> u64 {
        (1 << self.members.len()) - 1
    }

    /// That of a kind of record; none of a cgroup's, which is told otherwise.
    pub fn of(kind: RecordKind) -> Option<&'static Layout> {
        match kind {
            RecordKind::Op | RecordKind::Birth => Some(&OP_LAYOUT),
            RecordKind::TaskNew
            | RecordKind::TaskExit
            | RecordKind::TaskChange
            | RecordKind::TaskFree => Some(&TASK_LAYOUT),
            RecordKind::Death => Some(&LIFE_LAYOUT),
            // Neither is a record in a recording.
            RecordKind::Cgroup | RecordKind::MountDeath => None,
        }
    }
}

/// The most members that a record has.
const MEMBERS: usize = OP.len();
const _: () = assert!(TASK.len() <= MEMBERS && LIFE.len() <= MEMBERS && MEMBERS < 64);

/// The most words that follow the members.
pub const LISTS: usize = IDS + MARKS + PID_LEVELS + size_of::<FailRecord>() / 8;

/// Records of tasks of one name are alike: so many streams there are of each kind.
const STREAMS: usize = 32;

const _: () = assert!(OP_LAYOUT.len <= 4 * HALVES && HALVES.is_power_of_two());

/// The last record of a stream.
#[derive(Clone)]
struct Stream {
    /// The block that it is of: in another it is as new.
    block: u64,
    mask: u64,
    /// Its members as they are in memory.
    halves: Halves,
    lists: Vec<u64>,
}

impl Stream {
    const NEW: Stream = Stream {
        block: 0,
        mask: 0,
        halves: [0; HALVES],
        lists: Vec::new(),
    };
}

/// What is expected, by what came before in the same block.
pub struct Expected {
    block: u64,
    time: u64,
    streams: Vec<Stream>,
    /// The words of the record that is being read.
    words: Vec<u64>,
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
            words: Vec::with_capacity(OP_LAYOUT.len / 8 + LISTS),
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

    /// Appends a record: its members as bytes, and its lists.
    pub fn write(
        &mut self,
        out: &mut Vec<u8>,
        kind: RecordKind,
        layout: &Layout,
        bytes: &[u8],
        lists: &[u64],
    ) {
        let which = stream(bytes, layout);
        let stream = &mut self.streams[index(kind, which)];
        stream.enter(self.block);
        let mut own = [0; HALVES];
        own.as_mut_bytes()[..layout.len].copy_from_slice(bytes);
        let mut mask = 0_u64;
        let mut differences = [0; MEMBERS];
        for (at, member) in layout.members.iter().enumerate() {
            let value = member.read(&own);
            let guess = match member.guess {
                Guess::Last => member.read(&stream.halves),
                Guess::Time => self.time,
                Guess::Same(other) => layout.members[usize::from(other)].read(&own),
            };
            differences[at] = member.difference(value, guess);
            mask |= u64::from(value != guess) << at;
        }
        let same_mask = if mask == stream.mask { SAME_MASK } else { 0 };
        out.push(which | same_mask);
        if same_mask == 0 {
            put(out, mask);
        }
        let mut left = mask;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            put_signed(out, differences[at]);
            left &= left - 1;
        }
        self.time = layout.members[layout.time].read(&own);
        stream.halves = own;
        stream.mask = mask;
        stream.write_lists(out, lists);
    }

    /// Reads a record: its words, as they came from the kernel.
    pub fn read(
        &mut self,
        bytes: &mut Bytes,
        kind: RecordKind,
        layout: &Layout,
    ) -> Option<&mut [u64]> {
        let head = bytes.byte()?;
        let which = head & !SAME_MASK;
        let stream = self
            .streams
            .get_mut(index(kind, which))
            .filter(|_| usize::from(which) < STREAMS)?;
        stream.enter(self.block);
        let mask = match head & SAME_MASK {
            0 => bytes.number()?,
            _ => stream.mask,
        };
        let own = &mut stream.halves;
        layout.members[layout.time].write(own, self.time);
        // What differs, in the order of the members, of which some are expected to be as one
        // before them; then the others of these.
        let mut left = mask & layout.all();
        while left != 0 {
            let member = layout.members[left.trailing_zeros() as usize];
            let guess = match member.guess {
                Guess::Last | Guess::Time => member.read(own),
                Guess::Same(other) => layout.members[usize::from(other)].read(own),
            };
            member.write(own, guess.wrapping_add(bytes.signed()?.cast_unsigned()));
            left &= left - 1;
        }
        let mut left = layout.same & !mask;
        while left != 0 {
            let member = layout.members[left.trailing_zeros() as usize];
            if let Guess::Same(other) = member.guess {
                let value = layout.members[usize::from(other)].read(own);
                member.write(own, value);
            }
            left &= left - 1;
        }
        self.time = layout.members[layout.time].read(own);
        self.words.clear();
        let (pairs, _) = own[..layout.len / 4].as_chunks();
        let word = |[low, high]: &[u32; 2]| u64::from(*low) | u64::from(*high) << 32;
        self.words.extend(pairs.iter().map(word));
        stream.mask = mask;
        stream.read_lists(bytes)?;
        self.words.extend_from_slice(&stream.lists);
        Some(&mut self.words)
    }
}

impl Stream {
    fn enter(&mut self, block: u64) {
        if self.block != block {
            self.halves = [0; HALVES];
            self.mask = 0;
            self.lists.clear();
            self.block = block;
        }
    }

    /// How many there are, a mask of those that are not as expected, and these.
    fn write_lists(&mut self, out: &mut Vec<u8>, lists: &[u64]) {
        put(out, lists.len() as u64);
        for (chunk, lists) in lists.chunks(64).enumerate() {
            let last = |at: usize| self.lists.get(chunk * 64 + at).copied().unwrap_or(0);
            let differs = |(at, word): (usize, &u64)| u64::from(*word != last(at)) << at;
            let mask = lists.iter().enumerate().map(differs).sum();
            put(out, mask);
            for (at, word) in lists.iter().enumerate() {
                if mask >> at & 1 != 0 {
                    put_signed(out, word.wrapping_sub(last(at)).cast_signed());
                }
            }
        }
        self.lists.clear();
        self.lists.extend_from_slice(lists);
    }

    fn read_lists(&mut self, bytes: &mut Bytes) -> Option<()> {
        let len = usize::try_from(bytes.number()?).ok()?;
        if len > LISTS {
            return None;
        }
        self.lists.resize(len, 0);
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

impl Member {
    /// Where its two units are; the second counts if it has 64 bits.
    #[inline]
    fn places(self) -> [usize; 2] {
        let half = usize::from(self.half);
        [half % HALVES, (half + 1) % HALVES]
    }

    #[inline]
    fn read(self, record: &Halves) -> u64 {
        let [low, high] = self.places();
        (u64::from(record[low]) | u64::from(record[high]) << 32) & self.bits
    }

    #[inline]
    fn write(self, record: &mut Halves, value: u64) {
        let [low, high] = self.places();
        let value = value & self.bits | u64::from(record[high]) << 32 & !self.bits;
        record[low] = value as u32;
        record[high] = (value >> 32) as u32;
    }

    #[inline]
    fn difference(self, value: u64, guess: u64) -> i64 {
        let difference = value.wrapping_sub(guess);
        match self.bits {
            u64::MAX => difference.cast_signed(),
            _ => i64::from((difference as u32).cast_signed()),
        }
    }
}

/// More than there are kinds of records.
const KINDS: u8 = 9;

fn index(kind: RecordKind, which: u8) -> usize {
    kind as usize * STREAMS + usize::from(which)
}

/// The stream of a record: by its task's name.
fn stream(bytes: &[u8], layout: &Layout) -> u8 {
    if layout.comm == 0 {
        return 0;
    }
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[layout.comm..layout.comm + 8]);
    let mixed = u64::from_le_bytes(word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 59) as u8
}
