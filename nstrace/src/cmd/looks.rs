//! Where in a recording all of the machine is known, found without reading all of it.

use std::{fs::File, path::Path};

use crate::{
    event::Event,
    trace::{Entry, Item, Place, Reader, TraceError},
};

/// When the first look at the machine ended, in ns after the beginning, if that is in the
/// recording and later than a moment. `CLOCK_MONOTONIC` in ns.
pub fn first_after(path: &Path, moment: u64) -> Option<u64> {
    is_file(path)
        .then(|| first(path).ok().flatten())
        .flatten()
        .filter(|[_, first]| *first > moment)
        .map(|[begin, first]| first.saturating_sub(begin))
}

/// When a recording begins, and when the first look ended.
fn first(path: &Path) -> Result<Option<[u64; 2]>, TraceError> {
    let mut reader = Reader::new(File::open(path)?);
    let mut begin = None;
    while let Some(item) = reader.read()? {
        let first = match item {
            Item::Head(head) => {
                begin.get_or_insert(head.mono_ns);
                continue;
            }
            Item::Entry(Entry::Event(Event::SnapshotEnd(end))) => end.time,
            Item::State(state) => state.world.now(),
            _ => continue,
        };
        return Ok(begin.map(|begin| [begin, first]));
    }
    Ok(None)
}

/// A pipe is read once; and what cannot be read is told when it is read.
fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file())
}

/// Whether all that is known at the end of a recording follows from its last state and what
/// comes after it. Not if that state cannot be read, nor if a later time stands before it: then
/// the recordings of several boots, or in another order, have been joined.
pub fn has_state_at_end(path: &Path) -> bool {
    is_file(path) && seek(path).unwrap_or(false)
}

fn seek(path: &Path) -> Result<bool, TraceError> {
    let mut reader = Reader::new(File::open(path)?);
    let Some(Item::Head(head)) = reader.read()? else {
        return Ok(false);
    };
    let index = reader.index()?;
    let Some(Place { time: last, .. }) = index.states.last().copied() else {
        return Ok(false);
    };
    let later = index.states.iter().any(|place| place.time > last);
    if later || head.mono_ns > last || index.times.is_none_or(|[_, end]| end < last) {
        return Ok(false);
    }
    reader.seek(&index, last, u64::MAX)?;
    Ok(matches!(reader.read()?, Some(Item::State(_))))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;
    use crate::{
        cmd::model::Model,
        event::{SnapshotEnd, Unseen},
        trace::{Head, Index, Options, Writer, tests::write_state},
        world::{
            self, World,
            tests::{machine::Machine, owned::apply, saved::told},
        },
    };

    /// A machine's events with a state now and then.
    fn recording(dir: &Path) -> PathBuf {
        let mut machine = Machine::new(true);
        machine.look_at_all();
        for step in 0..1500_u32 {
            let what = (step.wrapping_mul(2_654_435_761) >> 7) as u8;
            machine.step(what, step as usize * 31, step * 17);
        }
        let options = Options {
            block_len: 600,
            state_every: 2000,
            state_share: 1,
        };
        let mut writer = Writer::new(Vec::new(), &Head::default(), options).unwrap();
        let mut world = World::default();
        for event in &machine.log {
            event.with_record(|event| writer.event(event)).unwrap();
            apply(&mut world, event);
            if writer.wants_state() {
                write_state(&mut writer, &world);
            }
        }
        writer.finish(world.now()).unwrap();
        let path = dir.join("a.nst");
        fs::write(&path, writer.into_inner()).unwrap();
        path
    }

    /// Whether the end is the same as after all that came before it was read.
    fn agrees(path: &Path) {
        let found = Model::of_recording(path, None).unwrap();
        let options = world::Options::default();
        let read = Model::replay(path, options, &mut |_, _| Ok(())).unwrap();
        assert_eq!(told(&found.world), told(&read.world));
        assert_eq!((found.now(), found.lost), (read.now(), read.lost));
    }

    #[test]
    fn the_end_is_found_by_the_last_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = recording(dir.path());
        assert!(has_state_at_end(&path));
        agrees(&path);
        let states = Index::of(&mut File::open(&path).unwrap()).unwrap().states;
        let last = states.last().unwrap().offset as usize;
        let whole = fs::read(&path).unwrap();
        // What is cut off behind it, and a state that cannot be read.
        fs::write(&path, &whole[..whole.len() - 50]).unwrap();
        assert!(has_state_at_end(&path));
        agrees(&path);
        let mut bytes = whole.clone();
        bytes[last + 100] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(!has_state_at_end(&path));
        agrees(&path);
        // The recording of another boot, with a later time, before it.
        let mut twice = whole.clone();
        twice.extend(&whole[..last / 2]);
        fs::write(&path, &twice).unwrap();
        assert!(!has_state_at_end(&path));
        agrees(&path);
    }

    #[test]
    fn the_first_look_is_found_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.nst");
        let head = Head {
            mono_ns: 500,
            ..Head::default()
        };
        let mut writer = Writer::new(Vec::new(), &head, Options::default()).unwrap();
        for time in [1100, 2100] {
            let end = SnapshotEnd {
                time,
                unseen: Unseen::default(),
            };
            writer.event(&Event::SnapshotEnd(end)).unwrap();
        }
        writer.finish(3000).unwrap();
        fs::write(&path, writer.into_inner()).unwrap();
        assert_eq!(first_after(&path, 1099), Some(600));
        assert_eq!(first_after(&path, 1100), None);
        assert_eq!(first_after(Path::new("-"), 0), None);
    }

    #[test]
    fn what_has_no_state_has_none() {
        for path in ["-", "/dev/null", "/there/is/none", "/"] {
            assert!(!has_state_at_end(Path::new(path)), "{path}");
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/traces/v1.nst");
        agrees(Path::new(path));
    }
}
