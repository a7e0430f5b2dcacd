//! Asks the kernel whether a number of namespaces is in use (the kernel side's
//! `numbers.rs`): the last word on one that is known, and was not found.

use aya::Ebpf;
use nstrace_common::{numbers::FREE, wire::FIRST_INUM};

use super::{asked::Asked, symbols::address};

/// The program that answers.
const PROGRAM: &str = "number_in_use";

/// The allocator of the numbers (fs/proc/generic.c).
const ALLOCATOR: &str = "proc_inum_ida";

/// Where the answers come from.
#[derive(Debug)]
pub struct Numbers {
    allocator: u64,
    program: Asked,
}

impl Numbers {
    /// Loads the program. None where the kernel does not say where the allocator is
    /// (kernel.kptr_restrict=2, or built without CONFIG_KALLSYMS_ALL), or cannot run it
    /// (before v5.10): then it stays unknown.
    pub fn new(bpf: &mut Ebpf) -> Option<Numbers> {
        Some(Numbers {
            allocator: address(ALLOCATOR).ok().flatten()?,
            program: Asked::load(bpf, PROGRAM).ok()?,
        })
    }

    /// Whether nothing has a number. False if that cannot be told, too.
    pub fn is_free(&self, inum: u32) -> bool {
        let Some(number) = inum.checked_sub(FIRST_INUM) else {
            return false;
        };
        self.program.run([self.allocator, number.into()]) == Some(FREE)
    }
}
