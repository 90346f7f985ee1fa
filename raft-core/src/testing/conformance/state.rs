//! What the state, received snapshots and facts must keep.

use super::*;
use crate::ports::{StagedId, StateReader};
use std::sync::Arc;

/// All writes of a set appear together, deletes too, and come back after a reopen.
pub fn a_commit_is_visible_at_once_and_as_a_whole(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.state.commit(set(&[("a", "1"), ("b", "2")])).unwrap();
    let mut writes = set(&[("c", "3"), ("b", "")]);
    writes.delete(&b"a"[..]);
    writes.delete(&b"never there"[..]);
    open.state.commit(writes).unwrap();
    open.state.commit(WriteSet::default()).unwrap();
    assert_eq!(open.state.get(b"a").unwrap(), None);
    assert_eq!(open.state.get(b"b").unwrap(), Some(Bytes::new()));
    let expected = pairs(&[("b", ""), ("c", "3")]);
    assert_eq!(all(&*open.state), expected);
    assert_eq!(all(&*open.state.reader().view()), expected);
    drop(open);
    assert_eq!(all(&*store.open().unwrap().state), expected);
}

/// Writes of one set are in order.
pub fn a_later_write_of_a_key_in_one_set_wins(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    let mut writes = set(&[("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")]);
    writes.delete(&b"b"[..]);
    writes.delete(&b"c"[..]);
    writes.put(&b"c"[..], &b"2"[..]);
    open.state.commit(writes).unwrap();
    assert_eq!(all(&*open.state), pairs(&[("a", "2"), ("c", "2")]));
}

/// A range goes as a whole, before what the set writes; what the set wrote into it before goes with it. A view keeps it.
pub fn a_range_is_removed_before_the_writes_of_its_set(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.state.commit(set(&[("a", "1"), ("b", "1"), ("ba", "1"), ("c", "1"), ("d", "1")])).unwrap();
    let before = open.state.reader().view();
    let mut writes = set(&[("bb", "early"), ("a", "2")]);
    writes.delete_range(&b"b"[..], &b"c"[..]);
    writes.delete_range(&b"d"[..], &b"d"[..]);
    writes.delete_range(&b"e"[..], &b"d"[..]);
    writes.put(&b"bc"[..], &b"late"[..]);
    open.state.commit(writes).unwrap();
    let after = pairs(&[("a", "2"), ("bc", "late"), ("c", "1"), ("d", "1")]);
    assert_eq!(all(&*open.state), after);
    assert_eq!(open.state.get(b"b").unwrap(), None);
    assert_eq!(range(&*open.state, b"b", b"c"), pairs(&[("bc", "late")]));
    assert_eq!(all(&*before).len(), 5);
    // Written anew it is there again, also after a reopen.
    open.state.commit(set(&[("b", "3")])).unwrap();
    drop((before, open));
    let open = store.open().unwrap();
    assert_eq!(range(&*open.state, b"b", b"c"), pairs(&[("b", "3"), ("bc", "late")]));
}

/// Order is that of bytes; `from` is in, `to` is out, an empty `to` is the end.
pub fn a_scan_keeps_order_and_bounds_and_stops_when_told(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    let mut writes = set(&[("b", "2"), ("aa", "1"), ("a", "0"), ("c", "3")]);
    writes.put(&b"\xff\xff"[..], &b"4"[..]);
    writes.put(&b"\x00"[..], &b"-"[..]);
    open.state.commit(writes).unwrap();
    for state in [&*open.state as &dyn StateRead, &*open.state.reader().view()] {
        let keys = |from: &[u8], to: &[u8]| -> Vec<Vec<u8>> {
            range(state, from, to).into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(b"", b""), [&b"\x00"[..], b"a", b"aa", b"b", b"c", b"\xff\xff"]);
        assert_eq!(keys(b"a", b"b"), [&b"a"[..], b"aa"]);
        assert_eq!(keys(b"a\x00", b"c"), [&b"aa"[..], b"b"]);
        assert_eq!(keys(b"bb", b""), [&b"c"[..], b"\xff\xff"]);
        assert_eq!(keys(b"b", b"b"), Vec::<Vec<u8>>::new());
        assert_eq!(keys(b"c", b"a"), Vec::<Vec<u8>>::new());
        let mut seen = 0;
        state
            .scan(b"a", b"", &mut |_, _| {
                seen += 1;
                if seen == 2 { Visit::Enough } else { Visit::More }
            })
            .unwrap();
        assert_eq!(seen, 2);
    }
}

/// A view is of one moment, also while other views and commits come and go on another thread's time.
pub fn a_view_does_not_change_while_writes_go_on(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    let reader = open.state.reader();
    let empty = reader.view();
    open.state.commit(set(&[("a", "1"), ("b", "1")])).unwrap();
    let first = reader.view();
    let mut writes = set(&[("a", "2")]);
    writes.delete(&b"b"[..]);
    open.state.commit(writes).unwrap();
    let second = reader.view();
    assert_eq!(all(&*empty), vec![]);
    assert_eq!(all(&*first), pairs(&[("a", "1"), ("b", "1")]));
    assert_eq!(first.get(b"b").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(all(&*second), pairs(&[("a", "2")]));
    // A write in the middle of a scan is not seen by it.
    let mut seen = Vec::new();
    first
        .scan(b"", b"", &mut |key, value| {
            open.state.commit(set(&[("b", "9"), ("z", "9")])).unwrap();
            seen.push((key.to_vec(), value.to_vec()));
            Visit::More
        })
        .unwrap();
    assert_eq!(seen, pairs(&[("a", "1"), ("b", "1")]));
}

/// Whatever the store holds, a foundation is refused then, and changes nothing.
pub fn only_an_empty_store_can_be_founded(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.meta.put(&[("identity", Bytes::from_static(b"me"))]).unwrap();
    open.state.found(set(&[("a", "1")]), reset(1, 1)).unwrap();
    let refused = open.state.found(set(&[("a", "2")]), reset(5, 1));
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    assert_eq!(all(&*open.state), pairs(&[("a", "1")]));
    drop(open);
    let mut open = store.open().unwrap();
    assert!(open.state.found(set(&[("a", "2")]), reset(5, 1)).is_err());
    drop(open);
    assert_eq!(store.open().unwrap().boot.start, start(1, 1));
}

/// First state and log start are there together, durable, and the log goes on after it.
pub fn a_foundation_comes_back(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.state.found(set(&[("a", "1"), ("b", "2")]), reset(1, 1)).unwrap();
    assert_not_found(&open, 1);
    drop(open);
    store.lose_unsynced();
    let mut open = store.open().unwrap();
    assert_eq!((open.boot.start, open.boot.last, open.boot.hard_state), (start(1, 1), LogIndex(1), hard(1, 1)));
    assert_eq!(all(&*open.state), pairs(&[("a", "1"), ("b", "2")]));
    open.log.write(&[batch(entries(2, 3, 1), 2)], true).unwrap();
    drop(open);
    assert_eq!(store.open().unwrap().boot.last, LogIndex(3));
}

/// State, log, hard state and facts of a recovery are there together after a power cut, with all of the log before.
pub fn a_recovery_is_durable_as_a_whole_and_takes_nothing_from_the_log(store: &mut dyn StoreUnderTest) {
    let mut open = old_store(store);
    open.state.commit(set(&[("c", "not synced")])).unwrap();
    let mut records = set(&[("a", "recovered")]);
    records.delete(&b"b"[..]);
    let facts = vec![("identity".to_owned(), Bytes::from_static(b"me, again"))];
    open.state.recover(RecoveryWrite { state: records, log: batch(vec![entry(10, 99)], 10), facts }).unwrap();
    assert_eq!(open.log_reader.entries(LogIndex(10), LogIndex(11), u64::MAX).unwrap(), vec![entry(10, 99)]);
    drop(open);
    store.lose_unsynced();
    let open = store.open().unwrap();
    assert_eq!((open.boot.start, open.boot.last, open.boot.hard_state), (start(1, 1), LogIndex(10), hard(99, 10)));
    let expected: Vec<_> = entries(2, 9, 1).into_iter().chain([entry(10, 99)]).collect();
    assert_eq!(whole_log(&open, &open.boot), expected);
    assert_eq!(all(&*open.state), pairs(&[("a", "recovered"), ("c", "not synced")]));
    assert_eq!(open.meta.get("identity").unwrap(), Some(Bytes::from_static(b"me, again")));
    // And the log goes on behind it.
    let mut open = open;
    open.log.write(&[batch(entries(11, 12, 99), 10)], true).unwrap();
    assert_eq!(open.log_reader.entries(LogIndex(11), LogIndex(13), u64::MAX).unwrap(), entries(11, 12, 99));
}

/// A hole behind the log, a term that would go back: refused, final, and nothing of it is there.
pub fn a_recovery_that_would_tear_the_log_changes_nothing(store: &mut dyn StoreUnderTest) {
    drop(old_store(store));
    for log in [batch(vec![entry(12, 99)], 12), LogBatch { hard_state: Some(hard(0, 5)), ..LogBatch::default() }] {
        let mut open = store.open().unwrap();
        let facts = vec![("identity".to_owned(), Bytes::from_static(b"else"))];
        let refused = open.state.recover(RecoveryWrite { state: set(&[("a", "recovered")]), log, facts });
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
        assert!(matches!(open.log.write(&[], true), Err(StoreError::Poisoned(_))));
        drop(open);
        let open = store.open().unwrap();
        assert_old(&open);
        assert_eq!(open.meta.get("identity").unwrap(), Some(Bytes::from_static(b"me")));
    }
}

/// A store with state "old" and a log up to entry 9.
fn old_store(store: &mut dyn StoreUnderTest) -> OpenStore {
    let mut open = store.open().unwrap();
    open.state.found(set(&[("a", "old"), ("b", "old")]), reset(1, 1)).unwrap();
    open.log.write(&[batch(entries(2, 9, 1), 5)], true).unwrap();
    open.meta.put(&[("identity", Bytes::from_static(b"me"))]).unwrap();
    open
}

fn stage(open: &OpenStore, parts: &[&[(&str, &str)]]) -> StagedId {
    let mut staged = open.staging.begin().unwrap();
    for part in parts {
        staged.write(&records(part)).unwrap();
    }
    staged.finish().unwrap()
}

fn assert_old(open: &OpenStore) {
    assert_eq!(all(&*open.state), pairs(&[("a", "old"), ("b", "old")]));
    assert_eq!((open.boot.start, open.boot.last, open.boot.hard_state), (start(1, 1), LogIndex(9), hard(1, 5)));
    assert_eq!(whole_log(open, &open.boot), entries(2, 9, 1));
}

fn assert_new(open: &OpenStore, state: &[(&str, &str)]) {
    assert_eq!(all(&*open.state), pairs(state));
    assert_eq!(all(&*open.state.reader().view()), pairs(state));
    assert_not_found(open, 9);
    assert_eq!(open.meta.get("identity").unwrap().as_deref(), Some(&b"me"[..]));
}

/// State, log, log start and hard state change together; facts about the node stay; work goes on.
pub fn an_installation_replaces_state_and_log(store: &mut dyn StoreUnderTest) {
    let mut open = old_store(store);
    let staged = stage(&open, &[&[("b", "new")], &[], &[("c", "new"), ("d", "new")]]);
    assert_eq!(all(&*open.state), pairs(&[("a", "old"), ("b", "old")]));
    open.state.install(staged, reset(50, 4)).unwrap();
    let new = [("b", "new"), ("c", "new"), ("d", "new")];
    assert_new(&open, &new);
    drop(open);
    store.lose_unsynced();

    let mut open = store.open().unwrap();
    assert_eq!((open.boot.start, open.boot.last, open.boot.hard_state), (start(50, 4), LogIndex(50), hard(4, 50)));
    assert_eq!(open.boot.terms, vec![]);
    assert_new(&open, &new);
    open.log.write(&[batch(entries(51, 52, 4), 51)], true).unwrap();
    open.state.commit(set(&[("a", "later")])).unwrap();
    drop(open);
    let open = store.open().unwrap();
    assert_eq!(open.boot.last, LogIndex(52));
    assert_eq!(all(&*open.state), pairs(&[("a", "later"), ("b", "new"), ("c", "new"), ("d", "new")]));
}

/// A snapshot that ends inside a longer log replaces all of it, also what lies after its end.
pub fn an_installation_inside_a_longer_log_empties_it(store: &mut dyn StoreUnderTest) {
    let mut open = old_store(store);
    let staged = stage(&open, &[&[("c", "new")]]);
    open.state.install(staged, reset(6, 2)).unwrap();
    assert_new(&open, &[("c", "new")]);
    for index in 1..=9 {
        assert_not_found(&open, index);
    }
    drop(open);
    let mut open = store.open().unwrap();
    assert_eq!((open.boot.start, open.boot.last, open.boot.terms.len()), (start(6, 2), LogIndex(6), 0));
    open.log.write(&[batch(entries(7, 7, 2), 6)], true).unwrap();
    assert_not_found(&open, 8);
    drop(open);
    assert_eq!(store.open().unwrap().boot.last, LogIndex(7));
}

/// Nothing of an earlier snapshot shines through a later one, and the same name installs once.
pub fn a_second_installation_replaces_the_first(store: &mut dyn StoreUnderTest) {
    let mut open = old_store(store);
    for (round, index) in [(1_u32, 20), (2, 30), (3, 40)] {
        let key = format!("only {round}");
        let staged = stage(&open, &[&[(&key, "x")]]);
        open.state.install(staged, reset(index, 2)).unwrap();
        assert_new(&open, &[(&key, "x")]);
        assert!(open.state.install(staged, reset(index, 2)).is_err());
        open.state.commit(set(&[("z", "committed")])).unwrap();
        open.log.write(&[batch(entries(index + 1, index + 1, 2), index)], true).unwrap();
    }
    drop(open);
    let open = store.open().unwrap();
    assert_new(&open, &[("only 3", "x"), ("z", "committed")]);
    assert_eq!((open.boot.start, open.boot.last), (start(40, 2), LogIndex(41)));
}

/// Old views keep the old state, new views see the new one.
pub fn a_view_from_before_an_installation_keeps_the_old_state(store: &mut dyn StoreUnderTest) {
    let mut open = old_store(store);
    let reader: Arc<dyn StateReader> = open.state.reader();
    let before = reader.view();
    let staged = stage(&open, &[&[("c", "new")]]);
    let staged_view = reader.view();
    open.state.install(staged, reset(50, 4)).unwrap();
    // The next one is received into the family that the old views read.
    let mut next = open.staging.begin().unwrap();
    next.write(&records(&[("e", "next")])).unwrap();
    for old in [before, staged_view] {
        assert_eq!(all(&*old), pairs(&[("a", "old"), ("b", "old")]));
        assert_eq!(old.get(b"a").unwrap().as_deref(), Some(&b"old"[..]));
    }
    assert_eq!(all(&*reader.view()), pairs(&[("c", "new")]));
}

/// Begun, half written, finished: without its installation the old state is what is there, now and after a reopen.
pub fn a_snapshot_that_was_not_installed_leaves_the_old_state(store: &mut dyn StoreUnderTest) {
    let open = old_store(store);
    let mut half = open.staging.begin().unwrap();
    half.write(&records(&[("a", "new"), ("c", "new")])).unwrap();
    assert_old_state(&open);
    drop(half);
    assert_old_state(&open);
    drop(open);
    let open = store.open().unwrap();
    assert_old(&open);
    let finished = stage(&open, &[&[("a", "new"), ("c", "new")]]);
    drop(open);
    let mut open = store.open().unwrap();
    assert_old(&open);
    // The name of before the reopen means nothing any more.
    assert!(open.state.install(finished, reset(50, 4)).is_err());
    assert_old_state(&open);
    drop(open);
    assert_old(&store.open().unwrap());
}

/// A snapshot that was discarded is gone.
pub fn a_discarded_snapshot_cannot_be_installed(store: &mut dyn StoreUnderTest) {
    let mut open = old_store(store);
    let staged = stage(&open, &[&[("c", "new")]]);
    open.staging.discard(staged).unwrap();
    open.staging.discard(staged).unwrap();
    assert!(matches!(open.state.install(staged, reset(50, 4)), Err(StoreError::Corrupt { .. })));
    assert_old_state(&open);
    let staged = stage(&open, &[&[("d", "new")]]);
    open.state.install(staged, reset(60, 4)).unwrap();
    assert_new(&open, &[("d", "new")]);
}

/// There is one place: beginning again forgets what was being received and what was finished.
pub fn a_later_snapshot_forgets_the_one_before(store: &mut dyn StoreUnderTest) {
    let mut open = old_store(store);
    let mut first = open.staging.begin().unwrap();
    first.write(&records(&[("first", "x")])).unwrap();
    let second = stage(&open, &[&[("second", "x")]]);
    assert!(first.write(&records(&[("more", "x")])).is_err());
    assert!(first.finish().is_err());
    open.state.install(second, reset(50, 4)).unwrap();
    assert_new(&open, &[("second", "x")]);

    let third = stage(&open, &[&[("third", "x")]]);
    let fourth = stage(&open, &[&[("fourth", "x")]]);
    assert!(open.state.install(third, reset(60, 4)).is_err());
    open.state.install(fourth, reset(60, 4)).unwrap();
    assert_new(&open, &[("fourth", "x")]);
}

/// A sender that repeats or mixes up records is noticed, and harms nothing.
pub fn snapshot_records_out_of_order_are_refused(store: &mut dyn StoreUnderTest) {
    let open = old_store(store);
    for bad in [&[("b", "1"), ("a", "1")][..], &[("b", "1"), ("b", "2")]] {
        let mut staged = open.staging.begin().unwrap();
        let refused = staged.write(&records(bad));
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    }
    let mut staged = open.staging.begin().unwrap();
    staged.write(&records(&[("b", "1")])).unwrap();
    assert!(staged.write(&records(&[("a", "1")])).is_err());
    drop(staged);
    assert_old_state(&open);
}

fn assert_old_state(open: &OpenStore) {
    assert_eq!(all(&*open.state), pairs(&[("a", "old"), ("b", "old")]));
}

/// Facts lie beside the state, several at once, and survive everything.
pub fn facts_come_back_and_are_no_state(store: &mut dyn StoreUnderTest) {
    let open = store.open().unwrap();
    open.meta.put(&[("identity", Bytes::from_static(b"me")), ("fence", Bytes::new())]).unwrap();
    open.meta.put(&[("identity", Bytes::from_static(b"still me"))]).unwrap();
    assert_eq!(all(&*open.state), vec![]);
    drop(open);
    store.lose_unsynced();
    let open = store.open().unwrap();
    assert_eq!(open.meta.get("identity").unwrap().as_deref(), Some(&b"still me"[..]));
    assert_eq!(open.meta.get("fence").unwrap(), Some(Bytes::new()));
    assert_eq!(open.meta.get("hard_state").unwrap(), None);
    assert_eq!(open.boot, Boot::default());
}

/// Log and state are one journal: a synced log write keeps the commits before it, and none of those after it.
pub fn a_power_cut_leaves_what_was_synced_and_what_came_before_it(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.state.found(set(&[("a", "0")]), reset(1, 1)).unwrap();
    open.state.commit(set(&[("a", "1")])).unwrap();
    open.log.write(&[batch(entries(2, 3, 1), 2)], false).unwrap();
    open.state.commit(set(&[("b", "1")])).unwrap();
    open.log.write(&[batch(entries(4, 4, 1), 3)], true).unwrap();
    open.state.commit(set(&[("c", "1")])).unwrap();
    open.log.write(&[batch(entries(3, 3, 2), 2)], false).unwrap();
    drop(open);
    if !store.lose_unsynced() {
        return;
    }
    let open = store.open().unwrap();
    assert_eq!(all(&*open.state), pairs(&[("a", "1"), ("b", "1")]));
    assert_eq!((open.boot.last, open.boot.hard_state), (LogIndex(4), hard(1, 3)));
    assert_eq!(whole_log(&open, &open.boot), entries(2, 4, 1));
}

/// So does every other synced write, and a sync without a write.
pub fn a_fact_makes_everything_before_it_durable(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.state.found(set(&[]), reset(1, 1)).unwrap();
    open.state.commit(set(&[("a", "1")])).unwrap();
    open.meta.put(&[("fact", Bytes::from_static(b"x"))]).unwrap();
    drop(open);
    store.lose_unsynced();
    let mut open = store.open().unwrap();
    assert_eq!(all(&*open.state), pairs(&[("a", "1")]));
    open.state.commit(set(&[("b", "1")])).unwrap();
    open.log.write(&[], true).unwrap();
    drop(open);
    store.lose_unsynced();
    let open = store.open().unwrap();
    assert_eq!(all(&*open.state), pairs(&[("a", "1"), ("b", "1")]));
    let mut open = open;
    open.state.commit(set(&[("c", "1")])).unwrap();
    stage(&open, &[&[("never", "installed")]]);
    drop(open);
    store.lose_unsynced();
    assert_eq!(all(&*store.open().unwrap().state), pairs(&[("a", "1"), ("b", "1"), ("c", "1")]));
}
