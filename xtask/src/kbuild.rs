//! Builds the kernel modules of the tests, out of the kernel's tree, with this machine's gcc.
//!
//! A built module is kept beside a copy of its source: it is built again when the source
//! differs. Neither BTF of the module nor debug information is made: that would need pahole,
//! of a version that the kernel's configuration knows, and nstrace must not need it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::archive::Found;
use crate::kernel::Kernel;
use crate::seeds::{self, Seed};
use crate::tree::{self, File};
use crate::{cache, headers, modules, process, project, sources, vm};

/// A module of the tests.
pub struct Module {
    /// What the tests call it, and its file in a guest.
    pub name: &'static str,
    origin: Origin,
}

/// Where a module comes from.
enum Origin {
    /// Its source is in this directory of xtask/modules.
    Ours(&'static str),
    /// It is the distribution's overlayfs with a mistake.
    Overlay(Seed),
    /// It is the distribution's, as it is.
    Distribution,
}

/// The modules of the tests.
pub const MODULES: &[Module] = &[
    Module {
        name: "nstrace_writers",
        origin: Origin::Ours("writers"),
    },
    Module {
        name: "overlay_copy_up_drop",
        origin: Origin::Overlay(seeds::COPY_UP_DROP),
    },
    Module {
        name: "overlay_xattr_leak",
        origin: Origin::Overlay(seeds::XATTR_LEAK),
    },
    Module {
        name: "overlay",
        origin: Origin::Distribution,
    },
];

/// The module of that name, if it is one that we build.
pub fn own(name: &str) -> Option<&'static Module> {
    let is_own = |module: &&Module| !matches!(module.origin, Origin::Distribution);
    MODULES.iter().filter(is_own).find(|own| own.name == name)
}

/// Where the modules of the tests are in a guest: `NAME.ko`, or why there is none: in
/// `NAME.absent` if this kernel can have none, in `NAME.failed` if it should.
const GUEST_DIR: &str = "/usr/lib/nstrace/modules";

/// What a guest is to be given for its tests, of the modules that they name: (here, there).
/// A kernel that `must` have them fails the tests that need them, not all.
pub fn for_tests(
    kernel: &Kernel,
    names: &[impl AsRef<str>],
    must: bool,
) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for name in names.iter().map(AsRef::as_ref) {
        let module = MODULES.iter().find(|module| module.name == name);
        let module = module.with_context(|| format!("module {name}: is none of the tests'"))?;
        let (suffix, why) = match build(kernel, module) {
            Ok(Found::At(file)) => {
                files.push((file, format!("{GUEST_DIR}/{name}.ko")));
                continue;
            }
            Ok(Found::Absent(why)) => {
                let suffix = if must { "failed" } else { "absent" };
                (suffix, format!("module {name}: {why}"))
            }
            Err(error) => ("failed", format!("{error:#}")),
        };
        let file = keep(kernel, format!("{name}.{suffix}"), why.as_bytes())?;
        files.push((file, format!("{GUEST_DIR}/{name}.{suffix}")));
    }
    Ok(files)
}

/// The names of all modules.
pub fn names() -> Vec<&'static str> {
    MODULES.iter().map(|module| module.name).collect()
}

/// Writes a file of a kernel's, unless it is there already: another guest may be reading it.
fn keep(kernel: &Kernel, name: String, contents: &[u8]) -> Result<PathBuf> {
    let _lock = cache::lock("modules")?;
    let file = target(kernel).join(name);
    if !fs::read(&file).is_ok_and(|there| there == contents) {
        tree::put(&file, contents)?;
    }
    Ok(file)
}

/// A module that we build, for a guest that is to insert it as it starts: (here, there).
pub fn inserted(kernel: &Kernel, module: &Module) -> Result<(PathBuf, String)> {
    let name = module.name;
    match build(kernel, module)? {
        // After those of the distribution, whose names begin with a number.
        Found::At(file) => Ok((file, format!("{}/own-{name}.ko", vm::MODULES_DIR))),
        Found::Absent(why) => bail!("module {name}: {why}"),
    }
}

/// Where what is built for a kernel is.
fn target(kernel: &Kernel) -> PathBuf {
    project::target_dir().join("modules").join(kernel.name())
}

/// Kbuild's words for what this gcc may not know of the gcc that built the kernel, and for what
/// we do without.
const SETTINGS: &[&str] = &[
    "CC=gcc",
    // gcc 14's -fmin-function-alignment; without it -falign-functions is taken.
    "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=",
    "CONFIG_DEBUG_INFO=",
    "CONFIG_DEBUG_INFO_BTF_MODULES=",
];

/// A module for a kernel, built unless it is here: its file.
pub fn build(kernel: &Kernel, module: &Module) -> Result<Found> {
    let name = module.name;
    match &module.origin {
        Origin::Distribution => unpacked(kernel, name).map(Found::At),
        Origin::Ours(dir) => {
            let source = tree::read(&project::root().join("xtask/modules").join(dir))?;
            made(kernel, name, &source, Path::new(&format!("{name}.ko")))
        }
        Origin::Overlay(seed) => {
            let dir = match sources::get(kernel)? {
                Found::At(dir) => dir,
                absent => return Ok(absent),
            };
            let mut source = tree::read(&dir)?;
            seed.plant(&mut source)
                .with_context(|| format!("the source of Linux {}", kernel.version()))?;
            made(kernel, name, &source, Path::new("fs/overlayfs/overlay.ko"))
        }
    }
}

/// The module `file` of a source, made unless it is here.
fn made(kernel: &Kernel, name: &str, source: &[File], file: &Path) -> Result<Found> {
    let headers = match headers::get(kernel)? {
        Found::At(dir) => dir,
        absent => return Ok(absent),
    };
    let dir = target(kernel).join(name);
    let file = dir.join(file);
    let _lock = cache::lock("modules")?;
    if !file.exists() || !tree::is_in(source, &dir) {
        tree::write(source, &dir)?;
        make(&headers, file.parent().unwrap_or(&dir)).with_context(|| {
            let version = kernel.version();
            format!("module {name}: cannot be built for Linux {version}")
        })?;
    }
    Ok(Found::At(file))
}

/// The distribution's own module, uncompressed.
fn unpacked(kernel: &Kernel, name: &str) -> Result<PathBuf> {
    let mut found = modules::collect(&kernel.modules(), &[name.to_owned()], false)?;
    let Some(module) = found.pop().filter(|_| found.is_empty()) else {
        bail!("module {name}: needs other modules, which the tests would have to insert");
    };
    keep(kernel, format!("{name}.ko"), &module.contents)
}

fn make(headers: &Path, dir: &Path) -> Result<()> {
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", dir.display()))
        .args(SETTINGS)
        .arg("modules")
        // Of a make that may have started us.
        .env_remove("MAKEFLAGS");
    let output = process::try_output(&mut command)?;
    if output.status.success() {
        return Ok(());
    }
    // The compiler's words; what make says of them is at the end and says nothing.
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_error = |line: &&str| line.to_ascii_lowercase().contains("error:");
    match stderr.lines().find(is_error) {
        Some(line) => bail!("{}", line.trim()),
        None => bail!(
            "{}: {}",
            process::describe(&command),
            process::complaint(&output)
        ),
    }
}
