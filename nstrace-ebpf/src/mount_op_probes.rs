//! The programs of mount operations, as those of `probes.rs`.

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use nstrace_common::mount_ops::Call;

use crate::{
    mount_ops::{self, way},
    read::Fexit,
};

entry!(clone_mnt_fentry, clone_mnt_kprobe, way::clone_mnt);
exit!(
    alloc_vfsmnt_fexit,
    alloc_vfsmnt_kretprobe,
    1,
    way::alloc_vfsmnt_ret
);
entry!(vfs_get_tree_fentry, vfs_get_tree_kprobe, way::vfs_get_tree);
exit!(
    vfs_get_tree_fexit,
    vfs_get_tree_kretprobe,
    1,
    way::vfs_get_tree_ret
);
entry!(
    reconfigure_super_fentry,
    reconfigure_super_kprobe,
    way::reconfigure_super
);
entry!(
    propagate_mnt_fentry,
    propagate_mnt_kprobe,
    way::propagate_mnt
);
exit!(
    propagate_mnt_fexit,
    propagate_mnt_kretprobe,
    4,
    way::propagate_mnt_ret
);
entry!(
    propagate_umount_fentry,
    propagate_umount_kprobe,
    way::propagate_umount
);
exit!(
    propagate_umount_fexit,
    propagate_umount_kretprobe,
    1,
    way::propagate_umount_ret
);
entry!(path_mount_fentry, path_mount_kprobe, way::path_mount);
entry!(path_umount_fentry, path_umount_kprobe, way::path_umount);
entry!(
    security_move_mount_fentry,
    security_move_mount_kprobe,
    way::security_move_mount
);
entry!(
    security_sb_pivotroot_fentry,
    security_sb_pivotroot_kprobe,
    way::security_sb_pivotroot
);
entry!(copy_mnt_ns_fentry, copy_mnt_ns_kprobe, way::copy_mnt_ns);
exit!(
    copy_mnt_ns_fexit,
    copy_mnt_ns_kretprobe,
    4,
    way::copy_mnt_ns_ret
);

/// A system call that is a mount operation.
macro_rules! mount_call {
    ($call:ident: $fentry:ident $kprobe:ident $fexit:ident $kretprobe:ident) => {
        entry!($fentry, $kprobe, |c| mount_ops::call(c, Call::$call));
        exit!($fexit, $kretprobe, 1, |c| mount_ops::call_ret(
            c,
            Call::$call
        ));
    };
}

mount_call!(Mount: sys_mount_fentry sys_mount_kprobe sys_mount_fexit sys_mount_kretprobe);
mount_call!(Umount: sys_umount_fentry sys_umount_kprobe sys_umount_fexit sys_umount_kretprobe);
mount_call!(PivotRoot: sys_pivot_root_fentry sys_pivot_root_kprobe sys_pivot_root_fexit sys_pivot_root_kretprobe);
mount_call!(MoveMount: sys_move_mount_fentry sys_move_mount_kprobe sys_move_mount_fexit sys_move_mount_kretprobe);
mount_call!(OpenTree: sys_open_tree_fentry sys_open_tree_kprobe sys_open_tree_fexit sys_open_tree_kretprobe);
mount_call!(OpenTreeAttr: sys_open_tree_attr_fentry sys_open_tree_attr_kprobe sys_open_tree_attr_fexit sys_open_tree_attr_kretprobe);
mount_call!(Fsmount: sys_fsmount_fentry sys_fsmount_kprobe sys_fsmount_fexit sys_fsmount_kretprobe);
mount_call!(MountSetattr: sys_mount_setattr_fentry sys_mount_setattr_kprobe sys_mount_setattr_fexit sys_mount_setattr_kretprobe);
mount_call!(Fsopen: sys_fsopen_fentry sys_fsopen_kprobe sys_fsopen_fexit sys_fsopen_kretprobe);
mount_call!(Fspick: sys_fspick_fentry sys_fspick_kprobe sys_fspick_fexit sys_fspick_kretprobe);
mount_call!(Fsconfig: sys_fsconfig_fentry sys_fsconfig_kprobe sys_fsconfig_fexit sys_fsconfig_kretprobe);
