//! What the kernel writes into its log: the truth about warnings.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

/// As much as a record can have (v6.12 kernel/printk/internal.h, PRINTK_MESSAGE_MAX).
const RECORD_MAX: usize = 8192;

/// The log from a moment on.
pub struct KernelLog(File);

impl KernelLog {
    /// From now on.
    pub fn open() -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let mut file = options
            .open("/dev/kmsg")
            .context("/dev/kmsg: cannot open")?;
        file.seek(SeekFrom::End(0))?;
        Ok(KernelLog(file))
    }

    /// What was written since the last look, by line.
    pub fn read(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0; RECORD_MAX];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    let message = text.split_once(';').map_or("", |(_, message)| message);
                    lines.extend(message.lines().next().map(str::to_owned));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lines),
                Err(error) => return Err(error).context("/dev/kmsg: cannot read"),
            }
        }
    }
}

/// A warning of the kernel that a mount has died with writers that are not zero.
#[derive(Debug)]
pub struct Unbalanced {
    /// The line with the first registers of the kernel's.
    registers: String,
}

impl Unbalanced {
    /// Those among lines of the log.
    pub fn all(lines: &[String]) -> Vec<Self> {
        let mut all = Vec::new();
        let mut rest = lines.iter();
        while rest.any(|line| line.contains("WARNING:") && line.contains(" cleanup_mnt+")) {
            // The caller's registers come later.
            let registers = rest.find(|line| line.starts_with("RAX: ")).cloned();
            all.extend(registers.map(|registers| Unbalanced { registers }));
        }
        all
    }

    /// Whether it is of this count. The sum that cleanup_mnt has made is in RAX, in Debian's 5.10
    /// in RBX.
    pub fn is_of(&self, count: i32) -> bool {
        ["RAX", "RBX"].iter().any(|register| {
            let shown = format!("{register}: {:016x} ", count.cast_unsigned());
            self.registers.contains(&shown)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Linux 6.12.118, but for lines between.
    const LOG: &str = "\
------------[ cut here ]------------
WARNING: CPU: 0 PID: 183 at fs/namespace.c:1370 cleanup_mnt+0x130/0x150
RIP: 0010:cleanup_mnt+0x130/0x150
RSP: 0018:ffffc90000433bc8 EFLAGS: 00000286
RAX: 00000000fffffffc RBX: 0000000000000000 RCX: 0000000000000002
RSP: 002b:00007ffe4aa3d198 EFLAGS: 00000202 ORIG_RAX: 00000000000000a6
RAX: 0000000000000000 RBX: 000055766b5d9d08 RCX: 00007fbbaad26b87
WARNING: fs/namespace.c:1391 at cleanup_mnt+0x5b/0x80, CPU#0: umount/150
RAX: 0000000000000003 RBX: ffff888004654600 RCX: 0000000000000002
RAX: 0000000000000000 RBX: 0000558b82741d08 RCX: 00007f21936e8b87
WARNING: CPU: 0 PID: 1 at net/core.c:1 other+0x1/0x2
RAX: 0000000000000007 RBX: 0000000000000000 RCX: 0000000000000000";

    #[test]
    fn warnings_have_their_counts() {
        let lines: Vec<String> = LOG.lines().map(str::to_owned).collect();
        let all = Unbalanced::all(&lines);
        assert_eq!(all.len(), 2);
        assert!(all[0].is_of(-4) && !all[0].is_of(4));
        assert!(all[1].is_of(3) && !all[1].is_of(-4));
    }
}
