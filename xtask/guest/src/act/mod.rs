//! What the tests have done in front of nstrace. Each act runs in a process of its
//! own with one thread: a test's own process has threads, after which a child made
//! by a system call alone could not allocate memory.

mod descriptors;
mod failures;
mod hang;
pub mod holders;
mod limits;
pub mod many_mounts;
pub mod missed;
pub mod mount_op_storm;
pub mod mount_ops;
pub mod mount_storm;
pub mod overlay;
mod reuse;
mod rows;
mod storm;
mod tree_storm;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use crate::book::Book;
use crate::harness::truth;
use crate::keeper;
use crate::kinds::{NEWIPC, NEWNET, NEWNS, NEWPID, NEWUTS};
use crate::procfs::Procfs;
use crate::recorder::Recorder;
use crate::sys::{self, Call};

pub use rows::{ROWS, Row, Stage as RowStage};

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Act {
    /// One unshare, to be recognised by the process id
    Marker,
    /// One unshare(CLONE_NEWNET); prints how many nanoseconds it took
    TimedNet,
    /// Every failure that the kernel can be made to give
    Failures {
        #[arg(long)]
        book: PathBuf,
    },
    /// Clones whose ends a kretprobe misses
    Missed {
        #[arg(long)]
        book: PathBuf,
    },
    /// Copies of mount namespaces whose ends a kretprobe misses; prints them
    MissedCopies {
        /// Where to mount what is copied
        #[arg(long)]
        dir: PathBuf,
    },
    /// Mount namespaces from descriptors
    Descriptors {
        #[arg(long)]
        book: PathBuf,
    },
    /// As many operations as possible; prints how many
    Storm {
        #[arg(long)]
        ops: u64,
        /// In so many processes
        #[arg(long, default_value_t = 4)]
        processes: u64,
        /// Each waits so long after each operation
        #[arg(long, default_value_t = 0)]
        pause_us: u64,
    },
    /// Sets of namespaces, made and destroyed by many, and some left alive
    TreeStorm(tree_storm::StormArgs),
    /// Mounts of all sorts, in several namespaces, and some left
    MountStorm(mount_storm::StormArgs),
    /// As many mounts as a big host has, in several namespaces
    ManyMounts(many_mounts::ManyArgs),
    /// Holders of namespaces, one at a time, as stdin asks for them
    Holders {
        /// Where to mount what is mounted
        #[arg(long)]
        dir: PathBuf,
    },
    /// Everything that can be done to an overlay, in several processes; prints what was done
    OverlayLoad(overlay::LoadArgs),
    /// Appends to files of an overlay's lower layer, then an unmount
    CopyUp(overlay::CopyUpArgs),
    /// Mount operations of every kind; prints what each did
    MountOps {
        /// Where
        #[arg(long)]
        dir: PathBuf,
    },
    /// As many mount operations as possible; prints how many
    MountOpStorm {
        /// Where
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        ops: u64,
        /// In so many processes
        #[arg(long, default_value_t = 4)]
        processes: u64,
    },
    /// Namespaces until a number comes again; prints them
    Reuse,
    /// The truth about namespaces, as JSON
    Truth,
    /// Nothing
    Nothing,
    /// Nothing, until a signal ends it
    Pause,
    /// A clone that hangs until a line comes on stdin
    Hang,
    /// A few fixed operations
    Few {
        #[arg(long)]
        book: PathBuf,
        #[arg(long, default_value = "few")]
        comm: String,
    },
}

/// Does it.
pub fn run(act: &Act) -> Result<()> {
    match act {
        Act::Marker => {
            ensure!(sys::unshare(NEWUTS) == 0, "the marker failed");
            Ok(())
        }
        Act::TimedNet => {
            let start = sys::monotonic_ns();
            let ret = sys::unshare(NEWNET);
            println!("{}", sys::monotonic_ns() - start);
            let error = std::io::Error::from_raw_os_error(-ret as i32);
            ensure!(ret == 0, "unshare(CLONE_NEWNET): {error}");
            Ok(())
        }
        Act::Failures { book } => rows::provoke_all(book),
        Act::Missed { book } => missed::run(book),
        Act::MissedCopies { dir } => missed::copies(dir),
        Act::Descriptors { book } => descriptors::run(book),
        Act::Storm {
            ops,
            processes,
            pause_us,
        } => storm::run(*ops, *processes, Duration::from_micros(*pause_us)),
        Act::TreeStorm(args) => tree_storm::run(args),
        Act::MountStorm(args) => mount_storm::run(args),
        Act::ManyMounts(args) => many_mounts::run(args),
        Act::Holders { dir } => holders::serve(dir),
        Act::OverlayLoad(args) => overlay::load(args),
        Act::CopyUp(args) => overlay::copy_up(args),
        Act::MountOps { dir } => mount_ops::run(dir),
        Act::MountOpStorm {
            dir,
            ops,
            processes,
        } => mount_op_storm::run(dir, *ops, *processes),
        Act::Reuse => reuse::run(),
        Act::Truth => truth::print(),
        Act::Nothing => Ok(()),
        Act::Pause => loop {
            std::thread::park();
        },
        Act::Hang => hang::run(),
        Act::Few { book, comm } => few(book, comm),
    }
}

/// A command for this program itself.
pub fn own_command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args).stdin(Stdio::null());
    Ok(command)
}

/// Runs this program with these arguments and gives what it printed.
pub fn perform(args: &[&str]) -> Result<String> {
    let output = own_command(args)?.stderr(Stdio::inherit()).output()?;
    ensure!(
        output.status.success(),
        "nstrace-guest {}: {}",
        args.join(" "),
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Starts this program with these arguments, with pipes from and to it.
pub fn start(args: &[&str]) -> Result<Child> {
    let mut command = own_command(args)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().context("cannot start an act")
}

/// Does one unshare(NEWUTS) in a new process and gives its id.
pub fn marker() -> Result<u32> {
    let mut child = own_command(&["act", "marker"])?.spawn()?;
    let pid = child.id();
    ensure!(child.wait()?.success(), "the marker failed");
    Ok(pid)
}

/// Operations whose text is looked at.
fn few(book: &Path, comm: &str) -> Result<()> {
    keeper::keep(&Procfs::open()?, |asker| {
        let book = Book::append(book)?;
        let mut recorder = Recorder::new(Procfs::open()?, asker, book, comm)?;
        recorder.note = "unshare".into();
        recorder.unshare(NEWNS | NEWUTS)?;
        recorder.note = "clone".into();
        let made = recorder.clone(Call::Clone, NEWPID | NEWIPC, |_, _| Ok(0))?;
        if let Ok(child) = made {
            recorder.end(child)?;
        }
        recorder.become_user(1000)?;
        recorder.note = "refused".into();
        recorder.unshare(NEWUTS)?;
        Ok(())
    })
}
