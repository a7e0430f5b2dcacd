//! `nstrace leaks`: namespaces that no task is in.

use std::{process::ExitCode, time::Duration};

use super::{
    live::Live,
    model::Model,
    output::{self, colored, say},
    signals::{End, Signals},
};
use crate::{
    cli::Leaks,
    kernel::clock,
    render::{Text, TreeFilter, leaks, leaks_json},
};

/// Looks once; or, if they are to be of some age, traces the kernel for as long.
pub fn run(args: &Leaks) -> anyhow::Result<ExitCode> {
    if args.older_than.is_zero() || args.from.is_some() {
        let model = Model::of(args.from.as_deref(), args.at.moment.as_ref())?;
        let since = (!args.older_than.is_zero()).then(|| model.now().saturating_sub(age(args)));
        return print(args, &model, since);
    }
    super::block_on(wait(args))
}

async fn wait(args: &Leaks) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut live = Live::start(&args.attach, &mut |_, _, _| {})?;
    let began = clock::monotonic_ns();
    let seconds = args.older_than.as_secs_f64();
    say(&format!(
        "how old a namespace is shows in {seconds} s: waiting (Ctrl-C to see what is known)"
    ));
    let end = tokio::time::sleep(args.older_than);
    tokio::pin!(end);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            waited = live.wait() => {
                waited?;
                live.read(&mut |_, _, _| {})?;
            }
            _ = tick.tick() => live.check(&mut |_, _, _| {})?,
            () = &mut end => break,
            end = signals.next() => match end {
                End::Interrupt | End::Terminate => break,
                End::Child => {}
            },
        }
    }
    let model = live.end(&mut |_, _, _| {})?;
    // Those that were there when it began, and those that were born soon enough after.
    let since = clock::monotonic_ns().saturating_sub(age(args)).max(began);
    print(args, &model, Some(since))
}

/// How old they must be, in ns.
fn age(args: &Leaks) -> u64 {
    u64::try_from(args.older_than.as_nanos()).unwrap_or(u64::MAX)
}

const TICK: Duration = Duration::from_millis(250);

fn print(args: &Leaks, model: &Model, since: Option<u64>) -> anyhow::Result<ExitCode> {
    let filter = TreeFilter {
        since,
        ..TreeFilter::default()
    };
    let view = model.view(&filter, colored(args.color));
    let mut text = Text::new();
    match args.json {
        true => leaks_json(&mut text, &model.world, &view),
        false => leaks(&mut text, &model.world, &view),
    }
    output::write(&mut text)?;
    Ok(ExitCode::SUCCESS)
}
