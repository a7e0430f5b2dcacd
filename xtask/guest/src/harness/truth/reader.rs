//! Reads the truth: first tasks and what they hold, then what is mounted in every mount
//! namespace that is found, then what is above each, until nothing new is found.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process;

use anyhow::{Context, Result};

use super::{Holder, Key, Namespace, Task, Truth};
use crate::kinds::{COUNT, Inums, KINDS, MNT, NET, NEWNS, PID, TIME};
use crate::procfs::{self, Procfs};
use crate::sys;

/// PF_KTHREAD of include/linux/sched.h.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Prints the truth as JSON.
pub fn print() -> Result<()> {
    sys::raise_file_limit()?;
    let mut reader = Reader {
        procfs: Procfs::open()?,
        truth: Truth::default(),
        found: BTreeMap::new(),
        new: Vec::new(),
    };
    let own = File::open("/proc/self/ns/mnt")?;
    reader.tasks()?;
    reader.descriptors()?;
    while let Some(key) = reader.new.pop() {
        reader.above(&key)?;
        if key.0 == KINDS[MNT].name {
            reader.mounts(&key)?;
        }
    }
    sys::setns(own.as_raw_fd(), NEWNS);
    println!("{}", serde_json::to_string(&reader.finish())?);
    Ok(())
}

struct Reader {
    procfs: Procfs,
    truth: Truth,
    found: BTreeMap<Key, (Namespace, OwnedFd)>,
    /// Those above which we have not looked.
    new: Vec<Key>,
}

impl Reader {
    /// Notes a namespace, by a descriptor of it if it is not known.
    fn note(&mut self, kind: &str, inum: u32, open: impl FnOnce() -> io::Result<OwnedFd>) -> bool {
        let key = (kind.to_owned(), inum);
        if self.found.contains_key(&key) {
            return true;
        }
        let Ok(ns) = open() else { return false };
        // What the link said may have gone, and its number with it.
        if sys::inode(&ns).ok() != Some(u64::from(inum)) {
            return false;
        }
        let namespace = Namespace {
            kind: key.0.clone(),
            inum,
            ..Namespace::default()
        };
        self.found.insert(key.clone(), (namespace, ns));
        self.new.push(key);
        true
    }

    fn hold(&mut self, kind: &str, inum: u32, holder: Holder) {
        if let Some((ns, _)) = self.found.get_mut(&(kind.to_owned(), inum)) {
            ns.holders.push(holder);
        }
    }

    fn tasks(&mut self) -> Result<()> {
        for pid in numbers("/proc")? {
            if pid == process::id() {
                continue;
            }
            for tid in numbers(&format!("/proc/{pid}/task")).unwrap_or_default() {
                let dir = format!("{pid}/task/{tid}");
                // It may end while we look.
                if let Ok(Some(task)) = self.task(&dir, pid, tid) {
                    self.truth.tasks.push(task);
                }
            }
        }
        Ok(())
    }

    fn task(&mut self, dir: &str, pid: u32, tid: u32) -> Result<Option<Task>> {
        let stat = self.bytes(&format!("{dir}/stat"))?;
        let (comm, state, flags) = parse_stat(&stat).context("stat has another form")?;
        if matches!(state, 'Z' | 'X') {
            return Ok(None);
        }
        let mut inums = Inums::default();
        for (inum, kind) in inums.iter_mut().zip(&KINDS) {
            let path = format!("{dir}/ns/{}", kind.name);
            *inum = self.link(&path)?.context("no such kind")?;
            let procfs = &self.procfs;
            let file = procfs.file(&path);
            self.note(kind.name, *inum, || Ok(file?.into()));
        }
        let pid_for_children = self.for_children(dir, PID, inums[PID])?;
        let time_for_children = self.for_children(dir, TIME, inums[TIME])?;
        Ok(Some(Task {
            pid,
            tid,
            comm,
            is_kernel: flags & KERNEL_THREAD != 0,
            inums,
            pid_for_children,
            time_for_children,
            ids: self.procfs.ids_by_level(dir)?,
        }))
    }

    fn for_children(&mut self, dir: &str, kind: usize, own: u32) -> Result<Option<u32>> {
        let path = format!("{dir}/{}", KINDS[kind].file);
        let Some(inum) = self.link(&path)? else {
            return Ok(Some(0));
        };
        let file = self.procfs.file(&path);
        self.note(KINDS[kind].name, inum, || Ok(file?.into()));
        Ok((inum != own).then_some(inum))
    }

    /// The number that a link has; None if there is no link.
    fn link(&self, path: &str) -> Result<Option<u32>> {
        match self.procfs.link(path) {
            Ok(link) => Ok(Some(
                procfs::inum_of_link(&link).context("a link of another form")?,
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut self.procfs.file(path)?, &mut bytes)?;
        Ok(bytes)
    }

    fn descriptors(&mut self) -> Result<()> {
        for pid in numbers("/proc")? {
            if pid == process::id() {
                continue;
            }
            for fd in numbers(&format!("/proc/{pid}/fd")).unwrap_or_default() {
                let path = format!("{pid}/fd/{fd}");
                let Ok(link) = self.procfs.link(&path) else {
                    continue;
                };
                if link.starts_with("socket:[") {
                    self.socket(pid, fd as i32);
                } else if let Some((kind, inum)) = parse_link(&link) {
                    let file = self.procfs.file(&path);
                    if self.note(kind, inum, || Ok(file?.into())) {
                        let fd = fd as i32;
                        self.hold(kind, inum, Holder::Descriptor { pid, fd });
                    }
                }
            }
        }
        Ok(())
    }

    /// A socket holds a net namespace if no thread of its process is in that.
    fn socket(&mut self, pid: u32, fd: i32) {
        let open = || {
            let pidfd = sys::pidfd_open(i64::from(pid))?;
            sys::socket_ns(&sys::pidfd_getfd(&pidfd, fd)?)
        };
        let Ok(ns) = open() else {
            self.truth.unseen.push(format!("socket {fd} of {pid}"));
            return;
        };
        let Ok(inum) = sys::inode(&ns) else { return };
        let (inum, kind) = (inum as u32, KINDS[NET].name);
        let mut threads = self.truth.tasks.iter().filter(|task| task.pid == pid);
        if !threads.any(|task| task.inums[NET] == inum) {
            self.note(kind, inum, || Ok(ns));
            self.hold(kind, inum, Holder::Socket { pid, fd });
        }
    }

    /// What is mounted in a mount namespace.
    fn mounts(&mut self, key: &Key) -> Result<()> {
        let mnt = key.1;
        let ret = match self.found.get(key) {
            Some((_, ns)) => sys::setns(ns.as_raw_fd(), NEWNS),
            None => return Ok(()),
        };
        if ret != 0 {
            self.truth.unseen.push(format!("mounts of mnt:{mnt}"));
            return Ok(());
        }
        for line in self.procfs.text("thread-self/mountinfo")?.lines() {
            let Some((root, path)) = parse_mount(line) else {
                continue;
            };
            let Some((kind, inum)) = parse_link(&root) else {
                continue;
            };
            if self.note(kind, inum, || Ok(File::open(&path)?.into())) {
                self.hold(kind, inum, Holder::Mount { mnt, path });
            } else {
                self.truth.unseen.push(format!("{path} in mnt:{mnt}"));
            }
        }
        Ok(())
    }

    /// Its parent and its owner.
    fn above(&mut self, key: &Key) -> Result<()> {
        let Some((_, ns)) = self.found.get(key) else {
            return Ok(());
        };
        let (mut parent, mut owner_uid) = (None, None);
        if key.0 == "user" {
            owner_uid = Some(sys::ns_owner_uid(ns)?);
        }
        if key.0 == "user" || key.0 == "pid" {
            parent = sys::ns_parent(ns).ok();
        }
        let owner = sys::ns_owner(ns).ok();
        let mut note = |kind: &str, ns: Option<OwnedFd>| -> Result<Option<u32>> {
            let Some(ns) = ns else { return Ok(None) };
            let inum = sys::inode(&ns)? as u32;
            self.note(kind, inum, || Ok(ns));
            Ok(Some(inum))
        };
        let parent = note(&key.0, parent)?;
        let owner = note("user", owner)?;
        if let Some((ns, _)) = self.found.get_mut(key) {
            (ns.parent, ns.owner, ns.owner_uid) = (parent, owner, owner_uid);
        }
        Ok(())
    }

    fn finish(self) -> Truth {
        let mut truth = self.truth;
        truth.namespaces = self.found.into_values().map(|(ns, _)| ns).collect();
        for ns in &mut truth.namespaces {
            ns.holders.sort();
        }
        truth.tasks.sort_by_key(|task| task.tid);
        truth
    }
}

/// The names in a directory that are numbers.
fn numbers(dir: &str) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(numbers)
}

/// Kind and number of `net:[4026531840]`.
fn parse_link(link: &str) -> Option<(&'static str, u32)> {
    let (name, _) = link.split_once(":[")?;
    let index = (0..COUNT).find(|index| KINDS[*index].name == name)?;
    Some((KINDS[index].name, procfs::inum_of_link(link)?))
}

/// Name, state and flags of a task.
fn parse_stat(stat: &[u8]) -> Option<(String, char, u64)> {
    let stat = String::from_utf8_lossy(stat);
    let (before, after) = stat.rsplit_once(") ")?;
    let comm = before.split_once(" (")?.1.to_owned();
    let mut words = after.split(' ');
    let state = words.next()?.chars().next()?;
    Some((comm, state, words.nth(5)?.parse().ok()?))
}

/// Root and mount point of a line of mountinfo that is of a namespace file.
fn parse_mount(line: &str) -> Option<(String, String)> {
    let (before, after) = line.split_once(" - ")?;
    if !after.starts_with("nsfs ") {
        return None;
    }
    let mut words = before.split(' ').skip(3);
    Some((words.next()?.to_owned(), unescape(words.next()?)))
}

/// Undoes mangle() of fs/seq_file.c: `\040` is a space.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let digits = others.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.map(|digits| u8::from_str_radix(digits, 8)) {
            Some(Ok(byte)) if first == b'\\' => {
                bytes.push(byte);
                rest = &others[3..];
            }
            _ => {
                bytes.push(first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_kind_and_number() {
        assert_eq!(parse_link("net:[4026531840]"), Some(("net", 4026531840)));
        assert_eq!(parse_link("pipe:[7]"), None);
        assert_eq!(parse_link("/a:[b"), None);
    }

    #[test]
    fn a_stat_is_read_whatever_the_name() {
        let stat = b"7 (a) (b) S 1 7 7 0 -1 2097216 0 0\n";
        assert_eq!(parse_stat(stat), Some(("a) (b".into(), 'S', 2097216)));
    }

    #[test]
    fn a_bound_namespace_is_seen_among_mounts() {
        let line = r"40 24 0:4 net:[4026532279] /run/a\040b rw shared:2 - nsfs nsfs rw";
        assert_eq!(
            parse_mount(line),
            Some(("net:[4026532279]".into(), "/run/a b".into()))
        );
        assert_eq!(parse_mount("40 24 0:4 / /proc rw - proc proc rw"), None);
    }
}
