//! The command that `nstrace -- COMMAND` runs: made first, while this process has one
//! thread, and let go when everything is attached, so that nothing of it is missed.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::FromRawFd as _,
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use super::output::say;

/// A process that waits to become the command.
pub struct Child {
    /// Its id.
    pub pid: u32,
    /// A byte lets it go; closed without one, it ends.
    start: File,
    name: String,
}

impl Child {
    /// Makes that of a command line, if it has a command.
    pub fn of(words: &[OsString]) -> anyhow::Result<Option<Child>> {
        Child::with_output(words, libc::STDOUT_FILENO)
    }

    /// The same whose standard output is that descriptor.
    pub fn with_output(words: &[OsString], output: i32) -> anyhow::Result<Option<Child>> {
        let Some(command) = words.first() else {
            return Ok(None);
        };
        // Before anything is attached or written for it.
        find(command)?;
        Child::prepare(words.to_vec(), output).map(Some)
    }

    /// Makes it.
    fn prepare(words: Vec<OsString>, output: i32) -> anyhow::Result<Child> {
        let name = words
            .first()
            .map(|word| word.to_string_lossy().into_owned())
            .unwrap_or_default();
        let words: Vec<CString> = words
            .into_iter()
            .map(|word| CString::new(word.into_vec()))
            .collect::<Result<_, _>>()
            .context("the command has a NUL byte in it")?;
        let (wait, start) = pipe().context("no pipe for the command")?;
        // SAFETY: there is no other thread, so the child may do what it likes.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context("no process for the command"),
            0 => {
                drop(start);
                become_command(wait, &words, output)
            }
            pid => Ok(Child {
                pid: pid as u32,
                start,
                name,
            }),
        }
    }

    /// Lets it become the command.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.start
            .write_all(&[1])
            .with_context(|| format!("{} ended before it began", self.name))
    }

    /// Its exit status, if it has ended.
    pub fn try_wait(&self) -> io::Result<Option<ExitCode>> {
        let mut status = 0;
        // SAFETY: a valid pointer.
        match unsafe { libc::waitpid(self.pid as i32, &raw mut status, libc::WNOHANG) } {
            0 => Ok(None),
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(Some(exit_code(status))),
        }
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: i32) {
        // SAFETY: no memory is involved. It may have ended: then nothing happens.
        unsafe { libc::kill(self.pid as i32, signal) };
    }
}

/// A command that cannot be run; the exit code is that of a shell.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {why}")]
pub struct NoCommand {
    name: String,
    why: &'static str,
    /// 127 if it is not found, 126 if it is found and cannot be run.
    pub code: u8,
}

/// Looks for a command as execvp(3) does.
fn find(command: &OsStr) -> Result<(), NoCommand> {
    let no = |why, code| NoCommand {
        name: command.to_string_lossy().into_owned(),
        why,
        code,
    };
    let may_run = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        // SAFETY: the path ends with a NUL, and lives.
        unsafe { libc::access(path.as_ptr(), libc::X_OK) == 0 }
    };
    if command.is_empty() {
        return Err(no("the command has an empty name: say one behind --", 127));
    }
    let found = match command.as_bytes().contains(&b'/') {
        true => vec![PathBuf::from(command)],
        // Without a PATH, execvp has one of its own.
        false => match std::env::var_os("PATH") {
            None => return Ok(()),
            Some(path) => std::env::split_paths(&path)
                .map(|dir| dir.join(command))
                .collect(),
        },
    };
    let found: Vec<_> = found.into_iter().filter(|path| path.exists()).collect();
    match &found[..] {
        [] => Err(no("there is no such command: look at its name", 127)),
        found if found.iter().any(|path| path.is_file() && may_run(path)) => Ok(()),
        _ => Err(no(
            "it is no program that you may run: look at its mode",
            126,
        )),
    }
}

/// As a shell gives it: the command's own, or 128 and the signal that killed it.
fn exit_code(status: i32) -> ExitCode {
    if libc::WIFSIGNALED(status) {
        ExitCode::from(128 + libc::WTERMSIG(status) as u8)
    } else {
        ExitCode::from(libc::WEXITSTATUS(status) as u8)
    }
}

/// In the child: waits for the word, then becomes the command.
fn become_command(mut wait: File, words: &[CString], output: i32) -> ! {
    let mut go = [0];
    if wait.read_exact(&mut go).is_ok() {
        // SAFETY: of descriptors, it changes the standard output of this process alone.
        unsafe { libc::dup2(output, libc::STDOUT_FILENO) };
        // Rust ignores it, and what is ignored stays so in the command.
        // SAFETY: no handler is involved.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let mut argv: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
        argv.push(std::ptr::null());
        // SAFETY: an array of C strings that ends with a null pointer.
        unsafe { libc::execvp(argv[0], argv.as_ptr()) };
        let error = io::Error::last_os_error();
        say(&format!("{}: {error}", words[0].to_string_lossy()));
        // As a shell does: 127 for not found, 126 for found and not run.
        let code = match error.kind() {
            io::ErrorKind::NotFound => 127,
            _ => 126,
        };
        // SAFETY: ends this process.
        unsafe { libc::_exit(code) };
    }
    // SAFETY: ends this process.
    unsafe { libc::_exit(1) };
}

fn pipe() -> io::Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two descriptors that nobody else has.
    Ok(unsafe { (File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1])) })
}
