//! The system calls that tell of mounts, one function each; others are in
//! [`crate::kernel::snapshot`].

use std::{
    ffi::{CStr, c_int, c_long, c_uint},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use crate::mounts::Device;

/// The same numbers on all machines but alpha. From v6.8.
const SYS_STATMOUNT: c_long = 457;
const SYS_LISTMOUNT: c_long = 458;

/// `_IOR(0xb7, 5, __u64)` of include/uapi/linux/nsfs.h, from v6.11.
const NS_GET_MNTNS_ID: u32 = 0x8008_b705;
/// `_IOR(0xb7, 11, struct mnt_ns_info)` and `_IOR(0xb7, 12, …)`, from v6.12.
const NS_MNT_GET_NEXT: u32 = 0x8010_b70b;
const NS_MNT_GET_PREV: u32 = 0x8010_b70c;

/// `struct mnt_id_req` of include/uapi/linux/mount.h, as of v6.11.
#[repr(C)]
struct MntIdReq {
    size: u32,
    spare: u32,
    mnt_id: u64,
    param: u64,
    mnt_ns_id: u64,
}

impl MntIdReq {
    fn new(mnt_id: u64, param: u64, mnt_ns_id: u64) -> MntIdReq {
        const SIZE: u32 = size_of::<MntIdReq>() as u32;
        MntIdReq {
            size: SIZE,
            spare: 0,
            mnt_id,
            param,
            mnt_ns_id,
        }
    }
}

/// What is told of a mount goes into the buffer: `struct statmount`, and strings behind it.
/// `EOVERFLOW` says that it does not fit. 0 stands for the caller's own namespace.
pub fn statmount(ns: u64, mount: u64, mask: u64, buf: &mut [u8]) -> io::Result<()> {
    let request = MntIdReq::new(mount, mask, ns);
    let (to, len) = (buf.as_mut_ptr(), buf.len());
    // SAFETY: a struct of the size it names, and a buffer of that length.
    let ret = unsafe { libc::syscall(SYS_STATMOUNT, &raw const request, to, len, 0_u32) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The unique ids of the mounts below one that come after an id, in order; none at the end.
pub fn listmount(ns: u64, below: u64, after: u64, ids: &mut [u64]) -> io::Result<usize> {
    let request = MntIdReq::new(below, after, ns);
    let (to, len) = (ids.as_mut_ptr(), ids.len());
    // SAFETY: a struct of the size it names, and a buffer of that length.
    let len = unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, to, len, 0_u32) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// The id of a mount namespace.
pub fn mount_ns_id(ns: BorrowedFd) -> io::Result<u64> {
    let mut id = 0_u64;
    let request = NS_GET_MNTNS_ID as libc::Ioctl;
    // SAFETY: it writes a u64.
    let ret = unsafe { libc::ioctl(ns.as_raw_fd(), request, &raw mut id) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(id)
}

/// The mount namespace that was made after one, or before it, of those that we may see.
pub fn next_mount_ns(ns: BorrowedFd, is_later: bool) -> io::Result<OwnedFd> {
    /// `struct mnt_ns_info`.
    #[repr(C)]
    struct MntNsInfo {
        size: u32,
        nr_mounts: u32,
        mnt_ns_id: u64,
    }
    const SIZE: u32 = size_of::<MntNsInfo>() as u32;
    let mut info = MntNsInfo {
        size: SIZE,
        nr_mounts: 0,
        mnt_ns_id: 0,
    };
    let request = match is_later {
        true => NS_MNT_GET_NEXT,
        false => NS_MNT_GET_PREV,
    };
    // SAFETY: it writes a struct of that size.
    let fd = unsafe { libc::ioctl(ns.as_raw_fd(), request as libc::Ioctl, &raw mut info) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has given it to us just now; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The id of the mount that it is seen through; 0 before v5.8.
    pub mount: u32,
    /// Its file system, as stat(2) has it: of some, that of a part of it (subvolumes of
    /// btrfs).
    pub device: Device,
    /// Its inode number.
    pub ino: u64,
    /// If it is a block device, which.
    pub block: Option<Device>,
    /// Whether it is a character device.
    pub is_character: bool,
    /// Whether it is a file that has contents.
    pub is_file: bool,
}

/// Asks what the file of a path is, or an open one if there is no path. Follows links, also
/// those of proc; does not ask the file system for what is not known without it (a daemon of
/// FUSE).
pub fn stat(dir: BorrowedFd, path: &CStr) -> io::Result<Stat> {
    const MOUNT: c_uint = libc::STATX_MNT_ID;
    let stat = statx(dir, path, MOUNT | libc::STATX_TYPE | libc::STATX_INO)?;
    let kind = u32::from(stat.stx_mode) & libc::S_IFMT;
    let is_block = kind == libc::S_IFBLK;
    let has_mount = stat.stx_mask & MOUNT != 0;
    let device = |major, minor| Device { major, minor };
    Ok(Stat {
        mount: match has_mount {
            true => u32::try_from(stat.stx_mnt_id).unwrap_or(0),
            false => 0,
        },
        device: device(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        block: is_block.then(|| device(stat.stx_rdev_major, stat.stx_rdev_minor)),
        is_character: kind == libc::S_IFCHR,
        is_file: kind == libc::S_IFREG,
    })
}

/// Asks through which mount an open file is seen: the id that no other has, from v6.8.
pub fn unique_mount(fd: BorrowedFd) -> Option<u64> {
    const WANTED: c_uint = libc::STATX_MNT_ID_UNIQUE;
    let stat = statx(fd, c"", WANTED).ok()?;
    (stat.stx_mask & WANTED != 0).then_some(stat.stx_mnt_id)
}

fn statx(dir: BorrowedFd, path: &CStr, mask: c_uint) -> io::Result<libc::statx> {
    // SAFETY: a struct of integers, for which 0 is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags: c_int = libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    let (fd, to) = (dir.as_raw_fd(), &raw mut stat);
    // SAFETY: a C string and a struct that live through the call.
    let ret = unsafe { libc::statx(fd, path.as_ptr(), flags, mask, to) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat)
}

/// A file in memory that has no name, of pages of a size, or of the usual one.
pub fn memfd(huge_page_bytes: Option<u64>) -> io::Result<OwnedFd> {
    let huge = huge_page_bytes.map_or(0, |bytes| {
        libc::MFD_HUGETLB | bytes.trailing_zeros() << libc::MAP_HUGE_SHIFT
    });
    // SAFETY: a C string that lives through the call.
    let fd = unsafe { libc::memfd_create(c"".as_ptr(), libc::MFD_CLOEXEC | huge) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has given it to us just now; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The file that a socket is bound to, opened for a look.
pub fn socket_file(socket: BorrowedFd) -> io::Result<OwnedFd> {
    /// include/uapi/linux/un.h.
    const SIOCUNIXFILE: u32 = 0x89e0;
    // SAFETY: the request has no argument.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE as libc::Ioctl) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has given it to us just now; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fs {
    /// Its type: include/uapi/linux/magic.h.
    pub magic: u64,
    /// How many bytes are taken.
    pub used: u64,
}

/// Asks the file system of an open file, which may not answer.
pub fn fs(fd: BorrowedFd) -> io::Result<Fs> {
    // SAFETY: a struct of integers, for which 0 is a value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a struct that lives through the call.
    let ret = unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut stat) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    let block = u64::try_from(stat.f_bsize).unwrap_or(0);
    Ok(Fs {
        magic: u64::try_from(stat.f_type).unwrap_or(0),
        used: stat
            .f_blocks
            .saturating_sub(stat.f_bfree)
            .saturating_mul(block),
    })
}
