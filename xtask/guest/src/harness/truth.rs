//! The truth about namespaces: what the kernel says of those that live, read from /proc
//! and by ioctls, with no code of nstrace.
//!
//! It is read by an act of its own, `act truth`: it enters mount namespaces, for which a
//! process must have one thread, and what it has open while it looks must be gone when
//! nstrace looks.

mod reader;

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::act;
use crate::kinds::Inums;

pub use reader::print;

/// A namespace: the name of its kind, and its number.
pub type Key = (String, u32);

/// Everything that there is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    pub namespaces: Vec<Namespace>,
    pub tasks: Vec<Task>,
    /// What could not be looked at.
    pub unseen: Vec<String>,
}

/// A living namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Namespace {
    pub kind: String,
    pub inum: u32,
    /// Of a pid or user namespace that is not the first.
    pub parent: Option<u32>,
    pub owner: Option<u32>,
    /// Of a user namespace.
    pub owner_uid: Option<u32>,
    /// What holds it beside tasks and other namespaces.
    pub holders: Vec<Holder>,
}

/// As docs/json.md has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Holder {
    Descriptor { pid: u32, fd: i32 },
    Mount { mnt: u32, path: String },
    Socket { pid: u32, fd: i32 },
    Proc { mnt: u32, path: String },
}

/// A task that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub pid: u32,
    pub tid: u32,
    pub comm: String,
    pub is_kernel: bool,
    /// The namespaces that it is in itself.
    pub inums: Inums,
    /// Those of its children, if they are others. 0: there is one, but it cannot be
    /// seen.
    pub pid_for_children: Option<u32>,
    pub time_for_children: Option<u32>,
    /// Its id at every level, from the first.
    pub ids: Vec<u32>,
}

impl Truth {
    /// The namespaces by kind and number.
    pub fn by_key(&self) -> BTreeMap<Key, &Namespace> {
        let keyed = |ns: &'_ Namespace| (ns.kind.clone(), ns.inum);
        self.namespaces.iter().map(|ns| (keyed(ns), ns)).collect()
    }

    /// The namespaces that the first process is in.
    pub fn first(&self) -> Inums {
        let init = self.tasks.iter().find(|task| task.tid == 1);
        init.map(|task| task.inums).unwrap_or_default()
    }

    /// Whether all tasks and namespaces but those of the kernel and of the first
    /// namespaces are the same.
    fn is_like(&self, other: &Truth) -> bool {
        let first = self.first();
        let tasks = |truth: &Truth| -> Vec<Task> {
            let inside = |task: &&Task| task.inums != first || task.pid_for_children.is_some();
            truth.tasks.iter().filter(inside).cloned().collect()
        };
        self.namespaces == other.namespaces && tasks(self) == tasks(other)
    }
}

/// What is now.
pub fn read() -> Result<Truth> {
    serde_json::from_str(&act::perform(&["act", "truth"])?).context("the truth is no JSON")
}

/// How long two readings that agree are apart.
const APART: Duration = Duration::from_millis(500);

/// What is when all is at rest: two readings agree, and between them no namespace died and
/// no worker of the kernel cleaned up after a net namespace. That is done in the
/// background, and until it is done nobody but the kernel sees that the namespace lives.
pub fn at_rest(limit: Duration) -> Result<Truth> {
    let deadline = Instant::now() + limit;
    let deaths = Deaths::count()?;
    let mut before = read()?;
    loop {
        let died = deaths.so_far()?;
        let is_still = is_still_for(APART)?;
        let now = read()?;
        let is_still = is_still && deaths.so_far()? == died;
        if is_still && now.is_like(&before) {
            return Ok(now);
        }
        if Instant::now() > deadline {
            bail!("the machine is not at rest within {limit:?}");
        }
        before = now;
    }
}

/// Counts the deaths of namespaces, by a probe of the kernel's own that no program is
/// behind.
struct Deaths;

impl Deaths {
    const TRACING: &str = "/sys/kernel/tracing";
    const EVENT: &str = "events/nstrace_guest/deaths/enable";

    fn count() -> Result<Self> {
        let write = |file: &str, text: &str| {
            let path = format!("{}/{file}", Self::TRACING);
            let mut file = fs::OpenOptions::new().append(true).open(&path)?;
            std::io::Write::write_all(&mut file, text.as_bytes()).context(path)
        };
        write("kprobe_events", "p:nstrace_guest/deaths proc_free_inum\n")?;
        write(Self::EVENT, "1")?;
        Ok(Deaths)
    }

    fn so_far(&self) -> Result<u64> {
        let hits = fs::read_to_string(format!("{}/kprobe_profile", Self::TRACING))?;
        let line = hits
            .lines()
            .find(|line| line.split_whitespace().next() == Some("deaths"));
        let hits = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(hits.context("no count of deaths")?.parse()?)
    }
}

impl Drop for Deaths {
    fn drop(&mut self) {
        // It costs nothing if it stays.
        let _ = fs::write(format!("{}/{}", Self::TRACING, Self::EVENT), "0");
        let events = fs::OpenOptions::new()
            .append(true)
            .open(format!("{}/kprobe_events", Self::TRACING));
        let _ = events
            .map(|mut file| std::io::Write::write_all(&mut file, b"-:nstrace_guest/deaths\n"));
    }
}

/// Whether in all this time no worker was seen at work on net namespaces. A worker is
/// called `kworker/u8:1+netns` while it is (wq_worker_comm of kernel/workqueue.c).
fn is_still_for(length: Duration) -> Result<bool> {
    let until = Instant::now() + length;
    loop {
        for entry in fs::read_dir("/proc")? {
            let comm = fs::read_to_string(entry?.path().join("comm")).unwrap_or_default();
            if comm.starts_with("kworker") && comm.contains("+netns") {
                thread::sleep(length);
                return Ok(false);
            }
        }
        if Instant::now() > until {
            return Ok(true);
        }
        thread::sleep(length / 6);
    }
}
