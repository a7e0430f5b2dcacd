//! What a look at the machine has found, in bytes: holders, and what could not be seen.

use super::bytes::{Bytes, put, put_bytes};
use crate::event::{Holder, Unseen};

/// Appends what holds a namespace.
pub fn put_holder(out: &mut Vec<u8>, holder: &Holder) {
    let (what, number, rest): (u8, u32, Result<u32, &[u8]>) = match *holder {
        Holder::Descriptor { pid, fd } => (0, pid, Ok(fd)),
        Holder::Mount { mnt, path } => (1, mnt, Err(path)),
        Holder::Socket { pid, fd } => (2, pid, Ok(fd)),
        Holder::Proc { mnt, path } => (3, mnt, Err(path)),
    };
    out.push(what);
    put(out, number.into());
    match rest {
        Ok(fd) => put(out, fd.into()),
        Err(path) => put_bytes(out, path),
    }
}

/// Reads it again.
pub fn read_holder<'a>(bytes: &mut Bytes<'a>) -> Option<Holder<'a>> {
    let (what, number) = (bytes.byte()?, bytes.small()?);
    Some(match what {
        0 => Holder::Descriptor {
            pid: number,
            fd: bytes.small()?,
        },
        1 => Holder::Mount {
            mnt: number,
            path: bytes.bytes()?,
        },
        2 => Holder::Socket {
            pid: number,
            fd: bytes.small()?,
        },
        3 => Holder::Proc {
            mnt: number,
            path: bytes.bytes()?,
        },
        _ => return None,
    })
}

/// Appends what a snapshot could not see.
pub fn put_unseen(out: &mut Vec<u8>, unseen: &Unseen) {
    let Unseen {
        tasks,
        descriptors,
        mounts,
        sockets,
        procs,
        children,
    } = *unseen;
    for count in [tasks, descriptors, mounts, sockets, procs, children] {
        put(out, count.into());
    }
}

/// Reads it again.
pub fn read_unseen(bytes: &mut Bytes) -> Option<Unseen> {
    Some(Unseen {
        tasks: bytes.small()?,
        descriptors: bytes.small()?,
        mounts: bytes.small()?,
        sockets: bytes.small()?,
        procs: bytes.small()?,
        children: bytes.small()?,
    })
}
