use nstrace_common::mount_ops::{Call, Found, GIVEN};

use super::{
    testing::{mount_op, path},
    *,
};

/// The flags are those of libc, and the order that of v6.12 fs/namespace.c, path_mount.
#[test]
fn what_mount_does_is_decided_by_the_first_flag_that_counts() {
    use libc::{
        MS_BIND, MS_MGC_VAL, MS_MOVE, MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT, MS_SHARED,
        MS_SLAVE, MS_UNBINDABLE,
    };
    for (flags, expected) in [
        (0, What::New),
        (MS_RDONLY | MS_REC, What::New),
        (MS_BIND, What::Bind),
        (MS_BIND | MS_REC | MS_PRIVATE | MS_MOVE, What::Bind),
        (MS_REMOUNT | MS_RDONLY, What::Remount),
        (MS_REMOUNT | MS_BIND | MS_RDONLY, What::BindRemount),
        (MS_MOVE, What::Move),
        (MS_MOVE | MS_SHARED, What::Propagation(Propagation::Shared)),
        (MS_REC | MS_PRIVATE, What::Propagation(Propagation::Private)),
        (MS_SLAVE, What::Propagation(Propagation::Slave)),
        (MS_UNBINDABLE, What::Propagation(Propagation::Unbindable)),
        // The number's bits are not flags: MS_SHARED would be one of them.
        (MS_MGC_VAL, What::New),
        (MS_MGC_VAL | MS_BIND, What::Bind),
    ] {
        let op = mount_op(Call::Mount, flags);
        assert_eq!(op.get().what(), Some(expected), "{flags:#x}");
    }
    assert_eq!(mount_op(Call::Umount, 0).get().what(), None);
}

#[test]
fn flags_are_named_by_the_call() {
    let names = |call, flags| {
        let op = mount_op(call, flags);
        op.get().flag_names().collect::<Vec<_>>().join("|")
    };
    let all = libc::MS_BIND | libc::MS_REC | libc::MS_NOSUID;
    assert_eq!(names(Call::Mount, all), "NOSUID|BIND|REC");
    assert_eq!(names(Call::Mount, libc::MS_MGC_VAL | 1), "RDONLY");
    assert_eq!(names(Call::Umount, libc::MNT_DETACH as u64), "DETACH");
    assert_eq!(names(Call::MoveMount, 0x44), "F_EMPTY_PATH|T_EMPTY_PATH");
    let tree = 1 | 0x8000 | libc::O_CLOEXEC as u64;
    assert_eq!(names(Call::OpenTree, tree), "CLONE|RECURSIVE|CLOEXEC");
    assert_eq!(names(Call::PivotRoot, u64::MAX), "");
    let command = |number| mount_op(Call::Fsconfig, number).get().command();
    assert_eq!(command(6), Some("CMD_CREATE"));
    assert_eq!(command(u64::MAX), None);
}

#[test]
fn a_path_is_put_together_from_its_names() {
    let found = |path: PathNames| {
        let built = mount_op(Call::Mount, 0).with(|record| record.target_path = path);
        let found = built.get().target().found();
        found.map(|path| String::from_utf8_lossy(&path).into_owned())
    };
    assert_eq!(found(path(None)), None);
    assert_eq!(found(path(Some(b"/"))).as_deref(), Some("/"));
    assert_eq!(found(path(Some(b"/a/b c/d"))).as_deref(), Some("/a/b c/d"));
    let mut cut = path(Some(b"/a/b"));
    cut.found = Found::Cut as u32;
    assert_eq!(found(cut).as_deref(), Some("…/a/b"));
    cut.found = Found::Loose as u32;
    assert_eq!(found(cut).as_deref(), Some("?/a/b"));
    // A recording may say anything.
    (cut.found, cut.len) = (7, u32::MAX);
    assert_eq!(found(cut), None);
    cut.found = Found::Whole as u32;
    assert_eq!(found(cut).as_deref(), Some("/a/b"));
}

#[test]
fn what_was_given_is_known_to_be_whole_or_not() {
    let built = mount_op(Call::Mount, 0).target(b"rel", None);
    let target = built.get().target();
    assert_eq!((target.given, target.is_cut), (Some(&b"rel"[..]), false));
    assert_eq!(built.get().source().given, None);
    let built = built.with(|record| {
        record.target = [b'x'; GIVEN];
        record.target[GIVEN - 1] = 0;
        record.target_len = u16::MAX;
        record.target_fd = 7;
    });
    let target = built.get().target();
    assert_eq!(target.given.map(<[u8]>::len), Some(GIVEN - 1));
    assert_eq!((target.is_cut, target.fd), (true, Some(7)));
}
