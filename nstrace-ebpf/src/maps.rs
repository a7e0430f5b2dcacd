//! The maps, and the settings that user space makes before it loads them.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, RingBuf},
};
use nstrace_common::{
    config::Config,
    wire::{Counts, LostDeath, SLOTS},
};

use crate::slot::{Slot, SlotIndex};

/// Operations and tasks. User space sets the size.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Births and deaths of namespaces, and cgroups. User space sets the size.
#[map]
pub static LIVES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// The operations in flight.
#[map]
pub static OPERATIONS: Array<Slot> = Array::with_max_entries(SLOTS as u32, 0);

/// Which of them are in use, and by whom. Not a map by itself, but in that of the
/// zeroed data: no look-up.
#[unsafe(no_mangle)]
pub static mut INDEX: SlotIndex = SlotIndex {
    in_flight: 0,
    claims: [0; SLOTS],
    owner: [0; SLOTS],
};

/// The last death that found no room, by number from `FIRST_INUM` on; where the tree of
/// namespaces is kept. User space maps it.
#[map]
pub static LOST_DEATHS: Array<LostDeath> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// What each CPU counts. User space sets how many there are, and maps it: see [`ASLEEP`].
#[map]
pub static COUNTS: Array<Counts> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The death that a thread told last, by the lower bits of its id: what the twin of the
/// program that told it has not to tell again.
#[map]
pub static TOLD: Array<u64> = Array::with_max_entries(SLOTS as u32, 0);

/// Not 0 while user space sleeps and wants to be woken by the next record. User space
/// maps it. In the system calls that read and write maps no kprobe's program runs on that
/// CPU (kernel/bpf/syscall.c, bpf_map_copy_value: bpf_disable_instrumentation), and not
/// either while a task that is preempted in one waits.
#[map]
pub static ASLEEP: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The threads of the command that is followed, and of its descendants.
#[map]
pub static TRACKED: HashMap<u32, u8> = HashMap::with_max_entries(65536, 0);

#[unsafe(no_mangle)]
static CONFIG: Config = Config::ALL;

/// A member of the configuration.
macro_rules! config {
    ($member:ident) => {{
        // SAFETY: a static; volatile because it is another value once loaded.
        #[allow(unused_unsafe, reason = "some callers are unsafe themselves")]
        unsafe {
            core::ptr::read_volatile(&raw const $crate::maps::config_ref().$member)
        }
    }};
}
pub(crate) use config;

#[inline(always)]
pub fn config_ref() -> &'static Config {
    &CONFIG
}
