//! Mounts of two namespaces and one that nobody is in, by hand.

use insta::assert_snapshot;
use nstrace_common::{flags::CLONE_NEWNS, kind::Kind, mount_ops::Birth, wire::Op};

use super::*;
use crate::{
    event::{Event, Holder},
    mount_ops::testing::births as mount_births,
    mounts::{MountNs, Origins, Sight, Way, testing},
    render::{
        Text,
        testing::op,
        tree::testing::{FIRST, Scene, machine},
    },
};

pub const OWN: u32 = FIRST[Kind::Mnt as usize];
pub const CONTAINER: u32 = 4_026_532_276;
pub const ALONE: u32 = 4_026_532_500;

/// The mounts of the first namespace.
pub const FIRST_MOUNTS: &str = r"
    27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
    22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
    41 27 8:17 / /mnt/data rw,relatime shared:30 - ext4 /dev/sdb1 ro
    42 41 0:44 / /mnt/data/sub ro,nosuid shared:31 - tmpfs none rw,size=64k
    43 27 8:1 /srv/docker /var/lib/docker rw,noatime unbindable - ext4 /dev/sda1 rw,errors=remount-ro
    44 43 0:50 / /var/lib/docker/overlay2/3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d/merged rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/c\054d
    45 27 0:51 / /run/\033[2J\040\134x rw shared:33 master:31 - fuse.\012 \342\200\256x rw";

/// Those of the container: copies of some, and its own.
pub const CONTAINER_MOUNTS: &str = r"
    100 90 0:50 / / rw master:40 - overlay overlay rw,lowerdir=/a:/b
    101 100 8:17 / /mnt/data rw,relatime master:30 - ext4 /dev/sdb1 ro
    102 101 0:44 / /mnt/data/sub ro,nosuid master:31 - tmpfs none rw,size=64k";

/// The machine of the tree's tests, with these mounts.
pub fn scene() -> (Scene, Mounts) {
    let mut scene = machine();
    scene.live = false;
    scene.width = None;
    scene.namespace(Kind::Mnt, ALONE, 0, FIRST[Kind::User as usize]);
    scene.task(1, 1, b"systemd", &[]);
    scene.task(812, 812, b"dockerd", &[]);
    let holder = Holder::Descriptor { pid: 812, fd: 9 };
    scene.holder(Kind::Mnt, ALONE, holder);
    scene.end();
    let mut first = testing::namespace(OWN, FIRST_MOUNTS);
    first.id = 4;
    first.mounts[0].unique = 2_147_483_675;
    let alone = MountNs {
        inum: ALONE,
        sight: Sight::None("it cannot be entered: operation not permitted".into()),
        ..MountNs::default()
    };
    let unknown = testing::namespace(7, "200 1 8:17 / / ro - ext4 /dev/sdb1 ro");
    let all = vec![
        first,
        testing::namespace(CONTAINER, CONTAINER_MOUNTS),
        alone,
        unknown,
    ];
    (scene, Mounts::new(Way::Mountinfo, all))
}

/// What is printed of a scene.
pub fn print<R>(
    scene: &Scene,
    mounts: &Mounts,
    print: impl FnOnce(&mut Text, &MountsView) -> R,
) -> (String, R) {
    print_with(
        scene,
        mounts,
        (&Births::default(), &Makers::default()),
        print,
    )
}

/// The same with what a recording said.
fn print_with<R>(
    scene: &Scene,
    mounts: &Mounts,
    (births, makers): (&Births, &Makers),
    print: impl FnOnce(&mut Text, &MountsView) -> R,
) -> (String, R) {
    let mut out = Text::new();
    let tree = scene.view();
    let copies = Copies::new(mounts);
    let view = MountsView {
        mounts,
        copies: &copies,
        births,
        makers,
        world: &scene.world,
        tree: &tree,
    };
    let result = print(&mut out, &view);
    (out.to_string(), result)
}

fn all(out: &mut Text, view: &MountsView) {
    mounts(out, view);
    (0..view.mounts.namespaces.len()).for_each(|at| mounts_of(out, view, at));
}

#[test]
fn mounts_are_a_tree_for_each_namespace() {
    let (scene, mounts) = scene();
    let (text, ()) = print(&scene, &mounts, all);
    assert_snapshot!(text, @r#"
MOUNT POINT                     ID    FS       DEVICE  PROPAGATION COPIES OPTIONS, SOURCE
mnt:4026531841 (first), 7 mounts
  2 tasks: systemd[1], dockerd[812]
  /                             27    ext4     8:1     shared:1           rw /dev/sda1
    /proc                       22    proc     0:21    shared:12          rw,nosuid,nodev,noexec
    /mnt/data                   41    ext4     8:17    shared:30        1 rw (fs: ro) /dev/sdb1
      /mnt/data/sub             42    tmpfs    0:44    shared:31        1 ro,nosuid none
    /var/lib/docker             43    ext4     8:1     unbindable         rw,noatime
                                                                          /dev/sda1[/srv/docker]
      /var/lib/docker/overlay2/3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d/merged
                                44    overlay  0:50    private            rw
    /run/\x1b[2J \\x            45    fuse.\x0a 0:51   shared:33,slave of 31 rw \u{202e}x
mnt:4026532276, 3 mounts
  container web (3f2a91c04b7d)
  3 tasks: nginx[4300] (2 threads), nginx[4302]
  /                             100   overlay  0:50    slave of 40        rw
    /mnt/data                   101   ext4     8:17    slave of 30      1 rw (fs: ro) /dev/sdb1
      /mnt/data/sub             102   tmpfs    0:44    slave of 31      1 ro,nosuid none
mnt:4026532500
  no task is in it
  descriptor 9 of dockerd[812]
  its mounts are not seen: it cannot be entered: operation not permitted
mnt:7, 1 mount
  no task is in it; held by nothing that can be seen
  /                             200   ext4     8:17    private            ro /dev/sdb1
"#);
}

#[test]
fn lines_fit_on_a_terminal() {
    let (mut scene, mounts) = scene();
    for width in [40, 80, 100] {
        scene.width = Some(width);
        let (text, ()) = print(&scene, &mounts, all);
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn mounts_are_lines_of_json() {
    let (scene, mounts) = scene();
    let (text, ()) = print(&scene, &mounts, |out, view| {
        mounts_json(out, view);
        (0..view.mounts.namespaces.len()).for_each(|at| mounts_json_of(out, view, at));
    });
    for line in text.lines() {
        let _: serde_json::Value = serde_json::from_str(line).expect(line);
    }
    assert_snapshot!(text, @r#"
{"type":"mounts","time":"2026-11-22T23:04:36.221000002Z","mono_ns":202000000002,"by":"mountinfo","namespaces":4,"mounts":11}
{"type":"mount_namespace","inum":4026531841,"id":4,"owner":4026531837,"tasks":2,"mounts":7}
{"type":"mount","ns":4026531841,"id":27,"unique_id":2147483675,"parent":1,"point":"/","fs":"ext4","device":"8:1","root":"/","source":"/dev/sda1","options":["rw","relatime"],"super_options":["rw","errors=remount-ro"],"peer_group":1,"copies":0}
{"type":"mount","ns":4026531841,"id":22,"parent":27,"point":"/proc","fs":"proc","device":"0:21","root":"/","source":"proc","options":["rw","nosuid","nodev","noexec","relatime"],"super_options":["rw"],"peer_group":12,"copies":0}
{"type":"mount","ns":4026531841,"id":41,"parent":27,"point":"/mnt/data","fs":"ext4","device":"8:17","root":"/","source":"/dev/sdb1","options":["rw","relatime"],"super_options":["ro"],"peer_group":30,"copies":1}
{"type":"mount","ns":4026531841,"id":42,"parent":41,"point":"/mnt/data/sub","fs":"tmpfs","device":"0:44","root":"/","source":"none","options":["ro","nosuid"],"super_options":["rw","size=64k"],"peer_group":31,"copies":1}
{"type":"mount","ns":4026531841,"id":43,"parent":27,"point":"/var/lib/docker","fs":"ext4","device":"8:1","root":"/srv/docker","source":"/dev/sda1","options":["rw","noatime"],"super_options":["rw","errors=remount-ro"],"unbindable":true,"copies":0}
{"type":"mount","ns":4026531841,"id":44,"parent":43,"point":"/var/lib/docker/overlay2/3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d/merged","fs":"overlay","device":"0:50","root":"/","source":"overlay","options":["rw"],"super_options":["rw","lowerdir=/a:/b","upperdir=/c,d"],"copies":0}
{"type":"mount","ns":4026531841,"id":45,"parent":27,"point":"/run/\u001b[2J \\\\x","fs":"fuse.\u000a","device":"0:51","root":"/","source":"\u202ex","options":["rw"],"super_options":["rw"],"peer_group":33,"master":31,"copies":0}
{"type":"mount_namespace","inum":4026532276,"owner":4026531837,"tasks":3,"mounts":3}
{"type":"mount","ns":4026532276,"id":100,"parent":90,"point":"/","fs":"overlay","device":"0:50","root":"/","source":"overlay","options":["rw"],"super_options":["rw","lowerdir=/a:/b"],"master":40,"copies":0}
{"type":"mount","ns":4026532276,"id":101,"parent":100,"point":"/mnt/data","fs":"ext4","device":"8:17","root":"/","source":"/dev/sdb1","options":["rw","relatime"],"super_options":["ro"],"master":30,"copies":1}
{"type":"mount","ns":4026532276,"id":102,"parent":101,"point":"/mnt/data/sub","fs":"tmpfs","device":"0:44","root":"/","source":"none","options":["ro","nosuid"],"super_options":["rw","size=64k"],"master":31,"copies":1}
{"type":"mount_namespace","inum":4026532500,"owner":4026531837,"tasks":0,"mounts":0,"unseen":"it cannot be entered: operation not permitted"}
{"type":"mount_namespace","inum":7,"tasks":0,"mounts":1}
{"type":"mount","ns":7,"id":200,"parent":1,"point":"/","fs":"ext4","device":"8:17","root":"/","source":"/dev/sdb1","options":["ro"],"super_options":["ro"],"copies":0}
"#);
}

#[test]
fn a_recording_says_who_made_a_namespace_and_what_was_copied() {
    let (scene, mounts) = scene();
    let made = op(Op::Clone, CLONE_NEWNS)
        .after(&[(Kind::Mnt, CONTAINER)])
        .with(|record| record.mounts = 27);
    let mut origins = Origins::default();
    origins.note(&made.get());
    // Neither who failed nor who entered it made it.
    origins.note(&made.failed(12).get());
    origins.note(&op(Op::Setns, 0).after(&[(Kind::Mnt, CONTAINER)]).get());
    let births = Births::new(&scene.world, &origins);
    let at = mounts.namespace(CONTAINER).unwrap();
    let mut makers = Makers::default();
    let told = mount_births(&[Birth {
        id: 102,
        from: 42,
        ..Birth::default()
    }]);
    makers.apply(&Event::MountBirths(told.get()));
    let known = (&births, &makers);
    let (text, ()) = print_with(&scene, &mounts, known, |out, view| {
        (0..=at).for_each(|at| mounts_of(out, view, at));
        mounts_json_of(out, view, at);
    });
    let told: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" by ") || line.contains("maker"))
        .collect();
    assert_snapshot!(told.join("\n"), @r#"
  made by runc[4242] clone, 3m11s ago: 27 mounts copied from mnt:4026531841
        mounted by mount[4242] 3m21s ago, from mount 42
{"type":"mount_namespace","inum":4026532276,"owner":4026531837,"born_mono_ns":11000000001,"maker":{"op":"clone","pid":4242,"tid":4242,"uid":0,"comm":"runc"},"copied_from":4026531841,"copied_mounts":27,"tasks":3,"mounts":3}
{"type":"mount","ns":4026532276,"id":102,"parent":101,"point":"/mnt/data/sub","fs":"tmpfs","device":"0:44","root":"/","source":"none","options":["ro","nosuid"],"super_options":["rw","size=64k"],"master":31,"copies":1,"age_ns":201000000002,"copy_of":42,"maker":{"op":"mount","pid":4242,"tid":4242,"comm":"mount"}}
"#);
    // Another one has the number by now.
    assert_eq!(births.of(CONTAINER + 1, 0), None);
}

#[test]
fn namespaces_are_asked_for_by_number_process_or_container() {
    let (scene, mounts) = scene();
    let found = |asked: &str| {
        let target: Target = asked.parse().unwrap();
        let (_, found) = print(&scene, &mounts, |_, view| mount_namespaces(view, &[target]));
        match found {
            Ok(found) => format!("{found:?}"),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(found("mnt:4026532276"), "[1]");
    assert_eq!(found("4026532276"), "[1]");
    assert_eq!(found("4302"), "[1]");
    assert_eq!(found("web"), "[1]");
    assert_eq!(found("3f2a"), "[1]");
    assert_eq!(found("1"), "[0]");
    assert_snapshot!(found("2"), @"no process 2: ids are those of the first pid namespace, or of that which /proc is of");
    assert_snapshot!(found("net:4026532281"), @"a namespace of kind net has no mounts: say mnt:INUM");
    assert_snapshot!(found("4026532277"), @"no namespace mnt:4026532277 is known: it may have died before nstrace looked, or be held by what cannot be seen");
    assert_snapshot!(found("db"), @"no container `db` has a process: say its name, or its id or 3 characters of it");
}

mod who {
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
}
