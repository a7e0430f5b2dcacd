//! `nstrace diff`: what differs between two recordings.

use std::{path::Path, process::ExitCode};

use anyhow::bail;
use jiff::tz::TimeZone;

use super::{
    WrongWords,
    output::{self, colored, say},
    recording,
    report::{Part, Summed, filter},
    trouble::name,
};
use crate::{
    cli,
    diff::{self, diff},
    moment::Moment,
    render::{DiffSide, Format, Text, diff_json, diff_text},
};

/// Reads both, and prints.
pub fn run(args: &cli::Diff) -> anyhow::Result<ExitCode> {
    let (names, summed) = match &args.at {
        None => recordings(args)?,
        Some(at) => parts(args, at)?,
    };
    let compared = diff(summed.each_ref().map(|own| diff::Side {
        report: &own.report,
        world: &own.model.world,
        names: &own.model.names,
        boot_id: &own.head.boot_id,
    }));
    let side = |at: usize| DiffSide {
        name: &names[at],
        head: &summed[at].head,
        report: &summed[at].report,
    };
    let sides = [side(0), side(1)];
    let clocks = summed
        .each_ref()
        .map(|own| own.model.wall_clock(TimeZone::UTC));
    let mut text = Text::new();
    match args.json {
        true => diff_json(&mut text, &compared, sides, clocks),
        false => diff_text(&mut text, &compared, sides, colored(args.color), clocks),
    }
    output::write(&mut text)?;
    Ok(ExitCode::SUCCESS)
}

type Sides = ([String; 2], [Summed; 2]);

/// Two recordings.
fn recordings(args: &cli::Diff) -> anyhow::Result<Sides> {
    let after = args.after.as_deref().unwrap_or(&args.before);
    let paths = [args.before.as_path(), after];
    if paths.iter().all(|path| *path == Path::new("-")) {
        bail!(WrongWords(
            "both recordings cannot be standard input: give a file for one".to_owned()
        ));
    }
    let [a, b] = paths.map(|path| read(args, path, [None, None]));
    Ok((paths.map(|path| name(path, "input")), [a?, b?]))
}

/// What is before and after a moment of one.
fn parts(args: &cli::Diff, at: &Moment) -> anyhow::Result<Sides> {
    let path = args.before.as_path();
    if recording::is_pipe(path) {
        bail!(WrongWords(
            "--at needs a file, which is read twice: a pipe cannot be".to_owned()
        ));
    }
    let name = path.display();
    let names = [
        format!("{name} up to the moment"),
        format!("{name} after it"),
    ];
    let [a, b] =
        [[None, Some(at)], [Some(at), args.to.as_ref()]].map(|part| read(args, path, part));
    Ok((names, [a?, b?]))
}

fn read(args: &cli::Diff, path: &Path, part: Part<'_>) -> anyhow::Result<Summed> {
    let filter = filter(&args.filters, path)?;
    let filtered = filter.is_set();
    let summed = Summed::read(path, part, filter, Format::Json, false)?;
    if filtered && summed.report.operations == 0 {
        say(&format!(
            "{}: no operation passes the filters",
            name(path, "input")
        ));
    }
    Ok(summed)
}
