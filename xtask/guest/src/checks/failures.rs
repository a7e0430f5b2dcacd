//! Every failure that can be provoked has the right errno, the function that
//! failed, and the reason.

use anyhow::Result;

use super::{Suite, Verdict, check_lines};
use crate::act::{ROWS, Row, RowStage};
use crate::book::{Contents, Entry};
use crate::harness::compare;
use crate::harness::line::Op;
use crate::harness::report::Report;

/// Provokes all of them.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let attach = suite.attach;
    let (from, book) = suite.with_whole_book("failures", &["act", "failures"])?;
    let mut report = Report::default();
    let tracer = suite.tracer()?;
    let seen = tracer.seen();
    check_lines(&seen, from, attach, &mut report);
    compare_all(&book, &seen.ops_of_others(from), &mut report);
    Ok(Verdict::Ran(report))
}

/// Compares all that were provoked with the operations that were reported.
pub fn compare_all(book: &Contents, ops: &[Op], report: &mut Report) {
    let pairs = compare::pairs(book, ops, report);
    for row in ROWS {
        if let Some(skip) = book.skips.iter().find(|skip| skip.note == row.name) {
            // Debian's kernels alone have the switch; all have the controller.
            report.check(row.name.contains("userns_clone"), || {
                format!("{}: {}", row.name, skip.reason)
            });
            continue;
        }
        let mut failures = pairs
            .iter()
            .filter(|(entry, _)| entry.note == row.name && entry.ret < 0);
        match (failures.next(), failures.next()) {
            (Some((entry, op)), None) => check(row, entry, op, report),
            (None, _) => report.add(format!("{}: no such failure", row.name)),
            _ => report.add(format!("{}: several failures", row.name)),
        }
    }
}

fn check(row: &Row, entry: &Entry, op: &Op, report: &mut Report) {
    report.same(
        format!("{}: the kernel's errno", row.name),
        -entry.ret,
        i64::from(row.errno),
    );
    report.same(format!("{}: the call", row.name), entry.op.as_str(), row.op);
    for difference in compare::differences(entry, op) {
        report.add(format!("{}: {difference}", row.name));
    }
    let stage = op.failed_stage.as_deref();
    let is_right = match row.stage {
        RowStage::None => stage.is_none(),
        RowStage::Is(name) => stage == Some(name),
        RowStage::Maybe(name) => stage.is_none_or(|stage| stage == name),
    };
    report.check(is_right, || {
        format!("{}: failed_stage {stage:?}, not {:?}", row.name, row.stage)
    });
    let reason = op.reason.as_deref().unwrap_or_default();
    let words = row
        .words
        .iter()
        .copied()
        .chain(entry.words.iter().map(String::as_str));
    let missing: Vec<&str> = words.filter(|word| !mentions(reason, word)).collect();
    report.check(missing.is_empty(), || {
        format!(
            "{}: reason {:?} does not mention {missing:?}",
            row.name, op.reason
        )
    });
}

/// Whether a reason has the word: a number by itself, anything else anywhere.
fn mentions(reason: &str, word: &str) -> bool {
    if word.bytes().all(|byte| byte.is_ascii_digit()) {
        return reason
            .split(|c: char| !c.is_alphanumeric())
            .any(|part| part == word);
    }
    reason.to_lowercase().contains(&word.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: &str = "user.max_user_namespaces is 0 in user:4026531837";

    #[test]
    fn a_number_is_a_word_of_its_own() {
        assert!(mentions(REASON, "0") && mentions(REASON, "user:4026531837"));
        assert!(!mentions(REASON, "3") && mentions("init is dead (CLONE_FS)", "clone_fs"));
        assert!(mentions("its limit of 32.", "32"));
    }
}
