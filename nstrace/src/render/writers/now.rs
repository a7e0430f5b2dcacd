//! Mounts whose writers their open files do not explain: for people, and as JSON.

use nstrace_common::kind::Kind;

use super::super::{
    Clock, Text,
    color::Style,
    escape,
    json::line,
    mount,
    text::{Row, namespace, number, task},
};
use crate::{
    mounts::{
        Mount,
        uses::{Found, How},
    },
    writers::now::{Files, Unexplained},
};

/// So many files are named for people.
const NAMED: usize = 4;

/// What is to be said of a mount.
#[allow(missing_debug_implementations, reason = "it borrows a function")]
pub struct WritersNow<'a> {
    /// The mount.
    pub mount: &'a Mount,
    /// Its mount namespace.
    pub ns: u32,
    /// What was found.
    pub unexplained: Unexplained,
    /// What is open for writing on it.
    pub found: &'a [Found],
    /// Tells what a process is called.
    pub comm: &'a dyn Fn(u32) -> Vec<u8>,
}

/// Appends what is to be said of a mount.
pub fn writers_now(out: &mut Text, view: &WritersNow, color: bool) {
    let (mount, found) = (view.mount, &view.unexplained);
    let mut row = Row::new(out, color);
    row.styled(Style::Failed, |out| {
        out.push_str("mount ");
        number(out, mount.id);
        out.push_str(" has ");
        mount::writers(out, found.writers);
    });
    row.out.push_str(", ");
    number(row.out, found.difference().unsigned_abs());
    row.out.push_str(match found.difference() {
        1.. => " more than its open files explain\n  ",
        _ => " fewer than it has open files\n  ",
    });
    what(row.out, view);
    row.out.push_str("\n  ");
    open_files(row.out, found.files);
    row.out.push('\n');
    for one in view.found.iter().take(NAMED) {
        out.push_str("    ");
        task(out, &(view.comm)(one.pid), one.pid);
        out.push_str(match one.how {
            How::Open(_) => " has open ",
            _ => " has mapped ",
        });
        escape::terminal(out, &one.path);
        out.push('\n');
    }
    if view.found.len() > NAMED {
        out.push_str("    and ");
        number(out, (view.found.len() - NAMED) as u64);
        out.push_str(" more (--json has all)\n");
    }
}

/// `tmpfs 0:35, root /upper, at /run in mnt 4026531841`.
fn what(out: &mut Text, view: &WritersNow) {
    let mount = view.mount;
    escape::terminal(out, &mount.fs);
    out.push(' ');
    out.push_str(&mount.device.to_string());
    out.push_str(", root ");
    escape::terminal(out, &mount.root);
    if !mount.source.is_empty() && mount.source != mount.fs {
        out.push_str(", of ");
        escape::terminal(out, &mount.source);
    }
    out.push_str(", at ");
    escape::terminal(out, &mount.point);
    out.push_str(" in ");
    namespace(out, Kind::Mnt, view.ns);
}

fn open_files(out: &mut Text, files: Files) {
    out.push_str("open for writing: ");
    if files.least != files.most {
        number(out, files.least as u64);
        out.push_str(" to ");
    }
    number(out, files.most as u64);
    out.push_str(if files.most == 1 { " file" } else { " files" });
}

/// Appends the same as a JSON object on a line.
pub fn writers_now_json(out: &mut Text, view: &WritersNow, mono_ns: u64, clock: &mut Clock) {
    let (mount, found) = (view.mount, &view.unexplained);
    line(out, "writers_now", mono_ns, clock, |object| {
        object.number("mount", mount.id);
        object.some("mount_unique", mount.unique);
        object.signed("writers", found.writers.into());
        object.signed("difference", found.difference());
        object.number("open_least", found.files.least as u64);
        object.number("open_most", found.files.most as u64);
        object.name("fs", &mount.fs);
        object.word("dev", &mount.device.to_string());
        object.name("root", &mount.root);
        object.name("source", &mount.source);
        object.name("point", &mount.point);
        object.number("mnt", view.ns);
        object.objects("files", view.found.iter(), |object, one: &Found| {
            object.number("pid", one.pid);
            object.number("tid", one.tid);
            object.name("comm", &(view.comm)(one.pid));
            match one.how {
                How::Open(fd) => object.number("fd", fd),
                _ => object.flag("mapped"),
            }
            object.name("path", &one.path);
        });
    });
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::mounts::{Names, info};

    fn printed(print: impl Fn(&mut Text, &WritersNow)) -> String {
        let line = b"36 35 0:30 / /a\\040\x1b[2J rw,relatime shared:1 - tmpfs b\x07 rw";
        let mount = info::line(line, &mut Names::default()).expect("a line");
        let found = |how, path: &[u8]| Found {
            pid: 812,
            tid: 813,
            how,
            mount: 36,
            device: mount.device,
            path: path.into(),
        };
        let found = [
            found(How::Open(5), b"/a \x1b[2J/log"),
            found(How::Mapped, b"/a/\xff"),
        ];
        let view = WritersNow {
            mount: &mount,
            ns: 4026531841,
            unexplained: Unexplained {
                writers: 5,
                files: Files { least: 1, most: 2 },
            },
            found: &found,
            comm: &|_| b"ng\rinx".to_vec(),
        };
        let mut out = Text::new();
        print(&mut out, &view);
        String::from_utf8_lossy(out.as_bytes()).into_owned()
    }

    #[test]
    fn what_is_unexplained_in_words() {
        insta::assert_snapshot!(printed(|out, view| writers_now(out, view, false)), @r"
        mount 36 has 5 writers, 3 more than its open files explain
          tmpfs 0:30, root /, of b\x07, at /a \x1b[2J in mnt:4026531841
          open for writing: 1 to 2 files
            ng\x0dinx[812] has open /a \x1b[2J/log
            ng\x0dinx[812] has mapped /a/\xff
        ");
    }

    #[test]
    fn what_is_unexplained_as_json() {
        let text = printed(|out, view| {
            writers_now_json(out, view, 1, &mut Clock::new(TimeZone::UTC));
        });
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["point"], "/a \u{1b}[2J");
        assert_eq!(
            (&json["writers"], &json["difference"]),
            (&5.into(), &3.into())
        );
        assert_eq!(json["files"][0]["fd"], 5);
        assert_eq!(json["files"][1]["mapped"], true);
    }
}
