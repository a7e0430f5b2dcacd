//! What the kernel side says of itself, with the feature `debug`: each program that runs.

use aya::Ebpf;
use aya_log::EbpfLogger;

/// Prints to standard error.
pub struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        eprintln!("nstrace-ebpf: {}", record.args());
    }

    fn flush(&self) {}
}

/// The log of the kernel side; `flush` prints what is there.
pub fn logger(bpf: &mut Ebpf) -> Result<EbpfLogger<Stderr>, aya_log::Error> {
    EbpfLogger::init_with_logger(bpf, Stderr)
}
