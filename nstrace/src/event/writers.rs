//! Events about the writers of mounts: what the kernel warns of, mounts that die with writers,
//! and the ledger of write access.

use nstrace_common::writers::{MountRecord, PATH, Site};

/// A warning of the kernel, as it is in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning<'a> {
    /// `CLOCK_MONOTONIC`, ns, when it was read there.
    pub time: u64,
    /// The line of the source: `fs/namespace.c:1370`.
    pub place: &'a [u8],
    /// Where in which function: `cleanup_mnt+0x130/0x150`, with the module if it is of one.
    pub function: &'a [u8],
    /// The thread, by its id in the first pid namespace.
    pub tid: u32,
    /// Its name; empty if that is not known.
    pub comm: &'a [u8],
    /// The kernel stack, as of [`Mount`], as far as it is known.
    pub stack: &'a [u8],
}

impl<'a> Warning<'a> {
    /// The name of the function alone.
    pub fn function_name(&self) -> &'a [u8] {
        let end = self.function.iter().position(|byte| *byte == b'+');
        &self.function[..end.unwrap_or(self.function.len())]
    }
}

/// A mount.
#[derive(Clone, Copy, Debug)]
pub struct Mount<'a> {
    /// What the kernel side found, but for the stack: what is no text ends by a NUL.
    pub record: &'a MountRecord,
    /// The kernel stack at its death, a line for each frame, the innermost first:
    /// `FUNCTION+0xOFFSET [MODULE]`, or an address.
    pub stack: &'a [u8],
}

impl<'a> Mount<'a> {
    /// Its root, from the root of the file system.
    pub fn root(&self) -> Vec<u8> {
        path(&self.record.root)
    }

    /// Where it is mounted, from the root of its namespace; empty if it is not, or not any
    /// more.
    pub fn point(&self) -> Vec<u8> {
        match self.record.ns {
            0 => Vec::new(),
            _ => path(&self.record.point),
        }
    }

    /// What tells it from all others.
    pub fn key(&self) -> MountKey {
        MountKey {
            address: self.record.address,
            since: self.record.since,
        }
    }

    /// The frames of its stack.
    pub fn frames(&self) -> impl Iterator<Item = &'a [u8]> {
        frames(self.stack)
    }
}

/// The lines of a stack.
pub fn frames(stack: &[u8]) -> impl Iterator<Item = &[u8]> {
    stack
        .split(|byte| *byte == b'\n')
        .filter(|frame| !frame.is_empty())
}

/// The path of names that stand the last first, each ended by a NUL.
fn path(names: &[u8; PATH]) -> Vec<u8> {
    let names = names.split(|byte| *byte == 0);
    let mut names: Vec<&[u8]> = names.take_while(|name| !name.is_empty()).collect();
    names.reverse();
    let path: Vec<u8> = names
        .iter()
        .flat_map(|name| [b"/", *name].concat())
        .collect();
    match path.is_empty() {
        true => b"/".to_vec(),
        false => path,
    }
}

/// A mount whose write access is watched. An address is used again, so the time belongs to
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountKey {
    /// The address of its `struct mount`.
    pub address: u64,
    /// `CLOCK_MONOTONIC` in ns, from when on it is watched; 0 if it is not.
    pub since: u64,
}

/// Write access to a mount was taken, or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<'a> {
    /// `CLOCK_MONOTONIC`, ns: the first.
    pub time: u64,
    /// Of which mount.
    pub mount: MountKey,
    /// Which function did it.
    pub site: Site,
    /// What [`Balance`] names it by.
    pub number: u32,
    /// Whether the stack is deeper than is told.
    pub is_cut: bool,
    /// The kernel stack from who called that function on, a line for each frame, as
    /// [`Mount::stack`].
    pub stack: &'a [u8],
}

/// How often write access was taken or given back with one stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// `CLOCK_MONOTONIC`, ns.
    pub time: u64,
    /// [`Access::number`].
    pub number: u32,
    /// From the beginning on.
    pub count: u64,
}

/// Accesses that are in no balance, from the beginning on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfiled {
    /// `CLOCK_MONOTONIC`, ns.
    pub time: u64,
    /// There was no room for their mounts.
    pub mounts: u64,
    /// There was no room for them.
    pub accesses: u64,
    /// Their stacks could not be told; these are in a balance without one.
    pub stacks: u64,
    /// Deaths of mounts that were not told.
    pub deaths: u64,
    /// The kernel skipped the program that counts.
    pub skipped: u64,
}
