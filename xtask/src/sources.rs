//! A part of the source of a guest's kernel, as Debian built it.
//!
//! Debian publishes the source, its patches applied, as one archive of some 150 MB: there is
//! no way to get less. What we do not need of it is not kept.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::archive::{self, Found};
use crate::kernel::{self, Kernel};
use crate::process;

/// What is kept: overlayfs, and what it includes of fs (6.12).
const KEPT: &[&str] = &["fs/overlayfs", "fs/internal.h"];

/// The source of exactly this kernel, downloaded unless it is here: the directory in which the
/// kept parts have their paths.
pub fn get(kernel: &Kernel) -> Result<Found> {
    let series = kernel::series_of(&kernel.release);
    let package = format!("linux-source-{series}={}", kernel.package_version());
    archive::kept("sources", &kernel.name(), |dir| {
        if archive::has(&package)? {
            return install(kernel, series, package, dir).map(|()| None);
        }
        Ok(Some(format!(
            "Linux {}: Debian's archive has no {package}",
            kernel.version()
        )))
    })
}

fn install(kernel: &Kernel, series: &str, package: String, dir: &Path) -> Result<()> {
    let what = format!("the source of Linux {}", kernel.version());
    eprintln!("xtask: getting {what}");
    let work = dir.with_file_name(format!("getting.{}", kernel.release));
    let _ = fs::remove_dir_all(&work);
    let (tree, keep) = (work.join("tree"), work.join("keep"));
    archive::unpack(&what, &[package], &work.join("debs"), &tree)?;
    fs::create_dir_all(&keep).with_context(|| format!("{}: cannot make", keep.display()))?;
    let name = format!("linux-source-{series}");
    let members = KEPT.iter().map(|part| format!("{name}/{part}"));
    process::output(
        process::command("tar")
            .arg("-xJf")
            .arg(tree.join(format!("usr/src/{name}.tar.xz")))
            .args(["--strip-components=1", "-C"])
            .arg(&keep)
            .args(members),
    )?;
    fs::rename(&keep, dir)
        .with_context(|| format!("{}: cannot put a source into the cache", dir.display()))?;
    let _ = fs::remove_dir_all(&work);
    Ok(())
}
