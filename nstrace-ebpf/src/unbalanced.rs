//! Mounts that die with writers: somebody took write access without giving it back, or gave
//! it back twice, and the kernel warns in cleanup_mnt. By then who did it is long gone
//! (`nstrace writers` is there to find out), but what the mount was can be told.

use aya_ebpf::EbpfContext;
use nstrace_common::{wire::RecordKind, writers::MountRecord};

use crate::{emit, maps::LIVES, mount, place::was_at, read::Entry};

/// `void cleanup_mnt(struct mount *)`, called: nobody else has the mount any more.
#[inline(always)]
pub fn cleanup_mnt<C: Entry + EbpfContext>(context: &C) {
    let address = context.arg(0);
    let count = mount::writers(address);
    if count == 0 {
        return;
    }
    let Some(mut entry) = LIVES.reserve::<MountRecord>(0) else {
        return emit::count_lost(RecordKind::MountDeath as u32);
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring's memory, written whole.
    unsafe {
        mount::describe(record, emit::head(RecordKind::MountDeath), address);
        (*record).bits = mount::bits_at_death((*record).bits, (*record).flags);
        (*record).count = count;
        was_at(record, address);
        (*record).frames_len = mount::stack(context, &mut (*record).frames);
    }
    entry.submit(emit::wakeup());
}
