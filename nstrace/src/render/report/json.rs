//! A report as lines of JSON: docs/json.md.

use super::{
    super::{
        Clock, Text, errno,
        json::{Object, line},
    },
    Of,
};
use crate::{
    event::record_name,
    report::{Comm, Lengths, Place, Report, Sums, Tally},
};

/// Lines of one time.
struct Lines<'o> {
    out: &'o mut Text,
    clock: &'o mut Clock,
    time: u64,
}

impl Lines<'_> {
    fn line(&mut self, kind: &str, write: impl FnOnce(&mut Object)) {
        line(self.out, kind, self.time, self.clock, write);
    }
}

/// Appends a report as lines of JSON. `clock` must tell UTC.
pub fn report(out: &mut Text, report: &Report, of: &Of, clock: &mut Clock) {
    let [first, last] = report.span.unwrap_or([of.head.mono_ns; 2]);
    let mut lines = Lines {
        out,
        clock,
        time: first,
    };
    lines.line("report", |object| {
        object.number("span_ns", last.saturating_sub(first));
        object.name("host", of.head.host.as_bytes());
        object.name("kernel", of.head.kernel.as_bytes());
        object.number("operations", report.operations);
        object.number("failed", report.failed);
        object.number("leaks", of.end.leaked.iter().sum::<u64>());
        object.objects("lost", report.lost().iter(), |object, (record, count)| {
            object.word("record", record_name(*record));
            object.number("count", *count);
        });
        if report.misses_events() {
            object.flag("events_missing");
        }
        let (mounts, failed) = report.mounts.count();
        if report.mounts.kinds().next().is_some() {
            object.number("mount_operations", mounts);
            object.number("mount_failed", failed);
        }
        if report.warned > 0 {
            object.number("mount_warnings", report.warned);
        }
        if of.filtered {
            object.flag("filtered");
        }
    });
    losses(&mut lines, report);
    for text in &report.warnings {
        lines.out.push_lines(text);
    }
    let sums = report.sums();
    each_lengths(&sums, |what, name, own| {
        lengths(&mut lines, "lengths", what, name.as_bytes(), own, |_| {});
    });
    mounts(&mut lines, report);
    containers(&mut lines, report, of);
    failures(&mut lines, report);
    lives(&mut lines, report, of);
    for slow in &report.slowest {
        lines.out.push_lines(&slow.text);
    }
}

fn losses(lines: &mut Lines, report: &Report) {
    for loss in &report.losses {
        lines.line("loss", |object| {
            object.word("record", record_name(loss.record));
            object.number("count", loss.count);
            object.some("from_mono_ns", loss.since);
            object.number("until_mono_ns", loss.until);
        });
    }
}

fn mounts(lines: &mut Lines, report: &Report) {
    for (kind, sums) in report.mounts.kinds() {
        lines.line("mount_lengths", |object| {
            object.word("name", kind.name());
            object.number("count", sums.lengths.count());
            object.number("total_ns", sums.lengths.sum());
            percentiles(object, &sums.lengths);
            object.number("failed", sums.failed);
            let errnos = sums.errnos.ranked();
            object.objects("errnos", errnos.iter(), |object, (errno, count)| {
                object.name("errno", errno_name(*errno).as_bytes());
                object.number("count", *count);
            });
            object.number("made", sums.made);
            object.number("made_by_propagation", sums.made_by_propagation);
            object.number("taken", sums.taken);
            object.number("taken_by_propagation", sums.taken_by_propagation);
            if sums.may_have_taken_more {
                object.flag("taken_more");
            }
        });
    }
}

/// The lengths of operations by what they are and by kind, and of stages.
fn each_lengths(sums: &Sums, mut each: impl FnMut(&str, &str, &Lengths)) {
    sums.ops().for_each(|(op, own)| each("op", op.name(), own));
    sums.kinds()
        .for_each(|(kind, own)| each("kind", kind.name(), own));
    sums.stages()
        .for_each(|(function, own)| each("stage", function.name(), own));
}

fn containers(lines: &mut Lines, report: &Report, of: &Of) {
    let all = || {
        report
            .containers
            .iter()
            .filter(|own| own.sums.ops().next().is_some())
    };
    for container in all() {
        let Some(id) = id(&container.place) else {
            continue;
        };
        let own = container.sums.all();
        lengths(lines, "lengths", "container", id, &own, |object| {
            object.number("failed", container.sums.failed);
            if let Some(name) = of.view.names.get(id) {
                object.name("container_name", name.as_bytes());
            }
        });
    }
    for container in all() {
        let Some(id) = id(&container.place) else {
            continue;
        };
        each_lengths(&container.sums, |what, name, own| {
            lengths(
                lines,
                "container_lengths",
                what,
                name.as_bytes(),
                own,
                |object| {
                    object.name("container", id);
                },
            );
        });
    }
}

/// The id of a container; empty for none. Of others there is none.
fn id(place: &Place) -> Option<&[u8]> {
    match place {
        Place::None => Some(b""),
        Place::Container(id) => Some(id),
        Place::Others => None,
    }
}

fn failures(lines: &mut Lines, report: &Report) {
    for (failure, met) in report.failures.sorts() {
        lines.line("failures", |object| {
            object.word("op", failure.op.name());
            object.name("errno", errno_name(failure.errno).as_bytes());
            if let Some(stage) = failure.stage {
                object.word("failed_stage", stage.name());
            }
            if let Some(reason) = &failure.reason {
                object.text("reason", reason);
            }
            object.number("count", met.count);
            comms(object, "comms", &met.comms);
            let all = met.containers.ranked();
            let ids = all.iter().filter_map(|(at, count)| {
                let place = &report.containers.get(*at)?.place;
                Some((id(place).filter(|id| !id.is_empty())?, *count))
            });
            object.objects("containers", ids, |object, (id, count)| {
                object.name("container", id);
                object.number("count", count);
            });
        });
    }
}

/// The names of tasks, each with how often.
fn comms(object: &mut Object, key: &str, tally: &Tally<Comm>) {
    object.objects(key, tally.ranked().iter(), |object, (comm, count)| {
        object.name("comm", comm.bytes());
        object.number("count", *count);
    });
}

/// The name of an errno, or its number.
pub(in crate::render) fn errno_name(errno: i32) -> String {
    errno::name(errno).map_or_else(|| format!("errno {errno}"), str::to_owned)
}

fn lives(lines: &mut Lines, report: &Report, of: &Of) {
    for (kind, lives) in report.lives() {
        lines.line("lives", |object| {
            object.word("kind", kind.name());
            object.number("found", lives.found);
            object.number("born", lives.born);
            object.number("died", lives.died);
            object.number("alive", of.end.alive[kind as usize]);
            object.number("leaked", of.end.leaked[kind as usize]);
            percentiles(object, &lives.ages);
            comms(object, "makers", &lives.makers);
        });
    }
}

fn lengths(
    lines: &mut Lines,
    kind: &str,
    of: &str,
    name: &[u8],
    lengths: &Lengths,
    more: impl FnOnce(&mut Object),
) {
    lines.line(kind, |object| {
        object.word("of", of);
        object.name("name", name);
        object.number("count", lengths.count());
        object.number("total_ns", lengths.sum());
        percentiles(object, lengths);
        more(object);
    });
}

/// Appends percentiles, if there are any.
pub(in crate::render) fn percentiles(object: &mut Object, lengths: &Lengths) {
    if lengths.count() > 0 {
        object.number("p50_ns", lengths.percentile(50.0));
        object.number("p90_ns", lengths.percentile(90.0));
        object.number("p99_ns", lengths.percentile(99.0));
        object.number("max_ns", lengths.max());
    }
}
