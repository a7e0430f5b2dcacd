//! How a record gets to user space, or is counted as lost.
//!
//! To wake a reader costs more than all the rest, so a record wakes it only if it
//! said that it sleeps; it then reads on for a while before it sleeps again.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    maps::RingBuf,
};
use nstrace_common::wire::{Counts, Head, RECORD_KINDS, RecordKind};

use crate::{
    maps::{ASLEEP, COUNTS},
    slot,
};

/// The head of a record of this kind, now.
#[inline(always)]
pub fn head(kind: RecordKind) -> Head {
    Head {
        kind: kind as u32,
        pad: 0,
        // SAFETY: no precondition.
        time: unsafe { bpf_ktime_get_ns() },
    }
}

/// Sends `len` bytes from `record` on; says whether there was room.
///
/// # Safety
///
/// They must all be initialised: the verifier sees to it.
#[inline(always)]
pub unsafe fn send<T>(ring: &RingBuf, kind: RecordKind, record: *const T, len: usize) -> bool {
    // SAFETY: the caller's promise.
    let sent = unsafe { try_send(ring, record, len) };
    if !sent {
        count_lost(kind as u32);
    }
    sent
}

/// The same without counting.
///
/// # Safety
///
/// As for [`send`].
#[inline(always)]
pub unsafe fn try_send<T>(ring: &RingBuf, record: *const T, len: usize) -> bool {
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(record.cast::<u8>(), len) };
    ring.output::<[u8]>(bytes, wakeup()).is_ok()
}

/// Counts a record of this kind as lost; kind 0 is an operation without a slot.
#[inline(always)]
pub fn count_lost(kind: u32) {
    const _: () = assert!(RECORD_KINDS > RecordKind::MountBirths as usize);
    if let Some(counts) = counts()
        && let Some(lost) = counts.lost.get_mut(kind as usize)
    {
        slot::add(lost, 1);
    }
}

/// Counts a death that was told by a twin.
#[inline(always)]
pub fn count_by_twin() {
    if let Some(counts) = counts() {
        slot::add(&mut counts.by_twin, 1);
    }
}

/// What this CPU counts. Another task may be preempted while it counts: add atomically.
#[inline(always)]
fn counts() -> Option<&'static mut Counts> {
    // SAFETY: no precondition; and in the map.
    unsafe {
        let counts = COUNTS.get_ptr_mut(bpf_get_smp_processor_id())?;
        Some(&mut *counts)
    }
}

/// The flag with which to hand a record over.
#[inline(always)]
pub fn wakeup() -> u64 {
    if let Some(asleep) = ASLEEP.get_ptr_mut(0) {
        // SAFETY: in the map. Two records that both see 1 wake the reader twice.
        unsafe {
            if core::ptr::read_volatile(asleep) != 0 {
                core::ptr::write_volatile(asleep, 0);
                return u64::from(BPF_RB_FORCE_WAKEUP);
            }
        }
    }
    u64::from(BPF_RB_NO_WAKEUP)
}
