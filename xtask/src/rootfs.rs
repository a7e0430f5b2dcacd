//! Puts a guest's root together, as the cpio archive that the kernel unpacks.
//!
//! It is made anew for each start, from this machine's own programs and their
//! libraries: that takes some 50 ms, and nothing can be stale. Busybox only
//! fills the gaps, because what we trace must be what people run.
//!
//! Folklore: Debian's busybox prefers its own applets to PATH, in its shell and
//! in whatever starts programs. `ip netns` in its sh is busybox's ip, and so is
//! `env ip`. So the shells and all programs that start others are real ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::{build, elf, process, project};

/// Programs of this machine that every guest gets: name, Debian package.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("busybox", "busybox-static"),
    ("chroot", "coreutils"),
    ("dash", "dash"),
    ("env", "coreutils"),
    ("find", "findutils"),
    ("findmnt", "util-linux"),
    ("ip", "iproute2"),
    ("lsns", "util-linux"),
    ("mount", "mount"),
    ("nice", "coreutils"),
    ("nohup", "coreutils"),
    ("nsenter", "util-linux"),
    ("runc", "runc"),
    ("setpriv", "util-linux"),
    ("setsid", "util-linux"),
    ("timeout", "coreutils"),
    ("umount", "mount"),
    ("unshare", "util-linux"),
    ("xargs", "findutils"),
];

/// Our own programs, for every guest once they are built.
const BUILT: &[&str] = &[build::NSTRACE, build::GUEST_PROGRAM];

/// Where the guest looks for programs; busybox's names yield to what is in any.
const GUEST_BIN: &str = "usr/bin";

const INIT: &str = include_str!("guest-init.sh");

const SYMLINKS: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("usr/bin/sh", "dash"),
    ("var/run", "/run"),
    ("etc/mtab", "/proc/self/mounts"),
];

const TEXTS: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    (
        "etc/group",
        "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n",
    ),
    ("etc/subuid", "root:100000:65536\nuser:200000:65536\n"),
    ("etc/subgid", "root:100000:65536\nuser:200000:65536\n"),
    ("etc/hostname", "guest\n"),
    ("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
];

/// A root being put together.
pub struct Root<W: Write> {
    archive: Archive<W>,
    /// Every path that is in the archive, without leading slash.
    present: BTreeSet<String>,
    /// Dynamic programs whose libraries are still to be added.
    dynamic: Vec<PathBuf>,
}

impl<W: Write> Root<W> {
    /// Starts with what every guest has, written to `out`.
    pub fn new(out: W) -> Result<Self> {
        let mut root = Root {
            archive: Archive::new(out),
            present: BTreeSet::new(),
            dynamic: Vec::new(),
        };
        for dir in [
            "dev",
            "proc",
            "sys",
            "mnt",
            "usr/lib",
            "usr/lib64",
            "usr/sbin",
            "var/tmp",
        ] {
            root.directory(dir)?;
        }
        root.directory("root")?;
        root.directory("home")?;
        root.archive.directory("home/user", 0o755, 1000)?;
        for (path, target) in SYMLINKS {
            root.symlink(path, target)?;
        }
        for (path, text) in TEXTS {
            root.file(path, 0o644, text.as_bytes())?;
        }
        for path in ["init", "usr/sbin/init"] {
            root.file(path, 0o755, INIT.as_bytes())?;
        }
        root.programs()?;
        Ok(root)
    }

    fn programs(&mut self) -> Result<()> {
        for (name, _) in PROGRAMS {
            let Some(path) = process::find(name) else {
                bail!("{name} is not installed; `cargo xtask setup` installs it");
            };
            self.copy(&path, &format!("{GUEST_BIN}/{name}"))?;
        }
        for name in BUILT {
            if let Some(path) = project::built(name) {
                self.copy(&path, &format!("{GUEST_BIN}/{name}"))?;
            }
        }
        let applets = process::text(process::command("busybox").arg("--list"))?;
        for applet in applets.lines() {
            let path = format!("{GUEST_BIN}/{applet}");
            let is_real = self.present.contains(&path);
            if !is_real && !["init", "linuxrc"].contains(&applet) {
                self.symlink(&path, "busybox")?;
            }
        }
        Ok(())
    }

    /// Adds a regular file at `path` (in the guest).
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let path = guest_path(path);
        self.parents(&path)?;
        self.present.insert(path.clone());
        self.archive
            .file(&path, mode, contents)
            .with_context(|| cannot_add(&path))
    }

    fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.present.insert(path.to_owned());
        self.archive
            .symlink(path, target)
            .with_context(|| cannot_add(path))
    }

    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || !self.present.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        // World-writable as on any machine; no other directory is special.
        let mode = if path == "var/tmp" { 0o1777 } else { 0o755 };
        self.archive
            .directory(path, mode, 0)
            .with_context(|| cannot_add(path))
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    /// Copies a file or a tree of this machine to `path` in the guest. A
    /// program brings its libraries.
    pub fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        let kind =
            fs::metadata(from).with_context(|| format!("{}: cannot copy", from.display()))?;
        if kind.is_dir() {
            return self.copy_tree(from, path);
        }
        let contents =
            fs::read(from).with_context(|| format!("{}: cannot read", from.display()))?;
        if elf::is_dynamic(&contents) {
            self.dynamic.push(from.to_owned());
        }
        self.file(path, kind.permissions().mode(), &contents)
    }

    fn copy_tree(&mut self, from: &Path, path: &str) -> Result<()> {
        self.directory(&guest_path(path))?;
        let entries =
            fs::read_dir(from).with_context(|| format!("{}: cannot list", from.display()));
        for entry in entries? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                bail!(
                    "{}: cannot copy a name that is not UTF-8",
                    entry.path().display()
                );
            };
            let path = format!("{path}/{name}");
            if entry.file_type()?.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.symlink(&guest_path(&path), &target.to_string_lossy())?;
            } else {
                self.copy(&entry.path(), &path)?;
            }
        }
        Ok(())
    }

    /// Adds the libraries of all programs and ends the archive.
    pub fn finish(mut self) -> Result<W> {
        for (path, from) in libraries(&self.dynamic)? {
            if !self.present.contains(&guest_path(&path)) {
                let contents =
                    fs::read(&from).with_context(|| format!("{}: cannot read", from.display()))?;
                self.file(&path, 0o755, &contents)?;
            }
        }
        self.archive
            .finish()
            .context("cannot end the guest's archive")
    }
}

fn cannot_add(path: &str) -> String {
    format!("/{path}: cannot add to the guest's archive")
}

/// A path as the archive has it: no leading slash, and below /usr what is there
/// in a merged-/usr system, so that no directory collides with our symlinks.
fn guest_path(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let is_merged = ["bin/", "sbin/", "lib/", "lib64/"]
        .iter()
        .any(|dir| path.starts_with(dir));
    if is_merged {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// The libraries of dynamic programs, as ldd(1) finds them: where the program
/// expects each, and the file.
fn libraries(programs: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    if programs.is_empty() {
        return Ok(found);
    }
    let text = process::text(process::command("ldd").args(programs))?;
    for line in text.lines() {
        let Some(line) = line.strip_prefix('\t') else {
            continue;
        };
        if line.ends_with("=> not found") {
            bail!("ldd: {line}: a program for the guest lacks a library on this machine");
        }
        let path = line
            .split("=> ")
            .last()
            .and_then(|rest| rest.split(" (").next());
        if let Some(path) = path.filter(|path| path.starts_with('/')) {
            found.insert(path.to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_paths_are_those_of_a_merged_usr() {
        assert_eq!(
            guest_path("/lib64/ld-linux-x86-64.so.2"),
            "usr/lib64/ld-linux-x86-64.so.2"
        );
        assert_eq!(guest_path("/usr/bin/ip"), "usr/bin/ip");
        assert_eq!(guest_path("library/x"), "library/x");
    }
}
