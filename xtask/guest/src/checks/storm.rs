//! The storm of namespaces against what nstrace prints of it: from the live model, after
//! losses, and by one look.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{Suite, Verdict};
use crate::harness::against::{self, Readings};
use crate::harness::held::Held;
use crate::harness::report::Report;
use crate::harness::tree::{self, Tree};
use crate::harness::truth::{self, Truth};
use crate::harness::watch::{self, Watch};
use crate::left::{self, Left};

/// Attaching is slow in a guest whose processor is emulated, and slower in a storm.
const PATIENCE: Duration = Duration::from_secs(180);

/// After the storm the kernel frees in the background.
const REST: Duration = Duration::from_secs(30);

/// How long nstrace is stopped, so that its rings run over.
const PAUSE: Duration = Duration::from_secs(3);

/// A running storm.
struct Storm {
    act: Held,
    book: PathBuf,
}

impl Storm {
    fn start(suite: &Suite, name: &str, words: &[&str]) -> Result<Self> {
        let book = suite.new_book(name);
        let seed = suite.args.seed.to_string();
        let shown = book.to_string_lossy();
        let own = ["act", "tree-storm", "--seed", &seed, "--book", &shown];
        let mut act = Held::start(&[&own, words].concat())?;
        act.wait_for("begun")?;
        Ok(Storm { act, book })
    }

    /// Waits until all is at rest: what is then, and what is left on purpose.
    fn rest(&mut self) -> Result<(Truth, Vec<Left>)> {
        self.act.wait_for("at rest")?;
        Ok((truth::at_rest(REST)?, left::read(&self.book)?))
    }

    /// Has it let go of everything.
    fn end(self) -> Result<()> {
        self.act.end()
    }
}

/// Without nstrace: the book and the truth agree, and nothing stays when it has let go.
pub fn agrees(suite: &mut Suite) -> Result<Verdict> {
    if let Some(done) = suite.done_already() {
        return Ok(done);
    }
    let mut report = Report::default();
    let before = truth::at_rest(REST)?;
    let words = ["--sets", "1500", "--left", "112"];
    let mut storm = Storm::start(suite, "storm", &words)?;
    let (now, book) = storm.rest()?;
    against::book(&book, &before, &now, &mut report);
    storm.end()?;
    let after = truth::at_rest(REST)?;
    let keys = |truth: &Truth| truth.by_key().into_keys().collect::<Vec<_>>();
    report.same("namespaces after the storm", keys(&after), keys(&before));
    Ok(Verdict::Ran(report))
}

/// `tree -- COMMAND` that begins in the middle of a storm.
pub fn live(suite: &mut Suite) -> Result<Verdict> {
    let (ended, mut report) = in_a_storm(suite, "tree-storm", &[], Duration::ZERO)?;
    report.same("exit code", ended.code, Some(0));
    Ok(Verdict::Ran(report))
}

/// The same with rings of one page and a nstrace that stands still for a while.
pub fn loss(suite: &mut Suite) -> Result<Verdict> {
    let words = ["--ring-size", "4096"];
    let (ended, mut report) = in_a_storm(suite, "tree-loss", &words, PAUSE)?;
    report.same("exit code", ended.code, Some(0));
    let is_told = ended.stderr.iter().any(|line| line.contains("lost"));
    report.check(is_told, || {
        format!(
            "nothing lost: this proves nothing; stderr {:?}",
            ended.stderr
        )
    });
    Ok(Verdict::Ran(report))
}

fn in_a_storm(
    suite: &Suite,
    name: &str,
    words: &[&str],
    pause: Duration,
) -> Result<(watch::Ended, Report)> {
    let path = |what: &str| format!("/run/nstrace-{name}-{}-{what}", suite.attach);
    let (started, go) = (path("started"), path("go"));
    let _ = fs::remove_file(&started);
    let mut fifo = fifo(&go)?;
    let mut storm = Storm::start(suite, name, &["--until", &started])?;
    let script = format!(": >{started}; read line <{go}");
    let own = ["tree", "--attach", suite.attach, "--json"];
    let command = ["--", "sh", "-c", &script];
    let words = [&own, words, &command].concat();
    let nstrace = Watch::start(&words)?;
    wait_for_file(&nstrace, &started)?;
    if !pause.is_zero() {
        nstrace.signal(libc::SIGSTOP)?;
        thread::sleep(pause);
        nstrace.signal(libc::SIGCONT)?;
    }
    let (before, book) = storm.rest()?;
    fifo.write_all(b"go\n")?;
    let ended = nstrace.finish(PATIENCE)?;
    let after = truth::read()?;
    let mut report = Report::default();
    let tree = tree_of(&ended, &mut report);
    let is_live = tree.header.as_ref().map(|header| header.live);
    report.same("live", is_live, Some(true));
    let loss = tree.header.as_ref().and_then(|header| header.loss);
    report.check(loss.is_none(), || format!("not made good: {loss:?}"));
    let readings = Readings {
        before: &before,
        after: &after,
    };
    against::compare(&tree, &readings, &book, &mut report);
    storm.end()?;
    if !report.is_empty() {
        report.add(format!("it said: {}", ended.stderr.join("; ")));
    }
    Ok((ended, report))
}

/// A fifo, open at both ends, so that neither side waits for the other.
fn fifo(path: &str) -> Result<fs::File> {
    let _ = fs::remove_file(path);
    let mut command = std::process::Command::new("mkfifo");
    ensure!(command.arg(path).status()?.success(), "{path}: cannot make");
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}

fn wait_for_file(nstrace: &Watch, path: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !fs::exists(path)? {
        if let Some(stderr) = nstrace.end() {
            bail!(
                "nstrace ended before its command began: {}",
                stderr.join("; ")
            );
        }
        ensure!(Instant::now() < deadline, "its command did not begin");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What it printed, with what is wrong in it.
fn tree_of(ended: &watch::Ended, report: &mut Report) -> Tree {
    if ended.stdout.is_empty() {
        report.add(format!("it printed nothing: {}", ended.stderr.join("; ")));
    }
    let mut tree = Tree::default();
    for line in &ended.stdout {
        if let Err(error) = tree.take(line) {
            report.add(format!("not as docs/json.md has it: {error:#}: {line}"));
        }
    }
    tree
}

/// Waits until what was lost in the storm, if something was, is made good.
fn wait_until_whole(file: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // What has just been recorded comes into the file within a second.
        thread::sleep(Duration::from_millis(1500));
        let ended = watch::run(&["tree", "--json", "--from", file], PATIENCE)?;
        let tree = tree_of(&ended, &mut Report::default());
        if tree.header.is_some_and(|header| header.loss.is_none()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "what was lost is not made good");
    }
}

/// The time of day, to the millisecond; a guest has UTC.
fn time_of_day() -> Result<String> {
    let since = std::time::UNIX_EPOCH.elapsed()?;
    let (seconds, ms) = (since.as_secs() % 86400, since.subsec_millis());
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    Ok(format!(
        "{hours:02}:{minutes:02}:{:02}.{ms:03}",
        seconds % 60
    ))
}

/// A recording that begins in the middle of a storm: of when that is at rest, and at its
/// end, it has the tree that the machine had.
pub fn recorded(suite: &mut Suite) -> Result<Verdict> {
    let path = |what: &str| format!("/run/nstrace-record-{}-{what}", suite.attach);
    let (started, go, file) = (path("started"), path("go"), path("nst"));
    let _ = fs::remove_file(&started);
    let mut fifo = fifo(&go)?;
    let words = ["--sets", "1000", "--until", &started];
    let mut storm = Storm::start(suite, "record", &words)?;
    let script = format!(": >{started}; read line <{go}");
    let own = ["record", "--attach", suite.attach, "-o", &file];
    let nstrace = Watch::start(&[&own[..], &["--", "sh", "-c", &script]].concat())?;
    wait_for_file(&nstrace, &started)?;
    let (before, book) = storm.rest()?;
    wait_until_whole(&file)?;
    let whole = fs::read(&file)?.len();
    let after = truth::read()?;
    let at_rest = time_of_day()?;
    storm.end()?;
    let gone = truth::at_rest(REST)?;
    fifo.write_all(b"go\n")?;
    let recorded = nstrace.finish(PATIENCE)?;
    let last = truth::read()?;
    let mut report = Report::default();
    report.same("exit code", recorded.code, Some(0));
    for (words, [before, after], book) in [
        (&["--at", &at_rest][..], [&before, &after], &book[..]),
        (&[], [&gone, &last], &[]),
    ] {
        let own = ["tree", "--json", "--from", &file];
        let ended = watch::run(&[&own, words].concat(), PATIENCE)?;
        report.same(format!("exit code of tree {words:?}"), ended.code, Some(0));
        report.same("what it said", &ended.stderr, &Vec::new());
        let tree = tree_of(&ended, &mut report);
        let readings = Readings { before, after };
        against::compare(&tree, &readings, book, &mut report);
    }
    // Cut anywhere behind a whole look it is read as far as it goes.
    let bytes = fs::read(&file)?;
    fs::write(&file, &bytes[..(whole + bytes.len()) / 2])?;
    let cut = watch::run(&["tree", "--from", &file], PATIENCE)?;
    report.same("exit code of what was cut", cut.code, Some(0));
    let is_told = cut.stderr.len() == 1 && cut.stderr[0].contains("cut off");
    report.check(is_told, || {
        format!("of what was cut it said {:?}", cut.stderr)
    });
    fs::remove_file(&file)?;
    Ok(Verdict::Ran(report))
}

/// One look, without programs in the kernel.
pub fn one_look(suite: &mut Suite) -> Result<Verdict> {
    if let Some(done) = suite.done_already() {
        return Ok(done);
    }
    let words = ["--sets", "800", "--left", "112"];
    let mut storm = Storm::start(suite, "one-look", &words)?;
    let (before, book) = storm.rest()?;
    let ended = watch::run(&["tree", "--json"], PATIENCE)?;
    let after = truth::read()?;
    let mut report = Report::default();
    report.same("exit code", ended.code, Some(0));
    let tree = tree_of(&ended, &mut report);
    let is_live = tree.header.as_ref().map(|header| header.live);
    report.same("live", is_live, Some(false));
    let readings = Readings {
        before: &before,
        after: &after,
    };
    against::compare(&tree, &readings, &book, &mut report);
    against::holders(&tree, &after, &book, &mut report);
    storm.end()?;
    Ok(Verdict::Ran(report))
}

/// `leaks`: what is held without tasks, the oldest first.
pub fn leaks(suite: &mut Suite) -> Result<Verdict> {
    let words = ["--sets", "200", "--left", "56"];
    let mut storm = Storm::start(suite, "leaks", &words)?;
    let (now, book) = storm.rest()?;
    let ended = watch::run(&["leaks", "--json"], PATIENCE)?;
    let mut report = Report::default();
    report.same("exit code", ended.code, Some(0));
    let lines = ended.stdout.iter().map(|line| tree::parse(&[line]));
    let mut found = Vec::new();
    for line in lines {
        match line {
            Ok(tree) => found.extend(tree.namespaces),
            Err(error) => report.add(format!("{error:#}")),
        }
    }
    report.check(!found.is_empty(), || ended.stderr.join("; "));
    against::leaks(&found, &now, &book, &mut report);
    storm.end()?;
    Ok(Verdict::Ran(report))
}
