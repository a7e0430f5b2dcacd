//! The mounts of mount namespaces: which there are, how they hang together, which namespaces
//! have copies, and what keeps them.
//!
//! All of this is pure. [`crate::kernel::mounts`] fills a [`Mounts`] from statmount(2) or from
//! the text of mountinfo ([`info`]), which come to the same; [`crate::render`] prints it.
//!
//! # What mounts are known by
//!
//! A mount has an id that others get when it is gone ([`Mount::id`], that of mountinfo and of
//! `/proc/PID/fdinfo`), and from Linux 6.8 one that no other ever has ([`Mount::unique`]). At
//! one moment no two mounts have the same id, in whatever namespaces they are: an open file's
//! id says which copy of a mount it is open through ([`Mounts::by_id`]).
//!
//! What of a mount is seen is what a task at the root of its namespace sees. The kernel's own
//! root below that (rootfs, and nullfs from v7.0) is not.

mod births;
mod copies;
pub mod info;
mod order;
mod place;
mod propagation;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod uses;
pub mod who;

use std::{fmt, str::FromStr, sync::Arc};

use foldhash::{HashMap, HashSet};

pub use self::{
    births::{Birth, Births, Origin, Origins},
    copies::Copies,
    order::{Placed, order},
    place::{FsPath, covering, on, point},
    propagation::Receives,
};

/// A name that many mounts have in common. The traced chose it: it may hold any byte.
pub type Name = Arc<[u8]>;

/// Names, each of them once: a hundred thousand mounts have a few hundred.
#[derive(Debug, Default)]
pub struct Names(HashSet<Name>);

impl Names {
    /// The name of these bytes.
    pub fn get(&mut self, bytes: &[u8]) -> Name {
        if let Some(name) = self.0.get(bytes) {
            return Arc::clone(name);
        }
        let name = Name::from(bytes);
        self.0.insert(Arc::clone(&name));
        name
    }
}

/// What a file system is known by: major and minor number of its super block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// 0 if it is on no block device.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// It is no device: `MAJOR:MINOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoDevice;

impl FromStr for Device {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Device, NoDevice> {
        let (major, minor) = text.split_once(':').ok_or(NoDevice)?;
        let number = |text: &str| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| is_number).ok_or(NoDevice)
        };
        Ok(Device {
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, which another one gets when it is gone.
    pub id: u32,
    /// Its id, which no other has while the machine is up; 0 if it is not known, as before
    /// v6.8.
    pub unique: u64,
    /// The id of the mount that it is mounted on.
    pub parent: u32,
    /// Its file system.
    pub device: Device,
    /// The type of that: `ext4`, `fuse.sshfs`.
    pub fs: Name,
    /// What that was made of: a device, a server, or any word.
    pub source: Name,
    /// Which part of it is mounted, as a path in it.
    pub root: Name,
    /// Where, as a path from the root of the namespace.
    pub point: Name,
    /// `rw` or `ro`, then `nosuid`, …: as mountinfo lists them.
    pub options: Name,
    /// Those of the file system, in which commas are escaped as `\054`.
    pub super_options: Name,
    /// Its peer group, if it is shared; else 0.
    pub group: u32,
    /// The peer group that it is a slave of; else 0.
    pub master: u32,
    /// The nearest group above that which has a mount in this namespace, if the master has
    /// none; else 0.
    pub from: u32,
    /// Whether it may not be bound to another place.
    pub unbindable: bool,
}

impl Mount {
    /// Whether it is neither in a peer group nor slave of one.
    pub fn is_private(&self) -> bool {
        self.group == 0 && self.master == 0
    }
}

/// How well the mounts of a namespace are seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// All of them.
    #[default]
    Whole,
    /// Those below the root of its tasks, which is not that of the namespace.
    Below,
    /// None, since it cannot be entered or read: why, in words.
    None(String),
}

/// A mount namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountNs {
    /// Its number.
    pub inum: u32,
    /// Its id, which no other has while the machine is up; 0 if it is not known, as before
    /// v6.11.
    pub id: u64,
    /// How well it is seen.
    pub sight: Sight,
    /// Its mounts, in the order in which the kernel has them: from v6.8 that of their births.
    pub mounts: Vec<Mount>,
}

/// How mounts were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// By statmount(2).
    Statmount,
    /// From the text of mountinfo.
    #[default]
    Mountinfo,
}

impl Way {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Way::Statmount => "statmount",
            Way::Mountinfo => "mountinfo",
        }
    }
}

/// Which mount of [`Mounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountKey {
    /// Of which of the namespaces.
    pub ns: usize,
    /// Which of its mounts.
    pub mount: usize,
}

/// The mounts of all mount namespaces.
#[derive(Clone, Debug, Default)]
pub struct Mounts {
    /// How they were read.
    pub way: Way,
    /// The namespaces, in the order in which they are shown.
    pub namespaces: Vec<MountNs>,
    by_id: HashMap<u32, MountKey>,
    devices: HashSet<Device>,
}

impl Mounts {
    /// Those of these namespaces.
    pub fn new(way: Way, mut namespaces: Vec<MountNs>) -> Mounts {
        propagation::complete(&mut namespaces);
        let mut mounts = Mounts {
            way,
            namespaces,
            ..Mounts::default()
        };
        for (ns, table) in mounts.namespaces.iter().enumerate() {
            for (mount, one) in table.mounts.iter().enumerate() {
                mounts.by_id.insert(one.id, MountKey { ns, mount });
                mounts.devices.insert(one.device);
            }
        }
        mounts
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (MountKey, &Mount)> {
        let namespaces = self.namespaces.iter().enumerate();
        namespaces.flat_map(|(ns, table)| {
            let mounts = table.mounts.iter().enumerate();
            mounts.map(move |(mount, one)| (MountKey { ns, mount }, one))
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.namespaces.iter().map(|ns| ns.mounts.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    pub fn get(&self, key: MountKey) -> Option<&Mount> {
        self.namespaces.get(key.ns)?.mounts.get(key.mount)
    }

    /// That which has this id.
    pub fn by_id(&self, id: u32) -> Option<MountKey> {
        self.by_id.get(&id).copied()
    }

    /// Whether a file system is mounted in one of the namespaces.
    pub fn has_device(&self, device: Device) -> bool {
        self.devices.contains(&device)
    }

    /// The namespace of that number.
    pub fn namespace(&self, inum: u32) -> Option<usize> {
        self.namespaces.iter().position(|ns| ns.inum == inum)
    }
}
