//! From the bytes of a ring buffer to an [`Event`].
//!
//! Every length and every discriminant is checked; nothing is copied.

use nstrace_common::{
    kind::Kind,
    mount_ops::{BIRTHS, Birth, BirthsRecord, Call, MountOpRecord},
    wire::{
        CgroupRecord, FailRecord, Head, IDS, LifeRecord, MARKS, Op, OpRecord, PID_LEVELS, PidAt,
        RecordKind, TaskRecord,
    },
    writers::MountRecord,
};
use zerocopy::FromBytes;

use crate::{
    event::{Cgroup, Event, Life, Mount, Operation, Task, until_nul},
    mount_ops::{MountBirths, MountOp},
};

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind of record, or not aligned to 8 bytes.
    #[error("a record of {0} bytes is cut short or not aligned")]
    Short(usize),
    /// A kind of record that there is not.
    #[error("no kind of record has the number {0}")]
    Kind(u32),
    /// An operation that there is not.
    #[error("no operation has the number {0}")]
    Op(u8),
    /// A mount operation that there is not.
    #[error("no mount operation has the number {0}")]
    Call(u32),
    /// A list that is longer than it can be.
    #[error("a list of {0} is longer than it can be")]
    Length(usize),
}

/// Reads one record. `bytes` must be aligned to 8, as those of a ring buffer are.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, DecodeError> {
    let (head, _) = prefix::<Head>(bytes)?;
    match record_kind(head.kind)? {
        RecordKind::Op => operation(bytes).map(Event::Op),
        RecordKind::TaskNew => task(bytes).map(Event::TaskNew),
        RecordKind::TaskExit => task(bytes).map(Event::TaskExit),
        RecordKind::TaskChange => task(bytes).map(Event::TaskChange),
        RecordKind::TaskFree => task(bytes).map(Event::TaskFree),
        RecordKind::Birth => operation(bytes).map(Event::Births),
        RecordKind::Death => life(bytes).map(Event::Death),
        // Its frames are named by whoever knows the kernel.
        RecordKind::MountDeath => mount(bytes).map(Event::MountDied),
        RecordKind::Cgroup => {
            let (record, _) = prefix::<CgroupRecord>(bytes)?;
            Ok(Event::Cgroup(Cgroup {
                id: record.id,
                path: until_nul(&record.path),
            }))
        }
        RecordKind::MountOp => mount_op(bytes).map(Event::MountOp),
        RecordKind::MountBirths => births(bytes).map(Event::MountBirths),
    }
}

/// Reads an operation, ended or in flight.
pub fn operation(bytes: &[u8]) -> Result<Operation<'_>, DecodeError> {
    let (record, lists) = prefix::<OpRecord>(bytes)?;
    operation_of(record, lists)
}

/// The same of a record whose lists stand elsewhere.
#[inline(always)]
pub fn operation_of<'a>(
    record: &'a OpRecord,
    lists: &'a [u8],
) -> Result<Operation<'a>, DecodeError> {
    let (ids, rest) = list::<u64>(lists, record.ids_len.into(), IDS)?;
    let (marks, rest) = list::<u64>(rest, record.marks_len.into(), MARKS)?;
    let (pids, rest) = list::<PidAt>(rest, record.pids_len.into(), PID_LEVELS)?;
    let fail = match record.ret < 0 {
        true => Some(prefix::<FailRecord>(rest)?.0),
        false => None,
    };
    Ok(Operation {
        record,
        ids,
        fail,
        marks,
        pids,
        op: Op::from_u8(record.op).ok_or(DecodeError::Op(record.op))?,
    })
}

fn mount_op(bytes: &[u8]) -> Result<MountOp<'_>, DecodeError> {
    let (record, _) = prefix::<MountOpRecord>(bytes)?;
    let call = Call::from_u8(record.call).ok_or(DecodeError::Call(record.call.into()))?;
    Ok(MountOp { record, call })
}

fn births(bytes: &[u8]) -> Result<MountBirths<'_>, DecodeError> {
    let (record, rest) = prefix::<BirthsRecord>(bytes)?;
    let (births, _) = list::<Birth>(rest, record.len as usize, BIRTHS)?;
    let call = u8::try_from(record.call).ok().and_then(Call::from_u8);
    Ok(MountBirths {
        record,
        births,
        call: call.ok_or(DecodeError::Call(record.call))?,
    })
}

fn task(bytes: &[u8]) -> Result<Task<'_>, DecodeError> {
    let (record, lists) = prefix::<TaskRecord>(bytes)?;
    task_of(record, lists)
}

/// What happened to a task, from a record whose list stands elsewhere.
#[inline]
pub fn task_of<'a>(record: &'a TaskRecord, lists: &'a [u8]) -> Result<Task<'a>, DecodeError> {
    let (pids, _) = list::<PidAt>(lists, record.pids_len as usize, PID_LEVELS)?;
    Ok(Task { record, pids })
}

fn life(bytes: &[u8]) -> Result<Life, DecodeError> {
    let (record, _) = prefix::<LifeRecord>(bytes)?;
    Ok(life_of(record))
}

/// A death, from its record.
#[inline]
pub fn life_of(record: &LifeRecord) -> Life {
    Life {
        time: record.head.time,
        kind: u8::try_from(record.ns_kind).ok().and_then(Kind::from_index),
        inum: record.inum,
        id: record.id,
        pid: record.pid,
        tid: record.tid,
        address: (record.address != 0).then_some(record.address),
        age: None,
        past: Default::default(),
    }
}

/// Reads a mount.
pub fn mount(bytes: &[u8]) -> Result<Mount<'_>, DecodeError> {
    let (record, _) = prefix::<MountRecord>(bytes)?;
    Ok(Mount { record, stack: &[] })
}

/// Kinds of records, in the order of their numbers from 1 on.
const KINDS: [RecordKind; 11] = [
    RecordKind::Op,
    RecordKind::TaskNew,
    RecordKind::TaskExit,
    RecordKind::Birth,
    RecordKind::Death,
    RecordKind::Cgroup,
    RecordKind::TaskChange,
    RecordKind::TaskFree,
    RecordKind::MountDeath,
    RecordKind::MountOp,
    RecordKind::MountBirths,
];

const _: () = {
    let mut at = 0;
    while at < KINDS.len() {
        assert!(KINDS[at] as usize == at + 1);
        at += 1;
    }
};

/// The kind of record with that number.
#[inline]
pub fn record_kind(number: u32) -> Result<RecordKind, DecodeError> {
    let kind = KINDS.get(number.wrapping_sub(1) as usize);
    kind.copied().ok_or(DecodeError::Kind(number))
}

pub(crate) fn prefix<T>(bytes: &[u8]) -> Result<(&T, &[u8]), DecodeError>
where
    T: FromBytes + zerocopy::Immutable + zerocopy::KnownLayout,
{
    T::ref_from_prefix(bytes).map_err(|_| DecodeError::Short(bytes.len()))
}

/// A list of `len` elements, of which there can be `most`, and the bytes after it.
fn list<T>(bytes: &[u8], len: usize, most: usize) -> Result<(&[T], &[u8]), DecodeError>
where
    T: FromBytes + zerocopy::Immutable,
{
    if len > most {
        return Err(DecodeError::Length(len));
    }
    <[T]>::ref_from_prefix_with_elems(bytes, len).map_err(|_| DecodeError::Short(bytes.len()))
}

#[cfg(test)]
mod tests;
