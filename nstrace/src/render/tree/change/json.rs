//! A JSON line for each change, as docs/json.md promises.

use foldhash::HashSet;

use super::Changes;
use crate::{
    render::{
        Text, TreeView,
        json::{Object, line},
        tree::json::{interval, namespace_fields, task_fields, truth},
    },
    world::{Change, Known, Membership, NsKey, TaskKey, World},
};

impl Changes {
    /// Appends a line for each change, but for those that the line of another one says: where
    /// a task starts, and what it leaves when it exits or is reaped.
    pub(super) fn objects(
        &mut self,
        out: &mut Text,
        world: &World,
        changes: &[Change],
        view: &TreeView,
    ) {
        let mut whole: HashSet<TaskKey> = HashSet::default();
        whole.extend(changes.iter().filter_map(|change| match change {
            Change::Started(task) | Change::Exited { task, .. } | Change::Reaped { task, .. } => {
                Some(*task)
            }
            _ => None,
        }));
        let is_said = |change: &Change| match change {
            Change::Joined { task, .. } | Change::Left { task, .. } => whole.contains(task),
            _ => false,
        };
        for change in changes {
            if !is_said(change) && self.is_shown(world, change, view) {
                self.object(out, world, change, view);
            }
        }
    }

    fn object(&mut self, out: &mut Text, world: &World, change: &Change, view: &TreeView) {
        let Some(kind) = type_of(change) else {
            return;
        };
        let (tasks, namespaces) = (&self.tasks, &self.namespaces);
        let of_task = |object: &mut Object, key: TaskKey, tid: Option<u32>| {
            let who = tasks.get(&key);
            if let Some(who) = who {
                object.number("pid", who.pid);
            }
            if let Some(tid) = who.map(|who| who.tid).or(tid) {
                object.number("tid", tid);
            }
            if let Some(who) = who {
                object.name("comm", &who.comm);
            }
        };
        let of_namespace = |object: &mut Object, key: NsKey, has_id: bool| {
            if let Some(what) = namespaces.get(&key) {
                object.word("kind", what.kind.name());
                object.number("inum", what.inum);
                if has_id {
                    object.some("id", what.id);
                }
            }
        };
        let inferred = |object: &mut Object, known: Known| {
            if known == Known::Inferred {
                object.key("inferred").push_str(truth(true));
            }
        };
        line(
            out,
            kind,
            view.now_ns,
            &mut self.clock,
            |object| match *change {
                Change::Born(ns) | Change::Found(ns) => match world.namespace(ns) {
                    Some(ns) => namespace_fields(object, world, ns, view),
                    None => of_namespace(object, ns, true),
                },
                Change::Died { ns, age_ns, known } => {
                    of_namespace(object, ns, true);
                    if let Some(age) = age_ns {
                        object.number("age_ns", age);
                    }
                    inferred(object, known);
                }
                Change::Started(key) => match world.task(key) {
                    Some(task) => task_fields(object, world, key, task, view),
                    None => of_task(object, key, None),
                },
                Change::Reaped { task, tid } => of_task(object, task, Some(tid)),
                Change::Exited { task, tid, known } => {
                    of_task(object, task, Some(tid));
                    inferred(object, known);
                }
                Change::Joined {
                    task,
                    ns,
                    membership,
                }
                | Change::Left {
                    task,
                    ns,
                    membership,
                } => {
                    of_task(object, task, None);
                    of_namespace(object, ns, false);
                    if matches!(membership, Membership::Children(_)) {
                        object.key("for_children").push_str(truth(true));
                    }
                }
                Change::Pinned(ns)
                | Change::Unpinned(ns)
                | Change::Unconfirmed(ns)
                | Change::Confirmed(ns) => of_namespace(object, ns, true),
                Change::Lost(loss) | Change::Healed(loss) => interval(object, &loss),
                Change::BirthTold(_) | Change::Forgotten(_) => {}
            },
        );
    }
}

/// The `type` of a change's line; none for one that is of no matter to a reader.
fn type_of(change: &Change) -> Option<&'static str> {
    Some(match change {
        Change::Born(_) => "born",
        Change::Found(_) => "found",
        Change::Died { .. } => "died",
        Change::Started(_) => "started",
        Change::Exited { .. } => "exited",
        Change::Reaped { .. } => "reaped",
        Change::Joined { .. } => "joined",
        Change::Left { .. } => "left",
        Change::Pinned(_) => "pinned",
        Change::Unpinned(_) => "unpinned",
        Change::Unconfirmed(_) => "unconfirmed",
        Change::Confirmed(_) => "confirmed",
        Change::Lost(_) => "lost",
        Change::Healed(_) => "healed",
        Change::BirthTold(_) | Change::Forgotten(_) => return None,
    })
}
