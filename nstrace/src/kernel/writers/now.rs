//! How many writers a mount has now, of which nothing was watched, and how many references:
//! programs of the same object, attached nowhere, are run with a descriptor that is open on it.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nstrace_common::writers::GONE;

use super::{
    super::{KernelError, asked::Asked},
    OBJECT, functions, load,
};

/// The programs that tell it.
const WRITERS: &str = "descriptor_writers";
const REFERENCES: &str = "descriptor_references";

/// Asks for the counts of mounts.
#[derive(Debug)]
pub struct Counter {
    writers: Asked,
    references: Asked,
}

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
        Ok(Counter {
            writers: Asked::load(&mut bpf, WRITERS)?,
            references: Asked::load(&mut bpf, REFERENCES)?,
        })
    }

    /// The writers of the mount that a file is open on. None if the kernel cannot run the
    /// program (before v5.10), or lacks what it reads.
    pub fn writers(&self, file: BorrowedFd) -> Option<i32> {
        ask(&self.writers, file)
    }

    /// The references to it, that of the file among them.
    pub fn references(&self, file: BorrowedFd) -> Option<i32> {
        ask(&self.references, file)
    }
}

fn ask(program: &Asked, file: BorrowedFd) -> Option<i32> {
    let fd = u64::from(file.as_raw_fd().unsigned_abs());
    program.run([fd, 0]).filter(|count| *count != GONE)
}
