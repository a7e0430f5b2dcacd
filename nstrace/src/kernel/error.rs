//! What can keep nstrace from working here, each in one line that says what to do.

use std::{fs, io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use crate::{
    btf::{BtfError, Missing},
    decode::DecodeError,
};

/// Why the kernel side could not be set up or read.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Without the right to load programs.
    #[error(
        "not permitted to load BPF programs: run it as root (sudo nstrace), or with CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE"
    )]
    NotRoot,
    /// With the right, but something refuses.
    #[error("the kernel refuses BPF tracing programs although this process may load them: {0}")]
    Refused(String),
    /// Probes can be attached, and are not called.
    #[error("{what} ({setting} is 0), so no probe would be called: {remedy}")]
    Off {
        /// What is switched off.
        what: &'static str,
        /// By which setting.
        setting: &'static str,
        /// How to switch it on.
        remedy: &'static str,
    },
    /// No descriptor is left.
    #[error(
        "only {0} files may be open, and more are needed (two for each probe): raise the limit, for instance with ulimit -n 256"
    )]
    TooFewFiles(u64),
    /// No description of the kernel's types.
    #[error(
        "this kernel does not describe its types ({path}: {error}): it needs one built with CONFIG_DEBUG_INFO_BTF=y, 5.10 or newer"
    )]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it could not be read.
        error: io::Error,
    },
    /// Nothing of sysfs.
    #[error("/sys is not mounted, where the kernel describes its types: mount -t sysfs sysfs /sys")]
    NoSys,
    /// A description that cannot be read.
    #[error("/sys/kernel/btf/vmlinux cannot be understood: {0}")]
    BadBtf(#[from] BtfError),
    /// aya's reader did not understand it.
    #[error("/sys/kernel/btf/vmlinux cannot be understood: {0}")]
    AyaBtf(String),
    /// A struct without a member that is needed.
    #[error(
        "{0}: nstrace does not know this kernel (supported: 5.10 and newer); `nstrace doctor` lists what it lacks"
    )]
    MissingField(#[from] Missing),
    /// A member at an offset that no instruction can hold.
    #[error(
        "{0}.{1} is too far from the beginning of its struct: nstrace does not know this kernel (supported: 5.10 and newer)"
    )]
    FarField(&'static str, &'static str),
    /// A function that is needed cannot be attached to.
    #[error(
        "{function} cannot be attached to ({why}), and nothing works without it: `nstrace doctor` lists what this kernel lacks"
    )]
    RequiredProbe {
        /// The kernel function.
        function: String,
        /// Why not.
        why: String,
    },
    /// A map, most often a ring, could not be made.
    #[error(
        "the kernel side could not be set up: {0}: if memory is short, give a smaller --ring-size"
    )]
    Setup(String),
    /// A program that is attached nowhere was not taken.
    #[error(
        "the program {0} could not be loaded: {1}: `nstrace doctor` lists what this kernel lacks"
    )]
    Program(&'static str, String),
    /// A map could not be read.
    #[error("a map of the kernel side could not be used: {0}")]
    Map(#[from] MapError),
    /// The two sides are not of one build, or one of them has a fault.
    #[error("the kernel side sent what cannot be understood: {0}: this is a fault in nstrace")]
    Decode(#[from] DecodeError),
    /// A map cannot be mapped.
    #[error("a map of the kernel side could not be mapped: {0}")]
    Share(io::Error),
    /// It is not known how many CPUs there are.
    #[error("{0} cannot be read: {1}: is /sys mounted?")]
    Cpus(&'static str, io::Error),
    /// Waiting for records failed.
    #[error("waiting for records failed: {0}")]
    Wait(io::Error),
}

impl From<EbpfError> for KernelError {
    fn from(error: EbpfError) -> Self {
        match errno(&error) {
            Some(libc::EPERM) => refused(),
            _ => KernelError::Setup(chain(&error)),
        }
    }
}

/// The error of a program that was refused with EPERM: by whom?
pub fn refused() -> KernelError {
    if !can_load() {
        return KernelError::NotRoot;
    }
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    let by = match () {
        () if !in_first("user", FIRST_USER_NS) => {
            "it is in a user namespace of its own, and they take rights in the first one".into()
        }
        () if lockdown.contains("[confidentiality]") => {
            "kernel lockdown is in confidentiality mode (see /sys/kernel/security/lockdown)".into()
        }
        () if lockdown.contains("[integrity]") => {
            "kernel lockdown is in integrity mode (see /sys/kernel/security/lockdown)".into()
        }
        () => "BPF_PROG_LOAD gives EPERM, as a security module, a container's seccomp profile or \
               a policy of this machine makes it; `cargo xtask vm` runs nstrace in a guest"
            .to_owned(),
    };
    KernelError::Refused(by)
}

/// `PROC_USER_INIT_INO` of include/linux/proc_ns.h.
const FIRST_USER_NS: u64 = 0xEFFF_FFFD;

/// `PROC_PID_INIT_INO` of the same.
const FIRST_PID_NS: u64 = 0xEFFF_FFFC;

fn in_first(kind: &str, inum: u64) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let own = fs::metadata(format!("/proc/self/ns/{kind}"));
    own.is_ok_and(|own| own.ino() == inum)
}

/// Whether the process ids that this process knows are those that the kernel side sees.
pub fn in_first_pid_namespace() -> bool {
    in_first("pid", FIRST_PID_NS)
}

/// Whether /proc is that of the first pid namespace, and can be asked.
pub fn shows_all() -> bool {
    let init = fs::read_link("/proc/1/ns/pid");
    init.is_ok_and(|link| link.as_os_str() == format!("pid:[{FIRST_PID_NS}]").as_str())
}

/// Whether this process has the capabilities for tracing programs: CAP_SYS_ADMIN, or
/// CAP_BPF and CAP_PERFMON (include/uapi/linux/capability.h).
pub fn can_load() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON_AND_BPF: u64 = 1 << 38 | 1 << 39;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    effective & SYS_ADMIN != 0 || effective & PERFMON_AND_BPF == PERFMON_AND_BPF
}

/// The errno at the root of an error.
pub fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// An error and what caused it, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = first_line(error);
    let mut next = error.source();
    while let Some(error) = next {
        let line = first_line(error);
        if !text.ends_with(&line) {
            text = format!("{text}: {line}");
        }
        next = error.source();
    }
    text
}

fn first_line(error: &dyn std::error::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// What the kernel said of a program that it did not take, in one line.
pub fn program(error: &ProgramError) -> String {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    {
        let log = verifier_log.to_string();
        if std::env::var_os("NSTRACE_VERIFIER_LOG").is_some() {
            eprintln!("{log}");
        }
        let said = log
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with("processed"));
        return match said {
            Some(said) => format!("{io_error}: {said}"),
            None => io_error.to_string(),
        };
    }
    chain(error)
}
