//! What keeps a file system: each mount of it, in every namespace, and what else there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use foldhash::{HashMap, HashSet};

use super::{
    Device, FsPath, Mount, MountKey, MountNs, Mounts, Name, covering, on, order,
    uses::{Search, Use, Uses},
};

/// A block device: the one that was asked about, or one that is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, or that of a file system on it.
    pub device: Device,
    /// Its name, or the type of that file system; empty if there is none.
    pub name: Name,
}

/// A loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Its name.
    pub name: Name,
    /// Its number.
    pub device: Device,
    /// The file that it is made of, by its path when it was.
    pub file: Name,
}

/// Where swapped memory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// In this file.
    pub path: Name,
    /// Which is this block device.
    pub device: Option<Device>,
}

/// Which mounts of a file system are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// Those of this part of it, as was mounted where it was asked for.
    Part(Name),
    /// None of it, but those that lie on this file of it, in other namespaces or by other
    /// paths: it is no mount point here.
    On(FsPath),
}

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The words.
    pub asked: Name,
    /// The mount point in the asker's namespace that it is, if it is one.
    pub point: Option<Name>,
    /// The file system; if it is a block device, also what is made of it.
    pub parts: Vec<Part>,
    /// Whether it is a block device.
    pub is_block: bool,
    /// Which of its mounts are meant.
    pub scope: Scope,
}

impl Subject {
    /// Whether it is on this device.
    pub fn has(&self, device: Device) -> bool {
        self.parts.iter().any(|part| part.device == device)
    }

    /// The mounts that are meant, in the order of [`Mounts`].
    pub fn mounts(&self, mounts: &Mounts) -> Vec<MountKey> {
        let of_it = |mount: &Mount| self.has(mount.device);
        match &self.scope {
            Scope::All => keys(mounts, of_it),
            Scope::Part(root) => keys(mounts, |mount| of_it(mount) && mount.root == *root),
            Scope::On(file) => on(mounts, file),
        }
    }

    /// What to look for among the files of tasks.
    pub fn search(&self, mounts: &Mounts) -> Search {
        let meant = self.mounts(mounts);
        let mut search = Search {
            devices: self.parts.iter().map(|part| part.device).collect(),
            ..Search::default()
        };
        if self.is_block {
            search.blocks = search.devices.clone();
        }
        let each = || meant.iter().filter_map(|key| mounts.get(*key));
        if self.scope != Scope::All {
            search.mounts = each().map(|mount| mount.id).collect();
            search.devices = each().map(|mount| mount.device).collect();
        }
        for mount in below(&meant, mounts) {
            search.below.insert(mount.id);
            search.below_devices.insert(mount.device);
            search.asks_mapped |= &*mount.fs == b"overlay";
        }
        search.asks_mapped |= each().any(|mount| &*mount.fs == b"overlay");
        search
    }
}

/// The mounts below some, of whatever file systems.
fn below<'a>(meant: &[MountKey], mounts: &'a Mounts) -> Vec<&'a Mount> {
    let mut below = Vec::new();
    for meant in meant.chunk_by(|one, next| one.ns == next.ns) {
        let ns = meant.first().and_then(|key| mounts.namespaces.get(key.ns));
        let Some(ns) = ns else { continue };
        let own: HashSet<usize> = meant.iter().map(|key| key.mount).collect();
        let order = order(ns);
        // Up to there, what comes is below one that is meant.
        let mut end = 0;
        for (at, placed) in order.iter().enumerate() {
            if at < end {
                below.extend(ns.mounts.get(placed.mount));
            } else if own.contains(&placed.mount) {
                end = at + 1 + placed.below;
            }
        }
    }
    below
}

fn keys(mounts: &Mounts, wants: impl Fn(&Mount) -> bool) -> Vec<MountKey> {
    let all = mounts.iter().filter(|(_, mount)| wants(mount));
    all.map(|(key, _)| key).collect()
}

/// A mount, and what keeps it.
#[derive(Clone, Debug)]
pub struct Kept<'a> {
    /// It.
    pub key: MountKey,
    /// The same.
    pub mount: &'a Mount,
    /// What it is mounted on, if that is seen: it is the root of its namespace if not.
    pub parent: Option<&'a Mount>,
    /// Whether another mount lies on all of it.
    pub is_covered: bool,
    /// The mount that lies on a directory above it, if it cannot be come to for that.
    pub hidden_by: Option<&'a Mount>,
    /// The first few of what is mounted below it.
    pub below: Vec<&'a Mount>,
    /// How many there are.
    pub below_len: usize,
    /// Who uses these, if it is not itself below another that is meant.
    pub below_uses: Vec<&'a Use>,
    /// Who uses it.
    pub uses: Vec<&'a Use>,
    /// Its place among the mounts of its namespace, each before those below it.
    at: usize,
}

impl Kept<'_> {
    /// Whether it is mounted somewhere below another.
    pub fn is_below(&self, other: &Kept) -> bool {
        let below = other.at + 1..=other.at + other.below_len;
        self.key.ns == other.key.ns && below.contains(&self.at)
    }

    /// Whether nothing is seen that keeps it from being unmounted.
    pub fn is_unused(&self) -> bool {
        self.uses.is_empty() && self.below_len == 0 && self.parent.is_some()
    }
}

/// So many of what is mounted below a mount are named.
const BELOW_MAX: usize = 16;

/// A directory of a file system that is a layer of an overlay, if its options say so rightly.
#[derive(Clone, Debug)]
pub struct Layer<'a> {
    /// A mount of the overlay.
    pub key: MountKey,
    /// The same.
    pub mount: &'a Mount,
    /// `lowerdir`, `upperdir` or `workdir`.
    pub option: &'static str,
    /// The directory.
    pub dir: Vec<u8>,
}

/// The mounts that are meant, with what keeps each.
pub fn kept<'a>(subject: &Subject, mounts: &'a Mounts, uses: &'a Uses) -> Vec<Kept<'a>> {
    let mut by_mount: HashMap<u32, Vec<&Use>> = HashMap::default();
    for one in uses.uses.iter().filter(|one| one.mount != 0) {
        by_mount.entry(one.mount).or_default().push(one);
    }
    let mut kept = Vec::new();
    let meant = subject.mounts(mounts);
    for meant in meant.chunk_by(|one, next| one.ns == next.ns) {
        let ns = meant.first().and_then(|key| mounts.namespaces.get(key.ns));
        if let Some(ns) = ns {
            in_namespace(ns, meant, &by_mount, &mut kept);
        }
    }
    kept
}

/// Those of one namespace.
fn in_namespace<'a>(
    ns: &'a MountNs,
    meant: &[MountKey],
    uses: &HashMap<u32, Vec<&'a Use>>,
    kept: &mut Vec<Kept<'a>>,
) {
    let order = order(ns);
    let mut places = vec![0; ns.mounts.len()];
    for (at, placed) in order.iter().enumerate() {
        places[placed.mount] = at;
    }
    let ids: HashMap<u32, &Mount> = ns.mounts.iter().map(|mount| (mount.id, mount)).collect();
    let parent = |mount: &Mount| {
        let parent = ids.get(&mount.parent).copied();
        parent.filter(|parent| parent.id != mount.id)
    };
    let covers = |mount: &&Mount| parent(mount).is_some_and(|on| on.point == mount.point);
    let covering = ns.mounts.iter().filter(covers);
    let covered: HashSet<u32> = covering.map(|mount| mount.parent).collect();
    // Those that are not meant themselves, by their places.
    let own: HashSet<usize> = meant.iter().map(|key| key.mount).collect();
    let others = ns.mounts.iter().enumerate();
    let used = others.filter(|(at, _)| !own.contains(at));
    let used: BTreeMap<usize, &Vec<&Use>> = used
        .filter_map(|(at, mount)| Some((places[at], uses.get(&mount.id)?)))
        .collect();
    let mut tops = BTreeSet::new();
    let mut end = 0;
    for (at, placed) in order.iter().enumerate() {
        if at >= end && own.contains(&placed.mount) {
            tops.insert(at);
            end = at + 1 + placed.below;
        }
    }
    let hiding = Hiding::new(ns);
    for key in meant {
        let Some(mount) = ns.mounts.get(key.mount) else {
            continue;
        };
        let at = places[key.mount];
        let below_len = order[at].below;
        // Of those on each other, the first.
        let is_first = tops.range(..=at).next_back() == Some(&at);
        let below_uses = used.range(at + 1..=at + below_len).filter(|_| is_first);
        let below = order[at + 1..=at + below_len].iter().take(BELOW_MAX);
        kept.push(Kept {
            key: *key,
            mount,
            parent: parent(mount),
            is_covered: covered.contains(&mount.id),
            hidden_by: hiding.of(mount, &ids),
            below: below.map(|placed| &ns.mounts[placed.mount]).collect(),
            below_len,
            below_uses: below_uses.flat_map(|(_, uses)| *uses).copied().collect(),
            at,
            uses: uses.get(&mount.id).cloned().unwrap_or_default(),
        });
    }
}

/// What lies on what, in a namespace.
struct Hiding<'a> {
    /// The mounts on each mount, by the id of that, and their points.
    on: HashMap<u32, BTreeMap<&'a [u8], &'a Mount>>,
}

impl<'a> Hiding<'a> {
    fn new(ns: &'a MountNs) -> Hiding<'a> {
        let mut on: HashMap<u32, BTreeMap<&[u8], &Mount>> = HashMap::default();
        for mount in ns.mounts.iter().filter(|mount| mount.id != mount.parent) {
            on.entry(mount.parent)
                .or_default()
                .insert(&mount.point, mount);
        }
        Hiding { on }
    }

    /// What lies on a directory above a mount: on the mount that it is on, which was there before,
    /// or above that.
    fn of(&self, mount: &'a Mount, ids: &HashMap<u32, &'a Mount>) -> Option<&'a Mount> {
        let mut mount = mount;
        /// So far up it is looked: mounts on each other may be any number, and a race could make a
        /// ring of them.
        const LEVELS: usize = 128;
        for _ in 0..LEVELS {
            let parent = ids
                .get(&mount.parent)
                .filter(|parent| parent.id != mount.id)?;
            let beside = self.on.get(&parent.id)?;
            let above = Path::new(OsStr::from_bytes(&mount.point))
                .ancestors()
                .skip(1);
            let mut above = above.map(|dir| dir.as_os_str().as_bytes());
            let own = above.find_map(|dir| beside.get(dir));
            if let Some(hiding) = own.filter(|hiding| hiding.id != mount.id) {
                return Some(hiding);
            }
            mount = parent;
        }
        None
    }
}

/// The overlays that have layers on what is meant, found by the paths in their options as they
/// are in one namespace, the asker's. Paths of another one, or of another time, lead astray.
pub fn layers<'a>(subject: &Subject, mounts: &'a Mounts, own: Option<usize>) -> Vec<Layer<'a>> {
    let Some(ns) = own.and_then(|own| mounts.namespaces.get(own)) else {
        return Vec::new();
    };
    let mut known: HashSet<Device> = HashSet::default();
    let mut layers = Vec::new();
    let overlays = mounts.iter().filter(|(_, mount)| &*mount.fs == b"overlay");
    for (key, mount) in overlays {
        if subject.has(mount.device) || !known.insert(mount.device) {
            continue;
        }
        let is_on_it = |dir: &Vec<u8>| {
            let lies_on = covering(ns, dir).and_then(|at| ns.mounts.get(at));
            lies_on.is_some_and(|mount| subject.has(mount.device))
        };
        let found = dirs(mount).find(|(_, dir)| is_on_it(dir));
        layers.extend(found.map(|(option, dir)| Layer {
            key,
            mount,
            option,
            dir,
        }));
    }
    layers
}

/// The directories that an overlay is made of, the upper one first.
fn dirs(overlay: &Mount) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let options: Vec<Vec<u8>> = super::info::options(&overlay.super_options).collect();
    let of = move |name: &'static str| {
        let values = options.iter().filter_map(move |option| {
            let value = option.strip_prefix(name.as_bytes())?;
            value.strip_prefix(b"+").unwrap_or(value).strip_prefix(b"=")
        });
        // Lower ones are a list; a colon in a name has a backslash before it.
        let dirs = values.flat_map(|value| value.split(|byte| *byte == b':'));
        let dirs: Vec<Vec<u8>> = dirs.map(<[u8]>::to_vec).collect();
        dirs.into_iter().map(move |dir| (name, dir))
    };
    ["upperdir", "workdir", "lowerdir"].into_iter().flat_map(of)
}

/// Whether a file of the asker's namespace, by its path, is on what is meant.
pub fn is_on(subject: &Subject, mounts: &Mounts, own: Option<usize>, path: &[u8]) -> bool {
    let meant = subject.mounts(mounts);
    let found = own.and_then(|ns| {
        let mount = covering(mounts.namespaces.get(ns)?, path)?;
        Some(MountKey { ns, mount })
    });
    found.is_some_and(|key| meant.contains(&key))
}
