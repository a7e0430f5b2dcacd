//! `nstrace report`: what a recording comes to.

use std::process::ExitCode;

use jiff::tz::TimeZone;

use super::{
    live::{Model, Replayed},
    output::{self, colored},
};
use crate::{
    cli,
    event::Event,
    explain::Facts,
    render::{Clock, Format, Of, Printer, Text, TreeFilter, View, leaks_len, report, report_json},
    report::Report,
    trace::Head,
};

/// Reads all of it, and prints.
pub fn run(args: &cli::Report) -> anyhow::Result<ExitCode> {
    let color = colored(args.color);
    let mut printer = Printer::new(TimeZone::system());
    let mut own = Report::default();
    let (mut head, mut facts) = (Head::default(), Facts::NONE);
    let model = Model::replay(&args.file, &mut |model, replayed| match replayed {
        Replayed::Head(new) => head = new.clone(),
        Replayed::Facts(new) => facts = new,
        Replayed::Damage(_) => {}
        Replayed::State(changes) | Replayed::Changes(changes) => own.changes(&model.world, changes),
        Replayed::Event(event) => {
            let view = View {
                wall_offset_ns: model.wall_offset_ns(),
                cgroups: &model.cgroups,
                facts: Some(&facts),
                color,
                all: false,
            };
            own.event(event, &model.cgroups, &facts, &mut |op| {
                let mut print = |format| {
                    let mut text = Text::new();
                    printer.event(format, &mut text, &Event::Op(*op), &view);
                    text.to_string()
                };
                (print(Format::Path), print(Format::Json))
            });
        }
    })?;
    let filter = TreeFilter::default();
    let mut view = model.view(&filter, color);
    view.width = output::size().map(|(width, _)| width);
    let of = Of {
        head: &head,
        view: &view,
        leaks: leaks_len(&model.world, &view),
    };
    let mut clock = Clock::new(TimeZone::UTC);
    clock.set_offset(model.wall_offset_ns());
    let mut text = Text::new();
    match args.json {
        true => report_json(&mut text, &own, &of, &mut clock),
        false => report(&mut text, &own, &of, &mut clock),
    }
    output::write(&mut text)?;
    Ok(ExitCode::SUCCESS)
}
