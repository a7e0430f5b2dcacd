//! File system calls that the standard library lacks.

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{c_int, mode_t};

/// A page.
const PAGE: usize = 4096;

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn done(ret: c_int) -> io::Result<()> {
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// mount(2) of a new instance, with options.
pub fn mount(kind: &str, target: &Path, options: &str) -> io::Result<()> {
    let (kind, target, options) = (CString::new(kind)?, c_path(target)?, CString::new(options)?);
    // SAFETY: all words end with a NUL.
    done(unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    })
}

/// mount(2) of what is mounted there, writable or not from now on.
pub fn remount(target: &Path, is_writable: bool) -> io::Result<()> {
    let target = c_path(target)?;
    let read_only = if is_writable { 0 } else { libc::MS_RDONLY };
    let flags = libc::MS_REMOUNT | libc::MS_BIND | read_only;
    let none = std::ptr::null();
    // SAFETY: the path ends with a NUL; the rest is not looked at.
    done(unsafe { libc::mount(none, target.as_ptr(), none, flags, none.cast()) })
}

/// umount2(2), with MNT_DETACH if it is lazy.
pub fn unmount(target: &Path, is_lazy: bool) -> io::Result<()> {
    let target = c_path(target)?;
    let flags = if is_lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path ends with a NUL.
    done(unsafe { libc::umount2(target.as_ptr(), flags) })
}

/// setxattr(2).
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path)?, CString::new(name)?);
    // SAFETY: the words end with a NUL, and the value has this length.
    done(unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    })
}

/// removexattr(2).
pub fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    let (path, name) = (c_path(path)?, CString::new(name)?);
    // SAFETY: the words end with a NUL.
    done(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })
}

/// truncate(2).
pub fn truncate(path: &Path, length: i64) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path ends with a NUL.
    done(unsafe { libc::truncate(path.as_ptr(), length) })
}

/// utimensat(2): the times are now.
pub fn touch(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path ends with a NUL; no times mean now.
    done(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), std::ptr::null(), 0) })
}

/// mknod(2): `kind` has the type and the mode.
pub fn make_node(path: &Path, kind: mode_t, major: u32, minor: u32) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path ends with a NUL.
    done(unsafe { libc::mknod(path.as_ptr(), kind, libc::makedev(major, minor)) })
}

/// renameat2(2) that lets two names change places.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let (one, other) = (c_path(one)?, c_path(other)?);
    let (cwd, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: the paths end with a NUL.
    done(unsafe { libc::renameat2(cwd, one.as_ptr(), cwd, other.as_ptr(), flags) })
}

/// linkat(2) of an open file.
pub fn link_open(file: &impl AsRawFd, path: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = c_path(path)?;
    let (cwd, flags) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: the paths end with a NUL.
    done(unsafe { libc::linkat(cwd, from.as_ptr(), cwd, to.as_ptr(), flags) })
}

/// fallocate(2).
pub fn allocate(file: &impl AsRawFd, mode: c_int, from: i64, length: i64) -> io::Result<()> {
    // SAFETY: changes no memory.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, from, length) })
}

/// FS_IOC_GETFLAGS and FS_IOC_SETFLAGS: sets a flag of a file (`chattr +A`).
pub fn set_no_access_time(file: &impl AsRawFd) -> io::Result<()> {
    const NOATIME: c_int = 0x80;
    let mut flags: c_int = 0;
    // SAFETY: the request writes a number.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) })?;
    flags |= NOATIME;
    // SAFETY: the request reads a number.
    done(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) })
}

/// Runs only on this processor from now on.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: zeroes are a set without members, and the call reads the set.
    done(unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    })
}

/// The first page of a file, mapped shared and writable until it is dropped.
pub struct Mapping(*mut c_void);

impl Mapping {
    /// Maps it; the file may be closed.
    pub fn new(file: &impl AsRawFd) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                protection,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping(at))
    }

    /// Writes into it and waits until it is in the file (msync).
    pub fn write(&self, byte: u8) -> io::Result<()> {
        // SAFETY: the page is ours until we are dropped; the file was as long when it was mapped.
        done(unsafe {
            self.0.cast::<u8>().write_volatile(byte);
            libc::msync(self.0, PAGE, libc::MS_SYNC)
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has the page any more.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}
