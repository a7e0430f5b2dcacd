//! What is to be said of a mount whose writer count is not zero.

use std::ops::RangeInclusive;

use foldhash::HashMap;
use nstrace_common::writers::Site;

use super::{Entry, tree::Node};
use crate::event::Unfiled;

pub use super::tree::Culprit as Guilty;

/// What the ledger comes to, beside the kernel's own count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The kernel's count.
    pub count: i64,
    /// The kernel's count before the first access that was seen.
    pub before: i64,
    /// Write access taken, but by files that are opened for writing.
    pub taken: u64,
    /// The same given back.
    pub given: u64,
    /// Files opened for writing.
    pub opened: u64,
    /// Such ones closed.
    pub closed: u64,
    /// The functions in which it does not pair; none, if that cannot be told.
    pub guilty: Vec<Guilty>,
    /// Why the ledger may be partial.
    pub doubts: Vec<Doubt>,
    /// What it consists of, the largest first.
    pub lines: Vec<Line>,
}

/// Why what is not in the ledger may have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Taken before the mount was watched: it was mounted, or files on it were opened,
    /// before.
    Before(i64),
    /// Its sum is not the kernel's count.
    Sum,
    /// There was no room.
    Full(u64),
    /// There are accesses without stacks.
    NoStack(u64),
    /// Stacks are deeper than can be kept.
    Cut(usize),
    /// Stacks have functions whose names are not known.
    Unnamed(usize),
    /// The kernel skipped the program that counts.
    Skipped(u64),
}

/// Accesses with one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How often; negative for what was given back.
    pub count: i64,
    /// By which function, of the kernel's names.
    pub by: Site,
    /// Who called it, the innermost first.
    pub stack: Vec<Vec<u8>>,
}

/// What access is for. A file that is opened for writing has it until the last descriptor is
/// closed; the others come in pairs, of the one way or of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// From do_dentry_open to `__fput`.
    File,
    /// mnt_want_write and mnt_drop_write, which keep the file system from being frozen too.
    Want,
    /// mnt_get_write_access and mnt_put_write_access.
    Access,
}

impl Verdict {
    /// Whether there is nothing to say.
    pub fn is_balanced(&self) -> bool {
        self.count == 0
    }

    /// What the ledger says that the count is.
    pub fn sum(&self) -> i64 {
        let sum = i128::from(self.before) + i128::from(self.taken) - i128::from(self.given)
            + i128::from(self.opened)
            - i128::from(self.closed);
        i64::try_from(sum).unwrap_or(i64::MAX)
    }

    /// Whether it is about a mount that lives and is to be told: one whose writers are not
    /// those of files that are open, or cannot be. Who gave back what was taken before is not
    /// to blame for that.
    pub fn is_to_be_told(&self) -> bool {
        let unowned = self.unowned();
        self.count < 0
            || self.count > 0
                && self.sum() == self.count
                && (unowned > 0 || unowned < -self.before.max(0))
    }

    /// Whether it cannot be told of one that lives: the ledger has not the kernel's count.
    pub fn cannot_be_told(&self) -> bool {
        self.count > 0 && self.sum() != self.count
    }

    /// What of it is not for files that are open.
    pub fn unowned(&self) -> i64 {
        let sum = i128::from(self.taken) - i128::from(self.given);
        i64::try_from(sum).unwrap_or(i64::MAX)
    }
}

/// Sums a ledger up. `before` is the kernel's count before it begins, `count` that at its
/// end; a mount that `is_dead` has no open files.
pub fn verdict<'e>(
    entries: impl Iterator<Item = &'e Entry>,
    before: i64,
    count: i64,
    is_dead: bool,
    unfiled: &Unfiled,
) -> Verdict {
    let mut verdict = Verdict {
        count,
        before,
        ..Verdict::default()
    };
    let (mut want, mut access) = (Node::default(), Node::default());
    let (mut cut, mut without, mut unnamed) = (0, 0, 0);
    for accesses in outermost(entries) {
        let (class, gives, stack) = (accesses.class(), accesses.gives(), accesses.callers());
        let signed = i64::try_from(accesses.entry.count).unwrap_or(i64::MAX);
        let signed = if gives { -signed } else { signed };
        let sum = match (class, gives) {
            (Class::File, false) => &mut verdict.opened,
            (Class::File, true) => &mut verdict.closed,
            (_, false) => &mut verdict.taken,
            (_, true) => &mut verdict.given,
        };
        *sum = sum.saturating_add(accesses.entry.count);
        cut += usize::from(accesses.entry.is_cut);
        unnamed += usize::from(stack.iter().any(|frame| is_unnamed(frame)));
        if stack.is_empty() {
            without += accesses.entry.count;
        }
        match class {
            Class::File => {}
            Class::Want => want.add(&path(stack, accesses.entry.site), signed),
            Class::Access => access.add(&path(stack, accesses.entry.site), signed),
        }
        verdict.lines.push(Line {
            count: signed,
            by: accesses.entry.site,
            stack: stack.to_vec(),
        });
    }
    let owned = |line: &Line| class(line.by, &line.stack) == Class::File;
    verdict
        .lines
        .sort_by_key(|line| (owned(line), std::cmp::Reverse(line.count.unsigned_abs())));
    let of = [
        (before != 0).then_some(Doubt::Before(before)),
        (verdict.sum() != count).then_some(Doubt::Sum),
        (unfiled.accesses > 0 || unfiled.mounts > 0)
            .then_some(Doubt::Full(unfiled.accesses.saturating_add(unfiled.mounts))),
        (without > 0).then_some(Doubt::NoStack(without)),
        (cut > 0).then_some(Doubt::Cut(cut)),
        (unnamed > 0).then_some(Doubt::Unnamed(unnamed)),
        (unfiled.skipped > 0).then_some(Doubt::Skipped(unfiled.skipped)),
    ];
    verdict.doubts = of.into_iter().flatten().collect();
    // Nobody is named for a part of it.
    if verdict.sum() == count && count != 0 && verdict.unowned() != 0 {
        let left = match is_dead {
            true if before >= 0 => count..=count,
            _ => verdict.unowned()..=verdict.unowned().saturating_add(before.max(0)),
        };
        verdict.guilty = guilty(&want, &access, unfiled.skipped, before, &left);
    }
    verdict
}

/// How many writers there are by a ledger, that began with `before`; and how many of them are not
/// those of open files.
pub fn sums<'e>(entries: impl Iterator<Item = &'e Entry>, before: i64) -> [i64; 2] {
    let (mut all, mut unowned) = (before, 0_i64);
    for accesses in outermost(entries) {
        let count = i64::try_from(accesses.entry.count).unwrap_or(i64::MAX);
        let count = if accesses.gives() { -count } else { count };
        all = all.saturating_add(count);
        if accesses.class() != Class::File {
            unowned = unowned.saturating_add(count);
        }
    }
    [all, unowned]
}

/// Those of both trees. Who takes by the one way and gives back by the other is no culprit;
/// and one whose place is not known in any function is none either.
///
/// What the kernel skipped may be a half of a pair, in as many places as it skipped runs: who
/// does not pair as seldom may be innocent. And so may be who gives back what was taken `before`,
/// or takes what was given back too often then.
/// In all these cases what is `left` must come to those who are named.
fn guilty(
    want: &Node,
    access: &Node,
    skipped: u64,
    before: i64,
    left: &RangeInclusive<i64>,
) -> Vec<Guilty> {
    let mut guilty: Vec<Guilty> = Vec::new();
    for culprit in want.culprits().into_iter().chain(access.culprits()) {
        match guilty.iter_mut().find(|other| other.path == culprit.path) {
            Some(other) => {
                other.balance += culprit.balance;
                other.taken += culprit.taken;
                other.given += culprit.given;
            }
            None => guilty.push(culprit),
        }
    }
    guilty.retain(|culprit| {
        let is_from_before = match culprit.balance {
            ..0 => -culprit.balance <= before,
            0.. => culprit.balance <= -before,
        };
        culprit.balance.unsigned_abs() > skipped && !is_from_before
    });
    let sum = guilty.iter().map(|culprit| culprit.balance).sum::<i64>();
    if (skipped > 0 || before != 0) && !left.contains(&sum) {
        return Vec::new();
    }
    if guilty.iter().any(|culprit| {
        culprit
            .path
            .last()
            .is_none_or(|name| leads(name) || is_unnamed(name))
    }) {
        return Vec::new();
    }
    guilty.sort_by_key(|culprit| std::cmp::Reverse(culprit.balance.unsigned_abs()));
    guilty
}

/// Whether there is an address in place of a function.
fn is_unnamed(frame: &[u8]) -> bool {
    frame.starts_with(b"0x")
}

/// Whether a function leads to any other: what does not pair below it may do so in several
/// system calls, or in several pieces of work.
fn leads(name: &[u8]) -> bool {
    const LEADING: [&[u8]; 9] = [
        b"do_syscall_64",
        b"x64_sys_call",
        b"syscall_exit_to_user_mode",
        b"exit_to_user_mode_loop",
        b"task_work_run",
        b"ret_from_fork",
        b"kthread",
        b"worker_thread",
        b"process_one_work",
    ];
    name.starts_with(b"entry_") || name.starts_with(b"ret_from_fork") || LEADING.contains(&name)
}

/// An entry, with what calls it.
struct Accesses<'e> {
    entry: &'e Entry,
}

impl<'e> Accesses<'e> {
    fn gives(&self) -> bool {
        self.entry.site != Site::Take
    }

    /// Who called, behind the functions of the kernel that are for access alone.
    fn callers(&self) -> &'e [Vec<u8>] {
        let own = self
            .entry
            .stack
            .iter()
            .take_while(|frame| is_of_access(frame))
            .count();
        &self.entry.stack[own..]
    }

    fn class(&self) -> Class {
        let callers = self.callers();
        match class(self.entry.site, callers) {
            Class::Access if wants(&self.entry.stack) => Class::Want,
            class => class,
        }
    }
}

/// The functions that take or give back for others.
const OF_ACCESS: [&str; 11] = [
    "mnt_want_write",
    "mnt_want_write_file",
    "__mnt_want_write",
    "__mnt_want_write_file",
    "mnt_drop_write",
    "mnt_drop_write_file",
    "__mnt_drop_write",
    "__mnt_drop_write_file",
    "mnt_get_write_access_file",
    "mnt_put_write_access",
    "mnt_put_write_access_file",
];

fn is_of_access(frame: &[u8]) -> bool {
    OF_ACCESS
        .iter()
        .any(|name| function(frame) == name.as_bytes())
}

fn wants(stack: &[Vec<u8>]) -> bool {
    let own = stack.iter().take_while(|frame| is_of_access(frame));
    own.map(|frame| function(frame))
        .any(|name| name == b"mnt_want_write" || name == b"mnt_want_write_file")
}

fn class(site: Site, callers: &[Vec<u8>]) -> Class {
    /// v6.12 fs/open.c and fs/file_table.c: between these two a file has access.
    const FILES: [&[u8]; 2] = [b"do_dentry_open", b"__fput"];
    let is_file = callers
        .first()
        .is_some_and(|frame| FILES.contains(&function(frame)));
    match site {
        _ if is_file => Class::File,
        Site::Drop | Site::DropFile => Class::Want,
        Site::Take | Site::Untake | Site::Put | Site::PutFile => Class::Access,
    }
}

/// Leaves out what one function that gives back did for another that was counted too. It
/// shows in two ways: the other is who called; or, where it ended in a jump and not in a
/// call, both were called from one and the same place.
fn outermost<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<Accesses<'e>> {
    let entries: Vec<&Entry> = entries.collect();
    let gives = |entry: &Entry| !matches!(entry.site, Site::Take | Site::Untake);
    // The one that calls the others, by the stack.
    let mut highest: HashMap<&[Vec<u8>], u8> = HashMap::default();
    for entry in entries.iter().filter(|entry| gives(entry)) {
        let highest = highest.entry(&entry.stack).or_default();
        *highest = (*highest).max(rank(entry.site));
    }
    let is_inner = |entry: &&&Entry| {
        let caller = entry.stack.first();
        gives(entry)
            && (caller.is_some_and(|frame| is_of_access(frame))
                || highest.get(&*entry.stack) > Some(&rank(entry.site)))
    };
    let inner = entries.iter().filter(|entry| !is_inner(entry));
    inner.map(|entry| Accesses { entry }).collect()
}

/// Which of the functions that give back calls which: the higher the lower.
fn rank(site: Site) -> u8 {
    match site {
        Site::Take | Site::Untake | Site::Put => 0,
        Site::PutFile | Site::Drop => 1,
        Site::DropFile => 2,
    }
}

/// The functions of a stack from outside inwards, and the access: where it is called from in
/// the last of them, for one may have several.
fn path(stack: &[Vec<u8>], site: Site) -> Vec<Vec<u8>> {
    let mut path: Vec<Vec<u8>> = stack.iter().rev().map(|frame| name(frame)).collect();
    let place = stack.first().map(Vec::as_slice).unwrap_or_default();
    path.push([place, b" ", &[b'0' + site as u8]].concat());
    path
}

/// `ovl_copy_up_one` of `ovl_copy_up_one+0x10 [overlay]`.
pub fn function(frame: &[u8]) -> &[u8] {
    let end = frame.iter().position(|byte| *byte == b'+');
    &frame[..end.unwrap_or(frame.len())]
}

/// `ovl_copy_up_one [overlay]` of it.
fn name(frame: &[u8]) -> Vec<u8> {
    let module = frame.iter().position(|byte| *byte == b' ');
    [function(frame), module.map_or(&[][..], |at| &frame[at..])].concat()
}
