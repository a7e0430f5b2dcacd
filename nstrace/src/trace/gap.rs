//! Where a recording does not go on where what came before it ended.

use nstrace_common::wire::RecordKind;

use super::Head;
use crate::event::Lost;

/// Why what comes next does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// An unknown number of events is missing.
    Missing(Lost),
    /// It is from before.
    Earlier,
    /// It is of another machine, or of another boot: nothing that was known holds any more.
    Boot,
}

/// What has been read, as far as that matters for what comes next.
#[derive(Debug, Default)]
pub(super) struct Past {
    boot: Option<String>,
    /// The latest time; 0 if there is none.
    last: u64,
    /// Since then events may be missing.
    since: Option<u64>,
    /// When it has ended.
    end: Option<u64>,
    /// Whether what comes next begins then.
    goes_on: bool,
}

impl Past {
    /// A head comes next.
    pub fn head(&mut self, head: &Head) -> Option<Gap> {
        let before = self.boot.replace(head.boot_id.clone());
        if before.is_some() && before != self.boot {
            self.skip();
            return Some(Gap::Boot);
        }
        before.as_ref()?;
        self.goes_on = self.end.take() == Some(head.mono_ns);
        self.since.get_or_insert(self.last);
        (head.mono_ns < self.last).then_some(Gap::Earlier)
    }

    /// Something is left out that may have been events.
    pub fn damage(&mut self) {
        (self.end, self.goes_on) = (None, false);
        if self.last > 0 {
            self.since.get_or_insert(self.last);
        }
    }

    /// It ends, at that time.
    pub fn end(&mut self, time: u64) {
        self.end = Some(time);
    }

    /// All that is known at a time comes next.
    pub fn state(&mut self, time: u64) -> Option<Gap> {
        // It goes on where the last has ended.
        self.since = self.since.filter(|_| time != self.last && !self.goes_on);
        self.events([time; 2])
    }

    /// Events come next, from a time to another.
    pub fn events(&mut self, [first, last]: [u64; 2]) -> Option<Gap> {
        if last == 0 {
            return None;
        }
        self.goes_on = false;
        self.last = self.last.max(last);
        let since = self.since.take()?;
        Some(Gap::Missing(Lost {
            time: first.max(since),
            since,
            record: RecordKind::Op,
            count: 0,
        }))
    }

    /// What comes next is of another place in the file, or of another boot.
    pub fn skip(&mut self) {
        (self.since, self.last) = (None, 0);
        (self.end, self.goes_on) = (None, false);
    }
}
