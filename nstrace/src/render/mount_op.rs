//! Mount operations, for people: a line each, in the columns of the tail.
//!
//! ```text
//! TIME         PID    COMM       OP      NAMESPACES             RESULT        TOOK  SLOWEST
//! 23:01:15.221 4242   mount      mount   tmpfs on /mnt          ok          0.21ms  id 52
//! 23:01:15.225 4242   mount      rbind   /srv on /mnt/srv       ok          0.33ms  id 53, 9 mounts made, 6 by propagation
//! 23:01:15.301 4250   umount     umount  /mnt lazy              ok          0.40ms  id 52, 4 mounts gone
//! ```
//!
//! A path is shown as the kernel found it, from the root of the mount namespace: what the
//! caller gave may begin anywhere, and container engines give `/proc/self/fd/7`. Where the
//! kernel did not get so far, it is shown as it was given.

mod json;

use nstrace_common::mount_ops::Call;

use super::{
    Clock, Text, View,
    color::Style,
    escape,
    line::{self, NAMESPACES, OP, RESULT, SLOWEST, TOOK_END},
    text::{Row, error, length, number, short_length, task},
};
use crate::{
    explain::explain_mount,
    mount_ops::{How, MountOp, MountPath, What, origins::Origin},
};
pub(in crate::render) use json::{
    births as births_json, maker as maker_json, operation as operation_json,
};

/// Appends a mount operation. That copy_mnt_ns copied mounts is in another line.
pub(super) fn operation(out: &mut Text, op: &MountOp, view: &View, clock: &mut Clock) {
    if op.call == Call::CopyMntNs {
        return;
    }
    let record = op.record;
    let who = Some((record.pid, &record.comm));
    let mut row = line::begin(out, view, clock, record.start, who);
    row.to(OP);
    row.out.push_str(name(op));
    row.to(NAMESPACES);
    paths(row.out, op);
    row.to(RESULT);
    match op.errno() {
        Some(errno) => row.styled(Style::Failed, |out| error(out, errno)),
        None if record.ret > 0 => {
            row.out.push_str("fd ");
            number(row.out, record.ret.unsigned_abs());
        }
        None => row.out.push_str("ok"),
    }
    row.right(TOOK_END, &short_length(op.took_ns()));
    came_of_it(&mut row, op);
    if view.origin.is_some() {
        row.out.push_str(", ");
        maker(row.out, view.origin, record.start);
    }
    out.push('\n');
    if let Some(reason) = explain_mount(op) {
        let mut row = Row::new(out, view.color);
        row.to(NAMESPACES);
        row.styled(Style::Reason, |out| {
            // Writing to a text does not fail.
            let _ = std::fmt::Write::write_fmt(out, format_args!("{reason}"));
        });
        out.push('\n');
    }
}

/// Who made a mount, as far as that is known, if it was gone by a time.
pub(super) fn maker(out: &mut Text, origin: Option<&Origin>, gone: u64) {
    if let Some(Origin { maker, .. }) = origin {
        out.push_str(maker.verb());
        out.push_str(" by ");
        task(out, maker.comm(), maker.pid);
        out.push(' ');
        length(out, gone.saturating_sub(maker.start));
        out.push_str(" before");
    }
}

/// What it is, in a word of mount(8).
fn name(op: &MountOp) -> &'static str {
    let recursive = op.is_recursive();
    match op.what() {
        None => op.call.name(),
        Some(What::New) => "mount",
        Some(What::Bind) if recursive => "rbind",
        Some(What::Propagation(propagation)) if recursive => propagation.recursive_name(),
        Some(What::Remount | What::BindRemount) => "remount",
        Some(what) => what.name(),
    }
}

/// What was to be where.
fn paths(out: &mut Text, op: &MountOp) {
    let (source, target) = (op.source(), op.target());
    match op.call {
        Call::Mount => match op.what() {
            Some(What::New) => new(out, op),
            Some(What::Bind) => two(out, &source, " on ", &target),
            Some(What::Move) => two(out, &source, " to ", &target),
            Some(What::BindRemount) => {
                path(out, &target);
                out.push_str(" bind");
                words(out, ",", op.options());
            }
            _ => {
                path(out, &target);
                words(out, " ", op.options());
            }
        },
        Call::Umount => {
            path(out, &target);
            out.push_str(match op.how() {
                How::Plainly => "",
                How::Lazily => " lazy",
                How::Forcibly => " force",
                How::Expired => " expire",
            });
        }
        Call::PivotRoot => two(out, &source, ", old root at ", &target),
        Call::MoveMount => {
            let between = match (op.is_beneath(), op.sets_group()) {
                (true, _) => " beneath ",
                (_, true) => " gives its group to ",
                _ => " on ",
            };
            two(out, &source, between, &target);
        }
        Call::OpenTree | Call::OpenTreeAttr => {
            path(out, &source);
            recursive(out, op);
            attributes(out, op);
        }
        Call::MountSetattr => {
            path(out, &target);
            recursive(out, op);
            attributes(out, op);
        }
        Call::Fsmount => {
            match op.fs() {
                b"" => path(out, &source),
                fs => escape::terminal(out, fs),
            }
            attributes(out, op);
        }
        Call::Fsopen => escape::terminal(out, op.fs()),
        Call::Fspick => path(out, &target),
        Call::Fsconfig => configured(out, op),
        Call::CopyMntNs => {}
    }
}

/// The source of a file system, if it says something: often it is the type once more.
fn said<'a>(op: &MountOp<'a>) -> Option<&'a [u8]> {
    let said = op.source().given?;
    (said != op.fs() && !matches!(said, b"none" | b"")).then_some(said)
}

/// A file system that is mounted.
fn new(out: &mut Text, op: &MountOp) {
    let fs = op.fs();
    let named = said(op);
    match named {
        Some(_) => given_path(out, &op.source()),
        None => escape::terminal(out, if fs.is_empty() { b"?" } else { fs }),
    }
    out.push_str(" on ");
    path(out, &op.target());
    if named.is_some() && !fs.is_empty() {
        out.push_str(" type ");
        escape::terminal(out, fs);
    }
}

fn two(out: &mut Text, source: &MountPath, between: &str, target: &MountPath) {
    path(out, source);
    out.push_str(between);
    path(out, target);
}

/// A path as the kernel found it, or else as it was given.
fn path(out: &mut Text, path: &MountPath) {
    match path.found() {
        // What a descriptor is for that is mounted nowhere has no other path.
        Some(found) if found == b"/" && path.fd.is_some() => given_path(out, path),
        Some(found) => escape::terminal(out, &found),
        None => given_path(out, path),
    }
}

fn given_path(out: &mut Text, path: &MountPath) {
    let given = path.given.unwrap_or_default();
    let is_absolute = given.first() == Some(&b'/');
    if let Some(fd) = path.fd.filter(|_| !is_absolute) {
        out.push_str("fd ");
        number(out, fd.unsigned_abs());
        if given.is_empty() {
            return;
        }
        out.push(':');
    }
    match path.given {
        None => out.push('?'),
        Some(b"") => out.push_str("\"\""),
        Some(given) => escape::terminal(out, given),
    }
    if path.is_cut {
        out.push('…');
    }
}

/// What fsconfig was to do, with which file system.
fn configured(out: &mut Text, op: &MountOp) {
    match op.command() {
        Some(command) if command.starts_with("CMD_") => {
            out.push_str(match command {
                "CMD_RECONFIGURE" => "reconfigure",
                _ => "create",
            });
            for name in [op.fs(), said(op).unwrap_or_default()] {
                if !name.is_empty() {
                    out.push(' ');
                    escape::terminal(out, name);
                }
            }
        }
        _ => {
            out.push_str("option ");
            escape::terminal(out, op.source().given.unwrap_or(b"?"));
        }
    }
}

fn recursive(out: &mut Text, op: &MountOp) {
    if op.is_recursive() {
        out.push_str(" recursively");
    }
}

/// Attributes that are set, those that are cleared with a minus, and the propagation.
fn attributes(out: &mut Text, op: &MountOp) {
    let [set, cleared] = op.changes();
    words(out, " ", set);
    words(out, " -", cleared);
    if let Some(propagation) = op.propagation() {
        out.push(' ');
        out.push_str(propagation.name());
    }
}

/// Words with commas between them.
fn words(out: &mut Text, before: &str, words: impl Iterator<Item = &'static str>) {
    for (i, word) in words.enumerate() {
        out.push_str(if i == 0 { before } else { "," });
        out.push_str(word);
    }
}

/// Which mount it is about, and how many came and went.
fn came_of_it(row: &mut Row, op: &MountOp) {
    let record = op.record;
    if op.errno().is_some() {
        return;
    }
    let [made, taken] = [record.made, record.taken].map(|count| count > 1);
    let by_propagation = record.made_by_propagation > 0 || record.taken_by_propagation > 0;
    if record.id == 0 && !made && !taken && !by_propagation {
        return;
    }
    row.to(SLOWEST);
    let out = &mut *row.out;
    let mut between = "";
    if record.id != 0 {
        out.push_str("id ");
        number(out, record.id);
        between = ", ";
    }
    let at_least = if op.may_have_taken_more() {
        "at least "
    } else {
        ""
    };
    for (count, by_propagation, what, at_least) in [
        (record.made, record.made_by_propagation, " made", ""),
        (record.taken, record.taken_by_propagation, " gone", at_least),
    ] {
        // One goes without saying.
        if count > 1 || by_propagation > 0 {
            out.push_str(between);
            out.push_str(at_least);
            number(out, count);
            out.push_str(if count == 1 { " mount" } else { " mounts" });
            out.push_str(what);
            between = ", ";
        }
        if by_propagation > 0 {
            out.push_str(between);
            number(out, by_propagation);
            out.push_str(" by propagation");
        }
    }
}
