//! Against offsets that our reader did not make: measured on the kernels by another
//! tool, and put here by hand.

use nstrace_common::field::Field::{self, *};

use super::*;
use crate::btf::testing::{KERNELS, kernel, read};

/// For [`MISSING`].
const NONE: u32 = MISSING;

/// A member, and its offset on 5.10, 6.1, 6.12, 6.18, 7.3.
const MEASURED: &[(Field, [u32; 5])] = &[
    (TaskNsproxy, [2824, 3064, 3064, 3336, 3512]),
    (TaskCred, [2720, 2960, 2960, 3232, 3392]),
    (TaskThreadPid, [2336, 2520, 2536, 2808, 2976]),
    (TaskPid, [2232, 2416, 2432, 2704, 2872]),
    (TaskTgid, [2236, 2420, 2436, 2708, 2876]),
    (TaskComm, [2736, 2976, 2976, 3248, 3408]),
    (TaskExitCode, [2136, 2312, 2332, 2604, 2772]),
    (TaskSignal, [2832, 3072, 3072, 3344, 3520]),
    (TaskFs, [2800, 3040, 3040, 3312, 3480]),
    (SignalThreads, [8, 8, 8, 8, 8]),
    (CredUid, [8, 8, 8, 8, 8]),
    (CredUserNs, [136, 136, 144, 144, 144]),
    (PidLevel, [4, 4, 4, 4, 4]),
    (PidNumbers, [96, 96, 112, 144, 128]),
    (NsInum, [16, 16, 16, 24, 88]),
    (NsId, [NONE, NONE, NONE, 32, 96]),
    (NsType, [NONE, NONE, NONE, 0, 64]),
    // The ns_common in each, and the inum in that.
    (NetInum, [128 + 16, 128 + 16, 120 + 16, 152 + 24, 192 + 88]),
    (NetId, [NONE, NONE, NONE, 152 + 32, 192 + 96]),
    (NetOwner, [88, 88, 80, 112, 112]),
    (UserInum, [248 + 16, 240 + 16, 216 + 16, 216 + 24, 256 + 88]),
    (UserId, [NONE, NONE, NONE, 216 + 32, 256 + 96]),
    (UserParent, [224, 216, 192, 192, 192]),
    (UserLevel, [232, 224, 200, 200, 200]),
    (UserOwner, [236, 228, 204, 204, 204]),
    (UserUcounts, [496, 488, 472, 528, 800]),
    (PidInum, [120 + 16, 112 + 16, 112 + 16, 112 + 24, 256 + 88]),
    (PidId, [NONE, NONE, NONE, 112 + 32, 256 + 96]),
    (PidNsLevel, [72, 64, 64, 64, 176]),
    (PidNsParent, [80, 72, 72, 72, 184]),
    (PidNsAllocated, [48, 40, 40, 40, 40]),
    (PidOwner, [96, 88, 88, 88, 200]),
    (MntInum, [8 + 16, 16, 16, 24, 88]),
    (MntNsRoot, [32, 24, 24, 80, 320]),
    (MntOwner, [64, 56, 40, 112, 352]),
    (UcountsCount, [32, 32, 32, 56, 56]),
    // An int, a long from v5.14.
    (UcountsCountSize, [4, 8, 8, 8, 8]),
    (MountMnt, [32, 32, 32, 32, 32]),
    (MountParent, [16, 16, 16, 16, 16]),
    (MountPoint, [24, 24, 24, 24, 24]),
    (CloneFlags, [0, 0, 0, 0, 0]),
];

#[test]
fn offsets_are_those_that_were_measured() {
    for (at, (series, bytes)) in KERNELS.iter().enumerate() {
        let offsets = offsets(&read(bytes).unwrap()).unwrap();
        for (field, measured) in MEASURED {
            assert_eq!(offsets[*field as usize], measured[at], "{series} {field:?}");
        }
    }
}

/// `mounts` counts up to v6.7. From v6.8 it is an rb_root, and its place read as a
/// count would be half of a pointer.
#[test]
fn count_of_mounts_is_never_the_tree_of_that_name() {
    let count = |series| offsets(&kernel(series)).unwrap()[MntCount as usize];
    let mounts = |series| kernel(series).member("mnt_namespace", "mounts").unwrap();
    assert_eq!((count("5.10"), mounts("5.10").offset), (120, 120));
    assert_eq!((count("6.1"), mounts("6.1").offset), (112, 112));
    assert_eq!((count("6.12"), mounts("6.12").offset), (96, 32));
    assert_eq!((count("6.18"), mounts("6.18").offset), (184, 88));
    assert_eq!((count("7.3"), mounts("7.3").offset), (432, 328));
    assert_eq!(mounts("6.12").element_size, 8, "an rb_root");
    assert_eq!(mounts("6.1").element_size, 4, "an unsigned int");
}

/// So that a member which is new in the table, but not yet in the test data, is not
/// taken for one that the kernels lack: `cargo xtask btf`.
#[test]
fn kernels_lack_only_what_came_later() {
    // From v6.18 on, but for the first, which is from v6.8 on, and the next, from v7.2 on.
    let ids = [
        MountUnique,
        PcpPuts,
        UtsId,
        IpcId,
        MntId,
        PidId,
        NetId,
        UserId,
        CgroupId,
        TimeId,
        NsId,
        NsType,
    ];
    for (series, bytes) in KERNELS {
        let offsets = offsets(&read(bytes).unwrap()).unwrap();
        let is_missing = |row: &&FieldRow| offsets[row.field as usize] == MISSING;
        let missing: Vec<Field> = FIELDS
            .iter()
            .filter(is_missing)
            .map(|row| row.field)
            .collect();
        match *series {
            "5.10" | "6.1" => assert_eq!(missing, ids, "{series}"),
            "6.12" => assert_eq!(missing, ids[1..], "{series}"),
            "6.18" => assert_eq!(missing, [PcpPuts], "{series}"),
            _ => assert_eq!(missing, [], "{series}"),
        }
    }
}

#[test]
fn missing_member_is_named_if_nothing_goes_without_it() {
    // Without its first letter, no struct has the name any more.
    let (_, bytes) = KERNELS[0];
    let name = b"\0nsproxy\0";
    let at = bytes.windows(name.len()).position(|place| place == name);
    let mut bytes = bytes.to_vec();
    bytes[at.unwrap() + 1] = b'N';
    let error = offsets(&read(&bytes).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this kernel's BTF has no task_struct.nsproxy"
    );
}

/// The test data is a part of each kernel's BTF; this reads the whole.
#[test]
#[ignore = "needs the kernels of testdata/README.md: `cargo xtask kernels`"]
fn whole_btf_of_a_kernel_gives_what_the_test_data_gives() {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let cache = cache.unwrap_or_else(|| std::path::Path::new(env!("HOME")).join(".cache"));
    let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/README.md"));
    let mut compared = 0;
    for (series, part) in KERNELS {
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `btf/{series}.btf` ")));
        let cells: Vec<&str> = row.unwrap().split('|').map(str::trim).collect();
        let kernel = format!("nstrace/kernels/{}_{}/btf", cells[2], cells[3]);
        let Ok(whole) = std::fs::read(cache.join(&kernel)) else {
            continue;
        };
        let offsets_of = |bytes| offsets(&read(bytes).unwrap()).unwrap();
        assert_eq!(offsets_of(part), offsets_of(&whole), "{kernel}");
        compared += 1;
    }
    assert!(compared > 0, "none of the kernels is here any more");
}
