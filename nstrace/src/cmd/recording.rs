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
    trace::{Damage, Entry, Item, Reader},
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

/// Reads what is of that moment or earlier; what leads to it, not all that came before.
/// Tells which it is, `CLOCK_MONOTONIC` in ns.
pub fn read_until(path: &Path, moment: &Moment, each: &mut Each<'_>) -> anyhow::Result<u64> {
    let name = path.display().to_string();
    let zone = TimeZone::system();
    let no_moment = |error: NoMoment| anyhow::Error::from(error).context(name.clone());
    let until = match open(path)? {
        None => {
            let mut reader = Reader::new(io::stdin().lock());
            let head = head(&mut reader, &name, each)?;
            let until = moment.resolve(&head, None, &zone).map_err(no_moment)?;
            rest(&mut reader, &name, &mut not_after(until, each))?;
            until
        }
        Some(file) => {
            let mut reader = Reader::new(file);
            let head = head(&mut reader, &name, each)?;
            let index = reader.index().with_context(|| name.clone())?;
            let end = index.times.map_or(head.mono_ns, |[_, last]| last);
            let until = moment.resolve(&head, Some(end), &zone).map_err(no_moment)?;
            reader.seek(&index, until).with_context(|| name.clone())?;
            rest(&mut reader, &name, &mut not_after(until, each))?;
            until
        }
    };
    Ok(until)
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
fn head<R: Read>(
    reader: &mut Reader<R>,
    name: &str,
    each: &mut Each<'_>,
) -> anyhow::Result<crate::trace::Head> {
    while let Some(item) = reader.read().with_context(|| name.to_owned())? {
        if let Item::Head(head) = item {
            each(Item::Head(head.clone()))?;
            return Ok(head);
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
    each: &'e mut Each<'_>,
) -> impl FnMut(Item) -> anyhow::Result<()> + 'e {
    move |item| match &item {
        Item::Entry(Entry::Event(event)) if event.time().is_some_and(|time| time > until) => Ok(()),
        _ => each(item),
    }
}

fn tell(item: &Item, name: &str) {
    if let Item::Damage(damage) = item {
        say(&format!("{name}: {}", told(*damage)));
    }
}

fn told(damage: Damage) -> String {
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
