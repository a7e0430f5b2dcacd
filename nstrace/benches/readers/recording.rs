//! The recording that is read: made up, in the shape of a real one.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::Path,
};

use nstrace::{
    decode::decode,
    event::{Cgroup, Event, FoundTask, Now, SnapshotEnd, Unseen},
    trace::{Head, Options, Writer},
};
use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{
        FAIL_PID_NS_DEAD, FailRecord, LifeRecord, Mark, NO_KIND, Op, OpRecord, PidAt, RecordKind,
        TaskRecord,
    },
};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::Result;

const FIRST: [u32; KINDS] = [
    4_026_531_841,
    4_026_531_838,
    4_026_531_839,
    4_026_531_836,
    4_026_531_840,
    4_026_531_837,
    4_026_531_835,
    4_026_531_834,
];

/// Makes a recording: turns of what makes, enters and ends a container, as runc and what
/// runs in it do it, and of what fails.
pub fn make(path: &Path, ops: u64) -> Result<()> {
    let head = Head {
        host: "bench".to_owned(),
        kernel: "6.12.118".to_owned(),
        mono_ns: 1_000_000_000,
        wall_offset_ns: 1_795_388_474_221_000_000,
        ..Head::default()
    };
    let out = BufWriter::new(File::create_new(path)?);
    let mut maker = Maker {
        writer: Writer::new(out, &head, Options::default())?,
        time: head.mono_ns,
        ops: 0,
        chance: 1,
    };
    maker.begin()?;
    let mut turn = 0;
    while maker.ops < ops {
        maker.turn(turn)?;
        turn += 1;
    }
    let end = maker.time;
    maker.writer.finish(end)?;
    Ok(())
}

struct Maker {
    writer: Writer<BufWriter<File>>,
    time: u64,
    ops: u64,
    chance: u64,
}

/// So many containers take turns.
const CONTAINERS: u64 = 8;

impl Maker {
    fn begin(&mut self) -> io::Result<()> {
        for container in 0..CONTAINERS {
            let path = format!(
                "/docker/{:016x}{:048x}",
                (container + 1) * 0x0123_4567_89ab_cdef,
                container
            );
            let id = container + 100;
            self.writer.event(&Event::Cgroup(Cgroup {
                id,
                path: path.as_bytes(),
            }))?;
        }
        let time = self.time;
        self.writer.event(&Event::SnapshotBegin(Now { time }))?;
        for pid in 1..300 {
            let ns = FIRST[Kind::Pid as usize];
            self.writer.event(&Event::FoundTask(FoundTask {
                time,
                start: time / 2,
                pid,
                tid: pid,
                cgroup: 1,
                comm: b"daemon",
                exited: false,
                pids: &[PidAt { nr: pid, ns }],
                namespaces: FIRST,
                pid_for_children: ns,
                time_for_children: FIRST[Kind::Time as usize],
            }))?;
        }
        let unseen = Unseen::default();
        self.writer
            .event(&Event::SnapshotEnd(SnapshotEnd { time, unseen }))
    }

    /// A number below another, as if by chance.
    fn below(&mut self, end: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % end
    }

    /// The life of a container: 16 operations.
    fn turn(&mut self, turn: u64) -> io::Result<()> {
        const MADE: [Kind; 5] = [Kind::Mnt, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Net];
        let cgroup = 100 + turn % CONTAINERS;
        let pid = 1000 + (turn * 4 % 30_000) as u32;
        let base = 4_026_532_200 + (turn * 7 % 2000) as u32;
        let inum = |at: usize| base + at as u32;
        let mut inside = FIRST;
        for (at, kind) in MADE.into_iter().enumerate() {
            inside[kind as usize] = inum(at);
        }
        let runc = Who::new(pid, b"runc", cgroup);
        let child = Who::new(pid + 1, b"runc:[2:INIT]", cgroup);
        self.task(RecordKind::TaskNew, runc, 1, FIRST, &[])?;
        // The container.
        let mut marks = vec![mark(9_000, Mark::CreateNewNamespaces)];
        let (mut at, mut flags) = (9_500, 0);
        for kind in MADE {
            marks.push(mark_of(at, Mark::Copy, kind));
            at += 8_000 + self.below(60_000);
            flags |= kind.flag();
        }
        marks.push(mark(at, Mark::CopyNamespacesDone));
        marks.push(mark(at + 9_000, Mark::AllocPidDone));
        let pids = [
            PidAt {
                nr: child.pid,
                ns: FIRST[Kind::Pid as usize],
            },
            PidAt { nr: 1, ns: inum(3) },
        ];
        let made = Done {
            flags,
            after: inside,
            marks: &marks,
            pids: &pids,
            ..Done::new(Op::Clone)
        };
        self.op(runc, made)?;
        self.task(RecordKind::TaskNew, child, pid, inside, &pids)?;
        // It unshares its cgroup namespace.
        let marks = [
            mark(400, Mark::CreateNewNamespaces),
            mark_of(600, Mark::Copy, Kind::Cgroup),
            mark(9_000 + self.below(4_000), Mark::Switch),
        ];
        let mut after = inside;
        after[Kind::Cgroup as usize] = inum(5);
        let cgroups = Kind::Cgroup.flag();
        self.op(
            child,
            Done {
                flags: cgroups,
                before: inside,
                after,
                marks: &marks,
                ..Done::new(Op::Unshare)
            },
        )?;
        self.task(
            RecordKind::TaskChange,
            Who::new(pid + 1, b"nginx", cgroup),
            0,
            after,
            &pids,
        )?;
        // Somebody looks into its net namespace, four times, and goes back.
        let ip = Who::new(pid + 2, b"ip", 1);
        self.task(RecordKind::TaskNew, ip, 1, FIRST, &[])?;
        let net = Kind::Net as usize;
        for _ in 0..4 {
            for (from, to) in [(FIRST[net], inside[net]), (inside[net], FIRST[net])] {
                let marks = [
                    mark_of(900 + self.below(300), Mark::Install, Kind::Net),
                    mark(1_500, Mark::Switch),
                ];
                let (mut before, mut after) = (FIRST, FIRST);
                (before[net], after[net]) = (from, to);
                let done = Done {
                    flags: Kind::Net.flag(),
                    before,
                    after,
                    marks: &marks,
                    ..Done::new(Op::Setns)
                };
                self.op(ip, done)?;
            }
        }
        // Three unshares of one kind by a user, the last of which is refused.
        let user = Who::new(pid + 3, b"unshare", 1);
        self.task(RecordKind::TaskNew, user, 1, FIRST, &[])?;
        let mut before = FIRST;
        for _ in 0..2 {
            let marks = [
                mark(400, Mark::CreateNewNamespaces),
                mark_of(600, Mark::Copy, Kind::Uts),
                mark(2_000 + self.below(9_000), Mark::Switch),
            ];
            let mut after = before;
            let last = before[Kind::Uts as usize];
            after[Kind::Uts as usize] = inum(6);
            self.op(
                user,
                Done {
                    flags: Kind::Uts.flag(),
                    before,
                    after,
                    marks: &marks,
                    ..Done::new(Op::Unshare)
                },
            )?;
            if last != FIRST[Kind::Uts as usize] {
                self.death(last)?;
            }
            before = after;
        }
        for flags in [Kind::Mnt.flag(), Kind::Net.flag() | Kind::Mnt.flag()] {
            let fail = FailRecord {
                threads: 1,
                fs_users: 1,
                ..FailRecord::default()
            };
            self.op(
                user,
                Done {
                    flags,
                    before,
                    after: before,
                    fail: Some(fail),
                    ..Done::new(Op::Unshare)
                },
            )?;
        }
        // Two forks that fail in a pid namespace whose init is dead.
        for _ in 0..2 {
            let fail = FailRecord {
                bits: FAIL_PID_NS_DEAD,
                pid_active: inum(3),
                ..FailRecord::default()
            };
            self.op(
                child,
                Done {
                    before: inside,
                    after: inside,
                    fail: Some(fail),
                    errno: libc::ENOMEM,
                    ..Done::new(Op::Fork)
                },
            )?;
        }
        for (who, at) in [(user, before), (ip, FIRST), (child, after), (runc, FIRST)] {
            let pids: &[PidAt] = if who.pid == child.pid { &pids } else { &[] };
            self.task(RecordKind::TaskExit, who, 0, at, pids)?;
            self.task(RecordKind::TaskFree, who, 0, at, pids)?;
        }
        for at in 0..7 {
            self.death(inum(at))?;
        }
        Ok(())
    }

    fn op(&mut self, who: Who, done: Done) -> io::Result<()> {
        self.time += 2_000 + self.below(20_000);
        let mut record = OpRecord::new_zeroed();
        record.head.kind = RecordKind::Op as u32;
        record.start = self.time;
        let last = done.marks.last().map_or(700, |mark| mark >> 8);
        let took = last + 300 + self.below(1 << (8 + self.chance % 9));
        self.time += took;
        record.head.time = self.time;
        record.op = done.op as u8;
        record.flags = done.flags;
        record.ret = match done.fail {
            Some(_) => -i64::from(done.errno),
            None => done.pids.first().map_or(0, |pid| pid.nr.into()),
        };
        record.pid = who.pid;
        record.tid = who.pid;
        record.uid = 0;
        record.cgroup = who.cgroup;
        record.comm = who.comm;
        record.before = done.before;
        record.after = done.after;
        record.owner = FIRST[Kind::User as usize];
        record.marks_len = done.marks.len() as u8;
        record.pids_len = done.pids.len() as u8;
        if done.op == Op::Setns {
            record.target = done.after[Kind::Net as usize];
        }
        let fail = done.fail.as_ref().map_or(&[][..], |fail| fail.as_bytes());
        self.ops += 1;
        self.write(&[
            record.as_bytes(),
            done.marks.as_bytes(),
            done.pids.as_bytes(),
            fail,
        ])
    }

    fn task(
        &mut self,
        kind: RecordKind,
        who: Who,
        parent: u32,
        at: [u32; KINDS],
        pids: &[PidAt],
    ) -> io::Result<()> {
        self.time += 500;
        let mut record = TaskRecord::new_zeroed();
        record.head.kind = kind as u32;
        record.head.time = self.time;
        record.pid = who.pid;
        record.tid = who.pid;
        record.parent = parent;
        record.cgroup = who.cgroup;
        record.comm = who.comm;
        record.namespaces = at;
        record.time_for_children = at[Kind::Time as usize];
        let first = [PidAt {
            nr: who.pid,
            ns: FIRST[Kind::Pid as usize],
        }];
        let pids = if pids.is_empty() { &first[..] } else { pids };
        record.pids_len = pids.len() as u32;
        self.write(&[record.as_bytes(), pids.as_bytes()])
    }

    fn death(&mut self, inum: u32) -> io::Result<()> {
        self.time += 1_000;
        let mut record = LifeRecord::new_zeroed();
        record.head.kind = RecordKind::Death as u32;
        record.head.time = self.time;
        record.inum = inum;
        record.ns_kind = NO_KIND;
        record.pid = 17;
        record.tid = 17;
        self.write(&[record.as_bytes()])
    }

    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = parts.concat();
        let mut words = vec![0_u64; bytes.len().div_ceil(8)];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
        let event = decode(words.as_bytes()).map_err(io::Error::other)?;
        self.writer.event(&event)
    }
}

/// A task.
#[derive(Clone, Copy)]
struct Who {
    pid: u32,
    comm: [u8; 16],
    cgroup: u64,
}

impl Who {
    fn new(pid: u32, name: &[u8], cgroup: u64) -> Who {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        Who { pid, comm, cgroup }
    }
}

/// What it did.
struct Done<'a> {
    op: Op,
    flags: u64,
    before: [u32; KINDS],
    after: [u32; KINDS],
    marks: &'a [u64],
    pids: &'a [PidAt],
    fail: Option<FailRecord>,
    errno: i32,
}

impl Done<'_> {
    fn new(op: Op) -> Self {
        Done {
            op,
            flags: 0,
            before: FIRST,
            after: FIRST,
            marks: &[],
            pids: &[],
            fail: None,
            errno: libc::EPERM,
        }
    }
}

fn mark(at_ns: u64, mark: Mark) -> u64 {
    at_ns << 8 | mark as u64
}

fn mark_of(at_ns: u64, first: Mark, kind: Kind) -> u64 {
    mark(at_ns, first) + kind as u64
}
