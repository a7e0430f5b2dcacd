//! One JSON object for each event, as docs/json.md promises.
//!
//! The fields are written as they come, without a tree of values in between: an
//! operation has some sixty, and this is on the way of each.

use nstrace_common::{kind::Kind, wire::PidAt};

use super::{
    Clock, Text, View, errno, escape, mount_op,
    text::{Ended, ended, flag_names, number},
};
use crate::{
    cgroups::Cgroups,
    event::{Event, Life, Lost, Mount, Now, Operation, Task, Warning, record_name, until_nul},
    explain::{Facts, explain},
    stages::{self, Stage, mounts_copied, stages},
};

/// Appends an event as a line; nothing for a cgroup that was made. `clock` must
/// tell UTC.
pub(super) fn event(out: &mut Text, event: &Event, view: &View, clock: &mut Clock) {
    match event {
        Event::Op(op) => operation(out, op, view, clock),
        Event::TaskNew(task) => self::task(out, "task_new", task, view, clock),
        Event::TaskExit(task) => self::task(out, "task_exit", task, view, clock),
        Event::Birth(life) => self::life(out, "ns_birth", life, clock),
        Event::Births(op) => op
            .born()
            .for_each(|life| self::life(out, "ns_birth", &life, clock)),
        Event::Death(life) => self::life(out, "ns_death", life, clock),
        Event::Cgroup(_) => {}
        Event::MountDied(mount) => mount_died(out, mount, view, clock),
        Event::Warning(warning) => self::warning(out, warning, clock),
        Event::Lost(lost) => self::lost(out, lost, clock),
        Event::Stall(op, now) => stall(out, op, now, view, clock),
        Event::MountOp(op) => mount_op::operation_json(out, op, view, clock),
        Event::MountBirths(births) => mount_op::births_json(out, births, clock),
        Event::TaskChange(_)
        | Event::TaskFree(_)
        | Event::SnapshotBegin(_)
        | Event::FoundNamespace(_)
        | Event::FoundTask(_)
        | Event::FoundHolder(_)
        | Event::SnapshotEnd(_)
        | Event::MountWatched(_)
        | Event::Access(_)
        | Event::Balance(_)
        | Event::Unfiled(_)
        | Event::FoundFree(_) => {}
    }
}

/// An object that is being written.
pub(super) struct Object<'o> {
    out: &'o mut Text,
    empty: bool,
}

impl Object<'_> {
    pub(super) fn key(&mut self, key: &str) -> &mut Text {
        self.out.push_str(if self.empty { "{\"" } else { ",\"" });
        self.empty = false;
        self.out.push_str(key);
        self.out.push_str("\":");
        self.out
    }

    pub(super) fn number(&mut self, key: &str, value: impl Into<u64>) {
        number(self.key(key), value);
    }

    pub(super) fn signed(&mut self, key: &str, value: i64) {
        super::mount::signed(self.key(key), value);
    }

    /// A number of which zero stands for nothing.
    pub(super) fn some(&mut self, key: &str, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.number(key, value);
        }
    }

    /// A word of nstrace's own.
    pub(super) fn word(&mut self, key: &str, value: &str) {
        escape::json_word(self.key(key), value);
    }

    /// That is so.
    pub(super) fn flag(&mut self, key: &str) {
        self.key(key).push_str("true");
    }

    /// Text in which what the traced chose was escaped.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        escape::json_text(self.key(key), value);
    }

    pub(super) fn name(&mut self, key: &str, value: &[u8]) {
        escape::json_name(self.key(key), value);
    }

    /// Text of nstrace's own, written by `write`.
    pub(super) fn written(&mut self, key: &str, write: impl FnOnce(&mut Text)) {
        let out = self.key(key);
        out.push('"');
        write(out);
        out.push('"');
    }

    pub(super) fn names<'t>(&mut self, key: &str, values: impl Iterator<Item = &'t [u8]>) {
        list(self.key(key), values, escape::json_name);
    }

    pub(super) fn words<'t>(&mut self, key: &str, values: impl Iterator<Item = &'t str>) {
        list(self.key(key), values, escape::json_word);
    }

    pub(super) fn objects<T>(
        &mut self,
        key: &str,
        values: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Object, T),
    ) {
        list(self.key(key), values, |out, value| {
            object(out, |object| write(object, value));
        });
    }
}

pub(super) fn object(out: &mut Text, write: impl FnOnce(&mut Object)) {
    let mut object = Object { out, empty: true };
    write(&mut object);
    let close = if object.empty { "{}" } else { "}" };
    out.push_str(close);
}

fn list<T>(out: &mut Text, values: impl Iterator<Item = T>, mut write: impl FnMut(&mut Text, T)) {
    out.push('[');
    for (i, value) in values.enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, value);
    }
    out.push(']');
}

/// A line of a type, and what every line has.
pub(super) fn line(
    out: &mut Text,
    kind: &str,
    mono_ns: u64,
    clock: &mut Clock,
    write: impl FnOnce(&mut Object),
) {
    object(out, |object| {
        object.word("type", kind);
        let out = object.key("time");
        out.push('"');
        clock.rfc3339(out, mono_ns);
        out.push('"');
        object.number("mono_ns", mono_ns);
        write(object);
    });
    out.push('\n');
}

fn operation(out: &mut Text, op: &Operation, view: &View, clock: &mut Clock) {
    const NO_FACTS: &Facts = &Facts::NONE;
    let record = op.record;
    line(out, "op", record.start, clock, |object| {
        object.number("took_ns", op.took_ns());
        call(object, op);
        let stages = stages(op);
        let ret = object.key("ret");
        if record.ret < 0 {
            ret.push('-');
        }
        number(ret, record.ret.unsigned_abs());
        if let Some(number) = op.errno() {
            if let Some(name) = errno::name(number) {
                object.word("errno", name);
            }
            if let Some(stage) = stages.failed() {
                object.word("failed_stage", stage.function.name());
            }
            if let Some(reason) = explain(op, view.facts.unwrap_or(NO_FACTS)) {
                escape::json_text(object.key("reason"), &reason.to_string());
            }
        }
        caller(object, op, view);
        namespaces(object, op);
        if op.errno().is_none() {
            new_namespaces(object, op);
        }
        object.some("target", record.target);
        pids(object, op.pids);
        object.objects("stages", stages.iter(), |object, stage| {
            self::stage(object, op, stage);
        });
    });
}

/// What was called.
fn call(object: &mut Object, op: &Operation) {
    object.word("op", op.op.name());
    object.words("flags", flag_names(op.op, op.record.flags));
    object.number("flags_raw", op.record.flags);
}

/// Who called.
fn caller(object: &mut Object, op: &Operation, view: &View) {
    let record = op.record;
    object.number("pid", record.pid);
    object.number("tid", record.tid);
    object.number("uid", record.uid);
    object.name("comm", op.comm());
    cgroup(object, record.cgroup, view.cgroups);
}

pub(super) fn cgroup(object: &mut Object, id: u64, cgroups: &Cgroups) {
    object.some("cgroup_id", id);
    if let Some(path) = cgroups.path(id) {
        object.name("cgroup", path);
    }
    if let Some(container) = cgroups.container(id) {
        object.name("container", container);
    }
}

fn namespaces(object: &mut Object, op: &Operation) {
    self::object(object.key("namespaces"), |object| {
        for kind in Kind::ALL {
            let (before, after) = (op.before(kind), op.after(kind));
            // This kernel has none of this kind.
            if before.inum == 0 && after.inum == 0 {
                continue;
            }
            self::object(object.key(kind.name()), |object| {
                object.some("before", before.inum);
                object.some("after", after.inum);
                object.some("before_id", before.id);
                object.some("after_id", after.id);
            });
        }
    });
    object.words("changed", op.changed().map(Kind::name));
}

/// What is to be said of namespaces that were made.
fn new_namespaces(object: &mut Object, op: &Operation) {
    let record = op.record;
    object.some("pid_parent", record.pid_parent);
    object.some("user_parent", record.user_parent);
    if record.user_parent != 0 {
        object.number("owner_uid", record.owner_uid);
    }
    object.some("owner", record.owner);
    object.some("mounts", record.mounts);
}

pub(super) fn pids(object: &mut Object, pids: &[PidAt]) {
    if !pids.is_empty() {
        object.objects("pids", pids.iter(), |object, pid| {
            object.number("ns", pid.ns);
            object.number("pid", pid.nr);
        });
    }
}

fn stage(object: &mut Object, op: &Operation, stage: &Stage) {
    object.word("stage", stage.function.name());
    object.number("depth", stage.depth);
    object.number("start_ns", stage.start_ns);
    object.number("took_ns", stage.took_ns);
    object.some("mounts", mounts_copied(op, stage.function));
    if let Some(name) = stage.errno.and_then(errno::name) {
        object.word("errno", name);
    }
}

fn task(out: &mut Text, kind: &str, task: &Task, view: &View, clock: &mut Clock) {
    let record = task.record;
    line(out, kind, record.head.time, clock, |object| {
        object.number("pid", record.pid);
        object.number("tid", record.tid);
        object.number("uid", record.uid);
        object.name("comm", task.comm());
        if kind == "task_new" {
            object.number("parent", record.parent);
        }
        pids(object, task.pids);
        if kind == "task_exit" {
            match ended(record.exit_code) {
                Ended::Exit(code) => object.number("exit_code", code),
                Ended::Signal(signal) => object.number("signal", signal),
            }
        }
        cgroup(object, record.cgroup, view.cgroups);
    });
}

fn life(out: &mut Text, kind: &str, life: &Life, clock: &mut Clock) {
    line(out, kind, life.time, clock, |object| {
        if let Some(kind) = life.kind {
            object.word("kind", kind.name());
        }
        object.number("inum", life.inum);
        object.some("id", life.id);
        if kind == "ns_birth" {
            object.number("pid", life.pid);
            object.number("tid", life.tid);
        }
        if let Some(age) = life.age {
            object.number("age_ns", age);
        }
        if let Some(maker) = &life.past.maker {
            self::object(object.key("maker"), |object| {
                object.word("op", maker.op.name());
                object.number("pid", maker.pid);
                object.name("comm", maker.comm());
            });
        }
        object.some("entered", life.past.entered);
        object.some("mounts", life.past.mounts);
    });
}

fn stall(out: &mut Text, op: &Operation, now: &Now, view: &View, clock: &mut Clock) {
    line(out, "stall", now.time, clock, |object| {
        call(object, op);
        caller(object, op, view);
        let took = now.time.saturating_sub(op.record.start);
        let stage = stages::in_stage(op);
        if let Some((function, _)) = stage {
            object.word("stage", function.name());
        }
        object.number("took_ns", took);
        if let Some((_, since)) = stage {
            object.number("stage_took_ns", took.saturating_sub(since));
        }
    });
}

fn mount_died(out: &mut Text, mount: &Mount, view: &View, clock: &mut Clock) {
    line(
        out,
        "mount_death",
        mount.record.head.time,
        clock,
        |object| {
            super::mount::json(object, mount);
            object.number("pid", mount.record.pid);
            object.number("tid", mount.record.tid);
            object.name("comm", until_nul(&mount.record.comm));
            cgroup(object, mount.record.cgroup, view.cgroups);
            mount_op::maker_json(object, view.origin, mount.record.head.time);
            super::mount::json_stack(object, "stack", mount.stack);
        },
    );
}

fn warning(out: &mut Text, warning: &Warning, clock: &mut Clock) {
    line(out, "kernel_warning", warning.time, clock, |object| {
        object.name("at", warning.place);
        object.name("function", warning.function);
        object.number("tid", warning.tid);
        object.name("comm", warning.comm);
        super::mount::json_stack(object, "stack", warning.stack);
    });
}

fn lost(out: &mut Text, lost: &Lost, clock: &mut Clock) {
    line(out, "lost", lost.time, clock, |object| {
        object.word("record", record_name(lost.record));
        object.number("count", lost.count);
    });
}
