//! Programs that tell the counts of one mount: they are run for the answer, and attached nowhere.

use nstrace_common::{field::member, writers::GONE};

use super::MOUNTS;
use crate::{
    mount,
    read::{Raw, Reader, has},
};

/// The writers of a mount, for who runs this: it is attached nowhere.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint")]
extern "C" fn mount_writers(args: *const u64) -> i32 {
    // SAFETY: the arguments of the program's caller: the mount, and since when the ledger has
    // it. As long as it does, it lives.
    let (mount, since) = unsafe { (*args, *args.add(1)) };
    match MOUNTS.get_ptr(&mount) {
        // SAFETY: in the map.
        Some(own) if unsafe { *own } == since => mount::writers(mount),
        _ => GONE,
    }
}

/// The mount that a descriptor of who runs a program is on.
///
/// # Safety
///
/// `args` must be what the program was called with.
#[inline(always)]
unsafe fn mount_of_descriptor(args: *const u64) -> Option<u64> {
    if !has(member::FileMnt) || !has(member::MountPcp) {
        return None;
    }
    // SAFETY: the argument of the program's caller, who keeps the descriptor open meanwhile.
    let file = mount::open_file(unsafe { *args } as u32)?;
    // SAFETY: Raw reads any address.
    Some(mount::around(unsafe { Raw::get(file, member::FileMnt) }))
}

/// The writers of the mount that a descriptor of who runs this is on: it is attached nowhere.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint")]
extern "C" fn descriptor_writers(args: *const u64) -> i32 {
    // SAFETY: its own.
    match unsafe { mount_of_descriptor(args) } {
        Some(mount) if has(member::PcpWriters) => mount::writers(mount),
        _ => GONE,
    }
}

/// The references to it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tracepoint")]
extern "C" fn descriptor_references(args: *const u64) -> i32 {
    // SAFETY: its own.
    match unsafe { mount_of_descriptor(args) } {
        Some(mount) if has(member::PcpGets) => mount::references(mount),
        _ => GONE,
    }
}
