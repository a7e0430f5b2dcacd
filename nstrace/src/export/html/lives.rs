//! The namespaces of a page with their lives, and where tasks were.

use foldhash::HashMap;
use nstrace_common::kind::{KINDS, Kind};

use super::{
    columns::{
        Coding::{Delta, Plain},
        Column,
        Width::{F64, U8, U32},
    },
    operations::{Shared, since},
    tables::Table,
};
use crate::{
    cgroups::Cgroups,
    event::Event,
    world::{Change, Known, Membership, Namespace, NsKey, TaskKey, World},
};

/// At most so many namespaces, tasks, and moves of these are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operations.
    pub operations: u32,
    /// Namespaces.
    pub namespaces: u32,
    /// Moves of tasks, the first of each counted.
    pub moves: u32,
}

/// Since when a namespace is known to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// The first look found it.
    Before = 0,
    /// Something later showed it.
    Shown = 1,
    /// Its birth was told.
    Birth = 2,
}

#[derive(Clone, Debug)]
struct Life {
    kind: Kind,
    inum: u32,
    id: u64,
    since: Since,
    start: i64,
    death: Option<(i64, Known)>,
    /// Places from 1 on; 0 is none.
    parent: u32,
    owner: u32,
    owner_uid: Option<u32>,
    maker: Option<Maker>,
    /// The operation that made it, from 1 on; 0 if that is not known.
    op: u32,
}

#[derive(Clone, Copy, Debug)]
struct Maker {
    op: u8,
    pid: u32,
    uid: u32,
    comm: u32,
    cgroup: u32,
}

#[derive(Clone, Copy, Debug)]
struct Task {
    pid: u32,
    tid: u32,
    comm: u32,
    cgroup: u32,
}

/// The places, from 1 on, of the namespaces that a task is in, by kind, and of those that
/// its children will be in, of kinds pid and time.
type Places = [u32; KINDS + 2];

/// Namespaces and tasks.
#[derive(Clone, Debug)]
pub struct Lives {
    limits: Limits,
    lives: Vec<Life>,
    by_key: HashMap<NsKey, u32>,
    tasks: Vec<Task>,
    /// The place of each, and where it is.
    by_task: HashMap<TaskKey, (u32, u32)>,
    places: Table<Places>,
    place_columns: Vec<Column>,
    moves: [Column; 3],
    moves_len: u32,
    touched: Vec<TaskKey>,
    /// Whether the first look at the machine is over.
    looked: bool,
    /// Namespaces that are left out.
    pub left_out: u64,
    /// From when on moves of tasks are left out, in ns since the beginning.
    pub moves_until: Option<i64>,
}

/// What [`Lives`] looks at beside an event.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The tree, with the event applied.
    pub world: &'a World,
    /// Paths of cgroups.
    pub cgroups: &'a Cgroups,
    /// The time that times are told from.
    pub base: i64,
    /// The latest time of an event.
    pub now: u64,
    /// The operation that the event is, from 1 on; 0 if it is none.
    pub op: u32,
}

const PLACES: [&str; KINDS + 2] = [
    "in_mnt",
    "in_uts",
    "in_ipc",
    "in_pid",
    "in_net",
    "in_user",
    "in_cgroup",
    "in_time",
    "in_pid_children",
    "in_time_children",
];

impl Lives {
    /// None.
    pub fn new(limits: Limits) -> Lives {
        let mut lives = Lives {
            limits,
            lives: Vec::new(),
            by_key: HashMap::default(),
            tasks: Vec::new(),
            by_task: HashMap::default(),
            places: Table::default(),
            place_columns: PLACES.map(|name| Column::new(name, Delta, U32)).into(),
            moves: [
                Column::new("move_time", Delta, F64),
                Column::new("move_task", Delta, U32),
                Column::new("move_to", Delta, U32),
            ],
            moves_len: 0,
            touched: Vec::new(),
            looked: false,
            left_out: 0,
            moves_until: None,
        };
        // Where a task is that is nowhere.
        lives.place([0; KINDS + 2]);
        lives
    }

    /// Whether no look at the machine was whole.
    pub fn is_part(&self) -> bool {
        !self.looked
    }

    /// Adds what an event has changed.
    pub fn add(&mut self, event: &Event, changes: &[Change], around: &Around, shared: &mut Shared) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.clear();
        for change in changes {
            match *change {
                Change::Born(key) | Change::Found(key) => self.begin(key, around, shared),
                // What is learnt of one that lives on is looked at in the end.
                Change::BirthTold(_) => {}
                Change::Died { ns, .. } => self.learn(ns, around, shared),
                Change::Forgotten(key) => {
                    self.by_key.remove(&key);
                }
                Change::Started(task)
                | Change::Exited { task, .. }
                | Change::Reaped { task, .. }
                | Change::Joined { task, .. }
                | Change::Left { task, .. } => {
                    if touched.last() != Some(&task) {
                        touched.push(task);
                    }
                }
                Change::Pinned(_)
                | Change::Unpinned(_)
                | Change::Unconfirmed(_)
                | Change::Confirmed(_)
                | Change::Lost(_)
                | Change::Healed(_) => {}
            }
        }
        // What the first look finds was there before.
        let is_before = !self.looked && is_look(event);
        let time = match is_before {
            true => 0,
            false => since(around.now, around.base),
        };
        for task in &touched {
            self.task(*task, time, around, shared);
        }
        self.touched = touched;
        self.looked |= matches!(event, Event::SnapshotEnd(_));
    }

    /// What is known is not what came before: the tree was read anew, or that of another boot
    /// begins. What is in both goes on, and what is not has ended.
    pub fn restore(&mut self, around: &Around, shared: &mut Shared) {
        let time = match self.looked {
            true => since(around.now, around.base),
            false => 0,
        };
        self.restore_namespaces(time, around, shared);
        self.restore_tasks(time, around, shared);
        self.looked = true;
    }

    fn restore_namespaces(&mut self, time: i64, around: &Around, shared: &mut Shared) {
        let before = std::mem::take(&mut self.by_key).into_values();
        let living = before.filter(|place| self.lives[*place as usize].death.is_none());
        let mut living: HashMap<(Kind, u32), u32> = living
            .map(|place| {
                let life = &self.lives[place as usize];
                ((life.kind, life.inum), place)
            })
            .collect();
        let all = around.world.namespaces().filter(|(_, ns)| ns.is_alive());
        let all: Vec<(NsKey, &Namespace)> = all.collect();
        for (key, ns) in &all {
            if let Some(place) = living.remove(&(ns.kind, ns.inum)) {
                self.by_key.insert(*key, place);
            } else {
                self.begin(*key, around, shared);
            }
        }
        for place in living.into_values() {
            let life = &mut self.lives[place as usize];
            life.death = Some((time.max(life.start), Known::Inferred));
        }
        // What is above one may have been found behind it.
        for (key, _) in all {
            self.learn(key, around, shared);
        }
    }

    fn restore_tasks(&mut self, time: i64, around: &Around, shared: &mut Shared) {
        let before = std::mem::take(&mut self.by_task).into_values();
        let mut before: HashMap<(u32, u32), (u32, u32)> = before
            .map(|(place, at)| {
                let task = &self.tasks[place as usize];
                ((task.pid, task.tid), (place, at))
            })
            .collect();
        for (key, task) in around.world.tasks() {
            if let Some(known) = before.remove(&(task.pid, task.tid)) {
                self.by_task.insert(key, known);
            }
            self.task(key, time, around, shared);
        }
        for (place, _) in before.into_values() {
            self.move_to(place, 0, time);
        }
    }

    fn begin(&mut self, key: NsKey, around: &Around, shared: &mut Shared) {
        let Some(ns) = around.world.namespace(key) else {
            return;
        };
        if self.lives.len() >= self.limits.namespaces as usize {
            self.left_out += 1;
            return;
        }
        let mut life = Life {
            kind: ns.kind,
            inum: ns.inum,
            id: 0,
            since: match self.looked {
                true => Since::Shown,
                false => Since::Before,
            },
            start: 0,
            death: None,
            parent: 0,
            owner: 0,
            owner_uid: None,
            maker: None,
            op: 0,
        };
        self.update(&mut life, ns, around, shared);
        self.lives.push(life);
        self.by_key.insert(key, self.lives.len() as u32 - 1);
    }

    /// Learns what is known of a namespace by now.
    fn learn(&mut self, key: NsKey, around: &Around, shared: &mut Shared) {
        let place = self.by_key.get(&key).map(|place| *place as usize);
        let life = place.and_then(|place| self.lives.get(place)).cloned();
        if let (Some(mut life), Some(ns), Some(place)) = (life, around.world.namespace(key), place)
        {
            self.update(&mut life, ns, around, shared);
            self.lives[place] = life;
        }
    }

    fn update(&self, life: &mut Life, ns: &Namespace, around: &Around, shared: &mut Shared) {
        let place = |key: Option<NsKey>| {
            let place = key.and_then(|key| self.by_key.get(&key));
            place.map_or(0, |place| place + 1)
        };
        life.id = ns.id;
        (life.since, life.start) = match (ns.born, life.since) {
            (Some(born), _) => (Since::Birth, since(born, around.base)),
            (None, Since::Before) => (Since::Before, 0),
            (None, _) => (Since::Shown, since(ns.since(), around.base)),
        };
        // What is above it may be forgotten by now.
        life.parent = Some(place(ns.parent))
            .filter(|p| *p != 0)
            .unwrap_or(life.parent);
        life.owner = Some(place(ns.owner))
            .filter(|p| *p != 0)
            .unwrap_or(life.owner);
        life.owner_uid = ns.owner_uid;
        life.death = ns
            .death
            .map(|(time, known)| (since(time, around.base), known));
        if let (Some(maker), None) = (&ns.maker, life.maker) {
            life.maker = Some(Maker {
                op: maker.op as u8,
                pid: maker.pid,
                uid: maker.uid,
                comm: shared.comm(maker.comm()),
                cgroup: shared.cgroups.place(maker.cgroup, around.cgroups),
            });
            life.op = around.op;
        }
    }

    fn task(&mut self, key: TaskKey, time: i64, around: &Around, shared: &mut Shared) {
        let mut places: Places = [0; KINDS + 2];
        let ways = Kind::ALL.map(Membership::In).into_iter().chain([
            Membership::Children(Kind::Pid),
            Membership::Children(Kind::Time),
        ]);
        for (place, way) in places.iter_mut().zip(ways) {
            let ns = around.world.membership(key, way);
            *place = ns
                .and_then(|ns| self.by_key.get(&ns))
                .map_or(0, |place| place + 1);
        }
        let was = self.by_task.get(&key).copied();
        let is_nowhere = places == [0; KINDS + 2];
        if self.moves_len >= self.limits.moves || (was.is_none() && is_nowhere) {
            if !is_nowhere {
                self.moves_until.get_or_insert(time);
            }
            return;
        }
        let to = self.place(places);
        let task = self.known(key, was, around, shared);
        if was.is_some_and(|(_, at)| at == to) {
            return;
        }
        match is_nowhere {
            true => self.by_task.remove(&key),
            false => self.by_task.insert(key, (task, to)),
        };
        self.move_to(task, to, time);
    }

    fn move_to(&mut self, task: u32, to: u32, time: i64) {
        self.moves_len = self.moves_len.saturating_add(1);
        let [times, tasks, tos] = &mut self.moves;
        times.push(time);
        tasks.push(task);
        tos.push(to);
    }

    /// The place of a task, with what is known of it by now.
    fn known(
        &mut self,
        key: TaskKey,
        was: Option<(u32, u32)>,
        around: &Around,
        shared: &mut Shared,
    ) -> u32 {
        let known = around.world.task(key).map(|task| Task {
            pid: task.pid,
            tid: task.tid,
            comm: shared.comm(task.comm()),
            cgroup: shared.cgroups.place(task.cgroup, around.cgroups),
        });
        let Some((place, _)) = was else {
            self.tasks.push(known.unwrap_or(Task {
                pid: 0,
                tid: 0,
                comm: shared.comm(b""),
                cgroup: 0,
            }));
            return self.tasks.len() as u32 - 1;
        };
        if let Some((task, known)) = self.tasks.get_mut(place as usize).zip(known) {
            *task = known;
        }
        place
    }

    fn place(&mut self, places: Places) -> u32 {
        let (place, is_new) = self.places.place(places);
        if is_new {
            for (column, number) in self.place_columns.iter_mut().zip(places) {
                column.push(number);
            }
        }
        place
    }

    /// It is over: the columns, with what is known of the living at the end.
    pub fn columns(mut self, around: &Around, shared: &mut Shared) -> Vec<Column> {
        let keys: Vec<NsKey> = self.by_key.keys().copied().collect();
        for key in keys {
            self.learn(key, around, shared);
        }
        for key in self.by_task.keys().copied().collect::<Vec<_>>() {
            let was = self.by_task.get(&key).copied();
            self.known(key, was, around, shared);
        }
        let mut all = life_columns(&self.lives);
        all.extend(task_columns(&self.tasks));
        all.extend(self.place_columns);
        all.extend(self.moves);
        all
    }
}

/// Whether an event is part of a look at the machine.
fn is_look(event: &Event) -> bool {
    matches!(
        event,
        Event::SnapshotBegin(_)
            | Event::FoundNamespace(_)
            | Event::FoundTask(_)
            | Event::FoundHolder(_)
            | Event::SnapshotEnd(_)
    )
}

fn life_columns(lives: &[Life]) -> Vec<Column> {
    fn column(lives: &[Life], mut column: Column, number: impl Fn(&Life) -> i64) -> Column {
        lives.iter().for_each(|life| column.push(number(life)));
        column
    }
    let made = |read: fn(&Maker) -> u32| {
        move |life: &Life| life.maker.as_ref().map_or(0, |maker| read(maker).into())
    };
    let plain = |name, width| Column::new(name, Plain, width);
    let delta = |name, width| Column::new(name, Delta, width);
    vec![
        column(lives, plain("ns_kind", U8), |life| life.kind as i64),
        column(lives, delta("ns_inum", U32), |life| life.inum.into()),
        column(lives, delta("ns_id", F64), |life| {
            life.id.try_into().unwrap_or(0)
        }),
        column(lives, plain("ns_since", U8), |life| life.since as i64),
        column(lives, delta("ns_start", F64), |life| life.start),
        // 0 for the living, else 1 more than its length.
        column(lives, plain("ns_length", F64), |life| {
            let length = |(end, _): (i64, Known)| end.saturating_sub(life.start).max(0);
            life.death
                .map_or(0, |death| length(death).saturating_add(1))
        }),
        column(lives, plain("ns_inferred", U8), |life| {
            matches!(life.death, Some((_, Known::Inferred))).into()
        }),
        column(lives, delta("ns_parent", U32), |life| life.parent.into()),
        column(lives, delta("ns_owner", U32), |life| life.owner.into()),
        // 1 more than it; 0 if there is none.
        column(lives, plain("ns_owner_uid", F64), |life| {
            life.owner_uid.map_or(0, |uid| i64::from(uid) + 1)
        }),
        column(lives, delta("ns_op", U32), |life| life.op.into()),
        // 0 if the maker is not known.
        column(
            lives,
            plain("ns_maker_op", U8),
            made(|maker| maker.op.into()),
        ),
        column(lives, plain("ns_maker_pid", U32), made(|maker| maker.pid)),
        column(lives, plain("ns_maker_uid", U32), made(|maker| maker.uid)),
        column(lives, plain("ns_maker_comm", U32), made(|maker| maker.comm)),
        column(
            lives,
            plain("ns_maker_cgroup", U32),
            made(|maker| maker.cgroup),
        ),
    ]
}

fn task_columns(tasks: &[Task]) -> Vec<Column> {
    let column = |name, coding, read: fn(&Task) -> u32| {
        let mut column = Column::new(name, coding, U32);
        tasks.iter().for_each(|task| column.push(read(task)));
        column
    };
    vec![
        column("task_pid", Delta, |task| task.pid),
        column("task_tid", Delta, |task| task.tid),
        column("task_comm", Plain, |task| task.comm),
        column("task_cgroup", Plain, |task| task.cgroup),
    ]
}
