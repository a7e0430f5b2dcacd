//! Recordings for other programs: a trace for Perfetto ([`perfetto`]), tables of Parquet
//! ([`parquet`]), a page for a browser ([`html`]).
//!
//! All are pure. The first two are told what a recording has, piece by piece, and write it out as
//! it comes. What they keep is bounded by what lives at one time, never by how long a
//! recording is. What the traced chose goes through [`escape`] as for a terminal: what reads
//! these files prints it as it stands.
//!
//! [`escape`]: crate::render::escape

pub mod html;
pub mod parquet;
pub mod perfetto;

#[cfg(test)]
mod testing;

use std::io;

use nstrace_common::kind::Kind;

use crate::{
    cgroups::Cgroups,
    event::{Event, Operation},
    explain::{Facts, explain},
    names::Names,
    render::{errno_name, escape::Escaped, flag_names},
    stages::{Stages, stages},
    trace::Head,
    world::{Change, NsKey, World},
};

/// What is known beside an event.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// When it is, `CLOCK_MONOTONIC` in ns.
    pub now_ns: u64,
    /// What to add to that for the time of day, in ns.
    pub wall_offset_ns: i64,
    /// Paths of cgroups.
    pub cgroups: &'a Cgroups,
    /// Names of containers.
    pub names: &'a Names,
    /// The namespaces.
    pub world: &'a World,
}

/// Is told what a recording has.
pub trait Export {
    /// Where it was made.
    fn head(&mut self, head: &Head) -> io::Result<()>;

    /// What the machine said about failures that come next.
    fn facts(&mut self, facts: Facts);

    /// What an event has changed; it is itself told behind it.
    fn changes(&mut self, changes: &[Change], context: &Context) -> io::Result<()>;

    /// What happened.
    fn event(&mut self, event: &Event, context: &Context) -> io::Result<()>;

    /// That was all.
    fn finish(&mut self, context: &Context) -> io::Result<()>;
}

/// An operation, with what is to be said of it.
struct Told<'a> {
    op: &'a Operation<'a>,
    /// No other operation of any recording has it.
    id: String,
    stages: Stages,
    reason: Option<String>,
    comm: String,
    cgroup: Option<String>,
    container: Option<String>,
    container_name: Option<String>,
}

impl<'a> Told<'a> {
    fn new(op: &'a Operation, id: String, facts: &Facts, context: &Context) -> Told<'a> {
        let (cgroup, container, container_name) = place(op.record.cgroup, context);
        Told {
            id,
            stages: stages(op),
            reason: explain(op, facts).map(|reason| reason.to_string()),
            comm: shown(op.comm()),
            cgroup,
            container,
            container_name,
            op,
        }
    }

    /// Names of its flags, with `|` between them.
    fn flags(&self) -> String {
        joined(flag_names(self.op.op, self.op.record.flags))
    }

    fn errno(&self) -> Option<String> {
        self.op.errno().map(errno)
    }

    fn failed_stage(&self) -> Option<&'static str> {
        self.stages.failed().map(|stage| stage.function.name())
    }
}

/// Numbers the operations of a recording.
#[derive(Clone, Debug, Default)]
struct Ids {
    /// When it was made, and during which boot.
    recording: String,
    next: u64,
}

impl Ids {
    fn of(head: &Head) -> Ids {
        // No two recordings of one boot begin at the same nanosecond.
        let boot = crc32fast::hash(head.boot_id.as_bytes());
        Ids {
            recording: format!("{boot:08x}-{:x}", head.mono_ns),
            next: 0,
        }
    }

    fn next(&mut self) -> String {
        let number = self.next;
        self.next += 1;
        format!("{}-{number}", self.recording)
    }
}

/// What the traced chose, as it may be shown.
fn shown(name: &[u8]) -> String {
    Escaped(name).to_string()
}

fn errno(number: i32) -> String {
    errno_name(number).map_or_else(|| format!("errno {number}"), str::to_owned)
}

fn joined<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.collect::<Vec<_>>().join("|")
}

/// The path of a cgroup, the container that it names, and what the engine calls that.
fn place(cgroup: u64, context: &Context) -> (Option<String>, Option<String>, Option<String>) {
    let container = context.cgroups.container(cgroup);
    let name = container.and_then(|id| context.names.get(id));
    (
        context.cgroups.path(cgroup).map(shown),
        container.map(shown),
        name.map(|name| shown(name.as_bytes())),
    )
}

/// What lives, in an order that does not change.
fn living(world: &World) -> Vec<((Kind, u32), NsKey)> {
    let alive = world.namespaces().filter(|(_, ns)| ns.is_alive());
    let mut all: Vec<_> = alive.map(|(key, ns)| ((ns.kind, ns.inum), key)).collect();
    all.sort_unstable();
    all
}
