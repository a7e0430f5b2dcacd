//! What is left out of a recording that goes to others: names of commands and paths.

use zerocopy::FromZeros as _;

use crate::{
    cgroups,
    event::{Cgroup, Event, FoundHolder, FoundTask, Mount, Operation, Task, Warning},
    explain::Facts,
    mount_ops::{MountBirths, MountOp},
};
use nstrace_common::{
    mount_ops::{BirthsRecord, FS, GIVEN, MountOpRecord, PathNames},
    wire::{OpRecord, RecordKind, TaskRecord},
    writers::{MountRecord, PATH},
};

/// Where a changed record stands while it is written.
pub struct Room {
    op: OpRecord,
    task: TaskRecord,
    mount: MountRecord,
    mount_op: Box<MountOpRecord>,
    births: BirthsRecord,
}

impl Default for Room {
    fn default() -> Self {
        Room {
            op: OpRecord::new_zeroed(),
            task: TaskRecord::new_zeroed(),
            mount: MountRecord::new_zeroed(),
            mount_op: Box::new(MountOpRecord::new_zeroed()),
            births: BirthsRecord::new_zeroed(),
        }
    }
}

impl Room {
    /// The event without names of commands and without paths.
    pub fn redacted<'a>(&'a mut self, event: &Event<'a>) -> Event<'a> {
        match *event {
            Event::Op(op) => Event::Op(self.op(op)),
            Event::Births(op) => Event::Births(self.op(op)),
            Event::Stall(op, now) => Event::Stall(self.op(op), now),
            Event::TaskNew(task) => Event::TaskNew(self.task(task)),
            Event::TaskExit(task) => Event::TaskExit(self.task(task)),
            Event::TaskChange(task) => Event::TaskChange(self.task(task)),
            Event::TaskFree(task) => Event::TaskFree(self.task(task)),
            Event::Cgroup(Cgroup { id, path }) => Event::Cgroup(Cgroup {
                id,
                path: cgroups::id_alone(path),
            }),
            Event::FoundTask(found) => Event::FoundTask(FoundTask { comm: b"", ..found }),
            Event::FoundHolder(found) => Event::FoundHolder(FoundHolder {
                holder: found.holder.without_path(),
                ..found
            }),
            Event::Warning(warning) => Event::Warning(Warning {
                comm: b"",
                ..warning
            }),
            Event::MountDied(mount) => Event::MountDied(self.mount(mount)),
            Event::MountWatched(mount) => Event::MountWatched(self.mount(mount)),
            Event::MountOp(op) => Event::MountOp(self.mount_op(op)),
            Event::MountBirths(births) => Event::MountBirths(self.births_of(births)),
            Event::Birth(_)
            | Event::Death(_)
            | Event::Lost(_)
            | Event::SnapshotBegin(_)
            | Event::FoundNamespace(_)
            | Event::SnapshotEnd(_)
            | Event::Access(_)
            | Event::Balance(_)
            | Event::Unfiled(_)
            | Event::FoundFree(_) => *event,
        }
    }

    fn op<'a>(&'a mut self, op: Operation<'a>) -> Operation<'a> {
        self.op = *op.record;
        self.op.comm = [0; 16];
        Operation {
            record: &self.op,
            ..op
        }
    }

    fn task<'a>(&'a mut self, task: Task<'a>) -> Task<'a> {
        self.task = *task.record;
        self.task.comm = [0; 16];
        Task {
            record: &self.task,
            ..task
        }
    }

    fn mount<'a>(&'a mut self, mount: Mount<'a>) -> Mount<'a> {
        self.mount = *mount.record;
        self.mount.comm = [0; 16];
        self.mount.source = [0; 64];
        (self.mount.root, self.mount.point) = ([0; PATH], [0; PATH]);
        Mount {
            record: &self.mount,
            ..mount
        }
    }

    /// What the mounts are stays, and the type of the file system; but of what failed that can
    /// be any word of the caller's.
    fn mount_op<'a>(&'a mut self, op: MountOp<'a>) -> MountOp<'a> {
        *self.mount_op = *op.record;
        let record = &mut *self.mount_op;
        record.comm = [0; 16];
        (record.source_len, record.source) = (0, [0; GIVEN]);
        (record.target_len, record.target) = (0, [0; GIVEN]);
        if record.ret < 0 {
            record.fs = [0; FS];
        }
        record.source_path = PathNames::new_zeroed();
        record.target_path = PathNames::new_zeroed();
        MountOp {
            record: &self.mount_op,
            ..op
        }
    }

    fn births_of<'a>(&'a mut self, births: MountBirths<'a>) -> MountBirths<'a> {
        self.births = *births.record;
        self.births.comm = [0; 16];
        MountBirths {
            record: &self.births,
            ..births
        }
    }

    /// Of an operation that is not wanted, what the tree needs: what it made, and where its
    /// task went.
    pub fn births<'a>(&'a mut self, op: &Operation<'a>) -> Event<'a> {
        self.op = *op.record;
        self.op.head.kind = RecordKind::Birth as u32;
        (self.op.marks_len, self.op.pids_len) = (0, 0);
        Event::Births(Operation {
            record: &self.op,
            marks: &[],
            pids: &[],
            ..*op
        })
    }
}

/// What the machine says about a failure, without the path of a cgroup.
pub fn facts(mut facts: Facts) -> Facts {
    if let Some(pids) = &mut facts.pids {
        pids.cgroup = "?".to_owned();
    }
    facts
}
