//! An act that says how far it is, and lets go of what it has made when it is told to.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout};

use anyhow::{Context, Result, ensure};

use crate::act;

/// A running one.
pub struct Held {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Held {
    /// Starts it.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut child = act::start(args)?;
        let stdout = child.stdout.take().context("no stdout")?;
        let lines = BufReader::new(stdout).lines();
        Ok(Held { child, lines })
    }

    /// Waits until it says this, which must be next; it may say more behind a colon.
    pub fn wait_for(&mut self, word: &str) -> Result<()> {
        let line = self.lines.next().context("the act broke off")??;
        let said = line.split(':').next();
        ensure!(said == Some(word), "the act says {line:?}, not {word:?}");
        Ok(())
    }

    /// Has it do once more what it does.
    pub fn go_on(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        Ok(stdin.write_all(b"\n")?)
    }

    /// Has it let go of everything.
    pub fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.wait_for("gone")?;
        ensure!(self.child.wait()?.success(), "the act failed");
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Both fail if it has ended, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
