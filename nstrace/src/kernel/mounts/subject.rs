//! What `nstrace mounts --who` is asked about.

use std::{
    ffi::{CStr, CString, OsStr},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    time::Duration,
};

pub use super::sys::Stat;
use super::{devices, sys};
use crate::{
    kernel::snapshot::{parse, sys as calls},
    mounts::{
        Device, FsPath, Mounts, covering, on,
        who::{Part, Scope, Subject},
    },
    render::escape::Escaped,
};

/// So long a file may take to be found.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is nothing to look for.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// It cannot be opened.
    #[error("{}: {why}: say a path that is there, a block device, or MAJOR:MINOR", Escaped(.asked))]
    Open {
        /// What was asked for.
        asked: Vec<u8>,
        /// Why.
        why: String,
    },
    /// Its file system hangs.
    #[error(
        "{}: its file system does not answer: say the mount point itself, or MAJOR:MINOR as \
         `nstrace mounts` shows it",
        Escaped(.0)
    )]
    Hangs(Vec<u8>),
}

/// A file, as it was found.
struct File {
    stat: sys::Stat,
    /// Its path without links.
    path: Vec<u8>,
}

/// Finds what is asked about, as it is seen from our own namespace.
pub fn find(asked: &OsStr, mounts: &Mounts) -> Result<Subject, SubjectError> {
    let bytes = asked.as_bytes();
    let number = str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok());
    if let Some(device) = number {
        return Ok(of_device(bytes, device, mounts));
    }
    // What is itself a mount point need not be looked at: its file system may hang.
    let plain = std::path::absolute(asked).unwrap_or_default();
    let plain = normal(&plain);
    if let Some(subject) = of_mount_point(bytes, &plain, mounts) {
        return Ok(subject);
    }
    let file = open(bytes)?;
    if let Some(device) = file.stat.block {
        return Ok(of_device(bytes, device, mounts));
    }
    if let Some(subject) = of_mount_point(bytes, &file.path, mounts) {
        return Ok(subject);
    }
    let mount = mounts
        .by_id(file.stat.mount)
        .and_then(|key| mounts.get(key));
    let place = mount.and_then(|mount| FsPath::of(mount, &file.path));
    let place = place.filter(|place| !on(mounts, place).is_empty());
    let device = mount.map_or(file.stat.device, |mount| mount.device);
    Ok(Subject {
        asked: bytes.into(),
        point: None,
        parts: vec![bare(device)],
        is_block: false,
        scope: place.map_or(Scope::All, Scope::On),
    })
}

/// The index of our own namespace.
pub fn own(mounts: &Mounts) -> Option<usize> {
    let mut link = [0; 64];
    let proc = calls::open_path(c"/proc/thread-self", libc::O_PATH | libc::O_DIRECTORY).ok()?;
    let link = calls::read_link(proc.as_fd(), c"ns/mnt", &mut link).ok()?;
    let (_, inum) = parse::namespace(link)?;
    mounts.namespace(inum)
}

/// Whether our root is that of our namespace, so that paths are what they are there.
fn is_at_root() -> bool {
    std::fs::read_link("/proc/self/root").is_ok_and(|root| root.as_os_str() == "/")
}

/// A path without slashes and dots that say nothing.
fn normal(path: &Path) -> Vec<u8> {
    let parts: Vec<&OsStr> = path.components().map(|part| part.as_os_str()).collect();
    let whole: std::path::PathBuf = parts.into_iter().collect();
    whole.as_os_str().as_bytes().to_vec()
}

/// What is mounted on a path of our namespace, if that is a mount point.
fn of_mount_point(asked: &[u8], path: &[u8], mounts: &Mounts) -> Option<Subject> {
    let ns = mounts.namespaces.get(own(mounts)?)?;
    let mount = ns.mounts.get(covering(ns, path)?)?;
    if &*mount.point != path || !is_at_root() {
        return None;
    }
    let scope = match &*mount.root {
        b"/" => Scope::All,
        _ => Scope::Part(mount.root.clone()),
    };
    Some(Subject {
        asked: asked.into(),
        point: Some(path.into()),
        parts: vec![bare(mount.device)],
        is_block: false,
        scope,
    })
}

fn bare(device: Device) -> Part {
    Part {
        device,
        name: (*b"").into(),
    }
}

/// A block device, what is made of it, and the file systems that say that they are on it.
fn of_device(asked: &[u8], device: Device, mounts: &Mounts) -> Subject {
    let is_block = devices::is_block(device);
    let mut parts = match is_block {
        true => devices::parts(device),
        false => vec![bare(device)],
    };
    // Some have numbers of their own (btrfs): their source says where they are.
    let sources = mounts
        .iter()
        .filter(|(_, mount)| mount.source.starts_with(b"/dev/"));
    for (_, mount) in sources {
        let is_known = parts.iter().any(|part| part.device == mount.device);
        if mount.device.major != 0 || is_known {
            continue;
        }
        let source = block(&mount.source);
        if source.is_some_and(|source| parts.iter().any(|part| part.device == source)) {
            parts.push(Part {
                device: mount.device,
                name: mount.fs.clone(),
            });
        }
    }
    Subject {
        asked: asked.into(),
        point: None,
        parts,
        is_block,
        scope: Scope::All,
    }
}

/// The number of a block device of a path.
fn block(path: &[u8]) -> Option<Device> {
    let path = CString::new(path).ok()?;
    let root = calls::open_path(c"/", libc::O_PATH | libc::O_DIRECTORY).ok()?;
    sys::stat(root.as_fd(), &path).ok()?.block
}

/// Looks at a file, if its file system answers.
fn open(asked: &[u8]) -> Result<File, SubjectError> {
    let error = |why: io::Error| SubjectError::Open {
        asked: asked.to_vec(),
        why: super::plain(&why),
    };
    let path = CString::new(asked).map_err(|_| error(io::ErrorKind::InvalidInput.into()))?;
    let hangs = || SubjectError::Hangs(asked.to_vec());
    let found = ask(&path).map_err(error)?.ok_or_else(hangs)?;
    if found.errno != 0 {
        return Err(error(io::Error::from_raw_os_error(found.errno)));
    }
    Ok(File {
        stat: found.stat,
        path: found.path[..found.path_len].to_vec(),
    })
}

/// What a file is, as its path leads to it from here.
pub fn look(asked: &OsStr) -> Result<Stat, SubjectError> {
    Ok(open(asked.as_bytes())?.stat)
}

/// What a child has found.
#[derive(Clone, Copy)]
#[repr(C)]
struct Answer {
    errno: i32,
    stat: Stat,
    path_len: usize,
    path: [u8; libc::PATH_MAX as usize],
}

/// Has a child look at a file: who asks a file system that does not answer cannot always be
/// killed, and a process does not end before its threads do. A child is left behind then.
fn ask(path: &CStr) -> io::Result<Option<Answer>> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: the child calls nothing but the kernel, and ends.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            // It may outlive us, and nobody is to wait for what it has open.
            // SAFETY: it has its descriptors for itself.
            unsafe {
                libc::dup2(writer.as_raw_fd(), 0);
                libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0);
            }
            let mut answer = Answer {
                errno: 0,
                stat: Stat::default(),
                path_len: 0,
                path: [0; _],
            };
            if let Err(error) = answer.fill(path) {
                answer.errno = error.raw_os_error().unwrap_or(libc::EIO);
            }
            // SAFETY: a struct that lives; it ends this process.
            unsafe {
                let from = (&raw const answer).cast();
                libc::write(0, from, size_of::<Answer>());
                libc::_exit(0);
            }
        }
        _ => {}
    }
    drop(writer);
    let mut bytes = vec![0; size_of::<Answer>()];
    let mut ready = libc::pollfd {
        fd: reader.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let is_ready = loop {
        // SAFETY: a struct that lives through the call.
        match unsafe { libc::poll(&raw mut ready, 1, PATIENCE.as_millis() as i32) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            found => break found > 0,
        }
    };
    if !is_ready || reader.read_exact(&mut bytes).is_err() {
        // SAFETY: no memory is involved.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG);
        }
        return Ok(None);
    }
    // SAFETY: it ends, or has ended.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    // SAFETY: the bytes of one, of this very program.
    Ok(Some(unsafe {
        bytes.as_ptr().cast::<Answer>().read_unaligned()
    }))
}

impl Answer {
    /// Looks; takes no memory, and no lock.
    fn fill(&mut self, path: &CStr) -> io::Result<()> {
        let file = calls::open_path(path, libc::O_PATH)?;
        self.stat = sys::stat(file.as_fd(), c"")?;
        let mut link = [0; 32];
        write!(&mut link[..], "/proc/self/fd/{}\0", file.as_raw_fd())?;
        let to = self.path.as_mut_ptr().cast();
        // SAFETY: the path ends with a NUL, and there is so much room.
        let len = unsafe { libc::readlink(link.as_ptr().cast(), to, self.path.len()) };
        self.path_len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
        Ok(())
    }
}
