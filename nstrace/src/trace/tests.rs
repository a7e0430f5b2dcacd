//! What is written is read again; what is cut or damaged is told, and the rest is read.

mod gaps;
mod limits;
mod mount_ops;
mod replay;
mod states;
mod writers;

use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWPID},
    kind::{KINDS, Kind},
    wire::{FailRecord, Op, OpRecord, PidAt, RecordKind},
    writers::{MountRecord, Site},
};
use proptest::prelude::*;
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::{Damage, Entry, Head, Item, Options, Reader, StateOf, TraceError, Writer};
use crate::{
    cgroups::Cgroups,
    decode::decode,
    event::{
        Access, Balance, Cgroup, Event, FoundFree, FoundHolder, FoundNamespace, FoundTask, Holder,
        Life, Lost, Mount, MountKey, Now, Ns, Operation, SnapshotEnd, Unfiled, Unseen, Warning,
    },
    explain::{Facts, PidsLimit},
    names::Names,
    render::testing::{self, Built, FIRST, install},
    world::World,
};

/// Everything of a recording, as text, and what of it could not be read.
#[derive(Debug, Default, PartialEq)]
struct Contents {
    heads: usize,
    states: usize,
    entries: Vec<String>,
    damage: Vec<Damage>,
}

fn read(bytes: &[u8]) -> Result<Contents, TraceError> {
    let mut reader = Reader::new(bytes);
    let mut contents = Contents::default();
    while let Some(item) = reader.read()? {
        match item {
            Item::Head(_) => contents.heads += 1,
            Item::Entry(entry) => contents.entries.push(format!("{entry:?}")),
            Item::Damage(damage) => contents.damage.push(damage),
            Item::State(_) => contents.states += 1,
            Item::End(_) | Item::Gap(_) => {}
        }
    }
    Ok(contents)
}

/// Writes into blocks of a few events each, and says what was written.
fn write(events: &[Event], block_len: usize) -> (Vec<u8>, Vec<String>) {
    let head = Head {
        host: "here".into(),
        ..Head::default()
    };
    let options = Options {
        block_len,
        ..Options::default()
    };
    let mut writer = Writer::new(Vec::new(), &head, options).expect("memory");
    let mut written = Vec::new();
    for event in events {
        writer.event(event).expect("memory");
        written.push(format!("{:?}", Entry::Event(*event)));
    }
    writer.finish(0).expect("memory");
    (writer.into_inner(), written)
}

fn built() -> Vec<Built> {
    let net = testing::op(Op::Unshare, CLONE_NEWNET)
        .after(&[(Kind::Net, 4_026_532_300)])
        .marks(&[(1000, 3), (70_000, 16)]);
    let clone = testing::op(Op::Clone, CLONE_NEWPID)
        .after(&[(Kind::Pid, 4_026_532_279)])
        .pids(&[(4243, FIRST[Kind::Pid as usize]), (1, 4_026_532_279)])
        .comm(b"sh");
    let failed = testing::op(Op::Unshare, CLONE_NEWNET)
        .failed(28)
        .in_create();
    let setns = testing::op(Op::Setns, 0).marks(&[(1, install(Kind::Net))]);
    vec![net.clone(), clone, failed, setns, net]
}

fn others() -> Vec<Event<'static>> {
    let time = 5_000_000_000;
    let ns = Ns {
        inum: 4_026_532_300,
        id: 77,
    };
    let holders = [
        Holder::Descriptor { pid: 812, fd: 23 },
        Holder::Mount {
            mnt: 7,
            path: b"/run/netns/\n\xff",
        },
        Holder::Socket { pid: 1, fd: 0 },
        Holder::Proc { mnt: 7, path: b"" },
    ];
    let mut watched = MountRecord::new_zeroed();
    watched.head.time = time;
    watched.since = time;
    watched.address = 0xffff_8880_0000_1000;
    watched.count = -4;
    (watched.id, watched.dev, watched.ns) = (57, 8 << 20 | 1, 4_026_532_300);
    watched.fs[..5].copy_from_slice(b"tmpfs");
    watched.root[..7].copy_from_slice(b"b\0\xff\n\0\0\0");
    let watched: &MountRecord = Box::leak(Box::new(watched));
    let mut events = vec![
        Event::SnapshotBegin(Now { time }),
        Event::Cgroup(Cgroup {
            id: 9,
            path: b"/docker/x",
        }),
        Event::FoundNamespace(FoundNamespace {
            time,
            kind: Kind::User,
            ns,
            parent: 3,
            owner: 3,
            owner_uid: Some(u32::MAX),
        }),
        Event::FoundTask(FoundTask {
            time,
            start: time - 1,
            pid: 4,
            tid: 5,
            cgroup: 9,
            comm: b"\x1b[31m",
            exited: true,
            pids: &[PidAt { nr: 5, ns: 1 }],
            namespaces: FIRST,
            pid_for_children: 0,
            time_for_children: 8,
        }),
        Event::Death(Life {
            kind: Some(Kind::Pid),
            address: Some(u64::MAX),
            id: 3,
            ..Life::death(time - 5, u32::MAX)
        }),
        Event::Death(Life::death(time, 17)),
        Event::Lost(Lost {
            time,
            since: 2,
            record: RecordKind::TaskFree,
            count: u64::MAX,
        }),
        Event::FoundFree(FoundFree { time, inum: 6 }),
        Event::MountWatched(Mount {
            record: watched,
            stack: b"",
        }),
        Event::Access(Access {
            time: time + 1,
            mount: MountKey {
                address: 0xffff_8880_0000_1000,
                since: time,
            },
            site: Site::Drop,
            number: 0,
            is_cut: true,
            stack: b"f+0x10 [m]\ng+0x1",
        }),
        Event::Balance(Balance {
            time: time + 2,
            number: 0,
            count: 1 << 40,
        }),
        Event::Unfiled(Unfiled {
            time: time + 2,
            mounts: 1,
            accesses: 2,
            stacks: 3,
            deaths: 4,
            skipped: 5,
        }),
        Event::MountDied(Mount {
            record: watched,
            stack: b"cleanup\n0x10",
        }),
        Event::Warning(Warning {
            time: time + 3,
            place: b"fs/namespace.c:1370",
            function: b"cleanup_mnt+0x130/0x150 [\xff]",
            tid: u32::MAX,
            comm: b"a\0b",
            stack: b"cleanup_mnt+0x130/0x150\nx",
        }),
        Event::SnapshotEnd(SnapshotEnd {
            time: time + 1,
            unseen: Unseen {
                procs: 2,
                ..Unseen::default()
            },
        }),
    ];
    events.extend(holders.map(|holder| {
        Event::FoundHolder(FoundHolder {
            time,
            kind: Kind::Net,
            ns,
            holder,
        })
    }));
    events
}

/// Writes what is known, which is of namespaces and tasks alone.
pub(crate) fn write_state(writer: &mut Writer<Vec<u8>>, world: &World) {
    let state = StateOf {
        world,
        cgroups: &Cgroups::default(),
        names: &Names::default(),
        lost: 0,
        unseen: Unseen::default(),
        writers: None,
        redacts: false,
    };
    writer.state(&state).expect("memory");
}

/// A record as it comes out of a ring, as another kind of the same layout.
fn as_kind(kind: RecordKind, mut words: Vec<u64>) -> Vec<u64> {
    words[0] = kind as u64;
    words
}

/// One of each sort, more than once, in blocks.
fn sample(block_len: usize) -> (Vec<u8>, Vec<String>) {
    let of_ops = [RecordKind::Op, RecordKind::Birth];
    let of_tasks = [
        RecordKind::TaskNew,
        RecordKind::TaskExit,
        RecordKind::TaskChange,
        RecordKind::TaskFree,
    ];
    let mut records = Vec::new();
    for op in built() {
        records.extend(of_ops.map(|kind| as_kind(kind, op.bytes())));
    }
    for comm in [b"sh", b"ls"] {
        let task = testing::task(4300, 4301, comm).bytes();
        records.extend(of_tasks.map(|kind| as_kind(kind, task.clone())));
    }
    let mut events: Vec<Event> = records
        .iter()
        .map(|words| decode(words.as_bytes()).expect("a record"))
        .collect();
    if let Event::Op(op) = events[0] {
        events.push(Event::Stall(op, Now { time: 12 }));
    }
    events.extend(others());
    let twice: Vec<Event> = events.iter().chain(&events).copied().collect();
    write(&twice, block_len)
}

/// The first entry that is another, if there is one.
fn difference(read: &[String], written: &[String]) -> Option<String> {
    let pairs = read.iter().zip(written);
    let differs = pairs.clone().find(|(read, written)| read != written);
    match differs {
        Some((read, written)) => Some(format!("{read} is {written}")),
        None if read.len() != written.len() => Some(format!("{} of {}", read.len(), written.len())),
        None => None,
    }
}

#[test]
fn everything_is_read_as_it_was_written() {
    for block_len in [1, 200, 1 << 20] {
        let (bytes, written) = sample(block_len);
        let contents = read(&bytes).expect("a recording");
        assert_eq!(difference(&contents.entries, &written), None);
        assert_eq!((contents.heads, contents.damage), (1, vec![]));
    }
}

#[test]
fn names_and_clocks_are_kept() {
    let mut writer = Writer::new(Vec::new(), &Head::default(), Options::default()).expect("memory");
    writer.name(b"3f2a", "web").expect("memory");
    writer.clock(-5, 0).expect("memory");
    writer.clock(-5, 0).expect("memory");
    writer.finish(0).expect("memory");
    let bytes = writer.into_inner();
    let contents = read(&bytes).expect("a recording");
    assert_eq!(contents.entries.len(), 2);
    assert!(contents.entries[0].contains("web") && contents.entries[1].contains("-5"));
}

/// Once in each block.
#[test]
fn what_the_machine_says_of_failures_is_kept() {
    let all = Facts {
        unprivileged_userns_clone: Some(0),
        pids: Some(PidsLimit {
            cgroup: "/a/b".into(),
            max: Some(u64::MAX - 1),
        }),
        lsm: Some("capability,apparmor".into()),
        apparmor_restrict_userns: Some(u32::MAX),
    };
    let unlimited = Facts {
        pids: Some(PidsLimit {
            cgroup: "/".into(),
            max: None,
        }),
        ..Facts::NONE
    };
    let mut writer = Writer::new(Vec::new(), &Head::default(), Options::default()).expect("memory");
    for facts in [&all, &all, &unlimited, &Facts::NONE] {
        writer.facts(facts).expect("memory");
    }
    writer.flush().expect("memory");
    writer.facts(&Facts::NONE).expect("memory");
    writer.finish(0).expect("memory");
    let expected = [all, unlimited, Facts::NONE, Facts::NONE];
    let expected = expected.map(|facts| format!("{:?}", Entry::Facts(facts)));
    let contents = read(&writer.into_inner()).expect("a recording");
    assert_eq!(contents.entries, expected);
}

/// Of what is cut everywhere, all whole blocks are read, and that it was cut is told.
#[test]
fn a_cut_recording_gives_its_whole_blocks() {
    let (bytes, written) = sample(200);
    let whole = read(&bytes).expect("a recording");
    let mut most = 0;
    for len in 1..bytes.len() {
        let contents = match read(&bytes[..len]) {
            Err(TraceError::NotARecording | TraceError::Stub) if most == 0 => continue,
            contents => contents.expect("a part of a recording"),
        };
        assert!(written.starts_with(&contents.entries), "{len}");
        assert!(contents.entries.len() >= most, "{len}");
        most = contents.entries.len();
        assert!(matches!(contents.damage[..], [Damage::Cut { .. }]), "{len}");
    }
    assert_eq!(most, whole.entries.len());
}

/// What stands behind the end does not make a recording one that was cut.
#[test]
fn bytes_behind_the_end_are_told_as_such() {
    let (bytes, written) = sample(200);
    let offset = bytes.len() as u64;
    for behind in [&b"x"[..], &[0; 5000], &bytes[..50]] {
        let contents = read(&[&bytes, behind].concat()).expect("a recording");
        let len = behind.len() as u64;
        assert_eq!(contents.damage, [Damage::Behind { offset, len }]);
        assert_eq!(contents.entries, written);
    }
}

/// A flipped bit anywhere loses one block, which is told.
#[test]
fn a_damaged_recording_loses_one_block() {
    let (bytes, written) = sample(200);
    let in_a_block = 60;
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let contents = read(&damaged).expect("a recording");
        assert_eq!(contents.damage.len(), 1, "{at}");
        let missing = written.len() - contents.entries.len();
        assert!(missing <= in_a_block, "{at}: {missing} are missing");
        let mut left = written.iter();
        let in_order = contents
            .entries
            .iter()
            .all(|entry| left.any(|one| one == entry));
        assert!(in_order, "{at}");
    }
}

#[test]
fn what_is_no_recording_is_told() {
    assert!(matches!(read(b""), Err(TraceError::Empty)));
    assert!(matches!(read(b"\x7fELF"), Err(TraceError::NotARecording)));
    let zeros = vec![0; 1 << 20];
    assert!(matches!(read(&zeros), Err(TraceError::NotARecording)));
}

prop_compose! {
    fn record()(
        bytes in prop::collection::vec(any::<u8>(), size_of::<OpRecord>()),
        op in 1..=8_u8,
        marks in 0..=24_u8,
        pids in 0..=33_u8,
        has_ids in any::<bool>(),
    ) -> OpRecord {
        let mut record = OpRecord::read_from_bytes(&bytes).expect("of that length");
        record.head.kind = RecordKind::Op as u32;
        record.op = op;
        (record.marks_len, record.pids_len) = (marks, pids);
        record.ids_len = if has_ids { 2 * KINDS as u8 } else { 0 };
        record
    }
}

proptest! {
    #[test]
    fn any_operation_is_read_as_it_was_written(
        records in prop::collection::vec((record(), any::<u64>()), 1..20),
    ) {
        let lists: Vec<_> = records.iter().map(|(record, seed)| {
            let ids = vec![*seed; record.ids_len.into()];
            let marks: Vec<u64> = (0..u64::from(record.marks_len))
                .map(|at| seed.wrapping_mul(at + 1))
                .collect();
            let pid = PidAt { nr: *seed as u32, ns: (*seed >> 32) as u32 };
            let pids = vec![pid; record.pids_len.into()];
            let fail = FailRecord { limit_max: *seed, ..FailRecord::default() };
            (ids, marks, pids, fail)
        }).collect();
        let events: Vec<Event> = records.iter().zip(&lists).map(|((record, _), lists)| {
            let (ids, marks, pids, fail) = lists;
            let op = Op::from_u8(record.op).expect("one of these");
            Event::Op(Operation {
                record,
                ids,
                marks,
                pids,
                fail: (record.ret < 0).then_some(fail),
                op,
            })
        }).collect();
        let (bytes, written) = write(&events, 500);
        let contents = read(&bytes).expect("a recording");
        prop_assert_eq!(difference(&contents.entries, &written), None);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = read(&bytes);
        // And behind a checksum that is right.
        let mut block = Vec::new();
        super::block::append(&mut block, super::block::Kind::Head, b"{\"version\":1}", [0; 2], 0);
        super::block::append(&mut block, super::block::Kind::Events, &bytes, [0; 2], 1);
        let _ = read(&block);
    }
}

/// Who follows a file that grows reads all of it once, and knows when it has been ended.
#[test]
fn a_file_that_grows_is_followed() {
    struct Growing<'a>(&'a [u8], usize);
    impl std::io::Read for Growing<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            // Nothing for now, each other time.
            self.1 += 1;
            let len = if self.1.is_multiple_of(2) {
                0
            } else {
                to.len().min(7)
            };
            self.0.read(&mut to[..len])
        }
    }
    let (bytes, written) = sample(200);
    let (mut reader, mut entries) = (Reader::new(Growing(&bytes, 0)).follow(), Vec::new());
    while !reader.has_ended() {
        while let Some(item) = reader.read().expect("a recording") {
            match item {
                Item::Entry(entry) => entries.push(format!("{entry:?}")),
                Item::Damage(damage) => panic!("{damage:?}"),
                Item::Head(_) | Item::State(_) | Item::End(_) | Item::Gap(_) => {}
            }
        }
    }
    assert_eq!(difference(&entries, &written), None);
}

/// What version 1 of the format has looked like: every reader reads it, for ever. It was
/// recorded on Linux 6.18 in parts, of which one is left out.
#[test]
fn version_1_is_read_for_ever() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/traces/v1.nst");
    let bytes = std::fs::read(path).expect("in testdata");
    let mut reader = Reader::new(&bytes[..]);
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    let mut known = super::State::default();
    while let Some(item) = reader.read().expect("a recording") {
        let name = match item {
            Item::Entry(Entry::Event(event)) => {
                known.apply(&event, &mut Vec::new());
                format!("{event:?}")
            }
            Item::Entry(entry) => format!("{entry:?}"),
            Item::State(state) => {
                known = *state;
                "State".into()
            }
            other => format!("{other:?}"),
        };
        let word = name.split(|c: char| !c.is_ascii_alphanumeric()).next();
        *counts
            .entry(word.unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    let expected = "Cgroup 2, Clock 30, Death 300, End 1, Facts 2, FoundHolder 8, FoundNamespace 32, \
                    FoundTask 210, Gap 1, Head 2, Op 225, SnapshotBegin 3, SnapshotEnd 3, \
                    State 1, TaskChange 50, TaskExit 164, TaskFree 167, TaskNew 165";
    assert_eq!(counts.join(", "), expected);
    let (world, names) = (&known.world, &known.names);
    let lives = (world.living_len(), world.tasks_len(), names.iter().count());
    assert_eq!(lives, (10, 69, 0));
}
