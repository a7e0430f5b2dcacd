//! A recording as three tables of Parquet: docs/parquet.md has every column.
//!
//! Every row says of which machine and boot it is, so that files of many recordings can be
//! read as one table, and the id of an operation is one in all of them. A row is written when
//! nothing more will come to be known of it: that of an operation when it has ended, that of
//! a namespace when it has died, or at the end.

mod columns;
mod table;

#[cfg(test)]
mod tests;

use std::io::{self, Write};

use foldhash::HashMap;

use self::{
    columns::{
        Machine, MakerRow, NamespaceRow, OfNamespace, OfOperation, OfStage, OperationRow, StageRow,
    },
    table::{Column, Table},
};
use super::{Context, Export, Ids, Told, living, place, shown};
use crate::{
    event::{Event, Operation},
    explain::Facts,
    trace::Head,
    world::{Change, NsKey},
};

/// The names of the tables, in the order in which they are written to.
pub const TABLES: [&str; 3] = ["operations", "stages", "namespaces"];

/// Writes the tables.
pub struct Parquet<W: Write + Send> {
    tables: [Table<W>; 3],
    operations: Vec<Column<OfOperation>>,
    stages: Vec<Column<OfStage>>,
    namespaces: Vec<Column<OfNamespace>>,
    machine: Machine,
    facts: Facts,
    ids: Ids,
    /// What was to be added for the time of day when what lives came to be known.
    offsets: HashMap<NsKey, i64>,
}

impl<W: Write + Send> Parquet<W> {
    /// Empty tables that go there, as in [`TABLES`].
    pub fn new(out: [W; 3]) -> io::Result<Parquet<W>> {
        let [out_operations, out_stages, out_namespaces] = out;
        let (operations, stages) = (columns::operations(), columns::stages());
        let namespaces = columns::namespaces();
        Ok(Parquet {
            tables: [
                Table::new(out_operations, TABLES[0], &operations)?,
                Table::new(out_stages, TABLES[1], &stages)?,
                Table::new(out_namespaces, TABLES[2], &namespaces)?,
            ],
            operations,
            stages,
            namespaces,
            machine: Machine::default(),
            facts: Facts::NONE,
            ids: Ids::default(),
            offsets: HashMap::default(),
        })
    }

    fn operation(&mut self, op: &Operation, context: &Context) -> io::Result<()> {
        let told = Told::new(op, self.ids.next(), &self.facts, context);
        let row = OperationRow {
            machine: &self.machine,
            told: &told,
            wall_offset_ns: context.wall_offset_ns,
        };
        let [operations, stages, _] = &mut self.tables;
        operations.row(self.operations.iter().map(|column| (column.get)(&row)))?;
        for (at, stage) in told.stages.iter().enumerate() {
            let row = StageRow {
                operation: &row,
                stage,
                at,
            };
            stages.row(self.stages.iter().map(|column| (column.get)(&row)))?;
        }
        Ok(())
    }

    fn namespace(&mut self, key: NsKey, context: &Context) -> io::Result<()> {
        let Some(ns) = context.world.namespace(key) else {
            return Ok(());
        };
        let now = context.wall_offset_ns;
        let then = self.offsets.remove(&key).unwrap_or(now);
        let inum = |key: Option<NsKey>| Some(context.world.namespace(key?)?.inum);
        let maker = ns.maker.as_ref().map(|maker| {
            let (cgroup, container, container_name) = place(maker.cgroup, context);
            MakerRow {
                maker,
                comm: shown(maker.comm()),
                cgroup,
                container,
                container_name,
            }
        });
        let row = NamespaceRow {
            machine: &self.machine,
            ns,
            parent: inum(ns.parent),
            owner: inum(ns.owner),
            wall_offsets_ns: [then, now],
            maker,
        };
        let [_, _, namespaces] = &mut self.tables;
        namespaces.row(self.namespaces.iter().map(|column| (column.get)(&row)))
    }
}

impl<W: Write + Send> Export for Parquet<W> {
    fn head(&mut self, head: &Head) -> io::Result<()> {
        self.ids = Ids::of(head);
        self.machine = Machine {
            host: shown(head.host.as_bytes()),
            boot_id: shown(head.boot_id.as_bytes()),
            kernel: shown(head.kernel.as_bytes()),
        };
        Ok(())
    }

    fn facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    fn changes(&mut self, changes: &[Change], context: &Context) -> io::Result<()> {
        for change in changes {
            match *change {
                Change::Born(ns) | Change::Found(ns) => {
                    self.offsets.insert(ns, context.wall_offset_ns);
                }
                Change::Died { ns, .. } => self.namespace(ns, context)?,
                Change::BirthTold(_)
                | Change::Forgotten(_)
                | Change::Started(_)
                | Change::Exited { .. }
                | Change::Reaped { .. }
                | Change::Joined { .. }
                | Change::Left { .. }
                | Change::Pinned(_)
                | Change::Unpinned(_)
                | Change::Unconfirmed(_)
                | Change::Confirmed(_)
                | Change::Lost(_)
                | Change::Healed(_) => {}
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, context: &Context) -> io::Result<()> {
        match event {
            Event::Op(op) => self.operation(op, context),
            Event::TaskNew(_)
            | Event::TaskExit(_)
            | Event::TaskChange(_)
            | Event::TaskFree(_)
            | Event::Birth(_)
            | Event::Births(_)
            | Event::Death(_)
            | Event::Cgroup(_)
            | Event::Lost(_)
            | Event::Stall(..)
            | Event::MountOp(_)
            | Event::MountBirths(_)
            | Event::SnapshotBegin(_)
            | Event::FoundNamespace(_)
            | Event::FoundTask(_)
            | Event::FoundHolder(_)
            | Event::SnapshotEnd(_)
            | Event::Warning(_)
            | Event::MountDied(_)
            | Event::MountWatched(_)
            | Event::Access(_)
            | Event::Balance(_)
            | Event::Unfiled(_)
            | Event::FoundFree(_) => Ok(()),
        }
    }

    fn finish(&mut self, context: &Context) -> io::Result<()> {
        for (_, key) in living(context.world) {
            self.namespace(key, context)?;
        }
        self.tables.iter_mut().try_for_each(Table::finish)
    }
}
