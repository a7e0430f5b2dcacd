//! A moment of a recording, as people say it: by the clock, from its beginning or from its
//! end.

use std::{str::FromStr, time::Duration};

use jiff::{Timestamp, Zoned, civil, tz::TimeZone};

use crate::trace::{Clocks, Head};

/// A moment of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A time of day: the first such after the beginning.
    Clock(civil::Time),
    /// A day and a time of day, where the reader is.
    Date(civil::DateTime),
    /// The same anywhere.
    At(Timestamp),
    /// So long after the beginning.
    FromStart(Duration),
    /// So long before the end.
    FromEnd(Duration),
}

/// What a moment can be.
const FORMS: &str = "a moment is 12:03:07, 2026-01-31 12:03:07, 2026-01-31T12:03:07Z, +12.5s from \
                     the beginning, or -30s from the end";

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Moment, String> {
        if let Some(length) = text.strip_prefix('+') {
            return Ok(Moment::FromStart(crate::cli::length(length)?));
        }
        if let Some(length) = text.strip_prefix('-') {
            return Ok(Moment::FromEnd(crate::cli::length(length)?));
        }
        let clock = text.parse().map(Moment::Clock);
        // A date with an offset is one without it, too.
        let at = || text.parse().map(Moment::At);
        let date = || text.parse().map(Moment::Date);
        let moment = match text.contains('-') {
            true => at().or_else(|_| date()),
            false => clock,
        };
        moment.map_err(|_| FORMS.to_owned())
    }
}

/// Why a recording has no such moment.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum NoMoment {
    /// It is not known when it ends.
    #[error("when it ends is not known before it has been read: say a moment from its beginning")]
    NoEnd,
    /// It is before its beginning, or behind its end.
    #[error("it has nothing of that moment: it is from {from} to {until} ({len:.1} s)")]
    Outside {
        /// When it begins, as time of day.
        from: String,
        /// When it ends.
        until: String,
        /// How long it is, in seconds.
        len: f64,
    },
}

/// To the second, so that what is printed of both ends of a recording can be said.
const SLACK_NS: i128 = 1_000_000_000;

/// That a clock was set is seen so much later.
const LATE_NS: i128 = 2_000_000_000;

impl Moment {
    /// The moment by `CLOCK_MONOTONIC`, in ns, of a recording that ends then, if that is
    /// known, and whose clock was set at those times; `zone` is that of the reader.
    pub fn resolve(
        &self,
        head: &Head,
        clocks: &Clocks,
        end: Option<u64>,
        zone: &TimeZone,
    ) -> Result<u64, NoMoment> {
        let begin = head.mono_ns;
        let last = end.unwrap_or(u64::MAX / 2).max(begin);
        let shown = Shown {
            clocks,
            ends: [begin, last],
            first: head.wall_offset_ns,
            zone,
        };
        let found = match *self {
            Moment::FromStart(length) => Some(i128::from(begin) + length.as_nanos() as i128),
            Moment::FromEnd(length) => {
                let end = end.ok_or(NoMoment::NoEnd)?;
                Some(i128::from(end) - length.as_nanos() as i128)
            }
            Moment::At(time) => shown.when(time),
            Moment::Date(date) => shown.timestamp(date).and_then(|time| shown.when(time)),
            Moment::Clock(time) => shown.when_clock(time),
        };
        let within = i128::from(begin) - SLACK_NS..=i128::from(last) + SLACK_NS;
        match found.filter(|found| within.contains(found)) {
            Some(found) => Ok(u64::try_from(found).unwrap_or(0).clamp(begin, last)),
            None => {
                let told = |mono: u64| shown.at(mono, clocks.at(mono, shown.first));
                Err(NoMoment::Outside {
                    from: told(begin).strftime("%F %T").to_string(),
                    until: told(last).strftime("%F %T").to_string(),
                    len: (last - begin) as f64 / 1e9,
                })
            }
        }
    }
}

/// What the clock on the wall showed.
struct Shown<'a> {
    clocks: &'a Clocks,
    ends: [u64; 2],
    first: i64,
    zone: &'a TimeZone,
}

impl Shown<'_> {
    fn at(&self, mono: u64, offset: i64) -> Zoned {
        let wall = i128::from(mono) + i128::from(offset);
        let time = Timestamp::from_nanosecond(wall).unwrap_or_default();
        time.to_zoned(self.zone.clone())
    }

    /// When it was not set, and what was added meanwhile.
    fn spans(&self) -> impl Iterator<Item = ([i128; 2], i128)> + Clone {
        let spans = self.clocks.spans(self.ends, self.first);
        spans.map(|(span, offset)| (span.map(i128::from), i128::from(offset)))
    }

    fn when(&self, time: Timestamp) -> Option<i128> {
        self.showed(time).or_else(|| self.near(time))
    }

    /// When it showed this first.
    fn showed(&self, time: Timestamp) -> Option<i128> {
        self.spans().find_map(|([from, until], offset)| {
            let mono = time.as_nanosecond() - offset;
            (from..=until).contains(&mono).then_some(mono)
        })
    }

    /// When it was set from before this to behind it; or what is just before the beginning, or
    /// behind the end.
    fn near(&self, time: Timestamp) -> Option<i128> {
        let wall = time.as_nanosecond();
        let mut sets = self.spans().zip(self.spans().skip(1));
        let set = sets.find_map(|((_, before), ([set, _], after))| {
            (set + before..set + after).contains(&wall).then_some(set)
        });
        let late = self.spans().skip(1).find_map(|([from, _], offset)| {
            let mono = wall - offset;
            (from - LATE_NS..from).contains(&mono).then_some(from)
        });
        let [begin, end] = self.ends.map(i128::from);
        let mono = |(_, offset)| wall - offset;
        let before = self.spans().next().map(mono);
        let behind = self.spans().last().map(mono);
        late.or(set)
            .or(before.filter(|mono| (begin - SLACK_NS..begin).contains(mono)))
            .or(behind.filter(|mono| (end..=end + SLACK_NS).contains(mono)))
    }

    fn timestamp(&self, date: civil::DateTime) -> Option<Timestamp> {
        Some(date.to_zoned(self.zone.clone()).ok()?.timestamp())
    }

    /// When it was that time on a day on which it was begun or set, or on the next.
    fn when_clock(&self, time: civil::Time) -> Option<i128> {
        let spans = self.clocks.spans(self.ends, self.first);
        let days = spans.flat_map(|([from, _], offset)| {
            let day = self.at(from, offset).date();
            [Some(day), day.tomorrow().ok()]
        });
        let times = days
            .flatten()
            .filter_map(|day| self.timestamp(day.to_datetime(time)));
        let showed = times.clone().find_map(|time| self.showed(time));
        showed.or_else(|| times.clone().find_map(|time| self.near(time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From 2026-01-31 23:59:58 UTC on, for a minute.
    fn resolve(text: &str) -> Result<u64, String> {
        resolve_with(text, &Clocks::default())
    }

    /// The same with a clock that was set.
    fn resolve_with(text: &str, clocks: &Clocks) -> Result<u64, String> {
        let start: Timestamp = "2026-01-31T23:59:58Z".parse().unwrap();
        let head = Head {
            mono_ns: 5_000_000_000,
            wall_offset_ns: start.as_nanosecond() as i64 - 5_000_000_000,
            ..Head::default()
        };
        let moment: Moment = text.parse()?;
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let found = moment.resolve(&head, clocks, Some(65_000_000_000), &zone);
        found.map_err(|error| error.to_string())
    }

    #[test]
    fn moments_are_by_the_clock_or_from_an_end() {
        for (text, seconds) in [
            ("+0s", 0.0),
            ("+12.5s", 12.5),
            ("-30s", 30.0),
            ("-1m", 0.0),
            ("00:59:59", 1.0),
            ("01:00:10.25", 12.25),
            ("2026-02-01 01:00:00", 2.0),
            ("2026-02-01T00:00:05Z", 7.0),
            ("2026-02-01T03:00:05+03:00", 7.0),
            // The second in which it begins and ends.
            ("00:59:57.5", 0.0),
            ("01:00:59", 60.0),
        ] {
            let expected = 5_000_000_000 + (seconds * 1e9) as u64;
            assert_eq!(resolve(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn moments_are_by_the_clock_that_was_shown_then() {
        let start: Timestamp = "2026-01-31T23:59:58Z".parse().unwrap();
        let first = start.as_nanosecond() as i64 - 5_000_000_000;
        const S: i64 = 1_000_000_000;
        const HOUR: i64 = 3600 * S;
        // After 10 s it is set an hour ahead, after 20 s back, after 30 s to a year before.
        let mut clocks = Clocks::default();
        for (after, ahead) in [(10, HOUR), (20, 2 * S), (30, -365 * 24 * HOUR)] {
            let time = (5 + after) * S as u64;
            assert!(clocks.set(time, first + ahead, first));
            assert!(!clocks.set(time, first + ahead + S / 2, first));
        }
        for (text, seconds) in [
            ("+12.5s", 12.5),
            ("-30s", 30.0),
            ("01:00:00", 2.0),
            // It skipped this.
            ("01:30:00", 10.0),
            ("02:00:08", 10.0),
            ("02:00:10.5", 12.5),
            // It showed this twice.
            ("01:00:07", 9.0),
            ("2026-02-01 01:00:20", 20.0),
            ("2026-02-01 01:00:22", 22.0),
            ("2025-02-01 01:00:48", 50.0),
            ("01:00:48", 50.0),
            ("2025-02-01 01:00:59", 60.0),
        ] {
            let expected = 5_000_000_000 + (seconds * 1e9) as u64;
            assert_eq!(resolve_with(text, &clocks), Ok(expected), "{text}");
        }
        let outside = "it has nothing of that moment: it is from 2026-02-01 00:59:58 to \
                       2025-02-01 01:00:58 (60.0 s)";
        for text in [
            "2025-06-01 00:00:00",
            "2025-02-01 01:00:20",
            "03:00:00",
            "+2m",
        ] {
            assert_eq!(
                resolve_with(text, &clocks),
                Err(outside.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_it_has_nothing_of_is_told() {
        let outside = "it has nothing of that moment: it is from 2026-02-01 00:59:58 to \
                       2026-02-01 01:00:58 (60.0 s)";
        for text in [
            "+2m",
            "-2m",
            "12:00:00",
            "2026-02-01T12:00:00Z",
            "1999-01-01 00:00:00",
        ] {
            assert_eq!(resolve(text), Err(outside.to_owned()), "{text}");
        }
        for text in [
            "",
            "noon",
            "25:00:00",
            "+",
            "-x",
            "2026-13-01 00:00:00",
            "2026",
        ] {
            assert!(
                resolve(text).is_err_and(|error| error.contains(" is ")),
                "{text}"
            );
        }
    }
}
