//! The running kernel: the only place that knows aya, `/proc` and `/sys`.

mod asked;
pub mod clock;
#[cfg(feature = "debug")]
pub mod debug;
pub mod error;
pub mod facts;
pub mod kmsg;
pub mod load;
pub mod mounts;
mod numbers;
pub mod plan;
pub mod reader;
mod shared;
pub mod snapshot;
pub mod stacks;
pub mod stall;
pub mod symbols;
pub mod writers;

pub use error::KernelError;
