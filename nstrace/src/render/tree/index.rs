//! Where everything stands in the tree, found in one pass over the namespaces and one over
//! the tasks.
//!
//! A user namespace stands in its parent. A pid namespace stands in its parent if both
//! have the same owner, else in its owner. The tasks that have all their namespaces in
//! common, and their container, are a [`Set`]. It stands in its pid namespace if that is
//! of its user namespace or of one below; else, as after `unshare --user`, in its user
//! namespace. Other namespaces stand for themselves, in their owner, if no task is in them.
//!
//! So everything stands in one place. What has lost it, because what it stood in is
//! forgotten, is at the top; so is what stands in itself by way of others, as only a
//! recording that lies can say.

use foldhash::{HashMap, HashSet};
use nstrace_common::kind::{KINDS, Kind};

use super::{Recent, TreeView};
use crate::world::{Membership, Namespace, NsKey, TaskKey, World};

/// The namespace of each kind that a task is in.
pub type Tuple = [Option<NsKey>; KINDS];

/// Tasks that have all namespaces in common, and their container.
#[derive(Clone, Debug)]
pub struct Set<'a> {
    /// Their namespaces.
    pub tuple: Tuple,
    /// The id of their container.
    pub container: Option<&'a [u8]>,
    /// The namespace that they are shown in.
    pub place: Option<NsKey>,
    /// They.
    pub tasks: Vec<TaskKey>,
    /// Whether one of them passes the filter.
    matches: bool,
    /// The lowest process id, for a lasting order.
    pid_min: u32,
}

/// What stands in a namespace of kind user or pid.
#[derive(Clone, Debug, Default)]
struct Node {
    sets: Vec<usize>,
    pids: Vec<NsKey>,
    others: Vec<NsKey>,
    users: Vec<NsKey>,
}

/// A line, or the head of several, of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A namespace of kind user or pid; and whether nothing stands in it.
    Node(NsKey, bool),
    /// The container of the set that follows.
    Container(usize),
    /// A set.
    Set(usize),
    /// A namespace that no task is in.
    Other(NsKey),
}

/// Where everything stands.
#[derive(Debug)]
pub struct Index<'a> {
    /// The tree.
    pub world: &'a World,
    /// The first namespace of each kind, as far as they can be told.
    pub first: Tuple,
    /// The sets, in no order that means anything.
    pub sets: Vec<Set<'a>>,
    nodes: HashMap<Option<NsKey>, Node>,
    /// What is shown, if not everything is.
    kept: Option<HashSet<NsKey>>,
}

/// The numbers that the kernel gives the first namespaces, in the order of the kinds
/// (include/uapi/linux/nsfs.h, enum init_ns_ino); before v6.18 it gives mnt and net any.
const FIRST: [u32; KINDS] = [
    0xeffffff8, 0xeffffffe, 0xefffffff, 0xeffffffc, 0xeffffff9, 0xeffffffd, 0xeffffffb, 0xeffffffa,
];

/// The first namespaces. Where a kernel gives any number, the one that init is in, which
/// runs in the first ones unless it left them by itself. That is the process of id 1 in the
/// first pid namespace: who looks from another one does not see it.
pub fn first(world: &World) -> Tuple {
    let mut first = Kind::ALL.map(|kind| world.living(kind, FIRST[kind as usize]));
    let init = world.by_tid(1).filter(|init| {
        let is_in_first = |kind: Kind| {
            let own = world.membership(*init, Membership::In(kind));
            own.is_some() && own == first[kind as usize]
        };
        is_in_first(Kind::User) && is_in_first(Kind::Pid)
    });
    if let Some(init) = init {
        for kind in [Kind::Mnt, Kind::Net] {
            let own = world.membership(init, Membership::In(kind));
            let known = &mut first[kind as usize];
            *known = known.or(own);
        }
    }
    first
}

/// Namespaces nest 32 deep; a recording may say anything.
const NESTING_MAX: usize = 64;

impl<'a> Index<'a> {
    /// Finds out where everything stands. `recent` has the dead that are still shown.
    pub fn new(world: &'a World, view: &TreeView<'a>, recent: Option<&Recent>) -> Index<'a> {
        let mut index = Index {
            world,
            first: first(world),
            sets: Vec::new(),
            nodes: HashMap::default(),
            kept: None,
        };
        index.add_tasks(view);
        index.add_namespaces(view, recent);
        index.sort();
        if view.filter.is_about_tasks() {
            index.keep(view);
        }
        index
    }

    /// Whether something is the first namespace of its kind.
    pub fn is_first(&self, key: NsKey) -> bool {
        self.first.contains(&Some(key))
    }

    /// Whether a namespace is shown.
    pub fn keeps(&self, key: NsKey) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.contains(&key))
    }

    fn add_tasks(&mut self, view: &TreeView<'a>) {
        let mut known: HashMap<(Tuple, Option<&'a [u8]>), usize> = HashMap::default();
        for (key, task) in self.world.tasks() {
            let container = view.container(task.cgroup);
            let tuple = Kind::ALL.map(|kind| self.world.membership(key, Membership::In(kind)));
            // Tasks of which nothing is known have nothing in common.
            let is_unknown = tuple.iter().all(Option::is_none);
            if is_unknown && view.filter.is_about_tasks() && !view.has_task(task) {
                continue;
            }
            let at = *known.entry((tuple, container)).or_insert_with(|| {
                self.sets.push(Set {
                    tuple,
                    container,
                    place: self.place_of_set(&tuple),
                    tasks: Vec::new(),
                    matches: false,
                    pid_min: u32::MAX,
                });
                self.sets.len() - 1
            });
            let set = &mut self.sets[at];
            set.tasks.push(key);
            set.matches |= view.has_task(task);
            set.pid_min = set.pid_min.min(task.pid);
        }
        for (at, set) in self.sets.iter().enumerate() {
            self.nodes.entry(set.place).or_default().sets.push(at);
        }
    }

    fn place_of_set(&self, tuple: &Tuple) -> Option<NsKey> {
        let (pid, user) = (tuple[Kind::Pid as usize], tuple[Kind::User as usize]);
        let (Some(pid), Some(user)) = (pid, user) else {
            return pid.or(user);
        };
        let owner = self.world.namespace(pid).and_then(|ns| ns.owner);
        let mut above = std::iter::successors(owner, |key| {
            let ns = self.world.namespace(*key)?;
            ns.parent.or(ns.owner)
        });
        let is_in_pid = owner.is_none() || above.by_ref().take(NESTING_MAX).any(|key| key == user);
        Some(if is_in_pid { pid } else { user })
    }

    fn add_namespaces(&mut self, view: &TreeView, recent: Option<&Recent>) {
        let shown = |key: NsKey, ns: &Namespace| {
            ns.is_alive() || recent.is_some_and(|recent| recent.died(key, view.now_ns))
        };
        for (key, ns) in self.world.namespaces() {
            let is_set = ns.is_alive() && ns.members_len() > 0;
            let is_node = matches!(ns.kind, Kind::User | Kind::Pid);
            if !shown(key, ns) || (is_set && !is_node) {
                continue;
            }
            let place = self.place(ns).filter(|above| {
                let above = (*above, self.world.namespace(*above));
                matches!(above, (key, Some(ns)) if shown(key, ns)) && self.is_below_top(ns)
            });
            let node = self.nodes.entry(place).or_default();
            match ns.kind {
                Kind::User => node.users.push(key),
                Kind::Pid => node.pids.push(key),
                Kind::Mnt | Kind::Uts | Kind::Ipc | Kind::Net | Kind::Cgroup | Kind::Time => {
                    node.others.push(key);
                }
            }
        }
    }

    /// Whether what a namespace stands in ends at the top.
    fn is_below_top(&self, ns: &Namespace) -> bool {
        let above = std::iter::successors(Some(ns), |ns| self.world.namespace(self.place(ns)?));
        above.take(2 * NESTING_MAX + 1).count() <= 2 * NESTING_MAX
    }

    /// The namespace that another one is shown in.
    fn place(&self, ns: &Namespace) -> Option<NsKey> {
        match ns.kind {
            Kind::User => ns.parent.or(ns.owner),
            Kind::Pid => {
                let parent = ns.parent.and_then(|key| self.world.namespace(key));
                match parent {
                    Some(parent) if ns.owner.is_none() || parent.owner == ns.owner => ns.parent,
                    _ => ns.owner,
                }
            }
            Kind::Mnt | Kind::Uts | Kind::Ipc | Kind::Net | Kind::Cgroup | Kind::Time => ns.owner,
        }
    }

    /// Gives everything an order that lasts from one rendering to the next.
    fn sort(&mut self) {
        let (world, sets) = (self.world, &self.sets);
        let by_age = |key: &NsKey| {
            let ns = world.namespace(*key);
            ns.map(|ns| (ns.kind, ns.id, ns.born, ns.inum))
        };
        for node in self.nodes.values_mut() {
            node.sets.sort_by_cached_key(|at| {
                let set = &sets[*at];
                let container = set.container.map(<[u8]>::to_vec);
                (container, set.pid_min, set.tuple)
            });
            node.pids.sort_by_key(by_age);
            node.users.sort_by_key(by_age);
            node.others.sort_by_key(by_age);
        }
    }

    /// Keeps what has to do with the process or the container that was asked for, and what
    /// that stands in.
    fn keep(&mut self, view: &TreeView) {
        let mut kept = HashSet::default();
        let matching = self.sets.iter().filter(|set| set.matches);
        for set in matching {
            let all = set.tuple.iter().copied().flatten();
            all.for_each(|key| self.keep_branch(&mut kept, key));
        }
        for (key, ns) in self.world.namespaces() {
            let of_children = || {
                let mut tasks = self.world.members_for_children(key);
                tasks.any(|key| self.world.task(key).is_some_and(|task| view.has_task(task)))
            };
            if view.is_related(ns) || of_children() {
                self.keep_branch(&mut kept, key);
            }
        }
        self.kept = Some(kept);
    }

    fn keep_branch(&self, kept: &mut HashSet<NsKey>, key: NsKey) {
        let mut next = Some(key);
        while let Some(key) = next.filter(|key| kept.insert(*key)) {
            next = self.world.namespace(key).and_then(|ns| self.place(ns));
        }
    }

    /// The tree from the top: each entry with its level.
    pub fn entries(&self) -> Vec<(usize, Entry)> {
        let mut entries = Vec::new();
        // What is still to come, the next one last.
        let mut left = Vec::new();
        self.open(None, 0, &mut left);
        while let Some((level, entry)) = left.pop() {
            let mut entry = entry;
            if let Entry::Node(key, is_empty) = &mut entry {
                let before = left.len();
                self.open(Some(*key), level + 1, &mut left);
                *is_empty = left.len() == before;
            }
            entries.push((level, entry));
        }
        entries
    }

    /// Appends what stands in a node, the first one last.
    fn open(&self, key: Option<NsKey>, level: usize, left: &mut Vec<(usize, Entry)>) {
        let Some(node) = self.nodes.get(&key) else {
            return;
        };
        let nodes = |keys: &[NsKey]| {
            let kept = keys.iter().copied().filter(|key| self.keeps(*key));
            kept.map(|key| (level, Entry::Node(key, true)))
                .collect::<Vec<_>>()
        };
        left.extend(nodes(&node.users).into_iter().rev());
        let others = node.others.iter().rev().copied();
        left.extend(
            others
                .filter(|key| self.keeps(*key))
                .map(|key| (level, Entry::Other(key))),
        );
        left.extend(nodes(&node.pids).into_iter().rev());
        let mut sets = Vec::new();
        let mut container = None;
        for &at in &node.sets {
            let set = &self.sets[at];
            if self.kept.is_some() && !set.matches {
                continue;
            }
            if set.container != container {
                container = set.container;
                sets.push((level, Entry::Container(at)));
            }
            let level = level + usize::from(container.is_some());
            sets.push((level, Entry::Set(at)));
        }
        left.extend(sets.into_iter().rev());
    }

    /// All living namespaces that are shown, each after its parent and its owner.
    pub fn in_order(&self) -> Vec<NsKey> {
        let mut keys: Vec<NsKey> = self
            .world
            .namespaces()
            .filter(|(key, ns)| ns.is_alive() && self.keeps(*key))
            .map(|(key, _)| key)
            .collect();
        let order = |kind: Kind| match kind {
            Kind::User => 0,
            Kind::Pid => 1,
            kind => 2 + kind as usize,
        };
        keys.sort_by_key(|key| {
            let ns = self.world.namespace(*key);
            ns.map(|ns| (order(ns.kind), ns.id, ns.born, ns.inum))
        });
        let mut seen = HashSet::default();
        let mut ordered = Vec::with_capacity(keys.len());
        for key in keys {
            self.after_those_above(key, &mut seen, &mut ordered);
        }
        ordered
    }

    fn after_those_above(&self, key: NsKey, seen: &mut HashSet<NsKey>, ordered: &mut Vec<NsKey>) {
        if !seen.insert(key) {
            return;
        }
        let mut stack = vec![key];
        while let Some(&key) = stack.last() {
            let ns = self.world.namespace(key);
            let above = ns.map_or([None; 2], |ns| [ns.owner, ns.parent]);
            let next = above.into_iter().flatten().find(|key| {
                let lives = self.world.namespace(*key).is_some_and(Namespace::is_alive);
                lives && self.keeps(*key) && !seen.contains(key)
            });
            if let Some(above) = next {
                seen.insert(above);
                stack.push(above);
            } else {
                stack.pop();
                ordered.push(key);
            }
        }
    }

    /// The living namespaces of a kind that are shown, each with its level among those of
    /// the same kind.
    pub fn of_kind(&self, kind: Kind) -> Vec<(usize, NsKey)> {
        let above = |ns: &Namespace| match kind {
            Kind::User => ns.parent.or(ns.owner),
            Kind::Pid => ns.parent,
            Kind::Mnt | Kind::Uts | Kind::Ipc | Kind::Net | Kind::Cgroup | Kind::Time => None,
        };
        let mut below: HashMap<Option<NsKey>, Vec<NsKey>> = HashMap::default();
        let all = self.in_order();
        let shown: HashSet<NsKey> = all.iter().copied().collect();
        for key in all {
            let ns = self.world.namespace(key).filter(|ns| ns.kind == kind);
            let Some(ns) = ns else { continue };
            let above = above(ns).filter(|above| shown.contains(above) && self.is_below_top(ns));
            below.entry(above).or_default().push(key);
        }
        let mut list = Vec::new();
        let mut left = Vec::new();
        let mut open = |above, level, left: &mut Vec<_>| {
            let keys = below.remove(&above).unwrap_or_default();
            left.extend(keys.into_iter().rev().map(|key| (level, key)));
        };
        open(None, 0, &mut left);
        while let Some((level, key)) = left.pop() {
            list.push((level, key));
            open(Some(key), level + 1, &mut left);
        }
        list
    }
}
