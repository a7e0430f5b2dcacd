//! From the clock of the records to the time of day.

use jiff::{Timestamp, tz::TimeZone};

const SECOND: i128 = 1_000_000_000;

/// Tells the time of day of a record. It keeps the second that it told last: a
/// look-up of the time zone for each line would cost more than the line.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Time of day minus `CLOCK_MONOTONIC`, in ns.
    offset_ns: i64,
    zone: TimeZone,
    second: Option<i64>,
    text: String,
}

impl Clock {
    /// A clock that tells the time in `zone`.
    pub fn new(zone: TimeZone) -> Clock {
        Clock {
            offset_ns: 0,
            zone,
            second: None,
            text: String::new(),
        }
    }

    /// Sets what to add to `CLOCK_MONOTONIC` for the time of day, since 1970 in UTC.
    pub fn set_offset(&mut self, offset_ns: i64) {
        self.offset_ns = offset_ns;
    }

    /// Appends `HH:MM:SS.mmm`.
    pub fn time_of_day(&mut self, out: &mut String, mono_ns: u64) {
        let nanos = self.tell(mono_ns);
        out.push_str(self.text.get(11..19).unwrap_or("??:??:??"));
        out.push('.');
        digits(out, nanos / 1_000_000, 3);
    }

    /// Appends `YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ`, as RFC 3339 has it; only right for a
    /// clock that tells UTC.
    pub fn rfc3339(&mut self, out: &mut String, mono_ns: u64) {
        let nanos = self.tell(mono_ns);
        out.push_str(&self.text);
        out.push('.');
        digits(out, nanos, 9);
        out.push('Z');
    }

    /// Brings `text` to the second of that time, and gives the ns within it.
    fn tell(&mut self, mono_ns: u64) -> u32 {
        let wall = i128::from(mono_ns) + i128::from(self.offset_ns);
        let second = wall.div_euclid(SECOND) as i64;
        if self.second != Some(second) {
            self.second = Some(second);
            // Outside of the years that there are: a record that lies.
            let stamp = Timestamp::from_second(second).unwrap_or_default();
            let time = self.zone.to_datetime(stamp);
            self.text.clear();
            digits(&mut self.text, time.year().unsigned_abs().into(), 4);
            for (sign, number) in [
                ('-', time.month()),
                ('-', time.day()),
                ('T', time.hour()),
                (':', time.minute()),
                (':', time.second()),
            ] {
                self.text.push(sign);
                digits(&mut self.text, number.unsigned_abs().into(), 2);
            }
        }
        wall.rem_euclid(SECOND) as u32
    }
}

fn digits(out: &mut String, number: u32, count: u32) {
    for place in (0..count).rev() {
        let digit = (number / 10u32.pow(place) % 10) as u8;
        out.push(char::from(b'0' + digit));
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use jiff::tz::Offset;

    use super::*;

    fn told(clock: &mut Clock, mono_ns: u64) -> String {
        let mut out = String::new();
        clock.time_of_day(&mut out, mono_ns);
        out.push(' ');
        clock.rfc3339(&mut out, mono_ns);
        out
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
