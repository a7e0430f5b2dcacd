//! The functions of the kernel that an operation passed.
//!
//! The kernel side leaves a mark at the entry of each function, at the exit of
//! three ([`Mark`]). The copy functions and the installs have none at their exit:
//! they are called one after the other, so each ends where the next begins.

use std::ops::Deref;

use nstrace_common::{
    kind::{KINDS, Kind},
    wire::{MARKS, Mark, Op},
};

use crate::event::Operation;

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

    /// How deep it can be among the functions here: each is called, if at all, by
    /// one of the level above.
    const fn level(self) -> usize {
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

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Enter(Function),
    /// Everything down to this level ends.
    Leave(usize),
    /// copy_namespaces ends. It has no mark at its beginning: it has done nothing, or
    /// called create_new_namespaces.
    LeaveCopyNamespaces,
}

impl Point {
    fn of(op: Op, mark: u8) -> Option<Point> {
        const MARKED: [(Mark, Point); 8] = [
            (Mark::CreateUserNs, Point::Enter(Function::CreateUserNs)),
            (Mark::CreateUserNsDone, Point::Leave(0)),
            (Mark::CopyNamespacesDone, Point::LeaveCopyNamespaces),
            (
                Mark::CreateNewNamespaces,
                Point::Enter(Function::CreateNewNamespaces),
            ),
            (Mark::UnshareNsproxyDone, Point::Leave(0)),
            (Mark::AllocPid, Point::Enter(Function::AllocPid)),
            (Mark::AllocPidDone, Point::Leave(0)),
            (Mark::Switch, Point::Enter(Function::Switch)),
        ];
        const COPY: u8 = Mark::Copy as u8;
        const INSTALL: u8 = Mark::Install as u8;
        if mark >= INSTALL {
            Kind::from_index(mark - INSTALL).map(|kind| Point::Enter(Function::Install(kind)))
        } else if mark >= COPY {
            // A namespace made from a descriptor (v7.2 fs/namespace.c,
            // create_new_namespace) pays for it in the same way, but copy_mnt_ns
            // is not called.
            if matches!(op, Op::OpenTree | Op::Fsmount) {
                return None;
            }
            Kind::from_index(mark - COPY).map(|kind| Point::Enter(Function::Copy(kind)))
        } else {
            MARKED
                .iter()
                .find(|(marked, _)| *marked as u8 == mark)
                .map(|(_, point)| *point)
        }
    }
}

/// The points that an operation passed, with the ns since its start.
fn points<'a>(op: &Operation<'a>) -> impl DoubleEndedIterator<Item = (u64, Point)> + use<'a> {
    let called = op.op;
    op.marks
        .iter()
        .filter_map(move |mark| Some((mark >> 8, Point::of(called, *mark as u8)?)))
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

/// Every mark can begin a stage, create_new_namespaces two, and a function that failed
/// before its mark is one.
const STAGES: usize = MARKS + 2;

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

    /// A function begins, if it is not open.
    fn enter(&mut self, open: &mut Open, function: Function, at: u64) {
        let level = function.level();
        // v5.19 ipc/namespace.c, create_ipc_ns: charges again when a flush of its work
        // has freed some.
        if open[level].is_some_and(|stage| self[stage].function == function) {
            return;
        }
        self.leave(open, level, at);
        let depth = open[..level].iter().flatten().count() as u8;
        let stage = self.push(Stage {
            function,
            depth,
            start_ns: at,
            took_ns: 0,
            errno: None,
        });
        open[level] = (stage < self.len).then_some(stage);
    }

    /// What is open down to a level ends.
    fn leave(&mut self, open: &mut Open, level: usize, at: u64) {
        for stage in open[level..].iter_mut().filter_map(Option::take) {
            let stage = &mut self.list[stage];
            stage.took_ns = at.saturating_sub(stage.start_ns);
        }
    }

    /// The one that failed.
    pub fn failed(&self) -> Option<&Stage> {
        self.iter().find(|stage| stage.errno.is_some())
    }

    /// The longest of those that call no other one here.
    pub fn slowest(&self) -> Option<&Stage> {
        let leaf = |at: usize| {
            self.get(at + 1)
                .is_none_or(|next| next.depth <= self[at].depth)
        };
        (0..self.len)
            .filter(|at| leaf(*at))
            .map(|at| &self[at])
            .max_by_key(|stage| stage.took_ns)
    }
}

/// The stages that are open, by level.
type Open = [Option<usize>; 3];

/// The functions that an operation that has ended passed.
pub fn stages(op: &Operation) -> Stages {
    let mut stages = Stages::EMPTY;
    let mut open: Open = [None; 3];
    for (at, point) in points(op) {
        match point {
            Point::Leave(level) => stages.leave(&mut open, level, at),
            Point::LeaveCopyNamespaces => {
                stages.enter(&mut open, Function::CopyNamespaces, at);
                stages.leave(&mut open, 0, at);
            }
            Point::Enter(function) => {
                if function == Function::CreateNewNamespaces && op.op.makes_task() {
                    stages.enter(&mut open, Function::CopyNamespaces, at);
                }
                stages.enter(&mut open, function, at);
            }
        }
    }
    stages.leave(&mut open, 0, op.took_ns());
    if let Some((function, errno)) = failed(op).zip(op.errno()) {
        mark_failed(op, &mut stages, function, errno);
    }
    stages
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
        (at, Point::Enter(function)) => Some((function, at)),
        (_, Point::Leave(_) | Point::LeaveCopyNamespaces) => None,
    }
}

/// The kinds that an operation was to make, or, for setns, asked for by its flags, in
/// the order in which they are printed.
pub fn requested<'a>(op: &Operation<'a>) -> impl Iterator<Item = Kind> + use<'a> {
    let op = *op;
    PRINTED.into_iter().filter(move |kind| match op.op {
        Op::Setns => op.record.flags & kind.flag() != 0,
        Op::Clone
        | Op::Clone3
        | Op::Fork
        | Op::Vfork
        | Op::Unshare
        | Op::OpenTree
        | Op::Fsmount => op.makes(*kind),
    })
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
        Point::Enter(Function::Install(kind)) => Some(kind),
        Point::Enter(_) | Point::Leave(_) | Point::LeaveCopyNamespaces => None,
    })
}

/// Whether a function was entered by an operation that has ended.
pub fn entered(op: &Operation, function: Function) -> bool {
    let mark = match function {
        Function::CopyNamespaces => Point::LeaveCopyNamespaces,
        _ => Point::Enter(function),
    };
    points(op).any(|(_, point)| point == mark)
}
