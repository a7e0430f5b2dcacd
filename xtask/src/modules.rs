//! Which module files a module needs, in the order to insert them.
//!
//! From the modules themselves (`depends=` in .modinfo) rather than from
//! modules.dep: Debian's packages have no modules.dep, it is made when they are
//! installed, and depmod may be missing here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{elf, process};

/// A module ready to be inserted.
#[derive(Debug)]
pub struct Module {
    /// Its name with underscores, as /proc/modules has it.
    pub name: String,
    /// The uncompressed file.
    pub contents: Vec<u8>,
}

/// The modules `wanted` and all that they depend on, dependencies first.
/// Those that are in no file are in the kernel itself: they are left out when
/// something depends on them or `or_builtin` is set, and an error otherwise.
pub fn collect(dir: &Path, wanted: &[String], or_builtin: bool) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(dir, &mut files)?;
    let mut modules = Vec::new();
    for name in wanted {
        let name = canonical(name);
        if !files.contains_key(&name) && !or_builtin {
            anyhow::bail!(
                "module {name}: not among the modules of this kernel; it may be built in (see \
                 {})",
                dir.with_file_name("config").display()
            );
        }
        add(&name, &files, &mut modules)?;
    }
    Ok(modules)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, modules: &mut Vec<Module>) -> Result<()> {
    let Some(file) = files.get(name) else {
        return Ok(());
    };
    if modules.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let contents = process::decompress(file)?;
    let info = elf::section(&contents, ".modinfo")
        .with_context(|| format!("{}: no .modinfo section", file.display()))?;
    for dependency in depends(info) {
        add(&canonical(&dependency), files, modules)?;
    }
    modules.push(Module {
        name: name.to_owned(),
        contents,
    });
    Ok(())
}

/// The names behind `depends=` among the NUL-separated strings of .modinfo.
fn depends(info: &[u8]) -> Vec<String> {
    let value = info
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Finds all module files under `dir`, by canonical name.
fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{}: cannot list", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            index(&entry.path(), files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(canonical(name), entry.path());
        }
    }
    Ok(())
}

/// Files have dashes or underscores, the kernel only underscores.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_is_a_list_or_nothing() {
        assert_eq!(
            depends(b"license=GPL\0depends=stp,llc\0name=bridge\0"),
            ["stp", "llc"]
        );
        assert!(depends(b"license=GPL\0depends=\0").is_empty());
    }
}
