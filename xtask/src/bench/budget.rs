//! What nstrace may cost at most: one table, and what a measurement makes of it.
//!
//! The figures that a budget is for are what nstrace adds to an operation, or what
//! it uses by itself. docs/performance.md has the reasons.

use anyhow::{Context, Result};

use super::Tracer;
use super::figures::{Figures, Rest, difference, signed};
use super::table::Row;

/// One limit.
struct Budget {
    name: &'static str,
    unit: Unit,
    figure: fn(&Figures) -> i64,
    /// None where there is no budget.
    fentry: Option<i64>,
    kprobe: Option<i64>,
}

/// How a figure is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// More instructions than with nothing attached.
    More,
    /// Instructions.
    Instructions,
    /// 1024 bytes; a MB of the budgets has 1,000,000.
    Kilobytes,
    /// Operations.
    Operations,
}

const BUDGETS: &[Budget] = &[
    Budget {
        name: "plain fork+wait, wall",
        unit: Unit::More,
        figure: |it| it.fork.more_wall,
        fentry: Some(1_500),
        kprobe: Some(3_000),
    },
    Budget {
        name: "unshare(NEWUTS) in path",
        unit: Unit::More,
        figure: |it| it.unshare.more_path,
        fentry: Some(3_500),
        kprobe: Some(6_500),
    },
    Budget {
        name: "two setns in path",
        unit: Unit::More,
        figure: |it| it.setns.more_path,
        fentry: Some(4_000),
        kprobe: None,
    },
    Budget {
        name: "unshare(NEWUTS) wall",
        unit: Unit::More,
        figure: |it| it.unshare.more_wall,
        fentry: Some(5_000),
        kprobe: None,
    },
    Budget {
        name: "start to attached",
        unit: Unit::Instructions,
        figure: |it| signed(it.rest.start_cpu),
        fentry: Some(400_000_000),
        kprobe: Some(400_000_000),
    },
    Budget {
        name: "memory at rest",
        unit: Unit::Kilobytes,
        figure: |it| signed(it.rest.memory_kb),
        fentry: Some(MEMORY_KB),
        kprobe: Some(MEMORY_KB),
    },
    Budget {
        name: "burst: not reported, or lost",
        unit: Unit::Operations,
        figure: |it| missing(&it.rest),
        fentry: Some(0),
        kprobe: Some(0),
    },
    // The budget of 1,500 is for recordings.
    Budget {
        name: "consumer, text, per unshare",
        unit: Unit::Instructions,
        figure: |it| signed(it.unshare.tracer),
        fentry: None,
        kprobe: None,
    },
];

/// 20 MB.
const MEMORY_KB: i64 = 20_000_000 / 1024;

/// Of a burst; operations that are reported twice are as wrong.
fn missing(rest: &Rest) -> i64 {
    let silent = difference(rest.burst, rest.reported).abs();
    silent.max(signed(rest.lost))
}

/// A figure beside its budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What was measured.
    pub name: &'static str,
    /// How it attached.
    pub attach: &'static str,
    /// How to show it.
    pub unit: Unit,
    /// What came out.
    pub figure: i64,
    /// What is allowed; None if nothing is said about it.
    pub at_most: Option<i64>,
}

impl Verdict {
    /// Whether the figure is within the budget, if there is one.
    pub fn is_met(&self) -> bool {
        self.at_most.is_none_or(|at_most| self.figure <= at_most)
    }
}

/// Holds nstrace's rows against all budgets.
pub fn verdicts(rows: &[Row]) -> Result<Vec<Verdict>> {
    let fentry = find(rows, Tracer::NstraceFentry)?;
    let kprobe = find(rows, Tracer::NstraceKprobe)?;
    let mut verdicts = Vec::new();
    for budget in BUDGETS {
        for (attach, figures, at_most) in [
            ("fentry", fentry, budget.fentry),
            ("kprobe", kprobe, budget.kprobe),
        ] {
            verdicts.push(Verdict {
                name: budget.name,
                attach,
                unit: budget.unit,
                figure: (budget.figure)(figures),
                at_most,
            });
        }
    }
    Ok(verdicts)
}

fn find(rows: &[Row], tracer: Tracer) -> Result<&Figures> {
    let row = rows.iter().find(|row| row.tracer == tracer);
    Ok(&row
        .with_context(|| format!("{} was not measured", tracer.word()))?
        .figures)
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::PRINTED;
    use super::*;

    fn rows(nstrace: &str) -> Vec<Row> {
        let row = |tracer, text: &str| Row {
            tracer,
            figures: Figures::parse(text).unwrap(),
        };
        vec![
            row(Tracer::NstraceFentry, nstrace),
            row(Tracer::NstraceKprobe, nstrace),
        ]
    }

    fn missed(nstrace: &str) -> Vec<(&'static str, &'static str, i64)> {
        let verdicts = verdicts(&rows(nstrace)).unwrap();
        let missed = verdicts.iter().filter(|verdict| !verdict.is_met());
        missed.map(|v| (v.name, v.attach, v.figure)).collect()
    }

    #[test]
    fn figures_within_all_budgets_are_met() {
        assert_eq!(missed(PRINTED), []);
    }

    #[test]
    fn a_budget_is_for_what_is_added() {
        let dear = PRINTED.replace("unshare wall 5707 cpu 4710", "unshare wall 7707 cpu 6211");
        assert_eq!(missed(&dear), [("unshare(NEWUTS) in path", "fentry", 3501)]);
        let fork = PRINTED.replace("fork wall 227583", "fork wall 228384");
        assert_eq!(missed(&fork), [("plain fork+wait, wall", "fentry", 1501)]);
    }

    /// Operations that are neither reported nor counted are the worst loss, and one
    /// that is reported twice is no better.
    #[test]
    fn a_burst_must_be_whole() {
        let name = "burst: not reported, or lost";
        let silent = PRINTED.replace("reported 42000", "reported 41990");
        assert_eq!(
            missed(&silent),
            [(name, "fentry", 10), (name, "kprobe", 10)]
        );
        let twice = PRINTED.replace("reported 42000", "reported 42001");
        assert_eq!(missed(&twice), [(name, "fentry", 1), (name, "kprobe", 1)]);
        let lost = PRINTED.replace("reported 42000 lost 0", "reported 41993 lost 7");
        assert_eq!(missed(&lost), [(name, "fentry", 7), (name, "kprobe", 7)]);
    }

    #[test]
    fn without_a_row_of_nstrace_there_is_no_verdict() {
        let error = verdicts(&rows(PRINTED)[..1]).unwrap_err();
        assert_eq!(error.to_string(), "nstrace-kprobe was not measured");
    }
}
