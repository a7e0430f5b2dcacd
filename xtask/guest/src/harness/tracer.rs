//! A running nstrace: its lines as they come, and waiting for what they say.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::line::{self, Life, Line, Lost, Op, Task};
use crate::sys;

/// How long nstrace may take until it is ready, and to end. Attaching is slow in a
/// guest whose processor is emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a line may take from the event to here.
const DELAY: Duration = Duration::from_secs(20);

/// What the threads that read nstrace's two streams share with us.
#[derive(Default)]
struct Streams {
    seen: Mutex<Seen>,
    news: Condvar,
}

/// What nstrace printed so far.
#[derive(Default)]
pub struct Seen {
    /// The lines of stdout that are JSON as promised.
    pub lines: Vec<Line>,
    /// The others, with what is wrong.
    pub wrong: Vec<String>,
    /// All of stdout, where it is text.
    pub text: Vec<String>,
    /// The lines of stderr.
    pub stderr: Vec<String>,
    open: usize,
}

/// A running nstrace.
pub struct Tracer {
    child: Child,
    streams: Arc<Streams>,
    readers: Vec<JoinHandle<()>>,
}

/// What a nstrace that has ended leaves.
pub struct Ended {
    pub status: ExitStatus,
    pub seen: Seen,
}

impl Ended {
    /// The exit code; 128 and the number if a signal ended it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

/// A command for nstrace with these arguments.
pub fn nstrace(args: &[&str]) -> Command {
    let mut command = Command::new("nstrace");
    command
        .args(args)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR");
    command
}

impl Tracer {
    /// Starts nstrace and waits until it is ready.
    pub fn start(args: &[&str]) -> Result<Self> {
        Tracer::run(nstrace(args))
    }

    /// Starts a command that is a nstrace and waits until it is ready.
    pub fn run(command: Command) -> Result<Self> {
        let mut tracer = Tracer::spawn(command)?;
        let is_ready = |seen: &mut Seen| seen.stderr.iter().any(|line| line.contains("ready"));
        if tracer.wait_for(PATIENCE, is_ready).is_err() {
            let _ = tracer.child.kill();
            let ended = tracer.finish()?;
            bail!(
                "nstrace was not ready: {}: {}",
                ended.status,
                ended.seen.stderr.join("; ")
            );
        }
        Ok(tracer)
    }

    /// Starts a command that is a nstrace, and no more.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let streams = Arc::<Streams>::default();
        streams.lock().open = 2;
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let readers = vec![
            read(stdout, streams.clone(), Seen::stdout),
            read(stderr, streams.clone(), |seen, line| seen.stderr.push(line)),
        ];
        Ok(Tracer {
            child,
            streams,
            readers,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.streams.lock()
    }

    /// A place in its output: what comes from now on.
    pub fn mark(&self) -> usize {
        self.seen().lines.len()
    }

    /// Waits until `holds` holds of what it printed; fails when it ends or the time
    /// is over.
    pub fn wait_for(&self, limit: Duration, holds: impl FnMut(&mut Seen) -> bool) -> Result<()> {
        let mut holds = holds;
        let deadline = Instant::now() + limit;
        let mut seen = self.seen();
        loop {
            if holds(&mut seen) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if seen.has_ended() {
                bail!("nstrace has ended: {}", seen.stderr.join("; "));
            }
            if left.is_zero() {
                bail!("not within {limit:?}");
            }
            let woken = self.streams.news.wait_timeout(seen, left);
            seen = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until everything that happened before is printed, by doing one more
    /// operation and waiting for its lines.
    pub fn catch_up(&self) -> Result<()> {
        let from = self.mark();
        let child = crate::act::marker()?;
        let is_marked = |seen: &mut Seen| {
            let lines = &seen.lines[from..];
            let op = lines.iter().enumerate().find_map(|(at, line)| match line {
                Line::Op(op) if op.tid == child => Some((at, op.after[crate::kinds::UTS])),
                _ => None,
            });
            // The number may be that of a namespace of another kind that died just before.
            op.is_some_and(|(at, inum)| {
                lines[at..].iter().any(|line| {
                    matches!(line, Line::Death(life)
                        if life.inum == inum && life.kind.as_deref() == Some("uts"))
                })
            })
        };
        self.wait_for(DELAY, is_marked)
            .with_context(|| format!("no op line and ns_death of a marker, process {child}"))
    }

    /// Sends it a signal and waits for its end.
    pub fn stop(self, signal: i32) -> Result<Ended> {
        sys::kill(i64::from(self.child.id()), signal)?;
        self.finish()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Ended> {
        if self.wait_for_end().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            bail!(
                "nstrace did not end within {PATIENCE:?}: {}",
                self.seen().stderr.join("; ")
            );
        }
        let status = self.child.wait()?;
        for reader in self.readers.drain(..) {
            reader.join().map_err(|_| anyhow!("a reader panicked"))?;
        }
        let seen = std::mem::take(&mut *self.seen());
        Ok(Ended { status, seen })
    }

    fn wait_for_end(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = self.seen();
        while seen.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("its streams are open");
            }
            let woken = self.streams.news.wait_timeout(seen, left);
            seen = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Both fail if it has ended, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(
    stream: impl Read + Send + 'static,
    streams: Arc<Streams>,
    take: impl Fn(&mut Seen, String) + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        // An error is the end too: there is nobody who could do more.
        while reader.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line));
            take(&mut streams.lock(), text.into_owned());
            streams.news.notify_all();
            line.clear();
        }
        streams.lock().open -= 1;
        streams.news.notify_all();
    })
}

impl Seen {
    fn stdout(&mut self, text: String) {
        if !text.starts_with('{') {
            self.text.push(text);
            return;
        }
        match line::parse(&text) {
            Ok(line) => self.lines.push(line),
            Err(error) => self.wrong.push(format!("{error:#}: {text}")),
        }
    }

    /// The operations since a mark.
    pub fn ops(&self, from: usize) -> Vec<Op> {
        self.pick(from, |line| match line {
            Line::Op(op) => Some((**op).clone()),
            _ => None,
        })
    }

    /// The operations since a mark, less those by which the tests catch up.
    pub fn ops_of_others(&self, from: usize) -> Vec<Op> {
        let mut ops = self.ops(from);
        ops.retain(|op| op.comm != "nstrace-guest");
        ops
    }

    /// Whether nothing more can come.
    pub fn has_ended(&self) -> bool {
        self.open == 0
    }

    /// The operations that hang, as reported since a mark.
    pub fn stalls(&self, from: usize) -> Vec<Op> {
        self.pick(from, |line| match line {
            Line::Stall(op) => Some((**op).clone()),
            _ => None,
        })
    }

    /// The new tasks and the ends of tasks since a mark.
    pub fn tasks(&self, from: usize) -> (Vec<Task>, Vec<Task>) {
        let new = self.pick(from, |line| match line {
            Line::TaskNew(task) => Some(task.clone()),
            _ => None,
        });
        let exits = self.pick(from, |line| match line {
            Line::TaskExit(task) => Some(task.clone()),
            _ => None,
        });
        (new, exits)
    }

    /// Births and deaths since a mark.
    pub fn lives(&self, from: usize) -> (Vec<Life>, Vec<Life>) {
        let births = self.pick(from, |line| match line {
            Line::Birth(life) => Some(life.clone()),
            _ => None,
        });
        let deaths = self.pick(from, |line| match line {
            Line::Death(life) => Some(life.clone()),
            _ => None,
        });
        (births, deaths)
    }

    /// The losses since a mark.
    pub fn lost(&self, from: usize) -> Vec<Lost> {
        self.pick(from, |line| match line {
            Line::Lost(lost) => Some(lost.clone()),
            _ => None,
        })
    }

    fn pick<T>(&self, from: usize, pick: impl Fn(&Line) -> Option<T>) -> Vec<T> {
        self.lines[from.min(self.lines.len())..]
            .iter()
            .filter_map(pick)
            .collect()
    }

    /// The three numbers of the summary on stderr: operations, failed, lost.
    pub fn summary(&self) -> Option<[u64; 3]> {
        self.stderr.iter().rev().find_map(|line| summary(line))
    }
}

/// The numbers of `nstrace: 2000 operations, 12 failed, 0 lost`.
fn summary(line: &str) -> Option<[u64; 3]> {
    let mut numbers = [0; 3];
    let parts = line.strip_prefix("nstrace: ")?.split(", ");
    let mut parts = parts.map(|part| part.split_once(' '));
    for (number, word) in numbers.iter_mut().zip(["operation", "failed", "lost"]) {
        let (digits, rest) = parts.next()??;
        if !rest.starts_with(word) {
            return None;
        }
        *number = digits.parse().ok()?;
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_three_numbers() {
        assert_eq!(
            summary("nstrace: 2000 operations, 12 failed, 0 lost"),
            Some([2000, 12, 0])
        );
        assert_eq!(
            summary("nstrace: 1 operation, 0 failed, 3 lost"),
            Some([1, 0, 3])
        );
        assert_eq!(summary("nstrace: ready"), None);
        assert_eq!(summary("load: 2000 operations, 12 failed, 0 lost"), None);
    }

    /// A reader must see the end of a process that says nothing.
    #[test]
    fn a_command_that_is_never_ready_is_an_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no >&2; exit 3"]);
        let error = Tracer::run(command)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(error.contains("exit status: 3: no"), "{error}");
    }

    #[test]
    fn lines_are_sorted_by_what_they_are() {
        let mut command = Command::new("sh");
        let script = r#"echo ready >&2; echo '{"type":"lost","record":"op","count":3}'; echo text;
            echo '{"type":'; echo 'nstrace: 0 operations, 0 failed, 3 lost' >&2"#;
        command.args(["-c", script]);
        let ended = Tracer::run(command).unwrap().finish().unwrap();
        assert_eq!(ended.code(), 0);
        assert_eq!(
            ended
                .seen
                .lost(0)
                .iter()
                .map(|lost| lost.count)
                .sum::<u64>(),
            3
        );
        assert_eq!((ended.seen.text.len(), ended.seen.wrong.len()), (1, 1));
        assert_eq!(ended.seen.summary(), Some([0, 0, 3]));
    }
}
