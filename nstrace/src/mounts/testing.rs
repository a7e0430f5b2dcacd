//! Mounts for tests, as mountinfo tells them.

use super::{MountNs, Mounts, Names, Way, info};

/// A namespace with the mounts of some lines.
pub fn namespace(inum: u32, lines: &str) -> MountNs {
    let mut names = Names::default();
    let line = |line: &str| info::line(line.trim_start().as_bytes(), &mut names).expect(line);
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    MountNs {
        inum,
        mounts: lines.map(line).collect(),
        ..MountNs::default()
    }
}

/// The same of several.
pub fn mounts(namespaces: &[(u32, &str)]) -> Mounts {
    let all = namespaces
        .iter()
        .map(|(inum, lines)| namespace(*inum, lines));
    Mounts::new(Way::Mountinfo, all.collect())
}
