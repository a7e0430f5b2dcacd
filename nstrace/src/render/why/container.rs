//! What a container is made of, and what keeps its namespaces.

use foldhash::HashSet;

use super::{NotFound, places, processes};
use crate::{
    render::{
        TreeView,
        color::Style,
        escape,
        tree::{Page, first, words},
    },
    world::{NsKey, TaskKey, World},
};

/// The id of the container that was asked for: that of the very name or id, else the only
/// one that begins so.
pub fn find<'a>(world: &World, asked: &str, view: &TreeView<'a>) -> Result<&'a [u8], NotFound> {
    let tasks = world.tasks().map(|(_, task)| task.cgroup);
    let makers = world.namespaces().filter_map(|(_, ns)| ns.maker);
    let cgroups: HashSet<u64> = tasks.chain(makers.map(|maker| maker.cgroup)).collect();
    let all: HashSet<&'a [u8]> = cgroups
        .into_iter()
        .filter_map(|cgroup| view.container(cgroup))
        .filter(|id| view.is_container(Some(id), asked))
        .collect();
    let exact = all.iter().find(|id| view.is_named(id, asked));
    if let Some(id) = exact {
        return Ok(id);
    }
    let mut ids = all.iter();
    match (ids.next(), ids.len()) {
        (Some(id), 0) => Ok(id),
        (Some(_), others) => Err(NotFound::Ambiguous {
            asked: asked.into(),
            count: others + 1,
        }),
        (None, _) => Err(NotFound::Container(asked.into())),
    }
}

/// Its tasks.
pub fn tasks(world: &World, id: &[u8], view: &TreeView) -> Vec<TaskKey> {
    let own = |cgroup| view.container(cgroup) == Some(id);
    let tasks = world.tasks().filter(|(_, task)| own(task.cgroup));
    tasks.map(|(key, _)| key).collect()
}

/// The namespaces that its tasks are in, and those that it made.
pub fn namespaces(world: &World, id: &[u8], tasks: &[TaskKey], view: &TreeView) -> Vec<NsKey> {
    let mut all = places(world, tasks);
    let known: HashSet<NsKey> = all.iter().copied().collect();
    let made = world.namespaces().filter(|(key, ns)| {
        let by_it = ns
            .maker
            .is_some_and(|maker| view.container(maker.cgroup) == Some(id));
        by_it && ns.is_alive() && !known.contains(key)
    });
    let before = all.len();
    all.extend(made.map(|(key, _)| key));
    all[before..].sort_unstable_by_key(|key| world.namespace(*key).map(|ns| (ns.kind, ns.inum)));
    all
}

/// Holders that are named of each namespace; `nstrace why KIND:INUM` names all.
const HOLDERS: usize = 8;

/// Appends the answer.
pub fn print(page: &mut Page, world: &World, id: &[u8], view: &TreeView) {
    let tasks = tasks(world, id, view);
    page.line(0, |page| {
        page.styled(Style::Bold, |page| words::container(page, id, view));
    });
    page.field("id", |page| escape::terminal(page.out, id));
    processes(page, world, "tasks", &tasks);
    let own: HashSet<TaskKey> = tasks.iter().copied().collect();
    let first = first(world);
    let all = namespaces(world, id, &tasks, view);
    let (shared, all): (Vec<NsKey>, Vec<NsKey>) =
        all.into_iter().partition(|key| first.contains(&Some(*key)));
    if !shared.is_empty() {
        page.field("first", |page| {
            let named = shared.iter().filter_map(|key| world.namespace(*key));
            for (i, ns) in named.enumerate() {
                page.str(if i > 0 { " " } else { "" });
                page.str(ns.kind.name());
            }
        });
    }
    for key in all {
        namespace(page, world, key, &own, view);
    }
}

/// A namespace, and what keeps it.
fn namespace(page: &mut Page, world: &World, key: NsKey, own: &HashSet<TaskKey>, view: &TreeView) {
    let Some(ns) = world.namespace(key) else {
        return;
    };
    page.line(1, |page| {
        words::namespace(page, ns);
        page.styled(Style::Dim, |page| words::made(page, ns, view.now_ns));
    });
    let (inside, others): (Vec<TaskKey>, Vec<TaskKey>) =
        world.members(key).partition(|task| own.contains(task));
    if !inside.is_empty() {
        page.line(2, |page| {
            page.count(inside.len(), "task", "tasks");
            page.str(" of it");
        });
    }
    if !others.is_empty() {
        page.line(2, |page| {
            page.str("not of it: ");
            words::members(page, world, others.iter().copied(), view);
        });
    }
    words::held_by(page, 2, world, key, HOLDERS);
}
