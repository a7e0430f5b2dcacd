//! Mount operations of every kind, and failures, by a task with others beside it that hear
//! of some of them: each in a mount namespace of its own. What an operation did is counted
//! in the mountinfo of all, before and after it.

mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use libc::{MS_PRIVATE, MS_REC, MS_SHARED, MS_SLAVE, c_long};
use serde::{Deserialize, Serialize};

use crate::keeper;
use crate::kinds::NEWNS;
use crate::procfs::Procfs;
use crate::sys::{self, Call};

/// One operation, as it was asked for and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub note: String,
    pub tid: u32,
    pub op: String,
    pub what: Option<String>,
    /// 0 if it succeeded.
    pub errno: i32,
    /// Whether it gave a descriptor.
    pub is_fd: bool,
    /// As it was given.
    pub source: Option<String>,
    pub target: Option<String>,
    /// Where that is, from the root of our mount namespace.
    pub target_path: Option<String>,
    pub made: u32,
    pub made_by_propagation: u32,
    pub taken: u32,
    pub taken_by_propagation: u32,
    /// By mountinfo; none if it cannot be told from there.
    pub id: Option<u32>,
    /// For a copy of a namespace: which mounts it had, and which the new one has.
    pub from: Vec<u32>,
    pub to: Vec<u32>,
    /// Of a copy: mounts that no task can see.
    pub hidden: u32,
}

/// Mounts of a namespace: where each is, by id.
type Mounts = BTreeMap<u32, String>;

/// A task with others beside it.
struct Crew {
    procfs: Procfs,
    dir: PathBuf,
    tid: u32,
    hidden: u32,
    /// The others: process id, and what keeps it.
    others: Vec<(u32, File)>,
}

/// Does everything, below `dir`, and prints the entries.
pub fn run(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let procfs = Procfs::open()?;
    let tid = procfs.own_ids()?.1;
    let hidden = procfs.hidden_mounts()?;
    let mut crew = Crew {
        procfs,
        dir: dir.to_owned(),
        tid,
        hidden,
        others: Vec::new(),
    };
    crew.begin()?;
    crew.classic()?;
    crew.failures()?;
    crew.descriptors()?;
    crew.hostile()?;
    crew.pivots()?;
    crew.ends()
}

/// A system call: its number, and its arguments.
fn call(number: c_long, args: [usize; 5]) -> i64 {
    let [a, b, c, d, e] = args;
    // SAFETY: the caller's arguments are numbers, or strings that live until it returns.
    let ret = unsafe { libc::syscall(number, a, b, c, d, e) };
    if ret < 0 {
        let error = std::io::Error::last_os_error();
        return -i64::from(error.raw_os_error().unwrap_or(libc::EIO));
    }
    ret
}

const HERE: usize = libc::AT_FDCWD as usize;

/// An operation that is to be done.
struct Plan<'a> {
    note: &'a str,
    op: &'a str,
    what: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a Path>,
    /// How many mounts it makes or takes away itself, not by propagation.
    own: u32,
    /// Mounts that it makes and nobody sees yet, or made before and shows.
    unseen: i64,
}

impl Plan<'_> {
    fn new<'a>(note: &'a str, op: &'a str) -> Plan<'a> {
        Plan {
            note,
            op,
            what: None,
            source: None,
            target: None,
            own: 0,
            unseen: 0,
        }
    }
}

fn c_path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// As nstrace writes names: docs/json.md.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text += &chunk.valid().replace('\\', "\\\\");
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

fn show(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

impl Crew {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The same in a child, with nobody beside it.
    fn alone(&self) -> Result<Crew> {
        Ok(Crew {
            procfs: self.procfs.try_clone()?,
            dir: self.dir.clone(),
            tid: self.procfs.own_ids()?.1,
            hidden: self.hidden,
            others: Vec::new(),
        })
    }

    /// A directory for a mount.
    fn made(&self, name: &str) -> Result<PathBuf> {
        let path = self.at(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// The mounts of a task's namespace, as it sees them.
    fn mounts(&self, tid: u32) -> Result<Mounts> {
        let text = self.procfs.bytes(&format!("{tid}/mountinfo"))?;
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let text = String::from_utf8_lossy(line);
                let mut words = text.split(' ');
                let id = words.next().context("no id")?.parse()?;
                let at = words.nth(3).context("no mount point")?;
                Ok((id, at.to_owned()))
            })
            .collect()
    }

    /// The mounts of all, by whose they are.
    fn look(&self) -> Result<Vec<Mounts>> {
        let tids = [self.tid].into_iter();
        let tids = tids.chain(self.others.iter().map(|(pid, _)| *pid));
        tids.map(|tid| self.mounts(tid)).collect()
    }

    /// Does it, and says what came of it.
    fn perform(&self, plan: Plan, act: impl FnOnce() -> i64) -> Result<i64> {
        let before = self.look()?;
        let ret = act();
        let after = self.look()?;
        let count = |those: &[Mounts], others: &[Mounts]| -> u32 {
            let pairs = those.iter().zip(others);
            let new = pairs
                .map(|(those, others)| those.keys().filter(|id| !others.contains_key(id)).count());
            new.sum::<usize>() as u32
        };
        let (made, taken) = (count(&after, &before), count(&before, &after));
        let path = plan.target.map(|path| path.to_string_lossy().into_owned());
        let is_there = |(id, at): (&u32, &String)| (Some(at) == path.as_ref()).then_some(*id);
        let new = after[0]
            .iter()
            .filter(|(id, _)| !before[0].contains_key(id));
        let gone = before[0]
            .iter()
            .filter(|(id, _)| !after[0].contains_key(id));
        let id = new
            .filter_map(is_there)
            .next()
            .or_else(|| gone.filter_map(is_there).next())
            .or_else(|| after[0].iter().filter_map(is_there).next_back());
        let own = |count: u32| if ret >= 0 && count > 0 { plan.own } else { 0 };
        let unseen = if ret >= 0 { plan.unseen } else { 0 };
        let entry = Entry {
            note: plan.note.to_owned(),
            tid: self.tid,
            op: plan.op.to_owned(),
            what: plan.what.map(str::to_owned),
            errno: if ret < 0 { -ret as i32 } else { 0 },
            is_fd: ret > 0,
            source: plan.source.map(|source| escaped(source.as_bytes())),
            target: plan.target.map(show),
            target_path: plan.target.filter(|path| path.is_absolute()).map(show),
            made: (i64::from(made) + unseen) as u32,
            made_by_propagation: made - own(made),
            taken,
            taken_by_propagation: taken - own(taken),
            id: id.filter(|_| ret >= 0),
            ..Entry::default()
        };
        tell(&entry)?;
        Ok(ret)
    }

    /// mount(2).
    fn mount(
        &self,
        note: &str,
        what: &str,
        (source, target, fs): (Option<&str>, &Path, Option<&str>),
        flags: u64,
        own: u32,
    ) -> Result<i64> {
        let c = |text: Option<&str>| text.map(CString::new).transpose();
        let (c_source, c_target, c_fs) = (c(source)?, c_path(target)?, c(fs)?);
        let pointer =
            |text: &Option<CString>| text.as_ref().map_or(0, |text| text.as_ptr() as usize);
        let args = [
            pointer(&c_source),
            c_target.as_ptr() as usize,
            pointer(&c_fs),
            flags as usize,
            0,
        ];
        let plan = Plan {
            what: Some(what),
            source,
            target: Some(target),
            own,
            ..Plan::new(note, "mount")
        };
        self.perform(plan, || call(libc::SYS_mount, args))
    }

    fn tmpfs(&self, note: &str, target: &Path) -> Result<i64> {
        self.mount(note, "new", (Some("tmpfs"), target, Some("tmpfs")), 0, 1)
    }

    fn umount(&self, note: &str, target: &Path, flags: i32, own: u32) -> Result<i64> {
        let c_target = c_path(target)?;
        let plan = Plan {
            target: Some(target),
            own,
            ..Plan::new(note, "umount")
        };
        let args = [c_target.as_ptr() as usize, flags as usize, 0, 0, 0];
        self.perform(plan, || call(libc::SYS_umount2, args))
    }

    /// A mount namespace of our own, and others beside it: one that hears of what we do and
    /// tells us, one that only hears, and one that does neither.
    fn begin(&mut self) -> Result<()> {
        let from = self.mounts(self.tid)?;
        ensure!(sys::unshare(NEWNS) == 0, "no mount namespace");
        self.copied("unshare", &from, self.tid)?;
        let root = Path::new("/");
        self.mount(
            "rprivate",
            "private",
            (None, root, None),
            MS_REC | MS_PRIVATE,
            0,
        )?;
        let dir = self.dir.clone();
        ensure!(self.tmpfs("first", &dir)? == 0, "no tmpfs");
        self.mount("shared", "shared", (None, &dir, None), MS_SHARED, 0)?;
        for (what, flags) in [("", 0), ("slave", MS_SLAVE), ("private", MS_PRIVATE)] {
            self.spawn(what, flags)?;
        }
        Ok(())
    }

    /// Tells of a copy of our mount namespace.
    fn copied(&self, note: &str, from: &Mounts, tid: u32) -> Result<()> {
        let to = self.mounts(tid)?;
        tell(&Entry {
            note: note.to_owned(),
            tid: self.tid,
            op: "copy_mnt_ns".to_owned(),
            made: to.len() as u32 + self.hidden,
            from: from.keys().copied().collect(),
            to: to.keys().copied().collect(),
            hidden: self.hidden,
            ..Entry::default()
        })
    }

    /// A child in a mount namespace of its own, which changes the propagation of the
    /// directory first.
    fn spawn(&mut self, what: &str, flags: u64) -> Result<()> {
        let from = self.mounts(self.tid)?;
        let (mut ready, said) = sys::pipe()?;
        let (wait, keeps) = sys::pipe()?;
        let said_fd = said.as_raw_fd();
        let pid = sys::spawn(Call::Clone, NEWNS, || {
            sys::die_with_parent();
            keeper::status(self.child(what, flags, said_fd, &wait))
        });
        ensure!(pid > 0, "no child: errno {}", -pid);
        drop(said);
        let mut byte = [0];
        ready
            .read_exact(&mut byte)
            .context("a child is not ready")?;
        // Before it did anything, its namespace had as many mounts.
        self.copied(&format!("clone {what}"), &from, pid as u32)?;
        self.others.push((pid as u32, keeps));
        // Now it may go on, and say so.
        if flags != 0 {
            ready.read_exact(&mut byte).context("a child has failed")?;
        }
        Ok(())
    }

    fn child(&self, what: &str, flags: u64, said: i32, wait: &File) -> Result<()> {
        // SAFETY: the descriptor is ours in the child.
        let mut said = unsafe { File::from_raw_fd(said) };
        said.write_all(b".")?;
        let own = self.alone()?;
        if flags != 0 {
            own.mount(what, what, (None, &self.dir, None), flags, 0)?;
            said.write_all(b".")?;
        }
        // Our end of what keeps us was copied, too: it ends with our parent.
        let mut wait = wait;
        let _ = wait.read(&mut [0])?;
        Ok(())
    }

    /// Takes everything away, and lets the others go.
    fn ends(self) -> Result<()> {
        let own = self.mounts(self.tid)?;
        let dir = self.dir.to_string_lossy().into_owned();
        let is_below = |at: &&String| at.starts_with(&dir);
        let below = own.values().filter(is_below).count() as u32;
        self.umount("all", &self.dir, libc::MNT_DETACH, below)?;
        for (pid, keeps) in self.others {
            drop(keeps);
            sys::kill(pid.into(), libc::SIGKILL)?;
            sys::wait(pid.into())?;
        }
        Ok(())
    }
}

/// Prints an entry, in one call: children print into the same pipe.
fn tell(entry: &Entry) -> Result<()> {
    let line = serde_json::to_string(entry)? + "\n";
    Ok(std::io::stdout().lock().write_all(line.as_bytes())?)
}

/// The entries that an act printed.
pub fn read(text: &str) -> Result<Vec<Entry>> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

/// The threads that they are of.
pub fn tids(entries: &[Entry]) -> BTreeSet<u32> {
    entries.iter().map(|entry| entry.tid).collect()
}
