//! A recording that is read.

use std::{
    fs::File,
    io::{self, Read, Seek as _},
    os::unix::fs::FileTypeExt as _,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use super::{
    WrongWords,
    output::say,
    trouble::{name, unread},
};
use crate::{
    event::{Event, Lost},
    moment::{Moment, NoMoment},
    trace::{Clocks, Damage, Entry, Gap, Head, Index, Item, Reader},
};

/// Is told what is in it, and may take it. An error ends it.
pub type Each<'e> = dyn FnMut(&mut Item) -> anyhow::Result<()> + 'e;

/// Reads all of it, from standard input if the path is `-`, and says what of it cannot be
/// read.
pub fn read(path: &Path, each: &mut Each<'_>) -> anyhow::Result<()> {
    let name = name(path, "input");
    match open(path)? {
        Input::Pipe(pipe) => rest(&mut Reader::new(pipe), &Source::pipe(name), each),
        Input::File(file) => {
            let source = Source::of(name, &file);
            rest(&mut Reader::new(file), &source, each)
        }
    }
}

/// Reads the names of containers in a file that will be read again, when what of it cannot be
/// read is told. A pipe is not read twice, and not for them.
pub fn names(path: &Path, each: &mut dyn FnMut(&[u8], &str)) -> anyhow::Result<()> {
    let Input::File(file) = open(path)? else {
        return Ok(());
    };
    let mut reader = Reader::new(file);
    while let Some(item) = next(&mut reader, &name(path, "input"))? {
        match item {
            Item::Entry(Entry::Name { id, name }) => each(id, name),
            Item::State(state) => state.names.iter().for_each(|(id, name)| each(id, name)),
            _ => {}
        }
    }
    Ok(())
}

/// Reads what is of that moment or earlier; what leads to it, not all that came before.
/// Tells which it is.
pub fn read_until(
    path: &Path,
    moment: &Moment,
    each: &mut Each<'_>,
) -> anyhow::Result<Option<Span>> {
    let mut found = None;
    read_span(path, None, Some(moment), &mut |item| match item {
        Spanned::Head(_, span) => {
            found = Some(span);
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
    /// What was to be added to both for the time of day, as far as that is known before all is
    /// read.
    pub offsets_ns: Option<[i64; 2]>,
}

impl Span {
    /// What was to be added at its beginning (0) or its end (1), where that was the last that
    /// was read: nothing may have happened since the clock was set.
    pub fn offset_ns(&self, end: usize, last_ns: i64) -> i64 {
        let own = self.offsets_ns.map(|own| own[end]);
        let is_set = |own: &i64| own.abs_diff(last_ns) > Clocks::STEP_NS;
        own.filter(is_set).unwrap_or(last_ns)
    }
}

/// What is in a part.
pub enum Spanned<'a, 'i> {
    /// Comes first.
    Head(&'a Head, Span),
    /// The rest, from a state before the part on.
    Item(&'a mut Item<'i>),
}

/// Reads a part, and what leads to it, and says what of it cannot be read.
pub fn read_span(
    path: &Path,
    from: Option<&Moment>,
    until: Option<&Moment>,
    each: &mut dyn FnMut(Spanned) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    spanned(path, [from, until], true, each)
}

/// Reads what is of that moment or earlier, and what leads to it, of a file that is read again.
pub fn look_until(path: &Path, moment: &Moment, each: &mut Each<'_>) -> anyhow::Result<()> {
    spanned(path, [None, Some(moment)], false, &mut |item| match item {
        Spanned::Head(..) => Ok(()),
        Spanned::Item(item) => each(item),
    })
}

fn spanned(
    path: &Path,
    [from, until]: [Option<&Moment>; 2],
    tells: bool,
    each: &mut dyn FnMut(Spanned) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let name = name(path, "input");
    let span = |head: &Head, clocks: &Clocks, end: Option<u64>| {
        let zone = TimeZone::system();
        let of = |moment: &Moment| {
            let found = moment.resolve(head, clocks, end, &zone);
            found.map_err(|error| anyhow::Error::from(error).context(name.clone()))
        };
        let ends = [
            from.map_or(Ok(head.mono_ns), of)?,
            until.map_or(Ok(end.unwrap_or(u64::MAX)), of)?,
        ];
        let offset = |time| clocks.at(time, head.wall_offset_ns);
        let span = Span {
            from: ends[0],
            until: ends[1],
            offsets_ns: end.map(|_| ends.map(offset)),
        };
        if until.is_some() && span.from > span.until {
            anyhow::bail!(WrongWords(format!(
                "{name}: that part ends before it begins: say the earlier moment first"
            )));
        }
        Ok::<_, anyhow::Error>(span)
    };
    match open(path)? {
        Input::Pipe(pipe) => {
            let mut moments = from.into_iter().chain(until);
            if moments.any(|moment| matches!(moment, Moment::FromEnd(_))) {
                anyhow::bail!(WrongWords(format!("{name}: {}", NoMoment::NoEnd)));
            }
            let mut reader = Reader::new(pipe);
            let Found { head, is_there } = head(&mut reader, &name)?;
            if !is_there {
                anyhow::bail!("{name}: {HEADLESS}");
            }
            let span = span(&head, &Clocks::default(), None)?;
            each(Spanned::Item(&mut Item::Head(Box::new(head.clone()))))?;
            each(Spanned::Head(&head, span))?;
            let source = Source {
                tells,
                ..Source::pipe(name)
            };
            let late = |_| false;
            rest(&mut reader, &source, &mut not_after(span.until, late, each))
        }
        Input::File(file) => {
            let source = Source {
                tells,
                ..Source::of(name.clone(), &file)
            };
            let again = file.try_clone().map_err(unread);
            let mut again = again.with_context(|| name.clone())?;
            let mut reader = Reader::new(file);
            let Found { head, is_there } = head(&mut reader, &name)?;
            let is_part = from.is_some() || until.is_some();
            let index = match is_part {
                true => reader.index().map_err(unread),
                false => Ok(Index::default()),
            };
            let index = index.with_context(|| name.clone())?;
            if !is_there {
                let begun = again.rewind().map_err(unread);
                begun.with_context(|| name.clone())?;
                reader = Reader::new(again);
            }
            if index.is_mixed {
                anyhow::bail!(
                    "{name}: it is recordings behind each other whose times do not follow \
                     (another boot, or a later one first): say one of them"
                );
            }
            let end = match is_part {
                true => Some(index.times.map_or(head.mono_ns, |[_, last]| last)),
                false => None,
            };
            let span = span(&head, &index.clocks, end)?;
            each(Spanned::Item(&mut Item::Head(Box::new(head.clone()))))?;
            each(Spanned::Head(&head, span))?;
            // To its end: what is told as cut off is told.
            let last = if until.is_some() {
                span.until
            } else {
                u64::MAX
            };
            let first = if from.is_some() { span.from } else { last };
            let sought = reader.seek(&index, first.min(last), last);
            sought.map_err(unread).with_context(|| name.clone())?;
            let first = head.wall_offset_ns;
            let late = |offset| until.is_some() && !index.clocks.showed(offset, last, first);
            rest(&mut reader, &source, &mut not_after(last, late, each))
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
    /// So many pauses without anything new, and without a writer, are its end.
    const PAUSES: u32 = 20;
    let name = name(path, "input");
    let (input, source): (Box<dyn Read>, _) = match open(path)? {
        Input::Pipe(pipe) => (pipe, Source::pipe(name)),
        Input::File(file) => {
            let source = Source::of(name, &file);
            (Box::new(file), source)
        }
    };
    let (mut reader, mut quiet) = (Reader::new(input).follow(), 0);
    loop {
        let mut is_quiet = true;
        rest(&mut reader, &source, &mut |item| {
            is_quiet = false;
            each(item)
        })?;
        idle()?;
        if reader.has_ended() {
            return Ok(());
        }
        quiet = if is_quiet && source.has_no_writer() {
            quiet + 1
        } else {
            0
        };
        if quiet > PAUSES {
            reader.end_following();
            return rest(&mut reader, &source, each);
        }
        thread::sleep(PAUSE);
    }
}

/// Where something comes from.
struct Source {
    /// What it is called in messages.
    name: String,
    /// None of what can be read once only.
    file: Option<File>,
    /// Whether it is said what cannot be read.
    tells: bool,
}

impl Source {
    fn pipe(name: String) -> Source {
        Source {
            name,
            file: None,
            tells: true,
        }
    }

    fn of(name: String, file: &File) -> Source {
        Source {
            name,
            file: file.try_clone().ok(),
            tells: true,
        }
    }

    /// Whether it is a file that nobody writes any more: who does has it locked.
    fn has_no_writer(&self) -> bool {
        self.file.as_ref().is_some_and(|file| {
            let is_free = file.try_lock_shared().is_ok();
            // It is closed soon in any case.
            let _ = file.unlock();
            is_free
        })
    }
}

/// What is read.
enum Input {
    File(File),
    /// Is read once, from its beginning.
    Pipe(Box<dyn Read>),
}

fn open(path: &Path) -> anyhow::Result<Input> {
    if path == Path::new("-") {
        return Ok(Input::Pipe(Box::new(io::stdin().lock())));
    }
    let file = File::open(path).map_err(unread);
    let file = file.with_context(|| path.display().to_string())?;
    // As the shell's <(COMMAND). What is no file at all says so when it is read.
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    Ok(match is_file {
        true => Input::File(file),
        false => Input::Pipe(Box::new(file)),
    })
}

/// Whether it can be read once only.
pub fn is_pipe(path: &Path) -> bool {
    path == Path::new("-") || path.metadata().is_ok_and(|meta| meta.file_type().is_fifo())
}

/// Why what a pipe brings cannot be made sense of.
pub const HEADLESS: &str = "its head is missing, and a pipe is read once: write it to a file first";

fn next<'r, R: Read>(reader: &'r mut Reader<R>, name: &str) -> anyhow::Result<Option<Item<'r>>> {
    reader
        .read()
        .map_err(unread)
        .with_context(|| name.to_owned())
}

/// Reads up to the head. Where that has been damaged, what can be known of it: when the
/// recording begins, and the clock.
fn head<R: Read>(reader: &mut Reader<R>, name: &str) -> anyhow::Result<Found> {
    let (mut head, mut begins) = (Head::default(), None);
    while let Some(item) = next(reader, name)? {
        match item {
            Item::Head(head) => {
                return Ok(Found {
                    head: *head,
                    is_there: true,
                });
            }
            Item::Entry(Entry::Event(event)) => begins = begins.or(event.time()),
            Item::Entry(Entry::Clock(offset)) => head.wall_offset_ns = offset,
            Item::State(state) => {
                begins = begins.or(Some(state.world.now()));
                head.wall_offset_ns = state.wall_offset_ns;
            }
            Item::Entry(_) | Item::End(_) | Item::Damage(_) | Item::Gap(_) => {}
        }
        if let Some(begins) = begins
            && head.wall_offset_ns != 0
        {
            head.mono_ns = begins;
            break;
        }
    }
    head.mono_ns = begins.unwrap_or(0);
    Ok(Found {
        head,
        is_there: false,
    })
}

/// A head, and whether it stands at the beginning.
struct Found {
    head: Head,
    is_there: bool,
}

/// The head of a recording in a file, and when that ends, `CLOCK_MONOTONIC` in ns; none of what
/// can be read once only.
pub fn span(path: &Path) -> anyhow::Result<Option<(Head, u64)>> {
    let Input::File(file) = open(path)? else {
        return Ok(None);
    };
    let name = path.display().to_string();
    let mut reader = Reader::new(file);
    let head = head(&mut reader, &name)?.head;
    let index = reader.index().map_err(unread).context(name)?;
    let end = index.times.map_or(head.mono_ns, |[_, last]| last);
    Ok(Some((head, end)))
}

/// Reads what is left.
fn rest<R: Read>(
    reader: &mut Reader<R>,
    source: &Source,
    each: &mut Each<'_>,
) -> anyhow::Result<()> {
    let mut each = |mut item: Item| {
        if source.tells {
            tell(&item, source);
        }
        each(&mut item)
    };
    while let Some(done) = reader
        .read_with(&mut each)
        .map_err(unread)
        .with_context(|| source.name.clone())?
    {
        done?;
    }
    Ok(())
}

/// The same without events of later times, and without what the clock was set to later. Of a
/// loss that goes on then, there is what is before.
fn not_after<'e>(
    until: u64,
    is_late: impl Fn(i64) -> bool + 'e,
    each: &'e mut dyn FnMut(Spanned) -> anyhow::Result<()>,
) -> impl FnMut(&mut Item) -> anyhow::Result<()> + 'e {
    move |item| {
        let time = match item {
            Item::Entry(Entry::Event(event)) => event.time(),
            Item::State(state) => Some(state.world.now()),
            Item::Head(head) => Some(head.mono_ns),
            Item::Gap(Gap::Missing(lost)) => Some(lost.time),
            Item::Entry(Entry::Clock(offset)) if is_late(*offset) => return Ok(()),
            Item::Entry(_) | Item::End(_) | Item::Damage(_) | Item::Gap(_) => None,
        };
        if time.is_none_or(|time| time <= until) {
            return each(Spanned::Item(item));
        }
        let cut = |lost: &Lost| Lost {
            time: until,
            count: 0,
            ..*lost
        };
        match item {
            Item::Gap(Gap::Missing(lost)) if lost.since < until => {
                each(Spanned::Item(&mut Item::Gap(Gap::Missing(cut(lost)))))
            }
            Item::Entry(Entry::Event(Event::Lost(lost))) if lost.since < until => {
                let lost = Event::Lost(cut(lost));
                each(Spanned::Item(&mut Item::Entry(Entry::Event(lost))))
            }
            _ => Ok(()),
        }
    }
}

fn tell(item: &Item, source: &Source) {
    let is_written = || source.file.is_some() && !source.has_no_writer();
    let what = match item {
        Item::Damage(Damage::Cut { .. }) if is_written() => {
            "it is still being written: this is what is there so far (tail -f follows it)"
                .to_owned()
        }
        Item::Damage(damage) => told(*damage),
        Item::Gap(Gap::Boot) => {
            "what comes next is of another machine, or of another boot of it".to_owned()
        }
        Item::Gap(Gap::Earlier) => {
            "what comes next is from before: nstrace cat joins in order".to_owned()
        }
        _ => return,
    };
    say(&format!("{}: {what}", source.name));
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
        Damage::Behind { offset, len } => {
            format!("{len} bytes at {offset}, behind the end of the recording, are no block")
        }
    }
}
