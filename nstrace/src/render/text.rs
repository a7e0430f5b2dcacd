//! The parts that lines and call trees are made of.

use nstrace_common::{
    flags,
    kind::{KINDS, Kind},
    wire::{Op, PidAt},
};

use super::{
    Text,
    color::Style,
    errno, escape,
    out::{Short, Word},
};

/// One line on its way to the terminal: it knows its width without what does not
/// show, so that columns stay aligned whatever was printed in them.
pub(super) struct Row<'o> {
    pub(super) out: &'o mut Text,
    color: bool,
}

impl<'o> Row<'o> {
    /// A line that begins at the end of `out`.
    #[inline]
    pub(super) fn new(out: &'o mut Text, color: bool) -> Row<'o> {
        out.begin_line();
        Row { out, color }
    }

    /// Pads up to a column. What is already there is kept apart by a space, and the
    /// columns after it catch up. Column 0 is where a line begins: nothing is there.
    #[inline]
    pub(super) fn to(&mut self, column: usize) {
        self.out.pad(column, usize::from(column > 0));
    }

    /// Prints so that it ends at a column.
    #[inline]
    pub(super) fn right(&mut self, column: usize, short: &Short) {
        self.to(column.saturating_sub(short.len()));
        self.out.push_short(short);
    }

    /// Prints in a style.
    #[inline]
    pub(super) fn styled(&mut self, style: Style, print: impl FnOnce(&mut Text)) {
        if self.color {
            self.out.push_unseen(style.begin());
        }
        print(self.out);
        if self.color {
            self.out.push_unseen(Style::END);
        }
    }
}

/// Appends a number.
pub(super) fn number(out: &mut Text, number: impl Into<u64>) {
    out.push_short(Short::new().number(number.into()));
}

/// Appends a length of time, as [`short_length`] has it.
#[inline]
pub(super) fn length(out: &mut Text, ns: u64) {
    out.push_short(&short_length(ns));
}

/// A length of time in three digits or so, never more than it was: `9us`, `0.21ms`,
/// `1.84ms`, `1.2s`.
#[inline(always)]
pub(super) fn short_length(ns: u64) -> Short {
    const US: u64 = 1_000;
    const MS: u64 = 1_000 * US;
    const S: u64 = 1_000 * MS;
    const M: u64 = 60 * S;
    const H: u64 = 60 * M;
    let mut short = Short::new();
    let mut parts = |unit, rest, places, point, whole| {
        let rest = short.text(unit).digits(rest, places);
        rest.text(point).number(whole);
    };
    match ns {
        0..US => parts("ns", 0, 0, "", ns),
        US..100_000 => parts("us", 0, 0, "", ns / US),
        100_000..10_000_000 => parts("ms", ns % MS / (MS / 100), 2, ".", ns / MS),
        10_000_000..100_000_000 => parts("ms", ns % MS / (MS / 10), 1, ".", ns / MS),
        100_000_000..S => parts("ms", 0, 0, "", ns / MS),
        S..M => parts("s", ns % S / (S / 10), 1, ".", ns / S),
        M..H => parts("s", ns % M / S, 2, "m", ns / M),
        _ => parts("m", ns % H / M, 2, "h", ns / H),
    }
    short
}

/// Appends the name of a system call.
#[inline]
pub(super) fn op_name(out: &mut Text, op: Op) {
    const NAMES: [Word; Op::ALL.len()] = {
        let mut names = [Word::new(""); Op::ALL.len()];
        let mut at = 0;
        while at < names.len() {
            assert!(Op::ALL[at] as usize == at + 1);
            names[at] = Word::new(Op::ALL[at].name());
            at += 1;
        }
        names
    };
    out.push_word(&NAMES[op as usize - 1]);
}

/// Appends the name of a kind.
#[inline]
pub(super) fn kind_name(out: &mut Text, kind: Kind) {
    const NAMES: [Word; KINDS] = {
        let mut names = [Word::new(""); KINDS];
        let mut at = 0;
        while at < KINDS {
            names[at] = Word::new(Kind::ALL[at].name());
            at += 1;
        }
        names
    };
    out.push_word(&NAMES[kind as usize]);
}

/// Appends `net:4026532281`.
pub(super) fn namespace(out: &mut Text, kind: Kind, inum: u32) {
    kind_name(out, kind);
    out.push_short(Short::new().number(inum.into()).text(":"));
}

/// Appends the name of an errno, or its number.
pub(super) fn error(out: &mut Text, value: i32) {
    match errno::name(value) {
        Some(name) => out.push_str(name),
        None => {
            out.push_str("errno ");
            number(out, value.unsigned_abs());
        }
    }
}

/// Appends a process id as the first pid namespace has it, and those of the
/// namespaces below: `4243 (ns: 1)`.
pub(super) fn chain(out: &mut Text, pids: &[PidAt]) {
    let Some((first, below)) = pids.split_first() else {
        return;
    };
    number(out, first.nr);
    if below.is_empty() {
        return;
    }
    out.push_str(" (ns:");
    for pid in below {
        out.push(' ');
        number(out, pid.nr);
    }
    out.push(')');
}

/// The names of flags, without `CLONE_`.
pub fn flag_names(op: Op, mut flags: u64) -> impl Iterator<Item = &'static str> {
    // The flag of unshare(2) for an empty mount namespace has the value of
    // another one of clone(2): v7.1 include/uapi/linux/sched.h.
    if op == Op::Unshare && flags & flags::UNSHARE_EMPTY_MNTNS != 0 {
        flags = flags & !flags::UNSHARE_EMPTY_MNTNS | flags::CLONE_EMPTY_MNTNS;
    }
    flags::NAMES
        .iter()
        .filter(move |(flag, _)| flags & flag != 0)
        .map(|(_, name)| *name)
}

/// Appends the names of an operation's flags, `NEWNS|NEWPID`.
pub(super) fn flags(out: &mut Text, op: Op, flags: u64) {
    for (i, name) in flag_names(op, flags).enumerate() {
        if i > 0 {
            out.push('|');
        }
        out.push_str(name);
    }
}

/// Appends how many mounts were copied, if any were, behind `before`.
pub(super) fn mounts(out: &mut Text, copied: u32, before: &str) {
    if copied != 0 {
        out.push_str(before);
        number(out, copied);
        out.push_str(if copied == 1 { " mount" } else { " mounts" });
        out.push_str(" copied");
    }
}

/// Appends how a task ended, from what wait(2) gives.
pub(super) fn ending(out: &mut Text, status: u32) {
    match ended(status) {
        Ended::Exit(code) => {
            out.push_str("exit ");
            number(out, code);
        }
        Ended::Signal(signal) => {
            out.push_str("killed by ");
            match usize::try_from(signal).ok().and_then(|at| SIGNALS.get(at)) {
                Some(name) => out.push_str(name),
                None => {
                    out.push_str("signal ");
                    number(out, signal);
                }
            }
        }
    }
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With that code.
    Exit(u32),
    /// By that signal.
    Signal(u32),
}

/// Takes apart what wait(2) gives: include/uapi/asm-generic/…, `WTERMSIG`.
pub(super) fn ended(status: u32) -> Ended {
    match status & 0x7f {
        0 => Ended::Exit(status >> 8 & 0xff),
        signal => Ended::Signal(signal),
    }
}

/// By number, from 0: include/uapi/asm-generic/signal.h, the same on x86 and arm64.
const SIGNALS: [&str; 32] = [
    "0",
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// Appends `by runc[4242]`'s `runc[4242]`.
pub(super) fn task(out: &mut Text, comm: &[u8], pid: u32) {
    escape::terminal(out, comm);
    out.push('[');
    number(out, pid);
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(print: impl FnOnce(&mut Text)) -> String {
        let mut out = Text::new();
        print(&mut out);
        out.to_string()
    }

    #[test]
    fn lengths_have_three_digits_and_never_say_more() {
        for (ns, expected) in [
            (0, "0ns"),
            (999, "999ns"),
            (9_999, "9us"),
            (99_999, "99us"),
            (219_999, "0.21ms"),
            (1_849_000, "1.84ms"),
            (9_999_999, "9.99ms"),
            (12_345_678, "12.3ms"),
            (131_000_000, "131ms"),
            (1_290_000_000, "1.2s"),
            (59_999_999_999, "59.9s"),
            (125_000_000_000, "2m05s"),
            (11_520_000_000_000, "3h12m"),
            (u64::MAX, "5124095h34m"),
        ] {
            assert_eq!(text(|out| length(out, ns)), expected);
        }
    }

    #[test]
    fn numbers_have_all_their_digits() {
        for value in [0, 9, 10, 4_026_531_840, u64::MAX] {
            assert_eq!(text(|out| number(out, value)), value.to_string());
        }
    }

    #[test]
    fn a_status_is_taken_apart() {
        for (status, expected) in [
            (0, "exit 0"),
            (0x100, "exit 1"),
            (0xff00, "exit 255"),
            (9, "killed by SIGKILL"),
            (0x8b, "killed by SIGSEGV"),
            (64, "killed by signal 64"),
        ] {
            assert_eq!(text(|out| ending(out, status)), expected);
        }
    }

    // 0x100000 is CLONE_PARENT_SETTID for clone(2), UNSHARE_EMPTY_MNTNS for unshare(2).
    #[test]
    fn a_flag_is_named_by_the_system_call() {
        assert_eq!(
            text(|out| flags(out, Op::Clone, 0x2010_0000)),
            "NEWPID|PARENT_SETTID"
        );
        assert_eq!(
            text(|out| flags(out, Op::Unshare, 0x10_0000)),
            "EMPTY_MNTNS"
        );
        assert_eq!(text(|out| flags(out, Op::Clone3, 1 << 37)), "EMPTY_MNTNS");
        assert_eq!(text(|out| flags(out, Op::Setns, 0)), "");
    }

    #[test]
    fn columns_catch_up_and_colour_has_no_width() {
        for color in [false, true] {
            let mut out = Text::new();
            out.push_str("kept\n");
            let mut row = Row::new(&mut out, color);
            row.styled(Style::New, |out| out.push('ü'));
            row.to(4);
            row.out.push_str("too long");
            row.to(8);
            row.out.push('|');
            row.right(20, Short::new().text("1.2s"));
            let plain = out
                .to_string()
                .replace(Style::New.begin(), "")
                .replace(Style::END, "");
            assert_eq!(plain, "kept\nü   too long |  1.2s");
        }
    }
}
