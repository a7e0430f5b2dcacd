//! The commands: each composes the pure parts and the kernel, prints, and decides the
//! exit code.

mod child;
mod doctor;
mod leaks;
mod live;
mod output;
mod signals;
mod tail;
mod tree;
mod why;

use std::{io, process::ExitCode};

use anyhow::Context as _;

use crate::cli::{Cli, Command};

/// Does what the command line says.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        None => tail::run(cli.tail),
        Some(Command::Tail(tail)) => tail::run(tail),
        Some(Command::Tree(tree)) => tree::run(tree),
        Some(Command::Why(why)) => why::run(&why),
        Some(Command::Leaks(leaks)) => leaks::run(&leaks),
        Some(Command::Doctor(doctor)) => doctor::run(&doctor),
    }
}

/// Runs what waits for several things at once.
fn block_on(run: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no event loop")?
        .block_on(run)
}

/// Whether an error is that nobody reads the output any more, which is none.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// An error with its causes, in one line.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.replace('\n', " "));
    }
    text
}
