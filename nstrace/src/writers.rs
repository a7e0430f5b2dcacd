//! Who unbalanced the writer count of a mount: the ledger of write access, and the verdict.
//!
//! The kernel warns in cleanup_mnt when a mount dies with a writer count that is not zero
//! (v6.12 fs/namespace.c). Then somebody took write access and did not give it back, or gave
//! it back twice; who did is not in the warning. The ledger has, for each mount that is
//! watched, how often each kernel stack took or gave back. [`verdict`] finds the function in
//! which they do not pair.
//!
//! This is pure: it is told events, of the running kernel or of a recording.

pub mod now;
mod tree;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use nstrace_common::writers::{FRAMES, MountRecord, Site};

use crate::event::{Access, Balance, Event, Mount, MountKey, Unfiled};

pub use verdict::{Doubt, Guilty, Line, Verdict, function, verdict};

/// What is told of mounts, and what it comes to.
#[derive(Debug, Default)]
pub struct Ledger {
    mounts: BTreeMap<MountKey, Watched>,
    /// What was done to mounts that are not told yet: another CPU does that.
    early: BTreeMap<MountKey, Accesses>,
    /// Of which mount each stack is.
    of: BTreeMap<u32, MountKey>,
    /// How much of all that is kept.
    kept: Kept,
    unfiled: Unfiled,
    /// What there was no room for here.
    left_out: LeftOut,
}

/// What is kept of all mounts.
#[derive(Debug, Default)]
struct Kept {
    stacks: usize,
    /// About what they take of memory.
    bytes: usize,
}

/// A recording may have any number of mounts and stacks.
#[derive(Debug, Default)]
struct LeftOut {
    mounts: u64,
    accesses: u64,
}

/// By numbers.
type Accesses = BTreeMap<u32, Entry>;

/// A mount that is watched.
#[derive(Debug)]
pub struct Watched {
    /// What it was when the first access was seen; its count is that before it, or with it.
    pub first: Box<MountRecord>,
    /// How many writers it had when that was last asked for.
    pub last: Option<i64>,
    /// What was done to it.
    pub accesses: Accesses,
    /// What was not counted anywhere when it was first seen.
    unfiled: Unfiled,
}

impl Watched {
    /// How many writers it has by the ledger, and how many of them are not those of open files.
    pub fn sums(&self) -> [i64; 2] {
        verdict::sums(self.accesses.values(), self.first.count.into())
    }

    /// What tells it from all others.
    pub fn key(&self) -> MountKey {
        let record = &*self.first;
        Mount { record, stack: &[] }.key()
    }
}

/// Write access that was taken or given back with one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// By which function.
    pub site: Site,
    /// Who called that, the innermost first: `FUNCTION+0xOFFSET [MODULE]`.
    pub stack: Vec<Vec<u8>>,
    /// Whether there are more callers than are known.
    pub is_cut: bool,
    /// How often.
    pub count: u64,
}

/// A mount that has died, and what is to be said of it.
#[derive(Debug)]
pub struct Death {
    /// What it was in the end.
    pub mount: Box<MountRecord>,
    /// Where that was, a line for each frame.
    pub stack: Vec<u8>,
    /// What was done to it, if it was watched.
    pub verdict: Option<Verdict>,
    /// It lives, and as many tasks are in the functions that have not given back as there are
    /// writers: they may do so still.
    pub is_on_its_way: bool,
}

impl Death {
    /// What tells the mount from all others.
    pub fn key(&self) -> MountKey {
        let record = &*self.mount;
        Mount { record, stack: &[] }.key()
    }
}

/// What is to be said of those that live.
#[derive(Debug, Default)]
pub struct Living {
    /// Those that are unbalanced.
    pub unbalanced: Vec<Death>,
    /// Of so many it cannot be told: the kernel was not asked for its count, or that is not
    /// what the ledger has.
    pub untold: usize,
}

/// So many mounts are kept: as many as the kernel side has room for.
pub const MOUNTS_MAX: usize = 131_072;

/// So many stacks of all mounts are kept,
const STACKS_MAX: usize = 1 << 20;

/// and so many bytes of them.
const BYTES_MAX: usize = 512 << 20;

impl Ledger {
    /// Takes an event in. Of a mount that dies with writers gives what is to be said.
    pub fn event(&mut self, event: &Event) -> Option<Death> {
        match event {
            Event::MountWatched(mount) => self.watched(mount),
            Event::Access(access) => self.access(access),
            Event::Balance(balance) => {
                if let Some(key) = self.of.get(&balance.number).copied()
                    && let Some(entry) = self.accesses(key).get_mut(&balance.number)
                {
                    entry.count = balance.count;
                }
            }
            Event::Unfiled(unfiled) => self.unfiled = *unfiled,
            Event::MountDied(mount) => return self.died(mount),
            _ => {}
        }
        None
    }

    fn watched(&mut self, mount: &Mount) {
        // Told again: to say how many writers it has.
        if let Some(watched) = self.mounts.get_mut(&mount.key()) {
            watched.last = Some(mount.record.count.into());
            return;
        }
        if self.mounts.len() >= MOUNTS_MAX {
            self.left_out.mounts += 1;
            return;
        }
        let watched = Watched {
            first: Box::new(*mount.record),
            last: None,
            accesses: self.early.remove(&mount.key()).unwrap_or_default(),
            unfiled: self.unfiled(),
        };
        self.mounts.insert(mount.key(), watched);
    }

    fn access(&mut self, access: &Access) {
        let mut frames = crate::event::frames(access.stack);
        let entry = Entry {
            site: access.site,
            stack: frames.by_ref().take(FRAMES).map(<[u8]>::to_vec).collect(),
            is_cut: access.is_cut || frames.next().is_some(),
            count: 1,
        };
        let bytes = self.kept.bytes + entry.bytes();
        if self.kept.stacks >= STACKS_MAX || bytes > BYTES_MAX {
            self.left_out.accesses += 1;
            return;
        }
        self.kept.stacks += 1;
        self.kept.bytes = bytes;
        self.of.insert(access.number, access.mount);
        let before = self.accesses(access.mount).insert(access.number, entry);
        self.forget(before.iter());
    }

    /// Counts what is not kept any more.
    fn forget<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) {
        for entry in entries {
            self.kept.stacks -= 1;
            self.kept.bytes -= entry.bytes();
        }
    }

    fn accesses(&mut self, key: MountKey) -> &mut Accesses {
        match self.mounts.get_mut(&key) {
            Some(watched) => &mut watched.accesses,
            None => self.early.entry(key).or_default(),
        }
    }

    fn died(&mut self, mount: &Mount) -> Option<Death> {
        let watched = self.mounts.remove(&mount.key());
        let early = self.early.remove(&mount.key()).unwrap_or_default();
        let accesses = watched.as_ref().map_or(&early, |watched| &watched.accesses);
        self.forget(accesses.values());
        for number in accesses.keys() {
            // Numbers begin anew where another recording does.
            if self.of.get(number) == Some(&mount.key()) {
                self.of.remove(number);
            }
        }
        // Where it was: it is there no more.
        let place = watched
            .as_ref()
            .map(|watched| (watched.first.ns, watched.first.point));
        let verdict = watched.map(|watched| self.judge(&watched, mount.record.count.into(), true));
        // Balanced mounts die all the time.
        if mount.record.count == 0 && verdict.as_ref().is_none_or(Verdict::is_balanced) {
            return None;
        }
        let mut record = Box::new(*mount.record);
        if let Some((ns, point)) = place
            && mount.point().is_empty()
        {
            (record.ns, record.point) = (ns, point);
        }
        Some(Death {
            mount: record,
            stack: mount.stack.to_vec(),
            verdict,
            is_on_its_way: false,
        })
    }

    /// What is to be said of a mount whose writer count is `count`, if it is not balanced.
    fn judge(&self, watched: &Watched, count: i64, is_dead: bool) -> Verdict {
        let since = |all: u64, then: u64| all.saturating_sub(then);
        let all = self.unfiled();
        let unfiled = Unfiled {
            time: all.time,
            mounts: since(all.mounts, watched.unfiled.mounts),
            accesses: since(all.accesses, watched.unfiled.accesses),
            stacks: since(all.stacks, watched.unfiled.stacks),
            deaths: since(all.deaths, watched.unfiled.deaths),
            skipped: since(all.skipped, watched.unfiled.skipped),
        };
        let entries = watched.accesses.values();
        verdict(
            entries,
            watched.first.count.into(),
            count,
            is_dead,
            &unfiled,
        )
    }

    /// One of them.
    pub fn get(&self, mount: MountKey) -> Option<&Watched> {
        self.mounts.get(&mount)
    }

    /// The mounts that are watched and alive.
    pub fn living(&self) -> impl Iterator<Item = &Watched> {
        self.mounts.values()
    }

    /// What is to be said of the living ones: of those whose writers are not those of files
    /// that are open, as the ledger has it, or cannot be.
    pub fn unbalanced(&self) -> Living {
        let mut living = Living::default();
        for watched in self.living() {
            let Some(count) = watched.last else {
                let [_, unowned] = watched.sums();
                living.untold += usize::from(unowned != 0);
                continue;
            };
            let verdict = self.judge(watched, count, false);
            living.untold += usize::from(verdict.cannot_be_told());
            if !verdict.is_to_be_told() {
                continue;
            }
            let mut mount = watched.first.clone();
            mount.count = i32::try_from(verdict.count).unwrap_or(i32::MAX);
            living.unbalanced.push(Death {
                mount,
                stack: Vec::new(),
                verdict: Some(verdict),
                is_on_its_way: false,
            });
        }
        living
    }

    /// What is in no balance.
    pub fn unfiled(&self) -> Unfiled {
        let LeftOut { mounts, accesses } = self.left_out;
        Unfiled {
            mounts: self.unfiled.mounts.saturating_add(mounts),
            accesses: self.unfiled.accesses.saturating_add(accesses),
            ..self.unfiled
        }
    }

    /// Whether it has a mount.
    pub fn has(&self, mount: MountKey) -> bool {
        self.mounts.contains_key(&mount)
    }

    /// Tells all that it has, as events: who takes these in has the same. What they say of
    /// when it was is from when on the mount was watched.
    pub fn tell(&self, each: &mut dyn FnMut(&Event)) {
        let mut said = Unfiled::default();
        for (key, watched) in &self.mounts {
            if said != watched.unfiled {
                said = watched.unfiled;
                each(&Event::Unfiled(said));
            }
            let tell = &mut |record| each(&Event::MountWatched(Mount { record, stack: &[] }));
            tell(&watched.first);
            if let Some(last) = watched.last {
                let mut again = watched.first.clone();
                again.count = i32::try_from(last).unwrap_or(i32::MAX);
                tell(&again);
            }
            tell_accesses(*key, &watched.accesses, each);
        }
        for (key, accesses) in &self.early {
            tell_accesses(*key, accesses, each);
        }
        if said != self.unfiled() {
            each(&Event::Unfiled(self.unfiled()));
        }
    }
}

fn tell_accesses(mount: MountKey, accesses: &Accesses, each: &mut dyn FnMut(&Event)) {
    let time = mount.since;
    for (&number, entry) in accesses {
        let &Entry {
            site,
            is_cut,
            count,
            ..
        } = entry;
        each(&Event::Access(Access {
            time,
            mount,
            site,
            number,
            is_cut,
            stack: &entry.stack.join(&b'\n'),
        }));
        each(&Event::Balance(Balance {
            time,
            number,
            count,
        }));
    }
}

impl Entry {
    /// About what it takes of memory.
    fn bytes(&self) -> usize {
        const EACH: usize = 40;
        let frames = self.stack.iter().map(|frame| frame.len() + EACH);
        size_of::<Entry>() + frames.sum::<usize>()
    }
}
