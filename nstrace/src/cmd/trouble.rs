//! Files that cannot be read or written: why, and what to do, where more can be said of that
//! than the system does.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use anyhow::anyhow;

use crate::trace::TraceError;

/// Why a recording cannot be read. Its name belongs before it.
pub fn unread(error: impl Into<TraceError>) -> anyhow::Error {
    let error = match error.into() {
        TraceError::Io(error) => error,
        TraceError::Empty => {
            return anyhow!(
                "it is empty: look at what was to write it, nstrace record for instance"
            );
        }
        TraceError::NotARecording => {
            return anyhow!("it is not a recording of nstrace: `nstrace record -o FILE` makes one");
        }
        TraceError::Stub => {
            return anyhow!(
                "it was cut off before its first block was whole: nothing is in it, leave it out"
            );
        }
        newer @ TraceError::Newer { .. } => return newer.into(),
    };
    anyhow!(match error.kind() {
        ErrorKind::NotFound => "there is no such file: look at its name",
        ErrorKind::NotADirectory =>
            "what stands before the last / is no directory: look at its name",
        ErrorKind::IsADirectory => "it is a directory: say a recording in it",
        ErrorKind::PermissionDenied =>
            "you may not read it: use sudo, or have its owner give you the right (a recording is \
             made for its owner alone)",
        _ => return error.into(),
    })
}

/// Why something cannot be written. Its name belongs before it.
pub fn unwritten(error: io::Error) -> anyhow::Error {
    if error.raw_os_error() == Some(libc::ELOOP) {
        return anyhow!(LINK);
    }
    anyhow!(match error.kind() {
        ErrorKind::NotFound => "there is no such directory: make it first, or write elsewhere",
        ErrorKind::NotADirectory => "what should be a directory is none: write elsewhere",
        ErrorKind::IsADirectory => "it is a directory: say a file in it",
        ErrorKind::PermissionDenied => "you may not write there: use sudo, or write elsewhere",
        ErrorKind::ReadOnlyFilesystem => "its file system can only be read: write elsewhere",
        ErrorKind::StorageFull => "no room is left on the device: make some, or write elsewhere",
        ErrorKind::QuotaExceeded => "your quota is used up: make room, or write elsewhere",
        ErrorKind::FileTooLarge =>
            "it may not get larger here (ulimit -f, or the file system): write elsewhere",
        _ => return error.into(),
    })
}

/// Somebody else may have put it there.
pub const LINK: &str = "it is a symbolic link, which is not followed: say what it points to";

/// What a file is called in messages.
pub fn name(path: &Path, standard: &str) -> String {
    match path.as_os_str().as_encoded_bytes() {
        b"-" => format!("standard {standard}"),
        _ => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::trace::Reader;

    fn read(path: &Path) -> String {
        let read = File::open(path)
            .map_err(unread)
            .and_then(|file| Reader::new(file).read().map(drop).map_err(unread));
        read.expect_err("no recording").to_string()
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = |name: &str| dir.path().join(name);
        fs::write(of("empty"), "").expect("a file");
        fs::write(of("text"), "words").expect("a file");
        let told = ["", "none", "empty/x", "empty", "text"].map(|name| read(&of(name)));
        insta::assert_snapshot!(told.join("\n"), @r"
        it is a directory: say a recording in it
        there is no such file: look at its name
        what stands before the last / is no directory: look at its name
        it is empty: look at what was to write it, nstrace record for instance
        it is not a recording of nstrace: `nstrace record -o FILE` makes one
        ");
        let full = File::create("/dev/full")
            .and_then(|mut file| io::Write::write_all(&mut file, b"x"))
            .map_err(unwritten);
        let unmade = [of(""), of("none/x"), of("text/x")]
            .map(|path| File::create(path).map(drop).map_err(unwritten));
        let told = [full]
            .into_iter()
            .chain(unmade)
            .map(|written| written.expect_err("no file").to_string());
        insta::assert_snapshot!(told.collect::<Vec<_>>().join("\n"), @r"
        no room is left on the device: make some, or write elsewhere
        it is a directory: say a file in it
        there is no such directory: make it first, or write elsewhere
        what should be a directory is none: write elsewhere
        ");
    }
}
