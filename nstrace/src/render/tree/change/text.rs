//! A line for each change, for people. All that an event changed of a task is one line:
//! where it starts, where it exits, or from where to where it went.

use foldhash::HashMap;
use nstrace_common::kind::Kind;

use super::Changes;
use crate::{
    render::{
        Text, TreeView,
        color::Style,
        text,
        tree::{Mark, Page, first, words},
    },
    world::{Change, Interval, Known, Membership, NsKey, TaskKey, World},
};

/// The column in which a line says what has changed, after the time.
const WHAT: usize = 13;

/// What a task has come to, of all that an event changed.
#[derive(Clone, Copy, Debug, Default)]
struct Moves {
    started: bool,
    exited: Option<Known>,
    reaped: bool,
}

impl Changes {
    /// Appends what an event changed.
    pub(super) fn lines(
        &mut self,
        out: &mut Text,
        world: &World,
        changes: &[Change],
        view: &TreeView,
    ) {
        let mut by_task: HashMap<TaskKey, Vec<&Change>> = HashMap::default();
        for change in changes {
            if let Some(task) = task_of(change) {
                by_task.entry(task).or_default().push(change);
            }
        }
        for change in changes {
            match task_of(change) {
                // All of a task are in one line, at the first of them.
                Some(task) => {
                    if let Some(own) = by_task.remove(&task) {
                        self.task(out, world, task, &own, view);
                    }
                }
                None if self.is_shown(world, change, view) => {
                    self.other(out, world, change, view);
                }
                None => {}
            }
        }
    }

    fn begin<'o>(&mut self, out: &'o mut Text, time: u64, view: &TreeView) -> Page<'o> {
        let mut page = Page::new(out, view.width, view.color);
        page.begin(Mark::None, 0);
        page.styled(Style::Dim, |page| self.clock.time_of_day(page.out, time));
        page.to(WHAT);
        page
    }

    /// A change that is not of a task.
    fn other(&mut self, out: &mut Text, world: &World, change: &Change, view: &TreeView) {
        let mut page = self.begin(out, view.now_ns, view);
        let page = &mut page;
        match *change {
            Change::Born(ns) => {
                page.styled(Style::New, |page| {
                    page.str("+");
                    self.what(page, ns);
                });
                origin(page, world, ns, view);
            }
            Change::Found(ns) => {
                page.str("found ");
                self.what(page, ns);
                origin(page, world, ns, view);
            }
            Change::Died { ns, age_ns, known } => {
                page.styled(Style::Failed, |page| {
                    page.str("-");
                    self.what(page, ns);
                });
                self.end_of_life(page, world, ns, age_ns, known);
            }
            Change::Pinned(ns) => {
                self.what(page, ns);
                page.str(" is held by ");
                self.holder(page, ns);
            }
            Change::Unpinned(ns) => {
                self.what(page, ns);
                page.str(" is no longer held by ");
                self.holder(page, ns);
            }
            Change::Unconfirmed(ns) => {
                self.what(page, ns);
                page.str(" was not found: nothing that can be seen holds it");
            }
            Change::Confirmed(ns) => {
                self.what(page, ns);
                page.str(" was found again");
            }
            Change::Lost(loss) => page.styled(Style::Lost, |page| {
                page.str("*** LOST events of ");
                span(page, &loss);
                page.str(": what follows may be wrong ***");
            }),
            Change::Healed(loss) => {
                page.str("a look at the machine has made good the events lost in ");
                span(page, &loss);
            }
            Change::Started(_)
            | Change::Exited { .. }
            | Change::Reaped { .. }
            | Change::Joined { .. }
            | Change::Left { .. }
            | Change::BirthTold(_)
            | Change::Forgotten(_) => {}
        }
        page.end();
    }

    fn what(&self, page: &mut Page, key: NsKey) {
        match self.namespaces.get(&key) {
            Some(what) => text::namespace(page.out, what.kind, what.inum),
            None => page.str("a namespace"),
        }
    }

    fn holder(&self, page: &mut Page, key: NsKey) {
        let known = self.namespaces.get(&key);
        match known.and_then(|what| what.holder.as_deref()) {
            // It was escaped when it was put into words.
            Some(holder) => holder.chars().for_each(|c| page.out.push(c)),
            None => page.str("something that is not in it"),
        }
    }

    fn end_of_life(
        &self,
        page: &mut Page,
        world: &World,
        key: NsKey,
        age_ns: Option<u64>,
        known: Known,
    ) {
        if let Some(age) = age_ns {
            page.str(" lived ");
            text::length(page.out, age);
        }
        if let Some(maker) = world.namespace(key).and_then(|ns| ns.maker) {
            page.str(", made by ");
            text::task(page.out, maker.comm(), maker.pid);
        }
        if self
            .namespaces
            .get(&key)
            .is_some_and(|what| what.holder.is_some())
        {
            page.str(", was held by ");
            self.holder(page, key);
        }
        if known == Known::Inferred {
            page.str(" (inferred)");
        }
    }

    /// All that an event changed of a task. Threads come and go without a line.
    fn task(
        &mut self,
        out: &mut Text,
        world: &World,
        key: TaskKey,
        own: &[&Change],
        view: &TreeView,
    ) {
        let Some(who) = self.tasks.get(&key).cloned() else {
            return;
        };
        let moves = moves(own);
        let is_thread = who.pid != who.tid;
        let is_quiet = is_thread && (moves.started || moves.exited.is_some())
            || moves.reaped && moves.exited.is_none();
        let shown = own.iter().any(|change| self.is_shown(world, change, view));
        if is_quiet || !shown || !view.has_who(who.pid, who.cgroup) {
            return;
        }
        let places = self.places(world, key, own, moves, view);
        // What every task of the machine does is of interest if that one was asked for.
        if places.is_empty() && !view.filter.is_about_tasks() {
            return;
        }
        let mut page = self.begin(out, view.now_ns, view);
        let page = &mut page;
        text::task(page.out, &who.comm, who.pid);
        if is_thread {
            page.str(" thread ");
            page.number(who.tid);
        }
        page.str(match moves {
            Moves { started: true, .. } => " starts",
            Moves {
                exited: Some(_), ..
            } => match has_others(world, key, who.pid) {
                true => " leader exits",
                false => " exits",
            },
            _ => "",
        });
        for (i, place) in places.iter().enumerate() {
            if moves.started || moves.exited.is_some() {
                page.str(if i == 0 { " in" } else { "" });
            }
            page.str(" ");
            self.place(page, place, moves);
        }
        if moves.exited == Some(Known::Inferred) {
            page.str(" (inferred)");
        }
        page.end();
    }

    /// Where a task went from and to, way by way. One that starts or exits where nearly
    /// all are, in the first namespaces, needs no words for it.
    fn places(
        &self,
        world: &World,
        key: TaskKey,
        own: &[&Change],
        moves: Moves,
        view: &TreeView,
    ) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for change in own {
            let (membership, ns, is_joined) = match **change {
                Change::Joined { ns, membership, .. } => (membership, ns, true),
                Change::Left { ns, membership, .. } => (membership, ns, false),
                _ => continue,
            };
            let (Membership::In(kind) | Membership::Children(kind)) = membership;
            if !view.filter.has_kind(kind) {
                continue;
            }
            let known = places.iter().position(|place| place.way == membership);
            let at = known.unwrap_or_else(|| {
                places.push(Place {
                    way: membership,
                    left: None,
                    joined: None,
                });
                places.len() - 1
            });
            match is_joined {
                true => places[at].joined = Some(ns),
                false => places[at].left = places[at].left.or(Some(ns)),
            }
        }
        if moves.started || moves.exited.is_some() {
            let first = first(world);
            let all = places.clone();
            // One that exits stays in its pid namespace for a while.
            let own = |kind| {
                let way = Membership::In(kind);
                let place = all.iter().find(|place| place.way == way);
                place.map_or(world.membership(key, way), |own| own.joined.or(own.left))
            };
            places.retain(|place| {
                let ns = place.joined.or(place.left);
                match place.way {
                    Membership::In(_) => !first.contains(&ns),
                    Membership::Children(kind) => !first.contains(&ns) && own(kind) != ns,
                }
            });
        }
        places
    }

    fn place(&self, page: &mut Page, place: &Place, moves: Moves) {
        let is_children = matches!(place.way, Membership::Children(_));
        if is_children {
            page.str("for its children ");
        }
        match (place.left, place.joined) {
            (None, Some(ns)) if moves.started => self.what(page, ns),
            (Some(ns), None) if moves.exited.is_some() => self.what(page, ns),
            (Some(left), Some(joined)) => {
                self.what(page, left);
                page.str(" -> ");
                self.what(page, joined);
            }
            (None, Some(ns)) => {
                page.str("joins ");
                self.what(page, ns);
            }
            (Some(ns), None) => {
                page.str("leaves ");
                self.what(page, ns);
            }
            (None, None) => {}
        }
    }
}

/// Where a task went from and to.
#[derive(Clone, Copy, Debug)]
struct Place {
    way: Membership,
    left: Option<NsKey>,
    joined: Option<NsKey>,
}

/// The task that a change is of.
fn task_of(change: &Change) -> Option<TaskKey> {
    match *change {
        Change::Started(task)
        | Change::Exited { task, .. }
        | Change::Reaped { task, .. }
        | Change::Joined { task, .. }
        | Change::Left { task, .. } => Some(task),
        Change::Born(_)
        | Change::Found(_)
        | Change::BirthTold(_)
        | Change::Died { .. }
        | Change::Forgotten(_)
        | Change::Pinned(_)
        | Change::Unpinned(_)
        | Change::Unconfirmed(_)
        | Change::Confirmed(_)
        | Change::Lost(_)
        | Change::Healed(_) => None,
    }
}

/// Whether a process has tasks beside that one that have not exited.
fn has_others(world: &World, key: TaskKey, pid: u32) -> bool {
    let mut tasks = world.tasks();
    tasks.any(|(other, task)| task.pid == pid && other != key && !task.exited)
}

fn moves(own: &[&Change]) -> Moves {
    let mut moves = Moves::default();
    for change in own {
        match change {
            Change::Started(_) => moves.started = true,
            Change::Exited { known, .. } => moves.exited = Some(*known),
            Change::Reaped { .. } => moves.reaped = true,
            _ => {}
        }
    }
    moves
}

/// By whom it was made, and whose it is.
fn origin(page: &mut Page, world: &World, key: NsKey, view: &TreeView) {
    let Some(ns) = world.namespace(key) else {
        return;
    };
    if let Some(maker) = &ns.maker {
        page.str(" made by ");
        words::maker(page, maker, None, view.now_ns);
    }
    let above = match ns.kind {
        Kind::Pid => ns.parent,
        _ => ns.owner,
    };
    if let Some(above) = above {
        page.str(" in ");
        words::name(page, world, above);
    }
}

fn span(page: &mut Page, loss: &Interval) {
    text::length(page.out, loss.until.saturating_sub(loss.from));
}
