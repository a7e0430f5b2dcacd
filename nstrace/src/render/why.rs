//! The answers of `nstrace why`: who made a namespace, who is in it, what keeps it alive;
//! and where a process or a container is, and how it came there.
//!
//! An answer says what is not known, and why: a look at the machine does not see who made
//! a namespace, and some references nobody can see.

mod container;
mod namespace;
mod process;
mod target;

#[cfg(test)]
mod tests;

use nstrace_common::kind::Kind;

pub use self::target::{Target, TargetError};
use super::{
    Text, TreeView,
    escape::Escaped,
    tree::{Page, died_json, head_json, namespace_json, out_of_sight_json, task_json, words},
};
use crate::world::{NsKey, TaskKey, World};

/// What was asked about is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// No such namespace.
    #[error("no namespace {}:{inum} is known: it may have died before nstrace looked, or \
             be held by what cannot be seen", .kind.name())]
    Namespace {
        /// Its kind.
        kind: Kind,
        /// Its number.
        inum: u32,
    },
    /// The number is one of another kind.
    #[error("{inum} is the number of a namespace of kind {}, not {}", .other.name(), .kind.name())]
    OfKind {
        /// The kind that was asked for.
        kind: Kind,
        /// That which it is of.
        other: Kind,
        /// The number.
        inum: u32,
    },
    /// It is of a kind that has no mounts.
    #[error("a namespace of kind {} has no mounts: say mnt:INUM", .0.name())]
    HasNoMounts(Kind),
    /// The tasks of what was asked for are in no mount namespace.
    #[error(
        "its processes have exited, or may not be looked at: they are in no mount namespace that can be seen"
    )]
    NoMounts,
    /// No such process.
    #[error(
        "no process {0}: ids are those of the first pid namespace, or of that which /proc is of"
    )]
    Process(u32),
    /// No such container.
    #[error(
        "no container `{}` has a process: say its name, or its id or 3 characters of it",
        Escaped(.0.as_bytes())
    )]
    Container(String),
    /// More than one.
    #[error(
        "`{}` may be {count} containers: say more of the id",
        Escaped(.asked.as_bytes())
    )]
    Ambiguous {
        /// What was asked for.
        asked: String,
        /// How many begin so.
        count: usize,
    },
}

/// What was asked about, as the world has it.
enum Found<'a> {
    Namespace(NsKey),
    Process(u32),
    Container(&'a [u8]),
}

/// Appends the answer.
pub fn why(
    out: &mut Text,
    world: &World,
    target: &Target,
    view: &TreeView,
) -> Result<(), NotFound> {
    let mut page = Page::new(out, view.width, view.color).uncut();
    let found = find(world, target, view);
    if let Err(NotFound::Namespace {
        kind: Kind::Pid,
        inum,
    }) = found
        && namespace::out_of_sight(&mut page, world, inum)
    {
        return Ok(());
    }
    let found = found?;
    words::missing(&mut page, world, view);
    match found {
        Found::Namespace(key) => namespace::print(&mut page, world, key, view),
        Found::Process(pid) => process::print(&mut page, world, pid, view),
        Found::Container(id) => container::print(&mut page, world, id, view),
    }
    Ok(())
}

/// Appends the lines of JSON that belong to the answer: a `tree` line, then namespaces (of
/// one that was asked for, those too of which it is parent or owner), then tasks. Of a namespace that is dead, a `died` line instead of its own.
pub fn why_json(
    out: &mut Text,
    world: &World,
    target: &Target,
    view: &TreeView,
) -> Result<(), NotFound> {
    let found = find(world, target, view);
    if let Err(NotFound::Namespace {
        kind: Kind::Pid,
        inum,
    }) = found
        && world.doubtful_holders().next().is_some()
    {
        head_json(out, world, view);
        out_of_sight_json(out, world, inum);
        return Ok(());
    }
    let found = found?;
    head_json(out, world, view);
    let (namespaces, mut tasks) = match found {
        Found::Namespace(key) => (
            namespace::with_below(world, key),
            namespace::tasks(world, key),
        ),
        Found::Process(pid) => {
            let tasks = process::tasks(world, pid);
            (places(world, &tasks), tasks)
        }
        Found::Container(id) => {
            let tasks = container::tasks(world, id, view);
            (container::namespaces(world, id, &tasks, view), tasks)
        }
    };
    for key in namespaces {
        match world.namespace(key) {
            Some(ns) if ns.is_alive() => namespace_json(out, world, ns, view),
            Some(ns) => died_json(out, ns, view),
            None => {}
        }
    }
    tasks.sort_unstable_by_key(|key| world.task(*key).map(|task| (task.pid, task.tid)));
    tasks.dedup();
    for key in tasks {
        task_json(out, world, key, view);
    }
    Ok(())
}

/// Whether what was asked about is there; of several containers that it may be, each is.
pub fn is_there(world: &World, target: &Target, view: &TreeView) -> Result<(), NotFound> {
    match find(world, target, view) {
        Err(NotFound::Ambiguous { .. }) => Ok(()),
        found => found.map(|_| ()),
    }
}

fn find<'a>(world: &World, target: &Target, view: &TreeView<'a>) -> Result<Found<'a>, NotFound> {
    match target {
        Target::Namespace(kind, inum) => namespace::find(world, *kind, *inum).map(Found::Namespace),
        Target::Process(pid) => {
            let task = world.by_tid(*pid).and_then(|key| world.task(key));
            // Of a process whose leader has gone, there are only threads.
            let pid_of = task.map(|task| task.pid);
            let pid_of = pid_of.or_else(|| {
                let mut all = world.tasks();
                all.any(|(_, task)| task.pid == *pid).then_some(*pid)
            });
            pid_of.map(Found::Process).ok_or(NotFound::Process(*pid))
        }
        Target::Container(asked) => container::find(world, asked, view).map(Found::Container),
    }
}

/// The tasks of a process or a container.
pub(super) fn find_tasks(
    world: &World,
    target: &Target,
    view: &TreeView,
) -> Result<Vec<TaskKey>, NotFound> {
    Ok(match find(world, target, view)? {
        Found::Namespace(key) => namespace::tasks(world, key),
        Found::Process(pid) => process::tasks(world, pid),
        Found::Container(id) => container::tasks(world, id, view),
    })
}

/// The namespaces that tasks, or their children, are in; each once, by kind and number.
fn places(world: &World, tasks: &[TaskKey]) -> Vec<NsKey> {
    use crate::world::Membership::{Children, In};
    let ways = Kind::ALL.map(In);
    let ways = ways
        .into_iter()
        .chain([Children(Kind::Pid), Children(Kind::Time)]);
    let mut places: Vec<NsKey> = ways
        .flat_map(|way| {
            let of = move |key: &TaskKey| world.membership(*key, way);
            tasks.iter().filter_map(of)
        })
        .collect();
    places.sort_unstable_by_key(|key| (world.namespace(*key).map(|ns| (ns.kind, ns.inum)), *key));
    places.dedup();
    places
}

/// So many processes are named; `--json` has all.
const NAMED: usize = 64;

/// Fields with the processes of tasks, and their ids at every level.
fn processes(page: &mut Page, world: &World, label: &str, tasks: &[TaskKey]) {
    let (named, count) = words::processes(world, tasks.iter().copied(), None, NAMED);
    page.field(label, |page| {
        page.number(tasks.len() as u64);
        if tasks.len() != count {
            page.str(" in ");
            page.count(count, "process", "processes");
        }
    });
    for one in &named {
        page.field("", |page| {
            words::process(page, world, one);
            let task = world.task(one.task);
            if let Some(task) = task.filter(|task| task.pids.len() > 1) {
                page.str(", pid ");
                super::text::chain(page.out, &task.pids);
            }
        });
    }
    if named.len() < count {
        page.field("", |page| {
            page.str("and ");
            page.count(count - named.len(), "other process", "other processes");
            page.str("; --json has all");
        });
    }
}
