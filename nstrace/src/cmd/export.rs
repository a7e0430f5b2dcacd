//! `nstrace export`: a recording for other programs.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::{
    WrongWords,
    file::{Dir, Output, Unfinished},
    live::{Model, Replayed},
    page, tail,
    trouble::{unread, unwritten},
};
use crate::{
    cli::{self, ExportFormat},
    export::{
        Context, Export,
        parquet::{Parquet, TABLES},
        perfetto::Perfetto,
    },
    world::Options,
};

/// Writes it in another format.
pub fn run(args: &cli::Export) -> anyhow::Result<ExitCode> {
    match args.format {
        ExportFormat::Json => written(args, None, &mut |mut out, name| {
            tail::export(&args.file, &mut |text| {
                let written = out.write_all(text.as_bytes());
                text.clear();
                written.map_err(unwritten).with_context(|| name.to_owned())
            })?;
            out.flush()
                .map_err(unwritten)
                .with_context(|| name.to_owned())
        })?,
        ExportFormat::Perfetto => written(args, Some("a Perfetto trace"), &mut |out, name| {
            export(&args.file, &mut Perfetto::new(BufWriter::new(out)), name)
        })?,
        ExportFormat::Parquet => parquet(args)?,
        ExportFormat::Html => written(args, None, &mut |mut out, name| {
            page::export(&args.file, &mut out, name)?;
            out.flush()
                .map_err(unwritten)
                .with_context(|| name.to_owned())
        })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes to something of that name.
type Write<'w> = dyn FnMut(Box<dyn io::Write>, &str) -> anyhow::Result<()> + 'w;

/// Has it written to a file, which is there when it is whole, or to standard output; `what`
/// it is, if that is not for a terminal.
fn written(args: &cli::Export, what: Option<&str>, write: &mut Write<'_>) -> anyhow::Result<()> {
    let path = args.output.as_deref().unwrap_or(Path::new("-"));
    if path == Path::new("-") && what.is_none() {
        return write(Box::new(io::stdout().lock()), "standard output");
    }
    readable(args)?;
    let mut output = Output::open_whole(path, what.unwrap_or("this"))?;
    output.is_not(&args.file)?;
    let name = output.name().to_owned();
    output
        .begin()
        .map_err(unwritten)
        .with_context(|| name.clone())?;
    write(output.writer().with_context(|| name.clone())?, &name)?;
    output.finish().map_err(unwritten).context(name)
}

fn parquet(args: &cli::Export) -> anyhow::Result<()> {
    let path = args.output.as_deref();
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        bail!(WrongWords(
            "parquet is several files: say -o DIR".to_owned()
        ));
    };
    readable(args)?;
    let dir = Dir::open(path)?;
    let name = dir.name();
    let mut made = Vec::new();
    for table in TABLES {
        let file = dir.make(&format!("{table}.parquet"));
        made.push(file.map_err(unwritten).with_context(|| name.to_owned())?);
    }
    // The writers have what they write gather themselves.
    let files: Result<Vec<File>, _> = made.iter().map(Unfinished::file).collect();
    let files = files.with_context(|| name.to_owned())?;
    let Ok(files) = <[File; TABLES.len()]>::try_from(files) else {
        bail!("{name}: a file is missing");
    };
    let tables = Parquet::new(files).map_err(unwritten);
    let mut tables = tables.with_context(|| name.to_owned())?;
    export(&args.file, &mut tables, name)?;
    made.into_iter()
        .try_for_each(Unfinished::finish)
        .map_err(unwritten)
        .with_context(|| name.to_owned())
}

/// Whether there is something to be read, before what is there already goes.
fn readable(args: &cli::Export) -> anyhow::Result<()> {
    if args.file == Path::new("-") {
        return Ok(());
    }
    let metadata = fs::metadata(&args.file);
    metadata
        .map(drop)
        .map_err(unread)
        .with_context(|| args.file.display().to_string())
}

/// Tells somebody, who writes it to what has that name, all that a recording has.
fn export(path: &Path, to: &mut dyn Export, name: &str) -> anyhow::Result<()> {
    let model = Model::replay(path, Options::default(), &mut |model, replayed| {
        let context = context(model);
        match replayed {
            Replayed::Head(head) => to.head(head),
            Replayed::Facts(facts) => {
                to.facts(facts.clone());
                Ok(())
            }
            Replayed::Damage(_) => Ok(()),
            Replayed::State(found) => to.changes(found, &context),
            Replayed::Event(event, changes) => match changes.is_empty() {
                true => to.event(event, &context),
                false => to
                    .changes(changes, &context)
                    .and_then(|()| to.event(event, &context)),
            },
        }
        .map_err(unwritten)
        .with_context(|| name.to_owned())
    })?;
    let finished = to.finish(&context(&model)).map_err(unwritten);
    finished.with_context(|| name.to_owned())
}

fn context(model: &Model) -> Context<'_> {
    Context {
        now_ns: model.now(),
        wall_offset_ns: model.wall_offset_ns(),
        cgroups: &model.cgroups,
        names: &model.names,
        world: &model.world,
    }
}
