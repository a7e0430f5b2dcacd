//! `nstrace export`: a recording for other programs.

use std::{
    fs::{self, Metadata},
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::{
    file::Output,
    live::{Model, Replayed},
    tail,
};
use crate::{
    cli::{self, ExportFormat},
    export::{Context, Export, perfetto::Perfetto},
};

/// Writes it in another format.
pub fn run(args: &cli::Export) -> anyhow::Result<ExitCode> {
    match args.format {
        ExportFormat::Json => json(args)?,
        ExportFormat::Perfetto => {
            let path = args.output.as_deref().unwrap_or(Path::new("-"));
            let mut output = Output::open(path, "a Perfetto trace")?;
            begin(&mut output, args)?;
            let name = output.name().to_owned();
            let mut trace = Perfetto::new(BufWriter::new(output));
            export(&args.file, &mut trace, &name)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn json(args: &cli::Export) -> anyhow::Result<()> {
    let (mut out, name) = output(args)?;
    tail::export(&args.file, &mut |text| {
        let written = out.write_all(text.as_bytes());
        text.clear();
        written.context(name.clone())
    })?;
    out.flush().context(name)
}

/// Where JSON goes, and what that is called.
fn output(args: &cli::Export) -> anyhow::Result<(Box<dyn Write>, String)> {
    let Some(path) = args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"))
    else {
        return Ok((Box::new(io::stdout().lock()), "standard output".to_owned()));
    };
    let mut output = Output::open(path, "this")?;
    begin(&mut output, args)?;
    let name = output.name().to_owned();
    Ok((Box::new(output), name))
}

/// Makes room in a file, unless there is nothing to read, or it is what is read.
fn begin(output: &mut Output, args: &cli::Export) -> anyhow::Result<()> {
    let name = output.name().to_owned();
    if args.file != Path::new("-") {
        let recording = fs::metadata(&args.file);
        let recording = recording.with_context(|| args.file.display().to_string())?;
        let own = output.metadata().with_context(|| name.clone())?;
        let which = |file: &Metadata| (file.dev(), file.ino());
        if own.is_some_and(|own| which(&own) == which(&recording)) {
            bail!("{name}: this is the recording itself: say another -o");
        }
    }
    output.begin().context(name)
}

/// Tells somebody, who writes it to what has that name, all that a recording has.
fn export(path: &Path, to: &mut dyn Export, name: &str) -> anyhow::Result<()> {
    let model = Model::try_replay(path, &mut |model, replayed| {
        let context = context(model);
        match replayed {
            Replayed::Head(head) => to.head(head),
            Replayed::Facts(facts) => {
                to.facts(facts);
                Ok(())
            }
            Replayed::Changes(changes) => to.changes(changes, &context),
            Replayed::Event(event) => to.event(event, &context),
        }
        .with_context(|| name.to_owned())
    })?;
    to.finish(&context(&model)).with_context(|| name.to_owned())
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
