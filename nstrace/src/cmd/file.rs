//! Files that commands write: for their owner alone, and not what somebody else put there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, bail};

/// Where something is written to: a file, or standard output.
pub struct Output {
    /// None for standard output.
    file: Option<File>,
    name: String,
    /// Whether the file is there for this alone, and nothing is in it yet.
    is_new: bool,
}

impl Output {
    /// Makes the file, for its owner alone. A symbolic link is not followed: somebody else
    /// may have put it there.
    ///
    /// `-` is standard output; `what` it will be, if that is not for a terminal.
    pub fn open(path: &Path, what: &str) -> anyhow::Result<Output> {
        let name = path.display().to_string();
        if name == "-" {
            if io::stdout().is_terminal() {
                bail!("{what} is not for a terminal: say -o FILE, or use a pipe");
            }
            return Ok(Output {
                file: None,
                name,
                is_new: false,
            });
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let new = options.open(path);
        let is_new = new.is_ok();
        let file = match new {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                options.create_new(false).open(path)
            }
            new => new,
        };
        let file = file.map_err(|error| {
            let is_link = error.raw_os_error() == Some(libc::ELOOP);
            let error = anyhow::Error::from(error);
            match is_link {
                true => error.context("it is a symbolic link, which is not followed"),
                false => error,
            }
        });
        let file = Some(file.with_context(|| name.clone())?);
        Ok(Output { file, name, is_new })
    }

    /// It will be written to: what was in the file goes.
    pub fn begin(&mut self) -> io::Result<()> {
        self.is_new = false;
        match &self.file {
            Some(file) if file.metadata()?.is_file() => file.set_len(0),
            _ => Ok(()),
        }
    }

    /// Fails if it is what is read.
    pub fn is_not(&self, input: &Path) -> anyhow::Result<()> {
        let of = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let own = self
            .file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .map(of);
        let read = fs::metadata(input).ok().map(of);
        if own.is_some() && own == read {
            bail!(
                "{}: it is what is read, too: say another -o FILE",
                self.name
            );
        }
        Ok(())
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Cuts off what is behind so many bytes, if it can be cut.
    pub fn cut(&self, len: u64) {
        if let Some(file) = &self.file {
            // Who reads it finds out in any case.
            let _ = file.set_len(len);
        }
    }
}

impl Drop for Output {
    /// What was not begun leaves no file.
    fn drop(&mut self) {
        if self.is_new {
            let _ = fs::remove_file(&self.name);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => io::stdout().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.flush(),
            None => io::stdout().flush(),
        }
    }
}
