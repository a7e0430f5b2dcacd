//! Where the project is, and where its built programs are.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// What nstrace is built for; also the directory of its artefacts.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The root of the clone that this xtask was built from.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = here.canonicalize().unwrap_or_else(|_| here.to_owned());
    here.parent().unwrap_or(&here).to_owned()
}

/// Where everything is that was built.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where a build of `profile` puts a program.
pub fn artefact(profile: &str, program: &str) -> PathBuf {
    target_dir().join(TARGET).join(profile).join(program)
}

/// A program as the last build left it, of whichever profile is newer; None if
/// it has not been built.
pub fn built(program: &str) -> Option<PathBuf> {
    ["debug", "release"]
        .map(|profile| artefact(profile, program))
        .into_iter()
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
}
