//! What is put into a page is in it, whatever it is called, and is no part of its HTML.

use std::io::Read as _;

use nstrace_common::{
    flags::{CLONE_NEWNET, CLONE_NEWUTS},
    wire::RecordKind,
};

use super::*;
use crate::{
    event::{FoundTask, SnapshotEnd, Unseen},
    render::testing::{Built, FIRST, op},
    world::Options,
};

/// A page that is being made, and the tree that belongs to it.
struct Made {
    page: Page,
    world: World,
    cgroups: Cgroups,
    now: u64,
}

impl Made {
    fn new(limits: Limits) -> Made {
        let mut made = Made {
            page: Page::new(limits),
            world: World::new(Options::default()),
            cgroups: Cgroups::default(),
            now: 0,
        };
        made.head(900_000_000, "one");
        made
    }

    fn head(&mut self, mono_ns: u64, boot_id: &str) {
        let head = Head {
            host: "</script><img src=x onerror=alert(1)>".into(),
            boot_id: boot_id.into(),
            mono_ns,
            // One boot an hour after the other.
            wall_offset_ns: if boot_id == "one" {
                0
            } else {
                3_600_000_000_000
            },
            ..Head::default()
        };
        self.now = mono_ns;
        let known = Known {
            world: &self.world,
            cgroups: &self.cgroups,
            now: self.now,
        };
        self.page.head(&head, &known);
    }

    /// The tree is read anew.
    fn state(&mut self, world: World) {
        self.world = world;
        let known = Known {
            world: &self.world,
            cgroups: &self.cgroups,
            now: self.now,
        };
        self.page.state(&known);
    }

    fn event(&mut self, event: &Event) {
        let mut changes = Vec::new();
        self.world.apply(event, &mut changes);
        self.now = self.now.max(event.time().unwrap_or(0));
        let known = Known {
            world: &self.world,
            cgroups: &self.cgroups,
            now: self.now,
        };
        self.page.changes(&changes);
        self.page.event(event, &known);
    }

    fn op(&mut self, built: &Built) {
        self.event(&Event::Op(built.get()));
    }

    /// The page, what is in it, and what is not.
    fn write(self) -> (String, Contents, LeftOut) {
        let known = Known {
            world: &self.world,
            cgroups: &self.cgroups,
            now: self.now,
        };
        let mut out = Vec::new();
        let left_out = self
            .page
            .write(&mut out, &known, &Names::default())
            .expect("memory");
        let html = String::from_utf8(out).expect("a page is UTF-8");
        let contents = Contents::of(&html);
        (html, contents, left_out)
    }
}

/// What a page has in it.
struct Contents {
    tables: Value,
    columns: Vec<u8>,
}

impl Contents {
    fn of(html: &str) -> Contents {
        let (_, behind) = html.split_once("id=\"data\">").expect("data");
        let (data, _) = behind.split_once('<').expect("an end");
        let packed = STANDARD.decode(data).expect("base64");
        let mut bytes = Vec::new();
        let mut inflate = flate2::read::ZlibDecoder::new(&*packed);
        inflate.read_to_end(&mut bytes).expect("deflated");
        let (len, rest) = bytes.split_first_chunk().expect("a length");
        let (tables, columns) = rest.split_at(u32::from_le_bytes(*len) as usize);
        Contents {
            tables: serde_json::from_slice(tables).expect("JSON"),
            columns: columns.into(),
        }
    }

    /// The numbers of a column.
    fn column(&self, name: &str) -> Vec<i64> {
        let mut at = 0;
        for column in self.tables["columns"].as_array().expect("columns") {
            let len = column[4].as_u64().expect("a length") as usize;
            if column[0] == name {
                let coding = column[1].as_str().expect("a coding");
                return decode(&self.columns[at..at + len], coding);
            }
            at += len;
        }
        panic!("no column {name}");
    }
}

fn decode(bytes: &[u8], coding: &str) -> Vec<i64> {
    let (mut numbers, mut number, mut shift, mut last) = (Vec::new(), 0_i64, 0, 0);
    for byte in bytes {
        number |= i64::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 != 0 {
            continue;
        }
        let own = match coding {
            "plain" => number,
            _ if number & 1 == 0 => number / 2,
            _ => -(number + 1) / 2,
        };
        last = if coding == "delta" { last + own } else { own };
        numbers.push(last);
        (number, shift) = (0, 0);
    }
    numbers
}

#[test]
fn names_are_no_part_of_the_html() {
    let mut made = Made::new(Limits::default());
    for comm in [&b"</script><img"[..], b"<!--<script>", b"{{data}}\x1b\xff"] {
        made.op(&op(Op::Unshare, CLONE_NEWUTS).comm(comm));
    }
    let (html, contents, _) = made.write();
    assert_eq!(html.matches("<script").count(), 2);
    assert_eq!(html.matches("</script").count(), 2);
    assert_eq!(html.matches("onerror").count(), 0);
    insta::assert_snapshot!(contents.tables["comms"], @r#"["</script><img","","<!--<script>","{{data}}\\x1b\\xff"]"#);
    insta::assert_snapshot!(contents.tables["head"]["host"], @r#""</script><img src=x onerror=alert(1)>""#);
}

#[test]
fn own_parts_do_not_end_themselves() {
    assert!(!STYLE.contains("</"));
    assert!(!SCRIPTS.concat().contains("</script"));
    assert!(!SCRIPTS.concat().contains("<!--"));
    for part in ["{{policy}}", "{{style}}", "{{script}}", "{{data}}"] {
        assert_eq!(HTML.matches(part).count(), 1, "{part}");
    }
    // What would make HTML of a name, or ask somebody for something.
    for way in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "fetch(",
    ] {
        assert!(!SCRIPTS.concat().contains(way), "{way}");
    }
}

#[test]
fn operations_are_in_columns() {
    let net = 4_026_532_300;
    let mut made = Made::new(Limits::default());
    made.op(&op(Op::Unshare, CLONE_NEWNET)
        .after(&[(Kind::Net, net)])
        .marks(&[(1000, 4), (70_000, 16 + Kind::Net as u8)]));
    let failed = op(Op::Unshare, CLONE_NEWUTS).failed(28).in_create();
    made.op(&failed.marks(&[(1000, 4)]));
    let (_, contents, _) = made.write();
    assert_eq!(contents.column("start"), [100_000_000, 100_000_000]);
    assert_eq!(contents.column("took"), [2_100_000, 2_100_000]);
    assert_eq!(contents.column("ret"), [0, -28]);
    assert_eq!(contents.column("failure"), [0, 1]);
    assert_eq!(contents.column("stage_len"), [2, 1]);
    assert_eq!(contents.column("stage_start")[..2], [1000, 70_000]);
    let first = i64::from(FIRST[Kind::Net as usize]);
    assert_eq!(contents.column("set_net"), [first, net.into()]);
    insta::assert_snapshot!(
        contents.tables["tables"]["failures"],
        @r#"[[5,28,"ENOSPC","create_new_namespaces",null]]"#
    );
}

#[test]
fn lives_and_moves_are_those_of_the_tree() {
    let mut made = Made::new(Limits::default());
    let first = FIRST[Kind::Pid as usize];
    made.event(&Event::FoundTask(FoundTask {
        time: 950_000_000,
        start: 1,
        pid: 4242,
        tid: 4242,
        cgroup: 0,
        comm: b"runc",
        exited: false,
        pids: &[],
        namespaces: FIRST,
        pid_for_children: first,
        time_for_children: FIRST[Kind::Time as usize],
    }));
    let unseen = Unseen::default();
    made.event(&Event::SnapshotEnd(SnapshotEnd {
        time: 960_000_000,
        unseen,
    }));
    made.op(&op(Op::Unshare, CLONE_NEWNET).after(&[(Kind::Net, 4_026_532_300)]));
    let living = made.world.living_len();
    let (_, contents, _) = made.write();
    assert_eq!(contents.column("ns_inum").len(), living);
    assert_eq!(contents.column("ns_length"), vec![0; living]);
    // Those that were found were there before; who made the last is the first operation.
    assert_eq!(contents.column("ns_since").last(), Some(&2));
    assert_eq!(contents.column("ns_op").last(), Some(&1));
    assert_eq!(contents.column("ns_start").last(), Some(&102_100_000));
    assert_eq!(contents.column("ns_start")[0], 0);
    // It is found, and goes to another net namespace.
    assert_eq!(contents.column("move_time"), [0, 102_100_000]);
    assert_eq!(contents.column("move_task"), [0, 0]);
    assert_eq!(contents.column("move_to"), [1, 2]);
    assert_eq!(contents.column("in_net")[2], living as i64);
}

#[test]
fn a_tree_that_is_read_anew_goes_on() {
    let mut made = Made::new(Limits::default());
    made.op(&op(Op::Unshare, CLONE_NEWNET).after(&[(Kind::Net, 4_026_532_300)]));
    let mut world = World::new(Options::default());
    let other = op(Op::Unshare, CLONE_NEWUTS).after(&[(Kind::Uts, 4_026_532_301)]);
    world.apply(&Event::Op(other.get()), &mut Vec::new());
    let living = world.living_len();
    made.state(world);
    let (_, contents, _) = made.write();
    let lengths = contents.column("ns_length");
    let alive = lengths.iter().filter(|length| **length == 0).count();
    assert_eq!(alive, living);
    // The other tree knows neither the net namespace that was made nor the first of kind uts,
    // which its only task has left.
    let dead: Vec<usize> = (0..lengths.len()).filter(|at| lengths[*at] != 0).collect();
    let inums = contents.column("ns_inum");
    let dead: Vec<i64> = dead.into_iter().map(|at| inums[at]).collect();
    assert_eq!(dead, [4_026_532_300, FIRST[Kind::Uts as usize].into()]);
}

#[test]
fn another_boot_begins_with_nothing() {
    let mut made = Made::new(Limits::default());
    made.op(&op(Op::Unshare, CLONE_NEWNET).after(&[(Kind::Net, 4_026_532_300)]));
    made.world = World::new(Options::default());
    made.head(1_000_000, "two");
    let second = op(Op::Unshare, CLONE_NEWUTS).with(|record| record.start = 2_000_000);
    made.op(&second);
    let (_, contents, _) = made.write();
    // An hour later, less what the first had been up for, and 1 ms after the second began.
    assert_eq!(contents.column("start"), [100_000_000, 3_599_102_000_000]);
    assert_eq!(contents.tables["damages_len"], 1);
}

#[test]
fn what_is_too_much_is_told() {
    let mut made = Made::new(Limits {
        operations: 2,
        namespaces: 9,
        moves: 0,
    });
    for inum in 0..5 {
        made.op(&op(Op::Unshare, CLONE_NEWNET).after(&[(Kind::Net, 4_026_532_300 + inum)]));
    }
    let (_, contents, left_out) = made.write();
    assert_eq!(left_out.operations, 3);
    assert_eq!(contents.column("took").len(), 2);
    assert_eq!(contents.column("ns_kind").len(), 9);
    assert!(left_out.namespaces > 0);
    assert_eq!(contents.tables["operations"], 5);
    assert_eq!(contents.tables["left_out"]["operations"], 3);
}

#[test]
fn times_that_cannot_be_stay_in_their_range() {
    let mut made = Made::new(Limits::default());
    let far = op(Op::Unshare, CLONE_NEWNET).after(&[(Kind::Net, 4_026_532_300)]);
    made.op(&far.with(|record| {
        record.start = 0;
        record.head.time = u64::MAX;
    }));
    made.event(&Event::Lost(Lost {
        time: 0,
        since: u64::MAX,
        record: RecordKind::Op,
        count: u64::MAX,
    }));
    let (_, contents, _) = made.write();
    let max = columns::MAX;
    assert_eq!(contents.column("start"), [-900_000_000]);
    assert_eq!(contents.column("took"), [max]);
    assert_eq!(contents.tables["span"], max);
    assert!(contents.column("ns_start").contains(&max));
}

#[test]
fn many_losses_become_one() {
    let mut made = Made::new(Limits::default());
    for time in 0..3000 {
        made.event(&Event::Lost(Lost {
            time: 1_000_000_000 + time,
            since: 1_000_000_000,
            record: RecordKind::TaskNew,
            count: 2,
        }));
    }
    let (_, contents, _) = made.write();
    let lost = contents.tables["lost"].as_array().expect("losses");
    assert_eq!(lost.len(), NOTES);
    let sum: u64 = lost.iter().filter_map(|own| own[3].as_u64()).sum();
    assert_eq!(sum, 6000);
}

#[test]
fn a_page_without_events_is_whole() {
    let (html, contents, left_out) = Made::new(Limits::default()).write();
    assert_eq!(left_out, LeftOut::default());
    assert_eq!(contents.tables["kept"], 0);
    assert!(html.ends_with("</html>\n"));
}
