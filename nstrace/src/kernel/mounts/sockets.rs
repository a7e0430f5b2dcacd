//! Sockets that are bound to files: each keeps the mount of its file.
//!
//! `/proc/PID/net/unix` has their paths, as whoever bound them wrote them; so they are opened
//! (SIOCUNIXFILE of a copy of the socket) to see which files they are.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use foldhash::HashMap;

use super::{sys, uses::Task};
use crate::kernel::snapshot::{parse, sys as calls, text::Text};

/// The sockets that have paths, by net namespace and number.
#[derive(Debug, Default)]
pub struct Bound {
    by_net: HashMap<u32, HashMap<u64, Vec<u8>>>,
}

impl Bound {
    /// The file that a task's socket is bound to, and its path, if it is bound to one.
    pub fn file(
        &mut self,
        proc: BorrowedFd,
        task: Task,
        fd: u32,
        ino: u64,
    ) -> Option<(Vec<u8>, OwnedFd)> {
        let bound = self
            .by_net
            .entry(task.net)
            .or_insert_with(|| read(proc, task.tid));
        let path = bound.get(&ino)?.clone();
        let pidfd = calls::pidfd_open(task.tid, task.tid != task.pid).ok()?;
        let socket = calls::pidfd_getfd(pidfd.as_fd(), fd).ok()?;
        let file = sys::socket_file(socket.as_fd()).ok()?;
        Some((path, file))
    }
}

/// The bound sockets of a task's net namespace.
fn read(proc: BorrowedFd, tid: u32) -> HashMap<u64, Vec<u8>> {
    let path = Text::new().number(tid).text("/net/unix");
    let Ok(file) = calls::open(proc, path.get(), libc::O_RDONLY) else {
        return HashMap::default();
    };
    let lines = BufReader::new(File::from(file)).split(b'\n');
    let lines = lines.map_while(Result::ok);
    lines.filter_map(|text| line(&text)).collect()
}

/// The number and the path of a bound socket, from a line of `/proc/net/unix`:
/// `0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/x`. Names that are no paths
/// begin with `@`.
fn line(line: &[u8]) -> Option<(u64, Vec<u8>)> {
    const BEFORE: usize = 6;
    let mut rest = line;
    for _ in 0..BEFORE {
        let len = rest.iter().position(|byte| *byte == b' ')?;
        rest = rest[len..].trim_ascii_start();
    }
    let len = rest.iter().position(|byte| *byte == b' ')?;
    let (ino, path) = (&rest[..len], &rest[len + 1..]);
    let is_path = !path.is_empty() && !path.starts_with(b"@");
    is_path.then_some((parse::number(ino)?, path.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_sockets_have_a_number_and_a_path() {
        let text = b"ffff9c0: 00000002 00000000 00010000 0001 01 12345 /run/a b";
        assert_eq!(line(text), Some((12345, b"/run/a b".to_vec())));
        let text = b"0000000000000000: 00000002 00000000 00010000 0001 01   345 relative";
        assert_eq!(line(text), Some((345, b"relative".to_vec())));
        for text in [
            &b"Num       RefCount Protocol Flags    Type St Inode Path"[..],
            b"0000000000000000: 00000002 00000000 00000000 0002 01 12345",
            b"0000000000000000: 00000002 00000000 00000000 0002 01 12345 @abstract",
            b"",
        ] {
            assert_eq!(line(text), None);
        }
    }
}
