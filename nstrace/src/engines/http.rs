//! Lists of containers over HTTP, on the sockets of docker and podman.

use std::path::PathBuf;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, HOST},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::UnixStream, task::JoinSet};

use super::{ANSWER_MAX, Named, name};

/// A container in the list. Shape: moby api/swagger.yaml, `ContainerSummary`.
#[derive(Deserialize)]
struct Container {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Names")]
    names: Option<Vec<String>>,
}

/// The containers that the engine on the first of these sockets lists, all or one.
///
/// None of them if there is no engine, or if its answer is not such a list.
pub async fn list(sockets: &[PathBuf], id: Option<&str>) -> Vec<Named> {
    for socket in sockets {
        if let Ok(stream) = UnixStream::connect(socket).await {
            let answer = get(stream, &target(id)).await;
            return answer.map_or_else(Vec::new, |answer| names(&answer, id));
        }
    }
    Vec::new()
}

/// What to ask for. Without a version in the path, the engine's own is meant.
fn target(id: Option<&str>) -> String {
    match id {
        None => "/containers/json?all=1".to_owned(),
        // {"id":["ID"]}; the id is hex digits.
        Some(id) => {
            format!("/containers/json?all=1&filters=%7B%22id%22%3A%5B%22{id}%22%5D%7D")
        }
    }
}

async fn get(stream: UnixStream, target: &str) -> Option<Bytes> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Ends the connection when the answer is whole, or nobody waits for it any more.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(target)
        .header(HOST, "localhost")
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    let limit = usize::try_from(ANSWER_MAX).unwrap_or(usize::MAX);
    let body = Limited::new(response.into_body(), limit).collect().await;
    Some(body.ok()?.to_bytes())
}

/// The names in an answer; for one container its own alone.
fn names(answer: &[u8], wanted: Option<&str>) -> Vec<Named> {
    let Ok(list) = serde_json::from_slice::<Vec<Container>>(answer) else {
        return Vec::new();
    };
    list.iter()
        .filter(|container| wanted.is_none_or(|id| id == container.id))
        .filter_map(|container| {
            let id = name::engine_id(container.id.as_bytes())?;
            let name = name::of_names(container.names.as_deref()?)?;
            Some((id.into(), name))
        })
        .collect()
}
