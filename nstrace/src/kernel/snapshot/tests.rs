//! What proc says, read back; names that the traced choose to confuse the reader included.

use nstrace_common::kind::Kind;
use proptest::prelude::*;

use super::{
    Options,
    parse::{self, Mount, Stat},
    take,
    text::Text,
};
use crate::event::Event;

#[test]
fn this_task_is_found_after_its_namespaces_and_these_after_what_is_above() {
    let options = Options {
        sockets: false,
        enter: false,
    };
    // SAFETY: it takes nothing and cannot fail.
    let own = u32::try_from(unsafe { libc::gettid() }).expect("it is positive");
    let mut inums = vec![0];
    let mut found = None;
    let (mut last, mut ended) = (0, false);
    let mut each = |event: Event| match event {
        Event::SnapshotBegin(now) => last = now.time,
        Event::FoundNamespace(ns) => {
            assert!(ns.time >= last);
            assert!(inums.contains(&ns.parent) && inums.contains(&ns.owner));
            inums.push(ns.ns.inum);
        }
        Event::FoundTask(task) => {
            assert!(task.namespaces.iter().all(|inum| inums.contains(inum)));
            if task.tid == own {
                found = Some((task.pid, task.namespaces, task.pids.to_vec()));
            }
        }
        Event::SnapshotEnd(_) => ended = true,
        _ => {}
    };
    take(&options, &mut each).expect("there is proc");
    assert!(ended);
    let (pid, namespaces, pids) = found.expect("it runs");
    assert_eq!(pid, std::process::id());
    assert_eq!(pids.last().map(|pid| pid.nr), Some(own));
    for (kind, inum) in Kind::ALL.into_iter().zip(namespaces) {
        let link = std::fs::read_link(format!("/proc/thread-self/ns/{}", kind.name()));
        let link = link.map(|link| link.into_os_string().into_encoded_bytes());
        let expected = link.ok().and_then(|link| parse::namespace(&link));
        assert_eq!(expected.map_or(0, |(_, inum)| inum), inum, "{kind:?}");
    }
}

#[test]
fn a_link_names_a_kind_and_a_number() {
    assert_eq!(
        parse::namespace(b"net:[4026531840]"),
        Some((Kind::Net, 4_026_531_840))
    );
    assert_eq!(parse::namespace(b"time:[4]"), Some((Kind::Time, 4)));
    assert_eq!(parse::socket(b"socket:[123456]"), Some(123_456));
}

#[test]
fn what_only_looks_like_a_link_of_the_kernel_names_nothing() {
    let hostile: [&[u8]; 14] = [
        b"",
        b"/tmp/net:[1]",
        b"/net:[1]",
        b"net:[1] (deleted)",
        b"net:[]",
        b"net:[-1]",
        b"net:[ 1]",
        b"net:[+1]",
        b"net:[4294967296]",
        b"net:[99999999999999999999999]",
        b"net:1",
        b"xet:[1]",
        b"socket:[1]",
        b"net:[1",
    ];
    for link in hostile {
        assert_eq!(parse::namespace(link), None, "{}", link.escape_ascii());
    }
    assert_eq!(parse::socket(b"/socket:[1]"), None);
    assert_eq!(parse::socket(b"pipe:[1]"), None);
}

const STAT: &str =
    "S 1 7 7 0 -1 4194560 10 0 0 0 1 2 0 0 20 0 1 0 4242 1000 50 18446744073709551615";

#[test]
fn a_name_cannot_forge_what_follows_it() {
    let names = ["bash", "a) Z 1 1", ") (", "a\nb", "((", ""];
    for name in names {
        let text = format!("7 ({name}) {STAT}");
        let stat = parse::stat(text.as_bytes());
        let expected = Stat {
            comm: name.as_bytes(),
            state: b'S',
            is_exiting: false,
            start: 4242,
        };
        assert_eq!(stat, Some(expected), "{name:?}");
    }
    let exiting = format!("7 (bash) {}", STAT.replace("4194560", "4194564"));
    let stat = parse::stat(exiting.as_bytes());
    assert!(stat.is_some_and(|stat| stat.is_exiting && stat.start == 4242));
}

#[test]
fn a_stat_that_is_cut_says_nothing() {
    assert_eq!(parse::stat(b"7 (bash"), None);
    assert_eq!(parse::stat(b"7 (bash) S 1 7"), None);
    assert_eq!(parse::stat(b") ("), None);
}

#[test]
fn ids_go_from_the_outermost_pid_namespace_down() {
    let status = b"Name:\ta\\nNSpid:\t9\nUmask:\t0022\nNSpid:\t4300\t17\t1\nNSpgid:\t4300\n";
    let (pids, len) = parse::ns_pids(status).expect("it is whole");
    let numbers: Vec<u32> = pids[..len].iter().map(|pid| pid.nr).collect();
    assert_eq!(numbers, [4300, 17, 1]);
}

#[test]
fn more_levels_than_there_are_say_nothing() {
    let status = format!("NSpid:{}\n", "\t1".repeat(34));
    assert!(parse::ns_pids(status.as_bytes()).is_none());
    assert!(parse::ns_pids(b"NSpid:\n").is_none());
    assert!(parse::ns_pids(b"Name:\tbash\n").is_none());
}

#[test]
fn only_the_path_of_version_two_counts() {
    let cgroup = parse::cgroup(b"12:pids:/a\n1:name=systemd:/0::/b\n0::/c d/e\n");
    assert_eq!(cgroup, Some(&b"/c d/e"[..]));
    assert_eq!(parse::cgroup(b"0::/\n"), Some(&b"/"[..]));
    assert_eq!(parse::cgroup(b"0::/../outside\n"), None);
    assert_eq!(parse::cgroup(b"0::/gone (deleted)\n"), None);
    assert_eq!(parse::cgroup(b"0::/cut-off"), None);
    assert_eq!(parse::cgroup(b"12:pids:/a\n"), None);
}

#[test]
fn a_mount_is_read_with_and_without_optional_fields() {
    let expected = Mount {
        device: (0, 4),
        root: b"net:[4026532281]",
        point: br"/run/netns/a\040b",
        fstype: b"nsfs",
    };
    for optional in ["", "shared:5 ", "shared:5 master:2 "] {
        let line =
            format!(r"36 35 0:4 net:[4026532281] /run/netns/a\040b rw {optional}- nsfs nsfs rw");
        assert_eq!(parse::mount(line.as_bytes()), Some(expected), "{optional}");
    }
    assert_eq!(parse::mount(b"36 35 0:4 / /proc rw shared:5"), None);
    assert_eq!(parse::mount(b""), None);
}

#[test]
fn escapes_of_paths_are_undone_and_others_left() {
    assert_eq!(
        parse::unescape(br"/a\040b\011c\012d\134e"),
        b"/a b\tc\nd\\e"
    );
    assert_eq!(parse::unescape(br"/a\"), br"/a\");
    assert_eq!(parse::unescape(br"/a\08x\999"), br"/a\08x\999");
    assert_eq!(parse::unescape(br"\777"), br"\777");
}

#[test]
fn entries_of_a_directory_that_are_no_numbers_are_left_out() {
    let mut bytes = Vec::new();
    for (ino, name) in [
        (5, "."),
        (6, "42"),
        (7, "self"),
        (8, "4294967296"),
        (9, "1"),
    ] {
        entry(&mut bytes, ino, name);
    }
    let entries: Vec<(u32, u64)> = parse::entries(&bytes).collect();
    assert_eq!(entries, [(42, 6), (1, 9)]);
}

/// A `struct linux_dirent64`.
fn entry(bytes: &mut Vec<u8>, ino: u64, name: &str) {
    let len = (19 + name.len() + 1).next_multiple_of(8);
    let end = bytes.len() + len;
    bytes.extend(ino.to_ne_bytes());
    bytes.extend(0_i64.to_ne_bytes());
    bytes.extend(u16::try_from(len).expect("short").to_ne_bytes());
    bytes.push(4);
    bytes.extend(name.as_bytes());
    bytes.resize(end, 0);
}

#[test]
fn a_path_is_put_together_and_never_overflows() {
    let path = Text::new().number(u32::MAX).text("/task/").number(0);
    assert_eq!(path.get(), c"4294967295/task/0");
    let longest = path.text("/ns/pid_for_children").text(&"x".repeat(100));
    assert_eq!(longest.get().count_bytes(), 63);
}

/// A path as mountinfo has it (fs/seq_file.c, mangle_path).
fn escape(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::new();
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                escaped.extend(format!("\\{byte:03o}").bytes());
            }
            _ => escaped.push(*byte),
        }
    }
    escaped
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        any::<u8>(),
        proptest::sample::select(&b" ()\\\n-:[]/0\t"[..])
    ];
    proptest::collection::vec(byte, 0..40)
}

proptest! {
    #[test]
    fn whatever_a_task_is_called_its_start_is_found(name in name()) {
        let text = [b"7 (", name.as_slice(), b") ", STAT.as_bytes()].concat();
        let stat = parse::stat(&text).expect("it is whole");
        prop_assert_eq!(stat.comm, name.as_slice());
        prop_assert_eq!((stat.state, stat.start), (b'S', 4242));
    }

    #[test]
    fn whatever_a_mount_point_is_called_it_is_found(name in name()) {
        let path = [b"/", name.as_slice()].concat();
        let line = [b"1 2 0:4 net:[7] ", escape(&path).as_slice(), b" rw - nsfs nsfs rw"].concat();
        let mount = parse::mount(&line).expect("it is whole");
        prop_assert_eq!(mount.root, b"net:[7]");
        prop_assert_eq!(parse::unescape(mount.point), path);
    }

    #[test]
    fn no_bytes_break_a_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse::namespace(&bytes);
        let _ = parse::stat(&bytes);
        let _ = parse::ns_pids(&bytes);
        let _ = parse::cgroup(&bytes);
        let _ = parse::mount(&bytes);
        prop_assert!(parse::unescape(&bytes).len() <= bytes.len());
        prop_assert!(parse::entries(&bytes).count() <= bytes.len());
    }
}
