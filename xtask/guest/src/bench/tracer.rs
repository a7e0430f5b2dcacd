//! The tracers that are measured: how each is started, when it counts as attached,
//! and how many operations it reported.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::clock::{Pid, sleep_ms};
use crate::harness::tracer::Seen;
use crate::sys;

/// Where a tracer writes; a tmpfs, so that no disk counts.
const OUTPUT: &str = "/tmp/bench.out";

/// What bpftrace traces. Of these an unshare passes two, and so does a setns; a
/// plain fork passes none.
const FUNCTIONS: [&str; 4] = [
    "create_new_namespaces",
    "ksys_unshare",
    "__x64_sys_setns",
    "create_user_ns",
];

/// The one by which bpftrace's reports of a burst are counted.
const COUNTED: &str = "create_new_namespaces";

/// Longer than bpftrace takes to attach.
const PATIENCE_MS: u64 = 60_000;

/// How often we look whether bpftrace has attached.
const LOOK_MS: u64 = 10;

/// Which tracer, and how it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    NstraceFentry,
    NstraceKprobe,
    BpftraceFentry,
    BpftraceKprobe,
}

/// A running tracer.
pub struct Tracer {
    kind: Kind,
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// Its process.
    pub pid: Pid,
    /// What it used until it had attached, in ns.
    pub start_cpu: u64,
    /// How long that took, in ns.
    pub start_wall: u64,
}

/// What a tracer that has ended reported.
pub struct Reports {
    /// Operations, all of them.
    pub reported: u64,
    /// What it said was lost.
    pub lost: u64,
}

impl Tracer {
    /// Starts a tracer and waits until it is attached.
    pub fn start(kind: Kind) -> Result<Tracer> {
        let mut command = command(kind);
        let started = sys::monotonic_ns();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(File::create(OUTPUT).with_context(|| format!("{OUTPUT}: cannot make"))?)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let pid = Pid(child.id());
        let mut stderr = BufReader::new(child.stderr.take().context("no stderr")?);
        let attached = match kind {
            Kind::BpftraceFentry | Kind::BpftraceKprobe => wait_for_rest(&mut child, started),
            Kind::NstraceFentry | Kind::NstraceKprobe => {
                wait_for_ready(&mut stderr).and_then(|()| Ok((pid.cpu_ns()?, sys::monotonic_ns())))
            }
        };
        let (start_cpu, then) = match attached {
            Ok(times) => times,
            Err(error) => {
                let _ = child.kill();
                let mut words = String::new();
                let _ = stderr.read_to_string(&mut words);
                let output = fs::read_to_string(OUTPUT).unwrap_or_default();
                let context = format!("{kind:?} did not attach {words}{output}");
                return Err(error.context(context.trim().to_owned()));
            }
        };
        Ok(Tracer {
            kind,
            child,
            stderr,
            pid,
            start_cpu,
            start_wall: then - started,
        })
    }

    /// Ends it and counts what it reported.
    pub fn stop(mut self) -> Result<Reports> {
        sys::kill(i64::from(self.pid.0), libc::SIGINT)?;
        let mut words = String::new();
        self.stderr.read_to_string(&mut words)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{:?}: {status}: {words}", self.kind);
        match self.kind {
            Kind::BpftraceFentry | Kind::BpftraceKprobe => {
                let output = fs::read(OUTPUT).with_context(|| format!("{OUTPUT}: cannot read"))?;
                let output = String::from_utf8_lossy(&output);
                Ok(bpftrace_reports(output.lines().chain(words.lines())))
            }
            Kind::NstraceFentry | Kind::NstraceKprobe => {
                let mut seen = Seen::default();
                seen.stderr.extend(words.lines().map(str::to_owned));
                let [reported, _, lost] = seen.summary().context("nstrace: no summary")?;
                Ok(Reports { reported, lost })
            }
        }
    }
}

fn command(kind: Kind) -> Command {
    let (program, args) = match kind {
        Kind::NstraceFentry => ("nstrace", nstrace("fentry")),
        Kind::NstraceKprobe => ("nstrace", nstrace("kprobe")),
        Kind::BpftraceFentry => ("bpftrace", bpftrace("kfunc", "kretfunc")),
        Kind::BpftraceKprobe => ("bpftrace", bpftrace("kprobe", "kretprobe")),
    };
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn nstrace(attach: &str) -> Vec<String> {
    vec!["--attach".to_owned(), attach.to_owned()]
}

/// With full buffers: by itself it writes each line by itself, into a file too.
fn bpftrace(entry: &str, exit: &str) -> Vec<String> {
    let mut args = ["-B", "full", "-e"].map(str::to_owned).to_vec();
    args.push(script(entry, exit));
    args
}

/// What a person would write who wants to see these functions: who entered and what
/// came back.
fn script(entry: &str, exit: &str) -> String {
    let probes = FUNCTIONS.map(|name| {
        format!(
            "{entry}:{name} {{ printf(\"%d %s > {name}\\n\", pid, comm); }}\n\
             {exit}:{name} {{ printf(\"%d %s < {name} %d\\n\", pid, comm, retval); }}\n"
        )
    });
    probes.concat()
}

pub(super) fn wait_for_ready(stderr: &mut impl BufRead) -> Result<()> {
    let mut line = String::new();
    while stderr.read_line(&mut line)? > 0 {
        if line.ends_with("ready\n") {
            return Ok(());
        }
    }
    bail!("it ended before it was ready: {}", line.trim())
}

/// bpftrace does not say when it has attached; it has when it falls silent. The last
/// moment at which it used as much as attaching a probe does is the one that counts.
fn wait_for_rest(child: &mut Child, started: u64) -> Result<(u64, u64)> {
    const SILENCE_MS: u64 = 2_000;
    const BUSY_NS: u64 = 100_000;
    let pid = Pid(child.id());
    let (mut cpu, mut last, mut at) = (0, 0, started);
    loop {
        sleep_ms(LOOK_MS);
        if let Some(status) = child.try_wait()? {
            bail!("it ended: {status}");
        }
        let (before, now) = (cpu, sys::monotonic_ns());
        cpu = pid.cpu_ns()?;
        if cpu - before > BUSY_NS {
            (last, at) = (cpu, now);
        }
        if now - at > SILENCE_MS * 1_000_000 && last > 0 {
            return Ok((last, at));
        }
        ensure!(now - started < PATIENCE_MS * 1_000_000, "it never rests");
    }
}

/// Counts the ends of one function, and sums `Lost 12 events`.
fn bpftrace_reports<'a>(lines: impl Iterator<Item = &'a str>) -> Reports {
    let counted = format!("< {COUNTED} ");
    let (mut reported, mut lost) = (0, 0);
    for line in lines {
        let number = line
            .strip_prefix("Lost ")
            .and_then(|l| l.strip_suffix(" events"));
        lost += number.and_then(|n| n.parse().ok()).unwrap_or(0);
        reported += u64::from(line.contains(&counted));
    }
    Reports { reported, lost }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_has_both_probes_of_each_function() {
        let script = script("kfunc", "kretfunc");
        assert_eq!(script.lines().count(), 2 * FUNCTIONS.len());
        let first = r#"kfunc:create_new_namespaces { printf("%d %s > create_new_namespaces\n", pid, comm); }"#;
        assert_eq!(script.lines().next(), Some(first));
    }

    #[test]
    fn reports_of_bpftrace_are_counted_by_one_function() {
        let lines = [
            "Attaching 8 probes...",
            "71 nstrace-guest > ksys_unshare",
            "71 nstrace-guest > create_new_namespaces",
            "71 nstrace-guest < create_new_namespaces -1",
            "Lost 12 events",
            "Lost 3 events",
            "71 nstrace-guest < ksys_unshare 0",
        ];
        let reports = bpftrace_reports(lines.into_iter());
        assert_eq!((reports.reported, reports.lost), (1, 15));
    }

    #[test]
    fn a_tracer_that_ends_is_not_ready() {
        assert!(wait_for_ready(&mut &b"nstrace: ready\n"[..]).is_ok());
        let error = wait_for_ready(&mut &b"nstrace: not root\n"[..]).unwrap_err();
        assert!(error.to_string().contains("not root"), "{error}");
    }
}
