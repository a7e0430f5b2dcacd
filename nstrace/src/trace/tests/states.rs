//! States: a moment in the middle is found by them, and what is damaged is made good.

use std::io::Cursor;

use super::write_state;
use crate::{
    cgroups::Cgroups,
    event::{Event, FoundHolder, Holder, Now, Unseen},
    names::Names,
    trace::{Entry, Head, Index, Item, Options, Place, Reader, StateOf, Writer, block::MAGIC},
    world::{
        World,
        tests::{
            machine::Machine,
            owned::{Owned, apply},
            saved::told,
        },
    },
};

/// A machine's events with a state now and then; of each event its time, and the time of the
/// last.
fn with_states(has_ids: bool) -> (Vec<u8>, Vec<Owned>, u64) {
    let mut machine = Machine::new(has_ids);
    machine.look_at_all();
    for step in 0..1500_u32 {
        let (what, who) = (
            (step.wrapping_mul(2_654_435_761) >> 7) as u8,
            step as usize * 31,
        );
        machine.step(what, who, step * 17);
    }
    let options = Options {
        block_len: 600,
        state_every: 2000,
        state_share: 1,
    };
    let mut writer = Writer::new(Vec::new(), &Head::default(), options).expect("memory");
    let (mut world, mut cgroups) = (World::default(), Cgroups::default());
    cgroups.learn(7, b"/demo");
    writer.clock(-3, 0).expect("memory");
    for event in &machine.log {
        let written = event.with_record(|event| writer.event(event));
        written.expect("memory");
        apply(&mut world, event);
        if writer.wants_state() {
            let state = StateOf {
                world: &world,
                cgroups: &cgroups,
                names: &Names::default(),
                lost: 4,
                unseen: Unseen::default(),
                writers: None,
                redacts: false,
            };
            writer.state(&state).expect("memory");
        }
    }
    writer.finish(0).expect("memory");
    (writer.into_inner(), machine.log.clone(), world.now())
}

/// The world at a time, from the last state before it on; and how many events that took.
fn at(bytes: &[u8], time: u64) -> (World, usize) {
    let mut reader = Reader::new(Cursor::new(bytes));
    let index = reader.index().expect("memory");
    reader.seek(&index, time, time).expect("memory");
    let (mut world, mut events) = (World::default(), 0);
    while let Some(item) = reader.read().expect("a recording") {
        match item {
            Item::State(state) => {
                assert_eq!((state.wall_offset_ns, state.lost), (-3, 4));
                assert_eq!(state.cgroups.path(7), Some(&b"/demo"[..]));
                world = state.world;
            }
            Item::Entry(Entry::Event(event)) if event.time().is_none_or(|at| at <= time) => {
                events += 1;
                world.apply(&event, &mut Vec::new());
            }
            Item::Entry(_) | Item::Head(_) | Item::End(_) | Item::Gap(_) => {}
            Item::Damage(damage) => panic!("{damage:?} behind {events} at {time}"),
        }
    }
    (world, events)
}

#[test]
fn a_moment_is_found_by_the_state_before_it() {
    for has_ids in [false, true] {
        let (bytes, log, last) = with_states(has_ids);
        let states = Index::of(&mut Cursor::new(&bytes)).expect("memory").states;
        assert!(states.len() > 3, "{states:?}");
        for part in 0..=40 {
            let time = last * part / 40;
            let mut world = World::default();
            for event in &log {
                event.with(|event| {
                    if event.time().is_none_or(|at| at <= time) {
                        world.apply(event, &mut Vec::new());
                    }
                });
            }
            let (found, events) = at(&bytes, time);
            assert_eq!(told(&found), told(&world), "{time} of {last}");
            assert!(events < log.len() / 2 || part < 10, "{part}: {events}");
        }
    }
}

/// The index at the end says what the heads of the blocks say.
#[test]
fn an_index_is_a_convenience() {
    let (bytes, ..) = with_states(false);
    let index = Index::of(&mut Cursor::new(&bytes)).expect("memory");
    // Without the last block.
    let cut = &bytes[..bytes.len() - 1];
    assert_eq!(Index::of(&mut Cursor::new(cut)).expect("memory"), index);
    assert_eq!(
        Index::of(&mut Cursor::new(b"nst")).expect("memory"),
        Index::default()
    );
}

/// Of blocks that were damaged nothing is believed: a flipped bit in the head of any of them
/// takes away no more than that one.
#[test]
fn an_index_believes_no_damaged_block() {
    let (bytes, ..) = with_states(false);
    let index = Index::of(&mut Cursor::new(&bytes)).expect("memory");
    let [first, last] = index.times.expect("events");
    let starts = bytes.windows(MAGIC.len()).enumerate();
    let starts = starts.filter_map(|(at, bytes)| (bytes == MAGIC).then_some(at));
    let starts: Vec<usize> = starts.collect();
    assert!(starts.len() > 8, "{starts:?}");
    for start in starts {
        // Each member of it.
        for byte in [0, 4, 5, 8, 10, 12, 16, 21, 24, 30, 32, 37].map(|at| start + at) {
            let mut bytes = bytes.clone();
            bytes[byte] ^= 1 << (byte % 8);
            let found = Index::of(&mut Cursor::new(&bytes)).expect("memory");
            let [from, until] = found.times.expect("events");
            assert!(first <= from && until <= last, "{byte}: {:?}", found.times);
            let lost = index.states.iter().filter(|at| !found.states.contains(at));
            assert!(lost.count() <= 1, "{byte}");
            assert!(found.states.iter().all(|at| index.states.contains(at)));
        }
    }
}

/// Recordings that are put behind each other are not where the index of the last says.
#[test]
fn an_index_is_of_the_whole_file() {
    let (bytes, ..) = with_states(false);
    let alone = Index::of(&mut Cursor::new(&bytes)).expect("memory");
    let both = [&bytes[..bytes.len() - 1], &bytes].concat();
    let index = Index::of(&mut Cursor::new(&both)).expect("memory");
    assert!(!alone.is_mixed && index.is_mixed);
    let behind = alone.states.iter().map(|at| Place {
        offset: at.offset + bytes.len() as u64 - 1,
        ..*at
    });
    let states: Vec<Place> = alone.states.iter().copied().chain(behind).collect();
    assert_eq!(index.states, states);
}

/// What is behind a damage does not rest on what is missing.
#[test]
fn a_state_makes_good_what_was_damaged() {
    let (mut bytes, _, last) = with_states(false);
    let (whole, _) = at(&bytes, last);
    let states = Index::of(&mut Cursor::new(&bytes)).expect("memory").states;
    let place = states[1].offset as usize;
    bytes[place - 3] ^= 1;
    let (mut world, mut reader) = (World::default(), Reader::new(&bytes[..]));
    let mut seen = (0, 0);
    while let Some(item) = reader.read().expect("a recording") {
        match item {
            Item::State(state) => {
                seen.0 += 1;
                world = state.world;
            }
            Item::Entry(Entry::Event(event)) => world.apply(&event, &mut Vec::new()),
            Item::Damage(_) => seen.1 += 1,
            Item::Entry(_) | Item::Head(_) | Item::End(_) | Item::Gap(_) => {}
        }
    }
    assert_eq!(seen, (1, 1));
    assert_eq!(told(&world), told(&whole));
}

/// Names of commands and paths, which a state has too, are left out of it.
#[test]
fn a_state_can_be_redacted() {
    let events = super::others();
    let (mut world, mut cgroups, mut names) =
        (World::default(), Cgroups::default(), Names::default());
    for event in &events {
        world.apply(event, &mut Vec::new());
        if let Event::FoundNamespace(found) = *event {
            let holder = FoundHolder {
                time: found.time,
                kind: found.kind,
                ns: found.ns,
                holder: Holder::Mount {
                    mnt: 7,
                    path: b"/run/netns/x",
                },
            };
            world.apply(&Event::FoundHolder(holder), &mut Vec::new());
        }
    }
    cgroups.learn(9, b"/secret.slice/web");
    names.learn(b"web", "secret");
    let read = |redacts: bool| {
        let mut writer = Writer::new(Vec::new(), &Head::default(), Options::default())?;
        writer.state(&StateOf {
            world: &world,
            cgroups: &cgroups,
            names: &names,
            lost: 0,
            unseen: Unseen::default(),
            writers: None,
            redacts,
        })?;
        writer.finish(0)?;
        let bytes = writer.into_inner();
        let mut reader = Reader::new(&bytes[..]);
        while let Some(item) = reader.read().expect("a recording") {
            if let Item::State(state) = item {
                return Ok::<_, std::io::Error>(*state);
            }
        }
        panic!("no state");
    };
    let told = |redacts| {
        let state = read(redacts).expect("memory");
        let comms: Vec<Vec<u8>> = state
            .world
            .tasks()
            .map(|(_, task)| task.comm().into())
            .collect();
        let holders = state
            .world
            .namespaces()
            .map(|(_, ns)| ns.holders().count())
            .sum::<usize>();
        let text = format!(
            "{:?} {:?} {:?} {comms:?}",
            state.world, state.cgroups, state.names
        );
        let paths = ["/run/netns/", "secret"].map(|secret| {
            let bytes = format!("{:?}", secret.as_bytes());
            let bytes = bytes.trim_matches(['[', ']']).to_owned();
            text.contains(secret) || text.contains(&bytes)
        });
        (comms.iter().all(Vec::is_empty), paths, holders)
    };
    assert_eq!(told(false), (false, [true, true], 1));
    assert_eq!(told(true), (true, [false, false], 1));
}

/// When the clock was set is known without reading all, with the end and without it.
#[test]
fn clocks_that_were_set_are_found() {
    const HOUR: i64 = 3_600_000_000_000;
    let head = Head {
        mono_ns: 10,
        wall_offset_ns: HOUR,
        ..Head::default()
    };
    let mut writer = Writer::new(Vec::new(), &head, Options::default()).expect("memory");
    let at = |time| Event::SnapshotBegin(Now { time });
    // It is set before anything, by little, and twice.
    for (offset, time) in [(2 * HOUR, 20), (2 * HOUR + 5, 30), (0, 40), (-HOUR, 50)] {
        writer.clock(offset, 0).expect("memory");
        writer.event(&at(time)).expect("memory");
    }
    let world = World::default();
    write_state(&mut writer, &world);
    writer.finish(0).expect("memory");
    let whole = writer.into_inner();
    for len in [whole.len(), whole.len() - 1] {
        let mut bytes = Cursor::new(&whole[..len]);
        let index = Index::of(&mut bytes).expect("memory");
        let offsets = [10, 29, 30, 39, 40, 60].map(|time| index.clocks.at(time, HOUR) / HOUR);
        assert_eq!(offsets, [2, 2, 0, 0, -1, -1]);
        assert_eq!(index.states.len(), 1);
    }
    let mut reader = Reader::new(&whole[..]);
    let mut told = Vec::new();
    while let Some(item) = reader.read().expect("a recording") {
        match item {
            Item::Entry(Entry::Clock(offset)) => told.push(offset),
            Item::Entry(Entry::Event(event)) => told.extend(event.time().map(|time| time as i64)),
            Item::Damage(damage) => panic!("{damage:?}"),
            _ => {}
        }
    }
    let expected = [2 * HOUR, 20, 2 * HOUR + 5, 30, 0, 40, -HOUR, 50];
    assert_eq!(told, expected);
}
