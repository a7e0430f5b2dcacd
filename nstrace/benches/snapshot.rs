//! What one look at a machine with 10,000 processes costs, beside lsns(8) on the same ones.
//!
//! ```text
//! cargo bench --bench snapshot
//! ```
//!
//! As root a tenth of the processes has net, uts and ipc namespaces of its own. Each command
//! runs a few times, by turns; the first run of all finds nothing of proc in the kernel's
//! caches. The times are of the CPU: user and system, from wait4(2).

use std::{
    io::{self, PipeWriter, Read as _},
    mem::MaybeUninit,
    process::{Command, Stdio},
    time::Duration,
};

const PROCESSES: usize = 10_000;
/// One in so many has namespaces of its own.
const APART: usize = 10;
const RUNS: usize = 3;

const NSTRACE: &str = env!("CARGO_BIN_EXE_nstrace");
const COMMANDS: [&[&str]; 4] = [
    &[NSTRACE, "tree", "--json"],
    &["lsns", "--json"],
    &[NSTRACE, "tree"],
    &["lsns"],
];

fn main() -> io::Result<()> {
    let crowd = Crowd::gather()?;
    println!(
        "{} processes, {} of them in namespaces of their own",
        crowd.pids.len(),
        crowd.apart
    );
    println!(
        "{:16}  {:>26}  {:>26}",
        "s of CPU", "first run: user, system", "least after: user, system"
    );
    let mut times = [const { Vec::new() }; COMMANDS.len()];
    for _ in 0..RUNS {
        for (command, times) in COMMANDS.iter().zip(&mut times) {
            times.push(run(command)?);
        }
    }
    for (command, times) in COMMANDS.iter().zip(&times) {
        let [first, later @ ..] = times.as_slice() else {
            continue;
        };
        let least = later.iter().min_by_key(|cpu| cpu.user + cpu.system);
        let name = match command {
            [NSTRACE, rest @ ..] => format!("nstrace {}", rest.join(" ")),
            command => command.join(" "),
        };
        println!("{name:19} {first}  {}", least.unwrap_or(first));
    }
    Ok(())
}

/// Processes that do nothing. They end with it.
struct Crowd {
    pids: Vec<libc::pid_t>,
    apart: usize,
}

impl Crowd {
    fn gather() -> io::Result<Crowd> {
        // SAFETY: no precondition.
        let is_root = unsafe { libc::geteuid() } == 0;
        let mut crowd = Crowd {
            pids: Vec::new(),
            apart: 0,
        };
        let (mut ready, write) = io::pipe()?;
        for number in 0..PROCESSES {
            let apart = is_root && number % APART == 0;
            // SAFETY: this process has one thread, and the child makes system calls alone.
            match unsafe { libc::fork() } {
                -1 => return Err(io::Error::last_os_error()),
                0 => idle(apart, write),
                pid => crowd.pids.push(pid),
            }
            crowd.apart += usize::from(apart);
        }
        // Until all have closed it.
        drop(write);
        ready.read_to_end(&mut Vec::new())?;
        Ok(crowd)
    }
}

fn idle(apart: bool, ready: PipeWriter) -> ! {
    let flags = libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    // SAFETY: system calls without pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if apart {
            libc::unshare(flags);
        }
        drop(ready);
        loop {
            libc::pause();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for pid in &self.pids {
            // SAFETY: a child of ours that nobody has waited for.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        for pid in &self.pids {
            // SAFETY: the status is not wanted.
            unsafe { libc::waitpid(*pid, std::ptr::null_mut(), 0) };
        }
    }
}

struct Cpu {
    user: Duration,
    system: Duration,
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let (user, system) = (self.user.as_secs_f64(), self.system.as_secs_f64());
        write!(f, "{:8.2}: {user:6.2}, {system:6.2}", user + system)
    }
}

/// Runs a command, and says how much CPU it took.
fn run(command: &[&str]) -> io::Result<Cpu> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdout(Stdio::null())
        .spawn()?;
    let pid = child.id().cast_signed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: a child of ours, and a struct that lives through the call.
    if unsafe { libc::wait4(pid, std::ptr::null_mut(), 0, usage.as_mut_ptr()) } != pid {
        child.kill()?;
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed, of integers, and filled in.
    let usage = unsafe { usage.assume_init() };
    Ok(Cpu {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
    })
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_micros((time.tv_sec * 1_000_000 + time.tv_usec).cast_unsigned())
}
