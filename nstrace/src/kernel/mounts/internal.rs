//! Files of the kernel's own: their mounts are in no namespace, and never were.

use std::{collections::HashSet, fs, os::fd::AsFd as _};

use super::sys;
use crate::mounts::Device;

/// File systems that the kernel mounts for itself alone: include/uapi/linux/magic.h.
const MAGICS: &[u64] = &[
    0x0904_1934, // anon_inode
    0x1980_0202, // mqueue: an ipc namespace has its instance
    0x444d_4142, // dma_buf
    0x454d_444d, // devmem
    0x474d_454d, // guest_memfd
    0x4e55_4c4c, // nullfs: the root of the kernel's threads from v7.0
    0x5049_5045, // pipefs
    0x5049_4446, // pidfs
    0x5345_434d, // secretmem
    0x534f_434b, // sockfs
    0x6264_6576, // bdev
    0x6e73_6673, // nsfs
    0xa10a_10a1, // aio
];

/// Names of types, where nothing but the number of it is told.
const NAMES: &[(u64, &str)] = &[
    (0x0000_1cd1, "devpts"),
    (0x0000_4d44, "vfat"),
    (0x0000_6969, "nfs"),
    (0x0000_9660, "iso9660"),
    (0x0000_9fa0, "proc"),
    (0x0000_ef53, "ext4"),
    (0x0027_e0eb, "cgroup"),
    (0x00c3_6400, "ceph"),
    (0x0102_1994, "tmpfs"),
    (0x0102_1997, "9p"),
    (0x0187, "autofs"),
    (0x2fc1_2fc1, "zfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x5846_5342, "xfs"),
    (0x6265_6572, "sysfs"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x6573_5546, "fuse"),
    (0x7371_7368, "squashfs"),
    (0x7363_6673, "securityfs"),
    (0x7472_6163, "tracefs"),
    (0x794c_7630, "overlay"),
    (0x8584_58f6, "ramfs"),
    (0x9123_683e, "btrfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xcafe_4a11, "bpf"),
    (0xe0f5_e1e2, "erofs"),
    (0xf2f5_2010, "f2fs"),
    (0xfe53_4d42, "cifs"),
    (0xff53_4d42, "cifs"),
];

/// File systems in memory.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x9584_58f6];

/// Mounts of the kernel's own.
#[derive(Clone, Debug, Default)]
pub struct Internal {
    mounts: HashSet<u32>,
    devices: HashSet<Device>,
}

impl Internal {
    /// Learns those that programs get files of: memory without a name, also shared by
    /// System V's calls, of pages of each size.
    pub fn new() -> Internal {
        let mut internal = Internal::default();
        let sizes = fs::read_dir("/sys/kernel/mm/hugepages");
        let sizes = sizes.into_iter().flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kb = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
            kb.parse::<u64>().ok()?.checked_mul(1024)
        });
        for size in sizes.map(Some).chain([None]) {
            let stat = sys::memfd(size).and_then(|memory| sys::stat(memory.as_fd(), c""));
            if let Ok(stat) = stat {
                internal.mounts.insert(stat.mount);
                internal.devices.insert(stat.device);
            }
        }
        internal
    }

    /// Whether a mount is one of them.
    pub fn has(&self, mount: u32) -> bool {
        self.mounts.contains(&mount)
    }

    /// Whether a file system is one of theirs, as far as that can be told without a look at
    /// the file.
    pub fn has_device(&self, device: Device, path: &[u8]) -> bool {
        let others: [&[u8]; 4] = [b"/[aio]", b"/secretmem", b"/dmabuf:", b"/drm mm object"];
        let is_gone = path.ends_with(b" (deleted)");
        self.devices.contains(&device)
            || (is_gone && others.iter().any(|name| path.starts_with(name)))
    }

    /// Whether all file systems of a type are.
    pub fn has_magic(magic: u64) -> bool {
        MAGICS.contains(&magic)
    }
}

/// The name of a type of file systems.
pub fn type_name(magic: u64) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == magic);
    known.map_or_else(
        || format!("type {magic:#x}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Whether what such a file system has takes memory.
pub fn is_in_memory(magic: u64) -> bool {
    IN_MEMORY.contains(&magic)
}
