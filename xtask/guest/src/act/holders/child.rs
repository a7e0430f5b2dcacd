//! Children that prepare something, say so, and wait to be killed.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow, ensure};

use super::own_tid;
use crate::kinds::{NEWPID, NEWUSER};
use crate::procfs::Procfs;
use crate::sys::{self, Call};

/// Maps our only id, which was 0 before too, to 0.
fn map_root(procfs: &Procfs) -> Result<()> {
    for (file, text) in [
        ("setgroups", "deny"),
        ("uid_map", "0 0 1"),
        ("gid_map", "0 0 1"),
    ] {
        procfs
            .write(&format!("thread-self/{file}"), text)
            .context(file)?;
    }
    Ok(())
}

/// Makes a child that runs `prepare`, says what that gives as a line, and waits to be
/// killed: its id, and the line. It has no descriptor of ours.
pub fn spawn_ready(
    procfs: &Procfs,
    flags: u64,
    prepare: impl FnOnce(&Procfs) -> Result<String>,
) -> Result<(i64, String)> {
    let (said, mut say) = sys::pipe()?;
    let child = sys::spawn(Call::Clone, flags, || {
        sys::die_with_parent();
        sys::close_others(&[say.as_raw_fd(), procfs.as_raw_fd()]);
        if flags & NEWUSER != 0 {
            let _ = map_root(procfs);
        }
        let line = prepare(procfs).unwrap_or_else(|error| format!("!{error:#}"));
        let _ = say.write_all(format!("{line}\n").as_bytes());
        // What we keep, the tests know; these two they need not.
        sys::close(say.as_raw_fd());
        sys::close(procfs.as_raw_fd());
        loop {
            std::thread::park();
        }
    });
    ensure!(child > 0, "clone: errno {}", -child);
    drop(say);
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line)?;
    match line.trim_end() {
        "" => Err(anyhow!("a child ended before it was ready")),
        line => match line.strip_prefix('!') {
            Some(error) => Err(anyhow!("a child says: {error}")),
            None => Ok((child, line.to_owned())),
        },
    }
}

/// So many levels below us: the ids of all, ours first.
pub fn nest(procfs: &Procfs, depth: u32) -> Result<String> {
    let own = own_tid(procfs)?;
    if depth == 0 {
        return Ok(own);
    }
    let (_, line) = spawn_ready(procfs, NEWUSER | NEWPID, |procfs| nest(procfs, depth - 1))?;
    Ok(format!("{own} {line}"))
}

/// One level of one kind below us.
pub fn nest_flag(procfs: &Procfs, flag: u64) -> Result<String> {
    let (_, line) = spawn_ready(procfs, flag, own_tid)?;
    Ok(format!("{} {line}", own_tid(procfs)?))
}
