//! The mounts of every mount namespace, as the kernel tells them.
//!
//! | a namespace with | is read |
//! | --- | --- |
//! | a task whose root is its own | through that task: `/proc/TID/mountinfo`, or statmount(2) with the namespace's id and that root |
//! | tasks that all have roots of their own, or none | by a thread that enters it and ends; or, if it may not, by statmount(2) alone |
//!
//! statmount(2) is asked where it tells all that mountinfo does: Linux 6.13. On 6.11 and 6.12
//! it adds the ids that are never used again.
//!
//! A namespace that no task is in is opened where something holds it: a descriptor, a bind
//! mount, which may be in another such namespace; or by its id, or from the kernel's list of
//! mount namespaces (v6.12 fs/nsfs.c, NS_MNT_GET_NEXT).

pub mod devices;
mod internal;
mod maps;
mod place;
mod sockets;
mod statmount;
pub mod subject;
mod sys;
pub mod uses;

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use foldhash::{HashMap, HashSet};

use self::{
    place::Place,
    statmount::{Answer, Can, Ids},
};
use super::snapshot::{SnapshotError, namespaces::Opener, open_proc, sys as calls, text::Text};
use crate::mounts::{Mount, MountNs, Mounts, Names, Placed, Sight, Way, order};

/// How to read mounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// By statmount where that tells all, else from mountinfo
    #[default]
    Auto,
    /// By statmount(2)
    Statmount,
    /// From /proc/PID/mountinfo
    Mountinfo,
}

/// Why mounts are not read at all.
#[derive(Debug, thiserror::Error)]
pub enum MountsError {
    /// There is no proc.
    #[error(transparent)]
    NoProc(#[from] SnapshotError),
    /// It was asked for, and is not there.
    #[error(
        "statmount(2) does not tell all of mounts here: it does so as root from Linux 6.13 on; \
         --by mountinfo does without"
    )]
    NoStatmount,
}

/// A mount namespace whose mounts are wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its number.
    pub inum: u32,
    /// Its id, from v6.18; else 0.
    pub id: u64,
    /// The tasks in it.
    pub tids: Vec<u32>,
    /// Where it is held: open descriptors, by process.
    pub descriptors: Vec<(u32, u32)>,
    /// Bind mounts of it, by the mount namespace that they are in.
    pub mounts: Vec<(u32, Box<[u8]>)>,
}

/// Reads the mounts of these namespaces, and of those that the kernel lists beside them.
pub fn read(wanted: Vec<Wanted>, by: By) -> Result<Mounts, MountsError> {
    Ok(read_all(wanted, by, false)?.0)
}

/// The same, with a root in each namespace, by its number, from where its mounts' points
/// are paths.
pub fn read_with_roots(
    wanted: Vec<Wanted>,
    by: By,
) -> Result<(Mounts, HashMap<u32, OwnedFd>), MountsError> {
    read_all(wanted, by, true)
}

fn read_all(
    wanted: Vec<Wanted>,
    by: By,
    keeps_roots: bool,
) -> Result<(Mounts, HashMap<u32, OwnedFd>), MountsError> {
    let proc = open_proc()?;
    let opener = Opener::new(proc.as_fd()).map_err(SnapshotError::NoProc)?;
    let mut reader = Reader {
        proc: proc.as_fd(),
        opener,
        answer: Answer::new(),
        can: Can::Nothing,
        names: Names::default(),
        by,
        keeps_roots,
        holding: HashSet::default(),
        roots: HashMap::default(),
    };
    reader.try_statmount();
    if by == By::Statmount && reader.can != Can::Whole {
        return Err(MountsError::NoStatmount);
    }
    let way = match reader.can {
        Can::Whole => Way::Statmount,
        Can::Ids | Can::Nothing => Way::Mountinfo,
    };
    let mut tables = reader.all(wanted);
    // The first namespace has the lowest of both.
    tables.sort_unstable_by_key(|table| (table.id == 0, table.id, table.inum));
    Ok((Mounts::new(way, tables), reader.roots))
}

/// Opens mounts for a look.
#[derive(Debug, Default)]
pub struct Points {
    /// How many did not answer.
    hung: usize,
    /// Whether no more files could be open.
    is_full: bool,
}

impl Points {
    /// Opens one, by its point below a root in its namespace. None if it cannot be come to, as
    /// one that another is mounted on.
    pub fn open(&mut self, root: BorrowedFd, mount: &Mount) -> Option<OwnedFd> {
        let point = CString::new(&*mount.point).ok()?;
        let file = match calls::look_below(root, &point) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ask(root, point)?,
            Err(error) => {
                self.is_full |= error.raw_os_error() == Some(libc::EMFILE);
                return None;
            }
        };
        let stat = sys::stat(file.as_fd(), c"").ok()?;
        (stat.mount == mount.id).then_some(file)
    }

    /// Whether some could not be opened because too many files were open.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// What hangs is left behind by a thread of its own.
    fn ask(&mut self, root: BorrowedFd, point: CString) -> Option<OwnedFd> {
        /// So long each may take, and so many may take longer.
        const PATIENCE: Duration = Duration::from_secs(2);
        const HUNG_MAX: usize = 4;
        if self.hung >= HUNG_MAX {
            return None;
        }
        let root = root.try_clone_to_owned().ok()?;
        let (sender, opened) = mpsc::channel();
        let ask = move || {
            // Nobody may listen any more.
            let _ = sender.send(calls::ask_below(root.as_fd(), &point));
        };
        thread::Builder::new().spawn(ask).ok()?;
        let opened = opened.recv_timeout(PATIENCE);
        self.hung += usize::from(opened.is_err());
        opened.ok()?.ok()
    }
}

/// Opens mounts as far as the kernel finds them in its cache, and within a while: who is asked
/// for those of a server that does not answer is not heard of again. Each by the number of its
/// namespace, its point there, and its id, by which it is found.
pub fn open_all(
    roots: &HashMap<u32, OwnedFd>,
    mounts: Vec<(u32, CString, u32)>,
) -> HashMap<u32, OwnedFd> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let mut wanted = Vec::new();
    for (inum, point, id) in mounts {
        if let Some(Ok(root)) = roots.get(&inum).map(OwnedFd::try_clone) {
            wanted.push((root, point, id));
        }
    }
    let (sender, opened) = mpsc::channel();
    let open = move || {
        for (root, point, id) in wanted {
            let file = calls::cached_below(root.as_fd(), &point);
            let stat = |file: &OwnedFd| sys::stat(file.as_fd(), c"");
            let file = file
                .ok()
                .filter(|file| stat(file).is_ok_and(|stat| stat.mount == id));
            // Nobody may listen any more.
            if file.is_some_and(|file| sender.send((id, file)).is_err()) {
                break;
            }
        }
    };
    let mut files = HashMap::default();
    let end = Instant::now() + PATIENCE;
    if thread::Builder::new().spawn(open).is_ok() {
        let left = || end.saturating_duration_since(Instant::now());
        files.extend(std::iter::from_fn(|| opened.recv_timeout(left()).ok()));
    }
    files
}

struct Reader<'a> {
    proc: BorrowedFd<'a>,
    opener: Opener<'a>,
    answer: Answer,
    can: Can,
    names: Names,
    by: By,
    /// Whether the roots of all namespaces are kept.
    keeps_roots: bool,
    /// Namespaces in which others are mounted that are to be opened there.
    holding: HashSet<u32>,
    /// Their roots.
    roots: HashMap<u32, OwnedFd>,
}

impl Reader<'_> {
    /// Sees what statmount can do, by our own root.
    fn try_statmount(&mut self) {
        let own = calls::open(self.proc, c"thread-self/ns/mnt", libc::O_RDONLY);
        let ns = own.and_then(|own| sys::mount_ns_id(own.as_fd()));
        let root = calls::open_path(c"/", libc::O_PATH | libc::O_DIRECTORY);
        let root = root.ok().and_then(|root| sys::unique_mount(root.as_fd()));
        if let (Ok(ns), Some(root), true) = (ns, root, self.by != By::Mountinfo) {
            self.can = self.answer.can(ns, root);
        }
    }

    fn all(&mut self, wanted: Vec<Wanted>) -> Vec<MountNs> {
        let mounts = wanted.iter().flat_map(|one| &one.mounts);
        self.holding = mounts.map(|(mnt, _)| *mnt).collect();
        let mut tables = Vec::with_capacity(wanted.len());
        let mut left = Vec::new();
        for one in wanted {
            match self.through_tasks(&one) {
                Some(table) => tables.push(table),
                None => {
                    let why = unheld(&one);
                    left.push((one, why.to_owned()));
                }
            }
        }
        self.listed(&mut left, &mut tables);
        // One that is read may be where another one is mounted.
        loop {
            let before = left.len();
            left.retain_mut(|(one, why)| match self.opened(one) {
                Ok(table) => {
                    tables.push(table);
                    false
                }
                Err(Some(error)) => {
                    *why = refused(&error);
                    true
                }
                Err(None) => true,
            });
            if left.len() == before {
                break;
            }
        }
        tables.extend(left.into_iter().map(|(one, why)| self.in_part(&one, why)));
        tables
    }

    /// Reads a namespace through a task whose root is that of the namespace. The kernel's own
    /// threads come last: from v7.0 their root is below that of all others (init/main.c,
    /// nullfs).
    fn through_tasks(&mut self, one: &Wanted) -> Option<MountNs> {
        let (kernel, user): (Vec<u32>, Vec<u32>) =
            one.tids.iter().partition(|tid| self.is_kernel(**tid));
        for tid in user.iter().chain(&kernel) {
            let place = Place::of_task(self.proc, &self.opener, one.inum, *tid);
            let Ok((place, true)) = place else { continue };
            if let Ok(table) = self.read(one.inum, place) {
                return Some(table);
            }
        }
        None
    }

    /// Whether a task runs no program.
    fn is_kernel(&self, tid: u32) -> bool {
        let path = Text::new().number(tid).text("/exe");
        let mut link = [0; 1];
        let link = calls::read_link(self.proc, path.get(), &mut link);
        link.is_err_and(|error| calls::is_gone(&error))
    }

    /// What a task sees whose root is another one; or nothing.
    fn in_part(&mut self, one: &Wanted, why: String) -> MountNs {
        for tid in &one.tids {
            let place = Place::of_task(self.proc, &self.opener, one.inum, *tid);
            let Ok((place, is_whole)) = place else {
                continue;
            };
            if let Ok(mounts) = place.mountinfo(&mut self.names) {
                let sight = if is_whole { Sight::Whole } else { Sight::Below };
                if self.keeps_roots {
                    self.roots.insert(one.inum, place.root);
                }
                return MountNs {
                    inum: one.inum,
                    id: place.ns,
                    sight,
                    mounts,
                };
            }
        }
        MountNs {
            inum: one.inum,
            id: one.id,
            sight: Sight::None(why),
            mounts: Vec::new(),
        }
    }

    /// Reads those namespaces that the kernel lists and that have not been read.
    fn listed(&mut self, left: &mut Vec<(Wanted, String)>, tables: &mut Vec<MountNs>) {
        let mut read: HashSet<u32> = tables.iter().map(|table| table.inum).collect();
        for is_later in [false, true] {
            let own = calls::open(self.proc, c"thread-self/ns/mnt", libc::O_RDONLY);
            let Ok(mut at) = own else { return };
            while let Ok(next) = sys::next_mount_ns(at.as_fd(), is_later) {
                at = next;
                let Some(inum) = inum(at.as_fd()).filter(|inum| !read.contains(inum)) else {
                    continue;
                };
                let known = left.iter().position(|(one, _)| one.inum == inum);
                match (self.outside(inum, at.as_fd()), known) {
                    (Ok(table), known) => {
                        read.insert(inum);
                        tables.push(table);
                        known.map(|known| left.swap_remove(known));
                    }
                    (Err(error), Some(known)) => left[known].1 = refused(&error),
                    (Err(error), None) => {
                        let one = Wanted {
                            inum,
                            ..Wanted::default()
                        };
                        left.push((one, refused(&error)));
                    }
                }
            }
        }
    }

    /// Opens a namespace where something holds it, and reads it. The error is that of reading
    /// it; none if it cannot be opened (yet).
    fn opened(&mut self, one: &Wanted) -> Result<MountNs, Option<io::Error>> {
        let ns = self.open(one).ok_or(None)?;
        Ok(self.outside(one.inum, ns.as_fd())?)
    }

    fn open(&self, one: &Wanted) -> Option<OwnedFd> {
        if one.id != 0
            && let Ok(ns) = calls::open_namespace(one.id)
        {
            return Some(ns);
        }
        let of_task = |tid: &u32| {
            let path = Text::new().number(*tid).text("/ns/mnt");
            self.opener.open(self.proc, path.get(), one.inum).ok()
        };
        let of_process = |(pid, fd): &(u32, u32)| {
            let path = Text::new().number(*pid).text("/fd/").number(*fd);
            self.opener.open(self.proc, path.get(), one.inum).ok()
        };
        let mounted = |(mnt, path): &(u32, Box<[u8]>)| {
            let root = self.roots.get(mnt)?;
            let path = CString::new(&**path).ok()?;
            let seen = calls::look_below(root.as_fd(), &path).ok()?;
            self.opener.open_seen(seen.as_fd(), one.inum).ok()
        };
        let tasks = one.tids.iter().find_map(of_task);
        tasks
            .or_else(|| one.descriptors.iter().find_map(of_process))
            .or_else(|| one.mounts.iter().find_map(mounted))
    }

    /// Reads a namespace that no task shows: it is entered, or the kernel is asked by its id.
    fn outside(&mut self, inum: u32, ns: BorrowedFd) -> io::Result<MountNs> {
        match Place::enter(self.proc, ns) {
            Ok(place) => self.read(inum, place),
            Err(error) => {
                let id = sys::mount_ns_id(ns).unwrap_or(0);
                let mounts = self.by_id(id).ok_or(error)?;
                Ok(MountNs {
                    inum,
                    id,
                    sight: Sight::Whole,
                    mounts,
                })
            }
        }
    }

    /// Reads what is mounted in a place.
    fn read(&mut self, inum: u32, place: Place) -> io::Result<MountNs> {
        let mounts = match self.by_statmount(&place) {
            Some(mounts) => mounts,
            None => {
                let mut mounts = place.mountinfo(&mut self.names)?;
                self.learn_ids(&place, &mut mounts);
                mounts
            }
        };
        let table = MountNs {
            inum,
            id: place.ns,
            sight: Sight::Whole,
            mounts,
        };
        if self.keeps_roots || self.holding.contains(&inum) {
            self.roots.insert(inum, place.root);
        }
        Ok(table)
    }

    /// The mounts of a place, if the kernel tells them rightly: it has the paths from what it
    /// takes for the root of a namespace, the first mount on the one at the very bottom (v6.18
    /// fs/namespace.c, grab_requested_root). That is another one where the bottom is the root,
    /// as on an initramfs.
    fn by_statmount(&mut self, place: &Place) -> Option<Vec<Mount>> {
        if self.can < Can::Whole {
            return None;
        }
        let root = sys::unique_mount(place.root.as_fd())?;
        let ids = statmount::list(place.ns, root).ok()?;
        let mounts = self.each(place.ns, &ids)?;
        let is_root = |mount: &Mount| mount.unique == root && &*mount.point == b"/";
        mounts.iter().any(is_root).then_some(mounts)
    }

    /// The mounts of a namespace by its id alone: what lies on top at its root, and below.
    fn by_id(&mut self, ns: u64) -> Option<Vec<Mount>> {
        if self.can < Can::Whole || ns == 0 {
            return None;
        }
        let ids = statmount::list_all(ns).ok()?;
        let table = MountNs {
            mounts: self.each(ns, &ids)?,
            ..MountNs::default()
        };
        let order = order(&table);
        let is_root = |placed: &Placed| {
            let mount = table.mounts.get(placed.mount);
            mount.is_some_and(|mount| &*mount.point == b"/")
        };
        // The root is covered by what is mounted on it, and that again.
        let first = order.iter().position(is_root)?;
        let on_top = order[first..].iter().take_while(|placed| is_root(placed));
        let top = order[first + on_top.count() - 1];
        let from = order.iter().position(|placed| *placed == top)?;
        let mut kept: Vec<usize> = order[from..=from + top.below]
            .iter()
            .map(|placed| placed.mount)
            .collect();
        kept.sort_unstable();
        let mut mounts = table.mounts;
        let mut at = 0;
        mounts.retain(|_| {
            at += 1;
            kept.binary_search(&(at - 1)).is_ok()
        });
        Some(mounts)
    }

    /// Asks for mounts. None if that is not possible; one that is gone meanwhile is left out.
    fn each(&mut self, ns: u64, ids: &[u64]) -> Option<Vec<Mount>> {
        let mut mounts = Vec::with_capacity(ids.len());
        for id in ids {
            match self.answer.mount(ns, *id, &mut self.names) {
                Ok(mount) => mounts.push(mount),
                Err(error) if calls::is_gone(&error) => {}
                Err(_) => return None,
            }
        }
        Some(mounts)
    }

    /// Learns the ids that are never used again, of what mountinfo has told.
    fn learn_ids(&mut self, place: &Place, mounts: &mut [Mount]) {
        let root = sys::unique_mount(place.root.as_fd());
        let Some(root) = root.filter(|_| self.can >= Can::Ids) else {
            return;
        };
        let mut known: HashMap<Ids, u64> = HashMap::default();
        for unique in statmount::list(place.ns, root).unwrap_or_default() {
            if let Ok(ids) = self.answer.ids(place.ns, unique) {
                known.insert(ids, unique);
            }
        }
        for mount in mounts {
            let ids = Ids {
                id: mount.id,
                parent: mount.parent,
                device: mount.device,
            };
            mount.unique = known.get(&ids).copied().unwrap_or(0);
        }
    }
}

/// Why a namespace could not be opened, if nothing else is known.
fn unheld(one: &Wanted) -> &'static str {
    let is_held = !one.descriptors.is_empty() || !one.mounts.is_empty();
    match one.tids.is_empty() || is_held {
        true => "nothing that can be opened holds it",
        false => "its processes have ended meanwhile, or may not be looked at",
    }
}

fn refused(error: &io::Error) -> String {
    format!("it cannot be entered: {}", plain(error))
}

/// An error without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_lowercase(),
        None => text,
    }
}

/// The number of a namespace.
fn inum(ns: BorrowedFd) -> Option<u32> {
    u32::try_from(calls::identity(ns).ok()?.ino).ok()
}
