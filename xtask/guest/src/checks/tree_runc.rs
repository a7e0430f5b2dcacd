//! A container of runc comes and goes in the tree, by its id.

use anyhow::Result;

use super::{Suite, Verdict, reuse, runc};
use crate::act::holders;
use crate::harness::report::Report;
use crate::harness::{tree, watch};
use crate::kinds::{Inums, KINDS};
use crate::procfs::Procfs;

/// From its creation to its end.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let id = runc::PLAIN;
    let watch = reuse::watch(suite)?;
    runc::prepare(id, false)?;
    let running = runc::start(id)?;
    let looked = look(id, &running);
    runc::runc(&["delete", "--force", id])?;
    let mut report = looked?;
    let made = made(&running.inums)?;
    for (kind, inum) in &made {
        if let Err(error) = reuse::wait_for_deaths(&watch, kind, *inum, 1) {
            report.add(format!("{error:#}"));
        }
    }
    let births = watch.look(|said| reuse::changes(said, &["born"]));
    for (kind, inum) in &made {
        // A number may have been that of a helper of runc before.
        let born: Vec<_> = births.iter().filter(|b| b.is_of(kind, *inum)).collect();
        report.check(!born.is_empty(), || format!("{kind}:{inum} was not born"));
    }
    let is_its = |maker: &tree::Maker| maker.container.as_deref() == Some(id);
    let by_it = births
        .iter()
        .filter(|b| b.maker.as_ref().is_some_and(is_its));
    report.check(by_it.count() > 0, || {
        format!("no namespace was made by a task of container {id}")
    });
    watch.signal(libc::SIGINT)?;
    report.same("exit code", watch.finish(reuse::START)?.code, Some(0));
    let gone = watch::run(&["tree", "--json"], reuse::START)?;
    let is_there = gone.stdout.iter().any(|line| line.contains(id));
    report.check(!is_there, || "it is in the tree when it is deleted".into());
    Ok(Verdict::Ran(report))
}

/// The tree while it runs.
fn look(id: &str, running: &runc::Running) -> Result<Report> {
    let mut report = Report::default();
    let ended = watch::run(&["tree", "--json"], reuse::START)?;
    let tree = tree::parse(&ended.stdout)?;
    let task = tree.tasks.iter().find(|task| task.tid == running.pid);
    let container = task.and_then(|task| task.container.as_deref());
    report.same("container of its first process", container, Some(id));
    let ids: Option<Vec<u32>> = task.map(|task| task.pids.iter().map(|at| at.pid).collect());
    report.same("its ids", ids.as_ref(), Some(&running.ids));
    for (kind, inum) in made(&running.inums)? {
        report.check(tree.namespace(&kind, inum).is_some(), || {
            format!("{kind}:{inum} is not in the tree")
        });
    }
    Ok(report)
}

/// Its namespaces that are not ours. A first process that runs has no others for its
/// children.
fn made(inums: &Inums) -> Result<Vec<(String, u32)>> {
    let ours = holders::namespaces(&Procfs::open()?, "thread-self")?;
    let all = KINDS.iter().zip(*inums).zip(ours);
    let others = all.filter(|((_, inum), ours)| inum != ours);
    Ok(others
        .map(|((kind, inum), _)| (kind.name.to_owned(), inum))
        .collect())
}
