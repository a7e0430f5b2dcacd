//! Operations that hang: looked for in the kernel side's slots while they are in
//! flight. Most often there is none, which a program of the kernel side tells (its `stalls.rs`).

use std::{collections::HashMap, mem::offset_of, time::Duration};

use aya::{
    Ebpf, Pod,
    maps::{Array, MapData},
};
use nstrace_common::{
    stalls::{IDLE, LOOKED_AT, NONE},
    wire::{LIST, OpRecord, RecordKind, SLOTS},
};
use zerocopy::{FromBytes, IntoBytes as _};

use super::{KernelError, asked::Asked, clock, reader::map};
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

/// The program that finds them.
const PROGRAM: &str = "stalled_from";

/// How often to look for those that take so long.
pub fn interval(after: Duration) -> Duration {
    const NEVER: Duration = Duration::from_secs(1 << 30);
    match after {
        Duration::ZERO => NEVER,
        after => (after / 4).max(Duration::from_millis(50)),
    }
}

/// Looks for operations that hang.
pub struct Stalls {
    program: Asked,
    slots: Array<MapData, Slot>,
    after: Duration,
    /// How often each was reported, by slot and beginning.
    reported: HashMap<(u32, u64), u64>,
}

impl Stalls {
    /// Loads the program, and takes the map out of the loaded kernel side. None if nobody
    /// wants to know.
    pub fn new(bpf: &mut Ebpf, after: Duration) -> Result<Option<Self>, KernelError> {
        if after.is_zero() {
            return Ok(None);
        }
        Ok(Some(Stalls {
            program: Asked::load(bpf, PROGRAM)?,
            slots: Array::try_from(map(bpf, "OPERATIONS"))?,
            after,
            reported: HashMap::new(),
        }))
    }

    /// Hands over each operation that hangs, once for each `after` that passed.
    pub fn look(&mut self, mut each: impl FnMut(Event)) -> Result<(), KernelError> {
        let after = self.after.as_nanos() as u64;
        let before = clock::monotonic_ns().saturating_sub(after);
        let mut still = HashMap::new();
        let mut from = 0;
        while let Some(at) = self.next(from, before) {
            from = at + 1;
            let slot = self.slots.get(&at, 0)?;
            let now = clock::monotonic_ns();
            // What began so long ago and is still there was there meanwhile.
            if self.next(at, before) != Some(at) {
                continue;
            }
            let mut bytes = in_flight_record(&slot.0);
            let Ok((record, _)) = OpRecord::mut_from_prefix(bytes.as_mut_bytes()) else {
                continue;
            };
            record.head.time = now;
            let key = (at, record.start);
            let passed = now.saturating_sub(record.start) / after;
            let reported = self.reported.get(&key).copied().unwrap_or(0);
            if passed > reported
                && let Ok(operation) = operation(bytes.as_bytes())
            {
                each(Event::Stall(operation, Now { time: now }));
            }
            still.insert(key, passed.max(reported));
        }
        self.reported = still;
        Ok(())
    }

    /// The first slot from this one on whose operation began before that time.
    fn next(&self, mut from: u32, before: u64) -> Option<u32> {
        while from < SLOTS as u32 {
            match self.program.run([from.into(), before])? {
                IDLE => return None,
                NONE => from += LOOKED_AT as u32,
                at => return u32::try_from(at).ok().filter(|at| *at >= from),
            }
        }
        None
    }
}

/// A copy of the record with its list, as the decoder wants it. What is written only at the
/// end is blanked.
fn in_flight_record(slot: &[u8; SLOT]) -> [u64; SLOT / 8] {
    let mut copy = [0u64; SLOT / 8];
    copy.as_mut_bytes().copy_from_slice(slot);
    let Ok((record, _)) = OpRecord::mut_from_prefix(copy.as_mut_bytes()) else {
        unreachable!("a slot begins with a record")
    };
    let owner = record.tid;
    record.head.kind = RecordKind::Op as u32;
    record.ret = 0;
    record.pids_len = 0;
    record.after = record.before;
    record.comm = [0; 16];
    let name = std::fs::read(format!("/proc/{owner}/comm")).unwrap_or_default();
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    let len = name.len().min(15);
    record.comm[..len].copy_from_slice(&name[..len]);
    copy
}

const _: () = assert!(offset_of!(OpRecord, head) == 0 && SLOT.is_multiple_of(8));
