use insta::assert_snapshot;
use jiff::tz::TimeZone;
use nstrace_common::{
    flags::{CLONE_NEW_ALL, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS},
    kind::Kind,
    mount_ops::{Call, TAKEN_MORE},
    wire::{Mark, Op, RecordKind},
    writers::MountRecord,
};

use super::*;
use crate::{
    cgroups::Cgroups,
    event::{Event, Life, Lost, Mount, Unseen},
    explain::{Facts, PidsLimit},
    filter::Filter,
    mount_ops::testing::mount_op,
    names::Names,
    render::{
        Format, Printer, TreeFilter, View,
        out::columns,
        testing::{Built, FIRST, copy, mark, op},
        tests::{unbalanced, warning},
    },
    report::Known,
};

/// Events, and what is known beside them.
pub struct Recorded {
    format: Format,
    pub world: World,
    cgroups: Cgroups,
    pub names: Names,
    facts: Facts,
    pub report: Report,
    pub head: Head,
}

const WEB: &str = "3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a91c04b7d3f2a";

impl Recorded {
    pub fn new(format: Format) -> Recorded {
        let mut recorded = Recorded {
            format,
            world: World::default(),
            cgroups: Cgroups::default(),
            names: Names::default(),
            facts: Facts::NONE,
            report: Report::new(Filter::default()),
            head: Head {
                host: "here".to_owned(),
                kernel: "6.12.118".to_owned(),
                ..Head::default()
            },
        };
        recorded
            .cgroups
            .learn(7, format!("/docker/{WEB}").as_bytes());
        recorded.names.learn(WEB.as_bytes(), "web");
        recorded
    }

    pub fn event(&mut self, event: &Event) {
        let mut changes = Vec::new();
        self.world.apply(event, &mut changes);
        let known = Known {
            world: &self.world,
            changes: &changes,
            cgroups: &self.cgroups,
            facts: &self.facts,
        };
        let mut printer = Printer::new(TimeZone::UTC);
        self.report.event(event, &known, &mut |event| {
            let view = View {
                wall_offset_ns: 0,
                cgroups: &self.cgroups,
                facts: Some(&self.facts),
                origin: None,
                color: false,
                all: false,
            };
            let mut text = Text::new();
            printer.event(self.format, &mut text, event, &view);
            text.to_string()
        });
    }

    pub fn op(&mut self, built: &Built) {
        self.event(&Event::Op(built.get()));
    }

    fn printed(&self, color: bool) -> String {
        let filter = TreeFilter::default();
        let view = TreeView {
            now_ns: 0,
            wall_offset_ns: 0,
            cgroups: &self.cgroups,
            names: &self.names,
            filter: &filter,
            unseen: Unseen::default(),
            live: true,
            color,
            width: None,
        };
        let end = End::of(&self.report, &self.world, &view);
        let of = Of {
            head: &self.head,
            view: &view,
            end: &end,
            filtered: false,
        };
        let mut out = Text::new();
        let mut clock = Clock::new(TimeZone::UTC);
        match self.format {
            Format::Json => report_json(&mut out, &self.report, &of, &mut clock),
            _ => report(&mut out, &self.report, &of, &mut clock.clone(), &mut clock),
        }
        out.to_string()
    }
}

/// Two containers' worth of operations, of which some fail, and a loss.
pub fn usual(format: Format) -> Recorded {
    let mut recorded = Recorded::new(format);
    let net = 4_026_532_300;
    let made = op(Op::Unshare, CLONE_NEWNET)
        .marks(&[
            (1_000, mark(Mark::CreateNewNamespaces)),
            (2_000, copy(Kind::Net)),
            (1_900_000, mark(Mark::Switch)),
        ])
        .after(&[(Kind::Net, net)])
        .with(|record| record.cgroup = 7);
    recorded.op(&made);
    let death = made.record.head.time + 3_000_000_000;
    recorded.event(&Event::Death(Life::death(death, net)));
    recorded.op(&op(Op::Unshare, CLONE_NEWUTS).took(90_000).comm(b"unshare"));
    for (user, comm) in [
        (4_026_532_301, &b"a"[..]),
        (4_026_532_302, b"b"),
        (4_026_532_302, b"b"),
    ] {
        let failed = op(Op::Clone, CLONE_NEWUSER)
            .comm(comm)
            .took(8_000)
            .failed(libc::EPERM)
            .in_user()
            .found(|fail| fail.uid_extents = 0)
            .with(|record| {
                record.cgroup = 7;
                record.before[Kind::User as usize] = user;
            });
        recorded.op(&failed);
    }
    recorded.event(&Event::Lost(Lost {
        time: 5_000_000_000,
        since: 4_000_000_000,
        record: RecordKind::Op,
        count: 3,
    }));
    recorded
}

#[test]
fn a_report_as_text() {
    assert_snapshot!(usual(Format::Path).printed(false), @r#"
    1970-01-01T00:00:01.000008000Z, 3.9s, here, Linux 6.12.118
    5 operations, 3 failed
    *** LOST 3 operations ***
      from 00:00:04.000 to 00:00:05.000: 3 operations

    OPERATIONS                       COUNT    TOTAL      P50      P90      P99      MAX
    clone                                3     24us      8us      8us      8us      8us
    unshare                              2   2.19ms     90us   2.10ms   2.10ms   2.10ms

    BY KIND                          COUNT    TOTAL      P50      P90      P99      MAX
    uts                                  1     90us     90us     90us     90us     90us
    net                                  1   2.10ms   2.10ms   2.10ms   2.10ms   2.10ms
    user                                 3     24us      8us      8us      8us      8us

    STAGES                           COUNT    TOTAL      P50      P90      P99      MAX
    create_user_ns                       3      0ns      0ns      0ns      0ns      0ns
    create_new_namespaces                1   1.89ms   1.89ms   1.89ms   1.89ms   1.89ms
    copy_net_ns                          1   1.89ms   1.89ms   1.89ms   1.89ms   1.89ms
    switch_task_namespaces               1   0.20ms   0.20ms   0.20ms   0.20ms   0.20ms

    CONTAINERS                       COUNT    TOTAL      P50      P90      P99      MAX
    web (3f2a91c04b7d)                   4   2.12ms      8us   2.10ms   2.10ms   2.10ms
    in no container                      1     90us     90us     90us     90us     90us

    web (3f2a91c04b7d)               COUNT    TOTAL      P50      P90      P99      MAX
      clone                              3     24us      8us      8us      8us      8us
      unshare                            1   2.10ms   2.10ms   2.10ms   2.10ms   2.10ms
        copy_net_ns                      1   1.89ms   1.89ms   1.89ms   1.89ms   1.89ms
        switch_task_namespaces           1   0.20ms   0.20ms   0.20ms   0.20ms   0.20ms
        create_user_ns                   3      0ns      0ns      0ns      0ns      0ns

    in no container                  COUNT    TOTAL      P50      P90      P99      MAX
      unshare                            1     90us     90us     90us     90us     90us

    FAILURES
          3 EPERM from create_user_ns
                3 user:… has no uid_map yet (2 different)
                  clone 3; by b 2, a 1; web (3f2a91c04b7d) 3

    NAMESPACES  FOUND   BORN   DIED  ALIVE           AGE P50      P90      P99      MAX
    mnt             1      0      0      1
    uts             1      0      0      1
    ipc             1      0      0      1
    pid             1      0      0      1
    net             0      1      1      0              3.0s     3.0s     3.0s     3.0s
      made by runc 1
    user            1      0      0      1
    cgroup          1      0      0      1
    time            1      0      0      1

    SLOWEST
    00:00:01.000 unshare(NEWNET) by runc[4242]  ->  0                                     2.10ms
                   create_new_namespaces                                                  1.89ms
                     copy_net_ns     net:4026531840 -> net:4026532300                     1.89ms
                   switch_task_namespaces                                                 0.20ms
    00:00:01.000 unshare(NEWUTS) by unshare[4242]  ->  0                                    90us
    00:00:01.000 clone(NEWUSER) by a[4242]  ->  EPERM                                        8us
                   user:4026532301 has no uid_map yet
                   create_user_ns  EPERM                                                     0ns
    00:00:01.000 clone(NEWUSER) by b[4242]  ->  EPERM                                        8us
                   user:4026532302 has no uid_map yet
                   create_user_ns  EPERM                                                     0ns
    00:00:01.000 clone(NEWUSER) by b[4242]  ->  EPERM                                        8us
                   user:4026532302 has no uid_map yet
                   create_user_ns  EPERM                                                     0ns
    "#);
}

#[test]
fn a_report_as_json() {
    // Each line has these, and those of operations are told elsewhere.
    let time = r#""time":"1970-01-01T00:00:01.000008000Z","mono_ns":1000008000,"#;
    let text = usual(Format::Json).printed(false).replace(time, "");
    let text = text.replace(WEB, "ID");
    let lines = text
        .lines()
        .filter(|line| !line.starts_with(r#"{"type":"op""#));
    assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
    {"type":"report","span_ns":3999992000,"host":"here","kernel":"6.12.118","operations":5,"failed":3,"leaks":0,"lost":[{"record":"op","count":3}]}
    {"type":"loss","record":"op","count":3,"from_mono_ns":4000000000,"until_mono_ns":5000000000}
    {"type":"lengths","of":"op","name":"clone","count":3,"total_ns":24000,"p50_ns":8000,"p90_ns":8000,"p99_ns":8000,"max_ns":8000}
    {"type":"lengths","of":"op","name":"unshare","count":2,"total_ns":2190000,"p50_ns":90000,"p90_ns":2100000,"p99_ns":2100000,"max_ns":2100000}
    {"type":"lengths","of":"kind","name":"uts","count":1,"total_ns":90000,"p50_ns":90000,"p90_ns":90000,"p99_ns":90000,"max_ns":90000}
    {"type":"lengths","of":"kind","name":"net","count":1,"total_ns":2100000,"p50_ns":2100000,"p90_ns":2100000,"p99_ns":2100000,"max_ns":2100000}
    {"type":"lengths","of":"kind","name":"user","count":3,"total_ns":24000,"p50_ns":8000,"p90_ns":8000,"p99_ns":8000,"max_ns":8000}
    {"type":"lengths","of":"stage","name":"create_user_ns","count":3,"total_ns":0,"p50_ns":0,"p90_ns":0,"p99_ns":0,"max_ns":0}
    {"type":"lengths","of":"stage","name":"create_new_namespaces","count":1,"total_ns":1899000,"p50_ns":1899000,"p90_ns":1899000,"p99_ns":1899000,"max_ns":1899000}
    {"type":"lengths","of":"stage","name":"copy_net_ns","count":1,"total_ns":1898000,"p50_ns":1898000,"p90_ns":1898000,"p99_ns":1898000,"max_ns":1898000}
    {"type":"lengths","of":"stage","name":"switch_task_namespaces","count":1,"total_ns":200000,"p50_ns":200000,"p90_ns":200000,"p99_ns":200000,"max_ns":200000}
    {"type":"lengths","of":"container","name":"","count":1,"total_ns":90000,"p50_ns":90000,"p90_ns":90000,"p99_ns":90000,"max_ns":90000,"failed":0}
    {"type":"lengths","of":"container","name":"ID","count":4,"total_ns":2124000,"p50_ns":8031,"p90_ns":2100000,"p99_ns":2100000,"max_ns":2100000,"failed":3,"container_name":"web"}
    {"type":"container_lengths","of":"op","name":"unshare","count":1,"total_ns":90000,"p50_ns":90000,"p90_ns":90000,"p99_ns":90000,"max_ns":90000,"container":""}
    {"type":"container_lengths","of":"kind","name":"uts","count":1,"total_ns":90000,"p50_ns":90000,"p90_ns":90000,"p99_ns":90000,"max_ns":90000,"container":""}
    {"type":"container_lengths","of":"op","name":"clone","count":3,"total_ns":24000,"p50_ns":8000,"p90_ns":8000,"p99_ns":8000,"max_ns":8000,"container":"ID"}
    {"type":"container_lengths","of":"op","name":"unshare","count":1,"total_ns":2100000,"p50_ns":2100000,"p90_ns":2100000,"p99_ns":2100000,"max_ns":2100000,"container":"ID"}
    {"type":"container_lengths","of":"kind","name":"net","count":1,"total_ns":2100000,"p50_ns":2100000,"p90_ns":2100000,"p99_ns":2100000,"max_ns":2100000,"container":"ID"}
    {"type":"container_lengths","of":"kind","name":"user","count":3,"total_ns":24000,"p50_ns":8000,"p90_ns":8000,"p99_ns":8000,"max_ns":8000,"container":"ID"}
    {"type":"container_lengths","of":"stage","name":"create_user_ns","count":3,"total_ns":0,"p50_ns":0,"p90_ns":0,"p99_ns":0,"max_ns":0,"container":"ID"}
    {"type":"container_lengths","of":"stage","name":"create_new_namespaces","count":1,"total_ns":1899000,"p50_ns":1899000,"p90_ns":1899000,"p99_ns":1899000,"max_ns":1899000,"container":"ID"}
    {"type":"container_lengths","of":"stage","name":"copy_net_ns","count":1,"total_ns":1898000,"p50_ns":1898000,"p90_ns":1898000,"p99_ns":1898000,"max_ns":1898000,"container":"ID"}
    {"type":"container_lengths","of":"stage","name":"switch_task_namespaces","count":1,"total_ns":200000,"p50_ns":200000,"p90_ns":200000,"p99_ns":200000,"max_ns":200000,"container":"ID"}
    {"type":"failures","op":"clone","errno":"EPERM","failed_stage":"create_user_ns","reason":"user:4026532301 has no uid_map yet","count":1,"comms":[{"comm":"a","count":1}],"containers":[{"container":"ID","count":1}]}
    {"type":"failures","op":"clone","errno":"EPERM","failed_stage":"create_user_ns","reason":"user:4026532302 has no uid_map yet","count":2,"comms":[{"comm":"b","count":2}],"containers":[{"container":"ID","count":2}]}
    {"type":"lives","kind":"mnt","found":1,"born":0,"died":0,"alive":1,"leaked":0,"makers":[]}
    {"type":"lives","kind":"uts","found":1,"born":0,"died":0,"alive":1,"leaked":0,"makers":[]}
    {"type":"lives","kind":"ipc","found":1,"born":0,"died":0,"alive":1,"leaked":0,"makers":[]}
    {"type":"lives","kind":"pid","found":1,"born":0,"died":0,"alive":1,"leaked":0,"makers":[]}
    {"type":"lives","kind":"net","found":0,"born":1,"died":1,"alive":0,"leaked":0,"p50_ns":3000000000,"p90_ns":3000000000,"p99_ns":3000000000,"max_ns":3000000000,"makers":[{"comm":"runc","count":1}]}
    {"type":"lives","kind":"user","found":1,"born":0,"died":0,"alive":1,"leaked":0,"makers":[]}
    {"type":"lives","kind":"cgroup","found":1,"born":0,"died":0,"alive":1,"leaked":0,"makers":[]}
    {"type":"lives","kind":"time","found":1,"born":0,"died":0,"alive":1,"leaked":0,"makers":[]}
    "#);
}

#[test]
fn mounts_that_died_with_writers_are_told_as_the_tail_tells_them() {
    for (format, known) in [
        (Format::Path, "died with -4 writers"),
        (Format::Json, "mount_death"),
    ] {
        let mut recorded = Recorded::new(format);
        for id in 0..120 {
            let record = unbalanced(id);
            let balanced = MountRecord { count: 0, ..record };
            for record in [&record, &balanced] {
                recorded.event(&Event::MountDied(Mount {
                    record,
                    stack: b"f+0x1",
                }));
            }
        }
        let text = recorded.printed(false);
        assert_eq!(text.matches(known).count(), 100);
        assert!(text.contains(match format {
            Format::Json => "\"mount_warnings\":120",
            _ => "and 20 more: nstrace tail --from prints them",
        }));
    }
    let mut recorded = Recorded::new(Format::Path);
    recorded.event(&warning());
    let text = recorded.printed(false);
    let (_, section) = text
        .split_once("MOUNTS AND THEIR WRITERS\n")
        .expect("a section");
    assert!(
        section.contains("the kernel warned at fs/namespace.c:1370 in cleanup_mnt+0x130/0x150")
    );
}

/// Mount operations of some kinds: some fail, and mounts go on by propagation.
fn mounting(format: Format) -> Recorded {
    const MS_BIND: u64 = 1 << 12;
    let mut recorded = Recorded::new(format);
    let bind = mount_op(Call::Mount, MS_BIND);
    let made = bind.clone().with(|record| {
        (record.made, record.made_by_propagation) = (9, 6);
        record.head.time += 1_000_000;
    });
    let lazy = mount_op(Call::Umount, 2).with(|record| {
        (record.taken, record.taken_by_propagation) = (4096, 0);
        record.found = TAKEN_MORE;
    });
    let copied = mount_op(Call::CopyMntNs, 0).with(|record| record.made = 1);
    for built in [
        mount_op(Call::Mount, 0).fs(b"tmpfs").failed(16),
        mount_op(Call::Umount, 0).failed(22),
        mount_op(Call::Umount, 0).failed(16),
        mount_op(Call::Umount, 0).failed(16),
        mount_op(Call::MoveMount, 0),
        made,
        bind,
        lazy,
        copied,
    ] {
        recorded.event(&Event::MountOp(built.get()));
    }
    recorded
}

#[test]
fn mount_operations_are_told_by_what_was_done() {
    let text = mounting(Format::Path).printed(false);
    let widths = text.lines().map(|line| line.chars().map(columns).sum());
    assert!(widths.max() <= Some(WIDTH));
    assert_snapshot!(text, @r"
    1970-01-01T00:00:01.000210000Z, 1.00ms, here, Linux 6.12.118
    0 operations, 0 failed, nothing lost

    MOUNT OPERATIONS                 COUNT    TOTAL      P50      P90      P99      MAX
    mount                                1   0.21ms   0.21ms   0.21ms   0.21ms   0.21ms
      1 failed: EBUSY 1
    bind                                 2   1.42ms   0.21ms   1.21ms   1.21ms   1.21ms
      9 mounts made, 6 of them by propagation
    umount                               3   0.63ms   0.21ms   0.21ms   0.21ms   0.21ms
      3 failed: EBUSY 2, EINVAL 1
    umount_lazy                          1   0.21ms   0.21ms   0.21ms   0.21ms   0.21ms
      at least 4096 mounts taken away
    move_mount                           1   0.21ms   0.21ms   0.21ms   0.21ms   0.21ms
    copy_mnt_ns                          1   0.21ms   0.21ms   0.21ms   0.21ms   0.21ms
      1 mount made
    ");
    let json = mounting(Format::Json).printed(false);
    let time = r#""time":"1970-01-01T00:00:01.000210000Z","mono_ns":1000210000,"#;
    let json = json.replace(time, "");
    let lines = json.lines().filter(|line| !line.contains("lives"));
    assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
    {"type":"report","span_ns":1000000,"host":"here","kernel":"6.12.118","operations":0,"failed":0,"leaks":0,"lost":[],"mount_operations":8,"mount_failed":4}
    {"type":"mount_lengths","name":"mount","count":1,"total_ns":210000,"p50_ns":210000,"p90_ns":210000,"p99_ns":210000,"max_ns":210000,"failed":1,"errnos":[{"errno":"EBUSY","count":1}],"made":0,"made_by_propagation":0,"taken":0,"taken_by_propagation":0}
    {"type":"mount_lengths","name":"bind","count":2,"total_ns":1420000,"p50_ns":210000,"p90_ns":1210000,"p99_ns":1210000,"max_ns":1210000,"failed":0,"errnos":[],"made":9,"made_by_propagation":6,"taken":0,"taken_by_propagation":0}
    {"type":"mount_lengths","name":"umount","count":3,"total_ns":630000,"p50_ns":210000,"p90_ns":210000,"p99_ns":210000,"max_ns":210000,"failed":3,"errnos":[{"errno":"EBUSY","count":2},{"errno":"EINVAL","count":1}],"made":0,"made_by_propagation":0,"taken":0,"taken_by_propagation":0}
    {"type":"mount_lengths","name":"umount_lazy","count":1,"total_ns":210000,"p50_ns":210000,"p90_ns":210000,"p99_ns":210000,"max_ns":210000,"failed":0,"errnos":[],"made":0,"made_by_propagation":0,"taken":4096,"taken_by_propagation":0,"taken_more":true}
    {"type":"mount_lengths","name":"move_mount","count":1,"total_ns":210000,"p50_ns":210000,"p90_ns":210000,"p99_ns":210000,"max_ns":210000,"failed":0,"errnos":[],"made":0,"made_by_propagation":0,"taken":0,"taken_by_propagation":0}
    {"type":"mount_lengths","name":"copy_mnt_ns","count":1,"total_ns":210000,"p50_ns":210000,"p90_ns":210000,"p99_ns":210000,"max_ns":210000,"failed":0,"errnos":[],"made":1,"made_by_propagation":0,"taken":0,"taken_by_propagation":0}
    "#);
    // Without them nothing is said.
    for format in [Format::Path, Format::Json] {
        assert!(
            !usual(format)
                .printed(false)
                .to_lowercase()
                .contains("mount")
        );
    }
}

#[test]
fn every_json_line_is_an_object_with_a_type() {
    for line in usual(Format::Json).printed(false).lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            value["type"].is_string() && value["mono_ns"].is_u64(),
            "{line}"
        );
    }
}

/// How many columns a terminal gives a line.
pub fn width(line: &str) -> usize {
    let mut in_style = false;
    let shown = line.chars().filter(|c| {
        let hidden = in_style || *c == '\x1b';
        in_style = hidden && *c != 'm';
        !hidden
    });
    shown.map(columns).sum()
}

/// Everything that somebody else chose is long and odd.
pub fn hostile(format: Format) -> Recorded {
    let mut recorded = Recorded::new(format);
    recorded.head.host = "\x1b[2J".repeat(40);
    recorded.head.kernel = "日本".repeat(60);
    recorded.facts.pids = Some(PidsLimit {
        cgroup: format!("/{}", "ü\x1b日".repeat(100)),
        max: Some(u64::MAX),
    });
    for at in 0..40_u8 {
        let id = format!("/lxc.payload.{}", "日\x1b[31m".repeat(30 + usize::from(at)));
        recorded.cgroups.learn(u64::from(at) + 100, id.as_bytes());
        let comm = [
            &[0x1b, b'[', b'2', b'J', 0xff, at.max(1), b'\\'][..],
            &[0x9b; 8],
        ]
        .concat();
        let levels: Vec<(u32, u32)> = (0..32).map(|level| (u32::MAX - level, u32::MAX)).collect();
        let made = op(Op::Clone, u64::MAX)
            .comm(&comm)
            .with(|record| (record.start, record.head.time) = (0, u64::MAX >> (at % 20)))
            .marks(&[
                (1_000, mark(Mark::CreateUserNs)),
                (1_000, mark(Mark::CreateNewNamespaces)),
                (u64::MAX >> 9, copy(Kind::Mnt)),
                (u64::MAX >> 8, mark(Mark::AllocPidDone)),
            ])
            .pids(&levels)
            .with(|record| {
                record.cgroup = u64::from(at) + 100;
                record.pid = u32::MAX;
            })
            .after(&[
                (Kind::Mnt, u32::MAX - u32::from(at)),
                (Kind::User, u32::from(at) + 1),
            ]);
        recorded.op(&made);
        recorded.op(&made.clone().failed(i32::MAX - i32::from(at)));
        recorded.op(&op(Op::Fork, 0).comm(&comm).failed(libc::EAGAIN));
        let mixed = op(Op::Unshare, CLONE_NEW_ALL & !CLONE_NEWPID).comm(&comm);
        recorded.op(&mixed.failed(libc::ENOSPC).in_create());
        recorded.event(&Event::Lost(Lost {
            time: u64::MAX,
            since: 1,
            record: RecordKind::Death,
            count: u64::MAX,
        }));
    }
    recorded
}

#[test]
fn no_line_is_longer_than_100_columns_whatever_the_names() {
    for color in [false, true] {
        for recorded in [usual(Format::Path), hostile(Format::Path)] {
            let text = recorded.printed(color);
            for line in text.lines() {
                assert!(width(line) <= WIDTH, "{}: {line}", width(line));
            }
            let plain = text.replace("\x1b[", "").replace('\n', "");
            assert!(color || !plain.contains(|c: char| c.is_control()));
        }
    }
    assert_eq!(FIRST.len(), KINDS);
}

#[test]
fn a_line_that_is_cut_keeps_its_length() {
    let line = format!("{} 12.3ms", "x".repeat(120));
    let cut = with_end(&line);
    assert_eq!(width(&cut), WIDTH);
    assert!(cut.ends_with("x… 12.3ms"), "{cut}");
    assert_eq!(with_end("short 1ms"), "short 1ms");
}
