//! BTF written by hand, and hostile bytes.

use nstrace_common::field::FIELDS;
use proptest::prelude::*;

use super::testing::{KERNELS, read};
use super::*;
use crate::kernel::plan::{Attach, plan};
use nstrace_common::probe::PROBES;

const STRUCT: u32 = KIND_STRUCT << 24;
/// Members have the widths of bitfields in their upper bytes.
const WITH_BITFIELDS: u32 = 1 << 31;

/// At 1, 7, 13, 19, 24, 29, 34, 42, 46, 49.
const STRINGS: &[u8] = b"\0thing\0first\0inner\0wide\0bits\0list\0count_t\0int\0go\0outer\0";

/// ```c
/// typedef int count_t;
/// struct thing {
///         int first;
///         union {
///                 count_t inner;
///                 int wide;
///         };
///         int bits: 3;
///         count_t list[4];
/// };
/// void go(void);
/// struct outer {
///         long something;
///         const struct thing first;
/// };
/// ```
#[rustfmt::skip]
const TYPES: &[u32] = &[
    // 1: int, 4 bytes; signed, 32 bits
    42, 1 << 24, 4, 0x0100_0020,
    // 2: typedef of 1
    34, 8 << 24, 1,
    // 3: array of 2, by 1, 4 of them
    0, 3 << 24, 0, 2, 1, 4,
    // 4: anonymous union of 2 members, 4 bytes
    0, 5 << 24 | 2, 4,
        13, 2, 0,
        19, 1, 0,
    // 5: struct thing of 4 members, 28 bytes
    1, WITH_BITFIELDS | STRUCT | 4, 28,
        7, 1, 0,
        0, 4, 32,
        24, 1, 3 << 24 | 64,
        29, 3, 96,
    // 6: function of the prototype 7, which has no parameters
    46, 12 << 24, 7,
    0, 13 << 24, 0,
    // 8: const 5
    0, 10 << 24, 5,
    // 9: struct outer of 1 member, 36 bytes
    49, STRUCT | 1, 36,
        7, 8, 64,
];

/// The header, the types, the strings.
fn blob(types: &[u32], strings: &[u8]) -> Vec<u8> {
    let types_len = types.len() as u32 * 4;
    let header = [
        0x0001_eb9f,
        24,
        0,
        types_len,
        types_len,
        strings.len() as u32,
    ];
    let words = header.iter().chain(types);
    let mut bytes: Vec<u8> = words.flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(strings);
    bytes
}

fn parse(bytes: &[u8]) -> Result<Btf<'_>, BtfError> {
    Btf::parse(bytes, &["thing", "outer"], &["go", "stop"])
}

/// `path` in the struct `thing` of these types.
fn member(types: &[u32], path: &str) -> Option<Member> {
    let bytes = blob(types, STRINGS);
    parse(&bytes).unwrap().member("thing", path)
}

fn at(offset: u32, element_size: u32) -> Option<Member> {
    Some(Member {
        offset,
        element_size,
    })
}

/// What nstrace does with BTF, for bytes with which it only must come to an end.
fn use_all(bytes: &[u8]) {
    if let Ok(btf) = read(bytes) {
        let _ = offsets(&btf);
        let _ = plan(PROBES, Attach::Auto, &btf, true);
        for row in FIELDS {
            let _ = btf.member(row.strukt, row.paths[0]);
        }
    }
}

#[test]
fn members_are_found_where_they_are() {
    assert_eq!(member(TYPES, "first"), at(0, 4));
    assert_eq!(member(TYPES, "inner"), at(4, 4), "in an anonymous union");
    assert_eq!(member(TYPES, "wide"), at(4, 4));
    assert_eq!(member(TYPES, "list"), at(12, 4), "an element of the array");
    assert_eq!(member(TYPES, "bits"), None, "a bitfield");
    assert_eq!(member(TYPES, "absent"), None);
    assert_eq!(member(TYPES, "first.inner"), None, "an int has no members");
    assert_eq!(member(TYPES, ""), None);
}

#[test]
fn path_goes_through_embedded_structs() {
    let bytes = blob(TYPES, STRINGS);
    let btf = parse(&bytes).unwrap();
    assert_eq!(btf.member("outer", "first"), at(8, 28));
    assert_eq!(btf.member("outer", "first.inner"), at(12, 4));
    assert_eq!(btf.member("outer", "inner"), None, "not anonymous");
    assert_eq!(btf.member("never asked for", "first"), None);
}

#[test]
fn functions_and_structs_are_apart() {
    let bytes = blob(TYPES, STRINGS);
    let btf = Btf::parse(&bytes, &["go"], &["go", "stop", "thing"]).unwrap();
    assert!(btf.has_function("go"));
    assert!(!btf.has_function("stop"));
    assert!(!btf.has_function("thing"));
    assert_eq!(btf.member("go", "first"), None);
}

#[test]
fn first_of_two_structs_of_a_name_counts() {
    let second = [1, STRUCT | 1, 8, 7, 1, 32];
    assert_eq!(member(&[TYPES, &second].concat(), "first"), at(0, 4));
    assert_eq!(
        member(&[&second, TYPES].concat(), "first").unwrap().offset,
        4
    );
}

#[test]
fn every_kind_is_stepped_over() {
    // VAR, DATASEC of 2, FLOAT, DECL_TAG, TYPE_TAG, ENUM of 2, ENUM64 of 1, FWD, PTR.
    let words_after: [(u32, usize); 9] = [
        (14 << 24, 1),
        (15 << 24 | 2, 6),
        (16 << 24, 0),
        (17 << 24, 1),
        (18 << 24, 0),
        (6 << 24 | 2, 4),
        (19 << 24 | 1, 3),
        (7 << 24, 0),
        (2 << 24, 0),
    ];
    let mut types = TYPES[..4].to_vec();
    for (info, words) in words_after {
        types.extend([0, info, 8]);
        types.extend(vec![0xffff_ffff; words]);
    }
    // FLOAT has the id 4, PTR 10.
    types.extend([1, STRUCT | 2, 8, 7, 4, 64, 13, 10, 128]);
    assert_eq!(member(&types, "first"), at(8, 8), "a float");
    assert_eq!(member(&types, "inner"), at(16, 8), "a pointer");
}

#[test]
fn cut_short_anywhere_is_an_error() {
    for whole in [&blob(TYPES, STRINGS)[..], KERNELS[2].1] {
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "{len} bytes");
        }
    }
}

#[test]
fn types_cut_short_are_an_error_or_whole_types() {
    let starts = [0, 4, 7, 13, 22, 37, 40, 43, 46, 52];
    for words in 0..TYPES.len() {
        let bytes = blob(&TYPES[..words], STRINGS);
        assert_eq!(parse(&bytes).is_ok(), starts.contains(&words), "{words}");
    }
}

#[test]
fn header_of_something_else_is_refused() {
    let whole = blob(TYPES, STRINGS);
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        parse(&bytes).err()
    };
    assert_eq!(with(0, 0x9e), Some(BtfError::Header), "magic");
    assert_eq!(with(2, 2), Some(BtfError::Header), "version");
    assert_eq!(with(4, 23), Some(BtfError::Header), "length of the header");
    assert!(matches!(with(7, 0x80), Some(BtfError::Short(_))), "far off");
    assert!(matches!(with(11, 0xff), Some(BtfError::Short(_))), "types");
    assert!(
        matches!(with(23, 0xff), Some(BtfError::Short(_))),
        "strings"
    );
}

/// v7.1 made the header longer, for a section about the sizes of kinds.
#[test]
fn longer_header_is_read() {
    let mut bytes = blob(TYPES, STRINGS);
    bytes[4] = 32;
    bytes.splice(24..24, [0xaa; 8]);
    assert_eq!(parse(&bytes).unwrap().member("thing", "list"), at(12, 4));
}

#[test]
fn unknown_kind_is_an_error_with_its_place() {
    for kind in [0, 20, 127] {
        let bytes = blob(&[TYPES, &[0, kind << 24, 0]].concat(), STRINGS);
        assert_eq!(parse(&bytes).err(), Some(BtfError::Kind { id: 10, kind }));
    }
}

#[test]
fn more_members_than_there_are_bytes_is_an_error() {
    for vlen in [1, 0xffff, 0xff_ffff] {
        let bytes = blob(&[1, STRUCT | vlen, 8], STRINGS);
        assert_eq!(parse(&bytes).err(), Some(BtfError::Short(0)), "{vlen}");
    }
}

#[test]
fn typedef_of_itself_is_no_type() {
    let types = [34, 8 << 24, 1, 1, STRUCT | 2, 8, 0, 1, 0, 7, 1, 0];
    assert_eq!(member(&types, "inner"), None);
    assert_eq!(member(&types, "first"), at(0, 0));
    assert_eq!(member(&types, "first.inner"), None);
}

#[test]
fn array_of_itself_has_no_size() {
    let types = [0, 3 << 24, 0, 1, 1, 1, 1, STRUCT | 1, 8, 7, 1, 0];
    assert_eq!(member(&types, "first"), at(0, 0));
}

/// Bounded by depth alone, the search took ten to the power of 16 steps.
#[test]
fn struct_that_holds_itself_ends() {
    let holder = [1, STRUCT | 10, 8];
    let types = [&holder[..], &[0, 1, 0].repeat(10)].concat();
    assert_eq!(member(&types, "first"), None);
}

/// Adding these up overflowed.
#[test]
fn offset_beyond_all_is_none() {
    let types = [
        &[1, STRUCT | 2, 8, 0, 2, u32::MAX - 7, 7, 2, u32::MAX - 7][..],
        &[0, STRUCT | 2, 8, 13, 2, 8, 7, 2, u32::MAX - 7],
    ];
    let types = types.concat();
    assert_eq!(member(&types, "inner"), None);
    let deep = ["first"; 12].join(".");
    assert_eq!(member(&types, &deep), None);
}

#[test]
fn reference_to_nowhere_finds_nothing() {
    let types = [1, STRUCT | 3, 8, 0, 99, 0, 7, u32::MAX, 0, u32::MAX, 1, 0];
    assert_eq!(member(&types, "first"), at(0, 0), "of unknown size");
    assert_eq!(member(&types, "first.inner"), None);
    assert_eq!(member(&types, "inner"), None);
    assert!(parse(&blob(&[u32::MAX, STRUCT, 0], STRINGS)).is_ok());
    assert!(parse(&blob(&[1, STRUCT, 0], b"")).is_ok());
}

#[test]
fn name_without_its_end_is_no_name() {
    let bytes = blob(TYPES, b"\0thing");
    assert_eq!(parse(&bytes).unwrap().member("thing", "first"), None);
}

/// Looking for the end of each name, this took 20,000 times 4 MB.
#[test]
fn names_of_any_length_cost_little() {
    let types = [1, KIND_FUNC << 24, 0].repeat(20_000);
    let bytes = blob(&types, &vec![b'a'; 4 << 20]);
    assert!(!parse(&bytes).unwrap().has_function("go"));
}

proptest! {
    #[test]
    fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        use_all(&bytes);
    }

    #[test]
    fn any_types_come_to_an_end(
        infos in proptest::collection::vec((0u32..20, 0u32..6, any::<bool>(), 0u32..64), 1..64),
        words in proptest::collection::vec(0u32..80, 64),
    ) {
        let mut types = Vec::new();
        for (i, (kind, vlen, flag, name)) in infos.into_iter().enumerate() {
            let flag = if flag { WITH_BITFIELDS } else { 0 };
            types.extend([name, flag | kind.max(1) << 24 | vlen, words[i]]);
            let ty = Type { name, kind, vlen, bitfields: false, size_or_type: 0, data: 0 };
            let own = data_len(ty, 0).unwrap_or(4) / 4;
            types.extend(words.iter().cycle().skip(i).take(own));
        }
        let bytes = blob(&types, STRINGS);
        if let Ok(btf) = parse(&bytes) {
            for path in ["first", "inner.first.wide", "list", "bits.inner"] {
                let _ = (btf.member("thing", path), btf.member("outer", path));
            }
        }
    }

    #[test]
    fn a_changed_kernel_comes_to_an_end(
        kernel in 0..KERNELS.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
    ) {
        let mut bytes = KERNELS[kernel].1.to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        use_all(&bytes);
    }
}

/// What aya asks of it. By hand: the typedef is the second type, and the function the sixth.
#[test]
fn skeleton_has_what_is_wanted_at_its_ids() {
    let whole = blob(TYPES, STRINGS);
    let btf = Btf::parse(&whole, &[], &["go", "count_t", "gone"]).unwrap();
    let skeleton = btf.skeleton();
    let (forward, typedef) = ([0, 7 << 24, 0], [1, 8 << 24, 0]);
    let types = [forward, typedef].concat();
    assert_eq!(skeleton.bytes, blob(&types, b"\0count_t\0"));
    assert_eq!((skeleton.len, skeleton.functions), (2, vec![(6, "go")]));
}

#[test]
fn only_a_name_itself_decides_whether_it_may_be_wanted() {
    for name in ["", "f", "fs", "pid", "cred", "task_struct"] {
        let in_table = [name.as_bytes(), b"\0another\0"].concat();
        assert_eq!(
            Wanted::start(name.as_bytes()),
            Wanted::start(&in_table),
            "{name}"
        );
    }
}
