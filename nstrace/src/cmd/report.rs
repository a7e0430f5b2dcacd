//! `nstrace report`: what a recording comes to.

use std::{cell::Cell, path::Path, process::ExitCode, time::Duration};

use anyhow::bail;
use jiff::tz::TimeZone;

use super::{
    WrongWords,
    model::{Model, Replayed},
    output::{self, colored, say},
    recording,
    trouble::name,
};
use crate::{
    cli,
    event::Event,
    explain::Facts,
    filter::Filter,
    moment::Moment,
    mount_ops::origins::Origins,
    render::{End, Format, Of, Printer, Text, TreeFilter, View, report, report_json},
    report::{Known, Report},
    trace::Head,
    world,
};

/// A recording, summed up.
pub struct Summed {
    /// Where it was made.
    pub head: Head,
    /// What was there at its end.
    pub model: Model,
    /// What it comes to.
    pub report: Report,
    /// Whether write access to mounts was watched.
    pub has_ledger: bool,
}

/// The first moment of a recording.
const BEGINNING: Moment = Moment::FromStart(Duration::ZERO);

/// A part of a recording: after a moment, up to another.
pub type Part<'m> = [Option<&'m Moment>; 2];

impl Summed {
    /// Reads a recording, or a part of it; the slowest operations are kept as they are printed
    /// in that format.
    pub fn read(
        path: &Path,
        part: Part<'_>,
        filter: Filter,
        format: Format,
        color: bool,
    ) -> anyhow::Result<Summed> {
        let mut printer = Printer::new(TimeZone::system());
        let mut own = Report::new(filter);
        let (mut head, mut facts) = (Head::default(), Facts::NONE);
        // What leads to a part is not counted.
        let from = Cell::new(None);
        let (mut has_ledger, mut origins) = (false, Origins::default());
        let mut each = |model: &Model, replayed: Replayed<'_>| {
            match replayed {
                // Of several, the first.
                Replayed::Head(new) if head.version == 0 => head = new.clone(),
                Replayed::Head(new) if new.boot_id != head.boot_id => bail!(
                    "{}: it is recordings of several boots behind each other, whose times do not \
                     follow: say one of them",
                    name(path, "input")
                ),
                Replayed::Head(_) => {}
                Replayed::Facts(new) => facts = new.clone(),
                Replayed::Damage(_) => {}
                Replayed::State(found) if from.get().is_none() => own.found(&model.world, found),
                Replayed::State(_) => {}
                Replayed::Event(event, changes) => {
                    has_ledger |= matches!(event, Event::MountWatched(_));
                    origins.apply(event);
                    if let Some(from) = from.get() {
                        if event.time().is_none_or(|time| time <= from) {
                            return Ok(());
                        }
                        own.begins_before(&model.world, changes);
                    }
                    let known = Known {
                        world: &model.world,
                        changes,
                        cgroups: &model.cgroups,
                        facts: &facts,
                    };
                    own.event(event, &known, &mut |event: &Event| {
                        let origin = match event {
                            Event::MountDied(mount) => origins.of(mount.record),
                            _ => None,
                        };
                        let view = View {
                            wall_offset_ns: model.wall_offset_ns(),
                            cgroups: &model.cgroups,
                            facts: Some(&facts),
                            origin,
                            color,
                            all: false,
                        };
                        let mut text = Text::new();
                        printer.event(format, &mut text, event, &view);
                        text.to_string()
                    });
                }
            }
            Ok(())
        };
        // Who is where is of no interest but at the end.
        let options = world::Options {
            tells_tasks: false,
            ..world::Options::default()
        };
        let model = match part {
            [None, None] => Model::replay(path, options, &mut each)?,
            part => {
                // From the beginning, what leads to it belongs to it.
                let begins = &mut |begin| from.set(part[0].map(|_| begin));
                let part = [part[0].or(Some(&BEGINNING)), part[1]];
                Model::replay_part(path, part, options, begins, &mut each)?
            }
        };
        // It begins and ends when somebody began and ended it, whatever happened then.
        let begin = Some(from.get().unwrap_or(head.mono_ns)).filter(|begin| *begin > 0);
        let span = own.span.or(begin.map(|begin| [begin; 2]));
        own.span = span.map(|[first, last]| {
            let begin = begin.unwrap_or(first);
            [begin.min(first), last.max(model.now())]
        });
        Ok(Summed {
            head,
            model,
            report: own,
            has_ledger,
        })
    }
}

/// Reads all of it, and prints.
pub fn run(args: &cli::Report) -> anyhow::Result<ExitCode> {
    let color = colored(args.color);
    let format = match args.json {
        true => Format::Json,
        false => Format::Path,
    };
    let filter = filter(&args.filters, &args.file)?;
    let filtered = filter.is_set();
    let summed = Summed::read(&args.file, [None, None], filter, format, color)?;
    let Report {
        operations, mounts, ..
    } = &summed.report;
    if filtered && operations + mounts.count().0 == 0 {
        let name = name(&args.file, "input");
        say(&format!("{name}: no operation passes the filters"));
    }
    let tree = TreeFilter::default();
    let mut view = summed.model.view(&tree, color);
    view.width = output::size().map(|(width, _)| width);
    let end = End::of(&summed.report, &summed.model.world, &view);
    let of = Of {
        head: &summed.head,
        view: &view,
        end: &end,
        filtered,
    };
    let zones = [TimeZone::UTC, TimeZone::system()];
    let [mut utc, mut local] = zones.map(|zone| summed.model.wall_clock(zone));
    let mut text = Text::new();
    match args.json {
        true => report_json(&mut text, &summed.report, &of, &mut utc),
        false => report(&mut text, &summed.report, &of, &mut utc, &mut local),
    }
    output::write(&mut text)?;
    if summed.has_ledger {
        // What came through a pipe is gone.
        let file = match args.file.as_os_str() {
            name if name == "-" => "FILE".to_owned(),
            _ => args.file.display().to_string(),
        };
        say(&format!(
            "write access to mounts was watched, too: nstrace writers --from {file}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The filter that was asked for. Names of containers stand in a recording where they were
/// learnt, which may be at its end: a file is read for them before; a pipe cannot be.
pub fn filter(args: &cli::Filters, path: &Path) -> anyhow::Result<Filter> {
    args.check(None).map_err(WrongWords)?;
    let mut filter = args.filter();
    if let Some(asked) = filter.container.as_deref() {
        let named = &mut filter.named;
        recording::names(path, &mut |id, name| {
            if name == asked {
                named.push(id.into());
            }
        })?;
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use nstrace_common::kind::Kind;

    use super::*;

    fn summed(part: Part<'_>) -> Report {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/traces/v1.nst");
        let filter = Filter::default();
        let summed = Summed::read(Path::new(path), part, filter, Format::Json, false);
        summed.expect("in testdata").report
    }

    #[test]
    fn what_is_before_and_after_a_moment_comes_to_the_whole() {
        let whole = summed([None, None]);
        assert_eq!(whole.operations, 225);
        let mut differ = 0;
        for at in ["+0.1s", "+0.5s", "+1s", "-0.2s", "-0.1s"] {
            let at: Moment = at.parse().expect("a moment");
            let (a, b) = (summed([None, Some(&at)]), summed([Some(&at), None]));
            differ += u64::from(a.operations > 0 && b.operations > 0);
            assert_eq!(a.operations + b.operations, whole.operations, "{at:?}");
            assert_eq!(a.failed + b.failed, whole.failed);
            let (sums, all) = ((a.sums(), b.sums()), whole.sums());
            assert_eq!(sums.0.time() + sums.1.time(), all.time());
            for kind in Kind::ALL {
                let [a, b, whole] = [&a, &b, &whole].map(|own| &own.lives[kind as usize]);
                assert_eq!((a.born + b.born, a.died + b.died), (whole.born, whole.died));
            }
        }
        assert!(differ > 0, "no moment is within it");
    }
}
