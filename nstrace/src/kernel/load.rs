//! Sets the kernel side up: maps, settings, programs, in that order, and says of
//! each probe what became of it.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, Endianness,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError},
};
use nstrace_common::{
    config::Config,
    field::{FIELDS, Need},
    flags,
    probe::At,
};
use zerocopy::IntoBytes;

use super::{
    KernelError,
    error::{self, errno, refused},
    plan::{Attach, HELPERS, Planned, Step, Way, full, functions, plan, program_name},
};
use crate::btf::{Btf, offsets};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nstrace-ebpf"));
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// What the user asked of the kernel side.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to attach.
    pub attach: Attach,
    /// Filters; the rest is filled in here.
    pub config: Config,
    /// Bytes of the ring of operations; rounded up to a power of two of pages.
    pub ring_size: u32,
}

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is attached; if not in the first way, why not.
    Attached(Way, Option<String>),
    /// It was not to be.
    Skipped(Step),
    /// The kernel refused it.
    Failed(String),
}

/// The kernel side, attached. Dropping it detaches everything.
pub struct Kernel {
    /// Its maps.
    pub bpf: Ebpf,
    /// What became of each probe.
    pub outcomes: Vec<(Planned, Outcome)>,
}

impl Kernel {
    /// How often the kernel has skipped a program that sees deaths; see
    /// [`Kernel::skipped_runs`].
    pub fn skipped_deaths(&self) -> u64 {
        self.skipped_where(|function| ["proc_free_inum", "__ns_tree_remove"].contains(&function))
    }

    /// How often the kernel has skipped any program, because it was running on that CPU
    /// already: 0 where the kernel does not say (before v5.12; for kprobes before v6.7).
    pub fn skipped_runs(&self) -> u64 {
        self.skipped_where(|_| true)
    }

    fn skipped_where(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let attached = self.outcomes.iter().filter_map(|(planned, outcome)| {
            let probe = planned.probe();
            match outcome {
                Outcome::Attached(way, _) if counts(probe.function) => {
                    Some(program_name(probe, *way))
                }
                _ => None,
            }
        });
        attached.filter_map(|name| self.skipped(&name)).sum()
    }

    fn skipped(&self, program: &str) -> Option<u64> {
        let fd = self.bpf.program(program)?.fd().ok()?.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let misses = info
            .lines()
            .find_map(|line| line.strip_prefix("recursion_misses:"))?;
        misses.trim().parse().ok()
    }
}

/// Loads and attaches.
pub fn load(options: &Options) -> Result<Kernel, KernelError> {
    let mut raw = read_btf()?;
    let names = functions();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let structs: Vec<&str> = FIELDS.iter().map(|row| row.strukt).collect();
    let btf = Btf::parse(&raw, &structs, &names)?;
    let offsets = offsets(&btf)?;
    let config = configured(options.config, &btf);
    let plan = plan(options.attach, &btf);
    let others = btf.other_functions();
    hide(&mut raw, &others);
    let btf = AyaBtf::parse(&raw, Endianness::default())
        .map_err(|error| KernelError::AyaBtf(error::chain(&error)))?;
    drop(raw);
    unlimit_memory();
    let ring_size = ring_bytes(options.ring_size);
    let mut bpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("CONFIG", config.as_bytes(), true)
        .override_global("OFFSETS", offsets.as_bytes(), true)
        .map_max_entries("EVENTS", ring_size)
        .map_max_entries("LIVES", ring_bytes(ring_size / 4))
        .load(OBJECT)?;
    let outcomes = attach(&mut bpf, &btf, plan)?;
    Ok(Kernel { bpf, outcomes })
}

fn read_btf() -> Result<Vec<u8>, KernelError> {
    fs::read(VMLINUX).map_err(|source| KernelError::NoBtf {
        path: Path::new(VMLINUX).to_owned(),
        source,
    })
}

/// Makes functions into forward declarations, which are as long: aya looks for the
/// function of each program by comparing the names of all 60,000, which took a fifth
/// of the whole start.
fn hide(btf: &mut [u8], functions: &[usize]) {
    const FORWARD: u32 = 7 << 24;
    for at in functions {
        btf[*at..*at + 4].copy_from_slice(&FORWARD.to_ne_bytes());
    }
}

/// The settings, with what this kernel offers.
fn configured(mut config: Config, btf: &Btf) -> Config {
    config.task_btf = u32::from(btf.has_function(HELPERS[0]));
    config.task_pt_regs = u32::from(btf.has_function(HELPERS[1]));
    // v7.1 brought empty mount namespaces with create_new_namespace; before, the bit
    // of unshare meant nothing.
    if btf.has_function("create_new_namespace") {
        config.clone_mask |= flags::CLONE_EMPTY_MNTNS;
        config.unshare_mask |= flags::UNSHARE_EMPTY_MNTNS;
    }
    config
}

/// A power of two of whole pages, as a ring buffer must be.
fn ring_bytes(wanted: u32) -> u32 {
    wanted.clamp(4096, 1 << 30).next_power_of_two()
}

/// Up to v5.10 maps are charged against the limit of locked memory.
fn unlimit_memory() {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a valid pointer. Where it is not allowed, making the maps says so.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

fn attach(
    bpf: &mut Ebpf,
    btf: &AyaBtf,
    plan: Vec<Planned>,
) -> Result<Vec<(Planned, Outcome)>, KernelError> {
    let mut outcomes = Vec::with_capacity(plan.len());
    for planned in plan {
        let outcome = attach_one(bpf, btf, &planned)?;
        let why = match &outcome {
            Outcome::Attached(..) => None,
            Outcome::Failed(why) => Some(why.clone()),
            Outcome::Skipped(Step::NoFunction) => Some("this kernel has no such function".into()),
            Outcome::Skipped(_) => None,
        };
        let probe = planned.probe();
        if let Some(why) = why
            && probe.need == Need::Required
        {
            return Err(KernelError::RequiredProbe {
                function: full(probe.function),
                why,
            });
        }
        outcomes.push((planned, outcome));
    }
    Ok(outcomes)
}

fn attach_one(bpf: &mut Ebpf, btf: &AyaBtf, planned: &Planned) -> Result<Outcome, KernelError> {
    let Step::Attach(first, second) = planned.step else {
        return Ok(Outcome::Skipped(planned.step));
    };
    let refusal = match attach_as(bpf, btf, planned, first) {
        Ok(()) => return Ok(Outcome::Attached(first, None)),
        Err(error) => error,
    };
    // Not this program: any program.
    if matches!(errno(&refusal), Some(libc::EPERM)) {
        return Err(refused());
    }
    let why = error::program(&refusal);
    match second.map(|way| (way, attach_as(bpf, btf, planned, way))) {
        None => Ok(Outcome::Failed(why)),
        Some((way, Ok(()))) => Ok(Outcome::Attached(way, Some(why))),
        Some((_, Err(error))) => Ok(Outcome::Failed(error::program(&error))),
    }
}

fn attach_as(
    bpf: &mut Ebpf,
    btf: &AyaBtf,
    planned: &Planned,
    way: Way,
) -> Result<(), ProgramError> {
    let probe = planned.probe();
    let function = full(probe.function);
    let name = program_name(probe, way);
    // The table and the object are of one build: a program is not missing.
    let program: &mut Program = bpf
        .program_mut(&name)
        .unwrap_or_else(|| unreachable!("the object has a program {name}"));
    match (way, probe.at) {
        (Way::Tracepoint, _) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(&function, btf)?;
            program.attach()?;
        }
        (Way::Fentry, At::Exit) => {
            let program: &mut FExit = program.try_into()?;
            program.load(&function, btf)?;
            program.attach()?;
        }
        (Way::Fentry, _) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(&function, btf)?;
            program.attach()?;
        }
        (Way::Kprobe, _) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(&function, 0)?;
        }
    }
    Ok(())
}
