//! Births and deaths: every namespace of a book must have both, of the right kind.

use std::collections::BTreeMap;

use super::line::Life;
use super::report::Report;
use crate::book::Contents;
use crate::kinds::{self, KINDS};

/// How often each namespace was born and died, and how often the book has it.
/// Numbers are used again, so there can be several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    made: usize,
    births: usize,
    deaths: usize,
}

/// By kind (an index; none if not told) and number.
type Counts = BTreeMap<(Option<usize>, u32), Count>;

fn count(book: &Contents, births: &[Life], deaths: &[Life]) -> Counts {
    let mut counts = Counts::new();
    for entry in &book.ops {
        for (kind, inum) in entry.made() {
            counts.entry((Some(kind), inum)).or_default().made += 1;
        }
    }
    let key = |life: &Life| (life.kind.as_deref().and_then(kinds::index), life.inum);
    for life in births {
        counts.entry(key(life)).or_default().births += 1;
    }
    for life in deaths {
        counts.entry(key(life)).or_default().deaths += 1;
    }
    counts
}

/// Whether as many died as were born, of each.
pub fn balance(births: &[Life], deaths: &[Life]) -> bool {
    let counts = count(&Contents::default(), births, deaths);
    counts.values().all(|count| count.births == count.deaths)
}

/// Reports every namespace of the book that was not born or did not die, and every
/// one whatsoever whose births and deaths are not as many.
pub fn compare(book: &Contents, births: &[Life], deaths: &[Life], report: &mut Report) {
    for ((kind, inum), count) in count(book, births, deaths) {
        let name = kind.map_or("?", |kind| KINDS[kind].name);
        // One that an operation gave back again is in no book.
        if count.births < count.made || count.births != count.deaths {
            let Count {
                made,
                births,
                deaths,
            } = count;
            report.add(format!(
                "{name}:{inum}: made {made}, born {births}, died {deaths}"
            ));
        }
    }
    for life in births {
        report.check(life.tid.is_some(), || {
            format!("birth of {} without a tid", life.inum)
        });
        report.check(life.age_ns.is_none(), || {
            format!("birth of {} with an age", life.inum)
        });
    }
    for life in deaths {
        report.check(life.age_ns.is_some(), || {
            format!("death of {} without an age", life.inum)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Entry;
    use crate::kinds::{NEWUTS, UTS};

    fn life(kind: &str, inum: u32, age_ns: Option<u64>) -> Life {
        Life {
            kind: Some(kind.into()),
            inum,
            tid: Some(1),
            age_ns,
        }
    }

    fn report(births: &[Life], deaths: &[Life]) -> String {
        let mut entry = Entry {
            op: "unshare".into(),
            flags: NEWUTS,
            ..Entry::default()
        };
        entry.after[UTS] = 42;
        let book = Contents {
            ops: vec![entry],
            ..Contents::default()
        };
        let mut report = Report::default();
        compare(&book, births, deaths, &mut report);
        report.to_string()
    }

    #[test]
    fn a_life_is_whole() {
        let (birth, death) = ([life("uts", 42, None)], [life("uts", 42, Some(5))]);
        assert_eq!(report(&birth, &death), "");
        assert!(report(&birth, &[]).contains("uts:42: made 1, born 1, died 0"));
        assert!(report(&[], &death).contains("uts:42: made 1, born 0, died 1"));
        let wrong = report(&birth, &[life("net", 42, Some(5))]);
        assert!(wrong.contains("net:42: made 0, born 0, died 1"), "{wrong}");
    }

    #[test]
    fn a_number_can_live_twice() {
        let (birth, death) = (life("uts", 42, None), life("uts", 42, Some(5)));
        assert!(balance(
            &[birth.clone(), birth.clone()],
            &[death.clone(), death.clone()]
        ));
        assert!(!balance(&[birth.clone(), birth], &[death]));
    }
}
