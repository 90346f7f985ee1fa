//! The Unix socket in the data directory.
#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_transport::*;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

struct Served {
    events: mpsc::UnboundedReceiver<Event>,
    task: tokio::task::JoinHandle<()>,
    socket: PathBuf,
}

fn serve(cluster: &TestCluster, directory: &Path) -> Result<Served, LocalError> {
    let listener = LocalListener::bind(directory)?;
    let (sender, events) = mpsc::unbounded_channel();
    let gate = TestGate { hello: Mutex::new(cluster.manager_hello(1)), admit: Box::new(|_, _, _| Ok(())) };
    let socket = listener.path().to_owned();
    let task = tokio::spawn(listener.serve(Arc::new(gate), Arc::new(Recorder { events: sender })));
    Ok(Served { events, task, socket })
}

#[tokio::test]
async fn requests_go_over_the_socket_with_an_operators_role() {
    let cluster = TestCluster::new(1);
    let directory = tempfile::tempdir().unwrap();
    let mut served = serve(&cluster, directory.path()).unwrap();
    assert_eq!(std::fs::metadata(&served.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let connection = LocalConnection::connect(directory.path()).await.unwrap();
    assert_eq!(connection.remote_hello(), &cluster.manager_hello(1));
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..50u8 {
        let connection = connection.clone();
        asked.spawn(async move {
            let body = Bytes::from(vec![n; 1 + usize::from(n) * 1_000]);
            assert!(connection.request(body.clone(), PATIENCE).await == Ok(body));
        });
    }
    while let Some(ended) = within("answers", asked.join_next()).await {
        ended.unwrap();
    }
    let asking = connection.request(Bytes::from_static(b"hold"), PATIENCE);
    let serving = async {
        match within("a request", served.events.recv()).await.unwrap() {
            Event::Request(caller, _, _dropped) => caller,
            other => panic!("{other:?}"),
        }
    };
    let (answer, caller) = within("an answer", async { tokio::join!(asking, serving) }).await;
    assert!(matches!(answer, Err(RequestError::Unknown(_))), "{answer:?}");
    assert_eq!((caller.plane, caller.role, caller.address), (Plane::Local, CertRole::Operator, None));
}

#[tokio::test]
async fn without_a_node_it_is_said_so_also_where_the_socket_of_a_dead_one_lies() {
    let cluster = TestCluster::new(1);
    let directory = tempfile::tempdir().unwrap();
    let missing = LocalConnection::connect(directory.path()).await.unwrap_err();
    assert!(matches!(&missing, LocalError::NotRunning(path) if path == directory.path()), "{missing}");
    assert!(missing.to_string().contains("quorate run --data-dir"), "{missing}");
    // A process that died left its socket behind: nobody listens on it,
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("quorate.sock")).unwrap());
    let stale = LocalConnection::connect(directory.path()).await.unwrap_err();
    assert!(matches!(stale, LocalError::NotRunning(_)), "{stale}");
    // and the next node replaces it.
    let served = serve(&cluster, directory.path()).unwrap();
    LocalConnection::connect(directory.path()).await.unwrap();
    served.task.abort();
    let _ = served.task.await;
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "an orderly end leaves nothing");
    assert!(matches!(LocalConnection::connect(directory.path()).await, Err(LocalError::NotRunning(_))));
}

#[tokio::test]
async fn a_second_process_on_the_directory_is_refused_and_the_first_goes_on() {
    let cluster = TestCluster::new(1);
    let directory = tempfile::tempdir().unwrap();
    let _served = serve(&cluster, directory.path()).unwrap();
    let second = LocalListener::bind(directory.path()).unwrap_err();
    assert!(matches!(second, LocalError::AlreadyRunning(_)), "{second}");
    let connection = LocalConnection::connect(directory.path()).await.unwrap();
    assert!(connection.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
}

#[tokio::test]
async fn a_directory_whose_path_is_too_long_gets_a_pointer_to_a_private_place() {
    let cluster = TestCluster::new(1);
    let base = tempfile::tempdir().unwrap();
    let directory = base.path().join("d".repeat(120));
    std::fs::create_dir(&directory).unwrap();
    assert!(matches!(LocalConnection::connect(&directory).await, Err(LocalError::NotRunning(_))));
    let served = serve(&cluster, &directory).unwrap();
    assert!(!served.socket.starts_with(&directory));
    let private = served.socket.parent().unwrap().to_owned();
    assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700);
    let connection = LocalConnection::connect(&directory).await.unwrap();
    assert!(connection.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
    assert!(matches!(LocalListener::bind(&directory), Err(LocalError::AlreadyRunning(_))));
    served.task.abort();
    let _ = served.task.await;
    assert!(!private.exists(), "an orderly end leaves nothing");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    // A place that others can enter is not used.
    std::fs::create_dir(&private).unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o755)).unwrap();
    let open = LocalListener::bind(&directory).unwrap_err();
    std::fs::remove_dir(&private).unwrap();
    assert!(open.to_string().contains("not a private directory"), "{open}");
}

#[tokio::test]
async fn garbage_on_the_socket_ends_that_connection_only() {
    let cluster = TestCluster::new(1);
    let directory = tempfile::tempdir().unwrap();
    let served = serve(&cluster, directory.path()).unwrap();
    let oversize = [&u32::MAX.to_be_bytes()[..], &[6, 0, 0, 0, 0, 0]].concat();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 1_000], vec![255; 1_000], oversize] {
        let mut stream = tokio::net::UnixStream::connect(&served.socket).await.unwrap();
        let _ = stream.write_all(&garbage).await;
        let mut answer = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    }
    let connection = LocalConnection::connect(directory.path()).await.unwrap();
    assert!(connection.request(Bytes::from_static(b"ok"), PATIENCE).await.is_ok());
}

#[tokio::test]
async fn a_deadline_that_passes_leaves_the_outcome_unknown() {
    let cluster = TestCluster::new(1);
    let directory = tempfile::tempdir().unwrap();
    let _served = serve(&cluster, directory.path()).unwrap();
    let connection = LocalConnection::connect(directory.path()).await.unwrap();
    let late = connection.request(Bytes::from_static(b"hold"), Duration::from_millis(20)).await;
    assert!(matches!(late, Err(RequestError::Unknown(_))), "{late:?}");
}
