//! Mistakes for the distribution's overlayfs: in one place each, the writer count of the upper
//! mount goes wrong. The places are found by text that all series have, and what is not there,
//! or more than once, is an error: a seed in another place than we think would be no truth.

use std::path::Path;

use anyhow::{Result, bail};

use crate::tree::File;

/// A mistake.
pub struct Seed {
    /// Where; the first that there is.
    files: &'static [&'static str],
    /// Before what; the first that there is.
    before: &'static [&'static str],
    text: &'static str,
}

/// Gives back what copy-up has given back already: -1 for each file that is copied up.
pub const COPY_UP_DROP: Seed = Seed {
    files: &["copy_up.c"],
    before: &["\t\tovl_copy_up_end(dentry);\n\t}\n"],
    text: "\t\tovl_drop_write(dentry);\n",
};

/// Forgets to give back when an extended attribute was removed: +1 for each.
pub const XATTR_LEAK: Seed = Seed {
    // In a file of its own from v6.7.
    files: &["xattrs.c", "inode.c"],
    before: &[
        // v6.7: write access is given back before the times are copied.
        "\tovl_drop_write(dentry);\n\n\t/* copy c/mtime */\n",
        "\t/* copy c/mtime */\n",
    ],
    text: "\tif (!value && !err)\n\t\treturn 0;\n",
};

impl Seed {
    /// Puts the mistake into a source.
    pub fn plant(&self, source: &mut [File]) -> Result<()> {
        let has = |name: &&&str| source.iter().any(|(path, _)| path.ends_with(name));
        let Some(name) = self.files.iter().find(has) else {
            bail!("no source file {}", self.files.join(" or "));
        };
        for (path, contents) in source.iter_mut() {
            if path.ends_with(name) {
                let text = String::from_utf8_lossy(contents);
                *contents = self.plant_in(&text, path)?.into_bytes();
            }
        }
        Ok(())
    }

    fn plant_in(&self, text: &str, path: &Path) -> Result<String> {
        let place = self.before.iter().find(|place| text.contains(**place));
        let Some((before, after)) = place.and_then(|place| text.split_once(place)) else {
            bail!("{}: has no place for a seeded mistake", path.display());
        };
        let place = &text[before.len()..text.len() - after.len()];
        if after.contains(place) {
            bail!("{}: has two places for a seeded mistake", path.display());
        }
        Ok([before, self.text, place, after].concat())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const SEED: Seed = Seed {
        files: &["new.c", "old.c"],
        before: &["\tend();\n\n", "\tend();\n"],
        text: "\twrong();\n",
    };

    fn plant(name: &str, text: &str) -> Result<String> {
        let mut source = [(PathBuf::from(name), text.as_bytes().to_vec())];
        SEED.plant(&mut source)?;
        let [(_, contents)] = source;
        Ok(String::from_utf8_lossy(&contents).into_owned())
    }

    #[test]
    fn mistake_is_before_its_place() {
        let planted = plant("fs/old.c", "\tbegin();\n\tend();\n}\n").unwrap();
        assert_eq!(planted, "\tbegin();\n\twrong();\n\tend();\n}\n");
    }

    #[test]
    fn place_that_is_not_there_or_twice_is_an_error() {
        for text in ["\tbegin();\n", "\tend();\n}\n\tend();\n}\n"] {
            assert!(plant("old.c", text).is_err(), "{text}");
        }
        assert!(plant("other.c", "\tend();\n").is_err());
    }
}
