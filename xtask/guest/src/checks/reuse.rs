//! A number that comes again is another namespace: two lives, never one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Suite, Verdict};
use crate::act;
use crate::harness::report::Report;
use crate::harness::tree::{self, Change};
use crate::harness::watch::{Said, Watch};

/// Attaching is slow in a guest whose processor is emulated.
pub const START: Duration = Duration::from_secs(60);

/// How long a change may take to be told. A net namespace dies in the background.
pub const DELAY: Duration = Duration::from_secs(20);

/// Starts `tree --watch --json` and waits until the tree is there.
pub fn watch(suite: &Suite) -> Result<Watch> {
    let words = ["tree", "--attach", suite.attach, "--watch", "--json"];
    let watch = Watch::start(&words)?;
    // Tasks come last, so namespaces are there too.
    let is_whole = |said: &Said| said.stdout.iter().any(|line| line.contains(r#""task""#));
    watch
        .wait_for(START, is_whole)
        .context("no tree of `nstrace tree --watch --json`")?;
    Ok(watch)
}

/// The changes of these types.
pub fn changes(said: &Said, types: &[&str]) -> Vec<Change> {
    let is_wanted = |line: &&String| types.iter().any(|what| line.contains(what));
    let lines = said.stdout.iter().filter(is_wanted);
    lines
        .filter_map(|line| tree::parse(&[line]).ok())
        .flat_map(|tree| tree.changes)
        .filter(|change| types.contains(&change.what.as_str()))
        .collect()
}

/// Waits for so many deaths of a namespace.
pub fn wait_for_deaths(watch: &Watch, kind: &str, inum: u32, count: usize) -> Result<()> {
    let number = inum.to_string();
    let has_died = |said: &Said| {
        // Most lines are of others; only these are parsed.
        let deaths = said.stdout.iter().filter(|line| line.contains(&number));
        let deaths = deaths.filter(|line| line.contains(r#""died""#));
        let parsed = deaths.filter_map(|line| tree::parse(&[line]).ok());
        let of_it = parsed.filter(|tree| tree.changes.iter().any(|c| c.is_of(kind, inum)));
        of_it.count() >= count
    };
    watch
        .wait_for(DELAY, has_died)
        .with_context(|| format!("{kind}:{inum} has not died {count} times"))
}

/// Makes and destroys namespaces until numbers have come again.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let watch = watch(suite)?;
    let said = act::perform(&["act", "reuse"])?;
    let mut lives: BTreeMap<(String, u32), usize> = BTreeMap::new();
    for line in said.lines() {
        let (kind, inum) = line.split_once(' ').context("a line of another form")?;
        *lives.entry((kind.to_owned(), inum.parse()?)).or_default() += 1;
    }
    let mut report = Report::default();
    for ((kind, inum), count) in &lives {
        if let Err(error) = wait_for_deaths(&watch, kind, *inum, *count) {
            report.add(format!("{error:#}"));
        }
    }
    let all = watch.look(|said| changes(said, &["born", "found", "died"]));
    for ((kind, inum), count) in &lives {
        let of_it = all.iter().filter(|change| change.is_of(kind, *inum));
        let told: Vec<&str> = of_it.map(|change| change.what.as_str()).collect();
        let times = all.iter().filter(|change| change.is_of(kind, *inum));
        let times: Vec<u64> = times.map(|change| change.mono_ns).collect();
        report.check(times.is_sorted(), || {
            format!("{kind}:{inum}: not in order of time: {times:?}")
        });
        let expected = ["born", "died"].repeat(*count);
        report.same(format!("lives of {kind}:{inum}"), told, expected);
    }
    watch.signal(libc::SIGINT)?;
    let ended = watch.finish(START)?;
    report.same("exit code", ended.code, Some(0));
    for line in &ended.stdout {
        if let Err(error) = tree::parse(&[line]) {
            report.add(format!("{error:#}"));
        }
    }
    Ok(Verdict::Ran(report))
}
