//! The text: a line for each operation, the call tree, colours, and names that
//! cannot do harm.

use std::process::Command;

use anyhow::Result;

use super::{Suite, Verdict};
use crate::act;
use crate::book::{self, Contents, Entry};
use crate::harness::report::Report;
use crate::harness::tracer::{Tracer, nstrace};

/// A name that would clear the screen, begin a line, and end a JSON string.
const EVIL: &str = "\x1b[2J\n\"x";

struct Run {
    lines: Vec<String>,
    book: Contents,
}

impl Run {
    fn entry(&self, note: &str) -> Entry {
        self.book
            .ops
            .iter()
            .find(|entry| entry.note == note)
            .cloned()
            .unwrap_or_default()
    }

    /// The line that has all of these words, and the lines after it.
    fn after(&self, words: &[&str], report: &mut Report) -> &[String] {
        let found = self
            .lines
            .iter()
            .position(|line| words.iter().all(|word| line.contains(word)));
        if found.is_none() {
            report.add(format!("no line has {words:?}: {}", self.lines.join(" / ")));
        }
        found.map_or(&[], |at| &self.lines[at..])
    }
}

fn run_few(suite: &Suite, command: Command, comm: &str) -> Result<Run> {
    let path = suite.new_book("few");
    let tracer = Tracer::run(command)?;
    act::perform(&[
        "act",
        "few",
        "--comm",
        comm,
        "--book",
        &path.to_string_lossy(),
    ])?;
    let lines = tracer.stop(libc::SIGINT)?.seen.text;
    Ok(Run {
        lines,
        book: book::read(&path)?,
    })
}

/// Three starts of nstrace: plain, with the path in colour, and with a name that
/// means harm.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let plain = run_few(suite, nstrace(&suite.words(&[])), "few")?;
    tail(&plain, &mut report);
    no_escapes("a pipe", &plain, &mut report);
    let path = run_few(
        suite,
        nstrace(&suite.words(&["--path", "--color=always"])),
        "few",
    )?;
    report.check(path.lines.iter().any(|line| line.contains("\x1b[")), || {
        "--color=always has no colours".to_owned()
    });
    call_tree(&path, &mut report);
    let mut command = nstrace(&suite.words(&[]));
    command.env("NO_COLOR", "1");
    let evil = run_few(suite, command, EVIL)?;
    no_escapes("a name with escapes", &evil, &mut report);
    names(&evil, &mut report);
    Ok(Verdict::Ran(report))
}

fn no_escapes(what: &str, run: &Run, report: &mut Report) {
    for line in run
        .lines
        .iter()
        .filter(|line| line.chars().any(|c| c.is_control() && c != '\t'))
    {
        report.add(format!("{what}: control characters in {line}"));
    }
}

fn tail(run: &Run, report: &mut Report) {
    let header = ["TIME", "PID", "COMM", "OP", "RESULT"];
    run.after(&header, report);
    let unshare = run.entry("unshare").pid.to_string();
    run.after(&[&unshare, "few", "unshare", "+mnt", "+uts", "ok"], report);
    let clone = run.entry("clone");
    run.after(
        &["few", "clone", "+pid", "+ipc", &clone.ret.to_string()],
        report,
    );
    let refused = run.after(&["few", "unshare", "uts", "EPERM"], report);
    let reason = refused.get(1).map(String::as_str).unwrap_or_default();
    report.check(
        reason.starts_with(' ') && reason.contains("CAP_SYS_ADMIN"),
        || format!("no reason below the failure, but {reason:?}"),
    );
}

fn call_tree(run: &Run, report: &mut Report) {
    let mut plain = Run {
        lines: Vec::new(),
        book: run.book.clone(),
    };
    plain.lines = run.lines.iter().map(|line| without_colours(line)).collect();
    let (unshare, clone) = (run.entry("unshare"), run.entry("clone"));
    let mounts = format!("{} mounts copied", unshare.facts.mounts.unwrap_or_default());
    let from_to = |entry: &Entry, kind: usize, name: &str| {
        (
            format!("{name}:{}", entry.before[kind]),
            format!("{name}:{}", entry.after[kind]),
        )
    };
    let (from, to) = from_to(&unshare, crate::kinds::MNT, "mnt");
    let after = plain.after(
        &["unshare(NEWNS|NEWUTS)", "few", &unshare.pid.to_string()],
        report,
    );
    let after = Run {
        lines: after.to_vec(),
        book: Contents::default(),
    };
    after.after(&["copy_mnt_ns", &from, &to, &mounts], report);
    after.after(&["copy_utsname"], report);
    let (from, to) = from_to(&clone, crate::kinds::PID, "pid");
    plain.after(&["copy_pid_ns", &from, &to], report);
    plain.after(&["alloc_pid", &clone.ret.to_string(), &to], report);
    let depth = |name: &str| {
        let line = after.lines.iter().find(|line| line.contains(name));
        line.map(|line| line.len() - line.trim_start().len())
    };
    report.check(
        depth("copy_mnt_ns") > depth("create_new_namespaces"),
        || "copy_mnt_ns is not further in than create_new_namespaces".to_owned(),
    );
}

/// A line less its SGR sequences.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    text
}

fn names(run: &Run, report: &mut Report) {
    let pid = run.entry("unshare").pid.to_string();
    run.after(&[&pid, "\\x1b[2J", "unshare"], report);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_taken_off() {
        assert_eq!(without_colours("\x1b[1;31mEPERM\x1b[0m by x"), "EPERM by x");
        assert_eq!(without_colours("plain"), "plain");
    }
}
