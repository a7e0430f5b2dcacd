//! What was left alive on purpose, and by what: the book of a storm of namespaces,
//! JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::harness::truth::Holder;

/// A namespace and one thing that keeps it alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub kind: String,
    /// None if nobody outside the kernel can learn it: pid_for_children does not show a pid
    /// namespace that no process was in (v6.12 kernel/pid_namespace.c,
    /// pidns_for_children_get). That of 7.3 does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inum: Option<u32>,
    #[serde(flatten)]
    pub by: By,
}

/// What keeps it alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum By {
    /// A task, or a thread, that is in it.
    Task {
        tid: u32,
    },
    /// A task whose children will be in it.
    PidForChildren {
        tid: u32,
    },
    TimeForChildren {
        tid: u32,
    },
    /// An open file of it.
    Descriptor {
        pid: u32,
        fd: i32,
    },
    /// A bind mount of it, in the mount namespace `mnt`.
    Mount {
        mnt: u32,
        path: String,
    },
    /// A namespace of which it is parent or owner.
    Below {
        below_kind: String,
        below: u32,
    },
    /// A socket made in it.
    Socket {
        pid: u32,
        fd: i32,
    },
    /// A mounted instance of proc. Without an init, the kernel tells nobody which pid
    /// namespace it is for.
    Proc {
        mnt: u32,
        path: String,
    },
}

impl By {
    /// Whether only who made the holder knows what it holds.
    pub fn is_hidden(&self) -> bool {
        matches!(self, By::Proc { .. })
    }

    /// The same as the truth has it, if it is no task and no namespace.
    pub fn holder(&self) -> Option<Holder> {
        match self.clone() {
            By::Descriptor { pid, fd } => Some(Holder::Descriptor { pid, fd }),
            By::Socket { pid, fd } => Some(Holder::Socket { pid, fd }),
            By::Mount { mnt, path } => Some(Holder::Mount { mnt, path }),
            By::Proc { mnt, path } => Some(Holder::Proc { mnt, path }),
            By::Task { .. } | By::PidForChildren { .. } | By::TimeForChildren { .. } => None,
            By::Below { .. } => None,
        }
    }
}

/// Adds lines to the book at `path`, in one write.
pub fn append(path: &Path, lines: &[Left]) -> Result<()> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("{}: cannot write the book", path.display()))
}

/// Reads the book at `path`.
pub fn read(path: &Path) -> Result<Vec<Left>> {
    let file = File::open(path).with_context(|| format!("{}: no book", path.display()))?;
    let lines = BufReader::new(file).lines();
    lines
        .map(|line| parse(&line?))
        .collect::<Result<_>>()
        .with_context(|| format!("{}: not a book", path.display()))
}

/// Reads a line.
pub fn parse(line: &str) -> Result<Left> {
    serde_json::from_str(line).with_context(|| format!("not a line of a book: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_it_was_written() {
        let left = Left {
            kind: "net".into(),
            inum: Some(7),
            by: By::Mount {
                mnt: 3,
                path: "/run/x".into(),
            },
        };
        let text = serde_json::to_string(&left).unwrap();
        assert_eq!(
            text,
            r#"{"kind":"net","inum":7,"by":"mount","mnt":3,"path":"/run/x"}"#
        );
        assert_eq!(parse(&text).unwrap(), left);
    }
}
