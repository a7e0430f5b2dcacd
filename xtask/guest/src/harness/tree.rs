//! The lines of `nstrace tree --json`, `why` and `leaks`, read as docs/json.md has them.
//! What the page promises of their form and their order is checked here once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::line::PidAt;
use super::truth::{Holder, Key};

/// A tree that was printed, and the changes after it.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    pub header: Option<Header>,
    pub namespaces: Vec<Namespace>,
    pub tasks: Vec<Task>,
    pub changes: Vec<Change>,
}

/// A line of type `tree`.
#[derive(Clone, Debug, Deserialize)]
pub struct Header {
    pub time: String,
    pub mono_ns: u64,
    pub live: bool,
    #[serde(default)]
    pub unseen: BTreeMap<String, u64>,
    pub loss: Option<Loss>,
}

/// A time in which events were lost.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Loss {
    pub from_mono_ns: u64,
    pub until_mono_ns: u64,
}

/// A line of type `namespace`.
#[derive(Clone, Debug, Deserialize)]
pub struct Namespace {
    pub kind: String,
    pub inum: u32,
    pub id: Option<u64>,
    pub parent: Option<u32>,
    pub owner: Option<u32>,
    pub owner_uid: Option<u32>,
    pub born_mono_ns: Option<u64>,
    pub age_ns: Option<u64>,
    pub maker: Option<Maker>,
    #[serde(default)]
    pub tasks: u32,
    #[serde(default)]
    pub tasks_for_children: u32,
    #[serde(default)]
    pub namespaces: u32,
    #[serde(default)]
    pub holders: Vec<Holder>,
    pub confirmed: Option<bool>,
}

/// Who made a namespace.
#[derive(Clone, Debug, Deserialize)]
pub struct Maker {
    pub op: String,
    pub pid: u32,
    pub tid: u32,
    pub uid: u32,
    pub comm: String,
    pub container: Option<String>,
}

/// A line of type `task`.
#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    pub pid: u32,
    pub tid: u32,
    pub comm: String,
    pub pids: Vec<PidAt>,
    pub container: Option<String>,
    #[serde(default)]
    pub exited: bool,
    pub namespaces: BTreeMap<String, u32>,
    pub pid_for_children: Option<u32>,
    pub time_for_children: Option<u32>,
}

/// A change, with those of its fields that the tests look at.
#[derive(Clone, Debug, Deserialize)]
pub struct Change {
    #[serde(rename = "type")]
    pub what: String,
    pub time: String,
    pub mono_ns: u64,
    pub kind: Option<String>,
    pub inum: Option<u32>,
    pub maker: Option<Maker>,
}

impl Namespace {
    pub fn key(&self) -> Key {
        (self.kind.clone(), self.inum)
    }

    /// A birth that was seen has a time and an age; a tree that was not live has none.
    fn check_birth(&self, header: Option<&Header>) -> Result<()> {
        let (born, age) = (self.born_mono_ns, self.age_ns);
        ensure!(
            born.is_some() == age.is_some(),
            "born {born:?}, age {age:?}"
        );
        if let (Some(header), Some(born)) = (header, born) {
            ensure!(header.live, "a birth in a tree that is not live");
            ensure!(born <= header.mono_ns, "born after the tree");
        }
        self.maker.as_ref().map_or(Ok(()), Maker::check)
    }
}

impl Maker {
    fn check(&self) -> Result<()> {
        const OPS: [&str; 7] = [
            "clone",
            "clone3",
            "fork",
            "vfork",
            "unshare",
            "open_tree",
            "fsmount",
        ];
        let is_known = OPS.contains(&self.op.as_str());
        let is_somebody = self.pid > 0 && self.tid > 0 && self.comm.len() < 64;
        ensure!(is_known && is_somebody, "made by {self:?}");
        // (uid_t)-1 is nobody's.
        ensure!(self.uid != u32::MAX, "made by uid {}", self.uid);
        Ok(())
    }
}

impl Change {
    /// Whether it is of this namespace.
    pub fn is_of(&self, kind: &str, inum: u32) -> bool {
        self.kind.as_deref() == Some(kind) && self.inum == Some(inum)
    }
}

/// What a change must have beside its time.
fn fields_of(change: &str) -> Option<&'static [&'static str]> {
    Some(match change {
        "born" | "found" | "died" | "pinned" | "unpinned" | "confirmed" | "unconfirmed" => {
            &["kind", "inum"]
        }
        "started" | "exited" | "reaped" => &["pid", "tid", "comm"],
        "joined" | "left" => &["pid", "tid", "comm", "kind", "inum"],
        "lost" | "healed" => &["from_mono_ns", "until_mono_ns"],
        _ => return None,
    })
}

/// Reads the lines of a tree.
pub fn parse<S: AsRef<str>>(lines: &[S]) -> Result<Tree> {
    let mut tree = Tree::default();
    for line in lines {
        let line = line.as_ref();
        tree.take(line)
            .with_context(|| format!("not as docs/json.md has it: {line}"))?;
    }
    Ok(tree)
}

impl Tree {
    /// Takes one more line.
    pub fn take(&mut self, line: &str) -> Result<()> {
        let value: Value = serde_json::from_str(line).context("not JSON")?;
        no_fillers(&value)?;
        let kind = value.get("type").and_then(Value::as_str);
        let kind = kind.context("no `type`")?.to_owned();
        match kind.as_str() {
            "tree" => {
                ensure!(self.header.is_none(), "a second line of type tree");
                let header = Header::deserialize(value)?;
                ensure!(is_time(&header.time), "time {:?}", header.time);
                if let Some(loss) = header.loss {
                    ensure!(loss.from_mono_ns <= loss.until_mono_ns, "{loss:?}");
                }
                self.header = Some(header);
            }
            "namespace" => {
                ensure!(self.tasks.is_empty(), "a namespace after a task");
                let ns = Namespace::deserialize(value)?;
                ns.check_birth(self.header.as_ref())?;
                self.namespaces.push(ns);
            }
            "task" => self.tasks.push(Task::deserialize(value)?),
            other => {
                let Some(fields) = fields_of(other) else {
                    return Ok(());
                };
                for field in fields {
                    ensure!(value.get(*field).is_some(), "no `{field}`");
                }
                let change = Change::deserialize(value)?;
                ensure!(is_time(&change.time), "time {:?}", change.time);
                change.maker.as_ref().map_or(Ok(()), Maker::check)?;
                self.changes.push(change);
            }
        }
        Ok(())
    }

    /// The order of a whole tree: each namespace after its parent and its owner, once.
    pub fn check_order(&self) -> Result<()> {
        ensure!(self.header.is_some(), "no line of type tree");
        let mut seen: BTreeSet<Key> = BTreeSet::new();
        for ns in &self.namespaces {
            let above = [(ns.kind.as_str(), ns.parent), ("user", ns.owner)];
            for (kind, inum) in above {
                let is_before = inum.is_none_or(|inum| seen.contains(&(kind.to_owned(), inum)));
                ensure!(
                    is_before,
                    "{}:{} is before {kind}:{}",
                    ns.kind,
                    ns.inum,
                    inum.unwrap_or(0)
                );
            }
            ensure!(seen.insert(ns.key()), "{}:{} twice", ns.kind, ns.inum);
        }
        Ok(())
    }

    /// The namespace of this kind and number.
    pub fn namespace(&self, kind: &str, inum: u32) -> Option<&Namespace> {
        let is_it = |ns: &&Namespace| ns.kind == kind && ns.inum == inum;
        self.namespaces.iter().find(is_it)
    }
}

fn is_time(time: &str) -> bool {
    time.len() == 30 && time.as_bytes()[10] == b'T' && time.ends_with('Z')
}

/// A field that does not apply is absent: no null, no empty word, no inum 0.
fn no_fillers(value: &Value) -> Result<()> {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                ensure!(!value.is_null(), "`{name}` is null");
                // A task may have a name without a letter.
                let is_name = ["comm", "path", "cgroup"].contains(&name.as_str());
                ensure!(is_name || value.as_str() != Some(""), "`{name}` is empty");
                let is_inum = ["inum", "parent", "owner", "ns", "mnt"].contains(&name.as_str());
                ensure!(!is_inum || value.as_u64() != Some(0), "`{name}` is 0");
                no_fillers(value)?;
            }
            Ok(())
        }
        Value::Array(values) => values.iter().try_for_each(no_fillers),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A tree as docs/json.md describes it, written by hand.
    pub const LINES: [&str; 5] = [
        r#"{"type":"tree","time":"2026-11-22T00:31:06.123456789Z","mono_ns":9,"live":false,"unseen":{"sockets":1},"new":[]}"#,
        r#"{"type":"namespace","kind":"user","inum":10,"owner_uid":0,"tasks":1,"namespaces":2}"#,
        r#"{"type":"namespace","kind":"pid","inum":11,"owner":10,"tasks":1,"namespaces":1}"#,
        r#"{"type":"namespace","kind":"pid","inum":12,"parent":11,"owner":10,"holders":[{"what":"descriptor","pid":1,"fd":3,"comm":"x"}]}"#,
        r#"{"type":"task","pid":1,"tid":1,"comm":"x","pids":[{"ns":11,"pid":1}],"namespaces":{"user":10,"pid":11}}"#,
    ];

    #[test]
    fn a_tree_is_read() {
        let tree = parse(&LINES).unwrap();
        tree.check_order().unwrap();
        let held = tree.namespace("pid", 12).unwrap();
        assert_eq!(held.holders, [Holder::Descriptor { pid: 1, fd: 3 }]);
        assert_eq!(tree.tasks[0].namespaces["pid"], 11);
    }

    #[test]
    fn what_the_page_forbids_is_refused() {
        for (from, to) in [
            (r#""parent":11"#, r#""parent":0"#),
            (r#""owner":10"#, r#""owner":null"#),
            (r#""live":false,"#, ""),
            (r#""fd":3,"#, ""),
            (r#""kind":"user""#, r#""kind":"""#),
            (".123456789Z", "Z"),
        ] {
            let lines = LINES.map(|line| line.replace(from, to));
            assert!(parse(&lines).is_err(), "{to}");
        }
    }

    #[test]
    fn a_namespace_comes_after_what_is_above_it() {
        let mut lines = LINES;
        lines.swap(2, 3);
        assert!(parse(&lines).unwrap().check_order().is_err());
        assert!(parse(&LINES[1..]).unwrap().check_order().is_err());
    }

    #[test]
    fn a_change_has_its_fields_and_unknown_types_are_allowed() {
        let time = r#""time":"2026-11-22T00:31:06.123456789Z","mono_ns":1"#;
        let died = format!(r#"{{"type":"died",{time},"kind":"uts","inum":7}}"#);
        let tree = parse(&[died]).unwrap();
        assert!(tree.changes[0].is_of("uts", 7));
        assert!(parse(&[format!(r#"{{"type":"died",{time},"kind":"uts"}}"#)]).is_err());
        assert!(parse(&[r#"{"type":"news"}"#]).unwrap().changes.is_empty());
    }
}
