//! The ledger of write access at the place of a state: a part that begins there knows what was
//! watched before, and what is damaged names nobody.

use std::io::Cursor;

use nstrace_common::writers::{MountRecord, Site};
use zerocopy::FromZeros as _;

use crate::{
    cgroups::Cgroups,
    event::{Access, Balance, Event, Mount, MountKey, Now, Unfiled, Unseen},
    names::Names,
    trace::{
        Damage, Entry, Head, Index, Item, Options, Reader, State, StateOf, Writer,
        block::{self, HEAD, Kind},
    },
    world::World,
    writers::{Death, Ledger},
};

/// Hands out events.
type Events = fn(&mut Each<'_>);
type Each<'e> = dyn FnMut(&Event) + 'e;

const SINCE: u64 = 5_000_000_000;

fn mount(address: u64, count: i32) -> Box<MountRecord> {
    let mut record = Box::new(MountRecord::new_zeroed());
    record.head.time = SINCE + address;
    (record.address, record.since, record.count) = (address, SINCE, count);
    record.fs[..5].copy_from_slice(b"tmpfs");
    record.point[..4].copy_from_slice(b"mnt\0");
    record.ns = 4_026_532_300;
    record
}

fn watched(record: &MountRecord) -> Event<'_> {
    Event::MountWatched(Mount { record, stack: &[] })
}

fn died(record: &MountRecord) -> Event<'_> {
    Event::MountDied(Mount {
        record,
        stack: b"cleanup_mnt+0x1",
    })
}

fn access(address: u64, number: u32, site: Site, stack: &str) -> Event<'_> {
    Event::Access(Access {
        time: SINCE,
        mount: MountKey {
            address,
            since: SINCE,
        },
        site,
        number,
        is_cut: false,
        stack: stack.as_bytes(),
    })
}

fn balance(number: u32, count: u64) -> Event<'static> {
    Event::Balance(Balance {
        time: SINCE,
        number,
        count,
    })
}

const TAKE: &str = "mnt_want_write+0x1\ngood+0x2\nvfs_write+0x3\ndo_syscall_64+0x4";
const GIVE: &str = "good+0x9\nvfs_write+0x3\ndo_syscall_64+0x4";
const EXTRA: &str = "bad+0x7 [m]\nvfs_write+0x3\ndo_syscall_64+0x4";

/// What happens before the part: two mounts are watched, and one is not told yet.
fn before(each: &mut Each<'_>) {
    each(&watched(&mount(1, 2)));
    each(&Event::Unfiled(Unfiled {
        time: SINCE,
        skipped: 3,
        ..Unfiled::default()
    }));
    each(&watched(&mount(2, 0)));
    each(&access(2, 0, Site::Take, TAKE));
    each(&access(2, 1, Site::Drop, GIVE));
    each(&access(1, 2, Site::Take, TAKE));
    each(&access(2, 3, Site::Drop, EXTRA));
    each(&access(3, 4, Site::Take, TAKE));
    for (number, count) in [(0, 7), (1, 7), (3, 2)] {
        each(&balance(number, count));
    }
    each(&watched(&mount(1, 5)));
}

/// What happens in it: the function gives back twice more, and the mount dies with -4.
fn after(each: &mut Each<'_>) {
    each(&Event::SnapshotBegin(Now { time: SINCE + 9 }));
    each(&watched(&mount(3, 0)));
    each(&balance(3, 4));
    each(&died(&mount(2, -4)));
}

fn state<'a>(
    world: &'a World,
    cgroups: &'a Cgroups,
    names: &'a Names,
    writers: Option<&'a Ledger>,
) -> StateOf<'a> {
    StateOf {
        world,
        cgroups,
        names,
        lost: 0,
        unseen: Unseen::default(),
        writers,
        redacts: false,
    }
}

/// A recording: a head, a state, what is behind it.
fn part(ledger: Option<&Ledger>, events: Events) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &Head::default(), Options::default()).expect("memory");
    let (world, cgroups, names) = (World::default(), Cgroups::default(), Names::default());
    let known = state(&world, &cgroups, &names, ledger);
    writer.state(&known).expect("memory");
    events(&mut |event| writer.event(event).expect("memory"));
    writer.finish(0).expect("memory");
    writer.into_inner()
}

/// What a recording comes to: the ledger, the deaths, and what cannot be read.
fn read(bytes: &[u8]) -> (Option<Ledger>, Vec<Death>, Vec<Damage>) {
    let mut reader = Reader::new(bytes);
    let (mut known, mut deaths, mut damages) = (None::<Ledger>, Vec::new(), Vec::new());
    while let Ok(Some(item)) = reader.read() {
        match item {
            Item::State(state) => known = state.writers.or(known),
            Item::Entry(Entry::Event(event)) => {
                deaths.extend(known.get_or_insert_default().event(&event));
            }
            Item::Damage(damage) => damages.push(damage),
            _ => {}
        }
    }
    (known, deaths, damages)
}

fn ledger(events: Events) -> Ledger {
    let mut ledger = Ledger::default();
    events(&mut |event| drop(ledger.event(event)));
    ledger
}

fn is_same(one: Option<&Ledger>, other: &Ledger) -> bool {
    one.is_some_and(|one| format!("{one:?}") == format!("{other:?}"))
}

fn named(deaths: &[Death]) -> Vec<(String, i64)> {
    let verdicts = deaths.iter().filter_map(|death| death.verdict.as_ref());
    let guilty = verdicts.flat_map(|verdict| &verdict.guilty);
    guilty
        .map(|one| {
            let function = one.path.last().expect("a function");
            (String::from_utf8_lossy(function).into_owned(), one.balance)
        })
        .collect()
}

#[test]
fn a_part_names_who_unbalanced_a_mount_that_was_watched_before() {
    let before = ledger(before);
    let (known, deaths, damages) = read(&part(Some(&before), |_| ()));
    assert!(is_same(known.as_ref(), &before));
    assert!(deaths.is_empty() && damages.is_empty(), "{damages:?}");
    let (_, deaths, damages) = read(&part(Some(&before), after));
    assert_eq!(named(&deaths), [("bad [m]".to_owned(), -4)]);
    let verdict = deaths[0].verdict.as_ref().expect("a verdict");
    assert_eq!((verdict.taken, verdict.given), (7, 11));
    // The three that were skipped are of before.
    assert_eq!((verdict.doubts.len(), damages.len()), (0, 0));
    // Nobody knows what was before.
    let (_, deaths, _) = read(&part(None, after));
    assert!(deaths.iter().all(|death| death.verdict.is_none()));
}

/// Nothing is written of a ledger that is not kept, and of one that is empty little.
#[test]
fn what_is_not_watched_takes_no_room() {
    let count = |bytes: &[u8]| {
        let heads = bytes.windows(5).filter(|at| **at == *b"nst\x01\x06");
        (heads.count(), bytes.len())
    };
    let (without, short) = count(&part(None, |_| ()));
    let (with, long) = count(&part(Some(&Ledger::default()), |_| ()));
    assert_eq!((without, with), (0, 1));
    assert!(long - short <= HEAD + 4, "{} more", long - short);
}

/// A ledger as large as some blocks, found by the index at the end and without one, and whole
/// or not at all.
#[test]
fn a_large_ledger_is_of_several_blocks() {
    let mut large = Ledger::default();
    large.event(&watched(&mount(2, 0)));
    let stack: String = (0..40).map(|at| format!("function_{at}+0x1\n")).collect();
    for number in 0..5000 {
        let stack = format!("of_{number}+0x1\n{stack}");
        large.event(&access(2, number, Site::Take, &stack));
    }
    let bytes = part(Some(&large), after);
    let index = Index::of(&mut Cursor::new(&bytes)).expect("memory");
    let cut = Index::of(&mut Cursor::new(&bytes[..bytes.len() - 1])).expect("memory");
    assert_eq!(index, cut);
    let mut starts = Vec::new();
    for (at, bytes) in bytes.windows(5).enumerate() {
        if *bytes == *b"nst\x01\x06" {
            starts.push(at);
        }
    }
    assert_eq!(starts.len(), 4);
    assert_eq!(index.states[0].offset, starts[0] as u64);
    let (known, _, damages) = read(&part(Some(&large), |_| ()));
    assert!(damages.is_empty());
    assert!(is_same(known.as_ref(), &large));
    let mut reader = Reader::new(Cursor::new(&bytes));
    reader.seek(&index, u64::MAX, u64::MAX).expect("memory");
    let Some(Item::State(state)) = reader.read().expect("a recording") else {
        panic!("no state");
    };
    assert_eq!(state.writers.map(|ledger| ledger.living().count()), Some(1));
    for start in starts {
        let mut bytes = bytes.clone();
        bytes[start + HEAD + 3] ^= 1;
        let mut reader = Reader::new(&bytes[..]);
        let mut states = 0;
        while let Some(item) = reader.read().expect("a recording") {
            if let Item::State(state) = item {
                states += 1;
                assert!(state.writers.is_none(), "of three blocks of four");
            }
        }
        assert_eq!(states, 1);
    }
}

/// Whatever is cut off or has another bit: no panic, and nobody is named but who it was.
#[test]
fn what_is_cut_or_damaged_names_nobody_else() {
    let whole = part(Some(&ledger(before)), after);
    let right = named(&read(&whole).1);
    for len in 0..whole.len() {
        let (_, deaths, _) = read(&whole[..len]);
        assert!(deaths.is_empty() || named(&deaths) == right, "{len}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x11;
        let (_, deaths, damages) = read(&bytes);
        let named = named(&deaths);
        assert!(named.is_empty() || named == right, "{at}: {named:?}");
        assert_eq!(damages.len(), 1, "{at}");
    }
}

/// Written by hand: the ledger's blocks, then a state of nothing.
fn by_hand(payloads: &[&[u8]]) -> Option<Unfiled> {
    let mut bytes = Vec::new();
    block::append(&mut bytes, Kind::Head, b"{\"version\":1}", [0; 2], 0);
    for payload in payloads {
        block::append(&mut bytes, Kind::Writers, payload, [0; 2], 0);
    }
    let state = part(None, |_| ());
    let at = state.windows(5).position(|at| *at == *b"nst\x01\x04");
    bytes.extend(&state[at.expect("a state")..]);
    let mut reader = Reader::new(&bytes[..]);
    while let Some(item) = reader.read().expect("a recording") {
        if let Item::State(state) = item {
            return state.writers.map(|ledger| ledger.unfiled());
        }
    }
    panic!("no state")
}

#[test]
fn blocks_count_together_or_not_at_all() {
    let unfiled = |time: u64, skipped: u64| Unfiled {
        time,
        mounts: 1,
        accesses: 2,
        stacks: 3,
        deaths: 4,
        skipped,
    };
    // The first and the last; kind, 2 * time, counts.
    let one: &[u8] = &[0, 1, 52, 14, 1, 2, 3, 4, 5];
    assert_eq!(by_hand(&[one]), Some(unfiled(7, 5)));
    let more: &[u8] = &[0, 0, 52, 14, 1, 2, 3, 4, 5];
    // With an entry of a kind that is not known, of two bytes.
    let last: &[u8] = &[1, 1, 0x7f, 2, 9, 9, 52, 16, 1, 2, 3, 4, 0x86, 1];
    assert_eq!(by_hand(&[more, last]), Some(unfiled(8, 0x86)));
    assert_eq!(by_hand(&[last]), None);
    assert_eq!(by_hand(&[more]), None);
    assert_eq!(by_hand(&[more, &[2, 1]]), None);
    assert_eq!(by_hand(&[more, last, last]), None);
    assert_eq!(by_hand(&[last, more, one]), Some(unfiled(7, 5)));
    assert_eq!(by_hand(&[&[0, 1]]), Some(Unfiled::default()));
    for payload in [
        &[][..],
        &[0],
        &[0, 2],
        &[0, 1, 52],
        &[0, 1, 0xff, 0xff],
        &[0, 1, 60, 1],
    ] {
        assert_eq!(by_hand(&[payload]), None, "{payload:?}");
    }
}

/// What is forgotten of mounts that died gives room again; one that is told and told again has
/// it once.
#[test]
fn a_ledger_is_bounded() {
    let mut ledger = Ledger::default();
    for address in 0..1000 {
        for round in 0..3 {
            ledger.event(&access(address, round % 2, Site::Take, TAKE));
        }
        ledger.event(&watched(&mount(address, 0)));
    }
    for address in 0..1000 {
        ledger.event(&died(&mount(address, 0)));
    }
    assert!(is_same(Some(&ledger), &Ledger::default()));
    for address in 0..140_000 {
        ledger.event(&watched(&mount(address, 0)));
    }
    assert_eq!(ledger.living().count(), crate::writers::MOUNTS_MAX);
    assert_eq!(ledger.unfiled().mounts, 140_000 - 131_072);
}

/// Who copies a recording keeps it, too.
#[test]
fn what_a_state_knows_follows_the_events() {
    let mut known = State::default();
    let mut apply = |event: &Event| known.apply(event, &mut Vec::new());
    before(&mut apply);
    assert!(is_same(known.writers.as_ref(), &ledger(before)));
    // A recording without write access that was watched has none.
    let mut known = State::default();
    known.apply(&died(&mount(2, -4)), &mut Vec::new());
    assert!(known.writers.is_none());
}
