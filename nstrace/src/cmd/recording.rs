//! A recording that is read.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use super::output::say;
use crate::{
    moment::{Moment, NoMoment},
    trace::{Damage, Entry, Head, Item, Reader},
};

/// Is told what is in it. An error ends it.
pub type Each<'e> = dyn FnMut(Item) -> anyhow::Result<()> + 'e;

/// Reads all of it, from standard input if the path is `-`, and says what of it cannot be
/// read.
pub fn read(path: &Path, each: &mut Each<'_>) -> anyhow::Result<()> {
    let name = path.display().to_string();
    match open(path)? {
        None => rest(&mut Reader::new(io::stdin().lock()), &name, each),
        Some(file) => rest(&mut Reader::new(file), &name, each),
    }
}

/// Reads the names of containers in a file that will be read again, when what of it cannot be
/// read is told.
pub fn names(path: &Path, each: &mut dyn FnMut(&[u8], &str)) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let mut reader = Reader::new(File::open(path).with_context(|| name.clone())?);
    while let Some(item) = reader.read().with_context(|| name.clone())? {
        match item {
            Item::Entry(Entry::Name { id, name }) => each(id, name),
            Item::State(state) => state.names.iter().for_each(|(id, name)| each(id, name)),
            _ => {}
        }
    }
    Ok(())
}

/// Reads what is of that moment or earlier; what leads to it, not all that came before.
/// Tells which it is, `CLOCK_MONOTONIC` in ns.
pub fn read_until(path: &Path, moment: &Moment, each: &mut Each<'_>) -> anyhow::Result<u64> {
    let mut found = 0;
    read_span(path, None, Some(moment), &mut |item| match item {
        Spanned::Head(_, span) => {
            found = span.until;
            Ok(())
        }
        Spanned::Item(item) => each(item),
    })?;
    Ok(found)
}

/// A part of a recording, `CLOCK_MONOTONIC` in ns.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// After this,
    pub from: u64,
    /// up to this.
    pub until: u64,
}

/// What is in a part.
pub enum Spanned<'a> {
    /// Comes first.
    Head(&'a Head, Span),
    /// The rest, from a state before the part on.
    Item(Item<'a>),
}

/// Reads a part, and what leads to it.
pub fn read_span(
    path: &Path,
    from: Option<&Moment>,
    until: Option<&Moment>,
    each: &mut dyn FnMut(Spanned) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name = path.display().to_string();
    let span = |head: &Head, end: Option<u64>| {
        let zone = TimeZone::system();
        let of = |moment: &Moment| {
            let found = moment.resolve(head, end, &zone);
            found.map_err(|error: NoMoment| anyhow::Error::from(error).context(name.clone()))
        };
        Ok::<_, anyhow::Error>(Span {
            from: from.map_or(Ok(head.mono_ns), of)?,
            until: until.map_or(Ok(end.unwrap_or(u64::MAX)), of)?,
        })
    };
    let mut items = |item: Item| each(Spanned::Item(item));
    match open(path)? {
        None => {
            let mut reader = Reader::new(io::stdin().lock());
            let head = head(&mut reader, &name, &mut items)?;
            let span = span(&head, None)?;
            each(Spanned::Head(&head, span))?;
            rest(&mut reader, &name, &mut not_after(span.until, each))
        }
        Some(file) => {
            let mut reader = Reader::new(file);
            let head = head(&mut reader, &name, &mut items)?;
            let index = reader.index().with_context(|| name.clone())?;
            let end = index.times.map_or(head.mono_ns, |[_, last]| last);
            let span = span(&head, Some(end))?;
            each(Spanned::Head(&head, span))?;
            // To its end: what is told as cut off is told.
            let last = if until.is_some() {
                span.until
            } else {
                u64::MAX
            };
            let first = if from.is_some() { span.from } else { last };
            reader
                .seek(&index, first.min(last), last)
                .with_context(|| name.clone())?;
            rest(&mut reader, &name, &mut not_after(last, each))
        }
    }
}

/// Reads a file that is being written, until it has been ended; `idle` is called when there
/// is nothing more for now.
pub fn follow(
    path: &Path,
    each: &mut Each<'_>,
    idle: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let name = path.display().to_string();
    let input: Box<dyn Read> = match open(path)? {
        None => Box::new(io::stdin().lock()),
        Some(file) => Box::new(file),
    };
    let mut reader = Reader::new(input).follow();
    loop {
        rest(&mut reader, &name, each)?;
        idle()?;
        if reader.has_ended() {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

/// None for standard input.
fn open(path: &Path) -> anyhow::Result<Option<File>> {
    match path.as_os_str().as_encoded_bytes() {
        b"-" => Ok(None),
        _ => Ok(Some(
            File::open(path).with_context(|| path.display().to_string())?,
        )),
    }
}

/// Reads up to the head.
fn head<R: Read>(reader: &mut Reader<R>, name: &str, each: &mut Each<'_>) -> anyhow::Result<Head> {
    while let Some(item) = reader.read().with_context(|| name.to_owned())? {
        if let Item::Head(head) = item {
            each(Item::Head(head.clone()))?;
            return Ok(*head);
        }
        tell(&item, name);
        each(item)?;
    }
    anyhow::bail!("{name}: its head is missing: without it there is no time of day in it")
}

/// Reads what is left.
fn rest<R: Read>(reader: &mut Reader<R>, name: &str, each: &mut Each<'_>) -> anyhow::Result<()> {
    while let Some(item) = reader.read().with_context(|| name.to_owned())? {
        tell(&item, name);
        each(item)?;
    }
    Ok(())
}

/// The same without events of later times.
fn not_after<'e>(
    until: u64,
    each: &'e mut dyn FnMut(Spanned) -> anyhow::Result<()>,
) -> impl FnMut(Item) -> anyhow::Result<()> + 'e {
    move |item| {
        let time = match &item {
            Item::Entry(Entry::Event(event)) => event.time(),
            Item::State(state) => Some(state.world.now()),
            Item::Head(head) => Some(head.mono_ns),
            Item::Entry(_) | Item::End(_) | Item::Damage(_) => None,
        };
        match time.is_some_and(|time| time > until) {
            true => Ok(()),
            false => each(Spanned::Item(item)),
        }
    }
}

fn tell(item: &Item, name: &str) {
    if let Item::Damage(damage) = item {
        say(&format!("{name}: {}", told(*damage)));
    }
}

/// What cannot be read, in words.
pub fn told(damage: Damage) -> String {
    match damage {
        Damage::Skipped { offset, len } => {
            format!("{len} bytes at {offset} are damaged and were left out")
        }
        Damage::Cut { offset, len: 0 } => {
            format!("the recording was cut off at byte {offset}: its end is missing")
        }
        Damage::Cut { offset, len } => format!(
            "the recording was cut off: {len} bytes at {offset} are a part of what came next"
        ),
    }
}
