use std::fmt::Write;

use insta::assert_snapshot;
use nstrace_common::flags::*;
use proptest::prelude::*;

use super::{failed::*, *};
use crate::render::testing::{Built, copy, install, mark, op};

fn shown(built: &Built) -> String {
    let mut out = String::new();
    for stage in stages(&built.get()).iter() {
        let indent = "  ".repeat(stage.depth.into());
        let name = stage.function.name();
        write!(
            out,
            "{indent}{name} at {} for {}",
            stage.start_ns, stage.took_ns
        )
        .unwrap();
        if let Some(errno) = stage.errno {
            write!(out, ", errno {errno}").unwrap();
        }
        out.push('\n');
    }
    out
}

const COPIED: u8 = mark(Mark::CopyNamespacesDone);
const CREATE: u8 = mark(Mark::CreateNewNamespaces);
const USER: u8 = mark(Mark::CreateUserNs);
const USER_DONE: u8 = mark(Mark::CreateUserNsDone);
const ALLOC_PID_DONE: u8 = mark(Mark::AllocPidDone);
const SWITCH: u8 = mark(Mark::Switch);

#[test]
fn a_clone_passes_three_levels() {
    let clone = op(
        Op::Clone,
        CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET,
    )
    .took(1000)
    .marks(&[
        (10, USER),
        (50, USER_DONE),
        (110, CREATE),
        (120, copy(Kind::Mnt)),
        (320, copy(Kind::Pid)),
        (330, copy(Kind::Net)),
        (800, COPIED),
        (870, ALLOC_PID_DONE),
    ]);
    assert_snapshot!(shown(&clone), @"
    create_user_ns at 10 for 40
    copy_namespaces at 110 for 690
      create_new_namespaces at 110 for 690
        copy_mnt_ns at 120 for 200
        copy_pid_ns at 320 for 10
        copy_net_ns at 330 for 470
    alloc_pid at 800 for 70
    ");
    assert_eq!(
        slowest(&clone.get()),
        Some((Function::Copy(Kind::Net), 470))
    );
    assert_eq!(stages(&clone.get()).failed(), None);
}

#[test]
fn an_unshare_passes_two_levels_and_the_switch() {
    let unshare = op(Op::Unshare, CLONE_NEWUTS | CLONE_NEWIPC)
        .took(1000)
        .marks(&[
            (10, CREATE),
            (20, copy(Kind::Uts)),
            (30, copy(Kind::Ipc)),
            (95, SWITCH),
        ]);
    assert_snapshot!(shown(&unshare), @"
    create_new_namespaces at 10 for 85
      copy_utsname at 20 for 10
      copy_ipcs at 30 for 65
    switch_task_namespaces at 95 for 905
    ");
}

#[test]
fn installs_follow_one_another() {
    let setns = op(Op::Setns, CLONE_NEWUSER | CLONE_NEWNET)
        .took(1000)
        .marks(&[
            (10, install(Kind::User)),
            (40, install(Kind::Net)),
            (50, SWITCH),
        ]);
    assert_snapshot!(shown(&setns), @"
    userns_install at 10 for 30
    netns_install at 40 for 10
    switch_task_namespaces at 50 for 950
    ");
}

#[test]
fn copy_namespaces_takes_no_time_for_a_user_namespace() {
    let clone = op(Op::Clone3, CLONE_NEWUSER).took(1000).marks(&[
        (10, USER),
        (50, USER_DONE),
        (100, COPIED),
        (870, ALLOC_PID_DONE),
    ]);
    assert_snapshot!(shown(&clone), @"
    create_user_ns at 10 for 40
    copy_namespaces at 100 for 0
    alloc_pid at 100 for 770
    ");
}

// v5.19 ipc/namespace.c: create_ipc_ns flushes its work and charges again.
#[test]
fn a_second_charge_is_the_same_stage() {
    let unshare = op(Op::Unshare, CLONE_NEWIPC).took(100).marks(&[
        (10, CREATE),
        (20, copy(Kind::Ipc)),
        (30, copy(Kind::Ipc)),
        (40, copy(Kind::Ipc)),
        (90, SWITCH),
    ]);
    assert_snapshot!(shown(&unshare), @"
    create_new_namespaces at 10 for 80
      copy_ipcs at 20 for 70
    switch_task_namespaces at 90 for 10
    ");
}

// v7.2 fs/namespace.c: create_new_namespace charges, but is not copy_mnt_ns.
#[test]
fn a_namespace_from_a_descriptor_has_no_stages() {
    let open_tree = op(Op::OpenTree, 0).marks(&[(10, copy(Kind::Mnt))]);
    assert_snapshot!(shown(&open_tree), @"");
    assert_eq!(failed(&open_tree.failed(28).get()), None);
}

#[test]
fn a_stage_that_failed_before_its_mark_is_there() {
    let clone = op(Op::Clone, CLONE_NEWUTS | CLONE_NEWPID | CLONE_NEWNET)
        .took(1000)
        .marks(&[(110, CREATE), (120, copy(Kind::Uts)), (130, COPIED)])
        .failed(22)
        .in_create();
    assert_snapshot!(shown(&clone), @"
    copy_namespaces at 110 for 20
      create_new_namespaces at 110 for 20
        copy_utsname at 120 for 10
        copy_pid_ns at 130 for 0, errno 22
    ");
}

#[test]
fn marks_that_make_no_sense_do_no_harm() {
    let all: Vec<(u64, u8)> = (0..=255).map(|mark| (u64::MAX >> 8, mark)).collect();
    for chunk in all.chunks(MARKS) {
        for op in Op::ALL.map(|called| op(called, u64::MAX).marks(chunk).took(0)) {
            let _ = (stages(&op.get()), in_stage(&op.get()));
            let _ = stages(&op.failed(22).in_create().get());
        }
    }
    let mut entries = [(1, USER), (0, SWITCH)].repeat(MARKS / 2);
    entries[0] = (0, CREATE);
    let most = op(Op::Clone, CLONE_NEWPID)
        .marks(&entries)
        .failed(22)
        .in_create();
    assert_eq!(
        stages(&most.get()).failed().unwrap().function,
        Function::Copy(Kind::Pid)
    );
    assert!(stages(&most.get()).len() <= STAGES);
}

#[test]
fn an_operation_in_flight_is_in_its_last_stage() {
    for (marks, expected) in [
        (&[][..], None),
        (&[(10, USER)], Some((Function::CreateUserNs, 10))),
        (&[(10, USER), (20, USER_DONE)], None),
        (&[(11, CREATE)], Some((Function::CreateNewNamespaces, 11))),
        (&[(11, CREATE), (90, COPIED)], None),
        (
            &[(11, CREATE), (12, copy(Kind::Net))],
            Some((Function::Copy(Kind::Net), 12)),
        ),
        (&[(11, CREATE), (12, copy(Kind::Net)), (90, COPIED)], None),
        (&[(91, ALLOC_PID_DONE)], None),
        (
            &[(1, install(Kind::Mnt))],
            Some((Function::Install(Kind::Mnt), 1)),
        ),
        (
            &[(1, install(Kind::Mnt)), (2, SWITCH)],
            Some((Function::Switch, 2)),
        ),
    ] {
        // Nothing but the marks is written yet.
        let built = op(Op::Clone, CLONE_NEWNET).marks(marks).with(|record| {
            record.ret = -22;
            record.head.time = 0;
        });
        assert_eq!(in_stage(&built.get()), expected, "{marks:?}");
    }
}

/// What was called, with which flags, how far it came, which function with an exit
/// mark gave the error back, the errno, what failed.
type Row<'a> = (Op, u64, &'a [u8], Gave, i32, Option<Function>);

/// Which function gave the error back.
#[derive(Clone, Copy, Debug)]
enum Gave {
    None,
    User,
    Create,
    Pid,
}

/// One row for each rule of the kernel.
#[test]
#[rustfmt::skip]
fn the_failed_stage_follows_from_marks_and_errno() {
    use Function::*;
    const MNT_PID: u64 = CLONE_NEWNS | CLONE_NEWPID;
    const IPC_CGROUP: u64 = CLONE_NEWIPC | CLONE_NEWCGROUP;
    let rows: &[Row] = &[
        // The checks of copy_process and ksys_unshare.
        (Op::Clone, CLONE_NEWNS | CLONE_FS, &[], Gave::None, EINVAL, None),
        (Op::Unshare, CLONE_NEWUSER, &[], Gave::None, EINVAL, None),
        (Op::Unshare, CLONE_NEWNET, &[], Gave::None, EPERM, None),
        (Op::Fork, 0, &[], Gave::None, ENOMEM, None),
        // create_user_ns, and the limits of tasks behind it.
        (Op::Clone, CLONE_NEWUSER, &[USER, USER_DONE], Gave::User, ENOSPC, Some(CreateUserNs)),
        (Op::Clone, CLONE_NEWUSER, &[USER, USER_DONE], Gave::User, EPERM, Some(CreateUserNs)),
        (Op::Clone, CLONE_NEWUSER, &[USER, USER_DONE], Gave::None, EAGAIN, None),
        (Op::Clone, CLONE_NEWUSER, &[USER, USER_DONE], Gave::None, EINTR, None),
        (Op::Unshare, CLONE_NEWUSER, &[USER, USER_DONE], Gave::User, EPERM, Some(CreateUserNs)),
        (Op::Unshare, CLONE_NEWUSER | CLONE_NEWNET, &[USER, USER_DONE], Gave::User, ENOSPC, Some(CreateUserNs)),
        // …or unshare_nsproxy_namespaces.
        (Op::Unshare, CLONE_NEWUSER | CLONE_NEWNET, &[USER, USER_DONE], Gave::None, EPERM, None),
        // copy_namespaces.
        (Op::Clone, CLONE_NEWNET, &[COPIED], Gave::Create, EPERM, Some(CopyNamespaces)),
        (Op::Clone, CLONE_NEWIPC | CLONE_SYSVSEM, &[COPIED], Gave::Create, EINVAL, Some(CopyNamespaces)),
        (Op::Clone, CLONE_NEWUSER, &[USER, USER_DONE, COPIED], Gave::None, ENOMEM, None),
        // set_cred_ucounts, behind create_new_namespaces.
        (Op::Unshare, CLONE_NEWUSER | CLONE_NEWNET, &[USER, USER_DONE, CREATE, copy(Kind::Net)], Gave::None, EAGAIN, None),
        // create_new_namespaces: its own allocation, and the last one marked.
        (Op::Unshare, CLONE_NEWNET, &[CREATE], Gave::None, ENOMEM, Some(CreateNewNamespaces)),
        (Op::Unshare, MNT_PID, &[CREATE, copy(Kind::Mnt)], Gave::None, ENOMEM, Some(Copy(Kind::Mnt))),
        (Op::Unshare, MNT_PID, &[CREATE, copy(Kind::Mnt)], Gave::None, ENOSPC, Some(Copy(Kind::Mnt))),
        (Op::Clone, CLONE_NEWNET, &[CREATE, copy(Kind::Net), COPIED], Gave::Create, EINTR, Some(Copy(Kind::Net))),
        (Op::Clone, CLONE_NEWTIME, &[CREATE, copy(Kind::Time), COPIED], Gave::Create, ENOSPC, Some(Copy(Kind::Time))),
        // copy_pid_ns before its mark.
        (Op::Unshare, MNT_PID, &[CREATE, copy(Kind::Mnt)], Gave::None, EINVAL, Some(Copy(Kind::Pid))),
        (Op::Unshare, CLONE_NEWPID, &[CREATE], Gave::None, EINVAL, Some(Copy(Kind::Pid))),
        (Op::Unshare, CLONE_NEWPID, &[CREATE, copy(Kind::Pid)], Gave::None, ENOSPC, Some(Copy(Kind::Pid))),
        // Kinds that come after pid do not stand in the way.
        (Op::Unshare, CLONE_NEWPID | CLONE_NEWNET, &[CREATE], Gave::None, EINVAL, Some(Copy(Kind::Pid))),
        (Op::Unshare, CLONE_NEWPID | CLONE_NEWNET, &[CREATE, copy(Kind::Pid), copy(Kind::Net)], Gave::None, EINVAL, Some(Copy(Kind::Net))),
        // copy_cgroup_ns before its mark.
        (Op::Unshare, IPC_CGROUP, &[CREATE, copy(Kind::Ipc)], Gave::None, EPERM, Some(Copy(Kind::Cgroup))),
        (Op::Unshare, IPC_CGROUP, &[CREATE, copy(Kind::Ipc), copy(Kind::Cgroup)], Gave::None, ENOSPC, Some(Copy(Kind::Cgroup))),
        // alloc_pid, and what comes behind it.
        (Op::Clone3, CLONE_NEWPID, &[CREATE, copy(Kind::Pid), COPIED, ALLOC_PID_DONE], Gave::Pid, EEXIST, Some(AllocPid)),
        (Op::Clone, CLONE_NEWPID, &[CREATE, copy(Kind::Pid), COPIED, ALLOC_PID_DONE], Gave::Pid, EAGAIN, Some(AllocPid)),
        (Op::Clone, CLONE_NEWPID, &[CREATE, copy(Kind::Pid), COPIED, ALLOC_PID_DONE], Gave::None, EAGAIN, None),
        (Op::Clone, CLONE_NEWPID, &[CREATE, copy(Kind::Pid), COPIED, ALLOC_PID_DONE], Gave::None, EINTR, None),
        (Op::Clone, CLONE_NEWUTS, &[CREATE, copy(Kind::Uts), COPIED, ALLOC_PID_DONE], Gave::None, ENOMEM, None),
        // setns: before an install, and the last one.
        (Op::Setns, CLONE_NEWNET, &[], Gave::None, EBADF, None),
        (Op::Setns, CLONE_NEWNET, &[install(Kind::Net)], Gave::None, EPERM, Some(Install(Kind::Net))),
        (Op::Setns, CLONE_NEWUSER | CLONE_NEWPID, &[install(Kind::User), install(Kind::Pid)], Gave::None, EINVAL, Some(Install(Kind::Pid))),
    ];
    for (called, flags, marks, gave, errno, expected) in rows {
        let marks: Vec<(u64, u8)> = marks.iter().map(|mark| (1, *mark)).collect();
        let built = op(*called, *flags).marks(&marks).failed(*errno);
        let built = match gave {
            Gave::None => built,
            Gave::User => built.in_user(),
            Gave::Create => built.in_create(),
            Gave::Pid => built.in_alloc_pid(),
        };
        let failed = failed(&built.get());
        assert_eq!(failed, *expected, "{called:?} {flags:#x} {marks:?} {errno}");
        let stages = stages(&built.get());
        assert_eq!(stages.failed().map(|stage| stage.function), *expected);
        let with_errno = stages.iter().filter(|stage| stage.errno.is_some()).count();
        assert_eq!(with_errno, usize::from(expected.is_some()));
    }
}

#[test]
fn a_depth_decides_where_marks_and_errno_do_not() {
    let deep = op(Op::Unshare, CLONE_NEWUTS | CLONE_NEWPID)
        .marks(&[(1, CREATE), (2, copy(Kind::Uts))])
        .failed(ENOSPC)
        .in_create();
    assert_eq!(failed(&deep.get()), Some(Function::Copy(Kind::Uts)));
    let deep = deep.found(|fail| fail.pid_level = 32);
    assert_eq!(failed(&deep.get()), Some(Function::Copy(Kind::Pid)));
}

const EINTR: i32 = 4;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EEXIST: i32 = 17;

proptest! {
    #[test]
    fn the_slowest_is_the_longest_leaf(
        op in prop::sample::select(&Op::ALL[..]),
        flags in prop::sample::select(vec![0, CLONE_NEWUSER, CLONE_NEWUTS]),
        passed in prop::collection::vec((0u64..1_000, 0u8..44), 0..=MARKS),
    ) {
        let mut at = 0;
        let marks: Vec<_> = passed.iter().map(|(later, mark)| {
            at += later;
            (at, *mark)
        }).collect();
        let built = self::op(op, flags).took(at + 10).marks(&marks);
        let stages = stages(&built.get());
        let is_leaf = |at: &usize| stages.get(at + 1).is_none_or(|next| next.depth <= stages[*at].depth);
        let longest = (0..stages.len()).filter(is_leaf).max_by_key(|at| stages[*at].took_ns);
        let longest = longest.map(|at| (stages[at].function, stages[at].took_ns));
        prop_assert_eq!(slowest(&built.get()), longest);
    }

    #[test]
    fn lengths_are_those_of_the_list(
        op in prop::sample::select(&Op::ALL[..]),
        flags in prop::sample::select(vec![0, CLONE_NEWUSER, CLONE_NEWUTS]),
        passed in prop::collection::vec((0u64..1_000, 0u8..44), 0..=MARKS),
        fails in any::<bool>(),
    ) {
        let mut at = 0;
        let marks: Vec<_> = passed.iter().map(|(later, mark)| {
            at += later;
            (at, *mark)
        }).collect();
        let mut built = self::op(op, flags).took(at + 10).marks(&marks);
        if fails {
            built = built.failed(EPERM).in_create();
        }
        let list = stages(&built.get());
        let mut expected: Vec<_> =
            list.iter().map(|stage| (stage.function, stage.took_ns)).collect();
        let mut found = Vec::new();
        lengths(&built.get(), |place, took_ns| found.push((Function::ALL[place], took_ns)));
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, expected);
    }
}
