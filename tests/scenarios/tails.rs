//! Recoveries from disks whose log ends in the middle of things: written by hand behind what real managers left.

use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use quorate::{inspect, inspect_configurations};
use quorate_core::command::{Batch, Command, CommandKind, Request};
use quorate_core::consensus::guard::{Guard, payload};
use quorate_core::consensus::io::Records;
use quorate_core::id::{ClusterId, LogIndex, RaftId, Term};
use quorate_core::keyring::{SealedRecord, named_key};
use quorate_core::keyspace::Section;
use quorate_core::log::{Configuration, EntryKind, HardState, LogEntry};
use quorate_core::membership::plan::{SeatChange, SeatStep};
use quorate_core::ports::{LogBatch, OpenStore};
use quorate_core::state::contract::{Committed, Payload};
use quorate_core::state::{Machine, read};
use quorate_core::txn::{Put, Range, Txn};
use quorate_core::user;
use quorate_storage::{BarrierKey, SealingPair};
use quorate_transport::ClusterCa;

use crate::recovery::{WRITES, all_killed, alone, holds, odd_everywhere, recover};
use crate::support::{BUDGET, Cluster, eventually, says, store_options};

fn open(directory: &Path) -> OpenStore {
    quorate_storage::open(&directory.join("store"), store_options(directory)).unwrap()
}

/// What a client's write looks like in the log.
fn client_write(sequence: u64, key: &str) -> Bytes {
    let mut txn = Txn::of(Put { key: Bytes::copy_from_slice(key.as_bytes()), value: "tail".into(), ..Put::default() });
    user::qualify(&mut txn);
    let request = Request { client: Bytes::from_static(&[9; 16]), sequence, txn: Some(txn), ..Request::default() };
    Batch::new(vec![Command::from(CommandKind::Request(request))]).to_bytes()
}

/// The disk of a stopped manager, to be written on.
struct Disk {
    store: OpenStore,
    configuration: Configuration,
    number: u64,
    records: Records,
}

impl Disk {
    fn of(directory: &Path) -> Self {
        let store = open(directory);
        let view = store.state.reader().view();
        let status = read::status(&*view).unwrap();
        let records = Records::read(&*view).unwrap();
        Self { store, configuration: status.configuration, number: status.configuration_number, records }
    }

    /// The payload of an entry that changes the voters jointly.
    fn joint(&mut self, steps: Vec<SeatStep>) -> Bytes {
        self.change(SeatChange::Joint { steps })
    }

    /// The payload of a configuration entry: made for exactly what is in force here.
    fn change(&mut self, change: SeatChange) -> Bytes {
        let after = change.apply_to(&self.configuration);
        let lineage = self.records.lineage().current().unwrap();
        let guard = Guard::new(lineage, self.number, &self.configuration, &after.voters);
        let data = payload(&change, &guard);
        self.configuration = after;
        self.number += 1;
        data
    }

    /// Appends entries behind the last one, and notes so many of them as committed.
    fn append(&mut self, entries: Vec<(EntryKind, Bytes)>, committed: usize) -> u64 {
        let boot = &self.store.boot;
        let term = boot.hard_state.term;
        let first = boot.last.0 + 1;
        let entries: Vec<LogEntry> = entries
            .into_iter()
            .zip(first..)
            .map(|((kind, data), index)| LogEntry { index: LogIndex(index), term, kind, data, context: Bytes::new() })
            .collect();
        let commit = LogIndex(boot.last.0 + committed as u64);
        let hard_state = HardState { commit: boot.hard_state.commit.max(commit), ..boot.hard_state };
        let last = entries.last().unwrap().index.0;
        self.store.log.write(&[LogBatch { entries, hard_state: Some(hard_state), cut: None }], true).unwrap();
        last
    }

    /// Applies what is committed, as a manager does that dies right after.
    fn apply_configuration(self, index: u64) {
        let Self { store, configuration, number, .. } = self;
        let payload = Payload::Configuration { result: Some(configuration), number };
        let mut machine = Machine::open(store.state).unwrap();
        let term = Term(store.boot.hard_state.term.0);
        let applied = machine.status().applied.0;
        assert_eq!(index, applied + 1, "everything before it is applied");
        machine.apply(&[Committed { index: LogIndex(index), term, payload }]).unwrap();
    }
}

/// Two raft ids that nobody has, as two managers would be that were about to be seated.
const STRANGERS: [RaftId; 2] = [RaftId(8), RaftId(9)];

fn seat_strangers() -> Vec<SeatStep> {
    STRANGERS.map(SeatStep::AddVoter).to_vec()
}

/// A recovery from this disk has everything in the tail, and none of the changes of managers in it.
async fn recovers(cluster: &mut Cluster, survivor: usize, tail_writes: u64) {
    let report = recover(cluster, survivor).run().await.unwrap();
    assert!(report.written);
    let listed = inspect_configurations(&cluster.members[survivor].directory).unwrap();
    for index in &report.void_configurations {
        let row = listed.entries.iter().find(|row| row.index == *index).unwrap();
        assert_eq!(row.standing, "void", "{listed:?}");
    }
    cluster.restart(survivor).await;
    let status = alone(cluster, survivor).await;
    assert_eq!(status.voters, 1);
    let client = cluster.node(survivor).client().with_deadline(BUDGET);
    holds(&client, WRITES).await;
    for number in 1..=tail_writes {
        let found = client.kv().get(format!("tail/{number}")).await.unwrap();
        assert!(found.is_some(), "tail/{number} was on the survivor's disk");
    }
    cluster.kill(survivor).await;
    let in_force = inspect_configurations(&cluster.members[survivor].directory).unwrap().in_force;
    assert_eq!((in_force.voters.len(), in_force.voters_outgoing.len(), in_force.learners), (1, 0, Some(vec![])));
    odd_everywhere(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_above_the_commit_index_is_kept_without_its_change_of_managers() {
    let (mut cluster, survivor) = all_killed(3).await;
    let directory = cluster.members[survivor].directory.clone();
    let mut disk = Disk::of(&directory);
    let change = disk.joint(seat_strangers());
    let entries = vec![
        (EntryKind::Normal, client_write(1, "tail/1")),
        (EntryKind::Config, change),
        (EntryKind::Normal, client_write(2, "tail/2")),
    ];
    disk.append(entries, 0);
    drop(disk);
    let looked = recover(&cluster, survivor).dry_run().await.unwrap();
    assert_eq!((looked.uncommitted, looked.void_configurations.len()), (3, 1), "{looked:?}");
    assert_eq!(looked.kept_revision, Some(looked.revision + 2), "both writes are counted");
    recovers(&mut cluster, survivor, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_entry_between_applied_and_commit_does_not_bring_the_lost_back() {
    let (mut cluster, survivor) = all_killed(3).await;
    let directory = cluster.members[survivor].directory.clone();
    let mut disk = Disk::of(&directory);
    let change = disk.joint(seat_strangers());
    let leave = payload(
        &SeatChange::Joint { steps: Vec::new() },
        &Guard::new(
            disk.records.lineage().current().unwrap(),
            disk.number,
            &disk.configuration,
            &disk.configuration.voters,
        ),
    );
    let entries = vec![
        (EntryKind::Config, change),
        (EntryKind::Normal, client_write(1, "tail/1")),
        (EntryKind::Config, leave),
        (EntryKind::Normal, client_write(2, "tail/2")),
    ];
    disk.append(entries, 4);
    drop(disk);
    let looked = recover(&cluster, survivor).dry_run().await.unwrap();
    assert_eq!((looked.unapplied, looked.uncommitted, looked.void_configurations.len()), (4, 0, 2), "{looked:?}");
    recovers(&mut cluster, survivor, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_in_a_joint_configuration_is_a_survivor() {
    let (mut cluster, survivor) = all_killed(3).await;
    let directory = cluster.members[survivor].directory.clone();
    // Given a disk on which a joint configuration is in force, and the leave of it is not in the log
    let mut disk = Disk::of(&directory);
    let change = disk.joint(seat_strangers());
    let index = disk.append(vec![(EntryKind::Config, change)], 1);
    disk.apply_configuration(index);
    let found = inspect(&directory).unwrap();
    assert_eq!((found.voters.len(), found.voters_outgoing.len()), (5, 3));
    let mut disk = Disk::of(&directory);
    disk.append(vec![(EntryKind::Normal, client_write(1, "tail/1"))], 0);
    drop(disk);
    let looked = recover(&cluster, survivor).dry_run().await.unwrap();
    assert_eq!((looked.voters.len(), looked.voters_outgoing.len()), (5, 3));
    recovers(&mut cluster, survivor, 1).await;
    // The two that were about to be seated are burnt like everybody else.
    let store = open(&directory);
    let records = Records::read(&*store.state.reader().view()).unwrap();
    for id in STRANGERS {
        assert!(records.removed.contains(&id), "{:?}", records.removed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_lineage_tells_an_old_change_that_fits_from_one_of_the_new_incarnation() {
    // Given the lone voter of two managers, whose log ends in two changes of standbys: the second was made for the
    // voters and for the very number that the recovery puts in force
    let (mut cluster, _) = all_killed(2).await;
    let directory = cluster.members[0].directory.clone();
    let mut disk = Disk::of(&directory);
    assert_eq!(disk.configuration.voters, [RaftId(1)]);
    let entries = STRANGERS.map(|id| {
        let data = disk.change(SeatChange::Learner { step: SeatStep::AddLearner(id) });
        (EntryKind::Config, data)
    });
    let number = disk.number;
    disk.append(entries.into(), 2);
    drop(disk);
    recovers(&mut cluster, 0, 0).await;
    let found = inspect_configurations(&directory).unwrap();
    assert!(found.in_force.number < number, "neither took effect: {found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_survivor_is_refused_and_as_it_was() {
    let (cluster, survivor) = all_killed(3).await;
    cluster.damage_journal(survivor);
    for refused in [
        recover(&cluster, survivor).dry_run().await.unwrap_err(),
        recover(&cluster, survivor).despite_peers(true).run().await.unwrap_err(),
    ] {
        assert!(matches!(refused, quorate::StartError::Damaged(_)), "{refused}");
        says(&refused, &["damaged", "Nothing was changed"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_killed_under_load_claims_no_more_than_it_has() {
    // Given three managers under load, and one that is killed without waiting for anybody
    let mut cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await;
    let writing = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        while let Ok(done) = client
            .with_deadline(std::time::Duration::from_secs(1))
            .kv()
            .put(format!("n/{}", acknowledged.len()), "x")
            .await
        {
            acknowledged.push(done.revision);
        }
        acknowledged
    });
    let survivor = (cluster.leader().await + 1) % 3;
    eventually("some writes are acknowledged", || async {
        let count = cluster.node(survivor).client().kv().prefix("n/").serializable().await.ok()?.entries.len();
        (count > 200).then_some(())
    })
    .await;
    cluster.kill(survivor).await;
    // The others write on for a while, and are lost as well.
    let left = cluster.running()[0];
    let mark = cluster.node(left).status().await.revision;
    eventually("the others write on", || async {
        (cluster.node(left).status().await.revision > mark + 100).then_some(())
    })
    .await;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    let acknowledged = writing.await.unwrap();
    // When it is recovered
    let report = recover(&cluster, survivor).run().await.unwrap();
    let kept = report.kept_revision.unwrap();
    cluster.restart(survivor).await;
    alone(&cluster, survivor).await;
    // then everything up to the revision that the report names is there, and what is not is above it.
    let entries = cluster.node(survivor).client().kv().prefix("n/").all().await.unwrap();
    let there: std::collections::BTreeSet<Vec<u8>> = entries.iter().map(|entry| entry.key.to_vec()).collect();
    let mut lost = 0;
    for (number, revision) in acknowledged.iter().enumerate() {
        let found = there.contains(format!("n/{number}").as_bytes());
        assert_eq!(found, *revision <= kept, "n/{number} at {revision}, kept up to {kept}");
        lost += usize::from(!found);
    }
    assert!(lost > 0, "the others had acknowledged more than the survivor ever heard of");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_new_address_it_still_tells_the_lost_managers() {
    let (mut cluster, survivor) = all_killed(3).await;
    let address = crate::support::closed_port();
    let report = recover(&cluster, survivor).address(&address).run().await.unwrap();
    assert_eq!(report.address, address);
    cluster.restart(survivor).await;
    let status = alone(&cluster, survivor).await;
    assert_eq!(cluster.node(survivor).address().to_string(), address);
    let own = status.managers.iter().find(|manager| manager.seat == "voter").unwrap();
    assert_eq!(own.address, address);
    // An old manager knows only where it was before, and hears of the recovery all the same.
    let old = (survivor + 1) % 3;
    cluster.members[old].node = Some(cluster.try_restart(old).await.unwrap());
    crate::recovery::is_fenced(&mut cluster, old).await;
    // No text that is no address is taken.
    let refused = recover(&cluster, old).address("nonsense").dry_run().await.unwrap_err();
    assert!(!refused.to_string().is_empty());
    cluster.stop().await;
}

/// Of what a node is, the seed of the key pair that its copies of the barrier's keys are sealed to.
#[derive(Clone, PartialEq, prost::Message)]
struct SealingSeed {
    #[prost(bytes = "bytes", tag = "12")]
    seed: Bytes,
}

/// The cluster's CA, opened as the manager of this store opens it.
fn ca_of(store: &OpenStore, cluster: &ClusterId) -> ClusterCa {
    let view = store.state.reader().view();
    let key = Section::Identity.key(b"ca");
    let range = Range { key: key.clone(), ..Default::default() };
    let value = read::range(&*view, &range).unwrap().entries.remove(0).value;
    let id = named_key(&key, &value).unwrap().unwrap();
    let SealedRecord { clear, sealed } = SealedRecord::decode(value).unwrap();
    let SealingSeed { seed } = SealingSeed::decode(store.meta.get("node").unwrap().unwrap()).unwrap();
    let pair = SealingPair::from_seed(&seed[..].try_into().unwrap());
    let keyring = read::keyring(&*view).unwrap();
    let copy = keyring.key(id).unwrap().copy_for(pair.public()).unwrap();
    let barrier = BarrierKey::from_copy(id, cluster.as_bytes(), &pair, &copy.sealed).unwrap();
    let secret = barrier.open(cluster.as_bytes(), &key, &sealed).unwrap();
    ClusterCa::from_parts(&clear, &secret).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ran_out_meanwhile_is_renewed() {
    let (mut cluster, survivor) = all_killed(3).await;
    let directory = cluster.members[survivor].directory.clone();
    // Given a survivor that was found after 120 days: its certificate is as if it had been issued then.
    let file = directory.join("node.id");
    let held = || quorate::testing::node_identity(&directory, &quorate::keys::Keys::default()).unwrap();
    let identity = held();
    let store = open(&directory);
    let ca = ca_of(&store, &identity.subject().cluster);
    drop(store);
    let named = identity.subject().named();
    let day = std::time::Duration::from_secs(24 * 3600);
    let then = std::time::SystemTime::now() - 120 * day;
    let csr = identity.key().csr().unwrap();
    let old = ca.issue(&csr, &named, 90 * day, then).unwrap();
    identity.renewed(old).unwrap().write(&file).unwrap();
    assert!(held().subject().check_time(std::time::SystemTime::now()).is_err());
    // When it is looked at, nothing is written; when it is recovered, it has a certificate again.
    recover(&cluster, survivor).dry_run().await.unwrap();
    assert!(held().subject().check_time(std::time::SystemTime::now()).is_err());
    recover(&cluster, survivor).run().await.unwrap();
    held().subject().check_time(std::time::SystemTime::now()).unwrap();
    // A crash before that file was written is mended by the next start.
    let old = ca.issue(&csr, &named, 90 * day, then).unwrap();
    identity.renewed(old).unwrap().write(&file).unwrap();
    cluster.restart(survivor).await;
    alone(&cluster, survivor).await;
    held().subject().check_time(std::time::SystemTime::now()).unwrap();
    cluster.join().await;
    cluster.join().await;
    crate::recovery::three_voters(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_adopts_the_longer_lineage_and_never_goes_back() {
    let mut cluster = Cluster::of(3).await;
    let client = cluster.outside(&[0, 1, 2]).await.with_deadline(BUDGET);
    crate::recovery::write(&client, 0..WRITES).await;
    cluster.agrees().await;
    assert_eq!(client.generation(), Some(1));
    let survivor = (cluster.leader().await + 1) % 3;
    for index in cluster.running() {
        cluster.kill(index).await;
    }
    // When the cluster is recovered while the client waits
    let told = tokio::spawn({
        let client = client.clone();
        async move { client.recovered().await }
    });
    recover(&cluster, survivor).run().await.unwrap();
    cluster.restart(survivor).await;
    client.kv().put("after", "x").await.unwrap();
    // then it is told, and goes on where it can.
    let recovered = tokio::time::timeout(BUDGET, told).await.unwrap().unwrap();
    assert_eq!((recovered.from, recovered.to), (1, 2));
    assert_eq!(client.generation(), Some(2));
    holds(&client, WRITES).await;
    // When only managers of the generation before run, which never heard of the recovery
    alone(&cluster, survivor).await;
    cluster.kill(survivor).await;
    let old: Vec<usize> = (0..3).filter(|index| *index != survivor).collect();
    for index in &old {
        cluster.restart(*index).await;
    }
    eventually("they elect one of themselves", || async { cluster.node(old[0]).status().await.leader.map(|_| ()) })
        .await;
    // then this client does not go back to them, and a client that knows nothing better does.
    let refused = client.with_deadline(std::time::Duration::from_secs(2)).kv().get("after").await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    let stranger = cluster.outside(&old).await.with_deadline(BUDGET);
    assert_eq!(stranger.kv().get("after").await.unwrap(), None);
    // Once the new incarnation is back, they are fenced by it.
    cluster.restart(survivor).await;
    for index in old {
        crate::recovery::is_fenced(&mut cluster, index).await;
    }
    assert!(client.kv().get("after").await.unwrap().is_some());
    cluster.stop().await;
}
