//! Where a recording was made, and how.

use serde::{Deserialize, Serialize};

/// The version of the format that this writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// The payload of the first block, as JSON. Members that are not known are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the format.
    pub version: u32,
    /// The version of nstrace that wrote it.
    pub nstrace: String,
    /// The name of the machine.
    pub host: String,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub arch: String,
    /// `/proc/sys/kernel/random/boot_id`: times of one boot can be compared.
    pub boot_id: String,
    /// When it began, `CLOCK_MONOTONIC` in ns.
    pub mono_ns: u64,
    /// What to add to that for the time of day (`CLOCK_REALTIME`), in ns.
    pub wall_offset_ns: i64,
    /// What became of each probe, as `nstrace doctor` has it.
    #[serde(default)]
    pub probes: Vec<String>,
    /// The command that was run for it.
    #[serde(default)]
    pub command: Vec<String>,
}
