//! What differs between two recordings, for people and as JSON lines.

mod json;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, fmt::Write as _};

use nstrace_common::kind::Kind;

use super::{
    Clock, Text,
    color::Style,
    escape::Escaped,
    table::{WIDTH, section},
    text::{error, length, short_length},
    tree::{Page, fitted, words},
};
use crate::{
    diff::{Container, Diff, Failure, Lives, Of, Pair, Verdict},
    report::{Lengths, Report},
    trace::Head,
    world::Namespace,
};

pub use self::json::diff as diff_json;

/// A recording that is compared.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Its head.
    pub head: &'a Head,
    /// What came to pass in it.
    pub report: &'a Report,
}

/// So many containers, failures and namespaces are shown.
const CONTAINERS: usize = 20;
const FAILURES: usize = 30;
/// Of so many containers the operations are shown, and so many stages: those that took most time.
const SECTIONS: usize = 5;
const STAGES: usize = 5;
const NAMESPACES: usize = 10;
/// So many of those who made namespaces are named.
const MAKERS: usize = 4;

/// So much of a line a name may take.
const NAME: usize = 24;

/// Where columns end: counts, the 50th and the 99th percentile with their ratios, and the
/// longest.
const COLUMNS: [(&str, usize); 10] = [
    ("COUNT A", 32),
    ("B", 40),
    ("P50 A", 48),
    ("B", 56),
    ("", 63),
    ("P99 A", 71),
    ("B", 79),
    ("", 86),
    ("MAX A", 92),
    ("B", 100),
];

/// Appends it as text. The clocks, of each side, must tell UTC.
pub fn diff(out: &mut Text, diff: &Diff, sides: [Side; 2], color: bool, mut clocks: [Clock; 2]) {
    let mut page = Page::new(out, Some(WIDTH), color);
    for ((name, side), clock) in ["A", "B"].into_iter().zip(&sides).zip(&mut clocks) {
        head(&mut page, name, side, clock);
    }
    page.words(
        0,
        Style::Dim,
        match diff.same_boot {
            true => "of one boot: namespaces are told apart; * is a change by more than chance",
            false => {
                "not of one boot: of namespaces only numbers can be compared; * is a change by \
                 more than chance"
            }
        },
    );
    for (part, name) in ["OPERATIONS", "BY KIND", "STAGES", "CONTAINERS"]
        .into_iter()
        .enumerate()
    {
        let own = diff.lengths.iter().filter(|pair| pair.of.part() == part);
        table(&mut page, name, own.collect());
    }
    containers(&mut page, &diff.containers);
    failures(&mut page, &diff.failures);
    lives(&mut page, diff);
    only(&mut page, diff);
}

fn head(page: &mut Page, name: &str, side: &Side, clock: &mut Clock) {
    let [first, last] = side.report.span.unwrap_or([side.head.mono_ns; 2]);
    page.line(0, |page| {
        page.styled(Style::Bold, |page| page.str(name));
        page.str(" ");
        clock.rfc3339(page.out, first);
        page.str(", ");
        length(page.out, last.saturating_sub(first));
        page.str(": ");
        page.number(side.report.operations);
        page.str(" operations, ");
        page.number(side.report.failed);
        page.str(" failed, ");
        lost(page, side.report);
    });
    page.line(1, |page| {
        let Head { host, kernel, .. } = side.head;
        let text = format!("{}, {host}, Linux {kernel}", side.name);
        page.text(&Escaped(text.as_bytes()).to_string());
    });
}

/// Of damage it is not known how many records are missing.
fn lost(page: &mut Page, report: &Report) {
    let counts = report.losses.iter().map(|loss| loss.count);
    let lost = counts.fold(0, u64::saturating_add);
    if report.losses.is_empty() {
        return page.str("nothing lost");
    }
    page.styled(Style::Lost, |page| match report.misses_events() {
        true if lost == 0 => page.str("EVENTS ARE MISSING"),
        is_damaged => {
            page.str(if is_damaged { "more than " } else { "" });
            page.number(lost);
            page.str(if lost == 1 {
                " record lost"
            } else {
                " records lost"
            });
        }
    });
}

fn to_right(page: &mut Page, column: usize, text: &str) {
    let (_, end) = COLUMNS[column];
    page.to(end.saturating_sub(text.chars().count()));
    page.text(text);
}

/// The head of a table.
fn headed(page: &mut Page, name: &str) {
    page.line(0, |_| {});
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            page.text(name);
            for (at, (name, _)) in COLUMNS
                .iter()
                .enumerate()
                .filter(|(_, (name, _))| !name.is_empty())
            {
                to_right(page, at, name);
            }
        });
    });
}

/// The operations of containers that are in both, if there are several, and the stages that
/// took most of the time.
fn containers(page: &mut Page, containers: &[Container]) {
    if containers.len() < 2 {
        return;
    }
    let in_both = containers.iter().filter(|own| own.is_in_both());
    for container in in_both.take(SECTIONS) {
        headed(page, &fitted(&name_of(container.name.as_deref()), NAME));
        for pair in &container.lengths {
            if matches!(pair.of, Of::Op(_)) {
                row(page, 1, pair);
            }
        }
        for pair in longest_stages(container) {
            row(page, 2, pair);
        }
    }
}

/// The stages that took most time, without those that are made up of others.
fn longest_stages(container: &Container) -> Vec<&Pair> {
    let stages = container.lengths.iter();
    let mut all: Vec<_> = stages
        .filter(|pair| matches!(pair.of, Of::Stage(function) if !function.calls_others()))
        .collect();
    all.sort_by_key(|pair| {
        let [a, b] = pair.sides.each_ref().map(Lengths::sum);
        std::cmp::Reverse(a.max(b))
    });
    all.truncate(STAGES);
    all
}

fn table(page: &mut Page, name: &str, rows: Vec<&Pair>) {
    if rows.is_empty() {
        return;
    }
    headed(page, name);
    let is_container = |pair: &&&Pair| matches!(pair.of, Of::Container(_));
    let most = match rows.iter().any(|pair| is_container(&pair)) {
        true => CONTAINERS,
        false => rows.len(),
    };
    let mut shown: Vec<_> = rows.iter().collect();
    if rows.len() > most {
        let time = |pair: &&&Pair| {
            let [a, b] = &pair.sides;
            std::cmp::Reverse(a.sum().max(b.sum()))
        };
        shown.sort_by_key(time);
    }
    for pair in shown.iter().take(most) {
        row(page, 0, pair);
    }
    if rows.len() > most {
        page.line(0, |page| {
            page.str("and ");
            page.count(rows.len() - most, "other", "others");
        });
    }
}

/// What lengths are of, escaped.
fn name(of: &Of) -> String {
    match of {
        Of::Op(name) => (*name).to_owned(),
        Of::Kind(kind) => kind.name().to_owned(),
        Of::Stage(function) => function.name().to_owned(),
        Of::Container(id) => name_of(id.as_deref()),
    }
}

/// What a container is called, escaped.
fn name_of(id: Option<&[u8]>) -> String {
    match id {
        None => "in no container".to_owned(),
        Some(id) => Escaped(words::short_id(id)).to_string(),
    }
}

fn row(page: &mut Page, level: usize, pair: &Pair) {
    page.line(level, |page| {
        page.text(&fitted(&name(&pair.of), NAME - 2 * level));
        let [a, b] = &pair.sides;
        to_right(page, 0, &short_count(a.count()));
        to_right(page, 1, &short_count(b.count()));
        for (column, percent) in [(2, 50.0), (5, 99.0)] {
            let values = [a, b].map(|own| (own.count() > 0).then(|| own.percentile(percent)));
            for (at, value) in values.into_iter().enumerate() {
                to_right(page, column + at, &value.map_or_else(none, shown));
            }
            if let [Some(a), Some(b)] = values {
                ratio(page, column + 2, a, b, pair.change(percent));
            }
        }
        for (at, own) in pair.sides.iter().enumerate() {
            let max = (own.count() > 0).then(|| own.max());
            to_right(page, 8 + at, &max.map_or_else(none, shown));
        }
    });
}

fn none() -> String {
    "-".to_owned()
}

fn shown(ns: u64) -> String {
    String::from_utf8_lossy(short_length(ns).as_bytes()).into_owned()
}

/// Appends `x1.43*`, or `1/12*` for what has become much less.
fn ratio(page: &mut Page, column: usize, a: u64, b: u64, change: Option<Ordering>) {
    let ratio = match a == b {
        true => 1.0,
        false => b as f64 / a.max(1) as f64,
    };
    let mut text = match ratio {
        _ if b == 0 && a > 0 => "x0".to_owned(),
        ..0.095 => format!("1/{:.0}", 1.0 / ratio),
        0.095..9.995 => format!("x{ratio:.2}"),
        9.995..9999.5 => format!("x{ratio:.0}"),
        _ => "x>9999".to_owned(),
    };
    if text.len() > 6 {
        text = "1/>999".to_owned();
    }
    text.push(if change.is_some() { '*' } else { ' ' });
    match change {
        // The padding must not be coloured: a column is found by what does not show.
        Some(change) => {
            let (_, end) = COLUMNS[column];
            page.to(end.saturating_sub(text.len()));
            let style = match change {
                Ordering::Greater => Style::Failed,
                Ordering::Less | Ordering::Equal => Style::New,
            };
            page.styled(style, |page| page.text(&text));
        }
        None => to_right(page, column, &text),
    }
}

/// A count in seven digits at most: from ten millions on as `12.3M`.
fn short_count(count: u64) -> String {
    const M: f64 = 1e6;
    match count {
        0..10_000_000 => count.to_string(),
        10_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / M),
        _ => format!("{:.1e}", count as f64),
    }
}

/// Where the words of a failure begin: levels of two columns.
const WORDS: usize = 13;

fn failures(page: &mut Page, failures: &[Failure]) {
    if failures.is_empty() {
        return;
    }
    page.line(0, |_| {});
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            page.str("FAILURES");
            cells(page, "A", "B");
        });
    });
    let (same, changed): (Vec<_>, Vec<_>) = failures
        .iter()
        .partition(|failure| failure.verdict == Verdict::Same);
    for failure in changed.iter().take(FAILURES) {
        one_failure(page, failure);
    }
    if changed.len() > FAILURES {
        page.line(0, |page| {
            page.str("and ");
            page.count(changed.len() - FAILURES, "other", "others");
        });
    }
    if !same.is_empty() {
        let count = |at: usize| {
            same.iter()
                .map(|failure| failure.counts[at])
                .sum::<u64>()
                .to_string()
        };
        page.line(0, |page| {
            page.str(Verdict::Same.name());
            cells(page, &count(0), &count(1));
            page.to(2 * WORDS);
            page.count(same.len(), "sort", "sorts");
        });
    }
}

fn cells(page: &mut Page, a: &str, b: &str) {
    for (end, text) in [(16, a), (24, b)] {
        page.to(end - text.len().min(end));
        page.str(text);
    }
}

fn one_failure(page: &mut Page, failure: &Failure) {
    page.begin(Default::default(), 0);
    let style = match failure.verdict {
        Verdict::New | Verdict::More => Style::Failed,
        Verdict::Gone | Verdict::Fewer => Style::New,
        Verdict::Same => Style::Dim,
    };
    page.styled(style, |page| page.str(failure.verdict.name()));
    let [a, b] = failure.counts.map(short_count);
    cells(page, &a, &b);
    page.to(2 * WORDS);
    let mut text = Text::new();
    error(&mut text, failure.errno);
    let mut words = text.to_string();
    let _ = match failure.stage {
        Some(stage) => write!(words, " from {}: ", stage.name()),
        None => write!(words, " outside of the stages: "),
    };
    words += failure
        .reason
        .as_deref()
        .unwrap_or("for a reason that is not known");
    page.flow(WORDS, Style::Reason, &words);
}

/// Where counts of namespaces end.
const LIVES: [(&str, usize); 9] = [
    ("ALIVE A", 18),
    ("B", 26),
    ("BORN A", 36),
    ("B", 44),
    ("DIED A", 54),
    ("B", 62),
    ("IN BOTH", 74),
    ("ONLY A", 83),
    ("ONLY B", 92),
];

fn lives(page: &mut Page, diff: &Diff) {
    let columns = if diff.same_boot { 9 } else { 6 };
    let cells = |page: &mut Page, cells: [&str; 9]| {
        for ((_, end), cell) in LIVES.into_iter().zip(cells).take(columns) {
            page.to(end.saturating_sub(cell.len()));
            page.str(cell);
        }
    };
    page.line(0, |_| {});
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            page.str("NAMESPACES");
            cells(page, LIVES.map(|(name, _)| name));
        });
    });
    for (kind, lives) in Kind::ALL.into_iter().zip(&diff.lives) {
        let Lives {
            alive,
            both,
            born,
            died,
            makers,
        } = lives;
        if [alive, born, died].iter().all(|pair| **pair == [0; 2]) {
            continue;
        }
        let counts = [
            alive[0],
            alive[1],
            born[0],
            born[1],
            died[0],
            died[1],
            *both,
            alive[0] - both.min(&alive[0]),
            alive[1] - both.min(&alive[1]),
        ]
        .map(short_count);
        page.line(0, |page| {
            page.str(kind.name());
            cells(page, counts.each_ref().map(String::as_str));
        });
        let named = makers.iter().take(MAKERS);
        let named: Vec<String> = named
            .map(|(comm, [a, b])| format!("{} {a} -> {b}", Escaped(comm.bytes())))
            .collect();
        if !named.is_empty() {
            let more = if makers.len() > MAKERS { ", …" } else { "" };
            page.words(
                1,
                Style::Dim,
                &format!("made by {}{more}", named.join(", ")),
            );
        }
    }
}

/// The namespaces that live at one end alone.
fn only(page: &mut Page, diff: &Diff) {
    for (name, list) in ["ONLY AT THE END OF A", "ONLY AT THE END OF B"]
        .iter()
        .zip(&diff.only)
    {
        if list.is_empty() {
            continue;
        }
        section(page, name);
        for ns in list.iter().take(NAMESPACES) {
            page.line(0, |page| one_namespace(page, ns));
        }
        if list.len() > NAMESPACES {
            page.line(0, |page| {
                page.str("and ");
                page.count(list.len() - NAMESPACES, "other", "others");
            });
        }
    }
}

fn one_namespace(page: &mut Page, ns: &Namespace) {
    words::namespace(page, ns);
    if let Some(maker) = &ns.maker {
        page.str(", made by ");
        words::maker(page, maker, None, 0);
    }
}
