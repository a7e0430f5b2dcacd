//! Operations that hang: looked for in the kernel side's slots while they are in
//! flight. Most often there is none, and one look at the index tells.

use std::{collections::HashMap, mem::offset_of, time::Duration};

use aya::{
    Ebpf, Pod,
    maps::{Array, MapData},
};
use nstrace_common::wire::{LIST, OpRecord, RecordKind, SLOTS, SlotIndex};
use zerocopy::{FromBytes, IntoBytes as _};

use super::{KernelError, clock, reader::map};
use crate::{
    decode::operation,
    event::{Event, Now},
};

/// A slot as far as it interests here, and what the kernel side keeps behind it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Slot([u8; SLOT]);

/// The size of `nstrace-ebpf/src/slot.rs`'s `Slot`: the record, its lists, and what
/// the kernel side keeps for itself.
const SLOT: usize = size_of::<OpRecord>() + 8 * LIST + 56;

// SAFETY: plain bytes.
unsafe impl Pod for Slot {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Index(SlotIndex);

// SAFETY: plain numbers without padding.
unsafe impl Pod for Index {}

/// Looks for operations that hang.
pub struct Stalls {
    index: Array<MapData, Index>,
    slots: Array<MapData, Slot>,
    after: Duration,
    /// How often each was reported, by slot and beginning.
    reported: HashMap<(u32, u64), u64>,
}

impl Stalls {
    /// Takes the maps out of the loaded kernel side.
    pub fn new(bpf: &mut Ebpf, after: Duration) -> Result<Self, KernelError> {
        Ok(Stalls {
            index: Array::try_from(map(bpf, ".bss"))?,
            slots: Array::try_from(map(bpf, "OPERATIONS"))?,
            after,
            reported: HashMap::new(),
        })
    }

    /// How often to look.
    pub fn interval(&self) -> Duration {
        (self.after / 4).max(Duration::from_millis(50))
    }

    /// Hands over each operation that hangs, once for each `after` that passed.
    pub fn look(&mut self, mut each: impl FnMut(Event)) -> Result<(), KernelError> {
        let index = self.index.get(&0, 0)?.0;
        if index.in_flight == 0 {
            self.reported.clear();
            return Ok(());
        }
        let in_flight: Vec<u32> = (0..SLOTS as u32)
            .filter(|at| index.owner[*at as usize] != 0)
            .collect();
        let mut still = HashMap::new();
        for at in in_flight {
            let slot = self.slots.get(&at, 0)?;
            let now = clock::monotonic_ns();
            let Some(mut bytes) = in_flight_record(&slot.0, index.owner[at as usize]) else {
                continue;
            };
            let Ok((record, _)) = OpRecord::mut_from_prefix(bytes.as_mut_bytes()) else {
                continue;
            };
            record.head.time = now;
            let key = (at, record.start);
            let passed = now.saturating_sub(record.start) / (self.after.as_nanos() as u64).max(1);
            let before = self.reported.get(&key).copied().unwrap_or(0);
            if passed > before
                && let Ok(operation) = operation(bytes.as_bytes())
            {
                each(Event::Stall(operation, Now { time: now }));
            }
            still.insert(key, passed.max(before));
        }
        self.reported = still;
        Ok(())
    }
}

/// A copy of the record with its list, as the decoder wants it; none if another task
/// has the slot by now. What is written only at the end is blanked.
fn in_flight_record(slot: &[u8; SLOT], owner: u32) -> Option<[u64; SLOT / 8]> {
    let mut copy = [0u64; SLOT / 8];
    copy.as_mut_bytes().copy_from_slice(slot);
    let (record, _) = OpRecord::mut_from_prefix(copy.as_mut_bytes()).ok()?;
    if record.tid != owner {
        return None;
    }
    record.head.kind = RecordKind::Op as u32;
    record.ret = 0;
    record.pids_len = 0;
    record.after = record.before;
    record.comm = [0; 16];
    let name = std::fs::read(format!("/proc/{owner}/comm")).unwrap_or_default();
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    let len = name.len().min(15);
    record.comm[..len].copy_from_slice(&name[..len]);
    Some(copy)
}

const _: () = assert!(offset_of!(OpRecord, head) == 0 && SLOT.is_multiple_of(8));
