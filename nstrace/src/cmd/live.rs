//! The tree of namespaces of this machine: as one look finds it, or kept up from then on.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use foldhash::HashSet;
use jiff::tz::TimeZone;
use nstrace_common::{config::Config, wire::RecordKind};

use super::{
    looks,
    output::say,
    recording::{self, Each, Span, Spanned},
    trouble::name,
};
use crate::{
    cgroups::Cgroups,
    cli::AttachArgs,
    engines::Engines,
    event::{Cgroup, Event, FoundFree, Lost, Unseen},
    explain::Facts,
    kernel::{
        clock,
        error::{in_first_pid_namespace, shows_all},
        load::{self, Kernel, Options},
        reader::Reader,
        snapshot,
    },
    moment::Moment,
    names::Names,
    render::{Clock, NotFound, TreeFilter, TreeView, unseen},
    trace::{Clocks, Damage, Entry, Gap, Head, Item, State, StateOf},
    world::{self, Change, Namespace, NsKey, World},
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

/// Notes what has happened up to a time.
pub type Beside<'b> = dyn FnMut(&mut Model, u64) -> anyhow::Result<()> + 'b;

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

    fn apply(&mut self, event: &Event, watcher: &mut Watcher) {
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

/// So many tasks and holders are found at most between two looks into the rings, which must
/// not fill while the machine is looked at.
const BETWEEN: usize = 64;

/// The machine is looked at again not before so long, and so many times as long as a look
/// takes.
const PAUSE: Duration = Duration::from_secs(1);
const LOOK_SHARE: u32 = 10;

/// How long what is left of a process is waited for.
const REAP_TICK: Duration = Duration::from_millis(10);
const REAP_TICKS: u32 = 20;

/// At the end, while something happens that makes another look necessary.
const LAST_LOOKS: u32 = 3;

/// The machine, traced.
pub struct Live {
    kernel: Kernel,
    reader: Reader,
    /// What is known of it.
    pub model: Model,
    /// When the machine may be looked at again.
    next_look: Instant,
    /// What nothing was seen to hold at the last look.
    unheld: HashSet<NsKey>,
}

impl Live {
    /// Attaches everything, then takes a look. Needs a tokio runtime.
    pub fn start(attach: &AttachArgs, watcher: &mut Watcher) -> anyhow::Result<Live> {
        Live::start_with(attach, Config::TREE, false, |_| Ok(None), watcher)
    }

    /// The same with those settings of the kernel side, which tell of all tasks, and with
    /// somebody who hears of each event, from the first on; and with a ledger of write access
    /// beside it, or not.
    pub fn start_with(
        attach: &AttachArgs,
        config: Config,
        has_ledger: bool,
        tap: impl FnOnce(&mut Kernel) -> anyhow::Result<Option<Tap>>,
        watcher: &mut Watcher,
    ) -> anyhow::Result<Live> {
        if !Path::new("/proc/self/ns/pid").exists() {
            bail!("this needs /proc, and it is not mounted here");
        }
        if !in_first_pid_namespace() {
            bail!(
                "the tree can be kept up only in the first pid namespace, and this is another \
                 one: run nstrace there (with docker, --pid=host)"
            );
        }
        let mut kernel = load::load(&Options {
            attach: attach.attach,
            config,
            has_ledger,
            ring_size: attach.ring_size,
        })?;
        let reader = Reader::new(&mut kernel)?;
        let tap = tap(&mut kernel)?;
        let mut live = Live {
            kernel,
            reader,
            model: Model {
                live: true,
                tap,
                ..Model::default()
            },
            next_look: Instant::now(),
            unheld: HashSet::default(),
        };
        snapshot::cgroups(&mut live.model.cgroups);
        if let Some(mut tap) = live.model.tap.take() {
            for (id, path) in live.model.cgroups.iter() {
                tap(&live.model, &Event::Cgroup(Cgroup { id, path }));
            }
            live.model.tap = Some(tap);
        }
        live.look(watcher)?;
        live.read(watcher)?;
        Ok(live)
    }

    /// Waits until there is something to read.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        Ok(self.reader.wait().await?)
    }

    /// Reads what has happened; after a loss, looks at the machine again.
    pub fn read(&mut self, watcher: &mut Watcher) -> anyhow::Result<()> {
        self.read_beside(&mut |_, _| Ok(()), watcher)
    }

    /// The same, with somebody who notes what else has happened up to a time: up to that of each
    /// event before it, then up to now.
    pub fn read_beside(
        &mut self,
        beside: &mut Beside,
        watcher: &mut Watcher,
    ) -> anyhow::Result<()> {
        let Live { reader, model, .. } = self;
        let (now, mut noted) = (clock::monotonic_ns(), Ok(()));
        reader.drain(|event| {
            if let (Ok(()), Some(time)) = (&noted, event.time()) {
                noted = beside(model, time);
            }
            model.apply(&event, watcher);
        })?;
        noted?;
        beside(model, now)?;
        if self.model.world.loss().is_some() && Instant::now() >= self.next_look {
            self.look(watcher)?;
        }
        Ok(())
    }

    /// Whether something has come to live for a reason that is not told: it is bound to a
    /// file, or a descriptor of it is open.
    fn has_riddles(&self) -> bool {
        let mut unheld = self.model.world.unheld();
        unheld.any(|key| !self.unheld.contains(&key))
    }

    /// Looks for losses that the rings do not know of, and for what holds that which
    /// nothing is known to hold; to be called from time to time.
    pub fn check(&mut self, watcher: &mut Watcher) -> anyhow::Result<()> {
        self.check_beside(&mut |_, _| Ok(()), watcher)
    }

    /// The same, beside somebody as for [`Live::read_beside`].
    pub fn check_beside(
        &mut self,
        beside: &mut Beside,
        watcher: &mut Watcher,
    ) -> anyhow::Result<()> {
        let told = self.reader.told_by_twins();
        let skipped = self.kernel.missed(told);
        if skipped > self.model.skipped {
            let lost = Lost {
                time: clock::monotonic_ns(),
                since: 0,
                record: RecordKind::Death,
                count: skipped - self.model.skipped,
            };
            self.model.skipped = skipped;
            self.model.apply(&Event::Lost(lost), watcher);
        }
        self.read_beside(beside, watcher)?;
        if Instant::now() >= self.next_look && self.has_riddles() {
            self.look(watcher)?;
        }
        Ok(())
    }

    /// Waits a little until nothing is left of a process that was waited for.
    pub async fn reap(
        &mut self,
        pid: u32,
        beside: &mut Beside<'_>,
        watcher: &mut Watcher<'_>,
    ) -> anyhow::Result<()> {
        for _ in 0..REAP_TICKS {
            if self.model.world.by_tid(pid).is_none() {
                break;
            }
            tokio::time::sleep(REAP_TICK).await;
            self.read_beside(beside, watcher)?;
        }
        Ok(())
    }

    /// Reads what has happened up to now, and makes good what was lost.
    pub fn end(mut self, watcher: &mut Watcher) -> anyhow::Result<Model> {
        self.check(watcher)?;
        for _ in 0..LAST_LOOKS {
            if self.model.world.loss().is_none() && !self.has_riddles() {
                break;
            }
            self.look(watcher)?;
            let Live { reader, model, .. } = &mut self;
            reader.drain(|event| model.apply(&event, watcher))?;
        }
        Ok(self.model)
    }

    fn look(&mut self, watcher: &mut Watcher) -> anyhow::Result<()> {
        let begin = Instant::now();
        let Live { reader, model, .. } = self;
        let (mut found, mut read) = (0, Ok(()));
        snapshot::take(&snapshot::Options::default(), &mut |event| {
            model.apply(&event, watcher);
            found += 1;
            // To enter one that was found is told in several records.
            let is_ns = matches!(event, Event::FoundNamespace(_));
            if (is_ns || found % BETWEEN == 0) && read.is_ok() {
                read = reader.drain(|event| model.apply(&event, watcher));
            }
        })?;
        self.ask(watcher);
        let pause = PAUSE.max(begin.elapsed() * LOOK_SHARE);
        self.next_look = Instant::now() + pause;
        self.unheld = self.model.world.unheld().collect();
        Ok(read?)
    }
}

impl Live {
    /// Asks the kernel for the numbers of namespaces that it was not found to have.
    fn ask(&mut self, watcher: &mut Watcher) {
        let world = &self.model.world;
        let unconfirmed = world
            .namespaces()
            .filter(|(_, ns)| ns.is_alive() && !ns.confirmed);
        let inums: Vec<u32> = unconfirmed.map(|(_, ns)| ns.inum).collect();
        for inum in inums {
            let time = clock::monotonic_ns();
            if self.kernel.is_free(inum) {
                let free = FoundFree { time, inum };
                self.model.apply(&Event::FoundFree(free), watcher);
            }
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
