//! What the procfs of the first pid namespace says, from wherever we are.
//!
//! Its directory is opened before any namespace changes. Through it `thread-self`
//! is the caller's id in the first pid namespace, whatever getpid says.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use crate::kinds::{Inums, KINDS};
use crate::sys;

/// The first procfs.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Opens it; to be called in the first namespaces.
    pub fn open() -> io::Result<Self> {
        Ok(Procfs(File::open("/proc")?.into()))
    }

    /// The same directory, by another descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Procfs)
    }

    fn open_at(&self, path: &str, flags: i32) -> io::Result<File> {
        let path = CString::new(path)?;
        // SAFETY: the path ends with a NUL.
        let fd =
            unsafe { libc::openat(self.0.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else owns.
        Ok(unsafe { File::from_raw_fd(fd) })
    }

    /// Opens a file of it for reading.
    pub fn file(&self, path: &str) -> io::Result<File> {
        self.open_at(path, libc::O_RDONLY)
    }

    /// The text of a file.
    pub fn text(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(path)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The bytes of a file.
    pub fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes to a file, in one call.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        self.open_at(path, libc::O_WRONLY)?
            .write_all(text.as_bytes())
    }

    /// Where a symbolic link leads.
    pub fn link(&self, path: &str) -> io::Result<String> {
        let path = CString::new(path)?;
        let mut buffer = vec![0u8; 128];
        // SAFETY: the path ends with a NUL, the buffer has that length.
        let len = unsafe {
            libc::readlinkat(
                self.0.as_raw_fd(),
                path.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        buffer.truncate(len as usize);
        Ok(OsString::from_vec(buffer).to_string_lossy().into_owned())
    }

    /// The caller's process and thread id in the first pid namespace.
    pub fn own_ids(&self) -> io::Result<(u32, u32)> {
        let link = self.link("thread-self")?;
        let mut words = link.split('/');
        match (words.next(), words.next(), words.next()) {
            (Some(pid), Some("task"), Some(tid)) => {
                Ok((number(pid.parse().ok())?, number(tid.parse().ok())?))
            }
            _ => Err(io::Error::other(format!(
                "/proc/thread-self leads to {link}"
            ))),
        }
    }

    /// The namespaces of a task (`thread-self` or an id). 0 for a kind that the
    /// kernel has not.
    pub fn inums(&self, task: &str) -> io::Result<Inums> {
        let mut inums = Inums::default();
        for (inum, kind) in inums.iter_mut().zip(&KINDS) {
            let link = match self.link(&format!("{task}/{}", kind.file)) {
                // Also for pid_for_children before the first of the children.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                link => link?,
            };
            *inum = number(inum_of_link(&link))?;
        }
        Ok(inums)
    }

    /// A task's ids at every level, from the first.
    pub fn ids_by_level(&self, task: &str) -> io::Result<Vec<u32>> {
        number(ids_of_status(&self.text(&format!("{task}/status"))?))
    }

    /// How many mounts the mount namespace of a task has, given how many of them
    /// no task can see.
    pub fn mounts(&self, task: &str, hidden: u32) -> io::Result<u32> {
        Ok(self.text(&format!("{task}/mountinfo"))?.lines().count() as u32 + hidden)
    }

    /// How many mounts are below the root of the first tasks, where no task can see
    /// them: the kernel's rootfs, and from v7.0 the nullfs below that (fs/nullfs.c).
    pub fn hidden_mounts(&self) -> io::Result<u32> {
        let release = self.text("sys/kernel/osrelease")?;
        let major = release
            .split('.')
            .next()
            .and_then(|major| major.parse().ok());
        Ok(if number::<u32>(major)? >= 7 { 2 } else { 1 })
    }

    /// The path of a task's cgroup v2 from the root of the hierarchy.
    pub fn cgroup(&self, task: &str) -> io::Result<String> {
        let text = self.text(&format!("{task}/cgroup"))?;
        number(
            text.lines()
                .find_map(|line| line.strip_prefix("0::"))
                .map(str::to_owned),
        )
    }

    /// The inum of the namespace that a file of a task is for.
    pub fn namespace(&self, path: &str) -> io::Result<(File, u32)> {
        let file = self.file(path)?;
        let inum = sys::inode(&file)? as u32;
        Ok((file, inum))
    }
}

impl AsRawFd for Procfs {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn number<T>(found: Option<T>) -> io::Result<T> {
    found.ok_or_else(|| io::Error::other("/proc has another form than we know"))
}

/// The number in `mnt:[4026531841]`.
pub fn inum_of_link(link: &str) -> Option<u32> {
    link.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

/// The numbers of the line NSpid of `/proc/PID/status`.
pub fn ids_of_status(status: &str) -> Option<Vec<u32>> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace()
        .map(|word| word.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_its_inum() {
        assert_eq!(
            inum_of_link("pid_for_children:[4026531836]"),
            Some(4026531836)
        );
        assert_eq!(inum_of_link("pipe:[x]"), None);
    }

    #[test]
    fn a_status_has_the_ids_of_every_level() {
        let status = "Name:\tsh\nPid:\t42\nNSpid:\t42\t7\t1\nNSsid:\t0\n";
        assert_eq!(ids_of_status(status), Some(vec![42, 7, 1]));
    }
}
