//! `nstrace writers`: who unbalances the writer count of a mount.

mod now;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use jiff::tz::TimeZone;
use nstrace_common::writers::{FS_NAMES, MountRecord};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    WrongWords,
    child::Child,
    output::{self, colored, say},
    recording,
    signals::{Signals, end_of},
};
use crate::{
    cgroups::Cgroups,
    cli::{WatchedMounts, Writers},
    event::{Event, Mount, MountKey},
    kernel::{
        clock,
        plan::Attach,
        stacks::inside,
        writers::{Ledger as Kept, Sizes, Wanted},
    },
    mount_ops::origins::Origins,
    render::{Clock, Text, View, writers, writers_json},
    trace::{Entry, Gap, Item},
    writers::{Death, Ledger, Living, Watched},
};

/// Watches until a signal, until the command ends, or as long as was said; then says what
/// lives unbalanced.
pub fn run(args: Writers) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.from {
        return replay(&args, path);
    }
    if args.now {
        return now::run(args);
    }
    let child = Child::of(&args.run)?;
    let wanted = wanted(&args.mounts)?;
    super::block_on(follow(args, wanted, child))
}

/// Which mounts are watched. To find a container it is asked for the names that engines give: not
/// where something else waits for several things at once.
pub fn wanted(mounts: &WatchedMounts) -> anyhow::Result<Wanted> {
    check(mounts)?;
    wanted::wanted(mounts)
}

/// Refuses what cannot be meant.
fn check(mounts: &WatchedMounts) -> anyhow::Result<()> {
    if mounts.is_empty() {
        bail!(WrongWords(
            "which mounts? The count is on a hot path, so they are to be named: --fs, --mount, \
             --dev, --container or --all"
                .to_owned()
        ));
    }
    if mounts.fs.len() > FS_NAMES {
        bail!(WrongWords(format!(
            "--fs takes {FS_NAMES} types at most: --all takes any"
        )));
    }
    Ok(())
}

/// Begins to watch, with room for so many stacks.
pub fn load(wanted: &Wanted, stacks: u32, attach: Attach) -> anyhow::Result<Kept> {
    /// Mounts that are watched at once: each takes 72 bytes.
    const MOUNTS: u32 = crate::writers::MOUNTS_MAX as u32;
    /// Stacks on their way: some 10,000.
    const RING: u32 = 4 << 20;
    let sizes = Sizes {
        ring: RING,
        mounts: MOUNTS,
        stacks,
    };
    Ok(Kept::load(attach, wanted, &sizes)?)
}

async fn follow(
    args: Writers,
    wanted: Wanted,
    mut child: Option<Child>,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut asked_for = signal(SignalKind::user_defined1()).context("signals cannot be caught")?;
    let mut kept = load(&wanted, args.mounts.stacks, args.attach)?;
    let mut page = Page::new(&args);
    output::release_memory();
    say("ready");
    if let Some(child) = &mut child {
        child.start()?;
    }
    let began = Instant::now();
    let mut tick = tokio::time::interval(TICK);
    let (mut status, mut asked) = (None, false);
    while status.is_none() {
        tokio::select! {
            waited = kept.wait() => {
                waited?;
                page.read(&mut kept)?;
            }
            _ = tick.tick() => {
                if args.duration.is_some_and(|most| began.elapsed() >= most) {
                    status = Some(ExitCode::SUCCESS);
                }
            }
            _ = asked_for.recv() => page.living(&mut kept).await?,
            end = signals.next() => status = end_of(end, child.as_ref(), &mut asked)?,
        }
    }
    page.living(&mut kept).await?;
    page.summary();
    Ok(status.unwrap_or(ExitCode::SUCCESS))
}

/// How often it is looked for what cannot be waited for.
const TICK: Duration = Duration::from_millis(100);

/// How long what is on the way may take.
const SETTLE: Duration = Duration::from_millis(100);

fn replay(args: &Writers, path: &Path) -> anyhow::Result<ExitCode> {
    let mut page = Page::new(args);
    let mut is_there = false;
    recording::read(path, &mut |item: &mut Item| {
        match item {
            Item::Head(head) => page.wall_offset_ns = head.wall_offset_ns,
            Item::State(state) => {
                page.wall_offset_ns = state.wall_offset_ns;
                page.cgroups = std::mem::take(&mut state.cgroups);
                if let Some(ledger) = state.writers.take() {
                    is_there = true;
                    page.goes_on(ledger);
                }
            }
            Item::Gap(Gap::Boot) => page.goes_on(Ledger::default()),
            Item::Entry(Entry::Clock(offset)) => page.wall_offset_ns = *offset,
            Item::Entry(Entry::Event(Event::Cgroup(cgroup))) => page.cgroups.made(cgroup),
            Item::Entry(Entry::Event(event)) => {
                is_there |= matches!(event, Event::MountWatched(_));
                page.event(event);
            }
            _ => {}
        }
        output::write(&mut page.text)
    })?;
    if !is_there {
        bail!(
            "{}: nothing in it says that write access was watched: nstrace record --writers does \
             that",
            path.display()
        );
    }
    page.unbalanced();
    output::write(&mut page.text)?;
    page.summary();
    Ok(ExitCode::SUCCESS)
}

/// What is printed.
struct Page {
    ledger: Ledger,
    cgroups: Cgroups,
    origins: Origins,
    clock: Clock,
    wall_offset_ns: i64,
    color: bool,
    json: bool,
    text: Text,
    watched: u64,
    /// What was told, each once: who lives unbalanced may be told again, and die.
    unbalanced: BTreeSet<MountKey>,
    /// Of so many that lived at the last look it cannot be told.
    untold: usize,
    /// Those that live, and whose access is on its way.
    on_the_way: BTreeSet<MountKey>,
    /// It is a recording that is read.
    is_recorded: bool,
}

impl Page {
    fn new(args: &Writers) -> Page {
        let zone = match args.json {
            true => TimeZone::UTC,
            false => TimeZone::system(),
        };
        Page {
            ledger: Ledger::default(),
            cgroups: Cgroups::default(),
            origins: Origins::default(),
            clock: Clock::new(zone),
            wall_offset_ns: clock::wall_offset_ns(),
            color: colored(args.color),
            json: args.json,
            text: Text::new(),
            watched: 0,
            unbalanced: BTreeSet::new(),
            untold: 0,
            on_the_way: BTreeSet::new(),
            is_recorded: args.from.is_some(),
        }
    }

    fn read(&mut self, kept: &mut Kept) -> anyhow::Result<()> {
        self.wall_offset_ns = clock::wall_offset_ns();
        kept.read(u64::MAX, &mut |event| self.event(event))?;
        output::write(&mut self.text)
    }

    fn event(&mut self, event: &Event) {
        self.origins.apply(event);
        if let Event::MountWatched(mount) = event {
            self.watched += u64::from(!self.ledger.has(mount.key()));
        }
        if let Some(death) = self.ledger.event(event) {
            self.print(&death, true);
        }
    }

    /// What comes next has a ledger that does not rest on what was before: if that was
    /// another recording, it has said in the end what lived.
    fn goes_on(&mut self, ledger: Ledger) {
        let before = std::mem::replace(&mut self.ledger, ledger);
        // Those that go on are told where they end.
        for death in &before.unbalanced().unbalanced {
            if !self.ledger.has(death.key()) {
                self.print(death, false);
            }
        }
        let living = self.ledger.living().map(Watched::key);
        self.watched += living.filter(|key| !before.has(*key)).count() as u64;
    }

    /// Prints what lives unbalanced. What is only on the way does not stay so.
    async fn living(&mut self, kept: &mut Kept) -> anyhow::Result<()> {
        self.look(kept)?;
        self.on_the_way.clear();
        if !self.ledger.unbalanced().unbalanced.is_empty() {
            tokio::time::sleep(SETTLE).await;
            self.look(kept)?;
            self.on_the_way = on_the_way(&self.ledger.unbalanced().unbalanced);
        }
        self.unbalanced();
        output::write(&mut self.text)
    }

    /// What was done up to now, and how many writers there are.
    fn look(&mut self, kept: &mut Kept) -> anyhow::Result<()> {
        self.read(kept)?;
        kept.balances(&mut |event| self.event(event));
        for record in &counts(kept, &self.ledger) {
            let mount = Mount { record, stack: &[] };
            self.ledger.event(&Event::MountWatched(mount));
        }
        Ok(())
    }

    fn unbalanced(&mut self) {
        let Living { unbalanced, untold } = self.ledger.unbalanced();
        for mut death in unbalanced {
            death.is_on_its_way = self.on_the_way.contains(&death.key());
            self.print(&death, false);
        }
        self.untold = untold;
    }

    fn print(&mut self, death: &Death, is_dead: bool) {
        let view = View {
            wall_offset_ns: self.wall_offset_ns,
            cgroups: &self.cgroups,
            facts: None,
            origin: self.origins.of(&death.mount),
            color: self.color,
            all: false,
        };
        if !death.is_on_its_way {
            self.unbalanced.insert(death.key());
        }
        let print = if self.json { writers_json } else { writers };
        print(&mut self.text, death, is_dead, &view, &mut self.clock);
    }

    fn summary(&self) {
        let (watched, unbalanced) = (self.watched, self.unbalanced.len());
        let unfiled = self.ledger.unfiled();
        let missing = match unfiled.mounts + unfiled.accesses + unfiled.deaths {
            0 => String::new(),
            missing => format!(", {missing} accesses or deaths found no room"),
        };
        let skipped = match unfiled.skipped {
            0 => String::new(),
            skipped => format!(", {skipped} runs skipped by the kernel"),
        };
        let untold = match (self.untold, self.is_recorded) {
            (0, _) => String::new(),
            (untold, false) => format!(
                "; of {untold} that live it cannot be told: nstrace writers --now looks at all"
            ),
            (untold, true) => format!("; of {untold} that lived at its end it cannot be told"),
        };
        let on_the_way = match self.on_the_way.len() {
            0 => String::new(),
            count => format!(", {count} with access that is on its way"),
        };
        let all = match watched {
            0 => "no access to what is watched".to_owned(),
            1 => "1 mount watched".to_owned(),
            watched => format!("{watched} mounts watched"),
        };
        say(&format!(
            "{all}, {unbalanced} unbalanced{on_the_way}{missing}{skipped}{untold}"
        ));
    }
}

/// Of those that live unbalanced, those of which as many tasks are in the functions that have not
/// given back as there are writers: they may give back still, as on a server that does not answer.
/// Where several mounts wait for one function, there are to be tasks for all of them.
fn on_the_way(unbalanced: &[Death]) -> BTreeSet<MountKey> {
    let mut named: Vec<(MountKey, i64, &[u8], i64)> = Vec::new();
    for death in unbalanced {
        let Some(verdict) = &death.verdict else {
            continue;
        };
        for guilty in verdict.guilty.iter().filter(|guilty| guilty.balance > 0) {
            let name = guilty.path.last().map(Vec::as_slice).unwrap_or_default();
            // Its module may be behind it.
            let name = name.split(|byte| *byte == b' ').next().unwrap_or_default();
            named.push((death.key(), verdict.unowned(), name, guilty.balance));
        }
    }
    let names: Vec<&[u8]> = named.iter().map(|(_, _, name, _)| *name).collect();
    let counts = match names.is_empty() {
        true => Vec::new(),
        false => inside(&names).unwrap_or_default(),
    };
    let wanted = |name: &[u8]| -> i64 {
        let same = named.iter().filter(|(_, _, other, _)| *other == name);
        same.map(|(_, _, _, balance)| balance).sum()
    };
    let mut left: BTreeMap<MountKey, i64> = BTreeMap::new();
    for ((key, unowned, name, balance), count) in named.iter().zip(counts) {
        let left = left.entry(*key).or_insert(*unowned);
        if i64::try_from(count).unwrap_or(i64::MAX) >= wanted(name) {
            *left -= balance;
        }
    }
    left.retain(|_, left| *left <= 0);
    left.into_keys().collect()
}

/// The mounts that live, with how many writers each has now.
pub fn counts(kept: &Kept, ledger: &Ledger) -> Vec<MountRecord> {
    let living = ledger.living();
    living
        .filter_map(|watched| counted(kept, watched))
        .collect()
}

/// One of them.
pub fn counted(kept: &Kept, watched: &Watched) -> Option<MountRecord> {
    let count = kept.writers(watched.key())?;
    Some(MountRecord {
        count,
        ..*watched.first
    })
}
