//! The living namespaces: their kinds and births, by number.
//!
//! Up to v6.17 a death tells the number only. That of a pid namespace is told twice,
//! since the kernel may have skipped the first word (see the kernel side's `lives`);
//! the second comes when the number may be in use again, so it has the address.

use std::collections::hash_map::Entry;

use foldhash::HashMap;
use nstrace_common::kind::Kind;

use crate::event::Life;

/// The living namespaces.
#[derive(Debug, Default)]
pub struct Lives {
    living: HashMap<u32, Living>,
    recovered: u64,
}

#[derive(Clone, Copy, Debug)]
struct Living {
    kind: Kind,
    /// `CLOCK_MONOTONIC`, ns; none for one that was there before.
    born: Option<u64>,
    address: Option<u64>,
}

impl Lives {
    /// Notes a namespace that was there before.
    pub fn found(&mut self, kind: Kind, inum: u32) {
        self.living.entry(inum).or_insert(Living {
            kind,
            born: None,
            address: None,
        });
    }

    /// Notes a birth.
    pub fn born(&mut self, life: &Life) {
        if let Some(kind) = life.kind {
            let living = Living {
                kind,
                born: Some(life.time),
                address: life.address,
            };
            self.living.insert(life.inum, living);
        }
    }

    /// Completes a death with the kind and the age. None for what was not known to
    /// live: what an operation made, failed, and gave back; and the second word of a
    /// death whose first was heard.
    pub fn died(&mut self, life: &Life) -> Option<Life> {
        let Entry::Occupied(entry) = self.living.entry(life.inum) else {
            return None;
        };
        let living = entry.get();
        if let Some(address) = life.address {
            if living.kind != Kind::Pid || living.address.is_some_and(|own| own != address) {
                return None;
            }
            self.recovered += 1;
        }
        let living = entry.remove();
        Some(Life {
            kind: Some(living.kind),
            age: living.born.map(|born| life.time.saturating_sub(born)),
            ..*life
        })
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
        lives.born(&PID);
        let died = lives.died(&FIRST_WORD).expect("it was born");
        assert_eq!((died.kind, died.age), (Some(Kind::Pid), Some(50)));
        assert_eq!(lives.died(&FIRST_WORD), None);
    }

    #[test]
    fn the_second_word_counts_if_the_first_was_missed() {
        let mut lives = Lives::default();
        lives.born(&PID);
        assert!(lives.died(&Life { time: 200, ..PID }).is_some());
        assert_eq!(lives.recovered(), 1);
    }

    #[test]
    fn the_second_word_does_not_kill_the_next_life_of_the_number() {
        let mut lives = Lives::default();
        lives.born(&PID);
        assert!(lives.died(&FIRST_WORD).is_some());
        lives.born(&Life {
            address: Some(0x2000),
            ..PID
        });
        assert_eq!(lives.died(&Life { time: 200, ..PID }), None);
        assert!(lives.died(&FIRST_WORD).is_some());
    }

    #[test]
    fn what_was_never_born_does_not_die() {
        assert_eq!(Lives::default().died(&FIRST_WORD), None);
    }
}
