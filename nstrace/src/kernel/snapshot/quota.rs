//! How many holders of one namespace are told of one place.

use foldhash::HashMap;

/// A process can open one namespace a million times, or mount it everywhere: that it holds
/// it is said by the first of these as well as by all.
const HOLDERS_MAX: u32 = 64;

/// How often each namespace was found in one process, or one mount namespace.
#[derive(Debug, Default)]
pub struct Quota {
    found: HashMap<u32, u32>,
}

impl Quota {
    /// Counts one, and gives whether it is to be told.
    pub fn admits(&mut self, inum: u32) -> bool {
        let found = self.found.entry(inum).or_insert(0);
        *found = found.saturating_add(1);
        *found <= HOLDERS_MAX
    }

    /// Begins with the next place.
    pub fn clear(&mut self) {
        self.found.clear();
    }
}
