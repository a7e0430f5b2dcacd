//! What an event costs in user space: decode, state, text.
//!
//! ```text
//! export AYA_BUILD_SKIP=1
//! cargo bench --bench consumer
//! ```
//!
//! prints the time of each case. On a busy machine instructions say more. What the
//! start takes is cancelled by two runs of one case, N and 11 N times:
//!
//! ```text
//! exe=$(cargo bench --bench consumer --no-run 2>&1 | sed -n 's/.*(\(.*\))/\1/p')
//! for n in 1000 11000; do
//!     valgrind --tool=callgrind --callgrind-out-file=/tmp/consumer.$n $exe unshare $n
//! done 2>&1 | awk '/Collected/ { d = $4 - d } END { print d / 10000 }'
//! callgrind_annotate /tmp/consumer.11000
//! ```

use std::time::Instant;

use jiff::tz::TimeZone;
use nstrace::{
    decode::decode,
    explain::Facts,
    filter::Filter,
    render::Format,
    screen::{Options, Screen},
};
use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{LifeRecord, Mark, NO_KIND, Op, OpRecord, PidAt, RecordKind},
};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

struct Case {
    name: &'static str,
    format: Format,
    records: fn() -> Vec<Record>,
}

const CASES: [Case; 5] = [
    Case {
        name: "unshare",
        format: Format::Line,
        records: unshare,
    },
    Case {
        name: "setns",
        format: Format::Line,
        records: two_setns,
    },
    Case {
        name: "clone",
        format: Format::Line,
        records: clone,
    },
    Case {
        name: "json",
        format: Format::Json,
        records: unshare_alone,
    },
    Case {
        name: "path",
        format: Format::Path,
        records: unshare_alone,
    },
];

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    match &words[..] {
        [] => CASES.iter().for_each(time),
        [name, count] => {
            let case = CASES.iter().find(|case| case.name == name);
            let count = count.parse().expect("a number");
            run(case.expect("the name of a case"), count);
        }
        _ => panic!("[CASE COUNT]"),
    }
}

fn time(case: &Case) {
    const COUNT: u32 = 200_000;
    run(case, COUNT / 10);
    let start = Instant::now();
    let bytes = run(case, COUNT);
    let took = start.elapsed() / COUNT;
    let width = bytes / COUNT as usize;
    println!("{:8} {:>8} {width:5} bytes", case.name, format!("{took:?}"));
}

/// As the tail does it, without the terminal. Gives the bytes of text.
fn run(case: &Case, count: u32) -> usize {
    let options = Options {
        format: case.format,
        color: false,
        all: false,
        filter: Filter::default(),
        follows: false,
        facts: |_, _| Facts::NONE,
    };
    let mut screen = Screen::new(options, TimeZone::UTC);
    screen.wall_offset_ns = 1_795_388_474_221_000_000;
    let mut records = (case.records)();
    let mut bytes = 0;
    for _ in 0..count {
        for record in &mut records {
            record.later();
            let event = decode(record.words.as_bytes()).expect("a record");
            screen.event(&event);
        }
        if screen.text.len() > 1 << 16 {
            bytes += screen.text.len();
            screen.text.clear();
        }
    }
    bytes + screen.text.len()
}

/// A record as it is in a ring.
struct Record {
    words: Vec<u64>,
}

impl Record {
    /// The same, 10 µs later.
    fn later(&mut self) {
        const LATER_NS: u64 = 10_000;
        let bytes = self.words.as_mut_bytes();
        if bytes.len() == size_of::<LifeRecord>() {
            let record = LifeRecord::mut_from_bytes(bytes).expect("a record");
            record.head.time += LATER_NS;
        } else {
            let (record, _) = OpRecord::mut_from_prefix(bytes).expect("a record");
            record.head.time += LATER_NS;
            record.start += LATER_NS;
        }
    }
}

const FIRST: [u32; KINDS] = [
    4_026_531_841,
    4_026_531_838,
    4_026_531_839,
    4_026_531_836,
    4_026_531_840,
    4_026_531_837,
    4_026_531_835,
    4_026_531_834,
];
const NEW: u32 = 4_026_532_281;

/// One unshare, whose namespace dies when the next one is made.
fn unshare() -> Vec<Record> {
    let mut records = unshare_alone();
    records.push(death(NEW));
    records
}

fn unshare_alone() -> Vec<Record> {
    let marks = [
        mark(400, Mark::CreateNewNamespaces),
        mark_of(600, Mark::Copy, Kind::Uts),
        mark(2_000, Mark::Switch),
    ];
    vec![operation(
        Op::Unshare,
        Kind::Uts.flag(),
        &[(Kind::Uts, NEW)],
        &marks,
        &[],
    )]
}

/// To another namespace and back.
fn two_setns() -> Vec<Record> {
    let marks = [
        mark_of(900, Mark::Install, Kind::Uts),
        mark(1_200, Mark::Switch),
    ];
    let there = [(Kind::Uts, NEW)];
    let flags = Kind::Uts.flag();
    vec![
        operation(Op::Setns, flags, &there, &marks, &[]),
        operation(Op::Setns, flags, &[], &marks, &[]),
    ]
}

/// What begins a container.
fn clone() -> Vec<Record> {
    const MADE: [Kind; 5] = [Kind::Mnt, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Net];
    let mut marks = vec![mark(201_000, Mark::CreateNewNamespaces)];
    let mut after = Vec::new();
    for (at, kind) in (1..).zip(MADE) {
        marks.push(mark_of(201_000 + u64::from(at) * 9_000, Mark::Copy, kind));
        after.push((kind, NEW + at));
    }
    marks.extend([
        mark(1_840_000, Mark::CopyNamespacesDone),
        mark(1_849_000, Mark::AllocPidDone),
    ]);
    let pids = [
        PidAt {
            nr: 4243,
            ns: FIRST[Kind::Pid as usize],
        },
        PidAt { nr: 1, ns: NEW + 4 },
    ];
    let flags = MADE.iter().fold(0, |flags, kind| flags | kind.flag());
    let mut records = vec![operation(Op::Clone, flags, &after, &marks, &pids)];
    records.extend(after.iter().map(|(_, inum)| death(*inum)));
    records
}

fn mark(at_ns: u64, mark: Mark) -> u64 {
    at_ns << 8 | mark as u64
}

fn mark_of(at_ns: u64, first: Mark, kind: Kind) -> u64 {
    mark(at_ns, first) + kind as u64
}

fn operation(op: Op, flags: u64, after: &[(Kind, u32)], marks: &[u64], pids: &[PidAt]) -> Record {
    let mut record = OpRecord::new_zeroed();
    record.head.kind = RecordKind::Op as u32;
    record.start = 1_000_000_000;
    record.head.time = record.start + 2_300;
    record.op = op as u8;
    record.flags = flags;
    record.ret = pids.first().map_or(0, |pid| pid.nr.into());
    record.pid = 4242;
    record.tid = 4242;
    record.cgroup = 7;
    record.comm[..13].copy_from_slice(b"nstrace-guest");
    record.before = FIRST;
    record.after = FIRST;
    for (kind, inum) in after {
        record.after[*kind as usize] = *inum;
    }
    if op == Op::Setns {
        record.target = NEW;
    }
    record.marks_len = marks.len() as u8;
    record.pids_len = pids.len() as u8;
    Record::new(&[record.as_bytes(), marks.as_bytes(), pids.as_bytes()])
}

/// As a kernel without ids of namespaces tells it.
fn death(inum: u32) -> Record {
    let mut record = LifeRecord::new_zeroed();
    record.head.kind = RecordKind::Death as u32;
    record.head.time = 1_000_009_000;
    record.inum = inum;
    record.ns_kind = NO_KIND;
    record.pid = 4242;
    record.tid = 4242;
    Record::new(&[record.as_bytes()])
}

impl Record {
    fn new(parts: &[&[u8]]) -> Record {
        let bytes = parts.concat();
        let mut words = vec![0; bytes.len() / 8];
        words.as_mut_bytes().copy_from_slice(&bytes);
        Record { words }
    }
}
