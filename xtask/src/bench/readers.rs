//! How fast recordings are read, beside what perf and trace-cmd record of the same load and
//! how fast they print it.
//!
//! Tracepoints need rights, and what is recorded needs a kernel that allows it: each records
//! in a guest of its own. What reads the recordings runs here, without a kernel.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kernel::{self, Kernel};
use crate::qemu::Machine;
use crate::vm::{self, Guest, Outcome};
use crate::{build, packages, process, project, setup};

/// On a busy machine: a guest takes a minute on an idle one.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The file is in it, and the rings.
const MEMORY_MB: u32 = 3072;

/// About a million events of perf's: a begin and an end of each call, and what forks
/// bring. Each load does as many operations to warm up.
const LOAD: &str = "for load in 'unshare 80000' 'setns 80000' 'fork 2000'; do
    nstrace-guest bench $load >&2
done";

const CALLS: [&str; 4] = ["clone", "clone3", "setns", "unshare"];

const TASKS: [&str; 3] = ["exit", "fork", "free"];

/// Who records: the option of the benchmark that takes the file, the program, and what it
/// is to be told before the file and behind it. The rings are so large that nothing is lost.
const RECORDERS: [(&str, &str, &str, &str); 3] = [
    ("--load", build::NSTRACE, "record --ring-size 64M -o", "--"),
    ("--perf", "perf", "record -q -a -m 8192 EVENTS -o", "--"),
    (
        "--trace-cmd",
        "trace-cmd",
        "record -q -b 200000 EVENTS -o",
        "",
    ),
];

/// Records, and runs the benchmark over it; the files stay.
pub fn run(series: &str) -> Result<()> {
    setup::all()?;
    for (program, package) in [("perf", "linux-perf"), ("trace-cmd", "trace-cmd")] {
        if process::find(program).is_none() {
            packages::install(&[package], "recordings are read beside its")?;
        }
    }
    let built = build::build(&[build::GUEST_PROGRAM, build::NSTRACE], true)?;
    let kernel = kernel::get(series)?;
    let dir = project::root().join("target/readers");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let mut bench = build::cargo("bench");
    bench.args([
        "--quiet",
        "--package",
        "nstrace",
        "--bench",
        "readers",
        "--",
    ]);
    for (option, program, record, behind) in RECORDERS {
        eprintln!("xtask: {program} records");
        let path = match program {
            build::NSTRACE => built.last().cloned(),
            _ => process::find(program),
        };
        let adds = [
            (
                built[0].clone(),
                format!("/usr/bin/{}", build::GUEST_PROGRAM),
            ),
            (
                path.with_context(|| format!("{program}: installed, and not there"))?,
                format!("/usr/bin/{program}"),
            ),
        ];
        let script = script(&format!("{program} {record} /tmp/recording {behind}"));
        let file = dir.join(program);
        recorded(&kernel, &adds, script, &file).with_context(|| program.to_owned())?;
        bench.arg(option).arg(file);
    }
    println!("Linux {}", kernel.version());
    let status = bench.status().context("cannot start cargo")?;
    if !status.success() {
        bail!("{}: {status}", process::describe(&bench));
    }
    Ok(())
}

/// Records the load, and prints the recording.
fn script(record: &str) -> String {
    let calls = CALLS
        .iter()
        .flat_map(|call| ["enter", "exit"].map(|end| format!("-e syscalls:sys_{end}_{call}")));
    let tasks = TASKS
        .iter()
        .map(|task| format!("-e sched:sched_process_{task}"));
    let events: Vec<String> = calls.chain(tasks).collect();
    let record = record.replace("EVENTS", &events.join(" "));
    let load = vm::quote(LOAD);
    format!("set -e; {record} sh -c {load} >&2; cat /tmp/recording")
}

fn recorded(kernel: &Kernel, adds: &[(PathBuf, String)], script: String, to: &Path) -> Result<()> {
    let guest = Guest {
        kernel: kernel.clone(),
        machine: Machine {
            memory_mb: MEMORY_MB,
            ..Machine::default()
        },
        timeout: TIMEOUT,
        adds: adds.to_vec(),
        modules: Vec::new(),
        command: Some(script),
    };
    let mut file = File::create(to).with_context(|| to.display().to_string())?;
    match vm::run(&guest, &mut file, &mut io::stderr())? {
        Outcome::Exit(0) => Ok(()),
        Outcome::Exit(code) => bail!("exit status {code}; its own words are above"),
        Outcome::Failed(failure) => bail!("{failure}"),
    }
}
