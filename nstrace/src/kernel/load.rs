//! Sets the kernel side up: maps, settings, programs, in that order, and says of
//! each probe what became of it.

use std::{
    fs,
    ops::Range,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError},
    util::nr_cpus,
};
use aya_obj::btf::{BtfType, Func, FuncLinkage};
use nstrace_common::{
    config::{Config, Tasks},
    field::{FIELDS, FIELDS_LEN, Need},
    flags,
    patch::{self, Fact, VALUES, Values},
    probe::{At, PROBES, Probe},
    wire::INUMS,
};
use object::{Endianness, Object as _, ObjectSection as _, SectionKind, read::elf::ElfFile64};
use zerocopy::IntoBytes;

use super::{
    KernelError, clock,
    error::{self, errno, refused},
    numbers::Numbers,
    plan::{
        Attach, CLEANUP, HELPERS, PER_CPU, Planned, Step, UNMOUNT, Way, full, functions, plan,
        program_name, twin_name,
    },
    symbols::address,
};
use crate::btf::{Btf, Missing, offsets};

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nstrace-ebpf"));
const OBJECT_5_10: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nstrace-ebpf-v5_10"));
/// The same with mount operations.
const MOUNT_OPS: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nstrace-ebpf-mount-ops"));
const MOUNT_OPS_5_10: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nstrace-ebpf-mount-ops-v5_10"));
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// What the user asked of the kernel side.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to attach.
    pub attach: Attach,
    /// Filters; the rest is filled in here.
    pub config: Config,
    /// Whether mounts that die with writers are told by the ledger of write access.
    pub has_ledger: bool,
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
    /// When all was attached: what was seen before, was seen in part.
    pub attached: u64,
    /// How many CPUs it counts for.
    pub cpus: usize,
    /// What became of each probe.
    pub outcomes: Vec<(Planned, Outcome)>,
    /// Whether some have twins.
    pub has_twins: bool,
    /// What tells whether a number is in use, when it was needed; None inside, if nothing
    /// tells.
    numbers: Option<Option<Numbers>>,
}

impl Kernel {
    /// Whether nothing has that number of a namespace any more. False if the kernel does not
    /// tell.
    pub fn is_free(&mut self, inum: u32) -> bool {
        let Kernel { bpf, numbers, .. } = self;
        let numbers = numbers.get_or_insert_with(|| Numbers::new(bpf));
        numbers
            .as_ref()
            .is_some_and(|numbers| numbers.is_free(inum))
    }

    /// How many deaths the kernel has skipped a program for, those too that its twin
    /// told: 0 where the kernel does not say (before v5.12; for kprobes before v6.7).
    pub fn skipped_deaths(&self) -> u64 {
        let is_death =
            |probe: &Probe| ["proc_free_inum", "__ns_tree_remove"].contains(&probe.function);
        self.skipped_where(is_death)
    }

    /// How often the kernel has skipped a program that has no twin.
    pub fn skipped_runs(&self) -> u64 {
        self.skipped_where(|probe| !(self.has_twins && probe.has_twin))
    }

    /// How often something happened that no program has told, where the kernel says so;
    /// `told_by_twins` are deaths.
    pub fn missed(&self, told_by_twins: u64) -> u64 {
        let deaths = match self.has_twins {
            true => self.skipped_deaths().saturating_sub(told_by_twins),
            false => 0,
        };
        self.skipped_runs() + deaths
    }

    fn skipped_where(&self, counts: impl Fn(&Probe) -> bool) -> u64 {
        let attached = self.outcomes.iter().filter_map(|(planned, outcome)| {
            let probe = planned.probe;
            match outcome {
                Outcome::Attached(way, _) if counts(probe) => Some(program_name(probe, *way)),
                _ => None,
            }
        });
        attached.filter_map(|name| skipped(&self.bpf, &name)).sum()
    }
}

/// How often the kernel has skipped a program, if it says so.
pub(super) fn skipped(bpf: &Ebpf, program: &str) -> Option<u64> {
    let fd = bpf.program(program)?.fd().ok()?.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let misses = info
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))?;
    misses.trim().parse().ok()
}

/// Loads and attaches.
pub fn load(options: &Options) -> Result<Kernel, KernelError> {
    check_switches(options.attach)?;
    raise_open_files();
    let preemptible = options.attach != Attach::Kprobe && preemptible();
    let may_skip = preemptible || options.attach == Attach::Kprobe;
    // Where tasks cannot be preempted, deaths that an interrupt brings about are skipped
    // all the same; the tree needs them.
    let for_tree = options.config.tasks == Tasks::All as u32;
    let has_twins = preemptible || for_tree && options.attach != Attach::Kprobe;
    let kernel = load_with(options, has_twins, may_skip)?;
    // What took a kprobe after all can be skipped, and its programs must know.
    let is_required_kprobe = |(planned, outcome): &(Planned, Outcome)| {
        planned.probe.need == Need::Required && matches!(outcome, Outcome::Attached(Way::Kprobe, _))
    };
    if may_skip || !kernel.outcomes.iter().any(is_required_kprobe) {
        return Ok(kernel);
    }
    drop(kernel);
    load_with(options, has_twins, true)
}

fn load_with(options: &Options, has_twins: bool, may_skip: bool) -> Result<Kernel, KernelError> {
    let raw = read_btf()?;
    let names = functions(PROBES);
    let btf = parse_btf(&raw, &names)?;
    let cpus = cpus()?;
    let mut values = values(&btf, cpus)?;
    values[Fact::MaySkip as usize] = u32::from(may_skip);
    values[Fact::Twins as usize] = u32::from(has_twins);
    let for_mounts = options.config.mounts != 0;
    let objects = match for_mounts {
        true => [MOUNT_OPS, MOUNT_OPS_5_10],
        false => [OBJECT, OBJECT_5_10],
    };
    let is_old = !btf.has_function(HELPERS[0]);
    let object = object(objects[usize::from(is_old)], &values)?;
    let config = configured(options.config, &btf);
    let for_tree = config.tasks == Tasks::All as u32;
    let mut plan = plan(PROBES, options.attach, &btf, has_twins);
    plan.retain(|planned| {
        let probe = planned.probe;
        let is_told = options.has_ledger && [CLEANUP, UNMOUNT].contains(&probe.function);
        !is_told && (for_tree || !probe.for_tree) && (for_mounts || !probe.for_mounts)
    });
    let btf = skeleton(&btf)?;
    drop(raw);
    unlimit_memory();
    let ring_size = ring_bytes(options.ring_size);
    // All of it is allocated at once.
    let tracked = if config.follow != 0 { 65536 } else { 1 };
    let mut bpf = loader()
        .btf(Some(&btf))
        .override_global("CONFIG", config.as_bytes(), true)
        .map_max_entries("EVENTS", ring_size)
        .map_max_entries("LIVES", ring_bytes(ring_size / 4))
        .map_max_entries("TRACKED", tracked)
        .map_max_entries("COUNTS", cpus as u32)
        .map_max_entries("LOST_DEATHS", if for_tree { INUMS } else { 1 })
        .load(&object)?;
    let outcomes = attach(&mut bpf, &btf, plan)?;
    Ok(Kernel {
        bpf,
        attached: clock::monotonic_ns(),
        cpus,
        outcomes,
        has_twins,
        numbers: None,
    })
}

/// What the loader asks BTF about.
pub(super) fn parse_btf<'a>(raw: &'a [u8], names: &'a [String]) -> Result<Btf<'a>, KernelError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let structs: Vec<&str> = FIELDS.iter().map(|row| row.strukt).collect();
    Ok(Btf::parse(raw, &structs, &names)?)
}

/// The same for aya.
pub(super) fn skeleton(btf: &Btf) -> Result<AyaBtf, KernelError> {
    let known = btf.skeleton();
    let mut skeleton = AyaBtf::parse(&known.bytes, aya::Endianness::default())
        .map_err(|error| KernelError::AyaBtf(error::chain(&error)))?;
    let mut last = known.len;
    for (id, name) in known.functions {
        for _ in last + 1..id {
            skeleton.add_type(BtfType::Unknown);
        }
        let name = skeleton.add_string(name);
        skeleton.add_type(BtfType::Func(Func::new(name, 0, FuncLinkage::Static)));
        last = id;
    }
    Ok(skeleton)
}

/// How many CPUs there can be.
pub(super) fn cpus() -> Result<usize, KernelError> {
    nr_cpus().map_err(|(path, error)| KernelError::Cpus(path, error))
}

/// Both can be off while everything attaches without an error.
pub(super) fn check_switches(attach: Attach) -> Result<(), KernelError> {
    let is_off = |path: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == "0");
    if is_off("/proc/sys/kernel/ftrace_enabled") {
        return Err(KernelError::Off {
            what: "ftrace is switched off",
            setting: "kernel.ftrace_enabled",
            remedy: "sysctl kernel.ftrace_enabled=1",
        });
    }
    if attach == Attach::Kprobe && is_off("/sys/kernel/debug/kprobes/enabled") {
        return Err(KernelError::Off {
            what: "kprobes are switched off",
            setting: "/sys/kernel/debug/kprobes/enabled",
            remedy: "write 1 to it, or use --attach fentry",
        });
    }
    Ok(())
}

/// Two descriptors for each probe, and the maps: more than some shells allow. One for each mount
/// that is asked about: more than most may, but root may allow it.
pub fn raise_open_files() {
    let most = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    let hard = open_files().rlim_max;
    for most in [most.trim().parse().unwrap_or(hard).max(hard), hard] {
        // SAFETY: a valid pointer. Where it is not allowed, attaching says so.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &rlimit(most)) } == 0 {
            break;
        }
    }
}

/// The error of who may open no more files.
pub(super) fn too_few_files() -> KernelError {
    KernelError::TooFewFiles(open_files().rlim_cur)
}

fn open_files() -> libc::rlimit {
    let mut limit = rlimit(0);
    // SAFETY: a valid pointer.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit
}

/// Whether tasks can be preempted in the kernel (v6.12 kernel/sched/debug.c,
/// sched_dynamic_show). Where that cannot be read they can, if the kernel was built so.
pub(super) fn preemptible() -> bool {
    match fs::read_to_string("/sys/kernel/debug/sched/preempt") {
        Ok(models) => ["(full)", "(lazy)"]
            .iter()
            .any(|model| models.contains(model)),
        Err(_) => fs::read_to_string("/proc/sys/kernel/version")
            .is_ok_and(|version| version.contains("PREEMPT")),
    }
}

pub(super) fn read_btf() -> Result<Vec<u8>, KernelError> {
    fs::read(VMLINUX).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) if !Path::new("/sys/kernel").exists() => KernelError::NoSys,
        Some(libc::EMFILE) => too_few_files(),
        _ => KernelError::NoBtf {
            path: Path::new(VMLINUX).to_owned(),
            error,
        },
    })
}

/// A loader. To make one, aya reads the kernel's BTF as a whole (v0.14 src/bpf.rs,
/// EbpfLoader::new), which is a tenth of the start; it goes on without if it can open no
/// file just then.
pub(super) fn loader<'a>() -> EbpfLoader<'a> {
    let limit = open_files();
    // SAFETY: valid pointers. There is no other thread yet that could open something.
    unsafe {
        let none = libc::rlimit {
            rlim_cur: 0,
            ..limit
        };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none);
        let loader = EbpfLoader::new();
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        loader
    }
}

fn rlimit(value: libc::rlim_t) -> libc::rlimit {
    libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    }
}

/// What is written into the programs.
pub(super) fn values(btf: &Btf, cpus: usize) -> Result<Values, Missing> {
    let mut values = [0; VALUES];
    values[..FIELDS_LEN].copy_from_slice(&offsets(btf)?);
    values[Fact::TaskPtRegs as usize] = u32::from(btf.has_function(HELPERS[1]));
    if let Some((cast, task)) = btf
        .function_id(HELPERS[2])
        .zip(btf.struct_id("task_struct"))
    {
        values[Fact::Cast as usize] = cast;
        values[Fact::TaskStruct as usize] = task;
    }
    values[Fact::Cpus as usize] = cpus as u32;
    match btf.function_id(PER_CPU) {
        Some(id) => values[Fact::ThisCpuOff as usize] = id,
        None => {
            // Where the kernel does not say it, mounts do not say how many writers they have.
            let table = address("__per_cpu_offset").ok().flatten().unwrap_or(0);
            values[Fact::PerCpuLow as usize] = table as u32;
            values[Fact::PerCpuHigh as usize] = (table >> 32) as u32;
        }
    }
    // v5.10 arch/x86/include/asm/page_64_types.h: THREAD_SIZE without KASAN.
    values[Fact::StackSize as usize] = 16384;
    Ok(values)
}

/// The kernel side with the values in place.
pub(super) fn object(object: &[u8], values: &Values) -> Result<Vec<u8>, KernelError> {
    let mut bytes = object.to_vec();
    for range in code(object) {
        patch::apply(&mut bytes[range], values).map_err(|index| {
            let row = &FIELDS[index];
            KernelError::FarField(row.strukt, row.paths[0])
        })?;
    }
    Ok(bytes)
}

/// Where in an object file the instructions are.
fn code(object: &[u8]) -> Vec<Range<usize>> {
    // The object is our own, of the same build; what is none has no programs either.
    let Ok(file) = ElfFile64::<Endianness>::parse(object) else {
        return Vec::new();
    };
    file.sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .filter_map(|section| section.file_range())
        .map(|(at, len)| at as usize..(at + len) as usize)
        .collect()
}

/// The settings, with what this kernel offers.
fn configured(mut config: Config, btf: &Btf) -> Config {
    // v7.1 brought empty mount namespaces with create_new_namespace; before, the bit
    // of unshare meant nothing.
    if btf.has_function("create_new_namespace") {
        config.clone_mask |= flags::CLONE_EMPTY_MNTNS;
        config.unshare_mask |= flags::UNSHARE_EMPTY_MNTNS;
    }
    config
}

/// A power of two of whole pages, as a ring buffer must be.
pub(super) fn ring_bytes(wanted: u32) -> u32 {
    wanted.clamp(4096, 1 << 30).next_power_of_two()
}

/// Up to v5.10 maps are charged against the limit of locked memory.
pub(super) fn unlimit_memory() {
    let limit = rlimit(libc::RLIM_INFINITY);
    // SAFETY: a valid pointer. Where it is not allowed, making the maps says so.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

pub(super) fn attach(
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
        let probe = planned.probe;
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
    let probe = planned.probe;
    // The one that was attached last runs first (v6.12 kernel/bpf/trampoline.c,
    // __bpf_trampoline_link_prog adds it at the head).
    let attached = match first == Way::Fentry && planned.with_twin {
        true => attach_as(bpf, btf, planned, first, &twin_name(probe)),
        false => Ok(()),
    };
    let attached =
        attached.and_then(|()| attach_as(bpf, btf, planned, first, &program_name(probe, first)));
    let refusal = match attached {
        Ok(()) => return Ok(Outcome::Attached(first, None)),
        Err(error) => error,
    };
    // Not this program: any program.
    match errno(&refusal) {
        Some(libc::EPERM) => return Err(refused()),
        Some(libc::EMFILE) => return Err(too_few_files()),
        _ => {}
    }
    let why = error::program(&refusal);
    match second.map(|way| {
        let name = program_name(probe, way);
        (way, attach_as(bpf, btf, planned, way, &name))
    }) {
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
    name: &str,
) -> Result<(), ProgramError> {
    let probe = planned.probe;
    let function = full(probe.function);
    // The table and the object are of one build: a program is not missing.
    let program: &mut Program = bpf
        .program_mut(name)
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
