//! Builds the kernel modules of the tests, out of the kernel's tree, with this machine's gcc.
//!
//! A built module is kept beside a copy of its source: it is built again when the source
//! differs. Neither BTF of the module nor debug information is made: that would need pahole,
//! of a version that the kernel's configuration knows, and nstrace must not need it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::headers::{self, Headers};
use crate::kernel::Kernel;
use crate::{cache, process, project, vm};

/// What a built module is.
pub enum Built {
    /// The module's file.
    At(PathBuf),
    /// Why this kernel can have none.
    Absent(String),
}

/// A module of the tests.
pub struct Source {
    /// What the tests call it, and its file in a guest.
    pub name: &'static str,
    /// Its directory in xtask/modules.
    dir: &'static str,
}

/// The modules of the tests.
pub const SOURCES: &[Source] = &[Source {
    name: "nstrace_writers",
    dir: "writers",
}];

/// The module of that name, if it is one of ours.
pub fn source(name: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.name == name)
}

/// Where the modules of the tests are in a guest, and, where there is none, why:
/// `NAME.ko` or `NAME.absent`.
const GUEST_DIR: &str = "/usr/lib/nstrace/modules";

/// What a guest is to be given for its tests: (here, there).
pub fn for_tests(kernel: &Kernel) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for source in SOURCES {
        let (file, suffix) = match build(kernel, source)? {
            Built::At(module) => (module, "ko"),
            Built::Absent(why) => (write_reason(kernel, source, &why)?, "absent"),
        };
        files.push((file, format!("{GUEST_DIR}/{}.{suffix}", source.name)));
    }
    Ok(files)
}

fn write_reason(kernel: &Kernel, source: &Source, why: &str) -> Result<PathBuf> {
    let dir = target(kernel);
    let file = dir.join(format!("{}.absent", source.name));
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&file, why))
        .with_context(|| format!("{}: cannot write", file.display()))?;
    Ok(file)
}

/// One of our modules for a guest that is to insert it as it starts: (here, there).
pub fn inserted(kernel: &Kernel, name: &str) -> Result<(PathBuf, String)> {
    let source = source(name).with_context(|| format!("module {name}: is none of the tests'"))?;
    match build(kernel, source)? {
        // After those of the distribution, whose names begin with a number.
        Built::At(module) => Ok((module, format!("{}/own-{name}.ko", vm::MODULES_DIR))),
        Built::Absent(why) => bail!("module {name}: {why}"),
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

/// A module for a kernel, built unless it is here.
pub fn build(kernel: &Kernel, source: &Source) -> Result<Built> {
    let headers = match headers::get(kernel)? {
        Headers::At(dir) => dir,
        Headers::Absent(why) => return Ok(Built::Absent(why)),
    };
    let _lock = cache::lock("modules")?;
    let from = project::root().join("xtask/modules").join(source.dir);
    let dir = target(kernel).join(source.name);
    let module = dir.join(format!("{}.ko", source.name));
    let wanted = read_tree(&from)?;
    if module.exists() && is_same(&wanted, &dir) {
        return Ok(Built::At(module));
    }
    write_tree(&wanted, &dir)?;
    make(&headers, &dir).with_context(|| {
        format!(
            "module {}: cannot be built for Linux {}",
            source.name,
            kernel.version()
        )
    })?;
    Ok(Built::At(module))
}

/// A file's path below a directory, and what is in it.
type File = (PathBuf, Vec<u8>);

fn read_tree(dir: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{}: cannot list", dir.display()))? {
        let path = entry?.path();
        let contents =
            fs::read(&path).with_context(|| format!("{}: cannot read", path.display()))?;
        let name = path.strip_prefix(dir).unwrap_or(&path).to_owned();
        files.push((name, contents));
    }
    Ok(files)
}

fn is_same(files: &[File], dir: &Path) -> bool {
    let is_same =
        |(name, contents): &File| fs::read(dir.join(name)).is_ok_and(|there| there == *contents);
    files.iter().all(is_same)
}

fn write_tree(files: &[File], dir: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).with_context(|| format!("{}: cannot make", dir.display()))?;
    for (name, contents) in files {
        let path = dir.join(name);
        fs::write(&path, contents).with_context(|| format!("{}: cannot write", path.display()))?;
    }
    Ok(())
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
    process::output(&mut command).map(drop)
}
