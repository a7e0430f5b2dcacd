//! Mounts of lines that the kernel writes, and of some that it does not.

use proptest::prelude::*;

use super::{
    testing::{mounts, namespace},
    uses::Uses,
    who::{Part, Scope, Subject, kept},
    *,
};

fn read(line: &str) -> Option<Mount> {
    info::line(line.as_bytes(), &mut Names::default())
}

#[test]
fn a_line_has_all_there_is_to_a_mount() {
    let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime shared:7 master:1 propagate_from:2 unbindable \
        - fuse.sshfs /dev/root rw,errors=continue";
    let mount = read(line).unwrap();
    assert_eq!((mount.id, mount.parent), (36, 35));
    assert_eq!(mount.device, "98:0".parse().unwrap());
    assert_eq!(
        (&*mount.root, &*mount.point),
        (&b"/mnt1"[..], &b"/mnt2"[..])
    );
    assert_eq!(
        (&*mount.fs, &*mount.source),
        (&b"fuse.sshfs"[..], &b"/dev/root"[..])
    );
    assert_eq!(&*mount.options, b"rw,noatime");
    assert_eq!(&*mount.super_options, b"rw,errors=continue");
    assert_eq!((mount.group, mount.master, mount.from), (7, 1, 2));
    assert!(mount.unbindable && !mount.is_private());
}

#[test]
fn names_have_their_bytes_back() {
    let line = br"36 35 0:40 /a\040b\011c\012d\134e /\377\303\274\134040 rw - tmpfs \040 rw,a=\054";
    let mount = info::line(line, &mut Names::default()).unwrap();
    assert_eq!(&*mount.root, b"/a b\tc\nd\\e");
    assert_eq!(&*mount.point, b"/\xff\xc3\xbc\\040");
    assert_eq!(&*mount.source, b" ");
    let options: Vec<Vec<u8>> = info::options(&mount.super_options).collect();
    assert_eq!(options, [&b"rw"[..], b"a=,"]);
    // What is no escape stays.
    let line = br"36 35 0:40 /\x \9 rw - tmpfs \400 rw";
    let mount = info::line(line, &mut Names::default()).unwrap();
    assert_eq!((&*mount.root, &*mount.point), (&br"/\x"[..], &br"\9"[..]));
    assert_eq!(&*mount.source, br"\400");
}

#[test]
fn a_source_may_be_empty_and_options_may_have_blanks() {
    let mount = read("63 43 0:39 / /a rw,relatime - tmpfs  rw").unwrap();
    assert_eq!(
        (&*mount.source, &*mount.super_options),
        (&b""[..], &b"rw"[..])
    );
    let mount = read("63 43 0:39 / /a rw - odd x rw,name=a b - c").unwrap();
    assert_eq!(&*mount.super_options, b"rw,name=a b - c");
    let mount = read("63 43 0:39 / /a rw - odd").unwrap();
    assert_eq!(
        (&*mount.source, &*mount.super_options),
        (&b""[..], &b""[..])
    );
}

#[test]
fn tags_that_are_not_known_are_skipped() {
    let many = "odd:1 shared: shared:x ".repeat(1000);
    let mount = read(&format!("1 0 0:1 / / rw {many}shared:5 - x y z")).unwrap();
    assert_eq!(mount.group, 5);
}

#[test]
fn what_is_no_line_is_none() {
    for line in [
        "",
        " ",
        "36",
        "36 35 98:0 /a /b rw",
        "36 35 98:0 /a /b rw shared:1",
        "36 35 98:0 /a /b rw -",
        "36 35 98 /a /b rw - ext4 x y",
        "36 35 98:-1 /a /b rw - ext4 x y",
        "-36 35 98:0 /a /b rw - ext4 x y",
        "+36 35 98:0 /a /b rw - ext4 x y",
        "99999999999 35 98:0 /a /b rw - ext4 x y",
        "36 35 \u{660}:0 /a /b rw - ext4 x y",
    ] {
        assert_eq!(read(line), None, "{line}");
    }
}

fn depths(lines: &str) -> Vec<(u32, usize, usize)> {
    let ns = namespace(1, lines);
    let order = order(&ns);
    order
        .iter()
        .map(|placed| (ns.mounts[placed.mount].id, placed.depth, placed.below))
        .collect()
}

#[test]
fn mounts_stand_below_what_they_are_mounted_on() {
    let lines = "\
        10 1 0:1 / / rw - a a rw
        12 11 0:3 / /a/b rw - a a rw
        11 10 0:2 / /a rw - a a rw
        13 10 0:4 / /c rw - a a rw";
    let expected = [(10, 0, 3), (11, 1, 1), (12, 2, 0), (13, 1, 0)];
    assert_eq!(depths(lines), expected);
}

#[test]
fn mounts_that_go_round_in_circles_are_there_once() {
    let lines = "\
        10 10 0:1 / / rw - a a rw
        11 12 0:2 / /a rw - a a rw
        12 11 0:3 / /b rw - a a rw
        13 12 0:3 / /c rw - a a rw
        13 99 0:3 / /d rw - a a rw";
    let all = depths(lines);
    assert_eq!(all.len(), 5);
    assert_eq!(all[0], (10, 0, 0));
}

#[test]
fn a_hundred_thousand_mounts_on_each_other_are_placed() {
    let mut ns = namespace(1, "1 0 0:1 / / rw - a a rw");
    let first = ns.mounts[0].clone();
    for id in 2..=100_000 {
        ns.mounts.push(Mount {
            id,
            parent: id - 1,
            ..first.clone()
        });
    }
    let order = order(&ns);
    assert_eq!(order.len(), 100_000);
    assert_eq!((order[0].below, order[99_999].depth), (99_999, 99_999));
}

/// How many other namespaces have each mount, by its id.
fn counted(mounts: &Mounts) -> Vec<(u32, usize)> {
    let copies = Copies::new(mounts);
    let all = mounts.iter();
    all.map(|(key, mount)| (mount.id, copies.count(key)))
        .collect()
}

#[test]
fn copies_are_of_one_place_or_one_group() {
    let mounts = mounts(&[
        (
            1,
            "10 1 8:1 / / rw shared:1 - ext4 x rw
             11 10 0:5 / /data rw shared:2 - tmpfs x rw
             12 10 8:1 /srv /srv rw shared:1 - ext4 x rw
             13 10 0:6 / /own rw - tmpfs x rw
             14 10 0:6 / /own2 rw - tmpfs x rw",
        ),
        // A copy that is private, one that is a slave in another place, and one of another
        // part of what is mounted.
        (
            2,
            "20 1 8:1 / / rw - ext4 x rw
             21 20 0:5 / /host/data rw master:2 - tmpfs x rw
             22 20 8:1 /etc /srv rw master:1 - ext4 x rw",
        ),
        (3, "30 1 0:5 / /elsewhere rw master:2 - tmpfs x rw"),
    ]);
    let expected = [
        (10, 1),
        (11, 2),
        (12, 0),
        (13, 0),
        (14, 0),
        (20, 1),
        (21, 2),
        (22, 0),
        (30, 2),
    ];
    assert_eq!(counted(&mounts), expected);
}

#[test]
fn many_namespaces_with_many_mounts_are_counted_soon() {
    let mut all = Vec::new();
    let mut names = Names::default();
    for ns in 0..2000_u32 {
        let mounts = (0..50_u32).map(|mount| {
            let id = ns * 50 + mount;
            let line = format!("{id} 0 8:1 / /m{mount} rw master:{} - ext4 x rw", mount + 1);
            info::line(line.as_bytes(), &mut names).unwrap()
        });
        all.push(MountNs {
            inum: ns,
            mounts: mounts.collect(),
            ..MountNs::default()
        });
    }
    let mounts = Mounts::new(Way::Mountinfo, all);
    assert!(counted(&mounts).iter().all(|(_, count)| *count == 1999));
}

#[test]
fn where_a_slave_hears_from_is_found() {
    // Group 3 is slave of 2, which is in no namespace but the second, and slave of 1.
    let mounts = mounts(&[
        (
            1,
            "10 1 0:1 / / rw shared:1 - a a rw
             11 10 0:1 / /s rw master:2 - a a rw
             12 10 0:1 / /t rw master:3 propagate_from:7 - a a rw",
        ),
        (
            2,
            "20 1 0:1 / / rw shared:2 master:1 - a a rw
             21 20 0:1 / /t rw shared:3 master:2 - a a rw",
        ),
        (3, "30 1 0:1 / / rw master:3 - a a rw"),
    ]);
    let from: Vec<(u32, u32)> = mounts.iter().map(|(_, one)| (one.id, one.from)).collect();
    let expected = [(10, 0), (11, 1), (12, 7), (20, 0), (21, 0), (30, 0)];
    assert_eq!(from, expected);
    let get = |id: u32| mounts.get(mounts.by_id(id).unwrap()).unwrap();
    let receives = Receives::new(&mounts);
    assert!(receives.from(get(10), get(11)));
    assert!(receives.from(get(10), get(30)));
    assert!(receives.from(get(21), get(30)));
    assert!(!receives.from(get(30), get(10)));
    assert!(!receives.from(get(20), get(10)));
}

#[test]
fn masters_that_go_round_in_circles_end() {
    let mounts = mounts(&[(
        1,
        "10 1 0:1 / / rw shared:1 master:2 - a a rw
         11 1 0:1 / / rw shared:2 master:1 - a a rw
         12 1 0:1 / / rw master:3 - a a rw
         13 1 0:1 / / rw shared:4 master:4 - a a rw",
    )]);
    let get = |id: u32| mounts.get(mounts.by_id(id).unwrap()).unwrap();
    assert!(!Receives::new(&mounts).from(get(13), get(10)));
}

#[test]
fn what_lies_above_a_mount_hides_it() {
    let mounts = mounts(&[(
        7,
        "1 0 8:1 / / rw - ext4 x rw
        2 1 0:1 / /s/a rw - tmpfs x rw
        3 1 0:2 / /s rw - tmpfs x rw
        4 2 0:1 / /s/a/c rw - tmpfs x rw
        5 3 0:1 / /s/a rw - tmpfs x rw
        6 1 0:1 / /sa rw - tmpfs x rw",
    )]);
    let subject = Subject {
        asked: b"0:1"[..].into(),
        point: None,
        parts: vec![Part {
            device: "0:1".parse().unwrap(),
            name: b""[..].into(),
        }],
        is_block: false,
        scope: Scope::All,
    };
    let uses = Uses::default();
    let kept = kept(&subject, &mounts, &uses);
    let hidden = kept.iter();
    let hidden: Vec<_> = hidden
        .map(|one| (one.mount.id, one.hidden_by.map(|hiding| hiding.id)))
        .collect();
    assert_eq!(hidden, [(2, Some(3)), (4, Some(3)), (5, None), (6, None)]);
    assert!(kept[1].is_below(&kept[0]) && !kept[0].is_below(&kept[1]));
    assert!(!kept[2].is_below(&kept[0]));
}

#[test]
fn a_path_is_on_what_covers_it() {
    let ns = namespace(
        1,
        "10 1 8:1 / / rw - ext4 x rw
         11 10 0:5 / /a rw - tmpfs x rw
         12 11 0:6 / /a/b rw - tmpfs x rw
         13 10 0:7 / /ab rw - tmpfs x rw
         14 13 0:8 / /ab rw - tmpfs x rw
         15 10 0:9 / /c/d rw - tmpfs x rw
         16 10 0:10 / /c rw - tmpfs x rw",
    );
    let on = |path: &str| covering(&ns, path.as_bytes()).map(|at| ns.mounts[at].id);
    assert_eq!(on("/"), Some(10));
    assert_eq!(on("/x"), Some(10));
    assert_eq!(on("/a"), Some(11));
    assert_eq!(on("/a/b/c"), Some(12));
    assert_eq!(on("/ab/c"), Some(14));
    assert_eq!(on("/abc"), Some(10));
    // What was mounted over hides it.
    assert_eq!(on("/c/d"), Some(16));
    assert_eq!(on("relative"), None);
    assert_eq!(covering(&MountNs::default(), b"/"), None);
}

#[test]
fn what_lies_on_a_file_is_found_in_every_namespace() {
    let mounts = mounts(&[
        (1, "10 1 8:1 / / rw - ext4 x rw"),
        (
            2,
            "20 1 0:5 / / rw - overlay x rw
             21 20 8:1 /srv /data rw - ext4 x rw
             22 21 0:6 / /data/dir rw - tmpfs x rw
             23 20 0:7 / /srv/dir rw - tmpfs x rw",
        ),
        (
            3,
            "30 1 8:1 / / rw - ext4 x rw\n31 30 0:8 / /srv/dir rw - tmpfs x rw",
        ),
    ]);
    let root = &mounts.namespaces[0].mounts[0];
    let dir = FsPath::of(root, b"/srv/dir").unwrap();
    assert_eq!(dir.path, b"/srv/dir");
    let ids: Vec<u32> = on(&mounts, &dir)
        .into_iter()
        .map(|key| mounts.get(key).unwrap().id)
        .collect();
    assert_eq!(ids, [22, 31]);
    let of = |id: u32| {
        let key = mounts.by_id(id).unwrap();
        point(&mounts.namespaces[key.ns], mounts.get(key).unwrap())
    };
    assert_eq!(of(22), Some(dir));
    assert_eq!(of(20), None);
    let part = &mounts.namespaces[1].mounts[1];
    assert_eq!(FsPath::of(part, b"/data").unwrap().path, b"/srv");
    assert_eq!(FsPath::of(part, b"/dataset"), None);
}

proptest! {
    #[test]
    fn any_line_is_read_or_not(line: Vec<u8>) {
        let _ = info::line(&line, &mut Names::default());
    }

    #[test]
    fn lines_of_any_names_are_read(
        root: Vec<u8>, point: Vec<u8>, source: Vec<u8>, id: u32, group in 0_u32..9,
    ) {
        let escape = |name: &[u8]| -> Vec<u8> {
            let escaped = |byte: &u8| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                byte => vec![*byte],
            };
            name.iter().flat_map(escaped).collect()
        };
        let line = [
            format!("{id} 1 0:1 ").as_bytes(), &escape(&root), b" ", &escape(&point), b" rw ",
            format!("shared:{group}").as_bytes(), b" - fs ", &escape(&source), b" rw",
        ]
        .concat();
        let mount = info::line(&line, &mut Names::default()).unwrap();
        prop_assert_eq!(
            (mount.id, mount.group, &*mount.root, &*mount.point, &*mount.source),
            (id, group, &*root, &*point, &*source)
        );
    }

    #[test]
    fn whatever_is_mounted_on_what_each_is_placed_once(parents in prop::collection::vec(0_u32..20, 0..20)) {
        let lines: String = parents
            .iter()
            .enumerate()
            .map(|(id, parent)| format!("{id} {parent} 0:1 / /{id} rw - a a rw\n"))
            .collect();
        let ns = namespace(1, &lines);
        let mut placed: Vec<usize> = order(&ns).iter().map(|placed| placed.mount).collect();
        placed.sort_unstable();
        prop_assert_eq!(placed, (0..parents.len()).collect::<Vec<_>>());
        for path in ["/", "/3", "/x/y"] {
            covering(&ns, path.as_bytes());
        }
    }
}
