//! Whether a number of namespaces is in use: what the kernel itself says where nothing else
//! tells whether one still lives.
//!
//! The numbers are given by an allocator, `proc_inum_ida` of fs/proc/generic.c, which is an
//! xarray of bitmaps (v6.12 lib/idr.c, ida_alloc_range; include/linux/xarray.h). A bit is
//! set from before a namespace can be seen until it has died, and nothing on the way to a
//! set bit is moved but as readers under RCU may see it, as programs are.

use nstrace_common::{
    field::member,
    numbers::{FREE, IN_USE, UNKNOWN},
};

use crate::read::{Raw, Reader, has, offset};

/// `IDA_BITMAP_BITS`.
const BITMAP: u64 = 1024;
/// `XA_CHUNK_SHIFT`, where the kernel is not built for smallness.
const CHUNK_SHIFT: u32 = 6;
/// `XA_RETRY_ENTRY`: look again.
const RETRY: u64 = 256 << 2 | 2;
/// So many levels are more than all numbers need.
const LEVELS: usize = 6;

/// Is run for the answer, and attached nowhere. Its arguments are the address of the
/// allocator, and the number less the first one that is given. (Aya's macro would leave
/// the answer out.)
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint")]
extern "C" fn number_in_use(args: *const u64) -> i32 {
    // SAFETY: two arguments, as the program's caller gives them.
    let (ida, number) = unsafe { (*args, *args.add(1)) };
    answer(ida, number)
}

#[inline(always)]
fn answer(ida: u64, number: u64) -> i32 {
    if !has(member::IdaHead) || !has(member::NodeShift) || !has(member::NodeSlots) {
        return UNKNOWN;
    }
    let (index, bit) = (number / BITMAP, number % BITMAP);
    // SAFETY: Raw reads any address.
    let mut entry: u64 = unsafe { Raw::get(ida, member::IdaHead) };
    let mut is_head = true;
    for _ in 0..LEVELS {
        if entry == RETRY {
            return UNKNOWN;
        }
        // xa_is_node: an internal entry that is an address.
        if entry & 3 != 2 || entry <= 4096 {
            break;
        }
        let node = entry - 2;
        // SAFETY: as above.
        let shift = u32::from(unsafe { Raw::at::<u8>(node, offset(member::NodeShift)) }) & 31;
        let slot = index >> shift;
        if is_head && slot >> CHUNK_SHIFT != 0 {
            return FREE;
        }
        let slot = slot & ((1 << CHUNK_SHIFT) - 1);
        // SAFETY: as above.
        entry = unsafe { Raw::at(node, offset(member::NodeSlots) + slot * 8) };
        is_head = false;
    }
    if is_head && index != 0 {
        return FREE;
    }
    let word = match entry {
        0 => return FREE,
        // Up to 63 bits stand in a value, as long as no others are set.
        value if value & 1 != 0 => match bit {
            0..63 => value >> 1 >> bit,
            _ => 0,
        },
        _ if entry & 2 != 0 => return UNKNOWN,
        // SAFETY: as above.
        bitmap => unsafe { Raw::at::<u64>(bitmap, bit / 64 * 8) >> (bit % 64) },
    };
    if word & 1 != 0 { IN_USE } else { FREE }
}
