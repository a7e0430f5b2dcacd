//! The slowest function of an operation.

use super::{Function, Id, LEVELS, Point, walk};
use crate::event::Operation;

/// The function that took longest of those that called no other one here, and how
/// long. It follows from [`stages`] too, but a line needs no list.
pub fn slowest(op: &Operation) -> Option<(Function, u64)> {
    let mut leaves = Leaves::NONE;
    walk(op, |at, point| match point {
        Point::Enter(level, id) => leaves.enter(level, id, at),
        Point::Leave => leaves.leave(at),
    });
    leaves.leave(op.took_ns());
    let found = leaves.slowest != Id::NONE;
    found.then(|| (leaves.slowest.function(), leaves.most_ns))
}

/// What [`slowest`] has seen.
struct Leaves {
    /// The ids of the functions that are open, a byte for each level.
    open: u32,
    /// The one that was entered last, if it is open, with its level and its beginning.
    last: Id,
    level: u8,
    start_ns: u64,
    slowest: Id,
    most_ns: u64,
}

const _: () = assert!(LEVELS <= size_of::<u32>());

impl Leaves {
    const NONE: Leaves = Leaves {
        open: 0,
        last: Id::NONE,
        level: 0,
        start_ns: 0,
        slowest: Id::NONE,
        most_ns: 0,
    };

    /// Not inlined: `walk` would have it three times, and no register for any.
    #[inline(never)]
    fn enter(&mut self, level: u8, id: Id, at: u64) {
        let shift = u32::from(level) * u8::BITS;
        // As in `stages`.
        if (self.open >> shift) as u8 == id.0 {
            return;
        }
        // A function ends where the next one begins, unless it calls that.
        if level <= self.level {
            self.end(at);
        }
        let outer = self.open & ((1 << shift) - 1);
        self.open = outer | u32::from(id.0) << shift;
        self.last = id;
        self.level = level;
        self.start_ns = at;
    }

    #[inline(never)]
    fn leave(&mut self, at: u64) {
        self.end(at);
        self.open = 0;
        self.last = Id::NONE;
    }

    #[inline]
    fn end(&mut self, at: u64) {
        let took_ns = at.saturating_sub(self.start_ns);
        if self.last != Id::NONE && took_ns >= self.most_ns {
            self.slowest = self.last;
            self.most_ns = took_ns;
        }
    }
}
