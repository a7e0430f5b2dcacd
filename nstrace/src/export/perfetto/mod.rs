//! A recording as a trace that Perfetto opens: <https://ui.perfetto.dev>.
//!
//! It is a stream of packets ([`packets`]) in a handful of messages ([`proto`]), in the order
//! in which things ended; Perfetto sorts by time, and leaves in their order those of one
//! time. So each operation is written whole when it has ended, and each namespace when it
//! has died, or at the end: then all is known of it.
//!
//! Tasks have tracks below that of the container they are in. A track of a task that exits
//! is not used again: another one may get its number. Namespaces have one track for each
//! kind; since slices of a track can only be within each other, it is several, which
//! Perfetto shows as one.

mod packets;
mod proto;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    hash::BuildHasher as _,
    io::{self, Write},
};

use foldhash::{HashMap, fast::FixedState};
use nstrace_common::kind::{KINDS, Kind};

use self::packets::{Notes, Packets, Track, TrackEvent, Type};
use super::{Context, Export, Ids, Told, errno, place, shown};
use crate::{
    event::{Event, Lost, Now, Operation, record_name},
    explain::Facts,
    render::flag_names,
    stages,
    trace::Head,
    world::{Change, Known, Maker, Namespace, NsKey},
};

/// So many containers are known to have a track; one that is forgotten is described again.
const CONTAINERS_MAX: usize = 65536;

/// So much of a container's id tells it from others.
const ID_LEN: usize = 12;

/// Writes a trace.
pub struct Perfetto<W> {
    packets: Packets<W>,
    facts: Facts,
    ids: Ids,
    /// The last that was given to a track.
    uuid: u64,
    /// Whether the clocks were tied at that time, and how.
    clock: Option<(u64, i64)>,
    /// Tracks of containers by their ids, which are empty for none.
    containers: HashMap<Box<[u8]>, Container>,
    /// Tracks of tasks by their thread ids.
    tasks: HashMap<u32, Task>,
    /// That of all namespaces.
    namespaces: Option<u64>,
    /// Tracks for each kind, with the times at which the last slices on them end.
    lanes: [BTreeSet<(u64, u64)>; KINDS],
    lost: Option<u64>,
}

struct Container {
    uuid: u64,
    /// Whether its track has the engine's name.
    is_named: bool,
}

struct Task {
    uuid: u64,
    /// Its parent.
    container: u64,
}

impl<W: Write> Perfetto<W> {
    /// A trace that goes there.
    pub fn new(out: W) -> Perfetto<W> {
        Perfetto {
            packets: Packets::new(out),
            facts: Facts::NONE,
            ids: Ids::default(),
            uuid: 0,
            clock: None,
            containers: HashMap::default(),
            tasks: HashMap::default(),
            namespaces: None,
            lanes: Default::default(),
            lost: None,
        }
    }

    fn next_uuid(&mut self) -> u64 {
        self.uuid += 1;
        self.uuid
    }

    /// Ties the clocks, if they have not been or have come apart.
    fn clock(&mut self, context: &Context) -> io::Result<()> {
        let (mono_ns, offset_ns) = (context.now_ns, context.wall_offset_ns);
        if self
            .clock
            .is_some_and(|(time, offset)| offset == offset_ns || time >= mono_ns)
        {
            return Ok(());
        }
        self.clock = Some((mono_ns, offset_ns));
        let wall_ns = mono_ns.saturating_add_signed(offset_ns);
        self.packets.clocks(mono_ns, wall_ns)
    }

    /// A track that there is once, described if it is new.
    fn root(&mut self, known: Option<u64>, name: &str) -> io::Result<u64> {
        if let Some(uuid) = known {
            return Ok(uuid);
        }
        let uuid = self.next_uuid();
        self.packets.track(&Track {
            uuid,
            parent: None,
            name,
            description: None,
            merges: false,
        })?;
        Ok(uuid)
    }

    /// The track of the container of a cgroup, or of what is in none.
    fn container(&mut self, cgroup: u64, context: &Context) -> io::Result<u64> {
        let id = context.cgroups.container(cgroup).unwrap_or_default();
        let name = context.names.get(id);
        if let Some(known) = self.containers.get(id)
            && (known.is_named || name.is_none())
        {
            return Ok(known.uuid);
        }
        self.describe(id, name)
    }

    fn describe(&mut self, id: &[u8], name: Option<&str>) -> io::Result<u64> {
        // Other tracks are numbered from 1 on.
        let uuid = FixedState::default().hash_one(id) | 1 << 63;
        let full = shown(id);
        let label = match (id, name) {
            ([], _) => "in no container".to_owned(),
            (_, Some(name)) => format!("{} ({})", shown(name.as_bytes()), short(&full)),
            (_, None) => format!("container {}", short(&full)),
        };
        self.packets.track(&Track {
            uuid,
            parent: None,
            name: &label,
            description: Some(&full).filter(|id| !id.is_empty()).map(String::as_str),
            merges: false,
        })?;
        if self.containers.len() >= CONTAINERS_MAX {
            self.containers.clear();
        }
        let container = Container {
            uuid,
            is_named: name.is_some(),
        };
        self.containers.insert(id.into(), container);
        Ok(uuid)
    }

    /// The track of the task of an operation.
    fn task(&mut self, op: &Operation, context: &Context) -> io::Result<u64> {
        let record = op.record;
        let container = self.container(record.cgroup, context)?;
        if let Some(known) = self.tasks.get(&record.tid)
            && known.container == container
        {
            return Ok(known.uuid);
        }
        let uuid = self.next_uuid();
        let (comm, pid, tid) = (shown(op.comm()), record.pid, record.tid);
        let name = match pid == tid {
            true => format!("{comm} {pid}"),
            false => format!("{comm} {pid}/{tid}"),
        };
        self.packets.track(&Track {
            uuid,
            parent: Some(container),
            name: &name,
            description: None,
            merges: false,
        })?;
        self.tasks.insert(tid, Task { uuid, container });
        Ok(uuid)
    }

    fn operation(&mut self, op: &Operation, context: &Context) -> io::Result<()> {
        let track = self.task(op, context)?;
        let told = Told::new(op, self.ids.next(), &self.facts, context);
        let begin = op.record.start;
        let end = begin.saturating_add(op.took_ns());
        self.packets.event(begin, track, Type::Begin, |event| {
            event.name(op.op.name());
            event.category("operation");
            if op.errno().is_some() {
                event.category("failed");
            }
            notes(&mut event.notes(), &told);
        })?;
        self.stages(&told, track, begin, end)?;
        self.packets.event(end, track, Type::End, |_| {})?;
        if op.op.makes_task()
            && let Some(child) = op.pids.first()
        {
            self.tasks.remove(&child.nr);
        }
        Ok(())
    }

    /// Writes stages, each within the one that called it whatever a record says.
    fn stages(&mut self, told: &Told, track: u64, begin: u64, end: u64) -> io::Result<()> {
        let mut open: Vec<u64> = Vec::new();
        let mut now = begin;
        for stage in told.stages.iter() {
            while open.len() > usize::from(stage.depth)
                && let Some(end) = open.pop()
            {
                now = now.max(end);
                self.packets.event(now, track, Type::End, |_| {})?;
            }
            let outer = open.last().copied().unwrap_or(end);
            let from = begin.saturating_add(stage.start_ns);
            let until = from.saturating_add(stage.took_ns);
            now = from.clamp(now.min(outer), outer);
            self.packets.event(now, track, Type::Begin, |event| {
                event.name(stage.function.name());
                event.category("stage");
                if let Some(number) = stage.errno {
                    event.category("failed");
                    event.notes().text("errno", Some(&errno(number)));
                }
            })?;
            open.push(until.clamp(now, outer));
        }
        while let Some(end) = open.pop() {
            now = now.max(end);
            self.packets.event(now, track, Type::End, |_| {})?;
        }
        Ok(())
    }

    fn stall(&mut self, op: &Operation, moment: &Now, context: &Context) -> io::Result<()> {
        let track = self.task(op, context)?;
        self.packets
            .event(moment.time, track, Type::Instant, |event| {
                event.name("stall");
                event.category("stall");
                let mut notes = event.notes();
                notes.text("op", Some(op.op.name()));
                let flags = super::joined(flag_names(op.op, op.record.flags));
                notes.text("flags", Some(&flags));
                let stage = stages::in_stage(op).map(|(function, _)| function.name());
                notes.text("stage", stage);
                let took_ns = moment.time.saturating_sub(op.record.start);
                notes.number("took_ns", took_ns);
            })
    }

    fn lost(&mut self, lost: &Lost) -> io::Result<()> {
        let track = self.root(self.lost, "lost records")?;
        self.lost = Some(track);
        self.packets
            .event(lost.time, track, Type::Instant, |event| {
                event.name("lost");
                event.category("lost");
                let mut notes = event.notes();
                notes.text("record", Some(record_name(lost.record)));
                notes.number("count", lost.count);
            })
    }

    /// Writes a namespace, of which all is known that ever will be.
    fn namespace(&mut self, key: NsKey, end: u64, context: &Context) -> io::Result<()> {
        let Some(ns) = context.world.namespace(key) else {
            return Ok(());
        };
        let begin = ns.since();
        let end = end.max(begin);
        let track = self.lane(ns.kind, begin, end)?;
        self.packets.event(begin, track, Type::Begin, |event| {
            life(event, ns, context);
        })?;
        self.packets.event(end, track, Type::End, |_| {})
    }

    /// A track of a kind on which there is nothing from `begin` on; then there is until
    /// `end`.
    fn lane(&mut self, kind: Kind, begin: u64, end: u64) -> io::Result<u64> {
        let lanes = &mut self.lanes[kind as usize];
        let free = lanes.range(..=(begin, u64::MAX)).next_back().copied();
        let uuid = match free {
            Some(lane) => {
                lanes.remove(&lane);
                lane.1
            }
            None => {
                let root = self.root(self.namespaces, "namespaces")?;
                self.namespaces = Some(root);
                let uuid = self.next_uuid();
                self.packets.track(&Track {
                    uuid,
                    parent: Some(root),
                    name: kind.name(),
                    description: None,
                    merges: true,
                })?;
                uuid
            }
        };
        self.lanes[kind as usize].insert((end, uuid));
        Ok(uuid)
    }
}

impl<W: Write> Export for Perfetto<W> {
    fn head(&mut self, head: &Head) -> io::Result<()> {
        self.ids = Ids::of(head);
        self.clock = Some((head.mono_ns, head.wall_offset_ns));
        let wall_ns = head.mono_ns.saturating_add_signed(head.wall_offset_ns);
        self.packets.clocks(head.mono_ns, wall_ns)
    }

    fn facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    fn changes(&mut self, changes: &[Change], context: &Context) -> io::Result<()> {
        for change in changes {
            if let Change::Died { ns, .. } = *change
                && let Some((time, _)) = context.world.namespace(ns).and_then(|ns| ns.death)
            {
                self.namespace(ns, time, context)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, context: &Context) -> io::Result<()> {
        self.clock(context)?;
        match event {
            Event::Op(op) => self.operation(op, context)?,
            Event::Stall(op, now) => self.stall(op, now, context)?,
            Event::Lost(lost) => self.lost(lost)?,
            Event::TaskNew(task) | Event::TaskExit(task) | Event::TaskFree(task) => {
                self.tasks.remove(&task.record.tid);
            }
            Event::TaskChange(_)
            | Event::Birth(_)
            | Event::Births(_)
            | Event::Death(_)
            | Event::Cgroup(_)
            | Event::MountOp(_)
            | Event::MountBirths(_)
            | Event::SnapshotBegin(_)
            | Event::FoundNamespace(_)
            | Event::FoundTask(_)
            | Event::FoundHolder(_)
            | Event::SnapshotEnd(_)
            | Event::Warning(_)
            | Event::MountDied(_)
            | Event::MountWatched(_)
            | Event::Access(_)
            | Event::Balance(_)
            | Event::Unfiled(_)
            | Event::FoundFree(_) => {}
        }
        Ok(())
    }

    fn finish(&mut self, context: &Context) -> io::Result<()> {
        for (_, key) in super::living(context.world) {
            self.namespace(key, context.now_ns, context)?;
        }
        // What engines call containers may have come to be known behind what they did.
        let named: Vec<(Box<[u8]>, &str)> = self
            .containers
            .iter()
            .filter(|(_, container)| !container.is_named)
            .filter_map(|(id, _)| Some((id.clone(), context.names.get(id)?)))
            .collect();
        for (id, name) in named {
            self.describe(&id, Some(name))?;
        }
        self.packets.flush()
    }
}

/// The beginning of a container's id, which is what people know it by.
fn short(id: &str) -> &str {
    let is_hex = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { &id[..ID_LEN] } else { id }
}

/// What is said of an operation; see docs/json.md.
fn notes(notes: &mut Notes, told: &Told) {
    let (op, record) = (told.op, told.op.record);
    notes.text("op_id", Some(&told.id));
    notes.text("flags", Some(&told.flags()));
    notes.number("flags_raw", record.flags);
    notes.signed("ret", record.ret);
    notes.text("errno", told.errno().as_deref());
    notes.text("failed_stage", told.failed_stage());
    notes.text("reason", told.reason.as_deref());
    notes.number("pid", record.pid);
    notes.number("tid", record.tid);
    notes.number("uid", record.uid);
    notes.text("comm", Some(&told.comm));
    notes.some("cgroup_id", record.cgroup);
    notes.text("cgroup", told.cgroup.as_deref());
    notes.text("container", told.container.as_deref());
    notes.text("container_name", told.container_name.as_deref());
    notes.object("namespaces", |notes| {
        for kind in Kind::ALL {
            let (before, after) = (op.before(kind), op.after(kind));
            if before.inum == 0 && after.inum == 0 {
                continue;
            }
            notes.object(kind.name(), |notes| {
                notes.some("before", before.inum);
                notes.some("after", after.inum);
                notes.some("before_id", before.id);
                notes.some("after_id", after.id);
            });
        }
    });
    notes.text(
        "changed",
        Some(&super::joined(op.changed().map(Kind::name))),
    );
    if op.errno().is_none() {
        notes.some("pid_parent", record.pid_parent);
        notes.some("user_parent", record.user_parent);
        notes.some("owner", record.owner);
        notes.some("mounts", record.mounts);
    }
    notes.some("target", record.target);
    if !op.pids.is_empty() {
        notes.objects("pids", op.pids.iter(), |notes, pid| {
            notes.number("ns", pid.ns);
            notes.number("pid", pid.nr);
        });
    }
}

/// What is said of a namespace.
fn life(event: &mut TrackEvent, ns: &Namespace, context: &Context) {
    event.name_text(&format!("{}:{}", ns.kind.name(), ns.inum));
    event.category("namespace");
    let inum = |key: Option<NsKey>| Some(context.world.namespace(key?)?.inum);
    let mut notes = event.notes();
    notes.text("kind", Some(ns.kind.name()));
    notes.number("inum", ns.inum);
    notes.some("id", ns.id);
    notes.is("found", ns.born.is_none());
    notes.is("alive", ns.is_alive());
    if let (Some(born), Some((died, _))) = (ns.born, ns.death) {
        notes.number("age_ns", died.saturating_sub(born));
    }
    if let Some((_, Known::Inferred)) = ns.death {
        notes.is("inferred", true);
    }
    notes.some("parent", inum(ns.parent).unwrap_or(0));
    notes.some("owner", inum(ns.owner).unwrap_or(0));
    if let Some(uid) = ns.owner_uid {
        notes.number("owner_uid", uid);
    }
    if let Some(maker) = &ns.maker {
        notes.object("maker", |notes| self::maker(notes, maker, context));
    }
}

fn maker(notes: &mut Notes, maker: &Maker, context: &Context) {
    let (cgroup, container, container_name) = place(maker.cgroup, context);
    notes.text("op", Some(maker.op.name()));
    notes.number("pid", maker.pid);
    notes.number("tid", maker.tid);
    notes.number("uid", maker.uid);
    notes.text("comm", Some(&shown(maker.comm())));
    notes.text("cgroup", cgroup.as_deref());
    notes.text("container", container.as_deref());
    notes.text("container_name", container_name.as_deref());
}
