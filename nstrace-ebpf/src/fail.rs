//! What a failed operation found: read at its end, while the task is still there,
//! because an error is explained from it.
//!
//! All by helpers: where time does not matter, they spare the verifier what a typed
//! pointer costs it ([`crate::read`]).

use nstrace_common::{
    field::member,
    wire::{FAIL_CHROOTED, FAIL_PID_NS_DEAD, FailRecord},
};

use crate::{
    namespaces::{Namespace, for_each_kind},
    read::{Raw, Reader, has, offset, raw_current},
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
        gid_extents: u32::MAX,
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
    let task = raw_current();
    // SAFETY: Raw reads any address.
    unsafe {
        let cred: u64 = Raw::get(task, member::TaskCred);
        let user: u64 = Raw::get(cred, member::CredUserNs);
        let nsproxy: u64 = Raw::get(task, member::TaskNsproxy);
        let pid: u64 = Raw::get(nsproxy, member::NsproxyPid);
        fail.pid_level = Raw::get(pid, member::PidNsLevel);
        fail.cap_effective = Raw::get(cred, member::CredCapEffective);
        fail.pid_active = tasks::active_pid_ns();
        if has(member::UserLevel) {
            fail.user_level = Raw::get(user, member::UserLevel);
        }
        if has(member::UserUidMap) {
            fail.uid_extents = Raw::get(user, member::UserUidMap);
        }
        if has(member::UserGidMap) {
            fail.gid_extents = Raw::get(user, member::UserGidMap);
        }
        if has(member::TaskSignal) && has(member::SignalThreads) {
            let signal: u64 = Raw::get(task, member::TaskSignal);
            fail.threads = Raw::get(signal, member::SignalThreads);
        }
        if has(member::PidNsAllocated) {
            let allocated: u32 = Raw::get(pid, member::PidNsAllocated);
            if allocated & PIDNS_ADDING == 0 {
                fail.bits |= FAIL_PID_NS_DEAD;
            }
        }
        if has(member::TaskFs) && has(member::FsUsers) {
            let fs: u64 = Raw::get(task, member::TaskFs);
            fail.fs_users = Raw::get(fs, member::FsUsers);
            if has(member::FsRootMnt) && has(member::MntNsRoot) && has(member::MountMnt) {
                let ns: u64 = Raw::get(nsproxy, member::NsproxyMnt);
                if chrooted(fs, Raw::get(ns, member::MntNsRoot)) {
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
        let vfsmount: u64 = Raw::get(fs, member::FsRootMnt);
        let root: u64 = Raw::get(vfsmount, member::VfsmountRoot);
        if root != Raw::get::<u64>(fs, member::FsRootDentry) {
            return true;
        }
        let mut mount = vfsmount - offset(member::MountMnt);
        for _ in 0..4 {
            if mount == first {
                return false;
            }
            let parent: u64 = Raw::get(mount, member::MountParent);
            let under: u64 = Raw::at(
                parent,
                offset(member::MountMnt) + offset(member::VfsmountRoot),
            );
            if parent == mount || under != Raw::get::<u64>(mount, member::MountPoint) {
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
    if slot.charged == 0 || !has(member::UserUcounts) || !has(member::UserUcountMax) {
        return;
    }
    let of = u64::from(slot.charged_type & 7);
    let max_at = offset(member::UserUcountMax) + of * offset(member::UserUcountMaxSize);
    let count_at = offset(member::UcountsCount) + of * offset(member::UcountsCountSize);
    let mut ns = slot.charged;
    fail.limit_kind = slot.charged_kind;
    // SAFETY: user namespaces from the one that was charged upwards, and their
    // counters; Raw reads what cannot be read as zeroes.
    unsafe {
        fail.limit_ns = Raw::get(ns, member::UserInum);
        fail.limit_max = number(ns, max_at, offset(member::UserUcountMaxSize));
        for _ in 0..33 {
            let parent: u64 = Raw::get(ns, member::UserParent);
            if parent == 0 {
                break;
            }
            let ucounts: u64 = Raw::get(ns, member::UserUcounts);
            let max = number(parent, max_at, offset(member::UserUcountMaxSize));
            if number(ucounts, count_at, offset(member::UcountsCountSize)) >= max {
                fail.limit_ns = Raw::get(parent, member::UserInum);
                fail.limit_max = max;
                break;
            }
            ns = parent;
        }
    }
}

/// A counter of 4 bytes (up to v5.13) or 8.
#[inline(always)]
unsafe fn number(base: u64, at: u64, size: u64) -> u64 {
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
    let (mut owner_at, mut ns_at) = (0, 0);
    for_each_kind!(Ns => {
        if slot.target_kind == Ns::KIND as u32 {
            owner_at = offset(<Ns as Namespace>::Owner::default());
            ns_at = offset(<Ns as Namespace>::Inum::default()) - offset(member::NsInum);
        }
    });
    // SAFETY: Raw reads any address; this is the namespace around its ns_common.
    unsafe {
        let ns = slot.target.wrapping_sub(ns_at);
        let user: u64 = Raw::at(ns, owner_at);
        fail.target_owner = Raw::get(user, member::UserInum);
    }
}
