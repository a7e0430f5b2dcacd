//! A file has no more bytes than it may, and what is in it is whole.

use nstrace_common::wire::Op;
use zerocopy::IntoBytes as _;

use super::write_state;
use crate::{
    decode::decode,
    event::Event,
    explain::{Facts, PidsLimit},
    render::testing,
    trace::{Entry, Head, Item, Options, Reader, Writer},
    world::{
        World,
        tests::{machine::Machine, owned::apply},
    },
};

/// What a machine says about failures, from which a block does not depend.
fn facts(of: usize) -> Facts {
    Facts {
        pids: Some(PidsLimit {
            cgroup: format!("/user.slice/{}", of / 20),
            max: Some(of as u64 / 20),
        }),
        ..Facts::NONE
    }
}

/// Writes all that a machine does and failures in between, up to a limit; says what had room.
fn write(most: u64, log: &Machine) -> (Vec<u8>, Vec<String>, bool) {
    let options = Options {
        block_len: 3000,
        state_every: 3000,
        state_share: 1,
    };
    let mut writer = Writer::new(Vec::new(), &Head::default(), options).expect("memory");
    writer.limit(most);
    let (mut world, mut told) = (World::default(), Vec::new());
    let mut put = |writer: &mut Writer<Vec<u8>>, event: &Event, facts: Option<Facts>| {
        if let Some(facts) = &facts {
            writer.facts(facts).expect("memory");
        }
        writer.event(event).expect("memory");
        if !writer.is_full() {
            told.push(format!("{facts:?} {event:?}"));
        }
    };
    for (at, event) in log.log.iter().enumerate() {
        event.with_record(|event| put(&mut writer, event, None));
        if at % 5 == 0 {
            let failed = testing::op(Op::Unshare, 0).failed(libc::EPERM).bytes();
            let event = decode(failed.as_bytes()).expect("a record");
            put(&mut writer, &event, Some(facts(at)));
        }
        apply(&mut world, event);
        if writer.wants_state() {
            write_state(&mut writer, &world);
        }
        if at % 83 == 0 {
            writer.clock(at as i64 * 1_000_000_000, 0).expect("memory");
        }
        if at % 101 == 0 {
            writer.flush().expect("memory");
        }
    }
    writer.finish(0).expect("memory");
    let is_full = writer.is_full();
    (writer.into_inner(), told, is_full)
}

fn read(bytes: &[u8]) -> Vec<String> {
    let (mut reader, mut known) = (Reader::new(bytes), None);
    let (mut told, mut has_ended) = (Vec::new(), false);
    while let Some(item) = reader.read().expect("a recording") {
        match item {
            Item::Entry(Entry::Facts(facts)) => known = Some(facts),
            Item::Entry(Entry::Event(event)) => {
                let facts = match &event {
                    Event::Op(op) if op.errno().is_some() && op.record.flags == 0 => known.clone(),
                    _ => None,
                };
                told.push(format!("{facts:?} {event:?}"));
            }
            Item::End(_) => has_ended = true,
            Item::Damage(damage) => panic!("{damage:?}"),
            _ => {}
        }
    }
    assert!(has_ended);
    told
}

#[test]
fn a_file_is_never_larger_than_its_limit_and_a_whole_recording() {
    let mut machine = Machine::new(true);
    machine.look_at_all();
    for step in 0..300_u32 {
        let what = (step.wrapping_mul(2_654_435_761) >> 7) as u8;
        machine.step(what, step as usize * 31, step * 17);
    }
    let (whole, all, is_full) = write(u64::MAX, &machine);
    assert!(!is_full && read(&whole) == all);
    let len = whole.len() as u64;
    for most in (600..len + 400).step_by(223) {
        let (bytes, told, is_full) = write(most, &machine);
        assert!(bytes.len() as u64 <= most, "{} of {most}", bytes.len());
        let again = read(&bytes);
        assert_eq!(again.len(), told.len(), "of {most}");
        assert_eq!(again, told);
        assert_eq!(again, all[..again.len()]);
        // Little of it stays empty.
        assert!(
            !is_full || bytes.len() as u64 + 400 > most,
            "{} of {most}",
            bytes.len()
        );
    }
}
