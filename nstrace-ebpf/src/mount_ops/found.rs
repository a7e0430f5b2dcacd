//! What the kernel has of mounts and paths, for the record of an operation.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user_str};
use nstrace_common::{
    field::{Member, member},
    mount_ops::{Found, NAME, PATH, PathNames},
};

use super::Gathered;
use crate::{
    mount,
    read::{Raw, Reader, Word, has, offset},
};

/// Reads a string of the user's; gives its length with its NUL, or 0 if it cannot be read.
/// For an empty one the helper gives 0 (v6.12 mm/maccess.c, strncpy_from_user_nofault).
#[inline(always)]
pub(super) unsafe fn user_str<const N: usize>(into: &mut [u8; N], at: u64) -> u16 {
    // SAFETY: the helper checks the address, and writes so many bytes at most.
    let len =
        unsafe { bpf_probe_read_user_str(into.as_mut_ptr().cast(), N as u32, at as *const _) };
    match len {
        ..0 => 0,
        0 => 1,
        len => len as u16,
    }
}

/// The same of the kernel's.
#[inline(always)]
pub(super) unsafe fn kernel_str<const N: usize>(into: &mut [u8; N], at: u64) -> u16 {
    // SAFETY: as above.
    let len =
        unsafe { bpf_probe_read_kernel_str(into.as_mut_ptr().cast(), N as u32, at as *const _) };
    if len > 0 { len as u16 } else { 0 }
}

/// Notes what the descriptor is that an operation is about.
#[inline(always)]
pub(super) fn descriptor(op: &mut Gathered) {
    let Some(file) = mount::open_file(op.record.target_fd as u32) else {
        return;
    };
    if !has(member::FileMnt) || !has(member::FileDentry) {
        return;
    }
    // SAFETY: Raw reads any address.
    let (vfsmount, dentry): (u64, u64) = unsafe {
        (
            Raw::get(file, member::FileMnt),
            Raw::get(file, member::FileDentry),
        )
    };
    let mount = mount::around(vfsmount);
    about(op, mount);
    path(&mut op.record.target_path, mount, dentry);
}

/// The mount and the dentry of a `struct path`.
#[inline(always)]
pub(super) fn place(path: u64) -> (u64, u64) {
    // SAFETY: Raw reads any address.
    unsafe {
        (
            mount::around(Raw::get(path, member::PathMnt)),
            Raw::get(path, member::PathDentry),
        )
    }
}

/// A member of the `struct vfsmount` in a `struct mount`.
#[inline(always)]
pub(super) unsafe fn vfs<T: Word>(mount: u64, member: impl Member) -> T {
    // SAFETY: Raw reads any address.
    unsafe { Raw::get(mount::within(mount), member) }
}

/// Notes which mount an operation is about.
#[inline(never)]
pub(super) fn about(op: &mut Gathered, mount: u64) -> u32 {
    op.mount = mount;
    let record = &mut op.record;
    let file_system = mount::file_system(mount);
    // SAFETY: Raw reads any address.
    unsafe {
        record.id = Raw::get(mount, member::MountId);
        record.unique = mount::unique::<Raw>(mount);
        record.dev = Raw::get(file_system, member::SbDev);
    }
    record.ns = mount::namespace(mount);
    mount::type_name(file_system, &mut record.fs);
    0
}

/// So many names and mount points of a path are followed.
const DEPTH: usize = 48;

/// Notes a path, from its end to the root of the mount namespace. Its length is kept in
/// memory, as what `way` counts.
#[inline(never)]
pub(super) fn path(into: &mut PathNames, mount: u64, dentry: u64) -> u32 {
    let (mut mount, mut dentry) = (mount, dentry);
    into.len = 0;
    into.found = Found::Cut as u32;
    for _ in 0..DEPTH {
        // SAFETY: Raw reads any address; the helper checks what it reads, and writes within
        // the names.
        unsafe {
            let root: u64 = vfs(mount, member::VfsmountRoot);
            if dentry == root {
                let parent: u64 = Raw::get(mount, member::MountParent);
                if parent == mount {
                    into.found = Found::Whole as u32;
                    break;
                }
                dentry = Raw::get(mount, member::MountPoint);
                mount = parent;
                continue;
            }
            let parent: u64 = Raw::get(dentry, member::DentryParent);
            if parent == dentry || parent == 0 {
                into.found = Found::Loose as u32;
                break;
            }
            let len = core::ptr::read_volatile(&raw const into.len);
            if len as usize > PATH - NAME {
                break;
            }
            let name: u64 = Raw::get(dentry, member::DentryName);
            let at = into.names.as_mut_ptr().add(len as usize);
            let read = bpf_probe_read_kernel_str(at.cast(), NAME as u32, name as *const _);
            if read <= 0 {
                break;
            }
            core::ptr::write_volatile(&raw mut into.len, len + read as u32);
            dentry = parent;
        }
    }
    0
}

/// The mount that was last mounted at a place: the children of a mount are in that order.
#[inline(always)]
pub(super) fn newest(parent: u64, dentry: u64) -> u64 {
    if parent == 0 || !has(member::MountMounts) || !has(member::MountChild) {
        return 0;
    }
    // SAFETY: Raw reads any address. struct list_head { struct list_head *next, *prev; }
    unsafe {
        let head = parent + offset(member::MountMounts);
        let mut at: u64 = Raw::at(head, 8);
        for _ in 0..8 {
            if at == head || at == 0 {
                break;
            }
            let mount = at - offset(member::MountChild);
            if Raw::get::<u64>(mount, member::MountPoint) == dentry {
                return mount;
            }
            at = Raw::at(at, 8);
        }
        0
    }
}
