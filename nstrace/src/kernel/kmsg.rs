//! Warnings of the kernel, as they come.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

use tokio::io::{Interest, unix::AsyncFd};

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

    /// Waits for a warning about an unbalanced mount writer count.
    pub async fn mount_warning(&mut self) -> io::Result<()> {
        let mut record = [0; RECORD_MAX];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| fd.get_ref().read(&mut record)) {
                Ok(Ok(len)) if is_mount_warning(&record[..len]) => return Ok(()),
                // Records were overwritten before they were read.
                Ok(Err(error)) if error.raw_os_error() != Some(libc::EPIPE) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// Whether a record of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg) is the kernel's own
/// warning from `cleanup_mnt` (fs/namespace.c).
fn is_mount_warning(record: &[u8]) -> bool {
    let text = String::from_utf8_lossy(record);
    let Some((head, message)) = text.split_once(';') else {
        return false;
    };
    let priority = head
        .split(',')
        .next()
        .and_then(|number| number.parse::<u32>().ok());
    // Facility 0 is the kernel; who writes into /dev/kmsg has another.
    let is_kernel = priority.is_some_and(|priority| priority >> 3 == 0);
    let message = message.lines().next().unwrap_or_default();
    is_kernel && message.contains("WARNING:") && message.contains(" cleanup_mnt+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_warning_counts() {
        // Of Debian's 6.12.118 and 7.3.4; the words of 5.10 and 6.1 are those of 6.12.
        let old = "4,734,3134536,-;WARNING: CPU: 0 PID: 183 at fs/namespace.c:1370 \
                   cleanup_mnt+0x130/0x150\n";
        let new = "4,812,3693825,-,caller=T144;WARNING: fs/namespace.c:1391 at \
                   cleanup_mnt+0x5b/0x80, CPU#1: umount/144\n SUBSYSTEM=x\n";
        assert!(is_mount_warning(old.as_bytes()));
        assert!(is_mount_warning(new.as_bytes()));
        let others = [
            old.replace("4,734", "12,734"),
            old.replace("cleanup_mnt+", "cleanup_net+"),
            "6,1,1,-;WARN cleanup_mnt+0x1".to_owned(),
            String::new(),
        ];
        for other in others {
            assert!(!is_mount_warning(other.as_bytes()), "{other}");
        }
    }
}
