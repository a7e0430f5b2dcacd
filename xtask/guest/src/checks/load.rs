//! The load: every operation is reported once and right, and every namespace is
//! born and dies.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Suite, Verdict, check_form, check_lines, may_skip, uncounted};
use crate::harness::report::Report;
use crate::harness::{compare, lives};

/// How long a namespace may outlive its last task: workers free it.
const DEATH_DELAY: Duration = Duration::from_secs(20);

/// The deepest chain of process ids that the load must reach: five levels below
/// the first.
const LEVELS: usize = 6;

fn load(suite: &mut Suite) -> Result<()> {
    if suite.loaded.is_none() {
        let (ops, seed) = (suite.args.ops.to_string(), suite.args.seed.to_string());
        let args = ["load", "--workers", "4", "--ops", &ops, "--seed", &seed];
        suite.loaded = Some(suite.with_book("load", &args)?);
    }
    Ok(())
}

/// Every operation of the load, and no other.
pub fn operations(suite: &mut Suite) -> Result<Verdict> {
    load(suite)?;
    let mut report = Report::default();
    if let (Some((from, book)), Some(tracer)) = (&suite.loaded, &suite.tracer) {
        let seen = tracer.seen();
        let may_skip = may_skip(suite.attach);
        check_lines(&seen, *from, suite.attach, &mut report);
        let skipped = check_form(&seen, *from, &mut Report::default());
        let lost = may_skip.then_some(skipped.ops);
        compare::operations(book, &seen.ops_of_others(*from), lost, &mut report);
        if skipped.ops == 0 {
            let (new, exits) = seen.tasks(*from);
            compare::tasks(book, &new, &exits, may_skip.then_some(0), &mut report);
        }
        let deepest = book.ops.iter().map(|entry| entry.facts.pids.len()).max();
        report.check(deepest >= Some(LEVELS), || {
            format!("the load is only {deepest:?} deep")
        });
    }
    Ok(Verdict::Ran(report))
}

/// Every namespace of the load is born and dies.
pub fn lives(suite: &mut Suite) -> Result<Verdict> {
    load(suite)?;
    let mut report = Report::default();
    if let (Some((from, book)), Some(tracer)) = (&suite.loaded, &suite.tracer) {
        let deadline = Instant::now() + DEATH_DELAY;
        loop {
            // An inode of /proc/PID that is still cached keeps the process's pid
            // namespaces alive.
            std::fs::write("/proc/sys/vm/drop_caches", "2")?;
            tracer.catch_up()?;
            let seen = tracer.seen();
            let (births, deaths) = seen.lives(*from);
            let skipped = check_form(&seen, *from, &mut Report::default());
            if skipped.ops == 0 && lives::balance(&births, &deaths) {
                lives::compare(book, &births, &deaths, &mut report);
                break;
            }
            // A lost operation's births are lost with it, and their deaths are of nobody.
            let known = deaths.len() as u64 + skipped.deaths;
            let unknown = (births.len() as u64).saturating_sub(known);
            let few = uncounted(births.len() as u64);
            let allowed = if may_skip(suite.attach) { few } else { 0 };
            let told = may_skip(suite.attach) || skipped.deaths > 0;
            if told && unknown <= allowed && skipped.deaths <= few {
                break;
            }
            if Instant::now() > deadline {
                report.add(format!(
                    "{} born, {} died, {} deaths lost",
                    births.len(),
                    deaths.len(),
                    skipped.deaths
                ));
                lives::compare(book, &births, &deaths, &mut report);
                break;
            }
        }
    }
    Ok(Verdict::Ran(report))
}
