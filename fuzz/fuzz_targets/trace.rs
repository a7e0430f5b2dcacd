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
    render::{
        Changes, Clock, Text, TreeFilter, TreeView, View, leaks, tree, tree_json, writers,
        writers_json,
    },
    trace::{
        Entry, Head, Index, Item, Options, Reader, State, Writer, events_block, state_block,
        writers_block,
    },
    writers::{Death, Ledger},
};

fn read(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (mut known, mut changes) = (State::default(), Vec::new());
    let (mut lines, mut text) = (Changes::new(true, TimeZone::UTC), Text::new());
    while let Ok(Some(item)) = reader.read() {
        match item {
            Item::Entry(Entry::Event(event)) => {
                known.apply(&event, &mut changes);
                with_view(&known, |view| {
                    lines.print(&mut text, &known.world, &changes, view)
                });
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
    let mut writer = Writer::new(Vec::new(), &Head::default(), Options::default());
    if let Ok(writer) = &mut writer {
        let _ = writer.state(&known.get());
    }
    judge(known.writers.take().unwrap_or_default(), bytes);
    let mut index = Cursor::new(bytes);
    let _ = Index::of(&mut index);
}

/// Who unbalanced the mounts that die, and those that live in the end.
fn judge(mut ledger: Ledger, bytes: &[u8]) {
    let (mut text, mut clock) = (Text::new(), Clock::new(TimeZone::UTC));
    let mut print = |death: &Death, is_dead| {
        let view = View {
            wall_offset_ns: 0,
            cgroups: &Cgroups::default(),
            facts: None,
            origin: None,
            color: false,
            all: false,
        };
        writers(&mut text, death, is_dead, &view, &mut clock);
        writers_json(&mut text, death, is_dead, &view, &mut clock);
        text.clear();
    };
    let mut reader = Reader::new(bytes);
    while let Ok(Some(item)) = reader.read() {
        match item {
            Item::Entry(Entry::Event(event)) => {
                if let Some(death) = ledger.event(&event) {
                    print(&death, true);
                }
            }
            Item::State(state) => ledger = state.writers.unwrap_or(ledger),
            _ => {}
        }
    }
    let living = ledger.unbalanced();
    living
        .unbalanced
        .iter()
        .for_each(|death| print(death, false));
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
    read(&[writers_block(state), events_block(events)].concat());
});
