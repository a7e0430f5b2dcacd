//! One line for each event, for people: the live tail.
//!
//! ```text
//! TIME         PID    COMM       OP      NAMESPACES             RESULT        TOOK  SLOWEST
//! 23:01:15.221 4242   runc:[1]   unshare +mnt +uts +ipc +pid +net ok        2.10ms  copy_net_ns 1.84ms
//! ```
//!
//! Columns are places, not widths: what is too long pushes the next column on by a
//! space, and those after it are back in their places. Common lines fit 100 columns,
//! but for the long name of switch_task_namespaces.

use nstrace_common::{
    kind::Kind,
    wire::{Op, RecordKind},
};

use super::{
    Clock, Text, View,
    color::Style,
    escape, mount_op,
    out::Short,
    text::{
        Row, chain, ending, error, kind_name, length, mounts, namespace, number, op_name,
        short_length,
    },
};
use crate::{
    event::{self, Event, Life, Lost, Mount, Now, Operation, Task, Warning},
    explain::{Facts, explain},
    stages,
};

const PID: usize = 13;
const COMM: usize = 20;
pub(super) const OP: usize = 31;
pub(super) const NAMESPACES: usize = 39;
pub(super) const RESULT: usize = 62;
pub(super) const TOOK_END: usize = 80;
pub(super) const SLOWEST: usize = 82;

/// Appends the names of the columns.
pub(super) fn header(out: &mut Text, color: bool) {
    let mut row = Row::new(out, color);
    row.styled(Style::Bold, |out| {
        let mut row = Row::new(out, false);
        for (column, name) in [
            (0, "TIME"),
            (PID, "PID"),
            (COMM, "COMM"),
            (OP, "OP"),
            (NAMESPACES, "NAMESPACES"),
            (RESULT, "RESULT"),
        ] {
            row.to(column);
            row.out.push_str(name);
        }
        row.right(TOOK_END, Short::new().text("TOOK"));
        row.to(SLOWEST);
        row.out.push_str("SLOWEST");
    });
    out.push('\n');
}

/// Appends an event. Of those that are not for people (a cgroup was made; a
/// birth, unless asked for) nothing is appended.
pub(super) fn event(out: &mut Text, event: &Event, view: &View, clock: &mut Clock) {
    match event {
        Event::Op(op) => operation(out, op, view, clock),
        // With threads, the start of one Java process would fill the screen.
        Event::TaskNew(task) | Event::TaskExit(task) if task.is_thread() && !view.all => {}
        Event::TaskNew(task) => {
            let op = if task.is_thread() { "thread" } else { "fork" };
            self::task(out, task, task.record.parent, op, view, clock);
        }
        Event::TaskExit(task) => self::task(out, task, task.record.pid, "exit", view, clock),
        Event::Birth(life) if view.all => self::life(out, life, "born", view, clock),
        Event::Births(op) if view.all => op
            .born()
            .for_each(|life| self::life(out, &life, "born", view, clock)),
        Event::Birth(_) | Event::Births(_) | Event::Cgroup(_) => {}
        Event::Death(life) => self::life(out, life, "died", view, clock),
        Event::MountDied(mount) => mount_died(out, mount, view, clock),
        Event::Warning(warning) => self::warning(out, warning, view, clock),
        Event::Lost(lost) => self::lost(out, lost, view, clock),
        Event::Stall(op, now) => stall(out, op, now, view, clock),
        Event::MountOp(op) => mount_op::operation(out, op, view, clock),
        Event::MountBirths(_) => {}
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

/// Begins a line with the time, and with who it is about.
pub(super) fn begin<'o>(
    out: &'o mut Text,
    view: &View,
    clock: &mut Clock,
    time: u64,
    who: Option<(u32, &[u8; 16])>,
) -> Row<'o> {
    let mut row = Row::new(out, view.color);
    row.styled(Style::Dim, |out| clock.time_of_day(out, time));
    if let Some((pid, comm)) = who {
        row.to(PID);
        number(row.out, pid);
        row.to(COMM);
        escape::comm(row.out, comm);
    }
    row
}

fn operation(out: &mut Text, op: &Operation, view: &View, clock: &mut Clock) {
    let record = op.record;
    let who = Some((record.pid, &record.comm));
    let mut row = begin(out, view, clock, record.start, who);
    row.to(OP);
    op_name(row.out, op.op);
    row.to(NAMESPACES);
    namespaces(&mut row, op);
    row.to(RESULT);
    match op.errno() {
        Some(errno) => row.styled(Style::Failed, |out| error(out, errno)),
        None if op.pids.is_empty() && op.op.makes_task() => {
            number(row.out, record.ret.unsigned_abs());
        }
        None if op.pids.is_empty() => row.out.push_str("ok"),
        None => chain(row.out, op.pids),
    }
    row.right(TOOK_END, &short_length(op.took_ns()));
    if op.errno().is_some() {
        if let Some(function) = stages::failed(op) {
            row.to(SLOWEST);
            row.styled(Style::Failed, |out| out.push_str(function.name()));
        }
    } else if let Some((function, took_ns)) = stages::slowest(op) {
        row.to(SLOWEST);
        row.out.push_str(function.name());
        row.out.push_short(short_length(took_ns).text(" "));
        mounts(row.out, stages::mounts_copied(op, function), ", ");
    }
    out.push('\n');
    if op.errno().is_some() {
        reason(out, op, view, NAMESPACES);
    }
}

fn task(out: &mut Text, task: &Task, pid: u32, op: &str, view: &View, clock: &mut Clock) {
    let who = Some((pid, &task.record.comm));
    let mut row = begin(out, view, clock, task.record.head.time, who);
    row.to(OP);
    row.out.push_str(op);
    row.to(NAMESPACES);
    if let Some(innermost) = task.pids.last() {
        row.out.push_str("in ");
        namespace(row.out, Kind::Pid, innermost.ns);
    }
    row.to(RESULT);
    chain(row.out, task.pids);
    if op == "exit" {
        row.to(SLOWEST);
        ending(row.out, task.record.exit_code);
    }
    out.push('\n');
}

/// A namespace dies in the context of whoever drops its last reference, or of a
/// kernel worker: that says nothing, so only a birth says who.
fn life(out: &mut Text, life: &Life, op: &str, view: &View, clock: &mut Clock) {
    let mut row = begin(out, view, clock, life.time, None);
    if op == "born" {
        row.to(PID);
        number(row.out, life.pid);
    }
    row.to(OP);
    row.out.push_str(op);
    row.to(NAMESPACES);
    match life.kind {
        Some(kind) => namespace(row.out, kind, life.inum),
        None => {
            row.out.push_str("ns:");
            number(row.out, life.inum);
        }
    }
    if let Some(age) = life.age {
        row.to(RESULT);
        row.out.push_str("after ");
        length(row.out, age);
    }
    past(&mut row, &life.past);
    out.push('\n');
}

/// By whom it was made, and what was in it.
fn past(row: &mut Row, past: &event::Past) {
    if let Some(maker) = &past.maker {
        row.out.push_str(", made by ");
        escape::comm(row.out, &maker.comm);
        let pid = u64::from(maker.pid);
        row.out
            .push_short(Short::new().text("] ").number(pid).text("["));
        op_name(row.out, maker.op);
    }
    // That who made it was in it goes without saying.
    if past.entered > 1 {
        counted(row.out, ", had ", past.entered, " tasks");
    }
    match past.mounts {
        0 => {}
        1 => row.out.push_str(", began with 1 mount"),
        mounts => counted(row.out, ", began with ", mounts, " mounts"),
    }
}

#[cold]
fn counted(out: &mut Text, before: &str, count: u32, what: &str) {
    out.push_str(before);
    number(out, count);
    out.push_str(what);
}

/// A mount that died with writers, and how that came about.
fn mount_died(out: &mut Text, mount: &Mount, view: &View, clock: &mut Clock) {
    let record = mount.record;
    let who = Some((record.pid, &record.comm));
    let mut row = begin(out, view, clock, record.head.time, who);
    row.to(OP);
    row.out.push_str("died");
    row.to(NAMESPACES);
    row.styled(Style::Failed, |out| {
        out.push_str("mount ");
        number(out, record.id);
        out.push_str(" died with ");
        super::mount::writers(out, record.count);
    });
    out.push('\n');
    let mut row = Row::new(out, view.color);
    row.to(NAMESPACES);
    row.styled(Style::Reason, |out| {
        super::mount::what(out, mount);
    });
    out.push('\n');
    if view.origin.is_some() {
        let mut row = Row::new(out, view.color);
        row.to(NAMESPACES);
        row.styled(Style::Reason, |out| {
            mount_op::maker(out, view.origin, record.head.time);
        });
        out.push('\n');
    }
    stack(out, view, mount.stack);
}

/// Appends a line with the functions of a stack, if there are some.
fn stack(out: &mut Text, view: &View, stack: &[u8]) {
    if event::frames(stack).next().is_none() {
        return;
    }
    let mut row = Row::new(out, view.color);
    row.to(NAMESPACES);
    row.styled(Style::Dim, |out| {
        out.push_str("in ");
        super::mount::calls(out, NAMESPACES + 3, stack);
    });
    out.push('\n');
}

/// What the kernel itself said.
fn warning(out: &mut Text, warning: &Warning, view: &View, clock: &mut Clock) {
    let mut row = begin(out, view, clock, warning.time, None);
    row.to(PID);
    number(row.out, warning.tid);
    row.to(COMM);
    escape::terminal(row.out, warning.comm);
    row.to(OP);
    row.styled(Style::Failed, |out| {
        out.push_str("the kernel warned at ");
        escape::terminal(out, warning.place);
        out.push_str(" in ");
        escape::terminal(out, warning.function);
    });
    out.push('\n');
    stack(out, view, warning.stack);
}

fn lost(out: &mut Text, lost: &Lost, view: &View, clock: &mut Clock) {
    let mut row = begin(out, view, clock, lost.time, None);
    row.to(PID);
    row.styled(Style::Lost, |out| {
        out.push_str("*** LOST ");
        if lost.count == 0 {
            // Of what is missing in a recording.
            return out.push_str("events: they are not in the recording ***");
        }
        number(out, lost.count);
        out.push(' ');
        out.push_str(records(lost.record, lost.count != 1));
        out.push_str(if lost.count == 1 {
            ": it is"
        } else {
            ": they are"
        });
        out.push_str(" not shown ***");
    });
    out.push('\n');
}

fn stall(out: &mut Text, op: &Operation, now: &Now, view: &View, clock: &mut Clock) {
    let record = op.record;
    let mut row = begin(out, view, clock, now.time, Some((record.pid, &record.comm)));
    row.to(OP);
    row.styled(Style::Reason, |out| {
        out.push_str("STALL ");
        op_name(out, op.op);
        for kind in stages::requested(op) {
            out.push_str(if op.op == Op::Setns { " " } else { " +" });
            kind_name(out, kind);
        }
        let took = now.time.saturating_sub(record.start);
        match stages::in_stage(op) {
            Some((function, since)) => {
                out.push_str(" in ");
                out.push_str(function.name());
                out.push_str(" for ");
                length(out, took.saturating_sub(since));
                out.push_str(" of ");
                length(out, took);
            }
            None => {
                out.push_str(" for ");
                length(out, took);
            }
        }
    });
    out.push('\n');
}

/// What an operation did to which namespaces, or was asked to do if it failed:
/// `+net` makes one, `net:4026532281` enters one.
fn namespaces(row: &mut Row, op: &Operation) {
    match op.op {
        Op::Setns => entered(row, op),
        Op::Fork | Op::Vfork => {
            let inum = op.before(Kind::Pid).inum;
            row.out.push_str("in ");
            namespace(row.out, Kind::Pid, inum);
        }
        Op::Clone | Op::Clone3 | Op::Unshare | Op::OpenTree | Op::Fsmount => {
            row.styled(Style::New, |out| {
                for (i, kind) in stages::requested(op).enumerate() {
                    out.push_str(if i > 0 { " +" } else { "+" });
                    kind_name(out, kind);
                }
            });
        }
    }
}

fn entered(row: &mut Row, op: &Operation) {
    let record = op.record;
    // Where it failed is the last one.
    let one = match op.errno() {
        Some(_) => stages::installed(op).next_back(),
        None => {
            let mut all = stages::installed(op);
            all.next().filter(|_| all.next().is_none())
        }
    };
    row.styled(Style::Entered, |out| {
        if let Some(kind) = one {
            let after = op.after(kind).inum;
            let inum = if record.target != 0 {
                record.target
            } else {
                after
            };
            return namespace(out, kind, inum);
        }
        let several = stages::installed(op).count() > 1;
        for (i, kind) in stages::PRINTED
            .into_iter()
            .filter(|kind| {
                if several {
                    stages::installed(op).any(|installed| installed == *kind)
                } else {
                    record.flags & kind.flag() != 0
                }
            })
            .enumerate()
        {
            if i > 0 {
                out.push(' ');
            }
            kind_name(out, kind);
        }
    });
}

/// Appends a line that says why an operation failed, if that is known.
pub(super) fn reason(out: &mut Text, op: &Operation, view: &View, column: usize) {
    const NO_FACTS: &Facts = &Facts::NONE;
    let Some(reason) = explain(op, view.facts.unwrap_or(NO_FACTS)) else {
        return;
    };
    let mut row = Row::new(out, view.color);
    row.to(column);
    row.styled(Style::Reason, |out| {
        // Writing to a text does not fail.
        let _ = std::fmt::Write::write_fmt(out, format_args!("{reason}"));
    });
    out.push('\n');
}

pub(super) fn records(record: RecordKind, many: bool) -> &'static str {
    let (one, several) = match record {
        RecordKind::Op => ("operation", "operations"),
        RecordKind::TaskNew => ("new task", "new tasks"),
        RecordKind::TaskExit => ("exit of a task", "exits of tasks"),
        RecordKind::TaskChange => ("change of a task", "changes of tasks"),
        RecordKind::TaskFree => ("end of a task", "ends of tasks"),
        RecordKind::Birth => ("birth of a namespace", "births of namespaces"),
        RecordKind::Death => ("death of a namespace", "deaths of namespaces"),
        RecordKind::MountDeath => ("death of a mount", "deaths of mounts"),
        RecordKind::Cgroup => ("name of a cgroup", "names of cgroups"),
        RecordKind::MountOp => ("mount operation", "mount operations"),
        RecordKind::MountBirths => ("record of new mounts", "records of new mounts"),
    };
    if many { several } else { one }
}
