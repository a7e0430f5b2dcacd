//! What is recorded, on its way into a file.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nstrace_common::mount_ops::Call;

use super::{
    flight::{Flight, Trigger},
    parts::Parts,
    redact::{self, Room},
};
use crate::{
    cgroups::Cgroups,
    cmd::{WrongWords, file::Output, model::Model, output::say, trouble::unwritten},
    event::{Event, Operation, Warning},
    explain::Facts,
    filter::Filter,
    kernel::{clock, facts},
    names::Names,
    trace::{Head, Options, StateOf, Writer},
    writers::Ledger,
};

/// Where blocks go.
enum To {
    File(Output),
    Memory(Flight),
}

impl Write for To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            To::File(output) => output.write(bytes),
            To::Memory(flight) => flight.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            To::File(output) => output.flush(),
            To::Memory(flight) => flight.flush(),
        }
    }
}

/// Where a recording is to go, before it begins.
pub enum Place {
    /// Into one file.
    One(Output),
    /// Into one file after the other.
    Parts {
        /// The files.
        parts: Parts,
        /// The next is begun when one is so large,
        size: Option<u64>,
        /// or so old.
        age: Option<Duration>,
    },
    /// Into a file each time when there is a reason.
    Flight {
        /// The files.
        parts: Parts,
        /// So much of what was before.
        span: Duration,
    },
}

/// What has come of it.
pub struct Written {
    /// Bytes in files.
    pub bytes: u64,
    /// In how many, if they are numbered.
    pub files: Option<u64>,
}

/// What is recorded.
pub struct What {
    /// Which operations; of others, only what they did to the tree.
    pub filter: Filter,
    /// Without names of commands and paths.
    pub redacts: bool,
    /// Whether write access is watched.
    pub has_ledger: bool,
}

/// The recording, and how it goes.
pub struct Sink {
    what: What,
    /// Whether the filter leaves anything out.
    filters: bool,
    head: Head,
    writer: Writer<To>,
    /// Without what is set up when it begins.
    place: Rest,
    begun: Instant,
    /// Why no more is written.
    error: Option<anyhow::Error>,
    /// Those that were recorded.
    pub operations: u64,
    /// The same of mount operations.
    pub mount_operations: u64,
    /// Everything.
    pub events: u64,
    /// Bytes in files that are done.
    done: u64,
    /// Files of the flight recorder that could not be written.
    unwritten: u64,
    /// Bytes of what is known when a part begins.
    opening: u64,
    /// So many are written in all.
    most: Option<u64>,
    /// Whether they are.
    is_full: bool,
    /// What engines call containers, as far as it is written.
    names: Names,
    /// For what is said about failures, and for the filter.
    cgroups: Cgroups,
    /// Of the mounts whose write access is watched, as it is recorded; none if it is not.
    ledger: Option<Ledger>,
    rooms: (Room, Room),
}

/// What is needed of a place later on.
enum Rest {
    One,
    Parts {
        parts: Parts,
        size: Option<u64>,
        age: Option<Duration>,
    },
    Flight {
        parts: Parts,
        span: Duration,
        trigger: Trigger,
    },
}

impl Sink {
    /// Begins it.
    pub fn new(place: Place, what: What, head: Head) -> anyhow::Result<Sink> {
        let (to, mut place) = match place {
            Place::One(mut output) => {
                let begun = output.begin().map_err(unwritten);
                begun.with_context(|| output.name().to_owned())?;
                (To::File(output), Rest::One)
            }
            Place::Parts {
                mut parts,
                size,
                age,
            } => (To::File(parts.next()?), Rest::Parts { parts, size, age }),
            Place::Flight { parts, span } => {
                let trigger = Trigger::default();
                (
                    To::Memory(Flight::new(span)),
                    Rest::Flight {
                        parts,
                        span,
                        trigger,
                    },
                )
            }
        };
        let writer = begin(to, &head)?;
        if let Rest::Parts { parts, .. } = &mut place {
            parts.has_begun()?;
        }
        Ok(Sink {
            writer,
            ledger: what.has_ledger.then(Ledger::default),
            filters: what.filter.is_set(),
            what,
            head,
            place,
            begun: Instant::now(),
            error: None,
            operations: 0,
            mount_operations: 0,
            events: 0,
            done: 0,
            unwritten: 0,
            opening: 0,
            most: None,
            is_full: false,
            names: Names::default(),
            cgroups: Cgroups::default(),
            rooms: Default::default(),
        })
    }

    /// Sees to it that no more than so many bytes are written in all, and that no part is
    /// larger than it is to be: once what is known when it begins is in the first.
    pub fn limit(&mut self, model: &Model, most: Option<u64>) -> anyhow::Result<()> {
        let mut opening = Writer::new(io::sink(), &self.head, Options::default())?;
        opening.state(&state(model, &self.names, &self.ledger, &self.what))?;
        self.opening = opening.written().max(self.writer.written());
        self.most = most;
        let size = match &self.place {
            Rest::Parts { size, .. } => *size,
            Rest::One | Rest::Flight { .. } => None,
        };
        let least = 2 * self.opening;
        for (name, asked) in [("--max-size", most), ("--rotate", size)] {
            if let Some(asked) = asked.filter(|asked| *asked < least) {
                self.remove();
                bail!(WrongWords(format!(
                    "{name} of {asked} bytes is too small: what is known of this machine takes \
                     {} in each file: say {}K or more",
                    self.opening,
                    least.next_power_of_two() >> 10,
                )));
            }
        }
        self.writer.limit(self.room(0));
        Ok(())
    }

    /// The bytes that a part has at least: one that is small beside what is known when it
    /// begins would be nothing else.
    fn least(&self) -> u64 {
        const EVENTS: u64 = 8 << 10;
        self.opening + EVENTS.max(self.opening / 4)
    }

    /// The bytes that a part may have, if so many are in those before it.
    fn room(&self, done: u64) -> u64 {
        let own = match &self.place {
            Rest::Parts {
                size: Some(size), ..
            } => (*size).max(self.least()),
            Rest::Parts { .. } | Rest::One | Rest::Flight { .. } => u64::MAX,
        };
        own.min(self.most.map_or(u64::MAX, |most| most.saturating_sub(done)))
    }

    /// Nothing has come of it.
    fn remove(&self) {
        if let To::File(output) = self.writer.get_ref() {
            output.remove();
        }
    }

    /// Writes an event that comes after what the model knows, or what is wanted of it.
    pub fn event(&mut self, model: &Model, event: &Event) {
        if self.is_full {
            return;
        }
        self.events += 1;
        match event {
            Event::Op(op) => return self.operation(model, op),
            Event::Stall(op, _) => {
                if !self.what.filter.matches(event, &self.cgroups) {
                    return;
                }
                self.pull(op.op.name(), op.record.pid, "hangs");
            }
            Event::MountOp(op) => {
                if self.leaves_out(event) {
                    return;
                }
                if self.what.filter.matches(event, &self.cgroups) {
                    self.pull(op.call.name(), op.record.pid, ended(op.errno()));
                }
                self.put(model, event, None);
                // Copies for a new namespace are a part of what made it.
                let counts = op.call != Call::CopyMntNs && !self.is_full;
                self.mount_operations += u64::from(counts);
                return;
            }
            Event::MountBirths(_) if self.leaves_out(event) => return,
            Event::Cgroup(cgroup) => self.cgroups.made(cgroup),
            _ => {}
        }
        self.put(model, event, None);
    }

    /// The kernel has warned.
    pub fn warned(&mut self, warning: Warning) {
        let function = String::from_utf8_lossy(warning.function_name());
        self.wanted_now(&format!("the kernel warned in {function}"));
    }

    fn operation(&mut self, model: &Model, op: &Operation) {
        let event = Event::Op(*op);
        if self.filters && !self.what.filter.matches(&event, &self.cgroups) {
            if !self.flies() {
                // What failed has done nothing to the tree.
                if op.errno().is_none() {
                    let mut room = std::mem::take(&mut self.rooms.1);
                    self.put(model, &room.births(op), None);
                    self.rooms.1 = room;
                }
                return;
            }
        } else {
            self.pull(op.op.name(), op.record.pid, ended(op.errno()));
        }
        let facts = op.errno().map(|_| facts::facts(op, &self.cgroups));
        let facts = facts.map(|facts| match self.what.redacts {
            true => redact::facts(facts),
            false => facts,
        });
        self.put(model, &event, facts.as_ref());
        self.operations += u64::from(!self.is_full);
    }

    /// Whether what is filtered is the reason to write, not what is written.
    fn flies(&self) -> bool {
        matches!(self.place, Rest::Flight { .. })
    }

    /// Whether the filter keeps it out of what is written.
    fn leaves_out(&self, event: &Event) -> bool {
        self.filters && !self.flies() && !self.what.filter.matches(event, &self.cgroups)
    }

    /// An operation may be the reason to write.
    fn pull(&mut self, name: &str, pid: u32, what: &str) {
        if self.filters {
            self.wanted(|| format!("{name} of process {pid} {what}"));
        }
    }

    /// Something is a reason to write what has been.
    pub fn wanted(&mut self, why: impl FnOnce() -> String) {
        if let Rest::Flight { trigger, .. } = &mut self.place {
            trigger.pull(Instant::now(), why);
        }
    }

    /// The same at once, whatever was written just before.
    pub fn wanted_now(&mut self, why: &str) {
        if let Rest::Flight { trigger, .. } = &mut self.place {
            trigger.pull_now(Instant::now(), why.to_owned());
        }
    }

    fn put(&mut self, model: &Model, event: &Event, facts: Option<&Facts>) {
        let mut room = std::mem::take(&mut self.rooms.0);
        let event = match self.what.redacts {
            true => room.redacted(event),
            false => *event,
        };
        let write = |writer: &mut Writer<To>| {
            if let Some(facts) = facts {
                writer.facts(facts)?;
            }
            writer.event(&event)
        };
        self.with(write);
        if self.writer.is_full() && self.error.is_none() {
            // What comes next is of about that time.
            let time = self.writer.latest().max(model.world.now());
            self.error = self.turn(model, time).err();
            self.with(write);
        }
        // A part that has begun for want of room has the event, and not in its ledger.
        if let Some(ledger) = &mut self.ledger {
            ledger.event(&event);
        }
        self.rooms.0 = room;
    }

    /// Writes, unless that has failed before.
    fn with(&mut self, write: impl FnOnce(&mut Writer<To>) -> io::Result<()>) {
        if self.error.is_none() {
            self.error = write(&mut self.writer).err().map(unwritten);
        }
    }

    /// Writes out what has gathered, and the names that are new.
    pub fn flush(&mut self, names: &Names) {
        for (id, name) in names.iter() {
            if !self.what.redacts && self.names.get(id) != Some(name) {
                self.names.learn(id, name);
                self.with(|writer| writer.name(id, name));
            }
        }
        self.with(|writer| {
            writer.clock(clock::wall_offset_ns(), clock::monotonic_ns())?;
            writer.flush()
        });
    }

    /// The mounts whose write access is watched.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// Between events: begins the next file if it is time, notes what is known of the
    /// machine now and then, and writes what was waited for.
    pub fn tend(&mut self, model: &Model) {
        if self.error.is_none() {
            self.error = self.try_tend(model, false).err();
        }
    }

    /// Begins the next part, with what is known, if there may be one; `time` is
    /// `CLOCK_MONOTONIC`, in ns.
    fn turn(&mut self, model: &Model, time: u64) -> anyhow::Result<()> {
        let next = self.done + self.writer.written() + self.least();
        let parts = match &mut self.place {
            Rest::Parts { parts, .. } if self.most.is_none_or(|most| next <= most) => parts,
            _ => {
                self.is_full = self.writer.is_full();
                return Ok(());
            }
        };
        let head = Head {
            mono_ns: time,
            wall_offset_ns: clock::wall_offset_ns(),
            ..self.head.clone()
        };
        let mut next = begin(To::File(parts.next()?), &head)?;
        let state = state(model, &self.names, &self.ledger, &self.what);
        next.state(&state).map_err(unwritten)?;
        self.opening = next.written();
        if let Rest::Parts { parts, .. } = &mut self.place {
            parts.has_begun()?;
        }
        let mut last = std::mem::replace(&mut self.writer, next);
        // One ends when the other begins.
        last.finish(time).map_err(unwritten)?;
        self.done += last.written();
        self.begun = Instant::now();
        self.writer.limit(self.room(self.done));
        Ok(())
    }

    fn try_tend(&mut self, model: &Model, at_end: bool) -> anyhow::Result<()> {
        let now = Instant::now();
        let is_old = match &self.place {
            Rest::Parts { age, .. } => age.is_some_and(|age| now - self.begun >= age),
            Rest::One | Rest::Flight { .. } => false,
        };
        // What is new of names and clocks may be what had no room.
        if is_old || self.writer.is_full() && !self.is_full {
            return self.turn(model, clock::monotonic_ns());
        }
        let state = state(model, &self.names, &self.ledger, &self.what);
        match &mut self.place {
            Rest::One | Rest::Parts { .. } => {
                if self.writer.wants_state() {
                    self.writer.state(&state).map_err(unwritten)?;
                }
            }
            Rest::Flight {
                parts,
                span,
                trigger,
            } => {
                if let Some(why) = trigger.take(now, at_end, *span) {
                    self.writer.flush().map_err(unwritten)?;
                    if let To::Memory(flight) = self.writer.get_ref() {
                        // It flies on: the next time there may be room.
                        match write_out(flight, parts, now, &why) {
                            Ok(written) => self.done += written,
                            Err(error) => {
                                self.unwritten += 1;
                                say(&format!("{error:#} ({why}: not written)"));
                            }
                        }
                    }
                }
                let is_due = match self.writer.get_ref() {
                    To::Memory(flight) => flight.is_due(now),
                    To::File(_) => false,
                };
                if is_due {
                    self.writer.flush().map_err(unwritten)?;
                    let head = Head {
                        mono_ns: clock::monotonic_ns(),
                        wall_offset_ns: clock::wall_offset_ns(),
                        ..self.head.clone()
                    };
                    if let To::Memory(flight) = self.writer.get_mut() {
                        flight.begin(now, head);
                    }
                    self.writer.state(&state).map_err(unwritten)?;
                }
            }
        }
        Ok(())
    }

    /// Bytes in files.
    pub fn written(&self) -> u64 {
        match self.flies() {
            true => self.done,
            false => self.done + self.writer.written(),
        }
    }

    /// Whether no more is written, because there is enough or because that has failed.
    pub fn has_ended(&self) -> bool {
        self.is_full || self.error.is_some()
    }

    /// Ends it; says what was written. What is behind the last whole block, because there was
    /// no room for more, is cut off.
    pub fn finish(mut self, model: &Model, names: &Names) -> anyhow::Result<Written> {
        self.flush(names);
        if self.flies() && self.error.is_none() {
            self.error = self.try_tend(model, true).err();
        }
        let ended = match self.error.take() {
            None => {
                // It is not known what comes after the last that had room.
                let end = match self.is_full {
                    true => 0,
                    false => clock::monotonic_ns(),
                };
                let ended = self.writer.finish(end);
                ended.map_err(unwritten)
            }
            Some(error) => Err(error),
        };
        let whole = self.writer.written();
        let written = Written {
            bytes: self.written(),
            files: match &self.place {
                Rest::One => None,
                Rest::Parts { parts, .. } | Rest::Flight { parts, .. } => Some(parts.begun),
            },
        };
        let To::File(output) = self.writer.into_inner() else {
            if self.unwritten > 0 {
                bail!(
                    "{} of its files could not be written: see above",
                    self.unwritten
                );
            }
            return ended.map(|()| written);
        };
        let name = output.name();
        if ended.is_err() {
            output.cut(whole);
        }
        ended.with_context(|| format!("{name}: the recording ends after {whole} bytes"))?;
        Ok(written)
    }
}

/// Writes the last while into the next file; says how many bytes.
fn write_out(flight: &Flight, parts: &mut Parts, now: Instant, why: &str) -> anyhow::Result<u64> {
    let mut output = parts.next()?;
    let name = output.name().to_owned();
    let written = match flight.write_to(&mut output, clock::monotonic_ns()) {
        Ok(written) => written,
        Err(error) => {
            output.remove();
            return Err(unwritten(error).context(name));
        }
    };
    let seconds = flight.age(now).as_secs_f64();
    say(&format!("{name}: {written} bytes, {seconds:.1} s: {why}"));
    parts.has_begun()?;
    Ok(written)
}

fn ended(errno: Option<i32>) -> &'static str {
    match errno {
        Some(_) => "failed",
        None => "is done",
    }
}

/// What is known, as far as it is wanted.
fn state<'a>(
    model: &'a Model,
    names: &'a Names,
    ledger: &'a Option<Ledger>,
    what: &What,
) -> StateOf<'a> {
    StateOf {
        names,
        writers: ledger.as_ref(),
        redacts: what.redacts,
        ..model.state()
    }
}

fn begin(to: To, head: &Head) -> anyhow::Result<Writer<To>> {
    let name = match &to {
        To::File(output) => output.name().to_owned(),
        To::Memory(_) => String::new(),
    };
    let writer = Writer::new(to, head, Options::default());
    let mut writer = writer.map_err(unwritten).context(name)?;
    // The first look is a part, and is forgotten: behind it nothing of a later one's state would
    // be read.
    if let To::Memory(flight) = writer.get_mut() {
        flight.begin(Instant::now(), head.clone());
    }
    Ok(writer)
}
