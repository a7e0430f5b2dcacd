//! Names that come when they come, for who prints and must not wait.

use std::time::{Duration, Instant};

use foldhash::HashMap;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Engines, Named};
use crate::names::Names;

/// How many ids may wait to be asked for. One that finds no room is asked for when it
/// is wanted again.
const WAITING: usize = 256;

/// How often a container's name is asked for, and how long after the last time. An
/// engine may know it only a little after its cgroup is seen.
const TRIES: u8 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// How many ids without a name are remembered.
const ASKED: usize = 16384;

/// A task that asks the engines.
///
/// It first asks for all names there are, then for those that are wanted. Its end is
/// that of this value.
#[derive(Debug)]
pub struct Feed {
    wanted: mpsc::Sender<Box<[u8]>>,
    found: mpsc::Receiver<Named>,
    asked: HashMap<Box<[u8]>, Asked>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Asked {
    tries: u8,
    last: Instant,
}

impl Feed {
    /// Starts to ask. Needs a tokio runtime.
    pub fn start(engines: Engines) -> Feed {
        let (wanted, ids) = mpsc::channel(WAITING);
        let (names, found) = mpsc::channel(WAITING);
        Feed {
            wanted,
            found,
            asked: HashMap::default(),
            task: tokio::spawn(ask(engines, ids, names)),
        }
    }

    /// Asks for the name of a container. Cheap enough for each event of one whose name
    /// is not known: it is asked for [`TRIES`] times at most.
    pub fn want(&mut self, id: &[u8]) {
        let now = Instant::now();
        let tries = match self.asked.get(id) {
            Some(asked) if asked.tries >= TRIES || now - asked.last < PAUSE => return,
            Some(asked) => asked.tries,
            None => 0,
        };
        if self.wanted.try_send(id.into()).is_err() {
            return;
        }
        if self.asked.len() >= ASKED {
            self.asked.clear();
        }
        let tries = tries + 1;
        self.asked.insert(id.into(), Asked { tries, last: now });
    }

    /// Takes the names that have come, and says how many. Never waits.
    pub fn drain(&mut self, names: &mut Names) -> usize {
        let mut count = 0;
        while let Ok(named) = self.found.try_recv() {
            self.learn(named, names);
            count += 1;
        }
        count
    }

    /// Waits until a name comes, and takes it. For `select!`: nothing is lost if it is
    /// dropped.
    pub async fn next(&mut self, names: &mut Names) {
        match self.found.recv().await {
            Some(named) => self.learn(named, names),
            None => std::future::pending().await,
        }
    }

    fn learn(&mut self, (id, name): Named, names: &mut Names) {
        self.asked.remove(&*id);
        names.learn(&id, &name);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until nobody wants names any more.
async fn ask(engines: Engines, mut wanted: mpsc::Receiver<Box<[u8]>>, found: mpsc::Sender<Named>) {
    for named in engines.all().await {
        if found.send(named).await.is_err() {
            return;
        }
    }
    while let Some(id) = wanted.recv().await {
        if let Some(name) = engines.one(&id).await
            && found.send((id.into(), name)).await.is_err()
        {
            return;
        }
    }
}
