//! Compares a tree that nstrace printed with the truth and with the book of what was
//! left alive on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::PathBuf;

use super::report::Report;
use super::tree::{Namespace, Task, Tree};
use super::truth::{self, Key, Truth};
use crate::kinds::{KINDS, PID};
use crate::left::{By, Left};

/// The truth before and after the tree was printed. Their namespaces are the same; a
/// task of the first namespaces may have come or gone between them.
pub struct Readings<'a> {
    pub before: &'a Truth,
    pub after: &'a Truth,
}

/// Notes everything in which a tree differs.
pub fn compare(tree: &Tree, readings: &Readings, book: &[Left], report: &mut Report) {
    if let Err(error) = tree.check_order() {
        report.add(format!("{error:#}"));
    }
    for unseen in &readings.after.unseen {
        report.add(format!("the truth is not whole: {unseen}"));
    }
    let hidden = hidden(tree, book);
    namespaces(tree, readings, &hidden, report);
    tasks(tree, readings, report);
}

/// The namespaces in the tree that only the kernel and who made their holder know of.
fn hidden(tree: &Tree, book: &[Left]) -> BTreeSet<Key> {
    let mut hidden = BTreeSet::new();
    for left in book {
        match (&left.by, left.inum) {
            (by, Some(inum)) if by.is_hidden() => {
                hidden.insert((left.kind.clone(), inum));
            }
            (By::PidForChildren { tid }, None) => {
                let task = tree.tasks.iter().find(|task| task.tid == *tid);
                let inum = task.and_then(|task| task.pid_for_children);
                hidden.extend(inum.map(|inum| (left.kind.clone(), inum)));
            }
            _ => {}
        }
    }
    hidden
}

fn namespaces(tree: &Tree, readings: &Readings, hidden: &BTreeSet<Key>, report: &mut Report) {
    let mut expected = readings.after.by_key();
    let counts = Counts::of(readings.after);
    let first: BTreeSet<Key> = keys(&readings.after.first()).collect();
    for found in &tree.namespaces {
        let name = format!("{}:{}", found.kind, found.inum);
        let Some(ns) = expected.remove(&found.key()) else {
            if !hidden.contains(&found.key()) {
                let (confirmed, born, maker) = (found.confirmed, found.born_mono_ns, &found.maker);
                let (first, file) = (found.holders.first(), file_of_net(found.inum));
                report.add(format!(
                    "{name} is too many: confirmed {confirmed:?}, born {born:?} by {maker:?}, \
                     holders {first:?}; the number is that of the file {file:?}"
                ));
            }
            continue;
        };
        report.same(format!("{name}: parent"), found.parent, ns.parent);
        report.same(format!("{name}: owner"), found.owner, ns.owner);
        report.same(format!("{name}: owner_uid"), found.owner_uid, ns.owner_uid);
        report.check(found.confirmed != Some(false), || {
            format!("{name} is there, but not confirmed")
        });
        if !first.contains(&found.key()) {
            counts.check(&name, found, report);
        }
    }
    for (key, ns) in expected {
        let why: Vec<_> = ns.holders.iter().take(3).collect();
        let tasks = counts.tasks.get(&key).copied().unwrap_or(0);
        let line = format!("{}:{} is missing; {tasks} tasks, {why:?}", key.0, key.1);
        report.add(line);
    }
}

/// The file in a task's `net` that has that number: they come from the same allocator.
fn file_of_net(inum: u32) -> Option<PathBuf> {
    let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let nets = entries("/proc".into()).map(|task| task.path().join("net"));
    let files = nets.flat_map(entries);
    files
        .filter(|file| file.ino() == u64::from(inum))
        .map(|file| file.path())
        .next()
}

fn keys(inums: &crate::kinds::Inums) -> impl Iterator<Item = Key> {
    KINDS
        .iter()
        .zip(*inums)
        .map(|(kind, inum)| (kind.name.to_owned(), inum))
}

/// What the lines of namespaces count.
#[derive(Default)]
struct Counts {
    tasks: BTreeMap<Key, u32>,
    for_children: BTreeMap<Key, u32>,
    below: BTreeMap<Key, BTreeSet<Key>>,
}

impl Counts {
    fn of(truth: &Truth) -> Self {
        let mut counts = Counts::default();
        for task in &truth.tasks {
            for key in keys(&task.inums) {
                *counts.tasks.entry(key).or_default() += 1;
            }
            let others = [
                ("pid", task.pid_for_children),
                ("time", task.time_for_children),
            ];
            for (kind, inum) in others {
                if let Some(inum) = inum {
                    *counts
                        .for_children
                        .entry((kind.to_owned(), inum))
                        .or_default() += 1;
                }
            }
        }
        for ns in &truth.namespaces {
            let above = [(ns.kind.as_str(), ns.parent), ("user", ns.owner)];
            for (kind, inum) in above {
                if let Some(inum) = inum {
                    let below = counts.below.entry((kind.to_owned(), inum)).or_default();
                    below.insert((ns.kind.clone(), ns.inum));
                }
            }
        }
        counts
    }

    /// Whether a task is in it or below it, or its children will be.
    fn is_needed(&self, key: &Key) -> bool {
        let below = self.below.get(key).into_iter().flatten();
        self.tasks.contains_key(key)
            || self.for_children.contains_key(key)
            || below.into_iter().any(|below| self.is_needed(below))
    }

    fn check(&self, name: &str, found: &Namespace, report: &mut Report) {
        let key = found.key();
        let of = |map: &BTreeMap<Key, u32>| map.get(&key).copied().unwrap_or(0);
        report.same(format!("{name}: tasks"), found.tasks, of(&self.tasks));
        let for_children = of(&self.for_children);
        report.check(found.tasks_for_children >= for_children, || {
            let told = found.tasks_for_children;
            format!("{name}: tasks_for_children: {told}, not {for_children}")
        });
        let below = self.below.get(&key).map_or(0, BTreeSet::len) as u32;
        report.same(format!("{name}: namespaces"), found.namespaces, below);
    }
}

fn tasks(tree: &Tree, readings: &Readings, report: &mut Report) {
    let by_tid = |truth: &'_ Truth| -> BTreeMap<u32, truth::Task> {
        let tasks = truth.tasks.iter().cloned();
        tasks.map(|task| (task.tid, task)).collect()
    };
    let (before, after) = (by_tid(readings.before), by_tid(readings.after));
    let first = readings.after.first();
    let parents = parents(readings.after);
    let mut seen = BTreeSet::new();
    for found in &tree.tasks {
        if !seen.insert(found.tid) {
            report.add(format!("task {} is there twice", found.tid));
        }
        if found.exited {
            // The truth has those that have not.
            report.check(!after.contains_key(&found.tid), || {
                format!("task {} ({}) has not exited", found.tid, found.comm)
            });
            continue;
        }
        match after.get(&found.tid).or_else(|| before.get(&found.tid)) {
            Some(task) => same_task(found, task, &parents, report),
            // Nstrace itself, what it started, and workers of the kernel.
            None if found.namespaces == named(&first) => {}
            None => report.add(format!("task {} ({}) is too many", found.tid, found.comm)),
        }
    }
    let stayed = after.values().filter(|task| before.contains_key(&task.tid));
    for task in stayed.filter(|task| !seen.contains(&task.tid)) {
        // Workers of the kernel come and go, and may have had the same id before.
        if !task.is_kernel {
            report.add(format!("task {} ({}) is missing", task.tid, task.comm));
        }
    }
}

fn named(inums: &crate::kinds::Inums) -> BTreeMap<String, u32> {
    keys(inums).collect()
}

/// The parent of each pid namespace.
fn parents(truth: &Truth) -> BTreeMap<u32, u32> {
    let pids = truth.namespaces.iter().filter(|ns| ns.kind == "pid");
    pids.filter_map(|ns| Some((ns.inum, ns.parent?))).collect()
}

fn same_task(found: &Task, task: &truth::Task, parents: &BTreeMap<u32, u32>, report: &mut Report) {
    let name = format!("task {} ({})", task.tid, task.comm);
    report.same(format!("{name}: pid"), found.pid, task.pid);
    // A worker of the kernel is called after what it does.
    if !task.is_kernel {
        report.same(format!("{name}: comm"), &found.comm, &task.comm);
    }
    let expected = named(&task.inums);
    report.same(format!("{name}: namespaces"), &found.namespaces, &expected);
    let chain: Vec<(u32, u32)> = found.pids.iter().map(|at| (at.ns, at.pid)).collect();
    let expected = chain_of(task, parents);
    report.same(format!("{name}: pids"), chain, expected);
    if task.pid_for_children != Some(0) {
        let told = found.pid_for_children;
        report.same(
            format!("{name}: pid_for_children"),
            told,
            task.pid_for_children,
        );
    }
    let told = found.time_for_children;
    report.same(
        format!("{name}: time_for_children"),
        told,
        task.time_for_children,
    );
}

/// A task's ids with the namespaces that they are in, from the first.
fn chain_of(task: &truth::Task, parents: &BTreeMap<u32, u32>) -> Vec<(u32, u32)> {
    let mut chain = Vec::new();
    let mut ns = Some(task.inums[PID]);
    for id in task.ids.iter().rev() {
        chain.push((ns.unwrap_or(0), *id));
        ns = ns.and_then(|ns| parents.get(&ns).copied());
    }
    chain.reverse();
    chain
}

/// Notes holders that are not as the truth has them, of namespaces that no task is in:
/// one look at the machine must tell what holds them, and nothing else.
pub fn holders(tree: &Tree, truth: &Truth, book: &[Left], report: &mut Report) {
    let by_key = truth.by_key();
    for found in &tree.namespaces {
        let Some(ns) = by_key.get(&found.key()) else {
            continue;
        };
        let name = format!("{}:{}", found.kind, found.inum);
        let is_proc = |left: &Left| left.by.is_hidden() && left.inum == Some(found.inum);
        let may_be_proc = found.kind == "pid" && book.iter().any(is_proc);
        for holder in &found.holders {
            let is_true = ns.holders.contains(holder)
                || (may_be_proc || found.tasks > 0) && matches!(holder, truth::Holder::Proc { .. });
            report.check(is_true, || format!("{name} is not held by {holder:?}"));
        }
        let is_told = found.tasks > 0 || ns.holders.iter().all(|h| found.holders.contains(h));
        report.check(is_told, || {
            let (told, all) = (&found.holders, &ns.holders);
            format!("{name}: holders {told:?}, not {all:?}")
        });
    }
}

/// Notes what `nstrace leaks` lists that is no leak, and what it does not list. A leak is
/// what no task is in, and no task's children will be in, if there is no such namespace
/// below it either: what has a task in it needs what it stands in.
pub fn leaks(found: &[Namespace], truth: &Truth, book: &[Left], report: &mut Report) {
    let (counts, known) = (Counts::of(truth), truth.by_key());
    let hidden = |ns: &Namespace| {
        let is_it = |left: &&Left| left.kind == ns.kind && left.inum == Some(ns.inum);
        book.iter().filter(is_it).any(|left| left.by.is_hidden())
    };
    for ns in found {
        let is_known = known.contains_key(&ns.key()) || hidden(ns);
        let is_leak = is_known && !counts.is_needed(&ns.key());
        report.check(is_leak, || format!("{}:{} is no leak", ns.kind, ns.inum));
    }
    let listed: BTreeSet<Key> = found.iter().map(Namespace::key).collect();
    report.same("namespaces listed twice", found.len() - listed.len(), 0);
    for (key, ns) in known {
        if !counts.is_needed(&key) && !listed.contains(&key) {
            let (kind, inum) = key;
            report.add(format!("{kind}:{inum} is not listed: {:?}", ns.holders));
        }
    }
    oldest_first(found, report);
}

/// Where births were seen, or the kernel gives ids that grow, the order can be told.
fn oldest_first(found: &[Namespace], report: &mut Report) {
    let births: Vec<u64> = found.iter().filter_map(|ns| ns.born_mono_ns).collect();
    report.check(births.is_sorted(), || format!("not by age: {births:?}"));
    let ids: Vec<u64> = found.iter().filter_map(|ns| ns.id).collect();
    report.check(ids.is_sorted(), || format!("not by age: ids {ids:?}"));
}

/// Whether a line of `nstrace why` names what keeps the namespace alive.
pub fn is_named(tree: &Tree, left: &Left) -> bool {
    let Some(inum) = left.inum else { return false };
    let task = |tid: u32| tree.tasks.iter().find(move |task| task.tid == tid);
    let has = |holder: truth::Holder| {
        let ns = tree.namespace(&left.kind, inum);
        ns.is_some_and(|ns| ns.holders.contains(&holder))
    };
    match &left.by {
        By::Task { tid } => {
            task(*tid).is_some_and(|task| task.namespaces.get(&left.kind) == Some(&inum))
        }
        By::PidForChildren { tid } => {
            task(*tid).is_some_and(|task| task.pid_for_children == Some(inum))
        }
        By::TimeForChildren { tid } => {
            task(*tid).is_some_and(|task| task.time_for_children == Some(inum))
        }
        By::Below { below_kind, below } => tree
            .namespace(below_kind, *below)
            .is_some_and(|ns| ns.parent == Some(inum) || ns.owner == Some(inum)),
        by => by.holder().is_some_and(has),
    }
}

/// Notes what the book of a storm has and the truth has not, and the reverse: every
/// namespace that lives is in the book or in the truth of before.
pub fn book(book: &[Left], before: &Truth, now: &Truth, report: &mut Report) {
    for unseen in &now.unseen {
        report.add(format!("the truth is not whole: {unseen}"));
    }
    let by_key = now.by_key();
    let mut booked: BTreeSet<Key> = before.by_key().into_keys().collect();
    for left in book {
        let Some(inum) = left.inum else { continue };
        let key = (left.kind.clone(), inum);
        let found = by_key.get(&key).map(|ns| is_so(left, ns, now));
        report.check(left.by.is_hidden() || found == Some(true), || {
            format!(
                "the book has {left:?}, the truth has {:?}",
                by_key.get(&key)
            )
        });
        booked.insert(key);
    }
    for key in by_key.keys().filter(|key| !booked.contains(key)) {
        report.add(format!(
            "{}:{} is in no book: {:?}",
            key.0, key.1, by_key[key]
        ));
    }
}

/// Whether the truth has the holder.
fn is_so(left: &Left, ns: &truth::Namespace, truth: &Truth) -> bool {
    let task = |tid: u32| truth.tasks.iter().find(|task| task.tid == tid);
    match &left.by {
        By::Task { tid } => task(*tid)
            .is_some_and(|task| keys(&task.inums).any(|key| key == (ns.kind.clone(), ns.inum))),
        By::PidForChildren { tid } => {
            task(*tid).is_some_and(|task| task.pid_for_children == Some(ns.inum))
        }
        By::TimeForChildren { tid } => {
            task(*tid).is_some_and(|task| task.time_for_children == Some(ns.inum))
        }
        By::Below { below_kind, below } => truth.namespaces.iter().any(|other| {
            let is_below = other.parent == Some(ns.inum) || other.owner == Some(ns.inum);
            other.kind == *below_kind && other.inum == *below && is_below
        }),
        By::Proc { .. } => true,
        by => by
            .holder()
            .is_some_and(|holder| ns.holders.contains(&holder)),
    }
}

#[cfg(test)]
mod tests;
