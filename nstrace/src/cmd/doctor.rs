//! `nstrace doctor`: what this kernel offers, what is missing, and what follows.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use nstrace_common::{config::Config, field::Need, probe::At};

use crate::{
    cli::Doctor,
    kernel::{
        error::can_load,
        load::{self, Options, Outcome},
        plan::{Planned, Step, Way, full},
        writers::{Ledger, Sizes, Wanted},
    },
};

/// Attaches everything, prints what became of it, and detaches it again. Exit code 1
/// if nstrace cannot work here.
pub fn run(args: &Doctor) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    field(&mut text, "kernel", &release());
    let btf = match std::fs::metadata("/sys/kernel/btf/vmlinux") {
        Ok(metadata) => format!("/sys/kernel/btf/vmlinux, {} bytes", metadata.len()),
        Err(error) => format!("/sys/kernel/btf/vmlinux: {error}"),
    };
    field(&mut text, "types", &btf);
    field(
        &mut text,
        "rights",
        match can_load() {
            true => "may load BPF programs",
            false => "neither CAP_SYS_ADMIN nor CAP_BPF and CAP_PERFMON: run it as root",
        },
    );
    let loaded = load::load(&Options {
        attach: args.attach.attach,
        has_ledger: false,
        config: Config {
            mounts: 1,
            ..Config::TREE
        },
        ring_size: args.attach.ring_size,
    });
    let code = match &loaded {
        Ok(kernel) => {
            probes(&mut text, &kernel.outcomes);
            field(&mut text, "verdict", &verdict(&kernel.outcomes));
            writers(&mut text, args);
            ExitCode::SUCCESS
        }
        Err(error) => {
            field(
                &mut text,
                "verdict",
                &format!("nstrace cannot work here: {error}"),
            );
            ExitCode::FAILURE
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(code)
}

fn field(text: &mut String, name: &str, value: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{name:<8}  {value}");
}

fn release() -> String {
    let read = |name| std::fs::read_to_string(name).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    format!("{} {}", release.trim(), std::env::consts::ARCH)
}

fn probes(text: &mut String, outcomes: &[(Planned, Outcome)]) {
    for (planned, outcome) in outcomes {
        let probe = planned.probe;
        let at = match probe.at {
            At::Entry => "entry",
            At::Exit => "return",
            At::Tracepoint => "tracepoint",
        };
        let what = match outcome {
            Outcome::Attached(Way::Fentry, None) if planned.with_twin => {
                format!("{}, and a twin", way_name(Way::Fentry, probe.at))
            }
            Outcome::Attached(way, None) => way_name(*way, probe.at).to_owned(),
            Outcome::Attached(way, Some(why)) => {
                format!("{} (fentry: {why})", way_name(*way, probe.at))
            }
            Outcome::Skipped(Step::NoFunction) => "not in this kernel".to_owned(),
            Outcome::Skipped(Step::Covered(by)) => format!("not needed: {by} tells it"),
            Outcome::Skipped(Step::Attach(..)) => "not tried".to_owned(),
            Outcome::Failed(why) => format!("refused: {why}"),
        };
        field(
            text,
            "probe",
            &format!("{:<28} {at:<10}  {what}", full(probe.function)),
        );
    }
}

/// The same of what `nstrace writers` attaches: it watches nothing here.
fn writers(text: &mut String, args: &Doctor) {
    let sizes = Sizes {
        ring: args.attach.ring_size,
        mounts: 1,
        stacks: 1,
    };
    let load = async {
        Ok(Ledger::load(
            args.attach.attach,
            &Wanted::default(),
            &sizes,
        )?)
    };
    match super::block_on(load) {
        Ok(ledger) => {
            probes(text, &ledger.outcomes);
            field(text, "writers", "nstrace writers works");
        }
        Err(error) => field(
            text,
            "writers",
            &format!("nstrace writers does not work: {error}"),
        ),
    }
}

fn way_name(way: Way, at: At) -> &'static str {
    match (way, at) {
        (Way::Tracepoint, _) => "BTF tracepoint",
        (Way::Fentry, At::Exit) => "fexit",
        (Way::Fentry, _) => "fentry",
        (Way::Kprobe, At::Exit) => "kretprobe",
        (Way::Kprobe, _) => "kprobe",
    }
}

/// What the user goes without.
fn verdict(outcomes: &[(Planned, Outcome)]) -> String {
    let attached: BTreeSet<&str> = outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Attached(..)))
        .map(|(planned, _)| planned.probe.without)
        .collect();
    let missing: BTreeSet<&str> = outcomes
        .iter()
        .filter(|(planned, outcome)| {
            let lacks = matches!(
                outcome,
                Outcome::Failed(_) | Outcome::Skipped(Step::NoFunction)
            );
            lacks && planned.probe.need == Need::Optional
        })
        .map(|(planned, _)| planned.probe.without)
        // Another probe may serve the same end.
        .filter(|without| !attached.contains(without))
        .collect();
    if missing.is_empty() {
        "everything works".to_owned()
    } else {
        let missing: Vec<&str> = missing.into_iter().collect();
        format!("works, without: {}", missing.join("; "))
    }
}
