//! What is kept by a number that the kernel gives: that of a namespace, or the id of a task.
//!
//! The kernel gives the lowest that is free, or the next one: those in use are near each
//! other, and so are those that come one after the other. In pages they are found without a
//! hash, and near those that were looked for before. A recording can have any number: what
//! the kernel does not give is in a map.

use foldhash::HashMap;
use nstrace_common::wire::FIRST_INUM;

use super::arena::NONE;

/// So many numbers have their places together.
const PAGE: usize = 64;

/// Up to the highest id that a task can have (include/linux/threads.h, `PID_MAX_LIMIT`).
const PAGES: usize = (4 << 20) / PAGE;

/// The numbers of namespaces, those of the first ones before the others.
pub const INUMS: u32 = FIRST_INUM - PAGE as u32;

/// The ids of tasks.
pub const TIDS: u32 = 0;

/// What can be kept by a number.
pub trait Value: Copy + PartialEq {
    /// Nothing.
    const NONE: Self;
}

/// An index.
impl Value for u32 {
    const NONE: u32 = NONE;
}

/// A time.
impl Value for u64 {
    const NONE: u64 = 0;
}

/// Values by numbers, of which the lowest is `FIRST`.
#[derive(Clone, Debug)]
pub struct Numbers<T, const FIRST: u32> {
    pages: Vec<Option<Box<Page<T>>>>,
    /// The place of the one page that may be empty: a number that is the only one of its page
    /// comes and goes without that.
    empty: usize,
    others: HashMap<u32, T>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Page<T> {
    len: u32,
    values: [T; PAGE],
}

impl<T, const FIRST: u32> Default for Numbers<T, FIRST> {
    fn default() -> Self {
        Numbers {
            pages: Vec::new(),
            empty: 0,
            others: HashMap::default(),
            len: 0,
        }
    }
}

impl<T: Value, const FIRST: u32> Numbers<T, FIRST> {
    /// The value of a number.
    #[inline]
    pub fn get(&self, number: u32) -> T {
        let place = number.wrapping_sub(FIRST) as usize;
        match self.pages.get(place / PAGE) {
            Some(Some(page)) => page.values[place % PAGE],
            _ if place / PAGE < PAGES => T::NONE,
            _ => self.others.get(&number).copied().unwrap_or(T::NONE),
        }
    }

    /// Sets it, and gives the one before.
    #[inline]
    pub fn set(&mut self, number: u32, value: T) -> T {
        let place = number.wrapping_sub(FIRST) as usize;
        let before = match self.pages.get_mut(place / PAGE) {
            Some(Some(page)) => {
                let before = std::mem::replace(&mut page.values[place % PAGE], value);
                page.len += u32::from(before == T::NONE);
                page.len -= u32::from(value == T::NONE);
                if page.len == 0 && self.empty != place / PAGE {
                    self.free_empty(place / PAGE);
                }
                before
            }
            _ => self.set_elsewhere(number, value),
        };
        self.len += usize::from(before == T::NONE);
        self.len -= usize::from(value == T::NONE);
        before
    }

    /// The same where there is no page.
    #[inline(never)]
    fn set_elsewhere(&mut self, number: u32, value: T) -> T {
        let place = number.wrapping_sub(FIRST) as usize;
        if place / PAGE >= PAGES {
            let before = match value == T::NONE {
                true => self.others.remove(&number),
                false => self.others.insert(number, value),
            };
            return before.unwrap_or(T::NONE);
        }
        if value == T::NONE {
            return T::NONE;
        }
        if self.pages.len() <= place / PAGE {
            self.pages.resize(place / PAGE + 1, None);
        }
        let empty = || {
            Box::new(Page {
                len: 0,
                values: [T::NONE; PAGE],
            })
        };
        let mut page = empty();
        page.len = 1;
        page.values[place % PAGE] = value;
        self.pages[place / PAGE] = Some(page);
        T::NONE
    }

    /// Frees the page that is empty, if it still is, for another one to be.
    #[inline(never)]
    fn free_empty(&mut self, next: usize) {
        let page = self.pages.get_mut(self.empty);
        if let Some(page) = page
            && page.as_ref().is_some_and(|page| page.len == 0)
        {
            *page = None;
        }
        self.empty = next;
    }

    /// How many numbers have one.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = T> {
        let pages = self.pages.iter().flatten();
        let near = pages
            .flat_map(|page| page.values)
            .filter(|value| *value != T::NONE);
        near.chain(self.others.values().copied())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u32> {
        let near = |number: u32| number.wrapping_sub(70)..=number.wrapping_add(70);
        let end = INUMS + (PAGES * PAGE) as u32;
        prop_oneof![
            near(INUMS),
            near(FIRST_INUM + 100),
            near(end),
            0..100_u32,
            any::<u32>()
        ]
    }

    proptest! {
        #[test]
        fn numbers_are_as_in_a_map(
            all in prop::collection::vec((number(), prop_oneof![Just(NONE), 0..9_u32]), 0..200),
        ) {
            let (mut numbers, mut map) = (Numbers::<u32, INUMS>::default(), HashMap::new());
            for (number, value) in all {
                let before = match value {
                    NONE => map.remove(&number),
                    value => map.insert(number, value),
                };
                prop_assert_eq!(numbers.set(number, value), before.unwrap_or(NONE));
                prop_assert_eq!(numbers.get(number), value);
                prop_assert_eq!(numbers.len(), map.len());
            }
            let mut values: Vec<u32> = numbers.values().collect();
            let mut expected: Vec<u32> = map.values().copied().collect();
            values.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(values, expected);
            for (number, value) in map {
                prop_assert_eq!(numbers.get(number), value);
                numbers.set(number, NONE);
            }
            prop_assert!(numbers.pages.iter().flatten().count() <= 1 && numbers.len() == 0);
        }
    }
}
