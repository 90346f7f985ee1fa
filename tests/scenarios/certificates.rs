//! Certificates: renewed by managers and workers while everything goes on, and clocks that differ.

use std::path::Path;
use std::time::{Duration, SystemTime};

use quorate::status::ClusterStatus;
use quorate::{Start, StopReason};
use quorate_transport::{Identity, IdentityFile, Subject};

use crate::support::{Cluster, Member, eventually, says};

/// A life of certificates that passes many times in a test, and bears a machine that stands still for seconds.
const SHORT: Duration = Duration::from_secs(8);

/// The certificate in a node's directory: what it says, and the file. Two of one second say the same.
struct Held(Subject, Vec<u8>);

fn certificate(directory: &Path) -> Held {
    let path = directory.join("node.id");
    Held(
        *IdentityFile::load(&path).map(|file| file.shown).expect("an identity").subject(),
        std::fs::read(&path).unwrap(),
    )
}

/// Waits until the certificate in a directory is another one than this.
async fn renewed(directory: &Path, since: &Held) -> Held {
    eventually(&format!("the certificate in {} is renewed", directory.display()), || async {
        let now = certificate(directory);
        // Of the same key and for the same role, that is all that may change.
        assert_eq!((now.0.key_digest, now.0.named()), (since.0.key_digest, since.0.named()));
        (now.1 != since.1 && now.0.not_after >= since.0.not_after).then_some(now)
    })
    .await
}

fn applied(status: &ClusterStatus) -> Vec<u64> {
    status.managers.iter().map(|manager| manager.applied).collect()
}

fn since(status: &ClusterStatus) -> Vec<(String, &'static str, u64)> {
    let mut seen: Vec<_> =
        status.workers.iter().map(|worker| (worker.name.clone(), worker.state.word(), worker.since_ms)).collect();
    seen.sort();
    seen
}

/// A newcomer to the network's end of one manager: whoever shakes hands with it now sees the certificate of now.
async fn shakes_hands(cluster: &Cluster, index: usize) {
    let (pinned, address) = (cluster.token().await, cluster.node(index).address().to_string());
    let directory = cluster.path(&format!("stranger-{}", SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()));
    // A name that is taken: refused, and nothing is changed; but by a manager whose certificate holds.
    let refused = cluster.builder(&directory, "m1").join(&pinned, vec![address]).await.unwrap_err();
    says(&refused, &["m1", "taken"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_and_workers_renew_their_certificates_for_ever_and_nothing_else_happens() {
    // Given three managers and two workers whose certificates hold for a few seconds.
    let cluster = Cluster::with_certificates(3, SHORT).await;
    let workers = [cluster.worker("w1").await, cluster.worker("w2").await];
    for name in ["w1", "w2"] {
        cluster.sees_worker(name, "ready").await;
    }
    let term = cluster.any().status().await.term;
    let before = eventually("what has just happened is applied everywhere", || async {
        let (one, two) = (cluster.any().status().await, cluster.any().status().await);
        let level = applied(&one).windows(2).all(|pair| pair[0] == pair[1]);
        (level && applied(&one) == applied(&two)).then_some(two)
    })
    .await;
    // When several lives have passed.
    let mut directories: Vec<_> = cluster.members.iter().map(|member| member.directory.clone()).collect();
    directories.extend([cluster.path("w1"), cluster.path("w2")]);
    let mut held: Vec<Held> = directories.iter().map(|directory| certificate(directory)).collect();
    for _ in 0..4 {
        for (directory, held) in directories.iter().zip(&mut held) {
            *held = renewed(directory, held).await;
        }
    }
    // Then the log has not grown by it, nobody was told anything, the leader is the same, and the sessions are the first ones.
    let after = cluster.any().status().await;
    assert_eq!((applied(&after), after.term), (applied(&before), term));
    assert_eq!(since(&after), since(&before));
    assert_eq!(after.managers.iter().filter(|manager| manager.reachable).count(), 3);
    for worker in &workers {
        assert!(worker.report_of_itself().session.unwrap().for_ms >= u64::try_from(SHORT.as_millis()).unwrap());
    }
    // Who shakes hands anew meets certificates that hold: strangers, clients, and managers among themselves.
    for index in 0..3 {
        shakes_hands(&cluster, index).await;
        cluster.outside(&[index]).await.status().await.unwrap();
    }
    for worker in workers {
        assert_eq!(worker.shutdown().await, StopReason::Asked);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_go_on_over_the_death_of_managers_and_over_restarts() {
    let mut cluster = Cluster::with_certificates(3, SHORT).await;
    let worker = cluster.worker("w1").await;
    let directory = cluster.path("w1");
    let mut held = certificate(&directory);
    // When the manager that a worker has its session with dies, it renews at another.
    let with = worker.report_of_itself().session.unwrap().manager;
    let gone = cluster.running().into_iter().find(|index| cluster.node(*index).name() == with).unwrap();
    cluster.kill(gone).await;
    for _ in 0..2 {
        held = renewed(&directory, &held).await;
    }
    worker.ready().await.unwrap();
    // One that was off for longer than its certificate holds signs itself another at start, and is taken by the others.
    let old = certificate(&cluster.members[gone].directory);
    eventually("its certificate has run out", || async { old.0.check_time(SystemTime::now()).is_err().then_some(()) })
        .await;
    cluster.restart(gone).await;
    cluster.settled(3).await;
    assert!(certificate(&cluster.members[gone].directory).0.not_after > old.0.not_after);
    // So does a worker, which asks for it.
    worker.shutdown().await;
    let old = certificate(&directory);
    eventually("its certificate has run out", || async { old.0.check_time(SystemTime::now()).is_err().then_some(()) })
        .await;
    let worker = cluster.worker_again("w1").await;
    worker.ready().await.unwrap();
    renewed(&directory, &old).await;
    // A promoted one goes on renewing as a manager.
    cluster.any().client().nodes().promote("w1").await.unwrap();
    let mut manager = certificate(&directory);
    assert_eq!(manager.0.role.name(), "manager");
    for _ in 0..2 {
        manager = renewed(&directory, &manager).await;
    }
    worker.shutdown().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_an_hour_off_hinders_neither_joining_nor_renewing() {
    const HOUR: i64 = 3_600;
    // Given certificates whose half has passed for whoever is an hour ahead.
    let mut cluster = Cluster::with_certificates(1, Duration::from_secs(90 * 60)).await;
    let manager_token = cluster.token().await;
    let worker_token = cluster.any().client().join_token("worker").await.unwrap();
    let right = vec![cluster.node(0).address().to_string()];
    // When managers and workers join whose clocks are an hour off, either way, by one whose clock is right.
    let mut workers = Vec::new();
    for ahead in [HOUR, -HOUR] {
        let (manager, worker) = (format!("m{}", cluster.members.len() + 1), format!("w{ahead}"));
        for (name, token) in [(&manager, &manager_token), (&worker, &worker_token)] {
            let directory = cluster.path(name);
            let builder = cluster.builder(&directory, name).clock_ahead(ahead);
            builder.clone().join(token, right.clone()).await.unwrap();
            let first = certificate(&directory);
            let node = builder.start(Start::Open).await.unwrap();
            node.ready().await.unwrap();
            if ahead > 0 {
                // Then who is ahead finds its certificate half spent, and renews it.
                renewed(&directory, &first).await;
            }
            if *name == manager {
                cluster.members.push(Member { directory, node: Some(node) });
            } else {
                cluster.sees_worker(name, "ready").await;
                workers.push(node);
            }
        }
    }
    // They are all there, in their seats; each of the managers lets others in, whatever their clocks say.
    cluster.settled(3).await;
    // No two of them are further apart than the hour: the certificates hold for an hour and a half only.
    for (index, ahead) in [-HOUR, 0, 0].into_iter().enumerate() {
        shakes_hands(&cluster, index).await;
        let managers = vec![cluster.node(index).address().to_string()];
        let name = format!("late{index}");
        let start = Start::OpenOrJoin { token: worker_token.clone(), managers };
        let worker = cluster.builder(&cluster.path(&name), &name).clock_ahead(ahead).start(start).await.unwrap();
        worker.ready().await.unwrap();
        worker.shutdown().await;
    }
    // They find each other again after a restart, with the certificates that their own clocks made or took.
    for (index, ahead) in [(1, HOUR), (2, -HOUR)] {
        cluster.kill(index).await;
        let builder = cluster.builder(&cluster.members[index].directory, "").clock_ahead(ahead);
        cluster.members[index].node = Some(builder.start(Start::Open).await.unwrap());
        cluster.settled(3).await;
        shakes_hands(&cluster, index).await;
    }
    for worker in &workers {
        worker.ready().await.unwrap();
    }
    // Whose clock is far behind is told so, with both clocks.
    let far = cluster.builder(&cluster.path("far"), "far").clock_ahead(-30 * 24 * HOUR);
    let refused = far.join(&worker_token, right).await.unwrap_err();
    says(&refused, &["issuer's clock", "the clock here says", "set the clock"]);
    for worker in workers {
        worker.shutdown().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_far_ahead_for_a_while_leaves_no_certificate_behind_that_nobody_takes() {
    const SIXTY_DAYS: i64 = 60 * 86_400;
    // Given a manager whose clock is set far ahead: by it half of the certificate's life is over, and it makes itself another.
    let mut cluster = Cluster::of(3).await;
    let index = cluster.others(cluster.leader().await)[0];
    let directory = cluster.members[index].directory.clone();
    let first = certificate(&directory);
    cluster.kill(index).await;
    let ahead = cluster.builder_of(index).clock_ahead(SIXTY_DAYS).start(Start::Open).await.unwrap();
    let made = renewed(&directory, &first).await;
    assert!(made.0.check_time(SystemTime::now()).is_err(), "it holds later only");
    ahead.abandon();
    ahead.stopped().await;
    // When the clock is right again
    cluster.restart(index).await;
    // Then it has one that holds now, and is one of three again.
    cluster.settled(3).await;
    assert!(certificate(&directory).0.check_time(SystemTime::now()).is_ok());
    shakes_hands(&cluster, index).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_off_for_120_days_starts_by_being_switched_on() {
    const DAYS_120: i64 = 120 * 86_400;
    // Given three managers, two workers and an operator of 120 days ago, which were all switched off then.
    let mut cluster = Cluster::empty();
    let of_then = |cluster: &Cluster, name: &str| cluster.builder(&cluster.path(name), name).clock_ahead(-DAYS_120);
    let first = of_then(&cluster, "m1").start(Start::OpenOrInit).await.unwrap();
    first.ready().await.unwrap();
    cluster.add(cluster.path("m1"), first);
    for name in ["m2", "m3"] {
        let node = of_then(&cluster, name).start(cluster.joining().await).await.unwrap();
        cluster.add(cluster.path(name), node);
    }
    cluster.settled(3).await;
    let mut workers = Vec::new();
    for name in ["w1", "w2"] {
        let worker = of_then(&cluster, name).start(cluster.joining_as_worker().await).await.unwrap();
        worker.ready().await.unwrap();
        workers.push(worker);
    }
    cluster.any().client().kv().put("k", "v").await.unwrap();
    for worker in workers {
        worker.shutdown().await;
    }
    for index in 0..3 {
        cluster.kill(index).await;
    }
    let directories = ["m1", "m2", "m3", "w1", "w2"].map(|name| cluster.path(name));
    let old: Vec<Held> = directories.iter().map(|directory| certificate(directory)).collect();
    for held in &old {
        assert!(held.0.check_time(SystemTime::now()).is_err(), "it ran out a month ago");
    }
    assert!(cluster.operator().subject().check_time(SystemTime::now()).is_err());
    // When they are switched on, with nothing but their directories
    for index in 0..3 {
        let node = cluster.builder_of_as_recorded(index).start(Start::Open).await.unwrap();
        cluster.members[index].node = Some(node);
    }
    // Then there is a leader and everybody in its seat, the workers are back,
    cluster.settled(3).await;
    let mut workers = Vec::new();
    for name in ["w1", "w2"] {
        let worker = cluster.worker_again(name).await;
        worker.ready().await.unwrap();
        cluster.sees_worker(name, "ready").await;
        workers.push(worker);
    }
    // everybody has a certificate that holds, for the same key,
    for (directory, old) in directories.iter().zip(&old) {
        let now = certificate(directory);
        assert!(now.0.check_time(SystemTime::now()).is_ok());
        assert_eq!((now.0.key_digest, now.0.named()), (old.0.key_digest, old.0.named()));
    }
    // and so has the operator, once it asks for something.
    let client = cluster.outside(&[0, 1, 2]).await;
    assert_eq!(client.kv().get("k").await.unwrap().unwrap().value, "v");
    assert!(client.identity().unwrap().subject().check_time(SystemTime::now()).is_ok());
    for worker in workers {
        worker.shutdown().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_be_signed_makes_nobody_more_than_its_record_says() {
    use quorate_transport::{CertRole, Clock, JoinError, JoinRefused, JoinRequest, KeyPair, Network};
    // Given a worker and a read-only operator
    let cluster = Cluster::founded().await;
    let worker = cluster.worker("w1").await;
    let viewer = cluster.any().client().operators().issue("viewer").read_only().await.unwrap().identity;
    let address = vec![cluster.any().address().to_string()];
    let own = Identity::load(&cluster.path("w1").join("node.id")).unwrap();
    let ask = async |csr: Vec<u8>, node| {
        let (clock, network) = (Clock::default(), Network::default());
        let request = JoinRequest::renewal(csr, node, clock);
        quorate_transport::renew(&address, &own.trusted(), request, Duration::from_secs(10), clock, &network).await
    };
    let subject = |certificate: Vec<u8>| Subject::of(&certificate.into()).unwrap();
    // When a request asks to be a manager of another organisation, and a CA, for somebody else's name
    let signer = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
        &rustls_pki_types::PrivatePkcs8KeyDer::from(own.key().pkcs8_der()),
        &rcgen::PKCS_ED25519,
    )
    .unwrap();
    let mut asked = rcgen::CertificateParams::new(vec!["manager.example.org".to_owned()]).unwrap();
    asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    asked.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    asked.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    asked.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "manager");
    asked.distinguished_name.push(rcgen::DnType::OrganizationName, "another cluster");
    let csr = asked.serialize_request(&signer).unwrap().der().to_vec();
    let given = subject(ask(csr, own.subject().node_id).await.unwrap().certificate);
    // Then it is signed as what its record says, and nothing of it but the key is used.
    assert_eq!((given.named(), given.key_digest), (own.subject().named(), own.subject().key_digest));
    assert_eq!(given.role, CertRole::Worker);
    let given = subject(ask(viewer.key().csr().unwrap(), viewer.subject().node_id).await.unwrap().certificate);
    assert_eq!(given.role, CertRole::Operator);
    // Nobody gets a certificate for another: not for a manager, not for an operator, and not with another key.
    let manager = cluster.any().id().parse().unwrap();
    let others = [
        (own.key().csr().unwrap(), manager),
        (own.key().csr().unwrap(), cluster.operator().subject().node_id),
        (viewer.key().csr().unwrap(), cluster.operator().subject().node_id),
        (KeyPair::generate().unwrap().csr().unwrap(), own.subject().node_id),
    ];
    for (csr, node) in others {
        let refused = ask(csr, node).await.unwrap_err();
        assert!(matches!(refused, JoinError::Refused(JoinRefused::AlreadyKnown(_))), "{refused}");
    }
    let refused = ask(own.key().csr().unwrap(), quorate_core::id::NodeId::from_bytes([9; 16])).await.unwrap_err();
    assert!(matches!(refused, JoinError::Refused(JoinRefused::NotAMember)), "{refused}");
    // Nor by one that was taken back.
    cluster.any().client().operators().revoke("viewer").await.unwrap();
    let refused = ask(viewer.key().csr().unwrap(), viewer.subject().node_id).await.unwrap_err();
    assert!(matches!(refused, JoinError::Refused(_)), "{refused}");
    worker.shutdown().await;
    cluster.stop().await;
}
