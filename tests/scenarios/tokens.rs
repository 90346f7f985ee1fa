//! Join tokens that end, and a newcomer that must be where it says that it is.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use quorate::membership::{Role, Rule};
use quorate::{Error, Node, Start, StartError};
use quorate_core::ports::Visit;
use quorate_transport::JoinToken;

use crate::support::{Cluster, closed_port, eventually, says, store_options};

/// What comes of joining with this token.
async fn joining(cluster: &Cluster, name: &str, token: &str) -> Result<Node, StartError> {
    let start = Start::OpenOrJoin { token: token.to_owned(), managers: cluster.addresses() };
    cluster.builder(&cluster.path(name), name).start(start).await
}

async fn refused(cluster: &Cluster, name: &str, token: &str) -> StartError {
    match joining(cluster, name, token).await {
        Ok(_) => panic!("{name} got in"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_token_lets_nobody_in_and_the_new_one_does() {
    let cluster = Cluster::founded().await;
    let tokens = cluster.any().client().tokens();
    let old = tokens.show(Role::Manager).await.unwrap();
    let new = tokens.rotate(Role::Manager).await.unwrap();
    assert_ne!(old, new);
    assert_eq!(tokens.show(Role::Manager).await.unwrap(), new);
    let error = refused(&cluster, "m2", &old).await;
    assert!(matches!(error, StartError::Refused(_)), "{error}");
    says(&error, &["token", "rotated", "quorate token show"]);
    let node = joining(&cluster, "m2", &new).await.unwrap();
    node.ready().await.unwrap();
    node.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_two_lets_two_in_of_four_that_come_at_once() {
    let cluster = Cluster::founded().await;
    let tokens = cluster.any().client().tokens();
    let made = tokens.create(Role::Manager).uses(2).await.unwrap();
    assert_eq!((made.info.uses, made.info.uses_left, made.info.valid), (2, Some(2), true));
    let come = |name| joining(&cluster, name, &made.token);
    let (a, b, c, d) = tokio::join!(come("a"), come("b"), come("c"), come("d"));
    let (mut nodes, mut errors) = (Vec::new(), Vec::new());
    for came in [a, b, c, d] {
        match came {
            Ok(node) => nodes.push(node),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!((nodes.len(), errors.len()), (2, 2), "{errors:?}");
    for error in errors {
        assert!(matches!(error, StartError::Refused(_)), "{error}");
        says(&error, &["used up", "quorate token create"]);
    }
    let list = tokens.list().await.unwrap();
    let used = list.iter().find(|token| token.id == made.info.id).unwrap();
    assert_eq!((used.uses_left, used.valid), (Some(0), false));
    assert_eq!(cluster.any().status().await.managers.len(), 3);
    for node in nodes {
        node.shutdown().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_time() {
    let cluster = Cluster::founded().await;
    let tokens = cluster.any().client().tokens();
    let made = tokens.create(Role::Manager).ttl(Duration::from_secs(1)).uses(0).await.unwrap();
    eventually("its time is over", || async {
        let list = tokens.list().await.unwrap();
        list.iter().any(|token| token.id == made.info.id && !token.valid).then_some(())
    })
    .await;
    let error = refused(&cluster, "m2", &made.token).await;
    assert!(matches!(error, StartError::Refused(_)), "{error}");
    says(&error, &["expired", "quorate token create"]);
    assert_eq!(cluster.any().status().await.managers.len(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_listed_without_their_secrets_and_taken_back() {
    let cluster = Cluster::founded().await;
    let tokens = cluster.any().client().tokens();
    let manager = tokens.create(Role::Manager).ttl(Duration::from_secs(3_600)).uses(20).await.unwrap();
    let worker = tokens.create(Role::Worker).forever().uses(0).await.unwrap();
    let list = tokens.list().await.unwrap();
    assert_eq!(list.iter().filter(|token| token.standing).count(), 2);
    let found = |id: &str| list.iter().find(|token| token.id == id).unwrap();
    assert!(found(&manager.info.id).expires_in_s.unwrap() > 3_000);
    assert_eq!((found(&worker.info.id).expires_in_s, found(&worker.info.id).uses_left), (None, None));
    assert_eq!(found(&worker.info.id).role, Role::Worker);
    let text = serde_json::to_string(&list).unwrap();
    for token in [&manager.token, &worker.token] {
        let (_, secret) = token.rsplit_once('-').unwrap();
        assert!(!text.contains(secret), "{text}");
    }
    // When one is taken back, it lets nobody in.
    tokens.revoke(&manager.info.id).await.unwrap();
    let error = refused(&cluster, "m2", &manager.token).await;
    assert!(matches!(error, StartError::Refused(_)), "{error}");
    says(&error, &["revoked"]);
    for unknown in [manager.info.id.as_str(), "nosuchid", ""] {
        let error = tokens.revoke(unknown).await.unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error}");
    }
    // What is out of range is refused.
    let error = tokens.create(Role::Worker).ttl(Duration::from_secs(366 * 86_400)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(matches!(tokens.create(Role::Worker).uses(1 << 40).await.unwrap_err(), Error::Invalid(_)));
    cluster.stop().await;
}

/// Whether a value or a log entry of a stopped manager, opened with its key, holds these bytes.
fn opened_holds(directory: &Path, secret: &[u8]) -> bool {
    let keys = store_options(directory).keys;
    let store = quorate_storage::open_read_only(&directory.join("store"), &*keys).unwrap();
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    let mut held = false;
    let visit = &mut |key: &[u8], value: &[u8]| {
        held |= holds(key) || holds(value);
        Visit::More
    };
    store.state.scan(b"", b"", visit).unwrap();
    let entries = store.log.entries(store.boot.start.index.next(), store.boot.last.next(), u64::MAX).unwrap();
    held || entries.iter().any(|entry| holds(&entry.data) || holds(&entry.context))
}

/// Whether a file holds these bytes, as it lies there.
fn holds(directory: &Path, secret: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, secret);
        }
        // What is no plain file (the socket) cannot be read.
        std::fs::read(&path).is_ok_and(|bytes| bytes.windows(secret.len()).any(|window| window == secret))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_token_that_was_made_is_on_no_disk() {
    let mut cluster = Cluster::founded().await;
    let tokens = cluster.any().client().tokens();
    let made: JoinToken = tokens.create(Role::Manager).await.unwrap().token.parse().unwrap();
    let rotated: JoinToken = tokens.rotate(Role::Worker).await.unwrap().parse().unwrap();
    const CONTROL: &[u8] = b"a value like any other";
    cluster.any().client().kv().put("control", CONTROL).await.unwrap();
    let directory = cluster.members[0].directory.clone();
    // Given what anybody who takes the disk can read, then no secret of a token is in it
    assert!(!holds(&directory, made.secret().expose()));
    assert!(!holds(&directory, rotated.secret().expose()));
    cluster.kill(0).await;
    // Given what the data key of the store opens, then no secret of a token is in any value or entry: of the made one there is a
    // hash, and the standing one is sealed by the barrier
    assert!(!opened_holds(&directory, made.secret().expose()));
    assert!(!opened_holds(&directory, rotated.secret().expose()));
    // The controls: such searches find what is there.
    assert!(opened_holds(&directory, CONTROL));
    std::fs::write(directory.join("store").join("control"), made.secret().expose()).unwrap();
    assert!(holds(&directory, made.secret().expose()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_tokens_than_are_kept_are_refused_until_some_are_revoked() {
    let cluster = Cluster::founded().await;
    let tokens = cluster.any().client().tokens();
    let (mut first, mut made) = (None, 0);
    let refused = loop {
        match tokens.create(Role::Worker).await {
            Ok(token) => (first, made) = (first.or(Some(token.info.id)), made + 1),
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, Error::Membership { rule: Rule::TooManyTokens, .. }), "{refused}");
    let limit = refused.limit().map(|limit| (limit.name.as_str(), limit.bound, limit.actual));
    assert_eq!((limit, made), (Some(("TOKENS_MAX", 256, 257)), 256), "{refused}");
    says(&refused, &["256", "quorate token revoke"]);
    tokens.revoke(&first.unwrap()).await.unwrap();
    tokens.create(Role::Worker).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_that_is_not_where_it_says_is_refused_before_anything_changes() {
    let cluster = Cluster::founded().await;
    let token = cluster.token().await;
    let start = || Start::OpenOrJoin { token: token.clone(), managers: cluster.addresses() };
    let directory = cluster.path("m2");
    let revision = cluster.any().client().nodes().list().await.unwrap().revision;
    // Given an address where nobody listens, and one where somebody else does.
    let closed = closed_port();
    let other = Cluster::founded().await;
    let somebody = other.addresses().remove(0);
    for (wrong, why) in [(&closed, "port closed"), (&somebody, "not a quorate manager")] {
        let builder = cluster.builder(&directory, "m2").advertise(wrong);
        let Err(error) = builder.start(start()).await else { panic!("it got in") };
        assert!(matches!(error, StartError::Refused(_)), "{error}");
        says(&error, &[wrong, why, "--advertise", "Nothing was changed"]);
    }
    // Then nothing was changed: no record, no raft id, no use of a token.
    let list = cluster.any().client().nodes().list().await.unwrap();
    assert_eq!((list.nodes.len(), list.revision), (1, revision));
    // With the advice followed in the same directory, it gets in, and listens on the port on which it was dialled.
    let own = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let node = cluster.builder(&directory, "m2").listen(&own).start(start()).await.unwrap();
    node.ready().await.unwrap();
    assert_eq!(node.address().to_string(), own);
    let list = cluster.any().client().nodes().list().await.unwrap();
    let joined = list.nodes.iter().find(|node| node.name == "m2").unwrap();
    assert_eq!((joined.raft_id, joined.address.as_str()), (2, own.as_str()));
    node.shutdown().await;
    other.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_whose_port_is_taken_is_told_that() {
    let cluster = Cluster::founded().await;
    let busy = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let start = Start::OpenOrJoin { token: cluster.token().await, managers: cluster.addresses() };
    // Whoever holds the port does not answer as a newcomer does.
    let builder = cluster.builder(&cluster.path("m2"), "m2").listen(&address);
    let Err(error) = builder.start(start).await else { panic!("it got in") };
    assert!(matches!(error, StartError::Address(_)), "{error}");
    says(&error, &[&address, "in use"]);
    assert_eq!(cluster.any().status().await.managers.len(), 1);
    cluster.stop().await;
}
