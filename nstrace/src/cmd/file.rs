//! Files that commands write: for their owner alone, and not what somebody else put there.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, TryLockError},
    io::{self, IsTerminal as _, Write},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, unlinkat},
    process::geteuid,
};

use super::{
    WrongWords, dir,
    trouble::{self, LINK, unwritten},
};

/// Where something is written to: a file, or standard output.
pub struct Output {
    /// None for standard output.
    file: Option<File>,
    name: String,
    /// Whether the file is there for this alone, and nothing has been written to it.
    is_new: bool,
    /// What has its name only when it is whole.
    unfinished: Option<Unfinished>,
}

impl Output {
    /// Makes the file, for its owner alone. A symbolic link is not followed: somebody else
    /// may have put it there.
    ///
    /// `-` is standard output; `what` it will be, if that is not for a terminal.
    pub fn open(path: &Path, what: &str) -> anyhow::Result<Output> {
        let name = trouble::name(path, "output");
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                bail!(WrongWords(format!(
                    "{what} is not for a terminal: say -o FILE, or use a pipe"
                )));
            }
            return Ok(Output {
                file: None,
                name,
                is_new: false,
                unfinished: None,
            });
        }
        let (file, is_new) = open(path).with_context(|| name.clone())?;
        Ok(Output {
            file: Some(file),
            name,
            is_new,
            unfinished: None,
        })
    }

    /// The same for what is of use only when it is whole: until [`Output::finish`] a file has
    /// another name, and what has its own stays as it is.
    pub fn open_whole(path: &Path, what: &str) -> anyhow::Result<Output> {
        let found = fs::symlink_metadata(path).map(|found| found.file_type());
        let is_plain = match &found {
            Ok(found) => found.is_file(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let Some(name) = path.file_name().filter(|name| is_plain && *name != "-") else {
            if found.is_ok_and(|found| found.is_symlink()) {
                bail!("{}: {LINK}", path.display());
            }
            return Output::open(path, what);
        };
        let shown = path.display().to_string();
        let made = dir::open(path.parent().unwrap_or(Path::new("")))
            .and_then(|dir| Unfinished::make(dir, name))
            .and_then(|unfinished| Ok((unfinished.file()?, unfinished)));
        let (file, unfinished) = made.map_err(unwritten).with_context(|| shown.clone())?;
        Ok(Output {
            file: Some(file),
            name: shown,
            is_new: false,
            unfinished: Some(unfinished),
        })
    }

    /// It is whole: it has its name from now on.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        match self.unfinished.take() {
            Some(unfinished) => unfinished.finish(),
            None => Ok(()),
        }
    }

    /// Another writer to the same.
    pub fn writer(&self) -> io::Result<Box<dyn Write>> {
        Ok(match &self.file {
            Some(file) => Box::new(file.try_clone()?),
            None => Box::new(io::stdout().lock()),
        })
    }

    /// Keeps others from writing to it at the same time, and tells readers that somebody does.
    pub fn lock(&self) -> anyhow::Result<()> {
        // The lock is that of the open file, whichever descriptor it has.
        let file = match &self.file {
            Some(file) => file.try_clone(),
            None => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        };
        match file.map(|file| file.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => bail!(
                "{}: another nstrace writes it: say another -o FILE",
                self.name
            ),
            // Where there are no locks, there is nobody to be kept out.
            _ => Ok(()),
        }
    }

    /// It will be written to: what was in the file goes.
    pub fn begin(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) if file.metadata()?.is_file() => {
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.set_len(0)
            }
            _ => Ok(()),
        }
    }

    /// Fails if it is what is read.
    pub fn is_not(&self, input: &Path) -> anyhow::Result<()> {
        let of = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let own = match self.file {
            Some(_) => fs::metadata(&self.name).ok().map(of),
            None => None,
        };
        let read = fs::metadata(input).ok().map(of);
        if own.is_some() && own == read {
            bail!(WrongWords(format!(
                "{}: it is what is read, too: say another -o FILE",
                self.name
            )));
        }
        Ok(())
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a file, not standard output.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Nothing has come of it: a file goes.
    pub fn remove(&self) {
        if let Some(file) = &self.file
            && file.metadata().is_ok_and(|meta| meta.is_file())
        {
            let _ = fs::remove_file(&self.name);
        }
    }

    /// Cuts off what is behind so many bytes, if it can be cut.
    pub fn cut(&self, len: u64) {
        if let Some(file) = &self.file {
            // Who reads it finds out in any case.
            let _ = file.set_len(len);
        }
    }
}

/// A directory in which files are made: each under another name, which it loses when all are
/// whole. If it was made for them and none is, it is removed.
pub struct Dir {
    made: Option<PathBuf>,
    dir: OwnedFd,
    name: String,
}

impl Dir {
    /// Opens a directory; makes it, for its owner alone, if it is not there. A symbolic link
    /// is not followed.
    pub fn open(path: &Path) -> anyhow::Result<Dir> {
        // With a slash behind it, a link would be followed.
        let path: PathBuf = path.components().collect();
        let name = path.display().to_string();
        let (dir, is_made) = make_dir(&path).with_context(|| name.clone())?;
        let made = is_made.then_some(path);
        Ok(Dir { made, dir, name })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes a file that will be called so, for its owner alone.
    pub fn make(&self, name: &str) -> io::Result<Unfinished> {
        Unfinished::make(self.dir.try_clone()?, OsStr::new(name))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            // It is left if something is in it.
            let _ = fs::remove_dir(made);
        }
    }
}

/// Opens a file to write to, for its owner alone; says whether it is new.
fn open(path: &Path) -> anyhow::Result<(File, bool)> {
    let Some((dir, name)) = dir::parent(path).map_err(unwritten)? else {
        return Err(unwritten(io::ErrorKind::IsADirectory.into()));
    };
    let open = |how| openat(&dir, name, WRITE | how, OWN).map_err(io::Error::from);
    match open(OFlags::CREATE | OFlags::EXCL) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        new => return Ok((File::from(new.map_err(unwritten)?), true)),
    }
    let file = File::from(open(OFlags::empty()).map_err(unwritten)?);
    let found = file.metadata().map_err(unwritten)?;
    if found.is_file() && found.uid() != geteuid().as_raw() {
        bail!(
            "it is a file of uid {}, who could read it: remove it first, or say another FILE",
            found.uid()
        );
    }
    Ok((file, false))
}

/// Opens a directory, and makes it for its owner alone if it is not there, which it says.
fn make_dir(path: &Path) -> anyhow::Result<(OwnedFd, bool)> {
    let Some((parent, name)) = dir::parent(path).map_err(unwritten)? else {
        return Ok((dir::open(path).map_err(unwritten)?, false));
    };
    let made = mkdirat(&parent, name, Mode::RWXU).map_err(io::Error::from);
    let is_made = match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        made => made.map(|()| true).map_err(unwritten)?,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let dir = openat(&parent, name, flags, Mode::empty());
    let dir = dir.map_err(|error| match path.is_symlink() {
        true => anyhow::anyhow!(LINK),
        false => unwritten(error.into()),
    });
    Ok((dir?, is_made))
}

const WRITE: OFlags = OFlags::WRONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// For its owner alone.
const OWN: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file that is being written; if it comes to nothing, it is removed.
pub struct Unfinished {
    dir: OwnedFd,
    file: File,
    /// What it is called until it is whole.
    temporary: OsString,
    name: OsString,
}

impl Unfinished {
    /// Makes a file in a directory, for its owner alone.
    fn make(dir: OwnedFd, name: &OsStr) -> io::Result<Unfinished> {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", std::process::id()));
        // What an nstrace of that process id has left behind.
        let _ = unlinkat(&dir, &temporary, AtFlags::empty());
        let file = openat(&dir, &temporary, WRITE | OFlags::CREATE | OFlags::EXCL, OWN)?;
        Ok(Unfinished {
            dir,
            file: file.into(),
            temporary,
            name: name.to_owned(),
        })
    }

    /// Another descriptor of it, to write to.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives it its name; what has that already is replaced, be it a symbolic link.
    pub fn finish(self) -> io::Result<()> {
        Ok(renameat(&self.dir, &self.temporary, &self.dir, &self.name)?)
    }
}

impl Drop for Unfinished {
    /// Once it has its name, there is nothing under the other.
    fn drop(&mut self) {
        let _ = unlinkat(&self.dir, &self.temporary, AtFlags::empty());
    }
}

impl Drop for Output {
    /// What nothing was written to leaves no file.
    fn drop(&mut self) {
        if self.is_new {
            let _ = fs::remove_file(&self.name);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.file {
            Some(file) => file.write(bytes),
            None => io::stdout().write(bytes),
        };
        self.is_new &= !written.as_ref().is_ok_and(|len| *len > 0);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.flush(),
            None => io::stdout().flush(),
        }
    }
}
