//! The programs: for each row of `nstrace_common::probe::PROBES` two thin wrappers
//! of one handler, named `FUNCTION_fentry` and `FUNCTION_kprobe`, or `_fexit` and
//! `_kretprobe`; a tracepoint has one, of its own name.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe},
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use nstrace_common::kind::Kind;

use crate::{
    lives, ops, place, slot,
    read::{Fexit, Typed, task},
    stages, tasks, unbalanced,
};

/// Says that a program runs.
macro_rules! say {
    ($context:ident, $program:ident) => {
        #[cfg(feature = "debug")]
        aya_log_ebpf::info!(&$context, "{}", stringify!($program));
    };
}

/// A handler at the entry of a function.
macro_rules! entry {
    ($fentry:ident, $kprobe:ident, $handler:expr) => {
        #[fentry]
        fn $fentry(context: FEntryContext) -> u32 {
            say!(context, $fentry);
            ($handler)(&context);
            0
        }
        #[kprobe]
        fn $kprobe(context: ProbeContext) -> u32 {
            say!(context, $kprobe);
            ($handler)(&context);
            0
        }
    };
}

/// A handler at the return of a function with that many arguments.
macro_rules! exit {
    ($fexit:ident, $kretprobe:ident, $args:literal, $handler:expr) => {
        #[fexit]
        fn $fexit(context: FExitContext) -> u32 {
            say!(context, $fexit);
            ($handler)(&Fexit::<$args>(context));
            0
        }
        #[kretprobe]
        fn $kretprobe(context: RetProbeContext) -> u32 {
            say!(context, $kretprobe);
            ($handler)(&context);
            0
        }
    };
}

/// The twin of a handler at an entry: does the same if the first did not.
macro_rules! entry_twin {
    ($twin:ident, $handler:expr) => {
        #[fentry]
        fn $twin(context: FEntryContext) -> u32 {
            say!(context, $twin);
            if slot::mine().is_none() {
                ($handler)(&context);
            }
            0
        }
    };
}

/// The twin of a handler at a return; the handler itself does nothing twice.
macro_rules! exit_twin {
    ($twin:ident, $args:literal, $handler:expr) => {
        #[fexit]
        fn $twin(context: FExitContext) -> u32 {
            say!(context, $twin);
            ($handler)(&Fexit::<$args>(context));
            0
        }
    };
}

entry!(kernel_clone_fentry, kernel_clone_kprobe, ops::kernel_clone);
entry_twin!(kernel_clone_fentry_twin, ops::kernel_clone);
exit_twin!(kernel_clone_fexit_twin, 1, ops::kernel_clone_ret_twin);
entry_twin!(ksys_unshare_fentry_twin, ops::ksys_unshare);
exit_twin!(ksys_unshare_fexit_twin, 1, ops::ksys_unshare_ret_twin);
entry_twin!(sys_setns_fentry_twin, ops::sys_setns);
exit_twin!(sys_setns_fexit_twin, 1, ops::sys_setns_ret_twin);
entry_twin!(create_new_namespace_fentry_twin, ops::create_new_namespace);
exit_twin!(
    create_new_namespace_fexit_twin,
    2,
    ops::create_new_namespace_ret
);
exit!(
    kernel_clone_fexit,
    kernel_clone_kretprobe,
    1,
    ops::kernel_clone_ret
);
entry!(ksys_unshare_fentry, ksys_unshare_kprobe, ops::ksys_unshare);
exit!(
    ksys_unshare_fexit,
    ksys_unshare_kretprobe,
    1,
    ops::ksys_unshare_ret
);
entry!(sys_setns_fentry, sys_setns_kprobe, ops::sys_setns);
exit!(sys_setns_fexit, sys_setns_kretprobe, 1, ops::sys_setns_ret);
entry!(
    create_new_namespace_fentry,
    create_new_namespace_kprobe,
    ops::create_new_namespace
);
exit!(
    create_new_namespace_fexit,
    create_new_namespace_kretprobe,
    2,
    ops::create_new_namespace_ret
);

exit!(
    copy_namespaces_fexit,
    copy_namespaces_kretprobe,
    2,
    stages::copy_namespaces_ret
);
entry!(
    create_new_namespaces_fentry,
    create_new_namespaces_kprobe,
    stages::create_new_namespaces
);
exit!(
    create_user_ns_fexit,
    create_user_ns_kretprobe,
    1,
    stages::create_user_ns_ret
);
exit!(
    security_create_user_ns_fexit,
    security_create_user_ns_kretprobe,
    1,
    stages::security_create_user_ns_ret
);
entry!(inc_ucount_fentry, inc_ucount_kprobe, stages::inc_ucount);
exit!(
    alloc_pid_fexit,
    alloc_pid_kretprobe,
    3,
    stages::alloc_pid_ret
);
entry!(
    switch_task_namespaces_fentry,
    switch_task_namespaces_kprobe,
    stages::switch_task_namespaces
);

entry!(mntns_install_fentry, mntns_install_kprobe, |c| {
    stages::install(c, Kind::Mnt)
});
entry!(utsns_install_fentry, utsns_install_kprobe, |c| {
    stages::install(c, Kind::Uts)
});
entry!(ipcns_install_fentry, ipcns_install_kprobe, |c| {
    stages::install(c, Kind::Ipc)
});
entry!(pidns_install_fentry, pidns_install_kprobe, |c| {
    stages::install(c, Kind::Pid)
});
entry!(netns_install_fentry, netns_install_kprobe, |c| {
    stages::install(c, Kind::Net)
});
entry!(userns_install_fentry, userns_install_kprobe, |c| {
    stages::install(c, Kind::User)
});
entry!(cgroupns_install_fentry, cgroupns_install_kprobe, |c| {
    stages::install(c, Kind::Cgroup)
});
entry!(timens_install_fentry, timens_install_kprobe, |c| {
    stages::install(c, Kind::Time)
});

entry!(
    umount_tree_fentry,
    umount_tree_kprobe,
    place::umount_tree
);
entry!(
    cleanup_mnt_fentry,
    cleanup_mnt_kprobe,
    unbalanced::cleanup_mnt
);
entry!(
    delayed_free_pidns_fentry,
    delayed_free_pidns_kprobe,
    lives::delayed_free_pidns
);
entry!(
    proc_free_inum_fentry,
    proc_free_inum_kprobe,
    lives::proc_free_inum
);
entry!(
    __ns_tree_remove_fentry,
    __ns_tree_remove_kprobe,
    lives::ns_tree_remove
);

#[fentry]
fn proc_free_inum_fentry_twin(context: FEntryContext) -> u32 {
    say!(context, proc_free_inum_fentry_twin);
    lives::proc_free_inum_twin(&context);
    0
}

#[fentry]
fn __ns_tree_remove_fentry_twin(context: FEntryContext) -> u32 {
    say!(context, __ns_tree_remove_fentry_twin);
    lives::ns_tree_remove_twin(&context);
    0
}

#[btf_tracepoint]
fn sched_process_fork(context: BtfTracePointContext) -> i32 {
    ops::forked::<Typed>(task(context.arg(1)));
    0
}

#[btf_tracepoint]
fn sched_process_exit(context: BtfTracePointContext) -> i32 {
    tasks::exits::<Typed>(task(context.arg(0)));
    0
}

#[btf_tracepoint]
fn sched_process_free(context: BtfTracePointContext) -> i32 {
    tasks::freed::<Typed>(task(context.arg(0)));
    0
}

#[btf_tracepoint]
fn sched_process_exec(context: BtfTracePointContext) -> i32 {
    tasks::executes::<Typed>(task(context.arg(0)), context.arg(1));
    0
}

#[btf_tracepoint]
fn task_rename(context: BtfTracePointContext) -> i32 {
    tasks::renamed::<Typed>(task(context.arg(0)), context.arg(1));
    0
}

#[btf_tracepoint]
fn cgroup_attach_task(context: BtfTracePointContext) -> i32 {
    tasks::attached::<Typed>(context.arg(0), task(context.arg(2)));
    0
}

#[btf_tracepoint]
fn cgroup_mkdir(context: BtfTracePointContext) -> i32 {
    lives::cgroup_made(context.arg(0), context.arg(1));
    0
}
