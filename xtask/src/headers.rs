//! What modules for a kernel are built with, as Debian publishes it: headers, configuration,
//! and the kernel's own tools. Unpacked into the cache and never installed.
//!
//! Folklore:
//! - The packages expect to be in /usr/src: their Makefiles name each other by full path.
//! - The tools are programs of the Debian release that the kernel comes from, and may want a
//!   newer C library than this machine has ("version `GLIBC_2.38' not found"). They get one of
//!   their own then, which is started by hand.
//! - Superseded kernels of backports keep their image in the archive, but no headers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::archive::{self, Found};
use crate::kernel::Kernel;
use crate::{elf, process};

/// The headers of exactly this kernel, downloaded unless they are here: the directory for
/// `make -C`.
pub fn get(kernel: &Kernel) -> Result<Found> {
    let (release, version) = (&kernel.release, kernel.package_version());
    let found = archive::kept("headers", &kernel.name(), |dir| {
        match archive::headers(release, &version)? {
            Some(packages) => install(kernel, &packages, dir).map(|()| None),
            None => Ok(Some(format!(
                "Linux {}: Debian's archive has no linux-headers-{release} of version {version}",
                kernel.version()
            ))),
        }
    })?;
    Ok(match found {
        Found::At(dir) => Found::At(dir.join(format!("usr/src/linux-headers-{release}"))),
        absent => absent,
    })
}

fn install(kernel: &Kernel, packages: &[String], dir: &Path) -> Result<()> {
    let what = format!("the headers of Linux {}", kernel.release);
    eprintln!("xtask: getting {what}");
    let work = dir.with_file_name(format!("getting.{}", kernel.release));
    let _ = fs::remove_dir_all(&work);
    let tree = work.join("tree");
    archive::unpack(&what, packages, &work.join("debs"), &tree)?;
    relocate(&tree.join("usr/src"), dir)?;
    adapt_tools(&work, &tree, dir)?;
    fs::rename(&tree, dir)
        .with_context(|| format!("{}: cannot put headers into the cache", dir.display()))?;
    let _ = fs::remove_dir_all(&work);
    Ok(())
}

/// Makes the Makefiles find each other below `dir`, where they will be.
fn relocate(src: &Path, dir: &Path) -> Result<()> {
    for entry in fs::read_dir(src).with_context(|| format!("{}: cannot list", src.display()))? {
        let makefile = entry?.path().join("Makefile");
        let Ok(text) = fs::read_to_string(&makefile) else {
            continue;
        };
        let to = format!("{}/usr/src/linux-headers-", dir.display());
        fs::write(&makefile, text.replace("/usr/src/linux-headers-", &to))
            .with_context(|| format!("{}: cannot write", makefile.display()))?;
    }
    Ok(())
}

/// Lets the tools run here.
fn adapt_tools(work: &Path, tree: &Path, dir: &Path) -> Result<()> {
    let mut tools = Vec::new();
    programs(&tree.join("usr/lib"), &mut tools)?;
    let mut foreign = Vec::new();
    for tool in tools {
        if wants_newer_libc(&tool)? {
            foreign.push(tool);
        }
    }
    if foreign.is_empty() {
        return Ok(());
    }
    add_libc(work, &tree.join(LIBC))?;
    let libc = dir.join(LIBC);
    for tool in foreign {
        wrap(&tool, &libc).with_context(|| format!("{}: cannot adapt", tool.display()))?;
    }
    Ok(())
}

/// Where the C library of the tools is.
const LIBC: &str = "libc";

const LOADER: &str = "ld-linux-x86-64.so.2";

/// All dynamic programs below a directory.
fn programs(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{}: cannot list", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            programs(&entry.path(), found)?;
        } else if kind.is_file() && entry.metadata()?.permissions().mode() & 0o100 != 0 {
            let is_program = elf::is_dynamic(&fs::read(entry.path())?);
            found.extend(is_program.then(|| entry.path()));
        }
    }
    Ok(())
}

fn wants_newer_libc(program: &Path) -> Result<bool> {
    let said = process::try_output(process::command("ldd").arg(program))?;
    let said = [said.stdout, said.stderr].concat();
    Ok(String::from_utf8_lossy(&said).contains("version `GLIBC_"))
}

/// The newest C library of the archive: programs of any older one run with it.
fn add_libc(work: &Path, libc: &Path) -> Result<()> {
    let tree = work.join("libc");
    let what = "a C library for the kernel's tools";
    archive::unpack(what, &["libc6".to_owned()], &work.join("debs"), &tree)?;
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    fs::rename(&libraries, libc).with_context(|| format!("{}: cannot move", libraries.display()))
}

/// Puts a script in the place of a program, that starts it with the other C library.
fn wrap(program: &Path, libc: &Path) -> Result<()> {
    let mut real = program.as_os_str().to_owned();
    real.push(".elf");
    fs::rename(program, &real)?;
    let libc = libc.display();
    let script =
        format!("#!/bin/sh\nexec '{libc}/{LOADER}' --library-path '{libc}' \"$0.elf\" \"$@\"\n");
    fs::write(program, script)?;
    Ok(fs::set_permissions(
        program,
        fs::Permissions::from_mode(0o755),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tools of Linux 6.12 want a newer C library than Debian 12 has.
    #[test]
    fn wrapped_program_runs_with_the_other_loader() {
        let dir = std::env::temp_dir().join(format!("xtask-wrap-{}", std::process::id()));
        let libc = dir.join(LIBC);
        fs::create_dir_all(&libc).unwrap();
        let program = dir.join("tool");
        for (path, text) in [
            (&program, "the tool".to_owned()),
            (
                &libc.join(LOADER),
                "#!/bin/sh\nshift 2; echo \"$(cat $1)\" $2\n".to_owned(),
            ),
        ] {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        wrap(&program, &libc).unwrap();
        let said = process::text(std::process::Command::new(&program).arg("arg")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(said, "the tool arg\n");
    }
}
