//! A report, for people and as JSON lines.

use std::fmt::Write as _;

use super::{
    Clock, Text, TreeView,
    color::Style,
    errno,
    json::{Object, line},
    text::{error, length, short_length},
    tree::{Page, words},
};
use crate::{
    report::{Failure, Lengths, Report, kinds},
    trace::Head,
};

/// Where the columns of a table end.
const COUNT: usize = 44;
const WIDTH: usize = 10;

/// What a report is of.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// The head of the recording.
    pub head: &'a Head,
    /// Names of containers, and times.
    pub view: &'a TreeView<'a>,
    /// How many namespaces no task was in at the end.
    pub leaks: usize,
}

/// Appends a report as text.
pub fn report(out: &mut Text, report: &Report, of: &Of, clock: &mut Clock) {
    let view = of.view;
    let mut page = Page::new(out, view.width, view.color).uncut();
    head(&mut page, report, of, clock);
    table(
        &mut page,
        "OPERATIONS",
        report
            .ops
            .iter()
            .map(|(op, lengths)| (op.name().to_owned(), lengths)),
    );
    let functions = report.functions();
    table(
        &mut page,
        "STAGES",
        functions
            .iter()
            .map(|(function, lengths)| (function.name().to_owned(), *lengths)),
    );
    if report.containers.keys().any(Option::is_some) {
        table(
            &mut page,
            "CONTAINERS",
            report
                .containers
                .iter()
                .map(|(id, lengths)| (container(id.as_deref(), view), lengths)),
        );
    }
    failures(&mut page, report);
    lives(&mut page, report);
    if of.leaks > 0 {
        section(&mut page, "LEAKS");
        page.line(0, |page| {
            page.count(of.leaks, "namespace", "namespaces");
            page.str(" that no task was in at the end: nstrace leaks --from FILE");
        });
    }
    if !report.slowest.is_empty() {
        section(&mut page, "SLOWEST");
        for slow in &report.slowest {
            page.out.push_lines(&slow.text);
        }
    }
}

fn head(page: &mut Page, report: &Report, of: &Of, clock: &mut Clock) {
    let [first, last] = report.span.unwrap_or([of.head.mono_ns; 2]);
    page.line(0, |page| {
        let mut text = Text::new();
        let _ = write!(text, "{}, Linux {}", of.head.host, of.head.kernel);
        super::escape::terminal(page.out, text.as_bytes());
        page.str(", ");
        clock.rfc3339(page.out, first);
        page.str(", ");
        length(page.out, last.saturating_sub(first));
    });
    page.line(0, |page| {
        page.number(report.operations);
        page.str(" operations, ");
        page.number(report.failed);
        page.str(" failed");
        let lost: u64 = report.lost.iter().map(|(_, count)| count).sum();
        if lost == 0 {
            page.str(", nothing lost");
        }
    });
    for (record, count) in &report.lost {
        page.line(0, |page| {
            page.styled(Style::Lost, |page| {
                page.str("*** LOST ");
                page.number(*count);
                page.str(" ");
                page.str(super::line::records(*record, *count != 1));
                page.str(" ***");
            });
        });
    }
}

fn section(page: &mut Page, name: &str) {
    page.line(0, |_| {});
    page.line(0, |page| page.styled(Style::Bold, |page| page.str(name)));
}

/// The ends of columns: a count, and lengths.
fn columns(page: &mut Page, name: &str, columns: &[&str]) {
    page.line(0, |_| {});
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            page.str(name);
            for (at, column) in columns.iter().enumerate() {
                right(page, at, column);
            }
        });
    });
}

fn right(page: &mut Page, column: usize, text: &str) {
    page.to((COUNT + column * WIDTH).saturating_sub(text.len()));
    page.str(text);
}

fn cells(page: &mut Page, from: usize, lengths: &Lengths) {
    let all = [
        lengths.percentile(50.0),
        lengths.percentile(90.0),
        lengths.percentile(99.0),
        lengths.max(),
    ];
    for (at, ns) in all.into_iter().enumerate() {
        let text = short_length(ns);
        right(page, from + at, &String::from_utf8_lossy(text.as_bytes()));
    }
}

/// A row for each that has happened.
fn table<'r>(page: &mut Page, name: &str, rows: impl Iterator<Item = (String, &'r Lengths)>) {
    let mut rows = rows.filter(|(_, lengths)| lengths.count() > 0).peekable();
    if rows.peek().is_none() {
        return;
    }
    columns(page, name, &["COUNT", "P50", "P90", "P99", "MAX"]);
    for (name, lengths) in rows {
        page.line(0, |page| {
            super::escape::terminal(page.out, name.as_bytes());
            right(page, 0, &lengths.count().to_string());
            cells(page, 1, lengths);
        });
    }
}

fn container(id: Option<&[u8]>, view: &TreeView) -> String {
    match id {
        Some(id) => words::container_name(id, view),
        None => "in no container".to_owned(),
    }
}

fn failures(page: &mut Page, report: &Report) {
    if report.failures.is_empty() {
        return;
    }
    columns(page, "FAILURES", &["COUNT"]);
    let mut all: Vec<(&Failure, &u64)> = report.failures.iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (failure, count) in all {
        page.line(0, |page| {
            page.str(failure.op);
            page.str(" ");
            error(page.out, failure.errno);
            if let Some(stage) = failure.stage {
                page.str(" ");
                page.str(stage);
            }
            right(page, 0, &count.to_string());
        });
        if let Some(reason) = &failure.reason {
            page.words(1, Style::Reason, reason);
        }
    }
}

fn name(errno: i32) -> String {
    errno::name(errno).map_or_else(|| format!("errno {errno}"), str::to_owned)
}

fn lives(page: &mut Page, report: &Report) {
    columns(
        page,
        "NAMESPACES            FOUND   BORN",
        &["DIED", "AGE P50", "P90", "P99", "MAX"],
    );
    for (kind, lives) in kinds(report).filter(|(_, lives)| lives.found + lives.born > 0) {
        page.line(0, |page| {
            page.str(kind.name());
            for (end, count) in [(27, lives.found), (34, lives.born)] {
                let count = count.to_string();
                page.to(end - count.len());
                page.str(&count);
            }
            right(page, 0, &lives.died.to_string());
            if lives.ages.count() > 0 {
                cells(page, 1, &lives.ages);
            }
        });
    }
}

/// Appends a report as lines of JSON: docs/json.md.
pub fn report_json(out: &mut Text, report: &Report, of: &Of, clock: &mut Clock) {
    let [first, last] = report.span.unwrap_or([of.head.mono_ns; 2]);
    line(out, "report", first, clock, |object| {
        object.number("span_ns", last.saturating_sub(first));
        object.name("host", of.head.host.as_bytes());
        object.name("kernel", of.head.kernel.as_bytes());
        object.number("operations", report.operations);
        object.number("failed", report.failed);
        object.number("leaks", of.leaks as u64);
        let lost = report.lost.iter();
        object.objects("lost", lost, |object, (record, count)| {
            object.word("record", crate::event::record_name(*record));
            object.number("count", *count);
        });
    });
    for (op, lengths) in &report.ops {
        lengths_json(out, "op", op.name().as_bytes(), lengths, first, clock);
    }
    for (function, lengths) in report.functions() {
        lengths_json(
            out,
            "stage",
            function.name().as_bytes(),
            lengths,
            first,
            clock,
        );
    }
    for (id, lengths) in &report.containers {
        let id = id.as_deref().unwrap_or_default();
        lengths_json(out, "container", id, lengths, first, clock);
    }
    for (failure, count) in &report.failures {
        line(out, "failures", first, clock, |object| {
            object.word("op", failure.op);
            object.name("errno", name(failure.errno).as_bytes());
            if let Some(stage) = failure.stage {
                object.word("failed_stage", stage);
            }
            if let Some(reason) = &failure.reason {
                object.name("reason", reason.as_bytes());
            }
            object.number("count", *count);
        });
    }
    for (kind, lives) in kinds(report) {
        line(out, "lives", first, clock, |object| {
            object.word("kind", kind.name());
            object.number("found", lives.found);
            object.number("born", lives.born);
            object.number("died", lives.died);
            percentiles(object, &lives.ages);
        });
    }
    for slow in &report.slowest {
        out.push_lines(&slow.json);
    }
}

fn lengths_json(
    out: &mut Text,
    of: &str,
    name: &[u8],
    lengths: &Lengths,
    first: u64,
    clock: &mut Clock,
) {
    if lengths.count() == 0 {
        return;
    }
    line(out, "lengths", first, clock, |object| {
        object.word("of", of);
        object.name("name", name);
        object.number("count", lengths.count());
        percentiles(object, lengths);
    });
}

fn percentiles(object: &mut Object, lengths: &Lengths) {
    if lengths.count() > 0 {
        object.number("p50_ns", lengths.percentile(50.0));
        object.number("p90_ns", lengths.percentile(90.0));
        object.number("p99_ns", lengths.percentile(99.0));
        object.number("max_ns", lengths.max());
    }
}
