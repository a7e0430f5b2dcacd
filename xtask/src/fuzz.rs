//! The fuzz targets, built and run as `cargo fuzz` would without a sanitizer: it is what
//! overflows and panics that is looked for, there is next to no unsafe code in what reads.
//!
//! With flags that a stable compiler knows, so that nothing has to be installed. By hand
//! `cargo fuzz` does the same and more (CONTRIBUTING.md).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::project::{self, TARGET};
use crate::{build, process};

/// The targets, and what each may take of memory at most, in MB; the longest input; known
/// inputs to begin with.
pub const TARGETS: [Target; 3] = [
    Target {
        name: "decode",
        memory_mb: 256,
        len_max: 1536,
        seeds: None,
    },
    Target {
        name: "btf",
        memory_mb: 512,
        len_max: 8192,
        seeds: Some("nstrace/testdata/btf"),
    },
    Target {
        name: "trace",
        memory_mb: 512,
        len_max: 8192,
        seeds: Some("nstrace/testdata/traces"),
    },
];

/// A fuzz target.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    memory_mb: u32,
    len_max: u32,
    seeds: Option<&'static str>,
}

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub enum Effort {
    /// So many seconds.
    Seconds(u32),
    /// So many inputs.
    Runs(u32),
}

/// What libFuzzer wants to know of a program: which branches it took, and what it compared.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Cdebug-assertions -Coverflow-checks -Ccodegen-units=4 -Cpanic=abort";

fn dir() -> PathBuf {
    project::root().join("target/fuzz")
}

/// Builds all of them. The kernel side is not needed.
pub fn build() -> Result<()> {
    let mut command = build::cargo("build");
    command
        .args([
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
            "fuzz/Cargo.toml",
        ])
        .args(["--target", TARGET])
        // Half the time to build, and fast enough.
        .args(["--config", "profile.release.opt-level=1"])
        .env("CARGO_TARGET_DIR", dir())
        .env("AYA_BUILD_SKIP", "1")
        .env("RUSTFLAGS", FLAGS);
    process::run(&mut command)
}

/// Runs one; says what it found, if it did.
pub fn run(target: &Target, effort: Effort) -> Result<()> {
    let Target {
        name,
        memory_mb,
        len_max,
        seeds,
    } = target;
    let (work, found) = (dir().join("corpus").join(name), dir().join("found/"));
    for dir in [&work, &found] {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let mut command = Command::new(dir().join(TARGET).join("release").join(name));
    command
        .current_dir(project::root())
        .arg(format!("-rss_limit_mb={memory_mb}"))
        .arg(format!("-max_len={len_max}"))
        .arg(format!("-artifact_prefix={}", found.display()))
        .args(["-timeout=20", "-verbosity=0"]);
    command.arg(match effort {
        Effort::Seconds(seconds) => format!("-max_total_time={seconds}"),
        Effort::Runs(runs) => format!("-runs={runs}"),
    });
    command.arg(work).args(*seeds).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("fuzz target {name}: cannot run"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n");
        bail!(
            "fuzz target {name}: {}; the input is in {}\n{last}",
            output.status,
            found.display()
        );
    }
    Ok(())
}
