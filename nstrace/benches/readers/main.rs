//! How fast a recording is read: bare, as a report, as text and as JSON, in this process and
//! as commands; and beside it `perf script` and `trace-cmd report`.
//!
//! ```text
//! cargo xtask bench --readers
//! cargo bench --bench readers -- [--ops N] [--file FILE.nst]
//!     [--load FILE.nst] [--perf perf.data] [--trace-cmd trace.dat]
//! ```
//!
//! makes a recording of a million operations, unless it is given one by `--file`, and prints
//! for each reader operations in a second of the CPU, user and system. Then what nstrace, perf
//! and trace-cmd have recorded of one load, each as it is made for: events, and the bytes of the
//! file and the time for each. The first of the commands records that load in guests. Without
//! it perf, if it is there, records as many page faults of this program, because tracepoints
//! need rights.
//!
//! ```text
//! valgrind --tool=callgrind $exe --ops 100000 --only report
//! ```
//!
//! runs one reader alone, for a profiler: `bare`, `world`, `report`, `text`, `json`; of a
//! recording that `--make FILE` has left, so that to make it does not count.

mod recording;

use std::{
    error::Error,
    ffi::OsStr,
    fs::{self, File},
    io,
    mem::MaybeUninit,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use jiff::tz::TimeZone;
use nstrace::{
    cgroups::Cgroups,
    event::Event,
    explain::Facts,
    filter::Filter,
    render::Format,
    report::{Known, Report},
    screen::{self, Screen},
    trace::{Entry, Item, Reader},
    world::World,
};

use recording::make;

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
    let count = bare(&path)?;
    println!(
        "{} operations among {} events, {:.1} bytes for an operation",
        count.ops,
        count.events,
        fs::metadata(&path)?.len() as f64 / count.ops as f64
    );
    println!("{:36} {:>12} {:>8}", "", "a second", "ns each");
    for (name, read) in READERS {
        let took = least(|| {
            let begin = Instant::now();
            read(&path)?;
            Ok(begin.elapsed())
        })?;
        row(&format!("in this process: {name}"), count.ops, took);
    }
    for words in COMMANDS {
        let took = least(|| run(NSTRACE, &of(words, &path)))?;
        row(&format!("nstrace {}", words.join(" ")), count.ops, took);
    }
    println!(
        "\n{:36} {:>12} {:>8} events, bytes each",
        "", "a second", "ns each"
    );
    if let Some(load) = option("--load").map(Path::new) {
        let events = bare(load)?.events;
        for words in COMMANDS {
            peer(NSTRACE, words, load, events)?;
        }
    }
    perf(dir, count.ops, option("--perf"))?;
    match option("--trace-cmd").map(Path::new) {
        Some(path) => {
            let events = lines("trace-cmd", &of(&TRACE_CMD, path))?;
            peer("trace-cmd", &TRACE_CMD, path, events)
        }
        None => {
            println!("trace-cmd report: see `cargo xtask bench --readers`");
            Ok(())
        }
    }
}

/// Stands for the file in the words of a command.
const FILE: &str = "FILE";

const COMMANDS: [&[&str]; 4] = [
    &["report", FILE],
    &["report", "--json", FILE],
    &["tail", "--from", FILE],
    &["tail", "--json", "--from", FILE],
];

// -f: whosever it is.
const PERF: [&str; 4] = ["script", "-f", "-i", FILE];

const TRACE_CMD: [&str; 3] = ["report", "-i", FILE];

fn of<'w>(words: &[&'w str], file: &'w Path) -> Vec<&'w OsStr> {
    let word = |word: &&'w str| match *word {
        FILE => file.as_os_str(),
        word => OsStr::new(word),
    };
    words.iter().map(word).collect()
}

fn row(name: &str, count: u64, took: Duration) {
    println!("{}", figures(name, count, took));
}

fn figures(name: &str, count: u64, took: Duration) -> String {
    let each = took.as_nanos() as f64 / count as f64;
    format!("{name:36} {:>12.0} {each:>8.0}", 1e9 / each)
}

/// A command over a file of so many events.
fn peer(program: &str, words: &[&str], file: &Path, events: u64) -> Result<()> {
    let took = least(|| run(program, &of(words, file)))?;
    let bytes = fs::metadata(file)?.len() as f64 / events as f64;
    let name = Path::new(program).file_name().unwrap_or_default();
    let name = format!("{} {}", name.display(), words.join(" "));
    println!("{} {events}, {bytes:.1}", figures(&name, events, took));
    Ok(())
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
fn perf(dir: &Path, faults: u64, brought: Option<&String>) -> Result<()> {
    if Command::new("perf").arg("--version").output().is_err() {
        println!("perf script: perf is not installed");
        return Ok(());
    }
    let file = match brought {
        Some(path) => PathBuf::from(path),
        None => {
            let file = dir.join("perf.data");
            let exe = std::env::current_exe()?;
            let faults = faults.to_string();
            let record = ["record", "-q", "-e", "page-faults", "-c", "1", "-o", FILE];
            let mut words = of(&record, &file);
            words.extend([OsStr::new("--"), exe.as_os_str()]);
            words.extend([OsStr::new(FAULTS), OsStr::new(&faults)]);
            run("perf", &words)?;
            file
        }
    };
    let events = lines("perf", &of(&PERF, &file))?;
    peer("perf", &PERF, &file, events)
}

/// How many lines a command prints: one for an event.
fn lines(name: &str, words: &[&OsStr]) -> Result<u64> {
    let out = Command::new(name)
        .args(words)
        .stderr(Stdio::null())
        .output()?;
    let newlines = out.stdout.iter().filter(|byte| **byte == b'\n').count();
    Ok(newlines.max(1) as u64)
}

/// Runs a command, and says how much CPU it took, user and system.
fn run(name: &str, words: &[&OsStr]) -> Result<Duration> {
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
        mounts: false,
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
