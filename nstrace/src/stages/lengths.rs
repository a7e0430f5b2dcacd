//! How long each function of an operation took.

use super::{FUNCTIONS, FUNCTIONS_LEN, Id, Point, failed, walk};
use crate::event::Operation;

/// The places of functions in [`Function::ALL`], by their ids.
const PLACES: [u8; 256] = {
    let mut places = [0; 256];
    let mut at = 0;
    while at < places.len() {
        places[at] = FUNCTIONS[at].index() as u8;
        at += 1;
    }
    places
};

/// Calls `each` with the functions that an operation that has ended passed, by their places in
/// [`Function::ALL`], and how long each took: what [`stages`] says of them, without a list.
pub fn lengths(op: &Operation, mut each: impl FnMut(usize, u64)) {
    let mut passed = 0_u64;
    let mut ended = |id: Id, took_ns: u64| {
        let place = usize::from(PLACES[usize::from(id.0)]);
        passed |= 1 << place;
        each(place, took_ns);
    };
    let mut open = OpenIds::NONE;
    walk(op, |at, point| match point {
        Point::Enter(level, id) => open.enter(level, id, at, &mut ended),
        Point::Leave => open.leave(0, at, &mut ended),
    });
    open.leave(0, op.took_ns(), &mut ended);
    // It failed before its mark.
    if op.errno().is_some()
        && let Some(function) = failed(op)
        && passed >> function.index() & 1 == 0
    {
        each(function.index(), 0);
    }
}

/// The functions that are open.
struct OpenIds {
    /// Their ids, a byte for each level.
    ids: u32,
    /// Since when, by level.
    starts: [u64; size_of::<u32>()],
}

impl OpenIds {
    const NONE: OpenIds = OpenIds {
        ids: 0,
        starts: [0; size_of::<u32>()],
    };

    #[inline(always)]
    fn enter(&mut self, level: u8, id: Id, at: u64, ended: &mut impl FnMut(Id, u64)) {
        let shift = u32::from(level) * u8::BITS;
        // As in `stages`.
        if (self.ids >> shift) as u8 == id.0 {
            return;
        }
        self.leave(level, at, ended);
        self.ids |= u32::from(id.0) << shift;
        self.starts[usize::from(level) % self.starts.len()] = at;
    }

    /// What is open down to a level ends.
    #[inline(always)]
    fn leave(&mut self, level: u8, at: u64, ended: &mut impl FnMut(Id, u64)) {
        let left = self.ids >> (u32::from(level) * u8::BITS);
        if left != 0 {
            self.end(left, level, at, ended);
        }
    }

    #[inline(never)]
    fn end(&mut self, mut left: u32, level: u8, at: u64, ended: &mut impl FnMut(Id, u64)) {
        self.ids ^= left << (u32::from(level) * u8::BITS);
        for start in self.starts.iter().skip(level.into()) {
            if left as u8 != 0 {
                ended(Id(left as u8), at.saturating_sub(*start));
            }
            left >>= u8::BITS;
            if left == 0 {
                break;
            }
        }
    }
}

const _: () = assert!(FUNCTIONS_LEN <= 64);
