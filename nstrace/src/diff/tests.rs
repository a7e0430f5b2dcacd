use nstrace_common::{flags::CLONE_NEWUTS, wire::Op};

use super::*;
use crate::{
    cgroups::Cgroups,
    event::{Event, FoundNamespace, Life, Ns},
    explain::Facts,
    render::testing::{Built, FIRST, op},
    report::Known,
};

/// Lengths as if by chance: most about `usual`, few very long.
fn some(seed: u64, count: usize, usual: u64) -> Lengths {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut lengths = Lengths::default();
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let tail = if state.is_multiple_of(50) { 20 } else { 1 };
        lengths.add((usual / 2 + state % usual) * tail);
    }
    lengths
}

// That nothing has changed is known here: they are of one source.
#[test]
fn what_differs_by_chance_is_no_change() {
    let mut told = 0;
    for seed in 0..1000 {
        let (a, b) = (some(seed, 400, 10_000), some(seed + 5000, 700, 10_000));
        told += [50.0, 90.0, 99.0]
            .into_iter()
            .filter(|percent| change(&a, &b, *percent).is_some())
            .count();
    }
    assert!(told <= 3, "{told} of 3000");
}

#[test]
fn a_half_more_is_a_change_and_of_few_nothing_is_said() {
    let (a, b) = (some(1, 1000, 10_000), some(2, 1000, 15_000));
    assert_eq!(change(&a, &b, 50.0), Some(Ordering::Greater));
    assert_eq!(change(&b, &a, 50.0), Some(Ordering::Less));
    let (a, b) = (some(1, 5, 10_000), some(2, 5, 15_000));
    assert_eq!(change(&a, &b, 50.0), None);
    assert_eq!(change(&a, &Lengths::default(), 50.0), None);
}

#[test]
fn a_change_of_less_than_a_tenth_is_none() {
    let (a, b) = (some(1, 1_000_000, 100_000), some(2, 1_000_000, 105_000));
    assert_eq!(change(&a, &b, 50.0), None);
}

#[test]
fn failures_are_judged_by_their_share() {
    let thousand = [1000; 2];
    for (counts, of, expected) in [
        ([0, 1], thousand, Verdict::New),
        ([1, 0], thousand, Verdict::Gone),
        ([0, 0], thousand, Verdict::Same),
        ([10, 14], thousand, Verdict::Same),
        ([10, 40], thousand, Verdict::More),
        ([40, 10], thousand, Verdict::Fewer),
        // Four times as many of four times as many.
        ([10, 40], [1000, 4000], Verdict::Same),
        ([u64::MAX / 2, u64::MAX / 2], [u64::MAX; 2], Verdict::Same),
        ([5, 5], [0, 0], Verdict::Same),
    ] {
        assert_eq!(verdict(counts, of), expected, "{counts:?} of {of:?}");
    }
}

/// What a recording comes to.
struct Recorded {
    world: World,
    report: Report,
    names: Names,
    boot_id: &'static str,
}

impl Recorded {
    fn of(boot_id: &'static str, events: &[Event]) -> Recorded {
        let (mut world, mut report) = (World::default(), Report::default());
        for event in events {
            let mut changes = Vec::new();
            world.apply(event, &mut changes);
            let known = Known {
                world: &world,
                changes: &changes,
                cgroups: &Cgroups::default(),
                facts: &Facts::NONE,
            };
            report.event(event, &known, &mut |_| String::new());
        }
        Recorded {
            world,
            report,
            names: Names::default(),
            boot_id,
        }
    }

    fn side(&self) -> Side<'_> {
        Side {
            report: &self.report,
            world: &self.world,
            names: &self.names,
            boot_id: self.boot_id,
        }
    }
}

const UTS: u32 = 4_026_532_300;

/// A uts namespace is made at that time.
fn made(inum: u32, time: u64) -> Built {
    op(Op::Unshare, CLONE_NEWUTS)
        .after(&[(Kind::Uts, inum)])
        .with(|record| {
            record.start = time - 1000;
            record.head.time = time;
        })
}

fn found(inum: u32, time: u64) -> Event<'static> {
    Event::FoundNamespace(FoundNamespace {
        time,
        kind: Kind::Uts,
        ns: Ns { inum, id: 0 },
        parent: 0,
        owner: FIRST[Kind::User as usize],
        owner_uid: None,
    })
}

fn uts(a: &Recorded, b: &Recorded) -> ([u64; 2], u64, [Vec<u32>; 2]) {
    let diff = diff([a.side(), b.side()]);
    let lives = &diff.lives[Kind::Uts as usize];
    let only = diff.only.map(|list| {
        let own = list.into_iter().filter(|ns| ns.kind == Kind::Uts);
        own.map(|ns| ns.inum).collect()
    });
    (lives.alive, lives.both, only)
}

#[test]
fn namespaces_of_one_boot_are_told_apart_by_number_and_birth() {
    let (first, later, again) = (made(UTS, 5000), made(UTS + 1, 6000), made(UTS, 20_000));
    let death = Event::Death(Life::death(15_000, UTS));
    let a = Recorded::of("boot", &[Event::Op(first.get()), Event::Op(later.get())]);
    // Found when the second began: the one of 6000 still lives.
    let b = Recorded::of(
        "boot",
        &[found(UTS + 1, 10_000), death, Event::Op(again.get())],
    );
    let (alive, both, only) = uts(&a, &b);
    assert_eq!((alive, both), ([2, 2], 1));
    assert_eq!(only, [vec![UTS], vec![UTS]]);
}

#[test]
fn namespaces_of_different_boots_are_only_counted() {
    let built = made(UTS, 5000);
    let a = Recorded::of("one", &[Event::Op(built.get())]);
    let b = Recorded::of("other", &[Event::Op(built.get())]);
    assert_eq!(uts(&a, &b), ([1, 1], 0, [vec![], vec![]]));
    // Those that do not say it, too.
    let a = Recorded::of("", &[Event::Op(built.get())]);
    assert!(!diff([a.side(), a.side()]).same_boot);
}

#[test]
fn failures_are_joined_whatever_namespace_they_name() {
    let failed = |user: u32| {
        op(Op::Clone, nstrace_common::flags::CLONE_NEWUSER)
            .failed(libc::EPERM)
            .in_user()
            .found(|fail| fail.uid_extents = 0)
            .with(|record| record.before[Kind::User as usize] = user)
    };
    let (one, other) = (failed(4_026_532_301), failed(4_026_532_302));
    let a = Recorded::of("", &[Event::Op(one.get())]);
    let b = Recorded::of("", &[Event::Op(other.get())]);
    let diff = diff([a.side(), b.side()]);
    let [failure] = &diff.failures[..] else {
        panic!("{:?}", diff.failures);
    };
    assert_eq!(failure.reason.as_deref(), Some("user:… has no uid_map yet"));
    assert_eq!((failure.counts, failure.verdict), ([1, 1], Verdict::Same));
}
