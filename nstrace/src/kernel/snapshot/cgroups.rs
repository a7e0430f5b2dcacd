//! The cgroups that tasks are in.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use foldhash::HashMap;

use super::{CGROUP_MOUNTS, parse, sys};

/// Ids of cgroups v2 by path.
#[derive(Debug)]
pub struct CgroupIds {
    root: Option<OwnedFd>,
    /// Of those that some task is in.
    by_path: HashMap<Box<[u8]>, u64>,
}

impl CgroupIds {
    /// None yet.
    pub fn new() -> CgroupIds {
        CgroupIds {
            root: CGROUP_MOUNTS.into_iter().find_map(root),
            by_path: HashMap::default(),
        }
    }

    /// The id of a task's cgroup: the number of its directory. 0 if it is not known.
    pub fn of(&mut self, task: BorrowedFd, buf: &mut [u8]) -> u64 {
        let Some(root) = &self.root else { return 0 };
        let read = sys::read_file(task, c"cgroup", buf);
        let Some(path) = read.ok().and_then(|bytes| parse::cgroup(bytes)) else {
            return 0;
        };
        if let Some(id) = self.by_path.get(path) {
            return *id;
        }
        let name = path.strip_prefix(b"/").unwrap_or(path);
        let name = if name.is_empty() { b"." } else { name };
        let id = CString::new(name)
            .ok()
            .and_then(|name| sys::stat_at(root.as_fd(), &name, 0).ok())
            .map_or(0, |stat| stat.st_ino);
        if id != 0 {
            self.by_path.insert(path.into(), id);
        }
        id
    }
}

/// The root of the hierarchy, if it is mounted there.
fn root(path: &CStr) -> Option<OwnedFd> {
    let root = sys::open_path(path, libc::O_PATH | libc::O_DIRECTORY).ok()?;
    sys::stat_at(root.as_fd(), c"cgroup.controllers", 0).ok()?;
    Some(root)
}
