//! How mount namespaces came about: who made each, and whose mounts it began with. The kernel
//! does not tell that afterwards; a recording does.

use foldhash::HashMap;
use nstrace_common::kind::Kind;

use crate::{
    event::Operation,
    world::{Maker, World},
};

/// How a mount namespace came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Who made it.
    pub maker: Maker,
    /// When, `CLOCK_MONOTONIC` in ns, if that was told.
    pub time: Option<u64>,
    /// What was copied for it, if that was told.
    pub origin: Option<Origin>,
    /// Its id; 0 if it is not known.
    id: u64,
}

/// What copy_mnt_ns copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The number that the namespace had whose mounts they were.
    pub inum: u32,
    /// How many.
    pub mounts: u32,
}

/// What operations copied, by the number of the namespace that they made: the last one that
/// had it.
#[derive(Clone, Debug, Default)]
pub struct Origins(HashMap<u32, Origin>);

impl Origins {
    /// Notes what an operation copied, if it made a mount namespace.
    pub fn note(&mut self, op: &Operation) {
        let mut born = op.born();
        let Some(ns) = born.find(|life| life.kind == Some(Kind::Mnt)) else {
            return;
        };
        let origin = Origin {
            inum: op.before(Kind::Mnt).inum,
            mounts: op.record.mounts,
        };
        self.0.insert(ns.inum, origin);
    }
}

/// How living mount namespaces came about.
#[derive(Clone, Debug, Default)]
pub struct Births(HashMap<u32, Birth>);

impl Births {
    /// Those that live at the end of a recording, of what it has come to.
    pub fn new(world: &World, origins: &Origins) -> Births {
        let living = world.namespaces();
        let living = living.filter(|(_, ns)| ns.kind == Kind::Mnt && ns.is_alive());
        let births = living.filter_map(|(_, ns)| {
            let birth = Birth {
                maker: ns.maker?,
                time: ns.born,
                origin: origins.0.get(&ns.inum).copied(),
                id: ns.id,
            };
            Some((ns.inum, birth))
        });
        Births(births.collect())
    }

    /// How one came about, by its number and, where it is known, its id.
    pub fn of(&self, inum: u32, id: u64) -> Option<&Birth> {
        let birth = self.0.get(&inum)?;
        (birth.id == 0 || id == 0 || birth.id == id).then_some(birth)
    }
}
