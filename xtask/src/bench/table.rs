//! The tables: plain text that Markdown takes too.

use std::io::{self, Write};

use super::Tracer;
use super::budget::{Unit, Verdict};
use super::figures::{Cost, Figures, signed};

/// A tracer and what was measured.
pub struct Row {
    /// Which.
    pub tracer: Tracer,
    /// What came out.
    pub figures: Figures,
}

/// Prints what operations cost, what the tracers cost by themselves, and the
/// budgets.
pub fn print(rows: &[Row], verdicts: &[Verdict], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nInstructions per operation: all, in path\n")?;
    write_cells(&operations(rows), out)?;
    writeln!(out, "\nOf the tracers themselves\n")?;
    write_cells(&selves(rows), out)?;
    writeln!(out, "\nBudgets\n")?;
    write_cells(&budgets(verdicts), out)
}

type Cells = Vec<Vec<String>>;

fn cells(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

fn operations(rows: &[Row]) -> Cells {
    let mut table = vec![cells(&[
        "",
        "fork+wait wall",
        "in path",
        "unshare(NEWUTS) wall",
        "in path",
        "two setns wall",
        "in path",
    ])];
    let loads = [
        (|figures| figures.fork) as fn(&Figures) -> Cost,
        |figures| figures.unshare,
        |figures| figures.setns,
    ];
    // One for all: between guests only forks differ, by less than 1 %.
    if let Some(row) = rows.first() {
        let mut line = vec!["nothing attached".to_owned()];
        for cost in loads.map(|load| load(&row.figures)) {
            line.extend([grouped(cost.bare_wall), grouped(cost.bare_path)]);
        }
        table.push(line);
    }
    for row in rows {
        let mut line = vec![name(row.tracer).to_owned()];
        for cost in loads.map(|load| load(&row.figures)) {
            line.extend([wall(&cost), added(cost.more_path)]);
        }
        table.push(line);
    }
    table
}

fn name(tracer: Tracer) -> &'static str {
    match tracer {
        Tracer::NstraceFentry => "nstrace, fentry",
        Tracer::NstraceKprobe => "nstrace, kprobe",
        Tracer::BpftraceFentry => "bpftrace, fentry/fexit on 4 functions, printing",
        Tracer::BpftraceKprobe => "bpftrace, kprobe/kretprobe on 4 functions, printing",
    }
}

/// How many times as much, and how much more.
fn wall(cost: &Cost) -> String {
    let bare = signed(cost.bare_wall).max(1);
    let all = (bare + cost.more_wall).max(0);
    let hundredths = (all * 100 + bare / 2) / bare;
    let (times, rest) = (hundredths / 100, hundredths % 100);
    format!("{times}.{rest:02}x ({})", added(cost.more_wall))
}

fn added(more: i64) -> String {
    let sign = if more < 0 { '-' } else { '+' };
    format!("{sign}{}", grouped(more.unsigned_abs()))
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn selves(rows: &[Row]) -> Cells {
    let mut table = vec![cells(&[
        "",
        "start: own M instructions",
        "all, and sleep",
        "memory MB",
        "consumer, per unshare",
        "per two setns",
        "burst: reported",
        "said lost",
    ])];
    for row in rows {
        let rest = &row.figures.rest;
        table.push(vec![
            name(row.tracer).to_owned(),
            grouped(rest.start_cpu / 1_000_000),
            grouped(rest.start_wall / 1_000_000),
            megabytes(rest.memory_kb),
            grouped(row.figures.unshare.tracer),
            grouped(row.figures.setns.tracer),
            format!("{} of {}", grouped(rest.reported), grouped(rest.burst)),
            grouped(rest.lost),
        ]);
    }
    table
}

fn megabytes(kb: u64) -> String {
    let tenths = (kb * 1024 + 50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn budgets(verdicts: &[Verdict]) -> Cells {
    let mut table = vec![cells(&["", "attach", "measured", "at most", ""])];
    for verdict in verdicts {
        let at_most = verdict.at_most.map(|limit| shown(limit, verdict.unit));
        let judgement = match (&at_most, verdict.is_met()) {
            (None, _) => "",
            (Some(_), true) => "met",
            (Some(_), false) => "NOT MET",
        };
        table.push(vec![
            verdict.name.to_owned(),
            verdict.attach.to_owned(),
            shown(verdict.figure, verdict.unit),
            at_most.unwrap_or_default(),
            judgement.to_owned(),
        ]);
    }
    table
}

fn shown(figure: i64, unit: Unit) -> String {
    let size = figure.unsigned_abs();
    match unit {
        Unit::More => added(figure),
        Unit::Instructions if size >= 10_000_000 => format!("{} M", grouped(size / 1_000_000)),
        Unit::Instructions | Unit::Operations => grouped(size),
        Unit::Kilobytes => format!("{} MB", megabytes(size)),
    }
}

/// The first line is the head. Numbers stand to the right.
fn write_cells(table: &Cells, out: &mut dyn Write) -> io::Result<()> {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| {
        table
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).max(3)).collect();
    for (index, line) in table.iter().enumerate() {
        let mut text = String::from("|");
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            match column {
                0 => text += &format!(" {cell:width$} |"),
                _ => text += &format!(" {cell:>width$} |"),
            }
        }
        writeln!(out, "{text}")?;
        if index == 0 {
            let rules = widths
                .iter()
                .enumerate()
                .map(|(column, width)| match column {
                    0 => format!(" {} |", "-".repeat(*width)),
                    _ => format!(" {}: |", "-".repeat(width - 1)),
                });
            writeln!(out, "|{}", rules.collect::<String>())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::budget;
    use super::super::figures::tests::PRINTED;
    use super::*;

    #[test]
    fn numbers_are_grouped_and_signed() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(152_834), "152,834");
        assert_eq!(grouped(1_000_000), "1,000,000");
        assert_eq!(added(-1_500), "-1,500");
        let cost = Cost {
            bare_wall: 1_000,
            bare_path: 1_000,
            more_wall: 3_090,
            more_path: 0,
            tracer: 0,
        };
        assert_eq!(wall(&cost), "4.09x (+3,090)");
        assert_eq!(megabytes(19_531), "20.0");
    }

    #[test]
    fn tables_are_as_markdown_wants_them() {
        let row = |tracer, text: &str| Row {
            tracer,
            figures: Figures::parse(text).unwrap(),
        };
        let dear = PRINTED.replace("memory kb 9476", "memory kb 24900");
        let rows = [
            row(Tracer::NstraceFentry, PRINTED),
            row(Tracer::NstraceKprobe, &dear),
        ];
        let verdicts = budget::verdicts(&rows).unwrap();
        let mut out = Vec::new();
        print(&rows, &verdicts, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let squeezed: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for line in [
            "| nothing attached | 226,883 | 224,142 | 2,707 | 2,710 | 2,853 | 2,850 |",
            "| nstrace, fentry | 1.00x (+700) | +704 | 2.11x (+3,000) | +2,000 | 2.75x (+5,000) | +3,000 |",
            "| nstrace, fentry | 112 | 135 | 9.7 | 1,000 | 2,000 | 42,000 of 42,000 | 0 |",
            "| unshare(NEWUTS) in path | fentry | +2,000 | +3,500 | met |",
            "| two setns in path | kprobe | +3,000 | | |",
            "| start to attached | fentry | 112 M | 400 M | met |",
            "| memory at rest | kprobe | 25.5 MB | 20.0 MB | NOT MET |",
            "| consumer, text, per unshare | fentry | 1,000 | | |",
        ] {
            assert!(squeezed.iter().any(|l| l == line), "no {line} in\n{text}");
        }
        let of_first: Vec<usize> = text.lines().skip(3).take(5).map(str::len).collect();
        assert!(of_first.iter().all(|len| *len == of_first[0]), "{text}");
    }
}
