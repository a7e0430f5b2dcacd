//! The probes: which kernel function each sits on, what it is for, and what the
//! user loses where a kernel does not have it.
//!
//! A row here and a handler of the same name in `nstrace-ebpf` make a probe. The
//! kernel side has each twice, as `FUNCTION_fentry` and `FUNCTION_kprobe` (or
//! `_fexit` and `_kretprobe`), thin wrappers of one handler. Some have a twin,
//! `FUNCTION_fentry_twin`.
//!
//! # Twins
//!
//! The kernel does not run an fentry or fexit program that is running on that CPU already
//! (v6.12 kernel/bpf/trampoline.c, __bpf_prog_enter_recur). Where tasks can be preempted
//! in the kernel, one that is preempted inside a program keeps all others on that CPU from
//! being seen there, for as long as it waits. A second program at the same place is
//! skipped only if another task is preempted in that one too. It runs after the first and
//! does what the first has not done.

use crate::field::Need;

/// Where in a function a probe sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At its entry: fentry or kprobe.
    Entry,
    /// At its return: fexit or kretprobe.
    Exit,
    /// A BTF tracepoint of that name.
    Tracepoint,
}

/// One probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The kernel function, or the tracepoint. A name that starts with `sys_` is a
    /// system call: [`symbol`] gives its symbol.
    pub function: &'static str,
    /// Where in it.
    pub at: At,
    /// Whether nstrace can work without it.
    pub need: Need,
    /// Not attached where this function can be.
    pub unless: Option<&'static str>,
    /// There is a second program, for kernels that skip one now and then.
    pub has_twin: bool,
    /// Attached only where all tasks are told of, for the tree of namespaces.
    pub for_tree: bool,
    /// Attached only if the function is attached to by kprobe.
    pub for_kprobe: bool,
    /// Attached only where mount operations are told of.
    pub for_mounts: bool,
    /// What the user loses without it.
    pub without: &'static str,
}

impl Probe {
    pub(crate) const fn new(
        function: &'static str,
        at: At,
        need: Need,
        without: &'static str,
    ) -> Self {
        Probe {
            function,
            at,
            need,
            unless: None,
            has_twin: false,
            for_tree: false,
            for_kprobe: false,
            for_mounts: false,
            without,
        }
    }

    const fn twin(self) -> Self {
        Probe {
            has_twin: true,
            ..self
        }
    }

    const fn for_tree(self) -> Self {
        Probe {
            for_tree: true,
            ..self
        }
    }

    pub(crate) const fn for_kprobe(self) -> Self {
        Probe {
            for_kprobe: true,
            ..self
        }
    }

    /// At the return of a function that begins or ends a mount operation, or at its entry.
    const fn mounts(function: &'static str, at: At, without: &'static str) -> Self {
        Probe {
            for_mounts: true,
            ..Probe::new(function, at, Optional, without)
        }
    }

    const fn unless(self, other: &'static str) -> Self {
        Probe {
            unless: Some(other),
            ..self
        }
    }
}

use At::{Entry, Exit, Tracepoint};
use Need::{Optional, Required};

/// Every probe, in the order in which they are attached: what ends an operation
/// before what begins it, so that none begins whose end would be missed.
pub const PROBES: &[Probe] = &[
    // void (task_struct *parent, task_struct *child), include/trace/events/sched.h
    Probe::new("sched_process_fork", Tracepoint, Required, "new tasks"),
    // void (task_struct *p), from v6.16 (…, bool group_dead)
    Probe::new("sched_process_exit", Tracepoint, Optional, "exits of tasks"),
    // void (task_struct *p)
    Probe::new(
        "sched_process_free",
        Tracepoint,
        Optional,
        "ends of tasks that have exited",
    )
    .for_tree(),
    // void (task_struct *p, pid_t old_pid, linux_binprm *)
    Probe::new(
        "sched_process_exec",
        Tracepoint,
        Optional,
        "what executing a program changes",
    )
    .for_tree(),
    // void (task_struct *p, const char *comm)
    Probe::new("task_rename", Tracepoint, Optional, "new names of tasks").for_tree(),
    // void (cgroup *to, const char *path, task_struct *p, bool threadgroup)
    Probe::new(
        "cgroup_attach_task",
        Tracepoint,
        Optional,
        "tasks that go to another cgroup",
    )
    .for_tree(),
    // void (cgroup *cgrp, const char *path)
    Probe::new(
        "cgroup_mkdir",
        Tracepoint,
        Optional,
        "paths of cgroups made later",
    ),
    // void (ns_common *ns, ns_tree[_root] *)
    Probe::new("__ns_tree_remove", Entry, Optional, "deaths of namespaces").twin(),
    // void (struct mount *, enum umount_tree_flags)
    Probe::new(
        "umount_tree",
        Entry,
        Optional,
        "where mounts were that die with writers",
    ),
    // void (struct mount *)
    Probe::new(
        "cleanup_mnt",
        Entry,
        Optional,
        "mounts that die with writers",
    ),
    // void (unsigned int inum); namespaces are its only callers
    Probe::new("proc_free_inum", Entry, Optional, "deaths of namespaces")
        .unless("__ns_tree_remove")
        .twin(),
    // void (callback_head *p): the RCU callback that frees a pid namespace
    Probe::new(
        "delayed_free_pidns",
        Entry,
        Optional,
        "deaths of pid namespaces that interrupt another death",
    ),
    // void (task_struct *p, nsproxy *new)
    Probe::new(
        "switch_task_namespaces",
        Entry,
        Optional,
        "the stage switch_task_namespaces",
    ),
    // int (nsset *, ns_common *)
    Probe::new(
        "mntns_install",
        Entry,
        Optional,
        "which namespace setns asked for",
    ),
    Probe::new(
        "utsns_install",
        Entry,
        Optional,
        "which namespace setns asked for",
    ),
    Probe::new(
        "ipcns_install",
        Entry,
        Optional,
        "which namespace setns asked for",
    ),
    Probe::new(
        "pidns_install",
        Entry,
        Optional,
        "which namespace setns asked for",
    ),
    Probe::new(
        "netns_install",
        Entry,
        Optional,
        "which namespace setns asked for",
    ),
    Probe::new(
        "userns_install",
        Entry,
        Optional,
        "which namespace setns asked for",
    ),
    Probe::new(
        "cgroupns_install",
        Entry,
        Optional,
        "which namespace setns asked for",
    ),
    Probe::new(
        "timens_install",
        Entry,
        Optional,
        "which namespace setns asked for",
    ),
    // pid * (pid_namespace *, pid_t *set_tid, size_t)
    Probe::new("alloc_pid", Exit, Optional, "the stage alloc_pid"),
    // ucounts * (user_namespace *, kuid_t, enum ucount_type)
    Probe::new(
        "inc_ucount",
        Entry,
        Optional,
        "the stages copy_*, and which limit refused",
    ),
    // int (const cred *), from v6.1
    Probe::new(
        "security_create_user_ns",
        Exit,
        Optional,
        "whether an LSM refused a user namespace",
    ),
    // int (cred *new)
    Probe::new("create_user_ns", Exit, Optional, "the stage create_user_ns"),
    // int (flags, task_struct *)
    Probe::new(
        "copy_namespaces",
        Exit,
        Optional,
        "the stage copy_namespaces, and which stage of a clone failed",
    ),
    // nsproxy * (flags, task_struct *, user_namespace *, fs_struct *)
    Probe::new(
        "create_new_namespaces",
        Entry,
        Optional,
        "the stage create_new_namespaces",
    ),
    // mnt_namespace * (path *, flags), from v7.2
    Probe::new(
        "create_new_namespace",
        Exit,
        Optional,
        "mount namespaces from descriptors",
    )
    .twin(),
    Probe::new(
        "create_new_namespace",
        Entry,
        Optional,
        "mount namespaces from descriptors",
    )
    .twin(),
    // For mount operations.
    // struct mount *(const char *name)
    Probe::mounts("alloc_vfsmnt", Exit, "which mounts were made"),
    // struct mount *(struct mount *old, struct dentry *root, int flag)
    Probe::mounts("clone_mnt", Entry, "which mounts were copied"),
    // int (struct fs_context *)
    Probe::mounts("vfs_get_tree", Exit, "how many mounts were made"),
    Probe::mounts("vfs_get_tree", Entry, "of which file system fsconfig was"),
    Probe::mounts(
        "reconfigure_super",
        Entry,
        "of which file system fsconfig was",
    ),
    // int (struct mount *dest, struct mountpoint *, struct mount *source, struct hlist_head *)
    Probe::mounts("propagate_mnt", Exit, "what propagation made"),
    Probe::mounts("propagate_mnt", Entry, "what propagation made"),
    // int or, from v6.17, void (struct list_head *)
    Probe::mounts("propagate_umount", Exit, "what was taken away"),
    Probe::mounts("propagate_umount", Entry, "what was taken away"),
    // int (const char *dev_name, const struct path *, const char *type, unsigned long flags, void *)
    Probe::mounts("path_mount", Entry, "the paths of mounts"),
    // int (const struct path *, int flags)
    Probe::mounts("path_umount", Entry, "the paths of mounts"),
    // int (const struct path *from, const struct path *to)
    Probe::mounts("security_move_mount", Entry, "the paths of mounts"),
    // int (const struct path *old, const struct path *new)
    Probe::mounts("security_sb_pivotroot", Entry, "the paths of mounts"),
    // mnt_namespace * (flags, mnt_namespace *, user_namespace *, fs_struct *)
    Probe::mounts("copy_mnt_ns", Exit, "which mounts were copied"),
    Probe::mounts("copy_mnt_ns", Entry, "which mounts were copied"),
    // long (const pt_regs *)
    Probe::mounts("sys_mount", Exit, "mount"),
    Probe::mounts("sys_mount", Entry, "mount"),
    Probe::mounts("sys_umount", Exit, "umount"),
    Probe::mounts("sys_umount", Entry, "umount"),
    Probe::mounts("sys_pivot_root", Exit, "pivot_root"),
    Probe::mounts("sys_pivot_root", Entry, "pivot_root"),
    Probe::mounts("sys_move_mount", Exit, "move_mount"),
    Probe::mounts("sys_move_mount", Entry, "move_mount"),
    Probe::mounts("sys_open_tree", Exit, "open_tree"),
    Probe::mounts("sys_open_tree", Entry, "open_tree"),
    Probe::mounts("sys_open_tree_attr", Exit, "open_tree_attr"),
    Probe::mounts("sys_open_tree_attr", Entry, "open_tree_attr"),
    Probe::mounts("sys_fsmount", Exit, "fsmount"),
    Probe::mounts("sys_fsmount", Entry, "fsmount"),
    Probe::mounts("sys_mount_setattr", Exit, "mount_setattr"),
    Probe::mounts("sys_mount_setattr", Entry, "mount_setattr"),
    Probe::mounts("sys_fsopen", Exit, "fsopen"),
    Probe::mounts("sys_fsopen", Entry, "fsopen"),
    Probe::mounts("sys_fspick", Exit, "fspick"),
    Probe::mounts("sys_fspick", Entry, "fspick"),
    Probe::mounts("sys_fsconfig", Exit, "fsconfig"),
    Probe::mounts("sys_fsconfig", Entry, "fsconfig"),
    // long (const pt_regs *)
    Probe::new("sys_setns", Exit, Required, "setns").twin(),
    Probe::new("sys_setns", Entry, Required, "setns").twin(),
    // int (unsigned long flags)
    Probe::new("ksys_unshare", Exit, Required, "unshare").twin(),
    Probe::new("ksys_unshare", Entry, Required, "unshare").twin(),
    // pid_t (kernel_clone_args *)
    Probe::new("kernel_clone", Exit, Required, "clone").twin(),
    Probe::new("kernel_clone", Entry, Required, "clone").twin(),
];

/// The prefix of the symbols of system calls.
#[cfg(target_arch = "aarch64")]
pub const SYSCALL_PREFIX: &str = "__arm64_";
/// The prefix of the symbols of system calls.
#[cfg(not(target_arch = "aarch64"))]
pub const SYSCALL_PREFIX: &str = "__x64_";

/// The prefix to put before [`Probe::function`] for its symbol, and the function.
pub fn symbol(function: &str) -> (&'static str, &str) {
    if function.starts_with("sys_") {
        (SYSCALL_PREFIX, function)
    } else {
        ("", function)
    }
}
