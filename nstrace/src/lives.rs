//! The living namespaces: their kinds and births, by number.
//!
//! Up to v6.17 a death tells the number only. That of a pid namespace is told twice,
//! since the kernel may have skipped the first word (see the kernel side's `lives`);
//! the second comes when the number may be in use again, so it has the address.
//!
//! Births and deaths come in two rings: of the shortest lives the death may be told first. It
//! is kept until the birth is.

use std::collections::VecDeque;

use foldhash::HashMap;
use nstrace_common::kind::Kind;

use crate::{
    event::{Life, Past},
    world::{self, World},
};

/// So many deaths whose births were not told yet are kept.
const EARLY_MAX: usize = 64;

/// The living namespaces.
#[derive(Debug, Default)]
pub struct Lives {
    living: HashMap<u32, Living>,
    recovered: u64,
    /// Deaths of those that were not known to live, as they were told.
    early: VecDeque<Life>,
    /// The latest time of one of these, up to now.
    early_until: u64,
}

#[derive(Clone, Copy, Debug)]
struct Living {
    kind: Kind,
    /// `CLOCK_MONOTONIC`, ns; none for one that was there before.
    born: Option<u64>,
    address: Option<u64>,
    past: Past,
}

impl Lives {
    /// Notes a namespace that was there before.
    pub fn found(&mut self, kind: Kind, inum: u32) {
        self.living.entry(inum).or_insert(Living {
            kind,
            born: None,
            address: None,
            past: Past::default(),
        });
    }

    /// Notes those that live where a recording begins, and what is known of them.
    pub fn begin_with(&mut self, world: &World) {
        for (_, ns) in world.namespaces().filter(|(_, ns)| ns.is_alive()) {
            self.living.entry(ns.inum).or_insert_with(|| Living {
                kind: ns.kind,
                born: ns.born,
                address: None,
                past: Past {
                    maker: ns.maker.as_ref().map(world::Maker::in_short),
                    ..Past::default()
                },
            });
        }
    }

    /// Notes that a task has come into a namespace.
    pub fn entered(&mut self, inum: u32) {
        if let Some(living) = self.living.get_mut(&inum) {
            living.past.entered += 1;
        }
    }

    /// Notes a birth, and what is known of it.
    pub fn born(&mut self, life: &Life, past: Past) {
        if let Some(kind) = life.kind {
            let living = Living {
                kind,
                born: Some(life.time),
                address: life.address,
                past,
            };
            self.living.insert(life.inum, living);
        }
    }

    /// Completes a death with the kind and the age. None for what was not known to
    /// live: what an operation made, failed, and gave back; what is told to be born later
    /// ([`Lives::over`]); and the second word of a death whose first was heard.
    pub fn died(&mut self, life: &Life) -> Option<Life> {
        if let Some(address) = life.address {
            let living = self.living.get(&life.inum)?;
            if living.kind != Kind::Pid || living.address.is_some_and(|own| own != address) {
                return None;
            }
            self.recovered += 1;
        }
        let Some(living) = self.living.remove(&life.inum) else {
            self.keep(life);
            return None;
        };
        Some(Life {
            kind: Some(living.kind),
            age: living.born.map(|born| life.time.saturating_sub(born)),
            past: living.past,
            ..*life
        })
    }

    #[inline(never)]
    fn keep(&mut self, death: &Life) {
        if self.early.len() >= EARLY_MAX {
            self.early.pop_front();
        }
        self.early.push_back(*death);
        self.early_until = self.early_until.max(death.time);
    }

    /// Whether what was born at that time may be dead: a death of then or later was told of
    /// nobody.
    pub fn may_be_over(&self, born: u64) -> bool {
        born <= self.early_until
    }

    /// The death of what has just been born, if that was told before.
    pub fn over(&mut self, birth: &Life) -> Option<Life> {
        if !self.may_be_over(birth.time) {
            return None;
        }
        let mut early = self.early.iter();
        let at = early.position(|death| death.can_be_of(birth))?;
        let death = self.early.remove(at)?;
        self.died(&death)
    }

    /// How many deaths were learnt by their second word alone.
    pub fn recovered(&self) -> u64 {
        self.recovered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: Life = Life {
        time: 100,
        kind: Some(Kind::Pid),
        inum: 7,
        id: 0,
        pid: 1,
        tid: 1,
        address: Some(0x1000),
        age: None,
        past: Past {
            maker: None,
            entered: 0,
            mounts: 0,
        },
    };

    /// As proc_free_inum tells it.
    const FIRST_WORD: Life = Life {
        time: 150,
        kind: None,
        address: None,
        ..PID
    };

    #[test]
    fn a_death_gets_kind_and_age_from_the_birth() {
        let mut lives = Lives::default();
        lives.born(&PID, Past::default());
        let died = lives.died(&FIRST_WORD).expect("it was born");
        assert_eq!((died.kind, died.age), (Some(Kind::Pid), Some(50)));
        assert_eq!(lives.died(&FIRST_WORD), None);
    }

    #[test]
    fn the_second_word_counts_if_the_first_was_missed() {
        let mut lives = Lives::default();
        lives.born(&PID, Past::default());
        assert!(lives.died(&Life { time: 200, ..PID }).is_some());
        assert_eq!(lives.recovered(), 1);
    }

    #[test]
    fn the_second_word_does_not_kill_the_next_life_of_the_number() {
        let mut lives = Lives::default();
        lives.born(&PID, Past::default());
        assert!(lives.died(&FIRST_WORD).is_some());
        let again = Life {
            address: Some(0x2000),
            ..PID
        };
        lives.born(&again, Past::default());
        assert_eq!(lives.died(&Life { time: 200, ..PID }), None);
        assert!(lives.died(&FIRST_WORD).is_some());
    }

    #[test]
    fn what_was_never_born_does_not_die() {
        assert_eq!(Lives::default().died(&FIRST_WORD), None);
    }

    #[test]
    fn a_death_that_is_told_before_the_birth_is_told_after_it_once() {
        let mut lives = Lives::default();
        // Of who had the number before, and of another number.
        let before = Life {
            time: 90,
            ..FIRST_WORD
        };
        let other = Life {
            inum: 8,
            ..FIRST_WORD
        };
        for death in [before, other, FIRST_WORD] {
            assert_eq!(lives.died(&death), None);
        }
        lives.born(&PID, Past::default());
        let died = lives.over(&PID).expect("it was told");
        assert_eq!((died.time, died.kind, died.age), (150, PID.kind, Some(50)));
        assert_eq!((lives.over(&PID), lives.died(&FIRST_WORD)), (None, None));
    }

    #[test]
    fn who_has_the_number_later_is_not_dead() {
        let mut lives = Lives::default();
        assert_eq!(lives.died(&FIRST_WORD), None);
        let later = Life { time: 200, ..PID };
        lives.born(&later, Past::default());
        assert_eq!(lives.over(&later), None);
        let death = Life {
            time: 250,
            ..FIRST_WORD
        };
        assert_eq!(lives.died(&death).and_then(|death| death.age), Some(50));
    }
}
