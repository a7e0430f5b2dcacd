//! Programs of the kernel side that are attached nowhere: they are run for what they return.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{
    Ebpf,
    programs::{ProgramFd, RawTracePoint},
};

use super::{KernelError, error, load};

/// One of them, loaded.
#[derive(Debug)]
pub struct Asked(ProgramFd);

impl Asked {
    /// Loads the program of that name.
    pub fn load(bpf: &mut Ebpf, name: &'static str) -> Result<Asked, KernelError> {
        let program = bpf.program_mut(name);
        let program = program.unwrap_or_else(|| unreachable!("the object has {name}"));
        let loaded = <&mut RawTracePoint>::try_from(program).and_then(|program| {
            program.load()?;
            program.fd()
        });
        let fd = loaded.map_err(|error| match error::errno(&error) {
            Some(libc::EPERM) => error::refused(),
            Some(libc::EMFILE) => load::too_few_files(),
            _ => KernelError::Program(name, error::program(&error)),
        })?;
        fd.try_clone().map(Asked).map_err(|_| load::too_few_files())
    }

    /// Runs it: what it returns. None if the kernel cannot run it (before v5.10).
    pub fn run(&self, args: [u64; 2]) -> Option<i32> {
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
        let mut attr = TestRun {
            program: self.0.as_fd().as_raw_fd().cast_unsigned(),
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
}
