//! `nstrace mounts`: the mounts of every mount namespace, and what keeps those of a file
//! system.

use std::{
    ffi::CString,
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::bail;
use foldhash::HashMap;
use nstrace_common::kind::Kind;

use super::{
    model::{Model, Replayed},
    output::{self, colored},
    trouble::name,
};
use crate::{
    cli,
    event::{Event, Holder},
    kernel::{
        error::{in_first_pid_namespace, shows_all},
        load::raise_open_files,
        mounts::{
            self, Wanted, devices, subject,
            uses::{self, Task},
        },
        writers::Counter,
    },
    mount_ops::origins::Origins as Makers,
    mounts::{
        Births, Copies, Mounts, Origins, covering,
        uses::{Search, Uses},
        who::{self, Subject},
    },
    render::{
        MountsView, Text, TreeFilter, WhoView, mount_namespaces, mounts as head, mounts_json,
        mounts_json_of, mounts_of, mounts_who, mounts_who_json,
    },
    world::{self, Membership, Namespace, NsKey, World},
};

/// Takes one look at the machine, and prints what was asked for.
pub fn run(args: &cli::Mounts) -> anyhow::Result<ExitCode> {
    let (births, makers) = births(args.births.as_deref())?;
    let model = Model::of(None, None)?;
    let wanted = wanted(&model.world);
    let (mounts, roots) = match args.who {
        Some(_) => {
            // One for each namespace.
            raise_open_files();
            mounts::read_with_roots(wanted, args.by)?
        }
        None => (mounts::read(wanted, args.by)?, HashMap::default()),
    };
    let mounts = Arc::new(mounts);
    let filter = TreeFilter::default();
    let mut tree = model.view(&filter, colored(args.color));
    tree.width = output::size().map(|(width, _)| width);
    let view = MountsView {
        mounts: &mounts,
        copies: &Copies::new(&mounts),
        births: &births,
        makers: &makers,
        world: &model.world,
        tree: &tree,
    };
    match (&args.who, args.orphans) {
        (Some(asked), _) => {
            let subject = subject::find(asked, &mounts)?;
            answer(args, &mounts, &view, Some(&subject), &roots)?;
        }
        (None, true) => answer(args, &mounts, &view, None, &roots)?,
        (None, false) => list(args, &model, &view)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// How namespaces and mounts came about, as a recording says that was made meanwhile.
fn births(recording: Option<&Path>) -> anyhow::Result<(Births, Makers)> {
    let Some(path) = recording else {
        return Ok(Default::default());
    };
    let (mut origins, mut makers) = (Origins::default(), Makers::default());
    let mut boot = String::new();
    let model = Model::replay(path, world::Options::default(), &mut |_, item| {
        match item {
            Replayed::Head(head) => boot.clone_from(&head.boot_id),
            Replayed::Event(Event::Op(op) | Event::Births(op), _) => origins.note(op),
            Replayed::Event(event, _) => makers.apply(event),
            _ => {}
        }
        Ok(())
    })?;
    let own = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if boot != own.trim() {
        bail!(
            "{}: it was made on another machine, or before the last start of this one: --births \
             takes one that is made meanwhile",
            name(path, "input")
        );
    }
    Ok((Births::new(&model.world, &origins), makers))
}

/// Prints what keeps a file system; or, if none was asked for, what no namespace has.
fn answer(
    args: &cli::Mounts,
    mounts: &Arc<Mounts>,
    view: &MountsView,
    subject: Option<&Subject>,
    roots: &HashMap<u32, OwnedFd>,
) -> anyhow::Result<()> {
    let search = match subject {
        Some(subject) => subject.search(mounts),
        None => Search {
            orphans: true,
            ..Search::default()
        },
    };
    let (own, others) = tasks(view.world);
    let mut uses = uses::find(others, mounts, search.clone())?;
    // What was not looked at may have what is counted.
    let is_all = uses.unseen == 0 && uses.hung.is_empty() && uses.left_out == 0;
    if let Some(subject) = subject
        && is_all
        && (in_first_pid_namespace() || shows_all())
    {
        let ours = uses::find(own, mounts, search.clone())?;
        uses.held = held(subject, mounts, [&uses, &ours], roots);
        if !uses.held.is_empty() {
            // Who has come since the tasks were looked at is none that is not seen.
            let again = uses::find(uses::all_tasks(), mounts, search)?;
            uses.held
                .retain(|id, _| again.of_mount(*id).next().is_none());
        }
    }
    let view = WhoView {
        all: view,
        subject,
        uses: &uses,
        own: subject::own(mounts),
        loops: &devices::loops(),
        swaps: &devices::swaps(),
    };
    let mut text = Text::new();
    match args.json {
        true => mounts_who_json(&mut text, &view),
        false => mounts_who(&mut text, &view),
    }
    output::write(&mut text)
}

/// The files that loop devices and swap have open: no task has.
fn kernel_files() -> Vec<Vec<u8>> {
    let loops = devices::loops().into_iter().map(|one| one.file.to_vec());
    let swaps = devices::swaps().into_iter();
    let swaps = swaps.filter(|one| one.device.is_none());
    loops.chain(swaps.map(|one| one.path.to_vec())).collect()
}

/// How many of them may be on each mount, by its id: from which namespace they were opened is
/// not told.
pub fn by_kernel(mounts: &Mounts) -> HashMap<u32, usize> {
    let mut by_mount = HashMap::default();
    let paths = kernel_files();
    for ns in &mounts.namespaces {
        for path in &paths {
            let on = covering(ns, path).and_then(|at| ns.mounts.get(at));
            if let Some(on) = on {
                *by_mount.entry(on.id).or_default() += 1;
            }
        }
    }
    by_mount
}

/// So many mounts are asked for their references.
const ASKED_MAX: usize = 1024;

/// The references to mounts that nobody is seen to use: what keeps those need not be a file that
/// a task has. Nothing if the kernel does not tell, or we may not ask.
fn held(
    subject: &Subject,
    mounts: &Mounts,
    [uses, ours]: [&Uses; 2],
    roots: &HashMap<u32, OwnedFd>,
) -> HashMap<u32, u32> {
    let kept = who::kept(subject, mounts, uses);
    let unused = kept.iter().filter(|kept| kept.is_unused());
    let unused = unused.filter(|kept| ours.of_mount(kept.mount.id).next().is_none());
    let asked = unused.take(ASKED_MAX).filter_map(|kept| {
        let ns = mounts.namespaces.get(kept.key.ns)?;
        let point = CString::new(&*kept.mount.point).ok()?;
        Some((ns.inum, point, kept.mount.id))
    });
    let asked: Vec<_> = asked.collect();
    if asked.is_empty() {
        return HashMap::default();
    }
    let Ok(counter) = Counter::load() else {
        return HashMap::default();
    };
    let files = mounts::open_all(roots, asked);
    let by_kernel = by_kernel(mounts);
    let references = |id: &u32, file: &OwnedFd| {
        /// That of the namespace, and that of our file.
        const KNOWN: i64 = 2;
        let known = KNOWN + by_kernel.get(id).map_or(0, |known| *known as i64);
        let more = i64::from(counter.references(file.as_fd())?) - known;
        u32::try_from(more).ok().filter(|more| *more > 0)
    };
    let all = |files: &HashMap<u32, OwnedFd>| -> HashMap<u32, u32> {
        let held = files
            .iter()
            .filter_map(|(id, file)| Some((*id, references(id, file)?)));
        held.collect()
    };
    let mut held = all(&files);
    if !held.is_empty() {
        // Who only looks a path up does not stay.
        thread::sleep(SETTLE);
        let again = all(&files);
        held.retain(|id, count| {
            *count = again.get(id).map_or(0, |again| (*count).min(*again));
            *count > 0
        });
    }
    held
}

/// What is only on the way does not stay so long.
const SETTLE: Duration = Duration::from_millis(50);

/// Our own tasks, and the others that are there, process by process, the leader first where it
/// lives.
fn tasks(world: &World) -> (Vec<Task>, Vec<Task>) {
    let inum = |key, kind| {
        let ns = world.membership(key, Membership::In(kind))?;
        Some(world.namespace(ns)?.inum)
    };
    let own = std::process::id();
    let alive = world.tasks().filter(|(_, task)| !task.exited);
    let mut tasks: Vec<Task> = alive
        .map(|(key, task)| Task {
            pid: task.pid,
            tid: task.tid,
            mnt: inum(key, Kind::Mnt).unwrap_or(0),
            net: inum(key, Kind::Net).unwrap_or(0),
        })
        .collect();
    tasks.sort_unstable_by_key(|task| (task.pid, task.tid != task.pid, task.tid));
    tasks.into_iter().partition(|task| task.pid == own)
}

/// The mount namespaces that are known, and how to come to their mounts.
pub fn wanted(world: &World) -> Vec<Wanted> {
    let alive = world
        .namespaces()
        .filter(|(_, ns)| ns.kind == Kind::Mnt && ns.is_alive());
    alive.map(|(key, ns)| want(world, key, ns)).collect()
}

fn want(world: &World, key: NsKey, ns: &Namespace) -> Wanted {
    let tasks = world.members(key).filter_map(|task| world.task(task));
    let mut wanted = Wanted {
        inum: ns.inum,
        id: ns.id,
        tids: tasks.map(|task| task.tid).collect(),
        ..Wanted::default()
    };
    for holder in ns.holders() {
        match holder {
            Holder::Descriptor { pid, fd } => wanted.descriptors.push((pid, fd)),
            Holder::Mount { mnt, path } => wanted.mounts.push((mnt, path.into())),
            Holder::Socket { .. } | Holder::Proc { .. } => {}
        }
    }
    wanted
}

/// Prints the mounts of all namespaces, or of those that were asked for.
fn list(args: &cli::Mounts, model: &Model, view: &MountsView) -> anyhow::Result<()> {
    let chosen = match args.ns.is_empty() {
        true => (0..view.mounts.namespaces.len()).collect(),
        false => mount_namespaces(view, &args.ns).map_err(|error| model.absent(error))?,
    };
    let mut text = Text::new();
    match args.json {
        true => mounts_json(&mut text, view),
        false => head(&mut text, view),
    }
    for at in chosen {
        match args.json {
            true => mounts_json_of(&mut text, view, at),
            false => mounts_of(&mut text, view, at),
        }
        if text.len() > output::TEXT_MAX {
            output::write(&mut text)?;
        }
    }
    output::write(&mut text)
}
