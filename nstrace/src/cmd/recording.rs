//! A recording that is read.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::Context as _;

use super::output::say;
use crate::trace::{Damage, Item, Reader};

/// Reads all of it, from standard input if the path is `-`, and says what of it cannot be
/// read. An error of `each` ends it.
pub fn read(path: &Path, mut each: impl FnMut(Item) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let name = path.display();
    let input: Box<dyn Read> = match path.as_os_str().as_encoded_bytes() {
        b"-" => Box::new(io::stdin().lock()),
        _ => Box::new(File::open(path).with_context(|| format!("{name}"))?),
    };
    let mut reader = Reader::new(input);
    while let Some(item) = reader.read().with_context(|| format!("{name}"))? {
        if let Item::Damage(damage) = item {
            say(&format!("{name}: {}", told(damage)));
        }
        each(item)?;
    }
    Ok(())
}

/// What cannot be read, in words.
pub fn told(damage: Damage) -> String {
    match damage {
        Damage::Skipped { offset, len } => {
            format!("{len} bytes at {offset} are damaged and were left out")
        }
        Damage::Cut { offset, len: 0 } => {
            format!("the recording was cut off at byte {offset}: its end is missing")
        }
        Damage::Cut { offset, len } => format!(
            "the recording was cut off: {len} bytes at {offset} are a part of what came next"
        ),
    }
}
