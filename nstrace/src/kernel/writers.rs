//! The ledger of write access to mounts, as the kernel side keeps it: the object
//! `nstrace-ebpf-writers`, loaded, and what it says as events.
//!
//! Each stack is sent once, and its functions are named at once: a module may go. How often
//! it was there is read from the ledger when the mount dies, and when somebody asks.

mod now;

use std::{collections::BTreeMap, os::fd::AsRawFd as _};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, RingBuf},
};
use nstrace_common::writers::{
    AccessRecord, FRAMES, GONE, Key, Kind, MountRecord, PROBES, Root, Settings, Site, TAKES,
    Unfiled as Counts,
};
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::IntoBytes as _;

use super::{
    KernelError,
    asked::Asked,
    clock,
    load::{self, Outcome},
    plan::{Attach, CLEANUP, Planned, functions, plan, program_name},
    reader::{map, next},
    symbols::Symbols,
};
use crate::{
    decode::{DecodeError, prefix},
    event::{Access, Balance, Event, Mount, MountKey, Unfiled},
};

pub use now::Counter;

const OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nstrace-ebpf-writers"));

/// The program that tells how many writers a mount has.
const COUNTER: &str = "mount_writers";

/// Which mounts to watch: what is named, and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// All.
    pub all: bool,
    /// Those of file systems of these types.
    pub fs: Vec<[u8; 16]>,
    /// Those of file systems on these devices, as the kernel numbers them.
    pub devices: Vec<u32>,
    /// Those with these ids.
    pub ids: Vec<u32>,
    /// Those in these mount namespaces.
    pub namespaces: Vec<u32>,
    /// All private ones.
    pub private: bool,
    /// Private ones with these roots: inode number and device.
    pub private_roots: Vec<(u64, u32)>,
}

/// How large what the kernel side keeps may get.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of the ring.
    pub ring: u32,
    /// Mounts that are watched at once.
    pub mounts: u32,
    /// Different stacks, of all mounts.
    pub stacks: u32,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct MapKey(Key);
// SAFETY: plain numbers without padding.
unsafe impl Pod for MapKey {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct MapCounts(Counts);
// SAFETY: plain numbers without padding.
unsafe impl Pod for MapCounts {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct MapRoot(Root);
// SAFETY: plain numbers without padding.
unsafe impl Pod for MapRoot {}

/// An entry of the ledger that was told.
struct Told {
    key: Key,
    /// The count that was handed over last.
    count: u64,
}

/// The ledger, kept by the kernel. Dropping it detaches everything.
pub struct Ledger {
    bpf: Ebpf,
    counter: Option<Asked>,
    ring: AsyncFd<RingBuf<MapData>>,
    counts: HashMap<MapData, MapKey, u64>,
    unfiled: Array<MapData, MapCounts>,
    /// What became of each probe.
    pub outcomes: Vec<(Planned, Outcome)>,
    symbols: Symbols,
    stack: String,
    told: BTreeMap<u32, Told>,
    /// The numbers of what was told of a mount.
    of_mount: BTreeMap<MountKey, Vec<u32>>,
    next: u32,
    /// The last that was handed over.
    said: Unfiled,
}

impl Ledger {
    /// Loads and attaches. Needs a tokio runtime.
    pub fn load(attach: Attach, wanted: &Wanted, sizes: &Sizes) -> Result<Ledger, KernelError> {
        // Where tasks can be preempted in the kernel, it skips programs of fentry now and then
        // (`nstrace_common::probe`), and each that is skipped is missing in the ledger. Kprobes
        // cannot be preempted.
        let attach = match attach {
            Attach::Auto if load::preemptible() => Attach::Kprobe,
            attach => attach,
        };
        load::check_switches(attach)?;
        load::raise_open_files();
        let raw = load::read_btf()?;
        let names = functions(PROBES);
        let btf = load::parse_btf(&raw, &names)?;
        let values = load::values(&btf, load::cpus()?)?;
        let object = load::object(OBJECT, &values)?;
        let plan = plan(PROBES, attach, &btf, false);
        let skeleton = load::skeleton(&btf)?;
        drop(raw);
        load::unlimit_memory();
        let settings = settings(wanted);
        let mut bpf = load::loader()
            .btf(Some(&skeleton))
            .override_global("SETTINGS", settings.as_bytes(), true)
            .map_max_entries("ACCESSES", load::ring_bytes(sizes.ring))
            .map_max_entries("MOUNTS", sizes.mounts)
            .map_max_entries("LEDGER", sizes.stacks)
            .load(&object)?;
        fill(&mut bpf, wanted)?;
        // Without it, nothing is said of living mounts.
        let counter = Asked::load(&mut bpf, COUNTER).ok();
        let outcomes = load::attach(&mut bpf, &skeleton, plan)?;
        let is_taken = |(planned, outcome): &(Planned, Outcome)| {
            TAKES.contains(&planned.probe.function) && matches!(outcome, Outcome::Attached(..))
        };
        if !outcomes.iter().any(is_taken) {
            return Err(KernelError::RequiredProbe {
                function: TAKES.join(" or "),
                why: "this kernel lets nobody attach to either".to_owned(),
            });
        }
        Array::try_from(map(&mut bpf, ".data.counting"))?.set(0, 1_u32, 0)?;
        let ring = RingBuf::try_from(map(&mut bpf, "ACCESSES"))?;
        // SAFETY: the ring keeps its descriptor open for as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let mut symbols = Symbols::default();
        // What is called from a module is told when that may have gone.
        let _ = symbols.refresh();
        Ok(Ledger {
            ring: ring.map_err(|error| KernelError::Wait(error.into()))?,
            counts: HashMap::try_from(map(&mut bpf, "LEDGER"))?,
            unfiled: Array::try_from(map(&mut bpf, "UNFILED"))?,
            bpf,
            counter,
            outcomes,
            symbols,
            stack: String::new(),
            told: BTreeMap::new(),
            of_mount: BTreeMap::new(),
            next: 0,
            said: Unfiled::default(),
        })
    }

    /// Waits until there is something to read.
    pub async fn wait(&mut self) -> Result<(), KernelError> {
        let ready = self.ring.readable_mut().await;
        ready.map_err(KernelError::Wait)?.clear_ready();
        Ok(())
    }

    /// Hands over what is there up to that time: what is new of mounts and stacks, and, when a
    /// mount has died, what its balances are.
    pub fn read(&mut self, until: u64, each: &mut dyn FnMut(&Event)) -> Result<(), KernelError> {
        let mut is_fresh = false;
        let mut record = Vec::new();
        loop {
            // The ledger is asked while the record is looked at: it must not lie in the ring.
            match next(self.ring.get_mut(), until) {
                Some(item) => {
                    record.clear();
                    record.extend(
                        item.as_chunks()
                            .0
                            .iter()
                            .map(|w: &[u8; 8]| u64::from_ne_bytes(*w)),
                    );
                }
                None => return Ok(()),
            }
            if !is_fresh {
                // Without names a stack has its addresses.
                let _ = self.symbols.refresh();
                is_fresh = true;
            }
            self.record(record.as_bytes(), each)?;
        }
    }

    fn record(&mut self, bytes: &[u8], each: &mut dyn FnMut(&Event)) -> Result<(), KernelError> {
        let (head, _) = prefix::<nstrace_common::wire::Head>(bytes)?;
        match Kind::from_u32(head.kind).ok_or(DecodeError::Kind(head.kind))? {
            Kind::Watched => {
                let (record, _) = prefix::<MountRecord>(bytes)?;
                each(&Event::MountWatched(Mount { record, stack: &[] }));
            }
            Kind::Died => {
                let (record, _) = prefix::<MountRecord>(bytes)?;
                let key = MountKey {
                    address: record.address,
                    since: record.since,
                };
                self.harvest(key, each);
                self.stack.clear();
                self.symbols.name(&mut self.stack, record, CLEANUP);
                each(&Event::MountDied(Mount {
                    record,
                    stack: self.stack.as_bytes(),
                }));
            }
            Kind::Access => {
                let (record, _) = prefix::<AccessRecord>(bytes)?;
                self.access(record, each)?;
            }
        }
        Ok(())
    }

    fn access(
        &mut self,
        record: &AccessRecord,
        each: &mut dyn FnMut(&Event),
    ) -> Result<(), KernelError> {
        let site = Site::from_u32(record.key.site).ok_or(DecodeError::Kind(record.key.site))?;
        let len = (record.frames_len as usize).min(FRAMES);
        let frames = &record.frames[..len];
        let callers = names(site)
            .iter()
            .map(|function| self.symbols.callers(frames, function))
            .min_by_key(|callers| callers.len())
            .unwrap_or(frames);
        self.stack.clear();
        self.symbols.stack(&mut self.stack, callers);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let mount = MountKey {
            address: record.key.mount,
            since: record.key.since,
        };
        let key = record.key;
        self.told.insert(number, Told { key, count: 0 });
        self.of_mount.entry(mount).or_default().push(number);
        each(&Event::Access(Access {
            time: record.head.time,
            mount,
            site,
            number,
            is_cut: len == FRAMES,
            stack: self.stack.as_bytes(),
        }));
        Ok(())
    }

    /// Hands over the balances of a mount that has died, and forgets it.
    fn harvest(&mut self, mount: MountKey, each: &mut dyn FnMut(&Event)) {
        self.count_unfiled(each);
        let time = clock::monotonic_ns();
        for number in self.of_mount.remove(&mount).unwrap_or_default() {
            let Some(told) = self.told.remove(&number) else {
                continue;
            };
            let count = self.counts.get(&MapKey(told.key), 0).unwrap_or(0);
            let _ = self.counts.remove(&MapKey(told.key));
            each(&Event::Balance(Balance {
                time,
                number,
                count,
            }));
        }
    }

    /// Hands over all balances that have changed.
    pub fn balances(&mut self, each: &mut dyn FnMut(&Event)) {
        self.count_unfiled(each);
        let time = clock::monotonic_ns();
        for (&number, told) in &mut self.told {
            let count = self.counts.get(&MapKey(told.key), 0).unwrap_or(0);
            if count != told.count {
                told.count = count;
                each(&Event::Balance(Balance {
                    time,
                    number,
                    count,
                }));
            }
        }
    }

    /// The writers of a mount that is watched; none, if it has died meanwhile.
    pub fn writers(&self, mount: MountKey) -> Option<i32> {
        let args = [mount.address, mount.since];
        self.counter
            .as_ref()?
            .run(args)
            .filter(|count| *count != GONE)
    }

    /// Hands over how much is not in the ledger, if that is more than the last time.
    fn count_unfiled(&mut self, each: &mut dyn FnMut(&Event)) {
        let counts = self
            .unfiled
            .get(&0, 0)
            .map_or(Counts::default(), |counts| counts.0);
        let unfiled = Unfiled {
            time: self.said.time,
            mounts: counts.mounts,
            accesses: counts.accesses + counts.untakes,
            stacks: counts.stacks,
            deaths: counts.deaths,
            skipped: self.skipped(),
        };
        if unfiled != self.said {
            let time = clock::monotonic_ns();
            self.said = Unfiled { time, ..unfiled };
            each(&Event::Unfiled(self.said));
        }
    }

    /// How often the kernel has skipped a program, where it says so.
    fn skipped(&self) -> u64 {
        let attached = self
            .outcomes
            .iter()
            .filter_map(|(planned, outcome)| match outcome {
                Outcome::Attached(way, _) => Some(program_name(planned.probe, *way)),
                _ => None,
            });
        attached
            .filter_map(|name| load::skipped(&self.bpf, &name))
            .sum()
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fd = self.ring.get_ref().as_raw_fd();
        f.debug_struct("Ledger")
            .field("ring", &fd)
            .finish_non_exhaustive()
    }
}

/// The names of the function that a site is, in one kernel or another.
pub fn names(site: Site) -> &'static [&'static str] {
    match site {
        Site::Take | Site::Untake => &TAKES,
        Site::Put => &["mnt_put_write_access", "__mnt_drop_write"],
        Site::Drop => &["mnt_drop_write"],
        Site::PutFile => &["mnt_put_write_access_file", "__mnt_drop_write_file"],
        Site::DropFile => &["mnt_drop_write_file"],
    }
}

fn settings(wanted: &Wanted) -> Settings {
    let mut settings = Settings {
        all: u32::from(wanted.all),
        fs_len: wanted.fs.len() as u32,
        devices: u32::from(!wanted.devices.is_empty()),
        ids: u32::from(!wanted.ids.is_empty()),
        namespaces: u32::from(!wanted.namespaces.is_empty()),
        private: u32::from(wanted.private),
        private_roots: u32::from(!wanted.private_roots.is_empty()),
        ..Settings::NONE
    };
    for (to, from) in settings.fs.iter_mut().zip(&wanted.fs) {
        *to = *from;
    }
    settings
}

/// Fills the maps of what is wanted.
fn fill(bpf: &mut Ebpf, wanted: &Wanted) -> Result<(), KernelError> {
    for (name, numbers) in [
        ("DEVICES", &wanted.devices),
        ("MOUNT_IDS", &wanted.ids),
        ("NAMESPACES", &wanted.namespaces),
    ] {
        let mut map: HashMap<_, u32, u8> = HashMap::try_from(map_mut(bpf, name))?;
        for number in numbers {
            map.insert(number, 1, 0)?;
        }
    }
    let mut roots: HashMap<_, MapRoot, u8> = HashMap::try_from(map_mut(bpf, "PRIVATE_ROOTS"))?;
    for (ino, dev) in &wanted.private_roots {
        let root = Root {
            ino: *ino,
            dev: (*dev).into(),
        };
        roots.insert(MapRoot(root), 1, 0)?;
    }
    Ok(())
}

/// A map of the object, which is of the same build; it stays there.
fn map_mut<'b>(bpf: &'b mut Ebpf, name: &str) -> &'b mut aya::maps::Map {
    bpf.map_mut(name)
        .unwrap_or_else(|| unreachable!("the object has a map {name}"))
}
