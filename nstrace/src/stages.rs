//! The functions of the kernel that an operation passed.
//!
//! The kernel side leaves a mark at the entry of each function, at the exit of
//! three ([`Mark`]). The copy functions and the installs have none at their exit:
//! they are called one after the other, so each ends where the next begins.

use std::ops::Deref;

use nstrace_common::{
    flags::{CLONE_NEW_ALL, CLONE_NEWUSER},
    kind::{KINDS, Kind},
    wire::{MARKS, Mark, Op},
};

use crate::event::{Operation, flagged};

mod failed;
#[cfg(test)]
mod tests;

pub use failed::{PID_NS_LEVEL_MAX, failed};

/// A function of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// From copy_creds or unshare_userns.
    CreateUserNs,
    /// From copy_process only.
    CopyNamespaces,
    /// From copy_namespaces or unshare_nsproxy_namespaces.
    CreateNewNamespaces,
    /// copy_mnt_ns, copy_utsname, …: makes a namespace of that kind.
    Copy(Kind),
    /// From copy_process only.
    AllocPid,
    /// From ksys_unshare and setns.
    Switch,
    /// mntns_install, utsns_install, …: enters a namespace of that kind.
    Install(Kind),
}

impl Function {
    /// Its name in the kernel.
    pub const fn name(self) -> &'static str {
        match self {
            Function::CreateUserNs => "create_user_ns",
            Function::CopyNamespaces => "copy_namespaces",
            Function::CreateNewNamespaces => "create_new_namespaces",
            Function::AllocPid => "alloc_pid",
            Function::Switch => "switch_task_namespaces",
            Function::Copy(kind) => match kind {
                Kind::Mnt => "copy_mnt_ns",
                Kind::Uts => "copy_utsname",
                Kind::Ipc => "copy_ipcs",
                Kind::Pid => "copy_pid_ns",
                Kind::Net => "copy_net_ns",
                Kind::User => "create_user_ns",
                Kind::Cgroup => "copy_cgroup_ns",
                Kind::Time => "copy_time_ns",
            },
            Function::Install(kind) => match kind {
                Kind::Mnt => "mntns_install",
                Kind::Uts => "utsns_install",
                Kind::Ipc => "ipcns_install",
                Kind::Pid => "pidns_install",
                Kind::Net => "netns_install",
                Kind::User => "userns_install",
                Kind::Cgroup => "cgroupns_install",
                Kind::Time => "timens_install",
            },
        }
    }

    /// How deep it can be among the functions here, less than [`LEVELS`]: each is called, if at all, by
    /// one of the level above.
    const fn level(self) -> u8 {
        match self {
            Function::CreateUserNs
            | Function::CopyNamespaces
            | Function::AllocPid
            | Function::Switch
            | Function::Install(_) => 0,
            Function::CreateNewNamespaces => 1,
            Function::Copy(_) => 2,
        }
    }
}

const LEVELS: usize = 3;

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// A function of this level was entered.
    Enter(u8, Function),
    /// Everything that is open ends.
    Leave,
}

/// What marks say, by their number.
const POINTS: [Option<Point>; 256] = {
    const fn enter(function: Function) -> Option<Point> {
        Some(Point::Enter(function.level(), function))
    }
    let mut points = [None; 256];
    points[Mark::CreateUserNs as usize] = enter(Function::CreateUserNs);
    points[Mark::CreateUserNsDone as usize] = Some(Point::Leave);
    points[Mark::CopyNamespaces as usize] = enter(Function::CopyNamespaces);
    points[Mark::CreateNewNamespaces as usize] = enter(Function::CreateNewNamespaces);
    // copy_namespaces does nothing after it that takes time.
    points[Mark::CreateNewNamespacesDone as usize] = Some(Point::Leave);
    points[Mark::AllocPid as usize] = enter(Function::AllocPid);
    points[Mark::AllocPidDone as usize] = Some(Point::Leave);
    points[Mark::Switch as usize] = enter(Function::Switch);
    let mut at = 0;
    while at < KINDS {
        let kind = Kind::ALL[at];
        points[Mark::Copy as usize + at] = enter(Function::Copy(kind));
        points[Mark::Install as usize + at] = enter(Function::Install(kind));
        at += 1;
    }
    points
};

/// The points that an operation passed, with the ns since its start.
fn points<'a>(op: &Operation<'a>) -> impl DoubleEndedIterator<Item = (u64, Point)> + use<'a> {
    // A namespace made from a descriptor (v7.2 fs/namespace.c, create_new_namespace)
    // pays for it in the same way, but copy_mnt_ns is not called.
    let copies = !matches!(op.op, Op::OpenTree | Op::Fsmount);
    op.marks
        .iter()
        .filter_map(move |mark| match POINTS[usize::from(*mark as u8)]? {
            Point::Enter(_, Function::Copy(_)) if !copies => None,
            point => Some((mark >> 8, point)),
        })
}

/// A function that an operation passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The function.
    pub function: Function,
    /// 0 for the outermost.
    pub depth: u8,
    /// When it began, in ns since the beginning of the operation.
    pub start_ns: u64,
    /// Its length.
    pub took_ns: u64,
    /// The errno, positive, if it is the one that failed. Those that called it
    /// gave it back too; they do not have it here.
    pub errno: Option<i32>,
}

/// Every mark can begin a stage, and a function that failed before its mark is one.
const STAGES: usize = MARKS + 1;

/// The functions that an operation passed, in order.
#[derive(Clone, Debug)]
pub struct Stages {
    list: [Stage; STAGES],
    len: usize,
}

impl Deref for Stages {
    type Target = [Stage];

    fn deref(&self) -> &[Stage] {
        &self.list[..self.len]
    }
}

impl Stages {
    const EMPTY: Stages = Stages {
        list: [Stage {
            function: Function::Switch,
            depth: 0,
            start_ns: 0,
            took_ns: 0,
            errno: None,
        }; STAGES],
        len: 0,
    };

    fn push(&mut self, stage: Stage) -> usize {
        let at = self.len;
        if let Some(slot) = self.list.get_mut(at) {
            *slot = stage;
            self.len += 1;
        }
        at
    }

    /// The one that failed.
    pub fn failed(&self) -> Option<&Stage> {
        self.iter().find(|stage| stage.errno.is_some())
    }
}

/// The function that took longest of those that called no other one here, and how
/// long. It follows from [`stages`] too, but a line needs no list.
pub fn slowest(op: &Operation) -> Option<(Function, u64)> {
    let mut slowest = None;
    let mut most_ns = 0;
    let mut end = |function, took_ns| {
        let idle = function == Function::CopyNamespaces && is_idle_copy(op);
        let took_ns = if idle { 0 } else { took_ns };
        if took_ns >= most_ns {
            most_ns = took_ns;
            slowest = Some(function);
        }
    };
    // Those that are open, by level, and when the last was entered.
    let mut open = [None; LEVELS];
    let mut last = None;
    for (at, point) in points(op) {
        let (level, entered) = match point {
            Point::Enter(level, function) => (level, Some(function)),
            Point::Leave => (0, None),
        };
        // As in `stages`.
        if entered.is_some() && entered == open[usize::from(level)] {
            continue;
        }
        // A function ends where the next point is, unless that is in one that it calls.
        if let Some((of_level, function, start_ns)) = last
            && level <= of_level
        {
            end(function, at.saturating_sub(start_ns));
        }
        open = match level {
            0 => [entered, None, None],
            1 => [open[0], entered, None],
            _ => [open[0], open[1], entered],
        };
        last = entered.map(|function| (level, function, at));
    }
    if let Some((_, function, start_ns)) = last {
        end(function, op.took_ns().saturating_sub(start_ns));
    }
    slowest.map(|function| (function, most_ns))
}

/// The functions that an operation that has ended passed.
pub fn stages(op: &Operation) -> Stages {
    let end = op.took_ns();
    let mut stages = Stages::EMPTY;
    // The stages that are open, by level.
    let mut open: [Option<usize>; LEVELS] = [None; LEVELS];
    let leave = |stages: &mut Stages, open: &mut [Option<usize>; LEVELS], level: usize, at: u64| {
        for stage in open[level..].iter_mut().filter_map(Option::take) {
            if let Some(stage) = stages.list.get_mut(stage) {
                stage.took_ns = at.saturating_sub(stage.start_ns);
            }
        }
    };
    for (at, point) in points(op) {
        match point {
            Point::Leave => leave(&mut stages, &mut open, 0, at),
            Point::Enter(level, function) => {
                let level = usize::from(level);
                // v5.19 ipc/namespace.c, create_ipc_ns: charges again when a flush
                // of its work has freed some.
                if open[level].is_some_and(|at| stages[at].function == function) {
                    continue;
                }
                leave(&mut stages, &mut open, level, at);
                let depth = open[..level].iter().flatten().count() as u8;
                open[level] = Some(stages.push(Stage {
                    function,
                    depth,
                    start_ns: at,
                    took_ns: 0,
                    errno: None,
                }));
            }
        }
    }
    leave(&mut stages, &mut open, 0, end);
    shorten_idle_copy(op, &mut stages);
    if let Some((function, errno)) = failed(op).zip(op.errno()) {
        mark_failed(op, &mut stages, function, errno);
    }
    stages
}

/// copy_namespaces has no mark at its exit. Without a kind but user it returns at
/// once (v6.12 kernel/nsproxy.c), and what follows is not its time.
fn is_idle_copy(op: &Operation) -> bool {
    requested_flags(op) & !CLONE_NEWUSER == 0
}

fn shorten_idle_copy(op: &Operation, stages: &mut Stages) {
    if !is_idle_copy(op) {
        return;
    }
    let len = stages.len;
    for at in 0..len {
        let is_leaf = at + 1 == len || stages.list[at + 1].depth <= stages.list[at].depth;
        if stages.list[at].function == Function::CopyNamespaces && is_leaf {
            stages.list[at].took_ns = 0;
        }
    }
}

fn mark_failed(op: &Operation, stages: &mut Stages, function: Function, errno: i32) {
    let len = stages.len;
    let marked = stages.list[..len]
        .iter_mut()
        .rev()
        .find(|stage| stage.function == function);
    if let Some(stage) = marked {
        stage.errno = Some(errno);
        return;
    }
    // It failed before its mark, and create_new_namespaces returned at once.
    let (depth, start_ns) = stages
        .iter()
        .find(|stage| stage.function == Function::CreateNewNamespaces)
        .map_or((0, op.took_ns()), |outer| {
            (outer.depth + 1, outer.start_ns + outer.took_ns)
        });
    stages.push(Stage {
        function,
        depth,
        start_ns,
        took_ns: 0,
        errno: Some(errno),
    });
}

/// The innermost function here that an operation in flight is in, and since when,
/// in ns from the beginning of the operation. Only the start of the record and its
/// marks are looked at: the rest is not yet written.
pub fn in_stage(op: &Operation) -> Option<(Function, u64)> {
    match points(op).next_back()? {
        (at, Point::Enter(_, function)) => Some((function, at)),
        (_, Point::Leave) => None,
    }
}

/// The kinds that an operation was to make, or, for setns, asked for by its flags, in
/// the order in which they are printed.
pub fn requested(op: &Operation) -> impl Iterator<Item = Kind> + use<> {
    flagged(&PRINTED, requested_flags(op))
}

fn requested_flags(op: &Operation) -> u64 {
    match op.op {
        Op::Setns => op.record.flags & CLONE_NEW_ALL,
        Op::Clone
        | Op::Clone3
        | Op::Fork
        | Op::Vfork
        | Op::Unshare
        | Op::OpenTree
        | Op::Fsmount => op.made_flags(),
    }
}

/// Kinds in the order in which they are printed: that of the flags,
/// [`nstrace_common::flags::NAMES`].
pub const PRINTED: [Kind; KINDS] = [
    Kind::User,
    Kind::Mnt,
    Kind::Uts,
    Kind::Ipc,
    Kind::Pid,
    Kind::Net,
    Kind::Cgroup,
    Kind::Time,
];

/// The kinds of the namespaces that setns was to enter, as far as it came.
pub fn installed<'a>(op: &Operation<'a>) -> impl DoubleEndedIterator<Item = Kind> + use<'a> {
    points(op).filter_map(|(_, point)| match point {
        Point::Enter(_, Function::Install(kind)) => Some(kind),
        Point::Enter(..) | Point::Leave => None,
    })
}

/// Whether a function was entered.
pub fn entered(op: &Operation, function: Function) -> bool {
    points(op).any(|(_, point)| point == Point::Enter(function.level(), function))
}
