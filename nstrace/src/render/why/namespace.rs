//! Why a namespace lives.

use nstrace_common::kind::Kind;

use super::{NotFound, processes};
use crate::{
    event::Holder,
    render::{
        TreeView,
        color::Style,
        text::{self, length},
        tree::{Page, first, words},
    },
    world::{Known, Maker, Namespace, NsKey, TaskKey, World},
};

/// Namespaces that are named of those below one.
const BELOW: usize = 32;

/// The living namespace of a number, or the one that had it last.
pub fn find(world: &World, kind: Kind, inum: u32) -> Result<NsKey, NotFound> {
    if let Some(key) = world.living(kind, inum) {
        return Ok(key);
    }
    let other = Kind::ALL
        .into_iter()
        .find(|other| world.living(*other, inum).is_some());
    if let Some(other) = other {
        return Err(NotFound::OfKind { kind, other, inum });
    }
    let had_it = world
        .namespaces()
        .filter(|(_, ns)| ns.kind == kind && ns.inum == inum);
    let last = had_it.max_by_key(|(_, ns)| ns.death.map(|(time, _)| time));
    last.map(|(key, _)| key)
        .ok_or(NotFound::Namespace { kind, inum })
}

/// Those that are in it, or whose children will be.
pub fn tasks(world: &World, key: NsKey) -> Vec<TaskKey> {
    let for_children = world.members_for_children(key);
    world.members(key).chain(for_children).collect()
}

/// A namespace and the living ones of which it is parent or owner.
pub fn with_below(world: &World, key: NsKey) -> Vec<NsKey> {
    let is_below = |ns: &Namespace| ns.parent == Some(key) || ns.owner == Some(key);
    let all = world.namespaces();
    let mut below: Vec<(Kind, u32, NsKey)> = all
        .filter(|(_, ns)| ns.is_alive() && is_below(ns))
        .map(|(key, ns)| (ns.kind, ns.inum, key))
        .collect();
    below.sort_unstable();
    let below = below.into_iter().map(|(.., key)| key);
    std::iter::once(key).chain(below).collect()
}

/// Appends the answer.
pub fn print(page: &mut Page, world: &World, key: NsKey, view: &TreeView) {
    let Some(ns) = world.namespace(key) else {
        return;
    };
    let is_first = first(world).contains(&Some(key));
    page.line(0, |page| {
        page.styled(Style::Bold, |page| words::namespace(page, ns));
        if is_first {
            page.str(" (first)");
        }
    });
    identity(page, world, ns);
    made(page, ns, is_first, view);
    if let Some((time, known)) = ns.death {
        return died(page, ns, time, known, view);
    }
    let members: Vec<TaskKey> = world.members(key).collect();
    if !members.is_empty() {
        processes(page, world, "tasks", &members);
    }
    let future: Vec<TaskKey> = words::only_for_children(world, key, ns).collect();
    if !future.is_empty() {
        processes(page, world, "for children", &future);
    }
    holders(page, world, ns);
    below(page, world, key, ns);
    unheld(page, world, ns, is_first);
}

fn identity(page: &mut Page, world: &World, ns: &Namespace) {
    if ns.id != 0 {
        page.field("id", |page| page.number(ns.id));
    }
    if let Some(parent) = ns.parent {
        page.field("parent", |page| words::name(page, world, parent));
    }
    if let Some(owner) = ns.owner.filter(|_| ns.kind != Kind::User) {
        page.field("owner", |page| words::name(page, world, owner));
    } else if ns.owner.is_none() && ns.kind != Kind::User {
        page.field("owner", |page| {
            page.str("not known: it could not be opened")
        });
    }
    if let Some(uid) = ns.owner_uid {
        page.field("owner uid", |page| page.number(uid));
    }
}

fn made(page: &mut Page, ns: &Namespace, is_first: bool, view: &TreeView) {
    match (&ns.maker, ns.born) {
        _ if is_first => page.field("made", |page| page.str("by the kernel when it started")),
        (Some(maker), born) => page.field("made", |page| by(page, maker, born, view)),
        (None, Some(born)) => page.field("made", |page| {
            words::ago(page, born, view.now_ns);
            page.str(", by whom is not known");
        }),
        (None, None) if view.live => {
            page.field("made", |page| page.str("before nstrace traced"));
        }
        (None, None) => page.field("made", |page| {
            page.str("when and by whom is not known from one look");
        }),
    }
}

/// By whom, in which container, and when.
fn by(page: &mut Page, maker: &Maker, born: Option<u64>, view: &TreeView) {
    page.str("by ");
    words::maker(page, maker, born, view.now_ns);
    page.str(", uid ");
    page.number(maker.uid);
    if let Some(id) = view.container(maker.cgroup) {
        page.str(", ");
        words::container(page, id, view);
    }
}

fn died(page: &mut Page, ns: &Namespace, time: u64, known: Known, view: &TreeView) {
    page.field("died", |page| {
        words::ago(page, time, view.now_ns);
        if let Some(born) = ns.born {
            page.str(", lived ");
            length(page.out, time.saturating_sub(born));
        }
        if known == Known::Inferred {
            page.str("; that was not told, but follows");
        }
    });
}

fn holders(page: &mut Page, world: &World, ns: &Namespace) {
    let mut label = "held by";
    for holder in ns.holders() {
        page.field(label, |page| {
            words::holder(page, world, &holder);
            match holder {
                Holder::Mount { mnt, .. } | Holder::Proc { mnt, .. } => {
                    who_is_in(page, world, mnt);
                }
                Holder::Descriptor { .. } | Holder::Socket { .. } => {}
            }
        });
        label = "";
    }
}

/// Who is in the mount namespace that has a mount.
fn who_is_in(page: &mut Page, world: &World, mnt: u32) {
    let Some(key) = world.living(Kind::Mnt, mnt) else {
        return;
    };
    let (named, count) = words::processes(world, world.members(key), None, 1);
    let Some(one) = named.first() else {
        return page.str(", where no task is");
    };
    page.str(", where ");
    let comm = world.task(one.task).map_or(&b""[..], |task| task.comm());
    text::task(page.out, comm, one.pid);
    match count {
        1 => page.str(" is"),
        _ => {
            page.str(" and ");
            page.count(count - 1, "other process", "other processes");
            page.str(" are");
        }
    }
}

/// The namespaces of which it is parent or owner.
fn below(page: &mut Page, world: &World, key: NsKey, ns: &Namespace) {
    if ns.dependents_len() == 0 {
        return;
    }
    let living = || world.namespaces().filter(|(_, ns)| ns.is_alive());
    let mut children: Vec<&Namespace> = living()
        .filter(|(_, ns)| ns.parent == Some(key))
        .map(|(_, ns)| ns)
        .collect();
    let mut owned: Vec<&Namespace> = living()
        .filter(|(_, ns)| ns.owner == Some(key) && ns.kind != Kind::User)
        .map(|(_, ns)| ns)
        .collect();
    list(page, "parent of", &mut children);
    list(page, "owner of", &mut owned);
}

fn list(page: &mut Page, label: &str, list: &mut [&Namespace]) {
    list.sort_unstable_by_key(|ns| (ns.kind, ns.inum));
    let mut label = label;
    for ns in list.iter().take(BELOW) {
        page.field(label, |page| {
            words::namespace(page, ns);
            if ns.members_len() > 0 {
                page.str(", ");
                page.count(ns.members_len(), "task", "tasks");
            }
        });
        label = "";
    }
    if list.len() > BELOW {
        page.field("", |page| {
            page.str("and ");
            page.number((list.len() - BELOW) as u64);
            page.str(" more");
        });
    }
}

/// What may hold a pid namespace that is out of sight.
fn perhaps(page: &mut Page, world: &World) -> bool {
    let mut label = "perhaps by";
    for holder in world.doubtful_holders() {
        page.field(label, |page| {
            words::holder(page, world, &holder);
            if let Holder::Proc { mnt, .. } = holder {
                who_is_in(page, world, mnt);
            }
        });
        label = "";
    }
    if label.is_empty() {
        page.field_words(
            "",
            Style::Dim,
            "A mounted instance of proc holds its pid namespace. When the first process of that \
             has died, it shows nothing any more that would tell which it is.",
        );
    }
    label.is_empty()
}

/// The answer for a pid namespace that was not found, if there is something that may hold
/// it; says whether there is.
pub fn out_of_sight(page: &mut Page, world: &World, inum: u32) -> bool {
    if world.doubtful_holders().next().is_none() {
        return false;
    }
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            text::namespace(page.out, Kind::Pid, inum);
        });
        page.str(" was not found: it has died, or is out of sight");
    });
    perhaps(page, world)
}

/// What it means that nothing seems to keep it alive.
fn unheld(page: &mut Page, world: &World, ns: &Namespace, is_first: bool) {
    if is_first {
        return page.field("held by", |page| page.str("the kernel itself"));
    }
    if ns.is_held() {
        return;
    }
    page.field_words("held by", Style::Reason, words::nothing(ns));
    if ns.kind == Kind::Pid {
        perhaps(page, world);
    }
    page.field_words(
        "",
        Style::Dim,
        "What nstrace cannot see: references of the kernel's own, descriptors on their way \
         through a socket (SCM_RIGHTS), files that io_uring has registered, open files that hold \
         one without being it (/proc/PID/mountinfo, /proc/PID/net), shared memory, and what is \
         in a mount namespace that could not be looked into. Or it is just dying.",
    );
}
