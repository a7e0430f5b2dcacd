//! The operations of a page, in columns.

use nstrace_common::kind::Kind;
use serde_json::{Value, json};

use super::{
    columns::{
        Coding::{Delta, Plain, Signed},
        Column, MAX,
        Width::{F64, U8, U32},
    },
    tables::{CgroupTable, Set, Table, shown},
};
use crate::{
    cgroups::Cgroups,
    event::Operation,
    explain::{Facts, explain},
    render::{errno_name, flag_names},
    stages::{Function, stages},
};

/// The columns in which every operation has a number.
macro_rules! columns {
    ($($name:ident $coding:ident $width:ident,)*) => {
        /// See the module.
        #[derive(Clone, Debug)]
        struct Columns { $($name: Column,)* }

        impl Columns {
            const fn new() -> Columns {
                Columns { $($name: Column::new(stringify!($name), $coding, $width),)* }
            }

            fn all(&self) -> Vec<&Column> {
                vec![$(&self.$name,)*]
            }
        }
    };
}

columns! {
    start Delta F64,
    took Plain F64,
    op Plain U8,
    flags Plain U32,
    ret Signed F64,
    failure Plain U32,
    pid Delta U32,
    tid Delta U32,
    uid Delta U32,
    comm Plain U32,
    cgroup Plain U32,
    before Delta U32,
    after Delta U32,
    target Delta U32,
    mounts Plain U32,
    owner Delta U32,
    owner_uid Delta U32,
    pid_parent Delta U32,
    user_parent Delta U32,
    chain_len Plain U8,
    stage_len Plain U8,
    // The stage that failed, from 1 on; 0 is none.
    stage_failed Plain U8,
    // Of these there are as many as the lengths say.
    chain_nr Plain U32,
    chain_ns Delta U32,
    // The function << 2 | the depth.
    stage_function Plain U8,
    stage_start Plain F64,
    stage_took Plain F64,
}

/// A sort of failure.
type Failure = (u8, i32, Option<&'static str>, Option<String>);

/// The operations.
#[derive(Clone, Debug)]
pub struct Operations {
    columns: Columns,
    flags: Table<String>,
    failures: Table<Failure>,
    functions: Table<Function>,
    sets: Table<Set>,
    set_columns: Vec<Column>,
    /// How many there are.
    pub len: u32,
}

const INUMS: [&str; Kind::ALL.len()] = [
    "set_mnt",
    "set_uts",
    "set_ipc",
    "set_pid",
    "set_net",
    "set_user",
    "set_cgroup",
    "set_time",
];
const IDS: [&str; Kind::ALL.len()] = [
    "id_mnt",
    "id_uts",
    "id_ipc",
    "id_pid",
    "id_net",
    "id_user",
    "id_cgroup",
    "id_time",
];

/// What operations have in common with tasks and namespaces.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// Names of tasks.
    pub comms: Table<Box<[u8]>>,
    /// Cgroups.
    pub cgroups: CgroupTable,
}

impl Shared {
    /// The place of a name.
    pub fn comm(&mut self, comm: &[u8]) -> u32 {
        self.comms.place(comm.into()).0
    }
}

impl Operations {
    /// None.
    pub fn new() -> Operations {
        let inums = INUMS.map(|name| Column::new(name, Delta, U32));
        let ids = IDS.map(|name| Column::new(name, Delta, F64));
        Operations {
            columns: Columns::new(),
            flags: Table::default(),
            failures: Table::default(),
            functions: Table::default(),
            sets: Table::default(),
            set_columns: inums.into_iter().chain(ids).collect(),
            len: 0,
        }
    }

    /// Adds one, whose times are told from `base` on.
    pub fn add(
        &mut self,
        op: &Operation,
        base: i64,
        shared: &mut Shared,
        cgroups: &Cgroups,
        facts: &Facts,
    ) {
        let record = op.record;
        let names: Vec<&str> = flag_names(op.op, record.flags).collect();
        let flags = self.flags.place(names.join("|")).0;
        let stages = stages(op);
        let failure = op.errno().map_or(0, |errno| {
            let stage = stages.failed().map(|stage| stage.function.name());
            let reason = explain(op, facts).map(|reason| reason.to_string());
            self.failures.place((op.op as u8, errno, stage, reason)).0 + 1
        });
        let before = self.set(std::array::from_fn(|kind| op.before(Kind::ALL[kind])));
        let after = self.set(std::array::from_fn(|kind| op.after(Kind::ALL[kind])));
        let columns = &mut self.columns;
        columns.start.push(since(record.start, base));
        columns.took.push(op.took_ns());
        columns.op.push(op.op as u8);
        columns.flags.push(flags);
        columns.ret.push(record.ret);
        columns.failure.push(failure);
        columns.pid.push(record.pid);
        columns.tid.push(record.tid);
        columns.uid.push(record.uid);
        columns.comm.push(shared.comm(op.comm()));
        let cgroup = shared.cgroups.place(record.cgroup, cgroups);
        columns.cgroup.push(cgroup);
        columns.before.push(before);
        columns.after.push(after);
        columns.target.push(record.target);
        columns.mounts.push(record.mounts);
        columns.owner.push(record.owner);
        columns.owner_uid.push(record.owner_uid);
        columns.pid_parent.push(record.pid_parent);
        columns.user_parent.push(record.user_parent);
        columns.chain_len.push(op.pids.len() as u8);
        for pid in op.pids.iter().take(usize::from(u8::MAX)) {
            columns.chain_nr.push(pid.nr);
            columns.chain_ns.push(pid.ns);
        }
        let failed = stages.iter().position(|stage| stage.errno.is_some());
        columns.stage_len.push(stages.len() as u8);
        columns
            .stage_failed
            .push(failed.map_or(0, |at| at as u8 + 1));
        for stage in stages.iter() {
            let function = self.functions.place(stage.function).0 as u8;
            columns.stage_function.push(function << 2 | stage.depth & 3);
            columns.stage_start.push(stage.start_ns);
            columns.stage_took.push(stage.took_ns);
        }
        self.len += 1;
    }

    fn set(&mut self, all: [crate::event::Ns; Kind::ALL.len()]) -> u32 {
        let set = (all.map(|ns| ns.inum), all.map(|ns| ns.id));
        let (place, is_new) = self.sets.place(set);
        if is_new {
            let inums = set.0.into_iter().map(u64::from);
            for (column, number) in self.set_columns.iter_mut().zip(inums.chain(set.1)) {
                column.push(number);
            }
        }
        place
    }

    /// The columns.
    pub fn columns(&self) -> Vec<&Column> {
        let mut all = self.columns.all();
        all.extend(&self.set_columns);
        all
    }

    /// What their numbers stand for.
    pub fn tables(&self) -> Value {
        let failures = self.failures.in_order().into_iter();
        let failures = failures.map(|(op, errno, stage, reason)| {
            let reason = reason.as_ref().map(|reason| shown_text(reason));
            json!([op, errno, errno_name(*errno), stage, reason])
        });
        let functions = self.functions.in_order().into_iter();
        json!({
            "flags": self.flags.in_order(),
            "failures": failures.collect::<Value>(),
            "functions": functions.map(|function| function.name()).collect::<Value>(),
        })
    }
}

/// A reason has names in it that are escaped already; what else does not show is no part of
/// it.
fn shown_text(reason: &str) -> String {
    match reason.chars().any(char::is_control) {
        true => shown(reason.as_bytes()),
        false => reason.to_owned(),
    }
}

/// A time as the page has it, in ns since the recording began; it may be before that.
pub fn since(time: u64, base: i64) -> i64 {
    let since = i128::from(time) - i128::from(base);
    since.clamp((-MAX).into(), MAX.into()) as i64
}
