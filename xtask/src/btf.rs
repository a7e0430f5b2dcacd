//! The BTF of the kernels that we test on: whole, as files, and the part that
//! nstrace reads, as test data.

mod subset;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::kernel::{self, MATRIX, NEWEST};
use crate::project;

/// The raw BTF of the newest kernel of a series: byte for byte what a guest has
/// in /sys/kernel/btf/vmlinux.
pub fn raw_btf(series: &str) -> Result<PathBuf> {
    Ok(kernel::get(series)?.btf())
}

/// Makes the test data anew from the kernels of the matrix, and says of each file
/// what it is. Nothing is removed: the file of a series that was the newest once
/// stays until its test goes.
pub fn make_testdata() -> Result<()> {
    let testdata = project::root().join("nstrace/testdata");
    fs::create_dir_all(testdata.join("btf"))
        .with_context(|| format!("{}: cannot make", testdata.display()))?;
    let mut rows = String::new();
    for series in MATRIX {
        let kernel = kernel::get(series)?;
        let name = match *series {
            NEWEST => kernel::series_of(&kernel.release),
            series => series,
        };
        let from = kernel.btf();
        let raw = fs::read(&from).with_context(|| format!("{}", from.display()))?;
        let part = subset::of(&raw).with_context(|| format!("{}", from.display()))?;
        write_file(&testdata.join(format!("btf/{name}.btf")), &part)?;
        println!("{name}.btf: {} bytes, {}", part.len(), kernel.release);
        let package = package_of(&kernel.btf());
        writeln!(
            rows,
            "| `btf/{name}.btf` | {} | {package} |",
            kernel.release
        )?;
    }
    let readme = format!("{README}{rows}");
    write_file(&testdata.join("README.md"), readme.as_bytes())
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("{}: cannot write", path.display()))
}

/// The version of the package: the cache has a directory for each RELEASE_VERSION.
fn package_of(btf: &Path) -> String {
    let dir = btf.parent().and_then(Path::file_name).unwrap_or_default();
    let name = dir.to_string_lossy();
    let version = name.split_once('_').map(|(_, version)| version);
    version.unwrap_or("unknown").to_owned()
}

const README: &str = "\
<!-- Made by `cargo xtask btf`; edit the text in xtask/src/btf.rs. -->
# Test data

`btf/SERIES.btf` is what nstrace reads of a kernel's BTF, as BTF: the structs and
members of `nstrace-common/src/field.rs` at their true offsets, with the anonymous
structs and unions around them, and the functions of `nstrace-common/src/probe.rs` that
the kernel has. Pointers lead to void, functions have no parameters, everything else is
left out.

`cargo xtask btf` makes the files and this page anew, from the newest Debian kernels of
the series that we test on. Do that after a change to either table. When a new series
has become the newest, add its offsets to `nstrace/src/btf/offsets/tests.rs` by hand,
from the kernel itself (pahole, or the kernel's headers): they test the reader only as
long as the reader did not make them.

| file | kernel | Debian package |
| --- | --- | --- |
";
