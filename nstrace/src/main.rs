//! The nstrace command: the words, the exit code, and nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use nstrace::{cli::Cli, cmd};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cmd::no_command(&error),
    };
    cmd::run(cli).unwrap_or_else(|error| cmd::failed(&error))
}
