//! What trees, lists and answers say of a namespace, in words.

use foldhash::HashMap;
use nstrace_common::kind::Kind;

use super::{
    super::{
        color::Style,
        escape,
        text::{self, length, op_name},
    },
    Page, TreeView,
};
use crate::{
    event::{Holder, Unseen},
    world::{Interval, Maker, Membership, Namespace, NsKey, TaskKey, World},
};

/// Appends `net:4026532281`.
pub fn namespace(page: &mut Page, ns: &Namespace) {
    text::namespace(page.out, ns.kind, ns.inum);
}

/// The same of a key, which may be of one that is forgotten.
pub fn name(page: &mut Page, world: &World, key: NsKey) {
    match world.namespace(key) {
        Some(ns) => namespace(page, ns),
        None => page.str("one that is forgotten"),
    }
}

/// The columns of [`namespace`].
pub fn namespace_len(ns: &Namespace) -> usize {
    let digits = ns.inum.checked_ilog10().unwrap_or(0) as usize + 1;
    ns.kind.name().len() + 1 + digits
}

/// Appends `runc[4242] unshare, 3m12s ago`.
pub fn maker(page: &mut Page, maker: &Maker, born: Option<u64>, now_ns: u64) {
    text::task(page.out, maker.comm(), maker.pid);
    page.str(" ");
    op_name(page.out, maker.op);
    if let Some(born) = born {
        page.str(", ");
        ago(page, born, now_ns);
    }
}

/// Appends `3m12s ago`.
pub fn ago(page: &mut Page, time: u64, now_ns: u64) {
    length(page.out, now_ns.saturating_sub(time));
    page.str(" ago");
}

/// Appends `, made by runc[4242] unshare, 3m12s ago`, if it is known.
pub fn made(page: &mut Page, ns: &Namespace, now_ns: u64) {
    match (&ns.maker, ns.born) {
        (Some(by), born) => {
            page.str(", made by ");
            maker(page, by, born, now_ns);
        }
        (None, Some(born)) => {
            page.str(", made ");
            ago(page, born, now_ns);
        }
        (None, None) => {}
    }
}

/// Appends `container web (3f2a91c04b7d)`.
pub fn container(page: &mut Page, id: &[u8], view: &TreeView) {
    page.str("container ");
    if let Some(name) = view.names.get(id) {
        escape::terminal(page.out, name.as_bytes());
        page.str(" (");
    }
    escape::terminal(page.out, short_id(id));
    if view.names.get(id).is_some() {
        page.str(")");
    }
}

/// What a container is called: `web (3f2a91c04b7d)`.
pub fn container_name(id: &[u8], view: &TreeView) -> String {
    let short = String::from_utf8_lossy(short_id(id));
    match view.names.get(id) {
        Some(name) => format!("{name} ({short})"),
        None => short.into_owned(),
    }
}

/// The first 12 of 64 digits, as engines have it; another id as it is.
pub fn short_id(id: &[u8]) -> &[u8] {
    let is_hex = id.len() == 64 && id.iter().all(u8::is_ascii_hexdigit);
    if is_hex { &id[..12] } else { id }
}

/// A process, as far as it is in a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// A task of it, the leader if that is there.
    pub task: TaskKey,
    /// How many tasks of it there are.
    pub tasks: usize,
}

/// The processes of tasks, in the order of their ids, but for `front` which is the first;
/// only the first `most`. And how many there are.
pub fn processes(
    world: &World,
    tasks: impl Iterator<Item = TaskKey>,
    front: Option<u32>,
    most: usize,
) -> (Vec<Process>, usize) {
    let mut known: HashMap<u32, Process> = HashMap::default();
    for key in tasks {
        let Some(task) = world.task(key) else {
            continue;
        };
        let process = known.entry(task.pid).or_insert(Process {
            pid: task.pid,
            task: key,
            tasks: 0,
        });
        process.tasks += 1;
        if !task.is_thread() {
            process.task = key;
        }
    }
    let mut all: Vec<Process> = known.into_values().collect();
    let count = all.len();
    let order = |process: &Process| (Some(process.pid) != front, process.pid);
    if most < count {
        all.select_nth_unstable_by_key(most, order);
        all.truncate(most);
    }
    all.sort_unstable_by_key(order);
    (all, count)
}

/// Appends `sshd[812] (4 threads)`.
pub fn process(page: &mut Page, world: &World, process: &Process) {
    let comm = world
        .task(process.task)
        .map_or(&b""[..], |task| task.comm());
    text::task(page.out, comm, process.pid);
    let task = world.task(process.task);
    if let Some(task) = task.filter(|task| task.is_thread()) {
        page.str(" thread ");
        page.number(task.tid);
    }
    if task.is_some_and(|task| task.exited) {
        page.str(" (exited)");
    }
    if process.tasks > 1 {
        page.str(" (");
        page.number(process.tasks as u64);
        page.str(" threads)");
    }
}

/// At most so many processes are named where members are summed up.
const NAMED: usize = 10;

/// Appends `87 tasks: systemd[1], sshd[812], …`, as much as fits on the line.
pub fn members(
    page: &mut Page,
    world: &World,
    tasks: impl Iterator<Item = TaskKey>,
    view: &TreeView,
) {
    let mut count = 0;
    let tasks = tasks.inspect(|_| count += 1);
    let (named, processes) = processes(world, tasks, view.filter.pid, NAMED);
    page.count(count, "task", "tasks");
    page.str(": ");
    for (i, one) in named.iter().enumerate() {
        let place = page.out.place();
        if i > 0 {
            page.str(", ");
        }
        process(page, world, one);
        // Room for what says that there are more.
        let more = if i + 1 < processes { 3 } else { 0 };
        if i > 0 && !page.fits(more) {
            page.out.back_to(place);
            page.str(", ");
            return page.out.push('…');
        }
    }
    if named.len() < processes {
        page.str(", ");
        page.out.push('…');
    }
}

/// The process that holds something.
pub fn holder_pid(holder: &Holder) -> Option<u32> {
    match *holder {
        Holder::Descriptor { pid, .. } | Holder::Socket { pid, .. } => Some(pid),
        Holder::Mount { .. } | Holder::Proc { .. } => None,
    }
}

/// Appends `descriptor 23 of dockerd[812]` and the like.
pub fn holder(page: &mut Page, world: &World, holder: &Holder) {
    match *holder {
        Holder::Descriptor { pid, fd } => held_open(page, world, "descriptor ", pid, fd),
        Holder::Socket { pid, fd } => held_open(page, world, "socket ", pid, fd),
        Holder::Mount { mnt, path } => mounted(page, "bind mount ", mnt, path),
        Holder::Proc { mnt, path } => mounted(page, "proc mounted on ", mnt, path),
    }
}

fn held_open(page: &mut Page, world: &World, what: &str, pid: u32, fd: u32) {
    page.str(what);
    page.number(fd);
    page.str(" of ");
    let task = world.by_tid(pid).and_then(|key| world.task(key));
    match task {
        Some(task) => text::task(page.out, task.comm(), pid),
        None => {
            page.str("process ");
            page.number(pid);
        }
    }
}

fn mounted(page: &mut Page, what: &str, mnt: u32, path: &[u8]) {
    page.str(what);
    escape::terminal(page.out, path);
    page.str(" in ");
    text::namespace(page.out, Kind::Mnt, mnt);
}

/// A line for each of what keeps a namespace alive that no task is in; at most so many.
pub fn held_by(page: &mut Page, level: usize, world: &World, key: NsKey, most: usize) {
    let Some(ns) = world.namespace(key) else {
        return;
    };
    if !ns.is_alive() {
        return;
    }
    let (named, count) = processes(world, only_for_children(world, key, ns), None, 1);
    if let Some(one) = named.first() {
        page.line(level, |page| {
            page.str("the next children of ");
            process(page, world, one);
            if count > 1 {
                page.str(" and ");
                page.count(count - 1, "other", "others");
            }
        });
    }
    for found in ns.holders().take(most) {
        page.line(level, |page| holder(page, world, &found));
    }
    let more = ns.holders().count().saturating_sub(most);
    if more > 0 {
        page.line(level, |page| {
            page.str("and ");
            page.number(more as u64);
            page.str(" more");
        });
    }
    if ns.dependents_len() > 0 {
        page.line(level, |page| {
            page.count(ns.dependents_len(), "namespace", "namespaces");
            page.str(" below it");
        });
    }
    if !ns.is_held() {
        page.line(level, |page| {
            page.styled(Style::Reason, |page| {
                page.str("held by ");
                page.str(nothing(ns));
            });
        });
    }
}

/// The tasks that are not in a namespace, though their children will be.
pub fn only_for_children<'w>(
    world: &'w World,
    key: NsKey,
    ns: &Namespace,
) -> impl Iterator<Item = TaskKey> + use<'w> {
    let own = Membership::In(ns.kind);
    world
        .members_for_children(key)
        .filter(move |task| world.membership(*task, own) != Some(key))
}

/// What is seen to keep a namespace alive, if nothing is.
pub fn nothing(ns: &Namespace) -> &'static str {
    match ns.confirmed {
        true => "nothing that can be seen",
        false => "nothing that can be seen; the last look did not find it",
    }
}

/// Lines that say what is missing from all that follows.
pub fn missing(page: &mut Page, world: &World, view: &TreeView) {
    if let Some(loss) = world.loss() {
        lost(page, &loss, view.now_ns);
    }
    let unseen = unseen(&view.unseen);
    if !unseen.is_empty() {
        page.words(
            0,
            Style::Reason,
            &format!("could not be looked at: {unseen}"),
        );
    }
    if !view.live {
        page.words(
            0,
            Style::Dim,
            "one look: makers and ages are not known; --watch and -- COMMAND trace",
        );
    }
}

fn lost(page: &mut Page, loss: &Interval, now_ns: u64) {
    page.line(0, |page| {
        page.styled(Style::Lost, |page| {
            page.str("*** LOST events from ");
            ago(page, loss.from, now_ns);
            page.str(" to ");
            ago(page, loss.until, now_ns);
            page.str(": this may be wrong ***");
        });
    });
}

/// What could not be looked at, in words; nothing if that is nothing.
pub fn unseen(unseen: &Unseen) -> String {
    let Unseen {
        tasks,
        descriptors,
        mounts,
        sockets,
        procs,
        children,
    } = *unseen;
    let parts = [
        (tasks, "the namespaces of ", "task", "tasks"),
        (descriptors, "the descriptors of ", "process", "processes"),
        (
            mounts,
            "the mounts of ",
            "mount namespace",
            "mount namespaces",
        ),
        (sockets, "the net namespace of ", "socket", "sockets"),
        (
            procs,
            "the pid namespace of ",
            "mount of proc",
            "mounts of proc",
        ),
        (
            children,
            "the pid namespace (without a process yet) for the children of ",
            "task",
            "tasks",
        ),
    ];
    let parts = parts.iter().filter(|(count, ..)| *count > 0);
    let parts: Vec<String> = parts
        .map(|(count, what, one, many)| {
            let noun = if *count == 1 { one } else { many };
            format!("{what}{count} {noun}")
        })
        .collect();
    parts.join(", ")
}
