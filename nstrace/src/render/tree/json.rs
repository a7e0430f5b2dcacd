//! The tree as JSON lines, as docs/json.md promises.

use jiff::tz::TimeZone;
use nstrace_common::kind::Kind;

use super::{
    super::{
        Clock, Text, escape,
        json::{Object, cgroup, line, object, pids},
        text::number,
    },
    Index, TreeView,
};
use crate::{
    event::{Holder, Unseen},
    world::{Interval, Known, Maker, Membership, Namespace, NsKey, Task, TaskKey, World},
};

/// Appends a `tree` line, a line for each namespace, and one for each task.
pub fn tree(out: &mut Text, world: &World, view: &TreeView) {
    head(out, world, view);
    let index = Index::new(world, view, None);
    for key in index.in_order() {
        let ns = world.namespace(key);
        if let Some(ns) = ns.filter(|ns| view.filter.has_kind(ns.kind)) {
            namespace(out, world, ns, view);
        }
    }
    let mut tasks: Vec<(&Task, TaskKey)> = world
        .tasks()
        .filter(|(_, task)| view.has_task(task))
        .map(|(key, task)| (task, key))
        .collect();
    tasks.sort_unstable_by_key(|(task, _)| (task.pid, task.tid));
    for (_, key) in tasks {
        task(out, world, key, view);
    }
}

/// Appends the `tree` line.
pub fn head(out: &mut Text, world: &World, view: &TreeView) {
    let mut clock = Clock::new(TimeZone::UTC);
    clock.set_offset(view.wall_offset_ns);
    line(out, "tree", view.now_ns, &mut clock, |object| {
        object.key("live").push_str(truth(view.live));
        let missing = view.unseen;
        if missing != Unseen::default() {
            self::object(object.key("unseen"), |object| unseen(object, &missing));
        }
        if let Some(loss) = world.loss() {
            self::object(object.key("loss"), |object| interval(object, &loss));
        }
    });
}

/// Appends a `died` line of one that is remembered.
pub fn died(out: &mut Text, ns: &Namespace, view: &TreeView) {
    let Some((time, known)) = ns.death else {
        return;
    };
    let mut clock = Clock::new(TimeZone::UTC);
    clock.set_offset(view.wall_offset_ns);
    line(out, "died", time, &mut clock, |object| {
        object.word("kind", ns.kind.name());
        object.number("inum", ns.inum);
        object.some("id", ns.id);
        if let Some(born) = ns.born {
            object.number("age_ns", time.saturating_sub(born));
        }
        if known == Known::Inferred {
            object.key("inferred").push_str(truth(true));
        }
    });
}

/// The word of JSON.
pub fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn unseen(object: &mut Object, unseen: &Unseen) {
    let Unseen {
        tasks,
        descriptors,
        mounts,
        sockets,
        procs,
        children,
    } = *unseen;
    object.some("tasks", tasks);
    object.some("descriptors", descriptors);
    object.some("mounts", mounts);
    object.some("sockets", sockets);
    object.some("procs", procs);
    object.some("children", children);
}

/// Writes the fields of a loss.
pub fn interval(object: &mut Object, loss: &Interval) {
    object.number("from_mono_ns", loss.from);
    object.number("until_mono_ns", loss.until);
}

/// Appends a `namespace` line.
pub fn namespace(out: &mut Text, world: &World, ns: &Namespace, view: &TreeView) {
    object(out, |object| {
        object.word("type", "namespace");
        namespace_fields(object, world, ns, view);
    });
    out.push('\n');
}

/// Writes the fields of a namespace.
pub fn namespace_fields(object: &mut Object, world: &World, ns: &Namespace, view: &TreeView) {
    object.word("kind", ns.kind.name());
    object.number("inum", ns.inum);
    object.some("id", ns.id);
    above(object, world, ns);
    if let Some(born) = ns.born {
        let end = ns.death.map_or(view.now_ns, |(time, _)| time);
        object.number("born_mono_ns", born);
        object.number("age_ns", end.saturating_sub(born));
    }
    if let Some(by) = &ns.maker {
        self::object(object.key("maker"), |object| maker(object, by, view));
    }
    object.number("tasks", ns.members_len() as u64);
    if matches!(ns.kind, Kind::Pid | Kind::Time) {
        object.number("tasks_for_children", ns.children_len() as u64);
    }
    object.number("namespaces", ns.dependents_len() as u64);
    // What may hold it, if nothing else does.
    let is_doubtful = ns.kind == Kind::Pid && !ns.is_held();
    holders(object, world, ns.holders(), is_doubtful);
    object.key("confirmed").push_str(truth(ns.confirmed));
}

fn holders<'h>(
    object: &mut Object,
    world: &World,
    certain: impl Iterator<Item = Holder<'h>>,
    is_doubtful: bool,
) {
    let certain = certain.map(|holder| (holder, false));
    let doubtful = world.doubtful_holders().filter(|_| is_doubtful);
    let all = certain.chain(doubtful.map(|holder| (holder, true)));
    object.objects("holders", all, |object, (found, perhaps)| {
        holder(object, world, &found);
        if perhaps {
            object.key("perhaps").push_str(truth(true));
        }
    });
}

/// Appends a `namespace` line for a pid namespace that was not found, with what may hold it.
pub fn out_of_sight(out: &mut Text, world: &World, inum: u32) {
    object(out, |object| {
        object.word("type", "namespace");
        object.word("kind", Kind::Pid.name());
        object.number("inum", inum);
        for count in ["tasks", "tasks_for_children", "namespaces"] {
            object.number(count, 0u32);
        }
        holders(object, world, std::iter::empty(), true);
        object.key("confirmed").push_str(truth(false));
    });
    out.push('\n');
}

/// What it stands in. A key of one that is forgotten has no number any more.
fn above(object: &mut Object, world: &World, ns: &Namespace) {
    let inum = |key: Option<NsKey>| Some(world.namespace(key?)?.inum);
    if let Some(parent) = inum(ns.parent) {
        object.number("parent", parent);
    }
    if let Some(owner) = inum(ns.owner) {
        object.number("owner", owner);
    }
    if let Some(uid) = ns.owner_uid {
        object.number("owner_uid", uid);
    }
}

/// Writes who made a namespace.
pub fn maker(object: &mut Object, maker: &Maker, view: &TreeView) {
    object.word("op", maker.op.name());
    object.number("pid", maker.pid);
    object.number("tid", maker.tid);
    object.number("uid", maker.uid);
    object.name("comm", maker.comm());
    cgroup(object, maker.cgroup, view.cgroups);
}

fn holder(object: &mut Object, world: &World, holder: &Holder) {
    let mut open = |what, pid: u32, fd: u32| {
        object.word("what", what);
        object.number("pid", pid);
        object.number("fd", fd);
        if let Some(task) = world.by_tid(pid).and_then(|key| world.task(key)) {
            object.name("comm", task.comm());
        }
    };
    match *holder {
        Holder::Descriptor { pid, fd } => open("descriptor", pid, fd),
        Holder::Socket { pid, fd } => open("socket", pid, fd),
        Holder::Mount { mnt, path } => mounted(object, "mount", mnt, path),
        Holder::Proc { mnt, path } => mounted(object, "proc", mnt, path),
    }
}

fn mounted(object: &mut Object, what: &str, mnt: u32, path: &[u8]) {
    object.word("what", what);
    object.number("mnt", mnt);
    object.name("path", path);
}

/// Appends a `task` line.
pub fn task(out: &mut Text, world: &World, key: TaskKey, view: &TreeView) {
    let Some(task) = world.task(key) else {
        return;
    };
    object(out, |object| {
        object.word("type", "task");
        task_fields(object, world, key, task, view);
    });
    out.push('\n');
}

/// What a line says of a task.
pub fn task_fields(object: &mut Object, world: &World, key: TaskKey, task: &Task, view: &TreeView) {
    object.number("pid", task.pid);
    object.number("tid", task.tid);
    object.name("comm", task.comm());
    pids(object, &task.pids);
    cgroup(object, task.cgroup, view.cgroups);
    let name = view.container(task.cgroup);
    if let Some(name) = name.and_then(|id| view.names.get(id)) {
        escape::json_name(object.key("container_name"), name.as_bytes());
    }
    places(object, world, key);
    if task.exited {
        object.key("exited").push_str("true");
    }
}

/// Where a task is, and its children will be.
fn places(object: &mut Object, world: &World, key: TaskKey) {
    let inum = |way| Some(world.namespace(world.membership(key, way)?)?.inum);
    self::object(object.key("namespaces"), |object| {
        for kind in Kind::ALL {
            if let Some(inum) = inum(Membership::In(kind)) {
                number(object.key(kind.name()), inum);
            }
        }
    });
    for (kind, name) in [
        (Kind::Pid, "pid_for_children"),
        (Kind::Time, "time_for_children"),
    ] {
        let children = inum(Membership::Children(kind));
        if let Some(inum) = children.filter(|_| children != inum(Membership::In(kind))) {
            object.number(name, inum);
        }
    }
}
