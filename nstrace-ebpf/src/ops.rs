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
    field::Field,
    flags::CLONE_NEW_ALL,
    kind::{KINDS, Kind},
    wire::{FailRecord, IDS, LIST, Mark, Op, OpRecord, RecordKind},
};

use crate::{
    emit, fail, lives,
    maps::{EVENTS, TRACKED, config, has, offset},
    read::{Current, Entry, Exit, Raw, Reader, current, errno, user_regs},
    slot::{self, Slot},
    tasks,
};

/// Whether the configuration asks for operations of the current task.
#[inline(always)]
fn wanted() -> bool {
    if config!(filters) == 0 {
        return true;
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
        let comm: [u64; 2] = comm();
        // SAFETY: in the configuration.
        if comm != config!(comm) {
            return false;
        }
    }
    true
}

#[inline(always)]
fn comm() -> [u64; 2] {
    let task = current();
    // SAFETY: the current task.
    unsafe {
        [
            Current::get(task, Field::TaskComm),
            Current::at(task, offset(Field::TaskComm) + 8),
        ]
    }
}

/// Begins an operation of the current task. Without a slot for it, its end counts it
/// as lost.
#[inline(always)]
fn begin(op: Op, flags: u64) -> Option<&'static mut Slot> {
    if !wanted() || config!(ops) & (1 << op as u8) == 0 {
        return None;
    }
    let slot = slot::claim()?;
    let ids = bpf_get_current_pid_tgid();
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
    record.ids_len = if has(Field::NsId) { IDS as u8 } else { 0 };
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
        let nsproxy: u64 = Current::get(task, Field::TaskNsproxy);
        let cred: u64 = Current::get(task, Field::TaskCred);
        slot.record.uid = Current::get(cred, Field::CredUid);
        let user: u64 = Current::get(cred, Field::CredUserNs);
        slot.record.before[Kind::Time as usize] = 0;
        slot.list[Kind::Time as usize] = 0;
        let ids = has(Field::NsId);
        namespaces::<Current>(nsproxy, user, ALL_KINDS, |kind, address| {
            slot.record.before[kind] = Current::get(address, INUMS[kind]);
            if ids {
                slot.list[kind] = Current::get(address, IDS_OF[kind]);
            }
        });
    }
    Some(slot)
}

/// A bit for each kind.
const ALL_KINDS: u32 = (1 << KINDS) - 1;

/// The member of nsproxy for each kind; a user namespace belongs to the credentials.
const NSPROXY: [Option<Field>; KINDS] = [
    Some(Field::NsproxyMnt),
    Some(Field::NsproxyUts),
    Some(Field::NsproxyIpc),
    Some(Field::NsproxyPid),
    Some(Field::NsproxyNet),
    None,
    Some(Field::NsproxyCgroup),
    Some(Field::NsproxyTime),
];

/// Calls `each` with the index and the address of each of a task's namespaces of the
/// given kinds.
///
/// # Safety
///
/// `nsproxy` and `user` must be addresses that `R` can read.
#[inline(always)]
unsafe fn namespaces<R: Reader>(
    nsproxy: u64,
    user: u64,
    kinds: u32,
    mut each: impl FnMut(usize, u64),
) {
    for kind in 0..KINDS {
        if kinds & (1 << kind) != 0 {
            let address = match NSPROXY[kind] {
                None => user,
                // Time namespaces can be configured out.
                Some(Field::NsproxyTime) if !has(Field::NsproxyTime) => 0,
                // SAFETY: the caller's promise.
                Some(field) => unsafe { R::get(nsproxy, field) },
            };
            if address != 0 {
                each(kind, address);
            }
        }
    }
}

/// The kinds that an operation may have changed, a bit each.
#[inline(always)]
fn may_change(slot: &Slot) -> u32 {
    if slot.record.op == Op::Setns as u8 {
        return slot.installs;
    }
    let mut kinds = 0;
    for kind in 0..KINDS {
        if slot.record.flags & Kind::ALL[kind].flag() != 0 {
            kinds |= 1 << kind;
        }
    }
    // An empty mount namespace is one too, by a flag of its own.
    let mask = match slot.record.op == Op::Unshare as u8 {
        true => config!(unshare_mask),
        false => config!(clone_mask),
    };
    if slot.record.flags & mask & !CLONE_NEW_ALL != 0 {
        kinds |= 1 << Kind::Mnt as u32;
    }
    kinds
}

/// The number of a namespace, by kind.
pub const INUMS: [Field; KINDS] = [
    Field::MntInum,
    Field::UtsInum,
    Field::IpcInum,
    Field::PidInum,
    Field::NetInum,
    Field::UserInum,
    Field::CgroupInum,
    Field::TimeInum,
];

/// Its id.
const IDS_OF: [Field; KINDS] = [
    Field::MntId,
    Field::UtsId,
    Field::IpcId,
    Field::PidId,
    Field::NetId,
    Field::UserId,
    Field::CgroupId,
    Field::TimeId,
];

/// Reads the namespaces after an operation, and what is to be said of the new ones.
///
/// # Safety
///
/// As for [`namespaces`].
#[inline(always)]
unsafe fn after<R: Reader>(slot: &mut Slot, nsproxy: u64, user: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        unchanged(slot);
        // The flags of setns say what to enter, not what to make.
        let flags = match slot.record.op == Op::Setns as u8 {
            true => 0,
            false => slot.record.flags,
        };
        let mut owned = false;
        namespaces::<R>(nsproxy, user, may_change(slot), |kind, address| {
            slot.record.after[kind] = R::get(address, INUMS[kind]);
            if has(Field::NsId) {
                slot.list[KINDS + kind] = R::get(address, IDS_OF[kind]);
            }
            if kind == Kind::Mnt as usize && flags != 0 && has(Field::MntCount) {
                // Nobody else is in it yet: these are those that were copied.
                slot.record.mounts = R::get(address, Field::MntCount);
            }
            if kind == Kind::Pid as usize && flags & Kind::Pid.flag() != 0 {
                let parent: u64 = R::get(address, Field::PidNsParent);
                slot.record.pid_parent = R::get(parent, Field::PidInum);
                slot.record.pid_ns = address;
            }
            if kind != Kind::User as usize && flags != 0 {
                // create_new_namespaces is given the new credentials' user namespace.
                owned = true;
            }
            if kind == Kind::User as usize && flags & Kind::User.flag() != 0 {
                let parent: u64 = R::get(address, Field::UserParent);
                slot.record.user_parent = R::get(parent, Field::UserInum);
                slot.record.owner_uid = R::get(address, Field::UserOwner);
            }
        });
        if owned {
            slot.record.owner = slot.record.after[Kind::User as usize];
        }
    }
}

/// Ends the current task's operation and sends it, if it is one that was asked for.
#[inline(always)]
fn finish(slot: &mut Slot, ret: i64) {
    slot.record.ret = ret;
    slot.record.head = emit::head(RecordKind::Op);
    let [low, high] = comm();
    slot.record.comm[..8].copy_from_slice(&low.to_ne_bytes());
    slot.record.comm[8..].copy_from_slice(&high.to_ne_bytes());
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
    slot::release();
}

/// The namespaces after it are those before it.
#[inline(always)]
fn unchanged(slot: &mut Slot) {
    slot.record.after = slot.record.before;
    if has(Field::NsId) {
        for kind in 0..KINDS {
            slot.list[KINDS + kind] = slot.list[kind];
        }
    }
}

#[inline(always)]
fn reported(slot: &Slot) -> bool {
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
    let flags: u64 = unsafe { C::Args::get(context.arg(0), Field::CloneFlags) };
    if flags & config!(clone_mask) != 0 {
        begin(called_op(), flags);
    }
}

/// Which system call the current task is in.
#[inline(always)]
fn called_op() -> Op {
    // SAFETY: the registers of the current task.
    let (number, cs): (u64, u64) = unsafe {
        let regs = user_regs();
        (
            Raw::at(regs, core::mem::offset_of!(pt_regs, orig_rax) as u32),
            Raw::at(regs, core::mem::offset_of!(pt_regs, cs) as u32),
        )
    };
    const USER32_CS: u64 = 0x23;
    // arch/x86/entry/syscalls/syscall_{64,32}.tbl
    match (number, cs & 0xffff == USER32_CS) {
        (435, _) => Op::Clone3,
        (57, false) | (2, true) => Op::Fork,
        (58, false) | (190, true) => Op::Vfork,
        (428, _) => Op::OpenTree,
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
        if slot::mine().is_some() {
            slot::abandon();
        }
        return;
    }
    if let Some(slot) = slot::mine() {
        return finish(slot, ret);
    }
    // SAFETY: the function's argument, or the registers of the current task.
    let flags: u64 = unsafe {
        match context.first_arg() {
            Some(args) => C::Ret::get(args, Field::CloneFlags),
            None => asked_flags(),
        }
    };
    if flags & config!(clone_mask) != 0 {
        return missed(1 << Op::Clone as u8 | 1 << Op::Clone3 as u8);
    }
    if let Some(slot) = plain_fork(ret) {
        finish(slot, ret);
    }
}

/// The flags of the clone that the current task is in, from its registers.
#[inline(always)]
unsafe fn asked_flags() -> u64 {
    // SAFETY: the registers of the current task; the helper checks the user's memory.
    unsafe {
        let first: u64 = Raw::at(user_regs(), core::mem::offset_of!(pt_regs, rdi) as u32);
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
fn missed(ops: u32) {
    if wanted() && config!(ops) & ops != 0 {
        emit::count_lost(0);
    }
}

/// Whether a new task has other namespaces than the current one.
#[inline(always)]
fn has_others<R: Reader>(child: u64) -> bool {
    let task = current();
    // SAFETY: the current task, the child that the tracepoint gives, and their members.
    unsafe {
        let cred: u64 = R::get(child, Field::TaskCred);
        let user: u64 = R::get(cred, Field::CredUserNs);
        let cred: u64 = Current::get(task, Field::TaskCred);
        let others = user != Current::get::<u64>(cred, Field::CredUserNs);
        let nsproxy: u64 = R::get(child, Field::TaskNsproxy);
        let old: u64 = Current::get(task, Field::TaskNsproxy);
        if nsproxy == old {
            return others;
        }
        if others {
            return true;
        }
        // A pending time namespace makes a new nsproxy with the same namespaces.
        for kind in 0..KINDS {
            if let Some(field) = NSPROXY[kind]
                && has(field)
                && R::get::<u64>(nsproxy, field) != Current::get::<u64>(old, field)
            {
                return true;
            }
        }
        false
    }
}

/// A plain fork failed. It is an operation if it was to be in a pid namespace below
/// the first: the namespace may be the reason.
#[inline(always)]
fn plain_fork(ret: i64) -> Option<&'static mut Slot> {
    // A signal came first; the system call restarts by itself.
    const ERESTARTNOINTR: i64 = 513;
    let task = current();
    // SAFETY: the current task, and what it points to.
    let level: u32 = unsafe {
        let nsproxy: u64 = Current::get(task, Field::TaskNsproxy);
        let pid_ns: u64 = Current::get(nsproxy, Field::NsproxyPid);
        Current::get(pid_ns, Field::PidNsLevel)
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
    match slot::mine() {
        Some(slot) => {
            // SAFETY: the child that the tracepoint gives.
            let ret = unsafe {
                let nsproxy: u64 = R::get(child, Field::TaskNsproxy);
                let cred: u64 = R::get(child, Field::TaskCred);
                after::<R>(slot, nsproxy, R::get(cred, Field::CredUserNs));
                let pid: u64 = R::get(child, Field::TaskThreadPid);
                let before = usize::from(slot.record.ids_len) + usize::from(slot.record.marks_len);
                let pids = tasks::pids(pid, |i, at| {
                    slot.put(before + i, u64::from(at.ns) << 32 | u64::from(at.nr))
                });
                slot.record.pids_len = pids as u8;
                // What the caller gets: the child's id in its own pid namespace.
                let caller: u64 = Current::get(current(), Field::TaskThreadPid);
                let level: u32 = Current::get(caller, Field::PidLevel);
                tasks::pid_at(pid, level)
            };
            finish(slot, i64::from(ret));
        }
        None => {
            if has_others::<R>(child) {
                missed(1 << Op::Clone as u8 | 1 << Op::Clone3 as u8);
            }
            tasks::born::<R>(child);
        }
    }
}

/// `int ksys_unshare(unsigned long unshare_flags)`, called.
#[inline(always)]
pub fn ksys_unshare<C: Entry>(context: &C) {
    let flags = context.arg(0);
    if flags & config!(unshare_mask) != 0 {
        begin(Op::Unshare, flags);
    }
}

/// ksys_unshare returns.
#[inline(always)]
pub fn ksys_unshare_ret<C: Exit>(context: &C) {
    if !end_in_caller(i64::from(context.ret() as i32)) {
        // SAFETY: the registers of the current task.
        let flags = context.first_arg().unwrap_or_else(|| unsafe {
            Raw::at(user_regs(), core::mem::offset_of!(pt_regs, rdi) as u32)
        });
        if flags & config!(unshare_mask) != 0 {
            missed(1 << Op::Unshare as u8);
        }
    }
}

/// `long sys_setns(const struct pt_regs *regs)`, called.
#[inline(always)]
pub fn sys_setns<C: Entry>(context: &C) {
    // SAFETY: the function's argument.
    let flags: u64 =
        unsafe { C::Args::at(context.arg(0), core::mem::offset_of!(pt_regs, rsi) as u32) };
    begin(Op::Setns, flags & 0xffff_ffff);
}

/// setns returns.
#[inline(always)]
pub fn sys_setns_ret<C: Exit>(context: &C) {
    if !end_in_caller(context.ret() as i64) {
        missed(1 << Op::Setns as u8);
    }
}

/// Ends an operation that changes the caller itself; says whether there was one.
#[inline(always)]
fn end_in_caller(ret: i64) -> bool {
    let Some(slot) = slot::mine() else {
        return false;
    };
    if ret >= 0 {
        let task = current();
        // SAFETY: the current task, and what it points to.
        unsafe {
            let nsproxy: u64 = Current::get(task, Field::TaskNsproxy);
            let cred: u64 = Current::get(task, Field::TaskCred);
            after::<Current>(slot, nsproxy, Current::get(cred, Field::CredUserNs));
        }
    }
    finish(slot, ret);
    true
}

/// `struct mnt_namespace *create_new_namespace(struct path *, flags)`, called: a
/// mount namespace from a descriptor.
#[inline(always)]
pub fn create_new_namespace<C: Entry>(_context: &C) {
    if config!(kinds) & (1 << Kind::Mnt as u8) != 0 {
        begin(called_op(), 0);
    }
}

/// create_new_namespace returns.
#[inline(always)]
pub fn create_new_namespace_ret<C: Exit>(context: &C) {
    let Some(slot) = slot::mine() else { return };
    let ret = context.ret();
    if let Some(errno) = errno(ret) {
        return finish(slot, errno);
    }
    unchanged(slot);
    // SAFETY: the namespace that the function returned.
    unsafe {
        let mnt = Kind::Mnt as usize;
        slot.record.after[mnt] = C::Ret::get(ret, Field::MntInum);
        if has(Field::NsId) {
            slot.list[KINDS + mnt] = C::Ret::get(ret, Field::MntId);
        }
        if has(Field::MntCount) {
            slot.record.mounts = C::Ret::get(ret, Field::MntCount);
        }
        slot.record.owner = slot.record.before[Kind::User as usize];
    }
    finish(slot, 0);
}

/// create_new_namespaces returns.
#[inline(always)]
pub fn create_new_namespaces_ret<C: Exit>(context: &C) {
    // setns calls it without a flag, for a copy.
    if context
        .first_arg()
        .is_some_and(|flags| flags & CLONE_NEW_ALL == 0)
    {
        return;
    }
    let Some(slot) = slot::mine() else { return };
    if slot.record.op == Op::Setns as u8 {
        return;
    }
    slot.mark(Mark::CreateNewNamespacesDone as u8);
    slot.create_ret = errno(context.ret()).unwrap_or(0) as i32;
}
