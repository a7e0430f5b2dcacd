//! The ledger of write access beside a recording. What it says goes the way of all events: the
//! state of a part is of their time.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use nstrace_common::writers::MountRecord;

use super::{
    super::{model::Model, writers},
    sink::Sink,
};
use crate::{
    cli::{Record, WatchedMounts},
    event::{Event, Mount, MountKey},
    kernel::writers::{Ledger as Kept, Wanted},
    writers::Watched,
};

/// The ledger, as the kernel keeps it.
pub struct Writers {
    kept: Kept,
    /// Who was unbalanced, by the ledger, at the last look,
    suspects: Suspects,
    /// and of whom that stands in the recording.
    told: Suspects,
    next_look: Instant,
}

/// How many writers of a mount are not those of files that are open, if there are such.
type Suspects = BTreeMap<MountKey, i64>;

/// What is only on the way does not stay so long.
const SETTLE: Duration = Duration::from_millis(100);

/// To look through the ledger takes this part of the time at most.
const SUSPECT_SHARE: u32 = 20;

impl Writers {
    /// Begins to watch.
    pub fn load(args: &Record, wanted: &Wanted) -> anyhow::Result<Writers> {
        let stacks = WatchedMounts::of(&args.writers).stacks;
        Ok(Writers {
            kept: writers::load(wanted, stacks, args.attach.attach)?,
            suspects: Suspects::new(),
            told: Suspects::new(),
            next_look: Instant::now(),
        })
    }

    /// Waits until there is something to read; for ever if nothing is watched.
    pub async fn wait(writers: &mut Option<Writers>) -> anyhow::Result<()> {
        match writers {
            Some(writers) => Ok(writers.kept.wait().await?),
            None => std::future::pending().await,
        }
    }

    /// Reads what was done, up to that time.
    pub fn read(
        writers: &mut Option<Writers>,
        until: u64,
        model: &mut Model,
    ) -> anyhow::Result<()> {
        match writers {
            Some(writers) => Ok(writers.kept.read(until, &mut |event| model.note(event))?),
            None => Ok(()),
        }
    }

    /// Reads how often.
    pub fn balances(&mut self, model: &mut Model) {
        self.kept.balances(&mut |event| model.note(event));
    }

    /// Tells how many writers those mounts have that have come to be unbalanced, and stay so:
    /// who kills nstrace has these too.
    pub fn suspect(&mut self, model: &mut Model, sink: &RefCell<Option<Sink>>) {
        let begin = Instant::now();
        if begin < self.next_look {
            return;
        }
        let mut records = Vec::new();
        if let Some(ledger) = sink.borrow().as_ref().and_then(Sink::ledger) {
            let sums = |watched: &Watched| (watched.key(), watched.sums());
            let living = ledger.living().map(sums);
            let unowned = living.map(|(key, [_, unowned])| (key, unowned));
            let now: Suspects = unowned.filter(|(_, unowned)| *unowned != 0).collect();
            self.told.retain(|key, _| ledger.has(*key));
            let all: BTreeSet<MountKey> = now.keys().chain(self.told.keys()).copied().collect();
            for key in all {
                let unowned = now.get(&key);
                if self.suspects.get(&key) == unowned && self.told.get(&key) != unowned {
                    let watched = ledger.get(key);
                    let counted =
                        watched.and_then(|own| Some((own, writers::counted(&self.kept, own)?)));
                    // Where much is done, something came between: the next look asks again.
                    let Some((_, record)) = counted.filter(|(own, record)| {
                        record.count < 0 || own.sums()[0] == i64::from(record.count)
                    }) else {
                        continue;
                    };
                    records.push(record);
                    match unowned {
                        Some(unowned) => self.told.insert(key, *unowned),
                        None => self.told.remove(&key),
                    };
                }
            }
            self.suspects = now;
        }
        tell(&records, model);
        self.next_look = Instant::now() + SETTLE.max(begin.elapsed() * SUSPECT_SHARE);
    }

    /// Writes down what there is in the end.
    pub fn end(
        writers: &mut Option<Writers>,
        model: &mut Model,
        sink: &RefCell<Option<Sink>>,
    ) -> anyhow::Result<()> {
        Writers::read(writers, u64::MAX, model)?;
        let Some(writers) = writers else {
            return Ok(());
        };
        writers.balances(model);
        let counts = sink
            .borrow()
            .as_ref()
            .and_then(Sink::ledger)
            .map(|ledger| writers::counts(&writers.kept, ledger));
        tell(&counts.unwrap_or_default(), model);
        Ok(())
    }
}

/// Writes down how many writers mounts have.
fn tell(records: &[MountRecord], model: &mut Model) {
    for record in records {
        model.note(&Event::MountWatched(Mount { record, stack: &[] }));
    }
}
