//! `nstrace tail`: operations as they happen.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use aya::maps::{HashMap as BpfHashMap, MapData};
use clap::ColorChoice;
use nstrace_common::{config::Config, wire::RecordKind};
use tokio::signal::unix::{SignalKind, signal};

use super::child::Child;
use crate::{
    cgroups::Cgroups,
    cli::Tail,
    event::{Event, Life, Lost, Operation},
    explain::Facts,
    filter::Filter,
    kernel::{
        clock,
        error::in_first_pid_namespace,
        facts,
        load::{self, Kernel, Options},
        reader::Reader,
        snapshot,
        stall::Stalls,
    },
    lives::Lives,
    render::{Format, Printer, View},
};

/// Runs until a signal, or until the command ends.
pub fn run(args: Tail) -> anyhow::Result<ExitCode> {
    let by_pid = args.filters.pid.is_some() || !args.run.is_empty();
    if by_pid && !in_first_pid_namespace() {
        anyhow::bail!(
            "--pid and `-- COMMAND` need process ids of the first pid namespace, and this is \
             another one: run nstrace there (with docker, --pid=host)"
        );
    }
    let child = match args.run.is_empty() {
        true => None,
        false => Some(Child::prepare(args.run.clone())?),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no event loop")?
        .block_on(follow(args, child))
}

async fn follow(args: Tail, mut child: Option<Child>) -> anyhow::Result<ExitCode> {
    let filter = args.filters.filter();
    let mut kernel = load::load(&Options {
        attach: args.attach.attach,
        config: config(&filter, child.is_some()),
        ring_size: args.attach.ring_size,
    })?;
    let mut reader = Reader::new(&mut kernel.bpf)?;
    #[cfg(feature = "debug")]
    let mut log = crate::kernel::debug::logger(&mut kernel.bpf)?;
    let mut stalls = Stalls::new(&mut kernel.bpf, args.stall)?;
    let mut signals = Signals::new()?;
    let mut screen = Screen::new(&args, filter, child.is_some());
    snapshot::namespaces(&mut screen.lives);
    snapshot::cgroups(&mut screen.cgroups);
    release_memory();
    screen.start()?;
    eprintln!("nstrace: ready");
    if let Some(child) = &mut child {
        track(&mut kernel, child.pid)?;
        child.start()?;
    }

    let mut look = tokio::time::interval(stalls.interval());
    let mut status = None;
    let mut asked = false;
    while status.is_none() {
        #[cfg(feature = "debug")]
        log.flush();
        tokio::select! {
            waited = reader.wait() => {
                waited?;
                screen.read(&mut reader)?;
            }
            _ = look.tick(), if !args.stall.is_zero() => {
                stalls.look(|event| screen.event(&event))?;
                screen.skipped(kernel.skipped_deaths(), false);
                screen.flush()?;
            }
            end = signals.next() => {
                status = end_of(end, child.as_ref(), &mut asked)?;
            }
        }
    }
    let (skipped, runs) = (kernel.skipped_deaths(), kernel.skipped_runs());
    // Nothing new from here on; what is in the rings is still to be read.
    drop(kernel);
    screen.read(&mut reader)?;
    screen.skipped(skipped, true);
    screen.flush()?;
    if runs > 0 {
        eprintln!(
            "nstrace: the kernel skipped {runs} runs of its probes: a stage or a task may be missing"
        );
    }
    screen.summary();
    Ok(status.unwrap_or(ExitCode::SUCCESS))
}

/// What a signal means for the end. With a command, the first that asks for the end
/// goes to the command, whose end decides; the second ends nstrace alone.
fn end_of(end: End, child: Option<&Child>, asked: &mut bool) -> anyhow::Result<Option<ExitCode>> {
    let Some(child) = child else {
        return Ok((!matches!(end, End::Child)).then_some(ExitCode::SUCCESS));
    };
    let signal = match end {
        End::Child => return child.try_wait().context("the command is lost"),
        End::Interrupt => libc::SIGINT,
        End::Terminate => libc::SIGTERM,
    };
    if *asked {
        return Ok(Some(ExitCode::from(128 + signal as u8)));
    }
    *asked = true;
    // A terminal has sent its interrupt to the command too.
    if signal != libc::SIGINT || !io::stderr().is_terminal() {
        child.kill(signal);
    }
    Ok(None)
}

/// The filters that the kernel side applies. The rest is left to [`Filter`].
fn config(filter: &Filter, follow: bool) -> Config {
    let mut config = Config {
        pid: filter.pid.unwrap_or(0),
        follow: u32::from(follow),
        failed: u32::from(filter.failed),
        slower_than: filter.slower_than_ns.unwrap_or(0),
        ..Config::ALL
    };
    if !filter.kinds.is_empty() {
        config.kinds = filter
            .kinds
            .iter()
            .fold(0, |bits, kind| bits | 1 << *kind as u8);
        let flags = filter
            .kinds
            .iter()
            .fold(0, |flags, kind| flags | kind.flag());
        config.clone_mask &= flags;
        config.unshare_mask &= flags;
    }
    if !filter.ops.is_empty() {
        config.ops = filter.ops.iter().fold(0, |bits, op| bits | 1 << *op as u8);
    }
    config.filters = u32::from(
        follow || filter.pid.is_some() || filter.comm.is_some() || !filter.ops.is_empty(),
    );
    config.outcome =
        u32::from(filter.failed || filter.slower_than_ns.is_some() || !filter.kinds.is_empty());
    if let Some(comm) = &filter.comm {
        let mut bytes = [0; 16];
        let len = comm.len().min(15);
        bytes[..len].copy_from_slice(&comm[..len]);
        let half = |at: usize| {
            let half: [u8; 8] = bytes[at..at + 8].try_into().unwrap_or_default();
            u64::from_ne_bytes(half)
        };
        config.comm = [half(0), half(8)];
        config.comm_len = len as u32;
    }
    config
}

/// Puts the command on the kernel side's list.
fn track(kernel: &mut Kernel, pid: u32) -> anyhow::Result<()> {
    let map = kernel.bpf.map_mut("TRACKED").context("no map TRACKED")?;
    let mut tracked: BpfHashMap<&mut MapData, u32, u8> = BpfHashMap::try_from(map)?;
    tracked.insert(pid, 1, 0)?;
    Ok(())
}

/// Gives back what reading the kernel's types took.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What is printed, and what is known for it.
struct Screen {
    format: Format,
    color: bool,
    all: bool,
    filter: Filter,
    /// Whether something is left out, and so are the deaths of what was not seen.
    partial: bool,
    cgroups: Cgroups,
    lives: Lives,
    printer: Printer,
    wall_offset_ns: i64,
    text: String,
    operations: u64,
    failures: u64,
    lost: u64,
    /// Deaths that the kernel skipped: seen the last time, and told.
    skipped_before: u64,
    skipped_told: u64,
}

impl Screen {
    fn new(args: &Tail, filter: Filter, follows: bool) -> Screen {
        Screen {
            format: match (args.json, args.path) {
                (true, _) => Format::Json,
                (_, true) => Format::Path,
                _ => Format::Line,
            },
            color: colored(args.color),
            all: args.all,
            partial: follows || filter.is_set(),
            filter,
            cgroups: Cgroups::default(),
            lives: Lives::default(),
            wall_offset_ns: clock::wall_offset_ns(),
            printer: Printer::new(jiff::tz::TimeZone::system()),
            text: String::new(),
            operations: 0,
            failures: 0,
            lost: 0,
            skipped_before: 0,
            skipped_told: 0,
        }
    }

    /// Prints the head of the columns.
    fn start(&mut self) -> io::Result<()> {
        self.printer.header(self.format, &mut self.text, self.color);
        self.flush()
    }

    /// Prints everything that is in the rings.
    fn read(&mut self, reader: &mut Reader) -> anyhow::Result<()> {
        self.wall_offset_ns = clock::wall_offset_ns();
        reader.drain(|event| self.event(&event))?;
        self.flush()?;
        Ok(())
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Op(op) => self.operation(event, op),
            Event::Cgroup(cgroup) => self.cgroups.made(cgroup),
            Event::Birth(life) => {
                self.lives.born(life);
                if self.asked_for(life) {
                    self.print(event, None);
                }
            }
            Event::Death(life) => {
                if let Some(life) = self.lives.died(*life)
                    && (!self.partial || life.age.is_some())
                    && self.asked_for(&life)
                {
                    self.print(&Event::Death(life), None);
                }
            }
            Event::Lost(lost) => {
                self.lost += lost.count;
                self.print(event, None);
            }
            Event::TaskNew(_) | Event::TaskExit(_) => {
                if self.filter.matches(event, &self.cgroups) {
                    self.print(event, None);
                }
            }
            Event::Stall(..) => self.print(event, None),
        }
    }

    /// Whether a namespace is of a kind that was asked for.
    fn asked_for(&self, life: &Life) -> bool {
        let kinds = &self.filter.kinds;
        kinds.is_empty() || life.kind.is_some_and(|kind| kinds.contains(&kind))
    }

    fn operation(&mut self, event: &Event, op: &Operation) {
        if !self.filter.matches(event, &self.cgroups) {
            return;
        }
        self.operations += 1;
        for life in op.born() {
            self.event(&Event::Birth(life));
        }
        let facts = op.errno().map(|_| facts::facts(op, &self.cgroups));
        self.failures += u64::from(facts.is_some());
        self.print(event, facts.as_ref());
    }

    fn print(&mut self, event: &Event, facts: Option<&Facts>) {
        let view = View {
            wall_offset_ns: self.wall_offset_ns,
            cgroups: &self.cgroups,
            facts,
            color: self.color,
            all: self.all,
        };
        self.printer
            .event(self.format, &mut self.text, event, &view);
        // A burst must not gather in memory; what cannot be written is said by the
        // next flush.
        if self.text.len() > 1 << 16 {
            let _ = self.flush();
        }
    }

    /// Tells of deaths that the kernel has skipped a program for, less those that were
    /// heard of all the same. The second word of a death takes a moment: what is new is
    /// told the next time, or at the end.
    fn skipped(&mut self, skipped: u64, at_end: bool) {
        let missing = skipped.saturating_sub(self.lives.recovered());
        let count = match at_end {
            true => missing,
            false => missing.min(self.skipped_before),
        }
        .saturating_sub(self.skipped_told);
        self.skipped_before = missing;
        if count > 0 && !self.partial {
            self.skipped_told += count;
            self.lost += count;
            let event = Event::Lost(Lost {
                time: clock::monotonic_ns(),
                record: RecordKind::Death,
                count,
            });
            self.print(&event, None);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(self.text.as_bytes())
            .and_then(|()| stdout.flush());
        self.text.clear();
        written
    }

    fn summary(&self) {
        eprintln!(
            "nstrace: {} operations, {} failed, {} lost",
            self.operations, self.failures, self.lost
        );
    }
}

fn colored(choice: ColorChoice) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        // https://no-color.org
        ColorChoice::Auto => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            !no_color && io::stdout().is_terminal()
        }
    }
}

enum End {
    Interrupt,
    Terminate,
    Child,
}

/// The signals that may mean the end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Signals> {
        let on = |kind| signal(kind).context("signals cannot be caught");
        Ok(Signals {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            child: on(SignalKind::child())?,
        })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.interrupt.recv() => End::Interrupt,
            _ = self.terminate.recv() => End::Terminate,
            _ = self.hangup.recv() => End::Terminate,
            _ = self.child.recv() => End::Child,
        }
    }
}
