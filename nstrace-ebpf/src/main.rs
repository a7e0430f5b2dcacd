//! The kernel side of nstrace.
//!
//! An operation is gathered in a slot that belongs to the task from its beginning
//! to its end ([`slot`]), and leaves as one record ([`emit`]). The functions on the
//! way set a mark with a time, no more ([`stages`]): what the marks mean is for
//! user space to work out. Births, deaths and cgroups have a ring of their own
//! ([`lives`]), so that a flood of operations cannot push them out.
//!
//! Every probe exists twice, for fentry/fexit and for kprobe/kretprobe, as wrappers
//! of one handler ([`probes`]); what differs between the two is how an argument is
//! had and how memory behind it is read ([`read`]).
//!
//! There is a second object for kernels before v5.11 (`v5_10.rs`). A branch in each
//! place that reads the current task would do too; but the kernel removes what it does
//! not need one by one, and moves the rest of the program each time. And there is another
//! of each that tells of mount operations too (`with_mount_ops.rs`): to open an object takes
//! longer for each program in it.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

/// Whether bpf_get_current_task_btf is there, so that the current task can be read
/// without a helper for each member.
const TASK_BTF: bool = true;

include!("modules.rs");
include!("no_mount_ops.rs");
