//! Our terminal as the guest's: raw while a shell runs in the guest.

use std::io::{Read, Write, stdin, stdout};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios};

/// What a guest's terminal gets when ours has no size: (rows, columns).
const SIZE: (u16, u16) = (24, 80);

/// Our terminal's size: (rows, columns).
pub fn size() -> (u16, u16) {
    match rustix::termios::tcgetwinsize(stdout()) {
        Ok(size) if size.ws_row > 0 => (size.ws_row, size.ws_col),
        _ => SIZE,
    }
}

/// A connection of our terminal to a guest's; ends, and makes the terminal
/// usable again, when dropped.
pub struct Connection {
    socket: UnixStream,
    before: Option<Termios>,
}

/// Connects stdin and stdout with the guest's terminal.
pub fn connect(socket: UnixStream) -> Result<Connection> {
    let before = rustix::termios::tcgetattr(stdin()).ok();
    if let Some(before) = &before {
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin(), OptionalActions::Now, &raw)
            .context("cannot make the terminal raw")?;
    }
    let (mut input, mut output) = (socket.try_clone()?, socket.try_clone()?);
    // Neither thread is waited for: the first may sit in a read of our stdin.
    thread::spawn(move || copy(&mut stdin().lock(), &mut input));
    thread::spawn(move || copy(&mut output, &mut stdout().lock()));
    Ok(Connection { socket, before })
}

/// Copies byte by byte as it comes, until either side ends.
fn copy(from: &mut dyn Read, to: &mut dyn Write) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to
            .write_all(&buffer[..count])
            .and_then(|()| to.flush())
            .is_err()
        {
            return;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Both fail only if the other side has gone, and then it is done.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}
