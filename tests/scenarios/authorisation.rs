//! Who may ask what: every kind of request, sent over the wire by everybody there is, against a table that is written here.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate::{Client, Error, Identity, operation};
use quorate_core::command::{Command, CommandKind, LeaseOrder, LeaseOrderKind, Request};
use quorate_core::id::{NodeId, RaftId};
use quorate_core::keyspace::Section;
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::txn::{Compare, Delete, Op, Put, Range, Txn};
use quorate_core::watch::WatchStart;
use quorate_transport::LocalConnection;
use quorate_transport::api::{self, request::Kind, response};

use crate::doors::{Door, client, peer, verdict};
use crate::support::{Cluster, says};

/// Who asks. In this order stand the columns of the table.
const WHO: [&str; 7] =
    ["operator", "reader", "manager", "node", "node of another", "manager's socket", "worker's socket"];

/// `y`: answered, in whatever way; `.`: denied; `r`: refused by the worker, whose socket passes it on to nobody.
/// `?` stands where nothing of another can be named, so that the column says nothing.
const EXPECTED: &[(&str, &str)] = &[
    ("write", "y....y."),
    ("write that only reads", "yy...y."),
    ("write, reads and deletes nested", "y....y."),
    ("write, answers with what was there", "y....y."),
    ("write, attaches to a lease", "y....y."),
    ("lease_write, takes back", "y....y."),
    ("check_paths", "y....y."),
    ("read", "yy...y."),
    ("watch", "yy...y."),
    ("backup", "y....y."),
    ("status", "yyyyyyy"),
    ("member_status", "..y...."),
    ("operator_issue", "y....y."),
    ("operator_revoke", "y....y."),
    ("operator_list", "yy...y."),
    ("ca_rotate", "y....y."),
    ("ca_status", "yy...y."),
    ("token_show", "y....y."),
    ("token_rotate", "y....y."),
    ("token_create", "y....y."),
    ("token_list", "y....y."),
    ("token_revoke", "y....y."),
    ("transfer", "y....y."),
    ("command", "..y...."),
    ("passed_on", "..y...."),
    ("rejoin", "...y?.y"),
    ("enrol", "...y?.y"),
    ("node_list", "yy...y."),
    ("node_inspect", "yy.y.yy"),
    ("node_role", "y....y."),
    ("node_update", "y....y."),
    ("node_remove", "y....y."),
    ("node_leave", "...y?yy"),
    ("node_report", "yyyyyyy"),
    ("policy_show", "yy...y."),
    ("policy_set", "y....y."),
    ("assignments_write", "y....y."),
    ("assignments_read", "yy...y."),
    ("report_read", "yy...y."),
    ("sessions", "..y...."),
    ("addresses", "..y...."),
    ("standing", "yyyyyyy"),
    ("check", "yyyyyyy"),
    ("lease_write", "y....y."),
    ("lease_keep_alive", "y....y."),
    ("lease_list", "yy...y."),
    ("lease_show", "yy...y."),
    ("upgrade_status", "yy...y."),
    ("upgrade_finish", "y....y."),
    ("keyring_show", "yy...y."),
    ("keyring_rotate", "y....y."),
    ("object_create", "y....y."),
    ("object_list", "yy...y."),
    ("object_inspect", "yy...y."),
    ("object_update", "y....y."),
    ("object_remove", "y....y."),
    ("secret_reveal", "y....y."),
    ("config_read", "yy...y."),
    ("key_order", ".....yr"),
    ("unlock", ".....yr"),
];

/// The word of each kind. A new kind does not compile here until it has one, and then a line above.
fn word(kind: &Kind) -> &'static str {
    match kind {
        Kind::Write(_) => "write",
        Kind::Read(_) => "read",
        Kind::Watch(_) => "watch",
        Kind::Backup(_) => "backup",
        Kind::Status(_) => "status",
        Kind::MemberStatus(_) => "member_status",
        Kind::OperatorIssue(_) => "operator_issue",
        Kind::OperatorRevoke(_) => "operator_revoke",
        Kind::OperatorList(_) => "operator_list",
        Kind::CaRotate(_) => "ca_rotate",
        Kind::CaStatus(_) => "ca_status",
        Kind::TokenShow(_) => "token_show",
        Kind::TokenRotate(_) => "token_rotate",
        Kind::TokenCreate(_) => "token_create",
        Kind::TokenList(_) => "token_list",
        Kind::TokenRevoke(_) => "token_revoke",
        Kind::Transfer(_) => "transfer",
        Kind::Command(_) => "command",
        Kind::PassedOn(_) => "passed_on",
        Kind::Rejoin(_) => "rejoin",
        Kind::Enrol(_) => "enrol",
        Kind::NodeList(_) => "node_list",
        Kind::NodeInspect(_) => "node_inspect",
        Kind::NodeRole(_) => "node_role",
        Kind::NodeUpdate(_) => "node_update",
        Kind::NodeRemove(_) => "node_remove",
        Kind::NodeLeave(_) => "node_leave",
        Kind::NodeReport(_) => "node_report",
        Kind::PolicyShow(_) => "policy_show",
        Kind::PolicySet(_) => "policy_set",
        Kind::AssignmentsWrite(_) => "assignments_write",
        Kind::AssignmentsRead(_) => "assignments_read",
        Kind::ReportRead(_) => "report_read",
        Kind::Sessions(_) => "sessions",
        Kind::Addresses(_) => "addresses",
        Kind::Standing(_) => "standing",
        Kind::Check(_) => "check",
        Kind::LeaseWrite(_) => "lease_write",
        Kind::LeaseKeepAlive(_) => "lease_keep_alive",
        Kind::LeaseList(_) => "lease_list",
        Kind::LeaseShow(_) => "lease_show",
        Kind::UpgradeStatus(_) => "upgrade_status",
        Kind::UpgradeFinish(_) => "upgrade_finish",
        Kind::KeyringShow(_) => "keyring_show",
        Kind::KeyringRotate(_) => "keyring_rotate",
        Kind::ObjectCreate(_) => "object_create",
        Kind::ObjectList(_) => "object_list",
        Kind::ObjectInspect(_) => "object_inspect",
        Kind::ObjectUpdate(_) => "object_update",
        Kind::ObjectRemove(_) => "object_remove",
        Kind::SecretReveal(_) => "secret_reveal",
        Kind::ConfigRead(_) => "config_read",
        Kind::KeyOrder(_) => "key_order",
        Kind::Unlock(_) => "unlock",
    }
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// A request with a fresh id.
fn requested(txn: Option<Txn>, lease: Option<LeaseOrder>) -> Bytes {
    let client = Bytes::copy_from_slice(&random());
    Request { client, sequence: 1, txn, lease, ..Request::default() }.encode_to_vec().into()
}

fn written(ops: Vec<Op>) -> Kind {
    let txn = Txn { then: ops, ..Txn::default() };
    Kind::Write(api::Write { request: requested(Some(txn), None), reads: true })
}

fn range() -> Range {
    Range { key: Bytes::from_static(b"a"), end: Bytes::from_static(b"z"), ..Range::default() }
}

/// One of each kind, and writes of several shapes. What would change the cluster lacks its request id, or names nobody: it is
/// not denied to who may ask it, and nothing comes of it. `about`: the node that is looked at.
fn requests(about: &str) -> Vec<(&'static str, Kind)> {
    let put = || Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v"), ..Put::default() };
    let delete = || Delete { key: Bytes::from_static(b"a"), end: Bytes::from_static(b"b"), previous: true };
    let nested = Txn {
        compares: vec![Compare::absent(Bytes::from_static(b"never"))],
        then: vec![range().into()],
        // Not done, and still a part of what is asked.
        or_else: vec![delete().into()],
        ..Txn::default()
    };
    let nested = Kind::Write(api::Write { request: requested(Some(nested), None), reads: true });
    let lease = Put { lease: 99, ..put() };
    let take_back = LeaseOrder { kind: Some(LeaseOrderKind::Revoke(99)), fence: None };
    let item = Txn::of(Put { key: Section::User.key(b"item"), ..Put::default() });
    // Changes nothing: its condition never holds.
    let idle = Txn { compares: vec![Compare::mod_revision(ClusterRecord::key(), u64::MAX)], ..Txn::default() };
    let idle = Command::from(CommandKind::System(idle)).encode_to_vec().into();
    let status = api::Request { deadline_ms: 5_000, kind: Some(Kind::Status(api::Status {})) };
    let behalf = Some(api::Behalf { role: "local".into(), id: Bytes::new(), of: "status".into() });
    let grant = LeaseOrder { kind: Some(LeaseOrderKind::Grant(60_000)), fence: None };
    let start = WatchStart { key: range().key, end: range().end, ..WatchStart::default() };
    let node_id = Bytes::copy_from_slice(&random());
    let kinds = vec![
        written(vec![put().into()]),
        Kind::Read(api::Read { range: range().encode_to_vec().into(), serializable: false }),
        Kind::Watch(api::Watch { start: start.encode_to_vec().into() }),
        Kind::Backup(api::Backup::default()),
        Kind::Status(api::Status {}),
        Kind::MemberStatus(api::MemberStatus {}),
        Kind::OperatorIssue(api::OperatorIssue::default()),
        Kind::OperatorRevoke(api::OperatorRevoke { name: "nobody".into(), once: None }),
        Kind::OperatorList(api::OperatorList {}),
        Kind::CaRotate(api::CaRotate { deadline_s: 0, another: false, once: None }),
        Kind::CaStatus(api::CaStatus {}),
        Kind::TokenShow(api::TokenShow { role: "worker".into() }),
        Kind::TokenRotate(api::TokenRotate { role: "worker".into(), ..api::TokenRotate::default() }),
        Kind::TokenCreate(api::TokenCreate { role: "worker".into(), ..api::TokenCreate::default() }),
        Kind::TokenList(api::TokenList {}),
        Kind::TokenRevoke(api::TokenRevoke { id: "none".into(), once: None }),
        Kind::Transfer(api::Transfer { to: "nobody".into(), term: 0 }),
        Kind::Command(api::Command { command: idle, behalf: None }),
        Kind::PassedOn(api::PassedOn { behalf, request: status.encode_to_vec().into() }),
        Kind::Rejoin(api::Rejoin::default()),
        Kind::Enrol(api::Enrol::default()),
        Kind::NodeList(api::NodeList {}),
        Kind::NodeInspect(api::NodeInspect { node: about.into() }),
        Kind::NodeRole(api::NodeRole { node: "nobody".into(), role: "worker".into(), ..api::NodeRole::default() }),
        Kind::NodeUpdate(api::NodeUpdate { node: "nobody".into(), ..api::NodeUpdate::default() }),
        Kind::NodeRemove(api::NodeRemove { node: "nobody".into(), ..api::NodeRemove::default() }),
        Kind::NodeLeave(api::NodeLeave::default()),
        Kind::NodeReport(api::NodeReport {}),
        Kind::PolicyShow(api::PolicyShow {}),
        Kind::PolicySet(api::PolicySet::default()),
        Kind::AssignmentsWrite(api::AssignmentsWrite { request: requested(Some(item), None) }),
        Kind::AssignmentsRead(api::AssignmentsRead { node_id: node_id.clone(), ..api::AssignmentsRead::default() }),
        Kind::ReportRead(api::ReportRead { node_id, serializable: false }),
        Kind::Sessions(api::Sessions::default()),
        Kind::Addresses(api::Addresses {}),
        Kind::Standing(api::Standing { birth: true }),
        Kind::Check(api::Check { paths: false, back: false }),
        Kind::LeaseWrite(api::LeaseWrite { request: requested(None, Some(grant)) }),
        Kind::LeaseKeepAlive(api::LeaseKeepAlive { lease: 99 }),
        Kind::LeaseList(api::LeaseList { after: 0, limit: 1 }),
        Kind::LeaseShow(api::LeaseShow { lease: 99, after: Bytes::new() }),
        Kind::UpgradeStatus(api::UpgradeStatus {}),
        Kind::UpgradeFinish(api::UpgradeFinish { once: None }),
        Kind::KeyringShow(api::KeyringShow {}),
        // Of a key that is none: nothing comes of it.
        Kind::KeyringRotate(api::KeyringRotate { active: u32::MAX }),
        Kind::ObjectCreate(api::ObjectCreate {
            kind: "secret".into(),
            name: "s".into(),
            ..api::ObjectCreate::default()
        }),
        Kind::ObjectList(api::ObjectList { kind: "secret".into(), ..api::ObjectList::default() }),
        Kind::ObjectInspect(api::ObjectInspect { kind: "secret".into(), name: "none".into() }),
        Kind::ObjectUpdate(api::ObjectUpdate {
            kind: "secret".into(),
            name: "none".into(),
            ..api::ObjectUpdate::default()
        }),
        Kind::ObjectRemove(api::ObjectRemove { kind: "secret".into(), name: "none".into(), once: None }),
        Kind::SecretReveal(api::SecretReveal { name: "none".into() }),
        Kind::ConfigRead(api::ConfigRead { name: "none".into() }),
        Kind::KeyOrder(api::KeyOrder { order: None }),
        Kind::Unlock(api::Unlock { key: String::new() }),
    ];
    let mut requests: Vec<(&'static str, Kind)> = kinds.into_iter().map(|kind| (word(&kind), kind)).collect();
    requests.push(("write that only reads", written(vec![range().into()])));
    requests.push(("write, reads and deletes nested", nested));
    requests.push(("write, answers with what was there", written(vec![Put { previous: true, ..put() }.into()])));
    requests.push(("write, attaches to a lease", written(vec![lease.into()])));
    let take_back = api::LeaseWrite { request: requested(None, Some(take_back)) };
    requests.push(("lease_write, takes back", Kind::LeaseWrite(take_back)));
    requests.push(("check_paths", Kind::Check(api::Check { paths: true, back: false })));
    requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_to_whom_it_is_meant_for_and_denied_to_everybody_else() {
    // Given three managers of which one is off, a worker, an operator, and one that may only look.
    let mut cluster = Cluster::of(3).await;
    cluster.lead_by(0).await;
    let worker = cluster.worker("w1").await;
    let operators = cluster.any().client().operators();
    let reader = operators.issue("viewer").read_only().await.unwrap();
    let path = cluster.path("viewer.id");
    reader.identity.write(&path).unwrap();
    let address = cluster.node(0).address().to_string();
    cluster.kill(2).await;
    let node = || Identity::load(&cluster.path("w1").join("node.id")).unwrap();
    let doors = [
        (Door::Client(client(cluster.operator(), &address).await.unwrap()), "m1"),
        (Door::Client(client(reader.identity, &address).await.unwrap()), "m1"),
        (Door::Peer(peer(&cluster.members[2].directory, &address).await, RaftId(1)), "m1"),
        (Door::Client(client(node(), &address).await.unwrap()), "w1"),
        (Door::Client(client(node(), &address).await.unwrap()), "m1"),
        (Door::Local(LocalConnection::connect(&cluster.members[0].directory).await.unwrap()), "m1"),
        (Door::Local(LocalConnection::connect(&cluster.path("w1")).await.unwrap()), "w1"),
    ];
    // When each of them sends one of everything
    let mut seen: Vec<(&str, String)> = EXPECTED.iter().map(|(what, _)| (*what, String::new())).collect();
    for (door, about) in &doors {
        for (what, kind) in requests(about) {
            let line = seen.iter_mut().find(|(listed, _)| *listed == what);
            let (_, line) = line.unwrap_or_else(|| panic!("`{what}` has a line in the table"));
            let answer = door.ask(kind).await;
            if verdict(&answer) == '.' {
                let response::Kind::Error(error) = &answer else { unreachable!() };
                assert!(error.message.contains("othing"), "it says that nothing was done: {}", error.message);
            }
            line.push(verdict(&answer));
        }
    }
    // Then it is answered exactly where the table says so,
    for ((what, seen), (_, expected)) in seen.iter().zip(EXPECTED) {
        for ((who, seen), expected) in WHO.iter().zip(seen.chars()).zip(expected.chars()) {
            assert!(expected == '?' || seen == expected, "`{what}` by {who}: {seen}, and not {expected}");
        }
        assert_eq!(seen.len(), WHO.len(), "{what}");
    }
    // and so it is through a manager that does not lead, where what it passes on is judged once more.
    let address = cluster.node(1).address().to_string();
    let local = LocalConnection::connect(&cluster.members[1].directory).await.unwrap();
    let through = [
        (0, Door::Client(client(cluster.operator(), &address).await.unwrap()), "m1"),
        (1, Door::Client(client(Identity::load(&path).unwrap(), &address).await.unwrap()), "m1"),
        (3, Door::Client(client(node(), &address).await.unwrap()), "w1"),
        (4, Door::Client(client(node(), &address).await.unwrap()), "m1"),
        (5, Door::Local(local), "m1"),
    ];
    for (column, door, about) in &through {
        for (what, kind) in requests(about) {
            let (_, expected) = EXPECTED.iter().find(|(listed, _)| *listed == what).unwrap();
            let expected = expected.chars().nth(*column).unwrap();
            let seen = verdict(&door.ask(kind).await);
            assert!(expected == '?' || seen == expected, "`{what}` by {} through m2: {seen}", WHO[*column]);
        }
    }
    drop(through);
    // The table has a line for each that the guide has, and the guide is compared with the code.
    let guide = include_str!("../../docs/guide/who-may-what.md");
    let words: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let listed: Vec<&str> = EXPECTED
        .iter()
        .map(|(what, _)| *what)
        .filter(|what| !what.starts_with("write t") && !what.contains(','))
        .collect();
    assert_eq!(words.len(), listed.len());
    assert!(words.iter().all(|word| listed.contains(word)), "{words:?}");
    // What a manager says of its key and its items it says to no other node.
    let report = async |door: &Door| {
        let response::Kind::NodeReport(done) = door.ask(Kind::NodeReport(api::NodeReport {})).await else {
            unreachable!()
        };
        serde_json::from_slice::<serde_json::Value>(&done.json).unwrap()
    };
    assert!(report(&doors[0].0).await["key"].is_object());
    let to_a_node = report(&doors[4].0).await;
    assert!(!to_a_node["key"].is_object() && to_a_node["items"] == serde_json::json!([]), "{to_a_node}");
    // Nobody but a manager speaks for others, and none for a manager or in the name of who does not count.
    let behalf = |role: &str, id: Bytes| Some(api::Behalf { role: role.into(), id, of: "token_list".into() });
    let inner: Bytes =
        api::Request { deadline_ms: 5_000, kind: Some(Kind::TokenList(api::TokenList {})) }.encode_to_vec().into();
    let passed = |behalf| Kind::PassedOn(api::PassedOn { behalf, request: inner.clone() });
    let manager = &doors[2].0;
    let id = |identity: &Identity| Bytes::copy_from_slice(identity.subject().node_id.as_bytes());
    let standing = behalf("operator", id(&cluster.operator()));
    assert_eq!(verdict(&manager.ask(passed(standing.clone())).await), 'y');
    for (door, _) in doors.iter().filter(|(door, _)| !matches!(door, Door::Peer(..))) {
        assert_eq!(verdict(&door.ask(passed(standing.clone())).await), '.');
    }
    assert_eq!(verdict(&manager.ask(passed(behalf("operator", Bytes::copy_from_slice(&random())))).await), '.');
    assert_eq!(verdict(&manager.ask(passed(behalf("node", id(&node())))).await), '.');
    let nonsense = manager.ask(passed(behalf("manager", Bytes::new()))).await;
    assert!(matches!(nonsense, response::Kind::Error(error) if error.code() == api::Code::Invalid));
    worker.shutdown().await;
    drop(doors);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_may_only_look_looks_everywhere_and_changes_nothing_through_any_manager() {
    // Given three managers and something to look at
    let cluster = Cluster::of(3).await;
    cluster.lead_by(0).await;
    let writer = cluster.any().client();
    writer.kv().put("k", "v").await.unwrap();
    let made = cluster.node(1).client().operators().issue("viewer").read_only().await.unwrap();
    assert!(made.info.read_only && made.info.stands);
    let path = cluster.path("viewer.id");
    made.identity.write(&path).unwrap();
    // A transaction of it that cannot write is a read, and adds nothing to the log: to that of the cluster, of any manager
    let address = [cluster.node(1).address().to_string()];
    let viewer = Client::connect(address, Identity::load(&path).unwrap()).await.unwrap();
    let applied = async || cluster.any().status().await.managers.iter().map(|manager| manager.applied).max().unwrap();
    let before = applied().await;
    for _ in 0..200 {
        let there = quorate::compare::exists("k");
        let looked = viewer.kv().txn().when(there).then(operation::get("k")).or_else(operation::get("none"));
        let looked = looked.await.unwrap();
        assert!(looked.succeeded && looked.results[0][0].value == Bytes::from_static(b"v"), "{looked:?}");
    }
    let after = applied().await;
    assert!(after < before + 100, "from {before} to {after}");
    // one that may write, if only in a branch that is not taken, is none.
    let put = operation::put("k", "w");
    let denied = viewer.kv().txn().then(operation::get("k")).or_else(put).await.unwrap_err();
    assert!(matches!(denied, Error::Denied(_)), "{denied}");
    for index in 0..3 {
        // When it asks the leader, or another one which passes it on
        let managers = [cluster.node(index).address().to_string()];
        let viewer = Client::connect(managers, Identity::load(&path).unwrap()).await.unwrap();
        // Then it sees keys, the cluster and its nodes, and is told of changes
        assert_eq!(viewer.kv().get("k").await.unwrap().unwrap().value, Bytes::from_static(b"v"));
        assert_eq!(viewer.status().await.unwrap().voters, 3);
        assert_eq!(viewer.nodes().list().await.unwrap().nodes.len(), 3);
        viewer.nodes().inspect("m1").await.unwrap();
        viewer.leases().list().await.unwrap();
        let mut watch = viewer.kv().watch("k").await.unwrap();
        writer.kv().put("k", "v").await.unwrap();
        watch.next().await.unwrap();
        // And writes nothing, by whichever way, nor does it see tokens or make itself an operator.
        let denied: Vec<Error> = vec![
            viewer.kv().put("k", "w").await.unwrap_err(),
            viewer.kv().delete("k").await.unwrap_err(),
            viewer.nodes().promote("m1").await.unwrap_err(),
            viewer.tokens().show(quorate::membership::Role::Worker).await.unwrap_err(),
            viewer.tokens().list().await.unwrap_err(),
            viewer.operators().issue("me").await.unwrap_err(),
            viewer.operators().revoke("operator").await.unwrap_err(),
            viewer.leases().grant(Duration::from_secs(60)).await.unwrap_err(),
            viewer.transfer_leadership(None).await.unwrap_err(),
        ];
        for error in denied {
            assert!(matches!(error, Error::Denied(_)), "{error}");
            says(&error, &["Nothing"]);
        }
    }
    let entry = writer.kv().get("k").await.unwrap().unwrap();
    assert_eq!(entry.value, Bytes::from_static(b"v"));
    // The record of a node is no key: nothing is under its name.
    assert!(writer.kv().get(NodeRecord::key(NodeId::from_bytes([0; 16]))).await.unwrap().is_none());
    cluster.stop().await;
}
