//! A slot for each operation in flight, owned by its task.
//!
//! A hash map would do, at 815 instructions for the update and the deletion; these
//! slots take some 40. A thread's slot is one of the pair that its id points to. To
//! claim one, add 1 to its claims and look: who sees 1 has it, who sees more takes
//! its own back and tries the other. Two that meet may both fail, never both win,
//! since each sees at least its own addition and those before it. Kernels before
//! v5.12 have no compare-and-exchange for BPF programs, only this addition.
//!
//! An operation without a slot is counted as lost: if both slots were taken, or if its
//! beginning was missed. The kernel skips a program that is already running on the CPU,
//! which on a preemptible kernel can be the run of another task; hence the twins
//! (`nstrace_common::probe`). An operation whose end was missed, for that reason or
//! because a kretprobe has only so many instances, is counted when its task begins the
//! next one or another call of the same function, or exits.

use core::arch::asm;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use nstrace_common::wire::{LIST, MARKS, OpRecord, SLOTS};

use crate::{
    emit,
    maps::{INDEX, OPERATIONS},
};

/// Which task has which slot.
#[repr(C)]
pub struct SlotIndex {
    /// How many slots are taken: while none is, nothing has to be looked for.
    pub in_flight: u64,
    /// Claims on each slot. Its owner is the task that saw 1 after adding its own.
    pub claims: [u64; SLOTS],
    /// The thread id of each slot's owner; 0 when free.
    pub owner: [u32; SLOTS],
}

/// What is gathered about one operation.
#[repr(C)]
pub struct Slot {
    /// What user space will get, with the lists behind it.
    pub record: OpRecord,
    pub list: [u64; LIST],
    /// From here on for the kernel side alone: the namespace that setns was last
    /// asked to enter, and its kind.
    pub target: u64,
    pub target_kind: u32,
    /// Kinds that setns was asked to enter, a bit each.
    pub installs: u32,
    /// The user namespace that was last charged, for what, and for which kind.
    pub charged: u64,
    pub charged_type: u32,
    pub charged_kind: u32,
    /// What security_create_user_ns, create_user_ns, copy_namespaces and alloc_pid
    /// returned, if it was an error.
    pub lsm_ret: i32,
    pub user_ret: i32,
    pub create_ret: i32,
    pub pid_ret: i32,
    /// Its own index.
    pub at: u32,
    /// Explicit padding.
    pub pad: u32,
}

#[inline(always)]
fn tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

#[inline(always)]
fn index() -> &'static mut SlotIndex {
    // SAFETY: what is shared is added to atomically, or written by its owner only.
    unsafe { &mut *(&raw mut INDEX) }
}

/// The slot of a pair that a task has.
#[inline(always)]
fn owned(index: &SlotIndex, tid: u32) -> Option<usize> {
    let home = tid as usize & (SLOTS - 1);
    if index.owner[home] == tid {
        Some(home)
    } else if index.owner[home ^ 1] == tid {
        Some(home ^ 1)
    } else {
        None
    }
}

/// The slot of the current task's operation, if it is in one.
#[inline(always)]
pub fn mine() -> Option<&'static mut Slot> {
    // What other tasks add does not matter: a task's own operation is counted from its
    // beginning on.
    if !any() {
        return None;
    }
    slot(owned(index(), tid())?)
}

/// Whether any operation is in flight.
#[inline(always)]
pub fn any() -> bool {
    // SAFETY: in the map.
    unsafe { core::ptr::read_volatile(&raw const index().in_flight) != 0 }
}

/// The thread id of a slot's owner; 0 when it is free.
#[inline(always)]
pub fn owner(at: usize) -> u32 {
    // SAFETY: in the map.
    unsafe { core::ptr::read_volatile(&raw const index().owner[at & (SLOTS - 1)]) }
}

/// The same if it is one of these, a bit each. Of another one the end was missed.
#[inline(always)]
pub fn mine_of(ops: u32) -> Option<&'static mut Slot> {
    let slot = mine()?;
    if ops >> (slot.record.op & 31) & 1 == 0 {
        abandon(slot);
        return None;
    }
    Some(slot)
}

/// Says that the current task is in no operation: if it has a slot, the end was missed. Else
/// the end of what comes now, which is no operation, would be taken for that one's.
#[inline(always)]
pub fn clear() {
    if let Some(slot) = mine() {
        abandon(slot);
    }
}

/// A slot for the current task, whose thread id that is.
#[inline(always)]
pub fn claim(tid: u32) -> Option<&'static mut Slot> {
    let index = index();
    // An operation of this task whose end was missed: its slot serves the new one.
    if let Some(at) = owned(index, tid) {
        emit::count_lost(0);
        return slot(at);
    }
    let home = tid as usize & (SLOTS - 1);
    let at = if try_claim(index, home) {
        home
    } else if try_claim(index, home ^ 1) {
        home ^ 1
    } else {
        return None;
    };
    index.owner[at & (SLOTS - 1)] = tid;
    add(&mut index.in_flight, 1);
    let slot = slot(at)?;
    slot.at = at as u32;
    Some(slot)
}

/// Gives up an operation whose end was missed.
#[inline(always)]
pub fn abandon(slot: &mut Slot) {
    emit::count_lost(0);
    release(slot);
}

/// Gives the current task's slot back.
#[inline(always)]
pub fn release(slot: &mut Slot) {
    // Who claims it next has not begun before that is told (`stalls.rs`).
    // SAFETY: the task's own.
    unsafe { core::ptr::write_volatile(&raw mut slot.record.start, u64::MAX) };
    let index = index();
    let at = slot.at as usize & (SLOTS - 1);
    index.owner[at] = 0;
    add(&mut index.claims[at], u64::MAX);
    add(&mut index.in_flight, u64::MAX);
}

#[inline(always)]
fn try_claim(index: &mut SlotIndex, at: usize) -> bool {
    let claims = &mut index.claims[at & (SLOTS - 1)];
    // Most often taken by another: spare the additions.
    // SAFETY: in the map.
    if unsafe { core::ptr::read_volatile(claims) } != 0 {
        return false;
    }
    add(claims, 1);
    // SAFETY: in the map.
    if unsafe { core::ptr::read_volatile(claims) } == 1 {
        return true;
    }
    add(claims, u64::MAX);
    false
}

/// Adds atomically. core has no such operation for this target.
#[inline(always)]
pub fn add(counter: &mut u64, value: u64) {
    // SAFETY: an aligned u64 in the map; this is BPF_XADD, which every kernel has.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {value}",
            counter = in(reg) counter as *mut u64,
            value = in(reg) value,
        );
    }
}

#[inline(always)]
fn slot(at: usize) -> Option<&'static mut Slot> {
    // SAFETY: the map lives as long as the program, and the slot is the task's own.
    OPERATIONS
        .get_ptr_mut(at as u32)
        .map(|slot| unsafe { &mut *slot })
}

impl Slot {
    /// Sets an element of the list.
    #[inline(always)]
    pub fn put(&mut self, mut at: usize, value: u64) {
        // Else the compiler may compare one register and add another, equal one to
        // the address, of which the verifier does not know that it was compared.
        // SAFETY: moves a register to itself. (No instruction at all would leave two
        // line numbers for the next one, which the kernel does not take.)
        unsafe { asm!("{0} = {0}", inout(reg) at) };
        if at < LIST {
            self.list[at] = value;
        }
    }

    /// Notes that the operation passed a point.
    #[inline(always)]
    pub fn mark(&mut self, mark: u8) {
        let at = usize::from(self.record.marks_len);
        if at < MARKS {
            // SAFETY: no precondition.
            let elapsed = unsafe { bpf_ktime_get_ns() } - self.record.start;
            self.put(
                usize::from(self.record.ids_len) + at,
                elapsed << 8 | u64::from(mark),
            );
            self.record.marks_len = at as u8 + 1;
        }
    }
}

// User space reads slots by this size (nstrace/src/kernel/stall.rs).
const _: () = assert!(size_of::<Slot>() == size_of::<OpRecord>() + 8 * LIST + 56);
