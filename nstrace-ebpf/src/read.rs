//! How kernel memory is read, and how a handler gets its arguments.
//!
//! The verifier knows the type of a pointer that comes from fentry arguments, from
//! a BTF tracepoint or from bpf_get_current_task_btf, and of every pointer loaded
//! through one. Such memory is read by a plain load ([`Typed`]), of 8 instructions.
//! Any other takes bpf_probe_read_kernel ([`Raw`]), of 100. Handlers are generic
//! over the two.
//!
//! When a program is loaded, it is the other way round: for each pointer that it loads
//! through the current task or an argument of a tracepoint the verifier looks for up to
//! four names among all types of the kernel (from v6.4, kernel/bpf/btf.c,
//! btf_nested_type_is_trusted), some 7 million instructions, and does so again on each
//! path that leads there: a third of the whole start. It does not for a pointer that it
//! does not trust, so there the pointer is made such a one ([`task`]).
//!
//! Offsets of members are marks in the instructions (`nstrace_common::patch`), which is
//! why the loads are in assembly.

use core::arch::asm;

use crate::TASK_BTF;
use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{
        bpf_get_current_task, bpf_get_current_task_btf,
        generated::{bpf_per_cpu_ptr, bpf_probe_read_kernel, bpf_task_pt_regs},
    },
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use nstrace_common::{
    field::{MISSING, Member, member},
    patch::{CAST_MARK, Fact, PER_CPU_MARK, load_mark, value_mark},
};

/// A value that user space writes into the instructions.
macro_rules! value {
    ($index:expr) => {{
        let value: u64;
        // SAFETY: a constant.
        #[allow(unused_unsafe, reason = "some callers are unsafe themselves")]
        unsafe {
            asm!(
                "{value} = {mark}",
                value = out(reg) value,
                mark = const value_mark($index),
                options(pure, nomem, nostack, preserves_flags),
            )
        }
        value
    }};
}

/// Whether the kernel may skip a program.
#[inline(always)]
pub fn may_skip() -> bool {
    value!(Fact::MaySkip as usize) != 0
}

/// Whether programs have twins.
#[inline(always)]
pub fn has_twins() -> bool {
    value!(Fact::Twins as usize) != 0
}

/// The offset of a member in the running kernel.
#[inline(always)]
pub fn offset<M: Member>(_member: M) -> u64 {
    value!(M::FIELD as usize)
}

/// Whether the running kernel has a member.
#[inline(always)]
pub fn has<M: Member>(member: M) -> bool {
    // The instruction extends the sign.
    offset(member) != MISSING as i32 as u64
}

/// A number as a plain load reads it.
pub trait Word: Copy {
    /// The value of a member of the struct at `base`.
    ///
    /// # Safety
    ///
    /// The verifier must know what `base` points to.
    unsafe fn load<M: Member>(base: u64, member: M) -> Self;
}

impl Word for u64 {
    #[inline(always)]
    unsafe fn load<M: Member>(base: u64, _member: M) -> u64 {
        let value;
        // SAFETY: the verifier checks the load, and the kernel makes a fault a zero.
        unsafe {
            asm!(
                "{value} = *(u64 *)({base} + {mark})",
                value = out(reg) value,
                base = in(reg) base,
                mark = const load_mark(M::FIELD as usize),
                options(readonly, nostack, preserves_flags),
            )
        }
        value
    }
}

impl Word for u32 {
    #[inline(always)]
    unsafe fn load<M: Member>(base: u64, _member: M) -> u32 {
        let value: u64;
        // SAFETY: as above.
        unsafe {
            asm!(
                "{value} = *(u32 *)({base} + {mark})",
                value = out(reg) value,
                base = in(reg) base,
                mark = const load_mark(M::FIELD as usize),
                options(readonly, nostack, preserves_flags),
            )
        }
        value as u32
    }
}

/// A way to read kernel memory.
pub trait Reader {
    /// What is at `base + offset`; zeroes if that cannot be read.
    ///
    /// # Safety
    ///
    /// `base` must be of a type that the implementor can read through.
    unsafe fn at<T: Copy>(base: u64, offset: u64) -> T;

    /// The value of a member of the struct at `base`.
    ///
    /// # Safety
    ///
    /// As for [`Reader::at`].
    unsafe fn get<T: Word>(base: u64, member: impl Member) -> T;
}

/// Through a pointer whose type the verifier knows.
pub struct Typed;

impl Reader for Typed {
    #[inline(always)]
    unsafe fn at<T: Copy>(base: u64, offset: u64) -> T {
        // SAFETY: the verifier checks the load, and the kernel makes a fault a zero.
        unsafe { core::ptr::read_volatile((base + offset) as *const T) }
    }

    #[inline(always)]
    unsafe fn get<T: Word>(base: u64, member: impl Member) -> T {
        // SAFETY: the caller's promise.
        unsafe { T::load(base, member) }
    }
}

/// Through any pointer.
pub struct Raw;

impl Reader for Raw {
    #[inline(always)]
    unsafe fn at<T: Copy>(base: u64, offset: u64) -> T {
        // SAFETY: the helper checks the address, and leaves zeroes where it cannot
        // read: its result says nothing more, and each branch on it would double
        // what the verifier has to follow.
        unsafe {
            let mut value = core::mem::MaybeUninit::<T>::uninit();
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                (base + offset) as *const _,
            );
            value.assume_init()
        }
    }

    #[inline(always)]
    unsafe fn get<T: Word>(base: u64, member: impl Member) -> T {
        // SAFETY: the caller's promise.
        unsafe { Raw::at(base, offset(member)) }
    }
}

/// From [`current`], by whichever way this kernel offers.
pub struct Current;

impl Reader for Current {
    #[inline(always)]
    unsafe fn at<T: Copy>(base: u64, offset: u64) -> T {
        // SAFETY: where the kernel has the helper, `current` gave a typed pointer.
        unsafe {
            if TASK_BTF {
                Typed::at(base, offset)
            } else {
                Raw::at(base, offset)
            }
        }
    }

    #[inline(always)]
    unsafe fn get<T: Word>(base: u64, member: impl Member) -> T {
        // SAFETY: as above.
        unsafe {
            if TASK_BTF {
                Typed::get(base, member)
            } else {
                Raw::get(base, member)
            }
        }
    }
}

/// The current task, to be read by [`Current`].
#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: none of these has a precondition; the branch not taken is removed at load.
    unsafe {
        if !TASK_BTF {
            bpf_get_current_task()
        } else if value!(Fact::Cast as usize) != 0 {
            cast(bpf_get_current_task())
        } else {
            bpf_get_current_task_btf() as u64
        }
    }
}

/// A task that a tracepoint gives, to be read by [`Typed`].
#[inline(always)]
pub fn task(pointer: u64) -> u64 {
    if value!(Fact::Cast as usize) != 0 {
        cast(pointer)
    } else {
        pointer
    }
}

/// bpf_rdonly_cast (from v6.2) to `struct task_struct *`.
#[inline(always)]
fn cast(pointer: u64) -> u64 {
    let typed;
    // SAFETY: the call changes nothing but the type that the verifier knows.
    unsafe {
        asm!(
            "call {mark}",
            mark = const CAST_MARK,
            inlateout("r1") pointer => _,
            inlateout("r2") value!(Fact::TaskStruct as usize) => _,
            lateout("r0") typed,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nomem, nostack),
        )
    }
    typed
}

/// The current task, to be read by [`Raw`].
#[inline(always)]
pub fn raw_current() -> u64 {
    // SAFETY: no precondition.
    unsafe { bpf_get_current_task() }
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

impl<const N: usize> EbpfContext for Fexit<N> {
    fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.0.as_ptr()
    }
}

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
        if value!(Fact::TaskPtRegs as usize) != 0 {
            bpf_task_pt_regs(bpf_get_current_task_btf()) as u64
        } else {
            let stack: u64 = Current::get(current(), member::TaskStack);
            stack + stack_size() - size_of::<pt_regs>() as u64
        }
    }
}

/// How many bytes the stack of a task has in the kernel; it begins at a multiple of that.
#[inline(always)]
pub fn stack_size() -> u64 {
    value!(Fact::StackSize as usize)
}

/// How many CPUs there can be.
#[inline(always)]
pub fn cpus() -> u64 {
    value!(Fact::Cpus as usize)
}

/// What to add to the address of a per-CPU variable for that of a CPU. None if there is no
/// such CPU, or it cannot be told.
#[inline(always)]
pub fn per_cpu_offset(cpu: u64) -> Option<u64> {
    if value!(Fact::ThisCpuOff as usize) != 0 {
        let variable: u64;
        // SAFETY: a constant; as a variable of the kernel its type is known to the verifier.
        unsafe {
            asm!(
                "{variable} = {mark} ll",
                variable = out(reg) variable,
                mark = const PER_CPU_MARK,
                options(pure, nomem, nostack, preserves_flags),
            );
            let own = bpf_per_cpu_ptr(variable as *const _, cpu as u32);
            return (!own.is_null()).then(|| core::ptr::read_volatile(own.cast::<u64>()));
        }
    }
    let table = value!(Fact::PerCpuHigh as usize) << 32
        | value!(Fact::PerCpuLow as usize) & u64::from(u32::MAX);
    // SAFETY: Raw reads any address.
    (table != 0).then(|| unsafe { Raw::at(table, cpu * 8) })
}

/// Whether a pointer that a kernel function returned is an errno (`IS_ERR`).
#[inline(always)]
pub fn errno(pointer: u64) -> Option<i64> {
    const MAX_ERRNO: u64 = 4095;
    (pointer >= MAX_ERRNO.wrapping_neg()).then_some(pointer as i64)
}
