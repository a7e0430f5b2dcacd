//! A demonstration: nstrace traces the start of a real container, in a guest.

use std::io;
use std::time::Duration;

use anyhow::Result;

use crate::qemu::Machine;
use crate::vm::{self, Guest, Outcome};
use crate::{build, kernel, setup};

const SERIES: &str = "6.12";
const SCRIPT: &str = include_str!("guest-demo.sh");
const TIMEOUT: Duration = Duration::from_secs(180);

/// Builds nstrace, boots a guest and runs the demonstration in it.
pub fn run() -> Result<Outcome> {
    setup::all()?;
    eprintln!("xtask: building nstrace");
    build::build(&[build::NSTRACE], true)?;
    let kernel = kernel::get(SERIES)?;
    eprintln!("xtask: booting Linux {}", kernel.version());
    let guest = Guest {
        kernel,
        machine: Machine::default(),
        timeout: TIMEOUT,
        adds: Vec::new(),
        modules: Vec::new(),
        command: Some(SCRIPT.to_owned()),
    };
    vm::run(&guest, &mut io::stdout(), &mut io::stderr())
}
