//! The lines of `nstrace --json`, read as docs/json.md has them.
//!
//! What the page promises is checked here once: types of fields, and that a field
//! that does not apply is absent.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::kinds::{COUNT, Inums, KINDS};

/// A line, by its type.
#[derive(Clone, Debug)]
pub enum Line {
    Op(Box<Op>),
    TaskNew(Task),
    TaskExit(Task),
    Birth(Life),
    Death(Life),
    Stall(Box<Op>),
    Lost(Lost),
    Mount(Box<Mount>),
    MountBirths(MountBirths),
    /// A type that we do not know, as the page allows.
    Other,
}

/// An operation, also one that hangs.
#[derive(Clone, Debug, Deserialize)]
pub struct Op {
    pub time: String,
    pub mono_ns: u64,
    pub took_ns: u64,
    pub op: String,
    pub flags: Vec<String>,
    pub flags_raw: u64,
    pub ret: Option<i64>,
    pub errno: Option<String>,
    pub failed_stage: Option<String>,
    pub reason: Option<String>,
    pub pid: u32,
    pub tid: u32,
    pub uid: u32,
    pub comm: String,
    pub cgroup: Option<String>,
    pub container: Option<String>,
    #[serde(default)]
    namespaces: Value,
    #[serde(skip)]
    pub before: Inums,
    #[serde(skip)]
    pub after: Inums,
    pub changed: Option<Vec<String>>,
    pub pid_parent: Option<u32>,
    pub user_parent: Option<u32>,
    pub owner_uid: Option<u32>,
    pub owner: Option<u32>,
    pub mounts: Option<u32>,
    pub target: Option<u32>,
    #[serde(default)]
    pub pids: Vec<PidAt>,
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// For one that hangs.
    pub stage: Option<String>,
    pub stage_took_ns: Option<u64>,
}

/// An id of a task at one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PidAt {
    pub ns: u32,
    pub pid: u32,
}

/// A function that an operation passed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Stage {
    pub stage: String,
    pub depth: u32,
    pub start_ns: u64,
    pub took_ns: u64,
    pub errno: Option<String>,
    pub mounts: Option<u32>,
}

/// A task's beginning or end.
#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    pub tid: u32,
    pub parent: Option<u32>,
    pub pids: Vec<PidAt>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
}

/// A namespace's beginning or end.
#[derive(Clone, Debug, Deserialize)]
pub struct Life {
    pub kind: Option<String>,
    pub inum: u32,
    pub tid: Option<u32>,
    pub age_ns: Option<u64>,
}

/// Records that did not get through.
#[derive(Clone, Debug, Deserialize)]
pub struct Lost {
    pub record: String,
    pub count: u64,
}

/// A mount operation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Mount {
    pub mono_ns: u64,
    pub took_ns: u64,
    pub op: String,
    pub what: Option<String>,
    pub command: Option<String>,
    #[serde(default)]
    pub recursive: bool,
    #[serde(default)]
    pub flags: Vec<String>,
    #[serde(default)]
    pub set: Vec<String>,
    pub ret: i64,
    pub errno: Option<String>,
    pub reason: Option<String>,
    pub tid: u32,
    pub uid: u32,
    pub comm: String,
    pub caller_mnt: Option<u32>,
    pub source: Option<String>,
    pub source_path: Option<String>,
    pub source_fd: Option<u32>,
    pub target: Option<String>,
    pub target_path: Option<String>,
    pub target_fd: Option<u32>,
    pub fs: Option<String>,
    pub id: Option<u32>,
    pub unique: Option<u64>,
    pub from: Option<u32>,
    pub mnt: Option<u32>,
    pub dev: Option<String>,
    #[serde(default)]
    pub made: u32,
    #[serde(default)]
    pub made_by_propagation: u32,
    #[serde(default)]
    pub taken: u32,
    #[serde(default)]
    pub taken_by_propagation: u32,
    pub age_ns: Option<u64>,
    pub copy_of: Option<u32>,
    pub maker: Option<MountMaker>,
}

/// Who made a mount that is taken away.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MountMaker {
    pub op: String,
    pub pid: u32,
    pub tid: u32,
    pub comm: String,
}

/// Mounts that an operation made.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MountBirths {
    pub op: String,
    pub op_mono_ns: u64,
    pub tid: u32,
    pub births: Vec<MountBirth>,
}

/// A mount that was made.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct MountBirth {
    pub id: u32,
    pub unique: Option<u64>,
    pub from: Option<u32>,
    pub from_unique: Option<u64>,
}

/// Reads a line.
pub fn parse(text: &str) -> Result<Line> {
    let value: Value = serde_json::from_str(text).context("not JSON")?;
    let kind = value
        .get("type")
        .and_then(Value::as_str)
        .context("no `type`")?
        .to_owned();
    Ok(match kind.as_str() {
        "op" => Line::Op(op(value, true)?),
        "stall" => Line::Stall(op(value, false)?),
        "task_new" => Line::TaskNew(Task::deserialize(value)?),
        "task_exit" => Line::TaskExit(Task::deserialize(value)?),
        "ns_birth" => Line::Birth(Life::deserialize(value)?),
        "ns_death" => Line::Death(Life::deserialize(value)?),
        "mount" => Line::Mount(Box::new(Mount::deserialize(value)?)),
        "mount_births" => Line::MountBirths(MountBirths::deserialize(value)?),
        "lost" => Line::Lost(Lost::deserialize(value)?),
        _ => Line::Other,
    })
}

fn op(value: Value, is_done: bool) -> Result<Box<Op>> {
    let mut op = Box::new(Op::deserialize(value)?);
    if !is_done {
        return Ok(op);
    }
    let namespaces = op.namespaces.take();
    for (index, kind) in KINDS.iter().enumerate() {
        let Some(pair) = namespaces.get(kind.name) else {
            continue;
        };
        let number = |name: &str| match pair.get(name) {
            None => Ok(0),
            Some(value) => match value.as_u64().filter(|number| *number != 0) {
                Some(number) => Ok(u32::try_from(number)?),
                None => bail!("namespaces.{}.{name} is {value}", kind.name),
            },
        };
        (op.before[index], op.after[index]) = (number("before")?, number("after")?);
    }
    well_formed(&op)?;
    Ok(op)
}

/// What holds for every operation whatever it did.
fn well_formed(op: &Op) -> Result<()> {
    let ret = op.ret.context("no `ret`")?;
    ensure!(
        op.time.len() == 30 && op.time.as_bytes()[10] == b'T' && op.time.ends_with('Z'),
        "time {:?} is not UTC with nanoseconds",
        op.time
    );
    ensure!(
        (ret < 0) == op.errno.is_some(),
        "ret {ret} with errno {:?}",
        op.errno
    );
    ensure!(
        ret < 0 || (op.reason.is_none() && op.failed_stage.is_none()),
        "a success with a reason or a failed stage"
    );
    for stage in &op.stages {
        ensure!(
            stage.start_ns + stage.took_ns <= op.took_ns,
            "stage {} ends after the operation",
            stage.stage
        );
        let copied = op.mounts.filter(|_| stage.stage == "copy_mnt_ns");
        ensure!(
            stage.mounts == copied,
            "stage {} copied {:?} mounts, and the operation {:?}",
            stage.stage,
            stage.mounts,
            op.mounts
        );
    }
    let differs = |index: &usize| ret >= 0 && op.before[*index] != op.after[*index];
    let differing: Vec<&str> = (0..COUNT)
        .filter(differs)
        .map(|index| KINDS[index].name)
        .collect();
    let changed = op.changed.clone().unwrap_or_default();
    ensure!(
        changed == differing,
        "changed {changed:?}, but before and after say {differing:?}"
    );
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::kinds::{PID, UTS};

    /// A clone as docs/json.md describes it, written by hand.
    pub const CLONE: &str = r#"{"type":"op","time":"2026-11-22T00:31:06.123456789Z",
        "mono_ns":1000,"took_ns":500,"op":"clone","flags":["NEWPID"],"flags_raw":536870912,
        "ret":71,"pid":70,"tid":70,"uid":0,"comm":"load-0","cgroup":"/nstrace-load",
        "namespaces":{"uts":{"before":11,"after":11},"pid":{"before":12,"after":13},
        "future":{"before":1,"after":2}},
        "changed":["pid"],"pid_parent":12,"owner":14,
        "pids":[{"ns":12,"pid":71},{"ns":13,"pid":1}],
        "stages":[{"stage":"copy_namespaces","depth":0,"start_ns":10,"took_ns":100},
        {"stage":"create_new_namespaces","depth":1,"start_ns":20,"took_ns":80},
        {"stage":"copy_pid_ns","depth":2,"start_ns":30,"took_ns":60},
        {"stage":"alloc_pid","depth":0,"start_ns":200,"took_ns":9}],"from_the_future":1}"#;

    #[test]
    fn an_operation_is_read() {
        let Line::Op(op) = parse(CLONE).unwrap() else {
            panic!()
        };
        assert_eq!(
            (op.ret, op.before[PID], op.after[PID], op.after[UTS]),
            (Some(71), 12, 13, 11)
        );
        assert_eq!(op.pids[1], PidAt { ns: 13, pid: 1 });
        assert_eq!(op.stages.len(), 4);
    }

    #[test]
    fn what_the_page_forbids_is_refused() {
        for (from, to) in [
            (r#""ret":71"#, r#""ret":-1"#),
            (r#""changed":["pid"]"#, r#""changed":[]"#),
            (r#""before":11"#, r#""before":0"#),
            (r#""took_ns":500"#, r#""took_ns":205"#),
            (".123456789Z", ".123Z"),
            (r#""type":"op","#, ""),
        ] {
            assert!(CLONE.contains(from));
            assert!(parse(&CLONE.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn an_unknown_type_is_allowed() {
        assert!(matches!(parse(r#"{"type":"news","x":1}"#), Ok(Line::Other)));
    }

    #[test]
    fn a_death_without_a_kind_is_read() {
        let text = r#"{"type":"ns_death","time":"x","mono_ns":5,"inum":4026532279}"#;
        let Line::Death(life) = parse(text).unwrap() else {
            panic!()
        };
        assert_eq!(
            (life.kind, life.inum, life.age_ns),
            (None, 4026532279, None)
        );
    }
}
