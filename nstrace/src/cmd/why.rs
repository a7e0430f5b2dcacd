//! `nstrace why`: who made a namespace, who is in it, and what keeps it alive.

use std::process::ExitCode;

use super::{
    model::Model,
    output::{self, colored},
};
use crate::{
    cli::Why,
    render::{Text, TreeFilter, why, why_json},
};

/// Takes one look at the machine, and answers.
pub fn run(args: &Why) -> anyhow::Result<ExitCode> {
    let model = Model::of(args.from.as_deref(), args.at.moment.as_ref())?;
    let filter = TreeFilter::default();
    let mut view = model.view(&filter, colored(args.color));
    view.width = output::size().map(|(width, _)| width);
    let mut text = Text::new();
    let answer = match args.json {
        true => why_json(&mut text, &model.world, &args.target, &view),
        false => why(&mut text, &model.world, &args.target, &view),
    };
    answer.map_err(|error| model.absent(error))?;
    output::write(&mut text)?;
    Ok(ExitCode::SUCCESS)
}
