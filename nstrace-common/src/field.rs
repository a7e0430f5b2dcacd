//! The kernel struct members that the kernel side reads.
//!
//! rustc emits no CO-RE relocations, so user space looks each of these up in the
//! running kernel's BTF when it loads, and writes the offsets into the instructions
//! that need them ([`crate::patch`]). A rename is an alternative in the row. Zero is a
//! valid offset; a missing member is [`MISSING`].

/// The offset of a member that this kernel does not have.
pub const MISSING: u32 = u32::MAX;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $strukt:literal, [$($path:literal),+], $need:ident;)*) => {
        /// A member, by what it is for. The discriminant is its index in the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[allow(missing_docs, reason = "each is the member that its row names")]
        pub enum Field { $($(#[$doc])* $name),* }

        /// The members as types: what an instruction is to be about is known when it is
        /// compiled.
        pub mod member {
            use super::{Field, Member};
            $(
                #[doc = concat!("`", $strukt, "`: ", stringify!($($path),+))]
                #[derive(Clone, Copy, Default)]
                pub struct $name;
                impl Member for $name {
                    const FIELD: Field = Field::$name;
                }
            )*
        }

        /// Every member, by [`Field`].
        pub const FIELDS: &[FieldRow] = &[$(FieldRow {
            field: Field::$name,
            strukt: $strukt,
            paths: &[$($path),+],
            need: Need::$need,
        }),*];
    };
}

/// Where a member is to be found.
#[derive(Clone, Copy, Debug)]
pub struct FieldRow {
    /// What it is for.
    pub field: Field,
    /// The struct.
    pub strukt: &'static str,
    /// Paths of members, dotted, in order of preference: the first that exists
    /// counts. `#` before a path asks for the size of the member, of one element
    /// if it is an array.
    pub paths: &'static [&'static str],
    /// Whether nstrace can work without it.
    pub need: Need,
}

/// A member as a type.
pub trait Member: Copy + Default {
    /// Which it is.
    const FIELD: Field;
}

/// Whether nstrace can work without a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Not at all.
    Required,
    /// It loses a detail.
    Optional,
}

fields! {
    TaskNsproxy = "task_struct", ["nsproxy"], Required;
    TaskCred = "task_struct", ["cred"], Required;
    TaskPid = "task_struct", ["pid"], Required;
    TaskTgid = "task_struct", ["tgid"], Required;
    TaskThreadPid = "task_struct", ["thread_pid"], Required;
    TaskComm = "task_struct", ["comm"], Required;
    TaskStart = "task_struct", ["start_time"], Optional;
    TaskCgroups = "task_struct", ["cgroups"], Optional;
    TaskExitCode = "task_struct", ["exit_code"], Optional;
    TaskSignal = "task_struct", ["signal"], Optional;
    TaskFs = "task_struct", ["fs"], Optional;
    TaskStack = "task_struct", ["stack"], Optional;
    SignalThreads = "signal_struct", ["nr_threads"], Optional;
    FsUsers = "fs_struct", ["users"], Optional;
    FsRootMnt = "fs_struct", ["root.mnt"], Optional;
    FsRootDentry = "fs_struct", ["root.dentry"], Optional;
    VfsmountRoot = "vfsmount", ["mnt_root"], Optional;
    VfsmountSb = "vfsmount", ["mnt_sb"], Optional;
    VfsmountFlags = "vfsmount", ["mnt_flags"], Optional;
    MountMnt = "mount", ["mnt"], Optional;
    MountParent = "mount", ["mnt_parent"], Optional;
    MountPoint = "mount", ["mnt_mountpoint"], Optional;
    MountId = "mount", ["mnt_id"], Optional;
    /// From v6.8.
    MountUnique = "mount", ["mnt_id_unique"], Optional;
    MountNs = "mount", ["mnt_ns"], Optional;
    MountDevname = "mount", ["mnt_devname"], Optional;
    MountPcp = "mount", ["mnt_pcp"], Optional;
    MountMounts = "mount", ["mnt_mounts"], Optional;
    MountChild = "mount", ["mnt_child"], Optional;
    PcpWriters = "mnt_pcp", ["mnt_writers"], Optional;
    PcpGets = "mnt_pcp", ["mnt_count", "mnt_gets"], Optional;
    /// From v7.2; before, those that were given back are subtracted there.
    PcpPuts = "mnt_pcp", ["mnt_puts"], Optional;
    SbDev = "super_block", ["s_dev"], Optional;
    SbType = "super_block", ["s_type"], Optional;
    FsTypeName = "file_system_type", ["name"], Optional;
    ContextType = "fs_context", ["fs_type"], Optional;
    ContextSource = "fs_context", ["source"], Optional;
    ContextRoot = "fs_context", ["root"], Optional;
    DentryParent = "dentry", ["d_parent"], Optional;
    DentryName = "dentry", ["d_name.name", "__d_name.name"], Optional;
    DentryInode = "dentry", ["d_inode"], Optional;
    DentrySb = "dentry", ["d_sb"], Optional;
    InodeNumber = "inode", ["i_ino"], Optional;
    PathMnt = "path", ["mnt"], Optional;
    PathDentry = "path", ["dentry"], Optional;
    TaskFiles = "task_struct", ["files"], Optional;
    FilesTable = "files_struct", ["fdt"], Optional;
    TableFiles = "fdtable", ["fd"], Optional;
    TableMost = "fdtable", ["max_fds"], Optional;
    FileMode = "file", ["f_mode"], Optional;
    FileMnt = "file", ["f_path.mnt", "__f_path.mnt"], Optional;
    FileDentry = "file", ["f_path.dentry", "__f_path.dentry"], Optional;
    MntNsRoot = "mnt_namespace", ["root"], Optional;
    CredUserNs = "cred", ["user_ns"], Required;
    CredUid = "cred", ["uid"], Required;
    CredCapEffective = "cred", ["cap_effective"], Required;
    NsproxyUts = "nsproxy", ["uts_ns"], Required;
    NsproxyIpc = "nsproxy", ["ipc_ns"], Required;
    NsproxyMnt = "nsproxy", ["mnt_ns"], Required;
    NsproxyPid = "nsproxy", ["pid_ns_for_children"], Required;
    NsproxyNet = "nsproxy", ["net_ns"], Required;
    NsproxyCgroup = "nsproxy", ["cgroup_ns"], Required;
    NsproxyTime = "nsproxy", ["time_ns_for_children"], Optional;
    UtsInum = "uts_namespace", ["ns.inum"], Required;
    IpcInum = "ipc_namespace", ["ns.inum"], Required;
    MntInum = "mnt_namespace", ["ns.inum"], Required;
    PidInum = "pid_namespace", ["ns.inum"], Required;
    NetInum = "net", ["ns.inum"], Required;
    UserInum = "user_namespace", ["ns.inum"], Required;
    CgroupInum = "cgroup_namespace", ["ns.inum"], Required;
    /// The time namespace that a task is in itself.
    NsproxyTimeNow = "nsproxy", ["time_ns"], Optional;
    TimeInum = "time_namespace", ["ns.inum"], Optional;
    /// The ids are from v6.18.
    UtsId = "uts_namespace", ["ns.ns_id"], Optional;
    IpcId = "ipc_namespace", ["ns.ns_id"], Optional;
    MntId = "mnt_namespace", ["ns.ns_id"], Optional;
    PidId = "pid_namespace", ["ns.ns_id"], Optional;
    NetId = "net", ["ns.ns_id"], Optional;
    UserId = "user_namespace", ["ns.ns_id"], Optional;
    CgroupId = "cgroup_namespace", ["ns.ns_id"], Optional;
    TimeId = "time_namespace", ["ns.ns_id"], Optional;
    NsInum = "ns_common", ["inum"], Required;
    NsId = "ns_common", ["ns_id"], Optional;
    /// From v6.18: a `CLONE_NEW*` value.
    NsType = "ns_common", ["ns_type"], Optional;
    /// Its `mounts` is a count up to v6.7, an rb_root from v6.8 on: the count's new
    /// name comes first.
    MntCount = "mnt_namespace", ["nr_mounts", "mounts"], Optional;
    PidLevel = "pid", ["level"], Required;
    PidNumbers = "pid", ["numbers"], Required;
    PidNsLevel = "pid_namespace", ["level"], Required;
    PidNsParent = "pid_namespace", ["parent"], Required;
    PidNsRcu = "pid_namespace", ["rcu"], Optional;
    PidNsAllocated = "pid_namespace", ["pid_allocated"], Optional;
    UserLevel = "user_namespace", ["level"], Optional;
    UserParent = "user_namespace", ["parent"], Required;
    UserOwner = "user_namespace", ["owner"], Required;
    UserUcounts = "user_namespace", ["ucounts"], Optional;
    UserUcountMax = "user_namespace", ["ucount_max"], Optional;
    UserUcountMaxSize = "user_namespace", ["#ucount_max"], Optional;
    UserUidMap = "user_namespace", ["uid_map.nr_extents"], Optional;
    UserGidMap = "user_namespace", ["gid_map.nr_extents"], Optional;
    UcountsCount = "ucounts", ["ucount"], Optional;
    UcountsCountSize = "ucounts", ["#ucount"], Optional;
    UtsOwner = "uts_namespace", ["user_ns"], Optional;
    IpcOwner = "ipc_namespace", ["user_ns"], Optional;
    MntOwner = "mnt_namespace", ["user_ns"], Optional;
    PidOwner = "pid_namespace", ["user_ns"], Optional;
    NetOwner = "net", ["user_ns"], Optional;
    CgroupOwner = "cgroup_namespace", ["user_ns"], Optional;
    TimeOwner = "time_namespace", ["user_ns"], Optional;
    CloneFlags = "kernel_clone_args", ["flags"], Required;
    CgroupKn = "cgroup", ["kn"], Optional;
    CgroupRoot = "cgroup", ["root"], Optional;
    CgroupRootHierarchy = "cgroup_root", ["hierarchy_id"], Optional;
    CssSetDefault = "css_set", ["dfl_cgrp"], Optional;
    KernfsId = "kernfs_node", ["id"], Optional;
    IdaHead = "ida", ["xa.xa_head"], Optional;
    NodeShift = "xa_node", ["shift"], Optional;
    NodeSlots = "xa_node", ["slots"], Optional;
}

/// How many members there are.
pub const FIELDS_LEN: usize = FIELDS.len();

/// An offset (or size) for each [`Field`].
pub type Offsets = [u32; FIELDS_LEN];
