//! The nstrace command: the words, the exit code, and nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use nstrace::{cli::Cli, cmd};

fn main() -> ExitCode {
    // Words that are wrong end here, with 2.
    let cli = Cli::parse();
    match cmd::run(cli) {
        Ok(code) => code,
        Err(error) if cmd::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nstrace: {}", cmd::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
