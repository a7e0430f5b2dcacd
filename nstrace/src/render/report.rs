//! A report, for people and as JSON lines.

mod json;
#[cfg(test)]
pub(super) mod tests;

use std::fmt::Write as _;

use nstrace_common::kind::{KINDS, Kind};

use super::{
    Clock, Text, TreeView,
    color::Style,
    escape,
    leaks::leaked,
    line::records,
    table::{self, LENGTHS, WIDTH, headed, ranked, ranked_comms, right, section, table},
    text::{error, length},
    tree::{Page, fitted, words},
};
use crate::{
    report::{Container, Group, Lengths, Lives, Loss, MountSums, Place, Report, Sums, Why},
    stages::Function,
    trace::Head,
    world::World,
};

pub use self::json::report as report_json;
pub(super) use self::json::{errno_name, percentiles};

/// So many containers are shown, and of so many their operations and stages.
const CONTAINERS: usize = 10;
const SECTIONS: usize = 5;

/// So many stages of a container are shown: those that took most time.
const STAGES: usize = 5;

/// So many sorts of failures are shown.
const GROUPS: usize = 20;

/// So many reasons of one failure are shown.
const REASONS: usize = 5;

/// So many tasks and containers are named that met a failure, or made namespaces.
const NAMED: usize = 4;

/// So many losses are shown.
const LOSSES: usize = 5;

/// What a report is of.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// The head of the recording.
    pub head: &'a Head,
    /// Names of containers, and times.
    pub view: &'a TreeView<'a>,
    /// What was there at the end.
    pub end: &'a End,
    /// Whether filters left out operations.
    pub filtered: bool,
}

/// What was there at the end of a recording, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Living namespaces.
    pub alive: [u64; KINDS],
    /// Those of them that no task was in.
    pub leaked: [u64; KINDS],
}

impl End {
    /// Of the namespaces that a report counts.
    pub fn of(report: &Report, world: &World, view: &TreeView) -> End {
        let mut end = End::default();
        let alive = world.namespaces().filter(|(_, ns)| ns.is_alive());
        for (key, ns) in alive {
            end.alive[ns.kind as usize] += u64::from(report.counts(key, ns.kind));
        }
        for (key, ns) in leaked(world, view) {
            end.leaked[ns.kind as usize] += u64::from(report.counts(key, ns.kind));
        }
        end
    }
}

/// Appends a report as text. `utc` tells UTC; `local` tells what lines of the tail do.
pub fn report(out: &mut Text, report: &Report, of: &Of, utc: &mut Clock, local: &mut Clock) {
    let view = of.view;
    let width = view
        .width
        .map_or(WIDTH, |width| width.clamp(WIDTH * 4 / 5, WIDTH));
    let mut page = Page::new(out, Some(width), view.color);
    head(&mut page, report, of, utc);
    losses(&mut page, report, local);
    warnings(&mut page, report);
    let sums = report.sums();
    table(
        &mut page,
        "OPERATIONS",
        sums.ops().map(|(op, lengths)| (op.name(), lengths)),
    );
    table(
        &mut page,
        "BY KIND",
        sums.kinds().map(|(kind, lengths)| (kind.name(), lengths)),
    );
    let stages = sums.stages();
    table(
        &mut page,
        "STAGES",
        stages.map(|(function, lengths)| (function.name(), lengths)),
    );
    mounts(&mut page, report);
    containers(&mut page, report, view);
    failures(&mut page, report, view);
    lives(&mut page, report, of.end);
    leaks(&mut page, of.end);
    if !report.slowest.is_empty() {
        section(&mut page, "SLOWEST");
        for line in report.slowest.iter().flat_map(|slow| slow.text.lines()) {
            page.out.push_lines(&with_end(line));
            page.out.push_lines("\n");
        }
    }
}

/// As much of a line of a call tree as fits, and the length at its end.
fn with_end(line: &str) -> String {
    let whole = fitted(line, WIDTH);
    match line.rsplit_once(' ') {
        Some((begin, end)) if whole.len() < line.len() && end.len() < WIDTH / 4 => {
            let begin = fitted(begin.trim_end(), WIDTH - 1 - end.len());
            format!("{begin} {end}")
        }
        _ => whole,
    }
}

fn head(page: &mut Page, report: &Report, of: &Of, utc: &mut Clock) {
    let [first, last] = report.span.unwrap_or([of.head.mono_ns; 2]);
    page.line(0, |page| {
        utc.rfc3339(page.out, first);
        page.str(", ");
        length(page.out, last.saturating_sub(first));
        page.str(", ");
        let mut text = String::new();
        let _ = write!(text, "{}, Linux {}", of.head.host, of.head.kernel);
        escape::terminal(page.out, text.as_bytes());
    });
    page.line(0, |page| {
        page.number(report.operations);
        page.str(" operations, ");
        page.number(report.failed);
        page.str(" failed");
        if of.filtered {
            page.str(" (of those that the filters let pass)");
        }
        if report.losses.is_empty() {
            page.str(", nothing lost");
        }
    });
}

/// What was lost, in all and then when.
fn losses(page: &mut Page, report: &Report, local: &mut Clock) {
    for (record, count) in report.lost() {
        page.line(0, |page| {
            page.styled(Style::Lost, |page| {
                if count == 0 {
                    return page.str("*** EVENTS ARE MISSING IN THE RECORDING ***");
                }
                page.str("*** LOST ");
                page.number(count);
                page.str(" ");
                page.str(records(record, count != 1));
                page.str(" ***");
            });
        });
    }
    for loss in report.losses.iter().take(LOSSES) {
        page.line(1, |page| one_loss(page, loss, local));
    }
    let more = report.losses.len().saturating_sub(LOSSES);
    if more > 0 {
        page.line(1, |page| {
            page.str("and ");
            page.count(more, "other time", "other times");
        });
    }
}

/// So many errnos of a kind of mount operations are shown.
const ERRNOS: usize = 6;

/// Mount operations: how long they took, and what they did.
fn mounts(page: &mut Page, report: &Report) {
    let mut kinds = report.mounts.kinds().peekable();
    if kinds.peek().is_none() {
        return;
    }
    headed(page, "MOUNT OPERATIONS", &LENGTHS);
    for (kind, sums) in kinds {
        table::row(page, 0, kind.name(), &sums.lengths);
        if sums.failed > 0 {
            let errnos = ranked(&sums.errnos, ERRNOS, errno_name);
            page.words(
                1,
                Style::Failed,
                &format!("{} failed: {errnos}", sums.failed),
            );
        }
        let words = made_and_taken(sums);
        if !words.is_empty() {
            page.words(1, Style::Dim, &words);
        }
    }
}

/// `12 mounts made, 8 of them by propagation; at least 3 taken away`.
fn made_and_taken(sums: &MountSums) -> String {
    let at_least = if sums.may_have_taken_more {
        "at least "
    } else {
        ""
    };
    let made = (sums.made, sums.made_by_propagation, "made", "");
    let taken = (
        sums.taken,
        sums.taken_by_propagation,
        "taken away",
        at_least,
    );
    let mut parts = Vec::new();
    for (count, by_propagation, what, at_least) in [made, taken] {
        if count == 0 {
            continue;
        }
        let noun = if count == 1 { "mount" } else { "mounts" };
        let mut words = format!("{at_least}{count} {noun} {what}");
        if by_propagation > 0 {
            let _ = write!(words, ", {by_propagation} of them by propagation");
        }
        parts.push(words);
    }
    parts.join("; ")
}

/// Mounts that died with writers, and what the kernel said.
fn warnings(page: &mut Page, report: &Report) {
    if report.warned == 0 {
        return;
    }
    section(page, "MOUNTS AND THEIR WRITERS");
    for line in report.warnings.iter().flat_map(|text| text.lines()) {
        page.out.push_lines(&fitted(line, WIDTH));
        page.out.push_lines("\n");
    }
    let more = report.warned - report.warnings.len() as u64;
    if more > 0 {
        page.line(0, |page| {
            page.str("and ");
            page.number(more);
            page.str(" more: nstrace tail --from prints them");
        });
    }
}

fn one_loss(page: &mut Page, loss: &Loss, local: &mut Clock) {
    if loss.since > 0 {
        page.str("from ");
        local.time_of_day(page.out, loss.since);
        page.str(" to ");
    } else {
        page.str("before ");
    }
    local.time_of_day(page.out, loss.until);
    if loss.count == 0 {
        return page.str(": nobody knows how many");
    }
    page.str(": ");
    page.number(loss.count);
    page.str(" ");
    page.str(records(loss.record, loss.count != 1));
}

/// What a container is called, escaped.
pub(super) fn place_name(place: &Place, view: &TreeView) -> String {
    match place {
        Place::None => "in no container".to_owned(),
        Place::Container(id) => {
            escape::Escaped(words::container_name(id, view).as_bytes()).to_string()
        }
        Place::Others => "in other containers".to_owned(),
    }
}

fn containers(page: &mut Page, report: &Report, view: &TreeView) {
    if !report.has_containers() {
        return;
    }
    let all = report.by_time();
    let (shown, rest) = all.split_at(all.len().min(CONTAINERS));
    headed(page, "CONTAINERS", &LENGTHS);
    for container in shown {
        let name = place_name(&container.place, view);
        table::row(page, 0, &name, &container.sums.all());
    }
    if !rest.is_empty() {
        let mut lengths = Lengths::default();
        rest.iter()
            .for_each(|container| lengths.add_all(&container.sums.all()));
        table::row(page, 0, &format!("{} others", rest.len()), &lengths);
    }
    if all.len() > 1 {
        shown
            .iter()
            .take(SECTIONS)
            .for_each(|own| container(page, own, view));
    }
}

/// The operations of a container, and the stages that took most of the time.
fn container(page: &mut Page, container: &Container, view: &TreeView) {
    let Container { place, sums } = container;
    headed(page, &place_name(place, view), &LENGTHS);
    for (op, lengths) in sums.ops() {
        table::row(page, 1, op.name(), lengths);
    }
    for (function, lengths) in longest_stages(sums) {
        table::row(page, 2, function.name(), lengths);
    }
}

/// The stages that took most time, without those that are made up of others.
fn longest_stages(sums: &Sums) -> Vec<(Function, &Lengths)> {
    let stages = sums.stages();
    let mut all: Vec<_> = stages
        .filter(|(function, _)| !function.calls_others())
        .collect();
    all.sort_by_key(|(_, lengths)| std::cmp::Reverse(lengths.sum()));
    all.truncate(STAGES);
    all
}

/// Where the words of a failure begin: levels of two columns.
const GROUP_LEVEL: usize = 4;
const REASON_LEVEL: usize = 7;

fn failures(page: &mut Page, report: &Report, view: &TreeView) {
    if report.failures.is_empty() {
        return;
    }
    section(page, "FAILURES");
    let groups = report.failures.groups();
    let (shown, rest) = groups.split_at(groups.len().min(GROUPS));
    for group in shown {
        page.line(0, |page| {
            counted(page, GROUP_LEVEL, group.count);
            page.styled(Style::Failed, |page| error(page.out, group.errno));
            match group.stage {
                Some(stage) => {
                    page.str(" from ");
                    page.str(stage.name());
                }
                None => page.str(" outside of the stages"),
            }
        });
        reasons(page, group, report, view);
    }
    if !rest.is_empty() {
        let count = rest.iter().map(|group| group.count).sum();
        page.line(0, |page| {
            counted(page, GROUP_LEVEL, count);
            page.str("of ");
            page.count(rest.len(), "other sort", "other sorts");
        });
    }
}

/// Appends a number before a level.
fn counted(page: &mut Page, level: usize, count: u64) {
    let count = count.to_string();
    page.out.pad((2 * level).saturating_sub(1 + count.len()), 0);
    page.str(&count);
    page.to(2 * level);
}

fn reasons(page: &mut Page, group: &Group, report: &Report, view: &TreeView) {
    let (shown, rest) = group.reasons.split_at(group.reasons.len().min(REASONS));
    for why in shown {
        page.begin(Default::default(), 0);
        counted(page, REASON_LEVEL, why.met.count);
        let mut words = why
            .reason
            .clone()
            .unwrap_or_else(|| "for a reason that is not known".to_owned());
        if why.variants > 1 {
            let _ = write!(words, " ({} different)", why.variants);
        }
        page.flow(REASON_LEVEL, Style::Reason, &words);
        page.words(REASON_LEVEL, Style::Dim, &who(why, report, view));
    }
    if !rest.is_empty() {
        let count = rest.iter().map(|why| why.met.count).sum();
        page.line(0, |page| {
            counted(page, REASON_LEVEL, count);
            page.str("for ");
            page.count(rest.len(), "other reason", "other reasons");
        });
    }
}

/// Which operations met it, of which tasks, and in which containers if there are any.
fn who(why: &Why, report: &Report, view: &TreeView) -> String {
    let ops = ranked(&why.ops, NAMED, |op| op.name().to_owned());
    let comms = ranked_comms(&why.met.comms, NAMED);
    let mut words = format!("{ops}; by {comms}");
    if report.has_containers() {
        let name = |at: usize| match report.containers.get(at) {
            Some(container) => place_name(&container.place, view),
            None => String::new(),
        };
        let _ = write!(words, "; {}", ranked(&why.met.containers, NAMED, name));
    }
    words
}

/// Where the counts of namespaces end; the last is the count of tables.
const COUNTS: [(&str, usize); 4] = [("FOUND", 17), ("BORN", 24), ("DIED", 31), ("ALIVE", 38)];

fn lives(page: &mut Page, report: &Report, end: &End) {
    let ends = |page: &mut Page, cells: [&str; 4]| {
        for ((_, end), cell) in COUNTS.into_iter().zip(cells) {
            page.to(end.saturating_sub(cell.len()));
            page.str(cell);
        }
    };
    let is_there =
        |(kind, lives): &(Kind, &Lives)| lives.found + lives.born + end.alive[*kind as usize] > 0;
    let mut rows = report.lives().filter(is_there).peekable();
    if rows.peek().is_none() {
        return;
    }
    page.line(0, |_| {});
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            page.str("NAMESPACES");
            ends(page, COUNTS.map(|(name, _)| name));
            for (at, name) in ["AGE P50", "P90", "P99", "MAX"].into_iter().enumerate() {
                right(page, 2 + at, name);
            }
        });
    });
    for (kind, lives) in rows {
        let alive = end.alive[kind as usize];
        page.line(0, |page| {
            page.str(kind.name());
            let cells = [lives.found, lives.born, lives.died, alive].map(|count| count.to_string());
            ends(page, cells.each_ref().map(String::as_str));
            if lives.ages.count() > 0 {
                table::percentiles(page, 2, &lives.ages);
            }
        });
        if lives.born > 0 {
            let makers = ranked_comms(&lives.makers, NAMED);
            page.words(1, Style::Dim, &format!("made by {makers}"));
        }
    }
}

fn leaks(page: &mut Page, end: &End) {
    let count: u64 = end.leaked.iter().sum();
    if count == 0 {
        return;
    }
    let kinds = Kind::ALL.into_iter().zip(end.leaked);
    let kinds: Vec<String> = kinds
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {}", kind.name()))
        .collect();
    section(page, "LEAKS");
    let noun = if count == 1 {
        "namespace"
    } else {
        "namespaces"
    };
    let words = format!(
        "{count} {noun} that no task was in at the end ({}): nstrace leaks --from FILE",
        kinds.join(", "),
    );
    page.words(0, Style::Reason, &words);
}
