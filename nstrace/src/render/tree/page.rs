//! Lines of a tree: how deep they begin, and where they are cut.
//!
//! Namespaces of kinds user and pid nest 32 deep each. Two columns for a level would leave
//! nothing of a line on a terminal; so from some level on lines begin at the same column,
//! and say their level.

use super::super::{
    Text,
    color::Style,
    out::{Short, columns},
    text::number,
};

/// What a line is about has just changed; shown in front of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// It has not.
    #[default]
    None,
    /// It is new.
    New,
    /// It has ended.
    Gone,
}

/// The columns of a level.
const LEVEL: usize = 2;
/// Where what a label says begins.
const VALUE: usize = 14;

/// Lines on their way to a text.
pub struct Page<'o> {
    /// Where they go.
    pub out: &'o mut Text,
    color: bool,
    width: Option<usize>,
    /// Whether lines have marks before them.
    gutter: bool,
    /// Whether lines are cut; words are broken between them in any case.
    cuts: bool,
    /// Where the line begins, in bytes.
    start: usize,
}

impl<'o> Page<'o> {
    /// Lines of at most that width.
    pub fn new(out: &'o mut Text, width: Option<usize>, color: bool) -> Page<'o> {
        Page {
            start: out.len(),
            out,
            color,
            width,
            gutter: false,
            cuts: true,
        }
    }

    /// Lines that have room for marks.
    pub fn with_gutter(self) -> Page<'o> {
        Page {
            gutter: true,
            ..self
        }
    }

    /// Lines that are never cut: who asked needs all of a path.
    pub fn uncut(self) -> Page<'o> {
        Page {
            cuts: false,
            ..self
        }
    }

    /// Begins a line at a level.
    pub fn begin(&mut self, mark: Mark, level: usize) {
        self.out.begin_line();
        self.start = self.out.len();
        if self.gutter {
            match mark {
                Mark::None => self.out.push_str("  "),
                Mark::New => self.styled(Style::New, |page| page.str("+ ")),
                Mark::Gone => self.styled(Style::Failed, |page| page.str("- ")),
            }
        }
        let level_max = self.width.map_or(usize::MAX, |width| width / 5);
        let column = self.out.column() + LEVEL * level.min(level_max);
        self.out.pad(column, 0);
        if level > level_max {
            self.styled(Style::Dim, |page| {
                page.out
                    .push_short(Short::new().text(") ").number(level as u64).text("("));
            });
        }
    }

    /// Ends it, and cuts it if it is too long.
    pub fn end(&mut self) {
        let is_long = |width: &usize| self.cuts && self.out.column() > *width;
        if let Some(width) = self.width.filter(is_long) {
            self.cut(width);
        }
        self.out.push('\n');
    }

    /// A whole line.
    pub fn line(&mut self, level: usize, write: impl FnOnce(&mut Page)) {
        self.marked(Mark::None, level, write);
    }

    /// A whole line with a mark.
    pub fn marked(&mut self, mark: Mark, level: usize, write: impl FnOnce(&mut Page)) {
        self.begin(mark, level);
        write(self);
        self.end();
    }

    /// Lines of words, broken between them; a word that is longer than a line, in itself.
    /// What in them the traced chose was escaped.
    pub fn words(&mut self, level: usize, style: Style, text: &str) {
        self.begin(Mark::None, level);
        self.flow(level, style, text);
    }

    /// Words on the line that has begun, and on others at a level.
    pub fn flow(&mut self, level: usize, style: Style, text: &str) {
        for (i, word) in text.split(' ').enumerate() {
            if i > 0 && !self.fits(1 + word.chars().map(columns).sum::<usize>()) {
                self.end();
                self.begin(Mark::None, level);
            } else if i > 0 {
                self.out.push(' ');
            }
            self.broken(level, style, word);
        }
        self.end();
    }

    /// A word, on as many lines as it takes.
    fn broken(&mut self, level: usize, style: Style, word: &str) {
        let (mut from, mut taken) = (0, 0);
        for (at, c) in word.char_indices() {
            if at > from && !self.fits(taken + columns(c)) {
                self.styled(style, |page| page.text(&word[from..at]));
                self.end();
                self.begin(Mark::None, level);
                (from, taken) = (at, 0);
            }
            taken += columns(c);
        }
        self.styled(style, |page| page.text(&word[from..]));
    }

    /// A line that says what it is of, and then that; without a label it goes on with
    /// what the line before it was of.
    pub fn field(&mut self, label: &str, write: impl FnOnce(&mut Page)) {
        self.label(label);
        write(self);
        self.end();
    }

    /// The same of nstrace's own words, broken between them.
    pub fn field_words(&mut self, label: &str, style: Style, text: &str) {
        self.label(label);
        self.flow(VALUE / LEVEL, style, text);
    }

    fn label(&mut self, label: &str) {
        self.begin(Mark::None, 1);
        self.styled(Style::Dim, |page| page.str(label));
        self.out.pad(VALUE, 1);
    }

    /// Whether so many columns are left.
    pub fn fits(&self, columns: usize) -> bool {
        self.width
            .is_none_or(|width| self.out.column() + columns <= width)
    }

    /// Appends text of nstrace's own, which is ASCII.
    pub fn str(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Appends text that has been escaped.
    pub fn text(&mut self, text: &str) {
        text.chars().for_each(|c| self.out.push(c));
    }

    /// Appends a number.
    pub fn number(&mut self, value: impl Into<u64>) {
        number(self.out, value);
    }

    /// Appends how many there are of something.
    pub fn count(&mut self, count: usize, one: &str, many: &str) {
        self.number(count as u64);
        self.str(" ");
        self.str(if count == 1 { one } else { many });
    }

    /// Pads up to a column.
    pub fn to(&mut self, column: usize) {
        self.out.pad(column, 1);
    }

    /// Appends in a style.
    pub fn styled(&mut self, style: Style, write: impl FnOnce(&mut Page)) {
        if self.color {
            self.out.push_unseen(style.begin());
        }
        write(self);
        if self.color {
            self.out.push_unseen(Style::END);
        }
    }

    /// Takes back what does not fit, and says so by three dots.
    fn cut(&mut self, width: usize) {
        let line = self.out.as_bytes().get(self.start..).unwrap_or_default();
        let kept = fitted(str::from_utf8(line).unwrap_or_default(), width);
        self.out.cut_to(self.start);
        self.out.push_lines(&kept);
    }
}

/// As much of a line as fits; three dots stand for the rest. What the traced chose was
/// escaped: an escape character begins a style.
pub fn fitted(line: &str, width: usize) -> String {
    let (mut kept, mut fits) = (String::new(), 0);
    let (mut taken, mut in_style, mut has_style) = (0, false, false);
    for c in line.chars() {
        if in_style || c == '\x1b' {
            in_style = c != 'm';
            has_style = true;
            kept.push(c);
            continue;
        }
        taken += columns(c);
        if taken > width {
            kept.truncate(fits);
            kept.push('…');
            if has_style {
                kept.push_str(Style::END);
            }
            return kept;
        }
        kept.push(c);
        // Room for the dots.
        if taken < width {
            fits = kept.len();
        }
    }
    kept
}
