//! From the clock of the records to the time of day.

use jiff::{Timestamp, tz::TimeZone};

use super::{
    Text,
    out::{Short, three_digits},
};
use crate::trace::Clocks;

const SECOND: u64 = 1_000_000_000;

/// Tells the time of day of a record. It keeps the second that it told last: a
/// look-up of the time zone for each line would cost more than the line.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Time of day minus `CLOCK_MONOTONIC`, in ns,
    offset_ns: i64,
    /// and what it was from then on.
    steps: Clocks,
    zone: TimeZone,
    /// When the second of `text` begins, by `CLOCK_MONOTONIC`; none before the first,
    /// and if the machine started within it.
    begins_ns: Option<u64>,
    /// `YYYY-MM-DDTHH:MM:SS.mmm`, of which the milliseconds are those told last.
    text: [u8; DATE + TIME],
}

/// The length of `YYYY-MM-DDT`.
const DATE: usize = 11;
/// The length of `HH:MM:SS.mmm`
const TIME: usize = 12;
/// That of `mmm`.
const MILLIS: usize = 3;

impl Clock {
    /// A clock that tells the time in `zone`.
    pub fn new(zone: TimeZone) -> Clock {
        Clock {
            offset_ns: 0,
            steps: Clocks::default(),
            zone,
            begins_ns: None,
            text: *b"0000-00-00T00:00:00.000",
        }
    }

    /// Sets what to add to `CLOCK_MONOTONIC` for the time of day, since 1970 in UTC.
    pub fn set_offset(&mut self, offset_ns: i64) {
        if self.offset_ns != offset_ns {
            self.offset_ns = offset_ns;
            self.begins_ns = None;
        }
    }

    /// Sets when that became another.
    pub fn set_steps(&mut self, steps: Clocks) {
        self.steps = steps;
        self.begins_ns = None;
    }

    /// Appends `HH:MM:SS.mmm`.
    #[inline]
    pub fn time_of_day(&mut self, out: &mut Text, mono_ns: u64) {
        let millis = self.tell(mono_ns) / 1_000_000;
        if let Some(place) = self.text.last_chunk_mut() {
            *place = three_digits(millis);
        }
        if let Some(time) = self.text.last_chunk::<TIME>() {
            out.push_padded(time, TIME);
        }
    }

    /// Appends `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ`, as RFC 3339 has it; only right for a
    /// clock that tells UTC.
    pub fn rfc3339(&mut self, out: &mut Text, mono_ns: u64) {
        let nanos = self.tell(mono_ns);
        out.push_ascii(&self.text[..DATE + TIME - MILLIS]);
        out.push_short(Short::new().text("Z").digits(nanos, 9));
    }

    /// Brings `text` to the second of that time, and gives the ns within it.
    #[inline]
    fn tell(&mut self, mono_ns: u64) -> u64 {
        match self
            .begins_ns
            .and_then(|begins| mono_ns.checked_sub(begins))
        {
            Some(nanos) if nanos < SECOND => nanos,
            _ => self.tell_anew(mono_ns),
        }
    }

    #[cold]
    fn tell_anew(&mut self, mono_ns: u64) -> u64 {
        let offset_ns = self.steps.at(mono_ns, self.offset_ns);
        let wall = i128::from(mono_ns) + i128::from(offset_ns);
        let nanos = wall.rem_euclid(SECOND.into()) as u64;
        self.begins_ns = mono_ns.checked_sub(nanos);
        let second = wall.div_euclid(SECOND.into()) as i64;
        // Outside of the years that there are: a record that lies.
        let stamp = Timestamp::from_second(second).unwrap_or_default();
        let time = self.zone.to_datetime(stamp);
        for (at, places, number) in [
            (0, 4, time.year().unsigned_abs()),
            (5, 2, time.month().unsigned_abs().into()),
            (8, 2, time.day().unsigned_abs().into()),
            (11, 2, time.hour().unsigned_abs().into()),
            (14, 2, time.minute().unsigned_abs().into()),
            (17, 2, time.second().unsigned_abs().into()),
        ] {
            let mut digits = Short::new();
            digits.digits(number.into(), places);
            self.text[at..at + digits.len()].copy_from_slice(digits.as_bytes());
        }
        nanos
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use jiff::tz::Offset;

    use super::*;

    fn told(clock: &mut Clock, mono_ns: u64) -> String {
        let mut out = Text::new();
        clock.time_of_day(&mut out, mono_ns);
        out.push(' ');
        clock.rfc3339(&mut out, mono_ns);
        out.to_string()
    }

    #[test]
    fn local_time_and_utc() {
        // date -u -d @1795388475: 2026-11-22 23:01:15
        let mut utc = Clock::new(TimeZone::UTC);
        utc.set_offset(1_795_388_475_000_000_000);
        assert_snapshot!(told(&mut utc, 221_000_007), @"23:01:15.221 2026-11-22T23:01:15.221000007Z");
        assert_snapshot!(told(&mut utc, 999_999_999), @"23:01:15.999 2026-11-22T23:01:15.999999999Z");
        assert_snapshot!(told(&mut utc, 1_000_000_000), @"23:01:16.000 2026-11-22T23:01:16.000000000Z");
        utc.set_offset(-1);
        assert_snapshot!(told(&mut utc, 0), @"23:59:59.999 1969-12-31T23:59:59.999999999Z");
        let mut local = Clock::new(Offset::constant(2).to_time_zone());
        local.set_offset(1_795_388_475_000_000_000);
        assert_snapshot!(told(&mut local, 0), @"01:01:15.000 2026-11-23T01:01:15.000000000Z");
    }

    #[test]
    fn no_time_is_too_far() {
        for (offset, mono) in [(i64::MAX, u64::MAX), (i64::MIN, 0), (i64::MIN, u64::MAX)] {
            let mut clock = Clock::new(TimeZone::UTC);
            clock.set_offset(offset);
            told(&mut clock, mono);
        }
    }
}
