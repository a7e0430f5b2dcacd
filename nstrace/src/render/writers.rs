//! Mounts whose write access does not balance, and who is to blame: for people, and as JSON.

mod now;

use nstrace_common::writers::{MountRecord, Site};

use super::{
    Clock, Text, View,
    color::Style,
    escape,
    json::{Object, line},
    mount::{self, signed},
    mount_op,
    text::{Row, number},
};
use crate::{
    event::{Mount, until_nul},
    writers::{Death, Doubt, Guilty, Line, Verdict},
};

pub use now::{WritersNow, writers_now, writers_now_json};

/// So many lines of a ledger are printed for people.
const LINES: usize = 24;

/// Appends what is to be said of a mount that has died with writers, or that lives with such
/// as have no files.
pub fn writers(out: &mut Text, death: &Death, is_dead: bool, view: &View, clock: &mut Clock) {
    clock.set_offset(view.wall_offset_ns);
    let record = &death.mount;
    let mount = Mount {
        record,
        stack: &death.stack,
    };
    let mut row = Row::new(out, view.color);
    if is_dead {
        row.styled(Style::Dim, |out| clock.time_of_day(out, record.head.time));
        row.out.push(' ');
    }
    row.styled(Style::Failed, |out| {
        out.push_str("mount ");
        number(out, record.id);
        out.push_str(if is_dead {
            " died with "
        } else {
            " lives with "
        });
        mount::writers(out, record.count);
    });
    if is_dead {
        row.out.push_str(", in ");
        escape::comm(row.out, &record.comm);
        row.out.push(' ');
        number(row.out, record.pid);
    }
    row.out.push_str("\n  ");
    mount::what(row.out, &mount);
    row.out.push('\n');
    if is_dead && view.origin.is_some() {
        row.out.push_str("  ");
        mount_op::maker(row.out, view.origin, record.head.time);
        row.out.push('\n');
    }
    match &death.verdict {
        None => out.push_str(
            "  it was not watched, or nothing was seen of it: who took and gave back is not known\n",
        ),
        Some(verdict) => self::verdict(out, verdict, is_dead, view),
    }
    if death.is_on_its_way {
        out.push_str(
            "  on its way: as many tasks are in that function now, and may give back still\n",
        );
    }
    if mount.frames().next().is_some() {
        out.push_str("  died in ");
        mount::calls(out, 10, &death.stack);
        out.push('\n');
    }
}

fn verdict(out: &mut Text, verdict: &Verdict, is_dead: bool, view: &View) {
    for guilty in &verdict.guilty {
        blame(out, guilty, is_dead, view);
    }
    if verdict.guilty.is_empty() {
        let mut row = Row::new(out, view.color);
        row.out.push_str("  ");
        row.styled(Style::Reason, |out| {
            out.push_str("which function it was cannot be told; what is known, by stack, is below");
        });
        out.push('\n');
    }
    ledger(out, verdict);
    for doubt in &verdict.doubts {
        out.push_str("  ");
        self::doubt(out, doubt);
        out.push('\n');
    }
    for line in verdict.lines.iter().take(LINES) {
        entry(out, line);
    }
    if verdict.lines.len() > LINES {
        out.push_str("    and ");
        number(out, (verdict.lines.len() - LINES) as u64);
        out.push_str(" stacks more (--json has all)\n");
    }
}

/// Who lives may give back still.
fn blame(out: &mut Text, guilty: &Guilty, is_dead: bool, view: &View) {
    let may_give_back = !is_dead && guilty.balance > 0;
    let mut callers = guilty.path.iter().rev();
    let mut row = Row::new(out, view.color);
    row.out.push_str("  ");
    row.styled(Style::Failed, |out| {
        out.push_str(if may_give_back {
            "holder: "
        } else {
            "guilty: "
        });
        if let Some(function) = callers.next() {
            escape::terminal(out, function);
        }
    });
    row.out.push_str(match guilty.balance {
        _ if may_give_back => " has not given back ",
        1.. => " did not give back ",
        _ => " gave back ",
    });
    number(row.out, guilty.balance.unsigned_abs());
    row.out.push_str(if guilty.balance > 0 {
        " (taken "
    } else {
        " too often (taken "
    });
    signed(row.out, guilty.taken);
    row.out.push_str(", given back ");
    signed(row.out, guilty.given);
    row.out.push_str(")\n");
    if callers.len() > 0 {
        out.push_str("    called by ");
        mount::chain(out, 14, callers.map(Vec::as_slice));
        out.push('\n');
    }
}

fn ledger(out: &mut Text, verdict: &Verdict) {
    out.push_str("  ledger: ");
    if verdict.before != 0 {
        signed(out, verdict.before);
        out.push_str(" before, ");
    }
    out.push_str("taken ");
    number(out, verdict.taken);
    out.push_str(", given back ");
    number(out, verdict.given);
    out.push_str("; files opened for writing ");
    number(out, verdict.opened);
    out.push_str(", closed ");
    number(out, verdict.closed);
    out.push_str(": ");
    signed(out, verdict.sum());
    if verdict.sum() == verdict.count {
        out.push_str(", as the kernel counts\n");
    } else {
        out.push_str(", but the kernel counts ");
        signed(out, verdict.count);
        out.push('\n');
    }
}

fn doubt(out: &mut Text, doubt: &Doubt) {
    match doubt {
        Doubt::Before(..0) => out.push_str("it was unbalanced before it was watched"),
        Doubt::Before(_) => out.push_str(
            "some of it was taken before the mount was watched: by files that were open, or on \
             the way",
        ),
        Doubt::Sum => out.push_str("the ledger is partial: its sum is not the kernel's count"),
        Doubt::Full(count) => {
            accesses(out, *count);
            out.push_str(" of all mounts found no room in the ledger: --stacks makes it larger");
        }
        Doubt::NoStack(count) => {
            accesses(out, *count);
            out.push_str(" without a stack");
        }
        Doubt::Cut(count) => {
            number(out, *count as u64);
            out.push_str(match count {
                1 => " stack is deeper than is kept: its outermost functions are missing",
                _ => " stacks are deeper than is kept: their outermost functions are missing",
            });
        }
        Doubt::Unnamed(count) => {
            number(out, *count as u64);
            out.push_str(match count {
                1 => " stack has functions without names: their module has gone",
                _ => " stacks have functions without names: their modules have gone",
            });
        }
        Doubt::Skipped(count) => {
            out.push_str("the kernel skipped ");
            number(out, *count);
            out.push_str(" runs of the programs that count");
        }
    }
}

fn accesses(out: &mut Text, count: u64) {
    number(out, count);
    out.push_str(if count == 1 { " access" } else { " accesses" });
}

fn entry(out: &mut Text, line: &Line) {
    out.push_str("    ");
    let text = format!("{:>+6}", line.count);
    out.push_str(&text);
    out.push_str("  ");
    let stack = line
        .stack
        .iter()
        .map(|frame| crate::writers::function(frame));
    let calls = std::iter::once(by(line.by).as_bytes()).chain(stack);
    mount::chain(out, 12, calls);
    out.push('\n');
}

/// The function that took or gave back, as newer kernels name it.
fn by(site: Site) -> &'static str {
    match site {
        Site::Take => "take",
        Site::Untake => "take failed",
        Site::Put => "mnt_put_write_access",
        Site::Drop => "mnt_drop_write",
        Site::PutFile => "mnt_put_write_access_file",
        Site::DropFile => "mnt_drop_write_file",
    }
}

/// Appends the same as a JSON object on a line.
pub fn writers_json(out: &mut Text, death: &Death, is_dead: bool, view: &View, clock: &mut Clock) {
    clock.set_offset(view.wall_offset_ns);
    let record: &MountRecord = &death.mount;
    let mount = Mount {
        record,
        stack: &death.stack,
    };
    let kind = if is_dead {
        "mount_death"
    } else {
        "mount_writers"
    };
    line(out, kind, record.head.time, clock, |object| {
        mount::json(object, &mount);
        if death.is_on_its_way {
            object.flag("on_its_way");
        }
        mount_op::maker_json(object, view.origin, record.head.time);
        if is_dead {
            object.number("pid", record.pid);
            object.number("tid", record.tid);
            object.name("comm", until_nul(&record.comm));
            mount::json_stack(object, "stack", &death.stack);
        }
        if let Some(verdict) = &death.verdict {
            super::json::object(object.key("verdict"), |object| {
                json_verdict(object, verdict)
            });
        }
    });
}

fn json_verdict(object: &mut Object, verdict: &Verdict) {
    object.objects(
        "guilty",
        verdict.guilty.iter(),
        |object, guilty: &Guilty| {
            if let Some(function) = guilty.path.last() {
                object.name("function", function);
            }
            object.signed("balance", guilty.balance);
            object.signed("taken", guilty.taken);
            object.signed("given", guilty.given);
            object.names("path", guilty.path.iter().map(Vec::as_slice));
        },
    );
    object.signed("before", verdict.before);
    object.number("taken", verdict.taken);
    object.number("given", verdict.given);
    object.number("opened", verdict.opened);
    object.number("closed", verdict.closed);
    object.signed("sum", verdict.sum());
    object.words("doubts", verdict.doubts.iter().map(json_doubt));
    object.objects("stacks", verdict.lines.iter(), |object, line: &Line| {
        object.signed("count", line.count);
        object.word("by", by(line.by));
        object.names("stack", line.stack.iter().map(Vec::as_slice));
    });
}

fn json_doubt(doubt: &Doubt) -> &'static str {
    match doubt {
        Doubt::Before(_) => "before",
        Doubt::Sum => "sum",
        Doubt::Full(_) => "full",
        Doubt::NoStack(_) => "no_stack",
        Doubt::Cut(_) => "cut",
        Doubt::Unnamed(_) => "unnamed",
        Doubt::Skipped(_) => "skipped",
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::{
        cgroups::Cgroups,
        event::Unfiled,
        writers::{Entry, verdict},
    };

    fn death() -> Death {
        let mut mount = MountRecord::new_zeroed();
        mount.head.time = 83_467_404_000_000;
        (mount.id, mount.count, mount.pid, mount.bits) = (36, -4, 748, 1);
        mount.dev = 30;
        mount.comm[..6].copy_from_slice(b"umount");
        mount.fs[..5].copy_from_slice(b"tmpfs");
        mount.source[..4].copy_from_slice(b"\x1b[2J");
        mount.root[..8].copy_from_slice(b"b\x07\0upper");
        let entry = |site, stack: &[&str], count| Entry {
            site,
            stack: stack
                .iter()
                .map(|frame| frame.as_bytes().to_vec())
                .collect(),
            is_cut: false,
            count,
        };
        let open = ["ovl_maybe_copy_up+0x9 [overlay]", "do_syscall_64+0x1"];
        let entries = [
            entry(
                Site::Take,
                &[&["mnt_want_write+0x1"], &open[..]].concat(),
                9,
            ),
            entry(Site::Drop, &open, 9),
            entry(
                Site::Drop,
                &[&["ovl_copy_up_one+0x2 [overlay]"], &open[..]].concat(),
                4,
            ),
        ];
        Death {
            mount: Box::new(mount),
            stack: b"task_work_run+0x1\ndo_syscall_64+0x2".to_vec(),
            verdict: Some(verdict(entries.iter(), 0, -4, true, &Unfiled::default())),
            is_on_its_way: false,
        }
    }

    fn printed(print: impl Fn(&mut Text, &Death, bool, &View, &mut Clock)) -> String {
        let cgroups = Cgroups::default();
        let view = View {
            wall_offset_ns: 0,
            cgroups: &cgroups,
            facts: None,
            origin: None,
            color: false,
            all: false,
        };
        let mut out = Text::new();
        print(
            &mut out,
            &death(),
            true,
            &view,
            &mut Clock::new(TimeZone::UTC),
        );
        String::from_utf8_lossy(out.as_bytes()).into_owned()
    }

    #[test]
    fn a_verdict_in_words() {
        insta::assert_snapshot!(printed(writers), @r"
        23:11:07.404 mount 36 died with -4 writers, in umount 748
          tmpfs 0:30, root /upper/b\x07, of \x1b[2J, a private clone
          guilty: ovl_copy_up_one [overlay] gave back 4 too often (taken 0, given back 4)
            called by ovl_maybe_copy_up [overlay] < do_syscall_64
          ledger: taken 9, given back 13; files opened for writing 0, closed 0: -4, as the kernel counts
                +9  take < ovl_maybe_copy_up < do_syscall_64
                -9  mnt_drop_write < ovl_maybe_copy_up < do_syscall_64
                -4  mnt_drop_write < ovl_copy_up_one < ovl_maybe_copy_up < do_syscall_64
          died in task_work_run < do_syscall_64
        ");
    }

    #[test]
    fn a_verdict_as_json() {
        let text = printed(writers_json);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["root"], "/upper/b\u{7}");
        assert_eq!(json["writers"], -4);
        assert_eq!(
            json["verdict"]["guilty"][0]["function"],
            "ovl_copy_up_one [overlay]"
        );
        assert_eq!(json["verdict"]["guilty"][0]["balance"], -4);
        assert_eq!(json["verdict"]["stacks"].as_array().map(Vec::len), Some(3));
    }
}
