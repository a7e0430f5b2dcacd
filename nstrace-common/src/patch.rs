//! What user space writes into the instructions of the kernel side before it loads them:
//! numbers that only the running kernel tells.
//!
//! This is what CO-RE relocations do for C; rustc emits none. Read-only data would serve
//! too, but then each member that is read takes four instructions more, and there are
//! sixteen of them at the beginning of each operation.
//!
//! The kernel side has a mark where a number belongs, in one of four forms:
//!
//! - a load `reg = *(u32 or u64 *)(reg + load_mark)`: the offset of a member takes the
//!   place of the mark. Marks are odd, and no compiler reads a word at an odd offset.
//! - a constant `reg = value_mark`, of which the lower 32 bits count: a value of the table takes its place. The
//!   verifier removes the branches that it rules out.
//! - a call of [`CAST_MARK`], which becomes a call of the kernel's bpf_rdonly_cast.
//! - a constant of 64 bits `reg = PER_CPU_MARK ll`, which becomes the variable
//!   `this_cpu_off` of the kernel, by its BTF id.

use crate::field::FIELDS_LEN;

/// A value that is no offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fact {
    /// Not 0: bpf_task_pt_regs is there (from v5.15).
    TaskPtRegs = FIELDS_LEN,
    /// The BTF id of bpf_rdonly_cast; 0 where there is none (before v6.2).
    Cast,
    /// The BTF id of `struct task_struct`.
    TaskStruct,
    /// Size of the kernel stack of a task, in bytes, at whose end its registers are.
    StackSize,
    /// Not 0: the kernel may skip a program, so an end without a beginning is an operation
    /// whose beginning was missed.
    MaySkip,
    /// Not 0: where something begins, ends or dies there is a second program, a twin.
    Twins,
    /// The BTF id of the variable `this_cpu_off`; 0 where BTF does not have it (v5.10).
    ThisCpuOff,
    /// The address of `__per_cpu_offset`, where that is needed: its lower half.
    PerCpuLow,
    /// Its upper half.
    PerCpuHigh,
    /// How many CPUs there can be.
    Cpus,
}

/// How many values there are: the offsets, by [`crate::field::Field`], then the facts.
pub const VALUES: usize = FIELDS_LEN + 10;

/// All that can be written.
pub type Values = [u32; VALUES];

const LOAD: i16 = 0x4001;
const LOAD_STEP: usize = 8;
const VALUE: i32 = 0x4e53_0000;

/// What stands in place of the offset in a load.
pub const fn load_mark(index: usize) -> i16 {
    LOAD + (index * LOAD_STEP) as i16
}

/// What stands in place of a value.
pub const fn value_mark(index: usize) -> i32 {
    VALUE + index as i32
}

/// What is called in place of bpf_rdonly_cast: a helper that no kernel has.
pub const CAST_MARK: i32 = VALUE - 1;

/// What is loaded in place of the variable `this_cpu_off`.
pub const PER_CPU_MARK: i32 = VALUE - 2;

/// The size of an instruction.
pub const INSTRUCTION: usize = 8;

/// Puts the values in place in the instructions of a program. The error is the index of
/// an offset that does not fit: no member of a struct is so far from its beginning.
pub fn apply(code: &mut [u8], values: &Values) -> Result<(), usize> {
    // include/uapi/linux/bpf.h: BPF_LDX | BPF_MEM of 4 and 8 bytes, BPF_ALU64 | BPF_MOV,
    // BPF_JMP | BPF_CALL, and BPF_PSEUDO_KFUNC_CALL as the source register.
    const LOAD_U32: u8 = 0x61;
    const LOAD_U64: u8 = 0x79;
    const MOVE_IMM: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const KFUNC: u8 = 2 << 4;
    // BPF_LD | BPF_IMM | BPF_DW, and BPF_PSEUDO_BTF_ID.
    const LOAD_IMM64: u8 = 0x18;
    const BTF_ID: u8 = 3 << 4;
    let cast = values[Fact::Cast as usize];
    let per_cpu = values[Fact::ThisCpuOff as usize];
    for instruction in code.chunks_exact_mut(INSTRUCTION) {
        match instruction[0] {
            LOAD_U32 | LOAD_U64 => {
                let off = i16::from_ne_bytes([instruction[2], instruction[3]]);
                let Some(index) = index_of_load(off) else {
                    continue;
                };
                // What is missing is never read: a value says so before.
                let value = match values[index] {
                    u32::MAX => 0,
                    value => i16::try_from(value).map_err(|_| index)?,
                };
                instruction[2..4].copy_from_slice(&value.to_ne_bytes());
            }
            MOVE_IMM => {
                let index = usize::try_from(imm(instruction).wrapping_sub(VALUE)).ok();
                if let Some(value) = index.and_then(|index| values.get(index)) {
                    instruction[4..8].copy_from_slice(&value.to_ne_bytes());
                }
            }
            // Without it the call is never reached.
            CALL if imm(instruction) == CAST_MARK && cast != 0 => {
                instruction[1] = KFUNC;
                instruction[4..8].copy_from_slice(&cast.to_ne_bytes());
            }
            LOAD_IMM64 if imm(instruction) == PER_CPU_MARK && per_cpu != 0 => {
                instruction[1] |= BTF_ID;
                instruction[4..8].copy_from_slice(&per_cpu.to_ne_bytes());
            }
            _ => {}
        }
    }
    Ok(())
}

fn imm(instruction: &[u8]) -> i32 {
    let bytes = instruction[4..].try_into();
    bytes.map_or(0, i32::from_ne_bytes)
}

fn index_of_load(off: i16) -> Option<usize> {
    let steps = usize::try_from(off.checked_sub(LOAD)?).ok()?;
    (steps % LOAD_STEP == 0 && steps / LOAD_STEP < FIELDS_LEN).then_some(steps / LOAD_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, from the tables of Documentation/bpf/standardization/instruction-set.rst:
    /// r2 = *(u64 *)(r1 + off), r3 = imm, r4 = *(u8 *)(r1 + off), r5 = imm of 64 bits.
    #[rustfmt::skip]
    fn code(off: i16, imm: i32) -> [u8; 32] {
        let ([a, b], [c, d, e, f]) = (off.to_ne_bytes(), imm.to_ne_bytes());
        [
            0x79, 0x12, a, b, 0, 0, 0, 0,
            0xb7, 0x03, 0, 0, c, d, e, f,
            0x71, 0x14, a, b, 0, 0, 0, 0,
            0x18, 0x05, 0, 0, c, d, e, f,
        ]
    }

    #[test]
    fn marks_give_way_to_values() {
        let mut values = [0; VALUES];
        (values[7], values[FIELDS_LEN]) = (0x1234, 0x0102_0304);
        let mut patched = code(load_mark(7), value_mark(FIELDS_LEN));
        apply(&mut patched, &values).unwrap();
        assert_eq!(patched[..16], code(0x1234, 0x0102_0304)[..16]);
        // Of other widths nothing is a mark.
        assert_eq!(
            patched[16..],
            code(load_mark(7), value_mark(FIELDS_LEN))[16..]
        );
    }

    /// `call` of a helper, and of a function of the kernel by its BTF id.
    #[test]
    fn the_cast_becomes_a_call_into_the_kernel() {
        let [a, b, c, d] = CAST_MARK.to_ne_bytes();
        let mark = [0x85, 0, 0, 0, a, b, c, d];
        let (mut with, mut without) = (mark, mark);
        let mut values = [0; VALUES];
        apply(&mut without, &values).unwrap();
        assert_eq!(without, mark);
        values[Fact::Cast as usize] = 0x0102_0304;
        apply(&mut with, &values).unwrap();
        assert_eq!(with[..4], [0x85, 0x20, 0, 0]);
        assert_eq!(with[4..], 0x0102_0304u32.to_ne_bytes());
    }

    /// `r3 = imm ll`, of which the second half stays zero.
    #[test]
    fn the_variable_of_each_cpu_is_named_by_its_id() {
        let [a, b, c, d] = PER_CPU_MARK.to_ne_bytes();
        let mark = [0x18, 3, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
        let (mut with, mut without) = (mark, mark);
        let mut values = [0; VALUES];
        apply(&mut without, &values).unwrap();
        assert_eq!(without, mark);
        values[Fact::ThisCpuOff as usize] = 0x0102_0304;
        apply(&mut with, &values).unwrap();
        assert_eq!(with[..4], [0x18, 0x33, 0, 0]);
        assert_eq!(with[4..8], 0x0102_0304u32.to_ne_bytes());
        assert_eq!(with[8..], [0; 8]);
    }

    #[test]
    fn what_is_no_mark_stays() {
        for (off, imm) in [
            (0x4000, VALUE - 3),
            (0x4002, VALUE + VALUES as i32),
            (load_mark(FIELDS_LEN), i32::MIN),
            (i16::MIN, i32::MAX),
        ] {
            let mut patched = code(off, imm);
            apply(&mut patched, &[9; VALUES]).unwrap();
            assert_eq!(patched, code(off, imm));
        }
    }

    #[test]
    fn an_offset_that_does_not_fit_is_an_error() {
        let mut values = [0; VALUES];
        values[3] = 0x8000;
        assert_eq!(apply(&mut code(load_mark(3), 0), &values), Err(3));
        values[3] = u32::MAX;
        let mut patched = code(load_mark(3), value_mark(3));
        apply(&mut patched, &values).unwrap();
        assert_eq!(patched[..16], code(0, -1)[..16]);
    }
}
