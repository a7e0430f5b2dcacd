//! Every rendering of the tree, by hand, with names that attack.

use std::collections::HashSet;

use insta::assert_snapshot;
use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWUSER},
    kind::Kind,
    wire::{Op, RecordKind},
};
use proptest::prelude::*;

use super::{
    testing::{FIRST, SECOND, Scene, machine},
    *,
};
use crate::{
    event::{Event, Holder, Lost, Unseen},
    render::testing::op,
    world::{
        Change, World,
        tests::{machine::Machine, owned::apply},
    },
};

const USER: u32 = FIRST[Kind::User as usize];
const PID: u32 = FIRST[Kind::Pid as usize];

#[test]
fn a_container_and_a_namespace_that_a_mount_holds() {
    assert_snapshot!(machine().text(), @"
    user:4026531837 (first)
      pid:4026531836 (first)
        mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840
        cgroup:4026531835 time:4026531834
          3 tasks: systemd[1], dockerd[812], runc[4242]
        pid:4026532279, made by runc[4242] clone, 3m11s ago
          container web (3f2a91c04b7d)
            mnt:4026532276 uts:4026532277 ipc:4026532278 net:4026532281
              3 tasks: nginx[4300] (2 threads), nginx[4302]
              made by runc[4242] clone, 3m11s ago
      net:4026532400
        bind mount /run/netns/blue in mnt:4026531841
        descriptor 23 of dockerd[812]
    ");
}

#[test]
fn one_look_says_what_is_missing() {
    let mut scene = Scene::new();
    scene.live = false;
    scene.unseen = Unseen {
        tasks: 1,
        descriptors: 12,
        mounts: 2,
        sockets: 3,
        procs: 1,
        children: 1,
    };
    scene.event(&Event::Lost(Lost {
        time: scene.now + SECOND,
        since: 0,
        record: RecordKind::Op,
        count: 7,
    }));
    scene.now += 3 * SECOND;
    assert_snapshot!(scene.text(), @"
    *** LOST events from 13.0s ago to 2.0s ago: this may be wrong ***
    could not be looked at: the namespaces of 1 task, the descriptors of 12
    processes, the mounts of 2 mount namespaces, the net namespace of 3 sockets, the
    pid namespace of 1 mount of proc, the pid namespace (without a process yet) for
    the children of 1 task
    one look: makers and ages are not known; --watch and -- COMMAND trace
    user:4026531837 (first)
      pid:4026531836 (first)
        mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840
        cgroup:4026531835 time:4026531834
          1 task: systemd[1]
    ");
    let head = scene.json();
    assert_snapshot!(head.lines().next().unwrap_or_default(), @r#"{"type":"tree","time":"2026-11-22T23:01:27.221000001Z","mono_ns":13000000001,"live":false,"unseen":{"tasks":1,"descriptors":12,"mounts":2,"sockets":3,"procs":1,"children":1},"loss":{"from_mono_ns":0,"until_mono_ns":11000000001}}"#);
}

// A user namespace without a pid namespace of its own, and one that nothing is in.
#[test]
fn tasks_stand_where_their_innermost_namespace_is() {
    let mut scene = Scene::new();
    scene.namespace(Kind::User, 500, USER, USER);
    scene.namespace(Kind::Pid, 501, PID, 500);
    scene.namespace(Kind::User, 502, 500, 500);
    scene.namespace(Kind::Net, 503, 0, 502);
    scene.task(70, 70, b"unshare", &[(Kind::User, 500)]);
    scene.task(71, 71, b"inside", &[(Kind::User, 500), (Kind::Pid, 501)]);
    // nsenter -p from outside.
    scene.task(72, 72, b"nsenter", &[(Kind::Pid, 501)]);
    assert_snapshot!(scene.text(), @"
    user:4026531837 (first)
      pid:4026531836 (first)
        mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840
        cgroup:4026531835 time:4026531834
          1 task: systemd[1]
      user:500
        1 task: unshare[70]
        pid:501
          1 task: inside[71]
          user:4026531837
            1 task: nsenter[72]
        user:502
          net:503
            held by nothing that can be seen
    ");
}

#[test]
fn nesting_does_not_push_lines_off_the_screen() {
    let mut scene = Scene::new();
    let mut above = (USER, PID);
    for level in 0..32 {
        scene.namespace(Kind::User, 1000 + level, above.0, above.0);
        above.0 = 1000 + level;
    }
    for level in 0..32 {
        scene.namespace(Kind::Pid, 2000 + level, above.1, above.0);
        above.1 = 2000 + level;
    }
    scene.task(
        99,
        99,
        b"deep",
        &[(Kind::User, above.0), (Kind::Pid, above.1)],
    );
    let text = scene.text();
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    assert_snapshot!(last.join("\n"), @"
    (65) 1 task: deep[99]
    (64) pid:2031
    (63) pid:2030
    ");
    scene.width = None;
    assert!(scene.text().contains(&format!("\n{:128}pid:2031\n", "")));
    scene.filter.kinds = vec![Kind::Pid];
    scene.width = Some(80);
    assert!(scene.text().lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn many_tasks_are_summed_up() {
    let mut scene = Scene::new();
    for tid in 0..10_000 {
        scene.task(100 + tid / 4 * 4, 100 + tid, b"worker", &[(Kind::Net, 600)]);
    }
    assert_snapshot!(scene.text(), @"
    user:4026531837 (first)
      pid:4026531836 (first)
        mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840
        cgroup:4026531835 time:4026531834
          1 task: systemd[1]
        net:600
          10000 tasks: worker[100] (4 threads), worker[104] (4 threads), …
    ");
}

#[test]
fn names_that_attack_stay_on_their_line() {
    let mut scene = Scene::new();
    scene.cgroups.learn(7, b"/demo\x1b[2J\n");
    scene.names.learn(b"demo\x1b[2J\n", "na\u{202e}me");
    scene.task_of(7, 70, 70, b"\x1b[2J\n\xff", &[(Kind::Net, 600)]);
    scene.namespace(Kind::Net, 601, 0, USER);
    let path = b"/run/\x1b]0;x\x07\n\"\\".as_slice();
    scene.holder(Kind::Net, 601, Holder::Mount { mnt: 1, path });
    scene.holder(
        Kind::Net,
        601,
        Holder::Proc {
            mnt: 2,
            path: &[b'x'; 500],
        },
    );
    scene.holder(Kind::Net, 601, Holder::Socket { pid: 70, fd: 9 });
    scene.holder(Kind::Net, 601, Holder::Socket { pid: 9999, fd: 9 });
    scene.task(80, 80, "日本日本日".as_bytes(), &[(Kind::Net, 602)]);
    assert_snapshot!(scene.text(), @r#"
    user:4026531837 (first)
      pid:4026531836 (first)
        mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840
        cgroup:4026531835 time:4026531834
          1 task: systemd[1]
        net:602
          1 task: 日本日本日[80]
        container na\u{202e}me (demo\x1b[2J\x0a)
          net:600
            1 task: \x1b[2J\x0a\xff[70]
      net:601
        bind mount /run/\x1b]0;x\x07\x0a"\\ in mnt:1
        proc mounted on xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        socket 9 of \x1b[2J\x0a\xff[70]
        and 1 more
    "#);
    assert!(!scene.json().contains('\x1b'));
    scene.color = true;
    scene.width = Some(20);
    let text = scene.text();
    assert!(!text.contains("\x1b]") && !text.contains('\x07'));
}

#[test]
fn wide_characters_are_cut_in_time() {
    let mut scene = Scene::new();
    scene.width = Some(20);
    scene.task(80, 80, "日本日本日".as_bytes(), &[(Kind::Net, 602)]);
    assert_snapshot!(scene.text(), @"
    user:4026531837 (fi…
      pid:4026531836 (f…
        mnt:4026531841
        uts:4026531838
        ipc:4026531839
        net:4026531840
        cgroup:40265318…
        time:4026531834
          1 task: syste…
        net:602
          1 task: 日本…
    ");
}

#[test]
fn what_stood_in_a_forgotten_namespace_is_at_the_top() {
    let mut scene = Scene::new();
    scene.world = crate::world::World::new(crate::world::Options {
        dead_max: 0,
        dead_age_max_ns: 0,
        ..Default::default()
    });
    scene.namespace(Kind::User, 500, USER, USER);
    scene.namespace(Kind::Pid, 501, 0, 500);
    scene.task(70, 70, b"orphan", &[(Kind::User, 500), (Kind::Pid, 501)]);
    scene.death(500);
    assert_snapshot!(scene.text(), @"
    pid:501, what it was in is forgotten
      mnt:4026531841 net:4026531840
        1 task: orphan[70]
    user:4026531837 (first)
    ");
    scene.json();
}

/// As of one whose only mount another mount lies on.
#[test]
fn what_could_not_be_opened_is_at_the_top() {
    let mut scene = Scene::new();
    scene.namespace(Kind::Net, 500, 0, 0);
    assert!(scene.text().contains("net:500, its owner is not known\n"));
}

// As no kernel has it, but a recording may.
#[test]
fn namespaces_that_stand_in_each_other_are_shown() {
    let mut scene = Scene::new();
    scene.namespace(Kind::User, 500, 501, 501);
    scene.namespace(Kind::User, 501, 500, 500);
    scene.namespace(Kind::Pid, 502, 503, 500);
    scene.namespace(Kind::Pid, 503, 502, 500);
    scene.task(70, 70, b"loop", &[(Kind::User, 501), (Kind::Pid, 502)]);
    let text = scene.text();
    for inum in 500..504 {
        assert!(
            text.contains(&format!(":{inum}")),
            "{inum} is not in\n{text}"
        );
    }
    assert_eq!(scene.json().matches("\"namespace\"").count(), 12);
    scene.filter.pid = Some(70);
    assert!(scene.text().contains("loop[70]"));
    scene.filter.kinds = vec![Kind::User, Kind::Pid];
    assert!(scene.text().contains("user:500") && scene.text().contains("pid:503"));
}

#[test]
fn filters_show_a_branch() {
    let mut scene = machine();
    scene.filter.pid = Some(4302);
    assert_snapshot!(scene.text(), @"
    user:4026531837 (first)
      pid:4026531836 (first)
        pid:4026532279, made by runc[4242] clone, 3m11s ago
          container web (3f2a91c04b7d)
            mnt:4026532276 uts:4026532277 ipc:4026532278 net:4026532281
              3 tasks: nginx[4302], nginx[4300] (2 threads)
              made by runc[4242] clone, 3m11s ago
    ");
    let lines = scene.json().lines().count();
    scene.filter.pid = None;
    scene.filter.container = Some("web".into());
    assert_snapshot!(scene.text(), @"
    user:4026531837 (first)
      pid:4026531836 (first)
        pid:4026532279, made by runc[4242] clone, 3m11s ago
          container web (3f2a91c04b7d)
            mnt:4026532276 uts:4026532277 ipc:4026532278 net:4026532281
              3 tasks: nginx[4300] (2 threads), nginx[4302]
              made by runc[4242] clone, 3m11s ago
    ");
    assert_eq!(scene.json().lines().count(), lines + 2);
    scene.filter.container = Some("3f2a".into());
    assert!(scene.text().contains("container web"));
    scene.filter.container = Some("nobody".into());
    assert_snapshot!(scene.text(), @"nothing that was asked for");
    scene.filter = TreeFilter {
        pid: Some(812),
        ..TreeFilter::default()
    };
    assert_snapshot!(scene.text(), @"
    user:4026531837 (first)
      pid:4026531836 (first)
        mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840
        cgroup:4026531835 time:4026531834
          3 tasks: dockerd[812], systemd[1], runc[4242]
      net:4026532400
        bind mount /run/netns/blue in mnt:4026531841
        descriptor 23 of dockerd[812]
    ");
}

#[test]
fn kinds_are_lists() {
    let mut scene = machine();
    scene.filter.kinds = vec![Kind::Net, Kind::Pid];
    assert_snapshot!(scene.text(), @"
    pid:4026531836 (first)
      owner user:4026531837
      3 tasks: systemd[1], dockerd[812], runc[4242]
      pid:4026532279, made by runc[4242] clone, 3m11s ago
        owner user:4026531837
        3 tasks: nginx[4300] (2 threads), nginx[4302]
    net:4026531840 (first)
      owner user:4026531837
      3 tasks: systemd[1], dockerd[812], runc[4242]
    net:4026532400
      owner user:4026531837
      bind mount /run/netns/blue in mnt:4026531841
      descriptor 23 of dockerd[812]
    net:4026532281, made by runc[4242] clone, 3m11s ago
      owner user:4026531837
      3 tasks: nginx[4300] (2 threads), nginx[4302]
    ");
    let kinds = scene.json();
    assert!(!kinds.contains("\"kind\":\"mnt\""));
}

#[test]
fn json_lines() {
    assert_snapshot!(machine().json(), @r#"
    {"type":"tree","time":"2026-11-22T23:04:36.221000002Z","mono_ns":202000000002,"live":true}
    {"type":"namespace","kind":"user","inum":4026531837,"owner_uid":0,"tasks":6,"namespaces":13,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"pid","inum":4026531836,"owner":4026531837,"tasks":3,"tasks_for_children":3,"namespaces":1,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"pid","inum":4026532279,"parent":4026531836,"owner":4026531837,"born_mono_ns":11000000001,"age_ns":191000000001,"maker":{"op":"clone","pid":4242,"tid":4242,"uid":0,"comm":"runc"},"tasks":3,"tasks_for_children":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"mnt","inum":4026531841,"owner":4026531837,"tasks":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"mnt","inum":4026532276,"owner":4026531837,"born_mono_ns":11000000001,"age_ns":191000000001,"maker":{"op":"clone","pid":4242,"tid":4242,"uid":0,"comm":"runc"},"tasks":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"uts","inum":4026531838,"owner":4026531837,"tasks":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"uts","inum":4026532277,"owner":4026531837,"born_mono_ns":11000000001,"age_ns":191000000001,"maker":{"op":"clone","pid":4242,"tid":4242,"uid":0,"comm":"runc"},"tasks":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"ipc","inum":4026531839,"owner":4026531837,"tasks":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"ipc","inum":4026532278,"owner":4026531837,"born_mono_ns":11000000001,"age_ns":191000000001,"maker":{"op":"clone","pid":4242,"tid":4242,"uid":0,"comm":"runc"},"tasks":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"net","inum":4026531840,"owner":4026531837,"tasks":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"net","inum":4026532400,"owner":4026531837,"tasks":0,"namespaces":0,"holders":[{"what":"mount","mnt":4026531841,"path":"/run/netns/blue"},{"what":"descriptor","pid":812,"fd":23,"comm":"dockerd"}],"confirmed":true}
    {"type":"namespace","kind":"net","inum":4026532281,"owner":4026531837,"born_mono_ns":11000000001,"age_ns":191000000001,"maker":{"op":"clone","pid":4242,"tid":4242,"uid":0,"comm":"runc"},"tasks":3,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"cgroup","inum":4026531835,"owner":4026531837,"tasks":6,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"namespace","kind":"time","inum":4026531834,"owner":4026531837,"tasks":6,"tasks_for_children":6,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"task","pid":1,"tid":1,"comm":"systemd","pids":[{"ns":4026531836,"pid":1}],"namespaces":{"mnt":4026531841,"uts":4026531838,"ipc":4026531839,"pid":4026531836,"net":4026531840,"user":4026531837,"cgroup":4026531835,"time":4026531834}}
    {"type":"task","pid":812,"tid":812,"comm":"dockerd","pids":[{"ns":4026531836,"pid":812}],"namespaces":{"mnt":4026531841,"uts":4026531838,"ipc":4026531839,"pid":4026531836,"net":4026531840,"user":4026531837,"cgroup":4026531835,"time":4026531834}}
    {"type":"task","pid":4242,"tid":4242,"comm":"runc","pids":[{"ns":4026531836,"pid":4242}],"namespaces":{"mnt":4026531841,"uts":4026531838,"ipc":4026531839,"pid":4026531836,"net":4026531840,"user":4026531837,"cgroup":4026531835,"time":4026531834}}
    {"type":"task","pid":4300,"tid":4300,"comm":"nginx","pids":[{"ns":4026531836,"pid":4300},{"ns":4026532279,"pid":1}],"cgroup_id":77,"cgroup":"/system.slice/docker-3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123.scope","container":"3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123","container_name":"web","namespaces":{"mnt":4026532276,"uts":4026532277,"ipc":4026532278,"pid":4026532279,"net":4026532281,"user":4026531837,"cgroup":4026531835,"time":4026531834}}
    {"type":"task","pid":4300,"tid":4301,"comm":"nginx","pids":[{"ns":4026531836,"pid":4301},{"ns":4026532279,"pid":1}],"cgroup_id":77,"cgroup":"/system.slice/docker-3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123.scope","container":"3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123","container_name":"web","namespaces":{"mnt":4026532276,"uts":4026532277,"ipc":4026532278,"pid":4026532279,"net":4026532281,"user":4026531837,"cgroup":4026531835,"time":4026531834}}
    {"type":"task","pid":4302,"tid":4302,"comm":"nginx","pids":[{"ns":4026531836,"pid":4302},{"ns":4026532279,"pid":2}],"cgroup_id":77,"cgroup":"/system.slice/docker-3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123.scope","container":"3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123","container_name":"web","namespaces":{"mnt":4026532276,"uts":4026532277,"ipc":4026532278,"pid":4026532279,"net":4026532281,"user":4026531837,"cgroup":4026531835,"time":4026531834}}
    "#);
}

fn changes(scene: &Scene, printer: &mut Changes) -> String {
    scene.print(|out, world, view| printer.print(out, world, &scene.changes, view))
}

/// A life of a container, and what is printed of it.
fn story(json: bool) -> String {
    let mut scene = machine();
    let mut printer = Changes::new(json, jiff::tz::TimeZone::UTC);
    printer.remember(&scene.world);
    let mut told = String::new();
    let mut tell = |scene: &mut Scene| told += &changes(scene, &mut printer);
    scene.op(op(Op::Unshare, CLONE_NEWNET).after(&[(Kind::Net, 4_026_532_500)]));
    tell(&mut scene);
    scene.begin();
    scene.task(900, 900, b"a\nb", &[(Kind::Pid, 4_026_532_279)]);
    tell(&mut scene);
    scene.holder(
        Kind::Net,
        4_026_532_281,
        Holder::Descriptor { pid: 812, fd: 9 },
    );
    tell(&mut scene);
    scene.event(&Event::Lost(Lost {
        time: scene.now,
        since: 0,
        record: RecordKind::Op,
        count: 7,
    }));
    tell(&mut scene);
    // All tasks but init are gone, and nothing holds the container's namespaces.
    scene.now += SECOND;
    scene.begin();
    scene.task(1, 1, b"systemd", &[]);
    scene.end();
    // A world has no order for what a look did not find.
    scene.changes.sort_by_key(|change| match change {
        Change::Unconfirmed(ns) | Change::Unpinned(ns) => Some(*ns),
        _ => None,
    });
    tell(&mut scene);
    scene.death(4_026_532_281);
    tell(&mut scene);
    told
}

#[test]
fn changes_are_lines() {
    assert_snapshot!(story(false), @r"
    23:04:37.221 +net:4026532500 made by runc[4242] unshare in user:4026531837
    23:04:37.221 runc[4242] net:4026531840 -> net:4026532500
    23:04:37.221 a\x0ab[900] starts in pid:4026532279
    23:04:37.221 net:4026532281 is held by descriptor 9 of dockerd[812]
    23:04:37.221 *** LOST events of 3m13s: what follows may be wrong ***
    23:04:38.221 runc[4242] exits in net:4026532500 (inferred)
    23:04:38.221 nginx[4300] exits in mnt:4026532276 uts:4026532277 ipc:4026532278 …
    23:04:38.221 nginx[4302] exits in mnt:4026532276 uts:4026532277 ipc:4026532278 …
    23:04:38.221 a\x0ab[900] exits in pid:4026532279 (inferred)
    23:04:38.221 a look at the machine has made good the events lost in 3m13s
    23:04:38.221 net:4026532400 is no longer held by bind mount /run/netns/blue in …
    23:04:38.221 net:4026532400 was not found: nothing that can be seen holds it
    23:04:38.221 mnt:4026532276 was not found: nothing that can be seen holds it
    23:04:38.221 uts:4026532277 was not found: nothing that can be seen holds it
    23:04:38.221 ipc:4026532278 was not found: nothing that can be seen holds it
    23:04:38.221 pid:4026532279 was not found: nothing that can be seen holds it
    23:04:38.221 net:4026532281 is no longer held by descriptor 9 of dockerd[812]
    23:04:38.221 net:4026532281 was not found: nothing that can be seen holds it
    23:04:38.221 net:4026532500 was not found: nothing that can be seen holds it
    23:04:39.221 -net:4026532281 lived 3m14s, made by runc[4242]
    ");
}

#[test]
fn changes_are_json_lines() {
    let lines = story(true);
    for line in lines.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        assert!(value["time"].is_string() && value["mono_ns"].is_u64());
        let of_task = ["started", "exited", "joined", "left"].map(Some);
        if of_task.contains(&value["type"].as_str()) {
            assert!(value["comm"].is_string() && value["tid"].is_u64());
        }
    }
    let one_of_each = |kind: &&str| lines.lines().find(|line| line.contains(*kind));
    let kinds = [
        "\"born\"",
        "\"joined\"",
        "\"started\"",
        "\"pinned\"",
        "\"lost\"",
        "\"left\"",
        "\"exited\"",
        "\"unpinned\"",
        "\"unconfirmed\"",
        "\"died\"",
    ];
    let shown: Vec<&str> = kinds.iter().filter_map(one_of_each).collect();
    assert_snapshot!(shown.join("\n"), @r#"
    {"type":"born","time":"2026-11-22T23:04:37.221000002Z","mono_ns":203000000002,"kind":"net","inum":4026532500,"owner":4026531837,"born_mono_ns":203000000002,"age_ns":0,"maker":{"op":"unshare","pid":4242,"tid":4242,"uid":0,"comm":"runc"},"tasks":1,"namespaces":0,"holders":[],"confirmed":true}
    {"type":"joined","time":"2026-11-22T23:04:37.221000002Z","mono_ns":203000000002,"pid":4242,"tid":4242,"comm":"runc","kind":"net","inum":4026532500}
    {"type":"started","time":"2026-11-22T23:04:37.221000003Z","mono_ns":203000000003,"pid":900,"tid":900,"comm":"a\u000ab","pids":[{"ns":4026531836,"pid":900},{"ns":4026532279,"pid":0}],"namespaces":{"mnt":4026531841,"uts":4026531838,"ipc":4026531839,"pid":4026532279,"net":4026531840,"user":4026531837,"cgroup":4026531835,"time":4026531834}}
    {"type":"pinned","time":"2026-11-22T23:04:37.221000003Z","mono_ns":203000000003,"kind":"net","inum":4026532281}
    {"type":"lost","time":"2026-11-22T23:04:37.221000003Z","mono_ns":203000000003,"from_mono_ns":10000000001,"until_mono_ns":203000000003}
    {"type":"left","time":"2026-11-22T23:04:37.221000002Z","mono_ns":203000000002,"pid":4242,"tid":4242,"comm":"runc","kind":"net","inum":4026531840}
    {"type":"exited","time":"2026-11-22T23:04:38.221000004Z","mono_ns":204000000004,"pid":812,"tid":812,"comm":"dockerd","inferred":true}
    {"type":"unpinned","time":"2026-11-22T23:04:38.221000004Z","mono_ns":204000000004,"kind":"net","inum":4026532400}
    {"type":"unconfirmed","time":"2026-11-22T23:04:38.221000004Z","mono_ns":204000000004,"kind":"net","inum":4026532400}
    {"type":"died","time":"2026-11-22T23:04:39.221000004Z","mono_ns":205000000004,"kind":"net","inum":4026532281,"age_ns":194000000003}
    "#);
}

#[test]
fn a_screen_marks_what_has_just_changed_and_is_cut() {
    let mut scene = machine();
    let mut recent = Recent::default();
    scene.op(op(Op::Unshare, CLONE_NEWNET | CLONE_NEWUSER)
        .after(&[(Kind::Net, 4_026_532_500), (Kind::User, 4_026_532_501)]));
    recent.note(&scene.changes, scene.now);
    scene.death(4_026_532_400);
    recent.note(&scene.changes, scene.now);
    let screen = |scene: &Scene, height| {
        scene.print(|out, world, view| watch(out, world, view, &recent, height))
    };
    assert_snapshot!(screen(&scene, 24), @"
      user:4026531837 (first)
        pid:4026531836 (first)
          mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840
          cgroup:4026531835 time:4026531834
            2 tasks: systemd[1], dockerd[812]
          pid:4026532279, made by runc[4242] clone, 3m13s ago
            container web (3f2a91c04b7d)
              mnt:4026532276 uts:4026532277 ipc:4026532278 net:4026532281
                3 tasks: nginx[4300] (2 threads), nginx[4302]
                made by runc[4242] clone, 3m13s ago
    -   net:4026532400, died
    + user:4026532501, its parent is not known, made by runc[4242] unshare, 1.0s ago
    +   net:4026532500
          1 task: runc[4242]
          made by runc[4242] unshare, 1.0s ago
    ");
    assert_snapshot!(screen(&scene, 5), @"
      user:4026531837 (first)
        pid:4026531836 (first)
          mnt:4026531841 uts:4026531838 ipc:4026531839 net:4026531840
          cgroup:4026531835 time:4026531834
    11 more lines, 2 new, 1 gone
    ");
    assert_eq!(screen(&scene, 0), "");
    scene.color = true;
    assert!(screen(&scene, 24).contains("\x1b[32m+ "));
    assert!(screen(&scene, 5).contains(" new"));
    scene.now += 4 * SECOND;
    assert!(!screen(&scene, 24).contains("4026532400"));
    assert_eq!(recent.expire(scene.now), None);
}

/// A machine on which anything may have happened, and what is known of it.
fn any_world(steps: &[(u8, usize, u32)]) -> World {
    let mut machine = Machine::new(false);
    machine.look_at_all();
    for (what, who, which) in steps {
        machine.step(*what, *who, *which);
    }
    let mut world = World::default();
    for event in &machine.log {
        apply(&mut world, event);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // None of a machine whose namespaces have small numbers is a first one.
    #[test]
    fn every_namespace_is_shown(
        steps in proptest::collection::vec((any::<u8>(), any::<usize>(), any::<u32>()), 0..200),
    ) {
        let mut scene = Scene::new();
        scene.world = any_world(&steps);
        scene.width = None;
        let text = scene.text();
        let words: HashSet<&str> = text.split([' ', ',', '\n']).collect();
        let mut before = HashSet::new();
        let lines = scene.json();
        for line in lines.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            if line["type"] == "namespace" {
                for above in ["parent", "owner"] {
                    prop_assert!(line[above].is_null() || before.contains(&line[above]));
                }
                prop_assert!(before.insert(line["inum"].clone()));
            }
        }
        prop_assert_eq!(before.len(), scene.world.living_len());
        for (_, ns) in scene.world.namespaces().filter(|(_, ns)| ns.is_alive()) {
            let name = format!("{}:{}", ns.kind.name(), ns.inum);
            prop_assert!(words.contains(&*name), "{} is not in\n{}", name, text);
        }
        let tasks = scene.world.tasks_len();
        prop_assert_eq!(lines.matches("\"type\":\"task\"").count(), tasks);
    }
}
