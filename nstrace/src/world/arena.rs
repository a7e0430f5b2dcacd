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
struct Place<T> {
    /// How many were here before.
    generation: u32,
    value: Option<T>,
}

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
    /// Gives something a place.
    pub fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.places[index as usize].value = Some(value);
            return index;
        }
        self.places.push(Place {
            generation: 0,
            value: Some(value),
        });
        self.places.len() as u32 - 1
    }

    /// Takes it out. Its keys are no longer good.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let place = self.places.get_mut(index as usize)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        Some(value)
    }

    /// The key of what is there.
    pub fn key(&self, index: u32) -> Key {
        Key {
            index,
            generation: self.places[index as usize].generation,
        }
    }

    /// What a key is of, if it is still there.
    pub fn get(&self, key: Key) -> Option<&T> {
        let place = self.places.get(key.index as usize)?;
        let value = place.value.as_ref()?;
        (place.generation == key.generation).then_some(value)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.get_mut(key.index as usize)?;
        let value = place.value.as_mut()?;
        (place.generation == key.generation).then_some(value)
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
        place.is_some_and(|place| place.value.is_some())
    }

    /// All of them, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let key = Key {
                index: index as u32,
                generation: place.generation,
            };
            Some((key, place.value.as_ref()?))
        })
    }
}

/// Indices that are kept in lists and maps are of what is there.
const THERE: &str = "what an index is kept of is there";

impl<T> std::ops::Index<u32> for Arena<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        self.places[index as usize].value.as_ref().expect(THERE)
    }
}

impl<T> std::ops::IndexMut<u32> for Arena<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.places[index as usize].value.as_mut().expect(THERE)
    }
}
