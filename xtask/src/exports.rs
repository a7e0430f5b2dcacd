//! What `nstrace export` makes, looked at by others: tables by DuckDB and pyarrow, traces by
//! Perfetto's schema, the page by Chromium.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{build, cache, packages, process, project};

/// From PyPI, into a directory of our own.
const PYTHON: [&str; 4] = [
    "duckdb==2.0.1",
    "perfetto==0.59.1",
    "protobuf==7.36.2",
    "pyarrow==26.0.1",
];

/// The recording that lies in testdata.
const RECORDING: &str = "nstrace/testdata/traces/v1.nst";

/// So many operations must be quick to look at in a page:
const OPERATIONS: u32 = 100_000;

/// 2 s on a machine that has nothing else to do; here it has.
const OPENS_WITHIN_MS: &str = "10000";

/// So many are compared one by one.
const COMPARED: u32 = 20_000;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Tables and traces.
    Exports,
    /// The page.
    Page,
    /// Recordings, by a reader of another hand.
    Format,
}

impl Check {
    /// All of them.
    pub const ALL: [Check; 3] = [Check::Exports, Check::Page, Check::Format];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Check::Exports => "check exports",
            Check::Page => "check page",
            Check::Format => "check format",
        }
    }

    /// Runs it, on a recording of a real machine and on a large one.
    pub fn run(self) -> Result<()> {
        let nstrace = nstrace()?;
        match self {
            Check::Exports => {
                let large = large(COMPARED)?;
                let python = python()?;
                let check = |words: &[&Path]| {
                    let mut command = Command::new(&python);
                    command.arg("xtask/export-check.py").arg(&nstrace);
                    run(command.args(words))
                };
                // Of that, a part is left out.
                check(&[Path::new("--part"), Path::new(RECORDING)])?;
                check(&[&large])
            }
            Check::Page => {
                browser()?;
                let large = large(OPERATIONS)?;
                for (recording, name) in [(Path::new(RECORDING), "page"), (&large, "large-page")] {
                    let out = project::root().join("target").join(name);
                    let mut command = process::command("python3");
                    command.arg("xtask/page-check.py").arg(&nstrace);
                    run(command.arg(recording).arg(out).arg(OPENS_WITHIN_MS))?;
                }
                Ok(())
            }
            Check::Format => {
                let mut command = process::command("python3");
                command.arg("xtask/trace-reader.py").arg(&nstrace);
                run(command.arg(RECORDING).arg(large(COMPARED)?))
            }
        }
    }
}

/// Runs a check, which says in lines what is wrong.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .current_dir(project::root())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", process::describe(command)))?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}\n{text}", process::describe(command), output.status);
    }
    Ok(())
}

/// The program as the unit tests have it.
fn nstrace() -> Result<PathBuf> {
    process::run(build::cargo("build").args(["--quiet", "--package", "nstrace"]))?;
    Ok(project::root().join("target/debug/nstrace"))
}

/// A recording with so many operations.
fn large(operations: u32) -> Result<PathBuf> {
    let path = project::root().join(format!("target/large-{operations}.nst"));
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    let mut command = build::cargo("run");
    command.args(["--quiet", "--package", "nstrace", "--example", "recording"]);
    command.args(["--", &operations.to_string()]);
    let status = command.stdout(file).status()?;
    if !status.success() {
        bail!("{}: {status}", process::describe(&command));
    }
    Ok(path)
}

/// A Python that has what the check of exports needs.
fn python() -> Result<PathBuf> {
    let dir = cache::dir()?.join("exports");
    let (python, done) = (dir.join("bin/python"), dir.join("installed"));
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == PYTHON.join(" ")) {
        return Ok(python);
    }
    let _lock = cache::lock("exports")?;
    if process::output(process::command("python3").args(["-c", "import ensurepip"])).is_err() {
        packages::install(
            &["python3-venv"],
            "what checks exports is installed with pip",
        )?;
    }
    eprintln!(
        "xtask: installing {} into {}",
        PYTHON.join(" "),
        dir.display()
    );
    process::output(process::command("python3").args(["-m", "venv"]).arg(&dir))?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    process::output(pip.args(PYTHON))?;
    std::fs::write(&done, PYTHON.join(" "))?;
    Ok(python)
}

/// Installs a browser, if there is none.
fn browser() -> Result<()> {
    if process::find("chromedriver").is_none() || process::find("chromium").is_none() {
        packages::install(
            &["chromium", "chromium-driver"],
            "the page is tried out in it",
        )?;
    }
    Ok(())
}
