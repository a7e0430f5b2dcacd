//! Answers by hand, and what is asked.

use insta::assert_snapshot;
use nstrace_common::{flags::CLONE_NEWNET, kind::Kind, wire::Op};

use super::{Target, why, why_json};
use crate::{
    event::{Holder, Unseen},
    render::{
        leaks, leaks_json,
        testing::op,
        tree::testing::{FIRST, SECOND, Scene, machine},
    },
};

const USER: u32 = FIRST[Kind::User as usize];

/// The answer, or why there is none.
fn answer(scene: &Scene, asked: &str) -> String {
    let target: Target = match asked.parse() {
        Ok(target) => target,
        Err(error) => return format!("{error}"),
    };
    scene.print(|out, world, view| {
        let json = why_json(&mut out.clone(), world, &target, view);
        let text = why(out, world, &target, view);
        assert_eq!(json, text);
        if let Err(error) = text {
            let _ = std::fmt::Write::write_fmt(out, format_args!("{error}"));
        }
    })
}

fn json(scene: &Scene, asked: &str) -> String {
    let target: Target = asked.parse().expect("a target");
    let lines = scene.print(|out, world, view| {
        why_json(out, world, &target, view).expect("it is there");
    });
    for line in lines.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        assert!(value["type"].is_string());
    }
    lines
}

#[test]
fn a_target_is_a_namespace_a_process_or_a_container() {
    let parsed = |text: &str| match text.parse::<Target>() {
        Ok(target) => format!("{target:?}"),
        Err(error) => error.to_string(),
    };
    assert_snapshot!(parsed("mnt:4026532276"), @"Namespace(Mnt, 4026532276)");
    assert_snapshot!(parsed("mnt:[4026532276]"), @"Namespace(Mnt, 4026532276)");
    assert_snapshot!(parsed("4242"), @"Process(4242)");
    assert_snapshot!(parsed("web"), @r#"Container("web")"#);
    assert_snapshot!(parsed("k8s:web"), @r#"Container("k8s:web")"#);
    // The beginning of an id, which no process id is.
    assert_snapshot!(parsed("402653227612"), @r#"Container("402653227612")"#);
    assert_snapshot!(parsed(""), @"nothing to look for: say KIND:INUM, PID or CONTAINER");
    assert_snapshot!(parsed("0"), @"0 is no process id");
    assert_snapshot!(parsed("mnt:"), @"`mnt:`: no number of a namespace after `mnt:`; `readlink /proc/PID/ns/mnt` says it");
    assert_snapshot!(parsed("mnt:[12"), @"`mnt:[12`: no number of a namespace after `mnt:`; `readlink /proc/PID/ns/mnt` says it");
    assert_snapshot!(parsed("mnt:0"), @"`mnt:0`: no number of a namespace after `mnt:`; `readlink /proc/PID/ns/mnt` says it");
    assert_snapshot!(parsed("net:99999999999"), @"`net:99999999999`: no number of a namespace after `net:`; `readlink /proc/PID/ns/net` says it");
    assert_snapshot!(parsed("\x1b[2J:12"), @r"`\x1b[2J:12`: no such kind of namespace; there are mnt uts ipc pid net user cgroup time");
}

#[test]
fn why_a_namespace() {
    let mut scene = machine();
    assert_snapshot!(answer(&scene, "net:4026532281"), @"
    net:4026532281
      owner       user:4026531837
      made        by runc[4242] clone, 3m11s ago, uid 0
      tasks       3 in 2 processes
                  nginx[4300] (2 threads), pid 4300 (ns: 1)
                  nginx[4302], pid 4302 (ns: 2)
    ");
    assert_snapshot!(answer(&scene, "net:4026532400"), @"
    net:4026532400
      owner       user:4026531837
      made        before nstrace traced
      held by     bind mount /run/netns/blue in mnt:4026531841, where systemd[1] and 2 other processes are
                  descriptor 23 of dockerd[812]
    ");
    assert_snapshot!(answer(&scene, "pid:4026531836"), @"
    pid:4026531836 (first)
      owner       user:4026531837
      made        by the kernel when it started
      tasks       3
                  systemd[1]
                  dockerd[812]
                  runc[4242]
      parent of   pid:4026532279, 3 tasks
      held by     the kernel itself
    ");
    assert_snapshot!(answer(&scene, "user:4026531837"), @"
    user:4026531837 (first)
      owner uid   0
      made        by the kernel when it started
      tasks       6 in 5 processes
                  systemd[1]
                  dockerd[812]
                  runc[4242]
                  nginx[4300] (2 threads), pid 4300 (ns: 1)
                  nginx[4302], pid 4302 (ns: 2)
      owner of    mnt:4026531841, 3 tasks
                  mnt:4026532276, 3 tasks
                  uts:4026531838, 3 tasks
                  uts:4026532277, 3 tasks
                  ipc:4026531839, 3 tasks
                  ipc:4026532278, 3 tasks
                  pid:4026531836, 3 tasks
                  pid:4026532279, 3 tasks
                  net:4026531840, 3 tasks
                  net:4026532281, 3 tasks
                  net:4026532400
                  cgroup:4026531835, 6 tasks
                  time:4026531834, 6 tasks
      held by     the kernel itself
    ");
    scene.namespace(Kind::Net, 700, 0, USER);
    scene.live = false;
    scene.unseen = Unseen {
        mounts: 1,
        ..Unseen::default()
    };
    assert_snapshot!(answer(&scene, "net:700"), @"
    could not be looked at: the mounts of 1 mount namespace
    one look: makers and ages are not known; --watch and -- COMMAND trace
    net:700
      owner       user:4026531837
      made        when and by whom is not known from one look
      held by     nothing that can be seen
                  What nstrace cannot see: references of the kernel's own,
                  descriptors on their way through a socket (SCM_RIGHTS), files that
                  io_uring has registered, open files that hold one without being it
                  (/proc/PID/mountinfo, /proc/PID/net), shared memory, and what is
                  in a mount namespace that could not be looked into. Or it is just
                  dying.
    ");
    scene.death(4_026_532_281);
    scene.live = true;
    scene.unseen = Unseen::default();
    assert_snapshot!(answer(&scene, "net:4026532281"), @"
    net:4026532281
      owner       user:4026531837
      made        by runc[4242] clone, 3m12s ago, uid 0
      died        0ns ago, lived 3m12s
    ");
    assert!(json(&scene, "net:4026532281").contains("\"type\":\"died\""));
}

#[test]
fn what_is_not_there_is_said() {
    let mut scene = machine();
    assert_snapshot!(answer(&scene, "net:1"), @"no namespace net:1 is known: it may have died before nstrace looked, or be held by what cannot be seen");
    assert_snapshot!(answer(&scene, "mnt:4026532281"), @"4026532281 is the number of a namespace of kind net, not mnt");
    assert_snapshot!(answer(&scene, "31337"), @"no process 31337: ids are those of the first pid namespace, or of that which /proc is of");
    assert_snapshot!(answer(&scene, "no\nbody"), @r"no container `no\x0abody` has a process: say its name, or its id or 3 characters of it");
    assert_snapshot!(answer(&scene, "3f"), @"no container `3f` has a process: say its name, or its id or 3 characters of it");
    let other = format!("{}{:052}", "3f2a91c04b7d", 7);
    let path = format!("/docker/{other}");
    scene.cgroups.learn(78, path.as_bytes());
    scene.task_of(78, 5000, 5000, b"sh", &[]);
    assert_snapshot!(answer(&scene, "3f2a"), @"`3f2a` may be 2 containers: say more of the id");
    assert!(answer(&scene, "web").contains("web"));
}

#[test]
fn why_a_process() {
    let mut scene = machine();
    assert_snapshot!(answer(&scene, "4300"), @"
    nginx[4300]
      container   web 3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123
      cgroup      /system.slice/docker-3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123.scope
      pids        4300 in pid:4026531836
                  1 in pid:4026532279
      threads     2
      mnt         mnt:4026532276    made with it by runc[4242] clone, 3m11s ago
      uts         uts:4026532277    made with it by runc[4242] clone, 3m11s ago
      ipc         ipc:4026532278    made with it by runc[4242] clone, 3m11s ago
      pid         pid:4026532279    made with it by runc[4242] clone, 3m11s ago
      net         net:4026532281    made with it by runc[4242] clone, 3m11s ago
      user        user:4026531837   first
      cgroup      cgroup:4026531835 first
      time        time:4026531834   first
    ");
    scene.op(op(Op::Unshare, CLONE_NEWNET).after(&[(Kind::Net, 4_026_532_500)]));
    // A thread that has entered what is younger than it.
    scene.begin();
    scene.task(4242, 4243, b"\x1b[2J", &[(Kind::Uts, 4_026_532_277)]);
    assert_snapshot!(answer(&scene, "4242"), @r"
    runc[4242]
      pids        4242 in pid:4026531836
      threads     2
      mnt         mnt:4026531841    first
      uts         uts:4026531838    first
      ipc         ipc:4026531839    first
      pid         pid:4026531836    first
      net         net:4026532500    made by itself: unshare, 1ns ago
      user        user:4026531837   first
      cgroup      cgroup:4026531835 first
      time        time:4026531834   first
      elsewhere   thread 4243 \x1b[2J: uts:4026532277 net:4026531840
    ");
    scene.op(op(Op::Setns, 0)
        .with(|record| {
            record.pid = 812;
            record.tid = 812;
        })
        .comm(b"dockerd")
        .after(&[(Kind::Net, 4_026_532_500), (Kind::Pid, 4_026_532_279)]));
    assert_snapshot!(answer(&scene, "812"), @"
    dockerd[812]
      pids        812 in pid:4026531836
      threads     1
      mnt         mnt:4026531841    first
      uts         uts:4026531838    first
      ipc         ipc:4026531839    first
      pid         pid:4026531836    first
                  pid:4026532279    for its children; entered; made by runc[4242] clone, 3m13s ago
      net         net:4026532500    entered; made by runc[4242] unshare, 1.0s ago
      user        user:4026531837   first
      cgroup      cgroup:4026531835 first
      time        time:4026531834   first
    ");
    assert_eq!(json(&scene, "812").lines().count(), 1 + 9 + 1);
}

#[test]
fn why_a_container() {
    let mut scene = machine();
    scene.task(5000, 5000, b"nsenter", &[(Kind::Net, 4_026_532_281)]);
    scene.holder(
        Kind::Net,
        4_026_532_281,
        Holder::Descriptor { pid: 812, fd: 9 },
    );
    assert_snapshot!(answer(&scene, "web"), @"
    container web (3f2a91c04b7d)
      id          3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123
      tasks       3 in 2 processes
                  nginx[4300] (2 threads), pid 4300 (ns: 1)
                  nginx[4302], pid 4302 (ns: 2)
      first       user cgroup time
      mnt:4026532276, made by runc[4242] clone, 3m11s ago
        3 tasks of it
      uts:4026532277, made by runc[4242] clone, 3m11s ago
        3 tasks of it
      ipc:4026532278, made by runc[4242] clone, 3m11s ago
        3 tasks of it
      pid:4026532279, made by runc[4242] clone, 3m11s ago
        3 tasks of it
      net:4026532281, made by runc[4242] clone, 3m11s ago
        3 tasks of it
        not of it: 1 task: nsenter[5000]
        descriptor 9 of dockerd[812]
    ");
    assert_eq!(answer(&scene, "web"), answer(&scene, "3f2"));
    assert_eq!(json(&scene, "web").lines().count(), 1 + 8 + 3);
}

#[test]
fn many_members_are_not_all_named() {
    let mut scene = Scene::new();
    for tid in 0..10_000 {
        scene.task(100 + tid, 100 + tid, b"worker", &[(Kind::Net, 600)]);
    }
    let answer = answer(&scene, "net:600");
    let last = answer.lines().last().unwrap_or_default();
    assert_snapshot!(last.trim(), @"and 9936 other processes; --json has all");
    assert_eq!(json(&scene, "net:600").lines().count(), 10_002);
}

#[test]
fn leaks_are_what_no_task_needs() {
    let mut scene = Scene::new();
    let none = scene.print(leaks);
    assert_snapshot!(none, @"no namespace without tasks can be seen");
    // In use below: a user namespace that owns a net namespace with a task, and a
    // pid namespace whose child has one.
    scene.namespace(Kind::User, 500, USER, USER);
    scene.namespace(Kind::Net, 501, 0, 500);
    scene.namespace(Kind::Pid, 502, FIRST[Kind::Pid as usize], USER);
    scene.namespace(Kind::Pid, 503, 502, USER);
    scene.task(70, 70, b"used", &[(Kind::Net, 501), (Kind::Pid, 503)]);
    assert_eq!(scene.print(leaks), none);
    // Not in use: a user namespace that owns only a net namespace which a mount holds.
    scene.namespace(Kind::User, 600, USER, USER);
    scene.namespace(Kind::Net, 601, 0, 600);
    let path = b"/run/netns/\x1b[2J".as_slice();
    scene.holder(
        Kind::Net,
        601,
        Holder::Mount {
            mnt: FIRST[0],
            path,
        },
    );
    scene.holder(Kind::Net, 601, Holder::Descriptor { pid: 70, fd: 3 });
    scene.namespace(Kind::Uts, 602, 0, USER);
    scene.end();
    // Made and left, one after the other.
    for inum in [701, 700, 702] {
        let built = op(Op::Unshare, CLONE_NEWNET).after(&[(Kind::Net, inum)]);
        scene.op(built.comm(b"ip"));
    }
    scene.now += 100 * SECOND;
    assert_snapshot!(scene.print(leaks), @r"
    AGE       NAMESPACE         MADE BY                 HELD BY
    1m42s     net:701           ip[4242] unshare        nothing that can be seen
    1m41s     net:700           ip[4242] unshare        nothing that can be seen
    -         uts:602           -                       nothing that can be seen
    -         net:601           -                       bind mount /run/netns/\x1b[2J in mnt:4026531841
                                                        descriptor 3 of used[70]
    -         user:600          -                       1 namespace below it
    ");
    let lines = scene.print(leaks_json);
    assert_eq!(lines.lines().count(), 1 + 5);
    scene.filter.kinds = vec![Kind::Uts];
    assert_snapshot!(scene.print(leaks), @"
    AGE       NAMESPACE         MADE BY                 HELD BY
    -         uts:602           -                       nothing that can be seen
    ");
}
