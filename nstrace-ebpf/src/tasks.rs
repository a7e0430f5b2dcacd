//! Tasks below the first pid namespace, and those that are followed.

use aya_ebpf::helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use nstrace_common::{
    field::Field,
    wire::{PID_LEVELS, PidAt, RecordKind, TaskRecord},
};

use crate::{
    emit,
    maps::{EVENTS, TRACKED, config, has, offset},
    read::{Current, Raw, Reader, current},
    slot,
};

/// The size of a `struct upid`.
const UPID: u32 = 16;

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
            let tid: u32 = R::get(child, Field::TaskPid);
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
        let level: u32 = Raw::get(pid, Field::PidLevel);
        let mut len = 0;
        for i in 0..PID_LEVELS {
            if i as u32 > level {
                break;
            }
            // struct upid { int nr; struct pid_namespace *ns; }
            let upid: [u64; 2] = Raw::at(pid, offset(Field::PidNumbers) + i as u32 * UPID);
            each(
                i,
                PidAt {
                    nr: upid[0] as u32,
                    ns: Raw::get(upid[1], Field::PidInum),
                },
            );
            len = i as u32 + 1;
        }
        len
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
    unsafe { Raw::at(pid, offset(Field::PidNumbers) + level * UPID) }
}

/// The inum of the pid namespace that the current task is in.
#[inline(always)]
pub fn active_pid_ns() -> u32 {
    // SAFETY: the current task; Raw reads any address.
    unsafe {
        let pid: u64 = Current::get(current(), Field::TaskThreadPid);
        let level: u32 = Current::get(pid, Field::PidLevel);
        let ns: u64 = Raw::at(pid, offset(Field::PidNumbers) + level * UPID + 8);
        Raw::get(ns, Field::PidInum)
    }
}

/// A plain fork has made a task.
#[inline(always)]
pub fn born<R: Reader>(child: u64) {
    // SAFETY: the child that the tracepoint gives.
    unsafe {
        let pid: u64 = R::get(child, Field::TaskThreadPid);
        if config!(tasks) != 0 && R::get::<u32>(pid, Field::PidLevel) != 0 {
            let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
            report::<R>(RecordKind::TaskNew, child, pid, parent);
        }
    }
}

/// The tracepoint sched_process_exit.
#[inline(always)]
pub fn exits<R: Reader>(task: u64) {
    if slot::mine().is_some() {
        slot::abandon();
    }
    // SAFETY: the task that the tracepoint gives.
    unsafe {
        if config!(follow) != 0 {
            let _ = TRACKED.remove(&R::get::<u32>(task, Field::TaskPid));
        }
        let pid: u64 = R::get(task, Field::TaskThreadPid);
        if config!(tasks) != 0 && R::get::<u32>(pid, Field::PidLevel) != 0 {
            report::<R>(RecordKind::TaskExit, task, pid, 0);
        }
    }
}

#[inline(always)]
unsafe fn report<R: Reader>(kind: RecordKind, task: u64, pid: u64, parent: u32) {
    let Some(mut entry) = EVENTS.reserve::<Task>(0) else {
        return emit::count_lost(kind as u32);
    };
    let into = entry.as_mut_ptr();
    // SAFETY: the ring's memory, of which every member is written; `task` and `pid`
    // are the caller's.
    unsafe {
        let record = &mut (*into).record;
        record.head = emit::head(kind);
        record.cgroup = bpf_get_current_cgroup_id();
        record.pid = R::get(task, Field::TaskTgid);
        record.tid = R::get(task, Field::TaskPid);
        record.parent = parent;
        let cred: u64 = R::get(task, Field::TaskCred);
        record.uid = R::get(cred, Field::CredUid);
        record.exit_code = match kind {
            RecordKind::TaskExit if has(Field::TaskExitCode) => R::get(task, Field::TaskExitCode),
            _ => 0,
        };
        let low: u64 = R::get(task, Field::TaskComm);
        let high: u64 = R::at(task, offset(Field::TaskComm) + 8);
        record.comm[..8].copy_from_slice(&low.to_ne_bytes());
        record.comm[8..].copy_from_slice(&high.to_ne_bytes());
        let chain = &mut (*into).pids;
        record.pids_len = pids(pid, |i, at| chain[i] = at);
    }
    entry.submit(emit::wakeup());
}
