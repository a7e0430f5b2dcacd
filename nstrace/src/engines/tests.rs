//! Engines that answer well, badly, and not at all.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use super::{ANSWER_MAX, Engines, Feed, name};
use crate::names::Names;

/// How long a test waits for what hangs.
const PATIENCE: Duration = Duration::from_millis(100);

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A machine with an empty root.
struct Machine(TempDir);

impl Machine {
    fn new() -> Machine {
        Machine(tempfile::tempdir().unwrap())
    }

    fn engines(&self) -> Engines {
        Engines {
            patience: PATIENCE,
            ..Engines::below(self.0.path())
        }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// An engine on a socket. It reads a request, gives the bytes that belong to it,
    /// and then closes or hangs.
    fn engine(&self, socket: &str, hang: bool, answer: impl Fn(&str) -> Vec<u8> + Send + 'static) {
        let path = self.0.path().join(socket);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = request(&mut stream).await;
                // The other side may have enough of a long answer.
                let _ = stream.write_all(&answer(&request)).await;
                if hang {
                    open.push(stream);
                }
            }
        });
    }

    fn docker(&self, answer: impl Fn(&str) -> Vec<u8> + Send + 'static) {
        self.engine("run/docker.sock", false, answer);
    }
}

/// The first line of a request.
async fn request(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => break,
        }
    }
    let text = String::from_utf8(text).unwrap();
    text.lines().next().unwrap_or_default().to_owned()
}

fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn container(id: &str, name: &str) -> String {
    format!(r#"{{"Id":"{id}","Names":["{name}"],"Image":"x","Labels":null,"Created":1}}"#)
}

fn named(id: &str, name: &str) -> (Vec<u8>, String) {
    (id.into(), name.to_owned())
}

#[tokio::test]
async fn all_lists_every_container_of_docker() {
    let machine = Machine::new();
    machine.docker(|request| {
        assert_eq!(request, "GET /containers/json?all=1 HTTP/1.1");
        let (web, db) = (container(&id('a'), "/web"), container(&id('b'), "/db"));
        ok(&format!("[{web},{db}]"))
    });
    let names = machine.engines().all().await;
    assert_eq!(names, [named(&id('a'), "web"), named(&id('b'), "db")]);
}

#[tokio::test]
async fn one_asks_by_a_filter_and_takes_its_own_alone() {
    let machine = Machine::new();
    machine.docker(|request| {
        let filter = format!("filters=%7B%22id%22%3A%5B%22{}%22%5D%7D", id('a'));
        assert!(request.contains(&filter), "{request}");
        // Another one, as an older engine that knows no such filter would say.
        let (db, web) = (container(&id('b'), "/db"), container(&id('a'), "/web"));
        ok(&format!("[{db},{web}]"))
    });
    let engines = machine.engines();
    assert_eq!(
        engines.one(id('a').as_bytes()).await.as_deref(),
        Some("web")
    );
}

#[tokio::test]
async fn an_answer_about_another_container_is_no_answer() {
    let machine = Machine::new();
    machine.docker(|_| ok(&format!("[{}]", container(&id('b'), "/db"))));
    assert_eq!(machine.engines().one(id('a').as_bytes()).await, None);
}

/// Ids come from cgroup paths, which the traced choose.
#[tokio::test]
async fn what_is_no_id_of_an_engine_reaches_neither_engine_nor_file() {
    let machine = Machine::new();
    machine.docker(|request| panic!("asked: {request}"));
    machine.write(
        "run/containerd/config.json",
        r#"{"annotations":{"nerdctl/name":"stolen"}}"#,
    );
    let engines = machine.engines();
    let upper = "A".repeat(64);
    let slash = format!("../{}", "a".repeat(61));
    for id in ["", ".", "..", "demo", "a HTTP/1.1\r\n\r\n", &upper, &slash] {
        assert_eq!(engines.one(id.as_bytes()).await, None, "{id}");
    }
    assert_eq!(engines.one(&[0xff; 64]).await, None);
}

#[tokio::test]
async fn answers_that_are_no_list_are_passed_over() {
    let answers: [Vec<u8>; 9] = [
        b"".to_vec(),
        b"\x00\xff\xfe nonsense".to_vec(),
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_vec(),
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n[]".to_vec(),
        ok("{}"),
        ok(r#"[{"Id":7,"Names":"web"}]"#),
        ok(&"[".repeat(100_000)),
        ok(&format!(r#"[{{"Id":"{}","Names":null}}]"#, id('a'))),
    ];
    for answer in answers {
        let machine = Machine::new();
        let text = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        machine.docker(move |_| answer.clone());
        assert_eq!(machine.engines().all().await, [], "{text}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_left() {
    let machine = Machine::new();
    machine.docker(|_| {
        let body = format!("[{}", " ".repeat(ANSWER_MAX as usize + 1));
        ok(&body)
    });
    assert_eq!(machine.engines().all().await, []);
}

#[tokio::test]
async fn engines_that_hang_cost_their_names_alone() {
    let machine = Machine::new();
    machine.engine("run/docker.sock", true, |_| Vec::new());
    machine.engine("run/podman/podman.sock", true, |_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_vec()
    });
    let bundle = format!("run/containerd/io.containerd.runtime.v2.task/x/{}", id('a'));
    let annotations = r#"{"annotations":{"nerdctl/name":"web"}}"#;
    machine.write(&format!("{bundle}/config.json"), annotations);
    let start = Instant::now();
    let names = machine.engines().all().await;
    assert_eq!(names, [named(&id('a'), "web")]);
    assert!(start.elapsed() < 10 * PATIENCE);
}

#[tokio::test]
async fn no_engine_no_names() {
    let machine = Machine::new();
    assert_eq!(machine.engines().all().await, []);
    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(machine.0.path().join("s")).unwrap());
    fs::create_dir(machine.0.path().join("run")).unwrap();
    symlink("../s", machine.0.path().join("run/docker.sock")).unwrap();
    assert_eq!(machine.engines().all().await, []);
}

#[tokio::test]
async fn podman_is_asked_where_its_storage_has_no_list() {
    let machine = Machine::new();
    machine.engine("run/podman/podman.sock", false, |_| {
        ok(&format!("[{}]", container(&id('a'), "web")))
    });
    let engines = machine.engines();
    assert_eq!(engines.all().await, [named(&id('a'), "web")]);
    assert_eq!(
        engines.one(id('a').as_bytes()).await.as_deref(),
        Some("web")
    );

    let list = format!(r#"[{{"id":"{}","names":["db"],"layer":"x"}}]"#, id('b'));
    machine.write(
        "var/lib/containers/storage/overlay-containers/containers.json",
        &list,
    );
    assert_eq!(engines.all().await, [named(&id('b'), "db")]);
    assert_eq!(engines.one(id('a').as_bytes()).await, None);
}

#[tokio::test]
async fn bundles_say_pods_and_containers() {
    let containerd = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
    let cri =
        r#""io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-name":"web-1""#;
    let kubelet = r#""io.kubernetes.pod.namespace":"shop","io.kubernetes.pod.name":"web-2""#;
    let cases = [
        (
            format!("{containerd}/{}/config.json", id('a')),
            format!(r#"{cri},"io.kubernetes.cri.container-name":"nginx""#),
            "shop/web-1/nginx",
        ),
        (
            format!("{containerd}/{}/config.json", id('b')),
            format!(r#"{cri},"io.kubernetes.cri.container-type":"sandbox""#),
            "shop/web-1",
        ),
        (
            format!(
                "run/containers/storage/overlay-containers/{}/userdata/config.json",
                id('c')
            ),
            format!(r#"{kubelet},"io.kubernetes.container.name":"nginx""#),
            "shop/web-2/nginx",
        ),
        (
            format!(
                "run/containers/storage/overlay-containers/{}/userdata/config.json",
                id('d')
            ),
            format!(r#"{kubelet},"io.kubernetes.container.name":"POD""#),
            "shop/web-2",
        ),
        (
            format!(
                "run/k3s/containerd/io.containerd.runtime.v2.task/default/{}/config.json",
                id('e')
            ),
            r#""nerdctl/name":"web-3""#.to_owned(),
            "web-3",
        ),
    ];
    let machine = Machine::new();
    for (path, annotations, _) in &cases {
        let config = format!(
            r#"{{"ociVersion":"1.1.0","process":{{"args":["x"]}},"annotations":{{{annotations}}}}}"#
        );
        machine.write(path, &config);
    }
    let engines = machine.engines();
    let all = engines.all().await;
    let names: Vec<&str> = all.iter().map(|(_, name)| &**name).collect();
    assert_eq!(names, cases.each_ref().map(|(_, _, name)| *name));
    for (id, name) in &all {
        assert_eq!(engines.one(id).await.as_ref(), Some(name));
    }
}

#[tokio::test]
async fn bundles_that_are_none_are_passed_over() {
    let machine = Machine::new();
    let dir = machine
        .0
        .path()
        .join("run/containerd/io.containerd.runtime.v2.task/k8s.io");
    let config = |digit: char| {
        let bundle = dir.join(id(digit));
        fs::create_dir_all(&bundle).unwrap();
        bundle.join("config.json")
    };
    fs::write(config('1'), "").unwrap();
    fs::write(config('2'), r#"{"annotations":[]}"#).unwrap();
    fs::write(config('3'), r#"{"annotations":null}"#).unwrap();
    fs::write(config('4'), r#"{"annotations":{"nerdctl/name":""}}"#).unwrap();
    fs::create_dir(config('5')).unwrap();
    symlink("/dev/zero", config('6')).unwrap();
    make_pipe(&config('7'));
    let huge = format!(
        r#"{{"annotations":{{"nerdctl/name":"x"}},"x":"{}"}}"#,
        "x".repeat(ANSWER_MAX as usize)
    );
    fs::write(config('8'), huge).unwrap();
    let long = format!(
        r#"{{"annotations":{{"nerdctl/name":"{}"}}}}"#,
        "x".repeat(513)
    );
    fs::write(config('9'), long).unwrap();
    fs::write(config('a'), r#"{"annotations":{"nerdctl/name":"whole"}}"#).unwrap();
    assert_eq!(machine.engines().all().await, [named(&id('a'), "whole")]);
}

fn make_pipe(path: &Path) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn names_of_the_kubelet_are_taken_to_pieces() {
    let name = |name: &str| name::of_names(&[name.to_owned()]);
    let uid = "0b1c8c65-5b1f-4a7e-9f0e-d1f4b4d6c7aa";
    assert_eq!(
        name(&format!("/k8s_nginx_web-1_shop_{uid}_0")).as_deref(),
        Some("shop/web-1/nginx")
    );
    assert_eq!(
        name(&format!("k8s_POD_web-1_shop_{uid}_3")).as_deref(),
        Some("shop/web-1")
    );
    assert_eq!(name("/k8s_mine").as_deref(), Some("k8s_mine"));
    assert_eq!(name("/k8s_a_b_c_d_e_f").as_deref(), Some("k8s_a_b_c_d_e_f"));
    assert_eq!(name("/"), None);
}

#[test]
fn a_links_name_is_not_the_containers() {
    let names = ["/app/database", "/db"].map(str::to_owned);
    assert_eq!(name::of_names(&names).as_deref(), Some("db"));
    assert_eq!(name::of_names(&names[..1]), None);
    assert_eq!(name::of_names(&[]), None);
}

#[tokio::test]
async fn the_feed_brings_all_names_and_those_that_are_wanted() {
    let machine = Machine::new();
    machine.docker(|request| match request.contains("filters") {
        false => ok(&format!("[{}]", container(&id('a'), "/web"))),
        true => ok(&format!("[{}]", container(&id('b'), "/db"))),
    });
    let mut feed = Feed::start(machine.engines());
    let mut names = Names::default();
    assert_eq!(feed.drain(&mut names), 0);
    feed.next(&mut names).await;
    assert_eq!(names.get(id('a').as_bytes()), Some("web"));
    feed.want(id('b').as_bytes());
    feed.next(&mut names).await;
    assert_eq!(names.get(id('b').as_bytes()), Some("db"));
}

#[tokio::test]
async fn the_feed_asks_for_a_container_once_a_second() {
    let machine = Machine::new();
    let (asked, mut requests) = tokio::sync::mpsc::unbounded_channel();
    machine.docker(move |request| {
        if request.contains("filters") {
            asked.send(()).unwrap();
        }
        ok("[]")
    });
    let mut feed = Feed::start(machine.engines());
    for _ in 0..1000 {
        feed.want(id('b').as_bytes());
    }
    requests.recv().await.unwrap();
    tokio::time::sleep(PATIENCE).await;
    assert!(requests.try_recv().is_err());
}

/// The owner of the feed is never kept, also not at the end.
#[test]
fn a_feed_that_hangs_ends_with_its_owner() {
    let machine = Machine::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let start = Instant::now();
    runtime.block_on(async {
        machine.engine("run/docker.sock", true, |_| Vec::new());
        let engines = Engines {
            patience: Duration::from_secs(3600),
            ..machine.engines()
        };
        let mut feed = Feed::start(engines);
        for digit in 0..u32::from(u16::MAX) {
            feed.want(format!("{digit:064x}").as_bytes());
        }
        let mut names = Names::default();
        let waited = tokio::time::timeout(PATIENCE, feed.next(&mut names)).await;
        assert!(waited.is_err());
    });
    drop(runtime);
    assert!(start.elapsed() < Duration::from_secs(5));
}
