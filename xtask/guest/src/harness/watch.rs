//! A running command of the tree: its lines as they come.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::tracer;
use crate::sys;

/// What it printed so far.
#[derive(Debug, Default)]
pub struct Said {
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
    open: usize,
}

impl Said {
    /// Whether it has said that it is ready.
    pub fn is_ready(&self) -> bool {
        self.stderr.iter().any(|line| line.ends_with("ready"))
    }
}

#[derive(Default)]
struct Streams {
    said: Mutex<Said>,
    news: Condvar,
}

/// A running command.
pub struct Watch {
    child: Child,
    streams: Arc<Streams>,
}

/// What a command that has ended leaves.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
}

impl Watch {
    /// Starts nstrace with these words.
    pub fn start(args: &[&str]) -> Result<Self> {
        Watch::spawn(tracer::nstrace(args))
    }

    /// Starts a command.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let streams = Arc::<Streams>::default();
        lock(&streams).open = 2;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        read(stdout.context("no stdout")?, &streams, |said, line| {
            said.stdout.push(line);
        });
        read(stderr.context("no stderr")?, &streams, |said, line| {
            said.stderr.push(line);
        });
        Ok(Watch { child, streams })
    }

    /// Its process id.
    pub fn pid(&self) -> i64 {
        i64::from(self.child.id())
    }

    /// Waits until `holds` holds of what it printed; fails when it ends or the time is
    /// over.
    pub fn wait_for(&self, limit: Duration, mut holds: impl FnMut(&Said) -> bool) -> Result<()> {
        self.wait(limit, |said| {
            if holds(said) {
                return Ok(true);
            }
            if said.open == 0 {
                bail!("nstrace has ended: {}", said.stderr.join("; "));
            }
            Ok(false)
        })
    }

    fn wait(&self, limit: Duration, mut done: impl FnMut(&Said) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut said = lock(&self.streams);
        while !done(&said)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("not within {limit:?}; stderr: {}", said.stderr.join("; "));
            }
            let woken = self.streams.news.wait_timeout(said, left);
            said = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// What it said on stderr, if it has ended.
    pub fn end(&self) -> Option<Vec<String>> {
        let said = lock(&self.streams);
        (said.open == 0).then(|| said.stderr.clone())
    }

    /// Looks at what it printed so far.
    pub fn look<T>(&self, look: impl FnOnce(&Said) -> T) -> T {
        look(&lock(&self.streams))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        Ok(sys::kill(self.pid(), signal)?)
    }

    /// Waits for its end.
    pub fn finish(mut self, limit: Duration) -> Result<Ended> {
        self.wait(limit, |said| Ok(said.open == 0))
            .context("nstrace does not end")?;
        let code = self.child.wait()?.code();
        let said = std::mem::take(&mut *lock(&self.streams));
        Ok(Ended {
            code,
            stdout: said.stdout,
            stderr: said.stderr,
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Both fail if it has ended, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs nstrace with these words to its end.
pub fn run(args: &[&str], limit: Duration) -> Result<Ended> {
    Watch::start(args)?.finish(limit)
}

fn lock(streams: &Streams) -> MutexGuard<'_, Said> {
    streams.said.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(
    stream: impl Read + Send + 'static,
    streams: &Arc<Streams>,
    take: impl Fn(&mut Said, String) + Send + 'static,
) {
    let streams = streams.clone();
    thread::spawn(move || {
        let lines = BufReader::new(stream).split(b'\n');
        // An error is the end too: there is nobody who could do more.
        for line in lines.map_while(Result::ok) {
            take(
                &mut lock(&streams),
                String::from_utf8_lossy(&line).into_owned(),
            );
            streams.news.notify_all();
        }
        lock(&streams).open -= 1;
        streams.news.notify_all();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_and_the_code_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo a; echo b >&2; exit 3"]);
        let watch = Watch::spawn(command).unwrap();
        let limit = Duration::from_secs(9);
        watch
            .wait_for(limit, |said| !said.stdout.is_empty())
            .unwrap();
        let ended = watch.finish(limit).unwrap();
        assert_eq!(
            (ended.code, ended.stdout, ended.stderr),
            (Some(3), vec!["a".to_owned()], vec!["b".to_owned()])
        );
    }
}
