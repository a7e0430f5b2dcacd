//! A tmpfs with the layers of overlays, and the overlays.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::calls;

/// Of each sort in a worker's part of the lower layer.
const FILES: usize = 64;
const DIRS: usize = 12;
const LINKS: usize = 8;

/// Files that all workers use.
pub const SHARED: usize = 64;

/// A byte more than a page, so that a file has pages to be mapped and to be copied.
pub const LENGTH: usize = 4097;

/// An extended attribute that each file in the lower layer has.
pub const ATTRIBUTE: &str = "trusted.nstrace";

/// The tmpfs, with a lower layer.
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// Mounts a tmpfs at `dir`, with an empty lower layer.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("{}: cannot make", dir.display()))?;
        calls::mount("tmpfs", dir, "mode=755,size=64m")
            .with_context(|| format!("{}: cannot mount a tmpfs", dir.display()))?;
        let place = Place {
            dir: dir.to_owned(),
        };
        fs::create_dir(place.lower())?;
        Ok(place)
    }

    /// The lower layer.
    pub fn lower(&self) -> PathBuf {
        self.dir.join("lower")
    }

    /// What the workers of a load find in the lower layer.
    pub fn fill(&self, workers: u64) -> Result<()> {
        self.fill_shared().context("the lower layer: shared")?;
        (0..workers).try_for_each(|worker| {
            let dir = self.lower().join(format!("worker{worker}"));
            fill(&dir).with_context(|| format!("{}: cannot fill", dir.display()))
        })
    }

    fn fill_shared(&self) -> Result<()> {
        let dir = self.lower().join("shared");
        fs::create_dir(&dir)?;
        Ok((0..SHARED).try_for_each(|n| file(&dir.join(format!("s{n}"))))?)
    }

    /// A directory of that name, made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).with_context(|| format!("{}: cannot make", dir.display()))?;
        Ok(dir)
    }

    /// Mounts an overlay with an upper layer of its own; says where.
    pub fn mount(&self, name: &str, options: &str) -> Result<PathBuf> {
        let merged = self.directory(&format!("merged-{name}"))?;
        let layers = self.directory(&format!("layers-{name}"))?;
        self.mount_on(&layers, &merged, options)?;
        Ok(merged)
    }

    /// Mounts an overlay whose upper layer is in `layers`.
    pub fn mount_on(&self, layers: &Path, merged: &Path, options: &str) -> Result<()> {
        let (upper, work) = (layers.join("upper"), layers.join("work"));
        for dir in [&upper, &work] {
            fs::create_dir(dir).with_context(|| format!("{}: cannot make", dir.display()))?;
        }
        let mut words = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.lower().display(),
            upper.display(),
            work.display()
        );
        if !options.is_empty() {
            words += &format!(",{options}");
        }
        calls::mount("overlay", merged, &words)
            .with_context(|| format!("{}: cannot mount an overlay with {words}", merged.display()))
    }

    /// Removes the upper layer of an overlay that is not mounted any more.
    pub fn forget(&self, name: &str) -> Result<()> {
        for part in ["layers", "merged"] {
            let dir = self.dir.join(format!("{part}-{name}"));
            fs::remove_dir_all(&dir)
                .with_context(|| format!("{}: cannot remove", dir.display()))?;
        }
        Ok(())
    }

    /// Unmounts the tmpfs, which nothing may use any more.
    pub fn remove(self) -> Result<()> {
        let shown = self.dir.display();
        calls::unmount(&self.dir, false).with_context(|| format!("{shown}: cannot unmount"))?;
        fs::remove_dir(&self.dir).with_context(|| format!("{shown}: cannot remove"))
    }
}

/// f0, f1, … with an attribute; d0, d1, … with two files each; l0, l1, … to them; h0 and g0,
/// … that are one file each.
fn fill(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    for n in 0..FILES {
        let path = dir.join(format!("f{n}"));
        file(&path)?;
        calls::set_xattr(&path, ATTRIBUTE, b"lower")?;
    }
    for n in 0..DIRS {
        let below = dir.join(format!("d{n}"));
        fs::create_dir(&below)?;
        file(&below.join("a"))?;
        file(&below.join("b"))?;
    }
    for n in 0..LINKS {
        symlink(format!("f{n}"), dir.join(format!("l{n}")))?;
        let (one, other) = (dir.join(format!("h{n}")), dir.join(format!("g{n}")));
        file(&one)?;
        fs::hard_link(&one, &other)?;
    }
    Ok(())
}

fn file(path: &Path) -> io::Result<()> {
    fs::write(path, [b'.'; LENGTH])
}
