//! Failures at limits: of namespaces, of nesting, of processes, of policy.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::failures::{clone_fails, unshare};
use super::rows::Case;
use crate::kinds::{KINDS, NEWIPC, NEWPID, NEWUSER, NEWUTS};
use crate::recorder::Recorder;
use crate::sys::Call;

/// A cgroup in which there is room for one process.
pub const PIDS_CGROUP: &str = "nstrace-pids";

const USERNS_CLONE: &str = "/proc/sys/kernel/unprivileged_userns_clone";

/// Enough for every test.
const MANY: &str = "4000";

fn limit_file(kind: usize) -> String {
    format!("sys/user/max_{}_namespaces", KINDS[kind].name)
}

fn limit_name(kind: usize) -> String {
    limit_file(kind).replacen("sys/", "", 1).replace('/', ".")
}

/// Sets a limit of our own user namespace.
fn set(case: &Case, kind: usize, value: &str) -> Result<()> {
    let file = limit_file(kind);
    case.recorder
        .procfs
        .write(&file, value)
        .with_context(|| format!("{file}: cannot write"))
}

/// Puts back what the rows change for the whole machine.
pub fn restore() -> Result<()> {
    for kind in 0..KINDS.len() {
        let file = format!("/proc/{}", limit_file(kind));
        if Path::new(&file).exists() {
            fs::write(&file, MANY).with_context(|| file)?;
        }
    }
    if Path::new(USERNS_CLONE).exists() {
        fs::write(USERNS_CLONE, "1")?;
    }
    // It is there only after its row, and then empty.
    let _ = fs::remove_dir(format!("/sys/fs/cgroup/{PIDS_CGROUP}"));
    Ok(())
}

/// No namespace of the kind is allowed in the first user namespace.
pub fn zero(case: &mut Case, kind: usize) -> Result<()> {
    set(case, kind, "0")?;
    let user = case.user()?;
    case.now(&[&limit_name(kind), "0", &user]);
    case.recorder.unshare(KINDS[kind].flag)?;
    Ok(())
}

/// Two are allowed in a user namespace below the first.
pub fn small_below(case: &mut Case) -> Result<()> {
    unshare(case, NEWUSER)?;
    case.recorder.map_ids()?;
    set(case, 1, "2")?;
    unshare(case, NEWUTS)?;
    // The one that we leave is given back when we have the next.
    let kept = case.recorder.clone(Call::Fork, 0, |_, hold| {
        crate::recorder::wait_for_release(hold)
    })?;
    let kept = kept.ok().context("cannot fork")?;
    unshare(case, NEWUTS)?;
    let user = case.user()?;
    case.now(&[&limit_name(1), "2", &user]);
    case.recorder.unshare(NEWUTS)?;
    case.recorder.end(kept)
}

/// The limit is that of the user namespace above ours.
pub fn of_a_parent(case: &mut Case) -> Result<()> {
    unshare(case, NEWUSER)?;
    case.recorder.map_ids()?;
    set(case, 1, "0")?;
    let parent = case.user()?;
    unshare(case, NEWUSER)?;
    case.recorder.map_ids()?;
    case.now(&[&limit_name(1), "0", &parent]);
    case.recorder.unshare(NEWUTS)?;
    Ok(())
}

pub fn met_by_clone(case: &mut Case) -> Result<()> {
    set(case, 2, "0")?;
    let user = case.user()?;
    case.now(&[&limit_name(2), "0", &user]);
    clone_fails(case, NEWIPC | NEWUTS)
}

/// Pid namespaces in one another until the kernel refuses.
pub fn nested_pid(case: &mut Case) -> Result<()> {
    case.now(&[]);
    nest(&mut case.recorder, 0)
}

fn nest(recorder: &mut Recorder, depth: u32) -> Result<()> {
    anyhow::ensure!(depth < 40, "no end of pid namespaces");
    let made = recorder.clone(Call::Clone, NEWPID, |recorder, _| {
        nest(recorder, depth + 1)?;
        Ok(0)
    })?;
    match made {
        Ok(child) => recorder.end(child),
        Err(_) => Ok(()),
    }
}

/// User namespaces in one another until the kernel refuses: create_user_ns makes
/// one more than there can be pid namespaces, for it looks at the parent's level.
pub fn nested_user(case: &mut Case) -> Result<()> {
    case.now(&[]);
    for _ in 0..40 {
        if case.recorder.unshare(NEWUSER)? != 0 {
            return Ok(());
        }
        case.recorder.map_ids()?;
    }
    anyhow::bail!("no end of user namespaces")
}

pub fn pids_cgroup(case: &mut Case) -> Result<()> {
    let path = Path::new("/sys/fs/cgroup").join(PIDS_CGROUP);
    fs::create_dir_all(&path)?;
    case.now(&[]);
    if fs::write(path.join("pids.max"), "1").is_err() {
        return case
            .recorder
            .skip("the kernel has no pids controller in cgroup v2");
    }
    fs::write(path.join("cgroup.procs"), "0")?;
    case.recorder.cgroup_changed()?;
    clone_fails(case, NEWUTS)
}

/// Debian's own switch. What is left undone is told.
fn forbid_userns(case: &mut Case) -> Result<bool> {
    case.now(&[]);
    if !Path::new(USERNS_CLONE).exists() {
        case.recorder
            .skip("the kernel has no kernel.unprivileged_userns_clone")?;
        return Ok(false);
    }
    fs::write(USERNS_CLONE, "0")?;
    case.recorder.become_user(1000)?;
    Ok(true)
}

pub fn userns_clone(case: &mut Case) -> Result<()> {
    if forbid_userns(case)? {
        case.recorder.unshare(NEWUSER)?;
    }
    Ok(())
}

pub fn userns_clone_by_clone(case: &mut Case) -> Result<()> {
    if forbid_userns(case)? {
        clone_fails(case, NEWUSER)
    } else {
        Ok(())
    }
}
