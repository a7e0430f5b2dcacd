//! The state of the system at a failure, as far as the explanation may need it.

use std::{fs, path::Path};

use crate::{
    cgroups::Cgroups,
    event::Operation,
    explain::{Facts, PidsLimit},
};

/// Reads what may explain a failed operation.
pub fn facts(operation: &Operation, cgroups: &Cgroups) -> Facts {
    Facts {
        unprivileged_userns_clone: sysctl("kernel/unprivileged_userns_clone"),
        apparmor_restrict_userns: sysctl("kernel/apparmor_restrict_unprivileged_userns"),
        lsm: fs::read_to_string("/sys/kernel/security/lsm").ok(),
        pids: match operation.errno() {
            Some(libc::EAGAIN) => pids_limit(cgroups.path(operation.record.cgroup)),
            _ => None,
        },
    }
}

fn sysctl(name: &str) -> Option<u32> {
    number(&Path::new("/proc/sys").join(name))
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The nearest cgroup, from the caller's upwards, whose limit refused; the caller's, if
/// that can no longer be told.
fn pids_limit(path: Option<&[u8]>) -> Option<PidsLimit> {
    let path = std::str::from_utf8(path?).ok()?;
    let root = Path::new("/sys/fs/cgroup");
    let mut cgroup = Some(Path::new(path));
    while let Some(at) = cgroup {
        let dir = root.join(at.strip_prefix("/").unwrap_or(at));
        if let Some(max) = number(&dir.join("pids.max"))
            && has_refused(&dir)
        {
            return Some(PidsLimit {
                cgroup: at.to_string_lossy().into_owned(),
                max: Some(max),
            });
        }
        cgroup = at.parent();
    }
    Some(PidsLimit {
        cgroup: path.to_owned(),
        max: None,
    })
}

/// Whether `pids.max` of a cgroup has ever refused: `pids.events` counts it.
fn has_refused(cgroup: &Path) -> bool {
    let events = fs::read_to_string(cgroup.join("pids.events")).unwrap_or_default();
    let max = events.lines().find_map(|line| line.strip_prefix("max "));
    max.is_some_and(|count| count != "0")
}
