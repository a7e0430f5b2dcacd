//! `nstrace mounts`: the mounts of every mount namespace, and what keeps those of a file
//! system.

use std::{fs, path::Path, process::ExitCode, sync::Arc};

use anyhow::bail;
use nstrace_common::kind::Kind;

use super::{
    live::{Model, Replayed},
    output::{self, colored},
    trouble::name,
};
use crate::{
    cli,
    event::{Event, Holder},
    kernel::mounts::{
        self, Wanted, devices, subject,
        uses::{self, Task},
    },
    mount_ops::origins::Origins as Makers,
    mounts::{Births, Copies, Mounts, Origins, uses::Search, who::Subject},
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
    let mounts = Arc::new(mounts::read(wanted(&model.world), args.by)?);
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
            who(args, &mounts, &view, Some(&subject))?;
        }
        (None, true) => who(args, &mounts, &view, None)?,
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
fn who(
    args: &cli::Mounts,
    mounts: &Arc<Mounts>,
    view: &MountsView,
    subject: Option<&Subject>,
) -> anyhow::Result<()> {
    let search = match subject {
        Some(subject) => subject.search(mounts),
        None => Search {
            orphans: true,
            ..Search::default()
        },
    };
    let uses = uses::find(tasks(view.world), mounts, search)?;
    let answer = WhoView {
        all: view,
        subject,
        uses: &uses,
        own: subject::own(mounts),
        loops: &devices::loops(),
        swaps: &devices::swaps(),
    };
    let mut text = Text::new();
    match args.json {
        true => mounts_who_json(&mut text, &answer),
        false => mounts_who(&mut text, &answer),
    }
    output::write(&mut text)
}

/// The tasks that are there but our own, process by process, the leader first where it lives.
fn tasks(world: &World) -> Vec<Task> {
    let inum = |key, kind| {
        let ns = world.membership(key, Membership::In(kind))?;
        Some(world.namespace(ns)?.inum)
    };
    let own = std::process::id();
    let alive = world
        .tasks()
        .filter(|(_, task)| !task.exited && task.pid != own);
    let mut tasks: Vec<Task> = alive
        .map(|(key, task)| Task {
            pid: task.pid,
            tid: task.tid,
            mnt: inum(key, Kind::Mnt).unwrap_or(0),
            net: inum(key, Kind::Net).unwrap_or(0),
        })
        .collect();
    tasks.sort_unstable_by_key(|task| (task.pid, task.tid != task.pid, task.tid));
    tasks
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
