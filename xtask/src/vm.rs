//! Boots a kernel and runs one command, or a shell, in it.
//!
//! The guest's stdout and stderr are ours, byte for byte; the kernel's console
//! is a file. A guest ends in one of four ways, and they are told apart: the
//! command's own status, a panic, a time-out, or a QEMU that failed.

use std::fmt;
use std::fs;
use std::io::{BufWriter, PipeReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kernel::Kernel;
use crate::qemu::{self, Machine, Wires};
use crate::rootfs::Root;
use crate::streams::{self, End};
use crate::{cache, modules, terminal};

/// How many console logs of earlier guests are kept.
const LOGS_KEPT: usize = 32;

/// The lines of the console that a report of a failure shows.
const CONSOLE_LINES: usize = 12;

/// What is in there is inserted before the command runs, in the order of names.
pub const MODULES_DIR: &str = "/etc/vm/modules";

/// Modules that the ports need; built in from 6.12.
const PORT_MODULES: &[&str] = &["virtio_pci", "virtio_console"];

/// A guest to be run.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its kernel.
    pub kernel: Kernel,
    /// Its size and clock.
    pub machine: Machine,
    /// How long it may run.
    pub timeout: Duration,
    /// Files and trees to copy into it: (here, there).
    pub adds: Vec<(PathBuf, String)>,
    /// Modules to insert before the command runs.
    pub modules: Vec<String>,
    /// What to run, a shell script; None for an interactive shell.
    pub command: Option<String>,
}

/// How a guest ended.
#[derive(Debug)]
pub enum Outcome {
    /// The command ended with this status.
    Exit(i32),
    /// The guest itself failed.
    Failed(Failure),
}

/// Why a guest gave no status.
#[derive(Debug)]
pub struct Failure {
    /// What happened, in a line.
    pub what: String,
    /// Whether the kernel or the command is to blame, not this tool.
    pub is_guests: bool,
    /// The end of the kernel's console.
    pub console_end: Vec<String>,
    /// The whole of it.
    pub console: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; console: {}", self.what, self.console.display())?;
        for line in &self.console_end {
            write!(f, "\n    {}", line.escape_debug())?;
        }
        Ok(())
    }
}

/// Ends both streams. Always the same, so that counted runs are; the guest's
/// script spells the first and last byte otherwise, so that showing the script
/// does not end the stream.
const MARK: &[u8] = b"\x1eend of stream 70b1e5d2\x1e";

enum News {
    /// The shell is about to read.
    Ready,
    Stream(std::io::Result<End>),
    Status(Option<i32>),
}

/// Runs the guest; its streams go to `stdout` and `stderr` as they come.
pub fn run(
    guest: &Guest,
    stdout: &mut (dyn Write + Send),
    stderr: &mut (dyn Write + Send),
) -> Result<Outcome> {
    let started = Instant::now();
    let console = new_log(&guest.kernel)?;
    let (terminal_here, terminal_there) = match guest.command {
        None => UnixStream::pair().map(|(a, b)| (Some(a), Some(b.into())))?,
        Some(_) => (None, None),
    };
    let (mut out, out_writer) = std::io::pipe()?;
    let (mut err, err_writer) = std::io::pipe()?;
    let (mut status, status_writer) = std::io::pipe()?;
    let complaints = qemu::memory_file("qemu-stderr")?;
    let wires = Wires {
        initramfs: initramfs(guest)?,
        ports: [out_writer, err_writer, status_writer],
        terminal: terminal_there,
        complaints: complaints.try_clone()?,
    };
    let mut child = qemu::start(&guest.machine, &guest.kernel, &console, wires)?;
    let (sender, news) = mpsc::channel();
    let ending = thread::scope(|scope| {
        let (out_sender, err_sender) = (sender.clone(), sender.clone());
        scope.spawn(move || report_stream(&mut out, stdout, out_sender));
        scope.spawn(move || report_stream(&mut err, stderr, err_sender));
        scope.spawn(move || report_status(&mut status, sender));
        let ending = wait(&news, started + guest.timeout, terminal_here);
        stop(&mut child);
        ending
    });
    conclude(ending?, guest, console, complaints)
}

fn report_stream(from: &mut PipeReader, to: &mut dyn Write, news: Sender<News>) {
    // The receiver is gone only if the guest's fate is decided.
    let _ = news.send(News::Stream(streams::pass_on(from, to, MARK)));
}

fn report_status(from: &mut PipeReader, news: Sender<News>) {
    let ready = || {
        let _ = news.send(News::Ready);
    };
    let status = streams::status(from, ready);
    let _ = news.send(News::Status(status));
}

fn stop(child: &mut Child) {
    // Both fail only if QEMU has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// How the waiting for a guest ended.
enum Ending {
    Status(i32),
    Gone,
    Timeout,
    ReaderGone,
}

fn wait(news: &Receiver<News>, deadline: Instant, mut shell: Option<UnixStream>) -> Result<Ending> {
    let is_shell = shell.is_some();
    let mut streams_open = if is_shell { 0 } else { 2 };
    let mut status = None;
    let mut connection = None;
    loop {
        if let (Some(status), 0) = (status, streams_open) {
            return Ok(Ending::Status(status));
        }
        // A shell takes as long as its user wants, once it is there.
        let next = match connection {
            Some(_) => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
            None => news.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        match next {
            Ok(News::Ready) => connection = shell.take().map(terminal::connect).transpose()?,
            Ok(News::Stream(Ok(End::Complete))) => streams_open -= 1,
            Ok(News::Stream(Ok(End::ReaderGone))) => return Ok(Ending::ReaderGone),
            // QEMU closed it when it ended; the kernel's console knows more.
            Ok(News::Stream(Ok(End::Cut))) => return Ok(Ending::Gone),
            Ok(News::Stream(Err(error))) => {
                return Err(error).context("cannot pass the guest's output on");
            }
            Ok(News::Status(Some(code))) => status = Some(code),
            Ok(News::Status(None)) => return Ok(Ending::Gone),
            Err(RecvTimeoutError::Timeout) => return Ok(Ending::Timeout),
            Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Gone),
        }
    }
}

fn conclude(
    ending: Ending,
    guest: &Guest,
    console: PathBuf,
    mut complaints: fs::File,
) -> Result<Outcome> {
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|l| !l.is_empty())
        .collect();
    let version = guest.kernel.version();
    let panic = panic_line(&lines);
    let (what, is_guests) = match (ending, panic) {
        (Ending::Status(code), _) => {
            let _ = fs::remove_file(&console);
            return Ok(Outcome::Exit(code));
        }
        // As for any program whose reader has gone.
        (Ending::ReaderGone, _) => return Ok(Outcome::Exit(0)),
        (_, Some(line)) => (format!("Linux {version}: {}", without_time(line)), true),
        (Ending::Timeout, _) => (
            format!(
                "Linux {version}: no end within {} s",
                guest.timeout.as_secs()
            ),
            true,
        ),
        (Ending::Gone, _) => {
            let mut words = String::new();
            complaints.seek(SeekFrom::Start(0))?;
            complaints.read_to_string(&mut words)?;
            (
                format!(
                    "Linux {version}: the machine ended by itself: {}",
                    words.trim()
                ),
                false,
            )
        }
    };
    let end = lines.len().saturating_sub(CONSOLE_LINES);
    let console_end = lines[end..].iter().map(|line| line.to_string()).collect();
    Ok(Outcome::Failed(Failure {
        what,
        is_guests,
        console_end,
        console,
    }))
}

/// The line that says why a kernel died. One that died early may get no further
/// than the oops (`invalid opcode: 0000 [#1] SMP NOPTI`).
fn panic_line<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let first = |text: &str| lines.iter().find(|line| line.contains(text)).copied();
    first("Kernel panic").or_else(|| first(" [#1] "))
}

/// A console line without `[   12.345678] `.
fn without_time(line: &str) -> &str {
    match line.split_once("] ") {
        Some((time, rest)) if time.starts_with('[') => rest,
        _ => line,
    }
}

fn initramfs(guest: &Guest) -> Result<fs::File> {
    let file = qemu::memory_file("initramfs")?;
    let mut root = Root::new(BufWriter::with_capacity(1 << 20, file.try_clone()?))?;
    for (from, to) in &guest.adds {
        root.copy(from, to)?;
    }
    let ports: Vec<String> = PORT_MODULES.iter().map(|name| name.to_string()).collect();
    let dir = guest.kernel.modules();
    let mut all = modules::collect(&dir, &ports, true)?;
    for module in modules::collect(&dir, &guest.modules, false)? {
        if !all.iter().any(|known| known.name == module.name) {
            all.push(module);
        }
    }
    for (index, module) in all.iter().enumerate() {
        let path = format!("{MODULES_DIR}/{index:03}-{}.ko", module.name);
        root.file(&path, 0o644, &module.contents)?;
    }
    if let Some(command) = &guest.command {
        root.file("etc/vm/command", 0o755, command.as_bytes())?;
    }
    root.file("etc/vm/config", 0o644, config(guest).as_bytes())?;
    root.finish()?;
    Ok(file)
}

fn config(guest: &Guest) -> String {
    let (rows, columns) = terminal::size();
    let mode = if guest.command.is_some() {
        "run"
    } else {
        "shell"
    };
    let term = std::env::var("TERM").unwrap_or_else(|_| "vt220".to_owned());
    format!(
        "VM_MODE={mode}\nVM_ROWS={rows}\nVM_COLUMNS={columns}\nVM_TERM={}\n",
        quote(&term)
    )
}

/// Quotes a word for sh.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A new file for a console; old ones beyond the last few are removed.
fn new_log(kernel: &Kernel) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = cache::subdir("consoles")?;
    remove_old_logs(&dir);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(
        "{}-{}-{count}.log",
        kernel.version(),
        std::process::id()
    ));
    fs::write(&path, "").with_context(|| format!("{}: cannot make", path.display()))?;
    if path.to_string_lossy().contains(',') {
        bail!(
            "{}: QEMU cannot take a path with a comma; set XDG_CACHE_HOME",
            path.display()
        );
    }
    Ok(path)
}

fn remove_old_logs(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut logs: Vec<_> = entries
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    logs.sort();
    let surplus = logs.len().saturating_sub(LOGS_KEPT);
    for (_, path) in &logs[..surplus] {
        // Another xtask may have removed it.
        let _ = fs::remove_file(path);
    }
}
