//! The first and the last act of a force-new-cluster in the replicated state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]
#![cfg(feature = "consensus")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{Member, chunks, compact, founded, key, put, receive, request, restored, system, txn};
use quorate_core::command::{Batch, Command};
use quorate_core::consensus::io::Records;
use quorate_core::id::{Lineage, LineageId, LogIndex, NodeId, RaftId, Revision, StoreId, Term};
use quorate_core::log::{EntryKind, HardState, LogEntry, LogStart};
use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
use quorate_core::membership::trust::{Moment, TrustRecord, TrustTime, Waited};
use quorate_core::ports::{Boot, LogReader, StoreError, StoreResult};
use quorate_core::recovery::{Incarnation, Outcome, RecoveryError, Survivor, Verdict, plan};
use quorate_core::state::contract::{Outcome as Applied, Refusal};
use quorate_core::state::read::{self, ReadError, removed_key};
use quorate_core::state::{COUNTER_JUMP, Machine, REVISION_JUMP};
use quorate_core::txn::{Delete, Put, Range, Txn};
use quorate_core::watch::{Filter, Hub, HubLimits, Round, Taken, WatchStart};

/// A log in memory.
struct Log(Vec<LogEntry>);

impl LogReader for Log {
    fn entries(&self, from: LogIndex, to: LogIndex, _: u64) -> StoreResult<Vec<LogEntry>> {
        let found: Vec<_> = self.0.iter().filter(|entry| (from..to).contains(&entry.index)).cloned().collect();
        if found.first().is_none_or(|entry| entry.index != from) {
            return Err(StoreError::NotFound { index: from });
        }
        Ok(found)
    }
}

const INCARNATION: LineageId = LineageId::from_bytes([77; 16]);

fn incarnation() -> Incarnation {
    Incarnation { id: INCARNATION, ..Incarnation::default() }
}

fn own() -> NodeRecord {
    NodeRecord {
        id: Bytes::copy_from_slice(NodeId::from_bytes([1; 16]).as_bytes()),
        name: "n1".to_owned(),
        role: Role::Manager.into(),
        raft_id: 1,
        store_id: Bytes::copy_from_slice(StoreId::from_bytes([5; 16]).as_bytes()),
        ..NodeRecord::default()
    }
}

fn node(n: u8) -> NodeRecord {
    NodeRecord {
        id: Bytes::copy_from_slice(NodeId::from_bytes([n; 16]).as_bytes()),
        name: format!("n{n}"),
        role: Role::Manager.into(),
        raft_id: u64::from(n),
        addresses: vec![format!("10.0.0.{n}:4701")],
        ..NodeRecord::default()
    }
}

fn write_node(node: &NodeRecord) -> Command {
    let id = node.node_id().unwrap();
    system(txn([Put { key: NodeRecord::key(id), value: node.to_bytes(), ..Put::default() }.into()]))
}

/// What the disk of `member` says with these commands, one entry each, above what it has applied.
fn survivor(member: &Member, tail: Vec<Command>, run: impl FnOnce(&Survivor<'_>)) {
    let applied = member.machine.status().applied.0;
    let entries: Vec<LogEntry> = tail
        .into_iter()
        .zip(applied + 1..)
        .map(|(command, index)| LogEntry {
            index: LogIndex(index),
            term: Term(3),
            kind: EntryKind::Normal,
            data: Batch::new(vec![command]).to_bytes(),
            context: Bytes::new(),
        })
        .collect();
    let boot = Boot {
        hard_state: HardState { term: Term(4), vote: RaftId(2), commit: LogIndex(applied) },
        start: LogStart { index: LogIndex(applied), term: Term(1) },
        last: LogIndex(applied + entries.len() as u64),
        terms: Vec::new(),
        repaired: None,
    };
    let log = Log(entries);
    run(&Survivor {
        boot: &boot,
        state: member.store.view(),
        log: &log,
        node: own(),
        addresses: vec!["10.9.9.9:4701".to_owned()],
        incarnation: incarnation(),
    });
}

fn worked_out(survivor: &Survivor<'_>) -> Outcome {
    match plan(survivor).unwrap().verdict {
        Verdict::Write(outcome) => *outcome,
        other @ (Verdict::Alone | Verdict::Begun) => panic!("{other:?}"),
    }
}

/// Writes a recovery and applies everything, as a start does.
fn finished(member: &mut Member, tail: Vec<Command>, outcome: &Outcome) {
    member.machine = Machine::open(Box::new(common::Store::default())).unwrap();
    let mut store = member.store.clone();
    quorate_core::ports::StateStore::recover(&mut store, outcome.write.clone()).unwrap();
    member.reopen();
    member.check();
    for command in tail {
        member.try_run(vec![command]).unwrap();
        member.check();
    }
    let entry = outcome.write.log.entries.first().unwrap();
    let mut committed = common::raw_entry(member.next(), entry.data.clone());
    committed.term = entry.term;
    assert_eq!(entry.index, committed.index);
    let applied = member.machine.apply(&[committed]).unwrap();
    assert!(matches!(applied.outcomes[..], [(_, ref one)] if matches!(one[..], [Applied::Done(_)])), "{applied:?}");
    assert!(applied.records_changed);
    member.check();
}

/// Three managers and some writes; number 1 survives.
fn three() -> Member {
    let mut member = Member::on(founded());
    member.done(write_node(&node(2)));
    member.done(write_node(&node(3)));
    member.machine.apply(&[common::configuration_entry(member.next(), &[1, 2, 3], 1)]).unwrap();
    for n in 1..=5 {
        member.done(request(7, n, 0, txn([put("k", format!("v{n}"))])));
    }
    member
}

fn records(member: &Member) -> Records {
    Records::read(&*member.store.view()).unwrap()
}

fn read_at(member: &Member, revision: u64) -> Result<Vec<Bytes>, ReadError> {
    let range = Range { key: key("k"), revision, ..Range::default() };
    Ok(read::range(&*member.store.view(), &range)?.entries.into_iter().map(|entry| entry.value).collect())
}

#[test]
fn the_other_managers_are_lost_their_ids_burnt_and_the_counters_jump() {
    let mut member = three();
    let kept = member.revision();
    let mut worked = None;
    survivor(&member, Vec::new(), |survivor| worked = Some(worked_out(survivor)));
    let outcome = worked.unwrap();
    finished(&mut member, Vec::new(), &outcome);
    // Then the lineage is one longer,
    let records = records(&member);
    let lineage = Lineage(vec![LineageId::from_bytes([8; 16]), INCARNATION]);
    assert_eq!((records.lineage(), &records.recovery.begun), (lineage.clone(), &None));
    assert_eq!(records.cluster.lineage_list(), Some(lineage));
    // the survivor is as it was, at its new address,
    let own = records.by_raft_id(RaftId(1)).unwrap();
    assert_eq!((own.name.as_str(), own.lost, own.addresses.join(",")), ("n1", false, "10.9.9.9:4701".to_owned()));
    // the others are lost, still to be shown, and their ids are nobody's for ever,
    for n in 2..=3_u8 {
        let lost = records.nodes.iter().find(|other| other.name == format!("n{n}")).unwrap();
        assert!(lost.lost && lost.raft().is_none() && lost.store().is_none());
        assert_eq!(lost.addresses, node(n).addresses);
        assert!(records.removed.contains(&RaftId(u64::from(n))));
    }
    assert!(!records.removed.contains(&RaftId(1)));
    // and what counts has jumped.
    assert!(records.cluster.next_raft_id > COUNTER_JUMP);
    assert_eq!(member.revision(), kept + REVISION_JUMP);
    assert_eq!((outcome.kept_revision, outcome.first_revision), (Revision(kept), Revision(kept + REVISION_JUMP)));
    assert_eq!(outcome.write.log.hard_state.unwrap().term, Term(4 + COUNTER_JUMP));
    assert_eq!(outcome.write.log.hard_state.unwrap().vote, RaftId(1));
    // A request that was done before is still known as done.
    let again = member.done(request(7, 5, 0, txn([put("k", "v5")])));
    assert!(again.replayed && again.revision == kept);
    // What is planned is what comes of it.
    assert_eq!(outcome.records, records);
}

#[test]
fn leases_stay_and_the_next_one_is_beyond_all_that_lost_managers_can_have_granted() {
    // Given a lease with a key, and one more that only the tail of the log grants
    let mut member = three();
    let lease = member.done(common::grant(6, 1)).lease;
    let attached = Put { key: key("held"), value: Bytes::from("v"), lease, ..Put::default() };
    member.done(system(txn([attached.into()])));
    let tail = || vec![common::grant(6, 2)];
    let mut worked = None;
    survivor(&member, tail(), |survivor| worked = Some(worked_out(survivor)));
    // When the cluster is recovered
    finished(&mut member, tail(), &worked.unwrap());
    // Then both are there, the key with them, and the next id has jumped
    let leases: Vec<u64> = member.machine.leases().into_iter().map(|(lease, _)| lease.0).collect();
    assert_eq!(leases, [lease, lease + 1]);
    assert!(member.get("held").is_some());
    assert_eq!(member.done(common::grant(6, 3)).lease, lease + 2 + COUNTER_JUMP);
    member.check();
}

#[test]
fn the_history_begins_anew_and_an_older_revision_is_told_what_was_kept() {
    let mut member = three();
    let kept = member.revision();
    assert!(read_at(&member, kept - 1).is_ok());
    let mut worked = None;
    survivor(&member, Vec::new(), |survivor| worked = Some(worked_out(survivor)));
    finished(&mut member, Vec::new(), &worked.unwrap());
    let first = member.revision();
    for asked in [1, kept - 1, kept, kept + 7, first - 1] {
        let refused = read_at(&member, asked).unwrap_err();
        assert_eq!(refused, ReadError::Refused(Refusal::NewGeneration { asked, kept_revision: kept }), "{refused}");
    }
    assert_eq!(read_at(&member, first).unwrap(), [Bytes::from("v5")]);
    assert_eq!(read_at(&member, 0).unwrap(), [Bytes::from("v5")]);
    // What is compacted later, in this incarnation, is told as such.
    for n in 6..=9 {
        member.done(request(7, n, 0, txn([put("k", format!("v{n}"))])));
    }
    member.done(compact(first + 3));
    assert!(matches!(read_at(&member, first + 1), Err(ReadError::Refused(Refusal::Compacted { .. }))));
    assert!(matches!(read_at(&member, kept), Err(ReadError::Refused(Refusal::NewGeneration { .. }))));
    // And the old versions are gone.
    member.check();
    assert_eq!(member.get("k"), Some(Bytes::from("v9")));
}

#[test]
fn a_watch_that_waits_for_a_revision_which_only_lost_managers_had_made_is_told_so() {
    // Given a watch from the future at a survivor, of a revision that others had made and acknowledged
    let mut member = three();
    let (kept, waited_for) = (member.revision(), member.revision() + 1_000);
    let filter = Filter::new(&WatchStart { key: key("k"), ..WatchStart::default() }).unwrap();
    let mut hub = Hub::new(kept, HubLimits::default());
    let waits = hub.open(filter.clone(), Some(waited_for)).unwrap();
    assert!(matches!(hub.take(waits), Taken::Tell(_)));
    assert_eq!(hub.take(waits), Taken::Wait);
    // When the cluster is recovered from that survivor
    let mut worked = None;
    survivor(&member, Vec::new(), |survivor| worked = Some(worked_out(survivor)));
    finished(&mut member, Vec::new(), &worked.unwrap());
    hub.applied(Round { revision: member.revision(), units: None });
    // Then it does not wait for another revision of that number, nor does one that begins now: they are told what was kept
    let begins = hub.open(filter.clone(), Some(waited_for)).unwrap();
    assert!(matches!(hub.take(begins), Taken::Tell(_)));
    for watch in [waits, begins] {
        let Taken::Read { from, upto } = hub.take(watch) else { panic!("there is something to be told") };
        assert_eq!(from, waited_for);
        let told = quorate_core::watch::read(&*member.store.view(), &filter, from, upto).unwrap_err();
        assert_eq!(told, ReadError::Refused(Refusal::NewGeneration { asked: from, kept_revision: kept }));
    }
}

#[test]
fn what_the_tail_writes_about_managers_and_lineage_does_not_outlive_the_recovery() {
    let mut member = three();
    // Given a tail that adds a manager, removes the survivor, burns its raft id, and writes the old lineage back
    let cluster = records(&member).cluster;
    let mut removed = node(3);
    removed.removing = true;
    let tail = vec![
        write_node(&node(4)),
        write_node(&removed),
        system(txn([Delete { key: NodeRecord::key(NodeId::from_bytes([1; 16])), ..Delete::default() }.into()])),
        system(txn([Put { key: removed_key(RaftId(1)), value: Bytes::from("removed"), ..Put::default() }.into()])),
        system(txn([Put {
            key: ClusterRecord::key(),
            value: ClusterRecord { next_raft_id: 9, ..cluster }.to_bytes(),
            ..Put::default()
        }
        .into()])),
        request(7, 6, 0, txn([put("tail", "kept")])),
    ];
    let mut worked = None;
    survivor(&member, tail.clone(), |survivor| worked = Some(worked_out(survivor)));
    let outcome = worked.unwrap();
    finished(&mut member, tail, &outcome);
    // Then its writes are there, and the recovery has the last word about who is a manager.
    assert_eq!(member.get("tail"), Some(Bytes::from("kept")));
    let records = records(&member);
    assert_eq!(records.lineage().current(), Some(INCARNATION));
    assert_eq!(records.by_raft_id(RaftId(1)).unwrap().name, "n1");
    assert_eq!(records.nodes.iter().filter(|node| node.lost).count(), 3);
    assert_eq!(records.removed.ids().collect::<Vec<_>>(), [2, 3, 4].map(RaftId));
    assert!(records.cluster.next_raft_id >= 9 + COUNTER_JUMP);
}

#[test]
fn the_last_act_counts_once_and_only_where_the_recovery_was_begun() {
    let member = three();
    let mut worked = None;
    survivor(&member, Vec::new(), |survivor| worked = Some(worked_out(survivor)));
    let outcome = worked.unwrap();
    let batch = outcome.write.log.entries[0].data.clone();
    // Given a member that has begun no recovery
    let mut other = Member::on(member.store.fork());
    let (before, hash) = (other.revision(), other.hash());
    let refused = other.machine.apply(&[common::raw_entry(other.next(), batch.clone())]).unwrap();
    assert!(matches!(refused.outcomes[0].1[..], [Applied::Refused(Refusal::Malformed { .. })]));
    assert_eq!((other.revision(), other.hash()), (before, hash));
    // And the one that has: a second copy does nothing.
    let mut member = Member::on(member.store.fork());
    finished(&mut member, Vec::new(), &outcome);
    let (before, hash) = (member.revision(), member.hash());
    let mut again = common::raw_entry(member.next(), batch);
    again.term = Term(5 + COUNTER_JUMP);
    member.machine.apply(&[again]).unwrap();
    assert_eq!((member.revision(), member.hash()), (before, hash));
    // A newcomer that got a snapshot is the same state.
    let restored = restored(&member.store);
    restored.check();
    assert_eq!(restored.hash(), member.hash());
    assert_eq!(Records::read(&*restored.store.view()).unwrap(), records(&member));
}

#[test]
fn a_recovery_that_was_begun_or_has_nothing_to_do_writes_nothing() {
    let mut alone = Member::on(founded());
    alone.done(request(7, 1, 0, txn([put("k", "v")])));
    survivor(&alone, vec![request(7, 2, 0, txn([put("k", "w")]))], |survivor| {
        assert_eq!(plan(survivor).unwrap().verdict, Verdict::Alone);
    });
    let mut member = three();
    let mut worked = None;
    survivor(&member, Vec::new(), |survivor| worked = Some(worked_out(survivor)));
    let outcome = worked.unwrap();
    let mut store = member.store.clone();
    quorate_core::ports::StateStore::recover(&mut store, outcome.write.clone()).unwrap();
    member.reopen();
    survivor(&member, Vec::new(), |survivor| {
        let again = plan(survivor).unwrap();
        assert_eq!(again.verdict, Verdict::Begun);
        assert_eq!(again.findings.lineage, outcome.lineage);
    });
}

#[test]
fn a_disk_that_contradicts_itself_is_refused() {
    let member = three();
    let refused = |change: &dyn Fn(&mut Survivor<'_>, &mut Boot)| {
        let mut error = None;
        survivor(&member, vec![request(7, 6, 0, Txn::default())], |survivor| {
            let mut boot = survivor.boot.clone();
            let mut changed = survivor.clone();
            change(&mut changed, &mut boot);
            let changed = Survivor { boot: &boot, ..changed };
            error = plan(&changed).err();
        });
        error.expect("it is refused")
    };
    // A log entry that the directory says it has and has not
    let error = refused(&|_, boot| boot.last = boot.last.next());
    assert!(matches!(error, RecoveryError::Damaged(_)), "{error}");
    // A commit beyond the log
    let error = refused(&|_, boot| boot.hard_state.commit = LogIndex(1000));
    assert!(matches!(error, RecoveryError::Damaged(_)), "{error}");
    // A state that the log does not reach
    let error = refused(&|_, boot| boot.start.index = LogIndex(1000));
    assert!(matches!(error, RecoveryError::Damaged(_)), "{error}");
    // A value that is not what was written
    let bad = member.store.fork();
    bad.tamper(|map| {
        let (key, value) = map.iter().find(|(key, value)| key.first() == Some(&0x11) && value.len() > 40).unwrap();
        let (key, mut value) = (key.clone(), value.to_vec());
        *value.last_mut().unwrap() ^= 1;
        map.insert(key, value.into());
    });
    let error = refused(&|survivor, _| survivor.state = bad.view());
    assert!(matches!(&error, RecoveryError::Damaged(why) if why.contains("hash")), "{error}");
    // Another node's raft id, and one that the cluster took back
    let error = refused(&|survivor, _| survivor.node.raft_id = 9);
    assert_eq!(error, RecoveryError::Removed(RaftId(9)));
    // Nothing at all
    let error = refused(&|survivor, _| survivor.state = common::Store::default().view());
    assert_eq!(error, RecoveryError::NoState);
}

#[test]
fn no_generation_begins_on_a_node_that_was_thrown_out() {
    let thrown_out = || write_node(&NodeRecord { compromised: true, ..own() });
    // Given a node that was thrown out, because somebody else may have its keys, as it has heard by what it has applied
    let mut heard = three();
    heard.done(thrown_out());
    survivor(&heard, vec![], |disk| assert_eq!(plan(disk), Err(RecoveryError::ThrownOut)));
    // or by what its log holds above that: it would stop at its first start in any case
    survivor(&three(), vec![thrown_out()], |disk| assert_eq!(plan(disk), Err(RecoveryError::ThrownOut)));
    // Another one that was thrown out is in nobody's way.
    let other = write_node(&NodeRecord { compromised: true, ..node(2) });
    survivor(&three(), vec![other], |disk| assert_eq!(worked_out(disk).lineage.0.last(), Some(&INCARNATION)));
}

#[test]
fn a_tail_that_cannot_be_applied_is_found_out_before_anything_is_written() {
    let member = three();
    let mut newer = Batch::new(vec![request(7, 6, 0, Txn::default())]);
    newer.version = 99;
    survivor(&member, vec![request(7, 6, 0, Txn::default())], |survivor| {
        let applied = survivor.boot.start.index;
        let entry = |data: Bytes| LogEntry {
            index: applied.next(),
            term: Term(3),
            kind: EntryKind::Normal,
            data,
            context: Bytes::new(),
        };
        for (data, version) in [(newer.to_bytes(), true), (Bytes::from_static(&[0xff; 9]), false)] {
            let log = Log(vec![entry(data)]);
            let error = plan(&Survivor { log: &log, ..survivor.clone() }).unwrap_err();
            assert_eq!(matches!(error, RecoveryError::NeedsVersion(_)), version, "{error}");
            assert_eq!(matches!(error, RecoveryError::Damaged(_)), !version, "{error}");
        }
    });
}

#[test]
fn a_snapshot_of_a_begun_recovery_says_so() {
    // (Nobody is sent one: it would have to be a member first. A copy of it is sound all the same.)
    let member = three();
    let mut worked = None;
    survivor(&member, Vec::new(), |survivor| worked = Some(worked_out(survivor)));
    let mut store = member.store;
    quorate_core::ports::StateStore::recover(&mut store, worked.unwrap().write).unwrap();
    let other = common::Store::default();
    let (status, _) = receive(&other, chunks(&store)).unwrap();
    assert_eq!(status.configuration.voters, [RaftId(1)]);
    let _keeps_the_type_used: Arc<common::Map> = store.map();
}

#[test]
fn a_rotation_that_was_under_way_goes_on_and_waits_for_nobody_who_was_lost() {
    // Given a rotation of which time has passed, and for which the survivor has not renewed yet, nor one of the others
    let mut member = three();
    let root = |n: u8| Bytes::copy_from_slice(&[n; 8]);
    let trust = TrustRecord::first(root(1), root(1)).rotated((root(2), root(2)), root(3), 3, 1_000, 100).unwrap();
    let time = TrustTime { serial: trust.serial, passed_s: 40 };
    let renewed = |record: NodeRecord, by: u8| NodeRecord { issuer: root(by), ..record };
    for (key, value) in [
        (TrustRecord::key(), trust.to_bytes()),
        (TrustTime::key(), time.to_bytes()),
        (NodeRecord::key(node(2).node_id().unwrap()), renewed(node(2), 2).to_bytes()),
        (NodeRecord::key(node(3).node_id().unwrap()), renewed(node(3), 1).to_bytes()),
    ] {
        member.done(system(txn([Put { key, value, ..Put::default() }.into()])));
    }
    let mut worked = None;
    survivor(&member, Vec::new(), |survivor| worked = Some(worked_out(survivor)));
    // When the cluster is recovered, then it is what it was, and has as much time left,
    finished(&mut member, Vec::new(), &worked.unwrap());
    let records = records(&member);
    assert_eq!((&records.trust, records.trust.left_s(&records.trust_time)), (&trust, 60));
    // only the survivor is waited for, whom no deadline shuts out,
    let configuration = member.machine.status().configuration.clone();
    let waited = records.trust.progress(records.nodes.iter(), [], 2_000).waited;
    assert!(matches!(waited[..], [Waited::Node(node)] if node.raft() == Some(RaftId(1))), "{waited:?}");
    let over = Moment { passed_s: u64::MAX, unix_s: 2_000 };
    assert_eq!(records.trust.ended(records.nodes.iter(), [], &configuration, over), None);
    // and when it has renewed, all have.
    let own = renewed(records.by_raft_id(RaftId(1)).unwrap().clone(), 2);
    member.done(write_node(&own));
    let records = self::records(&member);
    let ended = records.trust.ended(records.nodes.iter(), [], &configuration, Moment::default()).unwrap();
    assert_eq!(ended.authorities, [root(2)]);
}
