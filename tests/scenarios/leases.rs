//! Leases, locks and elections. Where a time counts, it is a lower bound that was promised.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use quorate::{Client, Error, compare, operation};
use quorate_core::command::{LeaseOrder, LeaseOrderKind, Request};
use quorate_core::limits::LEASE_PAGE_MAX;
use quorate_core::txn::TxnResult;
use quorate_transport::api;

use crate::partition::wired;
use crate::support::{BUDGET, Cluster, eventually, raw, says};

const TTL: Duration = Duration::from_secs(2);

async fn is_there(client: &Client, key: &str) -> bool {
    client.with_deadline(BUDGET).kv().get(key.to_owned()).await.unwrap().is_some()
}

/// Waits until the key is gone; when that was seen.
async fn gone(client: &Client, key: &str) -> Instant {
    eventually("the key goes with its lease", || async { (!is_there(client, key).await).then(Instant::now) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_live_as_long_as_their_lease_is_renewed_and_then_go_in_one_revision() {
    // Given keys attached to a lease, through a manager that does not lead, and one that is not
    let cluster = Cluster::of(3).await;
    let follower = cluster.others(cluster.leader().await)[0];
    let client = cluster.outside(&[follower]).await;
    let lease = client.leases().grant(TTL).await.unwrap();
    let (id, kv) = (lease.id(), client.kv());
    let put = |key: &str| operation::put_with_lease(key.to_owned(), "x", id);
    kv.txn().then(put("held/a")).then(put("held/b")).then(operation::put("free", "x")).await.unwrap();
    kv.put("held/c", "x").lease(id).await.unwrap();
    let (info, keys) = client.leases().show(id).await.unwrap();
    assert_eq!((info.ttl, info.keys), (TTL, 3));
    assert!(info.left <= TTL);
    assert_eq!(keys, ["held/a", "held/b", "held/c"].map(Bytes::from));
    assert_eq!(kv.get("held/a").await.unwrap().unwrap().lease, id);
    // When somebody keeps it for longer than it lasts, then they are there
    let keeper = lease.keep();
    let until = Instant::now() + 2 * TTL;
    while Instant::now() < until {
        assert!(keeper.is_held());
        assert!(is_there(&client, "held/a").await && is_there(&client, "held/c").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.leases().list().await.unwrap().len(), 1);
    // When nobody does, then all of them go at once, and the other stays
    drop(keeper);
    gone(&client, "held/a").await;
    let after = kv.prefix("held/").await.unwrap();
    assert_eq!(after.entries, []);
    let mut before = after.revision;
    while kv.prefix("held/").revision(before).await.unwrap().entries.is_empty() {
        before -= 1;
    }
    assert_eq!(kv.prefix("held/").revision(before).await.unwrap().entries.len(), 3);
    assert!(is_there(&client, "free").await);
    // And nothing can be done with it any more.
    assert_eq!(client.leases().list().await.unwrap(), []);
    for refused in [
        client.leases().keep_alive(id).await.unwrap_err(),
        client.leases().revoke(id).await.unwrap_err(),
        client.leases().show(id).await.unwrap_err(),
        kv.put("late", "x").lease(id).await.unwrap_err(),
    ] {
        assert!(matches!(refused, Error::LeaseNotFound { lease, .. } if lease == id), "{refused}");
        says(&refused, &[&format!("lease {id}"), "Nothing was changed"]);
    }
    assert!(!is_there(&client, "late").await);
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_out_of_bounds_is_refused_by_name_and_a_revoked_one_takes_its_keys() {
    let cluster = Cluster::founded().await;
    let client = cluster.any().client();
    for ttl in [Duration::from_secs(1), Duration::from_secs(365 * 86_400)] {
        assert_eq!(client.leases().grant(ttl).await.unwrap().revoke().await.unwrap(), 0);
    }
    for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(366 * 86_400), Duration::MAX] {
        let refused = client.leases().grant(ttl).await.unwrap_err();
        let named = if ttl < Duration::from_secs(1) { "LEASE_TTL_MS_MIN" } else { "LEASE_TTL_MS_MAX" };
        assert!(matches!(&refused, Error::Limit { limit, .. } if limit.name == named), "{refused:?}");
        says(&refused, &["LEASE_TTL_MS_MIN", "LEASE_TTL_MS_MAX"]);
    }
    let lease = client.leases().grant(Duration::from_secs(3_600)).await.unwrap();
    client.kv().put("x", "1").lease(lease.id()).await.unwrap();
    client.kv().put("y", "1").lease(lease.id()).await.unwrap();
    client.kv().put("y", "2").await.unwrap();
    let only_if = client.kv().put("z", "1").when(compare::lease("x", lease.id())).await.unwrap();
    assert!(only_if.succeeded);
    assert_eq!(lease.revoke().await.unwrap(), 1);
    assert!(!is_there(&client, "x").await && is_there(&client, "y").await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_leases_and_more_keys_of_one_than_an_answer_has_are_read_whole() {
    // Given as many leases as one answer tells, and as many keys on one of them
    let cluster = Cluster::founded().await;
    let client = cluster.any().client().with_deadline(BUDGET);
    let lease = client.leases().grant(Duration::from_secs(3_600)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..LEASE_PAGE_MAX {
        let (client, id) = (client.clone(), lease.id());
        tasks.spawn(async move {
            client.kv().put(format!("k/{number:04}"), "x").lease(id).await.unwrap();
            if number > 0 { client.leases().grant(Duration::from_secs(3_600)).await.unwrap().id() } else { id }
        });
    }
    let mut granted = tasks.join_all().await;
    granted.sort_unstable();
    let mut wanted: Vec<Bytes> = (0..LEASE_PAGE_MAX).map(|number| format!("k/{number:04}").into()).collect();
    // Then it has them whole; and with one more each is told once, in order, in two answers
    for more in [false, true] {
        if more {
            granted.push(client.leases().grant(Duration::from_secs(3_600)).await.unwrap().id());
            client.kv().put("k/one more", "x").lease(lease.id()).await.unwrap();
            wanted.push("k/one more".into());
        }
        let connection = raw(&cluster, 0).await;
        for kind in [
            api::request::Kind::LeaseList(api::LeaseList::default()),
            api::request::Kind::LeaseShow(api::LeaseShow { lease: lease.id(), ..api::LeaseShow::default() }),
        ] {
            let request = api::Request { deadline_ms: 10_000, kind: Some(kind) };
            let answer = connection.request(request.encode_to_vec().into(), BUDGET).await.unwrap();
            let (told, goes_on) = match api::Response::decode(answer).unwrap().kind.unwrap() {
                api::response::Kind::LeaseList(page) => (page.leases.len(), page.more),
                api::response::Kind::LeaseShow(page) => (page.keys.len(), page.more),
                other => panic!("{other:?}"),
            };
            assert_eq!((told, goes_on), (LEASE_PAGE_MAX, more));
        }
        let listed = client.leases().list().await.unwrap();
        assert_eq!(listed.iter().map(|lease| lease.id).collect::<Vec<_>>(), granted);
        let (info, keys) = client.leases().show(lease.id()).await.unwrap();
        assert_eq!((info.keys, keys), (wanted.len() as u64, wanted.clone()));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_never_ends_early_when_its_leader_is_killed() {
    // Given a lease that was renewed just before its leader died
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let client = cluster.outside(&cluster.others(leader)).await.with_deadline(BUDGET);
    let mut lease = client.leases().grant(TTL).await.unwrap();
    client.kv().put("held", "x").lease(lease.id()).await.unwrap();
    let sent = Instant::now();
    lease.keep_alive().await.unwrap();
    cluster.kill(leader).await;
    // Then it lasts for its whole time at least, and not for ever
    let ended = gone(&client, "held").await;
    assert!(ended - sent >= TTL, "after {:?}", ended - sent);
    // And over a restart of everybody, too.
    cluster.restart(leader).await;
    cluster.settled(3).await;
    let mut lease = client.leases().grant(TTL).await.unwrap();
    client.kv().put("held", "x").lease(lease.id()).await.unwrap();
    let sent = Instant::now();
    lease.keep_alive().await.unwrap();
    let all = cluster.running();
    for index in &all {
        cluster.kill(*index).await;
    }
    for index in all {
        cluster.restart(index).await;
    }
    let client = cluster.any().client();
    let ended = gone(&client, "held").await;
    assert!(ended - sent >= TTL, "after {:?}", ended - sent);
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_behind_a_cut_renews_nothing_and_the_lease_ends_in_time_on_the_other_side() {
    // Given a leader, cut off, and a holder on each side that tries to renew the same lease
    let (cluster, wires) = wired().await;
    let leader = cluster.leader().await;
    let client = cluster.any().client();
    let lease = client.leases().grant(TTL).await.unwrap();
    client.kv().put("held", "x").lease(lease.id()).await.unwrap();
    let alone = cluster.outside(&[leader]).await.with_deadline(Duration::from_millis(150));
    let majority = cluster.outside(&cluster.others(leader)).await;
    let id = lease.id();
    let trying = tokio::spawn(async move {
        let mut last = None;
        loop {
            let sent = Instant::now();
            match alone.leases().keep_alive(id).await {
                Ok(_) => last = Some(sent),
                Err(Error::LeaseNotFound { .. }) => return (alone, last),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    eventually("it is renewed there", || async {
        let (info, _) = majority.leases().show(id).await.unwrap();
        (info.left > TTL / 2).then_some(())
    })
    .await;
    wires.cut(&[leader]);
    // Then the majority ends it, never before its time is over since the last renewal that was answered on either side
    let ended = gone(&majority, "held").await;
    wires.heal();
    let (_, last) = trying.await.unwrap();
    let last = last.expect("it was renewed before the cut");
    assert!(ended - last >= TTL, "after {:?}", ended - last);
    cluster.settled(3).await;
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_renewal_that_races_the_end_is_answered_by_what_comes_of_it() {
    // Given leases of a second, each renewed just about when its time is over
    let cluster = Cluster::of(3).await;
    let ttl = Duration::from_secs(1);
    let mut holders = Vec::new();
    for number in 0..16_u32 {
        let client = cluster.outside(&[0, 1, 2]).await;
        holders.push(tokio::spawn(async move {
            let (mut kept, mut ended) = (0, 0);
            let key = format!("race/{number}");
            for round in 0..6_u32 {
                let lease = client.leases().grant(ttl).await.unwrap();
                client.kv().put(key.clone(), "x").lease(lease.id()).await.unwrap();
                // From well before the end to well after it; the count tells which it was.
                tokio::time::sleep(ttl * (92 + (number * 7 + round * 5) % 22) / 100).await;
                let sent = Instant::now();
                match client.leases().keep_alive(lease.id()).await {
                    Ok(_) => {
                        // What was answered as renewed is there for its whole time
                        let there = client.kv().get(key.clone()).await.unwrap().is_some();
                        assert!(there || sent.elapsed() >= ttl, "lease {} of {key}", lease.id());
                        kept += 1;
                        client.leases().revoke(lease.id()).await.unwrap();
                    }
                    Err(Error::LeaseNotFound { .. }) => {
                        // and what was answered as gone has taken its key along.
                        assert_eq!(client.kv().get(key.clone()).await.unwrap(), None);
                        ended += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (kept, ended)
        }));
    }
    let (mut kept, mut ended) = (0, 0);
    for holder in holders {
        let (more, gone) = holder.await.unwrap();
        kept += more;
        ended += gone;
    }
    println!("{kept} renewed, {ended} ended");
    assert_eq!(kept + ended, 16 * 6);
    cluster.agrees().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_is_sent_again_elsewhere_gives_one_lease() {
    let cluster = Cluster::of(3).await;
    // Given a grant under one request id
    let order = LeaseOrder { kind: Some(LeaseOrderKind::Grant(60_000)), fence: None };
    let request =
        Request { client: Bytes::from_static(&[3; 16]), sequence: 1, lease: Some(order), ..Request::default() };
    let kind = api::request::Kind::LeaseWrite(api::LeaseWrite { request: request.encode_to_vec().into() });
    let body: Bytes = api::Request { deadline_ms: 10_000, kind: Some(kind) }.encode_to_vec().into();
    // When copies of it reach every manager, some of them at once
    let mut connections = Vec::new();
    for index in [0, 1, 2, 0, 1, 2] {
        connections.push(raw(&cluster, index).await);
    }
    let asked = connections.iter().map(|connection| connection.request(body.clone(), BUDGET));
    let mut leases = Vec::new();
    for asked in asked.collect::<Vec<_>>() {
        let answer = api::Response::decode(asked.await.unwrap()).unwrap();
        let Some(api::response::Kind::LeaseWrite(done)) = answer.kind else { panic!("{answer:?}") };
        leases.push(TxnResult::decode(done.result).unwrap().lease);
    }
    // Then all are told the same lease, and there is one
    assert!(leases[0] != 0 && leases.iter().all(|lease| *lease == leases[0]), "{leases:?}");
    assert_eq!(cluster.any().client().leases().list().await.unwrap().len(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_leadership_has_leases_until_that_is_over() {
    let cluster = Cluster::of(3).await;
    let first = cluster.leader().await;
    let lead = tokio::time::timeout(BUDGET, cluster.node(first).lead(async |lead| lead)).await.unwrap().unwrap();
    let mut lease = lead.client().leases().grant(TTL).await.unwrap();
    lease.keep_alive().await.unwrap();
    let second = cluster.others(first)[0];
    cluster.lead_by(second).await;
    let refused = lead.client().leases().grant(TTL).await.unwrap_err();
    assert!(matches!(refused, Error::Fenced(_)), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_to_the_next_in_line_when_its_holder_dies_and_its_fence_closes() {
    let cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    // Given a holder in a process of its own, as good as that: nothing of it runs on once it is dead
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let theirs = cluster.outside(&[0, 1, 2]).await;
    let guard = process.spawn(async move { theirs.lock("backup").ttl(TTL).await.unwrap() }).await.unwrap();
    assert!(guard.is_held());
    let refused = client.lock("backup").wait_at_most(Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    says(&refused, &["backup", "held by somebody else"]);
    let fenced = |fence| client.kv().put("result", "x").when(fence);
    assert!(fenced(guard.fence()).await.unwrap().succeeded);
    // When it dies without a word, then the next one gets it, with a higher token
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lock("backup").ttl(TTL).await.unwrap() }
    });
    process.shutdown_background();
    let next = tokio::time::timeout(BUDGET, waiting).await.unwrap().unwrap();
    assert!(next.token() > guard.token());
    // and whoever still believes to hold it can do no harm.
    assert!(!fenced(guard.fence()).await.unwrap().succeeded);
    assert!(fenced(next.fence()).await.unwrap().succeeded);
    tokio::time::timeout(BUDGET, guard.lost()).await.unwrap();
    assert!(!guard.is_held());
    // An operator who ends its lease takes the lock from a holder that is told so.
    let lease = client.kv().get(next.key().clone()).await.unwrap().unwrap().lease;
    client.leases().revoke(lease).await.unwrap();
    tokio::time::timeout(BUDGET, next.lost()).await.unwrap();
    assert!(!fenced(next.fence()).await.unwrap().succeeded);
    // Nobody is left in line: a lock that is free is had, however short the wait.
    let last = client.lock("backup").wait_at_most(Duration::ZERO).await.unwrap();
    let refused = client.lock("backup").wait_at_most(Duration::ZERO).await.unwrap_err();
    says(&refused, &["held by somebody else"]);
    last.unlock().await.unwrap();
    assert_eq!(client.kv().prefix("backup/").await.unwrap().entries, []);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_want_a_lock_have_it_one_after_the_other_in_order_of_their_tokens() {
    // Given twelve who each read, think and write a counter under one lock, some of whom let go by being dropped
    let cluster = Cluster::of(3).await;
    let mut workers = Vec::new();
    for number in 0..12_u64 {
        let client = cluster.outside(&[0, 1, 2]).await.with_deadline(BUDGET);
        workers.push(tokio::spawn(async move {
            let guard = client.lock("counter").await.unwrap();
            let before = client.kv().get("count").await.unwrap();
            let count: u64 = before.map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
            tokio::task::yield_now().await;
            let write = client.kv().put("count", (count + 1).to_string()).when(guard.fence());
            assert!(write.await.unwrap().succeeded);
            let token = guard.token();
            if number % 3 == 0 {
                drop(guard)
            } else {
                guard.unlock().await.unwrap()
            }
            (count, token)
        }));
    }
    let mut turns = Vec::new();
    for worker in workers {
        turns.push(worker.await.unwrap());
    }
    // Then no count was lost, and they came in the order of their tokens
    turns.sort_unstable();
    assert!(turns.iter().map(|(count, _)| *count).eq(0..12), "{turns:?}");
    assert!(turns.is_sorted_by_key(|(_, token)| *token), "{turns:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_nobody_waits_for_any_more_leaves_nothing_in_the_line() {
    let cluster = Cluster::founded().await;
    let client = cluster.any().client();
    let guard = client.lock("job").await.unwrap();
    // Given one that gives up waiting
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lock("job").ttl(Duration::from_secs(600)).await }
    });
    eventually("two are in line", || async {
        (client.kv().prefix("job/").await.unwrap().entries.len() == 2).then_some(())
    })
    .await;
    waiting.abort();
    // Then its place is given up long before its lease would end
    eventually("one is left", || async {
        (client.kv().prefix("job/").await.unwrap().entries.len() == 1).then_some(())
    })
    .await;
    guard.unlock().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_has_one_winner_at_a_time_also_when_the_managers_leader_is_killed() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await.with_deadline(BUDGET);
    let election = client.election("scheduler").ttl(Duration::from_secs(5));
    assert_eq!(election.leader().await.unwrap(), None);
    let mut observer = election.observe();
    assert_eq!(observer.next().await.unwrap(), None);
    // Given a winner, and a candidate after it
    let first = election.campaign("one").await.unwrap();
    let seen = observer.next().await.unwrap().unwrap();
    assert_eq!((&seen.value, seen.token, &seen.key), (&Bytes::from("one"), first.token(), first.key()));
    let candidate = tokio::spawn({
        let election = election.clone();
        async move { election.campaign("two").await.unwrap() }
    });
    // When the managers change their leader, then it is not another one
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    first.proclaim("one, still").await.unwrap();
    let seen = observer.next().await.unwrap().unwrap();
    assert_eq!((&seen.value, seen.token), (&Bytes::from("one, still"), first.token()));
    assert!(first.is_held() && !candidate.is_finished());
    // When it resigns, then the candidate leads
    let (token, fence) = (first.token(), first.fence());
    first.resign().await.unwrap();
    let second = tokio::time::timeout(BUDGET, candidate).await.unwrap().unwrap();
    assert!(second.token() > token);
    let seen = eventually("the other one is seen", || async {
        election.leader().await.unwrap().filter(|leader| leader.value == "two")
    })
    .await;
    assert_eq!(seen.token, second.token());
    assert!(!client.kv().put("plan", "x").when(fence).await.unwrap().succeeded);
    assert!(client.kv().put("plan", "x").when(second.fence()).await.unwrap().succeeded);
    // One that has lost it says nothing of itself any more.
    let lease = client.kv().get(second.key().clone()).await.unwrap().unwrap().lease;
    client.leases().revoke(lease).await.unwrap();
    let refused = second.proclaim("too late").await.unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    assert_eq!(election.leader().await.unwrap(), None);
    cluster.restart(leader).await;
    cluster.settled(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_reaches_nobody_says_that_the_lease_is_lost_before_the_managers_end_it() {
    // Given a keeper whose managers all go
    let mut cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    let keeper = client.leases().grant(TTL).await.unwrap().keep();
    client.kv().put("held", "x").lease(keeper.id()).await.unwrap();
    let all = cluster.running();
    for index in &all {
        cluster.kill(*index).await;
    }
    // Then it is told without them
    tokio::time::timeout(BUDGET, keeper.lost()).await.unwrap();
    assert!(!keeper.is_held());
    assert_eq!(keeper.remaining(), Duration::ZERO);
    for index in all {
        cluster.restart(index).await;
    }
    gone(&cluster.any().client(), "held").await;
    cluster.stop().await;
}
