//! What is common to the outputs of the commands.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ColorChoice;

use super::trouble::unwritten;
use crate::render::{Text, escape};

/// More text than this is not gathered before it is written: a burst must not fill the
/// memory.
pub const TEXT_MAX: usize = 1 << 17;

/// Columns and lines of the terminal, if standard output is one.
pub fn size() -> Option<(usize, usize)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: a valid pointer.
    let told = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (told == 0 && size.ws_col > 0 && size.ws_row > 0)
        .then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// Writes text out, and clears it.
pub fn write(text: &mut Text) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    text.clear();
    written.map_err(unwritten).context("standard output")
}

/// A line on standard error, in one write: others may be writing there.
pub fn say(what: &str) {
    let mut line = Text::default();
    escape::message(&mut line, what);
    // Who closed it does not want to hear.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Says how many runs of programs the kernel has skipped, if it has.
pub fn say_skipped(runs: u64) {
    if runs > 0 {
        say(&format!(
            "the kernel skipped {runs} runs of its probes: a stage or a task may be missing"
        ));
    }
}

/// Whether output has colours.
pub fn colored(choice: ColorChoice) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        // https://no-color.org
        ColorChoice::Auto => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            !no_color && io::stdout().is_terminal()
        }
    }
}

/// Gives back what reading the kernel's types took.
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}
