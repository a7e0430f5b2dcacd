//! The tree of namespaces of this machine, kept up from the first look on.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use foldhash::HashSet;
use nstrace_common::{config::Config, wire::RecordKind};

use super::model::{Model, Tap, Watcher};
use crate::{
    cli::AttachArgs,
    event::{Event, FoundFree, Lost},
    kernel::{
        clock,
        error::in_first_pid_namespace,
        load::{self, Kernel, Options},
        reader::Reader,
        snapshot,
    },
    world::NsKey,
};

/// Notes what has happened up to a time.
pub type Beside<'b> = dyn FnMut(&mut Model, u64) -> anyhow::Result<()> + 'b;

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
            model: Model::traced(tap),
            next_look: Instant::now(),
            unheld: HashSet::default(),
        };
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

    /// How often the kernel has skipped a program that has no twin.
    pub fn skipped_runs(&self) -> u64 {
        self.kernel.skipped_runs()
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
