//! `nstrace cut` and `nstrace cat`: parts of recordings, and several as one.

use std::{io, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};

use super::{
    WrongWords,
    file::Output,
    output::say,
    record::Room,
    recording::{self, Span, Spanned},
    trouble::{name, unread, unwritten},
};
use crate::{
    cli::{Cat, Cut},
    event::{Event, Lost},
    explain::Facts,
    trace::{Entry, Gap, Head, Item, Options, State, TraceError, Writer},
};

/// Writes a part of a recording, as a recording.
pub fn cut(args: &Cut) -> anyhow::Result<ExitCode> {
    let output = Output::open_whole(&args.output, "a recording")?;
    output.is_not(&args.file)?;
    let mut copy = Copy::new(output);
    let (mut part, mut head) = (None::<Span>, Head::default());
    let (from, until) = (args.from.as_ref(), args.to.as_ref());
    // What stands late is of the part before, and known when this begins.
    let from_file = from.filter(|_| !recording::is_pipe(&args.file));
    if let Some(from) = from_file {
        recording::look_until(&args.file, from, &mut |item| copy.take(item))?;
    }
    let (mut is_after, mut clock) = (false, None);
    recording::read_span(&args.file, from, until, &mut |item| {
        let item = match item {
            Spanned::Head(new, span) => {
                (part, head) = (Some(span), new.clone());
                if from_file.is_some() {
                    return copy.begin_at(&head, span);
                }
                copy.known.wall_offset_ns = new.wall_offset_ns;
                return Ok(());
            }
            Spanned::Item(item) => item,
        };
        let time = match item {
            Item::Entry(Entry::Event(event)) => event.time(),
            Item::State(state) => Some(state.world.now()),
            Item::Gap(Gap::Missing(lost)) => Some(lost.time),
            _ => None,
        };
        if let (Some(span), Some(_)) = (part, from_file) {
            is_after |= time.is_some_and(|time| time > span.from);
            let is_known = time.map_or(!is_after, |time| time <= span.from);
            return match item {
                Item::Entry(Entry::Facts(_)) | Item::End(_) => copy.take(item),
                Item::Entry(Entry::Clock(offset)) if is_known => {
                    clock = Some(*offset);
                    Ok(())
                }
                _ if is_known => Ok(()),
                _ => {
                    if let Some(offset) = clock.take() {
                        copy.clock(offset, time.unwrap_or(0))?;
                    }
                    copy.take(item)
                }
            };
        }
        if let Some(span) = part
            && !copy.is_begun()
            && time.is_some_and(|time| time > span.from)
        {
            copy.begin_at(&head, span)?;
        }
        copy.take(item)
    })?;
    if let Some(span) = part {
        if !copy.is_begun() {
            copy.begin_at(&head, span)?;
        }
        if args.to.is_some() {
            copy.end = span.until;
        }
    }
    copy.finish()
}

/// Writes recordings of one boot behind each other, as one.
pub fn cat(args: &Cat) -> anyhow::Result<ExitCode> {
    let pipes = args.files.iter().filter(|file| *file == Path::new("-"));
    if pipes.count() > 1 {
        bail!(WrongWords(
            "standard input can be read once: say a file for the others".to_owned()
        ));
    }
    // A part of which nothing was written any more, by who was killed for instance.
    let is_empty = |file: &Path| {
        file.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.len() == 0)
    };
    let (empty, files): (Vec<_>, Vec<_>) = args.files.iter().partition(|file| is_empty(file));
    if files.is_empty()
        && let Some(file) = empty.first()
    {
        return Err(unread(TraceError::Empty).context(name(file, "input")));
    }
    for file in empty {
        say(&format!("{}: it is empty, and left out", file.display()));
    }
    // Before anything is written.
    let mut before: Option<(Head, u64)> = None;
    for file in &files {
        let Some((head, end)) = recording::span(file)? else {
            continue;
        };
        if let Some((last, last_end)) = &before {
            let name = file.display();
            if last.boot_id != head.boot_id {
                bail!("{name}: it is of another machine, or of another boot of it");
            }
            if head.mono_ns < *last_end {
                bail!(
                    "{name}: it begins before the one before it ends: say them in order (what \
                     --flight wrote overlaps, and cannot be joined)"
                );
            }
        }
        before = Some((head, end));
    }
    let output = Output::open_whole(&args.output, "a recording")?;
    args.files.iter().try_for_each(|file| output.is_not(file))?;
    let mut copy = Copy::new(output);
    for file in files {
        let mut is_begun = false;
        recording::read(file, &mut |item| {
            let head = match item {
                Item::Head(head) => Some((**head).clone()),
                Item::Damage(_) | Item::Gap(_) => None,
                // It has been damaged.
                _ if !is_begun => {
                    let found = match recording::is_pipe(file) {
                        true => None,
                        false => recording::span(file)?,
                    };
                    let Some((head, _)) = found else {
                        bail!("{}: {}", name(file, "input"), recording::HEADLESS);
                    };
                    Some(head)
                }
                _ => None,
            };
            if let Some(head) = head {
                is_begun = true;
                match copy.is_begun() {
                    false => copy.begin(&head)?,
                    true => {
                        copy.losses(copy.end == head.mono_ns)?;
                        copy.head = head.clone();
                        copy.next = Some(head);
                    }
                }
            }
            match item {
                Item::Head(_) => Ok(()),
                item => copy.take(item),
            }
        })?;
    }
    copy.finish()
}

/// Reads and writes again.
struct Copy {
    output: Option<Output>,
    name: String,
    writer: Option<Writer<Output>>,
    /// What is known up to here.
    known: State,
    /// What the machine said about failures.
    facts: Option<Facts>,
    /// Of what is read.
    head: Head,
    /// The head of what comes next, if it is not known yet whether that goes on where the
    /// last ended.
    next: Option<Head>,
    /// What is missing before that.
    missing: Option<Lost>,
    /// Losses that went on when the part ended. They are told in the next, if that begins then.
    cut_losses: Vec<Lost>,
    /// What is of that time or before is not in the part.
    from: u64,
    /// When it ends.
    end: u64,
}

impl Copy {
    fn new(output: Output) -> Copy {
        Copy {
            name: output.name().to_owned(),
            output: Some(output),
            writer: None,
            known: State::default(),
            facts: None,
            head: Head::default(),
            next: None,
            missing: None,
            cut_losses: Vec::new(),
            from: 0,
            end: 0,
        }
    }

    fn is_begun(&self) -> bool {
        self.writer.is_some()
    }

    fn begin(&mut self, head: &Head) -> anyhow::Result<()> {
        let name = self.name.clone();
        let begun = self.output.take().map(|mut output| {
            output.begin()?;
            Writer::new(output, head, Options::default())
        });
        self.writer = begun.transpose().map_err(unwritten).context(name)?;
        self.known.wall_offset_ns = head.wall_offset_ns;
        (self.head, self.next) = (head.clone(), None);
        self.cut_losses.clear();
        Ok(())
    }

    /// In the middle, with all that is known there.
    fn begin_at(&mut self, head: &Head, span: Span) -> anyhow::Result<()> {
        let mono_ns = span.from;
        self.known.wall_offset_ns = span.offset_ns(0, self.known.wall_offset_ns);
        let head = Head {
            mono_ns,
            wall_offset_ns: self.known.wall_offset_ns,
            ..head.clone()
        };
        self.begin(&head)?;
        self.from = mono_ns;
        let state = self.known.get();
        write(&mut self.writer, &self.name, |writer| writer.state(&state))
    }

    fn take(&mut self, item: &mut Item) -> anyhow::Result<()> {
        match item {
            Item::State(state) => return self.state(std::mem::take(&mut **state)),
            // Of what goes on behind the end of a part.
            Item::Entry(Entry::Event(Event::Lost(lost))) if lost.count == 0 => {
                self.cut_losses.push(*lost);
            }
            Item::Entry(Entry::Event(event)) => {
                self.goes_on()?;
                return self.event(event);
            }
            Item::Entry(Entry::Name { id, name }) => {
                self.known.names.learn(id, name);
                return write(&mut self.writer, &self.name, |writer| writer.name(id, name));
            }
            Item::Entry(Entry::Clock(offset)) => return self.clock(*offset, 0),
            Item::Entry(Entry::Facts(facts)) => self.facts = Some(std::mem::take(facts)),
            // What is missing here is missing there, and a state that makes it good is read.
            Item::Gap(Gap::Missing(lost)) => self.misses(*lost),
            Item::Gap(Gap::Boot) => self.known.writers = None,
            Item::End(time) => self.end = *time,
            Item::Head(_) | Item::Damage(_) | Item::Gap(Gap::Earlier) => {}
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
        // It stands late, and belongs to what was cut off, but for what it made.
        if let Event::Op(op) = event
            && event.time().is_some_and(|time| time <= self.from)
        {
            let mut room = Room::default();
            return match op.errno() {
                None => self.put(&room.births(op)),
                Some(_) => Ok(()),
            };
        }
        self.put(event)
    }

    fn put(&mut self, event: &Event) -> anyhow::Result<()> {
        let Copy {
            writer,
            name,
            known,
            facts,
            ..
        } = self;
        write(writer, name, |writer| {
            if let (Event::Op(op), Some(facts)) = (event, facts)
                && op.errno().is_some()
            {
                writer.facts(facts)?;
            }
            writer.event(event)
        })?;
        known.apply(event, &mut Vec::new());
        write(writer, name, |writer| match writer.wants_state() {
            true => writer.state(&known.get()),
            false => Ok(()),
        })
    }

    /// That is to be added for the time of day from that time on, or from what came last.
    fn clock(&mut self, offset_ns: i64, time: u64) -> anyhow::Result<()> {
        self.known.wall_offset_ns = offset_ns;
        write(&mut self.writer, &self.name, |writer| {
            writer.clock(offset_ns, time)
        })
    }

    /// Something is missing up to what comes next.
    fn misses(&mut self, lost: Lost) {
        let since = lost.since.max(self.from);
        self.missing = Some(Lost { since, ..lost });
        self.next.get_or_insert_with(|| Head {
            mono_ns: lost.time,
            wall_offset_ns: self.known.wall_offset_ns,
            ..self.head.clone()
        });
    }

    /// What is known where the next begins. If that is what is known already, it goes on
    /// where the last ended.
    fn state(&mut self, state: State) -> anyhow::Result<()> {
        let is_same = |head: &mut Head| {
            head.mono_ns == self.end || state.world.now() == self.known.world.now()
        };
        if let Some(head) = self.next.take_if(is_same) {
            let offset = head.wall_offset_ns;
            self.known.wall_offset_ns = offset;
            return write(&mut self.writer, &self.name, |writer| {
                writer.clock(offset, 0)
            });
        }
        let next = self.next.take();
        let writers = self.known.writers.take();
        self.known = state;
        // What was recorded by an earlier nstrace has it in its events alone.
        self.known.writers = self.known.writers.take().or(writers);
        let known = self.known.get();
        write(&mut self.writer, &self.name, |writer| {
            if let Some(head) = &next {
                writer.head(head)?;
            }
            writer.state(&known)
        })
    }

    /// What comes next does not go on where the last ended.
    fn goes_on(&mut self) -> anyhow::Result<()> {
        match self.next.take() {
            None => Ok(()),
            Some(head) => write(&mut self.writer, &self.name, |writer| writer.head(&head)),
        }
    }

    /// What was lost when a part ended, unless what comes next tells it.
    fn losses(&mut self, are_told: bool) -> anyhow::Result<()> {
        let mut losses = std::mem::take(&mut self.cut_losses).into_iter();
        losses.try_for_each(|lost| match are_told {
            true => Ok(()),
            false => self.put(&Event::Lost(lost)),
        })
    }

    fn finish(mut self) -> anyhow::Result<ExitCode> {
        self.losses(false)?;
        // Nothing comes next that it would be missing before.
        if let (Some(_), Some(lost)) = (self.next.take(), self.missing.take()) {
            self.put(&Event::Lost(lost))?;
        }
        let end = self.end;
        write(&mut self.writer, &self.name, |writer| writer.finish(end))?;
        let Some(writer) = self.writer else {
            bail!("{}: there is nothing to be written", self.name);
        };
        let written = writer.written();
        let output = writer.into_inner();
        let is_file = output.is_file();
        let finished = output.finish().map_err(unwritten);
        finished.with_context(|| self.name.clone())?;
        if is_file {
            say(&format!("{}: {written} bytes", self.name));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes, if that has begun.
fn write(
    writer: &mut Option<Writer<Output>>,
    name: &str,
    write: impl FnOnce(&mut Writer<Output>) -> io::Result<()>,
) -> anyhow::Result<()> {
    match writer {
        Some(writer) => write(writer)
            .map_err(unwritten)
            .with_context(|| name.to_owned()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        cmd::model::Model,
        event::{Now, SnapshotEnd, Unseen},
        moment::Moment,
        trace::{Reader, StateOf},
        world::World,
    };

    const S: u64 = 1_000_000_000;
    const DAY: i64 = 24 * 3600 * S as i64;

    /// From a second to another, with an event in each, and what is known at the beginning; in
    /// that second the clock is set a day ahead.
    fn recording(from: u64, until: u64, set: Option<u64>) -> Vec<u8> {
        let head = Head {
            boot_id: "boot".to_owned(),
            mono_ns: from * S,
            ..Head::default()
        };
        let mut writer = Writer::new(Vec::new(), &head, Options::default()).unwrap();
        let mut world = World::default();
        for second in from..=until {
            if set == Some(second) {
                writer.clock(DAY, second * S + S / 4).unwrap();
                continue;
            }
            let events = [
                Event::SnapshotBegin(Now { time: second * S }),
                Event::SnapshotEnd(SnapshotEnd {
                    time: second * S,
                    unseen: Unseen::default(),
                }),
            ];
            for event in &events {
                world.apply(event, &mut Vec::new());
                if second != from {
                    writer.event(event).unwrap();
                }
            }
            if second == from {
                let state = State {
                    world: world.clone(),
                    ..State::default()
                };
                let known: StateOf = state.get();
                writer.state(&known).unwrap();
            }
            writer.flush().unwrap();
        }
        writer.finish(until * S).unwrap();
        writer.into_inner()
    }

    fn moment(text: &str) -> Moment {
        text.parse().unwrap()
    }

    fn cut_out(path: &Path, to: &Path, words: &[&str]) -> Vec<Lost> {
        let [file, out] = [path, to].map(|path| path.to_str().unwrap());
        let all = [&["nstrace", "cut", file, "-o", out], words].concat();
        let Some(Command::Cut(args)) = Cli::try_parse_from(all).unwrap().command else {
            panic!("another command");
        };
        cut(&args).unwrap();
        let bytes = fs::read(to).unwrap();
        let mut reader = Reader::new(&bytes[..]);
        let mut lost = Vec::new();
        while let Some(item) = reader.read().unwrap() {
            match item {
                Item::Gap(Gap::Missing(own)) | Item::Entry(Entry::Event(Event::Lost(own))) => {
                    lost.push(own);
                }
                _ => {}
            }
        }
        lost
    }

    /// A part of a gap said that nothing was missing.
    #[test]
    fn what_is_cut_out_of_a_gap_says_that_it_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let [path, to] = ["a.nst", "b.nst"].map(|name| dir.path().join(name));
        let all = [recording(100, 110, None), recording(130, 140, None)].concat();
        fs::write(&path, all).unwrap();
        for (words, since, time) in [
            (&["--from", "+2s", "--to", "+20s"][..], 110, 120),
            (&["--from", "+15s", "--to", "+20s"], 115, 120),
            (&["--from", "+15s"], 110, 130),
            (&[], 110, 130),
        ] {
            let lost = cut_out(&path, &to, words);
            let spans: Vec<_> = lost.iter().map(|lost| [lost.since, lost.time]).collect();
            assert_eq!(spans, [[since * S, time * S]], "{words:?}");
        }
        assert!(cut_out(&path, &to, &["--to", "+10s"]).is_empty());
        assert!(cut_out(&path, &to, &["--from", "+30s"]).is_empty());
        for (at, is_lost) in [("+9s", false), ("+15s", true), ("+30s", false)] {
            let model = Model::of_recording(&path, Some(&moment(at))).unwrap();
            assert_eq!(model.world.loss().is_some(), is_lost, "{at}");
        }
    }

    /// What the clock was set to later was taken for what it had shown.
    #[test]
    fn a_moment_has_the_clock_of_then() {
        let dir = tempfile::tempdir().unwrap();
        let [path, to] = ["a.nst", "b.nst"].map(|name| dir.path().join(name));
        fs::write(&path, recording(100, 110, Some(105))).unwrap();
        for (at, offset) in [("+4.9s", 0), ("+5.1s", 0), ("+5.5s", DAY), ("+7s", DAY)] {
            let model = Model::of_recording(&path, Some(&moment(at))).unwrap();
            assert_eq!(model.wall_offset_ns(), offset, "{at}");
        }
        for (words, first, last) in [
            (&["--to", "+5s"][..], 0, 0),
            (&["--from", "+5.5s"], DAY, DAY),
            (&["--from", "+5.1s"], 0, DAY),
        ] {
            cut_out(&path, &to, words);
            let offset = |at| {
                let model = Model::of_recording(&to, Some(&moment(at)));
                model.unwrap().wall_offset_ns()
            };
            assert_eq!([offset("+0s"), offset("-0s")], [first, last], "{words:?}");
        }
    }
}
