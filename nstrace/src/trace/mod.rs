//! Recordings: events in a file, to be read later and elsewhere. docs/trace-format.md says
//! how such a file is made up.
//!
//! [`Writer`] and [`Reader`] are pure: they know [`std::io::Write`] and [`std::io::Read`],
//! and no clock. A file may come from anybody, cut or damaged: what is whole in it is read,
//! and what is not is told; nothing in it makes a reader panic or take more memory than a
//! block has at most.
//!
//! # From an event to its bytes
//!
//! Records of the kernel side keep their layout ([`nstrace_common::wire`]). [`code`] knows
//! of each member how wide it is and what it is expected to be: as in the last record of a
//! task of that name, or as another member of the same record. What is as expected takes no
//! room, the rest is the difference. [`record`] has the other events, [`mounts`] those that
//! concern mounts, and puts all of them behind each other; [`block`] compresses what has gathered, with a checksum.

mod block;
pub(crate) mod bytes;
mod clocks;
mod code;
pub(crate) mod found;
mod gap;
mod head;
mod index;
mod mount;
mod mount_ops;
mod reader;
mod record;
mod state;
mod writer;
mod writers;

#[cfg(test)]
pub(crate) mod tests;

/// Blocks of any payload, with the checksum that belongs to it: what a fuzzer would not find.
#[doc(hidden)]
pub fn events_block(payload: &[u8]) -> Vec<u8> {
    any_block(block::Kind::Events, payload)
}

/// See above: a ledger, of one block, and the state that it belongs to.
#[doc(hidden)]
pub fn writers_block(payload: &[u8]) -> Vec<u8> {
    let payload = [&[0, 1], payload].concat();
    let mut state = Vec::new();
    State::default()
        .get()
        .write(&mut record::Codec::new(), 0, &mut state);
    [
        any_block(block::Kind::Writers, &payload),
        state_block(&state),
    ]
    .concat()
}

/// See above.
#[doc(hidden)]
pub fn state_block(payload: &[u8]) -> Vec<u8> {
    any_block(block::Kind::State, payload)
}

fn any_block(kind: block::Kind, payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    block::append(&mut block, kind, payload, [0; 2], 1);
    block
}

/// Whether a file begins as recordings do.
pub fn is_one(path: &std::path::Path) -> bool {
    use std::io::Read as _;
    let mut begin = [0; block::MAGIC.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    read.is_ok() && begin == block::MAGIC
}

pub use self::{
    clocks::Clocks,
    gap::Gap,
    head::Head,
    index::{Index, Place},
    reader::{Damage, Item, Reader, TraceError},
    record::Entry,
    state::{State, StateOf},
    writer::{Options, Writer, begin, end},
};
