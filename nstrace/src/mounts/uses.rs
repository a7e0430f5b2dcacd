//! Who uses mounts: tasks, by what they have open, mapped, or stand on.
//!
//! What many processes have of one file system is more than anybody reads, or memory holds: of
//! each task and mount the first few files are kept, and how many there are.

use foldhash::{HashMap, HashSet};

use super::{Device, Mounts, Name};

/// In what way a file is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// It is the working directory.
    Cwd,
    /// It is the root, and not that of the namespace.
    Root,
    /// It is the program that runs.
    Exe,
    /// It is open, by that descriptor.
    Open(u32),
    /// It is mapped into memory.
    Mapped,
    /// A socket of that descriptor is bound to it.
    Socket(u32),
    /// It is a block device that is open by that descriptor.
    Block(u32),
}

/// A file that a task uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The process, and the task by which it was found.
    pub pid: u32,
    /// Another than the process if a thread has files or directories of its own.
    pub tid: u32,
    /// How it is used.
    pub how: How,
    /// The id of the mount that it is used through; 0 if it is not known.
    pub mount: u32,
    /// Its file system; of a block device, that device.
    pub device: Device,
    /// Its path, as `/proc` tells it.
    pub path: Name,
}

/// So many files of a kind are named of a task and a mount.
const NAMED: usize = 4;

/// What a task uses of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The process.
    pub pid: u32,
    /// The task; that of the process, but for threads with files or directories of their own.
    pub tid: u32,
    /// The id of the mount; 0 if it is not known.
    pub mount: u32,
    /// The file system.
    pub device: Device,
    /// The first files of each kind.
    pub files: Vec<(How, Name)>,
    /// How many files are open, and how many mapped, that are not named.
    pub more: usize,
}

/// A mount that no namespace has, and that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// Its id.
    pub id: u32,
    /// Its id that no other has; 0 if it is not known.
    pub unique: u64,
    /// Its file system.
    pub device: Device,
    /// The type of that, if it can be told.
    pub fs: Name,
    /// How much memory the file system takes, if it is one that is in memory.
    pub bytes: Option<u64>,
}

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Files on these file systems.
    pub devices: HashSet<Device>,
    /// Files on these mounts alone, if it is not empty.
    pub mounts: HashSet<u32>,
    /// Files on these, too: they are mounted below,
    pub below: HashSet<u32>,
    /// and have these file systems.
    pub below_devices: HashSet<Device>,
    /// These block devices.
    pub blocks: HashSet<Device>,
    /// Files on mounts that no namespace has.
    pub orphans: bool,
    /// Whether mapped files must be asked for their mount, since their file system is told
    /// wrongly: up to v6.7 that of a file on an overlay is that of its layer (v6.8
    /// fs/proc/task_mmu.c, file_user_inode).
    pub asks_mapped: bool,
    /// Nothing but files that are open for writing, all of them: [`Uses::written`].
    pub written: bool,
}

/// Who uses what was looked for.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// In the order of their processes.
    pub uses: Vec<Use>,
    /// Mounts that no namespace has.
    pub detached: Vec<Detached>,
    /// Files that are open for writing, if these are looked for: of each task what it has
    /// open, and, once for each part of its memory, what is mapped.
    pub written: Vec<Found>,
    /// References to mounts that nobody is seen to use, by their ids, as far as they were asked
    /// for.
    pub held: HashMap<u32, u32>,
    /// Processes whose files may not be looked at.
    pub unseen: usize,
    /// Processes that could not be looked at since a file system did not answer.
    pub hung: Vec<u32>,
    /// How many processes were not looked at since there were too many of these.
    pub left_out: usize,
    known: HashMap<(u32, u32, Device), usize>,
    counted: HashSet<u32>,
}

impl Search {
    /// Whether a file of a mount that some namespace has is looked for.
    pub fn wants(&self, mount: u32, device: Device) -> bool {
        let is_meant = match self.mounts.is_empty() {
            true => self.devices.contains(&device),
            false => self.mounts.contains(&mount),
        };
        is_meant || self.below.contains(&mount)
    }

    /// The same of a mount that none has.
    pub fn wants_detached(&self, device: Device) -> bool {
        self.orphans || (self.mounts.is_empty() && self.devices.contains(&device))
    }
}

impl Uses {
    /// Adds a file.
    pub fn add(&mut self, found: Found) {
        let key = (found.tid, found.mount, found.device);
        let at = *self.known.entry(key).or_insert(self.uses.len());
        if at == self.uses.len() {
            self.uses.push(Use {
                pid: found.pid,
                tid: found.tid,
                mount: found.mount,
                device: found.device,
                files: Vec::new(),
                more: 0,
            });
        }
        let Some(entry) = self.uses.get_mut(at) else {
            return;
        };
        // A program that runs is mapped as well.
        let runs = |(how, path): &(How, Name)| *how == How::Exe && *path == found.path;
        if found.how == How::Mapped && entry.files.iter().any(runs) {
            return;
        }
        let is_like = |how: &How| std::mem::discriminant(how) == std::mem::discriminant(&found.how);
        let alike = entry.files.iter().filter(|(how, _)| is_like(how)).count();
        match alike < NAMED {
            true => entry.files.push((found.how, found.path)),
            false => entry.more += 1,
        }
    }

    /// Adds a mount that no namespace has.
    pub fn add_detached(&mut self, mount: Detached) {
        if !self.detached.iter().any(|known| known.id == mount.id) {
            self.detached.push(mount);
        }
    }

    /// Notes that the files of a process may not be looked at.
    pub fn add_unseen(&mut self, pid: u32) {
        self.unseen += usize::from(self.counted.insert(pid));
    }

    /// Who uses a mount, by its id.
    pub fn of_mount(&self, id: u32) -> impl Iterator<Item = &Use> {
        self.uses
            .iter()
            .filter(move |one| one.mount == id && id != 0)
    }

    /// Who uses something through a mount that is not known, or has it open as a block device.
    pub fn elsewhere(&self) -> impl Iterator<Item = &Use> {
        self.uses.iter().filter(|one| one.mount == 0)
    }
}

/// The mounts that the namespaces' roots are mounted on: the kernel's own, which nobody is to
/// see. Tasks of the kernel have their roots there.
pub fn below_roots(mounts: &Mounts) -> HashSet<u32> {
    let all = mounts.iter();
    let parents = all.map(|(_, mount)| mount.parent);
    parents.filter(|id| mounts.by_id(*id).is_none()).collect()
}
