use nstrace_common::flags::{CLONE_NEWNET, CLONE_NEWPID};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::render::testing::{aligned, op};

/// A clone with two pid levels, as the kernel side lays it out: by hand, from
/// nstrace-common/src/wire.rs.
fn by_hand() -> Vec<u64> {
    let mut bytes = Vec::new();
    let u32s = |bytes: &mut Vec<u8>, numbers: &[u32]| {
        numbers
            .iter()
            .for_each(|number| bytes.extend(number.to_ne_bytes()));
    };
    let u64s = |bytes: &mut Vec<u8>, numbers: &[u64]| {
        numbers
            .iter()
            .for_each(|number| bytes.extend(number.to_ne_bytes()));
    };
    u32s(&mut bytes, &[1, 3]); // an operation, on CPU 3
    u64s(&mut bytes, &[5_000, 2_000, 0x2000_0000]); // end, start, flags
    u64s(&mut bytes, &[4243, 7]); // return value, cgroup
    u32s(&mut bytes, &[4242, 4244, 1000]); // pid, tid, uid
    bytes.extend([2, 1, 2, 16]); // clone3; lengths of the lists: marks, pids, ids
    bytes.extend(b"runc:[1]\0garbage");
    u32s(&mut bytes, &[10, 11, 12, 13, 14, 15, 16, 17]); // before
    u32s(&mut bytes, &[10, 11, 12, 99, 14, 15, 16, 17]); // after
    u64s(&mut bytes, &[0xffff_8880_0000_1000]); // where the new pid namespace is
    u32s(&mut bytes, &[13, 0, 15, 0, 0, 0]); // parents, owner, mounts, target
    u64s(&mut bytes, &[1, 2, 3, 4, 5, 6, 7, 8]);
    u64s(&mut bytes, &[1, 2, 3, 104, 5, 6, 7, 8]);
    u64s(&mut bytes, &[500 << 8 | 6]); // alloc_pid
    u32s(&mut bytes, &[4243, 13, 1, 99]);
    aligned(&bytes)
}

#[test]
fn an_operation_is_read_in_place() {
    let words = by_hand();
    let Ok(Event::Op(op)) = decode(words.as_bytes()) else {
        panic!("an operation");
    };
    assert_eq!(
        (op.op, op.record.flags, op.record.ret),
        (Op::Clone3, 0x2000_0000, 4243)
    );
    assert_eq!(
        (op.record.pid, op.record.tid, op.record.uid),
        (4242, 4244, 1000)
    );
    assert_eq!(
        (op.took_ns(), op.comm(), op.errno()),
        (3_000, &b"runc:[1]"[..], None)
    );
    assert_eq!(op.changed().collect::<Vec<_>>(), [Kind::Pid]);
    let (before, after) = (op.before(Kind::Pid), op.after(Kind::Pid));
    assert_eq!(
        (before.inum, before.id, after.inum, after.id),
        (13, 4, 99, 104)
    );
    assert_eq!(op.marks, [500 << 8 | 6]);
    assert_eq!(
        op.pids,
        [PidAt { nr: 4243, ns: 13 }, PidAt { nr: 1, ns: 99 }]
    );
    assert!(op.fail.is_none());
    let born: Vec<Life> = op.born().collect();
    assert_eq!(born.len(), 1);
    assert_eq!(
        (born[0].kind, born[0].inum, born[0].id),
        (Some(Kind::Pid), 99, 104)
    );
}

#[test]
fn a_failed_operation_says_what_it_found() {
    let built = op(Op::Unshare, CLONE_NEWNET)
        .marks(&[(1, 4), (2, 20)])
        .failed(28)
        .found(|fail| fail.limit_max = 3);
    let words = built.bytes();
    let Ok(Event::Op(op)) = decode(words.as_bytes()) else {
        panic!("an operation");
    };
    assert_eq!(op.errno(), Some(28));
    assert_eq!(op.fail.map(|fail| fail.limit_max), Some(3));
}

#[test]
fn every_cut_is_an_error() {
    for words in [by_hand(), op(Op::Clone, CLONE_NEWPID).failed(1).bytes()] {
        let bytes = words.as_bytes();
        for len in 0..bytes.len() {
            assert!(
                matches!(decode(&bytes[..len]), Err(DecodeError::Short(_))),
                "{len}"
            );
        }
        assert!(decode(bytes).is_ok());
    }
}

#[test]
fn numbers_that_mean_nothing_are_errors() {
    let with = |at: usize, byte: u8| {
        let mut words = by_hand();
        words.as_mut_bytes()[at] = byte;
        decode(words.as_bytes()).err()
    };
    assert_eq!(with(0, 0), Some(DecodeError::Kind(0)));
    assert_eq!(with(0, 12), Some(DecodeError::Kind(12)));
    assert_eq!(with(60, 0), Some(DecodeError::Op(0)));
    assert_eq!(with(60, 9), Some(DecodeError::Op(9)));
    assert_eq!(with(61, 25), Some(DecodeError::Length(25)));
    assert_eq!(with(62, 34), Some(DecodeError::Length(34)));
    assert_eq!(with(63, 17), Some(DecodeError::Length(17)));
}

/// A bind mount as the kernel side lays it out: by hand, from nstrace-common/src/mount_ops.rs.
fn mount_by_hand() -> Vec<u64> {
    let mut bytes = Vec::new();
    let mut u32s = |numbers: &[u32]| {
        numbers
            .iter()
            .for_each(|number| bytes.extend(number.to_ne_bytes()));
    };
    u32s(&[10, 0, 5_000, 0, 2_000, 0, 0, 0, 4096, 0]); // head; start, return value, flags
    u32s(&[0, 0, 0, 0, 0, 0, 9, 0, 77, 1, 78, 1]); // attributes; cgroup, ids
    u32s(&[4242, 4243, 1000]); // pid, tid, uid
    bytes.extend([1, 2, 5, 0, 3, 0, 0, 0]); // mount; what was found; lengths
    let mut u32s = |numbers: &[u32]| {
        numbers
            .iter()
            .for_each(|number| bytes.extend(number.to_ne_bytes()));
    };
    u32s(&[52, 29, 100, 101, 35, 9, 6, 0, 0]); // ids, namespaces, device, counts
    u32s(&[5, -100_i32 as u32, 16, 17, u32::MAX, 1]); // descriptors, owner, user, rights
    bytes.extend(b"mount\0garbage\0\0\0");
    let mut text = |text: &[u8], len: usize| {
        let mut whole = text.to_vec();
        whole.resize(len, 0);
        bytes.extend(whole);
    };
    text(b"ext4\0garbage", 32);
    text(b"/srv\0garbage", 256);
    text(b"..\0", 256);
    text(&[8, 0, 0, 0, 1, 0, 0, 0], 8);
    text(b"srv\0a b\0garbage", 512);
    text(&[0; 8], 8);
    text(b"", 512);
    aligned(&bytes)
}

#[test]
fn a_mount_is_read_in_place() {
    let words = mount_by_hand();
    let Ok(Event::MountOp(op)) = decode(words.as_bytes()) else {
        panic!("a mount operation");
    };
    let record = op.record;
    assert_eq!(
        (op.call, op.took_ns(), op.errno()),
        (Call::Mount, 3_000, None)
    );
    assert_eq!(
        (record.unique, record.from_unique),
        (1 << 32 | 77, 1 << 32 | 78)
    );
    assert_eq!((record.pid, record.tid, record.uid), (4242, 4243, 1000));
    assert_eq!(
        (record.id, record.from, record.ns, record.caller_ns),
        (52, 29, 100, 101)
    );
    assert_eq!(
        (record.dev, record.made, record.made_by_propagation),
        (35, 9, 6)
    );
    assert_eq!((record.source_fd, record.target_fd), (5, -100));
    assert_eq!(
        (record.owner, record.user, record.cap_effective),
        (16, 17, (2 << 32) - 1)
    );
    assert_eq!((op.comm(), op.fs()), (&b"mount"[..], &b"ext4"[..]));
    let (source, target) = (op.source(), op.target());
    assert_eq!((source.given, source.fd), (Some(&b"/srv"[..]), Some(5)));
    assert_eq!(source.found().as_deref(), Some(&b"/a b/srv"[..]));
    assert_eq!((target.given, target.fd), (Some(&b".."[..]), None));
    assert_eq!(target.found(), None);
}

#[test]
fn births_of_mounts_are_read_in_place() {
    let mut words = vec![11_u64, 5_000, 2_000, 4243 << 32 | 4242, 2 << 32 | 12];
    words.extend([0, 0]); // comm
    words.extend([77, 0, 52]);
    words.extend([78, 77, 52 << 32 | 53]);
    let Ok(Event::MountBirths(births)) = decode(words.as_bytes()) else {
        panic!("births");
    };
    assert_eq!((births.call, births.births.len()), (Call::CopyMntNs, 2));
    assert_eq!((births.births[1].id, births.births[1].from), (53, 52));
    assert_eq!(births.births[1].from_unique, 77);
    for len in 0..words.len() * 8 {
        assert!(decode(&words.as_bytes()[..len]).is_err(), "{len}");
    }
    words[4] = 65 << 32 | 12;
    assert_eq!(
        decode(words.as_bytes()).err(),
        Some(DecodeError::Length(65))
    );
    words[4] = 256 + 12;
    assert_eq!(decode(words.as_bytes()).err(), Some(DecodeError::Call(268)));
}

#[test]
fn a_mount_that_is_none_is_an_error() {
    let words = mount_by_hand();
    for len in (0..words.len() * 8).step_by(8) {
        let cut = decode(&words.as_bytes()[..len]);
        assert!(matches!(cut, Err(DecodeError::Short(_))), "{len}");
    }
    let mut other = words;
    other.as_mut_bytes()[100] = 13;
    assert_eq!(decode(other.as_bytes()).err(), Some(DecodeError::Call(13)));
}

#[test]
fn a_record_that_is_not_aligned_is_an_error() {
    let words = by_hand();
    let mut shifted = vec![0u64; words.len() + 1];
    let bytes = shifted.as_mut_bytes();
    bytes[4..4 + words.as_bytes().len()].copy_from_slice(words.as_bytes());
    assert!(matches!(decode(&bytes[4..]), Err(DecodeError::Short(_))));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(words: Vec<u64>, kind in 0..12u32, cut in 0..8usize) {
        let mut words = words;
        let bytes = words.as_mut_bytes();
        if let Some(head) = bytes.get_mut(..4) {
            head.copy_from_slice(&kind.to_ne_bytes());
        }
        let len = bytes.len().saturating_sub(cut);
        let _ = decode(&bytes[..len]);
        let _ = operation(&bytes[..len]);
    }
}
