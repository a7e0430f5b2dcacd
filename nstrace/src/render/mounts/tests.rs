//! Mounts of two namespaces and one that nobody is in, by hand.

mod who;

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
