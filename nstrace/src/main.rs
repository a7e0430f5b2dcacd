//! The nstrace command: the words, the exit code, and nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use nstrace::{cli::Cli, cmd};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cmd::no_command(&error),
    };
    match cmd::run(cli) {
        Ok(code) => code,
        Err(error) if cmd::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nstrace: {}", cmd::one_line(&error));
            cmd::code_of(&error)
        }
    }
}
