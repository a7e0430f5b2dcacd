//! The functions on the way of a mount operation: what each tells of it.

use nstrace_common::{
    field::member,
    flags::CLONE_NEWNS,
    mount_ops::{
        BIRTHS, Birth, Call, HAS_MOUNTS, IS_FOREIGN, IS_LOCKED, IS_NO_ROOT, TAKEN_MORE, TAKEN_MOST,
    },
};

use super::{
    Gathered, MNT_LOCKED, MS_BIND, MS_PROPAGATION, MS_REMOUNT, caller_ns, clear, finish, flush,
    found::{about, kernel_str, path, place, vfs},
    mine, mine_of, new, tells_births,
};
use crate::{
    mount,
    read::{Entry, Exit, Raw, Reader, errno, has, offset},
};

/// `struct mount *clone_mnt(struct mount *old, struct dentry *root, int flag)`, called.
#[inline(always)]
pub fn clone_mnt<C: Entry>(context: &C) {
    let Some(op) = mine() else { return };
    let old = context.arg(0);
    // SAFETY: the function's argument.
    unsafe {
        op.cloned.id = C::Args::get(old, member::MountId);
        op.cloned.unique = mount::unique::<C::Args>(old);
    }
    if op.record.source_path.found == 0 && op.propagating == 0 {
        source(op, old, context.arg(1));
    }
}

/// Notes the path of what is copied, if it is what the caller asked for.
#[inline(never)]
fn source(op: &mut Gathered, old: u64, root: u64) -> u32 {
    let call = u32::from(op.record.call);
    let is_bind = call == Call::Mount as u32 && op.record.flags & MS_BIND != 0;
    if is_bind || call == Call::OpenTree as u32 || call == Call::OpenTreeAttr as u32 {
        path(&mut op.record.source_path, old, root);
    }
    0
}

/// `struct mount *alloc_vfsmnt(const char *name)` returns: every mount begins there.
#[inline(always)]
pub fn alloc_vfsmnt_ret<C: Exit>(context: &C) {
    let Some(op) = mine() else { return };
    let mount = context.ret();
    if mount == 0 || errno(mount).is_some() {
        return;
    }
    let cloned = core::mem::take(&mut op.cloned);
    op.record.made += 1;
    if op.propagating != 0 {
        op.record.made_by_propagation += 1;
    } else if op.mount == 0 {
        op.mount = mount;
        op.record.from = cloned.id;
        op.record.from_unique = cloned.unique;
    }
    if !tells_births() {
        return;
    }
    if op.births.len as usize >= BIRTHS {
        flush(op);
    }
    let at = op.births.len as usize;
    if at < BIRTHS {
        // SAFETY: what the function returned.
        let (id, unique) = unsafe {
            (
                C::Ret::get(mount, member::MountId),
                mount::unique::<C::Ret>(mount),
            )
        };
        op.list[at] = Birth {
            id,
            unique,
            from: cloned.id,
            from_unique: cloned.unique,
        };
        op.births.len = at as u32 + 1;
    }
}

/// `int vfs_get_tree(struct fs_context *)`, called.
#[inline(always)]
pub fn vfs_get_tree<C: Entry>(context: &C) {
    configured(context.arg(0));
}

/// `int reconfigure_super(struct fs_context *)`, called.
#[inline(always)]
pub fn reconfigure_super<C: Entry>(context: &C) {
    configured(context.arg(0));
}

/// Notes what fsconfig is about.
#[inline(never)]
fn configured(fs_context: u64) -> u32 {
    let Some(op) = mine() else { return 0 };
    let record = &mut op.record;
    if u32::from(record.call) != Call::Fsconfig as u32 || !has(member::ContextType) {
        return 0;
    }
    // SAFETY: Raw reads any address; the helper checks what it reads.
    unsafe {
        let kind: u64 = Raw::get(fs_context, member::ContextType);
        kernel_str(&mut record.fs, Raw::get(kind, member::FsTypeName));
        if has(member::ContextSource) {
            let source: u64 = Raw::get(fs_context, member::ContextSource);
            record.source_len = kernel_str(&mut record.source, source);
        }
        if has(member::ContextRoot) && has(member::DentrySb) {
            let root: u64 = Raw::get(fs_context, member::ContextRoot);
            if root != 0 {
                let sb: u64 = Raw::get(root, member::DentrySb);
                record.dev = Raw::get(sb, member::SbDev);
            }
        }
    }
    0
}

/// vfs_get_tree returns: mounts that a file system made for itself, as overlayfs does of its
/// layers, are none that the operation is about.
#[inline(always)]
pub fn vfs_get_tree_ret<C: Exit>(_context: &C) {
    if let Some(op) = mine() {
        op.record.made = 0;
        op.record.from = 0;
        op.record.from_unique = 0;
        op.births.len = 0;
        op.mount = 0;
    }
}

/// `int propagate_mnt(…)`, called.
#[inline(always)]
pub fn propagate_mnt<C: Entry>(_context: &C) {
    if let Some(op) = mine() {
        op.propagating = 1;
    }
}

/// propagate_mnt returns.
#[inline(always)]
pub fn propagate_mnt_ret<C: Exit>(_context: &C) {
    if let Some(op) = mine() {
        op.propagating = 0;
    }
}

/// `propagate_umount(struct list_head *list)`, called: what is to be taken away is there.
#[inline(always)]
pub fn propagate_umount<C: Entry>(context: &C) {
    if let Some(op) = mine() {
        op.taken = context.arg(0);
        count(op);
        op.taken_before = op.taken_now;
    }
}

/// propagate_umount returns: what propagation takes away is there, too.
#[inline(always)]
pub fn propagate_umount_ret<C: Exit>(_context: &C) {
    if let Some(op) = mine()
        && op.taken != 0
    {
        count(op);
        op.record.taken += op.taken_now;
        op.record.taken_by_propagation += op.taken_now.wrapping_sub(op.taken_before);
        op.taken = 0;
    }
}

/// Counts what is in the list. The number is kept in memory: in a register the verifier
/// would know it, and follow the rest of the program anew for each.
#[inline(never)]
fn count(op: &mut Gathered) -> u32 {
    let head = op.taken;
    let now = &raw mut op.taken_now;
    // SAFETY: in the map.
    unsafe { core::ptr::write_volatile(now, 0) };
    // SAFETY: Raw reads any address.
    let mut at: u64 = unsafe { Raw::at(head, 0) };
    for _ in 0..TAKEN_MOST {
        if at == head || at == 0 {
            return 0;
        }
        // SAFETY: as above.
        unsafe {
            core::ptr::write_volatile(now, core::ptr::read_volatile(now) + 1);
            at = Raw::at(at, 0);
        }
    }
    op.record.found |= TAKEN_MORE;
    0
}

/// `int path_mount(const char *dev_name, const struct path *, const char *type, unsigned
/// long flags, void *data)`, called: what the caller gave is in the kernel.
#[inline(always)]
pub fn path_mount<C: Entry>(context: &C) {
    let path = context.arg(1);
    mounted(context.arg(0), path, context.arg(2), context.arg(3));
}

#[inline(never)]
fn mounted(source: u64, at: u64, fs: u64, flags: u64) -> u32 {
    let Some(op) = mine() else { return 0 };
    // SAFETY: the helper checks what it reads.
    unsafe {
        if source != 0 {
            op.record.source_len = kernel_str(&mut op.record.source, source);
        }
        if fs != 0 {
            kernel_str(&mut op.record.fs, fs);
        }
    }
    op.record.flags = flags;
    let (mount, dentry) = place(at);
    op.target_mount = mount;
    op.target_dentry = dentry;
    path(&mut op.record.target_path, mount, dentry);
    let changes = flags & MS_PROPAGATION != 0 && flags & MS_BIND == 0;
    if flags & MS_REMOUNT != 0 || changes {
        about(op, mount);
    }
    0
}

/// `int path_umount(const struct path *, int flags)`, called.
#[inline(always)]
pub fn path_umount<C: Entry>(context: &C) {
    unmounted(context.arg(0));
}

#[inline(never)]
fn unmounted(at: u64) -> u32 {
    let Some(op) = mine() else { return 0 };
    let (mount, dentry) = place(at);
    path(&mut op.record.target_path, mount, dentry);
    about(op, mount);
    let mut found = 0;
    // SAFETY: Raw reads any address.
    unsafe {
        if vfs::<u64>(mount, member::VfsmountRoot) != dentry {
            found |= IS_NO_ROOT;
        }
        if Raw::get::<u64>(mount, member::MountNs) != caller_ns() {
            found |= IS_FOREIGN;
        }
        if has(member::VfsmountFlags) && vfs::<u32>(mount, member::VfsmountFlags) & MNT_LOCKED != 0
        {
            found |= IS_LOCKED;
        }
        if has(member::MountMounts) {
            let head = mount + offset(member::MountMounts);
            if Raw::at::<u64>(head, 0) != head {
                found |= HAS_MOUNTS;
            }
        }
    }
    op.record.found |= found;
    0
}

/// `int security_move_mount(const struct path *from, const struct path *to)`, called.
#[inline(always)]
pub fn security_move_mount<C: Entry>(context: &C) {
    moved(context.arg(0), context.arg(1));
}

/// `int security_sb_pivotroot(const struct path *old, const struct path *new)`, called.
#[inline(always)]
pub fn security_sb_pivotroot<C: Entry>(context: &C) {
    moved(context.arg(1), context.arg(0));
}

#[inline(never)]
fn moved(from: u64, to: u64) -> u32 {
    let Some(op) = mine() else { return 0 };
    let (mount, dentry) = place(from);
    about(op, mount);
    path(&mut op.record.source_path, mount, dentry);
    let (mount, dentry) = place(to);
    path(&mut op.record.target_path, mount, dentry);
    0
}

/// `struct mnt_namespace *copy_mnt_ns(flags, struct mnt_namespace *ns, …)`, called: it is
/// for every set of namespaces that is made.
#[inline(always)]
pub fn copy_mnt_ns<C: Entry>(context: &C) {
    if context.arg(0) & CLONE_NEWNS != 0 {
        copied(context.arg(1));
    } else {
        clear();
    }
}

#[inline(never)]
fn copied(ns: u64) -> u32 {
    if let Some(op) = new(Call::CopyMntNs as u32) {
        // SAFETY: Raw reads any address.
        op.record.caller_ns = unsafe { Raw::get(ns, member::MntInum) };
    }
    0
}

/// copy_mnt_ns returns.
#[inline(always)]
pub fn copy_mnt_ns_ret<C: Exit>(context: &C) {
    made(context.ret());
}

#[inline(never)]
fn made(ns: u64) -> u32 {
    let Some(op) = mine_of(Call::CopyMntNs as u32) else {
        return 0;
    };
    if let Some(errno) = errno(ns) {
        return finish(Call::CopyMntNs as u32, errno as u64);
    }
    // The mount that is first is that of the root.
    about(op, op.mount);
    // SAFETY: Raw reads any address.
    op.record.ns = unsafe { Raw::get(ns, member::MntInum) };
    op.mount = 0;
    finish(Call::CopyMntNs as u32, 0)
}
