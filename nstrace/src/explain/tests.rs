use nstrace_common::{flags::*, wire::Mark};

use super::*;
use crate::render::testing::{Built, FIRST, copy, install, mark, op};

const USER: u8 = mark(Mark::CreateUserNs);
const CREATE: u8 = mark(Mark::CreateNewNamespaces);
const COPIED: u8 = mark(Mark::CopyNamespacesDone);
const USER_DONE: u8 = mark(Mark::CreateUserNsDone);
const ALLOC_PID_DONE: u8 = mark(Mark::AllocPidDone);
const NO_ADMIN: u64 = 0x1ff_ffff_ffff & !(1 << 21);
/// A user namespace that is not the first.
const OTHER: u32 = 4_026_532_500;

fn failed(called: Op, flags: u64, marks: &[u8], errno: i32) -> Built {
    let marks: Vec<(u64, u8)> = marks.iter().map(|mark| (1, *mark)).collect();
    let built = op(called, flags).marks(&marks).failed(errno);
    // What was entered last is what failed.
    let is_copy = |mark: &u8| [CREATE, COPIED].contains(mark) || (16..24).contains(mark);
    match marks.last().map(|(_, mark)| *mark) {
        Some(USER) => built.in_user(),
        Some(mark) if is_copy(&mark) => built.in_create(),
        _ => built,
    }
}

fn said(built: &Built, facts: &Facts) -> String {
    explain(&built.get(), facts).map_or_else(String::new, |reason| reason.to_string())
}

/// Each row: what failed, and what is said of it; an empty string where the kernel
/// could have had another reason.
fn check(rows: &[(Built, &str)]) {
    for (i, (built, expected)) in rows.iter().enumerate() {
        assert_eq!(said(built, &Facts::NONE), *expected, "row {i}");
    }
}

#[test]
fn what_succeeds_has_no_reason() {
    assert_eq!(said(&op(Op::Unshare, CLONE_NEWNET), &Facts::NONE), "");
}

/// kernel/fork.c, copy_process.
#[test]
fn flags_of_clone_that_exclude_each_other() {
    let clone = |flags| failed(Op::Clone, flags, &[], EINVAL);
    check(&[
        (
            clone(CLONE_NEWNS | CLONE_FS),
            "CLONE_NEWNS and CLONE_FS exclude each other",
        ),
        (
            clone(CLONE_NEWUSER | CLONE_FS),
            "CLONE_NEWUSER and CLONE_FS exclude each other",
        ),
        // Both: the first that the kernel checks.
        (
            clone(CLONE_NEWUSER | CLONE_NEWNS | CLONE_FS),
            "CLONE_NEWNS and CLONE_FS exclude each other",
        ),
        (
            clone(CLONE_NEWPID | CLONE_THREAD),
            "CLONE_THREAD needs CLONE_SIGHAND",
        ),
        (
            clone(CLONE_NEWPID | CLONE_THREAD | CLONE_SIGHAND),
            "CLONE_SIGHAND needs CLONE_VM",
        ),
        (
            clone(CLONE_NEWPID | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM),
            "CLONE_NEWPID and CLONE_THREAD exclude each other",
        ),
        (
            clone(CLONE_NEWUSER | CLONE_NEWPID | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM),
            "CLONE_NEWUSER and CLONE_THREAD exclude each other",
        ),
        (
            clone(CLONE_NEWNET | CLONE_PIDFD | CLONE_PARENT_SETTID),
            "CLONE_PIDFD and CLONE_PARENT_SETTID exclude each other",
        ),
        // clone3 has a place for each; it fails only if they are the same.
        (
            failed(
                Op::Clone3,
                CLONE_NEWNET | CLONE_PIDFD | CLONE_PARENT_SETTID,
                &[],
                EINVAL,
            ),
            "",
        ),
        (
            failed(Op::Clone3, CLONE_EMPTY_MNTNS | CLONE_FS, &[], EINVAL),
            "CLONE_NEWNS and CLONE_FS exclude each other",
        ),
        // CLONE_PARENT of an init, a bad signal, …
        (clone(CLONE_NEWPID | CLONE_PARENT), ""),
        (
            failed(Op::Clone, CLONE_NEWIPC | CLONE_SYSVSEM, &[COPIED], EINVAL),
            "CLONE_NEWIPC and CLONE_SYSVSEM exclude each other",
        ),
        (
            failed(Op::Clone, CLONE_NEWNET, &[], ERESTARTNOINTR),
            "a signal came first; the call begins again by itself",
        ),
    ]);
}

/// kernel/nsproxy.c, copy_namespaces and unshare_nsproxy_namespaces.
#[test]
fn namespaces_need_a_capability() {
    let unable = |built: Built| built.found(|fail| fail.cap_effective = NO_ADMIN);
    let clone = |flags| failed(Op::Clone, flags, &[COPIED], EPERM);
    let unshare = |flags| failed(Op::Unshare, flags, &[], EPERM);
    let said = "no CAP_SYS_ADMIN in user:4026531837";
    check(&[
        (unable(clone(CLONE_NEWNET)), said),
        (unable(unshare(CLONE_NEWNET)), said),
        // A security module took it.
        (clone(CLONE_NEWNET), ""),
        (unshare(CLONE_NEWNET), ""),
        (
            clone(CLONE_NEWUSER | CLONE_NEWNET),
            "a security module withholds CAP_SYS_ADMIN in the new user namespace",
        ),
        (
            failed(
                Op::Unshare,
                CLONE_NEWUSER | CLONE_NEWNET,
                &[USER, USER_DONE],
                EPERM,
            ),
            "a security module withholds CAP_SYS_ADMIN in the new user namespace",
        ),
        // The capability is checked before the flags of System V.
        (unable(clone(CLONE_NEWIPC | CLONE_SYSVSEM)), said),
    ]);
}

#[test]
fn unprivileged_user_namespaces_can_be_forbidden() {
    let facts = Facts {
        unprivileged_userns_clone: Some(0),
        ..Facts::NONE
    };
    // It may have been set anew since.
    let allowed_by_now = Facts {
        unprivileged_userns_clone: Some(1),
        ..Facts::NONE
    };
    let reason = "kernel.unprivileged_userns_clone was 0, and no CAP_SYS_ADMIN in the first user \
                  namespace";
    for called in [Op::Clone, Op::Unshare] {
        let able = failed(called, CLONE_NEWUSER, &[], EPERM);
        let unable = able.clone().found(|fail| fail.cap_effective = NO_ADMIN);
        // Its own namespace's capabilities do not count.
        let inside = able.clone().found(|fail| fail.user_level = 1);
        assert_eq!(said(&unable, &facts), reason);
        assert_eq!(said(&inside, &facts), reason);
        assert_eq!(said(&able, &facts), "");
        assert_eq!(said(&unable, &allowed_by_now), reason);
        assert_eq!(said(&unable, &Facts::NONE), "");
    }
}

/// kernel/fork.c, check_unshare_flags.
#[test]
fn unshare_wants_one_thread_and_known_flags() {
    let threads = |flags| failed(Op::Unshare, flags, &[], EINVAL).found(|fail| fail.threads = 3);
    let user = "CLONE_NEWUSER needs a process of one thread; this one has 3";
    check(&[
        (threads(CLONE_NEWUSER), user),
        (threads(CLONE_NEWUSER | CLONE_NEWNET), user),
        (threads(CLONE_NEWNET), ""),
        (
            threads(CLONE_NEWNET | CLONE_VM),
            "CLONE_THREAD needs a process of one thread; this one has 3",
        ),
        (failed(Op::Unshare, CLONE_NEWUSER, &[], EINVAL), ""),
        (
            threads(CLONE_NEWUSER | 0x4000),
            "unshare has no flag 0x4000",
        ),
        // From v7.1 it is a flag.
        (threads(CLONE_NEWUSER | UNSHARE_EMPTY_MNTNS), ""),
    ]);
}

/// kernel/user_namespace.c, create_user_ns, in its order.
#[test]
fn user_namespaces_are_refused_in_order() {
    for called in [Op::Clone, Op::Unshare] {
        let user = |errno| failed(called, CLONE_NEWUSER, &[USER], errno);
        let full = |built: Built| {
            built.found(|fail| {
                fail.limit_ns = FIRST[Kind::User as usize];
                fail.limit_max = 10;
                fail.limit_kind = Kind::User as u32;
            })
        };
        check(&[
            (
                full(user(ENOSPC)),
                "user.max_user_namespaces is 10 in user:4026531837",
            ),
            (
                full(user(ENOSPC).found(|fail| fail.user_level = 33)),
                "user:4026531837 is at level 33, beyond the limit of 32 nested user namespaces",
            ),
            (
                full(user(ENOSPC).found(|fail| fail.user_level = 32)),
                "user.max_user_namespaces is 10 in user:4026531837",
            ),
            (user(ENOSPC), ""),
            (
                user(EPERM).found(|fail| {
                    fail.bits = FAIL_CHROOTED;
                    fail.uid_extents = 0;
                    fail.lsm_ret = -EPERM;
                }),
                "the caller is in a chroot",
            ),
            (
                user(EPERM).found(|fail| {
                    fail.uid_extents = 0;
                    fail.lsm_ret = -EPERM;
                }),
                "user:4026531837 has no uid_map yet",
            ),
            (
                user(EPERM).found(|fail| fail.gid_extents = 0),
                "user:4026531837 has no gid_map yet",
            ),
            (
                user(EPERM).found(|fail| fail.lsm_ret = -EPERM),
                "a security module refused the user namespace",
            ),
            // An unmapped gid, for one.
            (user(EPERM), ""),
            // What the module gave is not what came out.
            (user(ENOMEM).found(|fail| fail.lsm_ret = -EPERM), ""),
        ]);
    }
}

#[test]
fn a_security_module_is_named_as_far_as_it_is_known() {
    let refused = failed(Op::Unshare, CLONE_NEWUSER, &[USER], EPERM);
    let refused = refused.found(|fail| fail.lsm_ret = -EPERM);
    let lsm = Facts {
        lsm: Some("lockdown,yama,\x1b[2J\n".to_owned()),
        ..Facts::NONE
    };
    let apparmor = Facts {
        apparmor_restrict_userns: Some(1),
        ..lsm.clone()
    };
    assert_eq!(
        said(&refused, &lsm),
        r"a security module refused the user namespace (active: lockdown,yama,\x1b[2J)",
    );
    assert_eq!(
        said(&refused, &apparmor),
        "a security module refused the user namespace \
         (kernel.apparmor_restrict_unprivileged_userns is 1)",
    );
}

/// kernel/ucount.c, inc_ucount; kernel/pid_namespace.c.
#[test]
fn limits_of_namespaces_are_named() {
    let limit = |kind: Kind, max: u64, built: Built| {
        built.found(|fail| {
            fail.limit_ns = OTHER;
            fail.limit_max = max;
            fail.limit_kind = kind as u32;
        })
    };
    let names = ["mnt", "uts", "ipc", "pid", "net", "user", "cgroup", "time"];
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::User) {
        let built = failed(Op::Unshare, kind.flag(), &[CREATE, copy(kind)], ENOSPC);
        let name = names[kind as usize];
        let expected = format!("user.max_{name}_namespaces is 3 in user:{OTHER}");
        check(&[
            (limit(kind, 3, built.clone()), &expected),
            // No count comes up to what a user namespace begins with.
            (limit(kind, i32::MAX as u64, built.clone()), ""),
            (built, ""),
        ]);
    }
    let net = failed(
        Op::Clone,
        CLONE_NEWNET,
        &[CREATE, copy(Kind::Net), COPIED],
        ENOSPC,
    );
    let deep = failed(
        Op::Unshare,
        CLONE_NEWUTS | CLONE_NEWPID,
        &[CREATE, copy(Kind::Uts)],
        ENOSPC,
    );
    let deep = deep.found(|fail| fail.pid_level = 32);
    check(&[
        (
            limit(Kind::Net, 0, net.clone()),
            "user.max_net_namespaces is 0 in user:4026532500",
        ),
        // The limit that was found is not that of the stage that failed.
        (limit(Kind::Uts, 3, net.clone()), ""),
        (
            limit(Kind::Uts, 1000, deep),
            "pid:4026531836 is at level 32, the deepest of pid namespaces",
        ),
        (
            limit(
                Kind::Mnt,
                5,
                failed(Op::OpenTree, 0, &[copy(Kind::Mnt)], ENOSPC),
            ),
            "user.max_mnt_namespaces is 5 in user:4026532500",
        ),
    ]);
}

/// kernel/pid_namespace.c, copy_pid_ns; net/core/net_namespace.c, copy_net_ns.
#[test]
fn copy_functions_have_reasons_of_their_own() {
    check(&[
        (
            failed(Op::Unshare, CLONE_NEWPID, &[CREATE], EINVAL),
            "the owner of pid:4026531836 is not above the caller's user namespace",
        ),
        (
            failed(Op::Unshare, CLONE_NEWPID, &[CREATE], EINVAL).found(|fail| fail.pid_active = 77),
            "its children go to pid:4026531836 already, not to its own pid:77",
        ),
        (
            failed(Op::Unshare, CLONE_NEWPID, &[CREATE], EINVAL).found(|fail| fail.pid_active = 0),
            "",
        ),
        (
            failed(
                Op::Clone,
                CLONE_NEWNET,
                &[CREATE, copy(Kind::Net), COPIED],
                EINTR,
            ),
            "the caller is being killed",
        ),
        (
            failed(
                Op::Unshare,
                CLONE_NEWNET,
                &[CREATE, copy(Kind::Net)],
                ENOMEM,
            ),
            "",
        ),
    ]);
}

/// kernel/pid.c, alloc_pid, and kernel/fork.c behind it.
#[test]
fn a_task_can_fail_where_its_namespaces_do_not() {
    let dead = |built: Built| built.found(|fail| fail.bits = FAIL_PID_NS_DEAD);
    let clone = |errno| failed(Op::Clone, CLONE_NEWUTS, &[ALLOC_PID_DONE], errno).in_alloc_pid();
    let later = |errno| failed(Op::Clone, CLONE_NEWUTS, &[ALLOC_PID_DONE], errno);
    let dead_said = "the init of pid:4026531836 is dead";
    check(&[
        (dead(failed(Op::Fork, 0, &[], ENOMEM)), dead_said),
        (dead(failed(Op::Clone, 0, &[], ENOMEM)), dead_said),
        (failed(Op::Fork, 0, &[], ENOMEM), ""),
        (dead(clone(ENOMEM)), dead_said),
        (clone(ENOMEM), ""),
        (later(EINTR), "the caller is being killed"),
        (clone(EAGAIN), "no process id is left below kernel.pid_max"),
        (
            clone(EPERM),
            "to choose a process id needs CAP_CHECKPOINT_RESTORE",
        ),
        (clone(EEXIST), "the process id that was asked for is in use"),
        (later(EAGAIN), ""),
        // RLIMIT_NPROC or threads-max: which, cannot be seen.
        (
            failed(Op::Clone, CLONE_NEWUSER, &[USER, USER_DONE], EAGAIN),
            "",
        ),
    ]);
}

#[test]
fn a_full_pids_cgroup_is_named_where_it_can_have_refused() {
    let facts = Facts {
        pids: Some(PidsLimit {
            cgroup: "/a\x1b".to_owned(),
            max: Some(10),
        }),
        ..Facts::NONE
    };
    let reason = r"pids.max is 10 in /a\x1b";
    assert_eq!(
        said(
            &failed(Op::Clone, CLONE_NEWUTS, &[ALLOC_PID_DONE], EAGAIN),
            &facts
        ),
        reason
    );
    assert_eq!(said(&failed(Op::Fork, 0, &[], EAGAIN), &facts), reason);
    // It came not so far.
    assert_eq!(
        said(
            &failed(Op::Clone, CLONE_NEWUSER, &[USER, USER_DONE], EAGAIN),
            &facts
        ),
        ""
    );
}

/// kernel/nsproxy.c, setns.
#[test]
fn a_descriptor_can_be_the_wrong_one() {
    let setns = |flags, errno| failed(Op::Setns, flags, &[], errno);
    check(&[
        (
            setns(0, EBADF),
            "the descriptor is not open, or open with O_PATH only",
        ),
        (setns(0, EINVAL), "the descriptor is not of a namespace"),
        (
            setns(CLONE_NEWNET, EINVAL),
            "the descriptor is neither of a net namespace nor a pidfd",
        ),
        (
            setns(CLONE_NEWNET | CLONE_NEWPID, EINVAL),
            "several kinds at once need a pidfd",
        ),
        (
            setns(CLONE_NEWNET | CLONE_FS, EINVAL),
            "setns has no flag 0x200",
        ),
        (
            setns(CLONE_NEWNET, ESRCH),
            "the process of the pidfd is gone",
        ),
        (
            setns(CLONE_NEWNET, EPERM),
            "the caller may not trace the process of the pidfd",
        ),
        (setns(CLONE_NEWNET, ENOMEM), ""),
    ]);
}

/// kernel/user_namespace.c, userns_install, in its order.
#[test]
fn a_user_namespace_is_entered_by_one_thread_from_outside() {
    let setns = |errno, target| {
        failed(Op::Setns, CLONE_NEWUSER, &[install(Kind::User)], errno)
            .with(|record| record.target = target)
    };
    let own = FIRST[Kind::User as usize];
    check(&[
        (
            setns(EINVAL, own).found(|fail| fail.threads = 2),
            "user:4026531837 is the caller's own already",
        ),
        (
            setns(EINVAL, OTHER).found(|fail| {
                fail.threads = 2;
                fail.fs_users = 2;
            }),
            "a user namespace needs a process of one thread; this one has 2",
        ),
        (
            setns(EINVAL, OTHER).found(|fail| fail.fs_users = 2),
            "user needs a root and working directory of one's own; 2 tasks share it",
        ),
        (setns(EINVAL, OTHER), ""),
        (
            setns(EPERM, OTHER).found(|fail| fail.cap_effective = NO_ADMIN),
            "no CAP_SYS_ADMIN in user:4026532500",
        ),
        (
            setns(EPERM, OTHER).found(|fail| fail.user_level = 1),
            "CAP_SYS_ADMIN in user:4026531837 only, not in user:4026532500, the owner",
        ),
        (setns(EPERM, OTHER), ""),
    ]);
}

/// The eight `*_install`.
#[test]
fn a_namespace_is_entered_with_rights_over_its_owner() {
    let own = FIRST[Kind::User as usize];
    let setns = |kind: Kind, errno, owner| {
        failed(Op::Setns, kind.flag(), &[install(kind)], errno)
            .with(|record| record.target = 77)
            .found(|fail| fail.target_owner = owner)
    };
    let kinds = [
        Kind::Mnt,
        Kind::Uts,
        Kind::Ipc,
        Kind::Pid,
        Kind::Net,
        Kind::Cgroup,
        Kind::Time,
    ];
    for kind in kinds {
        check(&[
            (
                setns(kind, EPERM, OTHER).found(|fail| fail.cap_effective = NO_ADMIN),
                "no CAP_SYS_ADMIN in user:4026531837",
            ),
            (
                setns(kind, EPERM, OTHER).found(|fail| fail.user_level = 1),
                "CAP_SYS_ADMIN in user:4026531837 only, not in user:4026532500, the owner",
            ),
            // A security module.
            (setns(kind, EPERM, OTHER), ""),
            (
                setns(kind, EPERM, own).found(|fail| fail.user_level = 1),
                "",
            ),
        ]);
    }
    let no_chroot = |fail: &mut FailRecord| fail.cap_effective &= !(1 << 18);
    let both = [install(Kind::User), install(Kind::Net)];
    check(&[
        (
            setns(Kind::Mnt, EPERM, own).found(no_chroot),
            "no CAP_SYS_CHROOT in user:4026531837",
        ),
        // Either may have refused.
        (
            setns(Kind::Mnt, EPERM, OTHER)
                .found(no_chroot)
                .found(|fail| fail.user_level = 1),
            "",
        ),
        (
            setns(Kind::Mnt, EINVAL, own).found(|fail| fail.fs_users = 4),
            "mnt needs a root and working directory of one's own; 4 tasks share it",
        ),
        (setns(Kind::Mnt, EINVAL, own), ""),
        (
            setns(Kind::Pid, EINVAL, own),
            "pid:77 is neither the caller's pid namespace nor below it",
        ),
        (
            setns(Kind::Time, EUSERS, own),
            "it needs a task that shares its memory with no other",
        ),
        // The new user namespace is entered; the other one's owner is above it.
        (
            failed(Op::Setns, CLONE_NEWUSER | CLONE_NEWNET, &both, EPERM)
                .found(|fail| fail.target_owner = OTHER),
            "no CAP_SYS_ADMIN in user:4026532500",
        ),
    ]);
}
