//! Any bytes as a kernel's BTF: everything that nstrace does with it at its start
//! comes to an end.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nstrace::{
    btf::{Btf, offsets},
    kernel::plan::{Attach, functions, plan},
};
use nstrace_common::{
    field::FIELDS,
    probe::{PROBES, Probe},
    writers,
};

/// Each object's table of probes.
const TABLES: [&[Probe]; 2] = [PROBES, writers::PROBES];

static FUNCTIONS: LazyLock<Vec<String>> =
    LazyLock::new(|| TABLES.into_iter().flat_map(functions).collect());

fuzz_target!(|bytes: &[u8]| {
    let structs: Vec<&str> = FIELDS.iter().map(|row| row.strukt).collect();
    let functions: Vec<&str> = FUNCTIONS.iter().map(String::as_str).collect();
    let Ok(btf) = Btf::parse(bytes, &structs, &functions) else {
        return;
    };
    let _ = offsets(&btf);
    // `offsets` stops at the first that is missing.
    for row in FIELDS {
        for path in row.paths {
            let _ = btf.member(row.strukt, path.trim_start_matches('#'));
        }
    }
    for probes in TABLES {
        assert!(!plan(probes, Attach::Auto, &btf, true).is_empty());
    }
});
