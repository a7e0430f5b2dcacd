//! The signals that may mean the end, and what they mean.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::child::Child;

/// What a signal means for the end. With a command, the first that asks for the end
/// goes to the command, whose end decides; the second ends nstrace alone.
pub fn end_of(
    end: End,
    child: Option<&Child>,
    asked: &mut bool,
) -> anyhow::Result<Option<ExitCode>> {
    let Some(child) = child else {
        return Ok((!matches!(end, End::Child)).then_some(ExitCode::SUCCESS));
    };
    let signal = match end {
        End::Child => return child.try_wait().context("the command is lost"),
        End::Interrupt => libc::SIGINT,
        End::Terminate => libc::SIGTERM,
    };
    if *asked {
        return Ok(Some(ExitCode::from(128 + signal as u8)));
    }
    *asked = true;
    // A terminal has sent its interrupt to the command too.
    if signal != libc::SIGINT || !io::stderr().is_terminal() {
        child.kill(signal);
    }
    Ok(None)
}

/// What a signal says.
pub enum End {
    Interrupt,
    Terminate,
    Child,
}

/// The signals that may mean the end.
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
}

impl Signals {
    pub fn new() -> anyhow::Result<Signals> {
        let on = |kind| signal(kind).context("signals cannot be caught");
        Ok(Signals {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            child: on(SignalKind::child())?,
        })
    }

    pub async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.interrupt.recv() => End::Interrupt,
            _ = self.terminate.recv() => End::Terminate,
            _ = self.hangup.recv() => End::Terminate,
            _ = self.child.recv() => End::Child,
        }
    }
}
