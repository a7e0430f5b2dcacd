//! What is known of the machine at a place of a recording: who begins to read there needs
//! nothing of what came before.

use super::{
    bytes::{Bytes, put},
    found::{put_unseen, read_unseen},
    record::{Codec, Entry},
};
use crate::{
    cgroups::{self, Cgroups},
    event::{Cgroup, Event, Unseen},
    names::Names,
    world::{Change, World},
    writers::Ledger,
};

/// The kind of what stands at the end: all that is behind it.
const REST: u8 = 43;

/// What is known, by whoever knows it.
#[derive(Clone, Copy)]
pub struct StateOf<'a> {
    /// The namespaces and tasks.
    pub world: &'a World,
    /// Paths of cgroups.
    pub cgroups: &'a Cgroups,
    /// Names of containers.
    pub names: &'a Names,
    /// How many records were lost so far.
    pub lost: u64,
    /// What the last look could not see.
    pub unseen: Unseen,
    /// The ledger of write access, if that is watched; it has no names of commands and no
    /// paths if they are left out.
    pub writers: Option<&'a Ledger>,
    /// Whether names of commands and paths are left out.
    pub redacts: bool,
}

/// The same, read again.
#[derive(Debug, Default)]
pub struct State {
    /// The namespaces and tasks.
    pub world: World,
    /// Paths of cgroups.
    pub cgroups: Cgroups,
    /// Names of containers.
    pub names: Names,
    /// What to add to `CLOCK_MONOTONIC` for the time of day, in ns.
    pub wall_offset_ns: i64,
    /// How many records were lost so far.
    pub lost: u64,
    /// What the last look could not see.
    pub unseen: Unseen,
    /// The ledger of write access, if that was watched.
    pub writers: Option<Ledger>,
}

impl StateOf<'_> {
    /// Appends it but for the ledger, as the payload of a block, with what to add to
    /// `CLOCK_MONOTONIC` for the time of day.
    pub(super) fn write(&self, codec: &mut Codec, clock: i64, out: &mut Vec<u8>) {
        for (id, path) in self.cgroups.iter() {
            let path = if self.redacts {
                cgroups::id_alone(path)
            } else {
                path
            };
            codec.write(out, &Event::Cgroup(Cgroup { id, path }));
        }
        for (id, name) in self.names.iter().filter(|_| !self.redacts) {
            codec.write_name(out, id, name);
        }
        codec.write_clock(out, clock);
        out.push(REST);
        put(out, self.lost);
        put_unseen(out, &self.unseen);
        self.world.save(out, self.redacts);
    }
}

impl State {
    /// The same, to be written.
    pub fn get(&self) -> StateOf<'_> {
        StateOf {
            world: &self.world,
            cgroups: &self.cgroups,
            names: &self.names,
            lost: self.lost,
            unseen: self.unseen,
            writers: self.writers.as_ref(),
            redacts: false,
        }
    }

    /// What is known after an event; what it changed is appended.
    pub fn apply(&mut self, event: &Event, changes: &mut Vec<Change>) {
        match event {
            Event::Cgroup(cgroup) => self.cgroups.made(cgroup),
            Event::SnapshotEnd(end) => self.unseen = end.unseen,
            Event::Lost(lost) => self.lost = self.lost.saturating_add(lost.count),
            Event::MountWatched(_) | Event::Access(_) | Event::Balance(_) | Event::Unfiled(_) => {
                // What is to be said of deaths is said by who wants it.
                self.writers.get_or_insert_default().event(event);
            }
            Event::MountDied(_) => {
                if let Some(ledger) = &mut self.writers {
                    ledger.event(event);
                }
            }
            _ => {}
        }
        self.world.apply(event, changes);
    }

    /// Reads a payload; none if it is none.
    pub(super) fn read(payload: &[u8]) -> Option<State> {
        let mut state = State::default();
        let (mut at, mut codec) = (0, Codec::new());
        while *payload.get(at)? != REST {
            let (entry, rest) = codec.read(Bytes(&payload[at..]), |entry, rest| (entry, rest));
            match entry? {
                Entry::Event(Event::Cgroup(cgroup)) => state.cgroups.made(&cgroup),
                Entry::Name { id, name } => state.names.learn(id, name),
                Entry::Clock(offset) => state.wall_offset_ns = offset,
                // A later version may have more to say.
                Entry::Event(_) | Entry::Facts(_) => {}
            }
            at = payload.len() - rest.0.len();
        }
        let mut bytes = Bytes(&payload[at + 1..]);
        state.lost = bytes.number()?;
        state.unseen = read_unseen(&mut bytes)?;
        state.world = World::restore(&mut bytes)?;
        Some(state)
    }
}
