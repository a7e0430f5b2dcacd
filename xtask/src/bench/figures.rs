//! What a guest measured, and the text in which it says so: a line per subject, then
//! pairs of a word and a number (`unshare wall 2707 cpu 2710`).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// What an operation costs, in instructions: with nothing attached, and how much
/// more with the tracer, in the same guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// All that one processor did, with nothing attached.
    pub bare_wall: u64,
    /// What the load and its children did, with nothing attached.
    pub bare_path: u64,
    /// How much more one processor did, for the operation and for the tracer.
    pub more_wall: i64,
    /// How much more the load and its children did.
    pub more_path: i64,
    /// What the tracer's process did; part of `more_wall`.
    pub tracer: u64,
}

/// What a tracer costs by being there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Its instructions until it had attached.
    pub start_cpu: u64,
    /// All instructions until it had attached, and the nanoseconds that it slept.
    pub start_wall: u64,
    /// In memory, 1 s later.
    pub memory_kb: u64,
    /// The operations of the burst.
    pub burst: u64,
    /// How many of them it reported.
    pub reported: u64,
    /// Of how many records it said that they are lost.
    pub lost: u64,
}

/// All figures of one tracer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// fork and wait.
    pub fork: Cost,
    /// unshare(NEWUTS).
    pub unshare: Cost,
    /// Two setns.
    pub setns: Cost,
    /// What it costs besides.
    pub rest: Rest,
}

type Lines<'a> = BTreeMap<&'a str, BTreeMap<&'a str, u64>>;

impl Figures {
    /// Reads what `nstrace-guest bench tracer` prints.
    pub fn parse(text: &str) -> Result<Figures> {
        let lines: Lines = text.lines().map(parse_line).collect::<Result<_>>()?;
        Ok(Figures {
            fork: Cost::find(&lines, "fork")?,
            unshare: Cost::find(&lines, "unshare")?,
            setns: Cost::find(&lines, "setns")?,
            rest: Rest::find(&lines)?,
        })
    }

    /// Each figure's median over the runs; the lower one of two. None of none.
    pub fn medians(runs: &[Figures]) -> Option<Figures> {
        let cost = |of: fn(&Figures) -> Cost| {
            Some(Cost {
                bare_wall: median(runs, |run| of(run).bare_wall)?,
                bare_path: median(runs, |run| of(run).bare_path)?,
                more_wall: median(runs, |run| of(run).more_wall)?,
                more_path: median(runs, |run| of(run).more_path)?,
                tracer: median(runs, |run| of(run).tracer)?,
            })
        };
        Some(Figures {
            fork: cost(|run| run.fork)?,
            unshare: cost(|run| run.unshare)?,
            setns: cost(|run| run.setns)?,
            rest: Rest {
                start_cpu: median(runs, |run| run.rest.start_cpu)?,
                start_wall: median(runs, |run| run.rest.start_wall)?,
                memory_kb: median(runs, |run| run.rest.memory_kb)?,
                burst: median(runs, |run| run.rest.burst)?,
                reported: median(runs, |run| run.rest.reported)?,
                lost: median(runs, |run| run.rest.lost)?,
            },
        })
    }
}

fn median<T: Ord + Copy>(runs: &[Figures], of: impl Fn(&Figures) -> T) -> Option<T> {
    let mut values: Vec<T> = runs.iter().map(of).collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

impl Cost {
    fn find(lines: &Lines, name: &str) -> Result<Cost> {
        // The mean of what it costs before and after is what it would cost between.
        let bare = |word| {
            let before = number(lines, &format!("bare-{name}"), word)?;
            let after = number(lines, &format!("after-{name}"), word)?;
            anyhow::Ok((before + after) / 2)
        };
        let (bare_wall, bare_path) = (bare("wall")?, bare("cpu")?);
        Ok(Cost {
            bare_wall,
            bare_path,
            more_wall: difference(number(lines, name, "wall")?, bare_wall),
            more_path: difference(number(lines, name, "cpu")?, bare_path),
            tracer: number(lines, name, "tracer")?,
        })
    }
}

/// How much more the first is.
pub fn difference(number: u64, than: u64) -> i64 {
    signed(number) - signed(than)
}

/// For a difference or a limit; no figure of ours is near the bound.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Rest {
    fn find(lines: &Lines) -> Result<Rest> {
        Ok(Rest {
            start_cpu: number(lines, "start", "cpu")?,
            start_wall: number(lines, "start", "wall")?,
            memory_kb: number(lines, "memory", "kb")?,
            burst: number(lines, "burst", "done")?,
            reported: number(lines, "burst", "reported")?,
            lost: number(lines, "burst", "lost")?,
        })
    }
}

fn number(lines: &Lines, name: &str, word: &str) -> Result<u64> {
    let pairs = lines
        .get(name)
        .with_context(|| format!("the guest printed no line {name}"))?;
    let number = pairs.get(word).copied();
    number.with_context(|| format!("the guest's line {name} has no {word}"))
}

fn parse_line(line: &str) -> Result<(&str, BTreeMap<&str, u64>)> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let mut pairs = BTreeMap::new();
    while let Some(word) = words.next() {
        match words.next().map(str::parse) {
            Some(Ok(number)) => pairs.insert(word, number),
            Some(Err(_)) | None => bail!("not pairs of a word and a number: {line}"),
        };
    }
    Ok((name, pairs))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// As a guest prints it, with round differences.
    pub const PRINTED: &str = "bare-fork wall 226883 cpu 224142
bare-unshare wall 2707 cpu 2710
bare-setns wall 2853 cpu 2850
start cpu 112617695 wall 135607339
memory kb 9476
fork wall 227583 cpu 224846 tracer 0
unshare wall 5707 cpu 4710 tracer 1000
setns wall 7853 cpu 5850 tracer 2000
after-fork wall 226883 cpu 224142
after-unshare wall 2707 cpu 2710
after-setns wall 2853 cpu 2850
burst done 42000 reported 42000 lost 0
";

    #[test]
    fn a_guests_lines_are_figures() {
        let figures = Figures::parse(PRINTED).unwrap();
        let unshare = Cost {
            bare_wall: 2707,
            bare_path: 2710,
            more_wall: 3000,
            more_path: 2000,
            tracer: 1000,
        };
        assert_eq!(figures.unshare, unshare);
        let rest = figures.rest;
        assert_eq!((rest.start_cpu, rest.memory_kb), (112_617_695, 9476));
        assert_eq!((rest.burst, rest.reported, rest.lost), (42_000, 42_000, 0));
    }

    #[test]
    fn a_figure_that_is_missing_or_no_number_is_an_error() {
        let error = |from: &str, to: &str| {
            let text = PRINTED.replace(from, to);
            Figures::parse(&text).unwrap_err().to_string()
        };
        let line = "bare-setns wall 2853 cpu 2850\n";
        assert_eq!(error(line, ""), "the guest printed no line bare-setns");
        let line = "after-setns wall 2853 cpu 2850\n";
        assert_eq!(error(line, ""), "the guest printed no line after-setns");
        let burst = "the guest's line burst has no lost";
        assert_eq!(error(" lost 0", ""), burst);
        let many = "not pairs of a word and a number: memory kb many";
        assert_eq!(error("kb 9476", "kb many"), many);
        let odd = "not pairs of a word and a number: memory kb";
        assert_eq!(error("kb 9476", "kb"), odd);
    }

    /// A load that costs more each time costs nothing for that.
    #[test]
    fn what_a_load_costs_bare_is_the_mean_of_before_and_after() {
        let text = PRINTED.replace("after-fork wall 226883", "after-fork wall 228283");
        let fork = Figures::parse(&text).unwrap().fork;
        assert_eq!((fork.bare_wall, fork.more_wall), (227_583, 0));
    }

    /// The difference within a guest is what counts, not that of two medians.
    #[test]
    fn medians_are_of_differences() {
        let run = |bare: u64, with: u64| {
            let text = PRINTED
                .replace("-fork wall 226883", &format!("-fork wall {bare}"))
                .replace("\nfork wall 227583", &format!("\nfork wall {with}"));
            Figures::parse(&text).unwrap()
        };
        let runs = [run(1000, 1700), run(2000, 1900), run(3000, 3010)];
        let fork = Figures::medians(&runs).unwrap().fork;
        assert_eq!((fork.bare_wall, fork.more_wall), (2000, 10));
        let two = Figures::medians(&runs[..2]).unwrap().fork;
        assert_eq!((two.bare_wall, two.more_wall), (1000, -100));
        assert_eq!(Figures::medians(&[]), None);
    }
}
