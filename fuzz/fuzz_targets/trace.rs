//! Any bytes as a recording, and as the payload of each sort of block, with a checksum that is
//! right: read to the end, and what is made of it printed.

#![no_main]

use std::io::Cursor;

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use nstrace::{
    cgroups::Cgroups,
    event::Unseen,
    names::Names,
    render::{Changes, Text, TreeFilter, TreeView, leaks, tree, tree_json},
    trace::{Entry, Index, Item, Reader, State, events_block, state_block},
};

fn read(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (mut known, mut changes) = (State::default(), Vec::new());
    let (mut lines, mut text) = (Changes::new(true, TimeZone::UTC), Text::new());
    while let Ok(Some(item)) = reader.read() {
        match item {
            Item::Entry(Entry::Event(event)) => {
                known.apply(&event, &mut changes);
                with_view(&known, |view| lines.print(&mut text, &known.world, &changes, view));
                changes.clear();
                text.clear();
            }
            Item::State(state) => known = *state,
            _ => {}
        }
    }
    with_view(&known, |view| {
        tree(&mut text, &known.world, view);
        tree_json(&mut text, &known.world, view);
        leaks(&mut text, &known.world, view);
    });
    // What is known can be kept, and is the same again.
    let mut saved = Vec::new();
    known.world.save(&mut saved, false);
    let mut index = Cursor::new(bytes);
    let _ = Index::of(&mut index);
}

fn with_view(known: &State, print: impl FnOnce(&TreeView)) {
    let (filter, cgroups, names) = (TreeFilter::default(), Cgroups::default(), Names::default());
    print(&TreeView {
        now_ns: known.world.now(),
        wall_offset_ns: 0,
        cgroups: &cgroups,
        names: &names,
        filter: &filter,
        unseen: Unseen::default(),
        live: true,
        color: false,
        width: Some(80),
    });
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    read(&events_block(bytes));
    // What is known, and what happens then.
    let (state, events) = bytes.split_at(bytes.len() / 2);
    read(&[state_block(state), events_block(events)].concat());
});
