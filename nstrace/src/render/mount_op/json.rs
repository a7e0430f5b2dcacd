//! Mount operations, and the mounts that they make, as docs/json.md has them.

use nstrace_common::mount_ops::{Birth, Call};

use super::super::{
    Clock, Text, View, errno,
    json::{Object, cgroup, line, object},
    mount::device,
};
use crate::{
    explain::explain_mount,
    mount_ops::{MountBirths, MountOp, MountPath, origins::Origin},
};

/// Appends a mount operation.
pub fn operation(out: &mut Text, op: &MountOp, view: &View, clock: &mut Clock) {
    let record = op.record;
    line(out, "mount", record.start, clock, |object| {
        object.number("took_ns", op.took_ns());
        call(object, op);
        object.signed("ret", record.ret);
        if let Some(name) = op.errno().and_then(errno::name) {
            object.word("errno", name);
        }
        if let Some(reason) = explain_mount(op) {
            object.text("reason", &reason.to_string());
        }
        object.number("pid", record.pid);
        object.number("tid", record.tid);
        object.number("uid", record.uid);
        object.name("comm", op.comm());
        cgroup(object, record.cgroup, view.cgroups);
        object.some("caller_mnt", record.caller_ns);
        path(object, SOURCE, &op.source());
        path(object, TARGET, &op.target());
        if !op.fs().is_empty() {
            object.name("fs", op.fs());
        }
        about(object, op);
        counts(object, op);
        maker(object, view.origin, record.start);
    });
}

/// Who made a mount, and of which it is a copy, as far as that is known, if it was gone by a
/// time.
pub(in crate::render) fn maker(object: &mut Object, origin: Option<&Origin>, gone: u64) {
    if let Some(Origin { birth, maker }) = origin {
        object.number("age_ns", gone.saturating_sub(maker.start));
        object.some("copy_of", birth.from);
        self::object(object.key("maker"), |object| {
            object.word("op", maker.call.name());
            object.number("pid", maker.pid);
            object.number("tid", maker.tid);
            object.name("comm", maker.comm());
        });
    }
}

/// What was called.
fn call(object: &mut Object, op: &MountOp) {
    let record = op.record;
    object.word("op", op.call.name());
    if let Some(what) = op.what() {
        object.word("what", what.name());
    }
    if let Some(command) = op.command() {
        object.word("command", command);
    }
    if op.is_recursive() {
        object.flag("recursive");
    }
    if !matches!(op.call, Call::Fsconfig | Call::CopyMntNs | Call::PivotRoot) {
        object.words("flags", op.flag_names());
        object.number("flags_raw", record.flags);
    }
    if record.attr_set != 0 {
        object.words("set", op.set());
        object.number("set_raw", record.attr_set);
    }
    if record.attr_clear != 0 {
        object.words("cleared", op.cleared());
        object.number("cleared_raw", record.attr_clear);
    }
    if let Some(propagation) = op.propagation() {
        object.word("propagation", propagation.name());
    }
}

/// The keys of a path.
struct Keys {
    found: &'static str,
    given: &'static str,
    cut: &'static str,
    fd: &'static str,
}

const SOURCE: &Keys = &Keys {
    found: "source_path",
    given: "source",
    cut: "source_cut",
    fd: "source_fd",
};

const TARGET: &Keys = &Keys {
    found: "target_path",
    given: "target",
    cut: "target_cut",
    fd: "target_fd",
};

fn path(object: &mut Object, keys: &Keys, path: &MountPath) {
    if let Some(given) = path.given {
        object.name(keys.given, given);
    }
    if path.is_cut {
        object.flag(keys.cut);
    }
    if let Some(fd) = path.fd {
        object.number(keys.fd, fd.unsigned_abs());
    }
    if let Some(found) = path.found() {
        object.name(keys.found, &found);
    }
}

/// The mount that it is about.
fn about(object: &mut Object, op: &MountOp) {
    let record = op.record;
    object.some("id", record.id);
    object.some("unique", record.unique);
    object.some("from", record.from);
    object.some("from_unique", record.from_unique);
    object.some("mnt", record.ns);
    if record.dev != 0 {
        object.written("dev", |out| device(out, record.dev));
    }
}

fn counts(object: &mut Object, op: &MountOp) {
    let record = op.record;
    object.some("made", record.made);
    object.some("made_by_propagation", record.made_by_propagation);
    object.some("taken", record.taken);
    object.some("taken_by_propagation", record.taken_by_propagation);
    if op.may_have_taken_more() {
        object.flag("taken_more");
    }
}

/// Appends the births of mounts.
pub fn births(out: &mut Text, births: &MountBirths, clock: &mut Clock) {
    let record = births.record;
    line(out, "mount_births", record.head.time, clock, |object| {
        object.word("op", births.call.name());
        object.number("op_mono_ns", record.start);
        object.number("pid", record.pid);
        object.number("tid", record.tid);
        object.name("comm", births.comm());
        object.objects("births", births.births.iter(), birth);
    });
}

fn birth(object: &mut Object, birth: &Birth) {
    object.number("id", birth.id);
    object.some("unique", birth.unique);
    object.some("from", birth.from);
    object.some("from_unique", birth.from_unique);
}
