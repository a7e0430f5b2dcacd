//! Installing Debian packages, and knowing which are missing.
//!
//! What is missing is judged by files, not by dpkg: it is quicker, and a program
//! from elsewhere is as good.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};

use crate::archive::{self, Mirror};
use crate::{cache, process, rootfs};

/// Programs and files that we use here, with their packages.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86_64", QEMU),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("lz4", "lz4"),
    ("cc", "gcc"),
    // For kernel modules, and the kernel's own tool that looks through them.
    ("make", "make"),
    ("/usr/lib/x86_64-linux-gnu/libelf.so.1", "libelf1"),
    // For libFuzzer.
    ("c++", "g++"),
    // For the static binary.
    ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev"),
];

const QEMU: &str = "qemu-system-x86";

/// Installs what building and booting guests needs.
pub fn setup() -> Result<()> {
    let is_missing = |what: &str| match what.starts_with('/') {
        true => !Path::new(what).exists(),
        false => process::find(what).is_none(),
    };
    let all = NEEDED.iter().chain(rootfs::PROGRAMS);
    let (names, mut packages): (Vec<&str>, Vec<&str>) =
        all.filter(|(what, _)| is_missing(what)).copied().unzip();
    packages.sort();
    packages.dedup();
    // By itself, because it may need the detour.
    if packages.contains(&QEMU) {
        install_qemu()?;
        packages.retain(|package| *package != QEMU);
    }
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages, &format!("missing: {}", names.join(", ")))
}

/// Installs packages; says which, and why.
pub fn install(packages: &[&str], why: &str) -> Result<()> {
    eprintln!("xtask: installing {}: {why}", packages.join(" "));
    let _lock = cache::lock("apt")?;
    let updated = update();
    install_from(packages, None, &[])
        .map_err(|error| match updated {
            Ok(()) => error,
            Err(update) => anyhow!("{error:#}; and before it: {update}"),
        })
        .with_context(|| format!("install by hand: apt-get install {}", packages.join(" ")))
}

/// Gets apt's lists, once. A new machine has none, and with those of an image of last
/// year apt installs the compiler of last year without a word. What it cannot get
/// (no network, a third party's source) may not be needed.
fn update() -> &'static Result<(), String> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        process::output(as_root("apt-get", None).args(["update", "-qq"]))
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    })
}

/// QEMU, from backports if need be: a machine that has a newer qemu-utils from
/// there refuses the release's qemu-system-x86 ("Breaks: qemu-system-common
/// (< 8.0)").
fn install_qemu() -> Result<()> {
    let plain = install(&[QEMU], "guests run in it");
    let Err(error) = plain else {
        return Ok(());
    };
    eprintln!("xtask: {QEMU}: trying backports, because the plain way failed");
    let _lock = cache::lock("apt")?;
    from_backports(QEMU).with_context(|| format!("{error:#}; and from backports"))
}

/// Installs from the release and its backports and nothing else: with other
/// suites in sight apt could upgrade half of the machine.
fn from_backports(package: &str) -> Result<()> {
    let codename = codename()?;
    let backports = format!("{codename}-backports");
    let mirror = Mirror::find()?;
    let dir = cache::subdir("apt-backports")?;
    let sources: String = [&codename, &backports]
        .map(|suite| archive::source_line(&mirror.main, suite))
        .concat();
    archive::write_config(&dir, &sources)?;
    let config = dir.join("apt.conf");
    process::output(as_root("apt-get", Some(&config)).args(["update", "-qq"]))?;
    install_from(&[package], Some(&config), &["-t", &backports])
}

fn install_from(packages: &[&str], config: Option<&Path>, options: &[&str]) -> Result<()> {
    let mut command = as_root("apt-get", config);
    command.args(["install", "-qq", "-y", "--no-install-recommends"]);
    process::output(command.args(options).args(packages)).map(drop)
}

fn as_root(program: &str, apt_config: Option<&Path>) -> Command {
    let mut command = match rustix::process::geteuid().is_root() {
        true => Command::new("env"),
        false => {
            let mut sudo = Command::new("sudo");
            sudo.arg("env");
            sudo
        }
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]);
    if let Some(config) = apt_config {
        command.arg(format!("APT_CONFIG={}", config.display()));
    }
    command.arg(program);
    command
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release: cannot read")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release: names no VERSION_CODENAME, so there are no backports to try")
}
