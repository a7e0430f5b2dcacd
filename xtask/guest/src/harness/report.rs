//! What differs, in so many lines and no more.

use std::fmt;

/// How many differences a test shows.
const SHOWN: usize = 20;

/// The differences that a test found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    lines: Vec<String>,
    more: usize,
}

impl Report {
    /// Notes a difference.
    pub fn add(&mut self, difference: impl Into<String>) {
        if self.lines.len() < SHOWN {
            self.lines.push(difference.into());
        } else {
            self.more += 1;
        }
    }

    /// Notes a difference unless `found` is `expected`.
    pub fn same<T: PartialEq + fmt::Debug>(
        &mut self,
        what: impl fmt::Display,
        found: T,
        expected: T,
    ) {
        if found != expected {
            self.add(format!("{what}: {found:?}, not {expected:?}"));
        }
    }

    /// Notes a difference unless `holds`.
    pub fn check(&mut self, holds: bool, difference: impl FnOnce() -> String) {
        if !holds {
            self.add(difference());
        }
    }

    /// Takes over the differences of a part of the test.
    pub fn append(&mut self, part: &str, other: Report) {
        for line in other.lines {
            self.add(format!("{part}: {line}"));
        }
        self.more += other.more;
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many differences there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lines.len() + self.more
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "    {}", shorten(line))?;
        }
        if self.more > 0 {
            writeln!(f, "    … and {} more", self.more)?;
        }
        Ok(())
    }
}

fn shorten(line: &str) -> String {
    const LONGEST: usize = 800;
    let line = line
        .escape_debug()
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'");
    if line.chars().count() <= LONGEST {
        return line;
    }
    line.chars().take(LONGEST).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_bounded() {
        let mut report = Report::default();
        for number in 0..50 {
            report.same("number", number, 0);
        }
        assert_eq!(report.len(), 49);
        let text = report.to_string();
        assert!(
            text.lines().count() == SHOWN + 1 && text.ends_with("and 29 more\n"),
            "{text}"
        );
        assert!(text.starts_with("    number: 1, not 0\n"));
    }

    #[test]
    fn control_characters_are_escaped() {
        let mut report = Report::default();
        report.add("comm \x1b[2J");
        assert_eq!(report.to_string(), "    comm \\u{1b}[2J\n");
    }
}
