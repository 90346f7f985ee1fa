//! The hub and the history on a machine: who is told what, when a watch must read, and when it is cut.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use common::*;
use prost::Message as _;
use quorate_core::keyspace::{Section, prefix_end};
use quorate_core::limits;
use quorate_core::state::contract::Refusal;
use quorate_core::state::read::ReadError;
use quorate_core::watch::{
    End, Filter, Followed, Follower, Full, Hub, HubLimits, Round, Taken, WatchId, WatchPart, WatchStart, read,
};

/// A member: its state, its hub, and what it has been asked to apply.
struct Manager {
    log: Member,
    hub: Hub,
    gathers: bool,
}

impl Manager {
    fn new(limits: HubLimits) -> Self {
        let log = Member::founded();
        let hub = Hub::new(log.machine.status().revision.0, limits);
        Self { log, hub, gathers: true }
    }

    /// Applies one round of these transactions; answers the revision after it.
    fn write(&mut self, txns: impl IntoIterator<Item = quorate_core::txn::Txn>) -> u64 {
        self.log.machine.gather(self.gathers);
        let entry = entry(self.log.next(), txns.into_iter().map(system).collect());
        let applied = self.log.machine.apply(&[entry]).unwrap();
        let units = self.gathers.then_some(&applied.units[..]);
        self.hub.applied(Round { revision: applied.revision.0, units });
        applied.revision.0
    }

    fn watch(&mut self, prefix: &str, from: Option<u64>) -> (WatchId, Filter) {
        let key = Section::User.key(prefix.as_bytes());
        let end = Section::User.key(&prefix_end(prefix.as_bytes()));
        let filter = Filter::new(&WatchStart { key, end, ..WatchStart::default() }).unwrap();
        (self.hub.open(filter.clone(), from).unwrap(), filter)
    }

    /// Everything that the watch is told until it would wait: revisions of changes, and of bookmarks with a minus.
    fn told(&mut self, watch: &(WatchId, Filter), follower: &mut Follower) -> Result<Vec<i64>, Refusal> {
        let (id, filter) = watch;
        let mut heard = Vec::new();
        loop {
            let told = match self.hub.take(*id) {
                Taken::Tell(told) => told,
                Taken::Read { from, upto } => {
                    let chunk = match read(&*self.log.store.view(), filter, from, upto) {
                        Ok(chunk) => chunk,
                        Err(ReadError::Refused(refusal)) => return Err(refusal),
                        Err(error) => panic!("{error}"),
                    };
                    self.hub.read(*id, chunk.next);
                    chunk.told
                }
                Taken::Wait => return Ok(heard),
                Taken::Ended(end) => panic!("{end:?} after {heard:?}"),
            };
            for message in told.iter().flat_map(|told| told.messages(filter)) {
                let part = WatchPart::decode(message.join()).unwrap();
                match follower.take(part).unwrap() {
                    Followed::Changes(revision, _) => heard.push(i64::try_from(revision).unwrap()),
                    Followed::Bookmark(revision) => heard.push(-i64::try_from(revision).unwrap()),
                    Followed::Opened | Followed::Nothing => {}
                }
            }
        }
    }
}

fn one(key: &str) -> quorate_core::txn::Txn {
    txn([put(key, "v")])
}

fn large(key: &str, bytes: usize) -> quorate_core::txn::Txn {
    txn([put(key, vec![b'x'; bytes])])
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap()
}

#[test]
fn a_live_watch_is_told_its_own_and_bookmarks_behind_it() {
    let mut manager = Manager::new(HubLimits::default());
    let watch = manager.watch("a", None);
    let mut follower = Follower::new(0);
    let mine = manager.write([one("a1")]);
    let other = manager.write([one("b1"), one("b2")]);
    assert_eq!(manager.told(&watch, &mut follower), Ok(vec![signed(mine)]));
    manager.hub.bookmark();
    assert_eq!(manager.told(&watch, &mut follower), Ok(vec![-signed(other)]));
    // Nothing has passed since: there is nothing to say.
    manager.hub.bookmark();
    assert_eq!(manager.told(&watch, &mut follower), Ok(vec![]));
    // Events and bookmarks share one queue: a bookmark never overtakes.
    let next = manager.write([one("a2"), one("b3")]);
    manager.hub.bookmark();
    let last = manager.write([one("a3")]);
    let told = manager.told(&watch, &mut follower).unwrap();
    assert_eq!(told, [signed(next - 1), -signed(next), signed(last)]);
}

#[test]
fn a_watch_from_the_past_reads_and_is_live_without_a_gap() {
    let mut manager = Manager::new(HubLimits::default());
    let first = manager.write([one("a")]);
    manager.write([one("b"), one("a"), one("a")]);
    let (id, filter) = manager.watch("a", Some(first));
    assert_eq!(manager.hub.take(id), Taken::Tell(vec![quorate_core::watch::Told::Opened(first)]));
    // While it reads, more is written: that waits, and comes after what was read.
    let Taken::Read { from, upto } = manager.hub.take(id) else { panic!("it reads") };
    assert_eq!((from, upto), (first, first + 3));
    let meanwhile = manager.write([one("a")]);
    let chunk = read(&*manager.log.store.view(), &filter, from, upto).unwrap();
    let read: Vec<u64> = chunk.told.iter().map(quorate_core::watch::Told::revision).collect();
    assert_eq!((read, chunk.next), (vec![first, first + 2, first + 3], upto + 1));
    manager.hub.read(id, chunk.next);
    let mut follower = Follower::new(upto + 1);
    let told = manager.told(&(id, filter), &mut follower).unwrap();
    assert_eq!(told, [-signed(upto), signed(meanwhile)]);
}

#[test]
fn no_bookmark_comes_to_who_has_still_to_read_what_it_would_vouch_for() {
    let mut manager = Manager::new(HubLimits::default());
    let first = manager.write([one("a")]);
    let (id, filter) = manager.watch("a", Some(first));
    assert_eq!(manager.hub.take(id), Taken::Tell(vec![quorate_core::watch::Told::Opened(first)]));
    // Given a watch that has to read, when bookmarks are sent, then it is told none: it reads,
    manager.hub.bookmark();
    assert_eq!(manager.hub.take(id), Taken::Read { from: first, upto: first });
    // and while it does, it is told none either, whatever is written meanwhile:
    let meanwhile = manager.write([one("a")]);
    manager.hub.bookmark();
    assert_eq!(manager.hub.take(id), Taken::Read { from: first, upto: first });
    // what was read is vouched for, then what came meanwhile is told, then that is.
    manager.hub.read(id, first + 1);
    let mut follower = Follower::new(first + 1);
    let watch = (id, filter);
    assert_eq!(manager.told(&watch, &mut follower), Ok(vec![-signed(first), signed(meanwhile)]));
    // When it falls behind, by a snapshot or by what was not gathered, it is the same.
    manager.gathers = false;
    let unseen = manager.write([one("a"), one("a")]);
    manager.hub.bookmark();
    let told = manager.told(&watch, &mut follower).unwrap();
    assert_eq!(told, [signed(unseen - 1), signed(unseen), -signed(unseen)]);
}

#[test]
fn a_watch_from_the_future_hears_nothing_before_its_time() {
    let mut manager = Manager::new(HubLimits::default());
    let now = manager.write([one("a")]);
    let watch = manager.watch("a", Some(now + 3));
    let mut follower = Follower::new(now + 3);
    for _ in 0..2 {
        manager.write([one("a")]);
        manager.hub.bookmark();
        assert_eq!(manager.told(&watch, &mut follower), Ok(vec![]));
    }
    // Also when a snapshot or an ungathered round comes over it in between.
    manager.hub.installed(now + 2);
    manager.hub.bookmark();
    assert_eq!(manager.told(&watch, &mut follower), Ok(vec![]));
    let due = manager.write([one("a")]);
    assert_eq!(manager.told(&watch, &mut follower), Ok(vec![signed(due)]));
}

#[test]
fn what_was_not_gathered_is_read() {
    let mut manager = Manager::new(HubLimits::default());
    let watch = manager.watch("a", None);
    let mut follower = Follower::new(0);
    let first = manager.write([one("a")]);
    // A round from before the watch was known, or a snapshot.
    manager.gathers = false;
    let second = manager.write([one("a"), one("a")]);
    manager.gathers = true;
    let third = manager.write([one("a")]);
    let told = manager.told(&watch, &mut follower).unwrap();
    assert_eq!(told, [signed(first), signed(second - 1), signed(second), signed(third), -signed(third)]);
    let fourth = manager.write([one("a")]);
    assert_eq!(manager.told(&watch, &mut follower), Ok(vec![signed(fourth)]));
}

#[test]
fn a_watch_that_is_too_slow_is_cut_with_the_revision_to_go_on_from() {
    let mut manager = Manager::new(HubLimits { queue_changes: 3, ..HubLimits::default() });
    let slow = manager.watch("a", None);
    let quick = manager.watch("a", None);
    let (mut follower, mut follows) = (Follower::new(0), Follower::new(0));
    let first = manager.write([one("a")]);
    assert_eq!(manager.told(&slow, &mut follower), Ok(vec![signed(first)]));
    for _ in 0..5 {
        manager.write([one("a")]);
        assert_eq!(manager.told(&quick, &mut follows).unwrap().len(), if follows.next() == first + 2 { 2 } else { 1 });
    }
    assert!(manager.hub.has_ended(slow.0));
    assert_eq!(manager.hub.take(slow.0), Taken::Ended(End::Cut { resume: first + 1 }));
    // It goes on from there, and has lost nothing.
    manager.hub.close(slow.0);
    let again = manager.watch("a", Some(follower.next()));
    let told = manager.told(&again, &mut follower).unwrap();
    let last = first + 5;
    assert_eq!(told, (first + 1..=last).map(signed).chain([-signed(last)]).collect::<Vec<_>>());
}

#[test]
fn who_is_cut_before_it_has_taken_anything_goes_on_from_its_start() {
    let mut manager = Manager::new(HubLimits { queue_changes: 3, ..HubLimits::default() });
    let now = manager.write([one("a")]);
    // Given watches of which one has not even heard that it stands, and one has heard that and nothing else
    let deaf = manager.watch("a", None);
    let stands = manager.watch("a", None);
    assert_eq!(manager.hub.take(stands.0), Taken::Tell(vec![quorate_core::watch::Told::Opened(now + 1)]));
    // and one from the future, whose time comes
    let later = manager.watch("a", Some(now + 2));
    assert_eq!(manager.hub.take(later.0), Taken::Tell(vec![quorate_core::watch::Told::Opened(now + 2)]));
    // When they are cut, then each goes on from its first revision: none is lost.
    for _ in 0..6 {
        manager.write([one("a")]);
    }
    for (watch, resume) in [(deaf, now + 1), (stands, now + 1), (later, now + 2)] {
        assert_eq!(manager.hub.take(watch.0), Taken::Ended(End::Cut { resume }));
    }
}

#[test]
fn a_reader_is_never_cut_and_what_was_too_much_is_read_as_well() {
    let mut manager = Manager::new(HubLimits { queue_changes: 3, ..HubLimits::default() });
    let first = manager.write([one("a")]);
    let (id, filter) = manager.watch("a", Some(first));
    manager.hub.take(id);
    assert_eq!(manager.hub.take(id), Taken::Read { from: first, upto: first });
    let last = manager.write((0..10).map(|_| one("a")));
    assert!(!manager.hub.has_ended(id));
    manager.hub.read(id, first + 1);
    let mut follower = Follower::new(first + 1);
    let told = manager.told(&(id, filter), &mut follower).unwrap();
    let all = [-signed(first)].into_iter().chain((first + 1..=last).map(signed)).chain([-signed(last)]);
    assert_eq!(told, all.collect::<Vec<_>>());
}

#[test]
fn a_revision_too_large_to_be_kept_is_read() {
    let mut manager = Manager::new(HubLimits { unit_bytes: 1_000, ..HubLimits::default() });
    let watch = manager.watch("a", None);
    let mut follower = Follower::new(0);
    let first = manager.write([one("a")]);
    let big = manager.write([large("a", 2_000)]);
    assert!(manager.hub.held_bytes() < 1_000);
    let last = manager.write([one("a")]);
    let told = manager.told(&watch, &mut follower).unwrap();
    assert_eq!(told, [signed(first), signed(big), signed(last), -signed(last)]);
}

#[test]
fn what_all_watches_hold_is_bounded_and_counted_once() {
    let limits = HubLimits { all_bytes: 10_000, ..HubLimits::default() };
    let mut manager = Manager::new(limits);
    let same: Vec<_> = (0..50).map(|_| manager.watch("a", None)).collect();
    manager.write([large("a", 4_000)]);
    assert!(manager.hub.held_bytes() < 5_000, "fifty wait for one revision: {}", manager.hub.held_bytes());
    // A watch that alone holds more than the others together goes first.
    let greedy = manager.watch("b", None);
    manager.write([large("b", 4_000), large("b", 4_000)]);
    assert!(manager.hub.has_ended(greedy.0));
    assert!(same.iter().all(|(id, _)| !manager.hub.has_ended(*id)));
    assert!(manager.hub.held_bytes() <= limits.all_bytes);
    // And when all have gone, nothing is held.
    for (id, _) in same.into_iter().chain([greedy]) {
        manager.hub.close(id);
    }
    assert_eq!((manager.hub.held_bytes(), manager.hub.len()), (0, 0));
}

#[test]
fn what_is_handed_out_is_held_until_it_was_sent() {
    let mut manager = Manager::new(HubLimits::default());
    let (id, _) = manager.watch("a", None);
    manager.hub.take(id);
    manager.write([large("a", 3_000)]);
    let Taken::Tell(told) = manager.hub.take(id) else { panic!("it is told") };
    assert_eq!(told.len(), 1);
    assert!(manager.hub.held_bytes() >= 3_000, "its task may be in the middle of sending");
    assert_eq!(manager.hub.take(id), Taken::Wait);
    assert_eq!(manager.hub.held_bytes(), 0);
}

#[test]
fn a_task_that_sleeps_is_woken_once_and_for_everything() {
    let mut manager = Manager::new(HubLimits::default());
    let watch = manager.watch("a", None);
    let id = watch.0;
    let mut follower = Follower::new(0);
    let mut sleeps = |manager: &mut Manager| {
        manager.told(&watch, &mut follower).unwrap();
        manager.hub.woken();
    };
    sleeps(&mut manager);
    manager.write([one("b")]);
    assert_eq!(manager.hub.woken(), [], "it does not concern it");
    manager.write([one("a")]);
    manager.write([one("a")]);
    assert_eq!(manager.hub.woken(), [id], "it is awake by the second one");
    sleeps(&mut manager);
    manager.write([one("b")]);
    manager.hub.bookmark();
    assert_eq!(manager.hub.woken(), [id]);
    sleeps(&mut manager);
    manager.hub.installed(manager.log.machine.status().revision.0);
    assert_eq!(manager.hub.woken(), [id]);
    sleeps(&mut manager);
    manager.hub.end_all(End::Stopping);
    assert_eq!(manager.hub.woken(), [id]);
    assert_eq!(manager.hub.take(id), Taken::Ended(End::Stopping));
}

/// What so many large revisions weigh that one watch waits for, and whether it is cut or reads them.
fn waiting(limits: HubLimits, values: &[usize]) -> (usize, bool) {
    let mut manager = Manager::new(limits);
    let (id, _) = manager.watch("a", None);
    manager.hub.take(id);
    for (number, bytes) in values.iter().enumerate() {
        manager.write([large(&format!("a{number}"), *bytes)]);
    }
    (manager.hub.held_bytes(), manager.hub.has_ended(id))
}

#[test]
fn each_bound_of_what_waits_holds_from_both_sides() {
    let standard = HubLimits::default();
    assert_eq!(standard.watches, limits::WATCHES_MAX);
    assert_eq!(standard.unit_bytes, limits::WATCH_UNIT_BYTES_MAX);
    assert_eq!(standard.all_bytes, limits::WATCHES_BYTES_MAX);
    assert_eq!(standard.take_bytes, limits::WATCH_PART_BYTES);
    // As many changes as may wait do, and one more cuts
    let mut manager = Manager::new(standard);
    let (id, _) = manager.watch("a", None);
    let at_once = limits::TXN_OPERATIONS_MAX;
    for _ in 0..limits::WATCH_QUEUE_CHANGES_MAX / at_once {
        manager.write([txn((0..at_once).map(|n| put(format!("a{n}"), "v")))]);
    }
    assert!(!manager.hub.has_ended(id));
    manager.write([one("a")]);
    assert!(manager.hub.has_ended(id));
    // As many bytes as may wait do, and one more cuts
    let most = limits::WATCH_QUEUE_BYTES_MAX;
    let mut values = vec![limits::VALUE_BYTES_MAX; most / limits::VALUE_BYTES_MAX - 1];
    let (held, _) = waiting(standard, &values);
    let besides = held / values.len() - limits::VALUE_BYTES_MAX;
    values.push(most - held - besides);
    assert_eq!(waiting(standard, &values), (most, false));
    *values.last_mut().unwrap() += 1;
    assert!(waiting(standard, &values).1);
    // One revision waits however large it is, unless it is over what is kept of one: then it is read
    let (held, _) = waiting(standard, &[5_000]);
    assert_eq!(waiting(HubLimits { queue_bytes: 1, ..standard }, &[5_000]), (held, false));
    assert_eq!(waiting(HubLimits { unit_bytes: held, ..standard }, &[5_000]), (held, false));
    assert_eq!(waiting(HubLimits { unit_bytes: held - 1, ..standard }, &[5_000]), (0, false));
    // Of all that is held for all of them
    assert_eq!(waiting(HubLimits { all_bytes: held, ..standard }, &[5_000]), (held, false));
    assert_eq!(waiting(HubLimits { all_bytes: held - 1, ..standard }, &[5_000]), (0, true));
}

#[test]
fn there_are_only_so_many_watches() {
    let mut manager = Manager::new(HubLimits { watches: 2, ..HubLimits::default() });
    let first = manager.watch("a", None);
    let (_, filter) = manager.watch("a", None);
    assert_eq!(manager.hub.open(filter.clone(), None), Err(Full { max: 2 }));
    manager.hub.close(first.0);
    assert!(manager.hub.open(filter, None).is_ok());
}

#[test]
fn at_the_edge_of_what_is_compacted() {
    let mut manager = Manager::new(HubLimits::default());
    let first = manager.write([one("a")]);
    let last = manager.write((0..9).map(|_| one("a")));
    manager.log.done(compact(last - 4));
    let oldest = last - 3;
    for from in [first, oldest - 1] {
        let watch = manager.watch("a", Some(from));
        let refused = manager.told(&watch, &mut Follower::new(from));
        assert_eq!(refused, Err(Refusal::Compacted { asked: from, oldest }));
    }
    for from in [oldest, oldest + 1, last] {
        let watch = manager.watch("a", Some(from));
        let told = manager.told(&watch, &mut Follower::new(from)).unwrap();
        assert_eq!(told, (from..=last).map(signed).chain([-signed(last)]).collect::<Vec<_>>());
    }
}

#[test]
fn history_is_told_as_it_was_then() {
    let mut manager = Manager::new(HubLimits::default());
    // Given a key that is written, removed and made again, with what was there before
    let first = manager.write([txn([put("a", "one")])]);
    manager.write([txn([put("a", "two"), put("a2", "x")])]);
    manager.write([txn([delete("a")])]);
    let last = manager.write([txn([put("a", "three")])]);
    let start = WatchStart { key: key("a"), previous: true, ..WatchStart::default() };
    let filter = Filter::new(&start).unwrap();
    let told = |filter: &Filter| {
        let chunk = read(&*manager.log.store.view(), filter, first, last).unwrap();
        let messages = chunk.told.iter().flat_map(|told| told.messages(filter));
        let parts = messages.map(|message| WatchPart::decode(message.join()).unwrap());
        let text = |entry: &Option<quorate_core::txn::KeyValue>| {
            entry.as_ref().map(|entry| String::from_utf8(entry.value.to_vec()).unwrap()).unwrap_or_default()
        };
        let changes: Vec<_> = parts
            .flat_map(|part| part.changes)
            .map(|change| (change.deleted, text(&change.entry), text(&change.previous)))
            .collect();
        changes
    };
    let line = |deleted, value: &str, previous: &str| (deleted, value.to_owned(), previous.to_owned());
    assert_eq!(
        told(&filter),
        [line(false, "one", ""), line(false, "two", "one"), line(true, "", "two"), line(false, "three", "")]
    );
    assert_eq!(told(&Filter { puts: false, ..filter.clone() }), [line(true, "", "two")]);
    assert_eq!(told(&Filter { previous: false, deletes: false, ..filter }).len(), 3);
}

#[test]
fn a_long_history_comes_in_chunks_of_whole_revisions() {
    let mut manager = Manager::new(HubLimits::default());
    let first = manager.write([one("a")]);
    for _ in 0..40 {
        manager.write([txn([put("a1", vec![b'x'; 60_000]), put("a2", vec![b'y'; 60_000])])]);
    }
    let last = manager.write((0..900).map(|n| one(if n % 3 == 0 { "a" } else { "b" })));
    let (_, filter) = manager.watch("a", None);
    let (mut from, mut chunks, mut revisions) = (first, 0, 0);
    while from <= last {
        let chunk = read(&*manager.log.store.view(), &filter, from, last).unwrap();
        assert!(chunk.next > from && chunk.bytes < 600_000, "{} of {} bytes", chunk.next, chunk.bytes);
        (from, chunks, revisions) = (chunk.next, chunks + 1, revisions + chunk.told.len());
    }
    assert_eq!(revisions, 1 + 40 + 300);
    assert!(chunks > 10, "{chunks}");
}
