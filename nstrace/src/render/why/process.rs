//! Where a process is, and how it came there.

use nstrace_common::{kind::Kind, wire::Op};

use crate::{
    render::{
        TreeView,
        color::Style,
        escape,
        text::{self, op_name},
        tree::{Page, first, words},
    },
    world::{Maker, Membership, Namespace, NsKey, Start, Task, TaskKey, World},
};

/// Threads that are named of those which are elsewhere.
const THREADS: usize = 32;

/// The tasks of a process, its leader first if it is there.
pub fn tasks(world: &World, pid: u32) -> Vec<TaskKey> {
    let mut tasks: Vec<(bool, u32, TaskKey)> = world
        .tasks()
        .filter(|(_, task)| task.pid == pid)
        .map(|(key, task)| (task.is_thread(), task.tid, key))
        .collect();
    tasks.sort_unstable();
    tasks.into_iter().map(|(.., key)| key).collect()
}

/// Appends the answer.
pub fn print(page: &mut Page, world: &World, pid: u32, view: &TreeView) {
    let tasks = tasks(world, pid);
    let leader = tasks
        .first()
        .and_then(|key| Some((*key, world.task(*key)?)));
    let Some((key, task)) = leader else {
        return;
    };
    page.line(0, |page| {
        page.styled(Style::Bold, |page| text::task(page.out, task.comm(), pid));
    });
    identity(page, task, tasks.len(), view);
    for kind in Kind::ALL {
        place(page, world, key, task, kind, view);
    }
    if task.exited {
        page.field_words(
            "",
            Style::Reason,
            "It has exited. Its user and pid namespaces are kept until its parent has taken \
             notice (wait(2)); the first process of a pid namespace waits itself, until all \
             others in it are gone.",
        );
    }
    elsewhere(page, world, &tasks);
}

fn identity(page: &mut Page, task: &Task, threads: usize, view: &TreeView) {
    if let Some(id) = view.container(task.cgroup) {
        page.field("container", |page| {
            if let Some(name) = view.names.get(id) {
                escape::terminal(page.out, name.as_bytes());
                page.str(" ");
            }
            escape::terminal(page.out, id);
        });
    }
    if let Some(path) = view.cgroups.path(task.cgroup) {
        page.field("cgroup", |page| escape::terminal(page.out, path));
    }
    let mut label = "pids";
    for pid in &task.pids {
        page.field(label, |page| {
            page.number(pid.nr);
            if pid.ns != 0 {
                page.str(" in ");
                text::namespace(page.out, Kind::Pid, pid.ns);
            }
        });
        label = "";
    }
    page.field("threads", |page| page.number(threads as u64));
}

/// The width of a namespace's name, so that what is said of it stands in a column.
const NAME: usize = 18;

/// Its namespace of a kind, how it came to it, and that of its children.
fn place(page: &mut Page, world: &World, key: TaskKey, task: &Task, kind: Kind, view: &TreeView) {
    let own = world.membership(key, Membership::In(kind));
    let children = world.membership(key, Membership::Children(kind));
    if let Some((key, ns)) = own.and_then(|key| Some((key, world.namespace(key)?))) {
        page.field(kind.name(), |page| {
            let start = page.out.column();
            words::namespace(page, ns);
            page.to(start + NAME);
            how(page, world, key, ns, task, view);
        });
    } else {
        page.field(kind.name(), |page| page.str("not known"));
    }
    let other = children.filter(|children| Some(*children) != own);
    if let Some((key, ns)) = other.and_then(|key| Some((key, world.namespace(key)?))) {
        page.field("", |page| {
            let start = page.out.column();
            words::namespace(page, ns);
            page.to(start + NAME);
            page.str("for its children; ");
            how(page, world, key, ns, task, view);
        });
    } else if kind == Kind::Pid && own.is_some() && children.is_none() && !task.exited {
        page.field("", |page| {
            let start = page.out.column();
            page.str("not known");
            page.to(start + NAME);
            page.str("for its children: it has had no process yet");
        });
    }
}

/// How a task came to a namespace, as far as the times tell: one that is younger than the
/// task and was not made by it was entered.
fn how(page: &mut Page, world: &World, key: NsKey, ns: &Namespace, task: &Task, view: &TreeView) {
    if first(world).contains(&Some(key)) {
        return page.str("first");
    }
    let Some(maker) = &ns.maker else {
        return page.str(match (view.live, is_younger(ns, task)) {
            (_, true) => "entered",
            (true, false) => "its parent's, or entered",
            (false, false) => "made by it, entered, or its parent's",
        });
    };
    let makes_task = !matches!(maker.op, Op::Unshare);
    if maker.tid == task.tid {
        page.str("made by itself: ");
        op_name(page.out, maker.op);
    } else if makes_task && matches!(task.start, Start::At(time) if ns.born == Some(time)) {
        page.str("made with it by ");
        by(page, maker);
    } else {
        page.str(match is_younger(ns, task) {
            true => "entered; made by ",
            false => "its parent's, or entered; made by ",
        });
        by(page, maker);
    }
    if let Some(born) = ns.born {
        page.str(", ");
        words::ago(page, born, view.now_ns);
    }
}

fn by(page: &mut Page, maker: &Maker) {
    text::task(page.out, maker.comm(), maker.pid);
    page.str(" ");
    op_name(page.out, maker.op);
}

/// What `/proc/PID/stat` says of a start is rounded down to hundredths of a second.
const ROUNDED_NS: u64 = 10_000_000;

/// Whether a namespace is certainly younger than a task.
fn is_younger(ns: &Namespace, task: &Task) -> bool {
    let started_by = match task.start {
        Start::At(time) | Start::Before(time) => time,
        Start::About(time) => time.saturating_add(ROUNDED_NS),
    };
    ns.born.is_some_and(|born| born > started_by)
}

/// The threads that are not where the first one is.
fn elsewhere(page: &mut Page, world: &World, tasks: &[TaskKey]) {
    let place = |key, kind| world.membership(key, Membership::In(kind));
    let Some((leader, threads)) = tasks.split_first() else {
        return;
    };
    let differs = |key: TaskKey, kind: Kind| place(key, kind) != place(*leader, kind);
    let others = threads
        .iter()
        .filter(|key| Kind::ALL.into_iter().any(|kind| differs(**key, kind)));
    let mut label = "elsewhere";
    for (i, key) in others.clone().take(THREADS + 1).enumerate() {
        page.field(label, |page| {
            if i == THREADS {
                return page.str("and other threads");
            }
            let Some(task) = world.task(*key) else {
                return;
            };
            page.str("thread ");
            page.number(task.tid);
            page.str(" ");
            escape::terminal(page.out, task.comm());
            page.str(":");
            for kind in Kind::ALL.into_iter().filter(|kind| differs(*key, *kind)) {
                page.str(" ");
                match place(*key, kind) {
                    Some(ns) => words::name(page, world, ns),
                    None => {
                        page.str(kind.name());
                        page.str(" not known");
                    }
                }
            }
        });
        label = "";
    }
}
