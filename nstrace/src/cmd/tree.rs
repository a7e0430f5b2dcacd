//! `nstrace tree`: all namespaces of the machine, at one moment or as they change.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;
use tokio::time::MissedTickBehavior;

use super::{
    child::Child,
    live::Live,
    model::Model,
    output::{self, colored, say},
    signals::{Signals, end_of},
};
use crate::{
    cli::Tree,
    engines::{Engines, Feed},
    kernel::clock,
    names::Names,
    render::{
        Changes, NotFound, Recent, Target, Text, TreeFilter, is_there, tree, tree_json, watch,
    },
};

/// Prints the tree; with `--watch` until a signal, with a command when it has ended.
pub fn run(args: Tree) -> anyhow::Result<ExitCode> {
    if !args.watch && args.run.is_empty() {
        let model = Model::of(args.from.as_deref(), args.at.moment.as_ref())?;
        check_there(&args, &model).map_err(|error| model.absent(error))?;
        print(&args, &model, &mut Text::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    let child = Child::of(&args.run)?;
    super::block_on(follow(args, child))
}

/// An error if what the filters ask for is not there.
fn check_there(args: &Tree, model: &Model) -> Result<(), NotFound> {
    let filter = TreeFilter::default();
    let view = model.view(&filter, false);
    let pid = args.filters.pid.map(Target::Process);
    let container = args.filters.container.clone().map(Target::Container);
    let mut targets = pid.into_iter().chain(container);
    targets.try_for_each(|target| is_there(&model.world, &target, &view))
}

/// Prints the tree as it is.
fn print(args: &Tree, model: &Model, text: &mut Text) -> anyhow::Result<()> {
    let filter = args.filters.filter();
    let mut view = model.view(&filter, colored(args.color));
    if args.json {
        tree_json(text, &model.world, &view);
    } else {
        view.width = output::size().map(|(width, _)| width);
        tree(text, &model.world, &view);
    }
    output::write(text)
}

async fn follow(args: Tree, mut child: Option<Child>) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut live = Live::start(&args.attach, &mut |_, _, _| {})?;
    let mut feed = Feed::start(Engines::new());
    let mut names = Names::default();
    let mut show = Show::new(&args)?;
    show.first(&live.model)?;
    say_ready(&show);
    if let Some(child) = &mut child {
        child.start()?;
    }
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut status, mut asked) = (None, false);
    while status.is_none() {
        tokio::select! {
            waited = live.wait() => {
                waited?;
                live.read(&mut |model, changes, time| show.changed(model, changes, time))?;
            }
            () = feed.next(&mut names) => {
                feed.drain(&mut names);
                live.model.names.clone_from(&names);
                show.is_stale = true;
            }
            _ = tick.tick() => {
                live.check(&mut |model, changes, time| show.changed(model, changes, time))?;
                want_names(&mut feed, &live.model);
            }
            end = signals.next() => status = end_of(end, child.as_ref(), &mut asked)?,
        }
        show.flush(&live.model)?;
    }
    if let Some(child) = child {
        live.reap(
            child.pid,
            &mut |_, _| Ok(()),
            &mut |model, changes, time| show.changed(model, changes, time),
        )
        .await?;
    }
    let model = live.end(&mut |model, changes, time| show.changed(model, changes, time))?;
    show.last(&model)?;
    if model.lost > 0 {
        say(&lost(&model));
    }
    Ok(status.unwrap_or(ExitCode::SUCCESS))
}

fn lost(model: &Model) -> String {
    let Model { lost, skipped, .. } = model;
    let mut text = format!("{lost} records were lost, and the machine was looked at again");
    if skipped < lost {
        text += ": a larger --ring-size holds more";
    }
    if *skipped > 0 {
        text += &format!("; {skipped} of them because the kernel skipped a program");
    }
    text
}

/// How often a screen is drawn anew at most, and what cannot be waited for looked at.
const TICK: Duration = Duration::from_millis(250);

/// On a terminal that is drawn on, it would be drawn over.
fn say_ready(show: &Show) {
    if !matches!(show.how, How::Screen(_)) {
        say("ready");
    }
}

/// Asks for the names of the containers that there are.
fn want_names(feed: &mut Feed, model: &Model) {
    for (_, task) in model.world.tasks() {
        if let Some(id) = model.cgroups.container(task.cgroup)
            && model.names.get(id).is_none()
        {
            feed.want(id);
        }
    }
}

/// How the tree is shown while it changes.
struct Show<'a> {
    args: &'a Tree,
    filter: TreeFilter,
    color: bool,
    how: How,
    text: Text,
    /// Whether what is on the screen is not as it is any more.
    is_stale: bool,
}

enum How {
    /// Not before the end.
    Quiet,
    /// A line for each change.
    Lines(Box<Changes>),
    /// One screen, drawn anew.
    Screen(Box<(Recent, Screen)>),
}

impl<'a> Show<'a> {
    fn new(args: &'a Tree) -> anyhow::Result<Show<'a>> {
        let how = match args.watch {
            false => How::Quiet,
            true if args.json || !io::stdout().is_terminal() => {
                How::Lines(Box::new(Changes::new(args.json, TimeZone::system())))
            }
            true => How::Screen(Box::new((Recent::default(), Screen::open()?))),
        };
        Ok(Show {
            args,
            filter: args.filters.filter(),
            color: colored(args.color),
            how,
            text: Text::new(),
            is_stale: true,
        })
    }

    /// The tree as it was found.
    fn first(&mut self, model: &Model) -> anyhow::Result<()> {
        match &mut self.how {
            How::Quiet => Ok(()),
            How::Lines(changes) => {
                changes.remember(&model.world);
                print(self.args, model, &mut self.text)
            }
            How::Screen(_) => self.flush(model),
        }
    }

    fn changed(&mut self, model: &Model, changes: &[crate::world::Change], time: u64) {
        let mut view = model.view(&self.filter, self.color);
        view.now_ns = time;
        match &mut self.how {
            How::Quiet => {}
            How::Lines(lines) => {
                lines.print(&mut self.text, &model.world, changes, &view);
                if self.text.len() > output::TEXT_MAX {
                    // What cannot be written is said by the next one.
                    let _ = output::write(&mut self.text);
                }
            }
            How::Screen(screen) => {
                screen.0.note(changes, clock::monotonic_ns());
                self.is_stale = true;
            }
        }
    }

    /// Writes out what there is.
    fn flush(&mut self, model: &Model) -> anyhow::Result<()> {
        match &mut self.how {
            How::Quiet => Ok(()),
            How::Lines(_) if self.text.is_empty() => Ok(()),
            How::Lines(_) => output::write(&mut self.text),
            How::Screen(screen) => {
                let (recent, screen) = &mut **screen;
                let was_marked = recent.len();
                recent.expire(clock::monotonic_ns());
                self.is_stale |= was_marked != recent.len();
                if self.is_stale && screen.is_due() {
                    let (width, height) = output::size().unwrap_or((80, 24));
                    let mut view = model.view(&self.filter, self.color);
                    view.width = Some(width);
                    watch(&mut self.text, &model.world, &view, recent, height);
                    screen.draw(&mut self.text)?;
                    self.is_stale = false;
                }
                Ok(())
            }
        }
    }

    /// The end: with a command alone, the tree as it has become.
    fn last(mut self, model: &Model) -> anyhow::Result<()> {
        match self.how {
            How::Quiet => print(self.args, model, &mut self.text),
            How::Lines(_) => output::write(&mut self.text),
            How::Screen(_) => Ok(()),
        }
    }
}

/// The terminal's other screen, so that what was there is there again afterwards.
struct Screen {
    drawn: Option<std::time::Instant>,
}

impl Screen {
    fn open() -> anyhow::Result<Screen> {
        io::stdout()
            .write_all(b"\x1b[?1049h\x1b[?25l\x1b[?7l")
            .context("standard output")?;
        Ok(Screen { drawn: None })
    }

    fn is_due(&self) -> bool {
        self.drawn.is_none_or(|drawn| drawn.elapsed() >= TICK)
    }

    /// Draws over what is there, so that nothing flickers.
    fn draw(&mut self, text: &mut Text) -> anyhow::Result<()> {
        let lines = String::from_utf8_lossy(text.as_bytes()).into_owned();
        let lines = lines.strip_suffix('\n').unwrap_or(&lines);
        let lines = lines.replace('\n', "\x1b[K\r\n");
        text.clear();
        self.drawn = Some(std::time::Instant::now());
        let mut stdout = io::stdout().lock();
        write!(stdout, "\x1b[H{lines}\x1b[K\x1b[J")
            .and_then(|()| stdout.flush())
            .context("standard output")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Who closed it does not want to hear.
        let _ = io::stdout().write_all(b"\x1b[?7h\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
    }
}
