//! The functions of the kernel that an operation passed.
//!
//! The kernel side leaves a mark at the entry of each function, at the exit of
//! three ([`Mark`]). The copy functions and the installs have none at their exit:
//! they are called one after the other, so each ends where the next begins.

use std::ops::Deref;

use nstrace_common::{
    flags::CLONE_NEW_ALL,
    kind::{KINDS, Kind},
    wire::{MARKS, Mark, Op},
};

use crate::event::{Operation, flagged};

mod failed;
mod lengths;
mod slowest;
#[cfg(test)]
mod tests;

pub use self::{
    failed::{PID_NS_LEVEL_MAX, failed},
    lengths::lengths,
    slowest::slowest,
};

/// A function of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// How many functions there are.
pub const FUNCTIONS_LEN: usize = 5 + 2 * KINDS;

impl Function {
    /// All, in the order in which operations pass them; setns switches last.
    pub const ALL: [Function; FUNCTIONS_LEN] = {
        let mut all = [Function::Switch; FUNCTIONS_LEN];
        all[Function::CreateUserNs.index()] = Function::CreateUserNs;
        all[Function::CopyNamespaces.index()] = Function::CopyNamespaces;
        all[Function::CreateNewNamespaces.index()] = Function::CreateNewNamespaces;
        all[Function::AllocPid.index()] = Function::AllocPid;
        let mut at = 0;
        while at < KINDS {
            let kind = Kind::ALL[at];
            all[Function::Copy(kind).index()] = Function::Copy(kind);
            all[Function::Install(kind).index()] = Function::Install(kind);
            at += 1;
        }
        all
    };

    /// Its place in [`Function::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Function::CreateUserNs => 0,
            Function::CopyNamespaces => 1,
            Function::CreateNewNamespaces => 2,
            Function::Copy(kind) => 3 + kind as usize,
            Function::AllocPid => 3 + KINDS,
            Function::Install(kind) => 4 + KINDS + kind as usize,
            Function::Switch => 4 + 2 * KINDS,
        }
    }

    /// Whether it calls others that are functions here.
    pub const fn calls_others(self) -> bool {
        matches!(
            self,
            Function::CopyNamespaces | Function::CreateNewNamespaces
        )
    }

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

    /// How deep it can be among the functions here, less than [`LEVELS`]: each is called,
    /// if at all, by one of the level above.
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

/// A function, by a mark that tells of it: that is what is compared for each mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u8);

impl Id {
    /// No function: no mark is 0.
    const NONE: Id = Id(0);
    const CREATE_USER_NS: Id = Id(Mark::CreateUserNs as u8);
    const COPY_NAMESPACES: Id = Id(Mark::CopyNamespacesDone as u8);
    const CREATE_NEW_NAMESPACES: Id = Id(Mark::CreateNewNamespaces as u8);
    const ALLOC_PID: Id = Id(Mark::AllocPidDone as u8);
    const SWITCH: Id = Id(Mark::Switch as u8);

    fn function(self) -> Function {
        FUNCTIONS[usize::from(self.0)]
    }
}

/// By their ids; what is none of them is not asked for.
const FUNCTIONS: [Function; 256] = {
    let mut functions = [Function::Switch; 256];
    functions[Id::CREATE_USER_NS.0 as usize] = Function::CreateUserNs;
    functions[Id::COPY_NAMESPACES.0 as usize] = Function::CopyNamespaces;
    functions[Id::CREATE_NEW_NAMESPACES.0 as usize] = Function::CreateNewNamespaces;
    functions[Id::ALLOC_PID.0 as usize] = Function::AllocPid;
    let mut at = 0;
    while at < KINDS {
        let kind = Kind::ALL[at];
        functions[Mark::Copy as usize + at] = Function::Copy(kind);
        functions[Mark::Install as usize + at] = Function::Install(kind);
        at += 1;
    }
    functions
};

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A function of this level was entered.
    Enter(u8, Id),
    /// A function of the outermost level is done; its beginning may have left no mark.
    Done(Id),
}

/// What marks say, by their number.
const STEPS: [Option<Step>; 256] = {
    const fn enter(id: Id) -> Option<Step> {
        Some(Step::Enter(FUNCTIONS[id.0 as usize].level(), id))
    }
    let mut steps = [None; 256];
    steps[Mark::CreateUserNs as usize] = enter(Id::CREATE_USER_NS);
    steps[Mark::CreateUserNsDone as usize] = Some(Step::Done(Id::CREATE_USER_NS));
    steps[Mark::CopyNamespacesDone as usize] = Some(Step::Done(Id::COPY_NAMESPACES));
    steps[Mark::CreateNewNamespaces as usize] = enter(Id::CREATE_NEW_NAMESPACES);
    steps[Mark::AllocPidDone as usize] = Some(Step::Done(Id::ALLOC_PID));
    steps[Mark::Switch as usize] = enter(Id::SWITCH);
    let mut at = 0;
    while at < KINDS {
        let (copy, install) = (Mark::Copy as usize + at, Mark::Install as usize + at);
        steps[copy] = enter(Id(copy as u8));
        steps[install] = enter(Id(install as u8));
        at += 1;
    }
    steps
};

/// The level of the functions that copy.
const COPY_LEVEL: u8 = Function::Copy(Kind::Mnt).level();

/// What the marks of an operation say, with the ns since its start.
#[inline]
fn steps<'a>(op: &Operation<'a>) -> impl DoubleEndedIterator<Item = (u64, Step)> + use<'a> {
    // A namespace made from a descriptor (v7.2 fs/namespace.c, create_new_namespace)
    // pays for it in the same way, but copy_mnt_ns is not called.
    let copies = !matches!(op.op, Op::OpenTree | Op::Fsmount);
    op.marks
        .iter()
        .filter_map(move |mark| match STEPS[usize::from(*mark as u8)]? {
            Step::Enter(COPY_LEVEL, _) if !copies => None,
            step => Some((mark >> 8, step)),
        })
}

/// A point of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// A function of this level begins.
    Enter(u8, Id),
    /// Everything that is open ends.
    Leave,
}

/// Calls `each` with the beginnings and ends that follow from the marks, with the ns since
/// the start of the operation. Three functions have marks at their ends alone, because an
/// entry costs every fork a program too:
///
/// - copy_namespaces has done nothing, or called create_new_namespaces first thing (v6.12
///   kernel/nsproxy.c);
/// - create_user_ns has failed before the charge that marks it, or begun there;
/// - alloc_pid begins when what is before it in copy_process is done (v6.12 kernel/fork.c:
///   after copy_namespaces only copy_io and copy_thread, of less than a microsecond).
#[inline]
fn walk(op: &Operation, mut each: impl FnMut(u64, Point)) {
    let mut outermost = Id::NONE;
    let mut last_at = 0;
    for (at, step) in steps(op) {
        match step {
            Step::Enter(level, id) => {
                if id == Id::CREATE_NEW_NAMESPACES && op.op.makes_task() {
                    outermost = Id::COPY_NAMESPACES;
                    each(at, Point::Enter(0, Id::COPY_NAMESPACES));
                } else if level == 0 {
                    outermost = id;
                }
                each(at, Point::Enter(level, id));
            }
            Step::Done(id) => {
                if outermost != id {
                    let start = if id == Id::ALLOC_PID { last_at } else { at };
                    each(start, Point::Enter(0, id));
                }
                each(at, Point::Leave);
                outermost = Id::NONE;
            }
        }
        last_at = at;
    }
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
    fn enter(&mut self, open: &mut Open, level: usize, function: Function, at: u64) {
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
}

/// The stages that are open, by level.
type Open = [Option<usize>; LEVELS];

/// The functions that an operation that has ended passed.
pub fn stages(op: &Operation) -> Stages {
    let mut stages = Stages::EMPTY;
    let mut open: Open = [None; LEVELS];
    walk(op, |at, point| match point {
        Point::Enter(level, id) => stages.enter(&mut open, level.into(), id.function(), at),
        Point::Leave => stages.leave(&mut open, 0, at),
    });
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
    match steps(op).next_back()? {
        (at, Step::Enter(_, id)) => Some((id.function(), at)),
        (_, Step::Done(_)) => None,
    }
}

/// How many mounts a function has copied: copy_mnt_ns alone does. Of an operation that failed
/// it is not known.
pub fn mounts_copied(op: &Operation, function: Function) -> u32 {
    match function {
        Function::Copy(Kind::Mnt) if op.errno().is_none() => op.record.mounts,
        _ => 0,
    }
}

/// The kinds that an operation was to make, or, for setns, asked for by its flags, in
/// the order in which they are printed.
pub fn requested(op: &Operation) -> impl Iterator<Item = Kind> + use<> {
    flagged(&PRINTED, requested_flags(op))
}

/// The same as flags, and no others.
pub fn requested_flags(op: &Operation) -> u64 {
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
    entries(op).filter_map(|function| match function {
        Function::Install(kind) => Some(kind),
        Function::CreateUserNs
        | Function::CopyNamespaces
        | Function::CreateNewNamespaces
        | Function::AllocPid
        | Function::Switch
        | Function::Copy(_) => None,
    })
}

/// The same, a bit for each.
pub fn installed_kinds(op: &Operation) -> u8 {
    let of_mark = |mark: u64| match STEPS[usize::from(mark as u8)] {
        Some(Step::Enter(_, id)) => INSTALLS[usize::from(id.0)],
        _ => 0,
    };
    let marks = op.marks.iter();
    marks.fold(0, |kinds, mark| kinds | of_mark(*mark))
}

/// Of the functions that enter a namespace the bit of its kind, by their ids.
const INSTALLS: [u8; 256] = {
    let mut installs = [0; 256];
    let mut at = 0;
    while at < KINDS {
        installs[Mark::Install as usize + at] = 1 << at;
        at += 1;
    }
    installs
};

/// The functions that have marks at their entries, in the order of these.
fn entries<'a>(op: &Operation<'a>) -> impl DoubleEndedIterator<Item = Function> + use<'a> {
    steps(op).filter_map(|(_, step)| match step {
        Step::Enter(_, id) => Some(id.function()),
        Step::Done(_) => None,
    })
}

/// Whether a function was entered, as far as marks tell.
pub fn entered(op: &Operation, function: Function) -> bool {
    steps(op).any(|(_, Step::Enter(_, id) | Step::Done(id))| id.function() == function)
}
