//! Names of containers, as their engines say them, by the containers' ids.

use foldhash::HashMap;

/// Names of containers.
#[derive(Clone, Debug, Default)]
pub struct Names(HashMap<Box<[u8]>, Box<str>>);

impl Names {
    /// Remembers the name of a container.
    pub fn learn(&mut self, id: &[u8], name: &str) {
        self.0.insert(id.into(), name.into());
    }

    /// All that are known.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &str)> {
        self.0.iter().map(|(id, name)| (&**id, &**name))
    }

    /// The name of the container of that id.
    pub fn get(&self, id: &[u8]) -> Option<&str> {
        self.0.get(id).map(|name| &**name)
    }
}
