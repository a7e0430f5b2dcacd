//! The words on the command line, and what each starts.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::archive::Found;
use crate::qemu::Machine;
use crate::vm::{self, Guest, Outcome};
use crate::{bench, btf, build, demo, kbuild, kernel, setup, test};

/// The status when there was no guest to run the command in.
const NO_GUEST: u8 = 125;

/// Sets up, builds and tests nstrace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing
    Setup,
    /// Boot a kernel and run a command, or a shell, in it
    Vm(VmArgs),
    /// Build nstrace, one static binary
    Build {
        /// Optimised and stripped
        #[arg(long)]
        release: bool,
    },
    /// Check format and lints, run all tests, here and in guests
    Test(TestArgs),
    /// Measure what nstrace costs, beside bpftrace, and hold it against the budgets
    Bench(BenchArgs),
    /// Show nstrace trace the start of a container, in a guest
    Demo,
    /// Get the kernels of the matrix, and say where they are
    Kernels,
    /// Build the tests' kernel modules for the matrix, and say where they are
    Modules,
    /// Make nstrace's test data anew: what it reads of each kernel's BTF
    Btf,
}

#[derive(Args)]
struct TestArgs {
    /// Only on this series (can be repeated)
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// Only this way of attaching
    #[arg(long, value_parser = test::ATTACH)]
    attach: Option<String>,
    /// No guests
    #[arg(long)]
    no_vm: bool,
    /// Only guests
    #[arg(long)]
    no_host: bool,
    /// Say what would run, and run nothing
    #[arg(long)]
    list: bool,
    /// A million inputs for each fuzz target, not half a minute
    #[arg(long)]
    long: bool,
    /// Only tests whose name contains this
    name: Option<String>,
}

#[derive(Args)]
struct BenchArgs {
    /// A series (6.12), `newest`, or a version (6.1.0-56)
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Of the guest (can be repeated: the figures are medians)
    #[arg(long, value_name = "N", default_value = "1")]
    seed: Vec<u64>,
    /// Measure this nstrace instead of building one
    #[arg(long, value_name = "FILE")]
    nstrace: Option<PathBuf>,
    /// How fast recordings are read, beside those of perf and trace-cmd of the same load
    #[arg(long, conflicts_with_all = ["seed", "nstrace"])]
    readers: bool,
}

#[derive(Args)]
struct VmArgs {
    /// A series (6.12), `newest`, or a version (6.1.0-56)
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Memory in MB
    #[arg(long, value_name = "MB", default_value_t = 1024)]
    mem: u32,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Seconds after which the guest counts as hung
    #[arg(long, value_name = "S", default_value_t = 300)]
    timeout: u64,
    /// Copy a file or a tree into the guest, a program with its libraries
    #[arg(long, value_name = "HOST:GUEST", value_parser = parse_add)]
    add: Vec<(PathBuf, String)>,
    /// Insert a module and what it depends on; one of the tests' own is built
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Put the modules of the tests into the guest, uninserted: /usr/lib/nstrace/modules
    #[arg(long)]
    test_modules: bool,
    /// Count instructions instead of time, with this seed
    #[arg(long, value_name = "SEED")]
    icount: Option<u64>,
    /// What to run as root; one word is a script for sh. Without it, the script on
    /// stdin, or a shell if stdin is a terminal
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn parse_add(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once(':') {
        Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => {
            Ok((PathBuf::from(host), guest.to_owned()))
        }
        _ => Err("not of the form HOST:GUEST with an absolute GUEST".to_owned()),
    }
}

/// Does what the command line asks.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Setup => setup::all().map(|()| ExitCode::SUCCESS),
        Command::Vm(args) => run_vm(args),
        Command::Build { release } => run_build(release),
        Command::Test(args) => run_test(args),
        Command::Bench(args) => run_bench(args),
        Command::Demo => Ok(code_of(demo::run()?)),
        Command::Kernels => print_kernels(),
        Command::Modules => print_modules(),
        Command::Btf => make_testdata(),
    }
}

fn run_vm(args: VmArgs) -> Result<ExitCode> {
    setup::guests()?;
    let command = command_of(&args.command)?;
    let kernel = kernel::get(&args.kernel)?;
    let mut adds = args.add;
    let mut modules = Vec::new();
    for name in args.module {
        match kbuild::own(&name) {
            Some(own) => adds.push(kbuild::inserted(&kernel, own)?),
            None => modules.push(name),
        }
    }
    if args.test_modules {
        adds.extend(kbuild::for_tests(&kernel, &kbuild::names(), false)?);
    }
    let guest = Guest {
        kernel,
        machine: Machine {
            memory_mb: args.mem,
            cpus: args.cpus,
            icount_seed: args.icount,
        },
        timeout: Duration::from_secs(args.timeout),
        adds,
        modules,
        command,
    };
    Ok(code_of(vm::run(
        &guest,
        &mut io::stdout(),
        &mut io::stderr(),
    )?))
}

/// The script to run: the words as sh needs them, or what is on stdin; None for an
/// interactive shell, if stdin is a terminal.
fn command_of(words: &[String]) -> Result<Option<String>> {
    match words {
        [] if io::stdin().is_terminal() => Ok(None),
        [] => Ok(Some(
            io::read_to_string(io::stdin()).context("stdin: cannot read a script")?,
        )),
        [script] => Ok(Some(script.clone())),
        words => {
            let quoted: Vec<String> = words.iter().map(|word| vm::quote(word)).collect();
            Ok(Some(quoted.join(" ")))
        }
    }
}

fn code_of(outcome: Outcome) -> ExitCode {
    match outcome {
        // The guest's shell reports 0 to 255.
        Outcome::Exit(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Outcome::Failed(failure) => {
            eprintln!("xtask: {failure}");
            if failure.is_guests {
                ExitCode::FAILURE
            } else {
                ExitCode::from(NO_GUEST)
            }
        }
    }
}

fn run_build(release: bool) -> Result<ExitCode> {
    setup::all()?;
    for program in build::build(&[build::NSTRACE], release)? {
        println!("{}", build::describe(&program)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn run_test(args: TestArgs) -> Result<ExitCode> {
    let options = test::Options {
        kernels: args.kernel,
        attach: args.attach,
        host: !args.no_host,
        vm: !args.no_vm,
        name: args.name,
        long: args.long,
    };
    if args.list {
        test::list(&options)?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(if test::run(&options)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn make_testdata() -> Result<ExitCode> {
    setup::guests()?;
    btf::make_testdata().map(|()| ExitCode::SUCCESS)
}

fn run_bench(args: BenchArgs) -> Result<ExitCode> {
    if args.readers {
        return bench::readers::run(&args.kernel).map(|()| ExitCode::SUCCESS);
    }
    let options = bench::Options {
        kernel: args.kernel,
        seeds: args.seed,
        nstrace: args.nstrace,
    };
    Ok(if bench::run(&options)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print_modules() -> Result<ExitCode> {
    setup::guests()?;
    println!("{:8} {:12} MODULE", "SERIES", "VERSION");
    let mut code = ExitCode::SUCCESS;
    let mut complain = |error: anyhow::Error| {
        eprintln!("xtask: {error:#}");
        code = ExitCode::FAILURE;
    };
    for series in kernel::MATRIX {
        let kernel = match kernel::get(series) {
            Ok(kernel) => kernel,
            Err(error) => {
                complain(error);
                continue;
            }
        };
        for module in kbuild::MODULES {
            let version = kernel.version();
            match kbuild::build(&kernel, module) {
                Ok(Found::At(file)) => println!("{series:8} {version:12} {}", file.display()),
                Ok(Found::Absent(why)) => {
                    println!("{series:8} {version:12} no {}: {why}", module.name);
                }
                Err(error) => complain(error),
            }
        }
    }
    Ok(code)
}

fn print_kernels() -> Result<ExitCode> {
    setup::guests()?;
    println!("{:8} {:12} KERNEL, BTF", "SERIES", "VERSION");
    let mut code = ExitCode::SUCCESS;
    for series in kernel::MATRIX {
        match kernel::get(series) {
            Ok(kernel) => {
                let (vmlinux, btf) = (kernel.vmlinux(), btf::raw_btf(series)?);
                println!("{series:8} {:12} {}", kernel.version(), vmlinux.display());
                println!("{:21} {}", "", btf.display());
            }
            Err(error) => {
                eprintln!("xtask: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}
