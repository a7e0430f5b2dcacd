//! Mount operations for tests, built by hand.

use nstrace_common::{
    mount_ops::{Birth, BirthsRecord, Call, Found, MountOpRecord, PathNames},
    wire::RecordKind,
};
use zerocopy::FromZeros as _;

use super::{MountBirths, MountOp};

/// A mount operation of mount\[4242\], which takes 210 us and succeeds.
pub fn mount_op(call: Call, flags: u64) -> Built {
    let mut record = Box::new(MountOpRecord::new_zeroed());
    record.start = 1_000_000_000;
    record.head.kind = RecordKind::MountOp as u32;
    record.head.time = record.start + 210_000;
    record.call = call as u8;
    record.flags = flags;
    (record.pid, record.tid) = (4242, 4242);
    record.caller_ns = 4_026_531_841;
    record.owner = 4_026_531_837;
    record.user = 4_026_531_837;
    (record.source_fd, record.target_fd) = (-100, -100);
    record.comm[..5].copy_from_slice(b"mount");
    Built { record, call }
}

#[derive(Clone)]
pub struct Built {
    pub record: Box<MountOpRecord>,
    call: Call,
}

impl Built {
    pub fn get(&self) -> MountOp<'_> {
        MountOp {
            record: &self.record,
            call: self.call,
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut MountOpRecord)) -> Built {
        change(&mut self.record);
        self
    }

    pub fn failed(self, errno: i32) -> Built {
        self.with(|record| record.ret = -i64::from(errno))
    }

    pub fn fs(self, fs: &[u8]) -> Built {
        self.with(|record| record.fs[..fs.len()].copy_from_slice(fs))
    }

    /// What the caller gives, and what the kernel finds.
    pub fn source(self, given: &[u8], found: Option<&[u8]>) -> Built {
        self.with(|record| {
            record.source_len = given.len() as u16 + 1;
            record.source[..given.len()].copy_from_slice(given);
            record.source_path = path(found);
        })
    }

    pub fn target(self, given: &[u8], found: Option<&[u8]>) -> Built {
        self.with(|record| {
            record.target_len = given.len() as u16 + 1;
            record.target[..given.len()].copy_from_slice(given);
            record.target_path = path(found);
        })
    }
}

/// The names of a path, as the kernel side gathers them.
pub fn path(found: Option<&[u8]>) -> PathNames {
    let mut names = PathNames::new_zeroed();
    let Some(found) = found else { return names };
    names.found = Found::Whole as u32;
    let parts = found.rsplit(|byte| *byte == b'/');
    let mut len = 0;
    for part in parts.filter(|part| !part.is_empty()) {
        names.names[len..len + part.len()].copy_from_slice(part);
        len += part.len() + 1;
    }
    names.len = len as u32;
    names
}

/// Births by what mount\[4242\] calls.
pub struct Births {
    record: BirthsRecord,
    pub list: Vec<Birth>,
}

pub fn births(list: &[Birth]) -> Births {
    let mut record = BirthsRecord::new_zeroed();
    record.head.kind = RecordKind::MountBirths as u32;
    record.head.time = 1_000_200_000;
    record.start = 1_000_000_000;
    (record.pid, record.tid) = (4242, 4242);
    record.call = Call::Mount as u32;
    record.len = list.len() as u32;
    record.comm[..5].copy_from_slice(b"mount");
    let list = list.to_vec();
    Births { record, list }
}

impl Births {
    pub fn with(mut self, change: impl FnOnce(&mut BirthsRecord)) -> Births {
        change(&mut self.record);
        self
    }

    pub fn get(&self) -> MountBirths<'_> {
        MountBirths {
            record: &self.record,
            births: &self.list,
            call: Call::from_u8(self.record.call as u8).expect("a call"),
        }
    }
}
