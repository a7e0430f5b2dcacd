//! What keeps a file system, as text: its mounts in every namespace and who uses them, what no
//! namespace has any more, what the kernel has of it, and what to do.

use nstrace_common::kind::Kind;

use super::{
    super::{
        Text,
        color::Style,
        escape::{self, Escaped},
        text::{self},
        tree::Page,
    },
    MountsView,
    list::{self, born, name, page, propagation, sight, who as members},
    steps::{Step, steps, steps_of_detached},
};
use crate::mounts::{
    Device, Mount, Sight,
    uses::{Detached, How, Use, Uses},
    who::{self, Kept, Layer, Loop, Scope, Subject, Swap},
};

/// An answer on its way to be printed.
#[derive(Clone, Copy, Debug)]
pub struct WhoView<'a> {
    /// The mounts, and the rest of the machine.
    pub all: &'a MountsView<'a>,
    /// What was asked about; nothing for all that no namespace has.
    pub subject: Option<&'a Subject>,
    /// Who uses it.
    pub uses: &'a Uses,
    /// Our own namespace, among those of the mounts.
    pub own: Option<usize>,
    /// The loop devices of the machine.
    pub loops: &'a [Loop],
    /// Where it swaps to.
    pub swaps: &'a [Swap],
}

/// What the kernel has of what was asked about.
#[derive(Debug, Default)]
pub struct Inside<'a> {
    /// Loop devices whose file is on it.
    pub loops: Vec<&'a Loop>,
    /// Files and devices of it that hold swapped memory.
    pub swaps: Vec<&'a Swap>,
    /// Overlays that have layers on it.
    pub layers: Vec<Layer<'a>>,
}

impl<'a> WhoView<'a> {
    /// The mounts that are meant, those of our own namespace first.
    pub fn kept(&self) -> Vec<Kept<'a>> {
        let kept = |subject| who::kept(subject, self.all.mounts, self.uses);
        let mut kept = self.subject.map(kept).unwrap_or_default();
        kept.sort_by_key(|one| Some(one.key.ns) != self.own);
        kept
    }

    /// What the kernel has of it.
    pub fn inside(&self) -> Inside<'a> {
        let Some(subject) = self.subject else {
            return Inside::default();
        };
        let mounts = self.all.mounts;
        let is_on = |path: &[u8]| who::is_on(subject, mounts, self.own, path);
        let is_part = |swap: &&Swap| match swap.device {
            Some(device) => subject.has(device),
            None => is_on(&swap.path),
        };
        let layers = match subject.scope {
            Scope::All => who::layers(subject, mounts, self.own),
            Scope::Part(_) | Scope::On(_) => Vec::new(),
        };
        Inside {
            loops: self.loops.iter().filter(|one| is_on(&one.file)).collect(),
            swaps: self.swaps.iter().filter(is_part).collect(),
            layers,
        }
    }

    /// The mounts of its file system that are not meant.
    pub fn others(&self) -> usize {
        let Some(subject) = self.subject.filter(|subject| subject.scope != Scope::All) else {
            return 0;
        };
        if matches!(subject.scope, Scope::On(_)) {
            return 0;
        }
        let all = self.all.mounts.iter();
        let of_it = all.filter(|(_, mount)| subject.has(mount.device)).count();
        of_it.saturating_sub(subject.mounts(self.all.mounts).len())
    }

    /// The name of a process.
    pub fn comm(&self, one: &Use) -> &'a [u8] {
        let world = self.all.world;
        let by_tid = |tid| world.by_tid(tid).and_then(|key| world.task(key));
        by_tid(one.tid)
            .or_else(|| by_tid(one.pid))
            .map_or(b"", |task| task.comm())
    }
}

/// So many who use one mount are named; `--json` has all.
const NAMED: usize = 32;

/// Appends the answer.
pub fn who(out: &mut Text, view: &WhoView) {
    let mut page = page(out, view.all).uncut();
    list::missing(&mut page, view.all);
    let kept = view.kept();
    let inside = view.inside();
    if let Some(subject) = view.subject {
        head(&mut page, view, subject, &kept);
    }
    for kept in kept.chunk_by(|one, next| one.key.ns == next.key.ns) {
        namespace(&mut page, view, kept);
    }
    detached(&mut page, view);
    elsewhere(&mut page, view);
    kernel(&mut page, view, &inside);
    unseen(&mut page, view);
    let nothing = kept.is_empty() && view.uses.uses.is_empty() && inside.is_empty();
    if nothing {
        let what = match view.subject {
            Some(_) => "nothing that can be seen has it: no mount, no open or mapped file",
            None => "every mount that is used is in a namespace, as far as can be seen",
        };
        return page.words(0, Style::Dim, what);
    }
    advice(&mut page, view, &kept, &inside);
}

impl Inside<'_> {
    fn is_empty(&self) -> bool {
        self.loops.is_empty() && self.swaps.is_empty() && self.layers.is_empty()
    }
}

fn head(page: &mut Page, view: &WhoView, subject: &Subject, kept: &[Kept]) {
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            escape::terminal(page.out, &subject.asked)
        });
        page.str(": ");
        match &subject.scope {
            Scope::On(_) => page.str("no mount point here, but elsewhere there is "),
            Scope::Part(root) => {
                escape::terminal(page.out, root);
                page.str(" of ");
            }
            Scope::All => {}
        }
        match subject.scope {
            Scope::On(_) => file_systems(page, kept),
            Scope::All | Scope::Part(_) => devices(page, view, subject),
        }
        let namespaces = kept.chunk_by(|one, next| one.key.ns == next.key.ns).count();
        page.str(", ");
        page.count(kept.len(), "mount", "mounts");
        page.str(" in ");
        page.count(namespaces, "namespace", "namespaces");
    });
    let others = view.others();
    if others > 0
        && let Some(part) = subject.parts.first()
    {
        page.line(0, |page| {
            page.count(others, "other mount", "other mounts");
            page.str(" of that file system: --who ");
            page.str(&part.device.to_string());
        });
    }
}

/// Appends `ext4 8:17 /dev/sdb1`; of a block device also what is made of it.
fn devices(page: &mut Page, view: &WhoView, subject: &Subject) {
    for (i, part) in subject.parts.iter().enumerate() {
        page.str(if i > 0 { ", " } else { "" });
        let all = view.all.mounts.iter();
        let mount = all
            .map(|(_, mount)| mount)
            .find(|mount| mount.device == part.device);
        match mount {
            Some(mount) => file_system(page, mount),
            None => page.str(&part.device.to_string()),
        }
        if !part.name.is_empty() {
            page.str(" (");
            escape::terminal(page.out, &part.name);
            page.str(")");
        }
    }
}

fn file_systems(page: &mut Page, kept: &[Kept]) {
    let mut known: Vec<Device> = Vec::new();
    for one in kept {
        if !known.contains(&one.mount.device) {
            page.str(if known.is_empty() { "" } else { ", " });
            file_system(page, one.mount);
            known.push(one.mount.device);
        }
    }
}

/// Appends `ext4 8:17 /dev/sdb1`.
fn file_system(page: &mut Page, mount: &Mount) {
    escape::terminal(page.out, &mount.fs);
    page.str(" ");
    page.str(&mount.device.to_string());
    if mount.source != mount.fs && !mount.source.is_empty() {
        page.str(" ");
        escape::terminal(page.out, &mount.source);
    }
}

fn namespace(page: &mut Page, view: &WhoView, kept: &[Kept]) {
    let first = kept.first();
    let Some((at, ns)) = first.and_then(|one| {
        let at = one.key.ns;
        Some((at, view.all.mounts.namespaces.get(at)?))
    }) else {
        return;
    };
    page.line(0, |page| {
        page.styled(Style::Bold, |page| name(page, view.all, ns));
        if view.own == Some(at) {
            page.str(", ours");
        }
    });
    born(page, view.all, ns);
    members(page, view.all, ns);
    sight(page, ns);
    for one in kept {
        mount(page, view, one);
    }
}

const UNUSED: &str = "no task uses it; it stays until it is unmounted, or the namespace ends";
const NOT_KNOWN: &str =
    "no task is known to use it; it stays until it is unmounted, or the namespace ends";

const HELD: &str = "no task is seen to use it, but the kernel counts";
const HOLDERS: &str = "a task may be on its way in it, or a file of it be in a message that waits \
     in a Unix socket, with io_uring, or with the kernel (an export of NFS)";

fn mount(page: &mut Page, view: &WhoView, kept: &Kept) {
    page.line(1, |page| {
        page.styled(Style::Entered, |page| {
            escape::terminal(page.out, &kept.mount.point)
        });
        page.str("  id ");
        page.number(kept.mount.id);
        page.str(", ");
        page.str(&propagation(kept.mount));
        page.str(", ");
        page.text(&list::options(kept.mount));
        if &*kept.mount.root != b"/" {
            page.str(", of ");
            escape::terminal(page.out, &kept.mount.root);
        }
        if kept.is_covered {
            page.str(", covered by another mount");
        }
        if let Some(hiding) = kept.hidden_by {
            page.str(", hidden by ");
            escape::terminal(page.out, &hiding.point);
            page.str(" (");
            file_system(page, hiding);
            page.str(")");
        }
    });
    list::made(page, 2, view.all, kept.mount);
    uses(page, view, kept.uses.iter().copied(), kept.uses.len());
    for below in &kept.below {
        page.line(2, |page| {
            page.str("mounted below: ");
            escape::terminal(page.out, &below.point);
            page.str(" (");
            file_system(page, below);
            page.str(")");
        });
    }
    let of_below = kept.below_uses.iter().copied();
    uses(page, view, of_below, kept.below_uses.len());
    let more = kept.below_len.saturating_sub(kept.below.len());
    if more > 0 {
        page.line(2, |page| {
            page.str("and ");
            page.count(more, "other mount", "other mounts");
            page.str(" below it");
        });
    }
    if !kept.uses.is_empty() || kept.below_len > 0 {
        return;
    }
    if let Some(count) = view.uses.held.get(&kept.mount.id) {
        let references = if *count == 1 {
            "reference"
        } else {
            "references"
        };
        let text = format!("{HELD} {count} {references} to it: {HOLDERS}");
        return page.words(2, Style::Reason, &text);
    }
    page.line(2, |page| {
        page.styled(Style::Dim, |page| {
            page.str(match (kept.parent, view.has_seen_all_files()) {
                (Some(_), true) => UNUSED,
                (Some(_), false) => NOT_KNOWN,
                (None, _) => "the root of the namespace; it stays as long as that",
            });
        });
    });
}

/// A line for each file of those who use something.
fn uses<'u>(page: &mut Page, view: &WhoView, uses: impl Iterator<Item = &'u Use>, len: usize) {
    for one in uses.take(NAMED) {
        for (how, path) in &one.files {
            page.line(2, |page| {
                task(page, view, one);
                page.str(" ");
                page.str(&how_words(*how));
                page.str(" ");
                escape::terminal(page.out, path);
            });
        }
        if one.more > 0 {
            page.line(2, |page| {
                task(page, view, one);
                page.str(" and ");
                page.count(one.more, "more file", "more files");
            });
        }
    }
    if len > NAMED {
        page.line(2, |page| {
            page.str("and ");
            page.count(len - NAMED, "other process", "other processes");
            page.str("; --json has all");
        });
    }
}

fn task(page: &mut Page, view: &WhoView, one: &Use) {
    text::task(page.out, view.comm(one), one.pid);
    if one.tid != one.pid {
        page.str(" thread ");
        page.number(one.tid);
    }
}

fn how_words(how: How) -> String {
    match how {
        How::Cwd => "works in".to_owned(),
        How::Root => "has as its root".to_owned(),
        How::Exe => "runs".to_owned(),
        How::Open(fd) => format!("has open ({fd})"),
        How::Mapped => "maps".to_owned(),
        How::Socket(fd) => format!("has a socket ({fd}) at"),
        How::Block(fd) => format!("has open ({fd}) the device"),
    }
}

/// Mounts that no namespace has.
fn detached(page: &mut Page, view: &WhoView) {
    for mount in &view.uses.detached {
        page.line(0, |page| {
            page.styled(Style::Bold, |page| page.str("in no namespace"));
            page.str(": mount ");
            page.number(mount.id);
            page.str(" of ");
            detached_fs(page, view, mount);
        });
        if view.has_unseen_mounts() {
            page.words(
                1,
                Style::Reason,
                "or in one whose mounts are not seen (nstrace mounts says which)",
            );
        }
        let used: Vec<&Use> = view.uses.of_mount(mount.id).collect();
        uses(page, view, used.iter().copied(), used.len());
    }
}

impl WhoView<'_> {
    /// Whether the files of all processes could be looked at.
    fn has_seen_all_files(&self) -> bool {
        self.uses.unseen == 0 && self.uses.hung.is_empty() && self.uses.left_out == 0
    }

    /// Whether there are namespaces whose mounts are not all seen.
    fn has_unseen_mounts(&self) -> bool {
        let mut all = self.all.mounts.namespaces.iter();
        all.any(|ns| ns.sight != Sight::Whole)
    }
}

fn detached_fs(page: &mut Page, view: &WhoView, detached: &Detached) {
    let all = view.all.mounts.iter();
    let other = all
        .map(|(_, mount)| mount)
        .find(|mount| mount.device == detached.device);
    match other {
        Some(mount) => {
            file_system(page, mount);
            page.str(", which is mounted elsewhere too");
        }
        None => {
            let fs = match &*detached.fs {
                b"" => "a file system",
                _ => "",
            };
            page.str(fs);
            escape::terminal(page.out, &detached.fs);
            page.str(" ");
            page.str(&detached.device.to_string());
            page.str(", which is mounted nowhere");
            if let Some(bytes) = detached.bytes.filter(|bytes| *bytes > 0) {
                page.str(", ");
                page.str(&amount(bytes));
                page.str(" in memory");
            }
        }
    }
}

/// An amount of memory: `64K`, `1.5M`.
pub fn amount(bytes: u64) -> String {
    const K: u64 = 1 << 10;
    let (unit, name) = match bytes {
        0..K => return format!("{bytes} bytes"),
        K..0x10_0000 => (K, 'K'),
        0x10_0000..0x4000_0000 => (K * K, 'M'),
        _ => (K * K * K, 'G'),
    };
    let tenths = bytes.saturating_mul(10) / unit;
    match tenths % 10 {
        0 => format!("{}{name}", tenths / 10),
        tenth => format!("{}.{tenth}{name}", tenths / 10),
    }
}

/// What is used of it through mounts that are not known, or as a device.
fn elsewhere(page: &mut Page, view: &WhoView) {
    let (blocks, files): (Vec<&Use>, Vec<&Use>) = view.uses.elsewhere().partition(|one| {
        let is_block = |(how, _): &(How, _)| matches!(how, How::Block(_));
        one.files.iter().any(is_block)
    });
    if !blocks.is_empty() {
        page.line(0, |page| {
            page.styled(Style::Bold, |page| page.str("the device itself"));
        });
        uses(page, view, blocks.iter().copied(), blocks.len());
    }
    if !files.is_empty() {
        page.line(0, |page| {
            page.styled(Style::Bold, |page| {
                page.str("through a mount that cannot be told")
            });
            page.str(": as root it can");
        });
        uses(page, view, files.iter().copied(), files.len());
    }
}

fn kernel(page: &mut Page, view: &WhoView, inside: &Inside) {
    if inside.is_empty() {
        return;
    }
    page.line(0, |page| {
        page.styled(Style::Bold, |page| page.str("in the kernel"));
    });
    for one in &inside.loops {
        page.line(1, |page| {
            escape::terminal(page.out, &one.name);
            page.str(" of ");
            escape::terminal(page.out, &one.file);
            let all = view.all.mounts.iter();
            let of_it: Vec<_> = all
                .filter(|(_, mount)| mount.device == one.device)
                .collect();
            if let Some((key, mount)) = of_it.first() {
                page.str(", mounted on ");
                escape::terminal(page.out, &mount.point);
                if let Some(ns) = view.all.mounts.namespaces.get(key.ns) {
                    page.str(" in ");
                    text::namespace(page.out, Kind::Mnt, ns.inum);
                }
                if of_it.len() > 1 {
                    page.str(" and ");
                    page.count(of_it.len() - 1, "other place", "other places");
                }
            }
        });
    }
    for one in &inside.swaps {
        page.line(1, |page| {
            page.str("swapped memory in ");
            escape::terminal(page.out, &one.path);
        });
    }
    for one in &inside.layers {
        page.line(1, |page| {
            page.str("the overlay ");
            page.str(&one.mount.device.to_string());
            page.str(" on ");
            escape::terminal(page.out, &one.mount.point);
            if let Some(ns) = view.all.mounts.namespaces.get(one.key.ns) {
                page.str(" in ");
                text::namespace(page.out, Kind::Mnt, ns.inum);
            }
            page.str(", as its options say: ");
            page.str(one.option);
            page.str("=");
            escape::terminal(page.out, &one.dir);
        });
    }
}

/// Lines on what could not be looked at.
fn unseen(page: &mut Page, view: &WhoView) {
    let uses = view.uses;
    if uses.unseen > 0 {
        let noun = if uses.unseen == 1 {
            "process"
        } else {
            "processes"
        };
        let text = format!(
            "could not be looked at: the files of {} {noun}, which takes the rights of root \
             (CAP_SYS_PTRACE)",
            uses.unseen
        );
        page.words(0, Style::Reason, &text);
    }
    if !uses.hung.is_empty() {
        let hung: Vec<String> = uses.hung.iter().map(u32::to_string).collect();
        let text = format!(
            "did not answer, as when a file system of theirs hangs: the files of {}",
            hung.join(", ")
        );
        page.words(0, Style::Reason, &text);
    }
    if uses.left_out > 0 {
        page.words(
            0,
            Style::Reason,
            &format!(
                "left out, since too many did not answer: {} processes",
                uses.left_out
            ),
        );
    }
    let hidden = view.all.mounts.namespaces.iter();
    for ns in hidden.filter(|ns| matches!(ns.sight, Sight::None(_))) {
        page.words(
            0,
            Style::Reason,
            &format!("mnt:{} may have it too: its mounts are not seen", ns.inum),
        );
    }
}

fn advice(page: &mut Page, view: &WhoView, kept: &[Kept], inside: &Inside) {
    let steps: Vec<Step> = match view.subject {
        Some(_) => steps(view, kept, inside),
        None => steps_of_detached(view),
    };
    if steps.is_empty() {
        return;
    }
    page.line(0, |page| {
        page.styled(Style::Bold, |page| page.str("to free it:"));
    });
    for step in steps {
        match &step.command {
            Some(command) => {
                page.line(1, |page| {
                    page.text(command);
                    if !step.say.is_empty() {
                        page.styled(Style::Dim, |page| {
                            page.str("  # ");
                            page.text(&Escaped(step.say.as_bytes()).to_string());
                        });
                    }
                });
            }
            None => page.words(1, Style::Reason, &step.say),
        }
    }
}
