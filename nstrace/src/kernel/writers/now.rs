//! How many writers a mount has now, of which nothing was watched, and how many references:
//! programs of the same object, attached nowhere, are run with a descriptor that is open on it.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::{Ebpf, programs::RawTracePoint};
use nstrace_common::writers::GONE;

use super::{
    super::{KernelError, error},
    OBJECT, functions, load, run,
};

/// The programs that tell it.
const WRITERS: &str = "descriptor_writers";
const REFERENCES: &str = "descriptor_references";

/// Asks for the counts of mounts.
#[derive(Debug)]
pub struct Counter(Ebpf);

impl Counter {
    /// Loads the programs. Room for more open files is made, too: one for each mount.
    pub fn load() -> Result<Counter, KernelError> {
        load::raise_open_files();
        let raw = load::read_btf()?;
        let names = functions(&[]);
        let btf = load::parse_btf(&raw, &names)?;
        let values = load::values(&btf, load::cpus()?)?;
        let object = load::object(OBJECT, &values)?;
        let skeleton = load::skeleton(&btf)?;
        load::unlimit_memory();
        let mut bpf = load::loader()
            .btf(Some(&skeleton))
            .map_max_entries("ACCESSES", load::ring_bytes(0))
            .map_max_entries("STACKS", 1)
            .load(&object)?;
        for name in [WRITERS, REFERENCES] {
            let program = bpf.program_mut(name);
            let program = program.unwrap_or_else(|| unreachable!("the object has {name}"));
            let loaded = <&mut RawTracePoint>::try_from(program).and_then(RawTracePoint::load);
            loaded.map_err(|error| match error::errno(&error) {
                Some(libc::EPERM) => error::refused(),
                _ => KernelError::Program(name, error::program(&error)),
            })?;
        }
        Ok(Counter(bpf))
    }

    /// The writers of the mount that a file is open on. None if the kernel cannot run the
    /// program (before v5.10), or lacks what it reads.
    pub fn writers(&self, file: BorrowedFd) -> Option<i32> {
        self.ask(WRITERS, file)
    }

    /// The references to it, that of the file among them.
    pub fn references(&self, file: BorrowedFd) -> Option<i32> {
        self.ask(REFERENCES, file)
    }

    fn ask(&self, program: &str, file: BorrowedFd) -> Option<i32> {
        let fd = u64::from(file.as_raw_fd().unsigned_abs());
        run(&self.0, program, [fd, 0]).filter(|count| *count != GONE)
    }
}
