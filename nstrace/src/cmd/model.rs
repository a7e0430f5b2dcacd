//! What is known of the machine: as a recording has it, or one look finds it, or as it is kept
//! up by `Live`.

use std::{path::Path, time::Duration};

use anyhow::anyhow;
use jiff::tz::TimeZone;

use super::{
    looks,
    output::say,
    recording::{self, Each, Span, Spanned},
    trouble::name,
};
use crate::{
    cgroups::Cgroups,
    engines::Engines,
    event::{Cgroup, Event, FoundFree, Unseen},
    explain::Facts,
    kernel::{
        clock,
        error::{in_first_pid_namespace, shows_all},
        snapshot,
    },
    moment::Moment,
    names::Names,
    render::{Clock, NotFound, TreeFilter, TreeView, unseen},
    trace::{Clocks, Damage, Entry, Gap, Head, Item, State, StateOf},
    world::{self, Change, Namespace, World},
};

/// What is known of the machine.
#[derive(Default)]
pub struct Model {
    /// The namespaces and tasks.
    pub world: World,
    /// Paths of cgroups.
    pub cgroups: Cgroups,
    /// Names of containers.
    pub names: Names,
    /// What the last look could not see.
    pub unseen: Unseen,
    /// How many records were lost, all in all.
    pub lost: u64,
    /// How many of them because the kernel skipped a program.
    pub skipped: u64,
    /// Whether the kernel was traced from before the first look.
    pub live: bool,
    /// The moment that it is of, if that is not now.
    moment: Option<Then>,
    /// When the clock was set up to then.
    clocks: Clocks,
    /// Who hears of each event before it is applied.
    tap: Option<Tap>,
    changes: Vec<Change>,
}

/// What is in a recording.
pub enum Replayed<'a> {
    /// Where it was made.
    Head(&'a Head),
    /// What the machine said about failures that come next.
    Facts(&'a Facts),
    /// What happened, and what it has changed.
    Event(&'a Event<'a>, &'a [Change]),
    /// A part of it cannot be read.
    Damage(Damage),
    /// What is known from here on is not what came before; and what of it was not known.
    State(&'a [Change]),
}

/// Is told what is in a recording. An error ends it.
pub type Listener<'l> = dyn FnMut(&Model, Replayed) -> anyhow::Result<()> + 'l;

/// The last moment of a recording.
const END: Moment = Moment::FromEnd(Duration::ZERO);

/// When it is in a recording.
#[derive(Clone, Copy, Default)]
struct Then {
    now_ns: u64,
    wall_offset_ns: i64,
    /// That of its beginning.
    first_offset_ns: Option<i64>,
}

/// Is told each event, and what is known before it.
pub type Tap = Box<dyn FnMut(&Model, &Event)>;

/// Is told what each event changed, and when that was.
pub type Watcher<'w> = dyn FnMut(&Model, &[Change], u64) + 'w;

impl Model {
    /// What a recording has come to, at its end or at a moment; from standard input if it is
    /// `-`.
    pub fn of_recording(path: &Path, at: Option<&Moment>) -> anyhow::Result<Model> {
        let options = world::Options::default();
        if at.is_none() && looks::has_state_at_end(path) {
            let part = [Some(&END), None];
            return Model::replay_part(path, part, options, &mut |_| {}, &mut |_, _| Ok(()));
        }
        Model::read(path, options, &mut |_, _| Ok(()), &mut |take| match at {
            None => recording::read(path, take).map(|()| None),
            Some(at) => recording::read_until(path, at, take),
        })
    }

    /// The same, at its end, with somebody who hears of everything in it.
    pub fn replay(
        path: &Path,
        options: world::Options,
        each: &mut Listener<'_>,
    ) -> anyhow::Result<Model> {
        Model::read(path, options, each, &mut |take| {
            recording::read(path, take).map(|()| None)
        })
    }

    /// The same of a part, and of what leads to it: `begins` is told when it begins, before
    /// anything that happened.
    pub fn replay_part(
        path: &Path,
        [from, until]: [Option<&Moment>; 2],
        options: world::Options,
        begins: &mut dyn FnMut(u64),
        each: &mut Listener<'_>,
    ) -> anyhow::Result<Model> {
        Model::read(path, options, each, &mut |take| {
            let mut part = None;
            recording::read_span(path, from, until, &mut |spanned| match spanned {
                Spanned::Head(_, span) => {
                    begins(span.from);
                    part = until.map(|_| span);
                    Ok(())
                }
                Spanned::Item(item) => take(item),
            })?;
            Ok(part)
        })
    }

    /// Reads what `source` hands out, which may tell at which moment that ends.
    fn read(
        path: &Path,
        options: world::Options,
        each: &mut Listener<'_>,
        source: &mut dyn FnMut(&mut Each) -> anyhow::Result<Option<Span>>,
    ) -> anyhow::Result<Model> {
        let mut model = Model {
            world: World::new(options),
            live: true,
            ..Model::default()
        };
        let mut is_whole = false;
        let take = &mut |item: &mut Item| {
            let moment = model.moment.get_or_insert_default();
            match item {
                Item::Head(head) => {
                    moment.now_ns = head.mono_ns;
                    model.clock(head.wall_offset_ns);
                    each(&model, Replayed::Head(head))?;
                }
                Item::Entry(Entry::Event(event)) => {
                    is_whole |= matches!(event, Event::SnapshotEnd(_));
                    model.replayed(event, each)?;
                }
                Item::Gap(Gap::Missing(lost)) => model.replayed(&Event::Lost(*lost), each)?,
                Item::Gap(Gap::Boot) => {
                    model.world = World::new(model.world.options());
                    model.cgroups = Cgroups::default();
                    model.names = Names::default();
                }
                Item::Gap(Gap::Earlier) => {}
                Item::Entry(Entry::Name { id, name }) => model.names.learn(id, name),
                Item::Entry(Entry::Clock(offset)) => model.clock(*offset),
                Item::Entry(Entry::Facts(facts)) => each(&model, Replayed::Facts(facts))?,
                Item::State(state) => {
                    is_whole = true;
                    moment.now_ns = moment.now_ns.max(state.world.now());
                    model.clock(state.wall_offset_ns);
                    model.restore(std::mem::take(&mut **state), each)?;
                }
                Item::End(time) => moment.now_ns = moment.now_ns.max(*time),
                Item::Damage(damage) => each(&model, Replayed::Damage(*damage))?,
            }
            Ok(())
        };
        let until = source(take)?;
        if let Some(span) = until {
            model.moment.get_or_insert_default().now_ns = span.until;
            model.clock(span.offset_ns(1, model.wall_offset_ns()));
        }
        if !is_whole {
            let name = name(path, "input");
            let first = until.and_then(|span| looks::first_after(path, span.until));
            say(&match first {
                Some(ns) => {
                    // As --at takes it, and not too early.
                    let ms = ns.div_ceil(1_000_000);
                    let (s, ms) = (ms / 1000, ms % 1000);
                    format!(
                        "{name}: at that moment the first look at the machine had not ended: all is \
                         known from +{s}.{ms:03}s on"
                    )
                }
                None => {
                    format!("{name}: there is no whole look at the machine in it: this is a part")
                }
            });
        }
        model.moment.get_or_insert_default();
        Ok(model)
    }

    /// From here on that is to be added for the time of day.
    fn clock(&mut self, offset_ns: i64) {
        let moment = self.moment.get_or_insert_default();
        moment.wall_offset_ns = offset_ns;
        let first = *moment.first_offset_ns.get_or_insert(offset_ns);
        self.clocks.set(moment.now_ns, offset_ns, first);
    }

    /// A clock that shows what the recording's did at each time.
    pub fn wall_clock(&self, zone: TimeZone) -> Clock {
        let mut clock = Clock::new(zone);
        let first = self.moment.and_then(|moment| moment.first_offset_ns);
        clock.set_offset(first.unwrap_or_else(clock::wall_offset_ns));
        clock.set_steps(self.clocks.clone());
        clock
    }

    /// An event that was recorded.
    fn replayed(
        &mut self,
        event: &Event,
        each: &mut dyn FnMut(&Model, Replayed) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let moment = self.moment.get_or_insert_default();
        moment.now_ns = moment.now_ns.max(event.time().unwrap_or(0));
        self.note(event);
        each(self, Replayed::Event(event, &self.changes))
    }

    /// What is known of the machine where nothing of it was.
    fn restore(&mut self, state: State, each: &mut Listener<'_>) -> anyhow::Result<()> {
        let State {
            world,
            cgroups,
            names,
            wall_offset_ns: _,
            lost,
            unseen,
            writers: _,
        } = state;
        let is_there = |world: &World, ns: &Namespace| {
            let key = world.living(ns.kind, ns.inum);
            let same = key.and_then(|key| world.namespace(key));
            same.is_some_and(|other| ns.born.is_none() || [None, ns.born].contains(&other.born))
        };
        let living = self.world.namespaces().filter(|(_, ns)| ns.is_alive());
        let gone = living.filter(|(_, ns)| !is_there(&world, ns));
        let gone: Vec<u32> = gone.map(|(_, ns)| ns.inum).collect();
        let mut changes = Vec::new();
        for inum in gone {
            let time = world.now();
            let free = Event::FoundFree(FoundFree { time, inum });
            changes.clear();
            self.world.apply(&free, &mut changes);
            each(self, Replayed::Event(&free, &changes))?;
        }
        let living = world.namespaces().filter(|(_, ns)| ns.is_alive());
        let found = living.filter(|(_, ns)| !is_there(&self.world, ns));
        let found: Vec<Change> = found.map(|(key, _)| Change::Found(key)).collect();
        let options = self.world.options();
        self.world = world;
        self.world.set_options(options);
        self.cgroups = cgroups;
        self.names = names;
        self.unseen = unseen;
        self.lost = self.lost.max(lost);
        each(self, Replayed::State(&found))
    }

    /// The same for a recording.
    pub fn state(&self) -> StateOf<'_> {
        StateOf {
            world: &self.world,
            cgroups: &self.cgroups,
            names: &self.names,
            lost: self.lost,
            unseen: self.unseen,
            writers: None,
            redacts: false,
        }
    }

    /// What to add to `CLOCK_MONOTONIC` for the time of day, in ns.
    pub fn wall_offset_ns(&self) -> i64 {
        let own = self.moment.map(|moment| moment.wall_offset_ns);
        own.unwrap_or_else(clock::wall_offset_ns)
    }

    /// The same error, with what could not be looked at: it may be there.
    pub fn absent(&self, error: NotFound) -> anyhow::Error {
        if self.moment.is_some() {
            return match error {
                NotFound::Process(pid) => {
                    anyhow!("no process {pid} at that moment of the recording: --at says another")
                }
                NotFound::Namespace { kind, inum } => anyhow!(
                    "no namespace {}:{inum} at that moment of the recording, nor lately before: \
                     --at says another",
                    kind.name()
                ),
                error => error.into(),
            };
        }
        match unseen(&self.unseen) {
            unseen if unseen.is_empty() => error.into(),
            unseen => anyhow!("{error}; could not be looked at: {unseen}"),
        }
    }

    /// That of a recording, or else one look at the machine, with a line on what that could
    /// not see.
    pub fn of(recording: Option<&Path>, at: Option<&Moment>) -> anyhow::Result<Model> {
        if let Some(path) = recording {
            return Model::of_recording(path, at);
        }
        let model = Model::look()?;
        if let Some(blind) = blind(&model) {
            say(blind);
        }
        Ok(model)
    }

    /// When it is, `CLOCK_MONOTONIC` in ns.
    pub fn now(&self) -> u64 {
        self.moment
            .map_or_else(clock::monotonic_ns, |moment| moment.now_ns)
    }

    /// That of a machine that is traced, with its cgroups; `tap` hears of these first.
    pub fn traced(tap: Option<Tap>) -> Model {
        let mut model = Model {
            live: true,
            ..Model::default()
        };
        snapshot::cgroups(&mut model.cgroups);
        if let Some(mut tap) = tap {
            for (id, path) in model.cgroups.iter() {
                tap(&model, &Event::Cgroup(Cgroup { id, path }));
            }
            model.tap = Some(tap);
        }
        model
    }

    /// Takes one look at the machine.
    fn look() -> anyhow::Result<Model> {
        let mut model = Model::default();
        snapshot::cgroups(&mut model.cgroups);
        snapshot::take(&snapshot::Options::default(), &mut |event| {
            model.note(&event);
        })?;
        model.learn_names()?;
        Ok(model)
    }

    /// Asks the engines for the names of containers, if there are any.
    fn learn_names(&mut self) -> anyhow::Result<()> {
        let mut cgroups = self.world.tasks().map(|(_, task)| task.cgroup);
        if !cgroups.any(|cgroup| self.cgroups.container(cgroup).is_some()) {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        for (id, name) in runtime.block_on(Engines::new().all()) {
            self.names.learn(&id, &name);
        }
        // A disk that hangs is not waited for.
        runtime.shutdown_background();
        Ok(())
    }

    /// Applies an event, and tells what it has changed.
    pub fn apply(&mut self, event: &Event, watcher: &mut Watcher) {
        self.note(event);
        if !self.changes.is_empty()
            && let Some(time) = event.time()
        {
            let changes = std::mem::take(&mut self.changes);
            watcher(self, &changes, time);
            self.changes = changes;
        }
    }

    /// The same where nobody watches.
    pub fn note(&mut self, event: &Event) {
        if let Some(mut tap) = self.tap.take() {
            tap(self, event);
            self.tap = Some(tap);
        }
        match event {
            Event::Cgroup(cgroup) => self.cgroups.made(cgroup),
            Event::SnapshotEnd(end) => self.unseen = end.unseen,
            Event::Lost(lost) => self.lost = self.lost.saturating_add(lost.count),
            _ => {}
        }
        self.changes.clear();
        self.world.apply(event, &mut self.changes);
    }

    /// The same for rendering.
    pub fn view<'a>(&'a self, filter: &'a TreeFilter, color: bool) -> TreeView<'a> {
        let Then {
            now_ns,
            wall_offset_ns,
            ..
        } = self.moment.unwrap_or_else(|| Then {
            now_ns: clock::monotonic_ns(),
            wall_offset_ns: clock::wall_offset_ns(),
            first_offset_ns: None,
        });
        TreeView {
            now_ns,
            wall_offset_ns,
            cgroups: &self.cgroups,
            names: &self.names,
            filter,
            unseen: self.unseen,
            live: self.live,
            color,
            width: None,
        }
    }
}

/// What one look from here could not see, and what to do.
fn blind(model: &Model) -> Option<&'static str> {
    if !in_first_pid_namespace() && !shows_all() {
        return Some(
            "/proc is not that of the first pid namespace: only the processes in its own pid \
             namespace are seen, with their ids there",
        );
    }
    if rustix::process::geteuid().is_root() {
        return None;
    }
    if hides_processes() {
        return Some(
            "/proc is mounted with hidepid: processes of others are not seen; run it as root",
        );
    }
    (model.unseen != Unseen::default()).then_some(
        "no permission to see the namespaces and files of other users' processes: run it as \
         root (CAP_SYS_PTRACE and CAP_SYS_ADMIN)",
    )
}

/// Whether /proc is mounted with hidepid (v6.12 fs/proc/root.c, proc_fs_parameters).
fn hides_processes() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut proc = mounts
        .lines()
        .filter(|line| line.split(' ').nth(1) == Some("/proc"));
    proc.any(|line| line.contains("hidepid=") && !line.contains("hidepid=off"))
}
