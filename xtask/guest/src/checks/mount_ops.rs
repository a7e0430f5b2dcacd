//! Mount operations of every kind, in the tail and in a recording: what nstrace says each
//! did is what the mountinfo of every namespace says, before and after it.

pub mod kept;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Suite, Verdict, check_form, may_skip, uncounted};
use crate::act::{
    self,
    mount_op_storm::COMM,
    mount_ops::{self, Entry},
};
use crate::harness::line::{Line, Mount, MountBirths};
use crate::harness::report::Report;
use crate::harness::tracer::{self, Seen, Tracer};
use crate::harness::watch;
use crate::sys;

const PATIENCE: Duration = Duration::from_secs(60);

/// What must be among the failures, by their notes.
const REFUSED: [(&str, &str); 9] = [
    ("mount nowhere", "ENOENT"),
    ("no file system", "ENODEV"),
    ("umount nowhere", "ENOENT"),
    ("no mount point", "EINVAL"),
    ("has mounts", "EBUSY"),
    ("in use", "EBUSY"),
    ("no right to mount", "EPERM"),
    ("no right to unmount", "EPERM"),
    ("expire", "EAGAIN"),
];

/// What their reasons must have.
const REASONS: [(&str, &str); 8] = [
    ("no file system", "no file system nofs"),
    ("no mount point", "nothing is mounted there"),
    ("has mounts", "other mounts are on it"),
    ("in use", "in use"),
    ("no right to mount", "no CAP_SYS_ADMIN in user:"),
    ("no right to unmount", "no CAP_SYS_ADMIN in user:"),
    ("expire", "asked again"),
    ("fsopen nofs", "no file system nofs"),
];

/// What mounts said of the act, and what it was.
struct Told {
    mounts: Vec<Mount>,
    births: Vec<MountBirths>,
    lost: u64,
}

impl Told {
    fn of(seen: &Seen, from: usize, tids: &BTreeSet<u32>, report: &mut Report) -> Told {
        check_form(seen, from, &mut Report::default());
        for wrong in seen.wrong.iter().chain(&seen.text) {
            report.add(format!("not a line of docs/json.md: {wrong}"));
        }
        let lines = &seen.lines[from..];
        let mounts = lines.iter().filter_map(|line| match line {
            Line::Mount(mount) if tids.contains(&mount.tid) => Some((**mount).clone()),
            _ => None,
        });
        let births = lines.iter().filter_map(|line| match line {
            Line::MountBirths(births) if tids.contains(&births.tid) => Some(births.clone()),
            _ => None,
        });
        let lost = seen.lost(from).into_iter();
        let of_mounts = lost.filter(|lost| lost.record.starts_with("mount"));
        Told {
            mounts: mounts.collect(),
            births: births.collect(),
            lost: of_mounts.map(|lost| lost.count).sum(),
        }
    }
}

/// Live, recorded, and as text.
pub fn tail(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let file = format!("/run/nstrace-mount-ops-{}.nst", suite.attach);
    let words = suite.words(&["--mounts", "-o", &file]);
    let recorder = Tracer::start(&[&["record"], &words[..]].concat())?;
    let tracer = Tracer::start(&suite.words(&["--json", "--mounts"]))?;
    let from = tracer.mark();
    let dir = format!("/run/nstrace-mount-ops-{}", suite.attach);
    let entries = mount_ops::read(&act::perform(&["act", "mount-ops", "--dir", &dir])?)?;
    tracer.catch_up()?;
    let tids = mount_ops::tids(&entries);
    let ended = tracer.stop(libc::SIGINT)?;
    report.same("exit code of tail", ended.code(), 0);
    let live = Told::of(&ended.seen, from, &tids, &mut report);
    compare(&entries, &live, suite.attach, &mut report);
    let counted = ended
        .seen
        .stderr
        .iter()
        .any(|line| line.contains("mount operations"));
    report.check(counted, || "the summary has no mount operations".to_owned());

    let ended = recorder.stop(libc::SIGINT)?;
    report.same("exit code of record", ended.code(), 0);
    let words = ["--json", "--mounts", "--from", &file];
    let replay = Tracer::spawn(tracer::nstrace(&words))?.finish()?;
    report.same("exit code of replay", replay.code(), 0);
    let replayed = Told::of(&replay.seen, 0, &tids, &mut report);
    compare(&entries, &replayed, suite.attach, &mut report);
    if live.lost + replayed.lost == 0 {
        same(&live.mounts, &replayed.mounts, &mut report);
    }
    without(&file, &mut report)?;
    text(&file, &entries, &mut report)?;
    fs::remove_file(&file)?;
    Ok(Verdict::Ran(report))
}

/// A ring of one page and a storm, during one half of which nstrace stands still: what was
/// reported and what was lost are together what was done.
pub fn loss(suite: &mut Suite) -> Result<Verdict> {
    let words = ["--json", "--mounts", "--ring-size", "4096"];
    let tracer = Tracer::start(&suite.words(&words))?;
    let dir = format!("/run/nstrace-mount-op-storm-{}", suite.attach);
    let storm = || -> Result<u64> {
        let done = act::perform(&["act", "mount-op-storm", "--dir", &dir, "--ops", "400"])?;
        done.trim()
            .parse()
            .with_context(|| format!("the storm says {done:?}"))
    };
    let mut done = storm()?;
    sys::kill(i64::from(tracer.pid()), libc::SIGSTOP)?;
    let stood_still = storm();
    sys::kill(i64::from(tracer.pid()), libc::SIGCONT)?;
    done += stood_still?;
    let ended = tracer.stop(libc::SIGINT)?;
    let mut report = Report::default();
    report.same("exit code", ended.code(), 0);
    let is_own = |line: &&Line| matches!(line, Line::Mount(mount) if mount.comm == COMM);
    let told = ended.seen.lines.iter().filter(is_own).count() as u64;
    let lost = ended.seen.lost(0).into_iter();
    let lost: u64 = lost
        .filter(|lost| lost.record == "mount")
        .map(|lost| lost.count)
        .sum();
    report.check(lost > 0, || {
        format!("nothing lost of {done}: this proves nothing")
    });
    let unknown = if may_skip(suite.attach) {
        uncounted(done)
    } else {
        0
    };
    report.check((done - unknown..=done).contains(&(told + lost)), || {
        format!("{told} reported + {lost} lost, but {done} done")
    });
    Ok(Verdict::Ran(report))
}

/// Each entry with the line that it became; what there is none of was lost, and said to be.
fn pairs<'t>(
    entries: &'t [Entry],
    told: &'t Told,
    attach: &str,
    report: &mut Report,
) -> Vec<(&'t Entry, &'t Mount)> {
    let mut left: Vec<&Mount> = told.mounts.iter().collect();
    let (mut pairs, mut missing) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = left.iter().position(|mount| is_of(entry, mount));
        match at {
            Some(at) => pairs.push((entry, left.remove(at))),
            None => missing.push(entry),
        }
    }
    for mount in left {
        report.add(format!("nobody did {mount:?}"));
    }
    let may_be = if may_skip(attach) { told.lost } else { 0 };
    if missing.len() as u64 > may_be {
        for entry in missing {
            report.add(format!("not told: {entry:?}"));
        }
    }
    pairs
}

fn is_of(entry: &Entry, mount: &Mount) -> bool {
    entry.tid == mount.tid
        && entry.op == mount.op
        && entry.what == mount.what
        && (entry.errno != 0) == mount.errno.is_some()
        && entry.target == mount.target
}

fn compare(entries: &[Entry], told: &Told, attach: &str, report: &mut Report) {
    for (note, errno) in REFUSED {
        let entry = entries.iter().find(|entry| entry.note == note);
        let found = entry.map(|entry| -i64::from(entry.errno));
        let number = number(errno);
        report.same(format!("{note}: the act itself"), found, Some(number));
    }
    let pairs = pairs(entries, told, attach, report);
    for (entry, mount) in &pairs {
        let mut own = Report::default();
        difference(entry, mount, &mut own);
        report.append(&entry.note, own);
    }
    for (note, words) in REASONS {
        let pair = pairs.iter().find(|(entry, _)| entry.note == note);
        let reason = pair.and_then(|(_, mount)| mount.reason.as_deref());
        if pair.is_some() {
            let has = reason.is_some_and(|reason| reason.contains(words));
            report.check(has, || format!("{note}: the reason is {reason:?}"));
        }
    }
    linked(&pairs, report);
    if told.lost == 0 {
        made(&pairs, report);
    }
    for (entry, mount) in &pairs {
        let births = told.births.iter();
        let own = births.filter(|births| {
            births.tid == mount.tid && births.op_mono_ns == mount.mono_ns && births.op == mount.op
        });
        let born: Vec<_> = own.flat_map(|births| births.births.clone()).collect();
        if entry.errno == 0 && told.lost == 0 {
            report.same(
                format!("{}: births", entry.note),
                born.len() as u32,
                entry.made,
            );
        }
        if entry.op == "copy_mnt_ns" && told.lost == 0 {
            let ids: BTreeSet<u32> = born.iter().map(|birth| birth.id).collect();
            let from: BTreeSet<u32> = born.iter().filter_map(|birth| birth.from).collect();
            for id in entry.to.iter().filter(|id| !ids.contains(id)) {
                report.add(format!("{}: no birth of mount {id}", entry.note));
            }
            for id in entry.from.iter().filter(|id| !from.contains(id)) {
                report.add(format!("{}: no copy of mount {id}", entry.note));
            }
            let whole = (entry.to.len() + entry.hidden as usize, entry.to.len());
            report.check(whole.0 == ids.len() && whole.0 == from.len(), || {
                format!("{}: {} births of {} mounts", entry.note, ids.len(), whole.0)
            });
        }
    }
}

fn number(errno: &str) -> i64 {
    let numbers = [
        ("ENOENT", libc::ENOENT),
        ("ENODEV", libc::ENODEV),
        ("EINVAL", libc::EINVAL),
        ("EBUSY", libc::EBUSY),
        ("EPERM", libc::EPERM),
        ("EAGAIN", libc::EAGAIN),
    ];
    let found = numbers.iter().find(|(name, _)| *name == errno);
    -found.map_or(0, |(_, number)| i64::from(*number))
}

/// What an operation did, and what nstrace says.
fn difference(entry: &Entry, mount: &Mount, report: &mut Report) {
    if entry.errno != 0 {
        report.same("ret", mount.ret, -i64::from(entry.errno));
    } else {
        report.check((mount.ret > 0) == entry.is_fd, || {
            format!("ret {}", mount.ret)
        });
    }
    report.same("source", &mount.source, &entry.source);
    report.same("made", mount.made, entry.made);
    let by_propagation = (mount.made_by_propagation, mount.taken_by_propagation);
    let expected = (entry.made_by_propagation, entry.taken_by_propagation);
    report.same("by propagation", by_propagation, expected);
    report.same("taken", mount.taken, entry.taken);
    if entry.errno == 0 && entry.target_path.is_some() && mount.op != "mount_setattr" {
        let picks = mount.op == "fspick";
        report.check(picks || mount.target_path == entry.target_path, || {
            format!("{:?}, not {:?}", mount.target_path, entry.target_path)
        });
    }
    if entry.id.is_some() && mount.op != "fspick" {
        report.same("id", mount.id, entry.id);
    }
    report.check(mount.caller_mnt.is_some(), || "no namespace".to_owned());
    let given = |path: &Option<String>| path.as_deref().is_some_and(|path| path.starts_with('/'));
    if entry.errno == 0 && mount.what.as_deref() == Some("bind") && given(&mount.source) {
        report.same("source_path", &mount.source_path, &mount.source);
        report.check(mount.from.is_some(), || "no mount that it is of".to_owned());
    }
    if entry.errno == 0 && matches!(mount.op.as_str(), "mount" | "umount" | "move_mount") {
        report.check(mount.fs.is_some() && mount.dev.is_some(), || {
            format!("fs {:?} on {:?}", mount.fs, mount.dev)
        });
    }
}

/// Who unmounts a mount is told who made it, when, and of which it is a copy.
fn made(pairs: &[(&Entry, &Mount)], report: &mut Report) {
    let by_note = |note: &str| {
        let found = pairs.iter().find(|(entry, _)| entry.note == note);
        found.map(|(_, mount)| *mount)
    };
    for (first, then) in [
        ("bind", "plain"),
        ("rbind", "lazy"),
        ("hostile", "hostile gone"),
    ] {
        let (Some(first), Some(then)) = (by_note(first), by_note(then)) else {
            continue;
        };
        let maker = then
            .maker
            .as_ref()
            .map(|maker| (maker.op.as_str(), maker.tid));
        report.same(
            "who mounted it",
            maker,
            Some((first.op.as_str(), first.tid)),
        );
        let age = then.mono_ns.checked_sub(first.mono_ns);
        report.same("when it was mounted", then.age_ns, age);
        report.same("what it is a copy of", then.copy_of, first.from);
    }
}

/// What a descriptor is for is known by the id.
fn linked(pairs: &[(&Entry, &Mount)], report: &mut Report) {
    let id = |note: &str| {
        let found = pairs.iter().find(|(entry, _)| entry.note == note);
        found.map(|(_, mount)| mount.id)
    };
    for (first, then) in [
        ("fsmount", "move_mount"),
        ("open_tree", "move tree"),
        ("open_tree", "mount_setattr"),
    ] {
        if let (Some(first_id), Some(then_id)) = (id(first), id(then)) {
            report.same(format!("{then} is of {first}"), then_id, first_id);
        }
    }
}

/// Two tracers told the same.
fn same(live: &[Mount], replayed: &[Mount], report: &mut Report) {
    let told = |mounts: &[Mount]| -> Vec<Mount> {
        let mut mounts = mounts.to_vec();
        for mount in &mut mounts {
            // Each takes the time for itself.
            (mount.mono_ns, mount.took_ns, mount.age_ns) = (0, 0, None);
        }
        mounts
    };
    let (live, replayed) = (told(live), told(replayed));
    for mount in live.iter().filter(|mount| !replayed.contains(mount)) {
        report.add(format!("not in the recording: {mount:?}"));
    }
    for mount in replayed.iter().filter(|mount| !live.contains(mount)) {
        report.add(format!("not in the tail: {mount:?}"));
    }
}

/// Who does not ask for mounts does not get them.
fn without(file: &str, report: &mut Report) -> Result<()> {
    let replay = Tracer::spawn(tracer::nstrace(&["--json", "--from", file]))?.finish()?;
    let is_mount = |line: &&Line| matches!(line, Line::Mount(_) | Line::MountBirths(_));
    let count = replay.seen.lines.iter().filter(is_mount).count();
    report.same("mounts that nobody asked for", count, 0);
    Ok(())
}

/// As lines for people: no control character, and what was asked for.
fn text(file: &str, entries: &[Entry], report: &mut Report) -> Result<()> {
    let words = ["--mounts", "--color=never", "--from", file];
    let text = watch::run(&words, PATIENCE)?;
    for line in &text.stdout {
        if line.chars().any(char::is_control) {
            report.add(format!("control characters in {line:?}"));
        }
    }
    let dir = entries
        .iter()
        .find(|entry| entry.note == "first")
        .and_then(|entry| entry.target.clone())
        .context("nothing was mounted")?;
    let dir = Path::new(&dir).display();
    for words in [
        &[
            "mount",
            &format!("tmpfs on {dir}/a "),
            "made",
            "by propagation",
        ][..],
        &["rbind", &format!("{dir}/a on {dir}/c")],
        &["umount", &format!("{dir}/c lazy"), "gone", "by propagation"],
        &["remount", &format!("{dir}/b bind,ro")],
        &["move", &format!("{dir}/p/from to {dir}/to")],
        &["rprivate"],
        &["pivot_root"],
        &["umount", &format!("{dir}/a "), "EBUSY"],
    ] {
        let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
        report.check(text.stdout.iter().any(|line| has_all(&line)), || {
            format!("no line has {words:?}")
        });
    }
    // -- and the filters hold of mounts, too.
    let words = [
        "--mounts", "--json", "--failed", "--op", "umount", "--from", file,
    ];
    let failed = Tracer::spawn(tracer::nstrace(&words))?.finish()?;
    for line in &failed.seen.lines {
        let holds = match line {
            Line::Mount(mount) => mount.op == "umount" && mount.errno.is_some(),
            Line::Lost(_) => true,
            _ => false,
        };
        report.check(holds, || format!("--failed --op umount lets pass {line:?}"));
    }
    report.check(!failed.seen.lines.is_empty(), || {
        "--failed --op umount lets nothing pass".to_owned()
    });
    Ok(())
}
