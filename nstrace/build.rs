//! Builds the kernel side, and says what to install if that cannot be done.
//!
//! It takes a compiler that has the library source for the BPF target, which is not
//! a matter of course: the first of these that is there is taken.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use aya_build::{Package, Toolchain};

/// Toolchains to look at, by their names to rustup. The last is Debian's compiler,
/// linked under this name (`cargo xtask setup` does it).
const TOOLCHAINS: [&str; 3] = ["nightly", "stable", "nstrace-bpf"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=NSTRACE_BPF_TOOLCHAIN");
    println!("cargo:rerun-if-changed=../nstrace-common/src");
    println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
    if env::var_os("AYA_BUILD_SKIP").is_some() {
        // For what uses the library alone (fuzz/): it cannot load anything.
        let out = env::var_os("OUT_DIR").unwrap_or_default();
        std::fs::write(Path::new(&out).join("nstrace-ebpf"), [])?;
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
    )
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
