//! `nstrace export`: a recording for other programs.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::{
    WrongWords,
    file::{Dir, Output, Unfinished},
    model::{Model, Replayed},
    page, tail,
    trouble::{unread, unwritten},
};
use crate::{
    cli::{self, ExportFormat},
    export::{
        Context, Export,
        parquet::{Parquet, TABLES},
        perfetto::Perfetto,
    },
    world::Options,
};

/// Writes it in another format.
pub fn run(args: &cli::Export) -> anyhow::Result<ExitCode> {
    match args.format {
        ExportFormat::Json => written(args, None, &mut |mut out, name| {
            tail::export(&args.file, &mut |text| {
                let written = out.write_all(text.as_bytes());
                text.clear();
                written.map_err(unwritten).with_context(|| name.to_owned())
            })?;
            out.flush()
                .map_err(unwritten)
                .with_context(|| name.to_owned())
        })?,
        ExportFormat::Perfetto => written(args, Some("a Perfetto trace"), &mut |out, name| {
            export(&args.file, &mut Perfetto::new(BufWriter::new(out)), name)
        })?,
        ExportFormat::Parquet => parquet(args)?,
        ExportFormat::Html => written(args, None, &mut |mut out, name| {
            page::export(&args.file, &mut out, name)?;
            out.flush()
                .map_err(unwritten)
                .with_context(|| name.to_owned())
        })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes to something of that name.
type Write<'w> = dyn FnMut(Box<dyn io::Write>, &str) -> anyhow::Result<()> + 'w;

/// Has it written to a file, which is there when it is whole, or to standard output; `what`
/// it is, if that is not for a terminal.
fn written(args: &cli::Export, what: Option<&str>, write: &mut Write<'_>) -> anyhow::Result<()> {
    let path = args.output.as_deref().unwrap_or(Path::new("-"));
    if path == Path::new("-") && what.is_none() {
        return write(Box::new(io::stdout().lock()), "standard output");
    }
    readable(args)?;
    let mut output = Output::open_whole(path, what.unwrap_or("this"))?;
    output.is_not(&args.file)?;
    let name = output.name().to_owned();
    output
        .begin()
        .map_err(unwritten)
        .with_context(|| name.clone())?;
    write(output.writer().with_context(|| name.clone())?, &name)?;
    output.finish().map_err(unwritten).context(name)
}

fn parquet(args: &cli::Export) -> anyhow::Result<()> {
    let path = args.output.as_deref();
    let Some(path) = path.filter(|path| *path != Path::new("-")) else {
        bail!(WrongWords(
            "parquet is several files: say -o DIR".to_owned()
        ));
    };
    readable(args)?;
    let dir = Dir::open(path)?;
    let name = dir.name();
    let mut made = Vec::new();
    for table in TABLES {
        let file = dir.make(&format!("{table}.parquet"));
        made.push(file.map_err(unwritten).with_context(|| name.to_owned())?);
    }
    // The writers have what they write gather themselves.
    let files: Result<Vec<File>, _> = made.iter().map(Unfinished::file).collect();
    let files = files.with_context(|| name.to_owned())?;
    let Ok(files) = <[File; TABLES.len()]>::try_from(files) else {
        bail!("{name}: a file is missing");
    };
    let tables = Parquet::new(files).map_err(unwritten);
    let mut tables = tables.with_context(|| name.to_owned())?;
    export(&args.file, &mut tables, name)?;
    made.into_iter()
        .try_for_each(Unfinished::finish)
        .map_err(unwritten)
        .with_context(|| name.to_owned())
}

/// Whether there is something to be read, before what is there already goes.
fn readable(args: &cli::Export) -> anyhow::Result<()> {
    if args.file == Path::new("-") {
        return Ok(());
    }
    let metadata = fs::metadata(&args.file);
    metadata
        .map(drop)
        .map_err(unread)
        .with_context(|| args.file.display().to_string())
}

/// Tells somebody, who writes it to what has that name, all that a recording has.
fn export(path: &Path, to: &mut dyn Export, name: &str) -> anyhow::Result<()> {
    let model = Model::replay(path, Options::default(), &mut |model, replayed| {
        let context = context(model);
        match replayed {
            Replayed::Head(head) => to.head(head),
            Replayed::Facts(facts) => {
                to.facts(facts.clone());
                Ok(())
            }
            Replayed::Damage(_) => Ok(()),
            Replayed::State(found) => to.changes(found, &context),
            Replayed::Event(event, changes) => match changes.is_empty() {
                true => to.event(event, &context),
                false => to
                    .changes(changes, &context)
                    .and_then(|()| to.event(event, &context)),
            },
        }
        .map_err(unwritten)
        .with_context(|| name.to_owned())
    })?;
    let finished = to.finish(&context(&model)).map_err(unwritten);
    finished.with_context(|| name.to_owned())
}

fn context(model: &Model) -> Context<'_> {
    Context {
        now_ns: model.now(),
        wall_offset_ns: model.wall_offset_ns(),
        cgroups: &model.cgroups,
        names: &model.names,
        world: &model.world,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path};

    use clap::Parser as _;
    use nstrace_common::{
        flags::{CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUTS},
        kind::{KINDS, Kind},
        wire::Op,
    };
    use parquet::{
        file::reader::{FileReader as _, SerializedFileReader},
        record::RowAccessor as _,
    };

    use super::*;
    use crate::{
        cli::Cli,
        cmd::report::Summed,
        event::{SnapshotEnd, Unseen},
        filter::Filter,
        render::{
            Format,
            testing::{FIRST, op, task},
        },
        trace::{Head, Options, Writer},
        world::tests::owned::{Owned, death},
    };

    /// How many were found, were born and died, by kind.
    type Lives = [[u64; 3]; KINDS];

    fn unshare(start: u64, time: u64, kind: Kind, flag: u64, inum: u32) -> Owned {
        let op = op(Op::Unshare, flag).with(|record| {
            record.start = start;
            record.head.time = time;
        });
        Owned::Op(Box::new(op.after(&[(kind, inum)])))
    }

    fn recording(path: &Path) {
        // A task is told to be in it before its birth is.
        let mut child = task(5000, 5000, b"sleep");
        child.record.head.time = 2000;
        child.record.namespaces = FIRST;
        child.record.namespaces[Kind::Net as usize] = 101;
        child.record.pids_len = 1;
        child.pids.truncate(1);
        let end = SnapshotEnd {
            time: 1100,
            unseen: Unseen::default(),
        };
        let events = [
            Owned::Begin(1000),
            Owned::End(end),
            Owned::New(child),
            unshare(1900, 2100, Kind::Net, CLONE_NEWNET, 101),
            death(2600, 102),
            unshare(2400, 2500, Kind::Uts, CLONE_NEWUTS, 102),
            // What a failed operation gave back; the number is used again.
            death(3100, 103),
            unshare(3150, 3200, Kind::Ipc, CLONE_NEWIPC, 103),
            death(3300, 101),
        ];
        let file = File::create(path).unwrap();
        let mut writer = Writer::new(file, &Head::default(), Options::default()).unwrap();
        for event in events {
            event.with_record(|event| writer.event(event).unwrap());
        }
        writer.finish(4000).unwrap();
    }

    fn of_report(path: &Path) -> Lives {
        let summed = Summed::read(path, [None, None], Filter::default(), Format::Json, false);
        let lives = summed.unwrap().report.lives;
        lives.map(|own| [own.found, own.born, own.died])
    }

    /// Births and deaths; no line says what was found.
    fn of_json(path: &Path) -> [[u64; 2]; KINDS] {
        let mut text = String::new();
        tail::export(path, &mut |own| {
            text += &own.to_string();
            own.clear();
            Ok(())
        })
        .unwrap();
        let count = |kind: Kind, what: &str| {
            let kind = format!("\"kind\":\"{}\"", kind.name());
            let lines = text.lines().filter(|line| line.contains(what));
            lines.filter(|line| line.contains(&kind)).count() as u64
        };
        Kind::ALL.map(|kind| [count(kind, "\"ns_birth\""), count(kind, "\"ns_death\"")])
    }

    fn of_parquet(path: &Path) -> Lives {
        let dir = tempfile::tempdir().unwrap();
        let words = ["nstrace", "export", "--format", "parquet", "-o"].map(Path::new);
        let words = words.into_iter().chain([dir.path(), path]);
        let Some(cli::Command::Export(args)) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command");
        };
        run(&args).unwrap();
        let file = File::open(dir.path().join("namespaces.parquet")).unwrap();
        let mut lives = Lives::default();
        let rows = SerializedFileReader::new(file).unwrap();
        for row in rows.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let at = |name: &str| {
                let mut names = row.get_column_iter();
                names.position(|(own, _)| own == name).unwrap()
            };
            let kind = row.get_string(at("kind")).unwrap();
            let own = &mut lives[Kind::from_name(kind).unwrap() as usize];
            let found = row.get_bool(at("found")).unwrap();
            own[usize::from(!found)] += 1;
            own[2] += u64::from(row.get_long(at("died_mono_ns")).is_ok());
        }
        lives
    }

    /// A namespace was counted as found and never as born if a task was told to be in it
    /// first, and the JSON had no death of one that was told before the birth.
    #[test]
    fn lives_are_the_same_in_all_that_is_made_of_a_recording() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.nst");
        recording(&path);
        let lives = of_report(&path);
        assert_eq!(of_parquet(&path), lives);
        assert_eq!(of_json(&path), lives.map(|[_, born, died]| [born, died]));
        let of = |kind: Kind| lives[kind as usize];
        assert_eq!(of(Kind::Net), [1, 1, 1]);
        assert_eq!(of(Kind::Uts), [1, 1, 1]);
        assert_eq!(of(Kind::Ipc), [1, 1, 0]);
        assert_eq!(of(Kind::Mnt), [1, 0, 0]);
    }
}
