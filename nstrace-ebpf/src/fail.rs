//! What a failed operation found: read at its end, while the task is still there,
//! because an error is explained from it.

use nstrace_common::{
    field::Field,
    kind::KINDS,
    wire::{FAIL_CHROOTED, FAIL_PID_NS_DEAD, FailRecord},
};

use crate::{
    maps::{has, offset},
    ops,
    read::{Current, Raw, Reader, current},
    slot::Slot,
    tasks,
};

const ENOSPC: i64 = -28;

/// `PIDNS_ADDING` of include/linux/pid_namespace.h: cleared when the init dies.
const PIDNS_ADDING: u32 = 1 << 31;

/// Puts a [`FailRecord`] at the end of the list, which has that many elements.
#[inline(always)]
pub fn explain(slot: &mut Slot, list_len: usize) {
    let mut fail = FailRecord {
        lsm_ret: slot.lsm_ret,
        user_ret: slot.user_ret,
        create_ret: slot.create_ret,
        pid_ret: slot.pid_ret,
        // Not known, until it is read: 0 has a meaning.
        uid_extents: u32::MAX,
        ..FailRecord::default()
    };
    // SAFETY: the current task, and what it points to.
    unsafe {
        caller(&mut fail);
        if slot.record.ret == ENOSPC {
            limit(slot, &mut fail);
        }
        if slot.target != 0 {
            target(slot, &mut fail);
        }
    }
    // SAFETY: as long, and every bit pattern is a number.
    let words: [u64; size_of::<FailRecord>() / 8] = unsafe { core::mem::transmute(fail) };
    for (i, word) in words.into_iter().enumerate() {
        slot.put(list_len + i, word);
    }
}

#[inline(always)]
unsafe fn caller(fail: &mut FailRecord) {
    let task = current();
    // SAFETY: the caller's.
    unsafe {
        let cred: u64 = Current::get(task, Field::TaskCred);
        let user: u64 = Current::get(cred, Field::CredUserNs);
        let nsproxy: u64 = Current::get(task, Field::TaskNsproxy);
        let pid: u64 = Current::get(nsproxy, Field::NsproxyPid);
        fail.pid_level = Current::get(pid, Field::PidNsLevel);
        fail.cap_effective = Current::get(cred, Field::CredCapEffective);
        fail.pid_active = tasks::active_pid_ns();
        if has(Field::UserLevel) {
            fail.user_level = Current::get(user, Field::UserLevel);
        }
        if has(Field::UserUidMap) {
            fail.uid_extents = Raw::get(user, Field::UserUidMap);
        }
        if has(Field::TaskSignal) && has(Field::SignalThreads) {
            let signal: u64 = Current::get(task, Field::TaskSignal);
            fail.threads = Current::get(signal, Field::SignalThreads);
        }
        if has(Field::PidNsAllocated) {
            let allocated: u32 = Current::get(pid, Field::PidNsAllocated);
            if allocated & PIDNS_ADDING == 0 {
                fail.bits |= FAIL_PID_NS_DEAD;
            }
        }
        if has(Field::TaskFs) && has(Field::FsUsers) {
            let fs: u64 = Current::get(task, Field::TaskFs);
            fail.fs_users = Current::get(fs, Field::FsUsers);
            if has(Field::FsRootMnt) && has(Field::MntNsRoot) && has(Field::MountMnt) {
                let ns: u64 = Current::get(nsproxy, Field::NsproxyMnt);
                if chrooted(fs, Raw::get(ns, Field::MntNsRoot)) {
                    fail.bits |= FAIL_CHROOTED;
                }
            }
        }
    }
}

/// Whether a root is not that of the mount namespace whose first mount is `first`, as
/// current_chrooted of fs/namespace.c sees it: from the first mount what is mounted
/// over it is followed upwards. Here it is followed down.
#[inline(always)]
unsafe fn chrooted(fs: u64, first: u64) -> bool {
    // SAFETY: Raw reads any address.
    unsafe {
        let vfsmount: u64 = Raw::get(fs, Field::FsRootMnt);
        let root: u64 = Raw::get(vfsmount, Field::VfsmountRoot);
        if root != Raw::get::<u64>(fs, Field::FsRootDentry) {
            return true;
        }
        let mut mount = vfsmount - u64::from(offset(Field::MountMnt));
        for _ in 0..4 {
            if mount == first {
                return false;
            }
            let parent: u64 = Raw::get(mount, Field::MountParent);
            let under: u64 = Raw::at(
                parent,
                offset(Field::MountMnt) + offset(Field::VfsmountRoot),
            );
            if parent == mount || under != Raw::get::<u64>(mount, Field::MountPoint) {
                return true;
            }
            mount = parent;
        }
        false
    }
}

/// Which limit inc_ucount met. It charges the user namespace that it is called for
/// and each above it (kernel/ucount.c); the charge of one to the next above is
/// counted in `user_namespace.ucounts`. If none of those is full, it is the first,
/// whose count is the caller's own.
#[inline(always)]
unsafe fn limit(slot: &Slot, fail: &mut FailRecord) {
    if slot.charged == 0 || !has(Field::UserUcounts) || !has(Field::UserUcountMax) {
        return;
    }
    let of = slot.charged_type & 7;
    let max_at = offset(Field::UserUcountMax) + of * offset(Field::UserUcountMaxSize);
    let count_at = offset(Field::UcountsCount) + of * offset(Field::UcountsCountSize);
    let mut ns = slot.charged;
    fail.limit_kind = slot.charged_kind;
    // SAFETY: user namespaces from the one that was charged upwards, and their
    // counters; Raw reads what cannot be read as zeroes.
    unsafe {
        fail.limit_ns = Raw::get(ns, Field::UserInum);
        fail.limit_max = number(ns, max_at, offset(Field::UserUcountMaxSize));
        for _ in 0..33 {
            let parent: u64 = Raw::get(ns, Field::UserParent);
            if parent == 0 {
                break;
            }
            let ucounts: u64 = Raw::get(ns, Field::UserUcounts);
            let max = number(parent, max_at, offset(Field::UserUcountMaxSize));
            if number(ucounts, count_at, offset(Field::UcountsCountSize)) >= max {
                fail.limit_ns = Raw::get(parent, Field::UserInum);
                fail.limit_max = max;
                break;
            }
            ns = parent;
        }
    }
}

/// A counter of 4 bytes (up to v5.13) or 8.
#[inline(always)]
unsafe fn number(base: u64, at: u32, size: u32) -> u64 {
    // SAFETY: Raw reads any address.
    unsafe {
        if size == 4 {
            u64::from(Raw::at::<u32>(base, at))
        } else {
            Raw::at(base, at)
        }
    }
}

/// Who owns the namespace that setns did not get into.
#[inline(always)]
unsafe fn target(slot: &Slot, fail: &mut FailRecord) {
    const OWNERS: [Field; KINDS] = [
        Field::MntOwner,
        Field::UtsOwner,
        Field::IpcOwner,
        Field::PidOwner,
        Field::NetOwner,
        Field::UserParent,
        Field::CgroupOwner,
        Field::TimeOwner,
    ];
    let mut owner = (0, 0);
    for kind in 0..KINDS {
        if slot.target_kind == kind as u32 {
            let inum = offset(ops::INUMS[kind]);
            owner = (offset(OWNERS[kind]), inum - offset(Field::NsInum));
        }
    }
    let (owner_at, ns_at) = owner;
    // SAFETY: Raw reads any address; this is the namespace around its ns_common.
    unsafe {
        let ns = slot.target.wrapping_sub(u64::from(ns_at));
        let user: u64 = Raw::at(ns, owner_at);
        fail.target_owner = Raw::get(user, Field::UserInum);
    }
}
