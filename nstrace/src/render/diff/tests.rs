use insta::assert_snapshot;
use jiff::tz::TimeZone;
use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWUTS},
    wire::{Mark, Op, RecordKind},
};

use super::{
    super::{
        Format,
        report::tests::{Recorded, hostile, usual, width},
        testing::{copy, mark, op},
    },
    *,
};
use crate::{
    diff as pure,
    event::{Event, Lost},
};

fn printed(sides: [&Recorded; 2], json: bool, color: bool) -> String {
    let compared = pure::diff(sides.map(|own| pure::Side {
        report: &own.report,
        world: &own.world,
        names: &own.names,
        boot_id: &own.head.boot_id,
    }));
    let named = ["before.nst", "after\x1b.nst"];
    let [a, b] = [0, 1].map(|at| Side {
        name: named[at],
        head: &sides[at].head,
        report: &sides[at].report,
    });
    let mut out = Text::new();
    let clocks = [Clock::new(TimeZone::UTC), Clock::new(TimeZone::UTC)];
    match json {
        true => diff_json(&mut out, &compared, [a, b], clocks),
        false => diff(&mut out, &compared, [a, b], color, clocks),
    }
    out.to_string()
}

/// Many unshares of one boot, with a namespace that stays.
fn unshares(took_ns: u64, inum: u32, fails: bool) -> Recorded {
    let mut recorded = Recorded::new(Format::Path);
    recorded.head.boot_id = "boot".to_owned();
    for at in 0..200 {
        let built = op(Op::Unshare, CLONE_NEWUTS)
            .took(took_ns + at * took_ns / 1000)
            .marks(&[
                (100, mark(Mark::CreateNewNamespaces)),
                (200, copy(Kind::Uts)),
            ]);
        recorded.op(&built);
    }
    recorded.op(&op(Op::Unshare, CLONE_NEWNET)
        .took(2_100_000)
        .after(&[(Kind::Net, inum)]));
    if fails {
        recorded.op(&op(Op::Unshare, CLONE_NEWNET).failed(libc::ENOSPC));
    }
    recorded
}

#[test]
fn two_of_one_boot() {
    let (a, b) = (
        unshares(10_000, 4_026_532_300, false),
        unshares(15_000, 4_026_532_301, true),
    );
    assert_snapshot!(printed([&a, &b], false, false), @r#"
    A 1970-01-01T00:00:01.000010000Z, 2.09ms: 201 operations, 0 failed, nothing lost
      before.nst, here, Linux 6.12.118
    B 1970-01-01T00:00:01.000015000Z, 2.08ms: 202 operations, 1 failed, nothing lost
      after\x1b.nst, here, Linux 6.12.118
    of one boot: namespaces are told apart; * is a change by more than chance

    OPERATIONS               COUNT A       B   P50 A       B          P99 A       B        MAX A       B
    unshare                      201     202    10us    16us x1.51*    11us    18us x1.51  2.10ms 2.10ms

    BY KIND                  COUNT A       B   P50 A       B          P99 A       B        MAX A       B
    uts                          200     200    10us    16us x1.51*    11us    17us x1.50   11us    17us
    net                            1       2  2.10ms  2.10ms x1.00   2.10ms  2.10ms x1.00  2.10ms 2.10ms

    STAGES                   COUNT A       B   P50 A       B          P99 A       B        MAX A       B
    create_new_namespaces        200     200    10us    16us x1.51*    11us    17us x1.50   11us    17us
    copy_utsname                 200     200    10us    16us x1.51*    11us    17us x1.52   11us    17us

    CONTAINERS               COUNT A       B   P50 A       B          P99 A       B        MAX A       B
    in no container              201     202    10us    16us x1.51*    11us    18us x1.51  2.10ms 2.10ms

    FAILURES       A       B
    new            0       1  ENOSPC outside of the stages: for a reason that is not known

    NAMESPACES ALIVE A       B    BORN A       B    DIED A       B     IN BOTH   ONLY A   ONLY B
    mnt              1       1         0       0         0       0           1        0        0
    uts              1       1         0       0         0       0           1        0        0
    ipc              1       1         0       0         0       0           1        0        0
    pid              1       1         0       0         0       0           1        0        0
    net              2       2         1       1         0       0           1        1        1
      made by runc 1 -> 1
    user             1       1         0       0         0       0           1        0        0
    cgroup           1       1         0       0         0       0           1        0        0
    time             1       1         0       0         0       0           1        0        0

    ONLY AT THE END OF A
    net:4026532300, made by runc[4242] unshare

    ONLY AT THE END OF B
    net:4026532301, made by runc[4242] unshare
    "#);
}

#[test]
fn two_of_one_boot_as_json() {
    let (a, b) = (
        unshares(10_000, 4_026_532_300, false),
        unshares(15_000, 4_026_532_301, true),
    );
    let text = printed([&a, &b], true, false);
    let time = r#""time":"1970-01-01T00:00:01.000015000Z","mono_ns":1000015000,"#;
    let few = text.replace(time, "");
    let few = few.lines().filter(|line| {
        let is_empty = line.contains(r#""alive":1,"born":0"#);
        !is_empty && !line.contains(r#""of":"kind""#)
    });
    assert_snapshot!(few.collect::<Vec<_>>().join("\n"), @r#"
    {"type":"diff","a":{"name":"before.nst","mono_ns":1000010000,"span_ns":2090000,"host":"here","kernel":"6.12.118","boot_id":"boot","operations":201,"failed":0,"lost":[]},"b":{"name":"after\u001b.nst","mono_ns":1000015000,"span_ns":2085000,"host":"here","kernel":"6.12.118","boot_id":"boot","operations":202,"failed":1,"lost":[]},"same_boot":true}
    {"type":"diff_lengths","of":"op","name":"unshare","a":{"count":201,"total_ns":4299000,"p50_ns":10943,"p90_ns":11839,"p99_ns":11967,"max_ns":2100000},"b":{"count":202,"total_ns":7498500,"p50_ns":16511,"p90_ns":17791,"p99_ns":18047,"max_ns":2100000},"changed":["p50","p90"]}
    {"type":"diff_lengths","of":"stage","name":"create_new_namespaces","a":{"count":200,"total_ns":2179000,"p50_ns":10943,"p90_ns":11711,"p99_ns":11839,"max_ns":11890},"b":{"count":200,"total_ns":3278500,"p50_ns":16511,"p90_ns":17535,"p99_ns":17791,"max_ns":17885},"changed":["p50","p90"]}
    {"type":"diff_lengths","of":"stage","name":"copy_utsname","a":{"count":200,"total_ns":2159000,"p50_ns":10815,"p90_ns":11583,"p99_ns":11711,"max_ns":11790},"b":{"count":200,"total_ns":3258500,"p50_ns":16319,"p90_ns":17535,"p99_ns":17785,"max_ns":17785},"changed":["p50","p90"]}
    {"type":"diff_lengths","of":"container","name":"","a":{"count":201,"total_ns":4299000,"p50_ns":10943,"p90_ns":11839,"p99_ns":11967,"max_ns":2100000},"b":{"count":202,"total_ns":7498500,"p50_ns":16511,"p90_ns":17791,"p99_ns":18047,"max_ns":2100000},"changed":["p50","p90"]}
    {"type":"diff_container_lengths","container":"","of":"op","name":"unshare","a":{"count":201,"total_ns":4299000,"p50_ns":10943,"p90_ns":11839,"p99_ns":11967,"max_ns":2100000},"b":{"count":202,"total_ns":7498500,"p50_ns":16511,"p90_ns":17791,"p99_ns":18047,"max_ns":2100000},"changed":["p50","p90"]}
    {"type":"diff_container_lengths","container":"","of":"stage","name":"create_new_namespaces","a":{"count":200,"total_ns":2179000,"p50_ns":10943,"p90_ns":11711,"p99_ns":11839,"max_ns":11890},"b":{"count":200,"total_ns":3278500,"p50_ns":16511,"p90_ns":17535,"p99_ns":17791,"max_ns":17885},"changed":["p50","p90"]}
    {"type":"diff_container_lengths","container":"","of":"stage","name":"copy_utsname","a":{"count":200,"total_ns":2159000,"p50_ns":10815,"p90_ns":11583,"p99_ns":11711,"max_ns":11790},"b":{"count":200,"total_ns":3258500,"p50_ns":16319,"p90_ns":17535,"p99_ns":17785,"max_ns":17785},"changed":["p50","p90"]}
    {"type":"diff_failures","errno":"ENOSPC","a":0,"b":1,"verdict":"new"}
    {"type":"diff_lives","kind":"net","a":{"alive":2,"born":1,"died":0,"makers":[{"comm":"runc","count":1}]},"b":{"alive":2,"born":1,"died":0,"makers":[{"comm":"runc","count":1}]},"both":1}
    {"type":"diff_namespace","only":"a","kind":"net","inum":4026532300,"maker":{"op":"unshare","pid":4242,"comm":"runc"}}
    {"type":"diff_namespace","only":"b","kind":"net","inum":4026532301,"maker":{"op":"unshare","pid":4242,"comm":"runc"}}
    "#);
}

/// A recording that is damaged said that nothing was lost: nobody knows how much was.
#[test]
fn damage_is_told_beside_what_was_lost() {
    let lost = |count| Lost {
        time: 2_000_000_000,
        since: 1_900_000_000,
        record: RecordKind::Op,
        count,
    };
    let recorded = |counts: &[u64]| {
        let mut recorded = unshares(10_000, 4_026_532_300, false);
        for count in counts {
            recorded.event(&Event::Lost(lost(*count)));
        }
        recorded
    };
    let told = |counts: &[u64], json: bool| {
        let own = recorded(counts);
        let text = printed([&own, &own], json, false);
        let line = text.lines().next().expect("a line").to_owned();
        let at = line.find(if json { "\"failed\"" } else { " 0 failed" });
        let from = at.expect("it is in it");
        let line = &line[from..];
        line.split("},\"b\"").next().unwrap_or_default().to_owned()
    };
    assert_snapshot!(told(&[0], false), @" 0 failed, EVENTS ARE MISSING");
    assert_snapshot!(told(&[1], false), @" 0 failed, 1 record lost");
    assert_snapshot!(told(&[0, 5], false), @" 0 failed, more than 5 records lost");
    assert_snapshot!(told(&[0, 5], true), @r#""failed":0,"lost":[{"record":"op","count":5}],"events_missing":true"#);
}

#[test]
fn no_line_is_longer_than_100_columns_whatever_the_names() {
    let (usual, hostile) = (usual(Format::Path), hostile(Format::Path));
    let few = Recorded::new(Format::Path);
    for sides in [
        [&usual, &hostile],
        [&hostile, &usual],
        [&hostile, &hostile],
        [&few, &hostile],
    ] {
        for color in [false, true] {
            let text = printed(sides, false, color);
            for line in text.lines() {
                assert!(width(line) <= WIDTH, "{}: {line}", width(line));
            }
            assert!(color || !text.replace('\n', "").contains(|c: char| c.is_control()));
        }
        for line in printed(sides, true, false).lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(value["type"].is_string(), "{line}");
        }
    }
}

#[test]
fn ratios_are_short() {
    let shown = |a: u64, b: u64| {
        let mut out = Text::new();
        let mut page = Page::new(&mut out, Some(WIDTH), false);
        page.line(0, |page| ratio(page, 4, a, b, Some(Ordering::Greater)));
        out.to_string().trim().to_owned()
    };
    for (a, b, expected) in [
        (0, 0, "x1.00*"),
        (100, 143, "x1.43*"),
        (100, 9, "1/11*"),
        (100, 0, "x0*"),
        (0, 7, "x7.00*"),
        (1, 1234, "x1234*"),
        (1, u64::MAX, "x>9999*"),
        (u64::MAX, 1, "1/>999*"),
    ] {
        assert_eq!(shown(a, b), expected);
    }
}
