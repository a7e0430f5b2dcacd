//! Replays a list of events and prints the tree that they make.
//!
//! ```text
//! AYA_BUILD_SKIP=1 cargo run --example replay
//! ```

use nstrace::{
    event::{Event, FoundTask, Life, Now, Operation, SnapshotEnd, Unseen},
    world::{Change, NsKey, Options, World},
};
use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWPID},
    kind::Kind,
    wire::{Op, OpRecord, PidAt},
};
use zerocopy::FromZeros as _;

/// Inums by kind: of the first namespaces, and of those that are made.
const FIRST: [u32; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
const PID: u32 = 9;
const NET: u32 = 10;

fn main() {
    let mut world = World::new(Options::default());
    let mut changes = Vec::new();
    let mut apply = |event: &Event| {
        world.apply(event, &mut changes);
        print(&world, &changes);
        changes.clear();
    };

    // What was there when the probes had been attached.
    apply(&Event::SnapshotBegin(Now { time: 100 }));
    apply(&Event::FoundTask(FoundTask {
        time: 110,
        start: 10,
        pid: 4242,
        tid: 4242,
        exited: false,
        cgroup: 0,
        comm: b"runc",
        pids: &[],
        namespaces: FIRST,
        pid_for_children: FIRST[Kind::Pid as usize],
        time_for_children: FIRST[Kind::Time as usize],
    }));
    apply(&Event::SnapshotEnd(SnapshotEnd {
        time: 120,
        unseen: Unseen::default(),
    }));

    // What happened then.
    let record = clone(200);
    let first = FIRST[Kind::Pid as usize];
    let pids = [
        PidAt {
            nr: 4300,
            ns: first,
        },
        PidAt { nr: 1, ns: PID },
    ];
    apply(&Event::Op(Operation {
        record: &record,
        ids: &[],
        marks: &[],
        pids: &pids,
        fail: None,
        op: Op::Clone,
    }));
    apply(&Event::Death(Life::death(900, NET)));

    println!();
    let tops = world.namespaces().filter(|(_, ns)| above(ns).is_none());
    let tops: Vec<NsKey> = tops.map(|(key, _)| key).collect();
    tops.into_iter().for_each(|top| tree(&world, top, 0));
}

/// runc makes a child in a new pid and a new net namespace.
fn clone(time: u64) -> OpRecord {
    let mut record = OpRecord::new_zeroed();
    record.start = time - 20;
    record.head.time = time;
    record.op = Op::Clone as u8;
    record.flags = CLONE_NEWPID | CLONE_NEWNET;
    record.pid = 4242;
    record.tid = 4242;
    record.ret = 4300;
    record.comm[..4].copy_from_slice(b"runc");
    record.before = FIRST;
    record.after = FIRST;
    record.after[Kind::Pid as usize] = PID;
    record.after[Kind::Net as usize] = NET;
    record.pid_parent = FIRST[Kind::Pid as usize];
    record.owner = FIRST[Kind::User as usize];
    record
}

fn name(world: &World, key: NsKey) -> String {
    let ns = world.namespace(key);
    ns.map_or("forgotten".into(), |ns| {
        format!("{}:{}", ns.kind.name(), ns.inum)
    })
}

fn print(world: &World, changes: &[Change]) {
    for change in changes {
        match *change {
            Change::Born(ns) => println!("{} is born", name(world, ns)),
            Change::Found(ns) => println!("{} is found", name(world, ns)),
            Change::Died { ns, age_ns, .. } => {
                println!("{} dies, {age_ns:?} ns old", name(world, ns));
            }
            Change::Joined { ns, membership, .. } => {
                println!("  a task joins {}: {membership:?}", name(world, ns));
            }
            _ => println!("{change:?}"),
        }
    }
}

/// Where a namespace stands in the tree.
fn above(ns: &nstrace::world::Namespace) -> Option<NsKey> {
    ns.parent.or(ns.owner)
}

fn tree(world: &World, key: NsKey, depth: usize) {
    let Some(ns) = world.namespace(key).filter(|ns| ns.is_alive()) else {
        return;
    };
    let tasks = world.members(key).filter_map(|key| world.task(key));
    let tids: Vec<u32> = tasks.map(|task| task.tid).collect();
    let by = ns
        .maker
        .map(|maker| format!(", made by {}", maker.op.name()));
    let by = by.unwrap_or_default();
    println!(
        "{:indent$}{} {tids:?}{by}",
        "",
        name(world, key),
        indent = 2 * depth
    );
    let below = world.namespaces().filter(|(_, ns)| above(ns) == Some(key));
    let below: Vec<NsKey> = below.map(|(key, _)| key).collect();
    below.into_iter().for_each(|ns| tree(world, ns, depth + 1));
}
