//! Why an operation failed, in words.
//!
//! An errno is explained by walking the checks that can give it, in the order of
//! the kernel, until one is met that must have refused: with several causes it is
//! the first that the kernel meets. Where a check that cannot be seen from here
//! could as well have refused, nothing is said.
//!
//! The functions here bear the names of those whose checks they follow, from v5.10
//! to v7.3. What seccomp refuses never becomes an operation.

use nstrace_common::{
    flags::{
        CLONE_EMPTY_MNTNS, CLONE_FILES, CLONE_FS, CLONE_NEW_ALL, CLONE_NEWIPC, CLONE_NEWNS,
        CLONE_NEWPID, CLONE_NEWUSER, CLONE_PARENT_SETTID, CLONE_PIDFD, CLONE_SIGHAND,
        CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM, UNSHARE_EMPTY_MNTNS,
    },
    kind::Kind,
    wire::{FAIL_CHROOTED, FAIL_PID_NS_DEAD, FailRecord, Op},
};

use crate::{
    event::Operation,
    stages::{self, Function, PID_NS_LEVEL_MAX},
};

mod mount_op;
mod reason;
#[cfg(test)]
mod tests;

pub use mount_op::{MountReason, explain_mount};
pub use reason::{Capability, Reason};

const EPERM: i32 = 1;
const ESRCH: i32 = 3;
const EINTR: i32 = 4;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EUSERS: i32 = 87;
const ERESTARTNOINTR: i32 = 513;

// include/uapi/linux/capability.h
const CAP_SYS_CHROOT: Capability = Capability("CAP_SYS_CHROOT", 18);
const CAP_SYS_ADMIN: Capability = Capability("CAP_SYS_ADMIN", 21);

/// What the machine says, beside the record, about a failure that just happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// `kernel.unprivileged_userns_clone`, where Debian's kernels have it.
    pub unprivileged_userns_clone: Option<u32>,
    /// The nearest cgroup of the caller whose `pids.max` has refused, if a limit of
    /// processes may be why.
    pub pids: Option<PidsLimit>,
    /// /sys/kernel/security/lsm: the security modules, with commas.
    pub lsm: Option<String>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, where AppArmor has it.
    pub apparmor_restrict_userns: Option<u32>,
}

impl Facts {
    /// Nothing is known.
    pub const NONE: Facts = Facts {
        unprivileged_userns_clone: None,
        pids: None,
        lsm: None,
        apparmor_restrict_userns: None,
    };
}

/// A pids cgroup that is full.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PidsLimit {
    /// Its path from the root of the hierarchy.
    pub cgroup: String,
    /// Its `pids.max`; without it, the limit is of this cgroup or of one above it.
    pub max: Option<u64>,
}

/// A failed operation, taken apart.
struct Failure<'a> {
    op: Op,
    errno: i32,
    /// Of clone and unshare, with what they imply.
    flags: u64,
    stage: Option<Function>,
    /// Inums of the caller's user namespace and of its pid namespace for children.
    user: u32,
    pid: u32,
    record: &'a FailRecord,
    facts: &'a Facts,
}

/// Why an operation failed, if that is certain.
pub fn explain<'a>(op: &Operation<'a>, facts: &'a Facts) -> Option<Reason<'a>> {
    let errno = op.errno()?;
    let failure = Failure {
        op: op.op,
        errno,
        flags: op.record.flags,
        stage: stages::failed(op),
        user: op.before(Kind::User).inum,
        pid: op.before(Kind::Pid).inum,
        record: op.fail?,
        facts,
    };
    match op.op {
        Op::Clone | Op::Clone3 | Op::Fork | Op::Vfork => failure.copy_process(op),
        Op::Unshare => failure.ksys_unshare(op),
        Op::Setns => failure.setns(op),
        // v7.2 fs/namespace.c, create_new_namespace: the caller's rights were
        // checked before.
        Op::OpenTree | Op::Fsmount => failure.inc_ucount(Kind::Mnt),
    }
}

impl<'a> Failure<'a> {
    fn has(&self, flags: u64) -> bool {
        self.flags & flags == flags
    }

    fn has_any(&self, flags: u64) -> bool {
        self.flags & flags != 0
    }

    /// Whether a capability is among the caller's effective ones, which count in its
    /// own user namespace and below.
    fn capable(&self, capability: Capability) -> bool {
        self.record.cap_effective >> capability.1 & 1 != 0
    }

    /// kernel/fork.c, `copy_process`.
    fn copy_process(mut self, op: &Operation) -> Option<Reason<'a>> {
        if self.has(CLONE_EMPTY_MNTNS) {
            self.flags |= CLONE_NEWNS;
        }
        let reached = |function| stages::entered(op, function);
        match self.stage {
            Some(Function::CreateUserNs) => self.create_user_ns(),
            Some(Function::CopyNamespaces) => self.copy_namespaces(),
            Some(Function::Copy(kind)) => self.copy(kind),
            Some(Function::AllocPid) => self.alloc_pid(),
            Some(Function::CreateNewNamespaces | Function::Switch | Function::Install(_)) => None,
            None if reached(Function::AllocPid) => self.after_alloc_pid(),
            None if reached(Function::CreateUserNs) || reached(Function::CopyNamespaces) => None,
            None if self.flags == 0 => self.plain_fork(),
            None => self.clone_flags(),
        }
    }

    /// The checks of `copy_process` before anything is made.
    fn clone_flags(&self) -> Option<Reason<'a>> {
        match self.errno {
            EINVAL if self.op == Op::Clone && self.has(CLONE_PIDFD | CLONE_PARENT_SETTID) => {
                Some(Reason::FlagsExclude("CLONE_PIDFD", "CLONE_PARENT_SETTID"))
            }
            EINVAL if self.has(CLONE_NEWNS | CLONE_FS) => {
                Some(Reason::FlagsExclude("CLONE_NEWNS", "CLONE_FS"))
            }
            EINVAL if self.has(CLONE_NEWUSER | CLONE_FS) => {
                Some(Reason::FlagsExclude("CLONE_NEWUSER", "CLONE_FS"))
            }
            EINVAL if self.has(CLONE_THREAD) && !self.has(CLONE_SIGHAND) => {
                Some(Reason::FlagNeeds("CLONE_THREAD", "CLONE_SIGHAND"))
            }
            EINVAL if self.has(CLONE_SIGHAND) && !self.has(CLONE_VM) => {
                Some(Reason::FlagNeeds("CLONE_SIGHAND", "CLONE_VM"))
            }
            EINVAL if self.has(CLONE_NEWUSER | CLONE_THREAD) => {
                Some(Reason::FlagsExclude("CLONE_NEWUSER", "CLONE_THREAD"))
            }
            EINVAL if self.has(CLONE_NEWPID | CLONE_THREAD) => {
                Some(Reason::FlagsExclude("CLONE_NEWPID", "CLONE_THREAD"))
            }
            EPERM => self.unprivileged_userns_clone(),
            ERESTARTNOINTR => Some(Reason::Signal),
            _ => None,
        }
    }

    /// Debian's patch of kernel/fork.c, in `copy_process` and `ksys_unshare`: as
    /// capable(CAP_SYS_ADMIN), which is about the first user namespace.
    fn unprivileged_userns_clone(&self) -> Option<Reason<'a>> {
        let refused = self.has(CLONE_NEWUSER)
            // Where there is this sysctl, nothing else refuses here; it may have been
            // set anew since.
            && self.facts.unprivileged_userns_clone.is_some()
            && !(self.record.user_level == 0 && self.capable(CAP_SYS_ADMIN));
        refused.then_some(Reason::UnprivilegedUserns)
    }

    /// A fork without flags, of which nothing but the failure was seen.
    fn plain_fork(&self) -> Option<Reason<'a>> {
        match self.errno {
            ENOMEM => self.dead_init(),
            EAGAIN => {
                let pids = self.facts.pids.as_ref();
                pids.filter(|pids| pids.max.is_some()).map(Reason::Pids)
            }
            ERESTARTNOINTR => Some(Reason::Signal),
            _ => None,
        }
    }

    /// kernel/nsproxy.c, `copy_namespaces`, before it calls create_new_namespaces.
    fn copy_namespaces(&self) -> Option<Reason<'a>> {
        match self.errno {
            EPERM => self.may_make(),
            EINVAL if self.has(CLONE_NEWIPC | CLONE_SYSVSEM) => {
                Some(Reason::FlagsExclude("CLONE_NEWIPC", "CLONE_SYSVSEM"))
            }
            _ => None,
        }
    }

    /// `ns_capable(user_ns, CAP_SYS_ADMIN)`: in a user namespace that it makes on the
    /// way, the caller is capable.
    fn may_make(&self) -> Option<Reason<'a>> {
        if self.has(CLONE_NEWUSER) {
            // Its maker is capable there (security/commoncap.c, cap_capable), unless
            // another security module says no.
            return Some(Reason::Withheld(CAP_SYS_ADMIN));
        }
        let refused = !self.capable(CAP_SYS_ADMIN);
        refused.then_some(Reason::NoCapability(CAP_SYS_ADMIN, self.user))
    }

    /// kernel/fork.c, `ksys_unshare`.
    fn ksys_unshare(mut self, op: &Operation) -> Option<Reason<'a>> {
        if self.has(CLONE_NEWUSER) {
            self.flags |= CLONE_THREAD | CLONE_FS;
        }
        if self.has(CLONE_VM) {
            self.flags |= CLONE_SIGHAND;
        }
        if self.has(CLONE_SIGHAND) {
            self.flags |= CLONE_THREAD;
        }
        match (self.stage, self.errno) {
            (Some(Function::CreateUserNs), _) => self.create_user_ns(),
            (Some(Function::Copy(kind)), _) => self.copy(kind),
            (Some(_), _) => None,
            (None, EPERM) if stages::entered(op, Function::CreateUserNs) => self.may_make(),
            (None, _) if stages::entered(op, Function::CreateUserNs) => None,
            (None, EPERM) if self.has(CLONE_NEWUSER) => self.unprivileged_userns_clone(),
            (None, EPERM) => self.may_make(),
            (None, EINVAL) => self.check_unshare_flags(),
            (None, _) => None,
        }
    }

    /// kernel/fork.c, `check_unshare_flags`.
    fn check_unshare_flags(&self) -> Option<Reason<'a>> {
        const KNOWN: u64 = CLONE_NEW_ALL
            | CLONE_THREAD
            | CLONE_FS
            | CLONE_SIGHAND
            | CLONE_VM
            | CLONE_FILES
            | CLONE_SYSVSEM;
        // From v7.1; before, an unknown one.
        if self.has(UNSHARE_EMPTY_MNTNS) {
            return None;
        }
        let unknown = self.flags & !KNOWN;
        if unknown != 0 {
            return Some(Reason::UnknownFlags(self.op, unknown));
        }
        let what = if self.has(CLONE_NEWUSER) {
            "CLONE_NEWUSER"
        } else {
            "CLONE_THREAD"
        };
        let threads = self.record.threads;
        let refused = self.has_any(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM) && threads > 1;
        refused.then_some(Reason::Threads(what, threads))
    }

    /// kernel/user_namespace.c, `create_user_ns`.
    fn create_user_ns(&self) -> Option<Reason<'a>> {
        let record = self.record;
        if self.errno == ENOSPC {
            // The deepest is at level 33: `parent_ns->level > 32` is refused.
            let too_deep = record.user_level > 32;
            return if too_deep {
                Some(Reason::UserTooDeep(self.user))
            } else {
                self.inc_ucount(Kind::User)
            };
        }
        if self.errno == EPERM && record.bits & FAIL_CHROOTED != 0 {
            return Some(Reason::Chrooted);
        }
        if self.errno == EPERM && record.uid_extents == 0 {
            return Some(Reason::NoIdMap("uid_map", self.user));
        }
        if self.errno == EPERM && record.gid_extents == 0 {
            return Some(Reason::NoIdMap("gid_map", self.user));
        }
        let lsm = record.lsm_ret != 0 && record.lsm_ret == self.errno.wrapping_neg();
        lsm.then_some(Reason::SecurityModule(self.facts))
    }

    /// A function of create_new_namespaces.
    fn copy(&self, kind: Kind) -> Option<Reason<'a>> {
        let pid = kind == Kind::Pid;
        match self.errno {
            // kernel/pid_namespace.c, create_pid_namespace: MAX_PID_NS_LEVEL.
            ENOSPC if pid && self.record.pid_level >= PID_NS_LEVEL_MAX => {
                Some(Reason::PidTooDeep(self.pid))
            }
            ENOSPC => self.inc_ucount(kind),
            EINVAL if pid => self.copy_pid_ns(),
            // net/core/net_namespace.c, copy_net_ns: down_read_killable.
            EINTR if kind == Kind::Net => Some(Reason::Killed),
            _ => None,
        }
    }

    /// kernel/pid_namespace.c, `copy_pid_ns` and `create_pid_namespace`.
    fn copy_pid_ns(&self) -> Option<Reason<'a>> {
        match self.record.pid_active {
            0 => None,
            own if own == self.pid => Some(Reason::PidOwnerNotAbove(own)),
            own => Some(Reason::PidForChildren(self.pid, own)),
        }
    }

    /// kernel/ucount.c, `inc_ucount`.
    fn inc_ucount(&self, kind: Kind) -> Option<Reason<'a>> {
        let FailRecord {
            limit_ns,
            limit_max,
            limit_kind,
            ..
        } = *self.record;
        // INT_MAX is what a user namespace begins with: no count comes there, so the
        // limit that refused is another one, and was left since.
        let certain = self.errno == ENOSPC
            && limit_ns != 0
            && limit_kind == kind as u32
            && limit_max < i32::MAX as u64;
        certain.then_some(Reason::Limit(kind, limit_max, limit_ns))
    }

    /// kernel/pid.c, `alloc_pid`.
    fn alloc_pid(&self) -> Option<Reason<'a>> {
        match self.errno {
            ENOMEM => self.dead_init(),
            EEXIST => Some(Reason::PidTaken),
            EAGAIN => Some(Reason::NoPid),
            // checkpoint_restore_ns_capable, for ids that clone3 chooses
            EPERM => Some(Reason::PidNotForYou),
            _ => None,
        }
    }

    fn dead_init(&self) -> Option<Reason<'a>> {
        // A new one's init is not yet born.
        let dead = !self.has(CLONE_NEWPID) && self.record.bits & FAIL_PID_NS_DEAD != 0;
        dead.then_some(Reason::DeadInit(self.pid))
    }

    /// The checks of `copy_process` after alloc_pid.
    fn after_alloc_pid(&self) -> Option<Reason<'a>> {
        match self.errno {
            // cgroup_can_fork: kernel/cgroup/pids.c, pids_can_fork
            EAGAIN => self.facts.pids.as_ref().map(Reason::Pids),
            EINTR => Some(Reason::Killed),
            _ => None,
        }
    }

    /// kernel/nsproxy.c, `setns` and `validate_nsset`.
    fn setns(&self, op: &Operation) -> Option<Reason<'a>> {
        let Some(Function::Install(kind)) = self.stage else {
            return self.setns_descriptor();
        };
        let record = self.record;
        let target = op.record.target;
        // Once the new user namespace is installed, it is the caller's; that the
        // caller is capable there was checked.
        let user_is_new = kind != Kind::User && stages::entered(op, Function::Install(Kind::User));
        match (kind, self.errno) {
            (Kind::User, EINVAL) if target == self.user => Some(Reason::AlreadyIn(target)),
            (Kind::User, EINVAL) if record.threads > 1 => {
                Some(Reason::Threads("a user namespace", record.threads))
            }
            (Kind::User | Kind::Mnt, EINVAL) if record.fs_users > 1 => {
                Some(Reason::SharedFs(kind, record.fs_users))
            }
            (Kind::User, EPERM) => self.capable_in(target),
            (Kind::Pid, EINVAL) => Some(Reason::NotBelow(target)),
            (Kind::Time, EUSERS) => Some(Reason::NotSingleThreaded),
            (_, EPERM) if user_is_new => {
                let owner = record.target_owner;
                (owner != 0).then_some(Reason::NoCapability(CAP_SYS_ADMIN, owner))
            }
            (_, EPERM) if !self.capable(CAP_SYS_ADMIN) => {
                Some(Reason::NoCapability(CAP_SYS_ADMIN, self.user))
            }
            (Kind::Mnt, EPERM) if !self.capable(CAP_SYS_CHROOT) && self.owner_is_own() => {
                Some(Reason::NoCapability(CAP_SYS_CHROOT, self.user))
            }
            (Kind::Mnt, EPERM) if !self.capable(CAP_SYS_CHROOT) => None,
            (_, EPERM) => self.capable_in(record.target_owner),
            _ => None,
        }
    }

    /// Whether what the caller may in its own user namespace, it may in the target's
    /// owner: in the first one that holds for all.
    fn owner_is_own(&self) -> bool {
        self.record.target_owner == self.user || self.record.user_level == 0
    }

    /// `ns_capable(owner, CAP_SYS_ADMIN)` refused.
    fn capable_in(&self, owner: u32) -> Option<Reason<'a>> {
        if owner == 0 {
            None
        } else if !self.capable(CAP_SYS_ADMIN) {
            Some(Reason::NoCapability(CAP_SYS_ADMIN, owner))
        } else if owner == self.user || self.record.user_level == 0 {
            // It is capable; a security module said no.
            None
        } else {
            Some(Reason::CapabilityElsewhere(CAP_SYS_ADMIN, self.user, owner))
        }
    }

    /// What `setns` checks before it comes to a namespace.
    fn setns_descriptor(&self) -> Option<Reason<'a>> {
        let unknown = self.flags & !CLONE_NEW_ALL;
        let mut kinds = Kind::ALL.into_iter().filter(|kind| self.has(kind.flag()));
        match self.errno {
            EBADF => Some(Reason::NoDescriptor),
            EINVAL if unknown != 0 => Some(Reason::UnknownFlags(self.op, unknown)),
            EINVAL => Some(match (kinds.next(), kinds.next()) {
                (None, _) => Reason::NotANamespace,
                (Some(kind), None) => Reason::NotOfKind(kind),
                (Some(_), Some(_)) => Reason::NotAPidfd,
            }),
            EPERM => Some(Reason::NoTrace),
            ESRCH => Some(Reason::NoProcess),
            _ => None,
        }
    }
}
