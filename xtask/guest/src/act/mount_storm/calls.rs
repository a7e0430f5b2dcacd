//! mount(2) and its kin, of paths that may have any bytes.

use std::ffi::CString;
use std::io;

use libc::c_ulong;

/// mount(2).
pub fn mount(
    source: &[u8],
    target: &[u8],
    kind: &[u8],
    flags: c_ulong,
    data: &[u8],
) -> io::Result<()> {
    let [source, target, kind, data] = [source, target, kind, data].map(CString::new);
    let (source, target, kind, data) = (source?, target?, kind?, data?);
    // SAFETY: the words end with a NUL.
    let ret = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    result(ret)
}

/// umount2(2), maybe with MNT_DETACH.
pub fn unmount(target: &[u8], is_lazy: bool) -> io::Result<()> {
    let target = CString::new(target)?;
    let flags = libc::UMOUNT_NOFOLLOW | if is_lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path ends with a NUL.
    result(unsafe { libc::umount2(target.as_ptr(), flags) })
}

fn result(ret: libc::c_int) -> io::Result<()> {
    match ret {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
