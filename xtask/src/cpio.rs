//! Writes the one archive format that the kernel unpacks as an initramfs:
//! cpio, "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Ours, and not cpio(1), because a guest's tree exists nowhere as files: it is
//! put together from host programs, modules and strings, and goes straight into
//! memory that QEMU reads. Times are zero and inode numbers count up, so the
//! same contents are the same bytes.

use std::io::{self, Write};

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// An archive being written.
pub struct Archive<W: Write> {
    out: W,
    entries: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Archive {
            out,
            entries: 0,
            written: 0,
        }
    }

    /// Adds a directory; `path` has no leading slash. Owned by `uid`.
    pub fn directory(&mut self, path: &str, mode: u32, uid: u32) -> io::Result<()> {
        self.entry(path, S_IFDIR | mode & 0o7777, uid, b"")
    }

    /// Adds a regular file, root's.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(path, S_IFREG | mode & 0o7777, 0, contents)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, S_IFLNK | 0o777, 0, target.as_bytes())
    }

    /// Ends the archive and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, 0, b"")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, uid: u32, contents: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(contents.len())
            .map_err(|_| io::Error::other(format!("{path}: more than 4 GiB do not fit a guest")))?;
        let name_size = path.len() as u32 + 1;
        // magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor,
        // devminor, rdevmajor, rdevminor, namesize, check
        let fields = [
            self.entries,
            mode,
            uid,
            uid,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08X}");
        }
        self.put(header.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(b"\0")?;
        self.pad()?;
        self.put(contents)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let padding = (4 - self.written % 4) % 4;
        self.put(&[0; 3][..padding as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against bytes written by hand from the format's description.
    #[test]
    fn one_file_is_header_name_contents_and_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b", 0o644, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let expected = concat!(
            "070701",
            "00000001",
            "000081A4",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000005",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000004",
            "00000000",
            "a/b\0\0\0",
            "hello\0\0\0",
            "070701",
            "00000002",
            "00000000",
            "00000000",
            "00000000",
            "00000001",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "00000000",
            "0000000B",
            "00000000",
            "TRAILER!!!\0\0\0\0",
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
