//! Names of containers, as their engines say them.
//!
//! A cgroup's path has a container's id, and people know its name. The engines are
//! asked beside the stream of events: each has half a second, and one that hangs, is
//! not there or answers nonsense costs nothing but its names. Nothing is made or
//! changed by asking.
//!
//! | engine | where the name is | source followed |
//! | --- | --- | --- |
//! | docker, cri-dockerd | `/containers/json` on its socket | moby: `api/swagger.yaml`, `daemon/list.go` |
//! | podman | `containers.json`; without it its socket, which speaks docker's words | containers/storage: `containers.go` |
//! | cri-o | annotations in the bundle; `containers.json` | cri-o: `pkg/annotations/internal.go`, `internal/storage/runtime.go` |
//! | containerd, with Kubernetes or nerdctl | annotations in the bundle | containerd: `core/runtime/v2/bundle.go`, `pkg/cri/annotations/annotations.go`; nerdctl: `pkg/labels/labels.go` |
//!
//! Seen to hold with docker 20.10, podman 4.3 and containerd 1.6 of Debian 12; cri-o's and
//! the kubelet's parts follow their sources alone.
//!
//! All of these give their containers ids of 64 hex digits. For others (runc by hand,
//! `ctr`, LXC, systemd-nspawn) the id in the cgroup's path is the name that somebody
//! chose, so nobody is asked.
//!
//! Folklore:
//!
//! - docker: `/containers/ID/json` waits for the container's lock, which a start holds
//!   to its end. The list is made from a copy, so one container is asked for by a
//!   filtered list.
//! - docker and podman take a name or the beginning of an id where an id belongs. An
//!   answer counts only if it has the id whole.
//! - systemd listens for podman, and starts it for whoever asks. So its socket is
//!   asked only where its storage has no list.
//!
//! A name is what its container's maker chose: print it through
//! [`crate::render::escape`].

mod feed;
mod files;
mod http;
mod name;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

pub use feed::Feed;

/// How long one engine may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// How much of an answer, or of a file, is read. A bundle's `config.json` has some
/// 20 KB, a container in docker's list some 2.
const ANSWER_MAX: u64 = 4 << 20;

/// A container's id and its name.
pub type Named = (Vec<u8>, String);

/// Where to ask for names.
#[derive(Clone, Debug)]
pub struct Engines {
    places: Arc<Places>,
    patience: Duration,
    /// One thread reads files at a time: a disk that hangs must not gather threads.
    reading: Arc<Semaphore>,
}

/// Sockets and directories of the engines.
#[derive(Debug)]
struct Places {
    /// The first that answers counts: they are most often one and the same.
    docker: Vec<PathBuf>,
    podman: Vec<PathBuf>,
    /// Directories with `NAMESPACE/ID/config.json`.
    containerd: Vec<PathBuf>,
    /// Directories of containers/storage, with `ID/userdata/config.json` and lists.
    storage: Vec<PathBuf>,
}

impl Places {
    fn below(root: &Path) -> Places {
        let paths = |relative: &[&str]| relative.iter().map(|path| root.join(path)).collect();
        Places {
            docker: paths(&["run/docker.sock", "var/run/docker.sock"]),
            podman: paths(&["run/podman/podman.sock"]),
            containerd: paths(&[
                "run/containerd/io.containerd.runtime.v2.task",
                "run/k3s/containerd/io.containerd.runtime.v2.task",
            ]),
            storage: paths(&[
                "run/containers/storage/overlay-containers",
                "var/lib/containers/storage/overlay-containers",
            ]),
        }
    }
}

impl Default for Engines {
    fn default() -> Engines {
        Engines::new()
    }
}

impl Engines {
    /// The engines of this machine, where their packages put them.
    pub fn new() -> Engines {
        Engines::below(Path::new("/"))
    }

    /// The engines of the machine whose root is mounted there.
    pub fn below(root: &Path) -> Engines {
        Engines {
            places: Arc::new(Places::below(root)),
            patience: PATIENCE,
            reading: Arc::new(Semaphore::new(1)),
        }
    }

    /// The names that all engines know now, each container once.
    ///
    /// Takes up to a second, if engines hang.
    pub async fn all(&self) -> Vec<Named> {
        let (docker, files) = tokio::join!(self.docker(None), self.files(None));
        let podman = match files.has_list {
            true => Vec::new(),
            false => self.podman(None).await,
        };
        let mut names = BTreeMap::new();
        for (id, name) in docker.into_iter().chain(files.names).chain(podman) {
            names.entry(id).or_insert(name);
        }
        names.into_iter().collect()
    }

    /// The name of one container.
    ///
    /// None if no engine knows it (yet), and if the id is the name. Files answer soonest.
    /// Takes up to a second and a half, if all hang.
    pub async fn one(&self, id: &[u8]) -> Option<String> {
        let id = name::engine_id(id)?;
        let files = self.files(Some(id)).await;
        let mut found = files.names;
        if found.is_empty() {
            found = self.docker(Some(id)).await;
        }
        if found.is_empty() && !files.has_list {
            found = self.podman(Some(id)).await;
        }
        found.into_iter().next().map(|(_, name)| name)
    }

    async fn docker(&self, id: Option<&str>) -> Vec<Named> {
        self.ask(&self.places.docker, id).await
    }

    async fn podman(&self, id: Option<&str>) -> Vec<Named> {
        self.ask(&self.places.podman, id).await
    }

    async fn ask(&self, sockets: &[PathBuf], id: Option<&str>) -> Vec<Named> {
        timeout(self.patience, http::list(sockets, id))
            .await
            .unwrap_or_default()
    }

    async fn files(&self, id: Option<&str>) -> files::Found {
        let look = files::look(Arc::clone(&self.places), Arc::clone(&self.reading), id);
        timeout(self.patience, look).await.unwrap_or_default()
    }
}
