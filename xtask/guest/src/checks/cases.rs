//! The scripts of docs/cases: each brings its case about, and the output of nstrace in it
//! must have the words that solve the case. What they are, the script says by what it
//! learnt of the machine without nstrace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::{Suite, Verdict};
use crate::harness::report::Report;
use crate::harness::watch::Watch;
use crate::procfs::{self, Procfs};

const PATIENCE: Duration = Duration::from_secs(120);

/// Where the scripts are, and a `nstrace` that comes before the real one.
const DIR: &str = "/run/nstrace-cases";

/// That a script's nstrace traces shows by the option that it begins with. The PATH that
/// is left has the real one.
const NSTRACE: &str = r#"#!/bin/sh
PATH=${PATH#*:}
case $1 in
--*) exec nstrace --attach ATTACH "$@" ;;
*) exec nstrace "$@" ;;
esac
"#;

/// What a script takes for the start of a container takes the time of its system call.
const UNSHARE: &str = r#"#!/bin/sh
PATH=${PATH#*:}
case $* in
"--net true") exec nstrace-guest act timed-net >>TIMES ;;
*) exec unshare "$@" ;;
esac
"#;

/// The lengths of these system calls, in ns, a line each.
const TIMES: &str = "/run/nstrace-cases/times";

struct Case {
    name: &'static str,
    script: &'static str,
    check: fn(&Output, &mut Report) -> Result<()>,
}

const CASES: &[Case] = &[
    Case {
        name: "held-by-descriptor",
        script: include_str!("../../../../docs/cases/held-by-descriptor.sh"),
        check: held_by_descriptor,
    },
    Case {
        name: "netns-left-behind",
        script: include_str!("../../../../docs/cases/netns-left-behind.sh"),
        check: netns_left_behind,
    },
    Case {
        name: "pid-init-died",
        script: include_str!("../../../../docs/cases/pid-init-died.sh"),
        check: pid_init_died,
    },
    Case {
        name: "net-namespaces-used-up",
        script: include_str!("../../../../docs/cases/net-namespaces-used-up.sh"),
        check: net_namespaces_used_up,
    },
    Case {
        name: "slow-container-start",
        script: include_str!("../../../../docs/cases/slow-container-start.sh"),
        check: slow_container_start,
    },
    Case {
        name: "mount-copied",
        script: include_str!("../../../../docs/cases/mount-copied.sh"),
        check: mount_copied,
    },
    Case {
        name: "tmpfs-of-dead-container",
        script: include_str!("../../../../docs/cases/tmpfs-of-dead-container.sh"),
        check: tmpfs_of_dead_container,
    },
    Case {
        name: "mounts-of-every-container",
        script: include_str!("../../../../docs/cases/mounts-of-every-container.sh"),
        check: mounts_of_every_container,
    },
];

/// Each case, one after the other.
pub fn run(suite: &mut Suite) -> Result<Verdict> {
    fs::create_dir_all(DIR)?;
    for (name, script) in [
        ("nstrace", NSTRACE.replace("ATTACH", suite.attach)),
        ("unshare", UNSHARE.replace("TIMES", TIMES)),
    ] {
        let wrapper = format!("{DIR}/{name}");
        fs::write(&wrapper, script)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(TIMES, "")?;
    let mut report = Report::default();
    for case in CASES {
        let mut own = Report::default();
        if let Err(error) = perform(case, &mut own) {
            own.add(format!("{error:#}"));
        }
        report.append(case.name, own);
    }
    Ok(Verdict::Ran(report))
}

fn perform(case: &Case, report: &mut Report) -> Result<()> {
    let path = format!("{DIR}/{}.sh", case.name);
    fs::write(&path, case.script).with_context(|| path.clone())?;
    let path_of_programs = std::env::var("PATH")?;
    let mut command = Command::new("sh");
    command
        .arg(&path)
        .env("PATH", format!("{DIR}:{path_of_programs}"))
        .stdin(Stdio::null());
    let ended = Watch::spawn(command)?.finish(PATIENCE)?;
    report.same("exit code", ended.code, Some(0));
    if ended.code != Some(0) {
        report.add(format!("it said: {}", ended.stderr.join("; ")));
        return Ok(());
    }
    let complaint = |line: &&String| line.starts_with("exit status");
    if let Some(line) = ended.stdout.iter().find(complaint) {
        let said = ended.stderr.join("; ");
        report.add(format!("a command of nstrace failed: {line}: {said}"));
    }
    let output = Output {
        lines: ended.stdout,
    };
    (case.check)(&output, report)
}

/// What a script printed: what it did, and the output of each nstrace below a line
/// `# nstrace …`.
struct Output {
    lines: Vec<String>,
}

impl Output {
    /// What stands for the `{}` in those lines that are as the pattern.
    fn all<const N: usize>(&self, pattern: &str) -> Vec<[&str; N]> {
        let filled = self.lines.iter().filter_map(|line| fill(line, pattern));
        filled.filter_map(|values| values.try_into().ok()).collect()
    }

    /// The same of the first such line.
    fn first<const N: usize>(&self, pattern: &str) -> Result<[&str; N]> {
        let all = self.all(pattern);
        let first = all.into_iter().next();
        first.ok_or_else(|| anyhow!("the script did not print `{pattern}`"))
    }

    /// What a command printed.
    fn of(&self, command: &str) -> &[String] {
        let head = format!("# nstrace {command}");
        let Some(at) = self.lines.iter().position(|line| *line == head) else {
            return &[];
        };
        let rest = &self.lines[at + 1..];
        let end = rest.iter().position(|line| line.starts_with("# nstrace "));
        &rest[..end.unwrap_or(rest.len())]
    }

    /// Reports it unless a line of what the command printed has all of these words.
    fn expect(&self, command: &str, words: &[&str], report: &mut Report) {
        let lines = self.of(command);
        let has_all = |line: &String| words.iter().all(|word| line.contains(word));
        report.check(lines.iter().any(has_all), || {
            let said = lines.join(" / ");
            format!("{command}: no line has {words:?}: {said}")
        });
    }
}

/// What stands in a line for each `{}` of a pattern.
fn fill<'a>(line: &'a str, pattern: &str) -> Option<Vec<&'a str>> {
    let mut parts = pattern.split("{}").peekable();
    let mut rest = line.strip_prefix(parts.next()?)?;
    let mut values = Vec::new();
    while let Some(part) = parts.next() {
        let end = match (part, parts.peek()) {
            ("", None) => rest.len(),
            _ => rest.find(part)?,
        };
        values.push(&rest[..end]);
        rest = &rest[end + part.len()..];
    }
    rest.is_empty().then_some(values)
}

/// The number of our own namespace of a kind, which is that of the scripts.
fn own(kind: &str) -> Result<u32> {
    let link = Procfs::open()?.link(&format!("self/ns/{kind}"))?;
    procfs::inum_of_link(&link).context("a link of another form")
}

/// Whose descriptor, and which.
fn held_by_descriptor(output: &Output, report: &mut Report) -> Result<()> {
    let [inum, fd, pid] = output.first("held: net:[{}] by descriptor {} of process {}")?;
    let name = format!("net:{inum}");
    let holder = format!("descriptor {fd} of sleep[{pid}]");
    output.expect("leaks", &[&name, &holder], report);
    output.expect(&format!("why {name}"), &["held by", &holder], report);
    Ok(())
}

/// The mount, and the mount namespace that it is in.
fn netns_left_behind(output: &Output, report: &mut Report) -> Result<()> {
    let [forgotten, path] = output.first("left behind: net:[{}] at {}")?;
    let [copied, daemon, mnt] = output.first("left behind: net:[{}] in process {}'s mnt:[{}]")?;
    let own = own("mnt")?;
    let forgotten_name = format!("net:{forgotten}");
    let forgotten_mount = format!("bind mount {path} in mnt:{own}");
    let copied_name = format!("net:{copied}");
    let copied_path = path.replace("cni-forgotten", "cni-copied");
    let copied_mount = format!("bind mount {copied_path} in mnt:{mnt}");
    let daemon = format!("sleep[{daemon}]");
    output.expect("leaks", &[&forgotten_name, &forgotten_mount], report);
    output.expect("leaks", &[&copied_name, &copied_mount], report);
    let why = format!("why {forgotten_name}");
    output.expect(&why, &[&forgotten_mount], report);
    // The daemon's mount namespace is the later one, and has a copy of this too.
    let copy = format!("bind mount {path} in mnt:{mnt}");
    output.expect(&why, &[&copy, &daemon], report);
    let why = format!("why {copied_name}");
    output.expect(&why, &[&copied_mount, &daemon], report);
    Ok(())
}

/// Who is left in the namespace, that it has exited, and its parent, whose children
/// would be in the namespace too.
fn pid_init_died(output: &Output, report: &mut Report) -> Result<()> {
    let [init, inum, _] = output.first("init {} of pid:[{}] waits, in state {}")?;
    let [zombie, parent] = output.first("zombie {} waits for its parent {}, which is stopped")?;
    let why = format!("why pid:{inum}");
    output.expect(&why, &[&format!("sleep[{init}]")], report);
    output.expect(&why, &[&format!("sleep[{zombie}]")], report);
    output.expect(&why, &[&format!("nsenter[{parent}]")], report);
    for pid in [init, zombie] {
        let why = format!("why {pid}");
        output.expect(&why, &[&format!("pid:{inum}")], report);
        output.expect(&why, &["has exited"], report);
    }
    Ok(())
}

/// Which limit, and who has the namespaces.
fn net_namespaces_used_up(output: &Output, report: &mut Report) -> Result<()> {
    let failed = ["unshare", "+net", "ENOSPC", "copy_net_ns"];
    output.expect("--failed", &failed, report);
    let user = own("user")?;
    let reason = format!("user.max_net_namespaces is 7 in user:{user}");
    output.expect("--failed", &[&reason], report);

    let tree = output.of("tree");
    let at = |inum: &str| {
        let name = format!("net:{inum}");
        tree.iter().position(|line| line.contains(&name))
    };
    let below = |inum: &str| at(inum).and_then(|at| tree.get(at + 1));
    let in_containers =
        output.all("net:[{}] is that of process {} in /sys/fs/cgroup/docker-{}.scope");
    report.same("namespaces in containers", in_containers.len(), 5);
    for [inum, pid, id] in in_containers {
        let task = format!("sleep[{pid}]");
        report.check(below(inum).is_some_and(|line| line.contains(&task)), || {
            format!("tree: no {task} below net:{inum}: {}", tree.join(" / "))
        });
        let before = &tree[..at(inum).unwrap_or_default()];
        let container = before
            .iter()
            .rev()
            .find_map(|line| line.trim_start().strip_prefix("container "));
        report.check(container.is_some_and(|short| id.starts_with(short)), || {
            format!("tree: net:{inum} is in container {container:?}, not {id}")
        });
    }
    let left = output.all("net:[{}] is at {}");
    report.same("namespaces without a task", left.len(), 2);
    for [inum, path] in left {
        report.check(below(inum).is_some_and(|line| line.contains(path)), || {
            format!("tree: no {path} below net:{inum}: {}", tree.join(" / "))
        });
    }
    Ok(())
}

/// Where the time went: the clock around the system call knows how much it was.
fn slow_container_start(output: &Output, report: &mut Report) -> Result<()> {
    let pattern = "unshare --net true: {} ms before, {} ms meanwhile";
    output.first::<2>(pattern)?;
    let times = fs::read_to_string(TIMES)?;
    let times: Vec<u64> = times.lines().map(str::parse).collect::<Result<_, _>>()?;
    let truth_ms = times.iter().max().map_or(0.0, |ns| *ns as f64 / 1e6);
    let command = "--path --slower-than 10ms";
    let longest_ms = |what: &str| {
        let lines = output.of(command).iter().filter(|line| line.contains(what));
        lines
            .filter_map(|line| milliseconds(line.split_whitespace().last()?))
            .fold(0.0, f64::max)
    };
    let (call_ms, copy_ms) = (longest_ms("unshare(NEWNET)"), longest_ms("copy_net_ns"));
    // A processor may be taken away on the way from the clock into the call, too.
    let is_true = call_ms <= truth_ms && call_ms >= truth_ms * 0.8 - 5.0;
    report.check(is_true && copy_ms >= call_ms / 2.0, || {
        let said = output.of(command).join(" / ");
        format!("of {truth_ms} ms, unshare has {call_ms} and copy_net_ns {copy_ms}: {said}")
    });
    Ok(())
}

/// In which namespace the copy is, who is there, and the command that helps.
fn mount_copied(output: &Output, report: &mut Report) -> Result<()> {
    let [path, device, daemon, inum] = output.first("copied: {} of {} in process {}'s mnt:[{}]")?;
    output.first::<1>("removed: {}")?;
    let step = format!("nsenter -t {daemon} -m umount {path}");
    for asked in [path, device] {
        let command = format!("mounts --who {asked}");
        output.expect(&command, &["1 mount in 1 namespace"], report);
        output.expect(&command, &[&format!("mnt:{inum}")], report);
        output.expect(&command, &[&format!("sleep[{daemon}]")], report);
        output.expect(&command, &[path, "private"], report);
        output.expect(&command, &[&step], report);
    }
    Ok(())
}

/// Which file system, how much memory, and who keeps it.
fn tmpfs_of_dead_container(output: &Output, report: &mut Report) -> Result<()> {
    let [device, agent] = output.first("left: {}, mapped by process {}")?;
    let of = format!("of tmpfs {device}");
    let agent = format!("timeout[{agent}]");
    for command in [
        "mounts --orphans".to_owned(),
        format!("mounts --who {device}"),
    ] {
        let words = ["in no namespace", &of, "mounted nowhere", "M in memory"];
        output.expect(&command, &words, report);
        output.expect(&command, &[&agent, "maps /plugin.so"], report);
        output.expect(&command, &["end them", &agent], report);
    }
    Ok(())
}

/// How many mounts each start copied, and that they stay.
fn mounts_of_every_container(output: &Output, report: &mut Report) -> Result<()> {
    let [few, many] = output.first("mounts here: {} before, {} now")?;
    let [inum, has] = output.first("a container in mnt:[{}] has {}")?;
    report.same("mounts of the container", has, many);
    output.expect("mounts", &[&format!("mnt:{inum}"), has], report);
    let lines = output.of("--path --kind mnt").iter();
    let copied: Vec<usize> = lines.filter_map(|line| copied(line)).collect();
    // With the root of the kernel's own, below that of all others.
    let is_all = |copied: &usize, here: &str| {
        here.parse::<usize>()
            .is_ok_and(|here| (here..=here + 2).contains(copied))
    };
    let is_told = match copied.split_first() {
        Some((first, rest)) => {
            rest.len() == 4 && is_all(first, few) && rest.iter().all(|copied| is_all(copied, many))
        }
        None => false,
    };
    report.check(is_told, || {
        format!("copied, says nstrace: {copied:?}, not {few} and then 4 times {many}")
    });
    Ok(())
}

/// How many mounts a line says that copy_mnt_ns copied.
fn copied(line: &str) -> Option<usize> {
    let (before, _) = line
        .trim_start()
        .strip_prefix("copy_mnt_ns")?
        .split_once(" mounts copied")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// A length as nstrace prints it.
fn milliseconds(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_gives_what_stands_for_its_gaps() {
        let line = "left behind: net:[7] in process 12's mnt:[8]";
        let pattern = "left behind: net:[{}] in process {}'s mnt:[{}]";
        assert_eq!(fill(line, pattern), Some(vec!["7", "12", "8"]));
        assert_eq!(
            fill("net:[7] is at /a b", "net:[{}] is at {}"),
            Some(vec!["7", "/a b"])
        );
        assert_eq!(fill("net:[7] is at /a", "net:[{}] is"), None);
        assert_eq!(fill("net:[7] was at /a", "net:[{}] is at {}"), None);
    }

    #[test]
    fn a_command_has_the_lines_below_its_name() {
        let lines = ["x", "# nstrace tree", "a", "b", "# nstrace leaks", "c"];
        let output = Output {
            lines: lines.map(str::to_owned).to_vec(),
        };
        assert_eq!(output.of("tree"), ["a", "b"]);
        assert_eq!(output.of("leaks"), ["c"]);
        assert!(output.of("why").is_empty());
    }

    #[test]
    fn lengths_are_read() {
        assert_eq!(milliseconds("302ms"), Some(302.0));
        assert_eq!(milliseconds("44.1ms"), Some(44.1));
        assert_eq!(milliseconds("1.5s"), Some(1500.0));
        assert_eq!(milliseconds("net:4026532141"), None);
    }
}
