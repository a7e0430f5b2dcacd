//! Asks the kernel whether a number of namespaces is in use (the kernel side's
//! `numbers.rs`): the last word on one that is known, and was not found.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{Ebpf, programs::RawTracePoint};
use nstrace_common::{numbers::FREE, wire::FIRST_INUM};

use super::symbols::address;

/// The program that answers.
const PROGRAM: &str = "number_in_use";

/// The allocator of the numbers (fs/proc/generic.c).
const ALLOCATOR: &str = "proc_inum_ida";

/// Where the answers come from.
#[derive(Debug)]
pub struct Numbers {
    allocator: u64,
}

impl Numbers {
    /// Loads the program. None where the kernel does not say where the allocator is
    /// (kernel.kptr_restrict=2, or built without CONFIG_KALLSYMS_ALL), or cannot run it
    /// (before v5.10): then it stays unknown.
    pub fn new(bpf: &mut Ebpf) -> Option<Numbers> {
        let allocator = address(ALLOCATOR).ok().flatten()?;
        let program: &mut RawTracePoint = bpf.program_mut(PROGRAM)?.try_into().ok()?;
        program.load().ok()?;
        Some(Numbers { allocator })
    }

    /// Whether nothing has a number. False if that cannot be told, too.
    pub fn is_free(&self, bpf: &Ebpf, inum: u32) -> bool {
        let Some(number) = inum.checked_sub(FIRST_INUM) else {
            return false;
        };
        let answer = run(bpf, PROGRAM, [self.allocator, number.into()]);
        answer == Some(FREE)
    }
}

/// Runs a program that is attached nowhere: what it returns.
pub(super) fn run(bpf: &Ebpf, program: &str, args: [u64; 2]) -> Option<i32> {
    /// `BPF_PROG_TEST_RUN` of include/uapi/linux/bpf.h, and the part of `union bpf_attr`
    /// that it reads.
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    #[repr(C)]
    struct TestRun {
        program: u32,
        result: i32,
        data_size: [u32; 2],
        data: [u64; 2],
        repeat: u32,
        duration: u32,
        context_size: [u32; 2],
        context: [u64; 2],
        flags: u32,
        cpu: u32,
    }
    let program: &RawTracePoint = bpf.program(program)?.try_into().ok()?;
    let mut attr = TestRun {
        program: program.fd().ok()?.as_fd().as_raw_fd().cast_unsigned(),
        result: 0,
        data_size: [0; 2],
        data: [0; 2],
        repeat: 0,
        duration: 0,
        context_size: [size_of_val(&args) as u32, 0],
        context: [args.as_ptr() as u64, 0],
        flags: 0,
        cpu: 0,
    };
    // SAFETY: the arguments live through the call, which writes the result alone.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attr,
            size_of::<TestRun>(),
        )
    };
    (ret == 0).then_some(attr.result)
}
