//! Tables of lengths: a name, how many, how long all together, and how long most of them.

use super::{
    color::Style,
    escape,
    text::short_length,
    tree::{Page, fitted},
};
use crate::report::{Comm, Lengths, Tally};

/// So wide are reports at most, on whatever terminal.
pub const WIDTH: usize = 100;

/// Where the first column ends, a count, and the next ones.
const COUNT: usize = 38;
const COLUMN: usize = 9;
/// So much of a line a name may take.
const NAME: usize = 29;

/// The columns of lengths.
pub const LENGTHS: [&str; 6] = ["COUNT", "TOTAL", "P50", "P90", "P99", "MAX"];

/// An empty line and a heading.
pub fn section(page: &mut Page, name: &str) {
    headed(page, name, &[]);
}

/// The same with names of columns.
pub fn headed(page: &mut Page, name: &str, columns: &[&str]) {
    page.line(0, |_| {});
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            self::name(page, name);
            for (at, column) in columns.iter().enumerate() {
                right(page, at, column);
            }
        });
    });
}

/// Appends a name that has been escaped, as much of it as fits before the columns.
pub fn name(page: &mut Page, name: &str) {
    let room = NAME.saturating_sub(page.out.column());
    page.text(&fitted(name, room));
}

/// Appends what ends where a column does.
pub fn right(page: &mut Page, column: usize, text: &str) {
    page.to((COUNT + column * COLUMN).saturating_sub(text.len()));
    page.str(text);
}

/// The same of a length.
pub fn right_length(page: &mut Page, column: usize, ns: u64) {
    let text = short_length(ns);
    page.to((COUNT + column * COLUMN).saturating_sub(text.len()));
    page.out.push_short(&text);
}

/// Appends the percentiles of lengths, from a column on.
pub fn percentiles(page: &mut Page, column: usize, lengths: &Lengths) {
    let all = [50.0, 90.0, 99.0].map(|percent| lengths.percentile(percent));
    for (at, ns) in all.into_iter().chain([lengths.max()]).enumerate() {
        right_length(page, column + at, ns);
    }
}

/// A row of lengths.
pub fn row(page: &mut Page, level: usize, name: &str, lengths: &Lengths) {
    page.line(level, |page| {
        self::name(page, name);
        right(page, 0, &lengths.count().to_string());
        right_length(page, 1, lengths.sum());
        percentiles(page, 2, lengths);
    });
}

/// A table, if there is something in it.
pub fn table<'r, N: AsRef<str>>(
    page: &mut Page,
    name: &str,
    rows: impl Iterator<Item = (N, &'r Lengths)>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    headed(page, name, &LENGTHS);
    for (name, lengths) in rows {
        row(page, 0, name.as_ref(), lengths);
    }
}

/// The most frequent of some: `runc 12, unshare 3, others 4`.
pub fn ranked<K: Copy + Ord>(tally: &Tally<K>, most: usize, name: impl Fn(K) -> String) -> String {
    let all = tally.ranked();
    let mut parts: Vec<String> = all
        .iter()
        .take(most)
        .map(|(key, count)| format!("{} {count}", name(*key)))
        .collect();
    let rest = all.iter().skip(most).map(|(_, count)| count).sum::<u64>() + tally.others();
    if rest > 0 {
        parts.push(format!("others {rest}"));
    }
    parts.join(", ")
}

/// The same of tasks.
pub fn ranked_comms(tally: &Tally<Comm>, most: usize) -> String {
    ranked(tally, most, |comm| {
        escape::Escaped(comm.bytes()).to_string()
    })
}
