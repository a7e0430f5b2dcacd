//! Operations that hang: which slots have them, for user space to read. To read the index
//! from there would take a system call that keeps the programs of kprobes from running
//! (`ASLEEP` of maps.rs).

use nstrace_common::{
    stalls::{IDLE, LOOKED_AT, NONE},
    wire::SLOTS,
};

use crate::{maps::OPERATIONS, slot};

/// Is run for the answer, and attached nowhere. Its arguments are the slot to begin at, and
/// the time before which an operation must have begun. It answers with the first such slot of
/// [`LOOKED_AT`], [`NONE`] or [`IDLE`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint")]
extern "C" fn stalled_from(args: *const u64) -> i32 {
    // SAFETY: two arguments, as the program's caller gives them.
    let (from, before) = unsafe { (*args, *args.add(1)) };
    if !slot::any() {
        return IDLE;
    }
    for i in 0..LOOKED_AT {
        let at = (from as usize).wrapping_add(i) & (SLOTS - 1);
        if slot::owner(at) != 0
            && let Some(slot) = OPERATIONS.get_ptr(at as u32)
            // SAFETY: in the map.
            && unsafe { core::ptr::read_volatile(&raw const (*slot).record.start) } < before
        {
            return at as i32;
        }
    }
    NONE
}
