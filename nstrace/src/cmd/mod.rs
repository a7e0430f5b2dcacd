//! The commands: each composes the pure parts and the kernel, prints, and decides the
//! exit code.

mod child;
mod cut;
mod diff;
mod dir;
mod doctor;
mod export;
mod file;
mod leaks;
mod live;
mod looks;
mod model;
mod mounts;
mod output;
mod page;
mod record;
mod recording;
mod report;
mod signals;
mod tail;
mod tree;
mod trouble;
mod why;
mod writers;

use std::{ffi::OsStr, io, process::ExitCode};

use anyhow::Context as _;
use clap::CommandFactory as _;

use self::{child::NoCommand, output::say};
use crate::cli::{Cli, Command};

/// Does what the command line says.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        None => tail::run(cli.tail),
        Some(Command::Tail(tail)) => tail::run(tail),
        Some(Command::Tree(tree)) => tree::run(tree),
        Some(Command::Why(why)) => why::run(&why),
        Some(Command::Leaks(leaks)) => leaks::run(&leaks),
        Some(Command::Mounts(args)) => mounts::run(&args),
        Some(Command::Record(record)) => record::run(record),
        Some(Command::Report(args)) => report::run(&args),
        Some(Command::Diff(args)) => diff::run(&args),
        Some(Command::Cut(args)) => cut::cut(&args),
        Some(Command::Cat(args)) => cut::cat(&args),
        Some(Command::Export(args)) => export::run(&args),
        Some(Command::Writers(args)) => writers::run(args),
        Some(Command::Doctor(doctor)) => doctor::run(&doctor),
    }
}

/// What clap has to say instead of a command: help, or what is wrong with the words, in
/// one line and with exit code 2.
pub fn no_command(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Who closed it does not want to hear.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // Behind options there is no command.
    let first = std::env::args_os().nth(1).unwrap_or_default();
    say(&in_one_line(&error.to_string(), &first));
    ExitCode::from(WRONG_WORDS)
}

/// What clap says in several lines of words of which that is the first.
fn in_one_line(text: &str, first: &OsStr) -> String {
    let lines = text.lines().map(str::trim);
    let mut parts = lines.take_while(|line| !line.starts_with("Usage:"));
    let mut line = parts.next().unwrap_or_default().to_owned();
    for part in parts.filter(|part| !part.is_empty() && !part.starts_with("For more")) {
        line += if part.starts_with('-') || line.ends_with(':') {
            " "
        } else {
            "; "
        };
        line += part;
    }
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    match Cli::command().find_subcommand(first) {
        Some(command) => format!("{line} (nstrace {} --help)", command.get_name()),
        None => format!("{line} (nstrace --help)"),
    }
}

/// Words that do not go together, as far as clap cannot know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongWords(String);

/// Says what failed, unless that is that nobody reads the output any more; gives the exit code.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    say(&one_line(error));
    match error.downcast_ref() {
        Some(NoCommand { code, .. }) => ExitCode::from(*code),
        None if error.is::<WrongWords>() => ExitCode::from(WRONG_WORDS),
        None => ExitCode::FAILURE,
    }
}

const WRONG_WORDS: u8 = 2;

/// Runs what waits for several things at once.
fn block_on<T>(run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no event loop")?
        .block_on(run)
}

/// Whether an error is that nobody reads the output any more, which is none.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// An error with its causes, in one line.
fn one_line(error: &anyhow::Error) -> String {
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn wrong_words_are_told_in_one_line() {
        let cases: [(&[&str], &str); 4] = [
            (
                &["tree", "--kind", "foo"],
                "invalid value 'foo' for '--kind <KIND,…>': there is no such kind of \
                 namespaces; there are: mnt uts ipc pid net user cgroup time (nstrace tree --help)",
            ),
            (
                &["tree", "--pid"],
                "a value is required for '--pid <PID>' but none was supplied (nstrace tree --help)",
            ),
            (
                &["why"],
                "the following required arguments were not provided: \
                 <KIND:INUM|PID|CONTAINER> (nstrace why --help)",
            ),
            (
                &["trea"],
                "unexpected argument 'trea' found (nstrace --help)",
            ),
        ];
        for (words, expected) in cases {
            let error = Cli::try_parse_from(["nstrace"].iter().chain(words));
            let error = error.expect_err("wrong words").to_string();
            assert_eq!(in_one_line(&error, OsStr::new(words[0])), expected);
        }
    }

    #[test]
    fn the_help_has_every_operation_that_the_error_has() {
        let error = Cli::try_parse_from(["nstrace", "report", "--op", "foo", "a.nst"]);
        let error = error.expect_err("there is none").to_string();
        let error = in_one_line(&error, OsStr::new("report"));
        let names = error.split("there are: ").nth(1).expect("a list");
        let names = names.trim_end_matches(" (nstrace report --help)");
        let help = Cli::try_parse_from(["nstrace", "report", "--help"]);
        let help = help.expect_err("help is one").to_string();
        let line = help.lines().find(|line| line.contains("--op <OP"));
        let words: Vec<&str> = line.expect("it is there").split([' ', ';']).collect();
        for name in names.split(' ') {
            assert!(words.contains(&name), "{name}");
        }
    }

    /// [`ExitCode`] cannot be compared.
    fn is_wrong_words(words: &[&str]) -> bool {
        match Cli::try_parse_from(["nstrace"].iter().chain(words)) {
            Err(error) => error.use_stderr(),
            Ok(cli) => run(cli).is_err_and(|error| error.is::<WrongWords>()),
        }
    }

    #[test]
    fn words_that_do_not_go_together_are_told_from_what_fails() {
        let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/traces/v1.nst");
        for words in [
            &["tree", "--at", "+1s"][..],
            &["tree", "--at", "-1s", "--from", "-"],
            &["record", "-o", "x.nst", "--keep", "2"],
            &["record", "-o", "-", "--rotate", "1M"],
            &["record", "-o", "..", "--flight", "1s"],
            &["record", "-o", "x.nst", "--flight", "1s", "--rotate", "1M"],
            &["writers", "--now", "--all", "--duration", "1s"],
            &["writers", "--now", "--all", "--", "true"],
            &["writers", "--now", "--from", recording],
            &["writers", "--now", "--all", "--attach", "kprobe"],
            &["cat", "-", "-", "-o", "/dev/null"],
            &["cut", recording, "-o", recording],
            &[
                "cut",
                recording,
                "--from",
                "-0.1s",
                "--to",
                "+0.1s",
                "-o",
                "/dev/null",
            ],
            &["diff", "-", "-"],
            &["diff", "-", "--at", "+1s"],
            &["export", recording, "--format", "parquet"],
        ] {
            assert!(is_wrong_words(words), "{words:?}");
        }
        for words in [
            &["tree", "--from", "/there/is/none"][..],
            &["tree", "--from", recording, "--at", "+1h"],
            &["why", "net:1", "--from", recording],
            &["cat", recording, recording, "-o", "/dev/null"],
            &["record", "-o", "/there/is/none.nst"],
        ] {
            assert!(!is_wrong_words(words), "{words:?}");
        }
    }
}
