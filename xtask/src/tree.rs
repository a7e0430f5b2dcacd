//! Small trees of files in memory: the sources of modules, to be changed and compared.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file's path below the tree's root, and what is in it.
pub type File = (PathBuf, Vec<u8>);

/// All files below a directory.
pub fn read(dir: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    read_below(dir, dir, &mut files)?;
    Ok(files)
}

fn read_below(root: &Path, dir: &Path, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{}: cannot list", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read_below(root, &path, files)?;
            continue;
        }
        let contents =
            fs::read(&path).with_context(|| format!("{}: cannot read", path.display()))?;
        files.push((path.strip_prefix(root)?.to_owned(), contents));
    }
    Ok(())
}

/// Whether all files are in a directory as they are here; it may have others.
pub fn is_in(files: &[File], dir: &Path) -> bool {
    let is_same =
        |(name, contents): &File| fs::read(dir.join(name)).is_ok_and(|there| there == *contents);
    files.iter().all(is_same)
}

/// Makes a directory that has these files and nothing else.
pub fn write(files: &[File], dir: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(dir);
    for (name, contents) in files {
        put(&dir.join(name), contents)?;
    }
    Ok(())
}

/// Writes a file, and makes the directories above it.
pub fn put(path: &Path, contents: &[u8]) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, contents))
        .with_context(|| format!("{}: cannot write", path.display()))
}
