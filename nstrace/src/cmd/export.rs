//! `nstrace export`: a recording for other programs.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;

use super::{file::Output, page, tail};
use crate::cli::{Export, ExportFormat};

/// Writes it in another format.
pub fn run(args: &Export) -> anyhow::Result<ExitCode> {
    let (mut out, name) = output(args)?;
    match args.format {
        ExportFormat::Json => tail::export(&args.file, &mut |text| {
            let written = out.write_all(text.as_bytes());
            text.clear();
            written.context(name.clone())
        })?,
        ExportFormat::Html => page::export(&args.file, &mut out, &name)?,
    }
    out.flush().context(name)?;
    Ok(ExitCode::SUCCESS)
}

/// Where it goes, and what that is called.
fn output(args: &Export) -> anyhow::Result<(Box<dyn Write>, String)> {
    let Some(path) = args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"))
    else {
        return Ok((Box::new(io::stdout().lock()), "standard output".to_owned()));
    };
    let mut output = Output::open(path, "this")?;
    output.is_not(&args.file)?;
    let name = output.name().to_owned();
    output.begin().with_context(|| name.clone())?;
    Ok((Box::new(output), name))
}
