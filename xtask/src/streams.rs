//! What comes out of a guest: two streams that end at a mark, and a status.
//!
//! A virtio port has no end of file that would say "this was all", and bytes
//! can still be on their way when the status is here already. So the guest puts
//! a mark behind each stream; what comes before it, and only that, is passed on,
//! as it comes.

use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// With its mark: all bytes are here.
    Complete,
    /// Without one: the guest is gone.
    Cut,
    /// Nobody reads our side any more.
    ReaderGone,
}

/// Passes bytes on until the mark, or until the stream is cut.
pub fn pass_on(from: &mut PipeReader, to: &mut dyn Write, mark: &[u8]) -> io::Result<End> {
    let mut buffer = vec![0; 64 * 1024];
    let mut held = Vec::new();
    loop {
        let count = from.read(&mut buffer)?;
        held.extend_from_slice(&buffer[..count]);
        let (passed, end) = match find(&held, mark) {
            Some(at) => (at, Some(End::Complete)),
            None if count == 0 => (held.len(), Some(End::Cut)),
            None => (held.len() - overlap(&held, mark), None),
        };
        match to.write_all(&held[..passed]).and_then(|()| to.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::ReaderGone),
            other => other?,
        }
        held.drain(..passed);
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// The status that the guest reports: `exit N`, and `ready` before it when there
/// is a shell. None if it ends without.
pub fn status(from: &mut PipeReader, ready: impl Fn()) -> Option<i32> {
    for line in BufReader::new(from).lines() {
        match line.ok()?.as_str() {
            "ready" => ready(),
            line => return line.strip_prefix("exit ")?.parse().ok(),
        }
    }
    None
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    // Marks begin with a byte that text does not have; the scan for it is fast.
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == mark[0]) {
        from += at;
        if bytes[from..].starts_with(mark) {
            return Some(from);
        }
        from += 1;
    }
    None
}

/// How many bytes at the end could be the beginning of the mark.
fn overlap(bytes: &[u8], mark: &[u8]) -> usize {
    let longest = (mark.len() - 1).min(bytes.len());
    (1..=longest)
        .rev()
        .find(|&n| bytes.ends_with(&mark[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8] = b"\x1emark";

    fn pass(chunks: &[&[u8]]) -> (Vec<u8>, End) {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let mut out = Vec::new();
        let end = std::thread::scope(|scope| {
            scope.spawn(move || {
                chunks
                    .iter()
                    .for_each(|chunk| writer.write_all(chunk).unwrap())
            });
            pass_on(&mut reader, &mut out, MARK).unwrap()
        });
        (out, end)
    }

    #[test]
    fn bytes_before_the_mark_are_passed_on_unharmed() {
        assert_eq!(
            pass(&[b"a\x1e\x1emarb\0\r\n\x1em", b"ark"]),
            (b"a\x1e\x1emarb\0\r\n".to_vec(), End::Complete)
        );
    }

    #[test]
    fn stream_without_mark_is_cut() {
        assert_eq!(
            pass(&[b"half a ma\x1ema"]),
            (b"half a ma\x1ema".to_vec(), End::Cut)
        );
    }
}
