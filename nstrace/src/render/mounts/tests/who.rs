//! What keeps a file system, by hand.

use insta::assert_snapshot;

use super::*;
use crate::mounts::{
    FsPath,
    uses::{Detached, Found, How, Uses},
    who::{Loop, Part, Scope, Subject, Swap},
};

fn found(pid: u32, tid: u32, how: How, mount: u32, device: &str, path: &str) -> Found {
    Found {
        pid,
        tid,
        how,
        mount,
        device: device.parse().unwrap(),
        path: path.as_bytes().into(),
    }
}

fn subject(asked: &str, device: &str, scope: Scope) -> Subject {
    Subject {
        asked: asked.as_bytes().into(),
        point: None,
        parts: vec![Part {
            device: device.parse().unwrap(),
            name: (*b"").into(),
        }],
        is_block: false,
        scope,
    }
}

fn looped(name: &str, device: &str, file: &str) -> Loop {
    Loop {
        name: name.as_bytes().into(),
        device: device.parse().unwrap(),
        file: file.as_bytes().into(),
    }
}

/// The answer as text, and as JSON.
fn answer(subject: Option<&Subject>, uses: &Uses) -> (String, String) {
    let (mut scene, mounts) = scene();
    scene.task(900, 900, b"ba\x1bsh", &[]);
    scene.task(812, 813, b"dockerd", &[]);
    let loops = [
        looped("loop0", "7:0", "/mnt/data/disk 1.img"),
        looped("loop1", "7:1", "/srv/other.img"),
    ];
    let swaps = [Swap {
        path: b"/mnt/data/swap"[..].into(),
        device: None,
    }];
    let answer = |is_json: bool| {
        let (text, ()) = print(&scene, &mounts, |out, view| {
            let view = WhoView {
                all: view,
                subject,
                uses,
                own: Some(0),
                loops: &loops,
                swaps: &swaps,
            };
            match is_json {
                true => mounts_who_json(out, &view),
                false => mounts_who(out, &view),
            }
        });
        text
    };
    let json = answer(true);
    for line in json.lines() {
        let _: serde_json::Value = serde_json::from_str(line).expect(line);
    }
    (answer(false), json)
}

fn busy() -> Uses {
    let mut uses = Uses::default();
    uses.add(found(900, 900, How::Cwd, 41, "8:17", "/mnt/data/x y"));
    uses.add(found(812, 812, How::Exe, 41, "8:17", "/mnt/data/bin"));
    uses.add(found(812, 812, How::Mapped, 41, "8:17", "/mnt/data/bin"));
    uses.add(found(
        812,
        812,
        How::Mapped,
        41,
        "8:17",
        "/mnt/data/\x1b[2J",
    ));
    for fd in 3..9 {
        let path = format!("/mnt/data/{fd} (deleted)");
        uses.add(found(812, 812, How::Open(fd), 41, "8:17", &path));
    }
    uses.add(found(812, 813, How::Socket(12), 41, "8:17", "/mnt/data/s"));
    uses.add(found(4300, 4300, How::Root, 101, "8:17", "/mnt/data"));
    uses.add(found(4302, 4302, How::Open(3), 77, "8:17", "/gone"));
    uses.add_detached(Detached {
        id: 77,
        unique: 2_147_483_999,
        device: "8:17".parse().unwrap(),
        fs: b"ext4"[..].into(),
        bytes: None,
    });
    uses
}

#[test]
fn what_keeps_a_file_system_is_told_with_what_to_do() {
    let subject = subject("/mnt/data", "8:17", Scope::All);
    let (text, _) = answer(Some(&subject), &busy());
    assert_snapshot!(text, @r#"
/mnt/data: ext4 8:17 /dev/sdb1, 3 mounts in 3 namespaces
mnt:4026531841 (first), ours
  4 tasks: systemd[1], dockerd[812] (2 threads), ba\x1bsh[900]
  /mnt/data  id 41, shared:30, rw (fs: ro)
    ba\x1bsh[900] works in /mnt/data/x y
    dockerd[812] runs /mnt/data/bin
    dockerd[812] maps /mnt/data/\x1b[2J
    dockerd[812] has open (3) /mnt/data/3 (deleted)
    dockerd[812] has open (4) /mnt/data/4 (deleted)
    dockerd[812] has open (5) /mnt/data/5 (deleted)
    dockerd[812] has open (6) /mnt/data/6 (deleted)
    dockerd[812] and 2 more files
    dockerd[812] thread 813 has a socket (12) at /mnt/data/s
    mounted below: /mnt/data/sub (tmpfs 0:44 none)
mnt:4026532276
  container web (3f2a91c04b7d)
  3 tasks: nginx[4300] (2 threads), nginx[4302]
  /mnt/data  id 101, slave of 30, rw (fs: ro)
    nginx[4300] has as its root /mnt/data
    mounted below: /mnt/data/sub (tmpfs 0:44 none)
mnt:7
  no task is in it; held by nothing that can be seen
  /  id 200, private, ro
    the root of the namespace; it stays as long as that
in no namespace: mount 77 of ext4 8:17 /dev/sdb1, which is mounted elsewhere too
  or in one whose mounts are not seen (nstrace mounts says which)
    nginx[4302] has open (3) /gone
in the kernel
  loop0 of /mnt/data/disk 1.img
  swapped memory in /mnt/data/swap
mnt:4026532500 may have it too: its mounts are not seen
to free it:
  swapoff /mnt/data/swap
  losetup -d /dev/loop0  # when what is mounted of it has been unmounted
  have these let go of it, or end them: dockerd[812], ba\x1bsh[900]
  umount -R /mnt/data  # what is below it must be free, too
  have these let go of it, or end them: nginx[4300]
  nsenter -t 4300 -m umount -R /mnt/data  # what is below it must be free, too
  it is the root of mnt:7, and goes with it: nstrace why mnt:7 says what keeps that
  have these let go of it, or end them: nginx[4302]
"#);
}

#[test]
fn what_keeps_a_file_system_is_lines_of_json() {
    let subject = subject("/mnt/data", "8:17", Scope::All);
    let (_, json) = answer(Some(&subject), &busy());
    assert_snapshot!(json, @r#"
{"type":"who","time":"2026-11-22T23:04:36.221000002Z","mono_ns":202000000002,"asked":"/mnt/data","devices":[{"device":"8:17"}],"scope":"all"}
{"type":"mount_namespace","inum":4026531841,"id":4,"owner":4026531837,"tasks":4,"mounts":7}
{"type":"mount","ns":4026531841,"id":41,"parent":27,"point":"/mnt/data","fs":"ext4","device":"8:17","root":"/","source":"/dev/sdb1","options":["rw","relatime"],"super_options":["ro"],"peer_group":30,"copies":1}
{"type":"use","mount":41,"device":"8:17","pid":900,"tid":900,"comm":"ba\u001bsh","files":[{"how":"cwd","path":"/mnt/data/x y"}]}
{"type":"use","mount":41,"device":"8:17","pid":812,"tid":812,"comm":"dockerd","files":[{"how":"exe","path":"/mnt/data/bin"},{"how":"mapped","path":"/mnt/data/\u001b[2J"},{"how":"descriptor","fd":3,"path":"/mnt/data/3 (deleted)"},{"how":"descriptor","fd":4,"path":"/mnt/data/4 (deleted)"},{"how":"descriptor","fd":5,"path":"/mnt/data/5 (deleted)"},{"how":"descriptor","fd":6,"path":"/mnt/data/6 (deleted)"}],"more":2}
{"type":"use","mount":41,"device":"8:17","pid":812,"tid":813,"comm":"dockerd","files":[{"how":"socket","fd":12,"path":"/mnt/data/s"}]}
{"type":"below","mount":41,"id":42,"point":"/mnt/data/sub","fs":"tmpfs","device":"0:44"}
{"type":"mount_namespace","inum":4026532276,"owner":4026531837,"tasks":3,"mounts":3}
{"type":"mount","ns":4026532276,"id":101,"parent":100,"point":"/mnt/data","fs":"ext4","device":"8:17","root":"/","source":"/dev/sdb1","options":["rw","relatime"],"super_options":["ro"],"master":30,"copies":1}
{"type":"use","mount":101,"device":"8:17","pid":4300,"tid":4300,"comm":"nginx","cgroup_id":77,"cgroup":"/system.slice/docker-3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123.scope","container":"3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123","container_name":"web","files":[{"how":"root","path":"/mnt/data"}]}
{"type":"below","mount":101,"id":102,"point":"/mnt/data/sub","fs":"tmpfs","device":"0:44"}
{"type":"mount_namespace","inum":7,"tasks":0,"mounts":1}
{"type":"mount","ns":7,"id":200,"parent":1,"point":"/","fs":"ext4","device":"8:17","root":"/","source":"/dev/sdb1","options":["ro"],"super_options":["ro"],"copies":0}
{"type":"detached","id":77,"unique_id":2147483999,"device":"8:17","fs":"ext4"}
{"type":"use","mount":77,"device":"8:17","pid":4302,"tid":4302,"comm":"nginx","cgroup_id":77,"cgroup":"/system.slice/docker-3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123.scope","container":"3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d0123","container_name":"web","files":[{"how":"descriptor","fd":3,"path":"/gone"}]}
{"type":"kernel","what":"loop","name":"loop0","device":"7:0","path":"/mnt/data/disk 1.img"}
{"type":"kernel","what":"swap","path":"/mnt/data/swap"}
{"type":"step","command":"swapoff /mnt/data/swap"}
{"type":"step","say":"when what is mounted of it has been unmounted","command":"losetup -d /dev/loop0"}
{"type":"step","say":"have these let go of it, or end them: dockerd[812], ba\\x1bsh[900]"}
{"type":"step","say":"what is below it must be free, too","command":"umount -R /mnt/data"}
{"type":"step","say":"have these let go of it, or end them: nginx[4300]"}
{"type":"step","say":"what is below it must be free, too","command":"nsenter -t 4300 -m umount -R /mnt/data"}
{"type":"step","say":"it is the root of mnt:7, and goes with it: nstrace why mnt:7 says what keeps that"}
{"type":"step","say":"have these let go of it, or end them: nginx[4302]"}
"#);
}

#[test]
fn a_directory_that_is_mounted_on_elsewhere_is_told_of() {
    let file = FsPath {
        device: "8:17".parse().unwrap(),
        path: b"/sub".to_vec(),
    };
    let subject = subject("/mnt/data/sub", "8:17", Scope::On(file));
    let (text, _) = answer(Some(&subject), &Uses::default());
    assert_snapshot!(text, @r#"
/mnt/data/sub: no mount point here, but elsewhere there is tmpfs 0:44 none, 2 mounts in 2 namespaces
mnt:4026531841 (first), ours
  4 tasks: systemd[1], dockerd[812] (2 threads), ba\x1bsh[900]
  /mnt/data/sub  id 42, shared:31, ro,nosuid
    no task uses it; it stays until it is unmounted, or the namespace ends
mnt:4026532276
  container web (3f2a91c04b7d)
  3 tasks: nginx[4300] (2 threads), nginx[4302]
  /mnt/data/sub  id 102, slave of 31, ro,nosuid
    no task uses it; it stays until it is unmounted, or the namespace ends
mnt:4026532500 may have it too: its mounts are not seen
to free it:
  umount /mnt/data/sub  # from mnt:4026532276 too
"#);
}

#[test]
fn what_no_task_is_seen_to_use_may_be_held() {
    let mut uses = Uses::default();
    uses.held.insert(44, 2);
    let (text, json) = answer(Some(&subject("0:50", "0:50", Scope::All)), &uses);
    let text: Vec<&str> = text.lines().skip(3).take(4).collect();
    assert_snapshot!(text.join("\n"), @"
    /var/lib/docker/overlay2/3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d/merged  id 44, private, rw
      no task is seen to use it, but the kernel counts 2 references to it: a task may be on its way in
      it, or a file of it be in a message that waits in a Unix socket, with io_uring, or with the
      kernel (an export of NFS)
    ");
    let held: Vec<&str> = json.lines().filter(|line| line.contains("held")).collect();
    assert_snapshot!(held.join("\n"), @r#"{"type":"held","mount":44,"references":2}"#);
}

#[test]
fn a_part_of_a_file_system_is_told_of_alone() {
    let scope = Scope::Part(b"/srv/docker"[..].into());
    let mut uses = Uses::default();
    uses.add(found(812, 812, How::Cwd, 43, "8:1", "/var/lib/docker"));
    uses.unseen = 2;
    uses.hung = vec![900, 17];
    uses.left_out = 3;
    let (text, _) = answer(Some(&subject("/var/lib/docker", "8:1", scope)), &uses);
    assert_snapshot!(text, @r#"
/var/lib/docker: /srv/docker of ext4 8:1 /dev/sda1, 1 mount in 1 namespace
1 other mount of that file system: --who 8:1
mnt:4026531841 (first), ours
  4 tasks: systemd[1], dockerd[812] (2 threads), ba\x1bsh[900]
  /var/lib/docker  id 43, unbindable, rw,noatime, of /srv/docker
    dockerd[812] works in /var/lib/docker
    mounted below: /var/lib/docker/overlay2/3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d/merged (overlay 0:50)
could not be looked at: the files of 2 processes, which takes the rights of root (CAP_SYS_PTRACE)
did not answer, as when a file system of theirs hangs: the files of 900, 17
left out, since too many did not answer: 3 processes
mnt:4026532500 may have it too: its mounts are not seen
to free it:
  have these let go of it, or end them: dockerd[812]
  umount -R /var/lib/docker  # what is below it must be free, too
"#);
}

#[test]
fn the_root_of_a_namespace_goes_with_its_processes() {
    let (text, _) = answer(Some(&subject("0:50", "0:50", Scope::All)), &Uses::default());
    assert_snapshot!(text, @r#"
0:50: overlay 0:50, 2 mounts in 2 namespaces
mnt:4026531841 (first), ours
  4 tasks: systemd[1], dockerd[812] (2 threads), ba\x1bsh[900]
  /var/lib/docker/overlay2/3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d/merged  id 44, private, rw
    no task uses it; it stays until it is unmounted, or the namespace ends
mnt:4026532276
  container web (3f2a91c04b7d)
  3 tasks: nginx[4300] (2 threads), nginx[4302]
  /  id 100, slave of 40, rw
    mounted below: /mnt/data (ext4 8:17 /dev/sdb1)
    mounted below: /mnt/data/sub (tmpfs 0:44 none)
mnt:4026532500 may have it too: its mounts are not seen
to free it:
  umount /var/lib/docker/overlay2/3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d/merged
  it is the root of mnt:4026532276, and goes when the processes in that end: nginx[4300],
  nginx[4302]
"#);
}

#[test]
fn what_no_namespace_has_is_told_of() {
    let mut uses = busy();
    uses.uses.retain(|one| one.mount == 77);
    uses.add(found(4300, 4300, How::Mapped, 78, "0:60", "/lib.so"));
    uses.add(found(4300, 4300, How::Mapped, 0, "0:61", "/other.so"));
    uses.add_detached(Detached {
        id: 78,
        unique: 0,
        device: "0:60".parse().unwrap(),
        fs: b"tmpfs"[..].into(),
        bytes: Some(3_250_000),
    });
    let (text, json) = answer(None, &uses);
    assert_snapshot!(text, @r#"
in no namespace: mount 77 of ext4 8:17 /dev/sdb1, which is mounted elsewhere too
  or in one whose mounts are not seen (nstrace mounts says which)
    nginx[4302] has open (3) /gone
in no namespace: mount 78 of tmpfs 0:60, which is mounted nowhere, 3M in memory
  or in one whose mounts are not seen (nstrace mounts says which)
    nginx[4300] maps /lib.so
through a mount that cannot be told: as root it can
    nginx[4300] maps /other.so
mnt:4026532500 may have it too: its mounts are not seen
to free it:
  have these let go of it, or end them: nginx[4300], nginx[4302]
"#);
    assert!(json.contains(r#""scope":"orphans""#));
    let (text, _) = answer(None, &Uses::default());
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn a_device_that_is_open_itself_is_told_of() {
    let mut subject = subject("/dev/sdb", "8:16", Scope::All);
    subject.is_block = true;
    subject.parts[0].name = b"sdb"[..].into();
    subject.parts.push(Part {
        device: "8:17".parse().unwrap(),
        name: b"sdb1"[..].into(),
    });
    let mut uses = Uses::default();
    uses.add(found(812, 812, How::Block(6), 0, "8:16", "/dev/sdb"));
    let (text, _) = answer(Some(&subject), &uses);
    assert_snapshot!(text, @r#"
/dev/sdb: 8:16 (sdb), ext4 8:17 /dev/sdb1 (sdb1), 3 mounts in 3 namespaces
mnt:4026531841 (first), ours
  4 tasks: systemd[1], dockerd[812] (2 threads), ba\x1bsh[900]
  /mnt/data  id 41, shared:30, rw (fs: ro)
    mounted below: /mnt/data/sub (tmpfs 0:44 none)
mnt:4026532276
  container web (3f2a91c04b7d)
  3 tasks: nginx[4300] (2 threads), nginx[4302]
  /mnt/data  id 101, slave of 30, rw (fs: ro)
    mounted below: /mnt/data/sub (tmpfs 0:44 none)
mnt:7
  no task is in it; held by nothing that can be seen
  /  id 200, private, ro
    the root of the namespace; it stays as long as that
the device itself
    dockerd[812] has open (6) the device /dev/sdb
in the kernel
  loop0 of /mnt/data/disk 1.img
  swapped memory in /mnt/data/swap
mnt:4026532500 may have it too: its mounts are not seen
to free it:
  swapoff /mnt/data/swap
  losetup -d /dev/loop0  # when what is mounted of it has been unmounted
  umount -R /mnt/data  # what is below it must be free, too
  nsenter -t 4300 -m umount -R /mnt/data  # what is below it must be free, too
  it is the root of mnt:7, and goes with it: nstrace why mnt:7 says what keeps that
  have these let go of it, or end them: dockerd[812]
"#);
}

#[test]
fn amounts_are_short() {
    use super::super::who::amount;
    assert_eq!(amount(0), "0 bytes");
    assert_eq!(amount(4096), "4K");
    assert_eq!(amount(1536), "1.5K");
    assert_eq!(amount((1 << 20) - 1), "1023.9K");
    assert_eq!(amount(3 << 20), "3M");
    assert_eq!(amount(5 << 30), "5G");
    assert_eq!(amount(u64::MAX), "1717986918.3G");
}
