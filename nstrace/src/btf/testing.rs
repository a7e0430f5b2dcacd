//! The BTF that tests read: testdata/README.md says what it is.

use std::sync::LazyLock;

use nstrace_common::{field::FIELDS, probe::PROBES};

use super::{Btf, BtfError};
use crate::kernel::plan::functions;

macro_rules! kernels {
    ($($series:literal),*) => {
        /// Each series that nstrace is tested on, oldest first, and its BTF.
        pub(crate) const KERNELS: &[(&str, &[u8])] = &[$((
            $series,
            include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/testdata/btf/", $series, ".btf"
            )),
        )),*];
    };
}

kernels!["5.10", "6.1", "6.12", "6.18", "7.3"];

/// Reads BTF as nstrace does at its start.
pub(crate) fn read(bytes: &[u8]) -> Result<Btf<'_>, BtfError> {
    static FUNCTIONS: LazyLock<Vec<String>> = LazyLock::new(|| functions(PROBES));
    let functions: Vec<&str> = FUNCTIONS.iter().map(String::as_str).collect();
    let structs: Vec<&str> = FIELDS.iter().map(|row| row.strukt).collect();
    Btf::parse(bytes, &structs, &functions)
}

/// The BTF of a series.
pub(crate) fn kernel(series: &str) -> Btf<'static> {
    let found = KERNELS.iter().find(|(name, _)| *name == series);
    read(found.expect("a series of the matrix").1).expect("BTF")
}
