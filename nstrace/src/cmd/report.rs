//! `nstrace report`: what a recording comes to.

use std::{path::Path, process::ExitCode};

use jiff::tz::TimeZone;

use super::{
    live::{Model, Replayed},
    output::{self, colored, say},
    recording,
};
use crate::{
    cli,
    event::{Event, Operation},
    explain::Facts,
    filter::Filter,
    render::{Clock, End, Format, Of, Printer, Text, TreeFilter, View, report, report_json},
    report::{Known, Report},
    trace::Head,
};

/// A recording, summed up.
pub struct Summed {
    /// Where it was made.
    pub head: Head,
    /// What was there at its end.
    pub model: Model,
    /// What it comes to.
    pub report: Report,
}

impl Summed {
    /// Reads all of a recording; the slowest operations are kept as they are printed in that
    /// format.
    pub fn read(
        path: &Path,
        filter: Filter,
        format: Format,
        color: bool,
    ) -> anyhow::Result<Summed> {
        let mut printer = Printer::new(TimeZone::system());
        let mut own = Report::new(filter);
        let (mut head, mut facts) = (Head::default(), Facts::NONE);
        let model = Model::replay(path, &mut |model, replayed| match replayed {
            Replayed::Head(new) => head = new.clone(),
            Replayed::Facts(new) => facts = new,
            Replayed::Damage(_) => {}
            Replayed::State => own.begins_with(&model.world),
            Replayed::Event(event, changes) => {
                let known = Known {
                    world: &model.world,
                    changes,
                    cgroups: &model.cgroups,
                    facts: &facts,
                };
                own.event(event, &known, &mut |op: &Operation| {
                    let view = View {
                        wall_offset_ns: model.wall_offset_ns(),
                        cgroups: &model.cgroups,
                        facts: Some(&facts),
                        color,
                        all: false,
                    };
                    let mut text = Text::new();
                    printer.event(format, &mut text, &Event::Op(*op), &view);
                    text.to_string()
                });
            }
        })?;
        Ok(Summed {
            head,
            model,
            report: own,
        })
    }

    /// A clock of its end.
    pub fn clock(&self, zone: TimeZone) -> Clock {
        let mut clock = Clock::new(zone);
        clock.set_offset(self.model.wall_offset_ns());
        clock
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
    let summed = Summed::read(&args.file, filter, format, color)?;
    if filtered && summed.report.operations == 0 {
        let name = args.file.display();
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
    let (mut utc, mut local) = (
        summed.clock(TimeZone::UTC),
        summed.clock(TimeZone::system()),
    );
    let mut text = Text::new();
    match args.json {
        true => report_json(&mut text, &summed.report, &of, &mut utc),
        false => report(&mut text, &summed.report, &of, &mut utc, &mut local),
    }
    output::write(&mut text)?;
    Ok(ExitCode::SUCCESS)
}

/// The filter that was asked for. Names of containers stand in a recording where they were
/// learnt, which may be at its end: a file is read for them before; a pipe cannot be.
pub fn filter(args: &cli::Filters, path: &Path) -> anyhow::Result<Filter> {
    let mut filter = args.filter();
    let is_pipe = path.as_os_str() == "-";
    if let Some(asked) = filter.container.as_deref().filter(|_| !is_pipe) {
        let named = &mut filter.named;
        recording::names(path, &mut |id, name| {
            if name == asked {
                named.push(id.into());
            }
        })?;
    }
    Ok(filter)
}
