//! As many mounts as a big host has, and as they come about there: a tree of them, and mount
//! namespaces that were copied with it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::keeper;
use crate::kinds::NEWNS;
use crate::sys::{self, Call};

/// The words of `nstrace-guest act many-mounts`.
#[derive(Args, Clone, Debug)]
pub struct ManyArgs {
    /// Where: it is made, and a tmpfs mounted on it
    #[arg(long)]
    pub dir: PathBuf,
    /// So many mounts are in the tree
    #[arg(long)]
    pub mounts: usize,
    /// So many namespaces have a copy of it, beside the one that it is made in
    #[arg(long, default_value_t = 0)]
    pub namespaces: usize,
}

/// What is mounted everywhere: a directory with a file `file`.
pub const SOURCE: &str = "source";
/// Where, with a number behind a slash.
pub const TREE: &str = "tree";

/// Mounts, and says so. For each line of its input it appends once through each mount in each
/// namespace, and says how often; at the end of its input it unmounts. Half of the namespaces
/// have peers of the mounts, the other half slaves, as containers have.
pub fn run(args: &ManyArgs) -> Result<()> {
    let dir = args.dir.to_string_lossy();
    fs::create_dir_all(&args.dir)?;
    sys::mount("tmpfs", &dir, "tmpfs", 0).context("cannot mount a tmpfs")?;
    sys::mount("none", &dir, "none", libc::MS_PRIVATE)?;
    let (source, tree) = (format!("{dir}/{SOURCE}"), format!("{dir}/{TREE}"));
    fs::create_dir(&source)?;
    fs::write(format!("{source}/file"), "x")?;
    fs::create_dir(&tree)?;
    for number in 0..args.mounts {
        let point = format!("{tree}/{number}");
        fs::create_dir(&point)?;
        sys::mount(&source, &point, "none", libc::MS_BIND).context(point)?;
    }
    // Each has a peer group of its own. Of a slave the kernel looks through the whole group
    // above it when it prints mountinfo (fs/pnode.c, get_dominating_id).
    sys::mount("none", &dir, "none", libc::MS_REC | libc::MS_SHARED)?;
    let mut copies = Vec::new();
    for number in 0..args.namespaces {
        copies.push(Copy::start(args, number.is_multiple_of(2))?);
    }
    println!("at rest");
    for line in io::stdin().lines() {
        line?;
        append(args)?;
        copies.iter_mut().try_for_each(Copy::append)?;
        println!("appended: {}", args.mounts * (1 + args.namespaces));
    }
    copies.into_iter().try_for_each(Copy::end)?;
    sys::unmount(&dir)?;
    fs::remove_dir(&args.dir)?;
    println!("gone");
    Ok(())
}

/// Appends once through each mount.
fn append(args: &ManyArgs) -> Result<()> {
    for number in 0..args.mounts {
        let path = args.dir.join(format!("{TREE}/{number}/file"));
        let mut file = OpenOptions::new().append(true).open(&path)?;
        file.write_all(b"x")?;
    }
    Ok(())
}

/// A process that has a copy of all mounts.
struct Copy {
    pid: i64,
    line: UnixStream,
}

impl Copy {
    fn start(args: &ManyArgs, is_slave: bool) -> Result<Copy> {
        let (line, theirs) = UnixStream::pair()?;
        let pid = sys::spawn(Call::Fork, 0, || {
            keeper::status(serve(args, is_slave, &theirs))
        });
        ensure!(pid > 0, "cannot fork: errno {}", -pid);
        drop(theirs);
        let mut copy = Copy { pid, line };
        copy.answer().context("it made no copy")?;
        Ok(copy)
    }

    fn append(&mut self) -> Result<()> {
        self.line.write_all(b"x")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<()> {
        Ok(self.line.read_exact(&mut [0])?)
    }

    fn end(self) -> Result<()> {
        sys::kill(self.pid, libc::SIGKILL)?;
        sys::wait(self.pid)?;
        Ok(())
    }
}

/// Copies all mounts, and appends whenever it is asked to, until it is killed.
fn serve(args: &ManyArgs, is_slave: bool, mut line: &UnixStream) -> Result<()> {
    sys::die_with_parent();
    sys::set_comm(b"many-mounts");
    ensure!(sys::unshare(NEWNS) == 0, "unshare failed");
    if is_slave {
        sys::mount("none", "/", "none", libc::MS_REC | libc::MS_SLAVE)?;
    }
    loop {
        line.write_all(b"x")?;
        line.read_exact(&mut [0])?;
        append(args)?;
    }
}
