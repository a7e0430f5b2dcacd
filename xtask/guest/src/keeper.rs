//! The keeper: a process that stays in the first namespaces and tells those that
//! left them what the kernel says of them. Only from there is every relation to
//! be seen: NS_GET_PARENT gives nothing above the caller's own pid namespace.
//!
//! It is the parent of a family of tasks, of which one runs at a time; they share
//! one end of a connection. A question is `TID FLAGS`, the answer [`Facts`] in JSON.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail, ensure};

use crate::book::Facts;
use crate::kinds::{KINDS, MNT, PID, USER};
use crate::procfs::Procfs;
use crate::sys::{self, End};

/// Where a family asks.
#[derive(Debug)]
pub struct Asker(File);

impl Asker {
    /// What the kernel says of the task `tid` and of its new namespaces, those of
    /// the kinds in `flags`.
    pub fn ask(&self, tid: u32, flags: u64) -> Result<Facts> {
        (&self.0).write_all(format!("{tid} {flags}").as_bytes())?;
        let mut answer = vec![0; 8192];
        let len = (&self.0).read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
        serde_json::from_str(&answer).with_context(|| format!("the keeper says: {answer}"))
    }
}

/// Forks a family, keeps it until its last process is gone, and fails if its
/// first one does.
pub fn keep(procfs: &Procfs, family: impl FnOnce(Asker) -> Result<()>) -> Result<()> {
    let (ours, theirs) = sys::packet_pair()?;
    let mut ends = (Some(ours), Some(theirs));
    let pid = sys::spawn(sys::Call::Fork, 0, || {
        ends.0 = None;
        let asker = ends.1.take().map(|end| Asker(end.into()));
        status(asker.context("no connection").and_then(family))
    });
    ensure!(pid > 0, "cannot fork: errno {}", -pid);
    ends.1 = None;
    serve(ends.0.context("no connection")?, procfs)?;
    match sys::wait(pid)? {
        End::Code(0) => Ok(()),
        end => bail!("the family of {pid} ended with {end:?}"),
    }
}

/// The exit status for a child's result; its error goes to stderr.
pub fn status(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("nstrace-guest: {error:#}");
            99
        }
    }
}

fn serve(connection: OwnedFd, procfs: &Procfs) -> Result<()> {
    let mut connection = File::from(connection);
    let hidden = procfs.hidden_mounts()?;
    let mut question = [0; 64];
    loop {
        let len = connection.read(&mut question)?;
        if len == 0 {
            return Ok(());
        }
        let text = std::str::from_utf8(&question[..len])?;
        let (tid, flags) = text.split_once(' ').context("a question of another form")?;
        let answer = match facts(procfs, tid, flags.parse()?, hidden) {
            Ok(facts) => serde_json::to_string(&facts)?,
            Err(error) => format!("{error:#}"),
        };
        connection.write_all(answer.as_bytes())?;
    }
}

fn facts(procfs: &Procfs, tid: &str, flags: u64, hidden: u32) -> Result<Facts> {
    let mut facts = Facts {
        pids: pids(procfs, tid)?,
        ..Facts::default()
    };
    for (index, kind) in KINDS
        .iter()
        .enumerate()
        .filter(|(_, kind)| flags & kind.flag != 0)
    {
        let path = format!("{tid}/{}", kind.file);
        let (ns, _) = procfs
            .namespace(&path)
            .with_context(|| format!("{path}: cannot open"))?;
        match index {
            USER => {
                facts.user_parent = Some(inum(&sys::ns_parent(&ns)?)?);
                facts.owner_uid = Some(sys::ns_owner_uid(&ns)?);
                continue;
            }
            PID => facts.pid_parent = Some(inum(&sys::ns_parent(&ns)?)?),
            MNT => facts.mounts = Some(procfs.mounts(tid, hidden)?),
            _ => {}
        }
        let owner = inum(&sys::ns_owner(&ns)?)?;
        ensure!(
            facts.owner.is_none_or(|before| before == owner),
            "{path}: its owner is another than that of the others"
        );
        facts.owner = Some(owner);
    }
    Ok(facts)
}

fn inum(ns: &OwnedFd) -> Result<u32> {
    Ok(sys::inode(ns)? as u32)
}

/// The task's ids at every level with the namespaces that they are in.
fn pids(procfs: &Procfs, tid: &str) -> Result<Vec<(u32, u32)>> {
    let ids = procfs.ids_by_level(tid)?;
    let (file, first) = procfs.namespace(&format!("{tid}/ns/pid"))?;
    let mut inums = vec![first];
    let mut ns = OwnedFd::from(file);
    while inums.len() < ids.len() {
        ns = sys::ns_parent(&ns)?;
        inums.push(inum(&ns)?);
    }
    inums.reverse();
    Ok(inums.into_iter().zip(ids).collect())
}
