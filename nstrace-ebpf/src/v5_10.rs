//! The kernel side of nstrace for Linux 5.10; `main.rs` is about the difference.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

/// Whether bpf_get_current_task_btf is there: it is from v5.11.
const TASK_BTF: bool = false;

include!("modules.rs");
include!("no_mount_ops.rs");
