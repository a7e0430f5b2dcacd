//! Deaths of namespaces, however they come about; births whose operation found no
//! room in its ring; and new cgroups.
//!
//! A birth is in the record of the operation that it is part of: which kinds were
//! asked for, and which number each has. It goes its own way only if that is lost.
//!
//! Every namespace gives its number back in one function. Up to v6.17 that is
//! proc_free_inum, which knows the number only: the kind is for user space to
//! remember. From v6.18 namespaces stand in a tree, and what removes them there knows
//! everything.
//!
//! What an operation made and gives back because a later stage failed dies here without
//! having been born. User space leaves it out: who frees it cannot be told from here,
//! it may be a worker, or an RCU callback on the back of any task.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes};
use nstrace_common::{
    field::member,
    kind::Kind,
    wire::{CgroupRecord, FIRST_INUM, IDS, LifeRecord, NO_KIND, Op, OpRecord, RecordKind, SLOTS},
};

use crate::{
    emit,
    maps::{LIVES, LOST_DEATHS, TOLD},
    read::{Entry, Raw, Reader, Typed, has, has_twins, offset},
    slot::Slot,
};

#[inline(always)]
fn send(kind: RecordKind, inum: u32, id: u64, address: u64, ns_kind: u32) {
    let ids = bpf_get_current_pid_tgid();
    let record = LifeRecord {
        head: emit::head(kind),
        id,
        address,
        inum,
        ns_kind,
        pid: (ids >> 32) as u32,
        tid: ids as u32,
    };
    // SAFETY: a record, whole.
    if unsafe { emit::try_send(&LIVES, &raw const record, size_of::<LifeRecord>()) } {
        return;
    }
    if let Some(lost) = LOST_DEATHS.get_ptr_mut(inum.wrapping_sub(FIRST_INUM)) {
        // SAFETY: in the map.
        unsafe {
            // A second word says nothing new of a death that is there.
            if address == 0 || (*lost).time == 0 {
                (*lost).address = address;
                (*lost).time = record.head.time;
            }
        }
    }
    // User space looks there when it sees the count.
    emit::count_lost(kind as u32);
}

/// Sends the births of an operation whose own record found no room: the same without its
/// lists.
#[inline(always)]
pub fn born(slot: &mut Slot) {
    if slot.record.ret >= 0 && slot.record.op != Op::Setns as u8 {
        slot.record.head.kind = RecordKind::Birth as u32;
        slot.record.marks_len = 0;
        slot.record.pids_len = 0;
        let len = size_of::<OpRecord>() + usize::from(slot.record.ids_len).min(IDS) * 8;
        // SAFETY: the slot is longer than that, and in a map.
        unsafe { emit::send(&LIVES, RecordKind::Birth, slot as *const Slot, len) };
    }
}

/// `void proc_free_inum(unsigned int inum)`, called.
#[inline(always)]
pub fn proc_free_inum<C: Entry>(context: &C) {
    note(context.arg(0));
    inum_freed(context);
}

/// The twin of [`proc_free_inum`].
#[inline(always)]
pub fn proc_free_inum_twin<C: Entry>(context: &C) {
    if !is_told(context.arg(0)) {
        inum_freed(context);
    }
}

#[inline(always)]
fn inum_freed<C: Entry>(context: &C) {
    send(RecordKind::Death, context.arg(0) as u32, 0, 0, NO_KIND);
}

/// `void __ns_tree_remove(struct ns_common *ns, …)`, called.
#[inline(always)]
pub fn ns_tree_remove<C: Entry>(context: &C) {
    note(context.arg(0));
    removed(context);
}

/// The twin of [`ns_tree_remove`].
#[inline(always)]
pub fn ns_tree_remove_twin<C: Entry>(context: &C) {
    if !is_told(context.arg(0)) {
        removed(context);
    }
}

#[inline(always)]
fn removed<C: Entry>(context: &C) {
    let ns = context.arg(0);
    // SAFETY: the function's argument.
    unsafe {
        let ns_type: u32 = C::Args::get(ns, member::NsType);
        let ns_kind = Kind::from_flag(u64::from(ns_type)).map_or(NO_KIND, |kind| kind as u32);
        let inum = C::Args::get(ns, member::NsInum);
        let id = C::Args::get(ns, member::NsId);
        send(RecordKind::Death, inum, id, 0, ns_kind);
    }
}

/// Notes that the current thread tells a death, for the twin that runs next. What comes
/// between the two is an interrupt, which may tell one too: then the twin tells the death
/// again, and user space, which knows who lives, leaves it out.
#[inline(always)]
fn note(death: u64) {
    if has_twins()
        && let Some(told) = told()
    {
        *told = death;
    }
}

/// Whether the program whose twin this is has told a death; if not, counts it.
#[inline(always)]
fn is_told(death: u64) -> bool {
    if let Some(told) = told()
        && core::mem::take(told) == death
    {
        return true;
    }
    emit::count_by_twin();
    false
}

#[inline(always)]
fn told() -> Option<&'static mut u64> {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: in the map. Threads of the same lower bits may overwrite each other's.
    TOLD.get_ptr_mut(tid & (SLOTS as u32 - 1))
        .map(|told| unsafe { &mut *told })
}

/// `void delayed_free_pidns(struct callback_head *)`, called: the second word of the
/// death of a pid namespace. The last process id of one is often given up in an
/// interrupt; if that came while the program of proc_free_inum was running, the kernel
/// has skipped it.
#[inline(always)]
pub fn delayed_free_pidns<C: Entry>(context: &C) {
    if has(member::PidNsRcu) {
        let address = context.arg(0) - offset(member::PidNsRcu);
        // SAFETY: Raw reads any address; this is the namespace around its callback.
        let inum = unsafe { Raw::get(address, member::PidInum) };
        send(RecordKind::Death, inum, 0, address, Kind::Pid as u32);
    }
}

/// The tracepoint cgroup_mkdir.
#[inline(always)]
pub fn cgroup_made(cgroup: u64, path: u64) {
    if !has(member::CgroupKn) || !has(member::KernfsId) {
        return;
    }
    let Some(mut entry) = LIVES.reserve::<CgroupRecord>(0) else {
        return emit::count_lost(RecordKind::Cgroup as u32);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring's memory, written member by member; the tracepoint's
    // arguments, of which the path is not typed.
    unsafe {
        let kn: u64 = Typed::get(cgroup, member::CgroupKn);
        (*record).head = emit::head(RecordKind::Cgroup);
        (*record).id = Typed::get(kn, member::KernfsId);
        (*record).path[0] = 0;
        let _ = bpf_probe_read_kernel_str_bytes(path as *const u8, &mut (*record).path);
    }
    entry.submit(emit::wakeup());
}
