//! `nstrace record`: what happens, into a file.

mod flight;
mod ledger;
mod parts;
mod redact;
mod sink;

use std::{
    cell::RefCell,
    fs,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nstrace_common::config::Config;
use tokio::signal::unix::{SignalKind, signal};

pub use self::redact::Room;
use self::{
    ledger::Writers,
    parts::Parts,
    sink::{Place, Sink, What, Written},
};
use super::{
    WrongWords,
    child::Child,
    file::Output,
    live::Live,
    model::Model,
    output::{say, say_skipped},
    signals::{Signals, end_of},
    trouble::name,
    writers,
};
use crate::{
    cli::{Record, WatchedMounts},
    engines::{Engines, Feed},
    event::Event,
    kernel::{
        clock,
        kmsg::{self, Log, Warned},
        load::{Kernel, Outcome},
        plan::program_name,
        stall::{self, Stalls},
        writers::Wanted,
    },
    names::Names,
    trace::Head,
    world,
};

/// Records until a signal, until the command ends, or until there is enough.
pub fn run(args: Record) -> anyhow::Result<ExitCode> {
    args.filters.check(Some(args.mounts)).map_err(WrongWords)?;
    let place = place(&args)?;
    // What the command prints is no part of a recording.
    let child = match args.output.as_os_str() == "-" {
        true => Child::with_output(&args.run, libc::STDERR_FILENO)?,
        false => Child::of(&args.run)?,
    };
    let wanted = match args.writers.is_empty() {
        true => None,
        false => Some(writers::wanted(&WatchedMounts::of(&args.writers))?),
    };
    super::block_on(follow(args, place, wanted, child))
}

async fn follow(
    args: Record,
    place: Place,
    wanted: Option<Wanted>,
    mut child: Option<Child>,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut asked_for = signal(SignalKind::user_defined1()).context("signals cannot be caught")?;
    let has_ledger = wanted.is_some();
    let sink = Rc::new(RefCell::new(None));
    let own = Rc::clone(&sink);
    let mut stalls = None;
    let begin = |kernel: &mut Kernel| {
        stalls = Stalls::new(&mut kernel.bpf, args.stall)?;
        let what = What {
            filter: args.filters.filter(),
            redacts: args.redact,
            has_ledger,
        };
        *own.borrow_mut() = Some(Sink::new(place, what, head(&args, kernel))?);
        let tap = move |model: &Model, event: &Event| {
            if let Some(sink) = &mut *own.borrow_mut() {
                sink.event(model, event);
            }
        };
        Ok(Some(Box::new(tap) as _))
    };
    let config = Config {
        mounts: u32::from(args.mounts),
        ..Config::TREE
    };
    let mut live = Live::start_with(&args.attach, config, has_ledger, begin, &mut |_, _, _| {})?;
    let load = |wanted| Writers::load(&args, wanted);
    let mut writers = wanted.as_ref().map(load).transpose()?;
    live.model.world.set_options(world::Options {
        tells_tasks: false,
        ..live.model.world.options()
    });
    let with = |act: &mut dyn FnMut(&mut Sink)| sink.borrow_mut().as_mut().map(act);
    let note = |live: &mut Live, warned: &Warned| {
        live.model.note(&Event::Warning(warned.event()));
        with(&mut |sink| sink.warned(warned.event()));
    };
    let mut names = Names::default();
    let mut limited = None;
    with(&mut |sink| {
        sink.tend(&live.model);
        sink.flush(&names);
        limited = Some(sink.limit(&live.model, args.max_size));
    });
    limited.transpose()?;
    // Who may not read it is told of no warnings.
    let mut warnings = Log::open().ok();
    say("ready");
    if let Some(child) = &mut child {
        child.start()?;
    }
    let began = Instant::now();
    let mut feed = Feed::start(Engines::new());
    let mut progress = Progress::new(began);
    let mut tick = tokio::time::interval(TICK.min(args.flush.max(TICK_MIN)));
    let mut look = tokio::time::interval(stall::interval(args.stall));
    let (mut status, mut asked, mut flushed) = (None, false, Instant::now());
    while status.is_none() {
        tokio::select! {
            waited = live.wait() => {
                waited?;
                read(&mut live, &mut writers)?;
            }
            waited = Writers::wait(&mut writers) => {
                waited?;
                read(&mut live, &mut writers)?;
            }
            () = feed.next(&mut names) => {
                feed.drain(&mut names);
            }
            _ = tick.tick() => {
                // What of the ledger was too late at the last reading wakes nobody.
                live.check_beside(&mut beside(&mut writers), &mut |_, _, _| {})?;
                want_names(&mut feed, &live.model, &names);
            }
            _ = look.tick() => {
                if let Some(stalls) = &mut stalls {
                    stalls.look(|event| live.model.note(&event))?;
                }
            }
            _ = asked_for.recv() => {
                with(&mut |sink| sink.wanted_now("SIGUSR1"));
            }
            warned = kmsg::mount_warning(&mut warnings) => {
                read(&mut live, &mut writers)?;
                note(&mut live, &warned);
            }
            end = signals.next() => status = end_of(end, child.as_ref(), &mut asked)?,
        }
        let is_due = flushed.elapsed() >= args.flush;
        if is_due {
            flushed = Instant::now();
            read(&mut live, &mut writers)?;
            if let Some(writers) = &mut writers {
                writers.balances(&mut live.model);
                writers.suspect(&mut live.model, &sink);
            }
        }
        with(&mut |sink| {
            sink.tend(&live.model);
            if is_due {
                sink.flush(&names);
            }
            progress.show(sink, &live.model);
            let is_long = args.duration.is_some_and(|most| began.elapsed() >= most);
            if is_long || sink.has_ended() {
                status = status.or(Some(ExitCode::SUCCESS));
            }
        });
    }
    let seconds = began.elapsed().as_secs_f64();
    progress.end();
    if let Some(child) = child {
        let (mut beside, watcher) = (beside(&mut writers), &mut |_: &_, _: &_, _| {});
        live.reap(child.pid, &mut beside, watcher).await?;
    }
    read(&mut live, &mut writers)?;
    let warned = kmsg::rest(&mut warnings);
    warned.iter().for_each(|warned| note(&mut live, warned));
    let skipped = live.skipped_runs();
    let mut model = live.end(&mut |_, _, _| {})?;
    Writers::end(&mut writers, &mut model, &sink)?;
    let sink = sink.borrow_mut().take().context("nothing was begun")?;
    let (operations, events) = (sink.operations, sink.events);
    let mounts = match args.mounts {
        true => format!("{} mount operations, ", sink.mount_operations),
        false => String::new(),
    };
    let Written { bytes, files } = sink.finish(&model, &names)?;
    let lost = model.lost;
    let files = match files {
        None => String::new(),
        Some(1) => " in 1 file".to_owned(),
        Some(files) => format!(" in {files} files"),
    };
    say_skipped(skipped);
    let name = name(&args.output, "output");
    say(&format!(
        "{name}{files}: {operations} operations, {mounts}{events} events, {bytes} bytes in \
         {seconds:.1} s, {lost} lost"
    ));
    Ok(status.unwrap_or(ExitCode::SUCCESS))
}

/// Reads what has happened, and in the order of time what the ledger says: a mount dies after
/// the operation that took it away, and before the next that has its number.
fn read(live: &mut Live, writers: &mut Option<Writers>) -> anyhow::Result<()> {
    live.read_beside(&mut beside(writers), &mut |_, _, _| {})
}

/// Reads the ledger up to a time.
fn beside(writers: &mut Option<Writers>) -> impl FnMut(&mut Model, u64) -> anyhow::Result<()> + '_ {
    |model, until| Writers::read(writers, until, model)
}

/// Where it goes, as far as that can be seen before anything is traced.
fn place(args: &Record) -> anyhow::Result<Place> {
    let parts = || Parts::new(&args.output, args.keep);
    if let Some(span) = args.flight {
        return Ok(Place::Flight {
            parts: parts()?,
            span,
        });
    }
    if args.rotate.is_empty() {
        let output = Output::open(&args.output, "a recording")?;
        output.lock()?;
        return Ok(Place::One(output));
    }
    let sizes = args.rotate.iter().filter_map(|rotate| rotate.size());
    let ages = args.rotate.iter().filter_map(|rotate| rotate.age());
    Ok(Place::Parts {
        parts: parts()?,
        size: sizes.min(),
        age: ages.min(),
    })
}

/// How often it is looked for what cannot be waited for.
const TICK: Duration = Duration::from_millis(250);
const TICK_MIN: Duration = Duration::from_millis(10);

/// Asks for the names of the containers that there are.
fn want_names(feed: &mut Feed, model: &Model, names: &Names) {
    for (_, task) in model.world.tasks() {
        if let Some(id) = model.cgroups.container(task.cgroup)
            && names.get(id).is_none()
        {
            feed.want(id);
        }
    }
}

/// Where it is recorded, and how.
fn head(args: &Record, kernel: &Kernel) -> Head {
    let read = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    let attached = kernel.outcomes.iter().filter_map(|(planned, outcome)| {
        let Outcome::Attached(way, _) = outcome else {
            return None;
        };
        Some(program_name(planned.probe, *way))
    });
    Head {
        version: 0,
        nstrace: env!("CARGO_PKG_VERSION").to_owned(),
        host: read("/proc/sys/kernel/hostname"),
        kernel: read("/proc/sys/kernel/osrelease"),
        arch: std::env::consts::ARCH.to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        mono_ns: clock::monotonic_ns(),
        wall_offset_ns: clock::wall_offset_ns(),
        probes: attached.collect(),
        command: args
            .run
            .iter()
            .filter(|_| !args.redact)
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
    }
}

/// A line on the terminal, if there is one, that says how it goes.
struct Progress {
    is_shown: bool,
    began: Instant,
    shown: Instant,
}

impl Progress {
    fn new(began: Instant) -> Progress {
        Progress {
            is_shown: io::stderr().is_terminal(),
            began,
            shown: began,
        }
    }

    fn show(&mut self, recording: &Sink, model: &Model) {
        const OFTEN: Duration = Duration::from_secs(1);
        if !self.is_shown || self.shown.elapsed() < OFTEN {
            return;
        }
        self.shown = Instant::now();
        let (seconds, written) = (self.began.elapsed().as_secs(), recording.written());
        let (operations, lost) = (recording.operations, model.lost);
        // Who closed it does not want to hear.
        let _ = write!(
            io::stderr(),
            "\r{seconds} s: {operations} operations, {lost} lost, {written} bytes\x1b[K"
        );
    }

    fn end(&self) {
        if self.is_shown {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
