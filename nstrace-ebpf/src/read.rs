//! How kernel memory is read, and how a handler gets its arguments.
//!
//! The verifier knows the type of a pointer that comes from fentry arguments, from
//! a BTF tracepoint or from bpf_get_current_task_btf, and of every pointer loaded
//! through one. Such memory is read by a plain load ([`Typed`]), of 3 instructions.
//! Any other takes bpf_probe_read_kernel ([`Raw`]), of 100. Handlers are generic
//! over the two.

use aya_ebpf::{
    EbpfContext as _,
    bindings::pt_regs,
    helpers::{
        bpf_get_current_task, bpf_get_current_task_btf,
        generated::{bpf_probe_read_kernel, bpf_task_pt_regs},
    },
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use nstrace_common::field::Field;

use crate::maps::{config, offset};

/// A way to read kernel memory.
pub trait Reader {
    /// What is at `base + offset`; zeroes if that cannot be read.
    ///
    /// # Safety
    ///
    /// `base` must be of a type that the implementor can read through.
    unsafe fn at<T: Copy>(base: u64, offset: u32) -> T;

    /// The value of a member of the struct at `base`.
    ///
    /// # Safety
    ///
    /// As for [`Reader::at`].
    #[inline(always)]
    unsafe fn get<T: Copy>(base: u64, field: Field) -> T {
        // SAFETY: the caller's promise.
        unsafe { Self::at(base, offset(field)) }
    }
}

/// Through a pointer whose type the verifier knows.
pub struct Typed;

impl Reader for Typed {
    #[inline(always)]
    unsafe fn at<T: Copy>(base: u64, offset: u32) -> T {
        // SAFETY: the verifier checks the load, and the kernel makes a fault a zero.
        unsafe { core::ptr::read_volatile((base + u64::from(offset)) as *const T) }
    }
}

/// Through any pointer.
pub struct Raw;

impl Reader for Raw {
    #[inline(always)]
    unsafe fn at<T: Copy>(base: u64, offset: u32) -> T {
        // SAFETY: the helper checks the address, and leaves zeroes where it cannot
        // read: its result says nothing more, and each branch on it would double
        // what the verifier has to follow.
        unsafe {
            let mut value = core::mem::MaybeUninit::<T>::uninit();
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                (base + u64::from(offset)) as *const _,
            );
            value.assume_init()
        }
    }
}

/// From [`current`], by whichever way this kernel offers.
pub struct Current;

impl Reader for Current {
    #[inline(always)]
    unsafe fn at<T: Copy>(base: u64, offset: u32) -> T {
        // SAFETY: where the kernel has the helper, `current` gave a typed pointer.
        unsafe {
            if config!(task_btf) != 0 {
                Typed::at(base, offset)
            } else {
                Raw::at(base, offset)
            }
        }
    }
}

/// The current task, to be read by [`Current`].
#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: neither has a precondition; the branch not taken is removed at load.
    unsafe {
        if config!(task_btf) != 0 {
            bpf_get_current_task_btf() as u64
        } else {
            bpf_get_current_task()
        }
    }
}

/// What a handler at a function's entry is given.
pub trait Entry {
    /// How memory behind an argument is read.
    type Args: Reader;
    /// The argument of that number, from 0.
    fn arg(&self, n: usize) -> u64;
}

/// What a handler at a function's return is given.
pub trait Exit {
    /// How memory behind the return value is read.
    type Ret: Reader;
    /// The return value.
    fn ret(&self) -> u64;
    /// The first argument; a kretprobe has none.
    fn first_arg(&self) -> Option<u64>;
}

impl Entry for FEntryContext {
    type Args = Typed;

    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        // SAFETY: fentry's context is an array of the arguments, and the verifier
        // checks the index.
        unsafe { *self.as_ptr().cast::<u64>().add(n) }
    }
}

impl Entry for ProbeContext {
    type Args = Raw;

    #[inline(always)]
    fn arg(&self, n: usize) -> u64 {
        self.arg::<u64>(n).unwrap_or(0)
    }
}

/// fexit of a function with `N` arguments. bpf_get_func_ret is from v5.17; the
/// value after the last argument is the same one.
pub struct Fexit<const N: usize>(pub FExitContext);

impl<const N: usize> Exit for Fexit<N> {
    type Ret = Typed;

    #[inline(always)]
    fn ret(&self) -> u64 {
        // SAFETY: fexit's context is an array of the arguments and the return value.
        unsafe { *self.0.as_ptr().cast::<u64>().add(N) }
    }

    #[inline(always)]
    fn first_arg(&self) -> Option<u64> {
        // SAFETY: as above.
        Some(unsafe { *self.0.as_ptr().cast::<u64>() })
    }
}

impl Exit for RetProbeContext {
    type Ret = Raw;

    #[inline(always)]
    fn ret(&self) -> u64 {
        self.ret::<u64>()
    }

    #[inline(always)]
    fn first_arg(&self) -> Option<u64> {
        None
    }
}

/// The registers that the current task entered the kernel with.
///
/// Up to v5.14 there is no helper for it, and they end where the stack ends: no
/// such kernel has the padding that FRED brought (v6.9 arch/x86/include/asm/thread_info.h).
#[inline(always)]
pub fn user_regs() -> u64 {
    // SAFETY: the current task is valid; the branch not taken is removed at load.
    unsafe {
        if config!(task_pt_regs) != 0 {
            bpf_task_pt_regs(current() as *mut _) as u64
        } else {
            let stack: u64 = Current::get(current(), Field::TaskStack);
            stack + u64::from(config!(stack_size)) - size_of::<pt_regs>() as u64
        }
    }
}

/// Whether a pointer that a kernel function returned is an errno (`IS_ERR`).
#[inline(always)]
pub fn errno(pointer: u64) -> Option<i64> {
    const MAX_ERRNO: u64 = 4095;
    (pointer >= MAX_ERRNO.wrapping_neg()).then_some(pointer as i64)
}
