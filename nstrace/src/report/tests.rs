use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWUTS},
    mount_ops::Call,
};

use super::*;
use crate::{
    mount_ops::testing::mount_op,
    render::testing::{Built, op},
};

/// Unshares of so many ns.
fn report(lengths: &[u64]) -> Report {
    let mut report = Report::default();
    for took_ns in lengths {
        let built = op(Op::Unshare, CLONE_NEWUTS).took(*took_ns);
        add(&mut report, &built);
    }
    report
}

fn add(report: &mut Report, built: &Built) {
    add_known(report, built, &Cgroups::default());
}

fn add_known(report: &mut Report, built: &Built, cgroups: &Cgroups) {
    let event = Event::Op(built.get());
    let known = Known {
        world: &World::default(),
        changes: &[],
        cgroups,
        facts: &Facts::NONE,
    };
    report.event(&event, &known, &mut |event| match event {
        Event::Op(op) => format!("{}\n", op.took_ns()),
        _ => String::new(),
    });
}

#[test]
fn percentiles_are_right_to_a_hundredth() {
    let lengths: Vec<u64> = (1..=1000).map(|at| at * 1000).collect();
    let report = report(&lengths);
    let sums = report.sums();
    let (of, lengths) = sums.ops().next().unwrap();
    assert_eq!(
        (of, report.operations, lengths.count()),
        (Op::Unshare, 1000, 1000)
    );
    for (percent, expected) in [(50.0, 500_000), (90.0, 900_000), (99.0, 990_000)] {
        let found = lengths.percentile(percent);
        assert!(
            found.abs_diff(expected) <= expected / 100,
            "{percent}: {found}"
        );
    }
    assert_eq!((lengths.max(), lengths.sum()), (1_000_000, 500_500_000));
}

#[test]
fn the_slowest_are_kept_in_order() {
    let lengths: Vec<u64> = (0..100).map(|at| at * 7919 % 101 * 1000).collect();
    let report = report(&lengths);
    let kept: Vec<u64> = report.slowest.iter().map(|slow| slow.took_ns).collect();
    let mut expected = lengths;
    expected.sort_unstable_by_key(|ns| std::cmp::Reverse(*ns));
    assert_eq!(kept, expected[..SLOWEST]);
    assert_eq!(report.slowest[0].text, format!("{}\n", kept[0]));
}

#[test]
fn failures_of_one_sort_are_counted_together() {
    let mut report = report(&[1000]);
    for _ in 0..3 {
        let failed = op(Op::Unshare, CLONE_NEWNET).failed(libc::EPERM);
        add(&mut report, &failed);
    }
    let failed = op(Op::Unshare, CLONE_NEWNET).failed(libc::ENOSPC);
    add(&mut report, &failed);
    assert_eq!((report.operations, report.failed), (5, 4));
    let groups = report.failures.groups();
    let counts: Vec<_> = groups
        .iter()
        .map(|group| (group.errno, group.count))
        .collect();
    assert_eq!(counts, [(libc::EPERM, 3), (libc::ENOSPC, 1)]);
}

#[test]
fn an_operation_of_two_kinds_is_about_both_and_counted_once() {
    let mut report = Report::default();
    add(&mut report, &op(Op::Unshare, CLONE_NEWNET | CLONE_NEWUTS));
    let sums = report.sums();
    let kinds: Vec<_> = sums
        .kinds()
        .map(|(kind, own)| (kind, own.count()))
        .collect();
    assert_eq!(kinds, [(Kind::Uts, 1), (Kind::Net, 1)]);
    assert_eq!(sums.all().count(), 1);
}

#[test]
fn containers_are_told_apart_up_to_a_number() {
    let mut cgroups = Cgroups::default();
    let mut report = Report::default();
    let most = CONTAINERS_MAX as u64;
    for at in 1..=most + 100 {
        cgroups.learn(at, format!("/{at:064x}").as_bytes());
        let built = op(Op::Unshare, CLONE_NEWUTS).took(at * 1000);
        add_known(
            &mut report,
            &built.with(|record| record.cgroup = at),
            &cgroups,
        );
    }
    add_known(
        &mut report,
        &op(Op::Unshare, CLONE_NEWUTS).took(1),
        &cgroups,
    );
    assert_eq!(report.containers.len(), CONTAINERS_MAX + 1);
    let counts = |place: &Place| {
        let mut all = report.containers.iter();
        let found = all.find(|own| own.place == *place);
        found.map(|own| own.sums.all().count())
    };
    assert_eq!(counts(&Place::None), Some(1));
    assert_eq!(counts(&Place::Others), Some(101));
    assert_eq!(report.sums().all().count(), most + 101);
    let slowest = report.by_time()[1];
    assert_eq!(slowest.sums.time(), (most - 1) * 1000);
}

#[test]
fn the_filter_chooses_what_is_counted() {
    let mut report = Report::new(Filter {
        failed: true,
        ..Filter::default()
    });
    add(&mut report, &op(Op::Unshare, CLONE_NEWUTS));
    add(
        &mut report,
        &op(Op::Unshare, CLONE_NEWUTS).failed(libc::EPERM),
    );
    assert_eq!((report.operations, report.failed), (1, 1));
}

#[test]
fn losses_are_kept_with_their_times_and_no_sum_overflows() {
    let mut report = Report::default();
    for at in 0..2 * LOSSES_MAX as u64 {
        let lost = Lost {
            time: 1000 + at,
            since: 900 + at,
            record: RecordKind::Op,
            count: u64::MAX / 3,
        };
        let known = Known {
            world: &World::default(),
            changes: &[],
            cgroups: &Cgroups::default(),
            facts: &Facts::NONE,
        };
        report.event(&Event::Lost(lost), &known, &mut |_| String::new());
    }
    assert_eq!(report.losses.len(), LOSSES_MAX);
    let last = report.losses[LOSSES_MAX - 1];
    assert_eq!(
        (last.since, last.until),
        (999, 1000 + 2 * LOSSES_MAX as u64 - 1)
    );
    assert_eq!(report.lost(), [(RecordKind::Op, u64::MAX)]);
}

mod lives {
    use super::*;
    use crate::event::Life;

    /// What a world says of events, counted.
    fn counted(filter: Filter, comm: &[u8]) -> Report {
        let (mut world, mut report) = (World::default(), Report::new(filter));
        let made = op(Op::Unshare, CLONE_NEWUTS)
            .comm(comm)
            .after(&[(Kind::Uts, 4_026_532_300)]);
        let death = Life::death(made.record.head.time + 5000, 4_026_532_300);
        for event in [Event::Op(made.get()), Event::Death(death)] {
            let mut changes = Vec::new();
            world.apply(&event, &mut changes);
            let known = Known {
                world: &world,
                changes: &changes,
                cgroups: &Cgroups::default(),
                facts: &Facts::NONE,
            };
            report.event(&event, &known, &mut |_| String::new());
        }
        report
    }

    fn uts(report: &Report) -> (u64, u64, u64) {
        let lives = &report.lives[Kind::Uts as usize];
        (lives.born, lives.died, lives.ages.max())
    }

    #[test]
    fn have_their_makers_and_ages() {
        let report = counted(Filter::default(), b"runc");
        assert_eq!(uts(&report), (1, 1, 5000));
        let makers = report.lives[Kind::Uts as usize].makers.ranked();
        assert_eq!(makers[0].0.bytes(), b"runc");
        // All that it is in was found, as far as it shows.
        assert!(report.lives[Kind::Net as usize].found > 0);
    }

    #[test]
    fn are_those_of_operations_that_pass_the_filter() {
        let filter = Filter {
            comm: Some(b"runc".to_vec()),
            ..Filter::default()
        };
        assert_eq!(uts(&counted(filter.clone(), b"runc")), (1, 1, 5000));
        let report = counted(filter, b"other");
        assert_eq!(uts(&report), (0, 0, 0));
        assert_eq!(report.lives[Kind::Net as usize].found, 0);
    }
}

/// The filters of the tail hold for mount operations, too.
#[test]
fn mount_operations_are_filtered() {
    let umount = mount_op(Call::Umount, 0);
    let other = umount
        .clone()
        .with(|record| record.comm = *b"other\0\0\0\0\0\0\0\0\0\0\0");
    let failed = other.clone().failed(16);
    let counted = |filter: Filter| {
        let mut report = Report::new(filter);
        let known = Known {
            world: &World::default(),
            changes: &[],
            cgroups: &Cgroups::default(),
            facts: &Facts::NONE,
        };
        for built in [&umount, &other, &failed] {
            report.event(&Event::MountOp(built.get()), &known, &mut |_| String::new());
        }
        report.mounts.count()
    };
    assert_eq!(counted(Filter::default()), (3, 1));
    let failed = Filter {
        failed: true,
        ..Filter::default()
    };
    assert_eq!(counted(failed), (1, 1));
    let kinds = Filter {
        kinds: vec![Kind::Net],
        ..Filter::default()
    };
    assert_eq!(counted(kinds), (0, 0));
}
