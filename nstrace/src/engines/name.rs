//! The form of names.
//!
//! A container of Kubernetes is `NAMESPACE/POD/CONTAINER`, and what holds a pod's
//! namespaces `NAMESPACE/POD`, whichever engine says so. Others are called what
//! their engine calls them.

use serde::Deserialize;

/// A name longer than this is none. Kubernetes allows 63 + 253 + 63 bytes.
const NAME_MAX: usize = 512;

/// What the kubelet's engines call the container that holds a pod's namespaces.
const SANDBOX: &str = "POD";

/// An id that engines give: 64 hex digits.
pub fn engine_id(id: &[u8]) -> Option<&str> {
    let is_id = id.len() == 64
        && id
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    std::str::from_utf8(id).ok().filter(|_| is_id)
}

/// The name among those that docker, podman and containers/storage give a container.
///
/// docker: they begin with a slash; one with another slash is a link's, seen from the
/// container that has the link (moby: daemon/links.go).
pub fn of_names(names: &[String]) -> Option<String> {
    let mut names = names
        .iter()
        .map(|name| name.strip_prefix('/').unwrap_or(name));
    let name = names.find(|name| !name.contains('/'))?;
    match kubernetes(name) {
        Some(name) => Some(name),
        None => sound(name.to_owned()),
    }
}

/// Takes a name of the kubelet's to pieces: `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`.
/// None of them has an underscore (kubernetes: they are DNS labels).
fn kubernetes(name: &str) -> Option<String> {
    let mut parts = name.split('_');
    if parts.next() != Some("k8s") {
        return None;
    }
    let (container, pod, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let rest = parts.count();
    // podman has containers of that name too, of its users' making.
    (rest == 2).then_some(())?;
    in_pod(Some(namespace), Some(pod), Some(container))
}

/// What of a bundle's `config.json` matters here.
#[derive(Deserialize)]
pub struct Bundle {
    annotations: Option<Annotations>,
}

/// Annotations that have names. Each engine writes one of the groups.
#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "io.kubernetes.cri.sandbox-namespace")]
    containerd_namespace: Option<String>,
    #[serde(rename = "io.kubernetes.cri.sandbox-name")]
    containerd_pod: Option<String>,
    /// Absent for what holds the pod's namespaces.
    #[serde(rename = "io.kubernetes.cri.container-name")]
    containerd_container: Option<String>,

    #[serde(rename = "io.kubernetes.pod.namespace")]
    crio_namespace: Option<String>,
    #[serde(rename = "io.kubernetes.pod.name")]
    crio_pod: Option<String>,
    #[serde(rename = "io.kubernetes.container.name")]
    crio_container: Option<String>,

    #[serde(rename = "nerdctl/name")]
    nerdctl: Option<String>,
}

/// The name that a bundle's annotations say.
pub fn of_bundle(bundle: &Bundle) -> Option<String> {
    let annotations = bundle.annotations.as_ref()?;
    in_pod(
        annotations.containerd_namespace.as_deref(),
        annotations.containerd_pod.as_deref(),
        annotations.containerd_container.as_deref(),
    )
    .or_else(|| {
        in_pod(
            annotations.crio_namespace.as_deref(),
            annotations.crio_pod.as_deref(),
            annotations.crio_container.as_deref(),
        )
    })
    .or_else(|| sound(annotations.nerdctl.clone()?))
}

fn in_pod(namespace: Option<&str>, pod: Option<&str>, container: Option<&str>) -> Option<String> {
    let filled = |part: &&str| !part.is_empty();
    let (namespace, pod) = (namespace.filter(filled)?, pod.filter(filled)?);
    let container = container.filter(filled).filter(|name| *name != SANDBOX);
    sound(match container {
        Some(container) => format!("{namespace}/{pod}/{container}"),
        None => format!("{namespace}/{pod}"),
    })
}

fn sound(name: String) -> Option<String> {
    (!name.is_empty() && name.len() <= NAME_MAX).then_some(name)
}
