//! `nstrace mounts` held against what `/proc` says of every mount namespace, after a storm of
//! mounts; by statmount(2), where the kernel has it, and from mountinfo.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Suite, Verdict};
use crate::act::mount_storm::OWN;
use crate::harness::held::Held;
use crate::harness::report::Report;
use crate::harness::watch;
use crate::procfs::{self, Procfs};
use crate::sys;

const PATIENCE: Duration = Duration::from_secs(120);

/// A mount, as mountinfo has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mount {
    id: u64,
    parent: u64,
    device: String,
    root: Vec<u8>,
    point: Vec<u8>,
    fs: Vec<u8>,
    source: Vec<u8>,
    options: Vec<Vec<u8>>,
    super_options: Vec<Vec<u8>>,
    group: u64,
    master: u64,
    from: u64,
    unbindable: bool,
}

/// What nstrace says.
#[derive(Debug, Default)]
struct Said {
    by: String,
    namespaces: BTreeMap<u32, BTreeMap<u64, Mount>>,
    copies: BTreeMap<u64, u64>,
    unique: Vec<u64>,
    ns_ids: Vec<u64>,
    unseen: Vec<u32>,
}

/// The storm, at rest.
struct Storm {
    act: Held,
    book: PathBuf,
}

impl Storm {
    fn start(seed: u64) -> Result<Storm> {
        let book = PathBuf::from(format!("/run/nstrace-mounts-{seed}.book"));
        // It is there only if the tests ran before.
        let _ = fs::remove_dir_all(&book);
        let (seed, shown) = (seed.to_string(), book.to_string_lossy());
        let mut act = Held::start(&["act", "mount-storm", "--seed", &seed, "--book", &shown])?;
        act.wait_for("at rest")?;
        Ok(Storm { act, book })
    }
}

/// Several storms.
pub fn storm(suite: &mut Suite) -> Result<Verdict> {
    if let Some(done) = suite.done_already() {
        return Ok(done);
    }
    let mut report = Report::default();
    for seed in suite.args.seed..suite.args.seed + 3 {
        let storm = Storm::start(seed)?;
        let mut own = Report::default();
        let checked = check(&storm.book, &mut own);
        storm.act.end()?;
        checked?;
        report.append(&format!("seed {seed}"), own);
    }
    Ok(Verdict::Ran(report))
}

/// As many as a host with containers has.
pub fn many(suite: &mut Suite) -> Result<Verdict> {
    if let Some(done) = suite.done_already() {
        return Ok(done);
    }
    let mut report = Report::default();
    let args = ["--dir", "/run/nstrace-many", "--mounts", "1000"];
    let words = ["act", "many-mounts", "--namespaces", "9"];
    let mut act = Held::start(&[&words[..], &args].concat())?;
    act.wait_for("at rest")?;
    let book = PathBuf::from("/run/nstrace-many.book");
    fs::create_dir_all(&book)?;
    let truth = truth(&book, &mut report)?;
    let count = truth.values().map(BTreeMap::len).sum::<usize>();
    report.check(count >= 10_000, || format!("{count} mounts are there"));
    against(&truth, &mounts(&["mounts", "--json"])?, &mut report);
    act.end()?;
    fs::remove_dir(&book)?;
    Ok(Verdict::Ran(report))
}

/// What no process has open, and the kernel says is busy.
pub fn held(suite: &mut Suite) -> Result<Verdict> {
    const DIR: &str = "/run/nstrace-mounts-held";
    if let Some(done) = suite.done_already() {
        return Ok(done);
    }
    let mut report = Report::default();
    fs::create_dir_all(DIR)?;
    sys::mount("held", DIR, "tmpfs", 0)?;
    let (ours, theirs) = sys::packet_pair()?;
    let file = fs::File::create(format!("{DIR}/file"))?;
    sys::send_descriptor(ours.as_fd(), file.as_fd())?;
    drop(file);
    let said = || -> Result<Vec<String>> {
        let done = watch::run(&["mounts", "--who", DIR, "--json"], PATIENCE)?;
        ensure!(done.code == Some(0), "{:?}", done.stderr);
        let mut types = Vec::new();
        for line in &done.stdout {
            let line: Value = serde_json::from_str(line)?;
            let kind = line["type"].as_str().unwrap_or_default();
            if ["use", "held", "below"].contains(&kind) {
                types.push(format!("{kind} {}", line["references"]));
            }
        }
        Ok(types)
    };
    // A mount is not opened to ask about it where that may ask its file system: before v5.12,
    // which some have that are numbered lower.
    let sent = said()?;
    let may_be_unknown = version()? < (5, 12) && sent.is_empty();
    report.check(sent == ["held 1"] || may_be_unknown, || {
        format!("sent: {sent:?}")
    });
    let busy = sys::unmount_unused(DIR).map_err(|error| error.raw_os_error());
    report.same("sent: umount", busy, Err(Some(libc::EBUSY)));
    drop((ours, theirs));
    report.same("closed: uses", said()?, Vec::new());
    sys::unmount_unused(DIR).context("nobody uses it any more")?;
    fs::remove_dir(DIR)?;
    Ok(Verdict::Ran(report))
}

fn check(book: &Path, report: &mut Report) -> Result<()> {
    let truth = truth(book, report)?;
    let said = mounts(&["mounts", "--json"])?;
    let plain = mounts(&["mounts", "--json", "--by", "mountinfo"])?;
    report.same("--by mountinfo", plain.by.as_str(), "mountinfo");
    against(&truth, &said, report);
    let mut own = Report::default();
    against(&truth, &plain, &mut own);
    report.append("--by mountinfo", own);
    ids(&said, report)?;
    copies(&truth, &said, report);
    books(book, &said, report)?;
    Ok(())
}

/// What the kernel says of every namespace: of those with tasks by `/proc`, of others by the
/// storm, which has been in them.
fn truth(book: &Path, report: &mut Report) -> Result<BTreeMap<u32, BTreeMap<u64, Mount>>> {
    let mut truth = BTreeMap::new();
    for entry in fs::read_dir(book)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "mountinfo") {
            let inum = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            truth.insert(inum.context("a number")?, parse(&fs::read(&path)?)?);
        }
    }
    let procfs = Procfs::open()?;
    let mut kernel = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        // What has ended has no namespace; and who has another root sees less.
        let Ok(link) = procfs.link(&format!("{pid}/ns/mnt")) else {
            continue;
        };
        if procfs.link(&format!("{pid}/root")).ok().as_deref() != Some("/") {
            continue;
        }
        let inum = procfs::inum_of_link(&link).context("a link")?;
        let mounts = parse(&fs::read(format!("/proc/{pid}/mountinfo"))?)?;
        if procfs.link(&format!("{pid}/exe")).is_err() {
            kernel.push((inum, mounts));
            continue;
        }
        let before = truth.entry(inum).or_insert_with(|| mounts.clone());
        report.check(*before == mounts, || format!("mnt:{inum} is not at rest"));
    }
    // Threads of the kernel have a root below that of all others, from v7.0; but one has a
    // namespace for itself (devtmpfs).
    for (inum, mounts) in kernel {
        truth.entry(inum).or_insert(mounts);
    }
    Ok(truth)
}

fn against(truth: &BTreeMap<u32, BTreeMap<u64, Mount>>, said: &Said, report: &mut Report) {
    let inums = |all: &BTreeMap<u32, _>| all.keys().copied().collect::<Vec<_>>();
    report.same("namespaces", inums(&said.namespaces), inums(truth));
    report.same("namespaces that are not seen", &said.unseen, &Vec::new());
    for (inum, mounts) in truth {
        let Some(own) = said.namespaces.get(inum) else {
            continue;
        };
        for (id, mount) in mounts {
            match own.get(id) {
                Some(other) if other == mount => {}
                Some(other) => report.add(format!("mnt:{inum}: {other:?}, not {mount:?}")),
                None => report.add(format!("mnt:{inum}: {mount:?} is missing")),
            }
        }
        for (id, mount) in own.iter().filter(|(id, _)| !mounts.contains_key(id)) {
            report.add(format!("mnt:{inum}: {id} is not there: {mount:?}"));
        }
    }
}

/// That of the kernel.
fn version() -> Result<(u32, u32)> {
    let release = Procfs::open()?.text("sys/kernel/osrelease")?;
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let major = numbers.next().context("a version")?;
    Ok((major, numbers.next().unwrap_or(0)))
}

/// The ids that are never used again, where the kernel tells them.
fn ids(said: &Said, report: &mut Report) -> Result<()> {
    let version = version()?;
    let by = if version >= (6, 13) {
        "statmount"
    } else {
        "mountinfo"
    };
    report.same("read by", said.by.as_str(), by);
    let all: usize = said.namespaces.values().map(BTreeMap::len).sum();
    let expected = if version >= (6, 11) { all } else { 0 };
    report.same("unique ids", said.unique.len(), expected);
    let different: BTreeSet<u64> = said.unique.iter().copied().collect();
    report.same("different unique ids", different.len(), expected);
    let namespaces = if version >= (6, 11) {
        said.namespaces.len()
    } else {
        0
    };
    let different: BTreeSet<u64> = said.ns_ids.iter().copied().collect();
    report.same("ids of namespaces", different.len(), namespaces);
    Ok(())
}

/// In how many other namespaces there is a copy: one by one.
fn copies(truth: &BTreeMap<u32, BTreeMap<u64, Mount>>, said: &Said, report: &mut Report) {
    let mut wrong = 0;
    for (inum, mounts) in truth {
        for mount in mounts.values() {
            let is_copy = |other: &Mount| {
                let groups = [mount.group, mount.master];
                let is_tied = [other.group, other.master]
                    .iter()
                    .any(|group| *group != 0 && groups.contains(group));
                (&other.device, &other.root) == (&mount.device, &mount.root)
                    && (other.point == mount.point || is_tied)
            };
            let others = truth.iter().filter(|(other, _)| *other != inum);
            let count = others.filter(|(_, all)| all.values().any(is_copy)).count();
            wrong += usize::from(said.copies.get(&mount.id) != Some(&(count as u64)));
        }
    }
    report.same("mounts whose copies are counted wrongly", wrong, 0);
}

/// What the workers know of their own directories.
fn books(book: &Path, said: &Said, report: &mut Report) -> Result<()> {
    let mut count = 0;
    for entry in fs::read_dir(book)? {
        let path = entry?.path();
        if path.extension().is_none_or(|kind| kind != "own") {
            continue;
        }
        count += 1;
        let inum = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        let inum: u32 = inum.context("a number")?;
        let text = fs::read(&path)?;
        let known: BTreeSet<Vec<u8>> = text
            .split(|byte| *byte == 0)
            .filter(|point| !point.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        let dir = known.first().context("an empty book")?;
        let mounts = said.namespaces.get(&inum).into_iter().flatten();
        let points = mounts.map(|(_, mount)| mount.point.clone());
        let own: BTreeSet<Vec<u8>> = points
            .filter(|point| {
                point
                    .strip_prefix(&**dir)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            })
            .collect();
        report.check(dir.starts_with(OWN.as_bytes()) && own == known, || {
            let show = |points: BTreeSet<&Vec<u8>>| {
                let shown = points
                    .into_iter()
                    .map(|point| point.escape_ascii().to_string());
                shown.collect::<Vec<_>>().join(" ")
            };
            format!(
                "mnt:{inum}: not in the book: {}; in the book alone: {}",
                show(own.difference(&known).collect()),
                show(known.difference(&own).collect())
            )
        });
    }
    report.check(count > 0, || "no worker has a book".to_owned());
    Ok(())
}

/// Reads mountinfo.
fn parse(text: &[u8]) -> Result<BTreeMap<u64, Mount>> {
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mount = parse_line(line).with_context(|| line.escape_ascii().to_string())?;
            Ok((mount.id, mount))
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = words.iter().position(|word| *word == b"-")?;
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u64>().ok();
    let tag = |name: &str| {
        let mut tags = words[6..dash].iter();
        tags.find_map(|word| number(word.strip_prefix(name.as_bytes())?))
    };
    let list = |word: &[u8]| word.split(|byte| *byte == b',').map(octal).collect();
    Some(Mount {
        id: number(words[0])?,
        parent: number(words[1])?,
        device: String::from_utf8(words[2].to_vec()).ok()?,
        root: octal(words[3]),
        point: octal(words[4]),
        options: list(words[5]),
        group: tag("shared:").unwrap_or(0),
        master: tag("master:").unwrap_or(0),
        from: tag("propagate_from:").unwrap_or(0),
        unbindable: words[6..dash].contains(&&b"unbindable"[..]),
        fs: octal(words.get(dash + 1)?),
        source: octal(words.get(dash + 2)?),
        super_options: list(words.get(dash + 3)?),
    })
}

/// Bytes without the escapes of mountinfo.
fn octal(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < word.len() {
        let digits = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                at += 4;
            }
            None => {
                bytes.push(word[at]);
                at += 1;
            }
        }
    }
    bytes
}

/// What nstrace says.
fn mounts(words: &[&str]) -> Result<Said> {
    let ended = watch::run(words, PATIENCE)?;
    ensure!(ended.code == Some(0), "nstrace mounts: {:?}", ended.stderr);
    let mut said = Said::default();
    for line in &ended.stdout {
        let line: Value = serde_json::from_str(line).with_context(|| line.clone())?;
        take(&mut said, &line).with_context(|| format!("not as docs/json.md has it: {line}"))?;
    }
    Ok(said)
}

fn take(said: &mut Said, line: &Value) -> Option<()> {
    let number = |name: &str| line[name].as_u64();
    let inum = |name: &str| u32::try_from(number(name)?).ok();
    match line["type"].as_str()? {
        "mounts" => said.by = line["by"].as_str()?.to_owned(),
        "mount_namespace" => {
            said.namespaces.insert(inum("inum")?, BTreeMap::new());
            said.ns_ids.extend(number("id"));
            if !line["unseen"].is_null() {
                said.unseen.push(inum("inum")?);
            }
        }
        "mount" => {
            let name = |name: &str| Some(bytes(line[name].as_str()?));
            let names = |name: &str| -> Option<Vec<Vec<u8>>> {
                let all = line[name].as_array()?.iter();
                all.map(|one| Some(bytes(one.as_str()?))).collect()
            };
            let id = number("id")?;
            let mount = Mount {
                id,
                parent: number("parent")?,
                device: line["device"].as_str()?.to_owned(),
                root: name("root")?,
                point: name("point")?,
                fs: name("fs")?,
                source: name("source").unwrap_or_default(),
                options: names("options")?,
                super_options: names("super_options")?,
                group: number("peer_group").unwrap_or(0),
                master: number("master").unwrap_or(0),
                from: number("propagate_from").unwrap_or(0),
                unbindable: line["unbindable"] == true,
            };
            said.copies.insert(id, number("copies")?);
            said.unique.extend(number("unique_id"));
            said.namespaces.get_mut(&inum("ns")?)?.insert(id, mount);
        }
        _ => {}
    }
    Some(())
}

/// The bytes of a name in JSON: `\xNN` for one that is not UTF-8, `\\` for a backslash.
fn bytes(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at..];
        let hex = escape.strip_prefix("\\x").and_then(|hex| hex.get(..2));
        let (byte, len) = match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (byte, 4),
            None => (b'\\', 2),
        };
        bytes.push(byte);
        rest = escape.get(len..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_bytes_back() {
        assert_eq!(octal(b"/a\\040b\\134040"), b"/a b\\040");
        assert_eq!(bytes("a\\\\040\\xffb\n"), b"a\\040\xffb\n");
    }

    #[test]
    fn a_line_is_read() {
        let line = b"36 35 8:1 /r /p rw,ro shared:1 master:2 propagate_from:3 - tmpfs  rw,a=b";
        let mount = parse_line(line).unwrap();
        assert_eq!((mount.group, mount.master, mount.from), (1, 2, 3));
        assert_eq!((mount.source.len(), mount.super_options.len()), (0, 2));
    }
}
