//! A recording as one page: HTML that shows it without asking anybody for anything.
//!
//! [`Page`] gathers what happens in columns of small differences ([`columns`]), each name
//! once ([`tables`]), and writes them compressed and as base64 into the page, in which no
//! byte of it can be taken for HTML. The page's own part is in `page/`: plain HTML, style
//! and script, which the policy in its head names by their hashes; nothing else runs in it,
//! and nothing is loaded.
//!
//! What it takes to hold is what the page shows: about a hundred bytes for an operation, and
//! up to the [`Limits`].

mod columns;
mod lives;
mod operations;
mod tables;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use base64::{
    engine::{Engine as _, general_purpose::STANDARD},
    write::EncoderWriter,
};
use flate2::{Compression, write::ZlibEncoder};
use nstrace_common::{
    kind::Kind,
    wire::{Op, RecordKind},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use self::lives::Limits;
use self::{
    columns::Column,
    lives::{Around, Lives},
    operations::{Operations, Shared, since},
    tables::shown,
};
use crate::{
    cgroups::Cgroups,
    event::{Event, Lost, Now, Operation, record_name},
    explain::Facts,
    names::Names,
    stages,
    trace::Head,
    world::{Change, World},
};

const HTML: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// One script after the other: the browser has no files to load them from.
const SCRIPTS: [&str; 10] = [
    include_str!("page/data.js"),
    include_str!("page/text.js"),
    include_str!("page/query.js"),
    include_str!("page/lanes.js"),
    include_str!("page/timeline.js"),
    include_str!("page/tree.js"),
    include_str!("page/lengths.js"),
    include_str!("page/details.js"),
    include_str!("page/table.js"),
    include_str!("page/page.js"),
];

/// At most so many losses, operations that hang, and damaged places are told one by one.
const NOTES: usize = 1000;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            operations: 1_000_000,
            namespaces: 2_000_000,
            moves: 4_000_000,
        }
    }
}

/// What is known beside the events.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The tree, with the event applied.
    pub world: &'a World,
    /// Paths of cgroups.
    pub cgroups: &'a Cgroups,
    /// The latest time of an event.
    pub now: u64,
}

/// What a page does not have, because it would be too large.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// So many operations.
    pub operations: u64,
    /// So many namespaces.
    pub namespaces: u64,
    /// Where tasks were, from this many ns after the beginning on.
    pub moves_from_ns: Option<i64>,
}

/// Records that did not get through, in ns since the beginning.
#[derive(Clone, Copy, Debug)]
struct Loss {
    from: i64,
    until: i64,
    record: RecordKind,
    count: u64,
}

/// What happened, gathered.
#[derive(Clone, Debug)]
pub struct Page {
    limits: Limits,
    head: Head,
    /// The time that times are told from.
    base: Option<i64>,
    /// The time of day at which it began, in ns.
    wall_ns: i128,
    /// The latest time of an event.
    now: u64,
    facts: Facts,
    changes: Vec<Change>,
    operations: Operations,
    lives: Lives,
    shared: Shared,
    operations_len: u64,
    failed: u64,
    lost: Vec<Loss>,
    stalls: Vec<Value>,
    damages: Vec<String>,
    damages_len: u64,
}

impl Page {
    /// Nothing has happened.
    pub fn new(limits: Limits) -> Page {
        Page {
            limits,
            head: Head::default(),
            base: None,
            wall_ns: 0,
            now: 0,
            facts: Facts::NONE,
            changes: Vec::new(),
            operations: Operations::new(),
            lives: Lives::new(limits),
            shared: Shared::default(),
            operations_len: 0,
            failed: 0,
            lost: Vec::new(),
            stalls: Vec::new(),
            damages: Vec::new(),
            damages_len: 0,
        }
    }

    /// Where it was recorded. Several recordings may stand behind each other: of one boot
    /// what was between them is lost, another boot begins with nothing.
    pub fn head(&mut self, head: &Head, known: &Known) {
        let wall_ns = i128::from(head.mono_ns) + i128::from(head.wall_offset_ns);
        let mono_ns = i64::try_from(head.mono_ns).unwrap_or(i64::MAX);
        match self.base {
            None => {
                self.base = Some(mono_ns);
                self.wall_ns = wall_ns;
                self.head = head.clone();
            }
            Some(_) if self.head.boot_id == head.boot_id => self.lost(&Lost {
                time: head.mono_ns,
                since: self.now,
                record: RecordKind::Op,
                count: 0,
            }),
            Some(_) => {
                // The clock began anew: what tells how long it was is the time of day.
                let pause = (wall_ns - self.wall_ns).clamp(0, i64::MAX.into()) as i64;
                self.base = Some(mono_ns.saturating_sub(pause));
                self.head.boot_id.clone_from(&head.boot_id);
                self.damage("another boot of the machine follows: nothing goes on".to_owned());
                self.state(known);
            }
        }
        self.now = head.mono_ns;
    }

    /// What is known from here on is not what came before.
    pub fn state(&mut self, known: &Known) {
        let around = self.around(known, 0);
        self.lives.restore(&around, &mut self.shared);
        self.now = known.now;
    }

    fn around<'a>(&self, known: &Known<'a>, op: u32) -> Around<'a> {
        let now = i64::try_from(known.now).unwrap_or(i64::MAX);
        Around {
            world: known.world,
            cgroups: known.cgroups,
            base: self.base.unwrap_or(now),
            now: known.now,
            op,
        }
    }

    /// What the machine said about failures that come next.
    pub fn facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// A part of the recording could not be read.
    pub fn damage(&mut self, what: String) {
        self.damages_len += 1;
        if self.damages.len() < NOTES {
            self.damages.push(what);
        }
    }

    /// What the event that comes next has changed.
    pub fn changes(&mut self, changes: &[Change]) {
        self.changes.extend(changes);
    }

    /// Adds an event.
    pub fn event(&mut self, event: &Event, known: &Known) {
        let time = event.time().unwrap_or(known.now);
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        let base = *self.base.get_or_insert(time);
        let mut op = 0;
        match event {
            Event::Op(operation) => op = self.operation(operation, base, known),
            Event::Lost(lost) => self.lost(lost),
            Event::Stall(operation, now) => self.stall(operation, *now, base),
            _ => {}
        }
        let around = self.around(known, op);
        self.now = known.now;
        self.lives
            .add(event, &self.changes, &around, &mut self.shared);
        self.changes.clear();
    }

    /// The place of an operation, from 1 on; 0 if it is left out.
    fn operation(&mut self, op: &Operation, base: i64, known: &Known) -> u32 {
        self.operations_len += 1;
        self.failed += u64::from(op.errno().is_some());
        if self.operations.len >= self.limits.operations {
            return 0;
        }
        self.operations
            .add(op, base, &mut self.shared, known.cgroups, &self.facts);
        self.operations.len
    }

    fn lost(&mut self, lost: &Lost) {
        let base = self.base.unwrap_or(0);
        let until = since(lost.time, base);
        let loss = Loss {
            from: since(lost.since, base).clamp(0, until.max(0)),
            until,
            record: lost.record,
            count: lost.count,
        };
        // Too many to tell one by one become one that is as long as all of them.
        let is_like = |known: &&mut Loss| known.record == loss.record;
        let is_few = self.lost.len() < NOTES;
        let last = self.lost.iter_mut().rev().find(is_like);
        match (is_few, last) {
            (false, Some(last)) => {
                last.until = last.until.max(loss.until);
                last.count = last.count.saturating_add(loss.count);
            }
            _ => self.lost.push(loss),
        }
    }

    fn stall(&mut self, op: &Operation, now: Now, base: i64) {
        if self.stalls.len() >= NOTES {
            return;
        }
        let stage = stages::in_stage(op).map(|(function, _)| function.name());
        self.stalls.push(json!({
            "time": since(now.time, base),
            "start": since(op.record.start, base),
            "op": op.op.name(),
            "pid": op.record.pid,
            "comm": shown(op.comm()),
            "stage": stage,
        }));
    }

    /// Writes the page.
    pub fn write(
        mut self,
        out: &mut dyn Write,
        known: &Known,
        names: &Names,
    ) -> io::Result<LeftOut> {
        let around = self.around(known, 0);
        let left_out = LeftOut {
            operations: self.operations_len - u64::from(self.operations.len),
            namespaces: self.lives.left_out,
            moves_from_ns: self.lives.moves_until,
        };
        let is_part = self.lives.is_part();
        let lives = std::mem::replace(&mut self.lives, Lives::new(self.limits));
        let lives = lives.columns(&around, &mut self.shared);
        let mut columns = self.operations.columns();
        columns.extend(&lives);
        let facts = Facing {
            around: &around,
            names,
            left_out,
            is_part,
        };
        let tables = self.tables(&facts, &columns);
        page(out, |out| data(out, &tables, &columns))?;
        Ok(left_out)
    }

    /// Everything that is not a column.
    fn tables(&self, facing: &Facing, columns: &[&Column]) -> Value {
        let around = facing.around;
        let lost = self.lost.iter().map(|loss| {
            let record = record_name(loss.record);
            json!([loss.from, loss.until, record, loss.count])
        });
        let comms = self.shared.comms.in_order().into_iter();
        // By their discriminants, of which none is 0.
        let ops = [""].into_iter().chain(Op::ALL.map(Op::name));
        json!({
            "head": {
                "nstrace": shown(self.head.nstrace.as_bytes()),
                "host": shown(self.head.host.as_bytes()),
                "kernel": shown(self.head.kernel.as_bytes()),
                "arch": shown(self.head.arch.as_bytes()),
                "command": self.head.command.iter().map(|word| shown(word.as_bytes())).collect::<Value>(),
                "mono_ns": self.head.mono_ns.to_string(),
                "wall_ns": self.wall_ns.to_string(),
            },
            "span": since(around.now, around.base).max(0),
            "operations": self.operations_len,
            "failed": self.failed,
            "kept": self.operations.len,
            "left_out": {
                "operations": facing.left_out.operations,
                "namespaces": facing.left_out.namespaces,
                "moves_from": facing.left_out.moves_from_ns,
            },
            "is_part": facing.is_part,
            "damages": self.damages,
            "damages_len": self.damages_len,
            "lost": lost.collect::<Value>(),
            "stalls": self.stalls,
            "kinds": Kind::ALL.map(Kind::name),
            "ops": ops.collect::<Value>(),
            "comms": comms.map(|comm| shown(comm)).collect::<Value>(),
            "cgroups": self.shared.cgroups.json(facing.names),
            "tables": self.operations.tables(),
            "columns": columns.iter().map(|column| column.description()).collect::<Value>(),
        })
    }
}

/// What the page is told beside what was gathered.
struct Facing<'a> {
    around: &'a Around<'a>,
    names: &'a Names,
    left_out: LeftOut,
    is_part: bool,
}

/// The tables as JSON behind their length, then the columns.
fn data(out: &mut dyn Write, tables: &Value, columns: &[&Column]) -> io::Result<()> {
    let mut base64 = EncoderWriter::new(out, &STANDARD);
    let mut deflate = ZlibEncoder::new(&mut base64, Compression::default());
    let tables = serde_json::to_vec(tables)?;
    let len = u32::try_from(tables.len()).map_err(|_| {
        io::Error::other("the names in it are longer than 4 GiB, which a page cannot hold")
    })?;
    deflate.write_all(&len.to_le_bytes())?;
    deflate.write_all(&tables)?;
    for column in columns {
        deflate.write_all(column.bytes())?;
    }
    deflate.finish()?;
    base64.finish()?;
    Ok(())
}

/// Fills the parts into the page.
fn page(
    out: &mut dyn Write,
    data: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let script = SCRIPTS.concat();
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; \
         form-action 'none'",
        hash(&script),
        hash(STYLE)
    );
    let mut data = Some(data);
    let mut rest = HTML;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (name, behind) = behind.split_once("}}").unwrap_or((behind, ""));
        out.write_all(before.as_bytes())?;
        match name {
            "policy" => out.write_all(policy.as_bytes())?,
            "style" => out.write_all(STYLE.as_bytes())?,
            "script" => out.write_all(script.as_bytes())?,
            "data" => data.take().map_or(Ok(()), |data| data(out))?,
            _ => {}
        }
        rest = behind;
    }
    out.write_all(rest.as_bytes())
}

/// Names an inline part in a policy.
fn hash(part: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(part)))
}
