//! The failures that are provoked, one row each: what is done, and what nstrace
//! must say of it.

use std::path::Path;

use anyhow::{Context, Result};
use libc::{EAGAIN, EBADF, EINVAL, ENOMEM, ENOSPC, EPERM};

use super::{failures as f, limits};
use crate::book::Book;
use crate::keeper;
use crate::kinds::USER;
use crate::procfs::Procfs;
use crate::recorder::Recorder;

/// One failure.
pub struct Row {
    pub name: &'static str,
    pub op: &'static str,
    pub errno: i32,
    /// The function that fails; none if the checks before or after refuse.
    pub stage: Stage,
    /// What the reason mentions, beside what the act puts into the book.
    pub words: &'static [&'static str],
    /// Prepares, calls [`Case::now`] and does it.
    provoke: fn(&mut Case) -> Result<()>,
}

/// What `failed_stage` must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Absent.
    None,
    /// This function.
    Is(&'static str),
    /// Absent or this one: a plain fork is no operation until it fails.
    Maybe(&'static str),
}

/// A task that is to run into a failure.
pub struct Case {
    pub recorder: Recorder,
    name: &'static str,
}

impl Case {
    /// The next operation is the one; its reason must mention these words too.
    pub fn now(&mut self, words: &[&str]) {
        self.recorder.note = self.name.to_owned();
        self.recorder.words = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Our own user namespace as nstrace writes it.
    pub fn user(&self) -> Result<String> {
        Ok(format!("user:{}", self.recorder.inums()?[USER]))
    }
}

const fn row(
    name: &'static str,
    op: &'static str,
    errno: i32,
    stage: Stage,
    words: &'static [&'static str],
    provoke: fn(&mut Case) -> Result<()>,
) -> Row {
    Row {
        name,
        op,
        errno,
        stage,
        words,
        provoke,
    }
}

const CAP: &[&str] = &["CAP_SYS_ADMIN"];

/// Every failure.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("unshare as a user", "unshare", EPERM, Stage::None, CAP, f::unshare_as_user),
    row("clone as a user", "clone", EPERM, Stage::Is("copy_namespaces"), CAP, f::clone_as_user),
    row("unshare without capabilities", "unshare", EPERM, Stage::None, CAP, f::unshare_without),
    row("unshare without capabilities below", "unshare", EPERM, Stage::None, CAP, f::unshare_without_below),
    row("setns to the first uts", "setns", EPERM, Stage::Is("utsns_install"), CAP, f::setns_foreign_uts),
    row("setns to another's user namespace", "setns", EPERM, Stage::Is("userns_install"), CAP, f::setns_foreign_user),
    row("clone NEWNS with FS", "clone", EINVAL, Stage::None, &["CLONE_FS"], f::clone_newns_fs),
    row("clone NEWUSER with FS", "clone", EINVAL, Stage::None, &["CLONE_FS"], f::clone_newuser_fs),
    row("clone NEWIPC with SYSVSEM", "clone", EINVAL, Stage::Is("copy_namespaces"), &["CLONE_SYSVSEM"], f::clone_ipc_sysvsem),
    row("clone NEWPID with THREAD", "clone", EINVAL, Stage::None, &["CLONE_THREAD"], f::clone_newpid_thread),
    row("clone3 NEWPID with THREAD", "clone3", EINVAL, Stage::None, &["CLONE_THREAD"], f::clone3_newpid_thread),
    row("clone NEWUSER with THREAD", "clone", EINVAL, Stage::None, &["CLONE_THREAD"], f::clone_newuser_thread),
    row("unshare NEWUSER with threads", "unshare", EINVAL, Stage::None, &["thread"], f::unshare_newuser_threaded),
    row("setns to one's own user namespace", "setns", EINVAL, Stage::Is("userns_install"), &["own"], f::setns_own_user),
    row("setns to a user namespace with threads", "setns", EINVAL, Stage::Is("userns_install"), &["thread"], f::setns_user_threaded),
    row("max_mnt_namespaces", "unshare", ENOSPC, Stage::Is("copy_mnt_ns"), &[], |case| limits::zero(case, 0)),
    row("max_uts_namespaces", "unshare", ENOSPC, Stage::Is("copy_utsname"), &[], |case| limits::zero(case, 1)),
    row("max_ipc_namespaces", "unshare", ENOSPC, Stage::Is("copy_ipcs"), &[], |case| limits::zero(case, 2)),
    row("max_pid_namespaces", "unshare", ENOSPC, Stage::Is("copy_pid_ns"), &[], |case| limits::zero(case, 3)),
    row("max_net_namespaces", "unshare", ENOSPC, Stage::Is("copy_net_ns"), &[], |case| limits::zero(case, 4)),
    row("max_user_namespaces", "unshare", ENOSPC, Stage::Is("create_user_ns"), &[], |case| limits::zero(case, 5)),
    row("max_cgroup_namespaces", "unshare", ENOSPC, Stage::Is("copy_cgroup_ns"), &[], |case| limits::zero(case, 6)),
    row("max_time_namespaces", "unshare", ENOSPC, Stage::Is("copy_time_ns"), &[], |case| limits::zero(case, 7)),
    row("a small limit below", "unshare", ENOSPC, Stage::Is("copy_utsname"), &[], limits::small_below),
    row("a limit of a parent", "unshare", ENOSPC, Stage::Is("copy_utsname"), &[], limits::of_a_parent),
    row("a limit met by clone", "clone", ENOSPC, Stage::Is("copy_ipcs"), &[], limits::met_by_clone),
    row("33 pid namespaces", "clone", ENOSPC, Stage::Is("copy_pid_ns"), &["32"], limits::nested_pid),
    row("33 user namespaces", "unshare", ENOSPC, Stage::Is("create_user_ns"), &["level 33"], limits::nested_user),
    row("fork without an init", "fork", ENOMEM, Stage::Maybe("alloc_pid"), &["init"], f::fork_dead_init),
    row("vfork without an init", "vfork", ENOMEM, Stage::Maybe("alloc_pid"), &["init"], f::vfork_dead_init),
    row("clone without an init", "clone", ENOMEM, Stage::Is("alloc_pid"), &["init"], f::clone_dead_init),
    row("pids.max", "clone", EAGAIN, Stage::None, &["pids.max", limits::PIDS_CGROUP], limits::pids_cgroup),
    row("unprivileged_userns_clone", "unshare", EPERM, Stage::None, &["kernel.unprivileged_userns_clone"], limits::userns_clone),
    row("clone and unprivileged_userns_clone", "clone", EPERM, Stage::None, &["kernel.unprivileged_userns_clone"], limits::userns_clone_by_clone),
    row("NEWUSER without a mapping", "unshare", EPERM, Stage::Is("create_user_ns"), &["uid_map"], f::unshare_unmapped),
    row("NEWUSER without a gid mapping", "unshare", EPERM, Stage::Is("create_user_ns"), &["gid_map"], f::unshare_without_gid_map),
    row("NEWUSER after chroot", "unshare", EPERM, Stage::Is("create_user_ns"), &["chroot"], f::unshare_chrooted),
    row("NEWUSER after chroot to a mount", "unshare", EPERM, Stage::Is("create_user_ns"), &["chroot"], f::unshare_chrooted_to_mount),
    row("unshare NEWPID twice", "unshare", EINVAL, Stage::Is("copy_pid_ns"), &[], f::unshare_pid_twice),
    row("setns without a descriptor", "setns", EBADF, Stage::None, &[], f::setns_bad_fd),
    row("setns with a file", "setns", EINVAL, Stage::None, &[], f::setns_file),
    row("setns with another kind", "setns", EINVAL, Stage::None, &[], f::setns_mismatch),
    row("setns to a pid namespace above", "setns", EINVAL, Stage::Is("pidns_install"), &[], f::setns_pid_above),
];

/// Provokes every failure, each in a process of its own.
pub fn provoke_all(book: &Path) -> Result<()> {
    let procfs = Procfs::open()?;
    for row in ROWS {
        let done = keeper::keep(&procfs, |asker| {
            let recorder = Recorder::new(Procfs::open()?, asker, Book::append(book)?, "fail")?;
            (row.provoke)(&mut Case {
                recorder,
                name: row.name,
            })
        });
        // What a row changed for all is put back even if it fails.
        limits::restore()?;
        done.with_context(|| row.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;

    #[test]
    fn names_are_unique_and_limits_are_those_of_their_kind() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(
                ROWS[..at].iter().all(|other| other.name != row.name),
                "{}",
                row.name
            );
            let kind = row
                .name
                .strip_prefix("max_")
                .and_then(|rest| rest.strip_suffix("_namespaces"));
            if let Some(kind) = kind.and_then(crate::kinds::index) {
                assert_eq!(row.stage, Stage::Is(KINDS[kind].copy));
            }
        }
    }
}
