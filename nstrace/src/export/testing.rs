//! Tells an export what a recording would.

use crate::{
    cgroups::Cgroups,
    event::{Cgroup, Event, FoundNamespace, Life, Ns, Operation},
    export::{Context, Export},
    names::Names,
    trace::Head,
    world::World,
};
use nstrace_common::kind::Kind;

/// The time of day when the machine came up: 2026-11-22T23:01:15Z.
pub const WALL_OFFSET_NS: i64 = 1_795_388_475_000_000_000;

/// What a recording has told so far.
#[derive(Default)]
pub struct Teller {
    pub world: World,
    pub cgroups: Cgroups,
    pub names: Names,
    pub now_ns: u64,
}

impl Teller {
    pub fn head(&mut self, to: &mut dyn Export) {
        to.head(&Head {
            host: "web-1".to_owned(),
            kernel: "6.12.0".to_owned(),
            boot_id: "b0".to_owned(),
            mono_ns: 500_000_000,
            wall_offset_ns: WALL_OFFSET_NS,
            ..Head::default()
        })
        .unwrap();
    }

    pub fn event(&mut self, to: &mut dyn Export, event: &Event) {
        if let Event::Cgroup(cgroup) = event {
            self.cgroups.made(cgroup);
        }
        self.now_ns = self.now_ns.max(event.time().unwrap_or(0));
        let mut changes = Vec::new();
        self.world.apply(event, &mut changes);
        to.changes(&changes, &self.context()).unwrap();
        to.event(event, &self.context()).unwrap();
    }

    pub fn op(&mut self, to: &mut dyn Export, op: Operation) {
        self.event(to, &Event::Op(op));
    }

    pub fn cgroup(&mut self, to: &mut dyn Export, id: u64, path: &[u8]) {
        self.event(to, &Event::Cgroup(Cgroup { id, path }));
    }

    pub fn found(&mut self, to: &mut dyn Export, time: u64, kind: Kind, inum: u32) {
        let found = FoundNamespace {
            time,
            kind,
            ns: Ns { inum, id: 0 },
            parent: 0,
            owner: 0,
            owner_uid: None,
        };
        self.event(to, &Event::FoundNamespace(found));
    }

    pub fn death(&mut self, to: &mut dyn Export, time: u64, inum: u32) {
        self.event(to, &Event::Death(Life::death(time, inum)));
    }

    pub fn finish(&mut self, to: &mut dyn Export) {
        to.finish(&self.context()).unwrap();
    }

    fn context(&self) -> Context<'_> {
        Context {
            now_ns: self.now_ns,
            wall_offset_ns: WALL_OFFSET_NS,
            cgroups: &self.cgroups,
            names: &self.names,
            world: &self.world,
        }
    }
}
