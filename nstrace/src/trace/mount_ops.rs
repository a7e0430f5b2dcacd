//! What concerns mounts, as a recording has it: numbers and bytes behind each other. What a
//! later version puts behind them is left out.

use nstrace_common::{
    mount_ops::{
        BIRTHS, Birth, BirthsRecord, Call, FS, Found, GIVEN, MountOpRecord, PATH, PathNames,
    },
    wire::RecordKind,
};
use zerocopy::FromZeros as _;

use super::bytes::{Bytes, put, put_bytes, put_signed};
use crate::{
    event::until_nul,
    mount_ops::{MountBirths, MountOp},
};

/// Room for what is written, and for records that are read.
#[derive(Default)]
pub struct MountOps {
    /// The content of the entry that is being written.
    pub room: Vec<u8>,
    op: Option<Box<MountOpRecord>>,
    births: Option<Box<BirthsRecord>>,
    list: Vec<Birth>,
}

/// Appends an operation; `time` is that of the entry before.
pub fn put_op(out: &mut Vec<u8>, op: &MountOp, time: u64) {
    let mut record = *op.record;
    put_signed(out, difference(record.head.time, time));
    put(out, record.head.time.wrapping_sub(record.start));
    put_signed(out, record.ret);
    out.push(record.call);
    out.push(record.found);
    for number in wide(&mut record) {
        put(out, *number);
    }
    for number in narrow(&mut record) {
        put(out, (*number).into());
    }
    put_signed(out, record.source_fd.into());
    put_signed(out, record.target_fd.into());
    put_bytes(out, until_nul(&record.comm));
    put_bytes(out, until_nul(&record.fs));
    put_bytes(out, given(&record.source, record.source_len));
    put_bytes(out, given(&record.target, record.target_len));
    for path in [&record.source_path, &record.target_path] {
        put(out, path.found.into());
        put_bytes(out, &path.names[..(path.len as usize).min(PATH)]);
    }
}

/// Appends births; `time` is that of the entry before. Of each number the difference from
/// that of the birth before.
pub fn put_births(out: &mut Vec<u8>, births: &MountBirths, time: u64) {
    let record = births.record;
    put_signed(out, difference(record.head.time, time));
    put(out, record.head.time.wrapping_sub(record.start));
    out.push(births.call as u8);
    put(out, record.pid.into());
    put(out, record.tid.into());
    put_bytes(out, until_nul(&record.comm));
    put(out, births.births.len() as u64);
    let mut before = Birth::default();
    for birth in births.births {
        for (number, before) in numbers(birth).into_iter().zip(numbers(&before)) {
            put_signed(out, difference(number, before));
        }
        before = *birth;
    }
}

impl MountOps {
    /// Reads an operation again.
    pub fn op<'a>(&'a mut self, bytes: &mut Bytes, time: u64) -> Option<MountOp<'a>> {
        let record = self
            .op
            .get_or_insert_with(|| Box::new(MountOpRecord::new_zeroed()));
        let call = read_op(record, bytes, time)?;
        Some(MountOp { record, call })
    }

    /// Reads births again.
    pub fn births<'a>(&'a mut self, bytes: &mut Bytes, time: u64) -> Option<MountBirths<'a>> {
        let record = self
            .births
            .get_or_insert_with(|| Box::new(BirthsRecord::new_zeroed()));
        record.zero();
        record.head.kind = RecordKind::MountBirths as u32;
        record.head.time = time.wrapping_add(bytes.signed()?.cast_unsigned());
        record.start = record.head.time.wrapping_sub(bytes.number()?);
        let call = Call::from_u8(bytes.byte()?)?;
        record.call = call as u32;
        (record.pid, record.tid) = (bytes.small()?, bytes.small()?);
        copy(&mut record.comm, bytes.bytes()?)?;
        record.len = bytes.small().filter(|len| *len as usize <= BIRTHS)?;
        self.list.clear();
        let mut numbers = [0_u64; 4];
        for _ in 0..record.len {
            for number in &mut numbers {
                *number = number.wrapping_add(bytes.signed()?.cast_unsigned());
            }
            let [unique, from_unique, id, from] = numbers;
            self.list.push(Birth {
                unique,
                from_unique,
                id: id.try_into().ok()?,
                from: from.try_into().ok()?,
            });
        }
        Some(MountBirths {
            record,
            births: &self.list,
            call,
        })
    }
}

fn read_op(record: &mut MountOpRecord, bytes: &mut Bytes, time: u64) -> Option<Call> {
    record.zero();
    record.head.kind = RecordKind::MountOp as u32;
    record.head.time = time.wrapping_add(bytes.signed()?.cast_unsigned());
    record.start = record.head.time.wrapping_sub(bytes.number()?);
    record.ret = bytes.signed()?;
    let call = Call::from_u8(bytes.byte()?)?;
    record.call = call as u8;
    record.found = bytes.byte()?;
    for number in wide(record) {
        *number = bytes.number()?;
    }
    for number in narrow(record) {
        *number = bytes.small()?;
    }
    record.source_fd = bytes.signed()?.try_into().ok()?;
    record.target_fd = bytes.signed()?.try_into().ok()?;
    copy(&mut record.comm, bytes.bytes()?)?;
    copy::<FS>(&mut record.fs, bytes.bytes()?)?;
    record.source_len = read_given(&mut record.source, bytes)?;
    record.target_len = read_given(&mut record.target, bytes)?;
    for path in [&mut record.source_path, &mut record.target_path] {
        read_path(path, bytes)?;
    }
    Some(call)
}

/// The numbers of 64 bits, in the order in which they are written.
fn wide(record: &mut MountOpRecord) -> [&mut u64; 8] {
    [
        &mut record.flags,
        &mut record.attr_set,
        &mut record.attr_clear,
        &mut record.propagation,
        &mut record.cgroup,
        &mut record.unique,
        &mut record.from_unique,
        &mut record.cap_effective,
    ]
}

/// Those of 32 bits, behind them.
fn narrow(record: &mut MountOpRecord) -> [&mut u32; 14] {
    [
        &mut record.pid,
        &mut record.tid,
        &mut record.uid,
        &mut record.id,
        &mut record.from,
        &mut record.ns,
        &mut record.caller_ns,
        &mut record.dev,
        &mut record.made,
        &mut record.made_by_propagation,
        &mut record.taken,
        &mut record.taken_by_propagation,
        &mut record.owner,
        &mut record.user,
    ]
}

fn read_given(into: &mut [u8; GIVEN], bytes: &mut Bytes) -> Option<u16> {
    let given = bytes.bytes()?;
    copy(into, given)?;
    Some(given.len() as u16)
}

fn read_path(path: &mut PathNames, bytes: &mut Bytes) -> Option<()> {
    path.found = bytes
        .small()
        .filter(|found| *found <= Found::Loose as u32)?;
    let names = bytes.bytes()?;
    copy(&mut path.names, names)?;
    path.len = names.len() as u32;
    Some(())
}

/// Puts bytes at the beginning of an array; none if there is no room.
fn copy<const N: usize>(into: &mut [u8; N], from: &[u8]) -> Option<()> {
    into.get_mut(..from.len())?.copy_from_slice(from);
    Some(())
}

fn given(bytes: &[u8; GIVEN], len: u16) -> &[u8] {
    &bytes[..usize::from(len).min(GIVEN)]
}

fn numbers(birth: &Birth) -> [u64; 4] {
    [
        birth.unique,
        birth.from_unique,
        birth.id.into(),
        birth.from.into(),
    ]
}

fn difference(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b).cast_signed()
}
