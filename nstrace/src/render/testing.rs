//! Records for tests, built by hand.

use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{FailRecord, Mark, Op, OpRecord, PidAt, RecordKind, TaskRecord},
};
use zerocopy::{FromZeros, IntoBytes};

use crate::event::{Operation, Task};

/// Inums of the first namespaces, by [`Kind`], as kernels have them.
pub const FIRST: [u32; KINDS] = [
    4_026_531_841,
    4_026_531_838,
    4_026_531_839,
    4_026_531_836,
    4_026_531_840,
    4_026_531_837,
    4_026_531_835,
    4_026_531_834,
];

/// An operation, in its parts.
#[derive(Clone)]
pub struct Built {
    pub record: OpRecord,
    pub ids: Vec<u64>,
    pub marks: Vec<u64>,
    pub pids: Vec<PidAt>,
    pub fail: Option<FailRecord>,
    op: Op,
}

/// An operation of runc\[4242\] in the first namespaces, which takes 2.1 ms and
/// succeeds.
pub fn op(op: Op, flags: u64) -> Built {
    let mut record = OpRecord::new_zeroed();
    record.start = 1_000_000_000;
    record.head.kind = RecordKind::Op as u32;
    record.head.time = record.start + 2_100_000;
    record.op = op as u8;
    record.flags = flags;
    record.pid = 4242;
    record.tid = 4242;
    record.before = FIRST;
    record.after = FIRST;
    Built {
        record,
        ids: Vec::new(),
        marks: Vec::new(),
        pids: Vec::new(),
        fail: None,
        op,
    }
    .comm(b"runc")
}

impl Built {
    pub fn get(&self) -> Operation<'_> {
        Operation {
            record: &self.record,
            ids: &self.ids,
            marks: &self.marks,
            pids: &self.pids,
            fail: self.fail.as_ref(),
            op: self.op,
        }
    }

    pub fn comm(mut self, comm: &[u8]) -> Built {
        self.record.comm = [0; 16];
        self.record.comm[..comm.len()].copy_from_slice(comm);
        self
    }

    pub fn took(mut self, ns: u64) -> Built {
        self.record.head.time = self.record.start + ns;
        self
    }

    /// Marks `(ns since the start, mark)`.
    pub fn marks(mut self, marks: &[(u64, u8)]) -> Built {
        self.marks = marks
            .iter()
            .map(|(at, mark)| at << 8 | u64::from(*mark))
            .collect();
        self
    }

    /// It failed with that errno. The caller is one that nothing refuses: it has all
    /// capabilities, one thread, and is in the first user namespace.
    pub fn failed(mut self, errno: i32) -> Built {
        self.record.ret = -i64::from(errno);
        self.record.after = self.record.before;
        self.fail = Some(FailRecord {
            cap_effective: 0x1ff_ffff_ffff,
            threads: 1,
            fs_users: 1,
            uid_extents: 1,
            gid_extents: 1,
            pid_active: FIRST[Kind::Pid as usize],
            ..FailRecord::default()
        });
        self
    }

    /// It failed inside create_user_ns.
    pub fn in_user(self) -> Built {
        self.found_ret(|fail| &mut fail.user_ret)
    }

    /// It failed inside create_new_namespaces.
    pub fn in_create(self) -> Built {
        self.found_ret(|fail| &mut fail.create_ret)
    }

    /// It failed inside alloc_pid.
    pub fn in_alloc_pid(self) -> Built {
        self.found_ret(|fail| &mut fail.pid_ret)
    }

    fn found_ret(self, place: impl FnOnce(&mut FailRecord) -> &mut i32) -> Built {
        let ret = self.record.ret as i32;
        self.found(|fail| *place(fail) = ret)
    }

    pub fn with(mut self, change: impl FnOnce(&mut OpRecord)) -> Built {
        change(&mut self.record);
        self
    }

    /// What it found when it failed.
    pub fn found(mut self, change: impl FnOnce(&mut FailRecord)) -> Built {
        change(self.fail.as_mut().expect("it failed"));
        self
    }

    /// The namespaces after it, of kinds that change.
    pub fn after(mut self, changes: &[(Kind, u32)]) -> Built {
        for (kind, inum) in changes {
            self.record.after[*kind as usize] = *inum;
        }
        self
    }

    pub fn pids(mut self, pids: &[(u32, u32)]) -> Built {
        let chain = pids.iter().map(|(nr, ns)| PidAt { nr: *nr, ns: *ns });
        self.pids = chain.collect();
        self.record.ret = pids.first().map_or(0, |(nr, _)| i64::from(*nr));
        self
    }

    /// As the kernel side sends it: the lists behind the record.
    pub fn bytes(&self) -> Vec<u64> {
        let mut record = self.record;
        record.ids_len = self.ids.len() as u8;
        record.marks_len = self.marks.len() as u8;
        record.pids_len = self.pids.len() as u8;
        let mut bytes = record.as_bytes().to_vec();
        bytes.extend(self.ids.as_bytes());
        bytes.extend(self.marks.as_bytes());
        bytes.extend(self.pids.as_bytes());
        bytes.extend(self.fail.iter().flat_map(|fail| fail.as_bytes()));
        aligned(&bytes)
    }
}

/// Bytes at an address that is aligned as those of a ring buffer are; the last word
/// is filled up with zeroes.
pub fn aligned(bytes: &[u8]) -> Vec<u64> {
    let mut words = vec![0; bytes.len().div_ceil(8)];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    words
}

pub const fn mark(mark: Mark) -> u8 {
    mark as u8
}

pub const fn copy(kind: Kind) -> u8 {
    Mark::Copy as u8 + kind as u8
}

pub const fn install(kind: Kind) -> u8 {
    Mark::Install as u8 + kind as u8
}

/// A task in a pid namespace below the first.
#[derive(Clone)]
pub struct BuiltTask {
    pub record: TaskRecord,
    pub pids: Vec<PidAt>,
}

pub fn task(pid: u32, tid: u32, comm: &[u8]) -> BuiltTask {
    let mut record = TaskRecord::new_zeroed();
    record.head.time = 1_500_000_000;
    record.pid = pid;
    record.tid = tid;
    record.parent = 4242;
    record.comm[..comm.len()].copy_from_slice(comm);
    record.pids_len = 2;
    let ns = FIRST[Kind::Pid as usize];
    let pids = vec![
        PidAt { nr: tid, ns },
        PidAt {
            nr: 1,
            ns: 4_026_532_279,
        },
    ];
    BuiltTask { record, pids }
}

impl BuiltTask {
    /// As the kernel side sends it.
    pub fn bytes(&self) -> Vec<u64> {
        let mut bytes = self.record.as_bytes().to_vec();
        bytes.extend(self.pids.as_bytes());
        aligned(&bytes)
    }

    pub fn get(&self) -> Task<'_> {
        Task {
            record: &self.record,
            pids: &self.pids,
        }
    }
}
