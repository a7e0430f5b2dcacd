//! Which events are shown.
//!
//! The kernel side applies what it can before it sends a record; this is the whole
//! rule, for what it could not and for recordings.

use nstrace_common::{
    kind::Kind,
    mount_ops::Call,
    wire::{Op, TaskRecord},
};

use crate::{
    cgroups::Cgroups,
    event::{Event, Life, Operation, Task, kinds_of, until_nul},
    stages,
};

#[cfg(test)]
mod tests;

/// What an event has to be to be shown. What is not set lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// About a namespace of one of these kinds; empty for any.
    pub kinds: Vec<Kind>,
    /// One of these operations; empty, as `calls` is, for any.
    pub ops: Vec<Op>,
    /// One of these mount operations.
    pub calls: Vec<Call>,
    /// Of this process.
    pub pid: Option<u32>,
    /// Of a task of this name.
    pub comm: Option<Vec<u8>>,
    /// In the container whose id begins so.
    pub container: Option<String>,
    /// Or in one of these: those whose name that is.
    pub named: Vec<Box<[u8]>>,
    /// Operations that failed.
    pub failed: bool,
    /// Operations at least so long.
    pub slower_than_ns: Option<u64>,
}

/// Names of tasks are cut to this length by the kernel (`TASK_COMM_LEN` less the NUL).
const COMM_LEN: usize = 15;

impl Filter {
    /// Whether it leaves anything out.
    pub fn is_set(&self) -> bool {
        *self != Filter::default()
    }

    /// Whether it leaves out more than kinds.
    pub fn is_set_beside_kinds(&self) -> bool {
        let others = Filter {
            kinds: Vec::new(),
            ..self.clone()
        };
        others.is_set()
    }

    /// Whether an event is shown. What concerns the stream itself always is.
    pub fn matches(&self, event: &Event, cgroups: &Cgroups) -> bool {
        match event {
            Event::Lost(_) | Event::Cgroup(_) => true,
            Event::TaskChange(_)
            | Event::TaskFree(_)
            | Event::SnapshotBegin(_)
            | Event::FoundNamespace(_)
            | Event::FoundTask(_)
            | Event::FoundHolder(_)
            | Event::SnapshotEnd(_)
            | Event::Warning(_)
            | Event::MountDied(_)
            | Event::MountWatched(_)
            | Event::Access(_)
            | Event::Balance(_)
            | Event::Unfiled(_)
            | Event::FoundFree(_) => true,
            Event::MountOp(op) => {
                (!self.failed || op.errno().is_some())
                    && self.long_enough(op.took_ns())
                    && self.mounts(op.call, op.record.pid)
                    && self.who(&op.record.comm, op.record.cgroup, cgroups)
            }
            // How the operation ends, and in which cgroup, is not told yet.
            Event::MountBirths(births) => {
                !self.failed
                    && self.slower_than_ns.is_none()
                    && self.container.is_none()
                    && self.mounts(births.call, births.record.pid)
                    && self.who(&births.record.comm, 0, cgroups)
            }
            Event::Op(op) | Event::Births(op) => {
                (!self.failed || op.errno().is_some())
                    && self.long_enough(op.took_ns())
                    && self.operation(op, cgroups)
            }
            // It has not failed yet.
            Event::Stall(op, now) => {
                !self.failed
                    && self.long_enough(now.time.saturating_sub(op.record.start))
                    && self.operation(op, cgroups)
            }
            Event::TaskNew(task) => {
                !self.has_its_operation(task) && self.task(task, task.record.parent, cgroups)
            }
            Event::TaskExit(task) => self.task(task, task.record.pid, cgroups),
            Event::Birth(life) => self.life(life, Some(life.pid)),
            // It happens in any task's context.
            Event::Death(life) => self.life(life, None),
        }
    }

    /// Whether one of these kinds is one of those asked for.
    fn is_about(&self, kinds: u8) -> bool {
        self.kinds.iter().any(|kind| kinds >> *kind as u8 & 1 != 0)
    }

    fn long_enough(&self, took_ns: u64) -> bool {
        self.slower_than_ns.is_none_or(|least| took_ns >= least)
    }

    /// Whether operations of any name are asked for.
    fn any_op(&self) -> bool {
        self.ops.is_empty() && self.calls.is_empty()
    }

    /// Mounts are about kind mnt.
    fn mounts(&self, call: Call, pid: u32) -> bool {
        (self.any_op() || self.calls.contains(&call))
            && (self.kinds.is_empty() || self.kinds.contains(&Kind::Mnt))
            && self.pid.is_none_or(|wanted| wanted == pid)
    }

    fn operation(&self, op: &Operation, cgroups: &Cgroups) -> bool {
        (self.any_op() || self.ops.contains(&op.op))
            && (self.kinds.is_empty() || self.is_about(about(op)))
            && self.pid.is_none_or(|pid| pid == op.record.pid)
            && self.who(&op.record.comm, op.record.cgroup, cgroups)
    }

    /// Tasks below the first pid namespace come and go: that is about kind pid, and
    /// no operation.
    fn task(&self, task: &Task, maker: u32, cgroups: &Cgroups) -> bool {
        let TaskRecord {
            pid, cgroup, comm, ..
        } = task.record;
        self.events_beside_operations(Some(Kind::Pid))
            && self
                .pid
                .is_none_or(|wanted| wanted == *pid || wanted == maker)
            && self.who(comm, *cgroup, cgroups)
    }

    /// Whether the operation is shown that made a task: it tells of the task, too. The rest of
    /// the filter is the same for both.
    fn has_its_operation(&self, task: &Task) -> bool {
        let made_with = u64::from(task.record.made_with);
        made_with != 0
            && (self.kinds.is_empty() || self.is_about(kinds_of(made_with)))
            && self.pid.is_none_or(|pid| pid == task.record.parent)
    }

    fn life(&self, life: &Life, maker: Option<u32>) -> bool {
        self.events_beside_operations(life.kind)
            && self.pid.is_none_or(|pid| maker == Some(pid))
            && self.comm.is_none()
            && self.container.is_none()
    }

    /// Whether events other than operations, about that kind, can be shown.
    fn events_beside_operations(&self, about: Option<Kind>) -> bool {
        !self.failed
            && self.slower_than_ns.is_none()
            && self.any_op()
            && (self.kinds.is_empty() || about.is_some_and(|kind| self.kinds.contains(&kind)))
    }

    fn who(&self, comm: &[u8], cgroup: u64, cgroups: &Cgroups) -> bool {
        let same_name = |wanted: &Vec<u8>| {
            let wanted = until_nul(wanted);
            until_nul(comm) == &wanted[..wanted.len().min(COMM_LEN)]
        };
        let same_container = |wanted: &String| {
            cgroups.container(cgroup).is_some_and(|container| {
                container.starts_with(wanted.as_bytes())
                    || self.named.iter().any(|named| **named == *container)
            })
        };
        self.comm.as_ref().is_none_or(same_name)
            && self.container.as_ref().is_none_or(same_container)
    }
}

/// The kinds that an operation is about, a bit for each: those of its flags, those that it came
/// to enter, and, of a plain fork, pid.
pub fn about(op: &Operation) -> u8 {
    let requested = kinds_of(stages::requested_flags(op));
    let is_fork = requested == 0 || matches!(op.op, Op::Fork | Op::Vfork);
    let fork = match is_fork && op.op.makes_task() {
        true => 1 << Kind::Pid as u8,
        false => 0,
    };
    requested | stages::installed_kinds(op) | fork
}
