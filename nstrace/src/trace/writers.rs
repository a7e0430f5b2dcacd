//! The ledger of write access at the place of a state, in blocks before it: they are of a kind
//! of their own, so that a large ledger leaves room for the state, and who does not know them
//! reads that alone.

use super::{
    block::{self, Kind},
    bytes::{Bytes, put},
    record::{self, Codec, Entry},
};
use crate::writers::Ledger;

/// A block is closed when so many bytes have gathered.
const BLOCK_LEN: usize = 1 << 20;

/// More follow.
const MORE: u8 = 0;
/// It is the last.
const LAST: u8 = 1;

/// Appends its blocks: what it has, as events.
pub(super) fn append(codec: &mut Codec, ledger: &Ledger, time: u64, out: &mut Vec<u8>) {
    let (mut index, mut payload) = (0, Vec::new());
    let mut events = 0;
    let mut close = |payload: &mut Vec<u8>, events: &mut u32, end: u8| {
        let mut head = Vec::new();
        put(&mut head, index);
        head.push(end);
        payload.splice(..0, head);
        block::append(out, Kind::Writers, payload, [time; 2], *events);
        payload.clear();
        (index, *events) = (index + 1, 0);
    };
    codec.reset();
    ledger.tell(&mut |event| {
        if payload.len() >= BLOCK_LEN {
            close(&mut payload, &mut events, MORE);
            codec.reset();
        }
        codec.write(&mut payload, event);
        events += 1;
    });
    close(&mut payload, &mut events, LAST);
    codec.reset();
}

/// What has been read of the blocks before a state.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    ledger: Ledger,
    /// Which block comes next; none where one is missing.
    next: Option<u64>,
    is_whole: bool,
}

impl Gathered {
    /// Takes in the payload of a block; none if it is none.
    pub fn read(&mut self, codec: &mut Codec, payload: &[u8]) -> Option<()> {
        let mut bytes = Bytes(payload);
        let (index, is_last) = (bytes.number()?, bytes.flag()?);
        if index == 0 {
            *self = Gathered {
                next: Some(0),
                ..Gathered::default()
            };
        }
        if self.next != Some(index) || self.is_whole {
            *self = Gathered::default();
            return Some(());
        }
        // Nothing of it counts before it has been read.
        self.next = None;
        codec.reset();
        let mut at = payload.len() - bytes.0.len();
        loop {
            at += record::unknown(payload.get(at..)?);
            if at == payload.len() {
                break;
            }
            let ledger = &mut self.ledger;
            let left = codec.read(Bytes(&payload[at..]), |entry, rest| {
                if let Entry::Event(event) = entry? {
                    ledger.event(&event);
                }
                Some(rest.0.len())
            });
            at = payload.len() - left?;
        }
        (self.next, self.is_whole) = (index.checked_add(1), is_last);
        Some(())
    }

    /// What has been read is of no state that comes.
    pub fn forget(&mut self) {
        if self.next.is_some() {
            *self = Gathered::default();
        }
    }

    /// The ledger, if all of it is there.
    pub fn take(&mut self) -> Option<Ledger> {
        let Gathered {
            ledger, is_whole, ..
        } = std::mem::take(self);
        is_whole.then_some(ledger)
    }
}
