//! What runs inside a guest, as root: a load that does known operations and writes
//! down what it did, and the tests that hold what nstrace says against that.

mod act;
mod bench;
mod book;
mod checks;
mod harness;
mod keeper;
mod kinds;
mod left;
mod load;
mod procfs;
mod recorder;
mod rng;
mod sys;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tests nstrace inside a guest.
#[derive(Parser)]
#[command(name = "nstrace-guest")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Do known operations and write down what was done
    Load(load::LoadArgs),
    /// Run the tests
    Test(checks::TestArgs),
    /// Do one operation again and again, and print what it costs
    #[command(subcommand)]
    Bench(bench::Bench),
    /// What the tests have done in processes of their own
    #[command(subcommand, hide = true)]
    Act(act::Act),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(args) => load::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(bench) => bench::run(&bench).map(|()| ExitCode::SUCCESS),
        Command::Act(act) => act::run(&act).map(|()| ExitCode::SUCCESS),
        Command::Test(args) => checks::run(&args).map(|is_good| match is_good {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }),
    };
    result.unwrap_or_else(|error| {
        eprintln!("nstrace-guest: {error:#}");
        ExitCode::FAILURE
    })
}
