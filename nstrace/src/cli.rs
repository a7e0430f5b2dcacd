//! The command line: words that people who know strace, perf and lsns would guess.

mod words;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, ColorChoice, Parser, Subcommand,
    builder::{NonEmptyStringValueParser, OsStringValueParser, TypedValueParser as _},
};
use nstrace_common::{kind::Kind, mount_ops::Call, wire::Op};

use crate::{
    filter::Filter,
    kernel::{mounts::By, plan::Attach},
    moment::Moment,
    render::{Target, TreeFilter},
};
pub(crate) use words::length;
use words::{comm, flight, fs_type, kind, large_size, named, number, op, rotate, size};

/// Shows what the kernel does to namespaces, live: who creates, enters and leaves
/// which, through which kernel functions, how long each took, and why it failed.
#[derive(Debug, Parser)]
#[command(name = "nstrace", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `tail` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// For `tail`.
    #[command(flatten)]
    pub tail: Tail,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show operations as they happen (this is what nstrace does by itself)
    Tail(Tail),
    /// Show all namespaces as a tree, and who is in them
    Tree(Tree),
    /// Show who made a namespace, who is in it, and what keeps it alive
    Why(Why),
    /// Show namespaces that no task is in, and what keeps them alive
    Leaks(Leaks),
    /// Show the mounts of every mount namespace, and what keeps those of a file system
    Mounts(Mounts),
    /// Record what happens into a file, to be looked at later and elsewhere
    Record(Record),
    /// Show what a recording comes to: lengths, failures, namespaces, the slowest operations
    Report(Report),
    /// Show what differs between two recordings, or before and after a moment of one
    Diff(Diff),
    /// Take a part of a recording, as a recording
    Cut(Cut),
    /// Join recordings of one boot of a machine
    Cat(Cat),
    /// Turn a recording into something that other programs read
    Export(Export),
    /// Watch who takes write access to mounts, and name who does not give it back, or twice
    Writers(Writers),
    /// Show what this kernel offers to nstrace, what is missing, and what follows
    Doctor(Doctor),
}

/// The live tail.
#[derive(Debug, Args)]
pub struct Tail {
    /// What to show.
    #[command(flatten)]
    pub filters: Filters,
    /// Show the call tree of each operation
    #[arg(long, conflicts_with = "json")]
    pub path: bool,
    /// Print one JSON object per line (see docs/json.md)
    #[arg(long)]
    pub json: bool,
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Show what this recording has, without any right; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "stall", "attach", "ring_size"])]
    pub from: Option<PathBuf>,
    /// Go on while the recording is written, until it has been ended
    #[arg(short, long, requires = "from")]
    pub follow: bool,
    /// Report an operation that hangs for this long, while it hangs; 0 for never
    #[arg(long, value_name = "LENGTH", default_value = "5s", value_parser = length)]
    pub stall: Duration,
    /// Show births of namespaces too, and threads among the new tasks
    #[arg(long, conflicts_with = "json")]
    pub all: bool,
    /// Show mount operations too: mount, umount, pivot_root, move_mount and the others, and
    /// how many mounts propagation made or took away
    #[arg(long)]
    pub mounts: bool,
    /// How to sit in the kernel.
    #[command(flatten)]
    pub attach: AttachArgs,
    /// Run this command, show it and its descendants only, and exit with its status
    #[arg(last = true, value_name = "COMMAND")]
    pub run: Vec<OsString>,
}

/// How to sit in the kernel.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// How to attach to kernel functions
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    pub attach: Attach,
    /// Size of the ring buffer of operations, for instance 64K or 16M
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = size)]
    pub ring_size: u32,
}

/// A moment of what is read by `--from`.
#[derive(Debug, Args)]
pub struct At {
    /// Show what it was at this moment: 12:03:07 by the clock, +12.5s from the beginning,
    /// -30s from the end
    #[arg(
        long = "at",
        value_name = "MOMENT",
        requires = "from",
        allow_hyphen_values = true
    )]
    pub moment: Option<Moment>,
}

/// All namespaces.
#[derive(Debug, Args)]
pub struct Tree {
    /// What to show.
    #[command(flatten)]
    pub filters: TreeFilters,
    /// Show the tree at the end of this recording, without any right; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "run", "attach", "ring_size"])]
    pub from: Option<PathBuf>,
    /// When.
    #[command(flatten)]
    pub at: At,
    /// Trace the kernel, and show the tree as it changes: on a terminal as one screen, else
    /// a line for each change
    #[arg(long)]
    pub watch: bool,
    /// Print one JSON object per line (see docs/json.md)
    #[arg(long)]
    pub json: bool,
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// How to sit in the kernel.
    #[command(flatten)]
    pub attach: AttachArgs,
    /// Trace the kernel while this command runs, show the tree when it has ended, and exit
    /// with its status
    #[arg(last = true, value_name = "COMMAND")]
    pub run: Vec<OsString>,
}

/// What of the tree to show. Each filter that is given must hold.
#[derive(Debug, Args)]
pub struct TreeFilters {
    /// Only namespaces of these kinds, as a list: mnt uts ipc pid net user cgroup time
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', value_parser = kind)]
    pub kind: Vec<Kind>,
    /// Only what this process is in
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Only the container of this name, or whose id starts so
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub container: Option<String>,
}

impl TreeFilters {
    /// The same as a filter of the tree.
    pub fn filter(&self) -> TreeFilter {
        TreeFilter {
            kinds: self.kind.clone(),
            pid: self.pid,
            container: self.container.clone(),
            since: None,
        }
    }
}

/// One namespace, process or container.
#[derive(Debug, Args)]
pub struct Why {
    /// A namespace, as `net:4026532281`; a process id; or a container's name, or the
    /// beginning of its id
    #[arg(value_name = "KIND:INUM|PID|CONTAINER")]
    pub target: Target,
    /// Answer from this recording, as it is at its end; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// When.
    #[command(flatten)]
    pub at: At,
    /// Print one JSON object per line (see docs/json.md)
    #[arg(long)]
    pub json: bool,
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// Namespaces without tasks.
#[derive(Debug, Args)]
pub struct Leaks {
    /// Only those that are at least this old: traces the kernel for that long, since the
    /// kernel does not say how old a namespace is
    #[arg(long, value_name = "LENGTH", default_value = "0", value_parser = length)]
    pub older_than: Duration,
    /// Those at the end of this recording; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["attach", "ring_size"])]
    pub from: Option<PathBuf>,
    /// When.
    #[command(flatten)]
    pub at: At,
    /// Print one JSON object per line (see docs/json.md)
    #[arg(long)]
    pub json: bool,
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// How to sit in the kernel.
    #[command(flatten)]
    pub attach: AttachArgs,
}

/// The mounts of mount namespaces.
#[derive(Debug, Args)]
pub struct Mounts {
    /// Only these namespaces: their numbers, processes in them, or containers by name or id
    #[arg(long, value_name = "INUM|PID|CONTAINER", num_args = 1..)]
    pub ns: Vec<Target>,
    /// Show what keeps a file system: each mount of it in every namespace, who uses that, and
    /// what to do. It is that of this path, this block device, or this MAJOR:MINOR
    #[arg(long, value_name = "PATH|DEV", conflicts_with = "ns", value_parser = OsStringValueParser::new().try_map(named))]
    pub who: Option<OsString>,
    /// Show mounts and file systems that no namespace has any more, and who still uses them
    #[arg(long, conflicts_with_all = ["ns", "who"])]
    pub orphans: bool,
    /// Say who made each namespace, when, and whose mounts were copied for it: by this
    /// recording, which may still go on
    #[arg(long, value_name = "FILE", conflicts_with = "orphans")]
    pub births: Option<PathBuf>,
    /// How to read mounts
    #[arg(long, value_enum, default_value = "auto", value_name = "WAY")]
    pub by: By,
    /// Print one JSON object per line (see docs/json.md)
    #[arg(long)]
    pub json: bool,
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// A recording.
#[derive(Debug, Args)]
pub struct Record {
    /// Into this file; `-` for standard output, and what COMMAND prints goes to standard error
    /// then
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// End after this time
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    pub duration: Option<Duration>,
    /// End when so much is written, for instance 100M; no more is. At least 16K, and twice
    /// what is known of the machine when it begins
    #[arg(long, value_name = "SIZE", value_parser = large_size)]
    pub max_size: Option<u64>,
    /// Begin another file when one is so large, or so old: 100M, 1h. FILE.nst is
    /// FILE.000001.nst and so on. None is larger, unless what is known of the machine has grown
    /// to nearly as much. At least as for --max-size
    #[arg(long, value_name = "SIZE|LENGTH", value_parser = rotate, group = "parts")]
    pub rotate: Vec<Rotate>,
    /// Keep so many files, and remove the oldest
    #[arg(long, value_name = "NUMBER", value_parser = number, requires = "parts")]
    pub keep: Option<usize>,
    /// Keep the last while in memory, and write it into a file when something happens: an
    /// operation that the filters choose, a kernel warning in cleanup_mnt, SIGUSR1. FILE.nst is
    /// FILE.000001.nst and so on. The filters have one file written in LENGTH: what they choose
    /// sooner is in the next
    #[arg(long, value_name = "LENGTH", value_parser = flight, group = "parts", conflicts_with_all = ["rotate", "max_size"])]
    pub flight: Option<Duration>,
    /// Watch who has write access to mounts, for `nstrace writers --from`: all, fs:TYPE,
    /// mount:PATH, dev:DEVICE or container:NAME, one or several times
    #[arg(long, value_name = "WHICH", value_parser = which_mounts)]
    pub writers: Vec<WhichMounts>,
    /// Leave out names of commands and paths
    #[arg(long)]
    pub redact: bool,
    /// Which operations; of others, only what they do to the tree
    #[command(flatten)]
    pub filters: Filters,
    /// Write out what has gathered so often
    #[arg(long, value_name = "LENGTH", default_value = "1s", value_parser = length)]
    pub flush: Duration,
    /// Record mount operations too, and which mounts they make
    #[arg(long)]
    pub mounts: bool,
    /// Record an operation that hangs for this long, while it hangs; 0 for never
    #[arg(long, value_name = "LENGTH", default_value = "5s", value_parser = length)]
    pub stall: Duration,
    /// How to sit in the kernel.
    #[command(flatten)]
    pub attach: AttachArgs,
    /// Run this command, end when it has ended, and exit with its status
    #[arg(last = true, value_name = "COMMAND")]
    pub run: Vec<OsString>,
}

/// Mounts whose write access is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichMounts {
    /// All.
    All,
    /// Those of a type of file system.
    Fs([u8; 16]),
    /// That which a path is on.
    Mount(PathBuf),
    /// Those on a device.
    Dev(OsString),
    /// Those of a container.
    Container(String),
}

fn which_mounts(text: &str) -> Result<WhichMounts, String> {
    let error = || "all, fs:TYPE, mount:PATH, dev:DEVICE or container:NAME".to_owned();
    if text == "all" {
        return Ok(WhichMounts::All);
    }
    match text.split_once(':').filter(|(_, name)| !name.is_empty()) {
        Some(("fs", name)) => fs_type(name).map(WhichMounts::Fs),
        Some(("mount", path)) => Ok(WhichMounts::Mount(path.into())),
        Some(("dev", name)) => Ok(WhichMounts::Dev(name.into())),
        Some(("container", name)) => Ok(WhichMounts::Container(name.to_owned())),
        _ => Err(error()),
    }
}

/// When another file is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotate {
    /// When one has so many bytes.
    Size(u64),
    /// When one is so old.
    Age(Duration),
}

impl Rotate {
    /// The size, if it is one.
    pub fn size(&self) -> Option<u64> {
        match self {
            Rotate::Size(size) => Some(*size),
            Rotate::Age(_) => None,
        }
    }

    /// The length, if it is one.
    pub fn age(&self) -> Option<Duration> {
        match self {
            Rotate::Age(age) => Some(*age),
            Rotate::Size(_) => None,
        }
    }
}

/// What a recording comes to.
#[derive(Debug, Args)]
pub struct Report {
    /// The recording; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which operations count.
    #[command(flatten)]
    pub filters: Filters,
    /// Print one JSON object per line (see docs/json.md)
    #[arg(long)]
    pub json: bool,
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// Two recordings, or two parts of one, compared.
#[derive(Debug, Args)]
pub struct Diff {
    /// What it was before
    #[arg(value_name = "A")]
    pub before: PathBuf,
    /// What it is compared with; `-` for standard input
    #[arg(
        value_name = "B",
        conflicts_with = "at",
        required_unless_present = "at"
    )]
    pub after: Option<PathBuf>,
    /// Compare what is in A up to this moment with what comes after it: 12:03:07 by the clock,
    /// +12.5s from the beginning, -30s from the end
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    pub at: Option<Moment>,
    /// With what comes after it up to this moment
    #[arg(
        long,
        value_name = "MOMENT",
        requires = "at",
        allow_hyphen_values = true
    )]
    pub to: Option<Moment>,
    /// Which operations count.
    #[command(flatten)]
    pub filters: Filters,
    /// Print one JSON object per line (see docs/json.md)
    #[arg(long)]
    pub json: bool,
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

/// A part of a recording.
#[derive(Debug, Args)]
pub struct Cut {
    /// The recording; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What comes after this moment: 12:03:07 by the clock, +12.5s from the beginning, -30s
    /// from the end
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    pub from: Option<Moment>,
    /// What comes up to this moment
    #[arg(long, value_name = "MOMENT", allow_hyphen_values = true)]
    pub to: Option<Moment>,
    /// Into this file; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Several recordings.
#[derive(Debug, Args)]
pub struct Cat {
    /// The recordings, in the order of time; `-` for standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Into this file; standard output if nothing is said
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
}

/// A recording for other programs.
#[derive(Debug, Args)]
pub struct Export {
    /// The recording; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// As what
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// Into this file, for parquet into this directory; standard output if nothing is said
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: Option<PathBuf>,
}

/// What other programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// A JSON object on each line, as `tail --json` prints them
    Json,
    /// A trace for <https://ui.perfetto.dev>, and for its trace processor
    Perfetto,
    /// Tables for DuckDB, pandas, Spark and others: -o is a directory, which will have
    /// operations.parquet, stages.parquet and namespaces.parquet (see docs/parquet.md)
    Parquet,
    /// One page that shows it in a browser, without a network
    Html,
}

/// Who has write access to mounts.
#[derive(Debug, Args)]
pub struct Writers {
    /// Which mounts.
    #[command(flatten)]
    pub mounts: WatchedMounts,
    /// Look once, without having watched: which mounts, of all or of those named, have a writer
    /// count that open files do not explain (remount,ro fails with EBUSY on such)
    #[arg(long, conflicts_with_all = ["run", "duration", "from", "attach", "stacks"])]
    pub now: bool,
    /// Show what this recording has, which was made with --writers; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "duration", "attach", "mounts"])]
    pub from: Option<PathBuf>,
    /// End after this time
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    pub duration: Option<Duration>,
    /// Print one JSON object per line (see docs/json.md)
    #[arg(long)]
    pub json: bool,
    /// Colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// How to attach to kernel functions
    #[arg(long, value_enum, default_value = "auto", value_name = "HOW")]
    pub attach: Attach,
    /// Run this command, end when it has ended, and exit with its status
    #[arg(last = true, value_name = "COMMAND")]
    pub run: Vec<OsString>,
}

/// How many stacks the ledger has room for, if nothing is said.
const STACKS: u32 = 65536;

/// Mounts whose write access is watched, since that is on a hot path. Each that is named is
/// added to the others.
#[derive(Debug, Args)]
#[group(id = "mounts", multiple = true)]
pub struct WatchedMounts {
    /// Those of these types of file systems; overlay: its private clones of upper layers, too
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',', value_parser = fs_type)]
    pub fs: Vec<[u8; 16]>,
    /// The mount that this path is on; of an overlay, its private clone of the upper layer, too
    #[arg(long, value_name = "PATH")]
    pub mount: Vec<PathBuf>,
    /// Those of the file system on this device: /dev/NAME, MAJOR:MINOR, or a path on it
    #[arg(long, value_name = "DEVICE")]
    pub dev: Vec<OsString>,
    /// Those in the mount namespaces of this container, by its name or the beginning of its id
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    pub container: Vec<String>,
    /// All
    #[arg(long = "all")]
    pub all_mounts: bool,
    /// How many different stacks the ledger has room for
    #[arg(long, value_name = "NUMBER", default_value_t = STACKS, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub stacks: u32,
}

impl WatchedMounts {
    /// Those that `record` names.
    pub fn of(which: &[WhichMounts]) -> WatchedMounts {
        let mut mounts = WatchedMounts {
            fs: Vec::new(),
            mount: Vec::new(),
            dev: Vec::new(),
            container: Vec::new(),
            all_mounts: false,
            stacks: STACKS,
        };
        for which in which {
            match which {
                WhichMounts::All => mounts.all_mounts = true,
                WhichMounts::Fs(name) => mounts.fs.push(*name),
                WhichMounts::Mount(path) => mounts.mount.push(path.clone()),
                WhichMounts::Dev(name) => mounts.dev.push(name.clone()),
                WhichMounts::Container(name) => mounts.container.push(name.clone()),
            }
        }
        mounts
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.fs.is_empty()
            && self.mount.is_empty()
            && self.dev.is_empty()
            && self.container.is_empty()
            && !self.all_mounts
    }
}

/// What the kernel offers.
#[derive(Debug, Args)]
pub struct Doctor {
    /// How to sit in the kernel.
    #[command(flatten)]
    pub attach: AttachArgs,
}

/// What to show. Each filter that is given must hold.
#[derive(Debug, Args)]
pub struct Filters {
    /// Only operations on these kinds: mnt uts ipc pid net user cgroup time
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', value_parser = kind)]
    pub kind: Vec<Kind>,
    /// Only these operations: clone clone3 fork vfork unshare setns open_tree fsmount; of
    /// mount operations mount umount pivot_root move_mount open_tree open_tree_attr fsmount
    /// mount_setattr fsopen fspick fsconfig copy_mnt_ns
    #[arg(long, value_name = "OP,…", value_delimiter = ',', value_parser = op)]
    pub op: Vec<OpName>,
    /// Only this process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Only tasks of this name
    #[arg(long, value_name = "NAME", value_parser = OsStringValueParser::new().try_map(comm))]
    pub comm: Option<OsString>,
    /// Only tasks in the container whose id starts so (in `report` and `diff` its name does too)
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub container: Option<String>,
    /// Only operations that failed
    #[arg(long)]
    pub failed: bool,
    /// Only operations that took at least this long, for instance 10ms
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    pub slower_than: Option<Duration>,
}

/// The name of an operation: on namespaces, on mounts, or on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpName {
    /// The operation on namespaces.
    pub op: Option<Op>,
    /// That on mounts.
    pub call: Option<Call>,
}

impl Filters {
    /// The same as a filter of events.
    pub fn filter(&self) -> Filter {
        use std::os::unix::ffi::OsStrExt as _;
        Filter {
            kinds: self.kind.clone(),
            ops: self.op.iter().filter_map(|name| name.op).collect(),
            calls: self.op.iter().filter_map(|name| name.call).collect(),
            pid: self.pid,
            comm: self.comm.as_ref().map(|comm| comm.as_bytes().to_vec()),
            container: self.container.clone(),
            named: Vec::new(),
            failed: self.failed,
            slower_than_ns: self.slower_than.map(|length| length.as_nanos() as u64),
        }
    }

    /// Whether what is asked for can be there: mount operations are if `mounts`; without it
    /// they are not counted at all.
    pub fn check(&self, mounts: Option<bool>) -> Result<(), String> {
        let is_of_mounts = |name: &&OpName| name.op.is_none() && mounts != Some(true);
        let Some(call) = self.op.iter().find(is_of_mounts).and_then(|name| name.call) else {
            return Ok(());
        };
        let but = match mounts {
            Some(_) => ": say --mounts too",
            None => ", and these are not counted",
        };
        Err(format!("--op {} is a mount operation{but}", call.name()))
    }
}
