//! Text on its way out, and how numbers get into it.
//!
//! A line has a dozen short parts. What a `String` and `write!` do for each (checks
//! that digits are UTF-8, a look at the format, a call to copy three bytes) costs more
//! than the parts themselves, and there are lines of thousands of operations a second.
//!
//! A copy of a fixed length is two instructions, one that fits is a call. So there are
//! blanks behind the text, and what is short is copied with the blanks behind it. That
//! also makes a move of what is padded.

use std::fmt;

/// Text that grows at its end. It is UTF-8, since only strings, characters and digits
/// get in.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// The text, and blanks behind it.
    bytes: Vec<u8>,
    /// Where the text ends.
    end: usize,
    /// Where the last line would begin, had it only bytes that take a column: escape
    /// sequences take none, a character takes one or two.
    line: usize,
    /// The last name of a task that is text as it is: lines in a row are often about one
    /// task, and it need not be looked at again.
    comm: Comm,
}

/// The name of a task, and the same as text.
#[derive(Clone, Copy, Debug)]
struct Comm {
    name: [u8; 16],
    /// Blanks are behind it.
    text: [u8; 16],
    len: usize,
}

impl Default for Comm {
    /// An empty name.
    fn default() -> Comm {
        Comm {
            name: [0; 16],
            text: [BLANK; 16],
            len: 0,
        }
    }
}

const BLANK: u8 = b' ';

impl Text {
    /// No text.
    pub fn new() -> Text {
        Text::default()
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.end
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Forgets the text, and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.end = 0;
        self.line = 0;
    }

    /// Begins a line, at the end of what is there.
    #[inline]
    pub(super) fn begin_line(&mut self) {
        self.line = self.end;
    }

    /// Pads up to a column of the line, and by so many blanks at least.
    #[inline]
    pub(super) fn pad(&mut self, column: usize, least: usize) {
        self.end = (self.line + column).max(self.end + least);
        if self.end > self.bytes.len() {
            self.grow(0);
        }
    }

    /// Appends bytes of which only the first `len` count; the others are blanks.
    #[inline]
    fn put<const N: usize>(&mut self, bytes: &[u8; N], len: usize) {
        debug_assert!(bytes[len..].iter().all(|byte| *byte == BLANK));
        self.write(bytes);
        self.end += len;
    }

    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.write(bytes);
        self.end += bytes.len();
    }

    /// Writes over the blanks behind the text.
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.end..self.end + bytes.len()) {
            Some(room) => room.copy_from_slice(bytes),
            None => {
                self.grow(bytes.len());
                self.bytes[self.end..][..bytes.len()].copy_from_slice(bytes);
            }
        }
    }

    /// Makes room for more bytes. A step is a few lines, so that they are still in the
    /// cache when the text comes.
    #[cold]
    fn grow(&mut self, more: usize) {
        const STEP: usize = 1024;
        self.bytes.resize(self.end + more + STEP, BLANK);
    }

    /// Appends text of nstrace's own, which is ASCII.
    #[inline]
    pub(super) fn push_str(&mut self, text: &str) {
        self.push_ascii(text.as_bytes());
    }

    #[inline]
    pub(super) fn push_ascii(&mut self, text: &[u8]) {
        debug_assert!(text.is_ascii());
        self.put_slice(text);
    }

    /// Appends ASCII of which only the first `len` bytes count; the others are blanks.
    #[inline]
    pub(super) fn push_padded<const N: usize>(&mut self, text: &[u8; N], len: usize) {
        debug_assert!(text.is_ascii());
        self.put(text, len);
    }

    /// Appends a character.
    #[inline]
    pub(super) fn push(&mut self, c: char) {
        if c.is_ascii() {
            match self.bytes.get_mut(self.end) {
                Some(place) => *place = c as u8,
                None => self.write(&[c as u8]),
            }
            self.end += 1;
        } else {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            self.line += bytes.len() - columns(c);
            self.put_slice(bytes);
        }
    }

    /// Appends what takes no column.
    pub(super) fn push_unseen(&mut self, sequence: &str) {
        self.push_str(sequence);
        self.line += sequence.len();
    }

    /// How many columns of the line are taken.
    pub(super) fn column(&self) -> usize {
        self.end - self.line
    }

    /// A place to come [`Text::back_to`].
    pub(super) fn place(&self) -> Place {
        Place {
            end: self.end,
            line: self.line,
        }
    }

    /// Takes back what was appended since.
    pub(super) fn back_to(&mut self, place: Place) {
        let end = place.end.min(self.end);
        self.bytes[end..self.end].fill(BLANK);
        self.end = end;
        self.line = place.line;
    }

    /// Takes back all behind the first bytes, which must be whole characters.
    pub(super) fn cut_to(&mut self, len: usize) {
        self.back_to(Place {
            end: len,
            line: len,
        });
    }

    /// Appends text that was made apart, whose columns do not count.
    pub(super) fn push_lines(&mut self, lines: &str) {
        self.put_slice(lines.as_bytes());
        self.line = self.end;
    }

    /// Appends the name of a task, if it is the one that [`Text::push_comm`] appended last.
    #[inline]
    pub(super) fn push_same_comm(&mut self, name: &[u8; 16]) -> bool {
        let is_same = self.comm.name == *name;
        if is_same {
            let Comm { text, len, .. } = self.comm;
            self.push_padded(&text, len);
        }
        is_same
    }

    /// Appends the name of a task, as ASCII with blanks behind it.
    #[inline]
    pub(super) fn push_comm(&mut self, name: [u8; 16], text: [u8; 16], len: usize) {
        self.comm = Comm { name, text, len };
        self.push_padded(&text, len);
    }

    /// Appends a word.
    #[inline]
    pub(super) fn push_word(&mut self, word: &Word) {
        self.push_padded(&word.bytes, word.len.into());
    }

    /// Appends a short text.
    #[inline]
    pub(super) fn push_short(&mut self, short: &Short) {
        if let Some(bytes) = short.bytes[short.start..].first_chunk::<{ Short::SIZE }>() {
            self.push_padded(bytes, short.len());
        }
    }
}

/// An end that a text had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    end: usize,
    line: usize,
}

/// How many columns a terminal gives a character: two for those of East Asia that are
/// wide, and for pictures (Unicode's UAX #11, in blocks). One that takes none counts as
/// one: a line that is too short does no harm.
pub(super) fn columns(c: char) -> usize {
    let wide = matches!(c,
        '\u{1100}'..='\u{115f}'
        | '\u{231a}'..='\u{231b}'
        | '\u{23e9}'..='\u{23f3}'
        | '\u{25fd}'..='\u{25fe}'
        | '\u{2600}'..='\u{27bf}'
        | '\u{2b1b}'..='\u{2b55}'
        | '\u{2e80}'..='\u{303e}'
        | '\u{3041}'..='\u{a4cf}'
        | '\u{a960}'..='\u{a97c}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe10}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{16fe0}'..='\u{1b2fb}'
        | '\u{1f000}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}');
    1 + usize::from(wide)
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(str::from_utf8(self.as_bytes()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().for_each(|c| self.push(c));
        Ok(())
    }
}

/// A short text, put together from its end: that is how digits come.
#[derive(Clone, Debug)]
pub(super) struct Short {
    /// The text ends in the middle, and blanks follow: so many bytes can be copied from
    /// any start.
    bytes: [u8; 2 * Short::SIZE],
    start: usize,
}

impl Short {
    /// The digits of `u64::MAX`, and a unit.
    const SIZE: usize = 24;

    /// No text.
    #[inline]
    pub(super) fn new() -> Short {
        Short {
            bytes: [BLANK; 2 * Short::SIZE],
            start: Short::SIZE,
        }
    }

    /// Puts text of nstrace's own before it.
    #[inline]
    pub(super) fn text(&mut self, text: &str) -> &mut Short {
        for byte in text.bytes().rev() {
            self.start = self.put(self.start, [byte]);
        }
        self
    }

    /// Puts all digits of a number before it.
    #[inline]
    pub(super) fn number(&mut self, mut number: u64) -> &mut Short {
        let mut start = self.start;
        while number >= 100 {
            start = self.put(start, PAIRS[(number % 100) as usize]);
            number /= 100;
        }
        self.start = match number {
            0..10 => self.put(start, [b'0' + number as u8]),
            _ => self.put(start, PAIRS[number as usize]),
        };
        self
    }

    /// Puts the last digits of a number before it, so many.
    #[inline]
    pub(super) fn digits(&mut self, mut number: u64, places: u32) -> &mut Short {
        for _ in 0..places {
            self.start = self.put(self.start, [b'0' + (number % 10) as u8]);
            number /= 10;
        }
        self
    }

    /// Puts bytes before a place, and says where they start.
    #[inline]
    fn put<const N: usize>(&mut self, end: usize, bytes: [u8; N]) -> usize {
        let start = end - N;
        self.bytes[start..end].copy_from_slice(&bytes);
        start
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        Short::SIZE - self.start
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..Short::SIZE]
    }
}

/// A word of nstrace's own, and blanks behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    bytes: [u8; Word::SIZE],
    len: u8,
}

impl Word {
    const SIZE: usize = 16;

    /// Of text that is ASCII and fits: of a constant, the compiler sees that.
    pub(super) const fn new(text: &str) -> Word {
        assert!(text.is_ascii() && text.len() <= Word::SIZE);
        let mut bytes = [BLANK; Word::SIZE];
        let mut at = 0;
        while at < text.len() {
            bytes[at] = text.as_bytes()[at];
            at += 1;
        }
        let len = text.len() as u8;
        Word { bytes, len }
    }
}

/// The digits of a number below 1,000.
#[inline]
pub(super) fn three_digits(number: u64) -> [u8; 3] {
    let [tens, ones] = PAIRS[(number % 100) as usize];
    [b'0' + (number / 100) as u8, tens, ones]
}

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + number as u8 / 10, b'0' + number as u8 % 10];
        number += 1;
    }
    pairs
};
