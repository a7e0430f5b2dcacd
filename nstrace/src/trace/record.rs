//! Events behind each other, as the payload of a block has them.
//!
//! Each begins with its kind: that of its record ([`RecordKind`]) if it comes from the
//! kernel side as one, else one of [`Other`] or [`Sized`].

use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{LifeRecord, MARKS, NO_KIND, PID_LEVELS, PidAt, RecordKind},
    writers::{MountRecord, Site},
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{
    bytes::{Bytes, put, put_bytes, put_option, put_signed},
    code::{Expected, LISTS, Record},
    found::{put_holder, put_unseen, read_holder, read_unseen},
    mount::{put_mount, read_mount},
    mount_ops::{self, MountOps},
};
use crate::{
    decode::{self, record_kind},
    event::{
        Access, Balance, Cgroup, Event, FoundFree, FoundHolder, FoundNamespace, FoundTask, Life,
        Lost, MountKey, Now, Ns, Operation, SnapshotEnd, Task, Unfiled, Warning,
    },
    explain::{Facts, PidsLimit},
};

/// What is no record of the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Other {
    Lost = 32,
    Stall = 33,
    SnapshotBegin = 34,
    FoundNamespace = 35,
    FoundTask = 36,
    FoundHolder = 37,
    SnapshotEnd = 38,
    FoundFree = 39,
    Name = 40,
    Clock = 41,
    Facts = 42,
    MountDied = 48,
    MountWatched = 49,
    Access = 50,
    Balance = 51,
    Unfiled = 52,
    /// As it was written before its task and its stack were known.
    Warning = 53,
}

impl Other {
    const ALL: [Other; 17] = [
        Other::Lost,
        Other::Stall,
        Other::SnapshotBegin,
        Other::FoundNamespace,
        Other::FoundTask,
        Other::FoundHolder,
        Other::SnapshotEnd,
        Other::FoundFree,
        Other::Name,
        Other::Clock,
        Other::Facts,
        Other::MountDied,
        Other::MountWatched,
        Other::Access,
        Other::Balance,
        Other::Unfiled,
        Other::Warning,
    ];
}

/// What stands in a recording.
#[derive(Clone, Debug)]
pub enum Entry<'a> {
    /// An event.
    Event(Event<'a>),
    /// What an engine calls a container.
    Name {
        /// The container's id.
        id: &'a [u8],
        /// Its name.
        name: &'a str,
    },
    /// What to add to `CLOCK_MONOTONIC` for the time of day from here on, in ns.
    Clock(i64),
    /// What the machine said when the operations failed that come next.
    Facts(Facts),
}

/// What concerns mounts: of kinds that say how long they are, so that who does not know one
/// goes on behind it. Their time is a difference, and nothing is expected of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Sized {
    MountOp = 64,
    MountBirths = 65,
    Warning = 66,
}

/// From here on all kinds say how long they are.
pub const SIZED: u8 = 64;

impl Sized {
    const ALL: [Sized; 3] = [Sized::MountOp, Sized::MountBirths, Sized::Warning];

    fn of(kind: u8) -> Option<Sized> {
        Sized::ALL.into_iter().find(|sized| *sized as u8 == kind)
    }
}

/// How many bytes entries take that are of kinds that are not known, at the beginning of a
/// payload.
pub fn unknown(payload: &[u8]) -> usize {
    let mut bytes = Bytes(payload);
    let mut len = 0;
    while bytes
        .byte()
        .is_some_and(|kind| kind >= SIZED && Sized::of(kind).is_none())
        && bytes.bytes().is_some()
    {
        len = payload.len() - bytes.0.len();
    }
    len
}

/// Places of a task that was found: its namespaces, then those for its children.
const PLACES: usize = KINDS + 2;

/// Writes and reads the entries of a block.
pub struct Codec {
    expected: Expected,
    /// Where the last task that was found is.
    places: [u32; PLACES],
    lists: Vec<u64>,
    marks: [u64; MARKS],
    pids: Vec<PidAt>,
    /// The last mount.
    mount: Box<MountRecord>,
    mount_ops: MountOps,
}

impl Codec {
    /// At the beginning of a block.
    pub fn new() -> Codec {
        Codec {
            expected: Expected::new(),
            places: [0; PLACES],
            lists: Vec::with_capacity(LISTS),
            marks: [0; MARKS],
            pids: Vec::with_capacity(PID_LEVELS),
            mount: Box::new(MountRecord::new_zeroed()),
            mount_ops: MountOps::default(),
        }
    }

    /// The same again.
    pub fn reset(&mut self) {
        self.expected.reset();
        self.places = [0; PLACES];
    }

    /// Appends an event. [`Event::Birth`] is part of an operation, and not told alone.
    #[inline]
    pub fn write(&mut self, out: &mut Vec<u8>, event: &Event) {
        match event {
            Event::Op(op) => self.operation(out, RecordKind::Op, op),
            Event::Death(life) => self.death(out, life),
            _ => self.write_rarer(out, event),
        }
    }

    #[inline(never)]
    fn write_rarer(&mut self, out: &mut Vec<u8>, event: &Event) {
        match event {
            // `write` has them.
            Event::Op(_) | Event::Death(_) => {}
            Event::Births(op) => self.operation(out, RecordKind::Birth, op),
            Event::TaskNew(task) => self.task(out, RecordKind::TaskNew, task),
            Event::TaskExit(task) => self.task(out, RecordKind::TaskExit, task),
            Event::TaskChange(task) => self.task(out, RecordKind::TaskChange, task),
            Event::TaskFree(task) => self.task(out, RecordKind::TaskFree, task),
            Event::Birth(_) => {}
            Event::Cgroup(cgroup) => {
                out.push(RecordKind::Cgroup as u8);
                put(out, cgroup.id);
                put_bytes(out, cgroup.path);
            }
            Event::Lost(lost) => {
                self.begin(out, Other::Lost, lost.time);
                put(out, lost.time.wrapping_sub(lost.since));
                put(out, lost.record as u64);
                put(out, lost.count);
            }
            Event::Stall(op, now) => {
                self.begin(out, Other::Stall, now.time);
                self.operation(out, RecordKind::Op, op);
            }
            Event::MountOp(op) => {
                let time = self.expected.time();
                self.sized(out, Sized::MountOp, |room| {
                    mount_ops::put_op(room, op, time)
                });
            }
            Event::MountBirths(births) => {
                let time = self.expected.time();
                self.sized(out, Sized::MountBirths, |room| {
                    mount_ops::put_births(room, births, time);
                });
            }
            Event::SnapshotBegin(now) => self.begin(out, Other::SnapshotBegin, now.time),
            Event::FoundNamespace(found) => self.found_namespace(out, found),
            Event::FoundTask(found) => self.found_task(out, found),
            Event::FoundHolder(found) => self.found_holder(out, found),
            Event::SnapshotEnd(end) => {
                self.begin(out, Other::SnapshotEnd, end.time);
                put_unseen(out, &end.unseen);
            }
            Event::FoundFree(free) => {
                self.begin(out, Other::FoundFree, free.time);
                put(out, free.inum.into());
            }
            Event::Warning(warning) => {
                let time = self.expected.time();
                self.sized(out, Sized::Warning, |room| {
                    put_signed(room, warning.time.wrapping_sub(time).cast_signed());
                    put(room, warning.tid.into());
                    for text in [warning.place, warning.function, warning.comm, warning.stack] {
                        put_bytes(room, text);
                    }
                });
            }
            Event::MountDied(mount) => {
                self.begin(out, Other::MountDied, mount.record.head.time);
                put_mount(out, mount);
            }
            Event::MountWatched(mount) => {
                self.begin(out, Other::MountWatched, mount.record.head.time);
                put_mount(out, mount);
            }
            Event::Access(access) => {
                self.begin(out, Other::Access, access.time);
                put(out, access.mount.address);
                put(out, access.mount.since);
                put(out, access.site as u64);
                put(out, access.number.into());
                out.push(access.is_cut.into());
                put_bytes(out, access.stack);
            }
            Event::Balance(balance) => {
                self.begin(out, Other::Balance, balance.time);
                put(out, balance.number.into());
                put(out, balance.count);
            }
            Event::Unfiled(unfiled) => {
                self.begin(out, Other::Unfiled, unfiled.time);
                for count in [
                    unfiled.mounts,
                    unfiled.accesses,
                    unfiled.stacks,
                    unfiled.deaths,
                    unfiled.skipped,
                ] {
                    put(out, count);
                }
            }
        }
    }

    /// Appends what an engine calls a container.
    pub fn write_name(&mut self, out: &mut Vec<u8>, id: &[u8], name: &str) {
        out.push(Other::Name as u8);
        put_bytes(out, id);
        put_bytes(out, name.as_bytes());
    }

    /// Appends what to add to `CLOCK_MONOTONIC` for the time of day.
    pub fn write_clock(&mut self, out: &mut Vec<u8>, offset_ns: i64) {
        out.push(Other::Clock as u8);
        put_signed(out, offset_ns);
    }

    /// Appends what the machine says about failures.
    pub fn write_facts(&mut self, out: &mut Vec<u8>, facts: &Facts) {
        let Facts {
            unprivileged_userns_clone,
            pids,
            lsm,
            apparmor_restrict_userns,
        } = facts;
        out.push(Other::Facts as u8);
        for setting in [unprivileged_userns_clone, apparmor_restrict_userns] {
            put_option(out, setting.map(u64::from));
        }
        put_bytes(out, lsm.as_deref().unwrap_or_default().as_bytes());
        let (cgroup, max) = pids
            .as_ref()
            .map_or(("", None), |pids| (pids.cgroup.as_str(), pids.max));
        put_bytes(out, cgroup.as_bytes());
        put_option(out, max);
    }

    fn begin(&mut self, out: &mut Vec<u8>, kind: Other, time: u64) {
        out.push(kind as u8);
        let difference = time.wrapping_sub(self.expected.time());
        put_signed(out, difference.cast_signed());
        self.expected.set_time(time);
    }

    fn sized(&mut self, out: &mut Vec<u8>, kind: Sized, write: impl FnOnce(&mut Vec<u8>)) {
        let room = &mut self.mount_ops.room;
        room.clear();
        write(room);
        out.push(kind as u8);
        put_bytes(out, room);
    }

    fn operation(&mut self, out: &mut Vec<u8>, kind: RecordKind, op: &Operation) {
        let lists = &mut self.lists;
        lists.clear();
        lists.extend_from_slice(op.ids);
        lists.extend(differences(op.marks));
        lists.extend(op.pids.iter().map(word));
        if let Some(fail) = op.fail {
            lists.extend(
                fail.as_bytes()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|word| u64::from_le_bytes(*word)),
            );
        }
        self.record(out, kind, op.record);
    }

    fn task(&mut self, out: &mut Vec<u8>, kind: RecordKind, task: &Task) {
        self.lists.clear();
        self.lists.extend(task.pids.iter().map(word));
        self.record(out, kind, task.record);
    }

    fn death(&mut self, out: &mut Vec<u8>, life: &Life) {
        let mut record = LifeRecord::new_zeroed();
        record.head.kind = RecordKind::Death as u32;
        record.head.time = life.time;
        record.id = life.id;
        record.address = life.address.unwrap_or(0);
        record.inum = life.inum;
        record.ns_kind = life.kind.map_or(NO_KIND, |kind| kind as u32);
        record.pid = life.pid;
        record.tid = life.tid;
        self.lists.clear();
        self.record(out, RecordKind::Death, &record);
    }

    fn record(&mut self, out: &mut Vec<u8>, kind: RecordKind, record: &impl Record) {
        out.push(kind as u8);
        self.expected.write(out, kind, record, &self.lists);
    }

    fn found_namespace(&mut self, out: &mut Vec<u8>, found: &FoundNamespace) {
        self.begin(out, Other::FoundNamespace, found.time);
        out.push(found.kind as u8);
        put(out, found.ns.inum.into());
        put(out, found.ns.id);
        put(out, found.parent.into());
        put(out, found.owner.into());
        put_option(out, found.owner_uid.map(u64::from));
    }

    fn found_task(&mut self, out: &mut Vec<u8>, found: &FoundTask) {
        self.begin(out, Other::FoundTask, found.time);
        put(out, found.time.wrapping_sub(found.start));
        put(out, found.pid.into());
        put(out, found.tid.into());
        put(out, found.cgroup);
        put_bytes(out, found.comm);
        out.push(found.exited.into());
        put(out, found.pids.len() as u64);
        for pid in found.pids {
            put(out, pid.nr.into());
            put(out, pid.ns.into());
        }
        let mut places = [found.pid_for_children; PLACES];
        places[..KINDS].copy_from_slice(&found.namespaces);
        places[PLACES - 1] = found.time_for_children;
        let differs = |at: &usize| places[*at] != self.places[*at];
        put(out, (0..PLACES).filter(differs).map(|at| 1 << at).sum());
        for at in (0..PLACES).filter(differs) {
            put(out, places[at].into());
        }
        self.places = places;
    }

    fn found_holder(&mut self, out: &mut Vec<u8>, found: &FoundHolder) {
        self.begin(out, Other::FoundHolder, found.time);
        out.push(found.kind as u8);
        put(out, found.ns.inum.into());
        put(out, found.ns.id);
        put_holder(out, &found.holder);
    }

    /// Reads an entry, and hands it over with what is behind it; none if it is not one.
    ///
    /// Handed over, not given back: what is written by members is slow to copy at once.
    #[inline(always)]
    pub fn read<'a, T>(
        &'a mut self,
        mut bytes: Bytes<'a>,
        done: impl FnOnce(Option<Entry<'a>>, Bytes<'a>) -> T,
    ) -> T {
        let Some(kind) = bytes.byte() else {
            return done(None, bytes);
        };
        let Ok(record) = record_kind(kind.into()) else {
            let entry = self.read_other(&mut bytes, kind);
            return done(entry, bytes);
        };
        match record {
            RecordKind::Op | RecordKind::Birth => {
                let Some(op) = self.read_operation(&mut bytes, record) else {
                    return done(None, bytes);
                };
                match record {
                    RecordKind::Op => done(Some(Entry::Event(Event::Op(op))), bytes),
                    _ => done(Some(Entry::Event(Event::Births(op))), bytes),
                }
            }
            RecordKind::TaskNew
            | RecordKind::TaskExit
            | RecordKind::TaskChange
            | RecordKind::TaskFree => {
                let Some(task) = self.read_told(&mut bytes, record) else {
                    return done(None, bytes);
                };
                let event = match record {
                    RecordKind::TaskNew => Event::TaskNew(task),
                    RecordKind::TaskExit => Event::TaskExit(task),
                    RecordKind::TaskChange => Event::TaskChange(task),
                    _ => Event::TaskFree(task),
                };
                done(Some(Entry::Event(event)), bytes)
            }
            RecordKind::Death => match self.expected.read(&mut bytes, record) {
                Some((record, _)) => {
                    let life = decode::life_of(record);
                    done(Some(Entry::Event(Event::Death(life))), bytes)
                }
                None => done(None, bytes),
            },
            // They have numbers of their own here.
            RecordKind::MountDeath | RecordKind::MountOp | RecordKind::MountBirths => {
                done(None, bytes)
            }
            RecordKind::Cgroup => {
                let cgroup = read_cgroup(&mut bytes);
                done(cgroup.map(Event::Cgroup).map(Entry::Event), bytes)
            }
        }
    }

    fn read_sized<'a>(&'a mut self, bytes: &mut Bytes<'a>, kind: Sized) -> Option<Event<'a>> {
        let mut content = Bytes(bytes.bytes()?);
        let time = self.expected.time();
        Some(match kind {
            Sized::MountOp => Event::MountOp(self.mount_ops.op(&mut content, time)?),
            Sized::MountBirths => Event::MountBirths(self.mount_ops.births(&mut content, time)?),
            Sized::Warning => Event::Warning(Warning {
                time: time.wrapping_add(content.signed()?.cast_unsigned()),
                tid: content.small()?,
                place: content.bytes()?,
                function: content.bytes()?,
                comm: content.bytes()?,
                stack: content.bytes()?,
            }),
        })
    }

    #[inline(never)]
    fn read_other<'a>(&'a mut self, bytes: &mut Bytes<'a>, kind: u8) -> Option<Entry<'a>> {
        if let Some(kind) = Sized::of(kind) {
            return self.read_sized(bytes, kind).map(Entry::Event);
        }
        let kind = Other::ALL.into_iter().find(|other| *other as u8 == kind)?;
        match kind {
            Other::Name => {
                let (id, name) = (bytes.bytes()?, bytes.bytes()?);
                let name = std::str::from_utf8(name).ok()?;
                return Some(Entry::Name { id, name });
            }
            Other::Clock => return bytes.signed().map(Entry::Clock),
            Other::Facts => return facts(bytes).map(Entry::Facts),
            _ => {}
        }
        let difference = bytes.signed()?.cast_unsigned();
        let time = self.expected.time().wrapping_add(difference);
        self.expected.set_time(time);
        let now = Now { time };
        Some(Entry::Event(match kind {
            Other::Lost => Event::Lost(Lost {
                time,
                since: time.wrapping_sub(bytes.number()?),
                record: record_kind(bytes.small()?).ok()?,
                count: bytes.number()?,
            }),
            Other::Stall => {
                let kind = bytes.byte()?;
                let op = self.read_operation(bytes, RecordKind::Op);
                Event::Stall(op.filter(|_| kind == RecordKind::Op as u8)?, now)
            }
            Other::SnapshotBegin => Event::SnapshotBegin(now),
            Other::FoundNamespace => Event::FoundNamespace(FoundNamespace {
                time,
                kind: kind_of(bytes)?,
                ns: ns(bytes)?,
                parent: bytes.small()?,
                owner: bytes.small()?,
                owner_uid: bytes.small_option()?,
            }),
            Other::FoundTask => self.read_task(bytes, time)?,
            Other::FoundHolder => Event::FoundHolder(FoundHolder {
                time,
                kind: kind_of(bytes)?,
                ns: ns(bytes)?,
                holder: read_holder(bytes)?,
            }),
            Other::SnapshotEnd => {
                let unseen = read_unseen(bytes)?;
                Event::SnapshotEnd(SnapshotEnd { time, unseen })
            }
            Other::FoundFree => Event::FoundFree(FoundFree {
                time,
                inum: bytes.small()?,
            }),
            Other::Warning => Event::Warning(Warning {
                time,
                tid: bytes.small()?,
                place: bytes.bytes()?,
                function: bytes.bytes()?,
                comm: b"",
                stack: b"",
            }),
            Other::MountDied => Event::MountDied(read_mount(&mut self.mount, bytes, time)?),
            Other::MountWatched => Event::MountWatched(read_mount(&mut self.mount, bytes, time)?),
            Other::Access => Event::Access(Access {
                time,
                mount: MountKey {
                    address: bytes.number()?,
                    since: bytes.number()?,
                },
                site: Site::from_u32(bytes.small()?)?,
                number: bytes.small()?,
                is_cut: bytes.flag()?,
                stack: bytes.bytes()?,
            }),
            Other::Balance => Event::Balance(Balance {
                time,
                number: bytes.small()?,
                count: bytes.number()?,
            }),
            Other::Unfiled => Event::Unfiled(Unfiled {
                time,
                mounts: bytes.number()?,
                accesses: bytes.number()?,
                stacks: bytes.number()?,
                deaths: bytes.number()?,
                skipped: bytes.number()?,
            }),
            Other::Name | Other::Clock | Other::Facts => return None,
        }))
    }

    #[inline(always)]
    fn read_operation<'a>(
        &'a mut self,
        bytes: &mut Bytes,
        kind: RecordKind,
    ) -> Option<Operation<'a>> {
        let (record, lists) = self.expected.read(bytes, kind)?;
        let op = decode::operation_of(record, lists.as_bytes()).ok()?;
        let marks = self.marks.get_mut(..op.marks.len())?;
        sums(op.marks, marks);
        Some(Operation { marks, ..op })
    }

    #[inline(always)]
    fn read_told<'a>(&'a mut self, bytes: &mut Bytes, kind: RecordKind) -> Option<Task<'a>> {
        let (record, lists) = self.expected.read(bytes, kind)?;
        decode::task_of(record, lists.as_bytes()).ok()
    }

    fn read_task<'a>(&'a mut self, bytes: &mut Bytes<'a>, time: u64) -> Option<Event<'a>> {
        let start = time.wrapping_sub(bytes.number()?);
        let (pid, tid, cgroup) = (bytes.small()?, bytes.small()?, bytes.number()?);
        let (comm, exited) = (bytes.bytes()?, bytes.byte()? != 0);
        self.pids.clear();
        let levels = bytes.small()? as usize;
        if levels > PID_LEVELS {
            return None;
        }
        for _ in 0..levels {
            let (nr, ns) = (bytes.small()?, bytes.small()?);
            self.pids.push(PidAt { nr, ns });
        }
        let mask = bytes.number()?;
        for (at, place) in self.places.iter_mut().enumerate() {
            if mask >> at & 1 != 0 {
                *place = bytes.small()?;
            }
        }
        let [namespaces @ .., pid_for_children, time_for_children] = self.places;
        Some(Event::FoundTask(FoundTask {
            time,
            start,
            pid,
            tid,
            cgroup,
            comm,
            exited,
            pids: &self.pids,
            namespaces,
            pid_for_children,
            time_for_children,
        }))
    }
}

fn read_cgroup<'a>(bytes: &mut Bytes<'a>) -> Option<Cgroup<'a>> {
    Some(Cgroup {
        id: bytes.number()?,
        path: bytes.bytes()?,
    })
}

fn facts(bytes: &mut Bytes) -> Option<Facts> {
    let text = |bytes: &mut Bytes| {
        let text = std::str::from_utf8(bytes.bytes()?).ok()?;
        Some((!text.is_empty()).then(|| text.to_owned()))
    };
    let (unprivileged_userns_clone, apparmor_restrict_userns) =
        (bytes.small_option()?, bytes.small_option()?);
    let lsm = text(bytes)?;
    let (cgroup, max) = (text(bytes)?, bytes.option()?);
    Some(Facts {
        unprivileged_userns_clone,
        pids: cgroup.map(|cgroup| PidsLimit { cgroup, max }),
        lsm,
        apparmor_restrict_userns,
    })
}

fn word(pid: &PidAt) -> u64 {
    u64::from(pid.nr) | u64::from(pid.ns) << 32
}

/// Of marks, (ns since the operation began) << 8 | mark, each is so long after the one
/// before.
fn differences(marks: &[u64]) -> impl Iterator<Item = u64> {
    let mut before = 0;
    marks.iter().map(move |mark| {
        let at = *mark >> 8;
        let difference = at.wrapping_sub(before) << 8 | *mark & 0xff;
        before = at;
        difference
    })
}

fn sums(differences: &[u64], marks: &mut [u64]) {
    let mut before = 0_u64;
    for (mark, difference) in marks.iter_mut().zip(differences) {
        before = before.wrapping_add(*difference >> 8) & u64::MAX >> 8;
        *mark = before << 8 | *difference & 0xff;
    }
}

fn kind_of(bytes: &mut Bytes) -> Option<Kind> {
    Kind::from_index(bytes.byte()?)
}

fn ns(bytes: &mut Bytes) -> Option<Ns> {
    Some(Ns {
        inum: bytes.small()?,
        id: bytes.number()?,
    })
}
