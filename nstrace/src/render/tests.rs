//! Every rendering of every event, by hand, with names that attack: here the lines and
//! paths for people, and that whatever decodes prints safely.

mod json;
mod mount_ops;

use insta::assert_snapshot;
use nstrace_common::{
    flags::*,
    kind::Kind,
    wire::{Mark, Op, RecordKind},
    writers::{MountRecord, PRIVATE},
};
use proptest::prelude::*;
use zerocopy::FromZeros as _;

use super::{
    testing::{Built, BuiltTask, aligned, copy, install, mark, op, task},
    *,
};
use crate::{
    decode::decode,
    event::{Cgroup, Life, Lost, Mount, Now, Warning},
    explain::PidsLimit,
};

/// One second after the machine started it was 23:01:15.
const WALL: i64 = 1_795_388_474_221_000_000;

fn printed(format: Format, event: &Event, change: impl FnOnce(&mut View)) -> String {
    let mut cgroups = Cgroups::default();
    cgroups.learn(7, b"/demo/\x1b[2J\\\xff");
    let mut view = View {
        wall_offset_ns: WALL,
        cgroups: &cgroups,
        facts: None,
        origin: None,
        color: false,
        all: false,
    };
    change(&mut view);
    let mut out = Text::new();
    Printer::new(TimeZone::UTC).event(format, &mut out, event, &view);
    out.to_string()
}

fn line(built: &Built) -> String {
    printed(Format::Line, &Event::Op(built.get()), |_| {})
}

fn path(built: &Built) -> String {
    printed(Format::Path, &Event::Op(built.get()), |_| {})
}

/// The JSON line, which must be one that a parser takes, with a comma a line.
fn json(event: &Event) -> String {
    let line = printed(Format::Json, event, |_| {});
    let parsed: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
    assert!(parsed.is_object() && line.ends_with("}\n") && line.lines().count() == 1);
    line.replace(",\"", ",\n\"")
}

const CREATE: u8 = mark(Mark::CreateNewNamespaces);

/// What `unshare -muipn` does.
fn unshare() -> Built {
    let flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET;
    op(Op::Unshare, flags)
        .comm(b"runc:[1]")
        .marks(&[
            (10_000, CREATE),
            (15_000, copy(Kind::Mnt)),
            (225_000, copy(Kind::Uts)),
            (229_000, copy(Kind::Ipc)),
            (234_000, copy(Kind::Pid)),
            (243_000, copy(Kind::Net)),
            (2_084_000, mark(Mark::Switch)),
        ])
        .after(&[
            (Kind::Mnt, 4_026_532_276),
            (Kind::Uts, 4_026_532_277),
            (Kind::Ipc, 4_026_532_278),
            (Kind::Pid, 4_026_532_279),
            (Kind::Net, 4_026_532_281),
        ])
        .with(|record| {
            record.mounts = 27;
            record.pid_parent = 4_026_531_836;
            record.owner = 4_026_531_837;
        })
}

/// A rootless container's init.
fn clone() -> Built {
    op(Op::Clone3, CLONE_NEWUSER | CLONE_NEWPID | CLONE_INTO_CGROUP)
        .took(1_840_000)
        .marks(&[
            (3_000, mark(Mark::CreateUserNs)),
            (15_000, mark(Mark::CreateUserNsDone)),
            (201_000, CREATE),
            (202_000, copy(Kind::Pid)),
            (211_000, mark(Mark::CopyNamespacesDone)),
            (223_000, mark(Mark::AllocPidDone)),
        ])
        .after(&[(Kind::User, 4_026_532_275), (Kind::Pid, 4_026_532_279)])
        .pids(&[(4243, 4_026_531_836), (1, 4_026_532_279)])
        .with(|record| {
            record.user_parent = 4_026_531_837;
            record.owner_uid = 1000;
            record.uid = 1000;
            record.pid_parent = 4_026_531_836;
            record.owner = 4_026_532_275;
            record.cgroup = 7;
        })
}

fn setns() -> Built {
    op(Op::Setns, CLONE_NEWNET)
        .comm(b"ip")
        .took(9_400)
        .marks(&[(4_000, install(Kind::Net)), (5_000, mark(Mark::Switch))])
        .after(&[(Kind::Net, 4_026_532_281)])
        .with(|record| record.target = 4_026_532_281)
}

fn refused() -> Built {
    op(Op::Clone, CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)
        .comm(b"chrome\x1b[2J\n\xff")
        .took(9_000)
        .marks(&[
            (3_000, mark(Mark::CreateUserNs)),
            (5_000, mark(Mark::CreateUserNsDone)),
        ])
        .failed(28)
        .in_user()
        .found(|fail| {
            fail.limit_ns = 4_026_531_837;
            fail.limit_kind = Kind::User as u32;
        })
}

fn init() -> BuiltTask {
    let mut task = task(4243, 4243, b"sh\x9b");
    task.record.cgroup = 7;
    task
}

fn death() -> Life {
    Life {
        time: 2_200_000_000,
        kind: Some(Kind::Net),
        inum: 4_026_532_281,
        id: 0,
        pid: 17,
        tid: 17,
        address: None,
        age: Some(1_200_000_000),
        past: Default::default(),
    }
}

#[test]
fn columns_are_where_their_names_are() {
    let mut header = Text::new();
    Printer::new(TimeZone::UTC).header(Format::Line, &mut header, false);
    let mut out = header.to_string();
    out += &line(&unshare());
    out += &line(&clone());
    out += &line(&setns());
    out += &line(&refused());
    out += &printed(Format::Line, &Event::TaskNew(init().get()), |_| {});
    out += &printed(Format::Line, &Event::TaskExit(init().get()), |_| {});
    out += &printed(Format::Line, &Event::Death(death()), |_| {});
    assert_snapshot!(out, @r#"
    TIME         PID    COMM       OP      NAMESPACES             RESULT        TOOK  SLOWEST
    23:01:15.221 4242   runc:[1]   unshare +mnt +uts +ipc +pid +net ok        2.10ms  copy_net_ns 1.84ms
    23:01:15.221 4242   runc       clone3  +user +pid             4243 (ns: 1) 1.84ms alloc_pid 12us
    23:01:15.221 4242   ip         setns   net:4026532281         ok             9us  switch_task_namespaces 4us
    23:01:15.221 4242   chrome\x1b[2J\x0a\xff clone +user +pid +net ENOSPC       9us  create_user_ns
                                           user.max_user_namespaces is 0 in user:4026531837
    23:01:15.721 4242   sh\x9b     fork    in pid:4026532279      4243 (ns: 1)
    23:01:15.721 4243   sh\x9b     exit    in pid:4026532279      4243 (ns: 1)        exit 0
    23:01:16.421                   died    net:4026532281         after 1.2s
    "#);
    let common = out
        .lines()
        .filter(|line| !line.contains(r"\x1b") && !line.contains("switch_task_namespaces"));
    assert!(
        common
            .map(|line| line.chars().count())
            .all(|width| width <= 100)
    );
}

#[test]
fn a_line_says_what_was_asked_when_it_failed() {
    let mut out = line(
        &op(Op::Unshare, CLONE_NEWNET)
            .failed(1)
            .found(|fail| fail.cap_effective = 0),
    );
    out += &line(&op(Op::Setns, CLONE_NEWNET).failed(9));
    out += &line(
        &setns()
            .failed(1)
            .marks(&[(4_000, install(Kind::Net))])
            .found(|fail| {
                fail.target_owner = 4_026_532_500;
                fail.user_level = 1;
            }),
    );
    out += &line(&op(Op::Vfork, 0).failed(12).found(|fail| fail.bits = 1));
    out += &line(&op(Op::Clone, CLONE_NEWNET).failed(513));
    out += &line(&op(Op::OpenTree, 0).failed(4095));
    assert_snapshot!(out, @r#"
    23:01:15.221 4242   runc       unshare +net                   EPERM       2.10ms
                                           no CAP_SYS_ADMIN in user:4026531837
    23:01:15.221 4242   runc       setns   net                    EBADF       2.10ms
                                           the descriptor is not open, or open with O_PATH only
    23:01:15.221 4242   ip         setns   net:4026532281         EPERM          9us  netns_install
                                           CAP_SYS_ADMIN in user:4026531837 only, not in user:4026532500, the owner
    23:01:15.221 4242   runc       vfork   in pid:4026531836      ENOMEM      2.10ms
                                           the init of pid:4026531836 is dead
    23:01:15.221 4242   runc       clone   +net                   ERESTARTNOINTR 2.10ms
                                           a signal came first; the call begins again by itself
    23:01:15.221 4242   runc       open_tree +mnt                 errno 4095  2.10ms
    "#);
}

#[test]
fn a_line_of_what_is_rare() {
    let several = op(Op::Setns, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID)
        .marks(&[
            (1, install(Kind::User)),
            (2, install(Kind::Mnt)),
            (3, install(Kind::Pid)),
            (4, mark(Mark::Switch)),
        ])
        .after(&[(Kind::Mnt, 1), (Kind::User, 2)]);
    let mut out = line(&several);
    // Into the namespace that it is in.
    out += &line(&op(Op::Setns, 0).marks(&[(1, install(Kind::Uts))]));
    out += &line(&op(Op::Fsmount, 0).after(&[(Kind::Mnt, 4_026_532_276)]));
    out += &line(
        &op(Op::Clone, CLONE_NEWPID)
            .pids(&[
                (4_194_303, 4_026_531_836),
                (57, 4_026_532_279),
                (1, 4_026_532_300),
            ])
            .with(|record| record.pid = 4_194_302)
            .comm(b"containerd-shim"),
    );
    assert_snapshot!(out, @r#"
    23:01:15.221 4242   runc       setns   user mnt pid           ok          2.10ms  switch_task_namespaces 2.09ms
    23:01:15.221 4242   runc       setns   uts:4026531838         ok          2.10ms  utsns_install 2.09ms
    23:01:15.221 4242   runc       fsmount +mnt                   ok          2.10ms
    23:01:15.221 4194302 containerd-shim clone +pid               4194303 (ns: 57 1) 2.10ms
    "#);
}

#[test]
fn tasks_and_namespaces_come_and_go() {
    let mut thread = task(4243, 4250, b"java");
    let mut out = printed(Format::Line, &Event::TaskNew(thread.get()), |_| {});
    out += &printed(Format::Line, &Event::TaskExit(thread.get()), |_| {});
    assert_eq!(out, "", "threads are many");
    out += &printed(Format::Line, &Event::TaskNew(thread.get()), |view| {
        view.all = true
    });
    thread.record.exit_code = 0x100;
    out += &printed(Format::Line, &Event::TaskExit(thread.get()), |view| {
        view.all = true
    });
    let mut killed = init();
    killed.record.exit_code = 9;
    out += &printed(Format::Line, &Event::TaskExit(killed.get()), |_| {});
    let birth = Life {
        address: None,
        age: None,
        past: Default::default(),
        ..death()
    };
    let cgroup = Cgroup { id: 1, path: b"/x" };
    let before = out.len();
    out += &printed(Format::Line, &Event::Birth(birth), |_| {});
    out += &printed(Format::Line, &Event::Cgroup(cgroup), |view| view.all = true);
    assert_eq!(out.len(), before, "of no interest in text");
    out += &printed(Format::Line, &Event::Birth(birth), |view| view.all = true);
    out += &printed(
        Format::Line,
        &Event::Death(Life {
            kind: None,
            ..birth
        }),
        |_| {},
    );
    assert_snapshot!(out, @r#"
    23:01:15.721 4242   java       thread  in pid:4026532279      4250 (ns: 1)
    23:01:15.721 4243   java       exit    in pid:4026532279      4250 (ns: 1)        exit 1
    23:01:15.721 4243   sh\x9b     exit    in pid:4026532279      4243 (ns: 1)        killed by SIGKILL
    23:01:16.421 17                born    net:4026532281
    23:01:16.421                   died    ns:4026532281
    "#);
}

#[test]
fn a_loss_and_a_stall_stand_out() {
    let lost = |record, count| {
        Event::Lost(Lost {
            time: 1_000_000_000,
            since: 0,
            record,
            count,
        })
    };
    let mut out = printed(Format::Line, &lost(RecordKind::Op, 12), |_| {});
    out += &printed(Format::Line, &lost(RecordKind::Death, 1), |_| {});
    let built = unshare();
    let now = Now {
        time: built.record.start + 6_200_000_000,
    };
    for marks in [0, 6] {
        let mut hangs = unshare();
        hangs.marks.truncate(marks);
        out += &printed(Format::Line, &Event::Stall(hangs.get(), now), |_| {});
    }
    assert_snapshot!(out, @r#"
    23:01:15.221 *** LOST 12 operations: they are not shown ***
    23:01:15.221 *** LOST 1 death of a namespace: it is not shown ***
    23:01:21.421 4242   runc:[1]   STALL unshare +mnt +uts +ipc +pid +net for 6.2s
    23:01:21.421 4242   runc:[1]   STALL unshare +mnt +uts +ipc +pid +net in copy_net_ns for 6.1s of 6.2s
    "#);
}

/// A mount that was written to more often than that was said.
pub fn unbalanced(id: u32) -> MountRecord {
    let mut record = MountRecord::new_zeroed();
    record.head.time = 1_000_000_000;
    (record.id, record.unique, record.count) = (id, 4_294_967_300, -4);
    (record.dev, record.bits) = (0x35, PRIVATE);
    (record.pid, record.tid) = (183, 184);
    for (room, text) in [
        (&mut record.comm[..], &b"umount\x1b"[..]),
        (&mut record.fs, b"overlay"),
        (&mut record.source, b"none\n"),
        (&mut record.root, b"upper\0"),
    ] {
        room[..text.len()].copy_from_slice(text);
    }
    record
}

pub fn warning() -> Event<'static> {
    Event::Warning(Warning {
        time: 1_000_001_000,
        place: b"fs/namespace.c:1370",
        function: b"cleanup_mnt+0x130/0x150",
        tid: 184,
        comm: b"umount\x1b",
        stack: b"cleanup_mnt+0x130/0x150\ntask_work_run+0x58/0x90",
    })
}

#[test]
fn a_mount_that_dies_with_writers_and_a_warning_stand_out() {
    let record = unbalanced(42);
    let died = Event::MountDied(Mount {
        record: &record,
        stack: b"cleanup_mnt+0x1\n__cleanup_mnt+0x12\nevil\x1b[2J+0x3 [m]",
    });
    let mut out = printed(Format::Line, &died, |_| {});
    out += &printed(Format::Line, &warning(), |_| {});
    out += &printed(Format::Json, &died, |_| {});
    out += &printed(Format::Json, &warning(), |_| {});
    assert_snapshot!(out, @r#"
    23:01:15.221 183    umount\x1b died    mount 42 died with -4 writers
                                           overlay 0:53, root /upper, of none\x0a, a private clone
                                           in cleanup_mnt < __cleanup_mnt < evil\x1b[2J
    23:01:15.221 184    umount\x1b the kernel warned at fs/namespace.c:1370 in cleanup_mnt+0x130/0x150
                                           in cleanup_mnt < task_work_run
    {"type":"mount_death","time":"2026-11-22T23:01:15.221000000Z","mono_ns":1000000000,"mount":42,"mount_unique":4294967300,"writers":-4,"fs":"overlay","dev":"0:53","root":"/upper","source":"none\u000a","private":true,"pid":183,"tid":184,"comm":"umount\u001b","stack":["cleanup_mnt+0x1","__cleanup_mnt+0x12","evil\u001b[2J+0x3 [m]"]}
    {"type":"kernel_warning","time":"2026-11-22T23:01:15.221001000Z","mono_ns":1000001000,"at":"fs/namespace.c:1370","function":"cleanup_mnt+0x130/0x150","tid":184,"comm":"umount\u001b","stack":["cleanup_mnt+0x130/0x150","task_work_run+0x58/0x90"]}
    "#);
}

#[test]
fn colours_begin_and_end() {
    let color = |event: &Event| printed(Format::Line, event, |view| view.color = true);
    let mut out = color(&Event::Op(refused().get()));
    out += &color(&Event::Op(setns().get()));
    out += &color(&Event::Lost(Lost {
        time: 0,
        since: 0,
        record: RecordKind::Op,
        count: 1,
    }));
    assert_snapshot!(out.replace('\x1b', "^"), @r#"
    ^[2m23:01:15.221^[0m 4242   chrome\x1b[2J\x0a\xff clone ^[32m+user +pid +net^[0m ^[1;31mENOSPC^[0m       9us  ^[1;31mcreate_user_ns^[0m
                                           ^[33muser.max_user_namespaces is 0 in user:4026531837^[0m
    ^[2m23:01:15.221^[0m 4242   ip         setns   ^[36mnet:4026532281^[0m         ok             9us  switch_task_namespaces 4us
    ^[2m23:01:14.221^[0m ^[1;37;41m*** LOST 1 operation: it is not shown ***^[0m
    "#);
    assert_eq!(
        out.matches("\x1b[0m").count() * 2,
        out.matches('\x1b').count()
    );
}

/// What makes a container's start slow where thousands are mounted.
#[test]
fn mounts_that_were_copied_are_in_the_stage_that_copied_them() {
    let unshare = op(Op::Unshare, CLONE_NEWNS)
        .marks(&[(10_000, CREATE), (15_000, copy(Kind::Mnt))])
        .after(&[(Kind::Mnt, 4_026_532_276)])
        .with(|record| record.mounts = 27);
    assert_snapshot!(line(&unshare), @"23:01:15.221 4242   runc       unshare +mnt                   ok          2.10ms  copy_mnt_ns 2.08ms, 27 mounts copied");
    let stage = json(&Event::Op(unshare.get()));
    let stage = &stage[stage.find("copy_mnt_ns").expect("a stage")..];
    assert_snapshot!(stage, @r#"
    copy_mnt_ns",
    "depth":1,
    "start_ns":15000,
    "took_ns":2085000,
    "mounts":27}]}
    "#);
}

#[test]
fn a_path_has_a_function_on_each_line() {
    let mut out = path(&unshare());
    out += &path(&clone());
    out += &path(&setns());
    out += &path(
        &op(Op::OpenTree, 0)
            .after(&[(Kind::Mnt, 4_026_532_276)])
            .with(|record| record.mounts = 1),
    );
    assert_snapshot!(out, @r#"
    23:01:15.221 unshare(NEWNS|NEWUTS|NEWIPC|NEWPID|NEWNET) by runc:[1][4242]  ->  0      2.10ms
                   create_new_namespaces                                                  2.07ms
                     copy_mnt_ns     mnt:4026531841 -> mnt:4026532276   27 mounts copied  0.21ms
                     copy_utsname    uts:4026531838 -> uts:4026532277                        4us
                     copy_ipcs       ipc:4026531839 -> ipc:4026532278                        5us
                     copy_pid_ns     pid:4026531836 -> pid:4026532279                        9us
                     copy_net_ns     net:4026531840 -> net:4026532281                     1.84ms
                   switch_task_namespaces                                                   16us
    23:01:15.221 clone3(NEWUSER|NEWPID|INTO_CGROUP) by runc[4242]  ->  4243 (ns: 1)       1.84ms
                   create_user_ns  user:4026531837 -> user:4026532275   owner 1000          12us
                   copy_namespaces                                                          10us
                     create_new_namespaces                                                  10us
                       copy_pid_ns     pid:4026531836 -> pid:4026532279                      9us
                   alloc_pid       4243 in pid:4026531836, 1 in pid:4026532279              12us
    23:01:15.221 setns(NEWNET) by ip[4242]  ->  0                                            9us
                   netns_install   net:4026531840 -> net:4026532281                          1us
                   switch_task_namespaces                                                    4us
    23:01:15.221 open_tree() by runc[4242]  ->  mnt:4026532276   1 mount copied           2.10ms
    "#);
}

#[test]
fn a_path_ends_where_it_failed() {
    let full = PidsLimit {
        cgroup: "/a\x1b[2J".to_owned(),
        max: Some(5),
    };
    let facts: &'static Facts = Box::leak(Box::new(Facts {
        pids: Some(full),
        ..Facts::NONE
    }));
    let mut out = path(&refused());
    let setns = setns().marks(&[(4_000, install(Kind::Net))]).failed(1);
    out += &path(&setns.found(|fail| fail.cap_effective = 0));
    let clone = clone().failed(11);
    out += &printed(Format::Path, &Event::Op(clone.get()), |view| {
        view.facts = Some(facts)
    });
    assert_snapshot!(out, @r#"
    23:01:15.221 clone(NEWUSER|NEWPID|NEWNET) by chrome\x1b[2J\x0a\xff[4242]  ->  ENOSPC     9us
                   user.max_user_namespaces is 0 in user:4026531837
                   create_user_ns  ENOSPC                                                    2us
    23:01:15.221 setns(NEWNET) by ip[4242]  ->  EPERM                                        9us
                   no CAP_SYS_ADMIN in user:4026531837
                   netns_install   net:4026532281   EPERM                                    5us
    23:01:15.221 clone3(NEWUSER|NEWPID|INTO_CGROUP) by runc[4242]  ->  EAGAIN             1.84ms
                   pids.max is 5 in /a\x1b[2J
                   create_user_ns                                                           12us
                   copy_namespaces                                                          10us
                     create_new_namespaces                                                  10us
                       copy_pid_ns                                                           9us
                   alloc_pid       4243 in pid:4026531836, 1 in pid:4026532279              12us
    "#);
}

/// Records that decode, of every kind and with any content.
fn any_record() -> impl Strategy<Value = Vec<u64>> {
    let words = proptest::collection::vec(any::<u64>(), 40..120);
    (words, 1..=6u32, 1..=8u8, 0..=24u8, 0..=33u8, any::<bool>()).prop_map(
        |(mut words, kind, op, marks, pids, ids)| {
            let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut words[..]);
            bytes[..4].copy_from_slice(&kind.to_ne_bytes());
            if kind == RecordKind::Op as u32 {
                bytes[60..64].copy_from_slice(&[op, marks, pids, 16 * u8::from(ids)]);
            }
            words
        },
    )
}

proptest! {
    #[test]
    fn whatever_decodes_prints_safely(words in any_record(), color: bool, offset: i64) {
        let bytes = zerocopy::IntoBytes::as_bytes(&words[..]);
        let Ok(event) = decode(bytes) else { return Ok(()) };
        for format in [Format::Line, Format::Path, Format::Json] {
            let out = printed(format, &event, |view| {
                view.all = true;
                view.color = color;
                view.wall_offset_ns = offset;
            });
            let controls = out.chars().filter(|c| c.is_control() && *c != '\n' && *c != '\x1b');
            prop_assert_eq!(controls.count(), 0);
            let escapes = out.matches('\x1b').count();
            prop_assert!(color && format != Format::Json || escapes == 0);
            for line in out.lines().filter(|_| format == Format::Json) {
                let value: Result<serde_json::Value, _> = serde_json::from_str(line);
                prop_assert!(value.is_ok_and(|value| value.is_object()));
            }
        }
    }
}

#[test]
fn the_generator_makes_operations_that_decode() {
    let built = clone().bytes();
    let bytes = zerocopy::IntoBytes::as_bytes(&built[..]);
    assert!(matches!(decode(bytes), Ok(Event::Op(_))));
    assert_eq!(bytes[60..64], [Op::Clone3 as u8, 6, 2, 0]);
    assert_eq!(aligned(&bytes[..9]).len(), 2);
}
