//! Installs what is missing, so that a clone on a new Debian needs nothing but
//! rustup. When nothing is missing it only looks at files.

use anyhow::Result;

use crate::{packages, toolchain};

/// What booting guests needs.
pub fn guests() -> Result<()> {
    packages::setup()
}

/// That, and what building nstrace needs.
pub fn all() -> Result<()> {
    guests()?;
    toolchain::setup()
}
