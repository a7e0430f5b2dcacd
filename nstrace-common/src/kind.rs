//! The eight kinds of namespaces, named as in `/proc/PID/ns`.

/// A kind of namespace. The discriminant is its index in every per-kind array of
/// [`crate::wire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Mounts (`CLONE_NEWNS`).
    Mnt,
    /// Host and domain name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Process ids.
    Pid,
    /// Network devices, addresses, sockets.
    Net,
    /// Users, groups, capabilities.
    User,
    /// The cgroup root that is seen.
    Cgroup,
    /// Offsets of the monotonic and boot clocks.
    Time,
}

/// How many kinds there are.
pub const KINDS: usize = 8;

impl Kind {
    /// Every kind, in the order of its index.
    pub const ALL: [Kind; KINDS] = [
        Kind::Mnt,
        Kind::Uts,
        Kind::Ipc,
        Kind::Pid,
        Kind::Net,
        Kind::User,
        Kind::Cgroup,
        Kind::Time,
    ];

    /// The name in `/proc/PID/ns` and in `lsns`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Mnt => "mnt",
            Kind::Uts => "uts",
            Kind::Ipc => "ipc",
            Kind::Pid => "pid",
            Kind::Net => "net",
            Kind::User => "user",
            Kind::Cgroup => "cgroup",
            Kind::Time => "time",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of that index, if there is one: wire bytes are not trusted.
    pub fn from_index(index: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(index)).copied()
    }

    /// The `CLONE_NEW*` flag that makes a namespace of this kind.
    pub const fn flag(self) -> u64 {
        use crate::flags;
        match self {
            Kind::Mnt => flags::CLONE_NEWNS,
            Kind::Uts => flags::CLONE_NEWUTS,
            Kind::Ipc => flags::CLONE_NEWIPC,
            Kind::Pid => flags::CLONE_NEWPID,
            Kind::Net => flags::CLONE_NEWNET,
            Kind::User => flags::CLONE_NEWUSER,
            Kind::Cgroup => flags::CLONE_NEWCGROUP,
            Kind::Time => flags::CLONE_NEWTIME,
        }
    }

    /// The kind that a `CLONE_NEW*` value names (`ns_common.ns_type`, from v6.18).
    pub fn from_flag(flag: u64) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.flag() == flag)
    }

    /// The kind that a charge of this type pays for, by `enum ucount_type` of
    /// include/linux/user_namespace.h; its first eight values are the same from
    /// v5.6 on.
    pub const fn from_ucount(ucount_type: u32) -> Option<Kind> {
        match ucount_type {
            0 => Some(Kind::User),
            1 => Some(Kind::Pid),
            2 => Some(Kind::Uts),
            3 => Some(Kind::Ipc),
            4 => Some(Kind::Net),
            5 => Some(Kind::Mnt),
            6 => Some(Kind::Cgroup),
            7 => Some(Kind::Time),
            _ => None,
        }
    }
}
