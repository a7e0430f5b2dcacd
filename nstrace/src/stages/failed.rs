//! Which function failed. Of three the kernel side says what they gave back. For the
//! others it follows from the last mark, the errno and the order in which the kernel
//! calls them, the same from v5.10 to v7.3: kernel/fork.c (copy_process,
//! ksys_unshare), kernel/nsproxy.c (create_new_namespaces: mnt, uts, ipc, pid, cgroup,
//! net, time; validate_nsset: user, mnt, uts, ipc, pid, cgroup, net, time).

use nstrace_common::{kind::Kind, wire::Op};

use super::{Function, entered, entries, installed, requested};
use crate::event::Operation;

const EAGAIN: i32 = 11;
pub(super) const EPERM: i32 = 1;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOSPC: i32 = 28;

/// `MAX_PID_NS_LEVEL` of include/linux/pid_namespace.h: the deepest level that
/// create_pid_namespace makes, counted from 0.
pub const PID_NS_LEVEL_MAX: u32 = 32;

/// The function that failed: the innermost one here, or none if it was a check
/// before or after them, or if that cannot be told.
pub fn failed(op: &Operation) -> Option<Function> {
    let (errno, fail) = (op.errno()?, op.fail?);
    match op.op {
        // The point of no return comes after all installs.
        Op::Setns => installed(op).next_back().map(Function::Install),
        Op::OpenTree | Op::Fsmount => None,
        Op::Unshare => {
            // After create_new_namespaces only set_cred_ucounts can fail, with EAGAIN and
            // with new credentials (from v5.14, kernel/fork.c, ksys_unshare).
            let after = errno == EAGAIN && op.makes(Kind::User);
            if fail.user_ret != 0 {
                Some(Function::CreateUserNs)
            } else if entered(op, Function::CreateNewNamespaces) && !after {
                Some(create_failed(op, errno))
            } else {
                None
            }
        }
        Op::Clone | Op::Clone3 | Op::Fork | Op::Vfork => {
            if fail.pid_ret != 0 {
                Some(Function::AllocPid)
            } else if fail.user_ret != 0 {
                Some(Function::CreateUserNs)
            } else if fail.create_ret == 0 {
                None
            } else if entered(op, Function::CreateNewNamespaces) {
                Some(create_failed(op, errno))
            } else {
                // A check of its own.
                entered(op, Function::CopyNamespaces).then_some(Function::CopyNamespaces)
            }
        }
    }
}

/// Which function failed inside create_new_namespaces.
///
/// Each copy function that makes a namespace begins with inc_ucount, where its mark
/// is, but for two that check before: copy_pid_ns (EINVAL; ENOSPC when too deep;
/// v6.12 kernel/pid_namespace.c) and copy_cgroup_ns (EPERM; v6.12
/// kernel/cgroup/namespace.c). So it is the last one marked, unless the next one is
/// of these two and the errno is its.
fn create_failed(op: &Operation, errno: i32) -> Function {
    const ORDER: [Kind; 7] = [
        Kind::Mnt,
        Kind::Uts,
        Kind::Ipc,
        Kind::Pid,
        Kind::Cgroup,
        Kind::Net,
        Kind::Time,
    ];
    let mut copied = entries(op).filter_map(|function| match function {
        Function::Copy(kind) => Some(kind),
        Function::CreateUserNs
        | Function::CopyNamespaces
        | Function::CreateNewNamespaces
        | Function::AllocPid
        | Function::Switch
        | Function::Install(_) => None,
    });
    let last = copied.next_back();
    let place = |kind: Kind| ORDER.iter().position(|other| *other == kind);
    let after = last.and_then(place).map_or(0, |place| place + 1);
    let next = requested_beside_user(op)
        .filter_map(place)
        .filter(|place| *place >= after)
        .min()
        .map(|place| ORDER[place]);
    match (next, errno) {
        (Some(Kind::Pid), EINVAL) | (Some(Kind::Cgroup), EPERM) => {}
        // The last one's limit could be reached as well; then this one would refuse
        // all the same.
        (Some(Kind::Pid), ENOSPC)
            if op
                .fail
                .is_some_and(|fail| fail.pid_level >= PID_NS_LEVEL_MAX) => {}
        _ => return last.map_or(Function::CreateNewNamespaces, Function::Copy),
    }
    next.map_or(Function::CreateNewNamespaces, Function::Copy)
}

fn requested_beside_user(op: &Operation) -> impl Iterator<Item = Kind> + use<> {
    requested(op).filter(|kind| *kind != Kind::User)
}
