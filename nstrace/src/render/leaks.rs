//! Namespaces that no task is in: what a dead container has left behind, and what
//! somebody keeps on purpose.
//!
//! A namespace is in use if a task is in it or its children will be, or if one is in use of
//! which it is parent or owner: the kernel cannot do without it then. A user namespace that
//! nobody is in, but which owns the net namespace of a running server, is no leak; one that
//! owns only a net namespace that a forgotten bind mount holds is one, as is that.

use foldhash::HashSet;

use super::{
    Text, TreeView,
    color::Style,
    text::{op_name, short_length, task},
    tree::{Index, Mark, Page, first, head_json, namespace_json, words},
};
use crate::world::{Namespace, NsKey, World};

const NAMESPACE: usize = 10;
const MADE: usize = 28;
const HELD: usize = 52;

/// Appends a line for each, the oldest first, and then those of unknown age.
pub fn leaks(out: &mut Text, world: &World, view: &TreeView) {
    let mut page = Page::new(out, view.width, view.color).uncut();
    words::missing(&mut page, world, view);
    let found = leaked(world, view);
    if found.is_empty() {
        return page.words(0, Style::Dim, "no namespace without tasks can be seen");
    }
    page.line(0, |page| {
        page.styled(Style::Bold, |page| {
            let columns = [
                (NAMESPACE, "NAMESPACE"),
                (MADE, "MADE BY"),
                (HELD, "HELD BY"),
            ];
            page.str("AGE");
            for (column, name) in columns {
                page.to(column);
                page.str(name);
            }
        });
    });
    for (_, ns) in found {
        line(&mut page, world, ns, view);
    }
}

/// Appends the lines of JSON: a `tree` line, then namespaces.
pub fn leaks_json(out: &mut Text, world: &World, view: &TreeView) {
    head_json(out, world, view);
    for (_, ns) in leaked(world, view) {
        namespace_json(out, world, ns, view);
    }
}

/// The namespaces that are not in use, the oldest first; those whose birth was not seen
/// last, by their ids: these are given in the order of birth.
pub(super) fn leaked<'a>(world: &'a World, view: &TreeView) -> Vec<(NsKey, &'a Namespace)> {
    let used = used(world);
    let index = view
        .filter
        .is_about_tasks()
        .then(|| Index::new(world, view, None));
    let mut found: Vec<(NsKey, &Namespace)> = world
        .namespaces()
        .filter(|(key, ns)| ns.is_alive() && !used.contains(key))
        .filter(|(key, ns)| {
            let kept = index.as_ref().is_none_or(|index| index.keeps(*key));
            let is_old = view.filter.since.is_none_or(|since| ns.since() <= since);
            kept && is_old && view.filter.has_kind(ns.kind)
        })
        .collect();
    found.sort_unstable_by_key(|(_, ns)| {
        let (has_no_birth, has_no_id) = (ns.born.is_none(), ns.id == 0);
        (has_no_birth, ns.born, has_no_id, ns.id, ns.kind, ns.inum)
    });
    found
}

fn used(world: &World) -> HashSet<NsKey> {
    let mut used = HashSet::default();
    let members = |ns: &Namespace| ns.members_len() + ns.children_len();
    let all = world.namespaces();
    let mut left: Vec<NsKey> = all
        .filter(|(_, ns)| ns.is_alive() && members(ns) > 0)
        .map(|(key, _)| key)
        .collect();
    // The kernel's own.
    left.extend(first(world).into_iter().flatten());
    while let Some(key) = left.pop() {
        if let Some(ns) = world.namespace(key).filter(|_| used.insert(key)) {
            left.extend([ns.parent, ns.owner].into_iter().flatten());
        }
    }
    used
}

fn line(page: &mut Page, world: &World, ns: &Namespace, view: &TreeView) {
    page.begin(Mark::None, 0);
    match ns.born {
        Some(born) => {
            let age = short_length(view.now_ns.saturating_sub(born));
            page.out.push_short(&age);
        }
        None => page.str("-"),
    }
    page.to(NAMESPACE);
    words::namespace(page, ns);
    page.to(MADE);
    match &ns.maker {
        Some(maker) => {
            task(page.out, maker.comm(), maker.pid);
            page.str(" ");
            op_name(page.out, maker.op);
        }
        None => page.str("-"),
    }
    page.to(HELD);
    held(page, world, ns);
    page.end();
    for holder in ns.holders().skip(1) {
        page.begin(Mark::None, 0);
        page.to(HELD);
        words::holder(page, world, &holder);
        page.end();
    }
}

/// What holds it, in a word or two; other holders follow on lines of their own.
fn held(page: &mut Page, world: &World, ns: &Namespace) {
    if let Some(holder) = ns.holders().next() {
        words::holder(page, world, &holder);
    } else if ns.dependents_len() > 0 {
        page.count(ns.dependents_len(), "namespace", "namespaces");
        page.str(" below it");
    } else {
        page.styled(Style::Reason, |page| page.str(words::nothing(ns)));
    }
}
