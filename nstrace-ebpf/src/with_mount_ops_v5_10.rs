//! The kernel side of nstrace with mount operations for Linux 5.10; `main.rs` is about the
//! difference.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

/// Whether bpf_get_current_task_btf is there: `main.rs`.
const TASK_BTF: bool = false;

include!("modules.rs");
mod mount_op_probes;
mod mount_ops;
