//! The functions that an operation passes on its way: each leaves a mark.
//!
//! They are on the way of plain forks too, so what tells a plain fork comes first,
//! and costs no memory access where an argument tells it.
//!
//! The copy functions (copy_mnt_ns, copy_utsname, …) are not probed themselves:
//! create_new_namespaces calls all seven whatever the flags, in setns as well.
//! inc_ucount is called by those that make a namespace, first thing, with the kind;
//! and what it refuses is which limit was reached.

use nstrace_common::{field::member, flags::CLONE_NEW_ALL, kind::Kind, wire::Mark};

use crate::{
    read::{Entry, Exit, Reader, errno, has, offset},
    slot,
};

/// `int copy_namespaces(flags, struct task_struct *tsk)` returns.
#[inline(always)]
pub fn copy_namespaces_ret<C: Exit>(context: &C) {
    // A kretprobe does not know the flags; but a plain fork has no slot.
    let is_plain = |flags| flags & CLONE_NEW_ALL == 0;
    if !context.first_arg().is_some_and(is_plain)
        && let Some(slot) = slot::mine()
    {
        slot.create_ret = context.ret() as i32;
        slot.mark(Mark::CopyNamespacesDone as u8);
    }
}

/// `struct nsproxy *create_new_namespaces(flags, tsk, struct user_namespace *, fs)`,
/// called.
#[inline(always)]
pub fn create_new_namespaces<C: Entry>(context: &C) {
    // setns calls it without a flag, for a copy.
    if context.arg(0) & CLONE_NEW_ALL != 0
        && let Some(slot) = slot::mine()
    {
        slot.mark(Mark::CreateNewNamespaces as u8);
    }
}

/// `int create_user_ns(struct cred *new)` returns.
#[inline(always)]
pub fn create_user_ns_ret<C: Exit>(context: &C) {
    if let Some(slot) = slot::mine() {
        slot.user_ret = context.ret() as i32;
        slot.mark(Mark::CreateUserNsDone as u8);
    }
}

/// security_create_user_ns returns.
#[inline(always)]
pub fn security_create_user_ns_ret<C: Exit>(context: &C) {
    if let Some(slot) = slot::mine() {
        slot.lsm_ret = context.ret() as i32;
    }
}

/// `struct ucounts *inc_ucount(struct user_namespace *, kuid_t, enum ucount_type)`,
/// called: a namespace of a kind is about to be made.
#[inline(always)]
pub fn inc_ucount<C: Entry>(context: &C) {
    let ucount_type = context.arg(2) as u32;
    let Some(kind) = Kind::from_ucount(ucount_type) else {
        return;
    };
    let Some(slot) = slot::mine() else { return };
    slot.charged = context.arg(0);
    slot.charged_type = ucount_type;
    slot.charged_kind = kind as u32;
    slot.mark(match kind {
        Kind::User => Mark::CreateUserNs as u8,
        _ => Mark::Copy as u8 + kind as u8,
    });
}

/// `struct pid *alloc_pid(struct pid_namespace *, …)` returns.
#[inline(always)]
pub fn alloc_pid_ret<C: Exit>(context: &C) {
    if let Some(slot) = slot::mine() {
        slot.pid_ret = errno(context.ret()).unwrap_or(0) as i32;
        slot.mark(Mark::AllocPidDone as u8);
    }
}

/// `void switch_task_namespaces(struct task_struct *, struct nsproxy *new)`, called.
#[inline(always)]
pub fn switch_task_namespaces<C: Entry>(context: &C) {
    // An exiting task gives its nsproxy up, up to v6.11 by this function.
    if context.arg(1) != 0
        && let Some(slot) = slot::mine()
    {
        slot.mark(Mark::Switch as u8);
    }
}

/// `int mntns_install(struct nsset *, struct ns_common *)` and its seven siblings,
/// called: setns is to enter a namespace.
#[inline(always)]
pub fn install<C: Entry>(context: &C, kind: Kind) {
    let Some(slot) = slot::mine() else { return };
    slot.mark(Mark::Install as u8 + kind as u8);
    slot.installs |= 1 << kind as u8;
    slot.target = context.arg(1);
    slot.target_kind = kind as u32;
    if has(member::NsInum) {
        // SAFETY: the function's argument.
        slot.record.target = unsafe { C::Args::at(context.arg(1), offset(member::NsInum)) };
    }
}
