//! Warnings of the kernel about mounts, as they come.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

use tokio::io::{Interest, unix::AsyncFd};

use super::clock;
use crate::event::Warning;

/// What the kernel writes into its log from now on.
pub struct Log(AsyncFd<File>);

/// A record has at most so many bytes (kernel/printk/internal.h, `PRINTK_MESSAGE_MAX`).
const RECORD_MAX: usize = 8192;

impl Log {
    /// Opens `/dev/kmsg`; needs a tokio runtime.
    pub fn open() -> io::Result<Log> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let mut file = options.open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        // SAFETY: the file keeps its descriptor open for as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
        Ok(Log(registered?))
    }

    /// Waits for a warning about mounts.
    async fn warning(&mut self) -> io::Result<Warned> {
        let mut record = [0; RECORD_MAX];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| fd.get_ref().read(&mut record)) {
                Ok(Ok(len)) => {
                    if let Some(warned) = Warned::parse(&record[..len]) {
                        return Ok(warned);
                    }
                }
                // Records were overwritten before they were read.
                Ok(Err(error)) if error.raw_os_error() != Some(libc::EPIPE) => return Err(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}

/// Waits for a warning about mounts; for ever, where there is no log.
pub async fn mount_warning(log: &mut Option<Log>) -> Warned {
    loop {
        match log {
            Some(open) => match open.warning().await {
                Ok(warned) => return warned,
                Err(_) => *log = None,
            },
            None => std::future::pending().await,
        }
    }
}

/// The sources of the kernel's code of mounts.
const SOURCES: [&str; 3] = ["fs/namespace.c:", "fs/pnode.c:", "fs/mount.h:"];

/// A warning about mounts.
#[derive(Debug, PartialEq, Eq)]
pub struct Warned {
    /// Where in the source.
    place: String,
    /// In which function.
    function: String,
    /// The thread.
    tid: u32,
}

impl Warned {
    /// The same as an event, that was read just now.
    pub fn event(&self) -> Warning<'_> {
        Warning {
            time: clock::monotonic_ns(),
            place: self.place.as_bytes(),
            function: self.function.as_bytes(),
            tid: self.tid,
        }
    }

    /// Reads a record of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg): none if it is not
    /// such a warning, or not the kernel's own. Up to v6.18 (kernel/panic.c, `__warn`):
    ///
    /// ```text
    /// WARNING: CPU: 0 PID: 183 at fs/namespace.c:1370 cleanup_mnt+0x130/0x150
    /// ```
    ///
    /// and from then on:
    ///
    /// ```text
    /// WARNING: fs/namespace.c:1391 at cleanup_mnt+0x5b/0x80, CPU#1: umount/144
    /// ```
    fn parse(record: &[u8]) -> Option<Warned> {
        let text = str::from_utf8(record).ok()?;
        let (head, message) = text.split_once(';')?;
        let priority: u32 = head.split(',').next()?.parse().ok()?;
        // Facility 0 is the kernel; who writes into /dev/kmsg has another.
        if priority >> 3 != 0 {
            return None;
        }
        let (_, message) = message.lines().next()?.split_once("WARNING: ")?;
        let mut words = message.split(' ');
        let (place, function, tid) = match message.strip_prefix("CPU: ") {
            Some(_) => {
                let tid = words
                    .find(|word| *word == "PID:")
                    .and_then(|_| words.next())?;
                let place = words
                    .find(|word| *word == "at")
                    .and_then(|_| words.next())?;
                (place, words.collect::<Vec<_>>().join(" "), tid)
            }
            None => {
                let (place, rest) = message.split_once(" at ")?;
                let (function, rest) = rest.split_once(", CPU#")?;
                (place, function.to_owned(), rest.rsplit('/').next()?)
            }
        };
        // Debian's are built in a directory of their own.
        let from = SOURCES.iter().find_map(|source| place.find(source))?;
        Some(Warned {
            place: place[from..].to_owned(),
            function,
            tid: tid.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_warnings_about_mounts_count() {
        // Of Debian's 6.12.118 and 7.3.4; the words of 5.10 and 6.1 are those of 6.12.
        let old = "4,734,3134536,-;WARNING: CPU: 0 PID: 183 at fs/namespace.c:1370 \
                   cleanup_mnt+0x130/0x150\n";
        let new = "4,812,3693825,-,caller=T144;WARNING: fs/namespace.c:1391 at \
                   cleanup_mnt+0x5b/0x80, CPU#1: umount/144\n SUBSYSTEM=x\n";
        let warned = |line: u32, function: &str, tid| {
            Some(Warned {
                place: format!("fs/namespace.c:{line}"),
                function: function.to_owned(),
                tid,
            })
        };
        let parse = |record: &str| Warned::parse(record.as_bytes());
        assert_eq!(parse(old), warned(1370, "cleanup_mnt+0x130/0x150", 183));
        assert_eq!(parse(new), warned(1391, "cleanup_mnt+0x5b/0x80", 144));
        assert_eq!(
            parse(
                &old.replace("0x150", "0x150 [it]")
                    .replace("at fs", "at ./fs")
            ),
            warned(1370, "cleanup_mnt+0x130/0x150 [it]", 183)
        );
        assert_eq!(
            parse(&new.replace("umount/", "a/ at b, CPU#7/")),
            warned(1391, "cleanup_mnt+0x5b/0x80", 144)
        );
        let others = [
            old.replace("4,734", "12,734"),
            old.replace("fs/namespace.c", "net/core/net_namespace.c"),
            new.replace("fs/namespace.c", "fs/super.c"),
            "6,1,1,-;WARN cleanup_mnt+0x1".to_owned(),
            "4,1,1,-;WARNING: ".to_owned(),
            "4,1,1,-;WARNING: CPU: 0 PID: 1 at".to_owned(),
            "4,1,1,-;WARNING: fs/namespace.c:1 at".to_owned(),
            String::new(),
        ];
        for other in others {
            assert_eq!(parse(&other), None, "{other}");
        }
    }
}
