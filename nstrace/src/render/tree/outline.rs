//! The tree as text.

use nstrace_common::kind::Kind;

use super::{
    super::color::Style,
    Index, Page, Recent, TreeView,
    index::{Entry, Set},
    page::Mark,
    words,
};
use crate::world::{Maker, Namespace, NsKey};

/// The kinds in the order in which a set has them.
const ORDER: [Kind; 8] = [
    Kind::User,
    Kind::Pid,
    Kind::Mnt,
    Kind::Uts,
    Kind::Ipc,
    Kind::Net,
    Kind::Cgroup,
    Kind::Time,
];

/// Holders that the tree names of a namespace; `nstrace why` names all.
const HOLDERS: usize = 3;

/// The tree on its way to a page.
pub struct Outline<'a, 'v> {
    /// Where everything stands.
    pub index: &'v Index<'a>,
    /// What is known beside it.
    pub view: &'v TreeView<'a>,
    /// What is to be marked.
    pub recent: Option<&'v Recent>,
}

impl<'a> Outline<'a, '_> {
    /// Appends the tree.
    pub fn print(&self, page: &mut Page) {
        let entries = self.index.entries();
        if entries.is_empty() {
            page.words(0, Style::Dim, "nothing that was asked for");
        }
        for (level, entry) in entries {
            match entry {
                Entry::Node(key, is_empty) => self.node(page, level, key, is_empty),
                Entry::Container(at) => {
                    if let Some(id) = self.index.sets.get(at).and_then(|set| set.container) {
                        page.line(level, |page| {
                            page.styled(Style::Bold, |page| {
                                words::container(page, id, self.view);
                            });
                        });
                    }
                }
                Entry::Set(at) => {
                    if let Some(set) = self.index.sets.get(at) {
                        self.set(page, level, set);
                    }
                }
                Entry::Other(key) => self.alone(page, level, key),
            }
        }
    }

    fn mark(&self, key: NsKey) -> Mark {
        let now_ns = self.view.now_ns;
        match self.recent {
            Some(recent) if recent.died(key, now_ns) => Mark::Gone,
            Some(recent) if recent.born(key, now_ns) => Mark::New,
            _ => Mark::None,
        }
    }

    fn node(&self, page: &mut Page, level: usize, key: NsKey, is_empty: bool) {
        let Some(ns) = self.index.world.namespace(key) else {
            return;
        };
        self.head(page, level, key, ns);
        if is_empty && ns.is_alive() {
            self.held(page, level, key, ns);
        }
    }

    /// A namespace that no task is in.
    fn alone(&self, page: &mut Page, level: usize, key: NsKey) {
        if let Some(ns) = self.index.world.namespace(key) {
            self.head(page, level, key, ns);
            self.held(page, level, key, ns);
        }
    }

    /// What keeps a namespace alive that no task is in; the kernel itself keeps the first.
    fn held(&self, page: &mut Page, level: usize, key: NsKey, ns: &Namespace) {
        if ns.members_len() == 0 && !self.index.is_first(key) {
            words::held_by(page, level + 1, self.index.world, key, HOLDERS);
        }
    }

    /// The line of a namespace: its name, and what is known of it.
    pub fn head(&self, page: &mut Page, level: usize, key: NsKey, ns: &Namespace) {
        page.marked(self.mark(key), level, |page| {
            self.name(page, key, ns);
            if self.index.is_first(key) {
                page.styled(Style::Dim, |page| page.str(" (first)"));
            }
            let above = match ns.kind {
                Kind::Pid | Kind::User => ns.parent.or(ns.owner),
                Kind::Mnt | Kind::Uts | Kind::Ipc | Kind::Net | Kind::Cgroup | Kind::Time => {
                    ns.owner
                }
            };
            let forgotten = above.is_some_and(|key| self.index.world.namespace(key).is_none());
            if forgotten {
                page.str(", what it was in is forgotten");
            } else if above.is_none() && ns.is_alive() && !self.index.is_first(key) {
                page.str(match ns.kind {
                    Kind::User => ", its parent is not known",
                    _ => ", its owner is not known",
                });
            }
            page.styled(Style::Dim, |page| words::made(page, ns, self.view.now_ns));
            if let (Some(born), Some((died, _))) = (ns.born, ns.death) {
                page.str(", lived ");
                super::super::text::length(page.out, died.saturating_sub(born));
            } else if !ns.is_alive() {
                page.str(", died");
            }
        });
    }

    fn name(&self, page: &mut Page, key: NsKey, ns: &Namespace) {
        match self.mark(key) {
            Mark::None => words::namespace(page, ns),
            Mark::New => page.styled(Style::New, |page| words::namespace(page, ns)),
            Mark::Gone => page.styled(Style::Failed, |page| words::namespace(page, ns)),
        }
    }

    fn set(&self, page: &mut Page, level: usize, set: &Set) {
        if set.place.is_none() {
            page.words(level, Style::Reason, "tasks whose namespaces are not known");
        }
        let named = self.named(set);
        let has_names = self.names(page, level, &named);
        let level = level + usize::from(has_names || set.place.is_none());
        page.line(level, |page| {
            words::members(page, self.index.world, set.tasks.iter().copied(), self.view);
        });
        self.makers(page, level, &named);
    }

    /// The namespaces that a set names: not those that it stands in, nor the first ones; but
    /// one set, that of the first tasks, names these.
    fn named(&self, set: &Set) -> Vec<(NsKey, &'a Namespace)> {
        let first = self.index.first;
        let place = set.place.and_then(|key| self.index.world.namespace(key));
        let user_of_place = match place {
            Some(ns) if ns.kind == Kind::Pid => ns.owner,
            _ => set.place,
        };
        let is_first = set.place.is_some() && set.place == first[Kind::Pid as usize];
        let is_first = is_first && self.named_beside(set).next().is_none();
        let named = ORDER.into_iter().filter_map(|kind| {
            let key = set.tuple[kind as usize]?;
            let hidden = match kind {
                Kind::User => Some(key) == user_of_place,
                Kind::Pid => Some(key) == set.place || self.index.is_first(key),
                _ => self.index.is_first(key) && !is_first,
            };
            let ns = self.index.world.namespace(key)?;
            (!hidden).then_some((key, ns))
        });
        named.collect()
    }

    /// The namespaces of a set that are not the first ones.
    fn named_beside(&self, set: &Set) -> impl Iterator<Item = NsKey> {
        let all = set.tuple.into_iter().flatten();
        all.filter(|key| !self.index.is_first(*key))
    }

    /// The names, broken between them. Gives whether there are any.
    fn names(&self, page: &mut Page, level: usize, named: &[(NsKey, &Namespace)]) -> bool {
        let marks = named.iter().map(|(key, _)| self.mark(*key));
        let mark = marks.max_by_key(|mark| *mark == Mark::New);
        for (i, (key, ns)) in named.iter().enumerate() {
            if i == 0 {
                page.begin(mark.unwrap_or_default(), level);
            } else if page.fits(1 + words::namespace_len(ns)) {
                page.str(" ");
            } else {
                page.end();
                page.begin(Mark::None, level);
            }
            self.name(page, *key, ns);
        }
        if !named.is_empty() {
            page.end();
        }
        !named.is_empty()
    }

    /// Who made the namespaces of a set: a line for each operation.
    fn makers(&self, page: &mut Page, level: usize, named: &[(NsKey, &Namespace)]) {
        let mut groups: Vec<(Maker, Option<u64>, Vec<Kind>)> = Vec::new();
        for (_, ns) in named {
            let Some(maker) = ns.maker else { continue };
            let same = groups
                .iter_mut()
                .find(|(by, born, _)| *by == maker && *born == ns.born);
            match same {
                Some((.., kinds)) => kinds.push(ns.kind),
                None => groups.push((maker, ns.born, vec![ns.kind])),
            }
        }
        for (maker, born, kinds) in &groups {
            page.line(level, |page| {
                page.styled(Style::Dim, |page| {
                    if kinds.len() < named.len() {
                        for kind in kinds {
                            page.str(kind.name());
                            page.str(" ");
                        }
                    }
                    page.str("made by ");
                    words::maker(page, maker, *born, self.view.now_ns);
                });
            });
        }
    }

    /// The namespaces of the kinds that were asked for, those of kinds user and pid as they
    /// nest, each with its owner, its tasks, and what holds it.
    pub fn list(&self, page: &mut Page) {
        let before = page.out.len();
        for kind in ORDER {
            if !self.view.filter.kinds.contains(&kind) {
                continue;
            }
            for (level, key) in self.index.of_kind(kind) {
                self.listed(page, level, key);
            }
        }
        if page.out.len() == before {
            page.words(0, Style::Dim, "nothing that was asked for");
        }
    }

    fn listed(&self, page: &mut Page, level: usize, key: NsKey) {
        let world = self.index.world;
        let Some(ns) = world.namespace(key) else {
            return;
        };
        self.head(page, level, key, ns);
        let level = level + 1;
        if let Some(owner) = ns.owner.filter(|_| ns.kind != Kind::User) {
            page.line(level, |page| {
                page.str("owner ");
                words::name(page, world, owner);
            });
        }
        if ns.members_len() > 0 {
            page.line(level, |page| {
                words::members(page, world, world.members(key), self.view);
            });
        }
        if ns.members_len() == 0 || ns.holders().next().is_some() {
            words::held_by(page, level, world, key, HOLDERS);
        }
    }
}
