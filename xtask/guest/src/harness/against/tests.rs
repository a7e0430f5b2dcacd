//! A tree that is rendered from the truth itself, and what differs when one of the two
//! is changed.

use super::*;
use crate::harness::tree;
use crate::kinds::{Inums, USER};
use serde_json::{Value, json};

fn truth() -> Truth {
    let ns = |kind: &str, inum, parent, owner, owner_uid| truth::Namespace {
        kind: kind.to_owned(),
        inum,
        parent,
        owner,
        owner_uid,
        holders: Vec::new(),
    };
    let mut namespaces: Vec<_> = KINDS
        .iter()
        .enumerate()
        .map(|(index, kind)| match index {
            USER => ns(kind.name, 10 + USER as u32, None, None, Some(0)),
            index => ns(kind.name, 10 + index as u32, None, Some(15), None),
        })
        .collect();
    namespaces.push(ns("user", 25, Some(15), Some(15), Some(1000)));
    namespaces.push(ns("pid", 23, Some(13), Some(25), None));
    namespaces.push(ns("net", 24, None, Some(25), None));
    let fd = truth::Holder::Descriptor { pid: 1, fd: 5 };
    namespaces.last_mut().unwrap().holders = vec![fd];
    let first: Inums = std::array::from_fn(|index| 10 + index as u32);
    let mut inside = first;
    (inside[PID], inside[USER]) = (23, 25);
    let task = |tid, comm: &str, inums, ids: &[u32]| truth::Task {
        pid: tid,
        tid,
        comm: comm.to_owned(),
        inums,
        ids: ids.to_vec(),
        ..truth::Task::default()
    };
    let mut init = task(1, "init", first, &[1]);
    init.pid_for_children = Some(23);
    Truth {
        namespaces,
        tasks: vec![init, task(70, "in", inside, &[70, 1])],
        unseen: Vec::new(),
    }
}

/// The tree that a nstrace without faults would print.
fn render(truth: &Truth) -> Vec<String> {
    let counts = Counts::of(truth);
    let parents = parents(truth);
    let time = "2026-11-22T00:31:06.123456789Z";
    let mut lines = vec![json!({"type":"tree","time":time,"mono_ns":1,"live":true})];
    let mut namespaces: Vec<_> = truth.namespaces.iter().collect();
    let above: BTreeMap<u32, u32> = truth
        .namespaces
        .iter()
        .filter_map(|ns| Some((ns.inum, ns.parent?)))
        .collect();
    let depth = |inum| std::iter::successors(Some(inum), |inum| above.get(inum).copied()).count();
    namespaces.sort_by_key(|ns| (ns.kind != "user", depth(ns.inum)));
    for ns in namespaces {
        let mut line = serde_json::to_value(ns).unwrap();
        let key = (ns.kind.clone(), ns.inum);
        line["type"] = json!("namespace");
        line["tasks"] = json!(counts.tasks.get(&key).unwrap_or(&0));
        line["tasks_for_children"] = json!(counts.for_children.get(&key).unwrap_or(&0));
        line["namespaces"] = json!(counts.below.get(&key).map_or(0, BTreeSet::len));
        lines.push(line);
    }
    for task in &truth.tasks {
        let pids: Vec<Value> = chain_of(task, &parents)
            .iter()
            .map(|(ns, pid)| json!({"ns":ns,"pid":pid}))
            .collect();
        lines.push(
            json!({"type":"task","pid":task.pid,"tid":task.tid,"comm":task.comm,
                "pids":pids,"namespaces":named(&task.inums),
                "pid_for_children":task.pid_for_children,
                "time_for_children":task.time_for_children}),
        );
    }
    lines.iter_mut().for_each(without_null);
    lines.iter().map(Value::to_string).collect()
}

fn without_null(line: &mut Value) {
    line.as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
}

fn report(lines: &[String], book: &[Left]) -> String {
    let truth = truth();
    let readings = Readings {
        before: &truth,
        after: &truth,
    };
    let mut report = Report::default();
    let tree = tree::parse(lines).unwrap();
    compare(&tree, &readings, book, &mut report);
    holders(&tree, &truth, book, &mut report);
    report.to_string()
}

#[test]
fn the_truth_as_a_tree_has_no_differences() {
    assert_eq!(report(&render(&truth()), &[]), "");
}

#[test]
fn each_thing_that_differs_is_named() {
    type Change = (fn(&mut Truth), &'static str);
    let changes: [Change; 10] = [
        (|t| drop(t.namespaces.pop()), "net:24 is missing"),
        (
            |t| t.namespaces[9].parent = Some(10),
            "pid:23: parent Some(10)",
        ),
        (
            |t| t.namespaces[10].owner = Some(15),
            "net:24: owner Some(15)",
        ),
        (
            |t| t.namespaces[8].owner_uid = Some(0),
            "user:25: owner_uid",
        ),
        (|t| t.tasks[1].inums[0] = 99, "task 70 (in): namespaces"),
        (|t| t.tasks[1].ids[1] = 2, "task 70 (in): pids"),
        (|t| drop(t.tasks.pop()), "task 70 (in) is missing"),
        (|t| t.namespaces[10].holders.clear(), "net:24: holders []"),
        (
            |t| t.tasks[0].pid_for_children = None,
            "task 1 (init): pid_for_children",
        ),
        (|t| t.tasks[1].comm = "out".into(), "task 70 (in): comm"),
    ];
    for (change, expected) in changes {
        let mut wrong = truth();
        change(&mut wrong);
        let expected = expected.replace("parent Some", "parent: Some");
        let expected = expected.replace("owner Some", "owner: Some");
        let text = report(&render(&wrong), &[]);
        assert!(text.contains(&expected), "{expected}: {text}");
    }
}

#[test]
fn what_is_too_many_is_named_unless_the_book_knows_a_hidden_holder() {
    let mut more = truth();
    let mut ns = more.namespaces[9].clone();
    ns.inum = 33;
    more.namespaces.push(ns);
    let text = report(&render(&more), &[]);
    assert!(text.contains("pid:33 is too many"), "{text}");
    let left = Left {
        kind: "pid".into(),
        inum: Some(33),
        by: By::Proc {
            mnt: 10,
            path: "/p".into(),
        },
    };
    let text = report(&render(&more), &[left]);
    assert!(!text.contains("too many"), "{text}");
}

#[test]
fn a_book_agrees_with_the_truth_or_not() {
    let left = |fd| Left {
        kind: "net".into(),
        inum: Some(24),
        by: By::Descriptor { pid: 1, fd },
    };
    let (mut before, now) = (truth(), truth());
    before.namespaces.retain(|ns| ns.inum != 24);
    let check = |lines: &[Left]| {
        let mut report = Report::default();
        book(lines, &before, &now, &mut report);
        report.to_string()
    };
    assert_eq!(check(&[left(5)]), "");
    assert!(check(&[left(6)]).contains("the book has"));
    assert!(check(&[]).contains("net:24 is in no book"));
}

#[test]
fn leaks_are_what_nobody_needs() {
    let truth = truth();
    let tree = tree::parse(&render(&truth)).unwrap();
    let check = |wanted: fn(&Namespace) -> bool| {
        let mut found = tree.namespaces.clone();
        found.retain(wanted);
        let mut report = Report::default();
        leaks(&found, &truth, &[], &mut report);
        report.to_string()
    };
    assert_eq!(check(|ns| ns.inum == 24), "");
    assert!(check(|_| false).contains("net:24 is not listed"));
    assert!(check(|ns| ns.inum >= 24).contains("user:25 is no leak"));
}

#[test]
fn a_holder_is_named_or_not() {
    let tree = tree::parse(&render(&truth())).unwrap();
    let is_named = |kind: &str, inum, by| {
        let (kind, inum) = (kind.to_owned(), Some(inum));
        super::is_named(&tree, &Left { kind, inum, by })
    };
    let below = |below| By::Below {
        below_kind: "net".to_owned(),
        below,
    };
    assert!(is_named("net", 24, By::Descriptor { pid: 1, fd: 5 }));
    assert!(is_named("pid", 23, By::Task { tid: 70 }));
    assert!(is_named("pid", 23, By::PidForChildren { tid: 1 }));
    assert!(is_named("user", 25, below(24)));
    assert!(!is_named("net", 24, By::Descriptor { pid: 1, fd: 6 }));
    assert!(!is_named("pid", 23, By::Task { tid: 1 }));
    assert!(!is_named("user", 25, below(14)));
}
