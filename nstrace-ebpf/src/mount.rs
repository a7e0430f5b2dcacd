//! What a mount is, for the record of one that dies with writers or is watched.
//!
//! All by helpers: such a record is rare.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid,
        generated::{bpf_get_current_cgroup_id, bpf_get_stack, bpf_probe_read_kernel_str},
    },
};
use nstrace_common::{
    field::{Member, member},
    wire::Head,
    writers::{FRAMES, KERNEL, MountRecord, NAME, PATH, PATH_NAMES, PRIVATE},
};

use crate::read::{Raw, Reader, cpus, has, offset, per_cpu_offset, raw_current};

/// The most names of a path.
const NAMES: usize = 24;

/// `MNT_INTERNAL` of include/linux/mount.h.
const MNT_INTERNAL: u32 = 0x4000;

/// `MNT_UMOUNT` of it: what was in a namespace has it when it dies.
const MNT_UMOUNT: u32 = 0x800_0000;

/// `MNT_NS_INTERNAL` of fs/mount.h: in place of a namespace.
const NS_INTERNAL: u64 = (-22_i64) as u64;

/// The writers of a mount, over all CPUs; what cannot be told counts as none.
#[inline(always)]
pub fn writers(mount: u64) -> i32 {
    sum(mount, member::PcpWriters)
}

/// The references to a mount: one of its namespace, one of each mount on it, of each open file,
/// working directory and root.
#[inline(always)]
pub fn references(mount: u64) -> i32 {
    sum(mount, member::PcpGets).wrapping_sub(sum(mount, member::PcpPuts))
}

#[inline(always)]
fn sum<M: Member>(mount: u64, counter: M) -> i32 {
    if !has(member::MountPcp) || !has(counter) {
        return 0;
    }
    let mut sum = 0_i32;
    // SAFETY: Raw reads any address.
    unsafe {
        let base: u64 = Raw::get(mount, member::MountPcp);
        let base = base + offset(counter);
        for cpu in 0..cpus() {
            let Some(own) = per_cpu_offset(cpu) else {
                break;
            };
            sum = sum.wrapping_add(Raw::at(base, own));
        }
    }
    sum
}

/// `struct vfsmount` in a `struct mount`.
#[inline(always)]
pub fn within(mount: u64) -> u64 {
    mount + offset(member::MountMnt)
}

/// The `struct mount` around a `struct vfsmount`.
#[inline(always)]
pub fn around(vfsmount: u64) -> u64 {
    vfsmount.wrapping_sub(offset(member::MountMnt))
}

/// The open file of a descriptor of the current task. What another thread closes meanwhile is
/// read wrong.
#[inline(always)]
pub fn open_file(fd: u32) -> Option<u64> {
    if !has(member::TaskFiles) || !has(member::FilesTable) {
        return None;
    }
    if !has(member::TableFiles) || !has(member::TableMost) {
        return None;
    }
    // SAFETY: Raw reads any address.
    let file: u64 = unsafe {
        let files: u64 = Raw::get(raw_current(), member::TaskFiles);
        let table: u64 = Raw::get(files, member::FilesTable);
        if fd >= Raw::get::<u32>(table, member::TableMost) {
            return None;
        }
        let array: u64 = Raw::get(table, member::TableFiles);
        Raw::at(array, u64::from(fd) * 8)
    };
    (file != 0).then_some(file)
}

/// Its bits: see [`MountRecord::bits`].
#[inline(always)]
pub fn bits(mount: u64) -> u32 {
    // SAFETY: Raw reads any address.
    let (ns, flags): (u64, u32) = unsafe {
        (
            Raw::get(mount, member::MountNs),
            Raw::get(within(mount), member::VfsmountFlags),
        )
    };
    match (ns == NS_INTERNAL, flags & MNT_INTERNAL != 0) {
        (true, false) => PRIVATE,
        (_, true) => KERNEL,
        _ => 0,
    }
}

/// The same of one that dies, which is in no namespace any more.
#[inline(always)]
pub fn bits_at_death(bits: u32, flags: u32) -> u32 {
    match bits == 0 && flags & MNT_UMOUNT == 0 {
        true => PRIVATE,
        false => bits,
    }
}

/// The inum of its mount namespace; 0 if it is in none.
#[inline(always)]
pub fn namespace(mount: u64) -> u32 {
    // SAFETY: as above.
    unsafe {
        let ns: u64 = Raw::get(mount, member::MountNs);
        match ns == 0 || ns == NS_INTERNAL {
            true => 0,
            false => Raw::get(ns, member::MntInum),
        }
    }
}

/// The address of its file system.
#[inline(always)]
pub fn file_system(mount: u64) -> u64 {
    // SAFETY: as above.
    unsafe { Raw::get(within(mount), member::VfsmountSb) }
}

/// The number of a mount that is never given again; 0 before v6.8.
///
/// # Safety
///
/// `mount` must be one, as `R` reads it.
#[inline(always)]
pub unsafe fn unique<R: Reader>(mount: u64) -> u64 {
    match has(member::MountUnique) {
        // SAFETY: the caller's.
        true => unsafe { R::get(mount, member::MountUnique) },
        false => 0,
    }
}

/// Reads the name of a type of file system.
#[inline(always)]
pub fn type_name<const N: usize>(file_system: u64, name: &mut [u8; N]) {
    // SAFETY: as above; the helper writes no more than there is room for.
    unsafe {
        let ty: u64 = Raw::get(file_system, member::SbType);
        let from: u64 = Raw::get(ty, member::FsTypeName);
        bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), N as u32, from as *const _);
    }
}

/// The inode number of its root.
#[inline(always)]
pub fn root_ino(mount: u64) -> u64 {
    // SAFETY: as above.
    unsafe {
        let root: u64 = Raw::get(within(mount), member::VfsmountRoot);
        let inode: u64 = Raw::get(root, member::DentryInode);
        Raw::get(inode, member::InodeNumber)
    }
}

/// Fills in what is to be said of a mount, but for `count`, `point` and `frames`.
///
/// # Safety
///
/// `record` must be in a map.
#[inline(always)]
pub unsafe fn describe(record: *mut MountRecord, head: Head, mount: u64) {
    // SAFETY: Raw reads any address, and each member is written as what it is.
    unsafe {
        let vfsmount = within(mount);
        let file_system = file_system(mount);
        let ids = bpf_get_current_pid_tgid();
        (*record).head = head;
        (*record).address = mount;
        (*record).since = 0;
        (*record).unique = unique::<Raw>(mount);
        (*record).cgroup = bpf_get_current_cgroup_id();
        (*record).root_ino = root_ino(mount);
        (*record).id = Raw::get(mount, member::MountId);
        (*record).dev = Raw::get(file_system, member::SbDev);
        (*record).flags = Raw::get(vfsmount, member::VfsmountFlags);
        (*record).ns = namespace(mount);
        (*record).bits = bits(mount);
        (*record).pid = (ids >> 32) as u32;
        (*record).tid = ids as u32;
        (*record).comm = bpf_get_current_comm().unwrap_or_default();
        (*record).fs = [0; 16];
        type_name(file_system, &mut (*record).fs);
        let source: u64 = Raw::get(mount, member::MountDevname);
        (*record).source[0] = 0;
        bpf_probe_read_kernel_str((*record).source.as_mut_ptr().cast(), 64, source as *const _);
        let root: u64 = Raw::get(vfsmount, member::VfsmountRoot);
        path::<false>(&mut (*record).root, &raw mut (*record).pad, root, 0);
        (*record).point[0] = 0;
        (*record).pad = 0;
    }
}

/// Whether a mount is mounted on another.
#[inline(always)]
pub fn is_on_another(mount: u64) -> bool {
    // SAFETY: Raw reads any address.
    unsafe { Raw::get::<u64>(mount, member::MountParent) != mount }
}

/// Writes where a mount is that [`is_on_another`], in a namespace. `length` is a place to work
/// in.
///
/// # Safety
///
/// `point` and `length` must be in a map.
#[inline(always)]
pub unsafe fn point(point: &mut [u8; PATH], length: *mut u32, mount: u64) {
    // SAFETY: Raw reads any address.
    unsafe {
        let parent: u64 = Raw::get(mount, member::MountParent);
        path::<true>(point, length, Raw::get(mount, member::MountPoint), parent);
    }
}

/// Writes the names of a path, the last first: up to the root of the file system, or, if it
/// crosses to the mount that the one which it is in is mounted on, to that of its namespace.
///
/// `length` is in a map, where the length is kept meanwhile: of what it reads there the verifier
/// knows nothing, so that each turn begins like the one before, and it need not follow all ways
/// in which several can be passed through. For the same reason there is no branch on whether a
/// turn goes up to the mount above: it reads a name all the same, which the next one overwrites.
#[inline(always)]
unsafe fn path<const CROSSES: bool>(
    out: &mut [u8; PATH],
    length: *mut u32,
    dentry: u64,
    mount: u64,
) {
    let (mut dentry, mut mount) = (dentry, mount);
    let mut at = 0_usize;
    // SAFETY: Raw reads any address; the helper writes no more than is left.
    unsafe {
        for _ in 0..NAMES {
            let (mut above, mut to, mut goes_up) = (Raw::get(dentry, member::DentryParent), 0, 0);
            if CROSSES {
                goes_up = same(dentry, Raw::get(within(mount), member::VfsmountRoot));
                above = select(goes_up, Raw::get(mount, member::MountPoint), above);
                to = select(goes_up, Raw::get(mount, member::MountParent), mount);
            }
            // The root of all is above itself; one that is mounted on itself is in another mount.
            if same(above, dentry) & same(to, mount) != 0 || at >= PATH_NAMES {
                break;
            }
            let name: u64 = Raw::get(dentry, member::DentryName);
            // Else the compiler may mask one register and compare another.
            asm!("{0} = {0}", inout(reg) at);
            let free = out.as_mut_ptr().add(at & (PATH_NAMES - 1));
            let len = bpf_probe_read_kernel_str(free.cast(), NAME as u32, name as *const _);
            if len <= 0 || len > NAME as i64 {
                break;
            }
            let len = select(goes_up, 0, len as u64);
            core::ptr::write_volatile(length, (at as u64 + len) as u32);
            at = core::ptr::read_volatile(length) as usize;
            (dentry, mount) = (above, to);
        }
        // The end, whatever was there before.
        asm!("{0} = {0}", inout(reg) at);
        if at < PATH {
            out[at] = 0;
        }
    }
}

/// All bits if two are the same, else none; the compiler does not see that it is one of two.
#[inline(always)]
fn same(one: u64, other: u64) -> u64 {
    let differs = one ^ other;
    let mut sign = differs | differs.wrapping_neg();
    // SAFETY: nothing is done.
    unsafe { asm!("{0} = {0}", inout(reg) sign, options(pure, nomem, nostack)) };
    (sign >> 63).wrapping_sub(1)
}

/// One of two, by all bits or none.
#[inline(always)]
fn select(mask: u64, one: u64, other: u64) -> u64 {
    one & mask | other & !mask
}

/// Takes the kernel stack down; gives how many frames there are.
#[inline(always)]
pub fn stack<C: EbpfContext>(context: &C, frames: &mut [u64; FRAMES]) -> u32 {
    const LEN: u32 = 8 * FRAMES as u32;
    // SAFETY: the helper writes no more than there is room for.
    let len = unsafe { bpf_get_stack(context.as_ptr(), frames.as_mut_ptr().cast(), LEN, 0) };
    match len {
        1..=0x7fff_ffff => (len as u32).min(LEN) / 8,
        _ => 0,
    }
}
