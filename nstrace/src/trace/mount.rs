//! A mount that died with writers, or whose write access is watched, in bytes.

use nstrace_common::writers::MountRecord;

use super::bytes::{Bytes, put, put_bytes, put_signed};
use crate::event::{Mount, until_nul};

/// Appends a mount, but its time.
pub fn put_mount(out: &mut Vec<u8>, mount: &Mount) {
    let record = mount.record;
    for number in [
        record.address,
        record.since,
        record.unique,
        record.cgroup,
        record.root_ino,
    ] {
        put(out, number);
    }
    put_signed(out, record.count.into());
    for number in [
        record.id,
        record.dev,
        record.flags,
        record.ns,
        record.bits,
        record.pid,
        record.tid,
    ] {
        put(out, number.into());
    }
    for text in [&record.comm[..], &record.fs, &record.source] {
        put_bytes(out, until_nul(text));
    }
    for path in [&record.root, &record.point] {
        put_bytes(out, names(path));
    }
    put_bytes(out, mount.stack);
}

/// Reads it again, into a record that there is room for.
pub fn read_mount<'a>(
    record: &'a mut MountRecord,
    bytes: &mut Bytes<'a>,
    time: u64,
) -> Option<Mount<'a>> {
    record.head.time = time;
    record.address = bytes.number()?;
    record.since = bytes.number()?;
    record.unique = bytes.number()?;
    record.cgroup = bytes.number()?;
    record.root_ino = bytes.number()?;
    record.count = bytes.signed()?.try_into().ok()?;
    record.id = bytes.small()?;
    record.dev = bytes.small()?;
    record.flags = bytes.small()?;
    record.ns = bytes.small()?;
    record.bits = bytes.small()?;
    record.pid = bytes.small()?;
    record.tid = bytes.small()?;
    for text in [
        &mut record.comm[..],
        &mut record.fs,
        &mut record.source,
        &mut record.root,
        &mut record.point,
    ] {
        let from = bytes.bytes()?;
        text.fill(0);
        text.get_mut(..from.len())?.copy_from_slice(from);
    }
    Some(Mount {
        record,
        stack: bytes.bytes()?,
    })
}

/// The names of a path, without what is behind them.
fn names(path: &[u8]) -> &[u8] {
    let end = path
        .windows(2)
        .position(|pair| pair[1] == 0 && pair[0] == 0);
    match path.first() {
        None | Some(0) => &[],
        Some(_) => &path[..end.map_or(path.len(), |end| end + 1)],
    }
}
