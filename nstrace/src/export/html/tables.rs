//! What is said often is said once, and then by its place.

use std::hash::Hash;

use foldhash::HashMap;
use nstrace_common::kind::KINDS;
use serde_json::{Value, json};

use crate::{
    cgroups::Cgroups,
    names::Names,
    render::{Text, escape},
};

/// Different things, each with its place.
#[derive(Clone, Debug)]
pub struct Table<T> {
    places: HashMap<T, u32>,
    len: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table {
            places: HashMap::default(),
            len: 0,
        }
    }
}

impl<T: Hash + Eq> Table<T> {
    /// The place of something, and whether it is new.
    pub fn place(&mut self, value: T) -> (u32, bool) {
        let next = self.len;
        let place = *self.places.entry(value).or_insert(next);
        self.len += u32::from(place == next);
        (place, place == next)
    }

    /// All of them, in their order.
    pub fn in_order(&self) -> Vec<&T> {
        let mut all: Vec<(&T, &u32)> = self.places.iter().collect();
        all.sort_unstable_by_key(|(_, place)| **place);
        all.into_iter().map(|(value, _)| value).collect()
    }
}

/// Namespaces that a task has: inums and ids, by kind.
pub type Set = ([u32; KINDS], [u64; KINDS]);

/// A name that the traced chose, as the tail prints it: what does not show is escaped.
pub fn shown(name: &[u8]) -> String {
    let mut text = Text::new();
    escape::terminal(&mut text, name);
    text.to_string()
}

/// Cgroups, each with its place from 1 on; 0 is none.
#[derive(Clone, Debug, Default)]
pub struct CgroupTable {
    places: HashMap<u64, u32>,
    known: Vec<Cgroup>,
}

#[derive(Clone, Debug)]
struct Cgroup {
    id: u64,
    path: Option<Box<[u8]>>,
    container: Option<Box<[u8]>>,
}

impl CgroupTable {
    /// The place of a cgroup. Its path is asked for as long as it is not known.
    pub fn place(&mut self, id: u64, cgroups: &Cgroups) -> u32 {
        if id == 0 {
            return 0;
        }
        let next = self.known.len() as u32 + 1;
        let place = *self.places.entry(id).or_insert(next);
        if place == next {
            let (path, container) = (None, None);
            self.known.push(Cgroup {
                id,
                path,
                container,
            });
        }
        if let Some(cgroup) = self.known.get_mut(place as usize - 1)
            && cgroup.path.is_none()
        {
            cgroup.path = cgroups.path(id).map(Box::from);
            cgroup.container = cgroups.container(id).map(Box::from);
        }
        place
    }

    /// For each its id, its path, and the id and the name of its container.
    pub fn json(&self, names: &Names) -> Value {
        let all = self.known.iter().map(|cgroup| {
            let name = cgroup.container.as_deref().and_then(|id| names.get(id));
            json!([
                cgroup.id.to_string(),
                cgroup.path.as_deref().map(shown),
                cgroup.container.as_deref().map(shown),
                name.map(|name| shown(name.as_bytes())),
            ])
        });
        all.collect()
    }
}
