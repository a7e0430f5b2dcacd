//! Files that are numbered: `trace.nst` is `trace.000001.nst`, `trace.000002.nst`, ...

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{
    cmd::{WrongWords, file::Output, trouble::unwritten},
    trace,
};

/// The files of a recording in parts.
pub struct Parts {
    path: PathBuf,
    /// The numbers of those that are there, in order.
    there: Vec<u64>,
    /// That of the one that was made last.
    made: Option<u64>,
    /// How many have come to something.
    pub begun: u64,
    /// So many stay.
    keep: Option<usize>,
}

impl Parts {
    /// Goes on behind those that are there.
    pub fn new(path: &Path, keep: Option<usize>) -> anyhow::Result<Parts> {
        if path == Path::new("-") {
            bail!(WrongWords("a pipe has no parts: say -o FILE".to_owned()));
        }
        let (dir, (stem, extension)) = (dir(path), names(path)?);
        let mut there = Vec::new();
        let entries = fs::read_dir(dir).map_err(unwritten);
        let entries = entries.with_context(|| dir.display().to_string())?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = number(&name, &stem, &extension);
            // What is something else is not ours to remove.
            there.extend(number.filter(|_| trace::is_one(&entry.path())));
        }
        there.sort_unstable();
        Ok(Parts {
            path: path.to_owned(),
            there,
            made: None,
            begun: 0,
            keep,
        })
    }

    /// Makes the next. A name that is something else's is left to that.
    pub fn next(&mut self) -> anyhow::Result<Output> {
        let mut number = self.there.last().map_or(1, |last| last + 1);
        while self.name(number)?.symlink_metadata().is_ok() {
            number += 1;
        }
        let mut output = Output::open(&self.name(number)?, "a recording")?;
        output.lock()?;
        let begun = output.begin().map_err(unwritten);
        begun.with_context(|| output.name().to_owned())?;
        self.made = Some(number);
        Ok(output)
    }

    /// The one that was made last has come to something: the oldest that are too many go.
    pub fn has_begun(&mut self) -> anyhow::Result<()> {
        self.there.extend(self.made.take());
        self.begun += 1;
        let keep = self.keep.unwrap_or(usize::MAX);
        let many = self.there.len().saturating_sub(keep);
        for number in self.there.drain(..many).collect::<Vec<_>>() {
            let name = self.name(number)?;
            match fs::remove_file(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(unwritten(error).context(name.display().to_string()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn name(&self, number: u64) -> anyhow::Result<PathBuf> {
        let (stem, extension) = names(&self.path)?;
        let mut name = stem;
        name.push(format!(".{number:06}"));
        name.push(extension);
        Ok(self.path.with_file_name(name))
    }
}

fn dir(path: &Path) -> &Path {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// What stands before the number, and what behind it.
fn names(path: &Path) -> anyhow::Result<(OsString, OsString)> {
    let Some(stem) = path.file_stem() else {
        let name = path.display();
        bail!(WrongWords(format!(
            "{name}: it is no name of a file: say -o FILE"
        )));
    };
    let mut behind = OsString::new();
    if let Some(extension) = path.extension() {
        behind.push(".");
        behind.push(extension);
    }
    Ok((stem.to_owned(), behind))
}

fn number(name: &OsStr, stem: &OsStr, extension: &OsStr) -> Option<u64> {
    let name = name.as_encoded_bytes();
    let rest = name
        .strip_prefix(stem.as_encoded_bytes())?
        .strip_prefix(b".")?;
    let digits = rest.strip_suffix(extension.as_encoded_bytes())?;
    let is_number = digits.len() >= 6 && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| is_number)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn parts_go_on_behind_those_that_are_there_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| dir.path().join(name);
        for name in [
            "t.000007.nst",
            "t.000009.nst",
            "t.7.nst",
            "t.nst",
            "u.000011.nst",
            "t.000001x.nst",
        ] {
            fs::write(of(name), b"nst\x01").unwrap();
        }
        fs::write(of("t.000008.nst"), "precious").unwrap();
        std::os::unix::fs::symlink("t.000008.nst", of("t.000010.nst")).unwrap();
        let mut parts = Parts::new(&of("t.nst"), Some(2)).unwrap();
        for _ in 0..2 {
            let mut part = parts.next().unwrap();
            part.write_all(b"nst\x01").unwrap();
            parts.has_begun().unwrap();
        }
        // Nothing comes of it.
        drop(parts.next().unwrap());
        assert_eq!(fs::read(of("t.000008.nst")).unwrap(), b"precious");
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "t.000001x.nst",
                "t.000008.nst",
                "t.000010.nst",
                "t.000011.nst",
                "t.000012.nst",
                "t.7.nst",
                "t.nst",
                "u.000011.nst"
            ]
        );
    }

    #[test]
    fn a_name_without_an_extension_has_parts_too() {
        let parts = Parts {
            path: "/tmp/trace".into(),
            there: Vec::new(),
            made: None,
            begun: 0,
            keep: None,
        };
        assert_eq!(parts.name(12).unwrap(), Path::new("/tmp/trace.000012"));
    }
}
