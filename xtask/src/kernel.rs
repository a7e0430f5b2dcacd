//! The kernels that we test on: which one a series means, and having it here.
//!
//! Of a Debian package we keep four things, in one directory by release and
//! package version: the kernel as the ELF file that QEMU boots by PVH, its BTF,
//! its configuration, its modules.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::archive::{self, Image};
use crate::{cache, elf, process};

/// The series that every change is tested on; `newest` is the newest of all
/// published series.
pub const MATRIX: &[&str] = &["5.10", "6.1", "6.12", "6.18", NEWEST];

/// The name for the newest series there is.
pub const NEWEST: &str = "newest";

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says in it.
    pub release: String,
    dir: PathBuf,
}

impl Kernel {
    /// The kernel as an ELF file.
    pub fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// Its raw BTF, as in the guest's /sys/kernel/btf/vmlinux.
    pub fn btf(&self) -> PathBuf {
        self.dir.join("btf")
    }

    /// Its modules, in subdirectories.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }

    /// Its name in the cache, by release and version of the package.
    pub fn name(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The version of its package: 6.1.192-2 of 6.1.0-56-cloud-amd64.
    pub fn package_version(&self) -> String {
        let name = self.name();
        let version = name.split_once('_').map(|(_, version)| version);
        version.unwrap_or_default().to_owned()
    }

    /// Whether the kernel is of a series before `series`.
    pub fn is_before(&self, series: &str) -> bool {
        compare_versions(series_of(&self.release), series) == Ordering::Less
    }

    /// The version without what Debian adds: 6.1.0-56, 6.12.117.
    pub fn version(&self) -> &str {
        version_of(&self.release)
    }
}

/// The newest kernel of a series (`6.12`, `newest`), or one version of it
/// (`6.1.0-56`, `6.12.117`), downloaded unless it is here.
pub fn get(series: &str) -> Result<Kernel> {
    let dir = cache::subdir("kernels")?;
    let cached = cached(&dir)?;
    let is_exact = |release: &str| version_of(release) == series || release == series;
    if let Some(kernel) = cached.iter().find(|kernel| is_exact(&kernel.release)) {
        return Ok(kernel.clone());
    }
    let images = match archive::published() {
        Ok(images) => images,
        Err(error) => return newest_cached(&cached, series, error),
    };
    let Some(image) = newest(&images, series, |image| &image.release) else {
        bail!(
            "Linux {series}: no such series in Debian's archive any more; {}",
            offer(&images)
        );
    };
    let name = format!("{}_{}", image.release, image.version);
    let kernel = Kernel {
        release: image.release.clone(),
        dir: dir.join(name),
    };
    if !kernel.dir.exists() {
        let _lock = cache::lock("kernels")?;
        if !kernel.dir.exists() {
            install(image, &kernel)?;
        }
    }
    Ok(kernel)
}

fn newest_cached(cached: &[Kernel], series: &str, error: anyhow::Error) -> Result<Kernel> {
    match newest(cached, series, |kernel| &kernel.release) {
        Some(kernel) => {
            eprintln!(
                "xtask: {error:#}; taking Linux {} from the cache",
                kernel.version()
            );
            Ok(kernel.clone())
        }
        None => Err(error.context(format!("Linux {series} is not in the cache"))),
    }
}

fn cached(dir: &Path) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{}: cannot list", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some((release, _version)) = name.split_once('_') {
            kernels.push(Kernel {
                release: release.to_owned(),
                dir: entry.path(),
            });
        }
    }
    Ok(kernels)
}

fn newest<'a, T>(all: &'a [T], series: &str, release: impl Fn(&T) -> &str) -> Option<&'a T> {
    all.iter()
        .filter(|item| is_of(release(item), series))
        .max_by(|a, b| compare_versions(release(a), release(b)))
}

fn is_of(release: &str, series: &str) -> bool {
    series == NEWEST
        || series == series_of(release)
        || series == version_of(release)
        || series == release
}

/// The series of a release: 6.12 of 6.12.117+deb13-cloud-amd64.
pub fn series_of(release: &str) -> &str {
    match release.match_indices('.').nth(1) {
        Some((at, _)) => &release[..at],
        None => release,
    }
}

fn version_of(release: &str) -> &str {
    let release = release.strip_suffix("-cloud-amd64").unwrap_or(release);
    release.split('+').next().unwrap_or(release)
}

fn offer(images: &[Image]) -> String {
    let mut series: Vec<&str> = images
        .iter()
        .map(|image| series_of(&image.release))
        .collect();
    series.sort_by(|a, b| compare_versions(a, b));
    series.dedup();
    format!("it has {}", series.join(", "))
}

/// Orders as `sort -V` does: runs of digits by value, the rest by bytes.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while let (Some(&x), Some(&y)) = (a.first(), b.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            take_number(&mut a).cmp(&take_number(&mut b))
        } else {
            (a, b) = (&a[1..], &b[1..]);
            x.cmp(&y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn take_number(bytes: &mut &[u8]) -> u64 {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = bytes.split_at(digits);
    *bytes = rest;
    number.iter().fold(0, |n: u64, digit| {
        n.saturating_mul(10) + u64::from(digit - b'0')
    })
}

/// Downloads a kernel and puts what we keep of it into the cache.
fn install(image: &Image, kernel: &Kernel) -> Result<()> {
    eprintln!("xtask: getting Linux {} ({})", image.release, image.version);
    let work = kernel
        .dir
        .with_file_name(format!("getting.{}", image.release));
    let _ = fs::remove_dir_all(&work);
    let (debs, tree, keep) = (work.join("debs"), work.join("tree"), work.join("keep"));
    fs::create_dir_all(&keep).with_context(|| format!("{}: cannot make", keep.display()))?;
    let what = format!("Linux {}", image.version);
    archive::unpack(&what, &image.packages, &debs, &tree)?;
    keep_parts(&tree, &image.release, &keep)
        .with_context(|| format!("the packages of Linux {}", image.release))?;
    fs::rename(&keep, &kernel.dir).with_context(|| {
        format!(
            "{}: cannot put a kernel into the cache",
            kernel.dir.display()
        )
    })?;
    let _ = fs::remove_dir_all(&work);
    Ok(())
}

fn keep_parts(tree: &Path, release: &str, keep: &Path) -> Result<()> {
    let first = |candidates: &[String]| -> Result<PathBuf> {
        let found = candidates
            .iter()
            .map(|path| tree.join(path))
            .find(|path| path.exists());
        found.with_context(|| format!("have none of {}", candidates.join(", ")))
    };
    let vmlinuz = first(&[
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
    ])?;
    let modules = first(&[
        format!("usr/lib/modules/{release}/kernel"),
        format!("lib/modules/{release}/kernel"),
    ])?;
    let config = first(&[
        format!("boot/config-{release}"),
        format!("usr/lib/modules/{release}/config"),
    ]);
    let bytes = fs::read(&vmlinuz).with_context(|| format!("{}", vmlinuz.display()))?;
    let vmlinux = unpack(&bytes, keep).with_context(|| format!("{}", vmlinuz.display()))?;
    let btf = elf::section(&vmlinux, ".BTF").context("the kernel has no .BTF section")?;
    fs::write(keep.join("btf"), btf)?;
    fs::write(keep.join("vmlinux"), &vmlinux)?;
    fs::rename(modules, keep.join("modules"))?;
    // Not every package has one, and nothing that we run needs it.
    if let Ok(config) = config {
        fs::rename(config, keep.join("config"))?;
    }
    Ok(())
}

/// The ELF kernel in a bzImage. The header (Documentation/arch/x86/boot.rst)
/// says where the compressed payload is; lz4 on 5.10 and 6.1, zstd from 6.12,
/// and behind it four bytes of length, which the tools would take for garbage.
fn unpack(image: &[u8], scratch: &Path) -> Result<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?) as usize);
    let payload = || {
        let setup_sectors = usize::from(*image.get(0x1f1)?);
        let start = (setup_sectors + 1) * 512 + word(0x248)?;
        image.get(start..)?.get(..word(0x24c)?.checked_sub(4)?)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("is no bzImage");
    }
    let payload = payload().context("is cut short")?;
    let extension = match payload {
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zst",
        [0x1f, 0x8b, ..] => "gz",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        _ => bail!("is compressed in a way that xtask does not know"),
    };
    let file = scratch.join("payload").with_extension(extension);
    fs::write(&file, payload)?;
    let vmlinux = process::decompress(&file)?;
    fs::remove_file(&file)?;
    if !elf::is_elf(&vmlinux) {
        bail!("does not hold an ELF kernel");
    }
    Ok(vmlinux)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_is_not_a_prefix_of_another() {
        assert!(is_of("6.1.0-56-cloud-amd64", "6.1"));
        assert!(!is_of("6.12.117+deb13-cloud-amd64", "6.1"));
        assert!(is_of("6.12.117+deb13-cloud-amd64", "newest"));
    }

    #[test]
    fn exact_version_is_accepted() {
        assert!(is_of("6.1.0-56-cloud-amd64", "6.1.0-56"));
        assert!(is_of("6.12.117+deb13-cloud-amd64", "6.12.117"));
        assert!(!is_of("6.12.117+deb13-cloud-amd64", "6.12.11"));
    }

    #[test]
    fn newest_is_by_number_not_by_text() {
        let all = ["6.12.90+deb13.1-cloud-amd64", "6.12.117+deb12-cloud-amd64"];
        assert_eq!(newest(&all, "6.12", |name| name), Some(&all[1]));
        // A backport of 6.1 to an older Debian is older than 6.1 at home.
        let all = ["6.1.0-0.deb11.52-cloud-amd64", "6.1.0-9-cloud-amd64"];
        assert_eq!(newest(&all, "6.1", |name| name), Some(&all[1]));
    }
}
