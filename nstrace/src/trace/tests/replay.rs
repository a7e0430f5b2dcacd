//! What is replayed is what was printed.

use jiff::tz::TimeZone;
use nstrace_common::{flags::CLONE_NEWUSER, wire::Op};
use zerocopy::IntoBytes as _;

use crate::{
    cgroups::Cgroups,
    decode::decode,
    event::{Event, Operation},
    explain::Facts,
    filter::Filter,
    render::{Format, testing},
    screen::{self, Screen},
    trace::{Entry, Head, Item, Options, Reader, Writer},
    world::tests::machine::Machine,
};

/// What is replayed is printed byte for byte as it was when it happened.
#[test]
fn a_replay_prints_what_was_printed() {
    let mut machine = Machine::new(true);
    machine.look_at_all();
    for step in 0..2000_u32 {
        let what = (step.wrapping_mul(2_654_435_761) >> 7) as u8;
        machine.step(what, step as usize * 31, step * 17);
    }
    let facts = |op: &Operation, _: &Cgroups| Facts {
        unprivileged_userns_clone: Some(op.record.pid / 7 % 2),
        ..Facts::NONE
    };
    let failed = testing::op(Op::Unshare, CLONE_NEWUSER).failed(libc::EPERM);
    let failed = failed.found(|fail| fail.user_level = 1);
    for format in [Format::Line, Format::Path, Format::Json] {
        let options = screen::Options {
            format,
            color: format != Format::Json,
            all: true,
            filter: Filter::default(),
            mounts: true,
            follows: false,
            facts,
        };
        let screen = || Screen::new(options.clone(), TimeZone::UTC);
        let (mut live, mut replay) = (screen(), screen());
        let options = Options {
            block_len: 5000,
            ..Options::default()
        };
        let mut writer = Writer::new(Vec::new(), &Head::default(), options).expect("memory");
        let mut see = |event: &Event| {
            if let Event::Op(op) = event
                && op.errno().is_some()
            {
                writer
                    .facts(&facts(op, &Cgroups::default()))
                    .expect("memory");
            }
            writer.event(event).expect("memory");
            live.event(event);
        };
        for (at, event) in machine.log.iter().enumerate() {
            event.with_record(&mut see);
            if at.is_multiple_of(7) {
                let words = failed.clone().with(|record| record.pid = at as u32).bytes();
                see(&decode(words.as_bytes()).expect("a record"));
            }
        }
        writer.finish(0).expect("memory");
        let bytes = writer.into_inner();
        let mut reader = Reader::new(&bytes[..]);
        while let Some(item) = reader.read().expect("a recording") {
            match item {
                Item::Entry(Entry::Event(event)) => replay.event(&event),
                Item::Entry(Entry::Facts(facts)) => replay.facts(facts),
                _ => {}
            }
        }
        let text = live.text.to_string();
        assert!(
            text.len() > 20_000 && text.contains("unprivileged"),
            "{}",
            text.len()
        );
        assert!(text == replay.text.to_string(), "{format:?}");
    }
}
