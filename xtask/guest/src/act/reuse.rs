//! Numbers that come again: the kernel gives the lowest that is free, so whoever makes
//! and destroys namespaces has the same again soon.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, ensure};

use super::holders;
use crate::kinds::{KINDS, NEWIPC, NEWUSER, NEWUTS};
use crate::procfs::Procfs;
use crate::sys::{self, Call};

/// Enough for a namespace that dies in the background.
const ROUNDS: usize = 500;

/// For each of three kinds, makes and destroys namespaces until a number has come for
/// the second time. Prints `KIND INUM` for each, in their order.
pub fn run() -> Result<()> {
    sys::set_comm(b"reuse");
    let procfs = Procfs::open()?;
    for flag in [NEWUTS, NEWIPC, NEWUSER] {
        let kind = KINDS.iter().position(|kind| kind.flag == flag);
        let kind = kind.context("no such kind")?;
        let mut lives: BTreeMap<u32, u32> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let inum = one(&procfs, flag, kind)?;
            println!("{} {inum}", KINDS[kind].name);
            let count = lives.entry(inum).or_default();
            *count += 1;
            if *count == 2 {
                break;
            }
        }
        ensure!(
            lives.values().any(|count| *count == 2),
            "no number of {} came again in {ROUNDS} rounds",
            KINDS[kind].name
        );
    }
    Ok(())
}

/// Makes one namespace, which is gone when this returns, or soon after.
fn one(procfs: &Procfs, flag: u64, kind: usize) -> Result<u32> {
    let (mut hold, release) = sys::pipe()?;
    let mut ends = Some(release);
    let child = sys::spawn(Call::Clone, flag, || {
        ends = None;
        let _ = hold.read(&mut [0]);
        0
    });
    ensure!(child > 0, "clone: errno {}", -child);
    let inum = holders::namespaces(procfs, &child.to_string())?[kind];
    drop(ends);
    sys::wait(child)?;
    Ok(inum)
}
