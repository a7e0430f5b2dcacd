//! How fast a recording is read: bare, as a report, as text and as JSON, in this process and
//! as commands; and beside it `perf script` over as many events.
//!
//! ```text
//! cargo bench --bench readers
//! cargo bench --bench readers -- [--ops N] [--file FILE.nst] [--perf perf.data] [--trace-cmd trace.dat]
//! ```
//!
//! makes a recording of a million operations, unless it is given one, and prints for each
//! reader operations (of perf and trace-cmd events) in a second of the CPU, user and system,
//! and the bytes of the file for each. If perf is there it records page faults of this program,
//! because tracepoints need rights; a trace.dat has to be brought. Which of them that were
//! made on another machine are compared is for whoever brings them to say.
//!
//! ```text
//! valgrind --tool=callgrind $exe --ops 100000 --only report
//! ```
//!
//! runs one reader alone, for a profiler: `bare`, `world`, `report`, `text`, `json`; of a
//! recording that `--make FILE` has left, so that to make it does not count.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, BufWriter},
    mem::MaybeUninit,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;
use nstrace::{
    cgroups::Cgroups,
    decode::decode,
    event::{Cgroup, Event, FoundTask, Now, SnapshotEnd, Unseen},
    explain::Facts,
    filter::Filter,
    render::Format,
    report::{Known, Report},
    screen::{self, Screen},
    trace::{Entry, Head, Item, Options, Reader, Writer},
    world::World,
};
use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{
        FAIL_PID_NS_DEAD, FailRecord, LifeRecord, Mark, NO_KIND, Op, OpRecord, PidAt, RecordKind,
        TaskRecord,
    },
};
use zerocopy::{FromZeros as _, IntoBytes as _};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NSTRACE: &str = env!("CARGO_BIN_EXE_nstrace");

/// The word with which this program makes page faults.
const FAULTS: &str = "faults";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [FAULTS, count] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return faults(count.parse()?);
    }
    let option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1)
    };
    let ops: u64 = option("--ops").map_or(Ok(1_000_000), |ops| ops.parse())?;
    if let Some(path) = option("--make") {
        return make(Path::new(path), ops);
    }
    let dir = std::env::temp_dir().join(format!("nstrace-readers-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let done = measure(&dir, ops, &option);
    fs::remove_dir_all(&dir)?;
    done
}

fn measure<'w>(dir: &Path, ops: u64, option: &impl Fn(&str) -> Option<&'w String>) -> Result<()> {
    let path = match option("--file") {
        Some(path) => PathBuf::from(path),
        None => {
            let path = dir.join("made.nst");
            make(&path, ops)?;
            path
        }
    };
    if let Some(only) = option("--only") {
        let one = READERS.iter().find(|(name, _)| name == only);
        let (_, read) = one.ok_or("there is no such reader")?;
        let count = read(&path)?;
        println!("{only}: {} operations", count.ops);
        return Ok(());
    }
    let bytes = fs::metadata(&path)?.len();
    let count = bare(&path)?;
    println!(
        "{} operations among {} events, {:.1} bytes for an operation",
        count.ops,
        count.events,
        bytes as f64 / count.ops as f64
    );
    println!("{:34} {:>12} {:>10}", "", "a second", "ns each");
    for (name, read) in READERS {
        let took = least(|| {
            let begin = Instant::now();
            read(&path)?;
            Ok(begin.elapsed())
        })?;
        row(&format!("in this process: {name}"), count.ops, took);
    }
    let file = path.to_string_lossy();
    for words in [
        &["report", &file][..],
        &["report", "--json", &file],
        &["tail", "--from", &file],
        &["tail", "--json", "--from", &file],
    ] {
        let took = least(|| run(NSTRACE, words))?;
        let shown = words
            .iter()
            .map(|word| if *word == file { "FILE" } else { word });
        let shown = shown.collect::<Vec<_>>().join(" ");
        row(&format!("nstrace {shown}"), count.ops, took);
    }
    perf(dir, count.ops, option("--perf"))?;
    match option("--trace-cmd") {
        Some(path) => trace_cmd(path),
        None => {
            println!("trace-cmd report: bring a trace.dat by --trace-cmd");
            Ok(())
        }
    }
}

fn row(name: &str, count: u64, took: Duration) {
    let each = took.as_nanos() as f64 / count as f64;
    println!("{name:34} {:>12.0} {each:>10.0}", 1e9 / each);
}

const RUNS: usize = 3;

fn least(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut least = Duration::MAX;
    for _ in 0..RUNS {
        least = least.min(run()?);
    }
    Ok(least)
}

/// perf script over a file that was brought, or over as many page faults.
fn perf(dir: &Path, events: u64, brought: Option<&String>) -> Result<()> {
    let Ok(version) = Command::new("perf").arg("--version").output() else {
        println!("perf script: perf is not installed");
        return Ok(());
    };
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let file = match brought {
        Some(path) => path.clone(),
        None => {
            let file = dir.join("perf.data").to_string_lossy().into_owned();
            let exe = std::env::current_exe()?.to_string_lossy().into_owned();
            let words = [
                "record",
                "-q",
                "-e",
                "page-faults",
                "-c",
                "1",
                "-o",
                &file,
                "--",
            ];
            let count = events.to_string();
            let words = [&words[..], &[&exe, FAULTS, &count]].concat();
            run("perf", &words)?;
            file
        }
    };
    let script = ["script", "-f", "-i", &file];
    let events = lines("perf", &script)?;
    let bytes = fs::metadata(&file)?.len();
    println!(
        "{version}: {events} events, {:.1} bytes for one",
        bytes as f64 / events as f64
    );
    let took = least(|| run("perf", &script))?;
    row("perf script FILE", events, took);
    Ok(())
}

/// trace-cmd report over a file that was brought.
fn trace_cmd(file: &str) -> Result<()> {
    let words = ["report", "-i", file];
    let events = lines("trace-cmd", &words)?;
    let bytes = fs::metadata(file)?.len();
    println!(
        "trace-cmd: {events} events, {:.1} bytes for one",
        bytes as f64 / events as f64
    );
    let took = least(|| run("trace-cmd", &words))?;
    row("trace-cmd report FILE", events, took);
    Ok(())
}

/// How many lines a command prints: one for an event.
fn lines(name: &str, words: &[&str]) -> Result<u64> {
    let out = Command::new(name)
        .args(words)
        .stderr(Stdio::null())
        .output()?;
    let newlines = out.stdout.iter().filter(|byte| **byte == b'\n').count();
    Ok(newlines.max(1) as u64)
}

/// Runs a command, and says how much CPU it took, user and system.
fn run(name: &str, words: &[&str]) -> Result<Duration> {
    let mut child = Command::new(name)
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = child.id().cast_signed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a child of ours, and a struct that lives through the call.
    if unsafe { libc::wait4(pid, std::ptr::null_mut(), 0, usage.as_mut_ptr()) } != pid {
        child.kill()?;
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: zeroed, of integers, and filled in.
    let usage = unsafe { usage.assume_init() };
    let duration = |time: libc::timeval| {
        Duration::from_micros((time.tv_sec * 1_000_000 + time.tv_usec).cast_unsigned())
    };
    Ok(duration(usage.ru_utime) + duration(usage.ru_stime))
}

/// Touches pages that are not there.
fn faults(count: usize) -> Result<()> {
    const PAGE: usize = 4096;
    const PAGES: usize = 4096;
    // SAFETY: new memory of its own.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE * PAGES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: that memory. A large page would be one fault.
    unsafe { libc::madvise(memory, PAGE * PAGES, libc::MADV_NOHUGEPAGE) };
    for at in 0..count {
        let page = at % PAGES;
        // SAFETY: within that memory, which nothing else refers to.
        unsafe {
            memory.cast::<u8>().add(page * PAGE).write_volatile(1);
            if page == PAGES - 1 {
                libc::madvise(memory, PAGE * PAGES, libc::MADV_DONTNEED);
            }
        }
    }
    Ok(())
}

/// How many there were.
#[derive(Default)]
struct Count {
    ops: u64,
    events: u64,
}

type Read = fn(&Path) -> Result<Count>;

const READERS: [(&str, Read); 5] = [
    ("bare", bare),
    ("world", world),
    ("report", report),
    ("text", |path| tail(path, Format::Line)),
    ("json", |path| tail(path, Format::Json)),
];

/// Reads a recording, and counts.
fn each(path: &Path, mut each: impl FnMut(Item)) -> Result<Count> {
    let mut reader = Reader::new(File::open(path)?);
    let mut count = Count::default();
    while let Some(item) = reader.read()? {
        if let Item::Entry(Entry::Event(event)) = &item {
            count.events += 1;
            count.ops += u64::from(matches!(event, Event::Op(_)));
        }
        each(item);
    }
    Ok(count)
}

fn bare(path: &Path) -> Result<Count> {
    each(path, |_| {})
}

fn world(path: &Path) -> Result<Count> {
    let (mut world, mut changes) = (World::default(), Vec::new());
    each(path, |item| {
        if let Item::Entry(Entry::Event(event)) = item {
            changes.clear();
            world.apply(&event, &mut changes);
        }
    })
}

fn report(path: &Path) -> Result<Count> {
    let (mut world, mut changes) = (World::default(), Vec::new());
    let (mut cgroups, mut facts) = (Cgroups::default(), Facts::NONE);
    let mut report = Report::default();
    let count = each(path, |item| match item {
        Item::Entry(Entry::Event(event)) => {
            if let Event::Cgroup(cgroup) = &event {
                cgroups.made(cgroup);
            }
            changes.clear();
            world.apply(&event, &mut changes);
            let known = Known {
                world: &world,
                changes: &changes,
                cgroups: &cgroups,
                facts: &facts,
            };
            report.event(&event, &known, &mut |_| String::new());
        }
        Item::Entry(Entry::Facts(new)) => facts = new,
        _ => {}
    })?;
    assert_eq!(report.operations, count.ops);
    Ok(count)
}

fn tail(path: &Path, format: Format) -> Result<Count> {
    let options = screen::Options {
        format,
        color: false,
        all: false,
        filter: Filter::default(),
        follows: false,
        facts: |_, _| Facts::NONE,
    };
    let mut screen = Screen::new(options, TimeZone::UTC);
    screen.facts(Facts::NONE);
    each(path, |item| {
        match item {
            Item::Entry(Entry::Event(Event::TaskNew(task) | Event::TaskExit(task)))
                if task.pids.len() < 2 => {}
            Item::Entry(Entry::Event(event)) => screen.event(&event),
            Item::Entry(Entry::Facts(facts)) => screen.facts(facts),
            _ => {}
        }
        if screen.text.len() > 1 << 17 {
            screen.text.clear();
        }
    })
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

/// Makes a recording: turns of what makes, enters and ends a container, as runc and what
/// runs in it do it, and of what fails.
fn make(path: &Path, ops: u64) -> Result<()> {
    let head = Head {
        host: "bench".to_owned(),
        kernel: "6.12.118".to_owned(),
        mono_ns: 1_000_000_000,
        wall_offset_ns: 1_795_388_474_221_000_000,
        ..Head::default()
    };
    let out = BufWriter::new(File::create_new(path)?);
    let mut maker = Maker {
        writer: Writer::new(out, &head, Options::default())?,
        time: head.mono_ns,
        ops: 0,
        chance: 1,
    };
    maker.begin()?;
    let mut turn = 0;
    while maker.ops < ops {
        maker.turn(turn)?;
        turn += 1;
    }
    let end = maker.time;
    maker.writer.finish(end)?;
    Ok(())
}

struct Maker {
    writer: Writer<BufWriter<File>>,
    time: u64,
    ops: u64,
    chance: u64,
}

/// So many containers take turns.
const CONTAINERS: u64 = 8;

impl Maker {
    fn begin(&mut self) -> io::Result<()> {
        for container in 0..CONTAINERS {
            let path = format!(
                "/docker/{:016x}{:048x}",
                (container + 1) * 0x0123_4567_89ab_cdef,
                container
            );
            let id = container + 100;
            self.writer.event(&Event::Cgroup(Cgroup {
                id,
                path: path.as_bytes(),
            }))?;
        }
        let time = self.time;
        self.writer.event(&Event::SnapshotBegin(Now { time }))?;
        for pid in 1..300 {
            let ns = FIRST[Kind::Pid as usize];
            self.writer.event(&Event::FoundTask(FoundTask {
                time,
                start: time / 2,
                pid,
                tid: pid,
                cgroup: 1,
                comm: b"daemon",
                exited: false,
                pids: &[PidAt { nr: pid, ns }],
                namespaces: FIRST,
                pid_for_children: ns,
                time_for_children: FIRST[Kind::Time as usize],
            }))?;
        }
        let unseen = Unseen::default();
        self.writer
            .event(&Event::SnapshotEnd(SnapshotEnd { time, unseen }))
    }

    /// A number below another, as if by chance.
    fn below(&mut self, end: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % end
    }

    /// The life of a container: 16 operations.
    fn turn(&mut self, turn: u64) -> io::Result<()> {
        const MADE: [Kind; 5] = [Kind::Mnt, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Net];
        let cgroup = 100 + turn % CONTAINERS;
        let pid = 1000 + (turn * 4 % 30_000) as u32;
        let base = 4_026_532_200 + (turn * 7 % 2000) as u32;
        let inum = |at: usize| base + at as u32;
        let mut inside = FIRST;
        for (at, kind) in MADE.into_iter().enumerate() {
            inside[kind as usize] = inum(at);
        }
        let runc = Who::new(pid, b"runc", cgroup);
        let child = Who::new(pid + 1, b"runc:[2:INIT]", cgroup);
        self.task(RecordKind::TaskNew, runc, 1, FIRST, &[])?;
        // The container.
        let mut marks = vec![mark(9_000, Mark::CreateNewNamespaces)];
        let (mut at, mut flags) = (9_500, 0);
        for kind in MADE {
            marks.push(mark_of(at, Mark::Copy, kind));
            at += 8_000 + self.below(60_000);
            flags |= kind.flag();
        }
        marks.push(mark(at, Mark::CopyNamespacesDone));
        marks.push(mark(at + 9_000, Mark::AllocPidDone));
        let pids = [
            PidAt {
                nr: child.pid,
                ns: FIRST[Kind::Pid as usize],
            },
            PidAt { nr: 1, ns: inum(3) },
        ];
        let made = Done {
            flags,
            after: inside,
            marks: &marks,
            pids: &pids,
            ..Done::new(Op::Clone)
        };
        self.op(runc, made)?;
        self.task(RecordKind::TaskNew, child, pid, inside, &pids)?;
        // It unshares its cgroup namespace.
        let marks = [
            mark(400, Mark::CreateNewNamespaces),
            mark_of(600, Mark::Copy, Kind::Cgroup),
            mark(9_000 + self.below(4_000), Mark::Switch),
        ];
        let mut after = inside;
        after[Kind::Cgroup as usize] = inum(5);
        let cgroups = Kind::Cgroup.flag();
        self.op(
            child,
            Done {
                flags: cgroups,
                before: inside,
                after,
                marks: &marks,
                ..Done::new(Op::Unshare)
            },
        )?;
        self.task(
            RecordKind::TaskChange,
            Who::new(pid + 1, b"nginx", cgroup),
            0,
            after,
            &pids,
        )?;
        // Somebody looks into its net namespace, four times, and goes back.
        let ip = Who::new(pid + 2, b"ip", 1);
        self.task(RecordKind::TaskNew, ip, 1, FIRST, &[])?;
        let net = Kind::Net as usize;
        for _ in 0..4 {
            for (from, to) in [(FIRST[net], inside[net]), (inside[net], FIRST[net])] {
                let marks = [
                    mark_of(900 + self.below(300), Mark::Install, Kind::Net),
                    mark(1_500, Mark::Switch),
                ];
                let (mut before, mut after) = (FIRST, FIRST);
                (before[net], after[net]) = (from, to);
                let done = Done {
                    flags: Kind::Net.flag(),
                    before,
                    after,
                    marks: &marks,
                    ..Done::new(Op::Setns)
                };
                self.op(ip, done)?;
            }
        }
        // Three unshares of one kind by a user, the last of which is refused.
        let user = Who::new(pid + 3, b"unshare", 1);
        self.task(RecordKind::TaskNew, user, 1, FIRST, &[])?;
        let mut before = FIRST;
        for _ in 0..2 {
            let marks = [
                mark(400, Mark::CreateNewNamespaces),
                mark_of(600, Mark::Copy, Kind::Uts),
                mark(2_000 + self.below(9_000), Mark::Switch),
            ];
            let mut after = before;
            let last = before[Kind::Uts as usize];
            after[Kind::Uts as usize] = inum(6);
            self.op(
                user,
                Done {
                    flags: Kind::Uts.flag(),
                    before,
                    after,
                    marks: &marks,
                    ..Done::new(Op::Unshare)
                },
            )?;
            if last != FIRST[Kind::Uts as usize] {
                self.death(last)?;
            }
            before = after;
        }
        for flags in [Kind::Mnt.flag(), Kind::Net.flag() | Kind::Mnt.flag()] {
            let fail = FailRecord {
                threads: 1,
                fs_users: 1,
                ..FailRecord::default()
            };
            self.op(
                user,
                Done {
                    flags,
                    before,
                    after: before,
                    fail: Some(fail),
                    ..Done::new(Op::Unshare)
                },
            )?;
        }
        // Two forks that fail in a pid namespace whose init is dead.
        for _ in 0..2 {
            let fail = FailRecord {
                bits: FAIL_PID_NS_DEAD,
                pid_active: inum(3),
                ..FailRecord::default()
            };
            self.op(
                child,
                Done {
                    before: inside,
                    after: inside,
                    fail: Some(fail),
                    errno: libc::ENOMEM,
                    ..Done::new(Op::Fork)
                },
            )?;
        }
        for (who, at) in [(user, before), (ip, FIRST), (child, after), (runc, FIRST)] {
            let pids: &[PidAt] = if who.pid == child.pid { &pids } else { &[] };
            self.task(RecordKind::TaskExit, who, 0, at, pids)?;
            self.task(RecordKind::TaskFree, who, 0, at, pids)?;
        }
        for at in 0..7 {
            self.death(inum(at))?;
        }
        Ok(())
    }

    fn op(&mut self, who: Who, done: Done) -> io::Result<()> {
        self.time += 2_000 + self.below(20_000);
        let mut record = OpRecord::new_zeroed();
        record.head.kind = RecordKind::Op as u32;
        record.start = self.time;
        let last = done.marks.last().map_or(700, |mark| mark >> 8);
        let took = last + 300 + self.below(1 << (8 + self.chance % 9));
        self.time += took;
        record.head.time = self.time;
        record.op = done.op as u8;
        record.flags = done.flags;
        record.ret = match done.fail {
            Some(_) => -i64::from(done.errno),
            None => done.pids.first().map_or(0, |pid| pid.nr.into()),
        };
        record.pid = who.pid;
        record.tid = who.pid;
        record.uid = 0;
        record.cgroup = who.cgroup;
        record.comm = who.comm;
        record.before = done.before;
        record.after = done.after;
        record.owner = FIRST[Kind::User as usize];
        record.marks_len = done.marks.len() as u8;
        record.pids_len = done.pids.len() as u8;
        if done.op == Op::Setns {
            record.target = done.after[Kind::Net as usize];
        }
        let fail = done.fail.as_ref().map_or(&[][..], |fail| fail.as_bytes());
        self.ops += 1;
        self.write(&[
            record.as_bytes(),
            done.marks.as_bytes(),
            done.pids.as_bytes(),
            fail,
        ])
    }

    fn task(
        &mut self,
        kind: RecordKind,
        who: Who,
        parent: u32,
        at: [u32; KINDS],
        pids: &[PidAt],
    ) -> io::Result<()> {
        self.time += 500;
        let mut record = TaskRecord::new_zeroed();
        record.head.kind = kind as u32;
        record.head.time = self.time;
        record.pid = who.pid;
        record.tid = who.pid;
        record.parent = parent;
        record.cgroup = who.cgroup;
        record.comm = who.comm;
        record.namespaces = at;
        record.time_for_children = at[Kind::Time as usize];
        let first = [PidAt {
            nr: who.pid,
            ns: FIRST[Kind::Pid as usize],
        }];
        let pids = if pids.is_empty() { &first[..] } else { pids };
        record.pids_len = pids.len() as u32;
        self.write(&[record.as_bytes(), pids.as_bytes()])
    }

    fn death(&mut self, inum: u32) -> io::Result<()> {
        self.time += 1_000;
        let mut record = LifeRecord::new_zeroed();
        record.head.kind = RecordKind::Death as u32;
        record.head.time = self.time;
        record.inum = inum;
        record.ns_kind = NO_KIND;
        record.pid = 17;
        record.tid = 17;
        self.write(&[record.as_bytes()])
    }

    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = parts.concat();
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
        let event = decode(words.as_bytes()).map_err(io::Error::other)?;
        self.writer.event(&event)
    }
}

/// A task.
#[derive(Clone, Copy)]
struct Who {
    pid: u32,
    comm: [u8; 16],
    cgroup: u64,
}

impl Who {
    fn new(pid: u32, name: &[u8], cgroup: u64) -> Who {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        Who { pid, comm, cgroup }
    }
}

/// What it did.
struct Done<'a> {
    op: Op,
    flags: u64,
    before: [u32; KINDS],
    after: [u32; KINDS],
    marks: &'a [u64],
    pids: &'a [PidAt],
    fail: Option<FailRecord>,
    errno: i32,
}

impl Done<'_> {
    fn new(op: Op) -> Self {
        Done {
            op,
            flags: 0,
            before: FIRST,
            after: FIRST,
            marks: &[],
            pids: &[],
            fail: None,
            errno: libc::EPERM,
        }
    }
}

fn mark(at_ns: u64, mark: Mark) -> u64 {
    at_ns << 8 | mark as u64
}

fn mark_of(at_ns: u64, first: Mark, kind: Kind) -> u64 {
    mark(at_ns, first) + kind as u64
}
