//! The toolchain for the kernel side: a compiler with the library's source, and
//! bpf-linker with an LLVM at least as new as the compiler's.
//!
//! The candidates and their order are those of nstrace/build.rs: a nightly with
//! rust-src, a stable with rust-src, or Debian's compiler under a name of our
//! own, for machines where rustup can fetch nothing. Debian's goes to /usr/bin;
//! it is linked into rustup and never put in front of anybody's own.
//!
//! We look at files and do not ask rustup, because this runs at each command.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{packages, process};

/// The rustup name of Debian's compiler.
const DEBIAN_TOOLCHAIN: &str = "nstrace-bpf";

const BPF_LINKER_VERSION: &str = "0.13.0";

/// Installs what is missing for the kernel side.
pub fn setup() -> Result<()> {
    let llvm = match find()
        .map(|toolchain| Version::of(&toolchain))
        .transpose()?
    {
        Some(version) if version.is_new_enough() => version.llvm,
        found => install_debians(found.as_ref())?.llvm,
    };
    match bpf_linker() {
        Some(linker) if linker_llvm(&linker)?.is_none_or(|has| has >= llvm) => Ok(()),
        _ => install_linker(llvm),
    }
}

/// The directory of the first usable toolchain.
fn find() -> Option<PathBuf> {
    let dir = home("RUSTUP_HOME", ".rustup")?.join("toolchains");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    all.sort();
    let with_source = |path: &&PathBuf| {
        path.join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .exists()
    };
    ["nightly", "stable", DEBIAN_TOOLCHAIN]
        .iter()
        .find_map(|kind| {
            let is_kind = |path: &&PathBuf| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(kind))
            };
            all.iter().filter(is_kind).find(with_source).cloned()
        })
}

fn install_debians(found: Option<&Version>) -> Result<Version> {
    let why = match found {
        None => "no toolchain here has the library's source, which the BPF target needs".to_owned(),
        Some(old) => format!(
            "the toolchain here that has the library's source is {}, and {} is needed",
            old.release,
            needed_release()
        ),
    };
    packages::install(&["rustc-web", "rust-web-src"], &why)?;
    process::run(Command::new("rustup").args(["toolchain", "link", DEBIAN_TOOLCHAIN, "/usr"]))?;
    let toolchain = find().with_context(|| {
        format!(
            "toolchain {DEBIAN_TOOLCHAIN}: still no library source in /usr/lib/rustlib/src; or \
             install one yourself: rustup component add rust-src"
        )
    })?;
    let version = Version::of(&toolchain)?;
    if !version.is_new_enough() {
        bail!(
            "{}: Rust {}, and the kernel side needs {}: rustup update, or remove it",
            toolchain.display(),
            version.release,
            needed_release()
        );
    }
    Ok(version)
}

/// What a compiler says of itself.
struct Version {
    /// Such as `1.96.0`.
    release: String,
    /// The major version of its LLVM.
    llvm: u32,
}

impl Version {
    fn of(toolchain: &Path) -> Result<Version> {
        let rustc = toolchain.join("bin/rustc");
        let text = process::text(Command::new(&rustc).arg("-vV"))?;
        Version::parse(&text).with_context(|| format!("{} -vV: names no version", rustc.display()))
    }

    fn parse(text: &str) -> Option<Version> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Version {
            release: value("release: ")?.to_owned(),
            llvm: major(value("LLVM version: ")?)?,
        })
    }

    fn is_new_enough(&self) -> bool {
        let number = |text: &str| {
            let mut parts = text.split(['.', '-']).map(|part| part.parse::<u32>());
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        };
        number(&self.release) >= number(needed_release())
    }
}

/// `rust-version` of the workspace.
fn needed_release() -> &'static str {
    env!("CARGO_PKG_RUST_VERSION")
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

fn bpf_linker() -> Option<PathBuf> {
    let in_cargo = cargo_bin()
        .map(|bin| bin.join("bpf-linker"))
        .filter(|path| path.exists());
    process::find("bpf-linker").or(in_cargo)
}

/// The LLVM that a bpf-linker is linked with; None if it has it inside, and
/// then it is for whoever installed it to know.
fn linker_llvm(linker: &Path) -> Result<Option<u32>> {
    let text = process::text(process::command("ldd").arg(linker))?;
    let library = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("libLLVM"));
    // libLLVM.so.22.1, or libLLVM-15.so.1 of old.
    let version = library.map(|rest| rest.trim_start_matches(".so.").trim_start_matches('-'));
    Ok(version.and_then(major))
}

fn install_linker(llvm: u32) -> Result<()> {
    let (dev, polly) = (format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"));
    if !Path::new(&format!("/usr/lib/llvm-{llvm}/bin/llvm-config")).exists() {
        packages::install(
            &[&dev, &polly, "zlib1g-dev", "libzstd-dev", "libxml2-dev"],
            &format!("bpf-linker must be linked with LLVM {llvm}, the compiler's"),
        )?;
    }
    eprintln!("xtask: installing bpf-linker {BPF_LINKER_VERSION} with LLVM {llvm} (a minute)");
    process::run(
        Command::new("cargo")
            .args(["install", "--quiet", "--locked", "--force", "bpf-linker"])
            .args(["--version", BPF_LINKER_VERSION, "--no-default-features"])
            .args(["--features", &format!("llvm-{llvm}")])
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}")),
    )?;
    if bpf_linker().is_none() {
        bail!("bpf-linker: installed, but neither on PATH nor in cargo's bin directory");
    }
    Ok(())
}

/// PATH with cargo's bin directory at its end, where bpf-linker may be.
pub fn path() -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(cargo_bin());
    env::join_paths(dirs).unwrap_or(path)
}

fn cargo_bin() -> Option<PathBuf> {
    Some(home("CARGO_HOME", ".cargo")?.join("bin"))
}

fn home(variable: &str, fallback: &str) -> Option<PathBuf> {
    let set = env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from);
    set.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(fallback)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_is_the_first_number() {
        assert_eq!(major("22.1.2"), Some(22));
        assert_eq!(major("so"), None);
    }

    #[test]
    fn an_old_compiler_is_not_enough() {
        let version = |release: &str| {
            Version::parse(&format!("release: {release}\nLLVM version: 22.1.2\n")).unwrap()
        };
        assert!(version(needed_release()).is_new_enough());
        assert!(version("1.96.0").is_new_enough());
        assert!(version("2.0.0-nightly").is_new_enough());
        assert!(!version("1.85.0").is_new_enough());
    }
}
