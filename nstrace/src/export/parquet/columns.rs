//! The columns of the tables, and how to get their values. docs/parquet.md says what is in
//! them; a test compares.

use nstrace_common::kind::Kind;

use super::{
    super::{Told, errno, joined},
    table::{Column, Type, Type::*, Value},
};
use crate::{
    event::{Ns, Operation},
    stages::Stage,
    world::{Known, Maker, Namespace},
};

/// Where a recording was made.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub host: String,
    pub boot_id: String,
    pub kernel: String,
}

/// What a row of operations is made of.
pub struct OperationRow<'r> {
    pub machine: &'r Machine,
    pub told: &'r Told<'r>,
    pub wall_offset_ns: i64,
}

/// What a row of stages is made of.
pub struct StageRow<'r> {
    pub operation: &'r OperationRow<'r>,
    pub stage: &'r Stage,
    /// Its place among those of the operation.
    pub at: usize,
}

/// What a row of namespaces is made of.
pub struct NamespaceRow<'r> {
    pub machine: &'r Machine,
    pub ns: &'r Namespace,
    /// By inum.
    pub parent: Option<u32>,
    pub owner: Option<u32>,
    /// What was to be added for the time of day when it came to be known, and when it died.
    pub wall_offsets_ns: [i64; 2],
    pub maker: Option<MakerRow<'r>>,
}

/// Who made a namespace.
pub struct MakerRow<'r> {
    pub maker: &'r Maker,
    pub comm: String,
    pub cgroup: Option<String>,
    pub container: Option<String>,
    pub container_name: Option<String>,
}

/// How to get the value of a column, for each of the tables.
pub type OfOperation = dyn for<'r> Fn(&'r OperationRow<'r>) -> Value<'r>;
/// See above.
pub type OfStage = dyn for<'r> Fn(&'r StageRow<'r>) -> Value<'r>;
/// See above.
pub type OfNamespace = dyn for<'r> Fn(&'r NamespaceRow<'r>) -> Value<'r>;

fn operation(
    name: impl Into<String>,
    of: Type,
    get: impl for<'r> Fn(&'r OperationRow<'r>) -> Value<'r> + 'static,
) -> Column<OfOperation> {
    Column {
        name: name.into(),
        of,
        get: Box::new(get),
    }
}

fn stage(
    name: &str,
    of: Type,
    get: impl for<'r> Fn(&'r StageRow<'r>) -> Value<'r> + 'static,
) -> Column<OfStage> {
    Column {
        name: name.to_owned(),
        of,
        get: Box::new(get),
    }
}

fn namespace(
    name: &str,
    of: Type,
    get: impl for<'r> Fn(&'r NamespaceRow<'r>) -> Value<'r> + 'static,
) -> Column<OfNamespace> {
    Column {
        name: name.to_owned(),
        of,
        get: Box::new(get),
    }
}

/// Those of the table of operations.
pub fn operations() -> Vec<Column<OfOperation>> {
    let mut all = vec![
        operation("host", Word, |row| (&row.machine.host).into()),
        operation("boot_id", Word, |row| (&row.machine.boot_id).into()),
        operation("kernel", Word, |row| (&row.machine.kernel).into()),
        operation("op_id", Id, |row| (&row.told.id).into()),
        operation("time", Time, |row| {
            wall(row.told.op.record.start, row.wall_offset_ns)
        }),
        operation("mono_ns", Measure, |row| {
            Value::number(row.told.op.record.start)
        }),
        operation("took_ns", Measure, |row| {
            Value::number(row.told.op.took_ns())
        }),
        operation("op", Word, |row| row.told.op.op.name().into()),
        operation("flags", Word, |row| row.told.flags().into()),
        operation("flags_raw", Number, |row| {
            Value::Number(row.told.op.record.flags.cast_signed())
        }),
        operation("ret", Number, |row| Value::Number(row.told.op.record.ret)),
        operation("failed", Flag, |row| row.told.op.errno().is_some().into()),
        operation("errno", Word, |row| row.told.errno().into()),
        operation("failed_stage", Word, |row| row.told.failed_stage().into()),
        operation("reason", Word, |row| row.told.reason.as_ref().into()),
        operation("pid", Number, |row| Value::number(row.told.op.record.pid)),
        operation("tid", Number, |row| Value::number(row.told.op.record.tid)),
        operation("uid", Number, |row| Value::number(row.told.op.record.uid)),
        operation("comm", Word, |row| (&row.told.comm).into()),
        operation("cgroup_id", Number, |row| {
            Value::some(row.told.op.record.cgroup)
        }),
        operation("cgroup", Word, |row| row.told.cgroup.as_ref().into()),
        operation("container", Word, |row| row.told.container.as_ref().into()),
        operation("container_name", Word, |row| {
            row.told.container_name.as_ref().into()
        }),
        operation("changed", Word, |row| {
            joined(row.told.op.changed().map(Kind::name)).into()
        }),
    ];
    for kind in Kind::ALL {
        all.extend(ends(kind, "before", |op, kind| op.before(kind)));
        all.extend(ends(kind, "after", |op, kind| op.after(kind)));
    }
    all.extend([
        operation("pid_parent", Number, |row| {
            made(row, |op| op.record.pid_parent)
        }),
        operation("user_parent", Number, |row| {
            made(row, |op| op.record.user_parent)
        }),
        operation("owner_uid", Number, |row| match row.told.op.record {
            record if record.ret >= 0 && record.user_parent != 0 => Value::number(record.owner_uid),
            _ => Value::None,
        }),
        operation("owner", Number, |row| made(row, |op| op.record.owner)),
        operation("mounts", Number, |row| made(row, |op| op.record.mounts)),
        operation("target", Number, |row| {
            Value::some(row.told.op.record.target)
        }),
        operation("child_pid", Number, |row| {
            let first = row.told.op.pids.first();
            first.map_or(Value::None, |pid| Value::number(pid.nr))
        }),
        operation("pids", Word, |row| chain(row.told.op).into()),
        operation("stages", Number, |row| {
            Value::number(row.told.stages.len() as u64)
        }),
    ]);
    all
}

/// Number and id of the namespace of a kind, at one end of an operation.
fn ends(
    kind: Kind,
    end: &'static str,
    get: fn(&Operation<'_>, Kind) -> Ns,
) -> [Column<OfOperation>; 2] {
    let name = kind.name();
    [
        operation(format!("{name}_{end}"), Number, move |row| {
            Value::some(get(row.told.op, kind).inum)
        }),
        operation(format!("{name}_{end}_id"), Number, move |row| {
            Value::some(get(row.told.op, kind).id)
        }),
    ]
}

/// What there is only if namespaces were made.
fn made(row: &OperationRow, get: fn(&Operation<'_>) -> u32) -> Value<'static> {
    match row.told.op.errno() {
        Some(_) => Value::None,
        None => Value::some(get(row.told.op)),
    }
}

/// The ids of the new task, from the first pid namespace down.
fn chain(op: &Operation) -> Option<String> {
    let all: Vec<String> = op.pids.iter().map(|pid| pid.nr.to_string()).collect();
    (!all.is_empty()).then(|| all.join("/"))
}

/// Those of the table of stages.
pub fn stages() -> Vec<Column<OfStage>> {
    let begin = |row: &StageRow| {
        let start = row.operation.told.op.record.start;
        start.saturating_add(row.stage.start_ns)
    };
    vec![
        stage("host", Word, |row| (&row.operation.machine.host).into()),
        stage("boot_id", Word, |row| {
            (&row.operation.machine.boot_id).into()
        }),
        stage("kernel", Word, |row| (&row.operation.machine.kernel).into()),
        stage("op_id", Id, |row| (&row.operation.told.id).into()),
        stage("op", Word, |row| row.operation.told.op.op.name().into()),
        stage("n", Number, |row| Value::number(row.at as u64)),
        stage("stage", Word, |row| row.stage.function.name().into()),
        stage("depth", Number, |row| Value::number(row.stage.depth)),
        stage("time", Time, move |row| {
            wall(begin(row), row.operation.wall_offset_ns)
        }),
        stage("mono_ns", Measure, move |row| Value::number(begin(row))),
        stage("start_ns", Measure, |row| Value::number(row.stage.start_ns)),
        stage("took_ns", Measure, |row| Value::number(row.stage.took_ns)),
        stage("errno", Word, |row| row.stage.errno.map(errno).into()),
    ]
}

/// Those of the table of namespaces.
pub fn namespaces() -> Vec<Column<OfNamespace>> {
    vec![
        namespace("host", Word, |row| (&row.machine.host).into()),
        namespace("boot_id", Word, |row| (&row.machine.boot_id).into()),
        namespace("kernel", Word, |row| (&row.machine.kernel).into()),
        namespace("kind", Word, |row| row.ns.kind.name().into()),
        namespace("inum", Number, |row| Value::number(row.ns.inum)),
        namespace("id", Number, |row| Value::some(row.ns.id)),
        namespace("since", Time, |row| {
            wall(row.ns.since(), row.wall_offsets_ns[0])
        }),
        namespace("since_mono_ns", Measure, |row| {
            Value::number(row.ns.since())
        }),
        namespace("found", Flag, |row| row.ns.born.is_none().into()),
        namespace("died", Time, |row| match row.ns.death {
            Some((time, _)) => wall(time, row.wall_offsets_ns[1]),
            None => Value::None,
        }),
        namespace("died_mono_ns", Measure, |row| match row.ns.death {
            Some((time, _)) => Value::number(time),
            None => Value::None,
        }),
        namespace("inferred", Flag, |row| match row.ns.death {
            Some((_, known)) => (known == Known::Inferred).into(),
            None => Value::None,
        }),
        namespace("age_ns", Measure, |row| match (row.ns.born, row.ns.death) {
            (Some(born), Some((died, _))) => Value::number(died.saturating_sub(born)),
            _ => Value::None,
        }),
        namespace("parent", Number, |row| Value::some(row.parent.unwrap_or(0))),
        namespace("owner", Number, |row| Value::some(row.owner.unwrap_or(0))),
        namespace("owner_uid", Number, |row| {
            row.ns.owner_uid.map_or(Value::None, Value::number)
        }),
        maker("maker_op", Word, |by| by.maker.op.name().into()),
        maker("maker_pid", Number, |by| Value::number(by.maker.pid)),
        maker("maker_tid", Number, |by| Value::number(by.maker.tid)),
        maker("maker_uid", Number, |by| Value::number(by.maker.uid)),
        maker("maker_comm", Word, |by| (&by.comm).into()),
        maker("maker_cgroup_id", Number, |by| Value::some(by.maker.cgroup)),
        maker("maker_cgroup", Word, |by| by.cgroup.as_ref().into()),
        maker("maker_container", Word, |by| by.container.as_ref().into()),
        maker("maker_container_name", Word, |by| {
            by.container_name.as_ref().into()
        }),
    ]
}

/// What is known of who made a namespace, if that is known.
fn maker(
    name: &str,
    of: Type,
    get: for<'r> fn(&'r MakerRow<'r>) -> Value<'r>,
) -> Column<OfNamespace> {
    namespace(name, of, move |row| match &row.maker {
        Some(by) => get(by),
        None => Value::None,
    })
}

/// The time of day in ns since 1970; what is outside of the years that there are is the
/// nearest.
fn wall(mono_ns: u64, offset_ns: i64) -> Value<'static> {
    let wall = i128::from(mono_ns) + i128::from(offset_ns);
    let bounded = wall.clamp(i64::MIN.into(), i64::MAX.into());
    Value::Number(i64::try_from(bounded).unwrap_or(0))
}
