//! What the tail needs of what is there already: the kinds of the namespaces, and the
//! paths of the cgroups. It is less than a whole snapshot, and goes into the tables of
//! the tail at once.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nstrace_common::kind::Kind;

use super::CGROUP_MOUNTS;
use crate::{cgroups::Cgroups, lives::Lives};

/// Notes the namespaces that some process is in, has for its children, holds open, or
/// sees mounted.
pub fn namespaces(lives: &mut Lives) {
    for process in entries(Path::new("/proc")) {
        let is_process = process
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        if !is_process {
            continue;
        }
        for place in ["ns", "fd"] {
            for link in entries(&process.join(place)) {
                note(lives, &fs::read_link(link).unwrap_or_default());
            }
        }
        let mounts = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        // The fourth field of a bind mount of nsfs is what is mounted: `net:[…]`.
        for root in mounts.lines().filter_map(|line| line.split(' ').nth(3)) {
            note(lives, Path::new(root));
        }
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn note(lives: &mut Lives, link: &Path) {
    let kind = link
        .to_str()
        .and_then(|link| link.split_once(":["))
        .and_then(|(kind, _)| Kind::from_name(kind));
    if let (Some(kind), Some(inum)) = (kind, inum(link)) {
        lives.found(kind, inum);
    }
}

/// The number in `kind:[number]`.
fn inum(link: &Path) -> Option<u32> {
    let (_, number) = link.to_str()?.split_once(":[")?;
    number.strip_suffix(']')?.parse().ok()
}

/// Notes the path of every cgroup. A cgroup's id is the number of its directory.
pub fn cgroups(cgroups: &mut Cgroups) {
    let root = CGROUP_MOUNTS
        .into_iter()
        .filter_map(|root| root.to_str().ok())
        .map(Path::new)
        .find(|root| root.join("cgroup.controllers").exists());
    let Some(root) = root else { return };
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        let Ok(metadata) = fs::metadata(&dir) else {
            continue;
        };
        let path = dir.strip_prefix(root).unwrap_or(&dir);
        let path = [b"/", path.as_os_str().as_encoded_bytes()].concat();
        cgroups.learn(metadata.ino(), &path);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
}
