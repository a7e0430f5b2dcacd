//! Debian's archive: which kernels are published, and getting one.
//!
//! Five series live in four Debian releases, so no machine's own apt can see
//! them all. We run apt with a configuration of our own, with its own lists and
//! cache: the system's apt state stays as it is. The mirror is the machine's.
//! The answer is kept for a day, so that starting a guest asks no network.
//!
//! Folklore:
//! - Point releases vanish when the next comes: ask for a series, never pin.
//! - From 6.19 `linux-image` is empty and depends on `linux-binary` and
//!   `linux-modules`; a superseded one keeps no modules and is of no use.
//! - Old suites leave the mirrors or let their Release file expire: the check of
//!   Valid-Until is off, and an update that fails in part is good enough.
//! - Two apt at once can hurt each other (a hook of one may delete the archives
//!   of the other), hence the lock around each of our calls.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{cache, process};

const LIST_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites of the main archive, then of the security archive.
const SUITES: &[&str] = &[
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
];
const SECURITY_SUITES: &[&str] = &["bullseye-security", "bookworm-security", "trixie-security"];

/// A kernel that the archive publishes.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// What `uname -r` says in it, such as `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The package version, such as `6.1.192-2`.
    pub version: String,
    /// What to download, in apt's `NAME=VERSION` form.
    pub packages: Vec<String>,
}

/// All published cloud kernels, at most a day old, or older when the archive
/// cannot be reached.
pub fn published() -> Result<Vec<Image>> {
    let list = cache::dir()?.join("published");
    if let Some(images) = fresh_list(&list) {
        return Ok(images);
    }
    let _lock = cache::lock("apt")?;
    if let Some(images) = fresh_list(&list) {
        return Ok(images);
    }
    match ask() {
        Ok(images) => {
            write_list(&list, &images)?;
            Ok(images)
        }
        Err(error) => match read_list(&list) {
            Some(images) => {
                eprintln!("xtask: using an old list of kernels: {error:#}");
                Ok(images)
            }
            None => Err(error),
        },
    }
}

/// Downloads packages (`NAME` or `NAME=VERSION`) and unpacks them into `tree`; `what` is what
/// they are for a message. The files are in `work` meanwhile, which is emptied.
pub fn unpack(what: &str, packages: &[String], work: &Path, tree: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(work);
    for dir in [work, tree] {
        fs::create_dir_all(dir).with_context(|| format!("{}: cannot make", dir.display()))?;
    }
    download(what, packages, work)?;
    for entry in fs::read_dir(work)? {
        let deb = entry?.path();
        process::output(process::command("dpkg-deb").arg("-x").args([&deb, tree]))?;
    }
    let _ = fs::remove_dir_all(work);
    Ok(())
}

fn download(what: &str, packages: &[String], dir: &Path) -> Result<()> {
    let _lock = cache::lock("apt")?;
    process::output(
        apt("apt-get")?
            .arg("download")
            .args(packages)
            .current_dir(dir),
    )
    .with_context(|| {
        let list = cache::dir().unwrap_or_default().join("published");
        format!(
            "cannot download {what}; if it has been superseded, delete {} to look again",
            list.display()
        )
    })?;
    Ok(())
}

/// What came of looking for something of a kernel's in the archive.
pub enum Found {
    /// Where it is.
    At(PathBuf),
    /// Why there is none.
    Absent(String),
}

/// The directory `name` in the cache's part `part`. If it is not there, `get` makes it, or says
/// why it cannot be had; for a day it is not asked again then.
pub fn kept(
    part: &str,
    name: &str,
    get: impl FnOnce(&Path) -> Result<Option<String>>,
) -> Result<Found> {
    let dir = cache::subdir(part)?.join(name);
    if dir.exists() {
        return Ok(Found::At(dir));
    }
    let _lock = cache::lock(part)?;
    if dir.exists() {
        return Ok(Found::At(dir));
    }
    let absent = dir.with_file_name(format!("{name}.absent"));
    if is_fresh(&absent) {
        return Ok(Found::Absent(fs::read_to_string(&absent)?));
    }
    let Some(why) = get(&dir)? else {
        return Ok(Found::At(dir));
    };
    fs::write(&absent, &why).with_context(|| format!("{}: cannot write", absent.display()))?;
    Ok(Found::Absent(why))
}

/// The packages with what modules for a kernel are built with; None if the archive has none for
/// that very version.
pub fn headers(release: &str, version: &str) -> Result<Option<Vec<String>>> {
    let own = format!("linux-headers-{release}={version}");
    let record = record(&own)?;
    Ok(record.lines().find_map(|line| {
        let depends = line.strip_prefix("Depends: ")?;
        Some([vec![own.clone()], headers_of_depends(depends, version)].concat())
    }))
}

/// Whether the archive has a package, `NAME=VERSION`.
pub fn has(package: &str) -> Result<bool> {
    Ok(!record(package)?.is_empty())
}

/// What the archive says of a package; nothing if it has none.
fn record(package: &str) -> Result<String> {
    // A kernel in the cache does not mean that the archive has been asked here.
    published()?;
    let _lock = cache::lock("apt")?;
    let shown = process::try_output(apt("apt-cache")?.args(["show", package]))?;
    Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
}

/// The headers that do not depend on the flavour, and the tools, of whose series any newer
/// version does; compilers are this machine's.
fn headers_of_depends(depends: &str, version: &str) -> Vec<String> {
    let names = depends.split([',', '|']);
    let names = names.filter_map(|dependency| dependency.trim().split(' ').next());
    let wanted = names.filter_map(|name| {
        if name.starts_with("linux-kbuild-") {
            return Some(name.to_owned());
        }
        let is_common = name.starts_with("linux-headers-") && name.ends_with("-common");
        is_common.then(|| format!("{name}={version}"))
    });
    wanted.collect()
}

fn ask() -> Result<Vec<Image>> {
    eprintln!("xtask: asking Debian's archive which kernels it has (once a day)");
    configure()?;
    let update = process::try_output(apt("apt-get")?.args(["update", "-qq"]))?;
    let names = process::text(apt("apt-cache")?.args([
        "search",
        "--names-only",
        "^linux-(image|modules)-[0-9].*-cloud-amd64$",
    ]))?;
    let names: Vec<&str> = names.lines().filter_map(|l| l.split(' ').next()).collect();
    let images: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| name.starts_with("linux-image-"))
        .collect();
    if images.is_empty() {
        bail!(
            "Debian's archive shows no kernel: {}",
            process::complaint(&update)
        );
    }
    if !update.status.success() {
        eprintln!(
            "xtask: a part of the archive is missing: {}",
            process::complaint(&update)
        );
    }
    let records = process::text(
        apt("apt-cache")?
            .args(["show", "--no-all-versions"])
            .args(images),
    )?;
    Ok(records
        .split("\n\n")
        .filter_map(|record| image_of_record(record, &names))
        .collect())
}

/// The kernel that one record of `apt-cache show` describes; None for a
/// metapackage and for a kernel whose modules are not published.
fn image_of_record(record: &str, names: &[&str]) -> Option<Image> {
    let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name));
    let package = field("Package: ")?;
    let release = package.strip_prefix("linux-image-")?;
    if release.bytes().filter(|&b| b == b'.').count() < 2 {
        return None;
    }
    let version = field("Version: ")?;
    let parts: Vec<&str> = field("Depends: ")
        .unwrap_or_default()
        .split([',', '|'])
        .filter_map(|dependency| dependency.trim().split(' ').next())
        .filter(|name| name.starts_with("linux-binary-") || name.starts_with("linux-modules-"))
        .collect();
    let modules_vanished =
        |name: &&str| name.starts_with("linux-modules-") && !names.contains(name);
    if parts.iter().any(modules_vanished) {
        return None;
    }
    let wanted = if parts.is_empty() {
        vec![package]
    } else {
        parts
    };
    Some(Image {
        release: release.to_owned(),
        version: version.to_owned(),
        packages: wanted
            .iter()
            .map(|name| format!("{name}={version}"))
            .collect(),
    })
}

/// Whether a file with what the archive said is young enough to be taken for what it says now.
fn is_fresh(path: &Path) -> bool {
    let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| changed.elapsed().unwrap_or_default() <= LIST_AGE_MAX)
}

fn fresh_list(path: &Path) -> Option<Vec<Image>> {
    is_fresh(path).then(|| read_list(path)).flatten()
}

fn read_list(path: &Path) -> Option<Vec<Image>> {
    Some(
        fs::read_to_string(path)
            .ok()?
            .lines()
            .filter_map(parse_line)
            .collect(),
    )
}

fn parse_line(line: &str) -> Option<Image> {
    let mut words = line.split(' ').map(str::to_owned);
    Some(Image {
        release: words.next()?,
        version: words.next()?,
        packages: words.collect(),
    })
}

fn write_list(path: &Path, images: &[Image]) -> Result<()> {
    let mut text = String::new();
    for image in images {
        text += &format!(
            "{} {} {}\n",
            image.release,
            image.version,
            image.packages.join(" ")
        );
    }
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("{}: cannot write the list of kernels", path.display()))
}

/// An apt program under our own configuration.
fn apt(program: &str) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .env("APT_CONFIG", cache::subdir("apt")?.join("apt.conf"))
        .env("LC_ALL", "C.UTF-8");
    Ok(command)
}

fn configure() -> Result<()> {
    let mirror = Mirror::find()?;
    let mut sources = String::new();
    for (url, suites) in [(&mirror.main, SUITES), (&mirror.security, SECURITY_SUITES)] {
        for suite in suites {
            sources += &source_line(url, suite);
        }
    }
    write_config(&cache::subdir("apt")?, &sources)
}

/// Writes an apt configuration with state, cache and sources of its own to
/// `dir`/apt.conf.
pub fn write_config(dir: &Path, sources: &str) -> Result<()> {
    let path = dir.display();
    let config = format!(
        "Dir::State \"{path}/state\";\n\
         Dir::State::status \"/var/lib/dpkg/status\";\n\
         Dir::Cache \"{path}/cache\";\n\
         Dir::Etc::SourceList \"{path}/sources.list\";\n\
         Dir::Etc::SourceParts \"-\";\n\
         Acquire::Check-Valid-Until \"false\";\n\
         Acquire::Languages \"none\";\n\
         APT::Sandbox::User \"root\";\n"
    );
    for part in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(dir.join(part))
            .with_context(|| format!("{path}/{part}: cannot make apt's directory"))?;
    }
    fs::write(dir.join("sources.list"), sources)
        .and_then(|()| fs::write(dir.join("apt.conf"), config))
        .with_context(|| format!("{path}: cannot write apt's configuration"))
}

/// One line of sources.list.
pub fn source_line(url: &str, suite: &str) -> String {
    let option = match Path::new(KEYRING).exists() {
        true => format!("[signed-by={KEYRING}] "),
        false => String::new(),
    };
    format!("deb {option}{url} {suite} main\n")
}

/// Where this machine gets Debian from.
pub struct Mirror {
    /// The URL of the main archive.
    pub main: String,
    /// The URL of the security archive.
    pub security: String,
}

impl Mirror {
    /// From NSTRACE_DEBIAN_MIRROR, or else from the machine's apt sources. The
    /// security archive is the main one with `-security` behind it where the
    /// sources name none.
    pub fn find() -> Result<Mirror> {
        if let Ok(main) = env::var("NSTRACE_DEBIAN_MIRROR") {
            let main = main.trim_end_matches('/').to_owned();
            return Ok(Mirror {
                security: format!("{main}-security"),
                main,
            });
        }
        let urls = process::text(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
        ]))
        .context("cannot ask apt for its mirror")?;
        let ending_in = |end: &str| {
            let url = urls
                .lines()
                .map(|url| url.trim_end_matches('/'))
                .find(|u| u.ends_with(end));
            url.map(str::to_owned)
        };
        let Some(main) = ending_in("/debian") else {
            bail!(
                "this machine's apt has no Debian mirror to take kernels from; set \
                 NSTRACE_DEBIAN_MIRROR to the URL of one (it ends in /debian)"
            );
        };
        let security = ending_in("-security").unwrap_or_else(|| format!("{main}-security"));
        Ok(Mirror { main, security })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "Package: linux-image-6.1.0-56-cloud-amd64\nVersion: 6.1.192-2\n\
        Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120) | linux-initramfs-tool";
    const SPLIT: &str = "Package: linux-image-7.3.4+deb13-cloud-amd64\n\
        Version: 7.3.4-1~bpo13+1\nDepends: dracut | initramfs-tools, \
        linux-binary-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1), \
        linux-modules-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)";

    #[test]
    fn kernel_in_one_package_is_downloaded_by_its_own_name() {
        let image = image_of_record(OLD, &[]).unwrap();
        assert_eq!(image.release, "6.1.0-56-cloud-amd64");
        assert_eq!(
            image.packages,
            ["linux-image-6.1.0-56-cloud-amd64=6.1.192-2"]
        );
    }

    #[test]
    fn kernel_in_parts_needs_its_modules_published() {
        let image = image_of_record(SPLIT, &["linux-modules-7.3.4+deb13-cloud-amd64"]).unwrap();
        assert_eq!(
            image.packages,
            [
                "linux-binary-7.3.4+deb13-cloud-amd64=7.3.4-1~bpo13+1",
                "linux-modules-7.3.4+deb13-cloud-amd64=7.3.4-1~bpo13+1",
            ]
        );
        assert_eq!(image_of_record(SPLIT, &[]), None);
    }

    #[test]
    fn headers_are_those_of_all_flavours_and_the_tools() {
        let old = "linux-headers-6.1.0-56-common (= 6.1.192-2), linux-kbuild-6.1 (>= 6.1.192-2), \
            linux-compiler-gcc-12-x86";
        let expected = [
            "linux-headers-6.1.0-56-common=6.1.192-2",
            "linux-kbuild-6.1",
        ];
        assert_eq!(headers_of_depends(old, "6.1.192-2"), expected);
        let new = "linux-base (>= 4.12~), linux-headers-6.12.118+deb13-common (= 6.12.118-1), \
            linux-image-6.12.118+deb13-cloud-amd64 (= 6.12.118-1) | linux-image-unsigned, \
            linux-kbuild-6.12.118+deb13, gcc-14";
        let expected = [
            "linux-headers-6.12.118+deb13-common=6.12.118-1",
            "linux-kbuild-6.12.118+deb13",
        ];
        assert_eq!(headers_of_depends(new, "6.12.118-1"), expected);
    }

    #[test]
    fn metapackage_is_no_kernel() {
        let record = "Package: linux-image-6.12-cloud-amd64\nVersion: 6.12.117-1\n";
        assert_eq!(image_of_record(record, &[]), None);
    }

    #[test]
    fn list_reads_back_what_was_written() {
        let image = image_of_record(OLD, &[]).unwrap();
        let line = format!(
            "{} {} {}",
            image.release,
            image.version,
            image.packages.join(" ")
        );
        assert_eq!(parse_line(&line), Some(image));
    }
}
