//! Where operations begin and end.
//!
//! A clone begins in kernel_clone. A successful one ends at the tracepoint
//! sched_process_fork, where the child is whole and has not run: kernel_clone
//! itself waits for the child of a vfork. A failed one ends where kernel_clone does.

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user,
    },
};
use nstrace_common::{
    field::member,
    flags::CLONE_NEW_ALL,
    kind::{KINDS, Kind},
    wire::{FailRecord, IDS, LIST, Op, OpRecord, RecordKind},
};

use crate::{
    emit, fail, lives,
    maps::{EVENTS, TRACKED, config},
    namespaces::{Namespace, for_each_kind},
    read::{Current, Entry, Exit, Raw, Reader, current, errno, has, may_skip, raw_current, user_regs},
    slot::{self, Slot},
    tasks,
};

/// Whether the configuration asks for one of these operations, a bit each, of the
/// current task.
#[inline(always)]
pub fn wanted(ops: u32) -> bool {
    if config!(filters) == 0 {
        return true;
    }
    if config!(ops) & ops == 0 {
        return false;
    }
    let ids = bpf_get_current_pid_tgid();
    if config!(pid) != 0 && config!(pid) != (ids >> 32) as u32 {
        return false;
    }
    // SAFETY: the value is not looked at.
    if config!(follow) != 0 && unsafe { TRACKED.get(&(ids as u32)) }.is_none() {
        return false;
    }
    if config!(comm_len) != 0 {
        // SAFETY: the current task.
        if unsafe { tasks::comm::<Current>(current()) } != config!(comm) {
            return false;
        }
    }
    true
}

/// Begins an operation of the current task. Without a slot for it, it is lost; where a
/// beginning can be missed, its end counts it, because it cannot tell the one from the
/// other.
#[inline(always)]
fn begin(op: Op, flags: u64) -> Option<&'static mut Slot> {
    if !wanted(1 << op as u8) {
        slot::clear();
        return None;
    }
    let ids = bpf_get_current_pid_tgid();
    let Some(slot) = slot::claim(ids as u32) else {
        if !may_skip() {
            emit::count_lost(0);
        }
        return None;
    };
    let record = &mut slot.record;
    // SAFETY: no precondition.
    unsafe {
        record.start = bpf_ktime_get_ns();
        record.cgroup = bpf_get_current_cgroup_id();
    }
    record.flags = flags;
    record.pid = (ids >> 32) as u32;
    record.tid = ids as u32;
    record.op = op as u8;
    record.marks_len = 0;
    record.pids_len = 0;
    record.ids_len = if has(member::NsId) { IDS as u8 } else { 0 };
    record.pid_ns = 0;
    record.pid_parent = 0;
    record.user_parent = 0;
    record.owner = 0;
    record.owner_uid = 0;
    record.mounts = 0;
    record.target = 0;
    slot.target = 0;
    slot.installs = 0;
    slot.charged = 0;
    slot.lsm_ret = 0;
    slot.user_ret = 0;
    slot.create_ret = 0;
    slot.pid_ret = 0;
    let task = current();
    // SAFETY: the current task, and what it points to.
    unsafe {
        let nsproxy: u64 = Current::get(task, member::TaskNsproxy);
        let cred: u64 = Current::get(task, member::TaskCred);
        slot.record.uid = Current::get(cred, member::CredUid);
        let user: u64 = Current::get(cred, member::CredUserNs);
        for_each_kind!(Ns => {
            let kind = Ns::KIND as usize;
            slot.record.before[kind] = 0;
            if Ns::exists() {
                let ns = match Ns::KIND {
                    Kind::User => user,
                    _ => Ns::address::<Current>(nsproxy),
                };
                slot.record.before[kind] = Current::get(ns, <Ns as Namespace>::Inum::default());
                if has(member::NsId) {
                    slot.list[kind] = Current::get(ns, <Ns as Namespace>::Id::default());
                }
            }
        });
    }
    Some(slot)
}

/// Whether an operation may have changed the namespace of a kind.
#[inline(always)]
fn may_change<Ns: Namespace>(slot: &Slot, op: Op) -> bool {
    if matches!(op, Op::Setns) {
        return slot.installs & 1 << Ns::KIND as u32 != 0;
    }
    let empty = match Ns::KIND {
        Kind::Mnt => empty_mount_namespace(op),
        _ => 0,
    };
    slot.record.flags & (Ns::KIND.flag() | empty) != 0
}

/// An empty mount namespace is one too, by a flag of its own.
#[inline(always)]
fn empty_mount_namespace(op: Op) -> u64 {
    match op {
        Op::Unshare => config!(unshare_mask) & !CLONE_NEW_ALL,
        _ => config!(clone_mask) & !CLONE_NEW_ALL,
    }
}

/// Reads the namespaces after an operation, and what is to be said of the new ones: those
/// of `nsproxy`, and that of the credentials of `task`, which is read by [`Raw`]. `op` is any
/// clone, unshare or setns: who calls this knows which, and the verifier need not follow the
/// ways of the others.
///
/// # Safety
///
/// `nsproxy` must be an address that `R` can read.
#[inline(always)]
unsafe fn after<R: Reader>(slot: &mut Slot, op: Op, nsproxy: u64, task: u64) {
    unchanged(slot);
    // The flags of setns say what to enter, not what to make.
    let makes = !matches!(op, Op::Setns);
    // SAFETY: the caller's promise.
    unsafe {
        for_each_kind!(Ns => {
            if Ns::exists() && may_change::<Ns>(slot, op) {
                if matches!(Ns::KIND, Kind::User) {
                    let cred: u64 = Raw::get(task, member::TaskCred);
                    is_in::<Raw, Ns>(slot, Raw::get(cred, member::CredUserNs), makes);
                } else {
                    is_in::<R, Ns>(slot, Ns::address::<R>(nsproxy), makes);
                }
            }
        });
    }
    let owned = (CLONE_NEW_ALL | empty_mount_namespace(op)) & !Kind::User.flag();
    if makes && slot.record.flags & owned != 0 {
        // create_new_namespaces is given the new credentials' user namespace.
        slot.record.owner = slot.record.after[Kind::User as usize];
    }
}

/// Notes the namespace of a kind after an operation, which may have made it.
#[inline(always)]
unsafe fn is_in<R: Reader, Ns: Namespace>(slot: &mut Slot, ns: u64, makes: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let kind = Ns::KIND as usize;
        slot.record.after[kind] = R::get(ns, Ns::Inum::default());
        if has(member::NsId) {
            slot.list[KINDS + kind] = R::get(ns, Ns::Id::default());
        }
        match Ns::KIND {
            // Nobody else is in it yet: these are those that were copied.
            Kind::Mnt if makes && has(member::MntCount) => {
                slot.record.mounts = R::get(ns, member::MntCount);
            }
            Kind::Pid if makes => {
                let parent: u64 = R::get(ns, member::PidNsParent);
                slot.record.pid_parent = R::get(parent, member::PidInum);
                slot.record.pid_ns = ns;
            }
            Kind::User if makes => {
                let parent: u64 = R::get(ns, member::UserParent);
                slot.record.user_parent = R::get(parent, member::UserInum);
                slot.record.owner_uid = R::get(ns, member::UserOwner);
            }
            _ => {}
        }
    }
}

/// Ends the current task's operation and sends it, if it is one that was asked for.
#[inline(always)]
fn finish(slot: &mut Slot, ret: i64) {
    slot.record.ret = ret;
    slot.record.head = emit::head(RecordKind::Op);
    // SAFETY: the current task.
    unsafe { slot.record.comm = tasks::bytes(tasks::comm::<Current>(current())) };
    let mut list = usize::from(slot.record.ids_len)
        + usize::from(slot.record.marks_len)
        + usize::from(slot.record.pids_len);
    if ret < 0 {
        unchanged(slot);
        fail::explain(slot, list);
        list += size_of::<FailRecord>() / size_of::<u64>();
    }
    if reported(slot) {
        let len = size_of::<OpRecord>() + list.min(LIST) * size_of::<u64>();
        // SAFETY: the slot is longer than that, and in a map.
        if unsafe { !emit::send(&EVENTS, RecordKind::Op, slot as *const Slot, len) } {
            lives::born(slot);
        }
    }
    slot::release(slot);
}

/// The namespaces after it are those before it.
#[inline(always)]
fn unchanged(slot: &mut Slot) {
    slot.record.after = slot.record.before;
    if has(member::NsId) {
        for kind in 0..KINDS {
            slot.list[KINDS + kind] = slot.list[kind];
        }
    }
}

#[inline(always)]
fn reported(slot: &Slot) -> bool {
    if config!(outcome) == 0 {
        return true;
    }
    if config!(failed) != 0 && slot.record.ret >= 0 {
        return false;
    }
    if slot.record.head.time - slot.record.start < config!(slower_than) {
        return false;
    }
    // Which kinds a setns is about shows only on its way.
    config!(kinds) == u32::MAX || slot.installs == 0 || slot.installs & config!(kinds) != 0
}

/// `pid_t kernel_clone(struct kernel_clone_args *args)`, called.
#[inline(always)]
pub fn kernel_clone<C: Entry>(context: &C) {
    // SAFETY: the function's argument.
    let flags: u64 = unsafe { C::Args::get(context.arg(0), member::CloneFlags) };
    if flags & config!(clone_mask) != 0 {
        begin(called_op(), flags);
    } else {
        slot::clear();
    }
}

/// Which system call the current task is in; a clone, if it is no other one.
#[inline(always)]
fn called_op() -> Op {
    // SAFETY: the registers of the current task.
    let (number, cs): (u64, u64) = unsafe {
        let regs = user_regs();
        (
            Raw::at(regs, core::mem::offset_of!(pt_regs, orig_rax) as u64),
            Raw::at(regs, core::mem::offset_of!(pt_regs, cs) as u64),
        )
    };
    const USER32_CS: u64 = 0x23;
    // arch/x86/entry/syscalls/syscall_{64,32}.tbl
    match (number, cs & 0xffff == USER32_CS) {
        (435, _) => Op::Clone3,
        (57, false) | (2, true) => Op::Fork,
        (58, false) | (190, true) => Op::Vfork,
        (432, _) => Op::Fsmount,
        _ => Op::Clone,
    }
}

/// kernel_clone returns.
#[inline(always)]
pub fn kernel_clone_ret<C: Exit>(context: &C) {
    let ret = i64::from(context.ret() as i32);
    if ret >= 0 {
        // It has ended at sched_process_fork, if that was not missed.
        return slot::clear();
    }
    let slot = match slot::mine_of(CLONES) {
        Some(slot) => Some(slot),
        None if asked::<C>(context) & config!(clone_mask) == 0 => plain_fork(ret),
        None => {
            if may_skip() {
                missed(called_op());
            }
            None
        }
    };
    if let Some(slot) = slot {
        finish(slot, ret);
    }
}

/// The flags of the clone that ends.
#[inline(always)]
fn asked<C: Exit>(context: &C) -> u64 {
    // SAFETY: the function's argument, or the registers of the current task.
    unsafe {
        match context.first_arg() {
            Some(args) => C::Ret::get(args, member::CloneFlags),
            None => asked_flags(),
        }
    }
}

/// The flags of the clone that the current task is in, from its registers.
#[inline(always)]
unsafe fn asked_flags() -> u64 {
    // SAFETY: the registers of the current task; the helper checks the user's memory.
    unsafe {
        let first: u64 = Raw::at(user_regs(), core::mem::offset_of!(pt_regs, rdi) as u64);
        match called_op() {
            Op::Clone3 => bpf_probe_read_user(first as *const u64).unwrap_or(0),
            // CSIGNAL is what clone3 has for CLONE_NEWTIME.
            Op::Clone => first & !0xff,
            _ => 0,
        }
    }
}

/// Counts an operation as lost whose beginning was missed, if it was asked for.
#[inline(always)]
fn missed(op: Op) {
    if wanted(1 << op as u8) {
        emit::count_lost(0);
    }
}

/// The twin of [`kernel_clone_ret`].
#[inline(always)]
pub fn kernel_clone_ret_twin<C: Exit>(context: &C) {
    let ret = i64::from(context.ret() as i32);
    if ret < 0
        && let Some(slot) = slot::mine_of(CLONES)
    {
        finish(slot, ret);
    }
}

/// Whether a new task, with that nsproxy and user namespace, has other namespaces than the
/// current one, of the kinds that are asked for.
#[inline(always)]
fn has_others<R: Reader>(nsproxy: u64, user: u64) -> bool {
    let task = current();
    let asked_for = |kind: Kind| config!(kinds) & (1 << kind as u8) != 0;
    // SAFETY: the current task, what belongs to the child, and their members.
    unsafe {
        let cred: u64 = Current::get(task, member::TaskCred);
        if asked_for(Kind::User) && user != Current::get::<u64>(cred, member::CredUserNs) {
            return true;
        }
        let old: u64 = Current::get(task, member::TaskNsproxy);
        if nsproxy == old {
            return false;
        }
        // A pending time namespace makes a new nsproxy with the same namespaces.
        for_each_kind!(Ns => {
            if !matches!(Ns::KIND, Kind::User)
                && asked_for(Ns::KIND)
                && Ns::exists()
                && Ns::address::<R>(nsproxy) != Ns::address::<Current>(old)
            {
                return true;
            }
        });
        false
    }
}

/// The operations that make a task, a bit each.
const CLONES: u32 =
    1 << Op::Clone as u8 | 1 << Op::Clone3 as u8 | 1 << Op::Fork as u8 | 1 << Op::Vfork as u8;

/// A plain fork failed. It is an operation if it was to be in a pid namespace below
/// the first: the namespace may be the reason.
#[inline(always)]
fn plain_fork(ret: i64) -> Option<&'static mut Slot> {
    // A signal came first; the system call restarts by itself.
    const ERESTARTNOINTR: i64 = 513;
    // SAFETY: Raw reads any address.
    let level: u32 = unsafe {
        let nsproxy: u64 = Raw::get(raw_current(), member::TaskNsproxy);
        let pid_ns: u64 = Raw::get(nsproxy, member::NsproxyPid);
        Raw::get(pid_ns, member::PidNsLevel)
    };
    let asked_for = config!(kinds) & (1 << Kind::Pid as u8) != 0;
    if level == 0 || ret == -ERESTARTNOINTR || !asked_for {
        return None;
    }
    begin(called_op(), 0)
}

/// The tracepoint sched_process_fork: the current task has a child.
#[inline(always)]
pub fn forked<R: Reader>(child: u64) {
    tasks::follow::<R>(child);
    // SAFETY: the child that the tracepoint gives, and what belongs to it.
    let (nsproxy, user, pid) = unsafe {
        let cred: u64 = R::get(child, member::TaskCred);
        (
            R::get(child, member::TaskNsproxy),
            R::get(cred, member::CredUserNs),
            R::get(child, member::TaskThreadPid),
        )
    };
    let Some(slot) = slot::mine_of(CLONES) else {
        if may_skip() && has_others::<R>(nsproxy, user) {
            missed(called_op());
        }
        return tasks::born::<R>(child, pid);
    };
    // SAFETY: as above; Raw reads any address.
    let ret = unsafe {
        after::<R>(slot, Op::Clone, nsproxy, child);
        let before = usize::from(slot.record.ids_len) + usize::from(slot.record.marks_len);
        let pids = tasks::pids(pid, |i, at| {
            slot.put(before + i, u64::from(at.ns) << 32 | u64::from(at.nr))
        });
        slot.record.pids_len = pids as u8;
        // What the caller gets: the child's id in its own pid namespace.
        let caller: u64 = Raw::get(raw_current(), member::TaskThreadPid);
        tasks::pid_at(pid, Raw::get(caller, member::PidLevel))
    };
    let flags = slot.record.flags;
    finish(slot, i64::from(ret));
    tasks::born_of_op::<R>(child, pid, flags);
}

/// `int ksys_unshare(unsigned long unshare_flags)`, called.
#[inline(always)]
pub fn ksys_unshare<C: Entry>(context: &C) {
    let flags = context.arg(0);
    if flags & config!(unshare_mask) != 0 {
        begin(Op::Unshare, flags);
    } else {
        slot::clear();
    }
}

/// ksys_unshare returns.
#[inline(always)]
pub fn ksys_unshare_ret<C: Exit>(context: &C) {
    if !end_in_caller(Op::Unshare, i64::from(context.ret() as i32)) && may_skip() {
        // SAFETY: the registers of the current task.
        let flags = context.first_arg().unwrap_or_else(|| unsafe {
            Raw::at(user_regs(), core::mem::offset_of!(pt_regs, rdi) as u64)
        });
        if flags & config!(unshare_mask) != 0 {
            missed(Op::Unshare);
        }
    }
}

/// The twin of [`ksys_unshare_ret`].
#[inline(always)]
pub fn ksys_unshare_ret_twin<C: Exit>(context: &C) {
    end_in_caller(Op::Unshare, i64::from(context.ret() as i32));
}

/// `long sys_setns(const struct pt_regs *regs)`, called.
#[inline(always)]
pub fn sys_setns<C: Entry>(context: &C) {
    // SAFETY: the function's argument.
    let flags: u64 =
        unsafe { C::Args::at(context.arg(0), core::mem::offset_of!(pt_regs, rsi) as u64) };
    begin(Op::Setns, flags & 0xffff_ffff);
}

/// setns returns.
#[inline(always)]
pub fn sys_setns_ret<C: Exit>(context: &C) {
    if !end_in_caller(Op::Setns, context.ret() as i64) && may_skip() {
        missed(Op::Setns);
    }
}

/// The twin of [`sys_setns_ret`].
#[inline(always)]
pub fn sys_setns_ret_twin<C: Exit>(context: &C) {
    end_in_caller(Op::Setns, context.ret() as i64);
}

/// Ends an operation that changes the caller itself; says whether there was one.
#[inline(always)]
fn end_in_caller(op: Op, ret: i64) -> bool {
    let Some(slot) = slot::mine_of(1 << op as u8) else {
        return false;
    };
    if ret >= 0 {
        // SAFETY: the current task, and what it points to.
        unsafe {
            let nsproxy: u64 = Current::get(current(), member::TaskNsproxy);
            after::<Current>(slot, op, nsproxy, raw_current());
        }
    }
    finish(slot, ret);
    true
}

/// `struct mnt_namespace *create_new_namespace(struct path *, flags)`, called: a
/// mount namespace from a descriptor, by fsmount, or by open_tree or open_tree_attr.
#[inline(always)]
pub fn create_new_namespace<C: Entry>(_context: &C) {
    if config!(kinds) & (1 << Kind::Mnt as u8) != 0 {
        let op = match called_op() {
            Op::Fsmount => Op::Fsmount,
            _ => Op::OpenTree,
        };
        begin(op, 0);
    }
}

/// The operations that give a mount namespace as a descriptor, a bit each.
const DESCRIPTORS: u32 = 1 << Op::OpenTree as u8 | 1 << Op::Fsmount as u8;

/// create_new_namespace returns.
#[inline(always)]
pub fn create_new_namespace_ret<C: Exit>(context: &C) {
    let Some(slot) = slot::mine_of(DESCRIPTORS) else {
        return;
    };
    let ret = context.ret();
    if let Some(errno) = errno(ret) {
        return finish(slot, errno);
    }
    unchanged(slot);
    // SAFETY: the namespace that the function returned.
    unsafe {
        let mnt = Kind::Mnt as usize;
        slot.record.after[mnt] = C::Ret::get(ret, member::MntInum);
        if has(member::NsId) {
            slot.list[KINDS + mnt] = C::Ret::get(ret, member::MntId);
        }
        if has(member::MntCount) {
            slot.record.mounts = C::Ret::get(ret, member::MntCount);
        }
        slot.record.owner = slot.record.before[Kind::User as usize];
    }
    finish(slot, 0);
}
