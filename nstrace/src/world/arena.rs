//! A place for each of many things, and keys that tell them apart when a place is used
//! again.

/// The index of no place.
pub const NONE: u32 = u32::MAX;

/// The things, each in its place.
#[derive(Clone, Debug)]
pub struct Arena<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
#[repr(C)]
struct Place<T> {
    /// Odd while something is here.
    generation: u32,
    /// What is here, or was.
    value: T,
}

impl<T> Place<T> {
    fn is_taken(&self) -> bool {
        self.generation & 1 != 0
    }
}

/// The generation of what is first in a place.
pub const FIRST: u32 = 1;

/// A place and which of its tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub index: u32,
    pub generation: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Arena<T> {
    /// Gives something a place. It is made there, not elsewhere and copied.
    #[inline(always)]
    pub fn insert(&mut self, make: impl FnOnce() -> T) -> u32 {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.generation = place.generation.wrapping_add(1);
            place.value = make();
            return index;
        }
        self.places.push(Place {
            generation: FIRST,
            value: make(),
        });
        self.places.len() as u32 - 1
    }

    /// Takes it out. Its keys are no longer good. What it was can be looked at until the
    /// place is given to something else.
    pub fn remove(&mut self, index: u32) -> Option<&T> {
        let place = self.places.get_mut(index as usize)?;
        if !place.is_taken() {
            return None;
        }
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(&place.value)
    }

    /// The key of what is there.
    #[inline]
    pub fn key(&self, index: u32) -> Key {
        Key {
            index,
            generation: self.places[index as usize].generation,
        }
    }

    /// What a key is of, if it is still there.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        let place = self.places.get(key.index as usize)?;
        (place.generation == key.generation && place.is_taken()).then_some(&place.value)
    }

    /// The same, to change it.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        (place.generation == key.generation && place.is_taken()).then_some(&mut place.value)
    }

    /// What is at an index that is kept of something, or [`NONE`].
    #[inline]
    pub fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        let place = self.places.get_mut(index as usize)?;
        debug_assert!(place.is_taken());
        Some(&mut place.value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// One more than the highest index.
    pub fn end(&self) -> u32 {
        self.places.len() as u32
    }

    /// Whether something is there.
    pub fn holds(&self, index: u32) -> bool {
        let place = self.places.get(index as usize);
        place.is_some_and(Place::is_taken)
    }

    /// All of them, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let places = self.places.iter().enumerate();
        let taken = places.filter(|(_, place)| place.is_taken());
        taken.map(|(index, place)| {
            let key = Key {
                index: index as u32,
                generation: place.generation,
            };
            (key, &place.value)
        })
    }
}

/// Indices that are kept in lists and maps are of what is there.
impl<T> std::ops::Index<u32> for Arena<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        let place = &self.places[index as usize];
        debug_assert!(place.is_taken());
        &place.value
    }
}

impl<T> std::ops::IndexMut<u32> for Arena<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        let place = &mut self.places[index as usize];
        debug_assert!(place.is_taken());
        &mut place.value
    }
}
