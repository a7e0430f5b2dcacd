//! `nstrace tail`: operations as they happen.

use std::{cell::RefCell, path::Path, process::ExitCode};

use anyhow::Context as _;
use aya::maps::{HashMap as BpfHashMap, MapData};
use jiff::tz::TimeZone;
use nstrace_common::config::Config;

use super::{
    WrongWords,
    child::Child,
    output::{self, colored, say, say_skipped},
    recording,
    signals::{Signals, end_of},
};
use crate::{
    cli::Tail,
    event::Event,
    explain::Facts,
    filter::Filter,
    kernel::{
        clock,
        error::in_first_pid_namespace,
        facts,
        kmsg::{self, Log},
        load::{self, Kernel, Options},
        reader::Reader,
        snapshot,
        stall::{self, Stalls},
    },
    render::{Format, Text},
    screen::{self, Counts, Screen},
    trace::{Entry, Gap, Item},
};

/// Runs until a signal, or until the command ends.
pub fn run(args: Tail) -> anyhow::Result<ExitCode> {
    args.filters.check(Some(args.mounts)).map_err(WrongWords)?;
    if let Some(path) = &args.from {
        return replay(&args, path);
    }
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
    let child = Child::of(&args.run)?;
    super::block_on(follow(args, child))
}

/// Prints what a recording has as it would have been printed when it happened.
fn replay(args: &Tail, path: &Path) -> anyhow::Result<ExitCode> {
    let mut screen = screen(args, args.filters.filter());
    through(&mut screen, path, args.follow, &mut output::write)?;
    summary(screen.counts, args.mounts);
    Ok(ExitCode::SUCCESS)
}

/// Hands out what `tail --json` would print.
pub fn export(path: &Path, write: &mut Write<'_>) -> anyhow::Result<()> {
    let options = screen::Options {
        format: Format::Json,
        color: false,
        all: false,
        filter: Filter::default(),
        mounts: true,
        follows: false,
        facts: facts::facts,
    };
    through(&mut Screen::new(options, TimeZone::UTC), path, false, write)
}

/// Writes text out, and clears it.
type Write<'w> = dyn FnMut(&mut Text) -> anyhow::Result<()> + 'w;

/// Prints a recording; `follows` it while it is written.
fn through(
    screen: &mut Screen,
    path: &Path,
    follows: bool,
    write: &mut Write<'_>,
) -> anyhow::Result<()> {
    screen.facts(Facts::NONE);
    screen.header();
    let out = RefCell::new((screen, write));
    let flush = || {
        let (screen, write) = &mut *out.borrow_mut();
        write(&mut screen.text)
    };
    let each = &mut |item: &mut Item| {
        let is_full = {
            let screen = &mut out.borrow_mut().0;
            take(screen, item);
            screen.text.len() > output::TEXT_MAX
        };
        match is_full {
            true => flush(),
            false => Ok(()),
        }
    };
    match follows {
        true => recording::follow(path, each, &mut || flush())?,
        false => recording::read(path, each)?,
    }
    flush()
}

fn take(screen: &mut Screen, item: &mut Item) {
    match item {
        Item::Head(head) => screen.wall_offset_ns = head.wall_offset_ns,
        Item::State(state) => screen.begin_with(std::mem::take(&mut **state)),
        Item::Entry(Entry::Event(event)) if is_for_tail(event) => screen.event(event),
        Item::Entry(Entry::Event(Event::FoundNamespace(found))) => {
            screen.lives.found(found.kind, found.ns.inum);
        }
        Item::Entry(Entry::Clock(offset)) => screen.wall_offset_ns = *offset,
        Item::Entry(Entry::Facts(facts)) => screen.facts(std::mem::take(facts)),
        Item::Gap(Gap::Missing(lost)) => screen.event(&Event::Lost(*lost)),
        Item::Entry(Entry::Event(_) | Entry::Name { .. })
        | Item::End(_)
        | Item::Damage(_)
        | Item::Gap(_) => {}
    }
}

/// A recording tells of all tasks, the tail of those below the first pid namespace.
fn is_for_tail(event: &Event) -> bool {
    match event {
        Event::TaskNew(task) | Event::TaskExit(task) => task.pids.len() > 1,
        Event::FoundNamespace(_) => false,
        _ => true,
    }
}

async fn follow(args: Tail, mut child: Option<Child>) -> anyhow::Result<ExitCode> {
    let filter = args.filters.filter();
    let mut kernel = load::load(&Options {
        attach: args.attach.attach,
        has_ledger: false,
        config: config(&filter, child.is_some(), args.mounts),
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
    output::release_memory();
    screen.header();
    output::write(&mut screen.text)?;
    // Who may not read it is told of no warnings.
    let mut warnings = Log::open().ok();
    say("ready");
    if let Some(child) = &mut child {
        track(&mut kernel, child.pid)?;
        child.start()?;
    }

    let mut look = tokio::time::interval(stall::interval(args.stall));
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
            _ = look.tick() => {
                if let Some(stalls) = &mut stalls {
                    stalls.look(|event| screen.event(&event))?;
                }
                let skipped = skipped_deaths(&kernel, &reader);
                screen.skipped(skipped, false, clock::monotonic_ns());
                output::write(&mut screen.text)?;
            }
            warned = kmsg::mount_warning(&mut warnings) => {
                // What led to it comes first.
                read(&mut reader, &mut screen)?;
                screen.event(&Event::Warning(warned.event()));
                output::write(&mut screen.text)?;
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
    for warned in kmsg::rest(&mut warnings) {
        screen.event(&Event::Warning(warned.event()));
    }
    screen.skipped(skipped, true, now);
    output::write(&mut screen.text)?;
    say_skipped(runs);
    summary(screen.counts, args.mounts);
    Ok(status.unwrap_or(ExitCode::SUCCESS))
}

/// The filters that the kernel side applies. The rest is left to [`Filter`].
fn config(filter: &Filter, follow: bool, mounts: bool) -> Config {
    let mut config = Config {
        mounts: u32::from(mounts),
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
    let by_op = !filter.ops.is_empty() || !filter.calls.is_empty();
    if by_op {
        let ops = filter.ops.iter().fold(0, |bits, op| bits | 1 << *op as u8);
        let calls = filter.calls.iter().fold(0, |bits, call| bits | call.bit());
        config.ops = ops | calls;
    }
    config.filters = u32::from(follow || filter.pid.is_some() || filter.comm.is_some() || by_op);
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
        mounts: args.mounts,
        follows: !args.run.is_empty(),
        facts: facts::facts,
    };
    let mut screen = Screen::new(options, TimeZone::system());
    screen.wall_offset_ns = clock::wall_offset_ns();
    screen
}

/// Prints everything that is in the rings.
fn read(reader: &mut Reader, screen: &mut Screen) -> anyhow::Result<()> {
    screen.wall_offset_ns = clock::wall_offset_ns();
    reader.drain(|event| {
        screen.event(&event);
        if screen.text.len() > output::TEXT_MAX {
            // What cannot be written is said by the next flush.
            let _ = output::write(&mut screen.text);
        }
    })?;
    output::write(&mut screen.text)
}

fn summary(counts: Counts, with_mounts: bool) {
    let Counts {
        operations,
        failures,
        lost,
        lost_others,
        mounts,
        mount_failures,
    } = counts;
    let others = match lost_others {
        0 => String::new(),
        others => format!(" (and {others} other records)"),
    };
    let mounts = match with_mounts {
        false => String::new(),
        true => format!("; {mounts} mount operations, {mount_failures} failed"),
    };
    say(&format!(
        "{operations} operations, {failures} failed, {lost} lost{others}{mounts}"
    ));
}

/// Deaths that the kernel has skipped all programs for.
fn skipped_deaths(kernel: &Kernel, reader: &Reader) -> u64 {
    kernel
        .skipped_deaths()
        .saturating_sub(reader.told_by_twins())
}
