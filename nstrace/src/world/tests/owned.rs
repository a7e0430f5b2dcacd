//! Events that own what they are made of.

use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{PidAt, RecordKind},
};

use zerocopy::IntoBytes as _;

use crate::{
    decode::decode,
    event::{
        Event, FoundFree, FoundHolder, FoundNamespace, FoundTask, Holder, Life, Lost, Now, Ns,
        SnapshotEnd,
    },
    render::testing::{Built, BuiltTask},
    world::{Change, World},
};

#[derive(Clone)]
pub enum Owned {
    Op(Box<Built>),
    New(BuiltTask),
    Exit(BuiltTask),
    Change(BuiltTask),
    Free(BuiltTask),
    Death(Life),
    Lost(Lost),
    Begin(u64),
    Namespace(FoundNamespace),
    Task(Found),
    Descriptor(u64, Kind, u32, u32),
    End(SnapshotEnd),
    Unused(FoundFree),
}

#[derive(Clone)]
pub struct Found {
    pub time: u64,
    pub start: u64,
    pub pid: u32,
    pub tid: u32,
    pub exited: bool,
    pub pids: Vec<PidAt>,
    pub namespaces: [u32; KINDS],
    pub for_children: [u32; 2],
}

impl Owned {
    /// As the kernel side sends it: with the kind of the record, and the lengths of lists.
    pub fn with_record<R>(&self, run: impl FnOnce(&Event) -> R) -> R {
        let (kind, mut words) = match self {
            Owned::Op(op) => (RecordKind::Op, op.bytes()),
            Owned::New(task) => (RecordKind::TaskNew, task.bytes()),
            Owned::Exit(task) => (RecordKind::TaskExit, task.bytes()),
            Owned::Change(task) => (RecordKind::TaskChange, task.bytes()),
            Owned::Free(task) => (RecordKind::TaskFree, task.bytes()),
            other => return other.with(run),
        };
        words[0] = kind as u64;
        run(&decode(words.as_bytes()).expect("a record"))
    }

    pub fn with<R>(&self, run: impl FnOnce(&Event) -> R) -> R {
        match self {
            Owned::Op(op) => run(&Event::Op(op.get())),
            Owned::New(task) => run(&Event::TaskNew(task.get())),
            Owned::Exit(task) => run(&Event::TaskExit(task.get())),
            Owned::Change(task) => run(&Event::TaskChange(task.get())),
            Owned::Free(task) => run(&Event::TaskFree(task.get())),
            Owned::Death(life) => run(&Event::Death(*life)),
            Owned::Lost(lost) => run(&Event::Lost(*lost)),
            Owned::Begin(time) => run(&Event::SnapshotBegin(Now { time: *time })),
            Owned::Namespace(found) => run(&Event::FoundNamespace(*found)),
            Owned::Task(found) => run(&Event::FoundTask(FoundTask {
                time: found.time,
                start: found.start,
                pid: found.pid,
                tid: found.tid,
                exited: found.exited,
                cgroup: 0,
                comm: b"found",
                pids: &found.pids,
                namespaces: found.namespaces,
                pid_for_children: found.for_children[0],
                time_for_children: found.for_children[1],
            })),
            Owned::Descriptor(time, kind, inum, fd) => run(&Event::FoundHolder(FoundHolder {
                time: *time,
                kind: *kind,
                ns: Ns { inum: *inum, id: 0 },
                holder: Holder::Descriptor { pid: 1, fd: *fd },
            })),
            Owned::End(end) => run(&Event::SnapshotEnd(*end)),
            Owned::Unused(free) => run(&Event::FoundFree(*free)),
        }
    }

    pub fn is_snapshot(&self) -> bool {
        match self {
            Owned::Begin(_)
            | Owned::Namespace(_)
            | Owned::Task(_)
            | Owned::Descriptor(..)
            | Owned::End(_)
            | Owned::Unused(_) => true,
            Owned::Op(_)
            | Owned::New(_)
            | Owned::Exit(_)
            | Owned::Change(_)
            | Owned::Free(_)
            | Owned::Death(_)
            | Owned::Lost(_) => false,
        }
    }
}

/// Applies an event, and says what it changed.
pub fn apply(world: &mut World, event: &Owned) -> Vec<Change> {
    let mut changes = Vec::new();
    event.with(|event| world.apply(event, &mut changes));
    changes
}

pub fn death(time: u64, inum: u32) -> Owned {
    Owned::Death(Life::death(time, inum))
}
