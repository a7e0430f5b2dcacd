//! Failures of rights, of flags that do not go together, and of descriptors.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};

use super::rows::Case;
use crate::kinds::{
    FS, KINDS, NEWIPC, NEWNET, NEWNS, NEWPID, NEWUSER, NEWUTS, SIGHAND, SYSVSEM, THREAD, USER, UTS,
    VM,
};
use crate::recorder::{Child, wait_for_release};
use crate::sys::{self, Call, CloneArgs};

const USER_ID: u32 = 1000;

/// A child with new namespaces that waits to be ended.
fn waiting(case: &mut Case, flags: u64) -> Result<Child> {
    let made = case
        .recorder
        .clone(Call::Clone, flags, |_, hold| wait_for_release(hold))?;
    made.ok().context("a clone that prepares a failure failed")
}

/// The namespace of a kind that a task is in.
fn open(case: &Case, task: &str, kind: usize) -> Result<(File, u32)> {
    let path = format!("{task}/{}", KINDS[kind].file);
    case.recorder
        .procfs
        .namespace(&path)
        .with_context(|| format!("{path}: cannot open"))
}

/// unshare(2) that must succeed.
pub fn unshare(case: &mut Case, flags: u64) -> Result<()> {
    let ret = case.recorder.unshare(flags)?;
    ensure!(ret == 0, "an unshare that prepares a failure failed: {ret}");
    Ok(())
}

/// A clone that must fail; its child, should there be one, is reaped.
pub fn clone_fails(case: &mut Case, flags: u64) -> Result<()> {
    if let Ok(child) = case.recorder.clone(Call::Clone, flags, |_, _| Ok(0))? {
        case.recorder.end(child)?;
    }
    Ok(())
}

pub fn unshare_as_user(case: &mut Case) -> Result<()> {
    case.recorder.become_user(USER_ID)?;
    let user = case.user()?;
    case.now(&[&user]);
    case.recorder.unshare(NEWUTS)?;
    Ok(())
}

pub fn clone_as_user(case: &mut Case) -> Result<()> {
    case.recorder.become_user(USER_ID)?;
    let user = case.user()?;
    case.now(&[&user]);
    clone_fails(case, NEWUTS)
}

pub fn unshare_without(case: &mut Case) -> Result<()> {
    sys::drop_capabilities()?;
    let user = case.user()?;
    case.now(&[&user]);
    case.recorder.unshare(NEWNET | NEWNS)?;
    Ok(())
}

/// The right is needed over the user namespace that we are in, not over the first.
pub fn unshare_without_below(case: &mut Case) -> Result<()> {
    case.recorder.become_user(USER_ID)?;
    unshare(case, NEWUSER)?;
    sys::drop_capabilities()?;
    let user = case.user()?;
    case.now(&[&user]);
    case.recorder.unshare(NEWUTS)?;
    Ok(())
}

/// An ordinary user with all rights in a user namespace of its own has none over
/// the first.
pub fn setns_foreign_uts(case: &mut Case) -> Result<()> {
    let owner = case.user()?;
    let (uts, _) = open(case, "thread-self", UTS)?;
    case.recorder.become_user(USER_ID)?;
    unshare(case, NEWUSER | NEWUTS)?;
    case.now(&[&owner]);
    case.recorder.setns(uts.as_raw_fd(), NEWUTS, 0)?;
    Ok(())
}

/// userns_install wants the right over the user namespace itself.
pub fn setns_foreign_user(case: &mut Case) -> Result<()> {
    let child = waiting(case, NEWUSER)?;
    let (user, inum) = open(case, &child.tid.to_string(), USER)?;
    case.recorder.become_user(USER_ID)?;
    case.now(&[&format!("user:{inum}")]);
    case.recorder.setns(user.as_raw_fd(), NEWUSER, 0)?;
    case.recorder.end(child)
}

pub fn clone_newns_fs(case: &mut Case) -> Result<()> {
    case.now(&[]);
    clone_fails(case, NEWNS | FS)
}

pub fn clone_newuser_fs(case: &mut Case) -> Result<()> {
    case.now(&[]);
    clone_fails(case, NEWUSER | FS)
}

pub fn clone_ipc_sysvsem(case: &mut Case) -> Result<()> {
    case.now(&[]);
    clone_fails(case, NEWIPC | SYSVSEM)
}

fn refused(case: &mut Case, flags: u64) -> Result<()> {
    case.now(&[]);
    case.recorder
        .attempt("clone", flags, || sys::clone_refused(flags))
}

pub fn clone_newpid_thread(case: &mut Case) -> Result<()> {
    refused(case, NEWPID | THREAD | SIGHAND | VM)
}

pub fn clone_newuser_thread(case: &mut Case) -> Result<()> {
    refused(case, NEWUSER | THREAD | SIGHAND | VM)
}

pub fn clone3_newpid_thread(case: &mut Case) -> Result<()> {
    let flags = NEWPID | THREAD | SIGHAND | VM;
    case.now(&[]);
    case.recorder.attempt("clone3", flags, || {
        // Without an exit signal, which is refused before there is an operation.
        match sys::clone3(&CloneArgs {
            flags,
            ..CloneArgs::default()
        }) {
            0 => sys::exit(0),
            ret => ret,
        }
    })
}

pub fn unshare_newuser_threaded(case: &mut Case) -> Result<()> {
    case.now(&[]);
    let done = case.recorder.thread(|recorder| recorder.unshare(NEWUSER))?;
    done.map(|_| ()).context("no thread")
}

pub fn setns_own_user(case: &mut Case) -> Result<()> {
    let (user, _) = open(case, "thread-self", USER)?;
    case.now(&[]);
    case.recorder.setns(user.as_raw_fd(), NEWUSER, 0)?;
    Ok(())
}

pub fn setns_user_threaded(case: &mut Case) -> Result<()> {
    let child = waiting(case, NEWUSER)?;
    let (user, _) = open(case, &child.tid.to_string(), USER)?;
    case.now(&[]);
    let done = case
        .recorder
        .thread(|recorder| recorder.setns(user.as_raw_fd(), NEWUSER, 0))?;
    ensure!(done.is_some(), "no thread");
    case.recorder.end(child)
}

/// Makes our children's pid namespace one whose init is dead.
fn kill_init(case: &mut Case) -> Result<()> {
    unshare(case, NEWPID)?;
    case.recorder.end_anchors()
}

pub fn fork_dead_init(case: &mut Case) -> Result<()> {
    kill_init(case)?;
    case.now(&[]);
    if case.recorder.clone(Call::Fork, 0, |_, _| Ok(0))?.is_ok() {
        bail!("a fork without an init succeeded");
    }
    Ok(())
}

pub fn vfork_dead_init(case: &mut Case) -> Result<()> {
    kill_init(case)?;
    case.now(&[]);
    case.recorder.attempt("vfork", 0, || sys::vfork(0))
}

pub fn clone_dead_init(case: &mut Case) -> Result<()> {
    kill_init(case)?;
    case.now(&[]);
    clone_fails(case, NEWUTS)
}

pub fn unshare_unmapped(case: &mut Case) -> Result<()> {
    unshare(case, NEWUSER)?;
    case.now(&[]);
    case.recorder.unshare(NEWUSER)?;
    Ok(())
}

pub fn unshare_without_gid_map(case: &mut Case) -> Result<()> {
    unshare(case, NEWUSER)?;
    let procfs = &case.recorder.procfs;
    procfs.write("thread-self/uid_map", "0 0 1")?;
    case.now(&[]);
    case.recorder.unshare(NEWUSER)?;
    Ok(())
}

fn chrooted(case: &mut Case, root: &str) -> Result<()> {
    std::os::unix::fs::chroot(root).with_context(|| format!("chroot {root}"))?;
    case.now(&[]);
    case.recorder.unshare(NEWUSER)?;
    Ok(())
}

pub fn unshare_chrooted(case: &mut Case) -> Result<()> {
    chrooted(case, "/usr")
}

/// The root of a mount is not that of the namespace: current_chrooted of
/// fs/namespace.c compares with the latter.
pub fn unshare_chrooted_to_mount(case: &mut Case) -> Result<()> {
    chrooted(case, "/run")
}

/// Its children's pid namespace is another already.
pub fn unshare_pid_twice(case: &mut Case) -> Result<()> {
    unshare(case, NEWPID)?;
    case.now(&[]);
    case.recorder.unshare(NEWPID)?;
    case.recorder.end_anchors()
}

pub fn setns_bad_fd(case: &mut Case) -> Result<()> {
    case.now(&[]);
    case.recorder.setns(9999, NEWUTS, 0)?;
    Ok(())
}

pub fn setns_file(case: &mut Case) -> Result<()> {
    let file = File::open("/dev/null")?;
    case.now(&[]);
    case.recorder.setns(file.as_raw_fd(), NEWUTS, 0)?;
    Ok(())
}

pub fn setns_mismatch(case: &mut Case) -> Result<()> {
    let (uts, _) = open(case, "thread-self", UTS)?;
    case.now(&[]);
    case.recorder.setns(uts.as_raw_fd(), NEWNET, 0)?;
    Ok(())
}

pub fn setns_pid_above(case: &mut Case) -> Result<()> {
    let (pid, _) = open(case, "1", crate::kinds::PID)?;
    case.now(&[]);
    let setns = case.recorder.note.clone();
    case.recorder.note.clear();
    let made = case.recorder.clone(Call::Clone, NEWPID, |recorder, _| {
        recorder.note = setns;
        recorder.setns(pid.as_raw_fd(), NEWPID, 0)?;
        Ok(0)
    })?;
    case.recorder.end(made.ok().context("no pid namespace")?)
}
