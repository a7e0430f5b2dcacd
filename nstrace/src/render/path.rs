//! The call tree of an operation, as function_graph would draw it, with what each
//! function did.

use nstrace_common::{kind::Kind, wire::Op};

use super::{
    Clock, Text, View,
    color::Style,
    line,
    text::{Row, chain, error, flags, mounts, namespace, number, short_length, task},
};
use crate::{
    event::Operation,
    stages::{Function, Stage, mounts_copied, stages},
};

/// Where a length ends.
const TOOK_END: usize = 92;
/// Columns by which a level is set in, below the time.
const INDENT: usize = 2;
/// Columns from the name of a function to what it did.
const DID: usize = 16;
/// Where the operation itself begins, after the time.
const TIME: usize = 13;

/// Appends an operation and the functions that it passed.
pub(super) fn operation(out: &mut Text, op: &Operation, view: &View, clock: &mut Clock) {
    head(out, op, view, clock);
    line::reason(out, op, view, TIME + INDENT);
    for stage in stages(op).iter() {
        function(out, op, stage, view);
    }
}

fn head(out: &mut Text, op: &Operation, view: &View, clock: &mut Clock) {
    let record = op.record;
    let mut row = Row::new(out, view.color);
    row.styled(Style::Dim, |out| clock.time_of_day(out, record.start));
    row.to(TIME);
    row.styled(Style::Bold, |out| {
        out.push_str(op.op.name());
        out.push('(');
        flags(out, op.op, record.flags);
        out.push(')');
    });
    row.out.push_str(" by ");
    task(row.out, op.comm(), record.pid);
    row.out.push_str("  ->  ");
    match op.errno() {
        Some(errno) => row.styled(Style::Failed, |out| error(out, errno)),
        None if !op.pids.is_empty() => chain(row.out, op.pids),
        None if matches!(op.op, Op::OpenTree | Op::Fsmount) => {
            let kind = Kind::Mnt;
            row.styled(Style::New, |out| {
                namespace(out, kind, op.after(kind).inum);
            });
            mounts(row.out, record.mounts, "   ");
        }
        None => number(row.out, record.ret.unsigned_abs()),
    }
    row.right(TOOK_END, &short_length(op.took_ns()));
    out.push('\n');
}

fn function(out: &mut Text, op: &Operation, stage: &Stage, view: &View) {
    let mut row = Row::new(out, view.color);
    let indent = TIME + INDENT * (1 + usize::from(stage.depth));
    row.to(indent);
    row.out.push_str(stage.function.name());
    row.to(indent + DID);
    match stage.errno {
        Some(errno) => {
            wanted(row.out, op, stage.function);
            row.styled(Style::Failed, |out| error(out, errno));
        }
        None => did(&mut row, op, stage.function),
    }
    row.right(TOOK_END, &short_length(stage.took_ns));
    out.push('\n');
}

/// What a function that failed was to enter.
fn wanted(out: &mut Text, op: &Operation, function: Function) {
    if let Function::Install(kind) = function
        && op.record.target != 0
    {
        namespace(out, kind, op.record.target);
        out.push_str("   ");
    }
}

/// What a function did.
fn did(row: &mut Row, op: &Operation, function: Function) {
    let record = op.record;
    match function {
        Function::CreateUserNs => {
            changed(row, op, Kind::User);
            if op.errno().is_none() {
                row.out.push_str("   owner ");
                number(row.out, record.owner_uid);
            }
        }
        Function::Copy(kind) => {
            changed(row, op, kind);
            mounts(row.out, mounts_copied(op, function), "   ");
        }
        Function::Install(kind) => changed(row, op, kind),
        Function::AllocPid => {
            for (i, pid) in op.pids.iter().enumerate() {
                if i > 0 {
                    row.out.push_str(", ");
                }
                number(row.out, pid.nr);
                row.out.push_str(" in ");
                namespace(row.out, Kind::Pid, pid.ns);
            }
        }
        Function::CopyNamespaces | Function::CreateNewNamespaces | Function::Switch => {}
    }
}

/// The namespace before and after. A failed operation has none after.
fn changed(row: &mut Row, op: &Operation, kind: Kind) {
    let (before, after) = (op.before(kind).inum, op.after(kind).inum);
    if op.errno().is_some() {
        return;
    }
    namespace(row.out, kind, before);
    row.out.push_str(" -> ");
    let style = match op.op {
        Op::Setns => Style::Entered,
        Op::Clone
        | Op::Clone3
        | Op::Fork
        | Op::Vfork
        | Op::Unshare
        | Op::OpenTree
        | Op::Fsmount => Style::New,
    };
    row.styled(style, |out| namespace(out, kind, after));
}
