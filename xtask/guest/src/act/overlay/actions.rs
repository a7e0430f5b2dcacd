//! What is done to an overlay, by name: each once on files of the lower layer that nobody else
//! has, so that all must succeed, or fail as it must.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::calls::{self, Mapping};
use super::place::{ATTRIBUTE, LENGTH, SHARED};
use crate::rng::Rng;

/// How an action ended that did not fail.
pub enum Done {
    Well,
    /// This kernel's overlayfs, or its tmpfs, does not have it.
    Unsupported,
}

/// An action.
pub struct Action {
    pub name: &'static str,
    pub run: fn(&mut Worker) -> Result<Done>,
}

/// Who acts.
pub struct Worker {
    dir: PathBuf,
    shared: PathBuf,
    /// Whether directories of the lower layer can be renamed.
    redirects: bool,
    rng: Rng,
    files: usize,
    dirs: usize,
    links: usize,
    made: usize,
    kept: Kept,
}

/// What is open or mapped and stays so.
#[derive(Default)]
pub struct Kept {
    files: Vec<File>,
    mappings: Vec<Mapping>,
}

impl Kept {
    /// Uses all of it once more; the overlay may be unmounted meanwhile.
    pub fn use_again(&mut self) -> io::Result<()> {
        for file in &mut self.files {
            file.write_all(b"after")?;
            file.sync_all()?;
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        self.mappings
            .iter()
            .try_for_each(|mapping| mapping.write(b'a'))
    }
}

impl Worker {
    /// Worker `number` in an overlay.
    pub fn new(merged: &Path, number: u64, redirects: bool, seed: u64) -> Self {
        let rng = Rng::default();
        rng.seed(seed);
        Worker {
            dir: merged.join(format!("worker{number}")),
            shared: merged.join("shared"),
            redirects,
            rng,
            files: 0,
            dirs: 0,
            links: 0,
            made: 0,
            kept: Kept::default(),
        }
    }

    /// The actions, in an order of their own.
    pub fn shuffled(&self) -> Vec<(usize, &'static Action)> {
        let mut all: Vec<(usize, &Action)> = ACTIONS.iter().enumerate().collect();
        for last in (1..all.len()).rev() {
            all.swap(last, self.rng.below(last + 1));
        }
        all
    }

    /// What it has kept.
    pub fn into_kept(self) -> Kept {
        self.kept
    }

    /// A file of the lower layer that was not used.
    fn file(&mut self) -> PathBuf {
        self.files += 1;
        self.dir.join(format!("f{}", self.files - 1))
    }

    /// A directory of the lower layer that was not used; it has the files a and b.
    fn directory(&mut self) -> PathBuf {
        self.dirs += 1;
        self.dir.join(format!("d{}", self.dirs - 1))
    }

    /// The number of a symbolic link and of a pair of hard links that were not used.
    fn link(&mut self) -> usize {
        self.links += 1;
        self.links - 1
    }

    /// A name that there is not.
    fn name(&mut self) -> PathBuf {
        self.made += 1;
        self.dir.join(format!("n{}", self.made - 1))
    }

    fn shared(&self) -> PathBuf {
        let number = self.rng.below(SHARED);
        self.shared.join(format!("s{number}"))
    }
}

/// All of them.
pub const ACTIONS: &[Action] = &[
    action("append", append),
    action("append to shared", append_to_shared),
    action("chmod", chmod),
    action("chmod shared", chmod_shared),
    action("chown", change_owner),
    action("times", times),
    action("truncate", truncate),
    action("open with O_TRUNC", open_truncated),
    action("set attribute", set_attribute),
    action("remove attribute", remove_attribute),
    action("rename", rename),
    action("rename onto another", rename_onto),
    action("rename back and forth", rename_twice),
    action("exchange", exchange),
    action("rename directory", rename_directory),
    action("link", link),
    action("append to hard link", append_to_link),
    action("unlink", unlink),
    action("unlink and make again", unlink_and_make),
    action("rmdir", remove_directory),
    action("opaque directory", opaque_directory),
    action("mkdir", make_directory),
    action("mknod of a whiteout", make_whiteout),
    action("mknod", make_nodes),
    action("symlink", make_symlink),
    action("chown of a symlink", change_symlink),
    action("map and close", map_and_close),
    action("keep open for write", keep_writing),
    action("keep open for read", keep_reading),
    action("fsync", sync),
    action("fallocate", allocate),
    action("O_TMPFILE", temporary),
    action("copy a range", copy_range),
    action("file flags", file_flags),
    action("read a directory", read_directory),
    action("refused", refused),
];

const fn action(name: &'static str, run: fn(&mut Worker) -> Result<Done>) -> Action {
    Action { name, run }
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut file = File::options().append(true).open(path)?;
    file.write_all(b"more")?;
    Ok(file)
}

fn append(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    append_to(&path)?;
    ensure!(fs::metadata(&path)?.len() == LENGTH as u64 + 4, "length");
    Ok(Done::Well)
}

fn append_to_shared(worker: &mut Worker) -> Result<Done> {
    append_to(&worker.shared())?;
    Ok(Done::Well)
}

fn chmod(worker: &mut Worker) -> Result<Done> {
    fs::set_permissions(worker.file(), Permissions::from_mode(0o640))?;
    Ok(Done::Well)
}

fn chmod_shared(worker: &mut Worker) -> Result<Done> {
    fs::set_permissions(worker.shared(), Permissions::from_mode(0o604))?;
    Ok(Done::Well)
}

fn change_owner(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    chown(&path, Some(1000), Some(1000))?;
    ensure!(fs::metadata(&path)?.uid() == 1000, "owner");
    Ok(Done::Well)
}

fn times(worker: &mut Worker) -> Result<Done> {
    calls::touch(&worker.file())?;
    Ok(Done::Well)
}

fn truncate(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    calls::truncate(&path, 10)?;
    ensure!(fs::read(&path)? == [b'.'; 10], "contents");
    Ok(Done::Well)
}

fn open_truncated(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    File::create(&path)?.write_all(b"new")?;
    ensure!(fs::read(&path)? == b"new", "contents");
    Ok(Done::Well)
}

fn set_attribute(worker: &mut Worker) -> Result<Done> {
    calls::set_xattr(&worker.file(), ATTRIBUTE, b"upper")?;
    Ok(Done::Well)
}

fn remove_attribute(worker: &mut Worker) -> Result<Done> {
    calls::remove_xattr(&worker.file(), ATTRIBUTE)?;
    Ok(Done::Well)
}

fn rename(worker: &mut Worker) -> Result<Done> {
    let (from, to) = (worker.file(), worker.name());
    fs::rename(&from, &to)?;
    ensure!(!from.exists() && to.exists(), "names");
    Ok(Done::Well)
}

fn rename_onto(worker: &mut Worker) -> Result<Done> {
    let (from, to) = (worker.file(), worker.file());
    fs::rename(&from, &to)?;
    ensure!(!from.exists() && to.exists(), "names");
    Ok(Done::Well)
}

fn rename_twice(worker: &mut Worker) -> Result<Done> {
    let (from, to) = (worker.file(), worker.name());
    fs::rename(&from, &to)?;
    fs::rename(&to, &from)?;
    ensure!(from.exists() && !to.exists(), "names");
    Ok(Done::Well)
}

fn exchange(worker: &mut Worker) -> Result<Done> {
    let (one, other) = (worker.file(), worker.file());
    append_to(&one)?;
    calls::exchange(&one, &other)?;
    let lengths = [fs::metadata(&one)?.len(), fs::metadata(&other)?.len()];
    ensure!(lengths == [LENGTH as u64, LENGTH as u64 + 4], "lengths");
    Ok(Done::Well)
}

/// With a redirect, or refused (EXDEV).
fn rename_directory(worker: &mut Worker) -> Result<Done> {
    let (from, to) = (worker.directory(), worker.name());
    let renamed = fs::rename(&from, &to);
    if !worker.redirects {
        return must_fail(renamed, libc::EXDEV);
    }
    renamed?;
    append_to(&to.join("a"))?;
    ensure!(!from.exists(), "the old name");
    Ok(Done::Well)
}

fn link(worker: &mut Worker) -> Result<Done> {
    let (from, to) = (worker.file(), worker.name());
    fs::hard_link(&from, &to)?;
    append_to(&to)?;
    ensure!(fs::metadata(&from)?.nlink() == 2, "links");
    Ok(Done::Well)
}

/// Two names of one file in the lower layer: without `index` they become two files.
fn append_to_link(worker: &mut Worker) -> Result<Done> {
    let number = worker.link();
    append_to(&worker.dir.join(format!("h{number}")))?;
    append_to(&worker.dir.join(format!("g{number}")))?;
    fs::remove_file(worker.dir.join(format!("h{number}")))?;
    Ok(Done::Well)
}

fn unlink(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    fs::remove_file(&path)?;
    ensure!(!path.exists(), "it is still there");
    Ok(Done::Well)
}

fn unlink_and_make(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    fs::remove_file(&path)?;
    File::create_new(&path)?.write_all(b"anew")?;
    ensure!(fs::read(&path)? == b"anew", "contents");
    Ok(Done::Well)
}

fn empty(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join("a"))?;
    fs::remove_file(dir.join("b"))
}

fn remove_directory(worker: &mut Worker) -> Result<Done> {
    let dir = worker.directory();
    must_fail(fs::remove_dir(&dir), libc::ENOTEMPTY)?;
    empty(&dir)?;
    fs::remove_dir(&dir)?;
    ensure!(!dir.exists(), "it is still there");
    Ok(Done::Well)
}

/// What is in the lower layer must not show through.
fn opaque_directory(worker: &mut Worker) -> Result<Done> {
    let dir = worker.directory();
    empty(&dir)?;
    fs::remove_dir(&dir)?;
    fs::create_dir(&dir)?;
    fs::write(dir.join("c"), "c")?;
    ensure!(fs::read_dir(&dir)?.count() == 1, "entries");
    Ok(Done::Well)
}

fn make_directory(worker: &mut Worker) -> Result<Done> {
    let dir = worker.name();
    fs::create_dir(&dir)?;
    fs::write(dir.join("a"), "a")?;
    let renamed = worker.name();
    fs::rename(&dir, &renamed)?;
    fs::remove_file(renamed.join("a"))?;
    fs::remove_dir(&renamed)?;
    Ok(Done::Well)
}

/// v6.12 fs/overlayfs/dir.c, ovl_mknod: no whiteouts are made in an overlay.
fn make_whiteout(worker: &mut Worker) -> Result<Done> {
    let made = calls::make_node(&worker.name(), libc::S_IFCHR | 0o600, 0, 0);
    must_fail(made, libc::EPERM)
}

fn make_nodes(worker: &mut Worker) -> Result<Done> {
    let (pipe, null) = (worker.name(), worker.name());
    calls::make_node(&pipe, libc::S_IFIFO | 0o600, 0, 0)?;
    calls::make_node(&null, libc::S_IFCHR | 0o600, 1, 3)?;
    fs::write(&null, "nothing")?;
    fs::remove_file(&pipe)?;
    fs::remove_file(&null)?;
    Ok(Done::Well)
}

fn make_symlink(worker: &mut Worker) -> Result<Done> {
    let path = worker.name();
    symlink("f0", &path)?;
    ensure!(fs::read_link(&path)? == Path::new("f0"), "target");
    Ok(Done::Well)
}

fn change_symlink(worker: &mut Worker) -> Result<Done> {
    let number = worker.link();
    let path = worker.dir.join(format!("l{number}"));
    lchown(&path, Some(1000), None)?;
    ensure!(fs::symlink_metadata(&path)?.uid() == 1000, "owner");
    Ok(Done::Well)
}

fn open_to_write(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

fn map_and_close(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    let mapping = Mapping::new(&open_to_write(&path)?)?;
    mapping.write(b'm')?;
    ensure!(fs::read(&path)?.first() == Some(&b'm'), "contents");
    worker.kept.mappings.push(mapping);
    Ok(Done::Well)
}

fn keep_writing(worker: &mut Worker) -> Result<Done> {
    let file = append_to(&worker.file())?;
    worker.kept.files.push(file);
    Ok(Done::Well)
}

/// Reads of the lower file, which is copied up meanwhile.
fn keep_reading(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    let file = File::open(&path)?;
    append_to(&path)?;
    ensure!(
        io::copy(&mut &file, &mut io::sink())? >= LENGTH as u64,
        "length"
    );
    Ok(Done::Well)
}

fn sync(worker: &mut Worker) -> Result<Done> {
    let file = append_to(&worker.file())?;
    file.sync_data()?;
    file.sync_all()?;
    File::open(&worker.dir)?.sync_all()?;
    Ok(Done::Well)
}

fn allocate(worker: &mut Worker) -> Result<Done> {
    let path = worker.file();
    let file = open_to_write(&path)?;
    calls::allocate(&file, 0, 0, 3 * LENGTH as i64)?;
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    calls::allocate(&file, punch, 0, LENGTH as i64)?;
    ensure!(file.metadata()?.len() == 3 * LENGTH as u64, "length");
    Ok(Done::Well)
}

/// From v6.1; before, open(2) refuses it.
fn temporary(worker: &mut Worker) -> Result<Done> {
    let path = worker.name();
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_TMPFILE);
    let mut file = match options.open(&worker.dir) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return Ok(Done::Unsupported);
        }
        other => other?,
    };
    file.write_all(b"temporary")?;
    calls::link_open(&file, &path)?;
    ensure!(fs::read(&path)? == b"temporary", "contents");
    Ok(Done::Well)
}

fn copy_range(worker: &mut Worker) -> Result<Done> {
    let (from, to) = (worker.file(), worker.file());
    // copy_file_range(2), where it can be used.
    let copied = fs::copy(from, &to)?;
    ensure!(copied == LENGTH as u64, "length");
    Ok(Done::Well)
}

/// tmpfs has flags from v6.6.
fn file_flags(worker: &mut Worker) -> Result<Done> {
    let file = open_to_write(&worker.file())?;
    match calls::set_no_access_time(&file) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EOPNOTSUPP)) => {
            Ok(Done::Unsupported)
        }
        other => {
            other?;
            Ok(Done::Well)
        }
    }
}

fn read_directory(worker: &mut Worker) -> Result<Done> {
    let dir = worker.directory();
    append_to(&dir.join("a"))?;
    fs::remove_file(dir.join("b"))?;
    fs::write(dir.join("c"), "c")?;
    let names: io::Result<Vec<_>> = fs::read_dir(&dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect();
    ensure!(names?.len() == 2, "entries");
    Ok(Done::Well)
}

/// The ways out of what fails.
fn refused(worker: &mut Worker) -> Result<Done> {
    let (file, dir) = (worker.file(), worker.directory());
    must_fail(fs::create_dir(&dir), libc::EEXIST)?;
    must_fail(fs::remove_dir(&dir), libc::ENOTEMPTY)?;
    must_fail(File::create_new(&file).map(drop), libc::EEXIST)?;
    must_fail(fs::hard_link(&file, dir.join("a")), libc::EEXIST)?;
    must_fail(fs::rename(&file, &dir), libc::EISDIR)?;
    must_fail(fs::remove_file(worker.name()), libc::ENOENT)?;
    let missing = calls::remove_xattr(&file, "trusted.none");
    must_fail(missing, libc::ENODATA)?;
    must_fail(calls::truncate(&dir, 1), libc::EISDIR)
}

fn must_fail(result: io::Result<()>, errno: i32) -> Result<Done> {
    let error = result.err().context("it succeeded")?;
    ensure!(error.raw_os_error() == Some(errno), "{error}");
    Ok(Done::Well)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_action_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ACTIONS.iter().map(|action| action.name).collect();
        assert_eq!(names.len(), ACTIONS.len());
    }

    #[test]
    fn an_order_has_each_action_once() {
        let worker = Worker::new(Path::new("/"), 0, true, 7);
        let order: Vec<usize> = worker.shuffled().iter().map(|(index, _)| *index).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..ACTIONS.len()));
        assert!(!order.is_sorted());
    }
}
