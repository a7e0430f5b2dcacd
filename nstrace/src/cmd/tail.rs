//! `nstrace tail`: operations as they happen.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use aya::maps::{HashMap as BpfHashMap, MapData};
use clap::ColorChoice;
use nstrace_common::config::Config;
use tokio::signal::unix::{SignalKind, signal};

use super::child::Child;
use crate::{
    cli::Tail,
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
    render::Format,
    screen::{self, Counts, Screen},
};

/// Runs until a signal, or until the command ends.
pub fn run(args: Tail) -> anyhow::Result<ExitCode> {
    let by_pid = args.filters.pid.is_some() || !args.run.is_empty();
    if by_pid && !Path::new("/proc/self/ns/pid").exists() {
        anyhow::bail!("--pid and `-- COMMAND` need /proc, and it is not mounted here");
    }
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
    let mut reader = Reader::new(&mut kernel)?;
    #[cfg(feature = "debug")]
    let mut log = crate::kernel::debug::logger(&mut kernel.bpf)?;
    let mut stalls = Stalls::new(&mut kernel.bpf, args.stall)?;
    let mut signals = Signals::new()?;
    let mut screen = screen(&args, filter);
    snapshot::namespaces(&mut screen.lives);
    snapshot::cgroups(&mut screen.cgroups);
    release_memory();
    screen.header();
    flush(&mut screen)?;
    say("ready");
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
                read(&mut reader, &mut screen)?;
            }
            _ = look.tick(), if !args.stall.is_zero() => {
                stalls.look(|event| screen.event(&event))?;
                let skipped = skipped_deaths(&kernel, &reader);
                screen.skipped(skipped, false, clock::monotonic_ns());
                flush(&mut screen)?;
            }
            end = signals.next() => {
                status = end_of(end, child.as_ref(), &mut asked)?;
            }
        }
    }
    #[cfg(feature = "debug")]
    log.flush();
    let now = clock::monotonic_ns();
    reader.stop_at(now);
    read(&mut reader, &mut screen)?;
    let (skipped, runs) = (skipped_deaths(&kernel, &reader), kernel.skipped_runs());
    drop(kernel);
    // What was being written just then.
    reader.records(|event| screen.event(&event))?;
    screen.skipped(skipped, true, now);
    flush(&mut screen)?;
    if runs > 0 {
        say(&format!(
            "the kernel skipped {runs} runs of its probes: a stage or a task may be missing"
        ));
    }
    summary(screen.counts);
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

/// More text than this is not gathered before it is written: a burst must not fill the
/// memory.
const TEXT_MAX: usize = 1 << 16;

fn screen(args: &Tail, filter: Filter) -> Screen {
    let options = screen::Options {
        format: match (args.json, args.path) {
            (true, _) => Format::Json,
            (_, true) => Format::Path,
            _ => Format::Line,
        },
        color: colored(args.color),
        all: args.all,
        filter,
        follows: !args.run.is_empty(),
        facts: facts::facts,
    };
    let mut screen = Screen::new(options, jiff::tz::TimeZone::system());
    screen.wall_offset_ns = clock::wall_offset_ns();
    screen
}

/// Prints everything that is in the rings.
fn read(reader: &mut Reader, screen: &mut Screen) -> anyhow::Result<()> {
    screen.wall_offset_ns = clock::wall_offset_ns();
    reader.drain(|event| {
        screen.event(&event);
        if screen.text.len() > TEXT_MAX {
            // What cannot be written is said by the next flush.
            let _ = flush(screen);
        }
    })?;
    flush(screen)?;
    Ok(())
}

fn flush(screen: &mut Screen) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(screen.text.as_bytes())
        .and_then(|()| stdout.flush());
    screen.text.clear();
    written.context("standard output")
}

/// A line on standard error, in one write: others may be writing there.
fn say(what: &str) {
    let line = format!("nstrace: {what}\n");
    // Who closed it does not want to hear.
    let _ = io::stderr().write_all(line.as_bytes());
}

fn summary(counts: Counts) {
    let Counts {
        operations,
        failures,
        lost,
        lost_others,
    } = counts;
    let others = match lost_others {
        0 => String::new(),
        others => format!(" (and {others} other records)"),
    };
    say(&format!(
        "{operations} operations, {failures} failed, {lost} lost{others}"
    ));
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

/// Deaths that the kernel has skipped all programs for.
fn skipped_deaths(kernel: &Kernel, reader: &Reader) -> u64 {
    kernel
        .skipped_deaths()
        .saturating_sub(reader.told_by_twins())
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
