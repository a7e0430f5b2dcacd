//! Builds the binaries that we ship and test: static, for an explicit target.
//!
//! The flags go to the target only, by `--config`: in RUSTFLAGS of a build
//! without `--target` they would reach build scripts and proc macros too, and a
//! static proc macro cannot be loaded. An explicit target keeps the two apart.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::project::{self, TARGET};
use crate::{elf, process, toolchain};

/// The program that people run.
pub const NSTRACE: &str = "nstrace";

/// The program that tests it in guests.
pub const GUEST_PROGRAM: &str = "nstrace-guest";

/// Builds packages, each with one program of its name; returns the programs.
pub fn build(packages: &[&str], release: bool) -> Result<Vec<PathBuf>> {
    let mut command = cargo("build");
    command
        .args(["--quiet", "--target", TARGET])
        .arg("--config")
        .arg(static_config());
    command.env_remove("RUSTFLAGS");
    if release {
        command.arg("--release");
    }
    for package in packages {
        command.args(["--package", package]);
    }
    process::run(&mut command)?;
    let profile = if release { "release" } else { "debug" };
    let programs = packages.iter().map(|name| project::artefact(profile, name));
    let programs: Vec<PathBuf> = programs.collect();
    for program in &programs {
        check_static(program)?;
    }
    Ok(programs)
}

/// A cargo command in the project, that finds bpf-linker.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new("cargo");
    command
        .arg(subcommand)
        .current_dir(project::root())
        .env("PATH", toolchain::path());
    command
}

/// The size of a program, for a line about it.
pub fn describe(program: &Path) -> Result<String> {
    let size = fs::metadata(program)?.len();
    Ok(format!(
        "{}  {}.{} MB",
        program.display(),
        size / 1_000_000,
        size / 100_000 % 10
    ))
}

/// The user's own flags and ours; cargo takes flags from one place only.
fn static_config() -> String {
    let own = env::var("RUSTFLAGS").unwrap_or_default();
    let flags = own
        .split_whitespace()
        .chain(["-C", "target-feature=+crt-static"]);
    let quoted: Vec<String> = flags.map(|flag| format!("{flag:?}")).collect();
    format!("target.{TARGET}.rustflags=[{}]", quoted.join(","))
}

fn check_static(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("{}: cannot read", program.display()))?;
    if !elf::is_elf(&bytes) || elf::is_dynamic(&bytes) {
        bail!(
            "{}: not a static program, so it would not run in a guest; is there a `rustflags` \
             in a cargo configuration above this clone?",
            program.display()
        );
    }
    Ok(())
}
