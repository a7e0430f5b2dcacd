//! Mount namespaces that are made as a descriptor: open_tree(2) and open_tree_attr(2) from v7.0,
//! fsmount(2) from v7.2.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Result, ensure};
use libc::{c_long, c_uint};

use crate::book::Book;
use crate::keeper;
use crate::procfs::Procfs;
use crate::recorder::Recorder;

// arch/x86/entry/syscalls/syscall_64.tbl
const SYS_OPEN_TREE_ATTR: c_long = 467;

// include/uapi/linux/mount.h
const OPEN_TREE_NAMESPACE: c_uint = 2;
const FSMOUNT_NAMESPACE: c_uint = 2;
const FSCONFIG_CMD_CREATE: c_uint = 6;

/// Makes one in each way that the kernel has; the others are told as left out.
pub fn run(book: &Path) -> Result<()> {
    keeper::keep(&Procfs::open()?, |asker| {
        let book = Book::append(book)?;
        let mut recorder = Recorder::new(Procfs::open()?, asker, book, "descriptor")?;
        let context = tmpfs()?;
        let flags = OPEN_TREE_NAMESPACE | libc::O_CLOEXEC as c_uint;
        recorder.note = "open_tree".into();
        recorder.descriptor("open_tree", || {
            // SAFETY: the path ends with a NUL.
            unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, c"/".as_ptr(), flags) }
        })?;
        recorder.note = "open_tree_attr".into();
        recorder.descriptor("open_tree", || {
            let none = std::ptr::null::<u8>();
            // SAFETY: as above; there are no attributes.
            unsafe {
                let path = c"/".as_ptr();
                libc::syscall(SYS_OPEN_TREE_ATTR, libc::AT_FDCWD, path, flags, none, 0)
            }
        })?;
        let fd = context.as_raw_fd();
        recorder.note = "fsmount".into();
        recorder.descriptor("fsmount", || {
            // SAFETY: changes no memory.
            unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_NAMESPACE, 0) }
        })?;
        Ok(())
    })
}

/// A tmpfs that is not mounted yet.
fn tmpfs() -> Result<OwnedFd> {
    let none = std::ptr::null::<u8>();
    // SAFETY: the name ends with a NUL; the command has no arguments.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0) };
    ensure!(fd >= 0, "fsopen: {}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor, which nobody else owns.
    let context = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    // SAFETY: as above.
    let ret: c_long =
        unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0) };
    ensure!(ret == 0, "fsconfig: {}", std::io::Error::last_os_error());
    Ok(context)
}
