//! The QEMU command line, and a QEMU that cannot outlive us.
//!
//! Software emulation only (`-accel tcg`): KVM is missing on most CI machines,
//! and results must not depend on it. The kernel is the ELF file, booted by PVH:
//! no decompression in the guest, half the time of a bzImage.
//!
//! QEMU gets no path of ours: the initramfs is a memory file, the streams are
//! pipes, all handed over as descriptors. So there is nothing to clean up,
//! however we end.

use std::fs::File;
use std::io::{PipeWriter, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::process::Signal;

use crate::kernel::Kernel;
use crate::process;

/// What every guest's kernel is told. A panic or an oops ends the machine at
/// once (with -no-reboot), instead of leaving half of one until the time-out.
const APPEND: &str = "console=ttyS0 quiet panic=-1 oops=panic";

/// What makes instruction counts repeatable: no random addresses.
const APPEND_ICOUNT: &str = "nokaslr norandmaps randomize_kstack_offset=off";

/// The machine's size and clock.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Memory, in MB.
    pub memory_mb: u32,
    /// Processors; one if `icount_seed` is set.
    pub cpus: u32,
    /// Count instructions instead of time, with this seed.
    pub icount_seed: Option<u64>,
}

impl Default for Machine {
    /// What tests and the demonstration run on.
    fn default() -> Self {
        Machine {
            memory_mb: 1024,
            cpus: 2,
            icount_seed: None,
        }
    }
}

/// The descriptors that connect a guest to us.
pub struct Wires {
    /// The archive of the guest's root.
    pub initramfs: File,
    /// Where the guest's three virtio ports lead, in order.
    pub ports: [PipeWriter; 3],
    /// The other end of an interactive terminal.
    pub terminal: Option<OwnedFd>,
    /// Where QEMU's own complaints go.
    pub complaints: File,
}

/// A file in memory, that disappears with its last user.
pub fn memory_file(name: &str) -> Result<File> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
        .with_context(|| format!("cannot make a memory file for {name}"))?;
    Ok(File::from(fd))
}

/// Starts QEMU. It dies when the calling thread does.
pub fn start(
    machine: &Machine,
    kernel: &Kernel,
    console: &Path,
    mut wires: Wires,
) -> Result<Child> {
    wires.initramfs.flush()?;
    wires.initramfs.seek(SeekFrom::Start(0))?;
    let mut command = process::command("qemu-system-x86_64");
    machine_arguments(&mut command, machine, kernel);
    command.arg("-kernel").arg(kernel.vmlinux());
    command
        .arg("-initrd")
        .arg(fd_path(wires.initramfs.as_raw_fd()));
    command
        .arg("-chardev")
        .arg(format!("file,id=console,path={}", console.display()));
    command.args(["-serial", "chardev:console"]);
    port_arguments(&mut command, &wires);
    let mut inherited = vec![wires.initramfs.as_raw_fd()];
    inherited.extend(wires.ports.iter().map(AsRawFd::as_raw_fd));
    inherited.extend(wires.terminal.iter().map(AsRawFd::as_raw_fd));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(wires.complaints.try_clone()?);
    tie_to_us(&mut command, inherited);
    command
        .spawn()
        .with_context(|| format!("cannot start {}", process::describe(&command)))
}

fn machine_arguments(command: &mut Command, machine: &Machine, kernel: &Kernel) {
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    command.args(["-nic", "none", "-m", &machine.memory_mb.to_string()]);
    match machine.icount_seed {
        Some(seed) => command
            .args(["-accel", "tcg", "-cpu", icount_cpu(kernel), "-smp", "1"])
            .args(["-icount", "shift=0,sleep=off", "-seed", &seed.to_string()])
            .args(["-rtc", "clock=vm,base=2026-01-01"])
            .args(["-append", &format!("{APPEND} {APPEND_ICOUNT}")]),
        // One thread runs all processors in turn. With a thread for each, one now and then
        // runs code that another has changed already, and the guest dies of probes that
        // come and go ("Oops: int3", a call of 0): about one in ten tests in a storm.
        None => command
            .args(["-accel", "tcg,thread=single", "-cpu", "max"])
            .args(["-smp", &machine.cpus.to_string(), "-append", APPEND]),
    };
}

/// The processor for counting. Without ERMS, because `rep stosb` would count byte
/// by byte. Up to 6.1 (arch/x86/lib/memmove_64.S) FSRM without ERMS makes memmove
/// copy short pieces wrongly: 5.10 and 6.1 crash early in boot. From 6.2 memmove is
/// right, and FSRM stays as in all figures so far.
fn icount_cpu(kernel: &Kernel) -> &'static str {
    match kernel.is_before("6.2") {
        true => "max,-erms,-fsrm",
        false => "max,-erms",
    }
}

/// Without ioeventfd the port's write is done when the guest's instruction is,
/// not when another thread gets to it: counted runs stay identical.
fn port_arguments(command: &mut Command, wires: &Wires) {
    command.args(["-device", "virtio-serial-pci,ioeventfd=off"]);
    for (index, port) in wires.ports.iter().enumerate() {
        let path = fd_path(port.as_raw_fd());
        let number = index + 1;
        command
            .arg("-chardev")
            .arg(format!("file,id=port{number},path={path}"));
        command.arg("-device");
        command.arg(format!("virtserialport,nr={number},chardev=port{number}"));
    }
    if let Some(terminal) = &wires.terminal {
        command
            .arg("-chardev")
            .arg(format!("socket,id=terminal,fd={}", terminal.as_raw_fd()));
        command.args(["-serial", "chardev:terminal"]);
    }
}

fn fd_path(fd: RawFd) -> String {
    format!("/dev/fd/{fd}")
}

/// Hands the descriptors to the child and has the kernel kill it when we die,
/// in whatever way.
fn tie_to_us(command: &mut Command, inherited: Vec<RawFd>) {
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        for fd in &inherited {
            // SAFETY: the parent holds these descriptors open until spawn returns.
            let fd = unsafe { rustix::fd::BorrowedFd::borrow_raw(*fd) };
            rustix::io::fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two kinds of system calls
    // and touches neither the heap nor a lock.
    unsafe { command.pre_exec(prepare) };
}
