//! Mount namespaces made as descriptors, on kernels that make them.

use std::fs;

use anyhow::{Context, Result};

use super::{Suite, Verdict, check_lines};
use crate::harness::report::Report;
use crate::harness::{compare, lives};

/// The system calls with the first kernel that has them.
const CALLS: [(&str, (u32, u32)); 3] = [
    ("open_tree", (7, 0)),
    ("open_tree_attr", (7, 0)),
    ("fsmount", (7, 2)),
];

/// Both ways. A kernel that is new enough must have them.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version = version(&release).with_context(|| format!("{release}: no version"))?;
    if version < CALLS[0].1 {
        return Ok(Verdict::Ignored(format!(
            "Linux {}.{} has none (7.0 has)",
            version.0, version.1
        )));
    }
    let attach = suite.attach;
    let (from, book) = suite.with_whole_book("descriptors", &["act", "descriptors"])?;
    let mut report = Report::default();
    for (name, since) in CALLS.iter().filter(|(_, since)| version >= *since) {
        report.check(book.ops.iter().any(|entry| entry.note == *name), || {
            format!(
                "{name}, from Linux {}.{}: {:?}",
                since.0, since.1, book.skips
            )
        });
    }
    let seen = suite.tracer()?.seen();
    check_lines(&seen, from, attach, &mut report);
    let ops = seen.ops_of_others(from);
    for (entry, op) in compare::pairs(&book, &ops, &mut report) {
        // How many mounts there are, nobody tells from outside.
        let mut op = op.clone();
        report.check(op.mounts.is_some(), || {
            format!("{}: no mounts", entry.title())
        });
        op.mounts = None;
        for difference in compare::differences(entry, &op) {
            report.add(format!("{}: {difference}", entry.title()));
        }
    }
    let (births, deaths) = seen.lives(from);
    lives::compare(&book, &births, &deaths, &mut report);
    Ok(Verdict::Ran(report))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split('.').map(|word| word.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_release_has_a_version() {
        assert_eq!(
            super::version("6.12.117+deb13-cloud-amd64\n"),
            Some((6, 12))
        );
        assert_eq!(super::version("7.3.4+deb13"), Some((7, 3)));
    }
}
