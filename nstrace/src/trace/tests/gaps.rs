//! Where a recording does not go on where it ended.

use nstrace_common::wire::RecordKind;

use super::write_state;
use crate::{
    event::{Event, Lost, Now},
    trace::{Entry, Gap, Head, Item, Options, Reader, Writer},
    world::World,
};

/// The boot of a machine, and when a recording begins; then times of events, `None` for all
/// that is known there.
type Part<'a> = (&'a str, u64, &'a [Option<u64>]);

/// One block for each event.
fn recording((boot, mono_ns, steps): Part) -> Vec<u8> {
    let head = Head {
        boot_id: boot.into(),
        mono_ns,
        ..Head::default()
    };
    let mut writer = Writer::new(Vec::new(), &head, Options::default()).expect("memory");
    let mut world = World::default();
    // What was known at the end of the part before.
    let known = Event::SnapshotBegin(Now { time: mono_ns });
    world.apply(&known, &mut Vec::new());
    for step in steps {
        match step {
            Some(time) => {
                let event = Event::SnapshotBegin(Now { time: *time });
                writer.event(&event).expect("memory");
                world.apply(&event, &mut Vec::new());
                writer.flush().expect("memory");
            }
            None => {
                write_state(&mut writer, &world);
            }
        }
    }
    writer.finish(0).expect("memory");
    writer.into_inner()
}

/// What is in it, in short: heads, states, times of events and gaps.
fn told(bytes: &[u8]) -> String {
    let mut reader = Reader::new(bytes);
    let mut told = String::new();
    while let Some(item) = reader.read().expect("a recording") {
        told += &match item {
            Item::Head(_) => "head ".to_owned(),
            Item::State(_) => "state ".to_owned(),
            Item::Entry(Entry::Event(event)) => format!("{} ", event.time().unwrap_or(0)),
            Item::Entry(_) => "entry ".to_owned(),
            Item::Damage(_) => "damage ".to_owned(),
            Item::End(_) => "end ".to_owned(),
            Item::Gap(Gap::Missing(lost)) => {
                let expected = Lost {
                    record: RecordKind::Op,
                    count: 0,
                    ..lost
                };
                assert_eq!(lost, expected);
                format!("({}-{}) ", lost.since, lost.time)
            }
            Item::Gap(gap) => format!("{gap:?} "),
        };
    }
    told.trim_end().to_owned()
}

/// What is damaged behind the head of a part that goes on is missing from it.
#[test]
fn damage_is_a_gap_in_a_part_that_goes_on_too() {
    let first = recording(("a", 5, &[Some(10), Some(20)]));
    let next = recording(("a", 20, &[None, Some(30), None, Some(40)]));
    let all = [&first[..], &next[..]].concat();
    assert_eq!(told(&all), "head 10 20 end head state 30 40 end");
    let mut gaps = 0;
    for from in (first.len()..all.len()).step_by(5) {
        for to in (from..all.len()).step_by(5) {
            let mut damaged = all.clone();
            damaged[from..=to].iter_mut().for_each(|byte| *byte ^= 1);
            let told = told(&damaged);
            // What comes later is read, and the event before it is not.
            let misses = told.contains(" 40") && !told.contains(" 30");
            assert!(!misses || told.contains('('), "{from} to {to}: {told}");
            gaps += usize::from(misses);
        }
    }
    assert!(gaps > 0);
}

#[test]
fn what_follows_is_known_to_go_on_or_not() {
    let first: Part = ("a", 5, &[Some(10), Some(20)]);
    let cases: [(Part, &str); 6] = [
        // It begins with what was known at the end of the first.
        (("a", 20, &[None, Some(30)]), "head state 30"),
        (("a", 25, &[None, Some(30)]), "head (20-25) state 30"),
        (("a", 20, &[Some(30), None, Some(40)]), "head (20-30) 30 40"),
        (("a", 8, &[Some(15)]), "Earlier head (20-20) 15"),
        (("b", 8, &[Some(15)]), "Boot head 15"),
        (("a", 30, &[]), "head"),
    ];
    for (next, expected) in cases {
        let bytes = [recording(first), recording(next)].concat();
        let expected = format!("head 10 20 end {expected} end");
        assert_eq!(told(&bytes), expected, "{next:?}");
    }
}

#[test]
fn what_is_damaged_is_missing() {
    let steps = &[Some(10), Some(20), Some(30), None, Some(40)];
    let whole = recording(("a", 5, steps));
    assert_eq!(told(&whole), "head 10 20 30 40 end");
    let blocks: Vec<usize> = whole
        .windows(4)
        .enumerate()
        .filter_map(|(at, bytes)| (bytes == b"nst\x01").then_some(at))
        .collect();
    let cases = [
        // Where nothing was before, nothing is missing in between.
        (0, "damage 10 20 30 40 end"),
        (1, "head damage 20 30 40 end"),
        (2, "head 10 damage (10-30) 30 40 end"),
        // The state is of the time of what is missing.
        (3, "head 10 20 damage (20-30) state 40 end"),
        (4, "head 10 20 30 damage (30-40) 40 end"),
        (6, "head 10 20 30 40 damage"),
    ];
    for (block, expected) in cases {
        let mut damaged = whole.clone();
        damaged[blocks[block] + 20] ^= 1;
        assert_eq!(told(&damaged), expected, "block {block}");
    }
}
