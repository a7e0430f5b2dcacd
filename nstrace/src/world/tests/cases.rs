//! Cases whose truth is written by hand.

use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUSER},
    kind::{KINDS, Kind},
    wire::{Op, PidAt, RecordKind},
};

use super::{
    owned::{Found, Owned, apply, death},
    saved::{restored, saved},
};
use crate::{
    event::{
        Event, FoundFree, FoundHolder, FoundNamespace, Holder, Life, Lost, Ns, SnapshotEnd, Unseen,
    },
    render::testing::{FIRST, op, task},
    world::{Change, Known, Membership, NsKey, Options, World},
};

const NET: u32 = 4_026_532_300;
const PID: u32 = 4_026_532_279;

/// unshare(NEWNET) of runc\[4242\], which ends at that time.
fn unshare_net(time: u64) -> Owned {
    let op = op(Op::Unshare, CLONE_NEWNET)
        .with(|record| {
            record.start = time - 50;
            record.head.time = time;
            record.owner = FIRST[Kind::User as usize];
        })
        .after(&[(Kind::Net, NET)]);
    Owned::Op(Box::new(op))
}

fn clone_pid(time: u64, tid: u32) -> Owned {
    let first = FIRST[Kind::Pid as usize];
    let op = op(Op::Clone, CLONE_NEWPID)
        .with(|record| {
            record.start = time - 50;
            record.head.time = time;
            record.pid_ns = 0x1000;
            record.pid_parent = first;
            record.owner = FIRST[Kind::User as usize];
        })
        .after(&[(Kind::Pid, PID)])
        .pids(&[(tid, first), (1, PID)]);
    Owned::Op(Box::new(op))
}

/// A plain fork or an exit in the namespace of [`clone_pid`].
fn told(time: u64, pid: u32, parent: u32, nr: u32) -> crate::render::testing::BuiltTask {
    let mut task = task(pid, pid, b"sleep");
    task.record.head.time = time;
    task.record.parent = parent;
    task.record.namespaces = FIRST;
    task.record.namespaces[Kind::Pid as usize] = PID;
    task.pids[1] = PidAt { nr, ns: PID };
    task
}

fn end(time: u64) -> Owned {
    Owned::End(SnapshotEnd {
        time,
        unseen: Unseen::default(),
    })
}

fn found_net(time: u64) -> Owned {
    Owned::Namespace(FoundNamespace {
        time,
        kind: Kind::Net,
        ns: Ns { inum: NET, id: 0 },
        parent: 0,
        owner: 0,
        owner_uid: None,
    })
}

fn world(events: &[Owned]) -> World {
    let mut world = World::new(Options::default());
    for event in events {
        apply(&mut world, event);
    }
    world
}

fn net(world: &World) -> NsKey {
    world.living(Kind::Net, NET).expect("it lives")
}

fn members(world: &World, ns: NsKey) -> Vec<u32> {
    let tasks = world.members(ns).filter_map(|key| world.task(key));
    let mut tids: Vec<u32> = tasks.map(|task| task.tid).collect();
    tids.sort();
    tids
}

#[test]
fn a_birth_says_who_made_it_and_who_owns_it() {
    let world = world(&[unshare_net(1000)]);
    let key = net(&world);
    let ns = world.namespace(key).expect("it is there");
    let maker = ns.maker.expect("it was told");
    assert_eq!(
        (maker.op, maker.tid, maker.comm()),
        (Op::Unshare, 4242, &b"runc"[..])
    );
    assert_eq!(ns.born, Some(1000));
    let user = world.living(Kind::User, FIRST[Kind::User as usize]);
    assert_eq!(ns.owner, user);
    assert_eq!(members(&world, key), [4242]);
}

#[test]
fn a_number_that_is_used_again_is_another_namespace() {
    let mut world = world(&[unshare_net(1000)]);
    let first = net(&world);
    let died = Change::Died {
        ns: first,
        age_ns: Some(500),
        known: Known::Told,
    };
    assert!(apply(&mut world, &death(1500, NET)).contains(&died));
    apply(&mut world, &unshare_net(2000));
    let second = net(&world);
    assert_ne!(first, second);
    let death = world.namespace(first).and_then(|ns| ns.death);
    assert_eq!(death, Some((1500, Known::Told)));
}

#[test]
fn what_is_told_twice_changes_nothing() {
    let events = [unshare_net(1000), death(1500, NET), unshare_net(2000)];
    let mut world = world(&events);
    for event in &events {
        assert_eq!(apply(&mut world, event), []);
    }
}

#[test]
fn a_death_whose_birth_is_told_again_is_inferred() {
    let mut world = world(&[unshare_net(1000)]);
    let first = net(&world);
    let changes = apply(&mut world, &unshare_net(2000));
    assert!(changes.contains(&Change::Died {
        ns: first,
        age_ns: Some(950),
        known: Known::Inferred,
    }));
    assert_ne!(net(&world), first);
}

#[test]
fn the_ids_below_say_which_pid_namespace_a_child_is_in() {
    let outer = FIRST[Kind::Pid as usize];
    let inner = clone_pid(1000, 5000);
    let first = Owned::New(told(1000, 5000, 4242, 1));
    let world = world(&[inner, first, Owned::New(told(1100, 5001, 5000, 2))]);
    let ns = world.living(Kind::Pid, PID).expect("it lives");
    assert_eq!(members(&world, ns), [5000, 5001]);
    let parent = world.namespace(ns).and_then(|ns| ns.parent);
    assert_eq!(parent, world.living(Kind::Pid, outer));
    let child = world.by_tid(5001).expect("it runs");
    let task = world.task(child).expect("it runs");
    assert_eq!(task.pids[1], PidAt { nr: 2, ns: PID });
    let mnt = world.membership(child, Membership::In(Kind::Mnt));
    assert_eq!(mnt, world.living(Kind::Mnt, FIRST[Kind::Mnt as usize]));
    assert_eq!(world.members_for_children(ns).count(), 2);
}

#[test]
fn the_second_word_of_a_death_counts_by_its_address() {
    let second_word = |address| {
        Owned::Death(Life {
            time: 1500,
            kind: Some(Kind::Pid),
            inum: PID,
            id: 0,
            pid: 1,
            tid: 1,
            address: Some(address),
            age: None,
            past: Default::default(),
        })
    };
    let mut world = world(&[clone_pid(1000, 5000)]);
    assert_eq!(apply(&mut world, &second_word(0x2000)), []);
    assert!(!apply(&mut world, &second_word(0x1000)).is_empty());
    assert_eq!(world.living(Kind::Pid, PID), None);
}

#[test]
fn what_stood_in_a_namespace_that_died_is_dead_when_it_is_not_found() {
    const USER: u32 = 4_026_532_280;
    let both = op(Op::Unshare, CLONE_NEWUSER | CLONE_NEWNET)
        .with(|record| {
            record.start = 950;
            record.head.time = 1000;
            record.user_parent = FIRST[Kind::User as usize];
            record.owner = USER;
        })
        .after(&[(Kind::User, USER), (Kind::Net, NET)]);
    let mut world = world(&[Owned::Op(Box::new(both)), death(1500, USER)]);
    let ns = net(&world);
    apply(&mut world, &Owned::Begin(2000));
    assert!(apply(&mut world, &end(2100)).contains(&Change::Died {
        ns,
        age_ns: Some(500),
        known: Known::Inferred,
    }));
    assert_eq!(world.living(Kind::Net, NET), None);
}

#[test]
fn a_number_that_is_not_in_use_ends_what_had_it() {
    let events = [unshare_net(1000), Owned::Begin(2000), end(2100)];
    let mut world = world(&events);
    let ns = net(&world);
    let free = Owned::Unused(FoundFree {
        time: 2200,
        inum: NET,
    });
    let died = Change::Died {
        ns,
        age_ns: Some(1200),
        known: Known::Inferred,
    };
    assert_eq!(apply(&mut world, &free), [died]);
    // What is read late does not bring it back.
    assert_eq!(apply(&mut world, &unshare_net(1000)), []);
    apply(&mut world, &unshare_net(3000));
    assert_eq!(apply(&mut world, &free), []);
    assert_ne!(net(&world), ns);
}

#[test]
fn a_death_that_is_told_before_the_birth_ends_it() {
    let mut world = world(&[death(1300, NET)]);
    let changes = apply(&mut world, &unshare_net(1000));
    let Some(Change::Born(ns)) = changes.first() else {
        panic!("{changes:?}");
    };
    assert!(changes.contains(&Change::Died {
        ns: *ns,
        age_ns: Some(300),
        known: Known::Told,
    }));
    let dead = world.namespace(*ns).expect("it is remembered");
    assert!(dead.maker.is_some() && dead.owner.is_some());
    // Once; and who has the number later is another one.
    assert_eq!(apply(&mut world, &unshare_net(1000)), []);
    assert_eq!(apply(&mut world, &death(1300, NET)), []);
    apply(&mut world, &unshare_net(2000));
    assert_eq!(world.living(Kind::Net, NET), Some(net(&world)));
}

#[test]
fn an_id_tells_apart_what_the_number_does_not() {
    let with_id = |time, id| {
        Owned::Namespace(FoundNamespace {
            time,
            kind: Kind::Net,
            ns: Ns { inum: NET, id },
            parent: 0,
            owner: 0,
            owner_uid: None,
        })
    };
    let mut world = world(&[with_id(1000, 70)]);
    let first = world.by_id(70).expect("it is there");
    apply(&mut world, &with_id(2000, 71));
    assert_eq!(world.by_id(71), Some(net(&world)));
    assert_eq!(world.by_id(70), Some(first));
    assert!(!world.namespace(first).expect("it is remembered").is_alive());
}

#[test]
fn what_a_snapshot_does_not_find_is_unconfirmed_and_lives() {
    let mut world = world(&[unshare_net(1000), Owned::Begin(3000)]);
    let key = net(&world);
    // The task is not found, so it has exited; the namespace may be held somewhere.
    let changes = apply(&mut world, &end(4000));
    assert!(changes.contains(&Change::Unconfirmed(key)));
    assert_eq!(world.by_tid(4242), None);
    assert!(world.namespace(key).expect("it is there").is_alive());
    let changes = apply(&mut world, &found_net(4500));
    assert!(changes.contains(&Change::Confirmed(key)));
}

#[test]
fn what_is_told_late_does_not_undo_a_snapshot() {
    let mut world = world(&[Owned::Begin(3000), found_net(3100), end(4000)]);
    let key = net(&world);
    assert_eq!(apply(&mut world, &death(2000, NET)), []);
    // Its birth, if it is the same; then a death which shows that it is not.
    assert!(!apply(&mut world, &unshare_net(2500)).contains(&Change::Born(key)));
    apply(&mut world, &death(2600, NET));
    let second = net(&world);
    assert_ne!(key, second);
    let ns = world.namespace(second).expect("it lives");
    assert_eq!((ns.born, ns.maker), (None, None));
    // A task that it did not find, and which ran before, has exited.
    assert_eq!(world.by_tid(4242), None);
}

#[test]
fn a_snapshot_after_a_loss_heals() {
    let lost = Lost {
        time: 2000,
        since: 0,
        record: RecordKind::Death,
        count: 1,
    };
    let mut world = world(&[unshare_net(1000)]);
    let changes = apply(&mut world, &Owned::Lost(lost));
    assert!(matches!(changes[..], [Change::Lost(interval)] if interval.until == 2000));
    // One that was begun before the loss was seen does not.
    for event in [Owned::Begin(1900), end(2100)] {
        apply(&mut world, &event);
    }
    assert!(world.loss().is_some());
    apply(&mut world, &Owned::Begin(2200));
    let changes = apply(&mut world, &end(2300));
    assert!(
        matches!(changes.last(), Some(Change::Healed(_))),
        "{changes:?}"
    );
    assert_eq!(world.loss(), None);
}

#[test]
fn a_task_that_exits_while_a_snapshot_looks_at_it_stays_away() {
    let found = Owned::Task(Found {
        time: 3100,
        start: 900,
        pid: 5001,
        tid: 5001,
        exited: false,
        pids: vec![],
        namespaces: FIRST,
        for_children: [0, 0],
    });
    let exit = Owned::Exit(told(3200, 5001, 0, 2));
    let free = Owned::Free(told(3300, 5001, 0, 2));
    for events in [[&found, &exit, &free], [&exit, &free, &found]] {
        let events = events.map(Owned::clone);
        let world = world(&[&[Owned::Begin(3000)], &events[..]].concat());
        assert_eq!(world.by_tid(5001), None);
    }
}

#[test]
fn a_descriptor_holds_until_a_snapshot_finds_it_no_more() {
    let pin = Owned::Descriptor(3100, Kind::Net, NET, 7);
    let mut world = world(&[Owned::Begin(3000), pin, end(4000)]);
    let key = net(&world);
    assert!(world.namespace(key).expect("it lives").is_held());
    apply(&mut world, &Owned::Begin(5000));
    let changes = apply(&mut world, &end(6000));
    assert_eq!(changes, [Change::Unpinned(key), Change::Unconfirmed(key)]);
}

#[test]
fn a_mount_holds_until_its_mount_namespace_dies() {
    const MNT: u32 = NET + 1;
    let mounted = |world: &mut World, time| {
        let mut changes = Vec::new();
        let holder = Holder::Mount {
            mnt: MNT,
            path: b"/run/netns/x",
        };
        let (kind, ns) = (Kind::Net, Ns { inum: NET, id: 0 });
        let found = FoundHolder {
            time,
            kind,
            ns,
            holder,
        };
        world.apply(&Event::FoundHolder(found), &mut changes);
        changes
    };
    let found = Owned::Namespace(FoundNamespace {
        time: 3000,
        kind: Kind::Mnt,
        ns: Ns { inum: MNT, id: 0 },
        parent: 0,
        owner: 0,
        owner_uid: None,
    });
    let mut world = world(&[unshare_net(1000), Owned::Begin(3000), found]);
    let key = net(&world);
    assert_eq!(mounted(&mut world, 3100), [Change::Pinned(key)]);
    apply(&mut world, &end(3200));
    // The look was slower than what is told.
    let mut again = restored(&saved(&world)).expect("a world");
    for world in [&mut world, &mut again] {
        let key = net(world);
        let changes = apply(world, &death(3300, MNT));
        assert!(changes.contains(&Change::Unpinned(key)));
        assert_eq!(world.namespace(key).expect("it lives").holders().count(), 0);
        assert_eq!(mounted(world, 3150), []);
    }
}

#[test]
fn a_holder_that_is_told_of_the_dead_does_not_bring_them_back() {
    const ID: u64 = 77;
    let birth = |time| {
        let Owned::Op(mut op) = unshare_net(time) else {
            unreachable!("it is one")
        };
        op.ids = vec![0; 2 * KINDS];
        op.ids[KINDS + Kind::Net as usize] = ID;
        Owned::Op(op)
    };
    let ns = Ns { inum: NET, id: ID };
    let late = Owned::Namespace(FoundNamespace {
        time: 3000,
        kind: Kind::Net,
        ns,
        parent: 0,
        owner: 0,
        owner_uid: None,
    });
    let death = death(2000, NET);
    for events in [
        [birth(1000), death.clone(), late.clone()],
        [death, late, birth(1000)],
    ] {
        let world = world(&events);
        assert_eq!(world.living(Kind::Net, NET), None);
    }
}

#[test]
fn the_oldest_dead_are_forgotten() {
    let mut world = World::new(Options {
        dead_max: 1,
        ..Options::default()
    });
    let mut keys = Vec::new();
    for time in [1000, 2000] {
        apply(&mut world, &unshare_net(time));
        keys.push(net(&world));
        apply(&mut world, &death(time + 500, NET));
    }
    assert!(world.namespace(keys[0]).is_none());
    assert!(world.namespace(keys[1]).is_some());
    // Known by its number still.
    assert_eq!(apply(&mut world, &unshare_net(1000)), []);
}

#[test]
fn the_dead_are_forgotten_by_their_age() {
    let mut world = World::new(Options::default());
    apply(&mut world, &unshare_net(1000));
    let key = net(&world);
    apply(&mut world, &death(1500, NET));
    assert!(world.namespace(key).is_some());
    apply(
        &mut world,
        &unshare_net(Options::default().dead_age_max_ns + 2000),
    );
    assert!(world.namespace(key).is_none());
}

#[test]
fn a_user_namespace_is_owned_by_its_parent() {
    const USER: u32 = 4_026_532_400;
    let op = op(Op::Unshare, CLONE_NEWUSER)
        .with(|record| {
            record.user_parent = FIRST[Kind::User as usize];
            record.owner_uid = 1000;
        })
        .after(&[(Kind::User, USER)]);
    let world = world(&[Owned::Op(Box::new(op))]);
    let key = world.living(Kind::User, USER).expect("it lives");
    let ns = world.namespace(key).expect("it lives");
    assert_eq!(ns.parent, ns.owner);
    assert_eq!(ns.owner_uid, Some(1000));
    let parent = world.namespace(ns.parent.expect("it has one"));
    assert_eq!(parent.expect("it lives").dependents_len(), 1);
}
