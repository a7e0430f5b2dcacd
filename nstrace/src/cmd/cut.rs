//! `nstrace cut` and `nstrace cat`: parts of recordings, and several as one.

use std::{io, process::ExitCode};

use anyhow::{Context as _, bail};

use super::{
    file::Output,
    output::say,
    recording::{self, Span, Spanned},
};
use crate::{
    cli::{Cat, Cut},
    event::Event,
    explain::Facts,
    trace::{Entry, Head, Item, Options, State, Writer},
};

/// Writes a part of a recording, as a recording.
pub fn cut(args: &Cut) -> anyhow::Result<ExitCode> {
    let output = Output::open(&args.output, "a recording")?;
    output.is_not(&args.file)?;
    let mut copy = Copy::new(output);
    let (mut part, mut head) = (None::<Span>, Head::default());
    let (from, until) = (args.from.as_ref(), args.to.as_ref());
    recording::read_span(&args.file, from, until, &mut |item| {
        let item = match item {
            Spanned::Head(new, span) => {
                if span.from > span.until {
                    bail!("--from is later than --to");
                }
                (part, head) = (Some(span), new.clone());
                copy.known.wall_offset_ns = new.wall_offset_ns;
                return Ok(());
            }
            Spanned::Item(item) => item,
        };
        if let (Item::Entry(Entry::Event(event)), Some(span)) = (&item, part)
            && !copy.is_begun()
            && event.time().is_some_and(|time| time > span.from)
        {
            copy.begin_at(&head, span.from)?;
        }
        copy.take(item)
    })?;
    if let Some(span) = part {
        if !copy.is_begun() {
            copy.begin_at(&head, span.from)?;
        }
        if args.to.is_some() {
            copy.end = span.until;
        }
    }
    copy.finish()
}

/// Writes recordings of one boot behind each other, as one.
pub fn cat(args: &Cat) -> anyhow::Result<ExitCode> {
    let output = Output::open(&args.output, "a recording")?;
    args.files.iter().try_for_each(|file| output.is_not(file))?;
    let mut copy = Copy::new(output);
    let mut last: Option<Head> = None;
    for file in &args.files {
        let name = file.display();
        recording::read(file, &mut |item| {
            let Item::Head(head) = item else {
                return copy.take(item);
            };
            if let Some(last) = &last {
                if last.boot_id != head.boot_id {
                    bail!("{name}: it is of another machine, or of another boot of it");
                }
                if head.mono_ns < copy.known.world.now() {
                    bail!("{name}: it begins before the one before it ends: say them in order");
                }
            }
            let is_first = last.replace((*head).clone()).is_none();
            match is_first {
                true => copy.begin(&head),
                false => {
                    copy.next = Some(*head);
                    Ok(())
                }
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
    /// The head of what comes next, if it is not known yet whether that goes on where the
    /// last ended.
    next: Option<Head>,
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
            next: None,
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
        self.writer = begun.transpose().context(name)?;
        self.known.wall_offset_ns = head.wall_offset_ns;
        Ok(())
    }

    /// In the middle, with all that is known there.
    fn begin_at(&mut self, head: &Head, mono_ns: u64) -> anyhow::Result<()> {
        let head = Head {
            mono_ns,
            wall_offset_ns: self.known.wall_offset_ns,
            ..head.clone()
        };
        self.begin(&head)?;
        let state = self.known.get();
        write(&mut self.writer, &self.name, |writer| writer.state(&state))
    }

    fn take(&mut self, item: Item) -> anyhow::Result<()> {
        match item {
            Item::State(state) => return self.state(*state),
            Item::Entry(Entry::Event(event)) => {
                self.goes_on()?;
                return self.event(&event);
            }
            Item::Entry(Entry::Name { id, name }) => {
                self.known.names.learn(id, name);
                return write(&mut self.writer, &self.name, |writer| writer.name(id, name));
            }
            Item::Entry(Entry::Clock(offset)) => {
                self.known.wall_offset_ns = offset;
                return write(&mut self.writer, &self.name, |writer| writer.clock(offset));
            }
            Item::Entry(Entry::Facts(facts)) => self.facts = Some(facts),
            Item::End(time) => self.end = time,
            Item::Head(_) | Item::Damage(_) => {}
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<()> {
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
                writer.facts(facts);
            }
            writer.event(event)
        })?;
        known.apply(event, &mut Vec::new());
        write(writer, name, |writer| match writer.wants_state() {
            true => writer.state(&known.get()),
            false => Ok(()),
        })
    }

    /// What is known where the next begins. If that is what is known already, it goes on
    /// where the last ended.
    fn state(&mut self, state: State) -> anyhow::Result<()> {
        let is_same = state.world.now() == self.known.world.now();
        if is_same && let Some(head) = self.next.take() {
            let offset = head.wall_offset_ns;
            self.known.wall_offset_ns = offset;
            return write(&mut self.writer, &self.name, |writer| writer.clock(offset));
        }
        let next = self.next.take();
        self.known = state;
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

    fn finish(mut self) -> anyhow::Result<ExitCode> {
        let end = self.end;
        write(&mut self.writer, &self.name, |writer| writer.finish(end))?;
        if self.name != "-" {
            let written = self.writer.as_ref().map_or(0, Writer::written);
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
        Some(writer) => write(writer).with_context(|| name.to_owned()),
        None => Ok(()),
    }
}
