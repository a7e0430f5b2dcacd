//! Makes holders for a test, one at a time.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::{HARD, Held, Place, SORTS, Sort};
use crate::kinds::{NEWIPC, NEWNET, NEWUTS};
use crate::procfs::Procfs;
use crate::sys;

/// Serves a test: on a line `make NAME` it makes a holder of that sort and prints the
/// book's lines of it as one, on `drop` it lets go of that.
pub fn run(dir: &Path) -> Result<()> {
    sys::adopt_orphans();
    let place = Place::new(Procfs::open()?, dir)?;
    let mut held: Option<Held> = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if let Some(held) = held.take() {
            held.release()?;
        }
        if let Some(name) = line.strip_prefix("make ") {
            let mut sorts = SORTS.iter().chain(&HARD);
            let found = sorts.find(|(known, _)| *known == name);
            let (_, sort) = found.with_context(|| format!("no sort {name:?}"))?;
            let made = place.make(*sort, flags_alone(*sort))?;
            println!("{}", serde_json::to_string(&made.lines)?);
            held = Some(made);
        } else {
            println!("[]");
        }
        std::io::stdout().flush()?;
        while sys::wait_any(false).is_ok_and(|child| child.is_some()) {}
    }
    if let Some(held) = held {
        held.release()?;
    }
    place.remove()
}

/// One kind, another for each sort that has a choice.
fn flags_alone(sort: Sort) -> u64 {
    match sort {
        Sort::Descriptor => NEWIPC,
        Sort::Mount => NEWNET,
        _ => NEWUTS,
    }
}
