//! `nstrace mounts`: the mounts of every mount namespace, and what keeps those of a file
//! system.

use std::process::ExitCode;

use nstrace_common::kind::Kind;

use super::{
    live::Model,
    output::{self, colored},
};
use crate::{
    cli,
    event::Holder,
    kernel::mounts::{self, Wanted},
    mounts::Copies,
    render::{
        MountsView, Text, TreeFilter, mount_namespaces, mounts as head, mounts_json,
        mounts_json_of, mounts_of,
    },
    world::{Namespace, NsKey, World},
};

/// Takes one look at the machine, and prints what was asked for.
pub fn run(args: &cli::Mounts) -> anyhow::Result<ExitCode> {
    let model = Model::of(None, None)?;
    let mounts = mounts::read(wanted(&model.world), args.by)?;
    let filter = TreeFilter::default();
    let mut tree = model.view(&filter, colored(args.color));
    tree.width = output::size().map(|(width, _)| width);
    let view = MountsView {
        mounts: &mounts,
        copies: &Copies::new(&mounts),
        world: &model.world,
        tree: &tree,
    };
    list(args, &model, &view)?;
    Ok(ExitCode::SUCCESS)
}

/// The mount namespaces that are known, and how to come to their mounts.
fn wanted(world: &World) -> Vec<Wanted> {
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
