//! Requests that reach over a border: ranges from one section into the next, feeds, and what a manager passes on in somebody's name.

use bytes::Bytes;
use prost::Message as _;
use quorate::Identity;
use quorate_core::command::{Command, CommandKind, LeaseOrder, LeaseOrderKind, Request};
use quorate_core::id::{NodeId, RaftId};
use quorate_core::keyring::{Ask, KeyringOrder, KeyringOrderKind};
use quorate_core::keyspace::Section;
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::txn::{Compare, Delete, Op, Put, Range, Txn};
use quorate_core::watch::WatchStart;
use quorate_transport::api::{self, request::Kind, response};
use quorate_transport::{Connection, Fed};

use crate::doors::{Door, client, peer};
use crate::support::{BUDGET, Cluster, eventually};

fn random() -> Bytes {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    Bytes::copy_from_slice(&bytes)
}

/// With an id of its own.
fn request(txn: Option<Txn>, lease: Option<LeaseOrder>) -> Request {
    Request { client: random(), sequence: 1, txn, lease, ..Request::default() }
}

fn of(ops: Vec<Op>) -> Option<Txn> {
    Some(Txn { then: ops, ..Txn::default() })
}

fn put(key: Bytes) -> Put {
    Put { key, value: Bytes::from_static(b"v"), ..Put::default() }
}

/// What came of it: `done`, or the code of the refusal.
fn outcome(answer: &response::Kind) -> String {
    match answer {
        response::Kind::Error(error) => format!("{:?}", error.code()),
        _ => "done".to_owned(),
    }
}

/// Everything from this section up to the next one, and that, too.
fn over(from: Section, to: Section) -> (Bytes, Bytes) {
    (from.key(b""), Bytes::copy_from_slice(&[to as u8 + 1]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_range_reaches_over_the_border_of_what_may_be_named() {
    // Given a secret, a config and a user's key, asked for through the leader and through another one
    let cluster = Cluster::of(3).await;
    cluster.lead_by(0).await;
    let local = cluster.any().client();
    local.secrets().create("db", "hunter2").await.unwrap();
    local.configs().create("conf", "listen 80").await.unwrap();
    let before = local.status().await.unwrap().managers.len();
    for index in [0, 1] {
        let address = cluster.node(index).address().to_string();
        let operator = Door::Client(client(cluster.operator(), &address).await.unwrap());
        local.kv().put("k", "v").await.unwrap();
        // When items are written with ranges and keys that are none of items, in either branch, then nothing is done
        let (key, end) = over(Section::Assignment, Section::Secret);
        let (user, beyond) = over(Section::User, Section::User);
        let outside: Vec<Op> = vec![
            Delete { key: key.clone(), end: end.clone(), previous: true }.into(),
            Range { key, end, ..Range::default() }.into(),
            Delete { key: Section::Secret.key(b"db"), ..Delete::default() }.into(),
            put(Section::Secret.key(b"db")).into(),
            put(NodeRecord::key(NodeId::from_bytes([7; 16]))).into(),
            Delete { key: user.clone(), end: Bytes::from_static(b"\xff"), previous: true }.into(),
            Delete { key: Section::Secret.key(b""), end: beyond, previous: false }.into(),
        ];
        for op in outside {
            let first = Txn { then: vec![put(Section::User.key(b"k")).into(), op.clone()], ..Txn::default() };
            let second = Txn { or_else: vec![op.clone()], ..Txn::default() };
            for txn in [first, second] {
                let write = api::AssignmentsWrite { request: request(Some(txn), None).encode_to_vec().into() };
                let answer = operator.ask(Kind::AssignmentsWrite(write)).await;
                assert!(["Denied", "Invalid"].contains(&outcome(&answer).as_str()), "{op:?}: {answer:?}");
            }
        }
        // And a write of keys names no record, whatever it names: all of it is a user's.
        let all = |key: &'static [u8], end: &'static [u8]| {
            let (key, end) = (Bytes::from_static(key), Bytes::from_static(end));
            let ops = vec![Delete { key, end, previous: true }.into()];
            Kind::Write(api::Write { request: request(of(ops), None).encode_to_vec().into(), reads: true })
        };
        for kind in [all(b"\x00", b"\xff\xff"), all(b"a", b"z"), all(b"s", b"t")] {
            assert_eq!(outcome(&operator.ask(kind).await), "done");
        }
        assert!(local.kv().get("k").await.unwrap().is_none());
        assert_eq!(local.secrets().reveal("db").await.unwrap().expose(), b"hunter2");
        assert_eq!(local.configs().read("conf").await.unwrap(), "listen 80");
        assert_eq!(local.status().await.unwrap().managers.len(), before);
    }
    cluster.stop().await;
}

/// The first thing that a feed says: `told`, or the code of its last word.
async fn first(connection: &Connection, kind: Kind) -> String {
    let question = api::Request { deadline_ms: 10_000, kind: Some(kind) };
    let mut feed = connection.feed(question.encode_to_vec().into()).await.unwrap();
    match tokio::time::timeout(BUDGET, feed.next()).await.expect("it says something").unwrap() {
        Fed::Message(_) => "told".to_owned(),
        Fed::End(word) => outcome(&api::Response::decode(word).unwrap().kind.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_and_backups_are_told_to_whom_they_are_meant_for() {
    // Given a key, an operator, one that may only look, and a worker
    let cluster = Cluster::of(3).await;
    let local = cluster.any().client();
    let revision = local.kv().put("k", "v").await.unwrap().revision;
    let reader = local.operators().issue("viewer").read_only().await.unwrap().identity;
    reader.write(&cluster.path("viewer.id")).unwrap();
    let reader = || Identity::load(&cluster.path("viewer.id")).unwrap();
    cluster.worker("w1").await.shutdown().await;
    let node = || Identity::load(&cluster.path("w1").join("node.id")).unwrap();
    let watch = |key: &'static [u8], end: &'static [u8]| {
        let (key, end) = (Bytes::from_static(key), Bytes::from_static(end));
        let start = WatchStart { key, end, from: revision, ..WatchStart::default() };
        Kind::Watch(api::Watch { start: start.encode_to_vec().into() })
    };
    // When each asks each manager by a feed, then a watch is told to who may read, and a backup to operators only
    for index in 0..3 {
        let address = cluster.node(index).address().to_string();
        for (who, identity, watched, backed_up) in [
            ("operator", cluster.operator(), "told", "told"),
            ("reader", reader(), "told", "Denied"),
            ("node", node(), "Denied", "Denied"),
        ] {
            let connection = client(identity, &address).await.unwrap();
            assert_eq!(first(&connection, watch(b"k", b"")).await, watched, "{who}");
            assert_eq!(first(&connection, watch(b"a", b"z")).await, watched, "{who}, a range");
            let (sealing_key, signing_key) = (Bytes::from_static(&[9; 32]), Bytes::from_static(&[8; 32]));
            let backup = Kind::Backup(api::Backup { sealing_key, signing_key, ..api::Backup::default() });
            assert_eq!(first(&connection, backup).await, backed_up, "{who}, a backup");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_manager_passes_on_in_somebodys_name_is_judged_by_that_name() {
    // Given the identity of a manager, an operator, one that may only look, and a worker
    let mut cluster = Cluster::of(3).await;
    cluster.lead_by(0).await;
    let address = cluster.node(0).address().to_string();
    let local = cluster.any().client();
    local.secrets().create("db", "hunter2").await.unwrap();
    let reader = local.operators().issue("viewer").read_only().await.unwrap().identity;
    cluster.worker("w1").await.shutdown().await;
    let id = |identity: &Identity| Bytes::copy_from_slice(identity.subject().node_id.as_bytes());
    let (operator, reader) = (id(&cluster.operator()), id(&reader));
    let node = id(&Identity::load(&cluster.path("w1").join("node.id")).unwrap());
    cluster.kill(2).await;
    let door = Door::Peer(peer(&cluster.members[2].directory, &address).await, RaftId(1));
    let behalf = |role: &str, id: &Bytes, of: &str| api::Behalf { role: role.into(), id: id.clone(), of: of.into() };
    let command = |command: CommandKind, behalf: Option<api::Behalf>| {
        Kind::Command(api::Command { command: Command::from(command).encode_to_vec().into(), behalf })
    };
    let write = |txn: Option<Txn>| CommandKind::Request(request(txn, None));
    let user = || put(Section::User.key(b"k"));
    let idle = || Txn { compares: vec![Compare::mod_revision(ClusterRecord::key(), u64::MAX)], ..Txn::default() };
    let revoke = || LeaseOrder { kind: Some(LeaseOrderKind::Revoke(99)), fence: None };
    let (key, end) = over(Section::Secret, Section::User);
    let across = || Delete { key: key.clone(), end: end.clone(), previous: true };
    let looks = Range { key: Section::User.key(b"a"), end: Section::User.key(b"z"), ..Range::default() };
    let another_key = || CommandKind::Keyring(KeyringOrder { kind: Some(KeyringOrderKind::Ask(Ask { active: 1 })) });
    let reads_secrets = || Range { key: Section::Secret.key(b"db"), ..Range::default() };
    let stranger = random();
    // When it passes on what was never asked so, then it is denied: who only looks writes nothing, in no shape,
    let denied = vec![
        ("a put of a reader", write(of(vec![user().into()])), Some(behalf("reader", &reader, "write"))),
        (
            "a put that answers with what was there",
            write(of(vec![Put { previous: true, ..user() }.into()])),
            Some(behalf("reader", &reader, "write")),
        ),
        (
            "a put that is not done",
            write(Some(Txn { or_else: vec![user().into()], ..idle() })),
            Some(behalf("reader", &reader, "write")),
        ),
        ("a reader as an operator", write(of(vec![user().into()])), Some(behalf("operator", &reader, "write"))),
        ("a worker", write(of(vec![user().into()])), Some(behalf("node", &node, "write"))),
        ("a worker as an operator", write(of(vec![user().into()])), Some(behalf("operator", &node, "write"))),
        ("nobody that there is", write(of(vec![user().into()])), Some(behalf("operator", &stranger, "write"))),
        // a request is somebody's, and a manager's own command nobody's,
        ("a request of nobody", write(of(vec![user().into()])), None),
        ("an own command as an operator's", CommandKind::System(idle()), Some(behalf("operator", &operator, "write"))),
        // an operator has what it may name, and no more, in the request that it has made,
        ("a range over a border", write(of(vec![across().into()])), Some(behalf("operator", &operator, "write"))),
        (
            "a secret read as a key",
            write(of(vec![reads_secrets().into()])),
            Some(behalf("operator", &operator, "write")),
        ),
        (
            "a secret compared",
            write(Some(Txn { compares: vec![Compare::absent(Section::Secret.key(b"db"))], ..Txn::default() })),
            Some(behalf("operator", &operator, "write")),
        ),
        (
            "an item that is attached to a lease",
            write(of(vec![Put { lease: 99, ..put(Section::Assignment.key(b"i")) }.into()])),
            Some(behalf("operator", &operator, "assignments_write")),
        ),
        (
            "a lease in a write",
            CommandKind::Request(request(None, Some(revoke()))),
            Some(behalf("operator", &operator, "write")),
        ),
        (
            "a lease of a reader",
            CommandKind::Request(request(None, Some(revoke()))),
            Some(behalf("reader", &reader, "lease_write")),
        ),
        ("a wish of a reader", write(Some(idle())), Some(behalf("reader", &reader, "token_rotate"))),
        // and another barrier key is asked for by somebody, who may, by the request for it.
        ("another key for nobody", another_key(), None),
        ("another key for a reader", another_key(), Some(behalf("reader", &reader, "keyring_rotate"))),
        ("another key for a worker", another_key(), Some(behalf("node", &node, "keyring_rotate"))),
        ("another key as a write", another_key(), Some(behalf("operator", &operator, "write"))),
    ];
    for (what, kind, behalf) in denied {
        assert_eq!(outcome(&door.ask(command(kind, behalf)).await), "Denied", "{what}");
    }
    assert!(local.kv().get("k").await.unwrap().is_none());
    assert_eq!(local.secrets().reveal("db").await.unwrap().expose(), b"hunter2");
    // and what was asked is done.
    let done = vec![
        (
            "a put of an operator",
            write(of(vec![Put { previous: true, ..user() }.into()])),
            Some(behalf("operator", &operator, "write")),
        ),
        ("a reader's look", write(of(vec![looks.into()])), Some(behalf("reader", &reader, "write"))),
        ("a wish", write(Some(idle())), Some(behalf("operator", &operator, "token_rotate"))),
        ("an own command", CommandKind::System(idle()), None),
    ];
    for (what, kind, behalf) in done {
        assert_eq!(outcome(&door.ask(command(kind, behalf)).await), "done", "{what}");
    }
    assert_eq!(local.kv().get("k").await.unwrap().unwrap().value, "v");
    assert_eq!(local.keyring().show().await.unwrap().active, 1, "nobody who may has asked for another key");
    let asked = Some(behalf("operator", &operator, "keyring_rotate"));
    assert_eq!(outcome(&door.ask(command(another_key(), asked)).await), "done");
    eventually("there is another key", || async { (local.keyring().show().await.ok()?.active > 1).then_some(()) })
        .await;
    // A request that there is not was never made, and nobody else passes on at all.
    let unheard = behalf("operator", &operator, "everything");
    assert_eq!(outcome(&door.ask(command(write(Some(idle())), Some(unheard))).await), "Invalid");
    let outside = Door::Client(client(cluster.operator(), &address).await.unwrap());
    let kind = write(of(vec![user().into()]));
    let passed = outside.ask(command(kind, Some(behalf("operator", &operator, "write")))).await;
    assert_eq!(outcome(&passed), "Denied");
    cluster.stop().await;
}
