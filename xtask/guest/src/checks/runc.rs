//! Containers made by runc, as Docker and Kubernetes have them made: what nstrace
//! says is held against /proc while they run.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Suite, Verdict};
use crate::harness::line::{Op, PidAt, Task};
use crate::harness::report::Report;
use crate::kinds::{Inums, KINDS, MNT, USER};
use crate::procfs::Procfs;

/// Ids as engines give them.
pub(super) const PLAIN: &str = "1f8c2d3e4a5b69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const WITH_USER: &str = "2f8c2d3e4a5b69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// Who the container's root is outside, with a user namespace.
const HOST_ID: u32 = 100_000;

pub(super) const BUNDLE: &str = "/run/nstrace-bundle";

/// A container, and one more with a user namespace.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    let mut report = Report::default();
    for (id, has_user) in [(PLAIN, false), (WITH_USER, true)] {
        prepare(id, has_user)?;
        let from = suite.tracer()?.mark();
        let running = start(id);
        let entered = if has_user {
            Ok(String::new())
        } else {
            exec(id)
        };
        runc(&["delete", "--force", id])?;
        let running = running?;
        entered?;
        let tracer = suite.tracer()?;
        tracer.catch_up()?;
        let seen = tracer.seen();
        let mut own = Report::default();
        let (new, _) = seen.tasks(from);
        check(
            id,
            has_user,
            &running,
            &seen.ops_of_others(from),
            &new,
            &mut own,
        );
        report.append(
            if has_user {
                "with a user namespace"
            } else {
                "plain"
            },
            own,
        );
    }
    Ok(Verdict::Ran(report))
}

/// What /proc says of a running container's first process.
pub(super) struct Running {
    pub(super) inums: Inums,
    pub(super) ids: Vec<u32>,
    pub(super) pid: u32,
}

/// Makes a bundle whose process is this program, which is static.
pub(super) fn prepare(id: &str, has_user: bool) -> Result<()> {
    // It is there only if a test ran before.
    let _ = fs::remove_dir_all(BUNDLE);
    let root = Path::new(BUNDLE).join("rootfs");
    for dir in ["", "proc", "dev", "sys"] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir)?;
        // runc makes what is missing, as the container's root.
        let owner = Some(if has_user { HOST_ID } else { 0 });
        std::os::unix::fs::chown(&dir, owner, owner)?;
    }
    fs::copy(std::env::current_exe()?, root.join("guest"))?;
    runc(&["spec", "--bundle", BUNDLE])?;
    let path = Path::new(BUNDLE).join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    config["process"]["terminal"] = json!(false);
    config["root"]["readonly"] = json!(false);
    config["process"]["args"] = json!(["/guest", "act", "pause"]);
    config["linux"]["cgroupsPath"] = json!(format!("/nstrace-test/{id}"));
    if has_user {
        let map = json!([{ "containerID": 0, "hostID": HOST_ID, "size": 65_536 }]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        let kinds = config["linux"]["namespaces"]
            .as_array_mut()
            .context("no namespaces")?;
        kinds.push(json!({ "type": "user" }));
    }
    fs::write(&path, config.to_string())?;
    Ok(())
}

/// Runs runc and gives what it printed. Its output goes to files: a container
/// would keep a pipe open.
pub(super) fn runc(args: &[&str]) -> Result<String> {
    let (out, err) = ("/run/nstrace-runc.out", "/run/nstrace-runc.err");
    let status = Command::new("runc")
        .args(args)
        .stdin(Stdio::null())
        .stdout(fs::File::create(out)?)
        .stderr(fs::File::create(err)?)
        .status()?;
    let said = fs::read_to_string(err)?;
    ensure!(
        status.success(),
        "runc {}: {status}: {}",
        args.join(" "),
        said.trim()
    );
    Ok(fs::read_to_string(out)?)
}

pub(super) fn start(id: &str) -> Result<Running> {
    runc(&["run", "--detach", "--bundle", BUNDLE, id])?;
    let state: Value = serde_json::from_str(&runc(&["state", id])?)?;
    let number = state["pid"].as_u64().context("runc state has no pid")?;
    let pid = number.to_string();
    let procfs = Procfs::open()?;
    Ok(Running {
        pid: u32::try_from(number)?,
        inums: procfs.inums(&pid)?,
        ids: procfs.ids_by_level(&pid)?,
    })
}

pub(super) fn exec(id: &str) -> Result<String> {
    runc(&["exec", id, "/guest", "--help"])
}

fn check(
    id: &str,
    has_user: bool,
    running: &Running,
    ops: &[Op],
    new: &[Task],
    report: &mut Report,
) {
    let ours = Procfs::open()
        .and_then(|procfs| procfs.inums("thread-self"))
        .unwrap_or_default();
    for (index, kind) in KINDS.iter().enumerate() {
        let inum = running.inums[index];
        let is_made = |op: &&Op| op.after[index] == inum && op.before[index] != inum;
        report.check(
            inum == ours[index] || ops.iter().any(|op| is_made(&op)),
            || format!("no operation made {}:{inum}", kind.name),
        );
    }
    report.same(
        "has a user namespace",
        running.inums[USER] != ours[USER],
        has_user,
    );
    let is_its = |pids: &[PidAt]| pids.iter().map(|at| at.pid).eq(running.ids.iter().copied());
    let by_op = ops.iter().any(|op| is_its(&op.pids));
    report.check(by_op || new.iter().any(|task| is_its(&task.pids)), || {
        format!(
            "nothing has the chain {:?} of its first process",
            running.ids
        )
    });
    let inside: Vec<&Op> = ops
        .iter()
        .filter(|op| op.cgroup.as_deref() == Some(&format!("/nstrace-test/{id}")))
        .collect();
    report.check(!inside.is_empty(), || {
        let paths: Vec<_> = ops.iter().map(|op| op.cgroup.as_deref()).collect();
        format!("no operation in the container's cgroup, but in {paths:?}")
    });
    for op in inside {
        report.same(
            format!("container of {}", op.tid),
            op.container.as_deref(),
            Some(id),
        );
    }
    let calls = |name: &str| ops.iter().any(|op| op.op.starts_with(name));
    report.check(calls("clone") || calls("unshare"), || {
        "no clone and no unshare".to_owned()
    });
    let is_entry = |op: &&Op| op.op == "setns" && op.after[MNT] == running.inums[MNT];
    report.check(has_user || ops.iter().any(|op| is_entry(&op)), || {
        format!("no setns of runc exec into mnt:{}", running.inums[MNT])
    });
}
