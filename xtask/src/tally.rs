//! Counting tests from what test programs print, and the table at the end.

use std::fmt;
use std::io::{self, Write};
use std::ops::AddAssign;
use std::time::Duration;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed, and whatever else went wrong.
    pub failed: u32,
    /// Tests that said why they could not run.
    pub skipped: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

impl Tally {
    /// Nothing but one failure.
    pub const FAILURE: Tally = Tally {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    /// Nothing but one success.
    pub const SUCCESS: Tally = Tally {
        passed: 1,
        failed: 0,
        skipped: 0,
    };

    /// The number of tests.
    pub fn total(&self) -> u32 {
        self.passed + self.failed + self.skipped
    }

    /// Counts a line of nstrace-guest: `test NAME (ATTACH) ... ok (1.2s)`.
    pub fn count_guest_line(&mut self, line: &str) {
        let Some((_, result)) = line
            .strip_prefix("test ")
            .and_then(|l| l.rsplit_once(" ... "))
        else {
            return;
        };
        match result {
            _ if result.starts_with("ok") => self.passed += 1,
            _ if result.starts_with("ignored") => self.skipped += 1,
            _ => self.failed += 1,
        }
    }

    /// Counts a summary of cargo test: `test result: ok. 3 passed; 0 failed; 1
    /// ignored; ...`.
    pub fn count_cargo_line(&mut self, line: &str) {
        let Some(summary) = line.strip_prefix("test result: ") else {
            return;
        };
        let number = |word: &str| {
            let before = summary.split(&format!(" {word}")).next()?;
            before.rsplit(' ').next()?.parse::<u32>().ok()
        };
        self.passed += number("passed").unwrap_or(0);
        self.failed += number("failed").unwrap_or(0);
        self.skipped += number("ignored").unwrap_or(0);
    }
}

/// A writer that passes whole lines on, each behind a prefix, and shows each to
/// a function.
pub struct Lines<W: Write, F: FnMut(&str)> {
    out: W,
    prefix: String,
    see: F,
    partial: Vec<u8>,
}

impl<W: Write, F: FnMut(&str)> Lines<W, F> {
    /// Lines to `out`, behind `prefix`.
    pub fn new(out: W, prefix: String, see: F) -> Self {
        Lines {
            out,
            prefix,
            see,
            partial: Vec::new(),
        }
    }

    /// Passes a last line without a line feed on.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.partial.is_empty() {
            return Ok(());
        }
        self.write_all(b"\n")
    }
}

impl<W: Write, F: FnMut(&str)> Write for Lines<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            (self.see)(&line);
            // In one piece: other guests write to the same place.
            self.out
                .write_all(format!("{}{line}\n", self.prefix).as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A row of the table at the end.
#[derive(Debug)]
pub struct Row {
    /// Where the tests ran.
    pub place: String,
    /// How they ended.
    pub tally: Tally,
    /// How long they took.
    pub took: Duration,
    /// What else there is to say, such as a panic.
    pub note: String,
}

/// The table, and its sum as the last line.
pub fn print(rows: &[Row], out: &mut dyn Write) -> io::Result<Tally> {
    let width = rows
        .iter()
        .map(|row| row.place.len())
        .max()
        .unwrap_or(0)
        .max(5);
    writeln!(
        out,
        "\n{:width$}  PASSED  FAILED  SKIPPED   TIME  NOTE",
        "WHERE"
    )?;
    let mut sum = Tally::default();
    for Row {
        place,
        tally,
        took,
        note,
    } in rows
    {
        let Tally {
            passed,
            failed,
            skipped,
        } = tally;
        let seconds = took.as_secs();
        let line =
            format!("{place:width$}  {passed:6}  {failed:6}  {skipped:7}  {seconds:4}s  {note}");
        writeln!(out, "{}", line.trim_end())?;
        sum += *tally;
    }
    writeln!(out, "\n{sum}")?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_lines_count_by_their_result() {
        let mut tally = Tally::default();
        tally.count_guest_line("test tree_at_rest (fentry) ... ok (1.2s)");
        tally.count_guest_line("test tree_at_rest (kprobe) ... FAILED (0.2s)");
        tally.count_guest_line("test x (fentry) ... ignored: no time namespaces (0.0s)");
        tally.count_guest_line("  some detail ... ok");
        assert_eq!(
            tally,
            Tally {
                passed: 1,
                failed: 1,
                skipped: 1
            }
        );
    }

    #[test]
    fn cargo_summaries_add_up() {
        let mut tally = Tally::default();
        for _ in 0..2 {
            tally.count_cargo_line(
                "test result: FAILED. 13 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out",
            );
        }
        assert_eq!(
            tally,
            Tally {
                passed: 26,
                failed: 4,
                skipped: 2
            }
        );
    }

    #[test]
    fn last_line_is_the_sum() {
        let tally = Tally {
            passed: 3,
            failed: 0,
            skipped: 1,
        };
        let row = |place: &str| Row {
            place: place.to_owned(),
            tally,
            took: Duration::from_secs(2),
            note: String::new(),
        };
        let mut out = Vec::new();
        print(&[row("host"), row("6.12")], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().last(), Some("6 passed, 0 failed, 2 skipped"));
    }

    #[test]
    fn lines_are_prefixed_whole() {
        let mut out = Vec::new();
        let mut seen = Vec::new();
        let mut lines = Lines::new(&mut out, "6.1 | ".to_owned(), |l| seen.push(l.to_owned()));
        lines.write_all(b"on").unwrap();
        lines.write_all(b"e\ntwo").unwrap();
        lines.finish().unwrap();
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(out, b"6.1 | one\n6.1 | two\n");
    }
}
