//! Where paths lead: which mount a path is on, and which file of a file system that is.
//!
//! A mount point is a file of the file system that it is in. In another namespace, or through
//! another mount, the same file has another path; so what is mounted on a directory, in
//! whatever namespace, is found by the path of that in its file system.

use foldhash::HashMap;

use super::{Device, Mount, MountKey, MountNs, Mounts};

/// A file, known by its path in its file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FsPath {
    /// The file system.
    pub device: Device,
    /// From the root of that.
    pub path: Vec<u8>,
}

impl FsPath {
    /// That of a path in a mount's namespace, which must be below the mount.
    pub fn of(mount: &Mount, path: &[u8]) -> Option<FsPath> {
        let rest = rest(path, &mount.point)?;
        let mut whole = mount.root.to_vec();
        if rest != b"/" {
            if whole == b"/" {
                whole.clear();
            }
            whole.extend_from_slice(rest);
        }
        Some(FsPath {
            device: mount.device,
            path: whole,
        })
    }
}

/// What of a path is below another one, with a slash before it; `/` if they are the same.
fn rest<'a>(path: &'a [u8], above: &[u8]) -> Option<&'a [u8]> {
    if above == b"/" {
        return path.starts_with(b"/").then_some(path);
    }
    match path.strip_prefix(above)? {
        b"" => Some(b"/"),
        rest => rest.starts_with(b"/").then_some(rest),
    }
}

/// The mount that a path of a namespace is on, by its name alone: links in it are not
/// followed. That is what lies on top, if it is a mount point.
pub fn covering(ns: &MountNs, path: &[u8]) -> Option<usize> {
    let is_top = |mount: &Mount| {
        let has_parent = |other: &Mount| other.id == mount.parent && other.id != mount.id;
        !ns.mounts.iter().any(has_parent)
    };
    let on_way = |mount: &&(usize, &Mount)| rest(path, &mount.1.point).is_some();
    // Of those that are on the way, few.
    let way: Vec<(usize, &Mount)> = ns
        .mounts
        .iter()
        .enumerate()
        .filter(|m| on_way(&m))
        .collect();
    let mut at = *way.iter().find(|(_, mount)| is_top(mount))?;
    // It goes from mount to mount, and is met with each once.
    for _ in 0..way.len() {
        let on_it = way
            .iter()
            .filter(|(index, mount)| mount.parent == at.1.id && *index != at.0);
        // The one that is met first: it hides what was mounted further down before.
        let Some(next) = on_it.min_by_key(|(_, mount)| mount.point.len()) else {
            break;
        };
        at = *next;
    }
    Some(at.0)
}

/// The file that a mount lies on. None for one whose parent is not seen.
pub fn point(ns: &MountNs, mount: &Mount) -> Option<FsPath> {
    let parent = ns.mounts.iter().find(|other| other.id == mount.parent)?;
    FsPath::of(parent, &mount.point)
}

/// The mounts that lie on a file, in whatever namespace.
pub fn on(mounts: &Mounts, file: &FsPath) -> Vec<MountKey> {
    let mut found = Vec::new();
    for (at, ns) in mounts.namespaces.iter().enumerate() {
        // By id, those through which the file can be seen.
        let parents: HashMap<u32, &Mount> = ns
            .mounts
            .iter()
            .filter(|mount| mount.device == file.device)
            .map(|mount| (mount.id, mount))
            .collect();
        for (mount, one) in ns.mounts.iter().enumerate() {
            let parent = parents.get(&one.parent).filter(|_| one.parent != one.id);
            let place = parent.and_then(|parent| FsPath::of(parent, &one.point));
            if place.as_ref() == Some(file) {
                found.push(MountKey { ns: at, mount });
            }
        }
    }
    found
}
