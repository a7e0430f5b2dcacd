//! The flight recorder: the last while, in memory, until somebody wants it.

use std::{
    collections::VecDeque,
    io::{self, Write},
    time::{Duration, Instant},
};

use crate::trace::{self, Head};

/// Of the time that is kept, a part begins so often: each with all that is known then.
const PARTS: u32 = 4;

/// More than this is not kept.
const BYTES_MAX: usize = 64 << 20;

/// The last while.
pub struct Flight {
    /// How long it is.
    span: Duration,
    parts: VecDeque<Part>,
}

struct Part {
    begun: Instant,
    /// The head of a recording that begins with it.
    head: Head,
    bytes: Vec<u8>,
}

impl Flight {
    /// Nothing yet.
    pub fn new(span: Duration) -> Flight {
        Flight {
            span,
            parts: VecDeque::new(),
        }
    }

    /// Whether a part is to begin.
    pub fn is_due(&self, now: Instant) -> bool {
        let last = self.parts.back();
        last.is_none_or(|part| now - part.begun >= self.span / PARTS)
    }

    /// Begins a part, and forgets those that are not needed any more.
    pub fn begin(&mut self, now: Instant, head: Head) {
        self.parts.push_back(Part {
            begun: now,
            head,
            bytes: Vec::new(),
        });
        let is_over = |part: &Part| now - part.begun >= self.span;
        while self.parts.get(1).is_some_and(is_over)
            || self.parts.len() > 2 && self.len() > BYTES_MAX
        {
            self.parts.pop_front();
        }
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// How long it is now.
    pub fn age(&self, now: Instant) -> Duration {
        self.parts
            .front()
            .map_or(Duration::ZERO, |part| now - part.begun)
    }

    /// Writes all of it, as a whole recording that ends now (`CLOCK_MONOTONIC`, ns); says how
    /// many bytes.
    pub fn write_to(&self, out: &mut impl Write, now_ns: u64) -> io::Result<u64> {
        let begin = match self.parts.front() {
            Some(part) => trace::begin(&part.head)?,
            None => Vec::new(),
        };
        let end = trace::end(now_ns);
        let parts = self.parts.iter().map(|part| &part.bytes);
        let mut written = 0;
        for bytes in [&begin].into_iter().chain(parts).chain([&end]) {
            out.write_all(bytes)?;
            written += bytes.len() as u64;
        }
        out.flush()?;
        Ok(written)
    }
}

impl Write for Flight {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What comes before the first part is the head, and each has its own.
        if let Some(part) = self.parts.back_mut() {
            part.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// When it is written out.
#[derive(Default)]
pub struct Trigger {
    due: Option<(Instant, String)>,
    quiet_until: Option<Instant>,
}

/// What comes so soon after the reason belongs to it.
const AFTER: Duration = Duration::from_secs(1);

impl Trigger {
    /// There is a reason. What is due already is not changed, and what was written is not
    /// written again.
    pub fn pull(&mut self, now: Instant, why: impl FnOnce() -> String) {
        if self.due.is_none() {
            let soon = now + AFTER;
            let due = self.quiet_until.map_or(soon, |until| until.max(soon));
            self.due = Some((due, why()));
        }
    }

    /// The same for what does not come by itself again and again: it is due soon.
    pub fn pull_now(&mut self, now: Instant, why: String) {
        self.due = Some((now + AFTER, why));
    }

    /// The reason why it is to be written now; `at_end` for one that is not due yet.
    pub fn take(&mut self, now: Instant, at_end: bool, span: Duration) -> Option<String> {
        let is_due = self
            .due
            .as_ref()
            .is_some_and(|(due, _)| at_end || *due <= now);
        if !is_due {
            return None;
        }
        self.quiet_until = Some(now + span);
        self.due.take().map(|(_, why)| why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_kept_covers_the_span_and_little_more() {
        let mut flight = Flight::new(8 * SECOND);
        let begin = Instant::now();
        for second in 0..60_u32 {
            let now = begin + second * SECOND;
            if flight.is_due(now) {
                flight.begin(now, Head::default());
            }
            flight.write_all(&[second as u8]).unwrap();
            let oldest = flight.parts[0].bytes[0];
            let age = u32::from(second as u8 - oldest);
            assert!(age >= second.min(8) && age <= 8 + 2, "{second}: {age}");
        }
    }

    #[test]
    fn reasons_in_a_row_make_one_file_for_each_span() {
        let (mut trigger, begin) = (Trigger::default(), Instant::now());
        let mut written = Vec::new();
        for second in 0..30_u32 {
            let now = begin + second * SECOND;
            trigger.pull(now, || second.to_string());
            written.extend(
                trigger
                    .take(now, false, 10 * SECOND)
                    .map(|why| (second, why)),
            );
        }
        let expected = [(1, "0"), (11, "2"), (21, "12")];
        let expected = expected.map(|(at, why)| (at, why.to_owned()));
        assert_eq!(written, expected);
    }
}
