//! Both sides of a cut go on, until it heals: the old incarnation is fenced, and nothing of it is taken over.

use std::collections::BTreeSet;

use quorate::{Client, Error, Lead, Node, Start, StopReason};

use crate::load::{Load, all_there};
use crate::recovery::{WRITES, alone, holds, is_fenced, odd_everywhere, recover, three_voters, write};
use crate::support::{BUDGET, Cluster, eventually};
use crate::wires::Wires;

/// Three managers that reach each other over wires that can be cut.
pub async fn wired() -> (Cluster, Wires) {
    wired_with_window(10_000).await
}

/// The same, and so many entries of the log are kept for who is away.
pub async fn wired_with_window(log_window: u64) -> (Cluster, Wires) {
    let wires = Wires::new(3).await;
    let mut cluster = Cluster::empty();
    cluster.log_window = log_window;
    for index in 0..3 {
        let name = format!("m{}", index + 1);
        let directory = cluster.path(&name);
        let start = if index == 0 {
            Start::OpenOrInit
        } else {
            Start::OpenOrJoin { token: cluster.token().await, managers: vec![wires.listening(0)] }
        };
        let builder = cluster.builder(&directory, &name).listen(wires.listening(index)).advertise(wires.front(index));
        let node = builder.start(start).await.unwrap();
        node.ready().await.unwrap();
        cluster.add(directory, node);
    }
    cluster.settled(3).await;
    (cluster, wires)
}

async fn lead(node: &Node) -> Lead {
    tokio::time::timeout(BUDGET, node.lead(async |lead| lead)).await.expect("it leads").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_managers_that_write_on_behind_a_cut_are_fenced_when_it_heals_and_nothing_of_theirs_is_taken() {
    // Given three managers, and a cut between one and the two others.
    let (mut cluster, wires) = wired().await;
    write(&cluster.any().client(), 0..WRITES).await;
    cluster.agrees().await;
    let survivor = (cluster.leader().await + 1) % 3;
    let old = cluster.others(survivor);
    wires.cut(&[survivor]);
    // When the one is made a new cluster, because nobody else can be reached from there,
    cluster.kill(survivor).await;
    let report = recover(&cluster, survivor).run().await.unwrap();
    assert!(report.written && report.managers.iter().all(|manager| !manager.answers), "{report:?}");
    cluster.restart(survivor).await;
    alone(&cluster, survivor).await;
    // while the two others go on as a majority of what was: both sides lead and write.
    let leads = eventually("the old side leads", || async {
        let leader = cluster.node(old[0]).status().await.leader?;
        old.iter().copied().find(|index| cluster.node(*index).name() == leader)
    })
    .await;
    let (old_lead, new_lead) = (lead(cluster.node(leads)).await, lead(cluster.node(survivor)).await);
    assert_ne!(old_lead.fencing_token(), new_lead.fencing_token());
    assert!(new_lead.fencing_token() > old_lead.fencing_token());
    let old_load = Load::start("old/", vec![cluster.outside(&[old[0]]).await, cluster.outside(&[old[1]]).await]);
    let new_load = Load::start("new/", vec![cluster.outside(&[survivor]).await]);
    eventually("both sides write", || async {
        (old_load.acknowledged() > 50 && new_load.acknowledged() > 50).then_some(())
    })
    .await;
    old_lead.client().kv().put("owner", "old").await.unwrap();
    new_lead.client().kv().put("owner", "new").await.unwrap();
    // When the cut heals,
    wires.heal();
    // then the old managers stop, fenced for good, and the new one does not even notice.
    for index in &old {
        let node = cluster.node(*index).clone();
        let reason = tokio::time::timeout(BUDGET, node.stopped()).await.expect("it stops");
        assert!(matches!(reason, StopReason::Superseded(_)), "{reason}");
    }
    for index in &old {
        is_fenced(&mut cluster, *index).await;
    }
    let last = new_load.acknowledged();
    eventually("the new side writes on", || async { (new_load.acknowledged() > last + 50).then_some(()) }).await;
    let (theirs, ours) = (old_load.stop().await, new_load.stop().await);
    let client = cluster.outside(&[survivor]).await;
    // No write of theirs is there, no revision was given twice,
    holds(&client, WRITES).await;
    all_there(&client, "new/", &ours).await;
    assert_eq!(client.kv().prefix("old/").all().await.unwrap(), []);
    assert_eq!(client.kv().get("owner").await.unwrap().unwrap().value, "new");
    let revisions: BTreeSet<u64> = theirs.values().chain(ours.values()).copied().collect();
    assert_eq!(revisions.len(), theirs.len() + ours.len());
    assert!(theirs.values().max() < ours.values().min());
    // no fencing token of theirs opens anything, and one of ours does,
    let refused = client.with_fence(old_lead.fencing_token()).kv().put("owner", "old").await.unwrap_err();
    assert!(matches!(refused, Error::Fenced(_)), "{refused}");
    client.with_fence(new_lead.fencing_token()).kv().put("owner", "new again").await.unwrap();
    // and what is read at a revision of theirs is refused, typed.
    let lost = *theirs.values().max().unwrap();
    let refused = client.kv().prefix("old/").revision(lost).await.unwrap_err();
    assert!(matches!(refused, Error::NewGeneration { .. }), "{refused}");
    // A client that was theirs goes over when it is led there, with a request of its own that is done once.
    let mut addresses: Vec<String> = old.iter().map(|index| wires.listening(*index)).collect();
    addresses.push(cluster.node(survivor).address().to_string());
    let moved = Client::connect(addresses, cluster.operator()).await.unwrap().with_deadline(BUDGET);
    moved.kv().put("moved", "over").await.unwrap();
    assert_eq!(moved.generation(), Some(2));
    for index in old {
        let token = cluster.token().await;
        let managers = vec![wires.listening(survivor)];
        cluster.builder_of_as_recorded(index).replace(&token, managers).await.unwrap();
        let node = cluster.builder_of_as_recorded(index).start(Start::Open).await.unwrap();
        cluster.members[index].node = Some(node);
    }
    three_voters(&cluster).await;
    cluster.agrees().await;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    odd_everywhere(&cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_manager_that_lost_its_quorum_moves_on_and_its_requests_are_done_once() {
    // Given a client that is attached to one manager, and knows the others
    let (cluster, wires) = wired().await;
    for alone in 0..3 {
        let others = cluster.others(alone);
        let client = cluster.outside(&[alone, others[0], others[1]]).await.with_deadline(BUDGET);
        let name = format!("counter/{alone}");
        client.kv().put(name.clone(), "before").await.unwrap();
        // when that is cut off from the others, leader or not, while the client still reaches it,
        wires.cut(&[alone]);
        for _ in 0..10 {
            client.kv().put(name.clone(), "meanwhile").await.unwrap();
        }
        // then what it asks for is done by the others, and once, and what it reads is theirs.
        let entry = client.kv().get(name.clone()).await.unwrap().unwrap();
        assert_eq!((entry.version, &entry.value[..]), (11, &b"meanwhile"[..]));
        wires.heal();
        cluster.settled(3).await;
        assert_eq!(
            cluster.node(alone).client().with_deadline(BUDGET).kv().get(name).await.unwrap().unwrap().version,
            11
        );
    }
    cluster.agrees().await;
    cluster.stop().await;
}
