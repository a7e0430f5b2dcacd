//! `nstrace record`: what happens, into a file.

use std::{
    cell::RefCell,
    fs,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use foldhash::HashSet;

use super::{
    child::Child,
    file::Output,
    live::{Live, Model},
    output::say,
    signals::{Signals, end_of},
};
use crate::{
    cgroups::Cgroups,
    cli::Record,
    engines::{Engines, Feed},
    event::Event,
    kernel::{
        clock, facts,
        load::{Kernel, Outcome},
        plan::program_name,
        stall::Stalls,
    },
    names::Names,
    trace::{Head, Options, Writer},
};

/// Records until a signal, until the command ends, or until there is enough.
pub fn run(args: Record) -> anyhow::Result<ExitCode> {
    let output = Output::open(&args.output, "a recording")?;
    let child = Child::of(&args.run)?;
    super::block_on(follow(args, output, child))
}

/// The recording, and how it goes.
struct Recording {
    writer: Option<Writer<Output>>,
    /// Why no more is written.
    error: Option<io::Error>,
    operations: u64,
    events: u64,
    named: HashSet<Box<[u8]>>,
    /// For what is said about failures.
    cgroups: Cgroups,
}

impl Recording {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Op(op) => {
                self.operations += 1;
                if op.errno().is_some() {
                    let facts = facts::facts(op, &self.cgroups);
                    self.with(|writer| {
                        writer.facts(&facts);
                        Ok(())
                    });
                }
            }
            Event::Cgroup(cgroup) => self.cgroups.made(cgroup),
            _ => {}
        }
        self.events += 1;
        self.with(|writer| writer.event(event));
    }

    /// Writes, unless that has failed before.
    fn with(&mut self, write: impl FnOnce(&mut Writer<Output>) -> io::Result<()>) {
        if self.error.is_none()
            && let Some(writer) = &mut self.writer
        {
            self.error = write(writer).err();
        }
    }

    /// Writes out what has gathered, and the names that are new.
    fn flush(&mut self, names: &Names) {
        for (id, name) in names.iter() {
            if self.named.insert(id.into()) {
                self.with(|writer| writer.name(id, name));
            }
        }
        self.with(|writer| {
            writer.clock(clock::wall_offset_ns())?;
            writer.flush()
        });
    }

    fn written(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::written)
    }

    /// Ends it. What is behind the last whole block, because there was no room for more, is
    /// cut off.
    fn finish(&mut self) -> anyhow::Result<u64> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(0);
        };
        let ended = match self.error.take() {
            None => writer.finish(),
            Some(error) => Err(error),
        };
        let written = writer.written();
        let output = writer.into_inner();
        let name = output.name();
        if ended.is_err() {
            output.cut(written);
        }
        ended.with_context(|| format!("{name}: the recording ends after {written} bytes"))?;
        Ok(written)
    }
}

async fn follow(
    args: Record,
    output: Output,
    mut child: Option<Child>,
) -> anyhow::Result<ExitCode> {
    let name = output.name().to_owned();
    let mut signals = Signals::new()?;
    let recording = Rc::new(RefCell::new(Recording {
        writer: None,
        error: None,
        operations: 0,
        events: 0,
        named: HashSet::default(),
        cgroups: Cgroups::default(),
    }));
    let own = Rc::clone(&recording);
    let mut stalls = None;
    let begin = |kernel: &mut Kernel| {
        if !args.stall.is_zero() {
            stalls = Some(Stalls::new(&mut kernel.bpf, args.stall)?);
        }
        let (head, mut output) = (head(&args, kernel), output);
        output.begin().with_context(|| name.clone())?;
        let writer = Writer::new(output, &head, Options::default());
        own.borrow_mut().writer = Some(writer.with_context(|| name.clone())?);
        let tap = move |event: &Event| own.borrow_mut().event(event);
        Ok(Some(Box::new(tap) as _))
    };
    let mut live = Live::start_with(&args.attach, begin, &mut |_, _, _| {})?;
    recording.borrow_mut().flush(&Names::default());
    say("ready");
    if let Some(child) = &mut child {
        child.start()?;
    }
    let began = Instant::now();
    let mut feed = Feed::start(Engines::new());
    let mut names = Names::default();
    let mut progress = Progress::new(began);
    let mut tick = tokio::time::interval(TICK.min(args.flush.max(TICK_MIN)));
    let interval = stalls.as_ref().map_or(NEVER, Stalls::interval);
    let mut look = tokio::time::interval(interval);
    let (mut status, mut asked, mut flushed) = (None, false, Instant::now());
    while status.is_none() {
        tokio::select! {
            waited = live.wait() => {
                waited?;
                live.read(&mut |_, _, _| {})?;
            }
            () = feed.next(&mut names) => {
                feed.drain(&mut names);
            }
            _ = tick.tick() => {
                live.check(&mut |_, _, _| {})?;
                want_names(&mut feed, &live.model, &names);
            }
            _ = look.tick() => {
                if let Some(stalls) = &mut stalls {
                    stalls.look(|event| recording.borrow_mut().event(&event))?;
                }
            }
            end = signals.next() => status = end_of(end, child.as_ref(), &mut asked)?,
        }
        let mut recording = recording.borrow_mut();
        if flushed.elapsed() >= args.flush {
            flushed = Instant::now();
            recording.flush(&names);
        }
        progress.show(&recording, &live.model);
        let is_long = args.duration.is_some_and(|most| began.elapsed() >= most);
        let is_large = args
            .max_size
            .is_some_and(|most| recording.written() >= most.into());
        if is_long || is_large || recording.error.is_some() {
            status = status.or(Some(ExitCode::SUCCESS));
        }
    }
    progress.end();
    if let Some(child) = child {
        live.reap(child.pid, &mut |_, _, _| {}).await?;
    }
    let model = live.end(&mut |_, _, _| {})?;
    let mut recording = recording.borrow_mut();
    recording.flush(&names);
    let written = recording.finish()?;
    let Recording {
        operations, events, ..
    } = *recording;
    let (seconds, lost) = (began.elapsed().as_secs_f64(), model.lost);
    say(&format!(
        "{name}: {operations} operations, {events} events, {written} bytes in {seconds:.1} s, \
         {lost} lost"
    ));
    Ok(status.unwrap_or(ExitCode::SUCCESS))
}

/// How often it is looked for what cannot be waited for.
const TICK: Duration = Duration::from_millis(250);
const NEVER: Duration = Duration::from_secs(1 << 30);
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
        Some(program_name(planned.probe(), *way))
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

    fn show(&mut self, recording: &Recording, model: &Model) {
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
