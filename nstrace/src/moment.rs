//! A moment of a recording, as people say it: by the clock, from its beginning or from its
//! end.

use std::{str::FromStr, time::Duration};

use jiff::{Timestamp, civil, tz::TimeZone};

use crate::trace::Head;

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

impl Moment {
    /// The moment by `CLOCK_MONOTONIC`, in ns, of a recording that ends then, if that is
    /// known; `zone` is that of the reader.
    pub fn resolve(&self, head: &Head, end: Option<u64>, zone: &TimeZone) -> Result<u64, NoMoment> {
        let begin = head.mono_ns;
        let wall = |mono: u64| i128::from(mono) + i128::from(head.wall_offset_ns);
        let zoned = |mono: u64| {
            let time = Timestamp::from_nanosecond(wall(mono)).unwrap_or_default();
            time.to_zoned(zone.clone())
        };
        let of_date = |date: civil::DateTime| date.to_zoned(zone.clone());
        let found = match *self {
            Moment::FromStart(length) => wall(begin) + length.as_nanos() as i128,
            Moment::FromEnd(length) => {
                wall(end.ok_or(NoMoment::NoEnd)?) - length.as_nanos() as i128
            }
            Moment::At(time) => time.as_nanosecond(),
            Moment::Date(date) => {
                of_date(date).map_or(i128::MIN, |time| time.timestamp().as_nanosecond())
            }
            Moment::Clock(time) => {
                let began = zoned(begin);
                let days = [
                    began.date(),
                    began.date().tomorrow().unwrap_or(began.date()),
                ];
                // What is said to the second may be the second in which it begins.
                let first = wall(begin) - 1_000_000_000;
                let times = days.map(|day| of_date(day.to_datetime(time)));
                let times = times.into_iter().flatten();
                let mut times = times.map(|time| time.timestamp().as_nanosecond());
                times.find(|time| *time > first).unwrap_or(i128::MIN)
            }
        };
        let last = end.unwrap_or(u64::MAX / 2);
        // To the second, so that what is printed of both ends can be said.
        let slack = 1_000_000_000;
        if found < wall(begin) - slack || found > wall(last) + slack {
            let (from, until) = (zoned(begin), zoned(last));
            return Err(NoMoment::Outside {
                from: from.strftime("%F %T").to_string(),
                until: until.strftime("%F %T").to_string(),
                len: last.saturating_sub(begin) as f64 / 1e9,
            });
        }
        let mono = found - i128::from(head.wall_offset_ns);
        Ok(u64::try_from(mono)
            .unwrap_or(0)
            .clamp(begin, last.max(begin)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From 2026-01-31 23:59:58 UTC on, for a minute.
    fn resolve(text: &str) -> Result<u64, String> {
        let start: Timestamp = "2026-01-31T23:59:58Z".parse().unwrap();
        let head = Head {
            mono_ns: 5_000_000_000,
            wall_offset_ns: start.as_nanosecond() as i64 - 5_000_000_000,
            ..Head::default()
        };
        let moment: Moment = text.parse()?;
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let found = moment.resolve(&head, Some(65_000_000_000), &zone);
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
