//! What the kernel side and the user side of nstrace agree on, and nothing else:
//! the records that cross the ring buffers ([`wire`]), the probes and the kernel
//! functions they sit on ([`probe`]), the kernel struct members that are read
//! ([`field`]) and how their offsets get into the programs ([`patch`]). Apart stand what
//! concerns mount operations ([`mount_ops`]) and write access to mounts ([`writers`]).
//!
//! One place, so that neither side can drift: a layout is proven by its size
//! asserts at compile time, a probe is one row, a member is one row.

#![no_std]

pub mod config;
pub mod field;
pub mod flags;
pub mod kind;
pub mod mount_ops;
pub mod numbers;
pub mod patch;
pub mod probe;
pub mod stalls;
pub mod wire;
pub mod writers;
