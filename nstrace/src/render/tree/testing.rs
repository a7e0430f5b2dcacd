//! A machine for tests of renderings: what is found on it, and what happens.

use nstrace_common::{
    kind::{KINDS, Kind},
    wire::PidAt,
};

use super::{TreeFilter, TreeView, tree, tree_json};
pub use crate::render::testing::FIRST;
use crate::{
    cgroups::Cgroups,
    event::{
        Event, FoundHolder, FoundNamespace, FoundTask, Holder, Life, Now, Ns, SnapshotEnd, Unseen,
    },
    names::Names,
    render::{Text, testing::Built},
    world::{Change, Options, World},
};

pub const SECOND: u64 = 1_000_000_000;
/// The id of a container of cgroup 77, whose engine calls it web.
pub const WEB: &str = "3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123";

/// A machine, and how it is looked at.
pub struct Scene {
    pub world: World,
    /// What the last event changed.
    pub changes: Vec<Change>,
    pub now: u64,
    pub cgroups: Cgroups,
    pub names: Names,
    pub filter: TreeFilter,
    pub unseen: Unseen,
    pub live: bool,
    pub color: bool,
    pub width: Option<usize>,
}

impl Scene {
    /// Nothing but init and the first namespaces; traced, on a terminal of 80 columns.
    pub fn new() -> Scene {
        let mut scene = Scene {
            world: World::new(Options::default()),
            changes: Vec::new(),
            now: 10 * SECOND,
            cgroups: Cgroups::default(),
            names: Names::default(),
            filter: TreeFilter::default(),
            unseen: Unseen::default(),
            live: true,
            color: false,
            width: Some(80),
        };
        let path = format!("/system.slice/docker-{WEB}.scope");
        scene.cgroups.learn(77, path.as_bytes());
        scene.names.learn(WEB.as_bytes(), "web");
        scene.begin();
        for kind in [Kind::User].into_iter().chain(Kind::ALL) {
            let owner = if kind == Kind::User {
                0
            } else {
                FIRST[Kind::User as usize]
            };
            scene.namespace(kind, FIRST[kind as usize], 0, owner);
        }
        scene.task(1, 1, b"systemd", &[]);
        scene
    }

    pub fn event(&mut self, event: &Event) {
        self.changes.clear();
        self.world.apply(event, &mut self.changes);
    }

    pub fn begin(&mut self) {
        self.now += 1;
        self.event(&Event::SnapshotBegin(Now { time: self.now }));
    }

    pub fn end(&mut self) {
        let (time, unseen) = (self.now, self.unseen);
        self.event(&Event::SnapshotEnd(SnapshotEnd { time, unseen }));
    }

    pub fn namespace(&mut self, kind: Kind, inum: u32, parent: u32, owner: u32) {
        self.event(&Event::FoundNamespace(FoundNamespace {
            time: self.now,
            kind,
            ns: Ns { inum, id: 0 },
            parent,
            owner,
            owner_uid: (kind == Kind::User).then_some(0),
        }));
    }

    /// A task in the first namespaces, but for those of some kinds.
    pub fn task(&mut self, pid: u32, tid: u32, comm: &[u8], others: &[(Kind, u32)]) {
        self.task_of(0, pid, tid, comm, others);
    }

    /// The same in a cgroup.
    pub fn task_of(
        &mut self,
        cgroup: u64,
        pid: u32,
        tid: u32,
        comm: &[u8],
        others: &[(Kind, u32)],
    ) {
        let mut namespaces: [u32; KINDS] = FIRST;
        for (kind, inum) in others {
            namespaces[*kind as usize] = *inum;
        }
        let first = FIRST[Kind::Pid as usize];
        let own = namespaces[Kind::Pid as usize];
        let mut pids = vec![PidAt { nr: tid, ns: first }];
        if own != first {
            pids.push(PidAt {
                nr: tid % 100,
                ns: own,
            });
        }
        self.event(&Event::FoundTask(FoundTask {
            time: self.now,
            start: 0,
            pid,
            tid,
            exited: false,
            cgroup,
            comm,
            pids: &pids,
            namespaces,
            pid_for_children: own,
            time_for_children: namespaces[Kind::Time as usize],
        }));
    }

    pub fn holder(&mut self, kind: Kind, inum: u32, holder: Holder) {
        self.event(&Event::FoundHolder(FoundHolder {
            time: self.now,
            kind,
            ns: Ns { inum, id: 0 },
            holder,
        }));
    }

    /// An operation that ends a second later.
    pub fn op(&mut self, built: Built) {
        self.now += SECOND;
        let now = self.now;
        let built = built.with(|record| {
            record.start = now - 1000;
            record.head.time = now;
            record.owner = FIRST[Kind::User as usize];
            record.pid_parent = FIRST[Kind::Pid as usize];
        });
        let op = built.get();
        self.event(&Event::Op(op));
        if let Some(first) = op.pids.first().filter(|_| op.op.makes_task()) {
            let mut child = crate::render::testing::task(first.nr, first.nr, op.comm());
            child.record.head.time = now;
            child.record.parent = op.record.pid;
            child.record.cgroup = op.record.cgroup;
            child.record.namespaces = op.record.after;
            child.record.time_for_children = op.record.after[Kind::Time as usize];
            child.pids = op.pids.to_vec();
            self.event(&Event::TaskNew(child.get()));
        }
    }

    pub fn death(&mut self, inum: u32) {
        self.now += SECOND;
        self.event(&Event::Death(Life::death(self.now, inum)));
    }

    pub fn view(&self) -> TreeView<'_> {
        TreeView {
            now_ns: self.now,
            wall_offset_ns: 1_795_388_474_221_000_000,
            cgroups: &self.cgroups,
            names: &self.names,
            filter: &self.filter,
            unseen: self.unseen,
            live: self.live,
            color: self.color,
            width: self.width,
        }
    }

    pub fn text(&self) -> String {
        self.print(tree)
    }

    /// The lines, each of which must be what a parser takes.
    pub fn json(&self) -> String {
        let lines = self.print(tree_json);
        for line in lines.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            assert!(value.is_object());
        }
        lines
    }

    pub fn print(&self, print: impl FnOnce(&mut Text, &World, &TreeView)) -> String {
        let mut out = Text::new();
        print(&mut out, &self.world, &self.view());
        out.to_string()
    }
}

/// A container: made by runc, two processes, one of which has threads; and a net namespace
/// that `ip netns` made.
pub fn machine() -> Scene {
    use crate::render::testing::op;
    use nstrace_common::{flags::*, wire::Op};

    let mut scene = Scene::new();
    scene.task(812, 812, b"dockerd", &[]);
    scene.task(4242, 4242, b"runc", &[]);
    scene.namespace(Kind::Net, 4_026_532_400, 0, FIRST[Kind::User as usize]);
    scene.holder(
        Kind::Net,
        4_026_532_400,
        Holder::Mount {
            mnt: FIRST[0],
            path: b"/run/netns/blue",
        },
    );
    scene.holder(
        Kind::Net,
        4_026_532_400,
        Holder::Descriptor { pid: 812, fd: 23 },
    );
    scene.end();
    let flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET;
    scene.op(op(Op::Clone, flags)
        .after(&[
            (Kind::Mnt, 4_026_532_276),
            (Kind::Uts, 4_026_532_277),
            (Kind::Ipc, 4_026_532_278),
            (Kind::Pid, 4_026_532_279),
            (Kind::Net, 4_026_532_281),
        ])
        .pids(&[(4300, FIRST[Kind::Pid as usize]), (1, 4_026_532_279)]));
    scene.now += 191 * SECOND;
    scene.begin();
    let places = [
        (Kind::Mnt, 4_026_532_276),
        (Kind::Uts, 4_026_532_277),
        (Kind::Ipc, 4_026_532_278),
        (Kind::Pid, 4_026_532_279),
        (Kind::Net, 4_026_532_281),
    ];
    scene.task_of(77, 4300, 4300, b"nginx", &places);
    scene.task_of(77, 4300, 4301, b"nginx", &places);
    scene.task_of(77, 4302, 4302, b"nginx", &places);
    scene
}
