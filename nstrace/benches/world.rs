//! What the model of the tree costs: time for an event, memory for a namespace and a task.
//!
//! ```text
//! AYA_BUILD_SKIP=1 cargo bench --bench world
//! ```

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use nstrace::{
    event::{Event, FoundTask, Life, Now, Operation, SnapshotEnd, Task, Unseen},
    world::{Change, Options, World},
};
use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWPID},
    kind::Kind,
    wire::{Op, OpRecord, PidAt, TaskRecord},
};
use zerocopy::FromZeros as _;

/// Counts the bytes that are allocated.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FIRST: [u32; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// Inums of what is made begin here, thread ids of containers' first tasks too.
const BASE: u32 = 1000;

struct Bench {
    world: World,
    changes: Vec<Change>,
    now: u64,
    applied: u64,
}

impl Bench {
    fn new() -> Bench {
        let mut bench = Bench {
            world: World::new(Options::default()),
            changes: Vec::new(),
            now: 1_000_000_000,
            applied: 0,
        };
        bench.apply(&Event::SnapshotBegin(Now { time: 1 }));
        bench.apply(&Event::FoundTask(FoundTask {
            time: 2,
            start: 0,
            pid: 1,
            tid: 1,
            exited: false,
            cgroup: 1,
            comm: b"init",
            pids: &[],
            namespaces: FIRST,
            pid_for_children: FIRST[Kind::Pid as usize],
            time_for_children: FIRST[Kind::Time as usize],
        }));
        bench.apply(&Event::SnapshotEnd(SnapshotEnd {
            time: 3,
            unseen: Unseen::default(),
        }));
        bench
    }

    fn apply(&mut self, event: &Event) {
        self.world.apply(event, &mut self.changes);
        self.changes.clear();
        self.now += 1000;
        self.applied += 1;
    }

    /// A container of one task, with a net namespace of its own, and, if it is to be so,
    /// a pid namespace.
    fn container(&mut self, number: u32, has_pid: bool) {
        let mut record = OpRecord::new_zeroed();
        record.start = self.now - 500;
        record.head.time = self.now;
        record.op = Op::Clone as u8;
        record.flags = CLONE_NEWNET;
        record.pid = 1;
        record.tid = 1;
        record.before = FIRST;
        record.after = FIRST;
        record.after[Kind::Net as usize] = BASE + 2 * number;
        record.owner = FIRST[Kind::User as usize];
        let first = FIRST[Kind::Pid as usize];
        let nr = BASE + number;
        let mut pids = [PidAt { nr, ns: first }, PidAt { nr: 1, ns: first }];
        if has_pid {
            record.flags |= CLONE_NEWPID;
            record.pid_parent = first;
            record.after[Kind::Pid as usize] = BASE + 2 * number + 1;
            pids[1].ns = BASE + 2 * number + 1;
        }
        self.apply(&Event::Op(Operation {
            record: &record,
            ids: &[],
            marks: &[],
            pids: if has_pid { &pids } else { &pids[..1] },
            fail: None,
            op: Op::Clone,
        }));
        if has_pid {
            self.task(false, nr, number);
        }
    }

    fn task(&mut self, exits: bool, tid: u32, container: u32) {
        let mut record = TaskRecord::new_zeroed();
        record.head.time = self.now;
        record.pid = tid;
        record.tid = tid;
        record.parent = BASE + container;
        record.namespaces = FIRST;
        record.namespaces[Kind::Net as usize] = BASE + 2 * container;
        record.namespaces[Kind::Pid as usize] = BASE + 2 * container + 1;
        record.time_for_children = FIRST[Kind::Time as usize];
        let pids = [
            PidAt {
                nr: tid,
                ns: FIRST[Kind::Pid as usize],
            },
            PidAt {
                nr: 2,
                ns: BASE + 2 * container + 1,
            },
        ];
        let task = Task {
            record: &record,
            pids: &pids,
        };
        if exits {
            self.apply(&Event::TaskExit(task));
            self.apply(&Event::TaskFree(task));
        } else {
            self.apply(&Event::TaskNew(task));
        }
    }

    fn death(&mut self, inum: u32) {
        self.apply(&Event::Death(Life::death(self.now, inum)));
    }

    fn time(&mut self, what: &str, run: impl FnOnce(&mut Bench)) {
        let before = self.applied;
        let start = Instant::now();
        run(self);
        let events = self.applied - before;
        let ns = start.elapsed().as_nanos() as u64 / events.max(1);
        println!("{what:44} {ns:5} ns an event");
    }
}

/// Numbers of `0..count` in an order that no cache likes.
fn scattered(count: u32) -> impl Iterator<Item = u32> {
    // Coprime to the powers of ten.
    (0..count).map(move |i| (u64::from(i) * 7_919_999 % u64::from(count)) as u32)
}

fn main() {
    for count in [1000, 100_000] {
        let most = count / 2;
        println!("{count} namespaces, {count} tasks:");
        let before = BYTES.load(Ordering::Relaxed);
        let mut bench = Bench::new();
        bench.time("  clone of a container, two namespaces", |bench| {
            (0..most).for_each(|number| bench.container(number, true));
        });
        let tids = BASE + count;
        bench.time("  fork in a container", |bench| {
            scattered(most).for_each(|i| bench.task(false, tids + i, i));
        });
        let bytes = BYTES.load(Ordering::Relaxed) - before;
        let (namespaces, tasks) = (bench.world.living_len(), bench.world.tasks_len());
        println!(
            "  {namespaces} namespaces and {tasks} tasks: {:.1} MB, {} bytes for one of each",
            bytes as f64 / 1e6,
            bytes / namespaces.min(tasks),
        );
        bench.time("  fork and exit, scattered", |bench| {
            for i in scattered(most) {
                bench.task(false, tids + count + i, i);
                bench.task(true, tids + count + i, i);
            }
        });
        bench.time("  exits and deaths of all, scattered", |bench| {
            for i in scattered(most) {
                bench.task(true, tids + i, i);
                bench.task(true, BASE + i, i);
                bench.death(BASE + 2 * i);
                bench.death(BASE + 2 * i + 1);
            }
        });
        let remembered = BYTES.load(Ordering::Relaxed) - before;
        println!("  the dead remembered: {:.1} MB", remembered as f64 / 1e6);
    }
}
