//! Files that are open for writing, each of which is a writer of the mount that it is on.

use std::{
    cmp::Ordering,
    ffi::{CStr, CString},
    fs,
    os::{fd::BorrowedFd, unix::ffi::OsStrExt as _},
};

use super::{
    LINK_MAX, Looker, Message, Seen, Task, Unheard, calls, is_forbidden, maps, parse, sys,
};
use crate::mounts::uses::{Found, How};

/// All tasks, our own too, process by process, the leader first; of their namespaces nothing.
pub fn all_tasks() -> Vec<Task> {
    let numbers = |dir: &str| -> Vec<u32> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        let mut numbers: Vec<u32> = names
            .filter_map(|name| parse::number(name.as_bytes()))
            .collect();
        numbers.sort_unstable();
        numbers
    };
    let mut tasks = Vec::new();
    for pid in numbers("/proc") {
        let mut tids = numbers(&format!("/proc/{pid}/task"));
        tids.sort_unstable_by_key(|tid| *tid != pid);
        tasks.extend(tids.into_iter().map(|tid| Task {
            pid,
            tid,
            mnt: 0,
            net: 0,
        }));
    }
    tasks
}

/// Which of two files that are open comes first; none if one is open no more, or the kernel
/// does not say (without CONFIG_KCMP).
pub fn compare(one: &Found, other: &Found) -> Option<Ordering> {
    match (one.how, other.how) {
        (How::Open(fd), How::Open(its)) => {
            calls::compare_files((one.tid, fd), (other.tid, its)).ok()
        }
        _ => None,
    }
}

impl Looker {
    /// Whether a file that is open for writing counts as a writer of a mount that is looked
    /// for: devices, pipes and sockets do not (fs/open.c, do_dentry_open).
    pub(super) fn has_writer(&self, mount: u32, dir: BorrowedFd, link: &CStr) -> bool {
        let is_wanted = self.job.search.mounts.contains(&mount);
        is_wanted && sys::stat(dir, link).is_ok_and(|stat| stat.is_file && stat.mount == mount)
    }

    /// Looks at a file that is mapped by whether it was open for writing. Nobody need have it
    /// open any more: it is as long as it is mapped.
    pub(super) fn mapped_for_writing(
        &mut self,
        task: Task,
        dir: BorrowedFd,
        mapped: &maps::Mapped,
    ) -> Result<(), Unheard> {
        let Ok(link) = CString::new(format!("map_files/{}", mapped.range)) else {
            return Ok(());
        };
        if !is_for_writing(dir, &link) {
            return Ok(());
        }
        let stat = match sys::stat(dir, &link) {
            Ok(stat) => stat,
            Err(error) if is_forbidden(&error) => return self.tell(Message::Unseen(task.pid)),
            Err(_) => return Ok(()),
        };
        if !stat.is_file || !self.job.search.mounts.contains(&stat.mount) {
            return Ok(());
        }
        let mut path = [0; LINK_MAX];
        let seen = Seen {
            task,
            how: How::Mapped,
            mount: stat.mount,
            path: calls::read_link(dir, &link, &mut path).unwrap_or(mapped.path),
        };
        self.found(&seen, stat.device)
    }
}

/// Whether the file behind a link of `/proc/PID/fd` or `map_files` is open for writing: the
/// link's own mode says so (fs/proc/fd.c, tid_fd_update_inode; base.c, proc_map_files_instantiate).
pub(super) fn is_for_writing(dir: BorrowedFd, link: &CStr) -> bool {
    let link = calls::stat_at(dir, link, libc::AT_SYMLINK_NOFOLLOW);
    link.is_ok_and(|link| link.st_mode & libc::S_IWUSR != 0)
}
