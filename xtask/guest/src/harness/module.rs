//! The kernel modules of the tests, which the guest was given uninserted.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// xtask/src/kbuild.rs puts them there: `NAME.ko`, or why there is none: in `NAME.absent` if this
/// kernel can have none, in `NAME.failed` if it should.
const DIR: &str = "/usr/lib/nstrace/modules";

fn file(name: &str, suffix: &str) -> PathBuf {
    Path::new(DIR).join(format!("{name}.{suffix}"))
}

/// Why this kernel can have no such module; None if it has one.
pub fn absence(name: &str) -> Result<Option<String>> {
    if file(name, "ko").exists() {
        return Ok(None);
    }
    if let Ok(why) = fs::read_to_string(file(name, "failed")) {
        bail!("{why}");
    }
    match fs::read_to_string(file(name, "absent")) {
        Ok(why) => Ok(Some(why)),
        Err(_) => bail!(
            "module {name}: not in this guest; `cargo xtask test` puts it there, or `cargo xtask \
             vm --test-modules`"
        ),
    }
}

/// A module that is in the kernel until this is dropped.
#[derive(Debug)]
pub struct Inserted {
    name: CString,
}

impl Inserted {
    /// Inserts the module that the tests call `name`; it may have another name itself.
    pub fn new(name: &str) -> Result<Self> {
        let path = file(name, "ko");
        let shown = path.display();
        let contents = fs::read(&path).with_context(|| format!("{shown}: cannot read"))?;
        let own = own_name(&contents).with_context(|| format!("{shown}: has no name"))?;
        let module = File::open(&path)?;
        let no_options = c"";
        // SAFETY: the options end with a NUL.
        let ret = unsafe {
            libc::syscall(
                libc::SYS_finit_module,
                module.as_raw_fd(),
                no_options.as_ptr(),
                0,
            )
        };
        if ret < 0 {
            return Err(io::Error::last_os_error()).context(format!("{shown}: cannot insert"));
        }
        Ok(Inserted { name: own })
    }

    /// Takes it out of the kernel; fails if something uses it.
    pub fn remove(self) -> Result<()> {
        let removed = delete(&self.name);
        let name = self.name.to_string_lossy().into_owned();
        std::mem::forget(self);
        removed.with_context(|| format!("module {name}: cannot remove"))
    }
}

impl Drop for Inserted {
    fn drop(&mut self) {
        // What uses it is of a test that has failed.
        let _ = delete(&self.name);
    }
}

fn delete(name: &CStr) -> io::Result<()> {
    // SAFETY: the name ends with a NUL.
    if unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Behind `name=` among the strings of .modinfo.
fn own_name(module: &[u8]) -> Option<CString> {
    let mut strings = module.split(|byte| *byte == 0);
    let name = strings.find_map(|string| string.strip_prefix(b"name="))?;
    CString::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_says_its_name() {
        let module = b"\x7fELF\0license=GPL\0depends=\0name=overlay\0vermagic=6.1\0";
        assert_eq!(own_name(module).as_deref(), Some(c"overlay"));
        assert_eq!(own_name(b"\x7fELF"), None);
    }
}
