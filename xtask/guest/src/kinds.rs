//! The kinds of namespaces and the flags of the system calls, written down here
//! once more and not taken from nstrace: a mistake there must not be ours too.

/// How many kinds there are; every array over kinds has the order of [`KINDS`].
pub const COUNT: usize = 8;

/// One kind of namespace.
pub struct Kind {
    /// As `/proc/PID/ns` and nstrace call it.
    pub name: &'static str,
    /// Its CLONE_NEW* flag.
    pub flag: u64,
    /// The file below `/proc/PID` that nstrace's number is that of: for pid and
    /// time the namespace of future children.
    pub file: &'static str,
    /// The function of the kernel that makes one, when it is not the first of it.
    pub copy: &'static str,
    /// The function of the kernel by which setns enters one.
    pub install: &'static str,
}

/// Every kind.
pub const KINDS: [Kind; COUNT] = [
    kind("mnt", 0x2_0000, "ns/mnt", "copy_mnt_ns", "mntns_install"),
    kind("uts", 0x400_0000, "ns/uts", "copy_utsname", "utsns_install"),
    kind("ipc", 0x800_0000, "ns/ipc", "copy_ipcs", "ipcns_install"),
    kind(
        "pid",
        0x2000_0000,
        "ns/pid_for_children",
        "copy_pid_ns",
        "pidns_install",
    ),
    kind("net", 0x4000_0000, "ns/net", "copy_net_ns", "netns_install"),
    kind(
        "user",
        0x1000_0000,
        "ns/user",
        "create_user_ns",
        "userns_install",
    ),
    kind(
        "cgroup",
        0x200_0000,
        "ns/cgroup",
        "copy_cgroup_ns",
        "cgroupns_install",
    ),
    kind(
        "time",
        0x80,
        "ns/time_for_children",
        "copy_time_ns",
        "timens_install",
    ),
];

const fn kind(
    name: &'static str,
    flag: u64,
    file: &'static str,
    copy: &'static str,
    install: &'static str,
) -> Kind {
    Kind {
        name,
        flag,
        file,
        copy,
        install,
    }
}

/// Indices into [`KINDS`].
pub const MNT: usize = 0;
pub const UTS: usize = 1;
pub const PID: usize = 3;
pub const NET: usize = 4;
pub const USER: usize = 5;
pub const TIME: usize = 7;

/// The numbers of a task's namespaces by kind; 0 where the kernel has no such kind.
pub type Inums = [u32; COUNT];

pub const NEWNS: u64 = KINDS[MNT].flag;
pub const NEWUTS: u64 = KINDS[UTS].flag;
pub const NEWIPC: u64 = KINDS[2].flag;
pub const NEWPID: u64 = KINDS[PID].flag;
pub const NEWNET: u64 = KINDS[NET].flag;
pub const NEWUSER: u64 = KINDS[USER].flag;
pub const NEWCGROUP: u64 = KINDS[6].flag;
pub const NEWTIME: u64 = KINDS[TIME].flag;
/// Every CLONE_NEW* flag.
pub const NEW_ALL: u64 = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET | NEWUSER | NEWCGROUP | NEWTIME;

pub const VM: u64 = 0x100;
pub const FS: u64 = 0x200;
pub const SIGHAND: u64 = 0x800;
pub const PIDFD: u64 = 0x1000;
pub const VFORK: u64 = 0x4000;
pub const THREAD: u64 = 0x1_0000;
pub const SYSVSEM: u64 = 0x4_0000;
pub const PARENT_SETTID: u64 = 0x10_0000;
pub const CHILD_SETTID: u64 = 0x100_0000;
pub const IO: u64 = 0x8000_0000;
pub const CLEAR_SIGHAND: u64 = 1 << 32;

/// The flags that our operations use, less those of [`KINDS`].
const OTHER: [(u64, &str); 11] = [
    (VM, "VM"),
    (FS, "FS"),
    (SIGHAND, "SIGHAND"),
    (PIDFD, "PIDFD"),
    (VFORK, "VFORK"),
    (THREAD, "THREAD"),
    (SYSVSEM, "SYSVSEM"),
    (PARENT_SETTID, "PARENT_SETTID"),
    (CHILD_SETTID, "CHILD_SETTID"),
    (IO, "IO"),
    (CLEAR_SIGHAND, "CLEAR_SIGHAND"),
];

/// The name of a kind's flag without `CLONE_`.
fn flag_name(kind: &Kind) -> String {
    // The one whose name came before there were others.
    if kind.name == "mnt" {
        "NEWNS".to_owned()
    } else {
        format!("NEW{}", kind.name.to_uppercase())
    }
}

/// The names of `flags`, sorted; bits without a name give a word of their own.
pub fn flag_names(flags: u64) -> Vec<String> {
    let mut names: Vec<String> = KINDS
        .iter()
        .filter(|kind| flags & kind.flag != 0)
        .map(flag_name)
        .collect();
    names.extend(
        OTHER
            .iter()
            .filter(|(bit, _)| flags & bit != 0)
            .map(|(_, name)| name.to_string()),
    );
    let known = NEW_ALL | OTHER.iter().map(|(bit, _)| bit).sum::<u64>();
    if flags & !known != 0 {
        names.push(format!("{:#x}", flags & !known));
    }
    names.sort();
    names
}

/// The index of the kind with that name.
pub fn index(name: &str) -> Option<usize> {
    KINDS.iter().position(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_their_kernel_names() {
        assert_eq!(flag_names(0x2000_0000 | 0x2_0000), ["NEWNS", "NEWPID"]);
        assert_eq!(flag_names(0x80 | 0x1_0000), ["NEWTIME", "THREAD"]);
        assert_eq!(flag_names(1 << 40), ["0x10000000000"]);
    }

    #[test]
    fn the_eight_flags_are_those_of_the_header() {
        assert_eq!(NEW_ALL, 0x7e02_0080);
        assert_eq!(index("cgroup"), Some(6));
    }
}
