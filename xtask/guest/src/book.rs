//! What was really done, written down by those who did it: JSON lines, one write
//! each, so that several processes share a file.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::kinds::{Inums, KINDS};

/// A line of a book.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Line {
    Op(Box<Entry>),
    Task(NewTask),
    Exit(Exit),
    Skip(Skip),
}

/// One operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// The case that it belongs to, for those that have a name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// What the reason of its failure must mention.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    pub op: String,
    pub flags: u64,
    /// As the kernel gave it: a negative errno for a failure.
    pub ret: i64,
    /// Ids in the first pid namespace.
    pub pid: u32,
    pub tid: u32,
    /// The real uid in the first user namespace.
    pub uid: u32,
    pub comm: String,
    pub cgroup: String,
    /// CLOCK_MONOTONIC just before and just after.
    pub begin_ns: u64,
    pub end_ns: u64,
    /// 0 is not known.
    pub before: Inums,
    /// The child's for a clone, else the caller's.
    pub after: Inums,
    /// For setns that succeeded; 0 is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub target: u32,
    #[serde(flatten)]
    pub facts: Facts,
}

/// What the kernel says of a task and the namespaces that were made for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The task's ids: pid namespace and id, from the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pids: Vec<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid_parent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_parent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_uid: Option<u32>,
    /// The owner of the new namespaces that are not user namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts: Option<u32>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Entry {
    /// The namespaces that it made: index of the kind and inum.
    pub fn made(&self) -> Vec<(usize, u32)> {
        let is_made = |kind: &usize| self.flags & KINDS[*kind].flag != 0;
        match self.op.as_str() {
            _ if self.ret < 0 => Vec::new(),
            "setns" => Vec::new(),
            "open_tree" | "fsmount" => vec![(crate::kinds::MNT, self.after[crate::kinds::MNT])],
            _ => (0..KINDS.len())
                .filter(is_made)
                .map(|kind| (kind, self.after[kind]))
                .collect(),
        }
    }

    /// For messages: what it was.
    pub fn title(&self) -> String {
        let note = if self.note.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.note)
        };
        let flags = crate::kinds::flag_names(self.flags).join("|");
        format!("{note}{}({flags}) = {} by {}", self.op, self.ret, self.tid)
    }
}

/// A task that no operation made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NewTask {
    pub tid: u32,
    pub is_thread: bool,
    /// The process that made it.
    pub parent: u32,
    pub pids: Vec<(u32, u32)>,
}

/// The end of a task that an operation or a fork made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    pub tid: u32,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub pids: Vec<(u32, u32)>,
}

/// A case that this kernel does not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Skip {
    pub note: String,
    pub reason: String,
}

/// An open book.
#[derive(Debug)]
pub struct Book(File);

impl Book {
    /// Opens the book at `path`, to write at its end.
    pub fn append(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Book(file.with_context(|| {
            format!("{}: cannot open the book", path.display())
        })?))
    }

    /// Writes a line.
    pub fn write(&self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        (&self.0)
            .write_all(text.as_bytes())
            .context("cannot write to the book")
    }
}

/// A book that was read.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub ops: Vec<Entry>,
    pub tasks: Vec<NewTask>,
    pub exits: Vec<Exit>,
    pub skips: Vec<Skip>,
}

/// Reads the book at `path`.
pub fn read(path: &Path) -> Result<Contents> {
    let mut contents = Contents::default();
    let file = File::open(path).with_context(|| format!("{}: no book", path.display()))?;
    for line in BufReader::new(file).lines() {
        let line = line?;
        let parsed = serde_json::from_str(&line)
            .with_context(|| format!("{}: a line is none of a book: {line}", path.display()))?;
        match parsed {
            Line::Op(entry) => contents.ops.push(*entry),
            Line::Task(task) => contents.tasks.push(task),
            Line::Exit(exit) => contents.exits.push(exit),
            Line::Skip(skip) => contents.skips.push(skip),
        }
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{NEWPID, NEWUTS, PID, UTS};

    fn entry() -> Entry {
        let mut entry = Entry {
            op: "clone".into(),
            flags: NEWPID | NEWUTS,
            ret: 7,
            ..Entry::default()
        };
        entry.after[UTS] = 11;
        entry.after[PID] = 12;
        entry.facts.pids = vec![(1, 70), (12, 1)];
        entry
    }

    #[test]
    fn a_line_reads_as_it_was_written() {
        let text = serde_json::to_string(&Line::Op(Box::new(entry()))).unwrap();
        let Line::Op(read) = serde_json::from_str(&text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!(*read, entry());
    }

    #[test]
    fn what_succeeds_makes_its_kinds() {
        assert_eq!(entry().made(), [(UTS, 11), (PID, 12)]);
        assert_eq!(
            Entry {
                ret: -22,
                ..entry()
            }
            .made(),
            []
        );
    }
}
