//! `nstrace export --format html`: a recording as a page.

use std::{io::Write, path::Path};

use anyhow::Context as _;

use super::{
    model::{Model, Replayed},
    output::say,
    recording,
    trouble::{name, unwritten},
};
use crate::{
    export::html::{Known, LeftOut, Limits, Page},
    world::Options,
};

/// Writes it; `name` is what the output is called.
pub fn export(path: &Path, out: &mut dyn Write, name: &str) -> anyhow::Result<()> {
    let limits = Limits::default();
    let mut page = Page::new(limits);
    let each = &mut |model: &Model, replayed: Replayed<'_>| {
        match replayed {
            Replayed::Head(head) => page.head(head, &known(model)),
            Replayed::State(_) => page.state(&known(model)),
            Replayed::Facts(facts) => page.facts(facts.clone()),
            Replayed::Event(event, changes) => {
                if !changes.is_empty() {
                    page.changes(changes);
                }
                page.event(event, &known(model));
            }
            Replayed::Damage(damage) => page.damage(recording::told(damage)),
        }
        Ok(())
    };
    let model = Model::replay(path, Options::default(), each)?;
    let left_out = page
        .write(out, &known(&model), &model.names)
        .map_err(unwritten)
        .with_context(|| name.to_owned())?;
    tell(path, &left_out, &limits);
    Ok(())
}

fn known(model: &Model) -> Known<'_> {
    Known {
        world: &model.world,
        cgroups: &model.cgroups,
        now: model.now(),
    }
}

/// Says what the page does not have.
fn tell(path: &Path, left_out: &LeftOut, limits: &Limits) {
    let name = name(path, "input");
    let LeftOut {
        operations,
        namespaces,
        moves_from_ns,
    } = left_out;
    if *operations > 0 {
        say(&format!(
            "{name}: {operations} operations are left out: a page has the first {} at most",
            limits.operations
        ));
    }
    if *namespaces > 0 {
        say(&format!(
            "{name}: {namespaces} namespaces are left out: a page has the first {} at most",
            limits.namespaces
        ));
    }
    if let Some(ns) = moves_from_ns {
        say(&format!(
            "{name}: from {} s on the page does not say which tasks are where: it has the first \
             {} moves of tasks at most",
            ns / 1_000_000_000,
            limits.moves
        ));
    }
}
