//! What the kernel side is told when it is loaded. It is read-only from then on, so
//! the verifier takes each value for a constant and removes what it rules out: a
//! filter that is not set costs nothing.

use zerocopy::{Immutable, IntoBytes};

/// The settings of the kernel side.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Config {
    /// Flags that make a clone an operation.
    pub clone_mask: u64,
    /// Flags that make an unshare an operation.
    pub unshare_mask: u64,
    /// Report only operations at least this long, in ns.
    pub slower_than: u64,
    /// Report only tasks of this name; used if `comm_len` is not 0.
    pub comm: [u64; 2],
    /// Length of the name; 0 for any.
    pub comm_len: u32,
    /// Report operations whose bit `1 << Op` is set.
    pub ops: u32,
    /// Report operations on kinds whose bit `1 << Kind` is set.
    pub kinds: u32,
    /// Report only this process; 0 for any.
    pub pid: u32,
    /// Not 0: report only tasks in the map `TRACKED`, and put their children there.
    pub follow: u32,
    /// Not 0: `comm`, `ops`, `pid` or `follow` leaves something out.
    pub filters: u32,
    /// Not 0: `failed`, `slower_than` or `kinds` leaves something out.
    pub outcome: u32,
    /// Not 0: report only failures.
    pub failed: u32,
    /// A [`Tasks`].
    pub tasks: u32,
    /// Not 0: mount operations are told of. The kernel side does not ask: it is another object.
    pub mounts: u32,
}

/// Which tasks are told of beside operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tasks {
    /// None.
    None = 0,
    /// Births and exits of those below the first pid namespace.
    Below = 1,
    /// Everything that happens to any task and concerns the tree of namespaces.
    All = 2,
}

impl Config {
    /// Reports everything.
    pub const ALL: Config = Config {
        clone_mask: crate::flags::CLONE_NEW_ALL,
        unshare_mask: crate::flags::CLONE_NEW_ALL,
        slower_than: 0,
        comm: [0; 2],
        comm_len: 0,
        ops: u32::MAX,
        kinds: u32::MAX,
        pid: 0,
        follow: 0,
        filters: 0,
        outcome: 0,
        failed: 0,
        tasks: Tasks::Below as u32,
        mounts: 0,
    };

    /// Reports everything, and every task: what the tree of namespaces wants.
    pub const TREE: Config = Config {
        tasks: Tasks::All as u32,
        ..Config::ALL
    };
}

const _: () = assert!(size_of::<Config>() == 80);
