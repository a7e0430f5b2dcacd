//! The mounts of a container whose root is an overlay with a mistake: that is named. Of what is no
//! container's nobody has a ledger: that it died unbalanced is told, and no more.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Ledger, named};
use crate::act::overlay::{calls, place::Place};
use crate::checks::{Suite, Verdict, runc};
use crate::harness::kernel_log::{KernelLog, Unbalanced};
use crate::harness::module::Inserted;
use crate::harness::report::Report;

/// A copy-up of it gives write access back once too often.
const MODULE: &str = "overlay_copy_up_drop";

/// Files that are copied up in the container, and in an overlay beside it.
const FILES: [usize; 2] = [3, 1];

/// By the beginning of its id, as engines print it.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    let id = runc::PLAIN;
    let module = Inserted::new(MODULE)?;
    let mut log = KernelLog::open()?;
    let place = Place::new(Path::new("/run/nstrace-container"))?;
    fill(&place.lower())?;
    let beside = place.mount("beside", "")?;
    runc::prepare(id, false)?;
    let root = Path::new(runc::BUNDLE).join("rootfs");
    fill(&root)?;
    let layers = [place.directory("upper")?, place.directory("work")?];
    let [upper, work] = layers.each_ref().map(|layer| layer.display());
    let shown = root.display();
    let options = format!("lowerdir={shown},upperdir={upper},workdir={work}");
    calls::mount("overlay", &root, &options).context("cannot mount the container's root")?;
    let running = runc::start(id)?;

    let ledger = Ledger::start(suite, &["--container", &id[..12]])?;
    let inside = format!("/proc/{}/root", running.pid);
    for (dir, files) in [Path::new(&inside), &beside].into_iter().zip(FILES) {
        for number in 0..files {
            let path = dir.join(format!("file{number}"));
            let mut file = OpenOptions::new().append(true).open(path)?;
            file.write_all(b"more")?;
        }
    }
    runc::runc(&["delete", "--force", id])?;
    for mount in [&root, &beside] {
        calls::unmount(mount, false)?;
    }
    let deaths = ledger.finish()?;
    place.remove()?;
    module.remove()?;

    let counts = FILES.map(|files| -(files as i64));
    let told: Vec<i64> = deaths.iter().map(|death| death.writers).collect();
    report.same("told", told, counts.to_vec());
    let warnings = Unbalanced::all(&log.read()?);
    for count in counts {
        let is_of = |warning: &Unbalanced| warning.is_of(count as i32);
        report.check(warnings.iter().any(is_of), || {
            format!("the kernel counts {warnings:?}, and nothing as {count}")
        });
    }
    let (own, beside) = deaths.split_at(deaths.len().min(1));
    let unknown = beside.iter().filter(|death| death.verdict.is_none());
    report.same("not watched", unknown.count(), 1);
    for death in own {
        report.check(death.private, || format!("of no private clone: {death:?}"));
        let found = named(death);
        let is_named = found.len() == 1 && found[0].0.contains("copy_up");
        report.check(is_named && found[0].1 == death.writers, || {
            format!("named {found:?}: {:?}", death.verdict)
        });
    }
    Ok(Verdict::Ran(report))
}

/// Makes what is to be copied up.
fn fill(dir: &Path) -> Result<()> {
    let most = FILES.into_iter().max().unwrap_or(0);
    Ok((0..most).try_for_each(|number| fs::write(dir.join(format!("file{number}")), "x"))?)
}
