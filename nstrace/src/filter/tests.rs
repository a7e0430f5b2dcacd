use nstrace_common::{flags::*, wire::RecordKind};

use super::*;
use crate::{
    event::{Lost, Now},
    render::testing::{Built, install, op, task},
};

fn cgroups() -> Cgroups {
    let mut cgroups = Cgroups::default();
    cgroups.learn(7, b"/demo");
    cgroups
}

fn passes(filter: &Filter, built: &Built) -> bool {
    filter.matches(&Event::Op(built.get()), &cgroups())
}

#[test]
fn without_a_filter_everything_passes() {
    let none = Filter::default();
    assert!(!none.is_set());
    assert!(passes(&none, &op(Op::Setns, 0)));
    let born = task(5, 5, b"init");
    assert!(none.matches(&Event::TaskNew(born.get()), &cgroups()));
}

#[test]
fn kinds_are_those_asked_for_or_entered() {
    let net = Filter {
        kinds: vec![Kind::Net],
        ..Filter::default()
    };
    assert!(passes(&net, &op(Op::Clone, CLONE_NEWNET | CLONE_NEWPID)));
    assert!(!passes(&net, &op(Op::Clone, CLONE_NEWPID)));
    assert!(passes(
        &net,
        &op(Op::Setns, 0).marks(&[(1, install(Kind::Net))])
    ));
    assert!(!passes(
        &net,
        &op(Op::Setns, 0).marks(&[(1, install(Kind::Pid))])
    ));
    assert!(!passes(&net, &op(Op::OpenTree, 0)));
    let pid = Filter {
        kinds: vec![Kind::Pid],
        ..Filter::default()
    };
    assert!(passes(&pid, &op(Op::Fork, 0).failed(12)));
    assert!(!passes(&pid, &op(Op::Clone, CLONE_NEWNET)));
    let born = task(5, 5, b"init");
    assert!(pid.matches(&Event::TaskNew(born.get()), &cgroups()));
    assert!(!net.matches(&Event::TaskNew(born.get()), &cgroups()));
}

#[test]
fn who_it_was_counts() {
    let row = |filter: Filter, expected: bool| {
        let built = op(Op::Unshare, CLONE_NEWNET)
            .comm(b"0123456789abcde")
            .with(|record| record.cgroup = 7);
        assert_eq!(passes(&filter, &built), expected, "{filter:?}");
    };
    let comm = |name: &[u8]| Filter {
        comm: Some(name.to_vec()),
        ..Filter::default()
    };
    let container = |id: &str| Filter {
        container: Some(id.to_owned()),
        ..Filter::default()
    };
    row(comm(b"0123456789abcde"), true);
    row(comm(b"0123456789abcdef, which the kernel cuts"), true);
    row(comm(b"0123456789"), false);
    row(container("de"), true);
    row(container("demo2"), false);
    row(
        Filter {
            pid: Some(4242),
            ..Filter::default()
        },
        true,
    );
    row(
        Filter {
            pid: Some(1),
            ..Filter::default()
        },
        false,
    );
    row(
        Filter {
            ops: vec![Op::Unshare],
            ..Filter::default()
        },
        true,
    );
    row(
        Filter {
            ops: vec![Op::Clone],
            ..Filter::default()
        },
        false,
    );
}

#[test]
fn length_and_failure_are_about_operations() {
    let slow = Filter {
        slower_than_ns: Some(1_000_000),
        ..Filter::default()
    };
    assert!(passes(&slow, &op(Op::Setns, 0).took(1_000_000)));
    assert!(!passes(&slow, &op(Op::Setns, 0).took(999_999)));
    let failed = Filter {
        failed: true,
        ..Filter::default()
    };
    assert!(passes(&failed, &op(Op::Setns, 0).failed(1)));
    assert!(!passes(&failed, &op(Op::Setns, 0)));
    let built = op(Op::Setns, 0);
    let stall = Event::Stall(
        built.get(),
        Now {
            time: built.record.start + 1_000_000,
        },
    );
    assert!(slow.matches(&stall, &cgroups()));
    assert!(!failed.matches(&stall, &cgroups()));
    let born = task(5, 5, b"init");
    for filter in [&slow, &failed] {
        assert!(!filter.matches(&Event::TaskExit(born.get()), &cgroups()));
    }
}

#[test]
fn a_birth_has_a_maker_and_a_death_has_none() {
    let life = Life {
        time: 0,
        kind: Some(Kind::Net),
        inum: 1,
        id: 0,
        pid: 4242,
        tid: 4242,
        address: None,
        age: None,
        past: Default::default(),
    };
    let mine = Filter {
        pid: Some(4242),
        ..Filter::default()
    };
    assert!(mine.matches(&Event::Birth(life), &cgroups()));
    assert!(!mine.matches(&Event::Death(life), &cgroups()));
    let net = Filter {
        kinds: vec![Kind::Net],
        ..Filter::default()
    };
    assert!(net.matches(&Event::Death(life), &cgroups()));
    assert!(!net.matches(&Event::Death(Life { kind: None, ..life }), &cgroups()));
}

#[test]
fn a_loss_passes_every_filter() {
    let lost = Event::Lost(Lost {
        time: 0,
        since: 0,
        record: RecordKind::Op,
        count: 1,
    });
    let narrow = Filter {
        kinds: vec![Kind::Time],
        ops: vec![Op::Vfork],
        calls: Vec::new(),
        pid: Some(1),
        comm: Some(b"x".to_vec()),
        container: Some("x".to_owned()),
        named: Vec::new(),
        failed: true,
        slower_than_ns: Some(u64::MAX),
    };
    assert!(narrow.matches(&lost, &cgroups()));
}
