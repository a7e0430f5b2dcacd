//! What an event costs in user space: decode, state, text; or decode, the model of the tree, and
//! its place in a recording.
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
//!
//! With `--toggle-collect=consumer::Recording::operation` it is what an operation costs alone, from
//! the bytes of a ring to those of a file.

use std::{
    io::{self, Sink},
    time::Instant,
};

use jiff::tz::TimeZone;
use nstrace::{
    decode::decode,
    event::Event,
    explain::Facts,
    filter::Filter,
    render::Format,
    screen::{Options, Screen},
    trace::{self, Head, Writer},
    world::{self, Change, World},
};
use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{LifeRecord, Mark, NO_KIND, Op, OpRecord, PidAt, RecordKind},
};
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

struct Case {
    name: &'static str,
    to: To,
    records: fn() -> Vec<Record>,
}

/// What comes of the events.
enum To {
    Text(Format),
    Recording,
}

const CASES: [Case; 8] = [
    Case {
        name: "unshare",
        to: To::Text(Format::Line),
        records: unshare,
    },
    Case {
        name: "setns",
        to: To::Text(Format::Line),
        records: two_setns,
    },
    Case {
        name: "clone",
        to: To::Text(Format::Line),
        records: clone,
    },
    Case {
        name: "json",
        to: To::Text(Format::Json),
        records: unshare_alone,
    },
    Case {
        name: "path",
        to: To::Text(Format::Path),
        records: unshare_alone,
    },
    Case {
        name: "record-unshare",
        to: To::Recording,
        records: unshare,
    },
    Case {
        name: "record-setns",
        to: To::Recording,
        records: two_setns,
    },
    Case {
        name: "record-clone",
        to: To::Recording,
        records: clone,
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
    println!(
        "{:14} {:>8} {width:5} bytes",
        case.name,
        format!("{took:?}")
    );
}

/// Gives the bytes of what comes of it.
fn run(case: &Case, count: u32) -> usize {
    let mut records = (case.records)();
    let len = records.len();
    let events = (0..count).flat_map(|_| 0..len);
    match case.to {
        To::Text(format) => {
            let mut tail = Tail::new(format);
            events.for_each(|at| {
                records[at].pass();
                tail.event(&records[at].event());
            });
            tail.bytes + tail.screen.text.len()
        }
        To::Recording => {
            let mut recording = Recording::new();
            events.for_each(|at| {
                let record = &mut records[at];
                record.pass();
                match record.is_operation() {
                    true => recording.operation(record),
                    false => recording.event(&record.event()),
                }
            });
            recording.writer.finish(0).expect("nowhere");
            recording.writer.written() as usize
        }
    }
}

/// As the tail does it, without the terminal.
struct Tail {
    screen: Screen,
    bytes: usize,
}

impl Tail {
    fn new(format: Format) -> Tail {
        let options = Options {
            format,
            color: false,
            all: false,
            filter: Filter::default(),
            mounts: false,
            follows: false,
            facts: |_, _| Facts::NONE,
        };
        let mut screen = Screen::new(options, TimeZone::UTC);
        screen.wall_offset_ns = 1_795_388_474_221_000_000;
        Tail { screen, bytes: 0 }
    }

    fn event(&mut self, event: &Event) {
        self.screen.event(event);
        if self.screen.text.len() > 1 << 16 {
            self.bytes += self.screen.text.len();
            self.screen.text.clear();
        }
    }
}

/// As `nstrace record` does it, without the disk.
struct Recording {
    world: World,
    changes: Vec<Change>,
    writer: Writer<Sink>,
}

impl Recording {
    fn new() -> Recording {
        let options = world::Options {
            tells_tasks: false,
            ..world::Options::default()
        };
        let writer = Writer::new(io::sink(), &Head::default(), trace::Options::default());
        Recording {
            world: World::new(options),
            changes: Vec::new(),
            writer: writer.expect("nowhere"),
        }
    }

    #[inline(never)]
    fn operation(&mut self, record: &Record) {
        self.event(&record.event());
    }

    #[inline(always)]
    fn event(&mut self, event: &Event) {
        self.changes.clear();
        self.world.apply(event, &mut self.changes);
        self.writer.event(event).expect("nowhere");
    }
}

/// A record as it is in a ring.
struct Record {
    words: Vec<u64>,
}

impl Record {
    fn is_operation(&self) -> bool {
        self.words.len() > size_of::<LifeRecord>() / 8
    }

    /// Lets 10 µs pass.
    fn pass(&mut self) {
        const LATER_NS: u64 = 10_000;
        // Times stand behind the kind; an operation has two.
        self.words[1] += LATER_NS;
        if self.is_operation() {
            self.words[2] += LATER_NS;
        }
    }

    fn event(&self) -> Event<'_> {
        decode(self.words.as_bytes()).expect("a record")
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
    // Later than the other: what is told of one time is told twice.
    let mut back = operation(Op::Setns, flags, &[], &marks, &[]);
    let (record, _) = OpRecord::mut_from_prefix(back.words.as_mut_bytes()).expect("a record");
    record.start += 5_000;
    record.head.time += 5_000;
    vec![operation(Op::Setns, flags, &there, &marks, &[]), back]
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
    record.owner = FIRST[Kind::User as usize];
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
