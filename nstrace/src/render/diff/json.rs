//! What differs as lines of JSON: docs/json.md.

use super::{
    super::{
        Clock, Text,
        json::{Object, line, object},
        report::{errno_name, percentiles},
    },
    Side,
};
use crate::{
    diff::{Diff, Of, Pair},
    event::record_name,
    report::Lengths,
};

/// What both sides are called.
const SIDES: [&str; 2] = ["a", "b"];

/// The percentiles that are compared.
const COMPARED: [(&str, f64); 3] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0)];

/// Appends it as lines of JSON. The clocks, of each side, must tell UTC.
pub fn diff(out: &mut Text, diff: &Diff, sides: [Side; 2], clocks: [Clock; 2]) {
    let [_, mut clock] = clocks;
    let clock = &mut clock;
    let [.., last] = &sides;
    let time = last
        .report
        .span
        .map_or(last.head.mono_ns, |[first, _]| first);
    line(out, "diff", time, clock, |object| {
        for (key, own) in SIDES.iter().zip(&sides) {
            side(object, key, own);
        }
        if diff.same_boot {
            object.flag("same_boot");
        }
    });
    for own in &diff.lengths {
        line(out, "diff_lengths", time, clock, |object| pair(object, own));
    }
    for container in &diff.containers {
        for own in &container.lengths {
            line(out, "diff_container_lengths", time, clock, |object| {
                object.name("container", container.name.as_deref().unwrap_or_default());
                pair(object, own);
            });
        }
    }
    for failure in &diff.failures {
        line(out, "diff_failures", time, clock, |object| {
            object.name("errno", errno_name(failure.errno).as_bytes());
            if let Some(stage) = failure.stage {
                object.word("failed_stage", stage.name());
            }
            if let Some(reason) = &failure.reason {
                object.text("reason", reason);
            }
            for (key, count) in SIDES.iter().zip(failure.counts) {
                object.number(key, count);
            }
            object.word("verdict", failure.verdict.name());
        });
    }
    lives(out, diff, time, clock);
    for (side, list) in SIDES.iter().zip(&diff.only) {
        for ns in list {
            line(out, "diff_namespace", time, clock, |object| {
                object.word("only", side);
                object.word("kind", ns.kind.name());
                object.number("inum", ns.inum);
                object.some("id", ns.id);
                if let Some(maker) = &ns.maker {
                    self::object(object.key("maker"), |object| {
                        object.word("op", maker.op.name());
                        object.number("pid", maker.pid);
                        object.name("comm", maker.comm());
                    });
                }
            });
        }
    }
}

fn side(object: &mut Object, key: &str, side: &Side) {
    let report = side.report;
    let [first, last] = report.span.unwrap_or([side.head.mono_ns; 2]);
    self::object(object.key(key), |object| {
        object.name("name", side.name.as_bytes());
        object.number("mono_ns", first);
        object.number("span_ns", last.saturating_sub(first));
        object.name("host", side.head.host.as_bytes());
        object.name("kernel", side.head.kernel.as_bytes());
        object.name("boot_id", side.head.boot_id.as_bytes());
        object.number("operations", report.operations);
        object.number("failed", report.failed);
        object.objects("lost", report.lost().iter(), |object, (record, count)| {
            object.word("record", record_name(*record));
            object.number("count", *count);
        });
        if report.misses_events() {
            object.flag("events_missing");
        }
    });
}

fn pair(object: &mut Object, pair: &Pair) {
    let (of, name) = words(&pair.of);
    object.word("of", of);
    object.name("name", name);
    for (key, own) in SIDES.iter().zip(&pair.sides) {
        lengths(object, key, own);
    }
    let changed = COMPARED
        .iter()
        .filter(|(_, percent)| pair.change(*percent).is_some());
    object.words("changed", changed.map(|(name, _)| *name));
}

/// What lengths are of, and its name.
fn words(of: &Of) -> (&'static str, &[u8]) {
    match of {
        Of::Op(name) => ("op", name.as_bytes()),
        Of::Kind(kind) => ("kind", kind.name().as_bytes()),
        Of::Stage(function) => ("stage", function.name().as_bytes()),
        Of::Container(name) => ("container", name.as_deref().unwrap_or_default()),
    }
}

fn lengths(object: &mut Object, key: &str, lengths: &Lengths) {
    self::object(object.key(key), |object| {
        object.number("count", lengths.count());
        object.number("total_ns", lengths.sum());
        percentiles(object, lengths);
    });
}

fn lives(out: &mut Text, diff: &Diff, time: u64, clock: &mut Clock) {
    for (kind, lives) in nstrace_common::kind::Kind::ALL.into_iter().zip(&diff.lives) {
        line(out, "diff_lives", time, clock, |object| {
            object.word("kind", kind.name());
            for (at, key) in SIDES.iter().enumerate() {
                self::object(object.key(key), |object| {
                    object.number("alive", lives.alive[at]);
                    object.number("born", lives.born[at]);
                    object.number("died", lives.died[at]);
                    let makers = lives.makers.iter().filter(|(_, counts)| counts[at] > 0);
                    object.objects("makers", makers, |object, (comm, counts)| {
                        object.name("comm", comm.bytes());
                        object.number("count", counts[at]);
                    });
                });
            }
            if diff.same_boot {
                object.number("both", lives.both);
            }
        });
    }
}
