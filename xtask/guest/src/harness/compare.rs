//! Compares a book with the operations that nstrace reported.

use std::collections::BTreeMap;

use super::line::{Op, PidAt, Task};
use super::report::Report;
use super::stages;
use crate::book::{Contents, Entry};
use crate::kinds::{self, KINDS};

/// The name of an errno that we meet.
pub fn errno_name(errno: i64) -> String {
    let name = match errno as i32 {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EINVAL => "EINVAL",
        libc::ENOSPC => "ENOSPC",
        libc::EUSERS => "EUSERS",
        libc::EACCES => "EACCES",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}

/// Of so many, how many may be missing or lack a detail where the kernel may skip
/// programs.
fn tolerated(all: usize, may_skip: bool) -> usize {
    if may_skip { all.div_ceil(100) } else { 0 }
}

/// Compares everything in the book with what was reported while it was written:
/// every operation once, and nothing else. Where the kernel may skip programs, those
/// that are missing must be as many as nstrace said.
pub fn operations(book: &Contents, ops: &[Op], may_skip: Option<u64>, report: &mut Report) {
    let Matched {
        pairs,
        missing,
        strays,
    } = matched(book, ops);
    let lost = may_skip.unwrap_or(0);
    // A plain fork becomes an operation only where it fails: if that is skipped, there
    // was nothing to count.
    let forks = match may_skip {
        Some(_) => missing.iter().filter(|entry| entry.flags == 0).count() as u64,
        None => 0,
    };
    let missed = missing.len() as u64;
    if !(lost..=lost + forks).contains(&missed) {
        if may_skip.is_some() {
            report.add(format!("{lost} lost, but {missed} not reported:"));
        }
        let titles = missing.iter().map(|entry| entry.title());
        titles.for_each(|title| report.add(format!("not reported: {title}")));
    }
    for op in strays {
        report.add(format!("in no book: {}", title(op)));
    }
    let wrong: Vec<String> = pairs
        .iter()
        .flat_map(|(entry, op)| {
            let found = differences(entry, op);
            found
                .into_iter()
                .map(|found| format!("{}: {found}", entry.title()))
        })
        .collect();
    if wrong.len() > tolerated(pairs.len(), may_skip.is_some()) {
        wrong.into_iter().for_each(|wrong| report.add(wrong));
    }
}

/// Entries and lines in pairs, and those without a partner.
#[derive(Default)]
struct Matched<'a> {
    pairs: Vec<(&'a Entry, &'a Op)>,
    missing: Vec<&'a Entry>,
    strays: Vec<&'a Op>,
}

/// Pairs entries and lines by thread, in order; what has no partner is reported.
pub fn pairs<'a>(
    book: &'a Contents,
    ops: &'a [Op],
    report: &mut Report,
) -> Vec<(&'a Entry, &'a Op)> {
    let matched = matched(book, ops);
    for op in matched.strays {
        report.add(format!("in no book: {}", title(op)));
    }
    for entry in matched.missing {
        report.add(format!("not reported: {}", entry.title()));
    }
    matched.pairs
}

fn matched<'a>(book: &'a Contents, ops: &'a [Op]) -> Matched<'a> {
    let mut by_thread: BTreeMap<u32, (Vec<&Entry>, Vec<&Op>)> = BTreeMap::new();
    for entry in &book.ops {
        by_thread.entry(entry.tid).or_default().0.push(entry);
    }
    for op in ops {
        by_thread.entry(op.tid).or_default().1.push(op);
    }
    let mut matched = Matched::default();
    for (entries, mut ops) in by_thread.into_values() {
        ops.sort_by_key(|op| op.mono_ns);
        match_thread(&entries, &ops, &mut matched);
    }
    matched
}

fn match_thread<'a>(entries: &[&'a Entry], ops: &[&'a Op], matched: &mut Matched<'a>) {
    let mut ops = ops.iter().peekable();
    for entry in entries {
        // A thread does one thing at a time: what began before is another's.
        while let Some(op) = ops.next_if(|op| op.mono_ns < entry.begin_ns) {
            matched.strays.push(op);
        }
        match ops.next_if(|op| op.mono_ns <= entry.end_ns) {
            Some(op) => matched.pairs.push((entry, op)),
            None => matched.missing.push(entry),
        }
    }
    matched.strays.extend(ops);
}

fn title(op: &Op) -> String {
    let (flags, ret) = (op.flags.join("|"), op.ret.unwrap_or_default());
    format!(
        "{}({flags}) = {ret} by {} ({}) at {}",
        op.op, op.tid, op.comm, op.mono_ns
    )
}

/// Every field in which a line differs from what was done.
pub fn differences(entry: &Entry, op: &Op) -> Vec<String> {
    let mut all = Differences(Vec::new());
    all.same("op", &op.op, &entry.op);
    all.same("flags_raw", op.flags_raw, entry.flags);
    let mut names = op.flags.clone();
    names.sort();
    all.same("flags", names, kinds::flag_names(entry.flags));
    all.same("ret", op.ret, Some(entry.ret));
    let errno = (entry.ret < 0).then(|| errno_name(-entry.ret));
    all.same("errno", &op.errno, &errno);
    all.same(
        "pid, tid, uid",
        (op.pid, op.tid, op.uid),
        (entry.pid, entry.tid, entry.uid),
    );
    all.same("comm", &op.comm, &entry.comm);
    all.same("cgroup", op.cgroup.as_deref(), Some(entry.cgroup.as_str()));
    all.inums(entry, op);
    all.facts(entry, op);
    if op.mono_ns + op.took_ns > entry.end_ns {
        all.0.push(format!(
            "ends {} ns too late",
            op.mono_ns + op.took_ns - entry.end_ns
        ));
    }
    if entry.ret >= 0 {
        all.0.extend(stages::difference(entry, &op.stages));
    }
    all.0
}

struct Differences(Vec<String>);

impl Differences {
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        if found != expected {
            self.0.push(format!("{what} {found:?}, not {expected:?}"));
        }
    }

    fn inums(&mut self, entry: &Entry, op: &Op) {
        for (index, kind) in KINDS.iter().enumerate() {
            if entry.before[index] != 0 {
                let what = format!("{} before", kind.name);
                self.same(&what, op.before[index], entry.before[index]);
            }
            let is_given = entry.ret >= 0 || op.after[index] != 0;
            if entry.after[index] != 0 && is_given {
                let what = format!("{} after", kind.name);
                self.same(&what, op.after[index], entry.after[index]);
            }
        }
    }

    fn facts(&mut self, entry: &Entry, op: &Op) {
        let facts = &entry.facts;
        self.same("pid_parent", op.pid_parent, facts.pid_parent);
        self.same("user_parent", op.user_parent, facts.user_parent);
        self.same("owner_uid", op.owner_uid, facts.owner_uid);
        self.same("owner", op.owner, facts.owner);
        self.same("mounts", op.mounts, facts.mounts);
        self.same("pids", &op.pids, &chain(&facts.pids));
        match (entry.op.as_str(), entry.ret) {
            ("setns", 0) if entry.target == 0 => {}
            ("setns", 0) => self.same("target", op.target, Some(entry.target)),
            // Which namespace was meant can be known, if there was any.
            ("setns", ret) if ret != -i64::from(libc::EBADF) => {}
            _ => self.same("target", op.target, None),
        }
    }
}

fn chain(pids: &[(u32, u32)]) -> Vec<PidAt> {
    pids.iter().map(|&(ns, pid)| PidAt { ns, pid }).collect()
}

/// Compares the tasks that plain forks made below the first pid namespace, and the
/// ends of all tasks there, with what was reported. Where the kernel may skip programs, a few
/// may be missing; some more, if nstrace said that so many runs were skipped.
pub fn tasks(
    book: &Contents,
    new: &[Task],
    exits: &[Task],
    may_skip: Option<usize>,
    report: &mut Report,
) {
    let mut expected: BTreeMap<u32, _> = book
        .tasks
        .iter()
        .filter(|task| task.pids.len() > 1)
        .map(|task| (task.tid, (chain(&task.pids), task.parent)))
        .collect();
    for task in new {
        match expected.remove(&task.tid) {
            None => report.add(format!("task_new of {} is in no book", task.tid)),
            Some((pids, parent)) => {
                report.same(format!("task_new of {}: pids", task.tid), &task.pids, &pids);
                let what = format!("task_new of {}: parent", task.tid);
                report.same(what, task.parent, Some(parent));
            }
        }
    }
    let said = may_skip.unwrap_or(0);
    let allowed = |all: usize| tolerated(all, may_skip.is_some()).max(said.min(all / 20));
    if expected.len() > allowed(book.tasks.len()) {
        for tid in expected.keys() {
            report.add(format!("no task_new of {tid}"));
        }
    }
    ends(book, exits, allowed(book.exits.len()), report);
}

fn ends(book: &Contents, exits: &[Task], allowed: usize, report: &mut Report) {
    let below = book.exits.iter().filter(|exit| exit.pids.len() > 1);
    let mut expected: BTreeMap<u32, _> = below.map(|exit| (exit.tid, exit)).collect();
    for task in exits {
        let Some(exit) = expected.remove(&task.tid) else {
            report.add(format!("task_exit of {} is in no book", task.tid));
            continue;
        };
        let how = format!("task_exit of {}: code, signal", task.tid);
        report.same(how, (task.exit_code, task.signal), (exit.code, exit.signal));
        report.same(
            format!("task_exit of {}: pids", task.tid),
            &task.pids,
            &chain(&exit.pids),
        );
    }
    if expected.len() > allowed {
        for tid in expected.keys() {
            report.add(format!("no task_exit of {tid}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{Exit, Facts, NewTask};
    use crate::harness::line::{self, Line};
    use crate::kinds::{NEWPID, PID, UTS};

    fn op() -> Op {
        match line::parse(line::tests::CLONE).unwrap() {
            Line::Op(op) => *op,
            other => panic!("{other:?}"),
        }
    }

    /// What was done when that line was printed.
    fn entry() -> Entry {
        let mut entry = Entry {
            op: "clone".into(),
            flags: NEWPID,
            ret: 71,
            pid: 70,
            tid: 70,
            comm: "load-0".into(),
            cgroup: "/nstrace-load".into(),
            begin_ns: 900,
            end_ns: 1600,
            facts: Facts {
                pids: vec![(12, 71), (13, 1)],
                pid_parent: Some(12),
                owner: Some(14),
                ..Facts::default()
            },
            ..Entry::default()
        };
        (entry.before[UTS], entry.after[UTS]) = (11, 11);
        (entry.before[PID], entry.after[PID]) = (12, 13);
        entry
    }

    fn report(entries: Vec<Entry>, ops: &[Op]) -> String {
        let mut report = Report::default();
        operations(
            &Contents {
                ops: entries,
                ..Contents::default()
            },
            ops,
            None,
            &mut report,
        );
        report.to_string()
    }

    #[test]
    fn what_agrees_has_no_differences() {
        assert_eq!(report(vec![entry()], &[op()]), "");
    }

    #[test]
    fn each_field_that_differs_is_named() {
        let mut other = entry();
        other.flags |= kinds::NEWNET;
        other.facts.owner = None;
        other.facts.mounts = Some(9);
        other.after[PID] = 99;
        other.facts.pids[1].1 = 2;
        other.end_ns = 1499;
        let found = differences(&other, &op()).join("\n");
        for what in [
            "flags_raw",
            "flags [",
            "owner ",
            "mounts",
            "pid after 13, not 99",
            "pids",
            "1 ns too late",
            "stages [",
        ] {
            assert!(found.contains(what), "{what}: {found}");
        }
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        assert!(report(vec![entry()], &[]).contains("not reported: clone(NEWPID) = 71 by 70"));
        let extra = report(vec![entry()], &[op(), op()]);
        assert!(
            extra.contains("in no book: clone(NEWPID) = 71 by 70 (load-0) at 1000"),
            "{extra}"
        );
    }

    /// A line that is missing must not make every later one of its thread differ.
    #[test]
    fn a_missing_line_does_not_shift_the_rest() {
        let later = Entry {
            begin_ns: 5000,
            end_ns: 6000,
            ..entry()
        };
        let mut late = op();
        late.mono_ns = 5100;
        let text = report(vec![entry(), later], &[late]);
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_failure_has_nothing_new() {
        let mut failed = entry();
        (failed.ret, failed.after, failed.facts) = (-28, failed.before, Facts::default());
        let text = differences(&failed, &op()).join("\n");
        assert!(
            text.contains("errno None, not Some(\"ENOSPC\")") && text.contains("pids ["),
            "{text}"
        );
    }

    #[test]
    fn tasks_below_the_first_pid_namespace_are_all_reported() {
        let pids = vec![(1, 80), (2, 5)];
        let task = |tid, pids: &[(u32, u32)]| NewTask {
            tid,
            parent: 70,
            is_thread: false,
            pids: pids.to_vec(),
        };
        let book = Contents {
            tasks: vec![task(80, &pids), task(81, &[(1, 81)])],
            exits: vec![Exit {
                tid: 80,
                code: Some(3),
                signal: None,
                pids: pids.clone(),
            }],
            ..Contents::default()
        };
        let new = Task {
            tid: 80,
            parent: Some(70),
            pids: chain(&pids),
            exit_code: None,
            signal: None,
        };
        let exit = Task {
            parent: None,
            exit_code: Some(3),
            ..new.clone()
        };
        let mut report = Report::default();
        tasks(
            &book,
            &[new],
            std::slice::from_ref(&exit),
            None,
            &mut report,
        );
        assert!(report.is_empty(), "{report}");
        tasks(
            &book,
            &[],
            &[Task {
                exit_code: Some(4),
                ..exit
            }],
            None,
            &mut report,
        );
        assert_eq!(report.len(), 2, "{report}");
    }
}
