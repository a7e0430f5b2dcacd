//! What nstrace prints: one line for each event ([`line`]), the call tree of an
//! operation ([`path`]), JSON ([`json`]); and of the tree of namespaces ([`mod@tree`]),
//! what keeps one alive ([`mod@why`]), and what nobody needs ([`mod@leaks`]).
//!
//! All append to a [`Text`] that the caller writes out and uses again: on the way
//! of an event nothing is allocated. What the traced chose goes through [`escape`].

mod clock;
mod color;
mod diff;
mod errno;
pub mod escape;
mod json;
mod leaks;
mod line;
mod mount;
mod mount_op;
mod mounts;
mod out;
mod path;
mod report;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod tree;
mod why;
mod writers;

#[cfg(test)]
mod tests;

use jiff::tz::TimeZone;

use crate::{cgroups::Cgroups, event::Event, explain::Facts, mount_ops::origins::Origin};
pub use clock::Clock;
pub use diff::{Side as DiffSide, diff as diff_text, diff_json};
pub(crate) use errno::name as errno_name;
pub use leaks::{leaks, leaks_json};
pub use mounts::{
    MountsView, WhoView, mount_namespaces, mounts, mounts_json, mounts_json_of, mounts_of,
    mounts_who, mounts_who_json,
};
pub use out::Text;
pub use report::{End, Of, report, report_json};
pub(crate) use text::flag_names;
pub use tree::{Changes, Recent, TreeFilter, TreeView, tree, tree_json, unseen, watch};
pub use why::{NotFound, Target, TargetError, is_there, why, why_json};
pub use writers::{WritersNow, writers, writers_json, writers_now, writers_now_json};

/// What an event is printed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line.
    Line,
    /// An operation as a call tree, everything else as a line.
    Path,
    /// A JSON object on a line: docs/json.md.
    Json,
}

/// What a view needs to know beside the event.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What to add to `CLOCK_MONOTONIC` for the time of day, in ns.
    pub wall_offset_ns: i64,
    /// Paths of cgroups.
    pub cgroups: &'a Cgroups,
    /// What the machine says about a failure; without it, the reason is told from
    /// the record alone.
    pub facts: Option<&'a Facts>,
    /// Where the mount comes from that an operation takes away, if that is known.
    pub origin: Option<&'a Origin>,
    /// Whether to use colours.
    pub color: bool,
    /// Whether text has births of namespaces and threads too. JSON has everything.
    pub all: bool,
}

/// Prints events.
#[derive(Clone, Debug)]
pub struct Printer {
    local: Clock,
    utc: Clock,
}

impl Printer {
    /// Lines have the time of day of `zone`; JSON has UTC.
    pub fn new(zone: TimeZone) -> Printer {
        Printer {
            local: Clock::new(zone),
            utc: Clock::new(TimeZone::UTC),
        }
    }

    /// Appends the names of the columns, if the format has columns.
    pub fn header(&self, format: Format, out: &mut Text, color: bool) {
        match format {
            Format::Line => line::header(out, color),
            Format::Path | Format::Json => {}
        }
    }

    /// Appends an event, whole lines of it. Of some there is nothing to say.
    #[inline]
    pub fn event(&mut self, format: Format, out: &mut Text, event: &Event, view: &View) {
        let clock = match format {
            Format::Line | Format::Path => &mut self.local,
            Format::Json => &mut self.utc,
        };
        clock.set_offset(view.wall_offset_ns);
        match (format, event) {
            (Format::Line, _) => line::event(out, event, view, clock),
            (Format::Path, Event::Op(op)) => path::operation(out, op, view, clock),
            (Format::Path, _) => line::event(out, event, view, clock),
            (Format::Json, _) => json::event(out, event, view, clock),
        }
    }
}
