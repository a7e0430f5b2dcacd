//! What to do so that a file system is free.
//!
//! First who uses a mount must let go of it; then it can be unmounted, in each namespace that
//! has it. What is unmounted in one goes from others too where what it is mounted on passes
//! that on: such copies need no command of their own, but must not be in use either (v6.12
//! fs/pnode.c, propagate_mount_busy); those with mounts below them stay.

use nstrace_common::kind::Kind;

use super::{
    super::escape::Escaped,
    who::{Inside, WhoView},
};
use crate::{
    event::Holder,
    mounts::{FsPath, MountNs, Receives, uses::Use, who::Kept},
    world::TaskKey,
};

/// So many mounts are told how to unmount.
const MOUNTS_MAX: usize = 64;

/// So many processes are named in a step.
const NAMED: usize = 8;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does, or what is to be done. What the traced chose in it has been escaped.
    pub say: String,
    /// The command that does it, for a shell.
    pub command: Option<String>,
}

impl Step {
    fn say(say: String) -> Step {
        Step { say, command: None }
    }

    fn run(command: String, say: String) -> Step {
        Step {
            say,
            command: Some(command),
        }
    }
}

/// What to do about mounts that are meant, and the rest that keeps them.
pub fn steps(view: &WhoView, kept: &[Kept], inside: &Inside) -> Vec<Step> {
    let mut steps = Vec::new();
    for one in &inside.swaps {
        steps.push(Step::run(
            format!("swapoff {}", word(&one.path)),
            String::new(),
        ));
    }
    for one in &inside.loops {
        let device = [b"/dev/", &*one.name].concat();
        let command = format!("losetup -d {}", word(&device));
        let say = "when what is mounted of it has been unmounted";
        steps.push(Step::run(command, say.to_owned()));
    }
    for one in &inside.layers {
        steps.push(Step::say(format!(
            "unmount the overlay {}: nstrace mounts --who {} says where it is",
            one.mount.device, one.mount.device
        )));
    }
    let groups = Groups::new(view, kept);
    for group in groups.all.iter().take(MOUNTS_MAX) {
        group_steps(view, group, &mut steps);
    }
    let more = groups.all.len().saturating_sub(MOUNTS_MAX);
    if more > 0 {
        steps.push(Step::say(format!("and the same for {more} more mounts")));
    }
    steps.extend(steps_of_detached(view));
    let others: Vec<&Use> = view.uses.elsewhere().collect();
    steps.extend(let_go(view, &others));
    steps
}

/// What to do about mounts that no namespace has.
pub fn steps_of_detached(view: &WhoView) -> Vec<Step> {
    let detached = view.uses.detached.iter();
    let used: Vec<&Use> = detached
        .flat_map(|one| view.uses.of_mount(one.id))
        .collect();
    let others: Vec<&Use> = match view.subject {
        Some(_) => Vec::new(),
        None => view.uses.elsewhere().collect(),
    };
    let all: Vec<&Use> = used.into_iter().chain(others).collect();
    let_go(view, &all).into_iter().collect()
}

/// A mount and those that go with it when it is unmounted.
struct Group<'a> {
    leader: &'a Kept<'a>,
    others: Vec<&'a Kept<'a>>,
}

struct Groups<'a> {
    all: Vec<Group<'a>>,
}

impl<'a> Groups<'a> {
    fn new(view: &WhoView, kept: &'a [Kept<'a>]) -> Groups<'a> {
        let receives = Receives::new(view.all.mounts);
        let place = |one: &Kept| one.parent.and_then(|on| FsPath::of(on, &one.mount.point));
        // Those of our own namespace come first: there it is easiest.
        let left: Vec<(&Kept, Option<FsPath>)> = kept.iter().map(|one| (one, place(one))).collect();
        let mut all = Vec::new();
        let mut taken = vec![false; left.len()];
        for at in 0..left.len() {
            if std::mem::replace(&mut taken[at], true) {
                continue;
            }
            let (leader, place) = &left[at];
            let mut others = Vec::new();
            // What comes after many is not told in any case.
            let rest = if all.len() < MOUNTS_MAX {
                at + 1
            } else {
                left.len()
            };
            for (other_at, (other, other_place)) in left.iter().enumerate().skip(rest) {
                let (Some(on), Some(other_on)) = (leader.parent, other.parent) else {
                    continue;
                };
                let goes = !taken[other_at]
                    && (place == other_place
                        && other.below_len == 0
                        && other.key != leader.key
                        && receives.from(on, other_on)
                        || other.is_below(leader));
                if goes {
                    taken[other_at] = true;
                    others.push(*other);
                }
            }
            all.push(Group { leader, others });
        }
        Groups { all }
    }
}

fn group_steps(view: &WhoView, group: &Group, steps: &mut Vec<Step>) {
    let leader = group.leader;
    let Some(ns) = view.all.mounts.namespaces.get(leader.key.ns) else {
        return;
    };
    if leader.parent.is_none() {
        steps.push(root(view, ns));
        return;
    }
    let kept = group.others.iter().copied().chain([leader]);
    let uses: Vec<&Use> = kept
        .flat_map(|one| one.uses.iter().chain(&one.below_uses).copied())
        .collect();
    steps.extend(let_go(view, &uses));
    let kept = group.others.iter().copied().chain([leader]);
    if kept
        .map(|one| one.mount.id)
        .any(|id| view.uses.held.contains_key(&id))
    {
        let say = "end who may have a file of it that waits in a socket, or with io_uring: no \
                   list of open files has it";
        steps.push(Step::say(say.to_owned()));
    }
    let recursive = if leader.below_len > 0 { "-R " } else { "" };
    let umount = format!("umount {recursive}{}", word(&leader.mount.point));
    let mut notes = Vec::new();
    if let Some(hiding) = leader.hidden_by {
        notes.push(format!(
            "when {} has been unmounted, which hides it",
            word(&hiding.point)
        ));
    }
    if leader.below_len > 0 {
        notes.push("what is below it must be free, too".to_owned());
    }
    if leader.is_covered {
        notes.push("again, until it is not covered any more".to_owned());
    }
    if let Some(note) = other_owner(view, ns) {
        notes.push(note);
    }
    notes.extend(also(view, group));
    match enter(view, leader.key.ns, ns) {
        Some(enter) => steps.push(Step::run(format!("{enter}{umount}"), notes.join("; "))),
        None => steps.push(Step::say(format!(
            "mnt:{} has it, and what keeps that is not seen",
            ns.inum
        ))),
    }
}

/// In which other namespaces something goes with a mount.
fn also(view: &WhoView, group: &Group) -> Option<String> {
    let namespaces = &view.all.mounts.namespaces;
    let others = group.others.iter();
    let mut inums: Vec<u32> = others
        .filter(|one| one.key.ns != group.leader.key.ns)
        .filter_map(|one| Some(namespaces.get(one.key.ns)?.inum))
        .collect();
    inums.dedup();
    const INUMS: usize = 3;
    let named: Vec<String> = inums
        .iter()
        .take(INUMS)
        .map(|inum| format!("mnt:{inum}"))
        .collect();
    match inums.len().checked_sub(INUMS) {
        _ if inums.is_empty() => None,
        None | Some(0) => Some(format!("from {} too", named.join(", "))),
        Some(more) => Some(format!("from {} and {more} more too", named.join(", "))),
    }
}

/// What to do about a mount that is the root of a namespace.
fn root(view: &WhoView, ns: &MountNs) -> Step {
    if view.all.is_first(ns.inum) {
        return Step::say(format!(
            "it is the root of mnt:{}, the first namespace: it stays while the machine is up",
            ns.inum
        ));
    }
    let members = members(view, ns.inum);
    let processes = named(view, members.iter().map(|(pid, key)| (*pid, Some(*key))));
    match members.is_empty() {
        true => Step::say(format!(
            "it is the root of mnt:{}, and goes with it: nstrace why mnt:{} says what keeps that",
            ns.inum, ns.inum
        )),
        false => Step::say(format!(
            "it is the root of mnt:{}, and goes when the processes in that end: {processes}",
            ns.inum
        )),
    }
}

/// The processes in a mount namespace, the first ones first.
fn members(view: &WhoView, inum: u32) -> Vec<(u32, TaskKey)> {
    let world = view.all.world;
    let Some(key) = view.all.key(inum) else {
        return Vec::new();
    };
    let tasks = world.members(key);
    let mut members: Vec<(u32, TaskKey)> = tasks
        .filter_map(|key| Some((world.task(key)?.pid, key)))
        .collect();
    members.sort_unstable();
    members.dedup_by_key(|(pid, _)| *pid);
    members
}

/// What in front of a command has it run in a namespace. None if there is no way that is known.
fn enter(view: &WhoView, at: usize, ns: &MountNs) -> Option<String> {
    if view.own == Some(at) {
        return Some(String::new());
    }
    if let Some((pid, _)) = members(view, ns.inum).first() {
        return Some(format!("nsenter -t {pid} -m "));
    }
    let world = view.all.world;
    let known = world.namespace(view.all.key(ns.inum)?)?;
    let own = view.own.and_then(|own| view.all.mounts.namespaces.get(own));
    known.holders().find_map(|holder| match holder {
        Holder::Descriptor { pid, fd } => Some(format!("nsenter --mount=/proc/{pid}/fd/{fd} ")),
        Holder::Mount { mnt, path } if own.is_some_and(|own| own.inum == mnt) => {
            Some(format!("nsenter --mount={} ", word(path)))
        }
        Holder::Mount { .. } | Holder::Socket { .. } | Holder::Proc { .. } => None,
    })
}

/// What may keep a mount from being unmounted alone: the kernel locks what comes from a
/// namespace of another owner (v6.12 fs/namespace.c, copy_mnt_ns and lock_mnt_tree).
fn other_owner(view: &WhoView, ns: &MountNs) -> Option<String> {
    let world = view.all.world;
    let owner = world.namespace(view.all.key(ns.inum)?)?.owner?;
    let first = super::super::tree::first(world)[Kind::User as usize];
    let is_other = first.is_some_and(|first| first != owner);
    is_other.then(|| {
        "EINVAL if it came from a namespace of another owner: then it goes with this one alone"
            .to_owned()
    })
}

/// That those who use something let go of it.
fn let_go(view: &WhoView, uses: &[&Use]) -> Option<Step> {
    let mut pids: Vec<u32> = uses.iter().map(|one| one.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    if pids.is_empty() {
        return None;
    }
    let world = view.all.world;
    let names = named(view, pids.iter().map(|pid| (*pid, world.by_tid(*pid))));
    Some(Step::say(format!(
        "have these let go of it, or end them: {names}"
    )))
}

/// `bash[900], postgres[812]`, the first few.
fn named(view: &WhoView, tasks: impl ExactSizeIterator<Item = (u32, Option<TaskKey>)>) -> String {
    let len = tasks.len();
    let name = |(pid, key): (u32, Option<TaskKey>)| {
        let task = key.and_then(|key| view.all.world.task(key));
        let comm = task.map_or(&b""[..], |task| task.comm());
        format!("{}[{pid}]", Escaped(comm))
    };
    let names: Vec<String> = tasks.take(NAMED).map(name).collect();
    match len.saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// A name as a word for a shell, which also a terminal may have.
fn word(name: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(byte);
    if !name.is_empty() && name.iter().all(is_plain) {
        return String::from_utf8_lossy(name).into_owned();
    }
    let mut text = "$'".to_owned();
    for byte in name {
        match byte {
            b'\'' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            byte => text += &format!("\\x{byte:02x}"),
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn words_are_safe_for_shell_and_terminal() {
        assert_eq!(word(b"/mnt/data-1.2"), "/mnt/data-1.2");
        assert_eq!(word(b""), "$''");
        assert_eq!(word(b"/a b"), "$'/a b'");
        assert_eq!(word(b"/a'; rm -rf /"), r"$'/a\'; rm -rf /'");
        assert_eq!(
            word(b"/\x1b[2J\\\xff\n$x`y`"),
            r"$'/\x1b[2J\\\xff\x0a$x`y`'"
        );
        assert_eq!(word(b"~/x"), "$'~/x'");
    }
}
