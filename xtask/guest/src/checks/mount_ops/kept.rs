//! Mount operations in recordings from which something is left out: by a filter, and names; and
//! what the report of one adds up.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::PATIENCE;
use crate::act;
use crate::checks::{Suite, Verdict};
use crate::harness::line::{Line, Mount};
use crate::harness::report::Report;
use crate::harness::tracer::{self, Tracer};
use crate::harness::watch;

/// A line of the report, as far as it matters.
#[derive(Deserialize)]
struct Sums {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    failed: u64,
    #[serde(default)]
    made: u64,
    #[serde(default)]
    taken: u64,
}

/// With names left out, only umounts that fail are recorded, or are the reason for which the
/// flight recorder writes all; the report of that has what its lines come to.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let dir = format!("/run/nstrace-mount-secret-{}", suite.attach);
    let files = format!("/run/nstrace-mount-kept-{}", suite.attach);
    fs::create_dir_all(&files)?;
    let [filtered, flight] = ["filtered", "flight"].map(|name| format!("{files}/{name}"));
    let own = ["--mounts", "--redact", "--op", "umount", "--failed", "-o"];
    let start = |more: &[&str]| {
        let words = suite.words(&[&own[..], more].concat());
        Tracer::start(&[&["record"], &words[..]].concat())
    };
    let recorders = [
        start(&[&format!("{filtered}.nst")])?,
        start(&[&format!("{flight}.nst"), "--flight", "30s"])?,
    ];
    act::perform(&["act", "mount-ops", "--dir", &dir])?;
    let flown = format!("{flight}.000001.nst");
    let enough = Instant::now() + PATIENCE;
    while !Path::new(&flown).exists() {
        ensure!(Instant::now() < enough, "{flown} does not come");
        thread::sleep(Duration::from_millis(100));
    }
    let mut counted = Vec::new();
    for recorder in recorders {
        let ended = recorder.stop(libc::SIGINT)?;
        report.same("exit code of record", ended.code(), 0);
        counted.extend(ended.seen.stderr.last().cloned());
    }
    let filtered = format!("{filtered}.nst");
    let told = mounts(&filtered, &dir, &mut report)?;
    let others = told
        .iter()
        .filter(|mount| mount.op != "umount" || mount.errno.is_none());
    report.same("others than umounts that fail", others.count(), 0);
    report.check(!told.is_empty(), || "no umount fails".to_owned());
    let words = format!(" {} mount operations, ", told.len());
    report.check(counted[0].contains(&words), || {
        format!("it counts {:?}", counted[0])
    });
    let told = mounts(&flown, &dir, &mut report)?;
    report.check(told.iter().any(|mount| mount.op == "mount"), || {
        "all is filtered".to_owned()
    });
    summed(&flown, &told, &mut report)?;
    fs::remove_dir_all(&files)?;
    Ok(Verdict::Ran(report))
}

/// The mount operations of a recording, which have no name and no path.
fn mounts(file: &str, dir: &str, report: &mut Report) -> Result<Vec<Mount>> {
    let replay =
        Tracer::spawn(tracer::nstrace(&["--json", "--mounts", "--from", file]))?.finish()?;
    report.same("exit code of replay", replay.code(), 0);
    let mut mounts = Vec::new();
    for line in replay.seen.lines {
        if let Line::Mount(mount) = line {
            let paths = [
                &mount.source,
                &mount.source_path,
                &mount.target,
                &mount.target_path,
            ];
            let has_names = paths.iter().any(|path| path.is_some()) || !mount.comm.is_empty();
            report.check(!has_names, || format!("redacted: {mount:?}"));
            mounts.push(*mount);
        }
    }
    let raw = String::from_utf8_lossy(&fs::read(file)?).into_owned();
    report.check(!raw.contains(dir), || format!("{dir} is in {file}"));
    Ok(mounts)
}

/// By what was done: how many, how many failed, mounts made and taken away.
fn summed(file: &str, mounts: &[Mount], report: &mut Report) -> Result<()> {
    let mut sums = BTreeMap::<String, [u64; 4]>::new();
    for mount in mounts {
        let name = match mount.what.as_deref() {
            None if mount.op == "umount" && mount.flags.iter().any(|flag| flag == "DETACH") => {
                "umount_lazy"
            }
            None => &mount.op,
            Some("new") => "mount",
            Some("bind_remount") => "remount",
            Some("shared" | "private" | "slave" | "unbindable") => "propagation",
            Some(what) => what,
        };
        let [count, failed, made, taken] = sums.entry(name.to_owned()).or_default();
        *count += 1;
        *failed += u64::from(mount.errno.is_some());
        *made += u64::from(mount.made);
        *taken += u64::from(mount.taken);
    }
    let ended = watch::run(&["report", "--json", file], PATIENCE)?;
    report.same("exit code of report", ended.code, Some(0));
    let mut told = BTreeMap::new();
    for line in &ended.stdout {
        let line: Sums = serde_json::from_str(line)?;
        if line.kind == "mount_lengths" {
            let numbers = [line.count, line.failed, line.made, line.taken];
            told.insert(line.name, numbers);
        }
    }
    report.same("what the report adds up", told, sums);
    Ok(())
}
