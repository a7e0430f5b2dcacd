//! What the ledger of write access costs: a file is opened for appending, appended to and
//! closed, on a file system that is watched and on one that is not.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::clock::{self, sleep_ms};
use super::tracer::wait_for_ready;

/// So often, after as often to warm up.
const ROUNDS: u32 = 2000;

const WATCHED: &str = "/run/nstrace-bench-watched";
const OTHER: &str = "/run/nstrace-bench-other";

/// Prints a line for each way of attaching: nanoseconds of the CPU for a round, which are
/// instructions in a guest that counts them. What nstrace does meanwhile, which is to name the
/// functions of stacks that are new, is not in them.
pub fn measure() -> Result<()> {
    for dir in [WATCHED, OTHER] {
        fs::create_dir_all(dir)?;
        let mount = ["-t", "tmpfs", "nstrace-bench", dir];
        let status = Command::new("mount").args(mount).status()?;
        anyhow::ensure!(status.success(), "{dir}: no tmpfs can be mounted");
    }
    sleep_ms(super::SETTLE_MS);
    let off = [append(WATCHED)?, append(OTHER)?];
    println!("off: watched {}, other {}", off[0], off[1]);
    for attach in ["fentry", "kprobe"] {
        let mut tracer = start(attach)?;
        sleep_ms(super::SETTLE_MS);
        let on = [append(WATCHED)?, append(OTHER)?];
        tracer.kill()?;
        tracer.wait()?;
        sleep_ms(super::SETTLE_MS);
        let percent = |at: usize| 100.0 * f64::from(on[at]) / f64::from(off[at]);
        println!(
            "{attach}: watched {} ({:.0} %), other {} ({:.1} %)",
            on[0],
            percent(0),
            on[1],
            percent(1),
        );
    }
    Ok(())
}

fn start(attach: &str) -> Result<Child> {
    let mut command = Command::new("nstrace");
    command.args(["writers", "--mount", WATCHED, "--attach", attach]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut tracer = command.spawn().context("nstrace: cannot be started")?;
    let stderr = tracer.stderr.take().context("no stderr")?;
    wait_for_ready(&mut std::io::BufReader::new(stderr))?;
    Ok(tracer)
}

fn append(dir: &str) -> Result<u32> {
    let path = format!("{dir}/file");
    let round = || -> Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        file.write_all(b"x")?;
        Ok(())
    };
    for _ in 0..ROUNDS {
        round()?;
    }
    let began = clock::own_and_children_ns()?;
    for _ in 0..ROUNDS {
        round()?;
    }
    let took = clock::own_and_children_ns()? - began;
    Ok(u32::try_from(took / u64::from(ROUNDS))?)
}
