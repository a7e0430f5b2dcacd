//! Reads recordings, whole or not.

use std::io::{self, Read, Seek, SeekFrom};

use super::{
    block::{BlockHead, HEAD, Kind, MAGIC, PAYLOAD_MAX},
    bytes::Bytes,
    gap::{Gap, Past},
    head::{Head, VERSION},
    index::Index,
    record::{self, Codec, Entry},
    state::State,
    writers::Gathered,
};

/// So far at most a first block is looked for.
const SEARCH_MAX: u64 = 64 << 20;

/// So much is read at a time.
const CHUNK: usize = 256 << 10;

/// Why there is nothing to be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// Something else.
    #[error("it is not a recording of nstrace")]
    NotARecording,
    /// It begins as one does, and nothing of it is whole.
    #[error("it was cut off before its first block was whole, and has nothing")]
    Stub,
    /// By a later version of the program.
    #[error(
        "it is of version {found} of the format, and this nstrace reads up to {VERSION}: use a \
         newer one"
    )]
    Newer {
        /// The version.
        found: u32,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A part of a recording that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// These bytes are no whole block, and more follows.
    Skipped {
        /// Where they begin in the file.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// The recording was not ended: these bytes at its end are a part of a block.
    Cut {
        /// Where they begin in the file.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// The recording was ended, and these bytes behind its end are no block.
    Behind {
        /// Where they begin in the file.
        offset: u64,
        /// How many.
        len: u64,
    },
}

/// What is next.
#[derive(Debug)]
pub enum Item<'a> {
    /// Where the recording was made.
    Head(Box<Head>),
    /// What was recorded.
    Entry(Entry<'a>),
    /// What is known of the machine here, where what came before is not: at a beginning, and
    /// behind what could not be read.
    State(Box<State>),
    /// It was ended then, `CLOCK_MONOTONIC` in ns.
    End(u64),
    /// Something cannot be read.
    Damage(Damage),
    /// What comes next does not go on where what came before ended.
    Gap(Gap),
}

/// Reads a recording from its beginning to its end.
pub struct Reader<R> {
    input: R,
    /// Bytes of the file from `offset` on: up to `end`, of which so many were used.
    window: Vec<u8>,
    end: usize,
    used: usize,
    offset: u64,
    at_end: bool,
    /// Where bytes begin that are no block.
    bad: Option<u64>,
    has_found: bool,
    has_ended: bool,
    is_told: bool,
    /// Whether what came before is not known.
    is_blind: bool,
    past: Past,
    /// The ledger that the next state has.
    gathered: Gathered,
    /// What comes behind a gap.
    behind_gap: Option<Step>,
    /// Nothing is wanted of later times.
    until: u64,
    /// More may be written to the file: it is not at its end before it has been ended.
    follows: bool,
    /// The payload that is being read.
    payload: Vec<u8>,
    at: usize,
    codec: Codec,
}

/// What stands at a place in the file.
enum Found {
    Block(BlockHead),
    /// Nothing that is whole.
    Nothing,
    End,
}

impl<R: Read> Reader<R> {
    /// A reader of a file.
    pub fn new(input: R) -> Reader<R> {
        Reader {
            input,
            window: Vec::new(),
            end: 0,
            used: 0,
            offset: 0,
            at_end: false,
            bad: None,
            has_found: false,
            has_ended: false,
            is_told: false,
            is_blind: true,
            past: Past::default(),
            gathered: Gathered::default(),
            behind_gap: None,
            until: u64::MAX,
            follows: false,
            payload: Vec::new(),
            at: 0,
            codec: Codec::new(),
        }
    }

    /// Of a file that is being written: none is next, for now, where it goes on later.
    pub fn follow(mut self) -> Reader<R> {
        self.follows = true;
        self
    }

    /// Nobody writes it any more.
    pub fn end_following(&mut self) {
        self.follows = false;
    }

    /// Whether nothing comes any more.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// What is next; none at the end.
    pub fn read(&mut self) -> Result<Option<Item<'_>>, TraceError> {
        self.read_with(|item| item)
    }

    /// Hands over what is next, and gives what is made of it; none at the end. Of many events
    /// that is quicker than [`Reader::read`], because none is moved.
    #[inline(always)]
    pub fn read_with<'a, T>(
        &'a mut self,
        each: impl FnOnce(Item<'a>) -> T,
    ) -> Result<Option<T>, TraceError> {
        let next = self.payload.get(self.at);
        if next.is_none_or(|kind| *kind >= record::SIZED) {
            match self.fill_payload()? {
                None => {}
                Some(item) => return Ok(item.map(each)),
            }
        }
        let Reader {
            codec,
            payload,
            at,
            is_blind,
            offset,
            used,
            past,
            ..
        } = self;
        let done = codec.read(Bytes(&payload[*at..]), |entry, rest| {
            let Some(entry) = entry else {
                // Of a kind that is not known, nothing tells where it ends.
                *at = payload.len();
                *is_blind = true;
                past.damage();
                return each(Item::Damage(Damage::Skipped {
                    offset: *offset + *used as u64,
                    len: 0,
                }));
            };
            *at = payload.len() - rest.0.len();
            each(Item::Entry(entry))
        });
        Ok(Some(done))
    }

    /// Goes on until there are entries to be read: none then. Gives what is next before, or
    /// that nothing is.
    #[inline(never)]
    fn fill_payload(&mut self) -> Result<Option<Option<Item<'static>>>, TraceError> {
        loop {
            self.at += record::unknown(self.payload.get(self.at..).unwrap_or_default());
            if self.at < self.payload.len() {
                return Ok(None);
            }
            let item = match self.block()? {
                None => None,
                Some(Step::Payload) => continue,
                Some(Step::Head(head)) => Some(Item::Head(head)),
                Some(Step::End(time)) => Some(Item::End(time)),
                Some(Step::State(state)) => Some(Item::State(state)),
                Some(Step::Gap(gap)) => Some(Item::Gap(gap)),
                Some(Step::Damage(damage)) => {
                    self.is_blind = true;
                    if matches!(damage, Damage::Skipped { .. }) {
                        self.past.damage();
                    }
                    Some(Item::Damage(damage))
                }
            };
            return Ok(Some(item));
        }
    }

    /// Goes on to the next block.
    fn block(&mut self) -> Result<Option<Step>, TraceError> {
        if let Some(step) = self.behind_gap.take() {
            return Ok(Some(step));
        }
        loop {
            let here = self.offset + self.used as u64;
            match self.look()? {
                Found::Block(head) => {
                    if let Some(damage) = self.skipped(here) {
                        return Ok(Some(Step::Damage(damage)));
                    }
                    self.has_found = true;
                    if head.times[0] > self.until {
                        // Something may be missing before it.
                        let gap = match head.kind == Kind::State as u8 {
                            true => self.past.state(head.times[1]),
                            false => self.past.events(head.times),
                        };
                        return Ok(gap.map(Step::Gap));
                    }
                    if let Some(step) = self.open(&head)? {
                        return Ok(Some(step));
                    }
                }
                Found::Nothing => {
                    self.bad.get_or_insert(here);
                    if !self.has_found && here > SEARCH_MAX {
                        return Err(TraceError::NotARecording);
                    }
                    self.search();
                }
                Found::End => return self.end(here),
            }
        }
    }

    /// Goes over all blocks that are whole, from here on: where each begins, its head, and its
    /// payload as it is in the file.
    pub(super) fn blocks(
        &mut self,
        each: &mut dyn FnMut(u64, &BlockHead, &[u8]),
    ) -> io::Result<()> {
        loop {
            match self.look()? {
                Found::Block(head) => {
                    let start = self.used + HEAD;
                    let end = start + head.stored as usize;
                    let offset = self.offset + self.used as u64;
                    each(offset, &head, &self.window[start..end]);
                    self.used = end;
                }
                Found::Nothing => self.search(),
                Found::End => return Ok(()),
            }
        }
    }

    /// Bytes that were skipped up to here.
    fn skipped(&mut self, here: u64) -> Option<Damage> {
        let offset = self.bad.take()?;
        Some(Damage::Skipped {
            offset,
            len: here - offset,
        })
    }

    fn end(&mut self, here: u64) -> Result<Option<Step>, TraceError> {
        if self.follows && !self.has_ended {
            self.at_end = false;
            return Ok(None);
        }
        if !self.has_found {
            return Err(match here {
                0 => TraceError::Empty,
                _ if self.offset == 0 && self.window[..self.end].starts_with(&MAGIC) => {
                    TraceError::Stub
                }
                _ => TraceError::NotARecording,
            });
        }
        let cut = !self.has_ended || self.bad.is_some();
        if !cut || std::mem::replace(&mut self.is_told, true) {
            return Ok(None);
        }
        let offset = self.bad.take().unwrap_or(here);
        let len = here - offset;
        Ok(Some(Step::Damage(match self.has_ended {
            true => Damage::Behind { offset, len },
            false => Damage::Cut { offset, len },
        })))
    }

    /// Takes a block that is whole. None if there is nothing in it that is wanted.
    fn open(&mut self, head: &BlockHead) -> Result<Option<Step>, TraceError> {
        let start = self.used + HEAD;
        let end = start + head.stored as usize;
        let here = self.offset + self.used as u64;
        let stored = &self.window[start..end];
        let is_unpacked = head.unpack(stored, &mut self.payload);
        self.used = end;
        // What are no events is read here.
        self.at = self.payload.len();
        let damage = Damage::Skipped {
            offset: here,
            len: (end - start + HEAD) as u64,
        };
        if is_unpacked.is_none() {
            return Ok(Some(Step::Damage(damage)));
        }
        if head.kind == Kind::Head as u8 {
            let Ok(head) = serde_json::from_slice::<Head>(&self.payload) else {
                return Ok(Some(Step::Damage(damage)));
            };
            self.is_blind = true;
            self.gathered = Gathered::default();
            if !(1..=VERSION).contains(&head.version) {
                let found = head.version;
                return Err(TraceError::Newer { found });
            }
            let gap = self.past.head(&head);
            return Ok(Some(self.behind(gap, Step::Head(Box::new(head)))));
        }
        self.has_ended = head.kind == Kind::End as u8;
        if head.kind == Kind::State as u8 && self.is_blind {
            let Some(mut state) = State::read(&self.payload) else {
                return Ok(Some(Step::Damage(damage)));
            };
            state.writers = self.gathered.take();
            self.is_blind = false;
            let gap = self.past.state(head.times[1]);
            return Ok(Some(self.behind(gap, Step::State(Box::new(state)))));
        }
        if self.has_ended {
            self.past.end(head.times[1]);
            return Ok(Some(Step::End(head.times[1])));
        }
        if head.kind == Kind::Writers as u8 && self.is_blind {
            let read = self.gathered.read(&mut self.codec, &self.payload);
            return Ok(read.is_none().then_some(Step::Damage(damage)));
        }
        if head.kind != Kind::Events as u8 {
            return Ok(None);
        }
        self.is_blind = false;
        self.gathered.forget();
        self.codec.reset();
        self.at = 0;
        let gap = self.past.events(head.times);
        Ok(Some(gap.map_or(Step::Payload, Step::Gap)))
    }

    /// A gap if there is one, and then the step.
    fn behind(&mut self, gap: Option<Gap>, step: Step) -> Step {
        match gap {
            Some(gap) => {
                self.behind_gap = Some(step);
                Step::Gap(gap)
            }
            None => step,
        }
    }

    /// What stands where nothing has been used yet.
    fn look(&mut self) -> io::Result<Found> {
        if !self.fill(HEAD)? {
            return Ok(match self.end == self.used || self.waits() {
                true => Found::End,
                false => Found::Nothing,
            });
        }
        let head: [u8; HEAD] = match self.window[self.used..self.end].first_chunk() {
            Some(head) => *head,
            None => return Ok(Found::Nothing),
        };
        let Some(parsed) = BlockHead::parse(&head) else {
            return Ok(Found::Nothing);
        };
        let len = HEAD + parsed.stored as usize;
        if !self.fill(len)? {
            return Ok(match self.waits() {
                true => Found::End,
                false => Found::Nothing,
            });
        }
        let payload = &self.window[self.used + HEAD..self.used + len];
        Ok(match parsed.is_sound(&head, payload) {
            true => Found::Block(parsed),
            false => Found::Nothing,
        })
    }

    /// Whether a part of a block may be written whole.
    fn waits(&self) -> bool {
        self.follows && self.bad.is_none()
    }

    /// Goes on to where a block may begin.
    fn search(&mut self) {
        let rest = &self.window[self.used..self.end];
        let next = rest
            .windows(MAGIC.len())
            .skip(1)
            .position(|bytes| bytes == MAGIC);
        self.used += match next {
            Some(at) => at + 1,
            // The beginning of one may be at the end.
            None if self.at_end => rest.len(),
            None => rest.len().saturating_sub(MAGIC.len() - 1).max(1),
        };
    }

    /// Sees to it that so many bytes are there; says whether they are.
    fn fill(&mut self, len: usize) -> io::Result<bool> {
        debug_assert!(len <= HEAD + PAYLOAD_MAX);
        while self.end - self.used < len && !self.at_end {
            self.window.copy_within(self.used..self.end, 0);
            self.end -= self.used;
            self.offset += self.used as u64;
            self.used = 0;
            let end = self.end + CHUNK.max(len - self.end);
            if self.window.len() < end {
                self.window.resize(end, 0);
            }
            let read = match self.input.read(&mut self.window[self.end..end]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.end += read;
            self.at_end = read == 0;
        }
        Ok(self.end - self.used >= len)
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Goes to the last state before a time, if there is one, and leaves out blocks that are
    /// later than another. `CLOCK_MONOTONIC` in ns.
    pub fn seek(&mut self, index: &Index, time: u64, until: u64) -> io::Result<()> {
        if let Some(place) = index.before(time) {
            self.input.seek(SeekFrom::Start(place.offset))?;
            (self.end, self.used) = (0, 0);
            (self.offset, self.at_end) = (place.offset, false);
            (self.payload, self.at) = (Vec::new(), 0);
            (self.bad, self.is_blind) = (None, true);
            self.behind_gap = None;
            self.gathered = Gathered::default();
            self.past.skip();
        }
        self.until = until.saturating_add(DISORDER_NS);
        Ok(())
    }

    /// Where its states are. It goes on reading where it was.
    pub fn index(&mut self) -> io::Result<Index> {
        let index = Index::of(&mut self.input)?;
        let at = self.offset + self.end as u64;
        self.input.seek(SeekFrom::Start(at))?;
        Ok(index)
    }
}

/// So much later than others can an event stand that is earlier: rings are read in turns,
/// and what a look finds has the time from before it.
const DISORDER_NS: u64 = 5_000_000_000;

/// What the next block has brought.
enum Step {
    Payload,
    Head(Box<Head>),
    State(Box<State>),
    End(u64),
    Damage(Damage),
    Gap(Gap),
}
