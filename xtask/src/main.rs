//! `cargo xtask`: everything that a developer or CI does with nstrace besides
//! editing it. It installs what is missing, builds, boots kernels and tests on
//! them.
//!
//! Exit codes: 0 done, 1 it failed, 2 the words were wrong, and with `vm --
//! COMMAND` the command's own, or 125 if there was no guest to run it in.

mod archive;
mod bench;
mod btf;
mod build;
mod cache;
mod cli;
mod cpio;
mod demo;
mod elf;
mod exports;
mod fuzz;
mod headers;
mod kbuild;
mod kernel;
mod modules;
mod packages;
mod process;
mod project;
mod qemu;
mod rootfs;
mod seeds;
mod setup;
mod sources;
mod streams;
mod tally;
mod terminal;
mod test;
mod toolchain;
mod tree;
mod vm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
