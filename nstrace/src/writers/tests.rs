//! Ledgers made by hand: what the kernel's functions do, written down, and who is wrong.

use nstrace_common::writers::{MountRecord, Site};
use zerocopy::FromZeros as _;

use super::{Doubt, Entry, Ledger, Living, Verdict, verdict};
use crate::event::{Access, Balance, Event, Mount, Unfiled};

/// An entry, its stack from the system call inwards.
fn entry(site: Site, path: &str, count: u64) -> Entry {
    let stack = path.split(' ').rev();
    Entry {
        site,
        stack: stack
            .map(|frame| format!("{frame}+0x10").into_bytes())
            .collect(),
        is_cut: false,
        count,
    }
}

fn judge(entries: &[Entry], before: i64, count: i64) -> Verdict {
    verdict(entries.iter(), before, count, true, &Unfiled::default())
}

/// The functions that are named, with their balances.
fn named(verdict: &Verdict) -> Vec<(String, i64)> {
    let guilty = verdict.guilty.iter();
    guilty
        .map(|guilty| {
            let function = guilty.path.last().expect("a function");
            (
                String::from_utf8_lossy(function).into_owned(),
                guilty.balance,
            )
        })
        .collect()
}

const WRITE: &str = "do_syscall_64 ksys_write vfs_write";

/// A module that drops what it has not taken.
#[test]
fn who_only_gives_back_is_named() {
    let path = format!("{WRITE} module_write module_command extra_drop");
    let pair = "do_syscall_64 do_mkdirat filename_create";
    let entries = [
        entry(Site::Drop, &path, 4),
        entry(Site::Take, &format!("{pair} mnt_want_write"), 7),
        entry(Site::Drop, "do_syscall_64 do_mkdirat done_path_create", 7),
    ];
    let verdict = judge(&entries, 0, -4);
    assert_eq!(named(&verdict), [("extra_drop".to_owned(), -4)]);
    assert_eq!(verdict.doubts, []);
    assert_eq!((verdict.taken, verdict.given, verdict.sum()), (7, 11, -4));
}

/// v6.1 fs/overlayfs/copy_up.c: who wants access for copy-up and drops it is not who has one
/// call too many.
#[test]
fn what_pairs_around_it_is_not_named() {
    let open = "do_syscall_64 do_sys_openat2 vfs_open do_dentry_open ovl_open";
    let up = format!("{open} ovl_maybe_copy_up");
    let entries = [
        entry(
            Site::Take,
            &format!("{up} ovl_want_write mnt_want_write"),
            9,
        ),
        entry(Site::Drop, &format!("{up} ovl_drop_write"), 9),
        entry(
            Site::Drop,
            &format!("{up} ovl_copy_up_flags ovl_copy_up_one ovl_drop_write"),
            5,
        ),
    ];
    assert_eq!(
        named(&judge(&entries, 0, -5)),
        [("ovl_copy_up_one".to_owned(), -5)]
    );
}

/// Of three calls of one function one is too many: which of the two, nobody can say.
#[test]
fn who_gives_back_twice_is_named_itself() {
    let function = "do_syscall_64 do_unlinkat careless";
    let entries = [
        entry(Site::Take, &format!("{function} want mnt_want_write"), 6),
        entry(Site::Drop, &format!("{function} drop"), 12),
        entry(
            Site::Take,
            "do_syscall_64 do_mkdirat want mnt_want_write",
            3,
        ),
        entry(Site::Drop, "do_syscall_64 do_mkdirat drop", 3),
    ];
    assert_eq!(
        named(&judge(&entries, 0, -6)),
        [("careless".to_owned(), -6)]
    );
}

/// An error path that forgets to give back.
#[test]
fn who_forgets_once_is_named() {
    let function = "do_syscall_64 do_truncate forgetful";
    let entries = [
        entry(Site::Take, &format!("{function} mnt_want_write"), 100),
        entry(Site::Drop, function, 99),
    ];
    let verdict = judge(&entries, 0, 1);
    assert_eq!(named(&verdict), [("forgetful".to_owned(), 1)]);
    assert_eq!(
        (verdict.guilty[0].taken, verdict.guilty[0].given),
        (100, 99)
    );
}

/// Two mistakes of different functions do not make up for each other.
#[test]
fn each_is_named_for_its_own() {
    let caller = format!("{WRITE} module_write module_command");
    let entries = [
        entry(Site::Drop, &format!("{caller} extra_drop"), 4),
        entry(Site::Take, &format!("{caller} forgetful mnt_want_write"), 5),
        entry(Site::Drop, &format!("{caller} forgetful"), 4),
    ];
    let verdict = judge(&entries, 0, -3);
    let expected = [("extra_drop".to_owned(), -4), ("forgetful".to_owned(), 1)];
    assert_eq!(named(&verdict), expected);
}

/// A function that takes, but for what it gives back on its way out when it fails, is one
/// half of another.
#[test]
fn halves_may_fail() {
    let entries = [
        entry(
            Site::Take,
            "do_syscall_64 do_mkdirat begin mnt_want_write",
            9,
        ),
        entry(Site::Drop, "do_syscall_64 do_mkdirat begin", 2),
        entry(Site::Drop, "do_syscall_64 do_mkdirat end", 7),
        entry(Site::Drop, "do_syscall_64 do_mkdirat extra", 1),
    ];
    assert_eq!(named(&judge(&entries, 0, -1)), [("extra".to_owned(), -1)]);
}

/// Taken in one system call and given back in another: who of the two is wrong is not known.
#[test]
fn nobody_is_named_where_it_is_one_of_two() {
    let entries = [
        entry(
            Site::Take,
            "do_syscall_64 sys_begin begin mnt_want_write",
            5,
        ),
        entry(Site::Drop, "do_syscall_64 sys_end end", 4),
    ];
    let verdict = judge(&entries, 0, 1);
    assert_eq!(named(&verdict), []);
}

/// Files have access from their opening to their last closing, which is anywhere.
#[test]
fn open_files_are_told_apart() {
    let entries = [
        entry(Site::Take, "do_syscall_64 path_openat do_dentry_open", 8),
        entry(Site::Put, "do_syscall_64 task_work_run ____fput __fput", 8),
        entry(Site::Drop, &format!("{WRITE} extra_drop"), 2),
    ];
    let verdict = judge(&entries, 0, -2);
    assert_eq!((verdict.opened, verdict.closed), (8, 8));
    assert_eq!(named(&verdict), [("extra_drop".to_owned(), -2)]);
}

/// A file that was open before is closed now.
#[test]
fn what_was_before_is_said() {
    let entries = [
        entry(Site::Put, "do_syscall_64 task_work_run ____fput __fput", 1),
        entry(Site::Drop, &format!("{WRITE} extra_drop"), 2),
    ];
    let verdict = judge(&entries, 1, -2);
    assert_eq!(verdict.doubts, [Doubt::Before(1)]);
    assert_eq!(named(&verdict), [("extra_drop".to_owned(), -2)]);
}

/// What was given back too often when the ledger began is taken by who is innocent.
#[test]
fn who_takes_what_was_given_back_too_often_before_is_not_named() {
    let function = "do_syscall_64 do_mkdirat mends";
    let takes = [entry(Site::Take, &format!("{function} mnt_want_write"), 1)];
    let judged = judge(&takes, -5, -4);
    assert_eq!(named(&judged), []);
    assert_eq!(judged.doubts, [Doubt::Before(-5)]);
    let more = [entry(Site::Drop, "do_syscall_64 do_unlinkat drops", 2)];
    assert_eq!(named(&judge(&more, -5, -7)), [("drops".to_owned(), -2)]);
    let lives = verdict(takes.iter(), -2, -1, false, &Unfiled::default());
    assert_eq!(named(&lives), []);
}

/// What was on the way when the ledger began is given back by who is innocent.
#[test]
fn who_gives_back_what_was_taken_before_is_not_named() {
    let entries = [
        entry(Site::Take, &format!("{WRITE} leak"), 3),
        entry(Site::Drop, &format!("{WRITE} innocent"), 1),
    ];
    assert_eq!(named(&judge(&entries, 1, 3)), [("leak".to_owned(), 3)]);
    // It was a file that is open, or another one's.
    assert_eq!(named(&judge(&entries, 2, 4)), []);
    let lives = |before, count, of: &[Entry]| {
        let verdict = verdict(of.iter(), before, count, false, &Unfiled::default());
        (verdict.is_to_be_told(), verdict.cannot_be_told())
    };
    assert_eq!(lives(1, 0, &entries[1..]), (false, false));
    assert_eq!(lives(3, 2, &entries[1..]), (false, false));
    assert_eq!(lives(1, 3, &entries), (true, false));
    assert_eq!(lives(1, 7, &entries), (false, true));
    assert_eq!(lives(0, -1, &entries[1..]), (true, false));
}

/// The kernel's count is another: what is missing could be anybody's.
#[test]
fn nobody_is_named_for_a_part() {
    let entries = [entry(Site::Drop, &format!("{WRITE} extra_drop"), 2)];
    let verdict = judge(&entries, 0, -3);
    assert_eq!(verdict.doubts, [Doubt::Sum]);
    assert_eq!(named(&verdict), []);
    assert_eq!(verdict.lines.len(), 1);
}

/// The kernel has skipped two runs of the programs that count: two halves of pairs are missing.
#[test]
fn nobody_is_named_for_what_was_skipped() {
    let entries = [
        entry(Site::Drop, &format!("{WRITE} extra_drop"), 4),
        entry(Site::Drop, "do_syscall_64 path_openat lookup_open", 1),
        entry(
            Site::Take,
            "do_syscall_64 vfs_read touch_atime mnt_get_write_access_file",
            1,
        ),
    ];
    let unfiled = Unfiled {
        skipped: 2,
        ..Unfiled::default()
    };
    let verdict = verdict(entries.iter(), 0, -4, true, &unfiled);
    assert_eq!(named(&verdict), [("extra_drop".to_owned(), -4)]);
    assert_eq!(verdict.doubts, [Doubt::Skipped(2)]);
}

/// mnt_drop_write_file calls mnt_put_write_access_file, or jumps to it.
#[test]
fn one_access_counts_once() {
    let function = "do_syscall_64 do_fchmodat chmod_common";
    let called = [
        entry(Site::Take, &format!("{function} mnt_want_write_file"), 3),
        entry(Site::DropFile, function, 3),
        entry(Site::PutFile, &format!("{function} mnt_drop_write_file"), 3),
        entry(
            Site::Put,
            &format!("{function} mnt_drop_write_file mnt_put_write_access_file"),
            3,
        ),
    ];
    let jumped = [
        entry(Site::Take, &format!("{function} mnt_want_write_file"), 3),
        entry(Site::DropFile, function, 3),
        entry(Site::PutFile, function, 3),
        entry(Site::Put, function, 3),
    ];
    for entries in [called, jumped] {
        let verdict = judge(&entries, 0, 0);
        assert_eq!((verdict.taken, verdict.given), (3, 3));
        assert!(verdict.is_balanced() && verdict.guilty.is_empty());
    }
}

/// On overlayfs of v6.12 write access is had by mnt_get_write_access, for which freezing does
/// not matter; what drops by the other way does not pair with it.
#[test]
fn ways_of_having_access_do_not_pair_with_each_other() {
    let one = "do_syscall_64 ovl_open ovl_maybe_copy_up ovl_copy_up_flags ovl_copy_up_one";
    let entries = [
        entry(Site::Take, &format!("{one} ovl_get_write_access"), 4),
        entry(Site::Put, &format!("{one} ovl_put_write_access"), 4),
        entry(Site::Drop, &format!("{one} ovl_copy_up_tmpfile"), 4),
    ];
    assert_eq!(
        named(&judge(&entries, 0, -4)),
        [("ovl_copy_up_tmpfile".to_owned(), -4)]
    );
}

/// Of a module that has gone before anybody asked for its names.
#[test]
fn nobody_is_named_by_an_address() {
    let path = format!("{WRITE} 0xffffffffc0a01020 0xffffffffc0a01060");
    let verdict = judge(&[entry(Site::Drop, &path, 4)], 0, -4);
    assert_eq!(named(&verdict), []);
    assert_eq!(verdict.doubts, [Doubt::Unnamed(1)]);
}

/// One CPU tells of a mount while another has taken access to it already.
#[test]
fn what_comes_before_its_mount_counts() {
    let mut record = MountRecord::new_zeroed();
    (record.address, record.since) = (0x1000, 5);
    let mount = Mount {
        record: &record,
        stack: b"",
    };
    let access = |number, site, stack| {
        Event::Access(Access {
            time: 6,
            mount: mount.key(),
            site,
            number,
            is_cut: false,
            stack,
        })
    };
    let mut ledger = Ledger::default();
    let events = [
        access(0, Site::Take, &b"leak+0x1\nvfs_write+0x1"[..]),
        Event::Balance(Balance {
            time: 6,
            number: 0,
            count: 2,
        }),
        Event::MountWatched(mount),
        access(1, Site::Take, b"more+0x1\nvfs_write+0x1"),
    ];
    for event in &events {
        assert!(ledger.event(event).is_none());
    }
    let died = MountRecord { count: 3, ..record };
    let died = Event::MountDied(Mount {
        record: &died,
        stack: b"",
    });
    let verdict = ledger.event(&died).and_then(|death| death.verdict);
    let verdict = verdict.expect("it was watched");
    assert_eq!((verdict.taken, verdict.sum()), (3, 3));
    assert_eq!(verdict.doubts, []);
}

/// What found no room may be what unbalances a mount that lives: below zero it is told, above
/// it may be an open file.
#[test]
fn the_kernels_count_speaks_where_the_ledger_is_full() {
    let of = |address, count| {
        let mut record = MountRecord::new_zeroed();
        (record.address, record.since, record.count) = (address, 5, count);
        record
    };
    let mut ledger = Ledger::default();
    let mut tell = |record: &MountRecord| {
        let event = Event::MountWatched(Mount { record, stack: b"" });
        assert!(ledger.event(&event).is_none());
    };
    let _ = [1, 2, 3].map(|address| tell(&of(address, 0)));
    let _ = [(1, -4), (2, 2), (3, 0)].map(|(address, count)| tell(&of(address, count)));
    let told = |ledger: &Ledger| {
        let Living { unbalanced, untold } = ledger.unbalanced();
        let counts: Vec<i32> = unbalanced.iter().map(|death| death.mount.count).collect();
        (counts, untold)
    };
    assert_eq!(told(&ledger), (vec![-4], 1));
    ledger.event(&Event::Unfiled(Unfiled {
        accesses: 7,
        ..Unfiled::default()
    }));
    assert_eq!(told(&ledger), (vec![-4], 1));
    let mut unbalanced = ledger.unbalanced().unbalanced;
    let verdict = unbalanced.pop().and_then(|death| death.verdict);
    let verdict = verdict.expect("it was watched");
    assert_eq!(verdict.doubts, [Doubt::Sum, Doubt::Full(7)]);
    assert_eq!(verdict.guilty, []);
}

#[test]
fn nothing_is_told_of_whom_the_kernel_was_not_asked() {
    let record = MountRecord::new_zeroed();
    let mount = Mount {
        record: &record,
        stack: b"",
    };
    let mut ledger = Ledger::default();
    ledger.event(&Event::MountWatched(mount));
    let told = |ledger: &Ledger| {
        let Living { unbalanced, untold } = ledger.unbalanced();
        (unbalanced.len(), untold)
    };
    assert_eq!(told(&ledger), (0, 0));
    ledger.event(&Event::Access(Access {
        time: 1,
        mount: mount.key(),
        site: Site::Take,
        number: 7,
        is_cut: false,
        stack: b"__mnt_want_write+0x1\nleaks+0x1\nsys+0x1",
    }));
    assert_eq!(told(&ledger), (0, 1));
}
