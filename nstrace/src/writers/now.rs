//! How many writers of a mount are open files, when nothing was watched.
//!
//! A file that is open for writing is one writer, however many descriptors it has. Which of
//! them are of one open file can be told; of what is mapped it cannot, so that the number lies
//! between two.

use std::{cmp::Ordering, collections::BTreeMap, ops::AddAssign};

use crate::mounts::uses::{Found, How};

/// So many open files there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// At least.
    pub least: usize,
    /// At most.
    pub most: usize,
}

impl AddAssign for Files {
    fn add_assign(&mut self, other: Files) {
        self.least += other.least;
        self.most += other.most;
    }
}

/// What is known of one path.
#[derive(Default)]
struct Path<'a> {
    /// One descriptor of each open file, in the order that the kernel has among them.
    open: Vec<&'a Found>,
    /// What may be one of these, or may not.
    unsure: usize,
}

/// How many open files these descriptors and mappings of one mount are, as `compare` orders
/// them.
pub fn files<'a>(
    found: impl Iterator<Item = &'a Found>,
    compare: impl Fn(&Found, &Found) -> Option<Ordering>,
) -> Files {
    let mut paths: BTreeMap<&[u8], Path> = BTreeMap::new();
    for one in found {
        let path = paths.entry(&one.path).or_default();
        let place = match one.how {
            How::Open(_) => place(&path.open, one, &compare),
            _ => None,
        };
        match place {
            Some(Ok(_)) => {}
            Some(Err(at)) => path.open.insert(at, one),
            None => path.unsure += 1,
        }
    }
    let mut files = Files::default();
    for path in paths.values() {
        files += Files {
            least: path.open.len().max(1),
            most: path.open.len() + path.unsure,
        };
    }
    files
}

/// Where a file is among others, or is to be.
fn place(
    open: &[&Found],
    one: &Found,
    compare: impl Fn(&Found, &Found) -> Option<Ordering>,
) -> Option<Result<usize, usize>> {
    let (mut low, mut high) = (0, open.len());
    while low < high {
        let middle = low.midpoint(high);
        match compare(open.get(middle)?, one)? {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Some(Ok(middle)),
        }
    }
    Some(Err(low))
}

/// A mount whose writers its open files do not explain, as far as they were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unexplained {
    /// The writers: of several counts the one that is nearest to the files.
    pub writers: i32,
    /// The files.
    pub files: Files,
}

impl Unexplained {
    /// That of a mount which had so many writers before and after the files were looked at;
    /// none if they can explain it.
    pub fn of(before: i32, after: i32, files: Files) -> Option<Unexplained> {
        let one = |writers| Unexplained { writers, files };
        let (least, most) = (one(before.min(after)), one(before.max(after)));
        match (least.difference(), most.difference()) {
            (1.., _) => Some(least),
            (_, ..0) => Some(most),
            _ => None,
        }
    }

    /// How many writers more there are than files, or fewer if it is negative.
    pub fn difference(&self) -> i64 {
        let number = |files: usize| i64::try_from(files).unwrap_or(i64::MAX);
        let writers = i64::from(self.writers);
        let nearest = writers.clamp(number(self.files.least), number(self.files.most));
        writers - nearest
    }

    /// Of two looks the one that has less to explain; none if one has nothing.
    pub fn less(self, other: Unexplained) -> Option<Unexplained> {
        let is_alike = self.difference().signum() == other.difference().signum();
        let both = [self, other].into_iter();
        let less = both.min_by_key(|one| one.difference().abs());
        less.filter(|_| is_alike)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::Device;

    fn found(how: How, path: &str) -> Found {
        Found {
            pid: 1,
            tid: 1,
            how,
            mount: 36,
            device: Device::default(),
            path: path.as_bytes().into(),
        }
    }

    /// Descriptors of one tens digit are of one open file; those of 100 and more cannot be told.
    fn compare(one: &Found, other: &Found) -> Option<Ordering> {
        match (one.how, other.how) {
            (How::Open(one), How::Open(other)) if one < 100 && other < 100 => {
                Some((one / 10).cmp(&(other / 10)))
            }
            _ => None,
        }
    }

    fn counted(all: &[(How, &str)]) -> (usize, usize) {
        let all: Vec<Found> = all.iter().map(|(how, path)| found(*how, path)).collect();
        let Files { least, most } = files(all.iter(), compare);
        (least, most)
    }

    #[test]
    fn an_open_file_counts_once() {
        use How::{Mapped, Open};
        let log = [51, 12, 30, 31, 35, 10, 50].map(|fd| (Open(fd), "/log"));
        assert_eq!(counted(&[]), (0, 0));
        assert_eq!(counted(&log), (3, 3));
        // What is mapped may be what is open.
        assert_eq!(counted(&[(Open(1), "/a"), (Mapped, "/a")]), (1, 2));
        assert_eq!(counted(&[(Open(1), "/a"), (Mapped, "/b")]), (2, 2));
        assert_eq!(counted(&[(Mapped, "/b"), (Mapped, "/b")]), (1, 2));
        assert_eq!(counted(&[(Open(1), "/a"), (Open(100), "/a")]), (1, 2));
    }

    #[test]
    fn a_count_within_what_files_can_be_is_explained() {
        let files = Files { least: 2, most: 4 };
        let difference = |before, after| {
            let unexplained = Unexplained::of(before, after, files);
            unexplained.map(|one| (one.writers, one.difference()))
        };
        for (before, after) in [(2, 2), (4, 3), (1, 3), (3, 7), (0, 9)] {
            assert_eq!(difference(before, after), None);
        }
        assert_eq!(difference(7, 6), Some((6, 2)));
        assert_eq!(difference(-3, 1), Some((1, -1)));
        assert_eq!(difference(-3, -3), Some((-3, -5)));
    }

    #[test]
    fn of_two_looks_the_lesser_counts() {
        let of = |writers| Unexplained {
            writers,
            files: Files { least: 1, most: 1 },
        };
        assert_eq!(of(4).less(of(3)), Some(of(3)));
        assert_eq!(of(3).less(of(4)), Some(of(3)));
        assert_eq!(of(4).less(of(-1)), None);
    }
}
