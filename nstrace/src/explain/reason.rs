//! The reasons that there are, and their words.

use std::fmt;

use nstrace_common::{kind::Kind, wire::Op};

use super::{Facts, PidsLimit};
use crate::render::escape::Escaped;

/// A capability: its name and its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Capability(pub(crate) &'static str, pub(crate) u32);

/// Why an operation failed. It prints itself as one short sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason<'a> {
    /// The caller has no such capability in that user namespace.
    NoCapability(Capability, u32),
    /// It has it in its own (the first), not in the one that owns the target.
    CapabilityElsewhere(Capability, u32, u32),
    /// Two flags exclude each other.
    FlagsExclude(&'static str, &'static str),
    /// A flag needs another one.
    FlagNeeds(&'static str, &'static str),
    /// Flags that there are not.
    UnknownFlags(Op, u64),
    /// It needs a process of one thread; this one has more.
    Threads(&'static str, u32),
    /// setns into a time namespace: memory or signal handlers are shared.
    NotSingleThreaded,
    /// setns needs a `fs_struct` of its own; so many tasks share it.
    SharedFs(Kind, u32),
    /// setns into the caller's own user namespace.
    AlreadyIn(u32),
    /// setns into a pid namespace that is not below the caller's.
    NotBelow(u32),
    /// `kernel.unprivileged_userns_clone`.
    UnprivilegedUserns,
    /// `user.max_*_namespaces`: of that kind, its value, in that user namespace.
    Limit(Kind, u64, u32),
    /// User namespaces nest no deeper than this one.
    UserTooDeep(u32),
    /// Pid namespaces nest no deeper than this one.
    PidTooDeep(u32),
    /// The caller was put in a chroot.
    Chrooted,
    /// This map of this user namespace is empty.
    NoIdMap(&'static str, u32),
    /// A security module refused a user namespace.
    SecurityModule(&'a Facts),
    /// A security module withholds a capability in the new user namespace.
    Withheld(Capability),
    /// The pid namespace for children is not the caller's own, which is the second.
    PidForChildren(u32, u32),
    /// The owner of this pid namespace is not above the user namespace that is to own
    /// the one below it.
    PidOwnerNotAbove(u32),
    /// All process ids are in use.
    NoPid,
    /// To choose a process id needs a capability.
    PidNotForYou,
    /// The init of this pid namespace is dead.
    DeadInit(u32),
    /// A pids cgroup is full.
    Pids(&'a PidsLimit),
    /// The process id that clone3 asked for is in use.
    PidTaken,
    /// A signal was pending.
    Signal,
    /// The caller is being killed.
    Killed,
    /// No such descriptor.
    NoDescriptor,
    /// The descriptor is neither of a namespace of that kind nor a pidfd.
    NotOfKind(Kind),
    /// Without flags the descriptor has to be of a namespace.
    NotANamespace,
    /// Several kinds at once need a pidfd.
    NotAPidfd,
    /// The process of the pidfd is gone.
    NoProcess,
    /// The caller may not trace the process of the pidfd.
    NoTrace,
}

impl Reason<'_> {
    /// The same to be kept; none of what the machine says beside the record.
    pub fn lasting(self) -> Option<Reason<'static>> {
        Some(match self {
            Reason::NoCapability(capability, user) => Reason::NoCapability(capability, user),
            Reason::CapabilityElsewhere(capability, own, owner) => {
                Reason::CapabilityElsewhere(capability, own, owner)
            }
            Reason::FlagsExclude(one, other) => Reason::FlagsExclude(one, other),
            Reason::FlagNeeds(one, other) => Reason::FlagNeeds(one, other),
            Reason::UnknownFlags(op, flags) => Reason::UnknownFlags(op, flags),
            Reason::Threads(what, threads) => Reason::Threads(what, threads),
            Reason::NotSingleThreaded => Reason::NotSingleThreaded,
            Reason::SharedFs(kind, tasks) => Reason::SharedFs(kind, tasks),
            Reason::AlreadyIn(user) => Reason::AlreadyIn(user),
            Reason::NotBelow(pid) => Reason::NotBelow(pid),
            Reason::UnprivilegedUserns => Reason::UnprivilegedUserns,
            Reason::Limit(kind, max, user) => Reason::Limit(kind, max, user),
            Reason::UserTooDeep(user) => Reason::UserTooDeep(user),
            Reason::PidTooDeep(pid) => Reason::PidTooDeep(pid),
            Reason::Chrooted => Reason::Chrooted,
            Reason::NoIdMap(map, user) => Reason::NoIdMap(map, user),
            Reason::Withheld(capability) => Reason::Withheld(capability),
            Reason::PidForChildren(pid, own) => Reason::PidForChildren(pid, own),
            Reason::PidOwnerNotAbove(pid) => Reason::PidOwnerNotAbove(pid),
            Reason::NoPid => Reason::NoPid,
            Reason::PidNotForYou => Reason::PidNotForYou,
            Reason::DeadInit(pid) => Reason::DeadInit(pid),
            Reason::PidTaken => Reason::PidTaken,
            Reason::Signal => Reason::Signal,
            Reason::Killed => Reason::Killed,
            Reason::NoDescriptor => Reason::NoDescriptor,
            Reason::NotOfKind(kind) => Reason::NotOfKind(kind),
            Reason::NotANamespace => Reason::NotANamespace,
            Reason::NotAPidfd => Reason::NotAPidfd,
            Reason::NoProcess => Reason::NoProcess,
            Reason::NoTrace => Reason::NoTrace,
            Reason::SecurityModule(_) | Reason::Pids(_) => return None,
        })
    }

    /// The same of namespaces with the number 0.
    pub fn without_namespaces(self) -> Self {
        match self {
            Reason::NoCapability(capability, _) => Reason::NoCapability(capability, 0),
            Reason::CapabilityElsewhere(capability, _, _) => {
                Reason::CapabilityElsewhere(capability, 0, 0)
            }
            Reason::AlreadyIn(_) => Reason::AlreadyIn(0),
            Reason::NotBelow(_) => Reason::NotBelow(0),
            Reason::Limit(kind, max, _) => Reason::Limit(kind, max, 0),
            Reason::UserTooDeep(_) => Reason::UserTooDeep(0),
            Reason::PidTooDeep(_) => Reason::PidTooDeep(0),
            Reason::NoIdMap(map, _) => Reason::NoIdMap(map, 0),
            Reason::PidForChildren(_, _) => Reason::PidForChildren(0, 0),
            Reason::PidOwnerNotAbove(_) => Reason::PidOwnerNotAbove(0),
            Reason::DeadInit(_) => Reason::DeadInit(0),
            Reason::FlagsExclude(..)
            | Reason::FlagNeeds(..)
            | Reason::UnknownFlags(..)
            | Reason::Threads(..)
            | Reason::NotSingleThreaded
            | Reason::SharedFs(..)
            | Reason::UnprivilegedUserns
            | Reason::Chrooted
            | Reason::SecurityModule(_)
            | Reason::Withheld(_)
            | Reason::NoPid
            | Reason::PidNotForYou
            | Reason::Pids(_)
            | Reason::PidTaken
            | Reason::Signal
            | Reason::Killed
            | Reason::NoDescriptor
            | Reason::NotOfKind(_)
            | Reason::NotANamespace
            | Reason::NotAPidfd
            | Reason::NoProcess
            | Reason::NoTrace => self,
        }
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Reason::NoCapability(Capability(name, _), user) => {
                write!(f, "no {name} in user:{user}")
            }
            Reason::CapabilityElsewhere(Capability(name, _), own, owner) => {
                write!(
                    f,
                    "{name} in user:{own} only, not in user:{owner}, the owner"
                )
            }
            Reason::FlagsExclude(a, b) => write!(f, "{a} and {b} exclude each other"),
            Reason::FlagNeeds(a, b) => write!(f, "{a} needs {b}"),
            Reason::UnknownFlags(op, flags) => write!(f, "{} has no flag {flags:#x}", op.name()),
            Reason::Threads(what, threads) => {
                write!(
                    f,
                    "{what} needs a process of one thread; this one has {threads}"
                )
            }
            Reason::NotSingleThreaded => {
                f.write_str("it needs a task that shares its memory with no other")
            }
            Reason::SharedFs(kind, tasks) => write!(
                f,
                "{kind} needs a root and working directory of one's own; {tasks} tasks share it",
                kind = kind.name(),
            ),
            Reason::AlreadyIn(user) => write!(f, "user:{user} is the caller's own already"),
            Reason::NotBelow(pid) => {
                write!(
                    f,
                    "pid:{pid} is neither the caller's pid namespace nor below it"
                )
            }
            Reason::UnprivilegedUserns => f.write_str(
                "kernel.unprivileged_userns_clone was 0, and no CAP_SYS_ADMIN in the first user \
                 namespace",
            ),
            Reason::Limit(kind, max, user) => {
                write!(
                    f,
                    "user.max_{}_namespaces is {max} in user:{user}",
                    kind.name()
                )
            }
            Reason::UserTooDeep(user) => {
                write!(
                    f,
                    "user:{user} is at level 33, beyond the limit of 32 nested user namespaces"
                )
            }
            Reason::PidTooDeep(pid) => {
                write!(f, "pid:{pid} is at level 32, the deepest of pid namespaces")
            }
            Reason::Chrooted => f.write_str("the caller is in a chroot"),
            Reason::NoIdMap(map, user) => write!(f, "user:{user} has no {map} yet"),
            Reason::SecurityModule(facts) => security_module(f, facts),
            Reason::Withheld(Capability(name, _)) => {
                write!(
                    f,
                    "a security module withholds {name} in the new user namespace"
                )
            }
            Reason::PidForChildren(pid, own) => {
                write!(
                    f,
                    "its children go to pid:{pid} already, not to its own pid:{own}"
                )
            }
            Reason::PidOwnerNotAbove(pid) => {
                write!(
                    f,
                    "the owner of pid:{pid} is not above the caller's user namespace"
                )
            }
            Reason::NoPid => f.write_str("no process id is left below kernel.pid_max"),
            Reason::PidNotForYou => {
                f.write_str("to choose a process id needs CAP_CHECKPOINT_RESTORE")
            }
            Reason::DeadInit(pid) => write!(f, "the init of pid:{pid} is dead"),
            Reason::Pids(PidsLimit { cgroup, max }) => {
                let cgroup = Escaped(cgroup.as_bytes());
                match max {
                    Some(max) => write!(f, "pids.max is {max} in {cgroup}"),
                    None => write!(f, "pids.max is reached in {cgroup} or above it"),
                }
            }
            Reason::PidTaken => f.write_str("the process id that was asked for is in use"),
            Reason::Signal => f.write_str("a signal came first; the call begins again by itself"),
            Reason::Killed => f.write_str("the caller is being killed"),
            Reason::NoDescriptor => {
                f.write_str("the descriptor is not open, or open with O_PATH only")
            }
            Reason::NotOfKind(kind) => write!(
                f,
                "the descriptor is neither of a {} namespace nor a pidfd",
                kind.name(),
            ),
            Reason::NotANamespace => f.write_str("the descriptor is not of a namespace"),
            Reason::NotAPidfd => f.write_str("several kinds at once need a pidfd"),
            Reason::NoProcess => f.write_str("the process of the pidfd is gone"),
            Reason::NoTrace => f.write_str("the caller may not trace the process of the pidfd"),
        }
    }
}

fn security_module(f: &mut fmt::Formatter, facts: &Facts) -> fmt::Result {
    f.write_str("a security module refused the user namespace")?;
    if facts
        .apparmor_restrict_userns
        .is_some_and(|value| value != 0)
    {
        return f.write_str(" (kernel.apparmor_restrict_unprivileged_userns is 1)");
    }
    match &facts.lsm {
        Some(modules) => write!(f, " (active: {})", Escaped(modules.trim().as_bytes())),
        None => Ok(()),
    }
}
