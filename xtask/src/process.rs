//! Running other programs: one way to find them, one way to report that they
//! failed.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// How many lines of a failed program's complaint an error repeats.
const LINES_OF_COMPLAINT: usize = 5;

/// The path of a program, on PATH or in the sbin directories that a user's
/// PATH often lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a program whose output belongs on the terminal; its stdout goes to our
/// stderr, because our own stdout is for results.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{}: {status}; its own words are above", describe(command));
    }
    Ok(())
}

/// Runs a program for its stdout. A failure repeats the last lines of its
/// stderr.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = try_output(command)?;
    if !output.status.success() {
        bail!("{}: {}", describe(command), complaint(&output));
    }
    Ok(output.stdout)
}

/// The same, for a program that prints text.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Runs a program whose failure is for the caller to judge.
pub fn try_output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", describe(command)))
}

/// The exit status and the end of what a failed program wrote to stderr, in
/// one line.
pub fn complaint(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES_OF_COMPLAINT)..];
    match last {
        [] => output.status.to_string(),
        _ => format!("{}: {}", output.status, last.join("; ")),
    }
}

/// The program and its arguments, to name it in a message.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A program by its full path if it can be found, else by its name, for the
/// error of starting it to say so.
pub fn command(program: &str) -> Command {
    match find(program) {
        Some(path) => Command::new(path),
        None => Command::new(program),
    }
}

/// Decompresses a file with the tool that its name asks for; other files are
/// read as they are.
pub fn decompress(file: &Path) -> Result<Vec<u8>> {
    let tool = match file.extension().and_then(OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        Some("lz4") => "lz4",
        _ => {
            return std::fs::read(file).with_context(|| format!("{}: cannot read", file.display()));
        }
    };
    output(command(tool).arg("-dcq").arg(file))
}
