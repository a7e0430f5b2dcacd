//! Mount operations as lines and as JSON, with names that attack.

use nstrace_common::mount_ops::{
    Birth, Call, HAS_MOUNTS, IS_LOCKED, IS_NO_ROOT, IS_POWERLESS, TAKEN_MORE,
};

use super::*;
use crate::mount_ops::{
    origins::{Maker, Origin},
    testing::{self as mounts, Built, births, mount_op},
};

fn mount_line(built: &Built) -> String {
    printed(Format::Line, &Event::MountOp(built.get()), |_| {})
}

fn tmpfs() -> Built {
    mount_op(Call::Mount, 0)
        .source(b"tmpfs", None)
        .target(b"mnt", Some(b"/srv/mnt"))
        .fs(b"tmpfs")
        .with(|record| {
            (record.id, record.unique, record.made) = (52, 77, 1);
            (record.ns, record.dev) = (4_026_531_841, 35);
            record.cgroup = 7;
        })
}

fn bind() -> Built {
    mount_op(Call::Mount, libc::MS_BIND | libc::MS_REC)
        .source(b"/proc/self/fd/7", Some(b"/srv"))
        .target(b"/mnt/srv", Some(b"/mnt/srv"))
        .with(|record| {
            (record.id, record.from) = (53, 29);
            (record.made, record.made_by_propagation) = (9, 6);
        })
}

fn umount(flags: i32) -> Built {
    mount_op(Call::Umount, flags as u64).target(b"/mnt/srv", Some(b"/mnt/srv"))
}

#[test]
fn each_call_has_its_line() {
    let source = |built: Built, found| built.source(b"", found);
    let mut out = String::new();
    for built in [
        tmpfs(),
        mount_op(Call::Mount, 0)
            .source(b"/dev/vda1", None)
            .target(b"/mnt", Some(b"/mnt"))
            .fs(b"ext4"),
        bind(),
        mount_op(Call::Mount, libc::MS_MOVE)
            .source(b"/a", None)
            .target(b"/b", Some(b"/b")),
        mount_op(
            Call::Mount,
            libc::MS_REMOUNT | libc::MS_RDONLY | libc::MS_NODEV,
        )
        .target(b"/b", Some(b"/b")),
        mount_op(Call::Mount, libc::MS_PRIVATE | libc::MS_REC).target(b"/", Some(b"/")),
        mount_op(Call::Mount, libc::MS_SHARED).target(b"/b", Some(b"/b")),
        umount(0).with(|record| (record.id, record.taken) = (53, 1)),
        umount(libc::MNT_DETACH).with(|record| {
            (record.id, record.taken, record.taken_by_propagation) = (53, 4, 1);
        }),
        umount(libc::MNT_DETACH).with(|record| {
            (record.taken, record.found) = (4096, TAKEN_MORE);
        }),
        mount_op(Call::PivotRoot, 0)
            .source(b".", Some(b"/new"))
            .target(b".", Some(b"/new/old")),
        mount_op(Call::Fsopen, 0)
            .fs(b"tmpfs")
            .with(|record| record.ret = 5),
        mount_op(Call::Fsconfig, 6)
            .source(b"none", None)
            .fs(b"tmpfs"),
        mount_op(Call::Fsconfig, 1).source(b"size", None).failed(22),
        mount_op(Call::Fsmount, 0).fs(b"tmpfs").with(|record| {
            (record.ret, record.id, record.made, record.attr_set) = (6, 60, 1, 0x9);
        }),
        mount_op(Call::MoveMount, 0x4)
            .source(b"", Some(b"/"))
            .target(b"/mnt", Some(b"/mnt"))
            .with(|record| (record.id, record.source_fd) = (60, 6)),
        mount_op(Call::MoveMount, 0x4)
            .source(b"", None)
            .target(b"sub", None)
            .failed(2)
            .with(|record| (record.source_fd, record.target_fd) = (6, 3)),
        source(mount_op(Call::OpenTree, 0x8001), Some(b"/srv"))
            .with(|record| (record.ret, record.id, record.made) = (7, 61, 3)),
        mount_op(Call::MountSetattr, 0x8000)
            .target(b"", None)
            .with(|record| {
                record.target_fd = 7;
                (record.attr_set, record.attr_clear) = (0x1, 0x8);
                record.propagation = libc::MS_PRIVATE;
            }),
        mount_op(Call::Fspick, 0)
            .target(b"/mnt", None)
            .with(|record| record.ret = 8),
        mount_op(Call::CopyMntNs, 0),
    ] {
        out += &mount_line(&built);
    }
    assert_snapshot!(out, @"
    23:01:15.221 4242   mount      mount   tmpfs on /srv/mnt      ok          0.21ms  id 52
    23:01:15.221 4242   mount      mount   /dev/vda1 on /mnt type ext4 ok     0.21ms
    23:01:15.221 4242   mount      rbind   /srv on /mnt/srv       ok          0.21ms  id 53, 9 mounts made, 6 by propagation
    23:01:15.221 4242   mount      move    /a to /b               ok          0.21ms
    23:01:15.221 4242   mount      remount /b ro,nodev            ok          0.21ms
    23:01:15.221 4242   mount      rprivate /                     ok          0.21ms
    23:01:15.221 4242   mount      shared  /b                     ok          0.21ms
    23:01:15.221 4242   mount      umount  /mnt/srv               ok          0.21ms  id 53
    23:01:15.221 4242   mount      umount  /mnt/srv lazy          ok          0.21ms  id 53, 4 mounts gone, 1 by propagation
    23:01:15.221 4242   mount      umount  /mnt/srv lazy          ok          0.21ms  at least 4096 mounts gone
    23:01:15.221 4242   mount      pivot_root /new, old root at /new/old ok   0.21ms
    23:01:15.221 4242   mount      fsopen  tmpfs                  fd 5        0.21ms
    23:01:15.221 4242   mount      fsconfig create tmpfs          ok          0.21ms
    23:01:15.221 4242   mount      fsconfig option size           EINVAL      0.21ms
    23:01:15.221 4242   mount      fsmount tmpfs ro,noexec        fd 6        0.21ms  id 60
    23:01:15.221 4242   mount      move_mount fd 6 on /mnt        ok          0.21ms  id 60
    23:01:15.221 4242   mount      move_mount fd 6 on fd 3:sub    ENOENT      0.21ms
    23:01:15.221 4242   mount      open_tree /srv recursively     fd 7        0.21ms  id 61, 3 mounts made
    23:01:15.221 4242   mount      mount_setattr fd 7 recursively ro -noexec private ok 0.21ms
    23:01:15.221 4242   mount      fspick  /mnt                   fd 8        0.21ms
    ");
}

#[test]
fn a_failure_says_why() {
    let mut out = String::new();
    for built in [
        umount(0).failed(libc::EBUSY),
        umount(0)
            .failed(libc::EBUSY)
            .with(|record| record.found = HAS_MOUNTS),
        umount(0)
            .failed(libc::EINVAL)
            .with(|record| record.found = IS_NO_ROOT | IS_LOCKED),
        umount(0)
            .failed(libc::EINVAL)
            .with(|record| record.found = IS_LOCKED),
        umount(0)
            .failed(libc::EPERM)
            .with(|record| record.found = IS_POWERLESS),
        umount(libc::MNT_EXPIRE).failed(libc::EAGAIN),
        tmpfs().fs(b"tm\x1b[2J\xff").failed(libc::ENODEV),
        mount_op(Call::Mount, libc::MS_REMOUNT | libc::MS_RDONLY)
            .target(b"/b", Some(b"/b"))
            .failed(libc::EBUSY),
        // Of a path that is not there nothing more is known.
        mount_op(Call::Umount, 0)
            .target(b"/nowhere", None)
            .failed(libc::ENOENT),
    ] {
        out += &mount_line(&built);
    }
    assert_snapshot!(out, @r#"
    23:01:15.221 4242   mount      umount  /mnt/srv               EBUSY       0.21ms
                                           it is in use: a file of it is open, or a task is in it (or in a mount that would go with it)
    23:01:15.221 4242   mount      umount  /mnt/srv               EBUSY       0.21ms
                                           other mounts are on it
    23:01:15.221 4242   mount      umount  /mnt/srv               EINVAL      0.21ms
                                           nothing is mounted there
    23:01:15.221 4242   mount      umount  /mnt/srv               EINVAL      0.21ms
                                           it is locked: it came with others from a mount namespace of more privilege
    23:01:15.221 4242   mount      umount  /mnt/srv               EPERM       0.21ms
                                           no CAP_SYS_ADMIN in user:4026531837
    23:01:15.221 4242   mount      umount  /mnt/srv expire        EAGAIN      0.21ms
                                           it is marked from here on: asked again, it is unmounted unless it was used
    23:01:15.221 4242   mount      mount   tmpfs on /srv/mnt type tm\x1b[2J\xff ENODEV 0.21ms
                                           this kernel has no file system tm\x1b[2J\xff
    23:01:15.221 4242   mount      remount /b ro                  EBUSY       0.21ms
                                           it has writers: open files, or what nstrace writers --now tells
    23:01:15.221 4242   mount      umount  /nowhere               ENOENT      0.21ms
    "#);
}

/// What is taken away is told with where it came from, as a namespace that dies is.
#[test]
fn a_mount_that_goes_is_told_with_who_made_it() {
    let gone = umount(0).with(|record| {
        record.start = 6_830_000_000;
        (record.id, record.taken) = (53, 1);
    });
    let maker = Maker {
        call: Call::CopyMntNs,
        start: 1_000_000_000,
        pid: 44,
        tid: 45,
        comm: *b"un\x1bshare\0garbage",
    };
    let birth = Birth {
        id: 53,
        from: 29,
        ..Birth::default()
    };
    let origin: &'static Origin = Box::leak(Box::new(Origin {
        birth,
        maker: maker.into(),
    }));
    let printed = |format, built: &Built| {
        let event = Event::MountOp(built.get());
        printed(format, &event, |view| view.origin = Some(origin))
    };
    assert_snapshot!(printed(Format::Line, &gone), @r#"23:01:21.051 4242   mount      umount  /mnt/srv               ok             0ns  id 53, copied by un\x1bshare[44] 5.8s before"#);
    let json = printed(Format::Json, &gone);
    let own = json.find("\"taken\"").expect("what was taken");
    assert_snapshot!(json[own..], @r#""taken":1,"age_ns":5830000000,"copy_of":29,"maker":{"op":"copy_mnt_ns","pid":44,"tid":45,"comm":"un\u001bshare"}}"#);
}

#[test]
fn who_made_a_mount_that_died_with_writers_is_told() {
    let maker = Maker {
        call: Call::Mount,
        start: 0,
        pid: 44,
        tid: 45,
        comm: *b"mount\0\0\0\0\0\0\0\0\0\0\0",
    };
    let origin = Origin {
        birth: Birth::default(),
        maker: maker.into(),
    };
    let record = unbalanced(42);
    let died = Event::MountDied(Mount {
        record: &record,
        stack: b"",
    });
    let of = |format| {
        let origin: &'static Origin = Box::leak(Box::new(origin.clone()));
        printed(format, &died, |view| view.origin = Some(origin))
    };
    let line = of(Format::Line);
    let (_, maker) = line.split_once("a private clone\n").expect("what it is");
    let maker = maker.lines().next().map(str::trim_start);
    assert_eq!(maker, Some("mounted by mount[44] 1.0s before"));
    assert!(of(Format::Json).contains(r#""age_ns":1000000000,"maker":{"op":"mount","pid":44"#));
}

#[test]
fn paths_that_attack_a_terminal_are_shown() {
    let built = mount_op(Call::Mount, libc::MS_BIND)
        .source(b"a\nb\x1b[2J", None)
        .target(b"x", Some(b"/\xff/\xe2\x80\xae"));
    let line = mount_line(&built);
    assert!(!line.trim_end_matches('\n').chars().any(char::is_control));
    assert!(line.contains(r"a\x0ab\x1b[2J on /\xff/\u{202e}"), "{line}");
    let json = json(&Event::MountOp(built.get()));
    assert!(json.contains(r#""source":"a\u000ab\u001b[2J""#), "{json}");
    assert!(json.contains(r#""target_path":"/\\xff/\u202e""#), "{json}");
}

#[test]
fn json_of_mounts() {
    assert_snapshot!(json(&Event::MountOp(tmpfs().get())), @r#"
    {"type":"mount",
    "time":"2026-11-22T23:01:15.221000000Z",
    "mono_ns":1000000000,
    "took_ns":210000,
    "op":"mount",
    "what":"new",
    "flags":[],
    "flags_raw":0,
    "ret":0,
    "pid":4242,
    "tid":4242,
    "uid":0,
    "comm":"mount",
    "cgroup_id":7,
    "cgroup":"/demo/\u001b[2J\\\\\\xff",
    "container":"demo",
    "caller_mnt":4026531841,
    "source":"tmpfs",
    "target":"mnt",
    "target_path":"/srv/mnt",
    "fs":"tmpfs",
    "id":52,
    "unique":77,
    "mnt":4026531841,
    "dev":"0:35",
    "made":1}
    "#);
    let failed = bind().failed(libc::EPERM).with(|record| {
        record.found = IS_POWERLESS;
        record.source_len = u16::MAX;
        record.target_fd = 3;
        (record.id, record.made, record.made_by_propagation) = (0, 0, 0);
    });
    assert_snapshot!(json(&Event::MountOp(failed.get())), @r#"
    {"type":"mount",
    "time":"2026-11-22T23:01:15.221000000Z",
    "mono_ns":1000000000,
    "took_ns":210000,
    "op":"mount",
    "what":"bind",
    "recursive":true,
    "flags":["BIND",
    "REC"],
    "flags_raw":20480,
    "ret":-1,
    "errno":"EPERM",
    "reason":"no CAP_SYS_ADMIN in user:4026531837",
    "pid":4242,
    "tid":4242,
    "uid":0,
    "comm":"mount",
    "caller_mnt":4026531841,
    "source":"/proc/self/fd/7",
    "source_cut":true,
    "source_path":"/srv",
    "target":"/mnt/srv",
    "target_fd":3,
    "target_path":"/mnt/srv",
    "from":29}
    "#);
    let list = [
        Birth {
            id: 52,
            unique: 2_147_483_700,
            ..Birth::default()
        },
        Birth {
            id: 53,
            unique: 2_147_483_701,
            from: 52,
            from_unique: 2_147_483_700,
        },
    ];
    assert_snapshot!(json(&Event::MountBirths(births(&list).get())), @r#"
    {"type":"mount_births",
    "time":"2026-11-22T23:01:15.221200000Z",
    "mono_ns":1000200000,
    "op":"mount",
    "op_mono_ns":1000000000,
    "pid":4242,
    "tid":4242,
    "comm":"mount",
    "births":[{"id":52,
    "unique":2147483700},{"id":53,
    "unique":2147483701,
    "from":52,
    "from_unique":2147483700}]}
    "#);
    let mut path = mounts::path(Some(b"/a"));
    path.found = 99;
    let odd = tmpfs().with(|record| (record.target_path, record.dev) = (path, u32::MAX));
    let odd = json(&Event::MountOp(odd.get()));
    assert!(!odd.contains("target_path") && odd.contains("\"dev\":\"4095:1048575\""));
}
