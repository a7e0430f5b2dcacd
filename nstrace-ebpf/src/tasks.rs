//! What happens to tasks: to those below the first pid namespace, or for the tree of
//! namespaces to all; and which are followed.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes,
};
use nstrace_common::{
    config::Tasks,
    flags::CLONE_NEW_ALL,
    field::member,
    kind::{KINDS, Kind},
    wire::{PID_LEVELS, PidAt, RecordKind, TaskRecord},
};

use crate::{
    emit,
    maps::{EVENTS, TRACKED, config},
    mount_ops,
    namespaces::{Namespace, for_each_kind},
    read::{Raw, Reader, has, offset, raw_current},
    slot,
};

/// The size of a `struct upid`.
const UPID: u64 = 16;

/// A task record with the chain behind it, as it is sent.
#[repr(C)]
pub struct Task {
    record: TaskRecord,
    pids: [PidAt; PID_LEVELS],
}

/// Puts a followed task's child on the list of those that are followed.
#[inline(always)]
pub fn follow<R: Reader>(child: u64) {
    if config!(follow) == 0 {
        return;
    }
    // SAFETY: the child that the tracepoint gives; the value is not looked at.
    unsafe {
        let parent = bpf_get_current_pid_tgid() as u32;
        if TRACKED.get(&parent).is_some() {
            let tid: u32 = R::get(child, member::TaskPid);
            let _ = TRACKED.insert(&tid, &1, 0);
        }
    }
}

/// Calls `each` with the ids of `pid`, from the first namespace down, and gives
/// their number.
///
/// # Safety
///
/// `pid` must be the address of a `struct pid`.
#[inline(always)]
pub unsafe fn pids(pid: u64, mut each: impl FnMut(usize, PidAt)) -> u32 {
    // SAFETY: Raw reads any address.
    unsafe {
        let level: u32 = Raw::get(pid, member::PidLevel);
        for i in 0..PID_LEVELS {
            if i as u32 > level {
                break;
            }
            // struct upid { int nr; struct pid_namespace *ns; }
            let upid: [u64; 2] = Raw::at(pid, offset(member::PidNumbers) + i as u64 * UPID);
            each(
                i,
                PidAt {
                    nr: upid[0] as u32,
                    ns: Raw::get(upid[1], member::PidInum),
                },
            );
        }
        // Not how often the loop ran: the verifier would know that exactly, and follow
        // the rest of the program anew for each number.
        level.min(PID_LEVELS as u32 - 1) + 1
    }
}

/// The id of `pid` in the namespace of that level.
///
/// # Safety
///
/// As for [`pids`].
#[inline(always)]
pub unsafe fn pid_at(pid: u64, level: u32) -> u32 {
    // SAFETY: Raw reads any address.
    unsafe { Raw::at(pid, offset(member::PidNumbers) + u64::from(level) * UPID) }
}

/// The inum of the pid namespace that the current task is in.
#[inline(always)]
pub fn active_pid_ns() -> u32 {
    // SAFETY: Raw reads any address.
    unsafe {
        let pid: u64 = Raw::get(raw_current(), member::TaskThreadPid);
        let level: u32 = Raw::get(pid, member::PidLevel);
        let ns: u64 = Raw::at(
            pid,
            offset(member::PidNumbers) + u64::from(level) * UPID + 8,
        );
        Raw::get(ns, member::PidInum)
    }
}

/// The name of a task.
///
/// # Safety
///
/// `R` must be able to read the task.
#[inline(always)]
pub unsafe fn comm<R: Reader>(task: u64) -> [u64; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            R::get(task, member::TaskComm),
            R::at(task, offset(member::TaskComm) + 8),
        ]
    }
}

/// A name as a record has it, copied in words.
#[inline(always)]
pub fn bytes(comm: [u64; 2]) -> [u8; 16] {
    // SAFETY: as long, and every bit pattern is a number.
    unsafe { core::mem::transmute(comm) }
}

/// Whether all tasks are told of.
#[inline(always)]
pub fn tells_all() -> bool {
    config!(tasks) == Tasks::All as u32
}

/// A plain fork has made a task, which has that `struct pid`.
#[inline(always)]
pub fn born<R: Reader>(child: u64, pid: u64) {
    // SAFETY: the child that the tracepoint gives.
    unsafe {
        if is_told::<R>(pid) {
            report_born::<R>(child, pid, 0);
        }
    }
}

/// An operation with these flags has made a task: it tells of that itself, but not all of it.
#[inline(always)]
pub fn born_of_op<R: Reader>(child: u64, pid: u64, flags: u64) {
    if tells_all() {
        // SAFETY: the child that the tracepoint gives.
        unsafe { report_born::<R>(child, pid, (flags & CLONE_NEW_ALL) as u32 | 1) }
    }
}

#[inline(always)]
unsafe fn report_born<R: Reader>(child: u64, pid: u64, made_with: u32) {
    let Some(mut entry) = EVENTS.reserve::<Task>(0) else {
        return emit::count_lost(RecordKind::TaskNew as u32);
    };
    let into = entry.as_mut_ptr();
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: as for `report`.
    unsafe {
        fill::<R>(&mut *into, RecordKind::TaskNew, child, pid, parent);
        (*into).record.made_with = made_with;
    }
    entry.submit(emit::wakeup());
}

/// Whether a task that has that `struct pid` is told of.
#[inline(always)]
unsafe fn is_told<R: Reader>(pid: u64) -> bool {
    // SAFETY: the caller's promise.
    tells_all()
        || config!(tasks) != Tasks::None as u32
            && unsafe { R::get::<u32>(pid, member::PidLevel) } != 0
}

/// The tracepoint sched_process_exec: a task, which had that id before, executes a program.
#[inline(always)]
pub fn executes<R: Reader>(task: u64, old: u32) {
    // SAFETY: the task that the tracepoint gives.
    unsafe {
        let pid: u64 = R::get(task, member::TaskThreadPid);
        report::<R>(RecordKind::TaskChange, task, pid, old);
    }
}

/// The tracepoint task_rename: a task is about to have that name.
#[inline(always)]
pub fn renamed<R: Reader>(task: u64, comm: u64) {
    // SAFETY: the task that the tracepoint gives; Raw reads any address.
    unsafe {
        let pid: u64 = R::get(task, member::TaskThreadPid);
        let Some(mut entry) = EVENTS.reserve::<Task>(0) else {
            return emit::count_lost(RecordKind::TaskChange as u32);
        };
        let into = entry.as_mut_ptr();
        fill::<R>(&mut *into, RecordKind::TaskChange, task, pid, 0);
        let name = &mut (*into).record.comm;
        *name = [0; 16];
        let _ = bpf_probe_read_kernel_str_bytes(comm as *const u8, name);
        entry.submit(emit::wakeup());
    }
}

/// The tracepoint cgroup_attach_task: a task, or its process, goes to another cgroup.
#[inline(always)]
pub fn attached<R: Reader>(cgroup: u64, task: u64) {
    // SAFETY: what the tracepoint gives.
    unsafe {
        let root: u64 = R::get(cgroup, member::CgroupRoot);
        // That of version 2 (v6.12 kernel/cgroup/cgroup.c, proc_cgroup_show).
        if R::get::<u32>(root, member::CgroupRootHierarchy) != 0 {
            return;
        }
        let pid: u64 = R::get(task, member::TaskThreadPid);
        report::<R>(RecordKind::TaskChange, task, pid, 0);
    }
}

/// The tracepoint sched_process_free: a task that had exited is forgotten.
#[inline(always)]
pub fn freed<R: Reader>(task: u64) {
    // SAFETY: the task that the tracepoint gives; it has no `struct pid` any more.
    unsafe { report::<R>(RecordKind::TaskFree, task, 0, 0) };
}

/// The tracepoint sched_process_exit.
#[inline(always)]
pub fn exits<R: Reader>(task: u64) {
    slot::clear();
    mount_ops::clear();
    // SAFETY: the task that the tracepoint gives.
    unsafe {
        if config!(follow) != 0 {
            let _ = TRACKED.remove(&R::get::<u32>(task, member::TaskPid));
        }
        let pid: u64 = R::get(task, member::TaskThreadPid);
        if is_told::<R>(pid) {
            report::<R>(RecordKind::TaskExit, task, pid, 0);
        }
    }
}

#[inline(always)]
unsafe fn report<R: Reader>(kind: RecordKind, task: u64, pid: u64, parent: u32) {
    let Some(mut entry) = EVENTS.reserve::<Task>(0) else {
        return emit::count_lost(kind as u32);
    };
    // SAFETY: the ring's memory, of which every member is written; `task` and `pid`
    // are the caller's.
    unsafe { fill::<R>(&mut *entry.as_mut_ptr(), kind, task, pid, parent) };
    entry.submit(emit::wakeup());
}

#[inline(always)]
unsafe fn fill<R: Reader>(into: &mut Task, kind: RecordKind, task: u64, pid: u64, parent: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let record = &mut into.record;
        record.head = emit::head(kind);
        record.cgroup = if tells_all() {
            cgroup::<R>(task)
        } else {
            bpf_get_current_cgroup_id()
        };
        record.start = match tells_all() && has(member::TaskStart) {
            true => R::get(task, member::TaskStart),
            false => 0,
        };
        record.pid = R::get(task, member::TaskTgid);
        record.tid = R::get(task, member::TaskPid);
        record.parent = parent;
        let cred: u64 = Raw::get(task, member::TaskCred);
        record.uid = Raw::get(cred, member::CredUid);
        record.exit_code = match kind {
            RecordKind::TaskExit if has(member::TaskExitCode) => R::get(task, member::TaskExitCode),
            _ => 0,
        };
        record.comm = bytes(comm::<R>(task));
        record.namespaces = [0; KINDS];
        record.time_for_children = 0;
        record.made_with = 0;
        if matches!(kind, RecordKind::TaskFree) {
            record.pids_len = 0;
            return;
        }
        if tells_all() {
            places::<R>(record, task);
        }
        let chain = &mut into.pids;
        record.pids_len = pids(pid, |i, at| chain[i] = at);
    }
}

/// Notes which namespaces a task is in.
#[inline(always)]
unsafe fn places<R: Reader>(record: &mut TaskRecord, task: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        let nsproxy: u64 = R::get(task, member::TaskNsproxy);
        let cred: u64 = R::get(task, member::TaskCred);
        for_each_kind!(Ns => {
            if Ns::exists() {
                let ns = match Ns::KIND {
                    Kind::User => R::get(cred, member::CredUserNs),
                    Kind::Time => R::get(nsproxy, member::NsproxyTimeNow),
                    _ => Ns::address::<R>(nsproxy),
                };
                record.namespaces[Ns::KIND as usize] =
                    R::get(ns, <Ns as Namespace>::Inum::default());
            }
        });
        if has(member::NsproxyTime) {
            let ns: u64 = R::get(nsproxy, member::NsproxyTime);
            record.time_for_children = R::get(ns, member::TimeInum);
        }
    }
}

/// The id of the cgroup of a task, of version 2; 0 if it cannot be learnt.
#[inline(always)]
unsafe fn cgroup<R: Reader>(task: u64) -> u64 {
    if !has(member::TaskCgroups) || !has(member::CssSetDefault) || !has(member::CgroupKn) {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let set: u64 = R::get(task, member::TaskCgroups);
        let cgroup: u64 = R::get(set, member::CssSetDefault);
        let kn: u64 = R::get(cgroup, member::CgroupKn);
        R::get(kn, member::KernfsId)
    }
}
