//! Looks at this machine, and prints its namespaces: parent, owner, how many tasks, and
//! what else holds them. With `--time`, how long that takes instead.
//!
//! ```text
//! cargo build --release --example snapshot
//! sudo target/release/examples/snapshot
//! ```

use std::{process::ExitCode, time::Duration};

use nstrace::{
    event::{Event, Holder},
    kernel::snapshot,
    world::{Namespace, NsKey, Options, World},
};

fn main() -> ExitCode {
    let is_set = |name| std::env::args().any(|arg| arg == name);
    let options = snapshot::Options {
        sockets: !is_set("--no-sockets"),
        enter: !is_set("--no-enter"),
    };
    let result = if is_set("--time") {
        time(&options)
    } else {
        print(&options)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snapshot: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes a snapshot, and prints what came of it.
fn print(options: &snapshot::Options) -> Result<(), snapshot::SnapshotError> {
    let mut world = World::new(Options::default());
    let mut changes = Vec::new();
    let mut unseen = None;
    snapshot::take(options, &mut |event| {
        world.apply(&event, &mut changes);
        changes.clear();
        if let Event::SnapshotEnd(end) = event {
            unseen = Some(end.unseen);
        }
    })?;
    let mut namespaces: Vec<(NsKey, &Namespace)> = world.namespaces().collect();
    namespaces.sort_unstable_by_key(|(_, ns)| (ns.kind, ns.inum));
    for (_, ns) in namespaces {
        println!("{}", line(&world, ns));
    }
    println!("{} tasks; {unseen:?}", world.tasks_len());
    Ok(())
}

fn line(world: &World, ns: &Namespace) -> String {
    let inum = |key: Option<NsKey>| {
        let ns = key.and_then(|key| world.namespace(key));
        ns.map_or("-".into(), |ns| ns.inum.to_string())
    };
    let mut line = format!(
        "{} {} id {} parent {} owner {}",
        ns.kind.name(),
        ns.inum,
        ns.id,
        inum(ns.parent),
        inum(ns.owner)
    );
    if let Some(uid) = ns.owner_uid {
        line += &format!(" uid {uid}");
    }
    line += &format!(" tasks {}+{}", ns.members_len(), ns.children_len());
    for holder in ns.holders() {
        line += &match holder {
            Holder::Descriptor { pid, fd } => format!(" descriptor {pid}/{fd}"),
            Holder::Mount { mnt, path } => format!(" mount {mnt}:{}", path.escape_ascii()),
            Holder::Socket { pid, fd } => format!(" socket {pid}/{fd}"),
            Holder::Proc { mnt, path } => format!(" proc {mnt}:{}", path.escape_ascii()),
        };
    }
    line
}

/// Takes a snapshot, and prints how much time of the CPU it took.
fn time(options: &snapshot::Options) -> Result<(), snapshot::SnapshotError> {
    let (mut tasks, mut namespaces, mut holders) = (0, 0, 0);
    let (user, system) = cpu();
    snapshot::take(options, &mut |event| match event {
        Event::FoundTask(_) => tasks += 1,
        Event::FoundNamespace(_) => namespaces += 1,
        Event::FoundHolder(_) => holders += 1,
        _ => {}
    })?;
    let (user, system) = (cpu().0 - user, cpu().1 - system);
    println!(
        "{tasks} tasks, {namespaces} namespaces, {holders} holders: user {} ms, system {} ms",
        user.as_millis(),
        system.as_millis()
    );
    Ok(())
}

/// The CPU time of this process, user and system.
fn cpu() -> (Duration, Duration) {
    // SAFETY: a struct of integers, for which 0 is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a struct that lives through the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let duration = |time: libc::timeval| {
        let micros = u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec);
        Duration::from_micros(micros.unwrap_or(0))
    };
    (duration(usage.ru_utime), duration(usage.ru_stime))
}
