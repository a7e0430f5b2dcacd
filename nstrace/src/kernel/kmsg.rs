//! Warnings of the kernel about mounts, as they come.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, timeout_at},
};

use super::clock;
use crate::event::Warning;

/// What the kernel writes into its log from now on.
pub struct Log {
    file: AsyncFd<File>,
    /// What it has begun to say.
    begun: Option<Begun>,
}

/// A record has at most so many bytes (kernel/printk/internal.h, `PRINTK_MESSAGE_MAX`).
const RECORD_MAX: usize = 8192;

/// So long after a line no other one of the same warning comes.
const PATIENCE: Duration = Duration::from_secs(2);

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
        Ok(Log {
            file: registered?,
            begun: None,
        })
    }

    /// Waits for a warning about mounts. What was read of one stays if nobody waits any more.
    async fn warning(&mut self) -> io::Result<Warned> {
        let mut record = [0; RECORD_MAX];
        loop {
            let mut ready = match &self.begun {
                None => self.file.readable().await?,
                Some(begun) => match timeout_at(begun.until, self.file.readable()).await {
                    Ok(ready) => ready?,
                    Err(_) => match self.begun.take() {
                        Some(begun) => return Ok(begun.warned),
                        None => continue,
                    },
                },
            };
            match ready.try_io(|fd| fd.get_ref().read(&mut record)) {
                Ok(Ok(len)) => {
                    let line = Line::parse(&record[..len]);
                    if let Some(warned) = line.and_then(|line| take(&mut self.begun, &line)) {
                        return Ok(warned);
                    }
                }
                Ok(Err(error)) if !is_overwritten(&error) => return Err(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }

    /// What is there, without waiting.
    fn rest(&mut self) -> Vec<Warned> {
        let mut record = [0; RECORD_MAX];
        let mut all = Vec::new();
        loop {
            match self.file.get_ref().read(&mut record) {
                Ok(len) => {
                    let line = Line::parse(&record[..len]);
                    all.extend(line.and_then(|line| take(&mut self.begun, &line)));
                }
                Err(error) if is_overwritten(&error) => {}
                Err(_) => break,
            }
        }
        all.extend(self.begun.take().map(|begun| begun.warned));
        all
    }
}

/// Whether records were overwritten before they were read.
fn is_overwritten(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPIPE)
}

/// The warnings that are there at the end.
pub fn rest(log: &mut Option<Log>) -> Vec<Warned> {
    log.as_mut().map(Log::rest).unwrap_or_default()
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
    /// When its first line was read.
    time: u64,
    /// Where in the source.
    place: String,
    /// In which function.
    function: String,
    /// The thread.
    tid: u32,
    /// Its name.
    comm: Vec<u8>,
    /// The functions that led there, a line for each, the innermost first.
    stack: String,
}

/// One that is being told.
struct Begun {
    warned: Warned,
    /// Who tells it, where the kernel says so (`CONFIG_PRINTK_CALLER`).
    caller: Option<String>,
    until: Instant,
    is_in_stack: bool,
}

/// A record of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg) that is the kernel's own.
struct Line<'a> {
    caller: Option<&'a str>,
    text: &'a str,
}

impl Line<'_> {
    fn parse(record: &[u8]) -> Option<Line<'_>> {
        let text = str::from_utf8(record).ok()?;
        let (head, message) = text.split_once(';')?;
        let mut head = head.split(',');
        let priority: u32 = head.next()?.parse().ok()?;
        // Facility 0 is the kernel; who writes into /dev/kmsg has another.
        (priority >> 3 == 0).then_some(())?;
        Some(Line {
            caller: head.find_map(|word| word.strip_prefix("caller=")),
            text: message.lines().next()?,
        })
    }
}

/// Takes a line to what has been begun, or begins with it; gives what is whole by it.
fn take(begun: &mut Option<Begun>, line: &Line) -> Option<Warned> {
    if let Some(warned) = Warned::parse(line.text) {
        let next = Begun {
            warned,
            caller: line.caller.map(str::to_owned),
            until: Instant::now() + PATIENCE,
            is_in_stack: false,
        };
        return begun.replace(next).map(|before| before.warned);
    }
    let own = begun.as_mut()?;
    if own.caller.as_deref() != line.caller {
        return None;
    }
    if line.text.starts_with("---[ end trace ") {
        return begun.take().map(|begun| begun.warned);
    }
    own.take(line.text);
    own.until = Instant::now() + PATIENCE;
    None
}

impl Begun {
    /// Takes what stands behind the first line (lib/dump_stack.c, `dump_stack_print_info`;
    /// arch/x86/kernel/dumpstack.c, `show_trace_log_lvl`):
    ///
    /// ```text
    /// CPU: 0 UID: 0 PID: 183 Comm: umount Not tainted 6.12.118 #1  Debian
    /// Call Trace:
    ///  <TASK>
    ///  ? __warn+0x85/0x140
    ///  task_work_run+0x58/0x90
    /// ```
    ///
    /// What stands behind a `?` is in the stack, and not for sure a caller.
    fn take(&mut self, text: &str) {
        if let Some((_, behind)) = text.split_once(" Comm: ") {
            let end = [" Not tainted ", " Tainted: "].map(|end| behind.rfind(end));
            let end = end.into_iter().flatten().max().unwrap_or(behind.len());
            self.warned.comm = unescaped(&behind[..end]);
            return;
        }
        let text = text.trim_start();
        if text == "Call Trace:" {
            self.is_in_stack = true;
        } else if self.is_in_stack && !text.starts_with(['<', '?']) {
            let function = text.split(' ').next();
            self.is_in_stack = function.is_some_and(|function| function.contains("+0x"));
            if self.is_in_stack {
                self.warned.stack.push('\n');
                self.warned.stack.push_str(text);
            }
        }
    }
}

/// What is no text, and a backslash, stands there as `\x1b` (kernel/printk/printk.c,
/// `append_char`).
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = text.as_bytes();
    while let Some((byte, rest)) = left.split_first() {
        let escaped = rest.strip_prefix(b"x").filter(|_| *byte == b'\\');
        let number = escaped
            .and_then(<[u8]>::first_chunk::<2>)
            .and_then(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok());
        bytes.push(number.unwrap_or(*byte));
        left = if number.is_some() { &rest[3..] } else { rest };
    }
    bytes
}

impl Warned {
    /// The same as an event.
    pub fn event(&self) -> Warning<'_> {
        Warning {
            time: self.time,
            place: self.place.as_bytes(),
            function: self.function.as_bytes(),
            tid: self.tid,
            comm: &self.comm,
            stack: self.stack.as_bytes(),
        }
    }

    /// Reads a line: none if it does not begin such a warning. Up to v6.18 (kernel/panic.c,
    /// `__warn`):
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
    fn parse(text: &str) -> Option<Warned> {
        let (_, message) = text.split_once("WARNING: ")?;
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
            time: clock::monotonic_ns(),
            place: place[from..].to_owned(),
            tid: tid.parse().ok()?,
            comm: Vec::new(),
            stack: function.clone(),
            function,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of Debian's 6.12.118 and 7.3.4; the words of 5.10 and 6.1 are those of 6.12.
    const OLD: &str = "4,734,3134536,-;WARNING: CPU: 0 PID: 183 at fs/namespace.c:1370 \
                       cleanup_mnt+0x130/0x150\n";
    const NEW: &str = "4,812,3693825,-,caller=T144;WARNING: fs/namespace.c:1391 at \
                       cleanup_mnt+0x5b/0x80, CPU#1: umount/144\n SUBSYSTEM=x\n";

    fn parse(record: &str) -> Option<(String, String, u32)> {
        let line = Line::parse(record.as_bytes())?;
        let warned = Warned::parse(line.text)?;
        Some((warned.place, warned.function, warned.tid))
    }

    #[test]
    fn only_the_kernels_own_warnings_about_mounts_count() {
        let warned = |line: u32, function: &str, tid| {
            Some((format!("fs/namespace.c:{line}"), function.to_owned(), tid))
        };
        assert_eq!(parse(OLD), warned(1370, "cleanup_mnt+0x130/0x150", 183));
        assert_eq!(parse(NEW), warned(1391, "cleanup_mnt+0x5b/0x80", 144));
        assert_eq!(
            parse(
                &OLD.replace("0x150", "0x150 [it]")
                    .replace("at fs", "at ./fs")
            ),
            warned(1370, "cleanup_mnt+0x130/0x150 [it]", 183)
        );
        assert_eq!(
            parse(&NEW.replace("umount/", "a/ at b, CPU#7/")),
            warned(1391, "cleanup_mnt+0x5b/0x80", 144)
        );
        let others = [
            OLD.replace("4,734", "12,734"),
            OLD.replace("fs/namespace.c", "net/core/net_namespace.c"),
            NEW.replace("fs/namespace.c", "fs/super.c"),
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

    /// What comes of records, one after the other.
    fn told(records: &[&str]) -> (Vec<Warned>, Option<Warned>) {
        let mut begun = None;
        let lines = records.iter().map(|record| Line::parse(record.as_bytes()));
        let whole = lines.flatten().filter_map(|line| take(&mut begun, &line));
        let whole = whole.collect();
        (whole, begun.map(|begun| begun.warned))
    }

    const REST: [&str; 15] = [
        "4,1,1,-;Modules linked in: evil(OE) Call Trace: x",
        "4,1,1,-;CPU: 0 UID: 0 PID: 183 Comm: a Tainted: \\x1b\\x5c Tainted: G OE 6.12 #1",
        "4,1,1,-;RIP: 0010:cleanup_mnt+0x130/0x150",
        "4,1,1,-;Call Trace:",
        "4,1,1,-; <TASK>",
        "4,1,1,-; ? __warn+0x85/0x140",
        "12,1,1,-; forged+0x1/0x2",
        "4,1,1,-; leak+0x7/0x90 [evil]",
        "4,1,1,-; task_work_run+0x58/0x90",
        "4,1,1,-;RIP: 0033:0x7f3c",
        "4,1,1,-;RSP: 002b:00007ffe",
        "4,1,1,-; late+0x1/0x2",
        "4,1,1,-; </TASK>",
        "4,1,1,-;---[ end trace 0000000000000000 ]---",
        "4,1,1,-; late+0x1/0x2",
    ];

    #[test]
    fn the_task_and_its_stack_stand_behind_a_warning() {
        let records = [&[OLD], &REST[..]].concat();
        let (whole, left) = told(&records);
        let [warned] = &whole[..] else {
            panic!("{whole:?}");
        };
        assert!(left.is_none());
        assert_eq!(warned.comm, b"a Tainted: \x1b\\");
        assert_eq!(
            warned.stack,
            "cleanup_mnt+0x130/0x150\nleak+0x7/0x90 [evil]\ntask_work_run+0x58/0x90"
        );
    }

    #[test]
    fn a_warning_is_not_lost_by_the_next_or_by_others() {
        let others = REST.map(|record| record.replace("-;", "-,caller=T7;"));
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        let records = [&[NEW], &others[..], &[NEW]].concat();
        let (whole, left) = told(&records);
        assert_eq!(whole.len(), 1);
        for warned in whole.iter().chain(&left) {
            assert_eq!((warned.tid, &warned.comm[..]), (144, &b""[..]));
            assert_eq!(warned.stack, "cleanup_mnt+0x5b/0x80");
        }
        assert!(left.is_some());
    }
}
