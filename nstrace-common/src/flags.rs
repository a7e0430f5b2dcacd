//! The flags of clone(2), clone3(2), unshare(2) and setns(2) that matter here,
//! from include/uapi/linux/sched.h and include/uapi/linux/mount.h.

/// The name of every flag that nstrace prints, in the order it prints them.
pub const NAMES: [(u64, &str); 26] = [
    (CLONE_NEWUSER, "NEWUSER"),
    (CLONE_NEWNS, "NEWNS"),
    (CLONE_NEWUTS, "NEWUTS"),
    (CLONE_NEWIPC, "NEWIPC"),
    (CLONE_NEWPID, "NEWPID"),
    (CLONE_NEWNET, "NEWNET"),
    (CLONE_NEWCGROUP, "NEWCGROUP"),
    (CLONE_NEWTIME, "NEWTIME"),
    (CLONE_EMPTY_MNTNS, "EMPTY_MNTNS"),
    (CLONE_VM, "VM"),
    (CLONE_FS, "FS"),
    (CLONE_FILES, "FILES"),
    (CLONE_SIGHAND, "SIGHAND"),
    (CLONE_PIDFD, "PIDFD"),
    (CLONE_PTRACE, "PTRACE"),
    (CLONE_VFORK, "VFORK"),
    (CLONE_PARENT, "PARENT"),
    (CLONE_THREAD, "THREAD"),
    (CLONE_SYSVSEM, "SYSVSEM"),
    (CLONE_SETTLS, "SETTLS"),
    (CLONE_PARENT_SETTID, "PARENT_SETTID"),
    (CLONE_CHILD_CLEARTID, "CHILD_CLEARTID"),
    (CLONE_CHILD_SETTID, "CHILD_SETTID"),
    (CLONE_IO, "IO"),
    (CLONE_CLEAR_SIGHAND, "CLEAR_SIGHAND"),
    (CLONE_INTO_CGROUP, "INTO_CGROUP"),
];

macro_rules! flags {
    ($($name:ident = $value:expr;)*) => { $(
        #[doc = concat!("`", stringify!($name), "` of the kernel's headers.")]
        pub const $name: u64 = $value;
    )* };
}

flags! {
    CLONE_NEWTIME = 0x80;
    CLONE_VM = 0x100;
    CLONE_FS = 0x200;
    CLONE_FILES = 0x400;
    CLONE_SIGHAND = 0x800;
    CLONE_PIDFD = 0x1000;
    CLONE_PTRACE = 0x2000;
    CLONE_VFORK = 0x4000;
    CLONE_PARENT = 0x8000;
    CLONE_THREAD = 0x1_0000;
    CLONE_NEWNS = 0x2_0000;
    CLONE_SYSVSEM = 0x4_0000;
    CLONE_SETTLS = 0x8_0000;
    CLONE_PARENT_SETTID = 0x10_0000;
    CLONE_CHILD_CLEARTID = 0x20_0000;
    CLONE_CHILD_SETTID = 0x100_0000;
    CLONE_NEWCGROUP = 0x200_0000;
    CLONE_NEWUTS = 0x400_0000;
    CLONE_NEWIPC = 0x800_0000;
    CLONE_NEWUSER = 0x1000_0000;
    CLONE_NEWPID = 0x2000_0000;
    CLONE_NEWNET = 0x4000_0000;
    CLONE_IO = 0x8000_0000;
    CLONE_CLEAR_SIGHAND = 1 << 32;
    CLONE_INTO_CGROUP = 1 << 33;
    // From v7.1: implies CLONE_NEWNS.
    CLONE_EMPTY_MNTNS = 1 << 37;
    // The same for unshare(2), whose flags are 32 bits wide.
    UNSHARE_EMPTY_MNTNS = 0x10_0000;
    CLONE_NEW_ALL = CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS
        | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
}
