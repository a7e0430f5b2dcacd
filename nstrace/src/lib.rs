//! nstrace: what the Linux kernel does to namespaces, live.
//!
//! One way through: the kernel side's records become [`event::Event`]s ([`decode`]),
//! which are printed ([`render`]). Everything up to there is pure: no clock, no
//! `/proc`, no BPF. Only [`kernel`] knows the running kernel, and only [`cmd`] the
//! terminal.

pub mod btf;
pub mod cgroups;
pub mod cli;
pub mod cmd;
pub mod decode;
pub mod diff;
pub mod engines;
pub mod event;
pub mod explain;
pub mod export;
pub mod filter;
pub mod kernel;
pub mod lives;
pub mod moment;
pub mod mount_ops;
pub mod mounts;
pub mod names;
pub mod render;
pub mod report;
pub mod screen;
pub mod stages;
pub mod trace;
pub mod world;
pub mod writers;
