//! Whatever the kernel can do, and however late or often it is told: the same tree.

use std::collections::BTreeMap;

use nstrace_common::{
    kind::{KINDS, Kind},
    wire::RecordKind,
};
use proptest::prelude::*;

use super::{
    machine::{Machine, SLOTS},
    owned::{Owned, apply},
};
use crate::{
    event::{FoundFree, Lost},
    world::{Membership, Namespace, NsKey, Options, World},
};

/// What a machine does.
type Step = (u8, u16, u16);

fn run(machine: &mut Machine, steps: &[Step]) {
    for (what, who, which) in steps {
        machine.step(*what, usize::from(*who), u32::from(*which));
    }
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 0..most)
}

/// The order in which a reader comes by what is in the log: kernel events wait in the
/// ring, in their order, while a snapshot goes on.
fn read(log: &[Owned], late: &[bool]) -> Vec<Owned> {
    let mut late = late.iter().copied().cycle();
    let (mut waiting, mut read) = (Vec::new(), Vec::new());
    for event in log {
        if !event.is_snapshot() {
            waiting.push(event.clone());
            continue;
        }
        if !late.next().unwrap_or(true) {
            read.append(&mut waiting);
        }
        read.push(event.clone());
    }
    read.append(&mut waiting);
    read
}

fn key(world: &World, key: Option<NsKey>) -> u32 {
    key.and_then(|key| world.namespace(key))
        .map_or(0, |ns| ns.inum)
}

type Namespaces = BTreeMap<u32, (Kind, u32, u32)>;
type Tasks = BTreeMap<u32, (u32, [u32; SLOTS])>;

fn expected(machine: &Machine) -> (Namespaces, Tasks) {
    let namespaces = machine.namespaces.iter();
    let tasks = machine.tasks.iter();
    (
        namespaces
            .map(|(inum, ns)| (*inum, (ns.kind, ns.parent, ns.owner)))
            .collect(),
        tasks
            .map(|(tid, task)| (*tid, (task.pid, task.slots)))
            .collect(),
    )
}

fn namespaces(world: &World, confirmed_only: bool) -> Namespaces {
    let alive = world.namespaces().filter(|(_, ns)| ns.is_alive());
    let alive = alive.filter(|(_, ns)| ns.confirmed || !confirmed_only);
    alive
        .map(|(_, ns)| {
            (
                ns.inum,
                (ns.kind, key(world, ns.parent), key(world, ns.owner)),
            )
        })
        .collect()
}

fn ways() -> [Membership; SLOTS] {
    std::array::from_fn(|slot| match slot {
        KINDS => Membership::Children(Kind::Pid),
        slot if slot > KINDS => Membership::Children(Kind::Time),
        slot => Membership::In(Kind::ALL[slot]),
    })
}

/// The entries of one of two maps that the other has not.
fn difference<K: Ord + Copy + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    world: &BTreeMap<K, V>,
    truth: &BTreeMap<K, V>,
) -> String {
    let keys = world.keys().chain(truth.keys());
    let different = keys.filter(|key| world.get(key) != truth.get(key));
    different
        .map(|key| format!("{key:?}: {:?}, is {:?}\n", world.get(key), truth.get(key)))
        .collect()
}

/// Compares all.
fn check(world: &World, machine: &Machine) -> String {
    let (true_namespaces, true_tasks) = expected(machine);
    difference(&namespaces(world, false), &true_namespaces)
        + &difference(&namespaces(world, true), &true_namespaces)
        + &check_tasks(world, &true_tasks)
}

fn check_tasks(world: &World, truth: &Tasks) -> String {
    let mut tasks = Tasks::new();
    for (id, task) in world.tasks() {
        let place = ways().map(|way| key(world, world.membership(id, way)));
        tasks.insert(task.tid, (task.pid, place));
    }
    difference(&tasks, truth)
}

/// What is counted is what there is, and what lives has lives above it.
fn check_counts(world: &World) {
    let mut dependents = BTreeMap::new();
    for (_, ns) in world.namespaces().filter(|(_, ns)| ns.is_alive()) {
        let owner = ns.owner.filter(|owner| ns.parent != Some(*owner));
        for above in ns.parent.into_iter().chain(owner) {
            let is_alive = world.namespace(above).is_some_and(Namespace::is_alive);
            assert!(is_alive || !ns.confirmed, "{ns:?}");
            *dependents.entry(above).or_insert(0) += 1;
        }
    }
    for (id, ns) in world.namespaces() {
        assert_eq!(world.members(id).count(), ns.members_len());
        assert_eq!(world.members_for_children(id).count(), ns.children_len());
        let dependents = dependents.get(&id).copied().unwrap_or(0);
        assert_eq!(ns.dependents_len(), dependents);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_snapshot_and_the_events_around_it_give_the_tree(
        before in steps(60),
        during in steps(60),
        after in steps(60),
        late in prop::collection::vec(any::<bool>(), 1..50),
        has_ids in any::<bool>(),
        again in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let mut machine = Machine::new(has_ids);
        run(&mut machine, &before);
        machine.people();
        // Here the probes are attached.
        machine.look_at_all();
        machine.log.clear();
        machine.look();
        run(&mut machine, &during);
        machine.look_at_all();
        run(&mut machine, &after);
        // One that was begun is ended.
        machine.look_at_all();

        let mut events = read(&machine.log, &late);
        let (i, j) = (again.0.index(events.len()), again.1.index(events.len()));
        let (from, to) = (i.min(j), i.max(j));
        let twice = events[from..to].to_vec();
        events.splice(to..to, twice);

        let mut world = World::new(Options::default());
        for event in &events {
            apply(&mut world, event);
            let second = apply(&mut world, event);
            prop_assert!(second.is_empty(), "{second:?}");
        }
        prop_assert_eq!(check(&world, &machine), "");
        check_counts(&world);
    }

    #[test]
    fn after_a_loss_a_snapshot_finds_the_tree_again(
        before in steps(80),
        lost in prop::collection::vec(any::<bool>(), 1..40),
        has_ids in any::<bool>(),
    ) {
        let mut machine = Machine::new(has_ids);
        machine.look_at_all();
        run(&mut machine, &before);
        let mut lost = lost.iter().cycle();
        let mut world = World::new(Options::default());
        for event in &machine.log {
            if event.is_snapshot() || !lost.next().is_some_and(|lost| *lost) {
                apply(&mut world, event);
            }
        }
        machine.people();
        machine.log.clear();
        machine.look_at_all();
        machine.step(15, 0, 0);
        let time = machine.now() - 1;
        apply(&mut world, &Owned::Lost(Lost { time, since: 0, record: RecordKind::Op, count: 1 }));
        machine.log.clear();
        machine.look_at_all();
        machine.look_at_all();
        for event in &machine.log {
            apply(&mut world, event);
        }
        prop_assert!(world.loss().is_none());
        let (true_namespaces, true_tasks) = expected(&machine);
        prop_assert_eq!(difference(&namespaces(&world, true), &true_namespaces), "");
        prop_assert_eq!(check_tasks(&world, &true_tasks), "");
        // The kernel says of the others that nothing has their numbers.
        for inum in namespaces(&world, false).into_keys() {
            if !machine.namespaces.contains_key(&inum) {
                let time = machine.now() + 1;
                apply(&mut world, &Owned::Unused(FoundFree { time, inum }));
            }
        }
        prop_assert_eq!(difference(&namespaces(&world, false), &true_namespaces), "");
        check_counts(&world);
    }
}
