//! Builds the kernel side, and says what to install if that cannot be done.
//!
//! It takes a compiler that has the library source for the BPF target, which is not
//! a matter of course: the first of these that is there is taken.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use aya_build::{Package, Toolchain};
use object::{
    LittleEndian,
    elf::{FileHeader64, SectionHeader64},
    pod::bytes_of,
    read::elf::{FileHeader as _, SectionHeader as _},
};

/// Toolchains to look at, by their names to rustup. The last is Debian's compiler,
/// linked under this name (`cargo xtask setup` does it).
const TOOLCHAINS: [&str; 3] = ["nightly", "stable", "nstrace-bpf"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=NSTRACE_BPF_TOOLCHAIN");
    println!("cargo:rerun-if-changed=../nstrace-common/src");
    println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    if env::var_os("AYA_BUILD_SKIP").is_some() {
        // For what uses the library alone (fuzz/): it cannot load anything.
        for object in OBJECTS {
            fs::write(out.join(object), [])?;
        }
        return Ok(());
    }
    if !on_path("bpf-linker") {
        bail!(
            "bpf-linker is not on PATH, and the kernel side cannot be linked without it: \
             run `cargo xtask setup`, or `cargo install bpf-linker`"
        );
    }
    let Some(toolchain) = toolchain() else {
        bail!(
            "no Rust toolchain here has the library source that the BPF target is built from: \
             run `cargo xtask setup`, or `rustup toolchain install nightly --component rust-src`"
        );
    };
    // SAFETY: no other thread runs yet. The first lets a stable compiler build core;
    // the second keeps what is being compiled out of the warnings.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    let debug = env::var_os("CARGO_FEATURE_DEBUG").map(|_| "debug");
    aya_build::build_ebpf(
        [Package {
            name: "nstrace-ebpf",
            root_dir: "../nstrace-ebpf",
            no_default_features: false,
            features: debug.as_slice(),
        }],
        Toolchain::Custom(&toolchain),
    )?;
    match debug {
        Some(_) => Ok(()),
        None => OBJECTS
            .iter()
            .try_for_each(|object| strip(&out.join(object))),
    }
}

/// The objects of the kernel side, in the directory that cargo gives.
const OBJECTS: [&str; 5] = [
    "nstrace-ebpf",
    "nstrace-ebpf-v5_10",
    "nstrace-ebpf-mount-ops",
    "nstrace-ebpf-mount-ops-v5_10",
    "nstrace-ebpf-writers",
];

/// Takes out what describes the source: the kernel would check each line of it at each
/// start, and it is nineteen parts of twenty. The sections that are left keep their
/// numbers, which symbols and relocations refer to.
fn strip(path: &Path) -> Result<()> {
    let old = fs::read(path)?;
    let old = old.as_slice();
    let mut header = *FileHeader64::<LittleEndian>::parse(old)?;
    let sections = header.sections(LittleEndian, old)?;
    let mut new = vec![0; size_of_val(&header)];
    let mut headers = Vec::new();
    for section in sections.iter() {
        let name = String::from_utf8_lossy(sections.section_name(LittleEndian, section)?);
        let of = name.strip_prefix(".rel").unwrap_or(&name);
        if of.starts_with(".debug_") || of == ".BTF" || of == ".BTF.ext" {
            // No section, as the one with the number 0.
            headers.extend([0; size_of::<SectionHeader64<LittleEndian>>()]);
            continue;
        }
        align(&mut new);
        let mut moved = *section;
        moved.sh_offset.set(LittleEndian, new.len() as u64);
        headers.extend_from_slice(bytes_of(&moved));
        new.extend_from_slice(section.data(LittleEndian, old)?);
    }
    align(&mut new);
    header.e_shoff.set(LittleEndian, new.len() as u64);
    new[..size_of_val(&header)].copy_from_slice(bytes_of(&header));
    new.extend(headers);
    Ok(fs::write(path, new)?)
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// The first toolchain that has the library source.
fn toolchain() -> Option<String> {
    if let Ok(name) = env::var("NSTRACE_BPF_TOOLCHAIN") {
        return Some(name);
    }
    TOOLCHAINS
        .into_iter()
        .find(|name| {
            let sysroot = sysroot(name);
            sysroot.is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").exists())
        })
        .map(str::to_owned)
}

fn sysroot(toolchain: &str) -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| Path::new(path.trim()).to_owned())
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
