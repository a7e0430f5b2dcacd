//! What concerns mounts is read as it was written, cut or not; and who does not know a kind
//! goes on behind it.

use nstrace_common::mount_ops::{BIRTHS, Birth, Call, Found, GIVEN};

use super::*;
use crate::mount_ops::testing::{Built as BuiltMount, births, mount_op};

fn bind() -> BuiltMount {
    mount_op(Call::Mount, libc::MS_BIND | libc::MS_REC)
        .source(b"/srv/\xff\n", Some(b"/srv/\xff\n"))
        .target(b"", Some(b"/"))
        .fs(b"ext4")
        .with(|record| {
            (record.id, record.unique, record.from) = (53, 1 << 31, 29);
            (record.made, record.made_by_propagation) = (9, 6);
            (record.dev, record.cgroup, record.found) = (u32::MAX, u64::MAX, 63);
            record.cap_effective = u64::MAX;
        })
}

fn copied() -> Vec<Birth> {
    let birth = |at: usize| Birth {
        id: 40 + at as u32,
        unique: (1 << 31) + at as u64,
        from: u32::MAX - at as u32,
        from_unique: u64::MAX - at as u64,
    };
    (0..BIRTHS).map(birth).collect()
}

/// Each event, with others between them, in blocks.
fn sample(block_len: usize) -> (Vec<u8>, Vec<String>) {
    let failed = mount_op(Call::Umount, 2)
        .target(&[b'x'; GIVEN - 1], None)
        .failed(2)
        .with(|record| {
            record.target_path.found = Found::Cut as u32;
            record.target_fd = i32::MAX;
        });
    let (bind, copied) = (bind(), births(&copied()));
    let others = others();
    let mut events = Vec::new();
    for other in &others {
        events.extend([
            Event::MountOp(bind.get()),
            *other,
            Event::MountBirths(copied.get()),
            Event::MountOp(failed.get()),
        ]);
    }
    write(&events, block_len)
}

#[test]
fn mounts_are_read_as_they_were_written() {
    for block_len in [1, 3000, 1 << 20] {
        let (bytes, written) = sample(block_len);
        let contents = read(&bytes).expect("a recording");
        assert_eq!(difference(&contents.entries, &written), None);
        assert_eq!(contents.damage, []);
    }
}

#[test]
fn a_cut_recording_of_mounts_gives_its_whole_blocks() {
    let (bytes, written) = sample(500);
    for len in (1..bytes.len()).step_by(61) {
        match read(&bytes[..len]) {
            Err(TraceError::NotARecording | TraceError::Stub) => assert!(len < 400),
            contents => {
                let contents = contents.expect("a part of a recording");
                assert!(written.starts_with(&contents.entries), "{len}");
            }
        }
    }
}

/// A copy of a namespace of a hundred thousand mounts must not fill a disk.
#[test]
fn a_birth_takes_a_few_bytes() {
    let len = |events: &[Event]| write(events, 1 << 20).0.len();
    let list = births(&copied());
    let (one, two) = (
        len(&[Event::MountBirths(list.get())]),
        len(&[Event::MountBirths(list.get()); 2]),
    );
    assert!(two - one < 6 * BIRTHS, "{}", two - one);
}

/// By hand: kinds from 64 on have their length behind them.
#[test]
fn who_does_not_know_a_kind_goes_on_behind_it() {
    let cgroup = [6, 9, 2, b'/', b'x'];
    let unknown = [127, 3, 1, 2, 3];
    let empty = [64 + 60, 0];
    let payload = [&unknown[..], &cgroup, &empty, &unknown, &cgroup, &empty].concat();
    let block = super::super::events_block(&payload);
    let contents = read(&block).expect("a recording");
    assert_eq!(contents.entries.len(), 2, "{contents:?}");
    assert!(
        contents
            .entries
            .iter()
            .all(|entry| entry.contains("Cgroup"))
    );
    assert!(matches!(contents.damage[..], [Damage::Cut { .. }]));
    // One that is longer than what is there ends the block.
    let payload = [&cgroup[..], &[127, 9, 1], &cgroup].concat();
    let contents = read(&super::super::events_block(&payload)).expect("a recording");
    assert_eq!(contents.entries.len(), 1);
    assert_eq!(contents.damage.len(), 2);
}

/// What a later version puts behind what is known is left out.
#[test]
fn an_entry_may_grow() {
    let (bind, bytes) = (bind(), |entry: &[u8]| super::super::events_block(entry));
    let mut codec = super::super::record::Codec::new();
    let mut entry = Vec::new();
    codec.write(&mut entry, &Event::MountOp(bind.get()));
    let whole = read(&bytes(&entry)).expect("a recording");
    // A byte of length, for as long as it is below 0x80.
    assert_eq!(usize::from(entry[1]), entry.len() - 2);
    assert!(entry[1] < 0x7f);
    entry.push(1);
    entry[1] += 1;
    let grown = read(&bytes(&entry)).expect("a recording");
    assert_eq!(grown.entries, whole.entries);
    assert_eq!(grown.entries.len(), 1);
}

/// As it was written before a warning had a task and a stack.
#[test]
fn an_old_warning_is_read() {
    let payload = [&[53, 2, 7, 1, b'p', 1][..], b"f"].concat();
    let contents = read(&super::super::events_block(&payload)).expect("a recording");
    let [warning] = &contents.entries[..] else {
        panic!("{contents:?}");
    };
    assert!(
        warning.contains("Warning") && warning.contains("tid: 7"),
        "{warning}"
    );
    assert!(warning.contains("stack: []"), "{warning}");
}

proptest! {
    #[test]
    fn any_bytes_are_an_entry_or_none(kind in 64..=67_u8, content: Vec<u8>) {
        let mut payload = vec![kind];
        super::super::bytes::put_bytes(&mut payload, &content);
        let contents = read(&super::super::events_block(&payload));
        prop_assert!(contents.is_ok());
    }

    #[test]
    fn numbers_of_any_size_are_kept(
        numbers: [u64; 6], small: [u32; 6], ret: i64, fds: [i32; 2], time: u64,
    ) {
        let built = bind().with(|record| {
            record.head.time = time;
            [record.start, record.flags, record.attr_set, record.attr_clear, record.propagation,
                record.unique] = numbers;
            [record.pid, record.tid, record.uid, record.made, record.taken, record.owner] = small;
            (record.ret, [record.source_fd, record.target_fd]) = (ret, fds);
        });
        let (bytes, written) = write(&[Event::MountOp(built.get())], 1);
        let contents = read(&bytes).expect("a recording");
        prop_assert_eq!(difference(&contents.entries, &written), None);
    }
}
