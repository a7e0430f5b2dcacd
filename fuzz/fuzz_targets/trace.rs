//! Any bytes as a recording, and as the payload of a block whose checksum is right: read to
//! the end, and the tree that comes of it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nstrace::{
    trace::{Entry, Item, Reader, payload_block},
    world::{Options, World},
};

fn read(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let mut world = World::new(Options::default());
    let mut changes = Vec::new();
    while let Ok(Some(item)) = reader.read() {
        if let Item::Entry(Entry::Event(event)) = item {
            world.apply(&event, &mut changes);
            changes.clear();
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    read(&payload_block(bytes));
});
