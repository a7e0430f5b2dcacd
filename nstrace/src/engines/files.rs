//! Names in files that engines keep: bundles of containers, and the lists of
//! containers/storage.
//!
//! Reading a file cannot be asynchronous, and a disk may hang. So a thread of its own
//! reads, and whoever asked stops waiting for it in time. It is not one of tokio's
//! threads, whose runtime would wait for it at its end.

use std::{
    fs::{self, OpenOptions},
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};

use super::{ANSWER_MAX, Named, Places, name};

/// How many bundles are looked at, so that a directory without end has one.
const BUNDLES_MAX: usize = 16384;

/// Lists of containers/storage: of lasting containers, and of those that `--rm` or
/// cri-o made.
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

/// What files say.
#[derive(Debug, Default)]
pub struct Found {
    pub names: Vec<Named>,
    /// Whether there was a list of containers/storage, which has all of podman's.
    pub has_list: bool,
}

/// A container in a list of containers/storage. Shape: its containers.go, `Container`.
#[derive(Deserialize)]
struct Container {
    id: String,
    names: Option<Vec<String>>,
}

/// Looks for all containers, or for one.
pub async fn look(places: Arc<Places>, reading: Arc<Semaphore>, id: Option<&str>) -> Found {
    let id = id.map(str::to_owned);
    let Ok(permit) = reading.acquire_owned().await else {
        return Found::default();
    };
    let (sender, receiver) = oneshot::channel();
    let thread = thread::Builder::new().name("names".to_owned());
    let spawned = thread.spawn(move || {
        let found = read(&places, id.as_deref());
        drop(permit);
        // If nobody waits any more, nobody is told.
        let _ = sender.send(found);
    });
    match spawned {
        Ok(_) => receiver.await.unwrap_or_default(),
        Err(_) => Found::default(),
    }
}

fn read(places: &Places, id: Option<&str>) -> Found {
    let mut found = Found::default();
    for dir in &places.containerd {
        // One directory for each namespace of containerd.
        for namespace in entries(dir) {
            bundles(&namespace, "config.json", id, &mut found.names);
        }
    }
    for dir in &places.storage {
        bundles(dir, "userdata/config.json", id, &mut found.names);
        for list in LISTS {
            let Some(list) = read_json::<Vec<Container>>(&dir.join(list)) else {
                continue;
            };
            found.has_list = true;
            let wanted = |container: &&Container| id.is_none_or(|id| id == container.id);
            let names = list.iter().filter(wanted).filter_map(of_container);
            found.names.extend(names);
        }
    }
    found
}

fn of_container(container: &Container) -> Option<Named> {
    let id = name::engine_id(container.id.as_bytes())?;
    let name = name::of_names(container.names.as_deref()?)?;
    Some((id.into(), name))
}

/// The names of the bundles in a directory, whose own names are the ids.
fn bundles(dir: &Path, config: &str, id: Option<&str>, names: &mut Vec<Named>) {
    let dirs = match id {
        Some(id) => vec![dir.join(id)],
        None => entries(dir),
    };
    for bundle in dirs {
        let id = bundle.file_name().unwrap_or_default().as_bytes();
        let Some(id) = name::engine_id(id) else {
            continue;
        };
        let name = read_json(&bundle.join(config)).and_then(|bundle| name::of_bundle(&bundle));
        names.extend(name.map(|name| (id.into(), name)));
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .take(BUNDLES_MAX)
        .collect()
}

/// What a file says, if it is a file, not too large, and says such a thing.
fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let file = OpenOptions::new()
        .read(true)
        // A pipe in the place of a file would be waited for.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(ANSWER_MAX + 1).read_to_end(&mut text).ok()?;
    if text.len() as u64 > ANSWER_MAX {
        return None;
    }
    serde_json::from_slice(&text).ok()
}
