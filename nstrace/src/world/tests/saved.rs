//! A world that was saved is the same, and goes on as it would have.

use proptest::prelude::*;

use super::{
    machine::Machine,
    owned::{Owned, apply},
};
use crate::{
    trace::bytes::Bytes,
    world::{Membership, NsKey, Options, World},
};

/// Everything that is known, without the places where it is kept.
pub(crate) fn told(world: &World) -> Vec<String> {
    let number = |key: Option<NsKey>| {
        key.map(|key| {
            world
                .namespace(key)
                .map_or((0, 0), |ns| (ns.inum, ns.since()))
        })
    };
    let namespaces = world.namespaces().map(|(key, ns)| {
        let (parent, owner) = (number(ns.parent), number(ns.owner));
        let mut ns = ns.clone();
        (ns.parent, ns.owner) = (None, None);
        // Where its list of members begins says nothing.
        let mut members: Vec<u32> = world.members(key).map(|key| tid(world, key)).collect();
        let children = world.members_for_children(key).map(|key| tid(world, key));
        members.extend(children);
        members.sort_unstable();
        (ns.inside.head, ns.children.head) = (0, 0);
        format!("{ns:?} {parent:?} {owner:?} {members:?}")
    });
    let tasks = world.tasks().map(|(key, task)| {
        let ways = [Membership::Children(nstrace_common::kind::Kind::Pid)];
        let of = ways.map(|way| number(world.membership(key, way)));
        let mut task = task.clone();
        task.links = [super::super::model::Link::NONE; super::super::model::SLOTS];
        format!("{task:?} {of:?}")
    });
    let mut all: Vec<String> = namespaces.chain(tasks).collect();
    all.sort();
    all.push(format!("{:?} {:?}", world.loss(), world.now()));
    all
}

fn tid(world: &World, key: crate::world::TaskKey) -> u32 {
    world.task(key).map_or(0, |task| task.tid)
}

pub fn saved(world: &World) -> Vec<u8> {
    let mut bytes = Vec::new();
    world.save(&mut bytes, false);
    bytes
}

pub fn restored(bytes: &[u8]) -> Option<World> {
    World::restore(&mut Bytes(bytes))
}

fn log(steps: &[(u8, u16, u16)], has_ids: bool) -> Vec<Owned> {
    let mut machine = Machine::new(has_ids);
    machine.people();
    let (before, after) = steps.split_at(steps.len() / 2);
    for (at, half) in [before, after].into_iter().enumerate() {
        for (what, who, which) in half {
            machine.step(*what, usize::from(*who), u32::from(*which));
        }
        if at == 0 {
            machine.look_at_all();
        }
    }
    machine.log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_saved_world_goes_on_as_it_would_have(
        steps in prop::collection::vec(any::<(u8, u16, u16)>(), 1..120),
        at in any::<prop::sample::Index>(),
        has_ids in any::<bool>(),
    ) {
        let events = log(&steps, has_ids);
        let (before, after) = events.split_at(at.index(events.len() + 1));
        let mut world = World::new(Options::default());
        for event in before {
            apply(&mut world, event);
        }
        let mut again = restored(&saved(&world)).expect("a world");
        prop_assert_eq!(told(&again), told(&world));
        for event in after {
            let (changes, others) = (apply(&mut world, event), apply(&mut again, event));
            prop_assert_eq!(changes.len(), others.len());
        }
        prop_assert_eq!(told(&again), told(&world));
    }

    #[test]
    fn what_is_no_world_is_none(
        steps in prop::collection::vec(any::<(u8, u16, u16)>(), 1..60),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let events = log(&steps, true);
        let mut world = World::new(Options::default());
        for event in &events {
            apply(&mut world, event);
        }
        let mut bytes = saved(&world);
        for len in 0..bytes.len() {
            prop_assert!(restored(&bytes[..len]).is_none());
        }
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Some(mut other) = restored(&bytes) {
            for event in &events {
                apply(&mut other, event);
            }
            told(&other);
            restored(&saved(&other)).expect("what was saved");
        }
    }
}
