//! Which probes to attach, and how: a pure function of the table of probes and the
//! kernel's BTF, so that it is tested for every kernel without booting one.

use nstrace_common::{
    field::Need,
    probe::{At, Probe, symbol},
};

use crate::btf::Btf;

/// How the user wants functions attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Attach {
    /// fentry and fexit where the kernel can, else kprobe and kretprobe.
    #[default]
    Auto,
    /// fentry and fexit; kprobe only for an optional probe that the kernel refuses.
    Fentry,
    /// kprobe and kretprobe.
    Kprobe,
}

/// A way to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// fentry or fexit.
    Fentry,
    /// kprobe or kretprobe.
    Kprobe,
    /// A BTF tracepoint.
    Tracepoint,
}

/// What is to become of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Attach in the first way; if the kernel refuses, in the second.
    Attach(Way, Option<Way>),
    /// The kernel has no such function.
    NoFunction,
    /// Another probe tells the same and more.
    Covered(&'static str),
}

/// A probe and what is to become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The probe.
    pub probe: &'static Probe,
    /// What to do.
    pub step: Step,
    /// Attach its twin too, if it comes to fentry or fexit.
    pub with_twin: bool,
}

/// What [`plan`] and the loader ask BTF about: the kernel's functions, and the types that
/// stand for tracepoints.
pub fn functions(probes: &[Probe]) -> Vec<String> {
    probes
        .iter()
        .map(|probe| match probe.at {
            At::Tracepoint => format!("btf_trace_{}", probe.function),
            At::Entry | At::Exit => full(probe.function),
        })
        .chain(HELPERS.map(str::to_owned))
        .chain([PER_CPU.to_owned()])
        .collect()
}

/// Helpers whose presence [`crate::kernel::load`] asks about.
pub const HELPERS: [&str; 3] = [
    "bpf_get_current_task_btf",
    "bpf_task_pt_regs",
    "bpf_rdonly_cast",
];

/// Where mounts die.
pub const CLEANUP: &str = "cleanup_mnt";

/// Where it is remembered where they were.
pub const UNMOUNT: &str = "umount_tree";

/// The variable that says where the others of a CPU are.
pub const PER_CPU: &str = "this_cpu_off";

/// The symbol of a probe's function.
pub fn full(function: &str) -> String {
    let (prefix, name) = symbol(function);
    format!("{prefix}{name}")
}

/// Decides about every probe of a table, in the order of attaching. In a kernel that is
/// `preemptible` some have twins.
pub fn plan(
    probes: &'static [Probe],
    attach: Attach,
    btf: &Btf,
    preemptible: bool,
) -> Vec<Planned> {
    probes
        .iter()
        .map(|probe| Planned {
            probe,
            step: step(attach, btf, probe),
            with_twin: probe.has_twin && preemptible,
        })
        .collect()
}

fn step(attach: Attach, btf: &Btf, probe: &Probe) -> Step {
    if probe.at == At::Tracepoint {
        return Step::Attach(Way::Tracepoint, None);
    }
    if !btf.has_function(&full(probe.function)) {
        return Step::NoFunction;
    }
    if probe.for_kprobe && attach != Attach::Kprobe {
        return Step::Covered(probe.function);
    }
    if let Some(better) = probe.unless
        && btf.has_function(better)
    {
        return Step::Covered(better);
    }
    match attach {
        Attach::Kprobe => Step::Attach(Way::Kprobe, None),
        Attach::Fentry if probe.need == Need::Required => Step::Attach(Way::Fentry, None),
        Attach::Auto | Attach::Fentry => Step::Attach(Way::Fentry, Some(Way::Kprobe)),
    }
}

/// The name of the second program of a probe.
pub fn twin_name(probe: &Probe) -> String {
    format!("{}_twin", program_name(probe, Way::Fentry))
}

/// The name of the program of a probe: as `nstrace-ebpf/src/probes.rs` has it.
pub fn program_name(probe: &Probe, way: Way) -> String {
    let suffix = match (way, probe.at) {
        (Way::Tracepoint, _) => return probe.function.to_owned(),
        (Way::Fentry, At::Exit) => "fexit",
        (Way::Fentry, _) => "fentry",
        (Way::Kprobe, At::Exit) => "kretprobe",
        (Way::Kprobe, _) => "kprobe",
    };
    format!("{}_{suffix}", probe.function)
}

// The kernels of the tests are amd64's: their system calls have its prefix.
#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use nstrace_common::probe::PROBES;

    use super::*;
    use crate::btf::testing::{KERNELS, kernel};

    const ALL: [Attach; 3] = [Attach::Auto, Attach::Fentry, Attach::Kprobe];

    /// Each kernel, and the functions to probe that it does not have.
    const MISSING: [(&str, &[&str]); 5] = [
        (
            "5.10",
            &[
                "__ns_tree_remove",
                "security_create_user_ns",
                "create_new_namespace",
                "sys_open_tree_attr",
                "sys_mount_setattr",
            ],
        ),
        (
            "6.1",
            &[
                "__ns_tree_remove",
                "create_new_namespace",
                "sys_open_tree_attr",
            ],
        ),
        (
            "6.12",
            &[
                "__ns_tree_remove",
                "create_new_namespace",
                "sys_open_tree_attr",
            ],
        ),
        ("6.18", &["create_new_namespace"]),
        ("7.3", &[]),
    ];

    fn step_of(attach: Attach, series: &str, function: &str, at: At) -> Step {
        let is_it = |planned: &&Planned| {
            let probe = planned.probe;
            probe.function == function && probe.at == at
        };
        let steps = plan(PROBES, attach, &kernel(series), false);
        steps.iter().find(is_it).expect("a probe").step
    }

    #[test]
    fn each_kernel_lacks_what_it_is_known_to_lack() {
        assert!(
            KERNELS
                .iter()
                .map(|(series, _)| *series)
                .eq(MISSING.map(|row| row.0))
        );
        for (series, expected) in MISSING {
            for attach in ALL {
                let mut missing: Vec<&str> = plan(PROBES, attach, &kernel(series), false)
                    .iter()
                    .filter(|planned| planned.step == Step::NoFunction)
                    .map(|planned| planned.probe.function)
                    .collect();
                missing.dedup();
                assert_eq!(missing, expected, "{series} {attach:?}");
            }
        }
    }

    #[test]
    fn deaths_are_told_by_one_function() {
        let tree = "__ns_tree_remove";
        for (series, attach) in KERNELS.iter().flat_map(|(s, _)| ALL.map(|a| (*s, a))) {
            let number = step_of(attach, series, "proc_free_inum", At::Entry);
            let tree_step = step_of(attach, series, tree, At::Entry);
            if matches!(series, "6.18" | "7.3") {
                assert_eq!(number, Step::Covered(tree), "{series}");
                assert!(matches!(tree_step, Step::Attach(..)), "{series}");
            } else {
                assert!(matches!(number, Step::Attach(..)), "{series}");
                assert_eq!(tree_step, Step::NoFunction, "{series}");
            }
        }
    }

    #[test]
    fn only_deaths_are_covered_by_another_probe() {
        for (series, _) in KERNELS {
            for planned in plan(PROBES, Attach::Auto, &kernel(series), false) {
                if let Step::Covered(_) = planned.step {
                    assert_eq!(planned.probe.function, "proc_free_inum", "{series}");
                }
            }
        }
    }

    #[test]
    fn every_kernel_has_what_nstrace_cannot_do_without() {
        for (series, attach) in KERNELS.iter().flat_map(|(s, _)| ALL.map(|a| (*s, a))) {
            for planned in plan(PROBES, attach, &kernel(series), false) {
                let probe = planned.probe;
                if probe.need == Need::Required {
                    let attached = matches!(planned.step, Step::Attach(..));
                    assert!(attached, "{series} {attach:?} {}", probe.function);
                }
            }
        }
    }

    #[test]
    fn way_is_the_one_that_was_asked_for() {
        use Way::{Fentry, Kprobe, Tracepoint};
        for (series, attach) in KERNELS.iter().flat_map(|(s, _)| ALL.map(|a| (*s, a))) {
            for planned in plan(PROBES, attach, &kernel(series), false) {
                let Step::Attach(first, second) = planned.step else {
                    continue;
                };
                let probe = planned.probe;
                let expected = match (attach, probe.at, probe.need) {
                    (_, At::Tracepoint, _) => (Tracepoint, None),
                    (Attach::Kprobe, _, _) => (Kprobe, None),
                    (Attach::Fentry, _, Need::Required) => (Fentry, None),
                    (Attach::Auto, _, _) | (_, _, Need::Optional) => (Fentry, Some(Kprobe)),
                };
                let what = format!("{series} {attach:?} {} {:?}", probe.function, probe.at);
                assert_eq!((first, second), expected, "{what}");
            }
        }
    }

    #[test]
    fn plan_is_in_the_order_of_the_table_and_has_all_of_it() {
        let planned = plan(PROBES, Attach::Auto, &kernel("6.12"), false).into_iter();
        let probes = planned.map(|planned| std::ptr::from_ref(planned.probe));
        assert!(probes.eq(PROBES.iter().map(std::ptr::from_ref)));
    }

    /// What begins or ends something must have one; a stage may be missed.
    #[test]
    fn required_functions_have_twins_where_tasks_are_preempted() {
        for planned in plan(PROBES, Attach::Auto, &kernel("7.3"), true) {
            let probe = planned.probe;
            let is_function = probe.at != At::Tracepoint;
            if is_function
                && (probe.need == Need::Required || probe.without.contains("deaths of n"))
            {
                assert!(planned.with_twin, "{}", probe.function);
                assert!(twin_name(probe).ends_with("_twin"));
            }
        }
        let mut without = plan(PROBES, Attach::Auto, &kernel("7.3"), false).into_iter();
        assert!(without.all(|planned| !planned.with_twin));
    }

    /// From v5.11, v5.15 and v6.2.
    #[test]
    fn helpers_are_there_from_6_1_on_and_the_cast_from_6_12() {
        for (series, _) in KERNELS {
            for helper in HELPERS {
                let has = kernel(series).has_function(helper);
                let lacks = match helper {
                    "bpf_rdonly_cast" => ["5.10", "6.1"].contains(series),
                    _ => *series == "5.10",
                };
                assert_eq!(has, !lacks, "{series} {helper}");
            }
        }
    }

    #[test]
    fn program_has_the_name_of_its_function_and_way() {
        let name = |function: &str, at: At, way| {
            let mut probes = PROBES.iter();
            let probe = probes.find(|probe| probe.function == function && probe.at == at);
            program_name(probe.unwrap(), way)
        };
        assert_eq!(name("sys_setns", At::Exit, Way::Fentry), "sys_setns_fexit");
        assert_eq!(
            name("sys_setns", At::Entry, Way::Kprobe),
            "sys_setns_kprobe"
        );
        assert_eq!(
            name("alloc_pid", At::Exit, Way::Kprobe),
            "alloc_pid_kretprobe"
        );
        assert_eq!(
            name("sched_process_fork", At::Tracepoint, Way::Tracepoint),
            "sched_process_fork"
        );
        assert_eq!(full("sys_setns"), "__x64_sys_setns");
        assert_eq!(full("kernel_clone"), "kernel_clone");
    }
}
