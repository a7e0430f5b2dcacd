//! Directories that are reached through no symbolic link of somebody else's making.
//!
//! The kernel keeps such links from being followed where they are the last of a path, and in
//! directories as `/tmp` (fs/namei.c, may_follow_link). Here each on the way counts.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, openat, readlinkat},
    io::Errno,
    process::geteuid,
};

/// As many as the kernel follows (include/linux/namei.h, `MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Opens a directory, whose files need not be listed. Links of the user's own and of root's
/// are followed.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let start = |path| openat(CWD, path, flags | OFlags::DIRECTORY, Mode::empty());
    let mut dir = start(".")?;
    let mut left: Vec<OsString> = backwards(path);
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == "/" {
            dir = start("/")?;
            continue;
        }
        let found = openat(&dir, &name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            dir = found;
            continue;
        }
        if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
            return Err(io::Error::other(format!(
                "{} is a symbolic link that uid {} has made, and is not followed: say what it \
                 points to",
                name.display(),
                stat.st_uid
            )));
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if fstatfs(&found)?.f_type == PROC_SUPER_MAGIC {
            // /proc/PID/root leads elsewhere than it reads.
            dir = openat(&dir, &name, flags | OFlags::DIRECTORY, Mode::empty())?;
            continue;
        }
        let target = readlinkat(&found, "", Vec::new())?;
        left.extend(backwards(Path::new(OsStr::from_bytes(target.as_bytes()))));
    }
    // The last may be none.
    Ok(openat(&dir, ".", flags | OFlags::DIRECTORY, Mode::empty())?)
}

/// The directory that a path's last name is in, and that name; none if it has none.
pub fn parent(path: &Path) -> io::Result<Option<(OwnedFd, &OsStr)>> {
    let Some(name) = path.file_name() else {
        return Ok(None);
    };
    let dir = open(path.parent().unwrap_or(Path::new("")))?;
    Ok(Some((dir, name)))
}

/// The names of a path, the last first.
fn backwards(path: &Path) -> Vec<OsString> {
    let names = path.components().map(Component::as_os_str);
    names.rev().map(OsStr::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::readlink;

    use super::*;

    /// Where a descriptor leads, as the kernel says.
    fn place(dir: &OwnedFd) -> OsString {
        use std::os::fd::AsRawFd as _;
        let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let place = readlink(link, Vec::new()).expect("a link");
        OsStr::from_bytes(place.as_bytes()).to_owned()
    }

    #[test]
    fn a_directory_is_the_one_that_the_kernel_finds() {
        let tmp = tempfile::tempdir().expect("a directory");
        let at = |name: &str| tmp.path().join(name);
        fs::create_dir_all(at("a/b")).expect("directories");
        symlink("a/b", at("relative")).expect("a link");
        symlink(at("a"), at("absolute")).expect("a link");
        symlink("../../absolute/../relative", at("a/b/back")).expect("a link");
        symlink("loop", at("loop")).expect("a link");
        fs::write(at("file"), "").expect("a file");
        for name in [
            "",
            "a",
            "./a//b/",
            "relative",
            "absolute/b",
            "a/b/back",
            "a/..",
        ] {
            let found = fs::canonicalize(at(name)).expect("it is there");
            assert_eq!(place(&open(&at(name)).expect(name)), found.as_os_str());
        }
        for path in ["/", ".", "/proc/self/cwd", "/proc/self/root/proc"] {
            let found = fs::canonicalize(path).expect("it is there");
            assert_eq!(
                place(&open(Path::new(path)).expect(path)),
                found.as_os_str()
            );
        }
        for name in ["loop", "loop/x", "file", "file/x", "none"] {
            let kernel = fs::File::open(at(name).join("."));
            let (kernel, own) = (kernel.map(drop), open(&at(name)).map(drop));
            let errno = |result: io::Result<()>| result.expect_err(name).raw_os_error();
            assert_eq!(errno(own), errno(kernel), "{name}");
        }
    }

    #[test]
    fn a_link_of_somebody_else_leads_nowhere() {
        if !geteuid().is_root() {
            return;
        }
        let tmp = tempfile::tempdir().expect("a directory");
        let link = tmp.path().join("link");
        symlink("/etc", &link).expect("a link");
        std::os::unix::fs::lchown(&link, Some(1000), None).expect("root may");
        for path in [link.clone(), link.join("ssl")] {
            let error = open(&path).expect_err("it is another's");
            assert!(
                error
                    .to_string()
                    .starts_with("link is a symbolic link that uid 1000 has made")
            );
        }
    }
}
