//! Paths of cgroups by their ids, and the containers that paths name.

use std::ops::Range;

use foldhash::HashMap;
use nstrace_common::wire::CGROUP_PATH;

use crate::event::Cgroup;

#[cfg(test)]
mod tests;

/// How many cgroups are remembered at least. Their ends are not reported, and a
/// machine that makes them all day must not fill the memory.
const GENERATION: usize = 16384;

/// Paths of cgroups.
///
/// Two generations: when the young one is full, it becomes the old one, and the old
/// one is forgotten. Who finds no path may look for it on the machine and
/// [`Cgroups::learn`] it again.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    young: HashMap<u64, Known>,
    old: HashMap<u64, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    path: Box<[u8]>,
    /// Where in the path the container's id is.
    container: Option<Range<usize>>,
}

impl Cgroups {
    /// Remembers the path of a cgroup, from the root of the hierarchy.
    pub fn learn(&mut self, id: u64, path: &[u8]) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&id) {
            self.old = std::mem::take(&mut self.young);
        }
        let known = Known {
            path: path.into(),
            container: find_container(path),
        };
        self.young.insert(id, known);
    }

    /// Remembers a cgroup that was made. A path that was cut is not remembered: the
    /// machine has it whole.
    pub fn made(&mut self, cgroup: &Cgroup) {
        if cgroup.path.len() < CGROUP_PATH {
            self.learn(cgroup.id, cgroup.path);
        }
    }

    fn get(&self, id: u64) -> Option<&Known> {
        self.young.get(&id).or_else(|| self.old.get(&id))
    }

    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let old = self
            .old
            .iter()
            .filter(|(id, _)| !self.young.contains_key(*id));
        let all = old.chain(&self.young);
        all.map(|(id, known)| (*id, &*known.path))
    }

    /// The path of a cgroup.
    pub fn path(&self, id: u64) -> Option<&[u8]> {
        self.get(id).map(|known| &*known.path)
    }

    /// The id of the container that the path of a cgroup names.
    pub fn container(&self, id: u64) -> Option<&[u8]> {
        let known = self.get(id)?;
        known.path.get(known.container.clone()?)
    }
}

/// The id of the container that the path of a cgroup names.
///
/// The innermost part of the path that an engine made for a container counts:
///
/// - 64 hex digits, alone or as `ENGINE-ID.scope`, `ENGINE-ID`, `…:ENGINE:ID`
///   (docker, containerd, cri-o, podman, nerdctl, and Kubernetes above them);
/// - `machine-NAME.scope`, `systemd-nspawn@NAME.service` (systemd-nspawn, libvirt;
///   NAME as systemd escapes it);
/// - `lxc.payload.NAME`, or NAME below `lxc.payload` or `lxc` (LXC, LXD, Incus).
///
/// What watches a container is not in it: conmon and `lxc.monitor.NAME`.
///
/// runc and crun, called by hand, make a cgroup of the container's own name beside
/// the units of systemd: `/demo`, `/user.slice/user-1000.slice/demo`. Nothing tells
/// it from a cgroup that somebody made for another purpose, except that systemd,
/// engines and init scripts name theirs in ways of their own. So, failing the above,
/// the first part below the root and the slices is taken, unless it is a unit or
/// such a name.
pub fn container(path: &[u8]) -> Option<&[u8]> {
    path.get(find_container(path)?)
}

/// The id of the container that a path names, as a path, if it is one of hex digits: nothing
/// of names that people chose.
pub fn id_alone(path: &[u8]) -> &[u8] {
    const ID: usize = 64;
    let is_id = |id: &&[u8]| id.len() == ID && id.iter().all(u8::is_ascii_hexdigit);
    container(path).filter(is_id).unwrap_or_default()
}

fn find_container(path: &[u8]) -> Option<Range<usize>> {
    let mut parent: &[u8] = b"";
    let mut found = None;
    let mut plain = Plain::Search;
    for range in parts(path) {
        let part = &path[range.clone()];
        let id = engine_id(part).or_else(|| {
            let below_lxc = matches!(parent, b"lxc" | b"lxc.payload");
            below_lxc.then_some(0..part.len())
        });
        if let Some(id) = id {
            found = Some(range.start + id.start..range.start + id.end);
        }
        plain = plain.next(part, range);
        parent = part;
    }
    match (found, plain) {
        (Some(id), _) => Some(id),
        (None, Plain::Found(name)) => Some(name),
        (None, Plain::Search | Plain::None) => None,
    }
}

/// The parts of a path.
fn parts(path: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    path.split(|byte| *byte == b'/')
        .map(move |part| {
            let range = start..start + part.len();
            start = range.end + 1;
            range
        })
        .filter(|range| !range.is_empty())
}

/// The search for the cgroup of a container that runc was called for by hand.
enum Plain {
    /// So far the root and slices.
    Search,
    Found(Range<usize>),
    None,
}

impl Plain {
    fn next(self, part: &[u8], range: Range<usize>) -> Plain {
        match self {
            Plain::Search if part.ends_with(b".slice") => Plain::Search,
            Plain::Search if is_unit(part) || has_other_meaning(part) => Plain::None,
            Plain::Search => Plain::Found(range),
            done @ (Plain::Found(_) | Plain::None) => done,
        }
    }
}

fn is_unit(part: &[u8]) -> bool {
    const UNITS: [&[u8]; 8] = [
        b".service",
        b".scope",
        b".mount",
        b".socket",
        b".swap",
        b".timer",
        b".path",
        b".automount",
    ];
    UNITS.iter().any(|unit| part.ends_with(unit))
}

/// Names below which engines put their containers, and those of init systems.
fn has_other_meaning(part: &[u8]) -> bool {
    const NAMES: [&[u8]; 21] = [
        b"init",
        b"system",
        b"user",
        b"machine",
        b"payload",
        b"supervisor",
        b"docker",
        b"buildkit",
        b"conmon",
        b"podman",
        b"libpod_parent",
        b"containerd",
        b"crio",
        b"kubepods",
        b"ecs",
        b"garden",
        b"lxc",
        b"lxc.payload",
        b"lxc.pivot",
        b"elogind",
        b"openrc",
    ];
    NAMES.contains(&part)
        || part.starts_with(b"lxc.monitor")
        || part.starts_with(b"openrc.")
        || part.starts_with(b"kubepods-")
}

/// Whether it is the cgroup of what watches a container.
fn watches(part: &[u8]) -> bool {
    part.starts_with(b"lxc.monitor")
        || part.starts_with(b"crio-conmon-")
        || part.starts_with(b"libpod-conmon-")
}

/// Where in a part of a path an engine's id is.
fn engine_id(part: &[u8]) -> Option<Range<usize>> {
    let between = |prefix: &[u8], suffix: &[u8]| {
        let inner = part.strip_prefix(prefix)?.strip_suffix(suffix)?;
        (!inner.is_empty()).then_some(prefix.len()..prefix.len() + inner.len())
    };
    if watches(part) {
        return None;
    }
    hex_id(part)
        .or_else(|| between(b"machine-", b".scope"))
        .or_else(|| between(b"systemd-nspawn@", b".service"))
        .or_else(|| between(b"lxc.payload.", b""))
}

/// 64 hex digits, after the engine's name if there is one.
fn hex_id(part: &[u8]) -> Option<Range<usize>> {
    const LEN: usize = 64;
    let end = part.strip_suffix(b".scope").unwrap_or(part).len();
    let start = end.checked_sub(LEN)?;
    let is_hex = part[start..end]
        .iter()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let apart = start == 0 || matches!(part[start - 1], b'-' | b':');
    (is_hex && apart).then_some(start..end)
}
