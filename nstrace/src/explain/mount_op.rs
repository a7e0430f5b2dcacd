//! Why a mount operation failed, in words; as of operations, only where it is certain.

use std::fmt;

use nstrace_common::mount_ops::{
    Call, HAS_MOUNTS, IS_FOREIGN, IS_LOCKED, IS_NO_ROOT, IS_POWERLESS,
};

use super::{EAGAIN, EINVAL, EPERM};
use crate::{
    mount_ops::{How, MountOp, What},
    render::escape::Escaped,
};

const ENOTBLK: i32 = 15;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;

/// Why a mount operation failed. It prints itself as one short sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountReason<'a> {
    /// The caller may not mount: its mount namespace belongs to this user namespace.
    NoCapability(u32),
    /// What was to be unmounted is not the root of a mount.
    NoMountPoint,
    /// It is in another mount namespace.
    Foreign,
    /// It is locked to the mounts above it.
    Locked,
    /// Other mounts are on it.
    HasMounts,
    /// It is in use.
    InUse,
    /// It was only marked.
    Marked,
    /// There is no such type of file systems.
    NoFileSystem(&'a [u8]),
    /// What was to be mounted is no block device.
    NoDevice(&'a [u8]),
    /// Somebody writes to it.
    Written,
}

/// Why a mount operation failed, if that is certain. The order of the checks is that of
/// v6.12 fs/namespace.c.
pub fn explain_mount<'a>(op: &MountOp<'a>) -> Option<MountReason<'a>> {
    let errno = op.errno()?;
    // may_mount
    if errno == EPERM && op.found(IS_POWERLESS) {
        return Some(MountReason::NoCapability(op.record.owner));
    }
    match op.call {
        Call::Umount => unmount(op, errno),
        Call::Mount => mount(op, errno),
        // fs_context.c, fsopen: get_fs_type
        Call::Fsopen if errno == ENODEV => Some(MountReason::NoFileSystem(op.fs())),
        Call::Fsconfig if errno == ENOTBLK => op.source().given.map(MountReason::NoDevice),
        _ => None,
    }
}

/// can_umount, do_umount
fn unmount<'a>(op: &MountOp, errno: i32) -> Option<MountReason<'a>> {
    Some(match errno {
        EINVAL if op.found(IS_NO_ROOT) => MountReason::NoMountPoint,
        EINVAL if op.found(IS_FOREIGN) => MountReason::Foreign,
        EINVAL if op.found(IS_LOCKED) => MountReason::Locked,
        EBUSY if op.how() == How::Lazily => return None,
        EBUSY if op.found(HAS_MOUNTS) => MountReason::HasMounts,
        EBUSY if op.target().is_found() => MountReason::InUse,
        EAGAIN if op.how() == How::Expired => MountReason::Marked,
        _ => return None,
    })
}

/// do_new_mount, get_tree_bdev, mnt_make_readonly
fn mount<'a>(op: &MountOp<'a>, errno: i32) -> Option<MountReason<'a>> {
    match (op.what()?, errno) {
        (What::New, ENODEV) if !op.fs().is_empty() => Some(MountReason::NoFileSystem(op.fs())),
        (What::New, ENOTBLK) => op.source().given.map(MountReason::NoDevice),
        (What::Remount | What::BindRemount, EBUSY) if op.options().next() == Some("ro") => {
            Some(MountReason::Written)
        }
        _ => None,
    }
}

impl fmt::Display for MountReason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            MountReason::NoCapability(owner) => write!(f, "no CAP_SYS_ADMIN in user:{owner}"),
            MountReason::NoMountPoint => f.write_str("nothing is mounted there"),
            MountReason::Foreign => f.write_str("it is mounted in another mount namespace"),
            MountReason::Locked => f.write_str(
                "it is locked: it came with others from a mount namespace of more privilege",
            ),
            MountReason::HasMounts => f.write_str("other mounts are on it"),
            MountReason::InUse => f.write_str(
                "it is in use: a file of it is open, or a task is in it (or in a mount that \
                 would go with it)",
            ),
            MountReason::Marked => f.write_str(
                "it is marked from here on: asked again, it is unmounted unless it was used",
            ),
            MountReason::NoFileSystem(fs) => {
                write!(f, "this kernel has no file system {}", Escaped(fs))
            }
            MountReason::NoDevice(source) => {
                write!(f, "{} is no block device", Escaped(source))
            }
            MountReason::Written => {
                f.write_str("it has writers: open files, or what nstrace writers --now tells")
            }
        }
    }
}
