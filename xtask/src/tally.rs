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
}

/// Tests as their lines come: how many ended how, and what was said of those that failed.
#[derive(Debug, Default)]
pub struct Tests {
    /// How many.
    pub tally: Tally,
    /// The lines of those that failed.
    pub failures: Vec<String>,
    /// The next lines may be of one that failed.
    of_failure: bool,
}

impl Tests {
    /// Takes a line of nstrace-guest: `test NAME (ATTACH) ... ok (1.2s)`. What is behind one
    /// that failed, and indented, says why.
    pub fn take_guest_line(&mut self, line: &str) {
        let result = line
            .strip_prefix("test ")
            .and_then(|l| l.rsplit_once(" ... "));
        match result {
            None => self.of_failure &= line.starts_with(' '),
            Some((_, result)) => {
                self.of_failure = false;
                match result {
                    _ if result.starts_with("ok") => self.tally.passed += 1,
                    _ if result.starts_with("ignored") => self.tally.skipped += 1,
                    _ => {
                        self.tally.failed += 1;
                        self.of_failure = true;
                    }
                }
            }
        }
        self.keep(line);
    }

    /// Takes a line of cargo test. It repeats what failed behind a line `failures:`, and ends
    /// with a summary: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub fn take_cargo_line(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                let before = summary.split(&format!(" {word}")).next()?;
                before.rsplit(' ').next()?.parse::<u32>().ok()
            };
            self.tally.passed += number("passed").unwrap_or(0);
            self.tally.failed += number("failed").unwrap_or(0);
            self.tally.skipped += number("ignored").unwrap_or(0);
            self.of_failure = false;
        }
        self.of_failure |= line == "failures:";
        self.keep(line);
    }

    fn keep(&mut self, line: &str) {
        if self.of_failure {
            self.failures.push(line.to_owned());
        }
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
    /// What was said of tests that failed.
    pub failures: Vec<String>,
}

/// Of a row's failures, so many lines are repeated at the end.
const REPEATED: usize = 30;

/// What failed, once more: it was said thousands of lines before. Then the table, and its sum
/// as the last line.
pub fn print(rows: &[Row], out: &mut dyn Write) -> io::Result<Tally> {
    for row in rows.iter().filter(|row| !row.failures.is_empty()) {
        writeln!(out, "\nFAILED: {}", row.place)?;
        for line in row.failures.iter().take(REPEATED) {
            writeln!(out, "  {line}")?;
        }
        if let Some(more @ 1..) = row.failures.len().checked_sub(REPEATED) {
            writeln!(out, "  ({more} lines more above)")?;
        }
    }
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
        ..
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
        let mut tests = Tests::default();
        for line in [
            "test tree_at_rest (fentry) ... ok (1.2s)",
            "test tree_at_rest (kprobe) ... FAILED (0.2s)",
            "    lsns says 7, nstrace 6 ... ok",
            "a line of the kernel",
            "    of another",
            "test x (fentry) ... ignored: no time namespaces (0.0s)",
        ] {
            tests.take_guest_line(line);
        }
        let (passed, failed, skipped) = (1, 1, 1);
        assert_eq!(
            tests.tally,
            Tally {
                passed,
                failed,
                skipped
            }
        );
        assert_eq!(
            tests.failures,
            [
                "test tree_at_rest (kprobe) ... FAILED (0.2s)",
                "    lsns says 7, nstrace 6 ... ok"
            ]
        );
    }

    #[test]
    fn cargo_summaries_add_up() {
        let mut tests = Tests::default();
        for _ in 0..2 {
            for line in [
                "test a ... FAILED",
                "failures:",
                "    a",
                "test result: FAILED. 13 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out",
            ] {
                tests.take_cargo_line(line);
            }
        }
        let (passed, failed, skipped) = (26, 4, 2);
        assert_eq!(
            tests.tally,
            Tally {
                passed,
                failed,
                skipped
            }
        );
        assert_eq!(tests.failures, ["failures:", "    a", "failures:", "    a"]);
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
            failures: vec!["line".to_owned(); REPEATED + 2],
        };
        let mut out = Vec::new();
        print(&[row("host"), row("6.12")], &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().last(), Some("6 passed, 0 failed, 2 skipped"));
        assert!(text.starts_with("\nFAILED: host\n  line\n"), "{text}");
        assert_eq!(text.matches("(2 lines more above)").count(), 2);
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
