//! The system calls of a snapshot, one function each.
//!
//! A snapshot makes some twenty calls for each task, most of them relative to an open
//! directory and into the caller's buffer; what `std` has for it would allocate each time.

use std::{
    ffi::{CStr, c_int, c_long, c_uint},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

/// include/uapi/linux/magic.h.
pub const PROC_MAGIC: u64 = 0x9fa0;

/// `_IO(0xb7, 1)` of include/uapi/linux/nsfs.h.
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;
/// `_IOR(0xb7, 13, __u64)`, from v6.18.
const NS_GET_ID: u32 = 0x8008_b70d;
/// include/uapi/linux/sockios.h.
const SIOCGSKNS: u32 = 0x894c;

/// Whether what was looked at has ended meanwhile, or never was.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn check(ret: c_int) -> io::Result<c_int> {
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

fn check_len(ret: isize) -> io::Result<usize> {
    usize::try_from(ret).map_err(|_| io::Error::last_os_error())
}

/// A descriptor that a system call has just given, or its error.
fn owned(ret: c_long) -> io::Result<OwnedFd> {
    let fd = c_int::try_from(ret).map_err(|_| io::ErrorKind::InvalidData)?;
    let fd = check(fd)?;
    // SAFETY: the kernel has given it to us just now; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a file; `O_CLOEXEC` and `O_NONBLOCK` are implied.
pub fn open(dir: BorrowedFd, path: &CStr, flags: c_int) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: a C string that lives through the call.
    let fd = unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), flags) };
    owned(fd.into())
}

/// Opens a file of an absolute path.
pub fn open_path(path: &CStr, flags: c_int) -> io::Result<OwnedFd> {
    // SAFETY: a C string that lives through the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    owned(fd.into())
}

/// Opens a file for a look at what it is, below a root that others may rearrange: without
/// following links of any kind, and without asking a file system for what the kernel does
/// not have in its cache, which may not answer (a daemon of FUSE).
pub fn look_below(root: BorrowedFd, path: &CStr) -> io::Result<OwnedFd> {
    match openat2_cached(root, path, BELOW) {
        // Before v5.12 the last of these is not known.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => openat2(root, path, BELOW),
        result => result,
    }
}

/// The same; before v5.12 nothing is opened.
pub fn cached_below(root: BorrowedFd, path: &CStr) -> io::Result<OwnedFd> {
    openat2_cached(root, path, BELOW)
}

/// The same, but file systems are asked: those of the kernel, which have to be (sysfs), and those
/// that may not answer.
pub fn ask_below(root: BorrowedFd, path: &CStr) -> io::Result<OwnedFd> {
    openat2(root, path, BELOW)
}

const BELOW: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;

/// Opens it from the cache. Who renames or mounts meanwhile can make that fail (`EAGAIN`).
fn openat2_cached(root: BorrowedFd, path: &CStr, resolve: u64) -> io::Result<OwnedFd> {
    const TRIES: usize = 4;
    let mut result = Err(io::ErrorKind::WouldBlock.into());
    for _ in 0..TRIES {
        result = openat2(root, path, resolve | libc::RESOLVE_CACHED);
        if !matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EAGAIN)) {
            break;
        }
    }
    result
}

fn openat2(root: BorrowedFd, path: &CStr, resolve: u64) -> io::Result<OwnedFd> {
    /// `struct open_how` of include/uapi/linux/openat2.h.
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    const FLAGS: u64 = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    let how = OpenHow {
        flags: FLAGS,
        mode: 0,
        resolve,
    };
    // SAFETY: a C string and a struct of the given size that live through the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    };
    owned(fd)
}

/// Reads a symbolic link, cut to the buffer.
pub fn read_link<'a>(dir: BorrowedFd, path: &CStr, buf: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let (to, len) = (buf.as_mut_ptr().cast(), buf.len());
    // SAFETY: a C string, and a buffer of that length.
    let len = unsafe { libc::readlinkat(dir.as_raw_fd(), path.as_ptr(), to, len) };
    let len = check_len(len)?;
    Ok(&buf[..len])
}

/// Reads from an open file.
pub fn read(fd: BorrowedFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: a buffer of that length.
    let len = unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    check_len(len)
}

/// Reads a file's beginning, at most one buffer: files of proc give as much as fits at once.
pub fn read_file<'a>(dir: BorrowedFd, path: &CStr, buf: &'a mut [u8]) -> io::Result<&'a [u8]> {
    use std::os::fd::AsFd as _;
    let file = open(dir, path, libc::O_RDONLY)?;
    let len = read(file.as_fd(), buf)?;
    Ok(&buf[..len])
}

/// Reads entries of a directory (`struct linux_dirent64`); 0 at its end.
pub fn read_dir(dir: BorrowedFd, buf: &mut [u8]) -> io::Result<usize> {
    let (fd, to, len) = (dir.as_raw_fd(), buf.as_mut_ptr(), buf.len());
    // SAFETY: a buffer of that length.
    let len = unsafe { libc::syscall(libc::SYS_getdents64, fd, to, len) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Major and minor number of its file system.
    pub device: (u32, u32),
    /// Its number there.
    pub ino: u64,
}

/// Tells which file an open one is, without asking its file system, which may not answer
/// (a daemon of FUSE answers fstat and fstatfs).
pub fn identity(fd: BorrowedFd) -> io::Result<Identity> {
    // SAFETY: a struct of integers, for which 0 is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    let (fd, mask) = (fd.as_raw_fd(), libc::STATX_INO);
    // SAFETY: a C string and a struct that live through the call.
    check(unsafe { libc::statx(fd, c"".as_ptr(), flags, mask, &raw mut stat) })?;
    Ok(Identity {
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
    })
}

/// What the file of a path is, without following a link at its end.
pub fn stat_at(dir: BorrowedFd, path: &CStr, flags: c_int) -> io::Result<libc::stat> {
    // SAFETY: a struct of integers, for which 0 is a value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let flags = flags | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: a C string and a struct that live through the call.
    check(unsafe { libc::fstatat(dir.as_raw_fd(), path.as_ptr(), &raw mut stat, flags) })?;
    Ok(stat)
}

/// The magic number of a file's file system.
pub fn magic(fd: BorrowedFd) -> io::Result<u64> {
    // SAFETY: a struct of integers, for which 0 is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a struct that lives through the call.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut stat) })?;
    u64::try_from(stat.f_type).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// An ioctl that takes nothing.
fn ioctl(fd: BorrowedFd, request: u32) -> io::Result<c_int> {
    // SAFETY: the requests of this module without an argument read and write no memory.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl) })
}

/// The parent of a pid or user namespace.
pub fn ns_parent(ns: BorrowedFd) -> io::Result<OwnedFd> {
    owned(ioctl(ns, NS_GET_PARENT)?.into())
}

/// The user namespace that owns a namespace.
pub fn ns_owner(ns: BorrowedFd) -> io::Result<OwnedFd> {
    owned(ioctl(ns, NS_GET_USERNS)?.into())
}

/// The `CLONE_NEW*` flag of a namespace's kind.
pub fn ns_type(ns: BorrowedFd) -> io::Result<u64> {
    let flag = ioctl(ns, NS_GET_NSTYPE)?;
    u64::try_from(flag).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// A namespace's id.
pub fn ns_id(ns: BorrowedFd) -> io::Result<u64> {
    let mut id = 0_u64;
    let request = NS_GET_ID as libc::Ioctl;
    // SAFETY: it writes a u64.
    check(unsafe { libc::ioctl(ns.as_raw_fd(), request, &raw mut id) })?;
    Ok(id)
}

/// The uid of a user namespace's owner, as the reader's user namespace has it.
pub fn ns_owner_uid(ns: BorrowedFd) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    let request = NS_GET_OWNER_UID as libc::Ioctl;
    // SAFETY: it writes a uid_t.
    check(unsafe { libc::ioctl(ns.as_raw_fd(), request, &raw mut uid) })?;
    Ok(uid)
}

/// The net namespace of a socket.
pub fn socket_net_ns(socket: BorrowedFd) -> io::Result<OwnedFd> {
    owned(ioctl(socket, SIOCGSKNS)?.into())
}

/// A task, so that its descriptors can be had. A thread that leads no process can be opened
/// since v6.9.
pub fn pidfd_open(tid: u32, is_thread: bool) -> io::Result<OwnedFd> {
    let flags = if is_thread { libc::PIDFD_THREAD } else { 0 };
    // SAFETY: it takes numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, tid, flags) })
}

/// A copy of a task's descriptor.
pub fn pidfd_getfd(task: BorrowedFd, fd: u32) -> io::Result<OwnedFd> {
    // SAFETY: it takes numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, task.as_raw_fd(), fd, 0_u32) })
}

/// What two tasks can have in common: `enum kcmp_type` of include/uapi/linux/kcmp.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// The table of open files.
    Files = 2,
    /// Root and working directory.
    Fs = 3,
}

/// Whether two tasks have that in common.
pub fn has_same(what: Shared, one: u32, other: u32) -> io::Result<bool> {
    let what = what as c_int;
    // SAFETY: it takes numbers.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, what, 0_u64, 0_u64) };
    if order < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(order == 0)
}

/// Whether two descriptors of tasks are of one open file, or which comes first: there is an
/// order among all.
pub fn compare_files(one: (u32, u32), other: (u32, u32)) -> io::Result<std::cmp::Ordering> {
    use std::cmp::Ordering;
    /// `enum kcmp_type`.
    const KCMP_FILE: c_int = 0;
    let ((task, file), (other, its)) = (one, other);
    let (file, its) = (u64::from(file), u64::from(its));
    // SAFETY: it takes numbers.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, task, other, KCMP_FILE, file, its) };
    match order {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        2 => Ok(Ordering::Greater),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives this thread a root and a working directory of its own.
pub fn unshare_fs() -> io::Result<()> {
    // SAFETY: it takes a number, and concerns this thread's paths only.
    check(unsafe { libc::unshare(libc::CLONE_FS) }).map(|_| ())
}

/// Takes this thread into a mount namespace.
pub fn enter_mount_ns(ns: BorrowedFd) -> io::Result<()> {
    // SAFETY: it takes numbers, and concerns this thread's paths only.
    check(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNS) }).map(|_| ())
}

/// The ids of the namespaces that are in use and whose id is above `after`, in order, from
/// v6.19. None at the end.
pub fn list_namespaces(after: u64, ids: &mut [u64]) -> io::Result<usize> {
    /// The same number on all machines but alpha.
    const SYS_LISTNS: c_long = 470;
    /// `struct ns_id_req` of include/uapi/linux/nsfs.h; 0 stands for all.
    #[repr(C)]
    struct NsIdReq {
        size: u32,
        spare: u32,
        ns_id: u64,
        ns_type: u32,
        spare2: u32,
        user_ns_id: u64,
    }
    const SIZE: u32 = size_of::<NsIdReq>() as u32;
    let request = NsIdReq {
        size: SIZE,
        spare: 0,
        ns_id: after,
        ns_type: 0,
        spare2: 0,
        user_ns_id: 0,
    };
    let (to, len) = (ids.as_mut_ptr(), ids.len());
    // SAFETY: a struct of the size it names, and a buffer of that length.
    let len = unsafe { libc::syscall(SYS_LISTNS, &raw const request, to, len, 0_u32) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Opens the namespace of an id, from v6.18.
pub fn open_namespace(id: u64) -> io::Result<OwnedFd> {
    /// Of include/uapi/linux/fcntl.h.
    const FD_NSFS_ROOT: c_int = -10003;
    /// `FILEID_NSFS` of include/linux/exportfs.h.
    const FILEID_NSFS: c_int = 0xf1;
    /// `struct file_handle` with `struct nsfs_file_handle`; 0 stands for what is not known.
    #[repr(C)]
    struct Handle {
        bytes: c_uint,
        kind: c_int,
        id: u64,
        ns_type: u32,
        inum: u32,
    }
    let handle = Handle {
        bytes: 16,
        kind: FILEID_NSFS,
        id,
        ns_type: 0,
        inum: 0,
    };
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a handle of the length that it names.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            FD_NSFS_ROOT,
            &raw const handle,
            flags,
        )
    };
    owned(fd)
}

/// What to subtract from `CLOCK_BOOTTIME` for `CLOCK_MONOTONIC`, in ns: for how long the
/// machine was suspended.
pub fn suspended_ns() -> u64 {
    // Between the two readings time passes, more than once if this thread must wait.
    let readings = (0..5).map(|_| {
        let monotonic = crate::kernel::clock::monotonic_ns();
        boottime_ns().saturating_sub(monotonic)
    });
    readings.min().unwrap_or(0)
}

fn boottime_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let to = ptr::from_mut(&mut time);
    // SAFETY: a valid pointer. It cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, to) };
    let whole = u64::try_from(time.tv_sec).unwrap_or(0);
    whole * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
