//! Writes a recording of as many operations as are asked for, to standard output: for
//! trying out what reads recordings. Containers start and end, some operations fail, some
//! events are lost, and names are as hostile as names can be.
//!
//! ```text
//! cargo run --example recording -- 100000 > large.nst
//! ```

use std::io::{self, BufWriter, Write as _};

use nstrace::{
    event::{
        Cgroup, Event, FoundNamespace, FoundTask, Life, Lost, Now, Ns, Operation, SnapshotEnd,
        Task, Unseen,
    },
    trace::{Head, Options, Writer},
};
use nstrace_common::{
    flags::{CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS},
    kind::{KINDS, Kind},
    wire::{FailRecord, Mark, Op, OpRecord, PidAt, RecordKind, TaskRecord},
};
use zerocopy::FromZeros as _;

/// The first namespaces, by kind.
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

const MADE: [Kind; 5] = [Kind::Mnt, Kind::Uts, Kind::Ipc, Kind::Pid, Kind::Net];

const COMMS: [&[u8]; 8] = [
    b"runc:[1:CHILD]",
    b"dockerd",
    b"unshare",
    b"</script><img",
    b"<!--<script>",
    b"\"'&{{data}}\\",
    b"\x1b[2J\xff\xfe\x07",
    "\u{202e}cnur".as_bytes(),
];

/// Numbers that look like chance, always the same.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// A length in ns: most are short, few are very long.
    fn length(&mut self, short: u64) -> u64 {
        let times = 1 << self.below(4) << self.below(4) << (self.below(32) / 29 * 6);
        short / 4 + self.below(short * times)
    }
}

fn main() -> io::Result<()> {
    let asked = std::env::args().nth(1);
    let operations: u64 = asked.and_then(|word| word.parse().ok()).unwrap_or(1000);
    let head = Head {
        nstrace: env!("CARGO_PKG_VERSION").into(),
        host: "</script><img src=x onerror=alert(1)>".into(),
        kernel: "6.12.0".into(),
        arch: "x86_64".into(),
        mono_ns: 5_000_000_000,
        wall_offset_ns: 1_764_000_000_000_000_000,
        ..Head::default()
    };
    let out = BufWriter::new(io::stdout().lock());
    let mut machine = Machine {
        writer: Writer::new(out, &head, Options::default())?,
        now: head.mono_ns + 1_000_000,
        chance: Chance(0x9e37_79b9_7f4a_7c15),
        inum: FIRST[0] + 100,
        pid: 1000,
        running: Vec::new(),
    };
    machine.look()?;
    for at in 0..operations {
        machine.step(at)?;
    }
    machine.writer.finish(machine.now)?;
    machine.writer.into_inner().flush()
}

/// A container that runs.
struct Container {
    pid: u32,
    comm: [u8; 16],
    namespaces: [u32; KINDS],
}

struct Machine<W> {
    writer: Writer<W>,
    now: u64,
    chance: Chance,
    inum: u32,
    pid: u32,
    running: Vec<Container>,
}

impl<W: io::Write> Machine<W> {
    /// What is there before.
    fn look(&mut self) -> io::Result<()> {
        let time = self.now;
        self.writer.event(&Event::SnapshotBegin(Now { time }))?;
        for kind in [Kind::User].into_iter().chain(Kind::ALL) {
            self.writer.event(&Event::FoundNamespace(FoundNamespace {
                time,
                kind,
                ns: inum(FIRST[kind as usize]),
                parent: 0,
                owner: if kind == Kind::User {
                    0
                } else {
                    FIRST[Kind::User as usize]
                },
                owner_uid: (kind == Kind::User).then_some(0),
            }))?;
        }
        for (at, comm) in COMMS.iter().enumerate() {
            let pid = at as u32 + 1;
            let pids = [PidAt {
                nr: pid,
                ns: FIRST[Kind::Pid as usize],
            }];
            self.writer.event(&Event::FoundTask(FoundTask {
                time,
                start: 0,
                pid,
                tid: pid,
                cgroup: 0,
                comm,
                exited: false,
                pids: &pids,
                namespaces: FIRST,
                pid_for_children: FIRST[Kind::Pid as usize],
                time_for_children: FIRST[Kind::Time as usize],
            }))?;
        }
        for at in 0..20 {
            let id = format!("{:016x}", (at + 1_u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(4);
            let path = format!("/system.slice/docker-{id}.scope");
            let cgroup = Cgroup {
                id: 100 + at,
                path: path.as_bytes(),
            };
            self.writer.event(&Event::Cgroup(cgroup))?;
        }
        let unseen = Unseen::default();
        self.writer
            .event(&Event::SnapshotEnd(SnapshotEnd { time, unseen }))
    }

    fn step(&mut self, at: u64) -> io::Result<()> {
        self.now += self.chance.length(200_000);
        match self.chance.below(10) {
            0..=4 => self.clone()?,
            5 | 6 => self.failure()?,
            _ => self.setns()?,
        }
        if self.running.len() > 40 {
            self.end()?;
        }
        if at % 20_000 == 10_000 {
            let (since, time) = (self.now, self.now + 300_000_000);
            self.now = time + 1;
            let lost = Lost {
                time,
                since,
                record: RecordKind::TaskExit,
                count: 7,
            };
            self.writer.event(&Event::Lost(lost))?;
        }
        Ok(())
    }

    fn record(&mut self, op: Op, took: u64) -> OpRecord {
        let mut record = OpRecord::new_zeroed();
        record.head.kind = RecordKind::Op as u32;
        record.op = op as u8;
        record.start = self.now;
        self.now += took;
        record.head.time = self.now;
        let comm = COMMS[self.chance.below(COMMS.len() as u64) as usize];
        record.comm[..comm.len()].copy_from_slice(comm);
        record.pid = 1 + self.chance.below(8) as u32;
        record.tid = record.pid;
        record.cgroup = 90 + self.chance.below(30);
        record.before = FIRST;
        record.after = FIRST;
        record
    }

    /// A container begins.
    fn clone(&mut self) -> io::Result<()> {
        let mut at = 0;
        let mut marks = vec![Mark::CreateNewNamespaces as u64];
        for kind in MADE {
            at += self
                .chance
                .length(if kind == Kind::Net { 80_000 } else { 4_000 });
            marks.push(at << 8 | (Mark::Copy as u64 + kind as u64));
        }
        at += self.chance.length(20_000);
        marks.push(at << 8 | Mark::CopyNamespacesDone as u64);
        let mut record = self.record(Op::Clone, at + 20_000);
        record.flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET;
        for kind in MADE {
            self.inum += 1;
            record.after[kind as usize] = self.inum;
        }
        self.pid += 1;
        record.ret = i64::from(self.pid);
        record.owner = FIRST[Kind::User as usize];
        record.pid_parent = FIRST[Kind::Pid as usize];
        record.mounts = 40;
        let pids = [
            PidAt {
                nr: self.pid,
                ns: FIRST[Kind::Pid as usize],
            },
            PidAt {
                nr: 1,
                ns: record.after[Kind::Pid as usize],
            },
        ];
        self.running.push(Container {
            pid: self.pid,
            comm: record.comm,
            namespaces: record.after,
        });
        self.write(&record, Op::Clone, &marks, &pids, None)?;
        let mut task = TaskRecord::new_zeroed();
        task.head.kind = RecordKind::TaskNew as u32;
        task.head.time = record.head.time;
        task.start = record.head.time;
        task.pid = self.pid;
        task.tid = self.pid;
        task.parent = record.pid;
        task.cgroup = record.cgroup;
        task.comm = record.comm;
        task.namespaces = record.after;
        task.time_for_children = FIRST[Kind::Time as usize];
        task.pids_len = 2;
        let (record, pids) = (&task, &pids[..]);
        self.writer.event(&Event::TaskNew(Task { record, pids }))
    }

    fn failure(&mut self) -> io::Result<()> {
        let took = self.chance.length(9_000);
        let mut record = self.record(Op::Unshare, took);
        record.flags = CLONE_NEWNS;
        record.uid = 1000;
        let (errno, fail) = match self.chance.below(3) {
            0 => (libc::EPERM, FailRecord::default()),
            1 => (
                libc::ENOSPC,
                FailRecord {
                    create_ret: -libc::ENOSPC,
                    limit_ns: FIRST[Kind::User as usize],
                    limit_kind: Kind::Mnt as u32,
                    limit_max: 128,
                    cap_effective: u64::MAX,
                    ..FailRecord::default()
                },
            ),
            _ => (libc::ENOMEM, FailRecord::default()),
        };
        record.ret = -i64::from(errno);
        let marks = [Mark::CreateNewNamespaces as u64];
        self.write(&record, Op::Unshare, &marks, &[], Some(&fail))
    }

    fn setns(&mut self) -> io::Result<()> {
        let took = self.chance.length(6_000);
        let mut record = self.record(Op::Setns, took);
        record.flags = CLONE_NEWNET;
        record.target = FIRST[Kind::Net as usize];
        let marks = [
            (took / 4) << 8 | (Mark::Install as u64 + Kind::Net as u64),
            (took / 2) << 8 | Mark::Switch as u64,
        ];
        self.write(&record, Op::Setns, &marks, &[], None)
    }

    fn write(
        &mut self,
        record: &OpRecord,
        op: Op,
        marks: &[u64],
        pids: &[PidAt],
        fail: Option<&FailRecord>,
    ) -> io::Result<()> {
        let mut record = *record;
        record.marks_len = marks.len() as u8;
        record.pids_len = pids.len() as u8;
        self.writer.event(&Event::Op(Operation {
            record: &record,
            ids: &[],
            marks,
            pids,
            fail,
            op,
        }))
    }

    /// A container ends, one of the oldest.
    fn end(&mut self) -> io::Result<()> {
        let at = self.chance.below(20) as usize;
        let container = self.running.remove(at);
        self.now += 1000;
        let mut record = TaskRecord::new_zeroed();
        record.head.kind = RecordKind::TaskExit as u32;
        record.head.time = self.now;
        record.pid = container.pid;
        record.tid = container.pid;
        record.comm = container.comm;
        record.namespaces = container.namespaces;
        record.pids_len = 2;
        let pids = [
            PidAt {
                nr: container.pid,
                ns: FIRST[Kind::Pid as usize],
            },
            PidAt {
                nr: 1,
                ns: container.namespaces[Kind::Pid as usize],
            },
        ];
        let task = Task {
            record: &record,
            pids: &pids,
        };
        self.writer.event(&Event::TaskExit(task))?;
        let mut gone = record;
        gone.head.kind = RecordKind::TaskFree as u32;
        gone.head.time += 100;
        gone.namespaces = [0; KINDS];
        gone.pids_len = 0;
        self.writer.event(&Event::TaskFree(Task {
            record: &gone,
            pids: &[],
        }))?;
        for kind in MADE {
            self.now += 1000;
            let life = Life {
                kind: Some(kind),
                ..Life::death(self.now, container.namespaces[kind as usize])
            };
            self.writer.event(&Event::Death(life))?;
        }
        Ok(())
    }
}

fn inum(inum: u32) -> Ns {
    Ns { inum, id: 0 }
}
