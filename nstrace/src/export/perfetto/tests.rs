//! What a reader of the wire format finds in a trace, by a reader of its own. That field
//! numbers are Perfetto's, `xtask/export-check.py` shows with Perfetto's own schema.

use std::fmt::Write as _;

use insta::assert_snapshot;
use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWUTS},
    wire::{Mark, Op},
};

use super::{
    super::testing::Teller,
    proto::{annotation, clock_snapshot, event, interned, packet, track},
    *,
};
use crate::{
    event::Event,
    render::testing::{copy, mark, op, task},
};

/// A field: its number, and its value or the bytes of it.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Vec<(u32, Value<'_>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)),
            2 => {
                let len = varint(&mut bytes) as usize;
                let (value, rest) = bytes.split_at(len);
                bytes = rest;
                Value::Bytes(value)
            }
            way => panic!("no value is written in way {way}"),
        };
        all.push(((key >> 3) as u32, value));
    }
    all
}

fn number(message: &[u8], field: u32) -> Option<u64> {
    fields(message).iter().find_map(|(at, value)| match value {
        Value::Number(number) if *at == field => Some(*number),
        _ => None,
    })
}

fn messages(message: &[u8], field: u32) -> Vec<&[u8]> {
    let all = fields(message).into_iter();
    all.filter_map(|(at, value)| match value {
        Value::Bytes(bytes) if at == field => Some(bytes),
        _ => None,
    })
    .collect()
}

fn text(message: &[u8], field: u32) -> Option<String> {
    let bytes = *messages(message, field).first()?;
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// A line for each packet.
#[derive(Default)]
struct Page {
    names: HashMap<(u32, u64), String>,
    text: String,
}

impl Page {
    fn of(trace: &[u8]) -> String {
        let mut page = Page::default();
        for packet in messages(trace, super::proto::trace::PACKET) {
            page.packet(packet);
        }
        page.text
    }

    fn packet(&mut self, bytes: &[u8]) {
        for data in messages(bytes, packet::INTERNED_DATA) {
            for (list, entry) in fields(data) {
                let Value::Bytes(entry) = entry else { panic!() };
                let iid = number(entry, interned::IID).unwrap();
                let name = text(entry, interned::NAME).unwrap();
                self.names.insert((list, iid), name);
            }
        }
        for snapshot in messages(bytes, packet::CLOCK_SNAPSHOT) {
            self.text.push_str("clocks");
            for clock in messages(snapshot, clock_snapshot::CLOCKS) {
                let id = number(clock, clock_snapshot::CLOCK_ID).unwrap();
                let ns = number(clock, clock_snapshot::TIMESTAMP).unwrap();
                let _ = write!(self.text, " {id}={ns}");
            }
        }
        for descriptor in messages(bytes, packet::TRACK_DESCRIPTOR) {
            let uuid = number(descriptor, track::UUID).unwrap();
            let name = text(descriptor, track::NAME).unwrap();
            let parent = number(descriptor, track::PARENT_UUID);
            let _ = write!(self.text, "track {} {name:?}", short(uuid));
            if let Some(parent) = parent {
                let _ = write!(self.text, " below {}", short(parent));
            }
        }
        for event in messages(bytes, packet::TRACK_EVENT) {
            let time = number(bytes, packet::TIMESTAMP).unwrap();
            self.event(time, event);
        }
        self.text.push('\n');
    }

    fn event(&mut self, time: u64, event: &[u8]) {
        let kind = ["", "begin", "end", "instant"];
        let kind = kind[number(event, event::TYPE).unwrap() as usize];
        let track = short(number(event, event::TRACK_UUID).unwrap());
        let _ = write!(self.text, "{time} on {track} {kind}");
        let iid = number(event, event::NAME_IID);
        let name = iid.map(|iid| self.names[&(interned::EVENT_NAMES, iid)].clone());
        if let Some(name) = name.or(text(event, event::NAME)) {
            let _ = write!(self.text, " {name}");
        }
        for note in messages(event, event::DEBUG_ANNOTATIONS) {
            self.text.push(' ');
            self.note(note);
        }
    }

    fn note(&mut self, note: &[u8]) {
        if let Some(iid) = number(note, annotation::NAME_IID) {
            let name = &self.names[&(interned::DEBUG_ANNOTATION_NAMES, iid)];
            let _ = write!(self.text, "{name}=");
        }
        for (field, value) in fields(note) {
            match (field, value) {
                (annotation::STRING_VALUE, Value::Bytes(bytes)) => {
                    let _ = write!(self.text, "{:?}", String::from_utf8_lossy(bytes));
                }
                (annotation::UINT_VALUE | annotation::BOOL_VALUE, Value::Number(number)) => {
                    let _ = write!(self.text, "{number}");
                }
                (annotation::INT_VALUE, Value::Number(number)) => {
                    let _ = write!(self.text, "{}", number.cast_signed());
                }
                (annotation::DICT_ENTRIES | annotation::ARRAY_VALUES, Value::Bytes(inner)) => {
                    self.text.push('(');
                    self.note(inner);
                    self.text.push(')');
                }
                _ => {}
            }
        }
    }
}

/// Tracks of containers have numbers that say nothing.
fn short(uuid: u64) -> String {
    match uuid >> 63 {
        0 => uuid.to_string(),
        _ => format!("c{}", uuid % 100),
    }
}

#[test]
fn an_operation_has_its_stages_within_it() {
    let mut trace = Vec::new();
    let mut perfetto = Perfetto::new(&mut trace);
    let mut teller = Teller::default();
    teller.head(&mut perfetto);
    teller.cgroup(&mut perfetto, 7, b"/demo\x1b[2J");
    let built = op(Op::Clone, CLONE_NEWUTS | CLONE_NEWNET)
        .marks(&[
            (100_000, mark(Mark::CreateNewNamespaces)),
            (200_000, copy(Kind::Uts)),
            (300_000, copy(Kind::Net)),
            (1_900_000, mark(Mark::CopyNamespacesDone)),
            (2_000_000, mark(Mark::AllocPidDone)),
        ])
        .after(&[(Kind::Net, 4_026_532_281)])
        .pids(&[(4243, 4_026_531_836)])
        .with(|record| record.cgroup = 7);
    teller.op(&mut perfetto, built.get());
    teller.finish(&mut perfetto);
    drop(perfetto);
    assert_snapshot!(Page::of(&trace), @r#"
    clocks 3=500000000 1=1795388475500000000
    track c50 "container demo\\x1b[2J"
    track 1 "runc 4242" below c50
    1000000000 on 1 begin clone op_id="30cb2b76-1dcd6500-0" flags="NEWUTS|NEWNET" flags_raw=1140850688 ret=4243 pid=4242 tid=4242 uid=0 comm="runc" cgroup_id=7 cgroup="/demo\\x1b[2J" container="demo\\x1b[2J" namespaces=(mnt=(before=4026531841)(after=4026531841))(uts=(before=4026531838)(after=4026531838))(ipc=(before=4026531839)(after=4026531839))(pid=(before=4026531836)(after=4026531836))(net=(before=4026531840)(after=4026532281))(user=(before=4026531837)(after=4026531837))(cgroup=(before=4026531835)(after=4026531835))(time=(before=4026531834)(after=4026531834)) changed="net" pids=((ns=4026531836)(pid=4243))
    1000100000 on 1 begin copy_namespaces
    1000100000 on 1 begin create_new_namespaces
    1000200000 on 1 begin copy_utsname
    1000300000 on 1 end
    1000300000 on 1 begin copy_net_ns
    1001900000 on 1 end
    1001900000 on 1 end
    1001900000 on 1 end
    1001900000 on 1 begin alloc_pid
    1002000000 on 1 end
    1002100000 on 1 end
    track 2 "namespaces"
    track 3 "net" below 2
    1002100000 on 3 begin net:4026532281 kind="net" inum=4026532281 found=0 alive=1 maker=(op="clone")(pid=4242)(tid=4242)(uid=0)(comm="runc")(cgroup="/demo\\x1b[2J")(container="demo\\x1b[2J")
    1002100000 on 3 end
    "#);
}

#[test]
fn stages_that_lie_stay_within() {
    let mut trace = Vec::new();
    let mut perfetto = Perfetto::new(&mut trace);
    let mut teller = Teller::default();
    // Longer than the operation, and not in order.
    let built = op(Op::Unshare, CLONE_NEWUTS | CLONE_NEWNET)
        .took(1000)
        .marks(&[
            (900, mark(Mark::CreateNewNamespaces)),
            (50, copy(Kind::Uts)),
            (1 << 50, copy(Kind::Net)),
            (20, mark(Mark::Switch)),
        ]);
    teller.op(&mut perfetto, built.get());
    drop(perfetto);
    let page = Page::of(&trace);
    let times: Vec<u64> = page
        .lines()
        .filter_map(|line| line.split_once(" on ")?.0.parse().ok())
        .collect();
    assert_eq!(times.len(), 10);
    assert!(times.is_sorted(), "{page}");
    assert_eq!((times[0], times[9]), (1_000_000_000, 1_000_001_000));
}

#[test]
fn a_number_that_is_used_again_is_another_task() {
    let mut trace = Vec::new();
    let mut perfetto = Perfetto::new(&mut trace);
    let mut teller = Teller::default();
    let built = op(Op::Unshare, 0);
    teller.op(&mut perfetto, built.get());
    teller.op(&mut perfetto, built.get());
    let exit = task(4242, 4242, b"runc");
    teller.event(&mut perfetto, &Event::TaskExit(exit.get()));
    teller.op(&mut perfetto, built.get());
    drop(perfetto);
    let page = Page::of(&trace);
    let tracks = page.matches("\"runc 4242\"").count();
    assert_eq!(tracks, 2, "{page}");
}

#[test]
fn namespaces_that_live_at_one_time_are_beside_each_other() {
    let mut trace = Vec::new();
    let mut perfetto = Perfetto::new(&mut trace);
    let mut teller = Teller::default();
    for (time, inum) in [(100, 1), (110, 2), (300, 3)] {
        if inum == 3 {
            teller.death(&mut perfetto, 200, 1);
        }
        teller.found(&mut perfetto, time, Kind::Net, inum);
    }
    teller.death(&mut perfetto, 400, 3);
    teller.finish(&mut perfetto);
    drop(perfetto);
    assert_snapshot!(Page::of(&trace), @r#"
    clocks 3=100 1=1795388475000000100
    track 1 "namespaces"
    track 2 "net" below 1
    100 on 2 begin net:1 kind="net" inum=1 found=1 alive=0
    200 on 2 end
    300 on 2 begin net:3 kind="net" inum=3 found=1 alive=0
    400 on 2 end
    track 3 "net" below 1
    110 on 3 begin net:2 kind="net" inum=2 found=1 alive=1
    400 on 3 end
    "#);
}
