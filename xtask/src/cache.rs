//! Where what was downloaded or derived is kept: outside the clone, so that a
//! fresh clone, or `git clean`, does not download five kernels again.
//!
//! Everything in it can be deleted at any time. Entries appear by rename, so a
//! run that was killed leaves no half of one, and runs side by side need a lock
//! only where they would do the same expensive work twice.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The cache directory, made if it is missing.
pub fn dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => match env::var_os("HOME") {
            Some(home) => PathBuf::from(home).join(".cache"),
            None => bail!("no place for kernels: set HOME or XDG_CACHE_HOME"),
        },
    };
    subdir_of(base.join("nstrace"))
}

/// A directory of that name in the cache, made if it is missing.
pub fn subdir(name: &str) -> Result<PathBuf> {
    subdir_of(dir()?.join(name))
}

fn subdir_of(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| {
        format!(
            "{}: cannot make the cache directory; set XDG_CACHE_HOME to another place",
            path.display()
        )
    })?;
    Ok(path)
}

/// Waits until no other xtask holds the lock `name`, and holds it until the
/// returned file is dropped.
pub fn lock(name: &str) -> Result<File> {
    let path = dir()?.join(format!("{name}.lock"));
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("{}: cannot open the lock file", path.display()))?;
    file.lock()
        .with_context(|| format!("{}: cannot lock", path.display()))?;
    Ok(file)
}
