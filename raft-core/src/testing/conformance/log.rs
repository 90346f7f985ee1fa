//! What the log must keep.

use super::*;

/// Given nothing, a store boots empty, and so it does when it is opened again.
pub fn an_empty_store_boots_with_nothing(store: &mut dyn StoreUnderTest) {
    for _ in 0..2 {
        let open = store.open().unwrap();
        assert_eq!(open.boot, Boot::default());
        assert_eq!(all(&*open.state), vec![]);
        assert_eq!(open.meta.get("identity").unwrap(), None);
        assert_not_found(&open, 1);
    }
}

/// Every field of an entry and of the hard state survives.
pub fn appended_entries_come_back_after_a_reopen(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.log.write(&[batch(entries(1, 5, 1), 3), batch(entries(6, 9, 2), 8)], true).unwrap();
    let expected: Vec<_> = entries(1, 5, 1).into_iter().chain(entries(6, 9, 2)).collect();
    assert_eq!(open.log_reader.entries(LogIndex(1), LogIndex(10), u64::MAX).unwrap(), expected);
    drop(open);

    let open = store.open().unwrap();
    assert_eq!(open.boot.hard_state, hard(2, 8));
    assert_eq!(open.boot.start, LogStart::default());
    assert_eq!(open.boot.last, LogIndex(9));
    assert_eq!(whole_log(&open, &open.boot), expected);
}

/// A conflict replaces the tail: what lay above the new last entry is gone, before and after a reopen.
pub fn an_overwrite_removes_every_later_entry_in_the_same_batch(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.log.write(&[batch(entries(1, 20, 1), 2)], true).unwrap();
    open.log.write(&[batch(entries(4, 6, 2), 2)], true).unwrap();
    let expected: Vec<_> = entries(1, 3, 1).into_iter().chain(entries(4, 6, 2)).collect();
    assert_eq!(open.log_reader.entries(LogIndex(1), LogIndex(30), u64::MAX).unwrap(), expected);
    assert_not_found(&open, 7);
    assert_not_found(&open, 20);
    drop(open);

    let open = store.open().unwrap();
    assert_eq!((open.boot.last, open.boot.hard_state), (LogIndex(6), hard(2, 2)));
    assert_eq!(whole_log(&open, &open.boot), expected);
}

/// Index 3 is written, truncated away and written again, all in one group: the last write is what is there.
pub fn a_truncated_index_written_again_in_one_group_holds_the_last_write(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    let group = [
        batch(entries(1, 4, 1), 0),
        batch(entries(2, 2, 2), 0),
        batch(entries(3, 3, 3), 0),
        batch(entries(4, 4, 3), 1),
    ];
    open.log.write(&group, true).unwrap();
    let expected = vec![entry(1, 1), entry(2, 2), entry(3, 3), entry(4, 3)];
    assert_eq!(open.log_reader.entries(LogIndex(1), LogIndex(9), u64::MAX).unwrap(), expected);
    drop(open);
    let open = store.open().unwrap();
    assert_eq!(whole_log(&open, &open.boot), expected);
    assert_eq!(open.boot.terms, vec![(LogIndex(1), Term(1)), (LogIndex(2), Term(2)), (LogIndex(3), Term(3))]);
}

/// After a power cut, the hard state that is found never names a term or a commit that its entries do not have.
pub fn a_hard_state_never_comes_back_ahead_of_its_entries(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.log.write(&[batch(entries(1, 3, 1), 3)], true).unwrap();
    open.log.write(&[batch(entries(4, 8, 2), 8)], false).unwrap();
    drop(open);
    if store.lose_unsynced() {
        let open = store.open().unwrap();
        assert_eq!((open.boot.hard_state, open.boot.last), (hard(1, 3), LogIndex(3)));
        return;
    }
    let open = store.open().unwrap();
    assert!(open.boot.hard_state.commit <= open.boot.last);
}

/// A hole, a start below the log, a commit beyond the end: each is refused, is final but for the facts, and nothing of it is written.
pub fn a_group_that_would_tear_the_log_is_refused(store: &mut dyn StoreUnderTest) {
    let bad: [LogBatch; 7] = [
        batch(entries(7, 7, 1), 0),
        batch(vec![entry(5, 1), entry(7, 1)], 0),
        batch(entries(2, 3, 1), 0),
        batch(entries(5, 6, 1), 7),
        LogBatch { hard_state: Some(hard(0, 0)), ..LogBatch::default() },
        LogBatch { entries: entries(5, 5, 9), ..LogBatch::default() },
        cut(6, 1),
    ];
    let mut open = store.open().unwrap();
    open.log.write(&[batch(entries(1, 4, 1), 2), cut(2, 1)], true).unwrap();
    for bad in bad {
        let refused = open.log.write(&[batch(entries(5, 5, 1), 0), bad.clone()], true);
        let refused = if refused.is_ok() { open.log.write(std::slice::from_ref(&bad), true) } else { refused };
        assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{bad:?} gave {refused:?}");
        assert!(matches!(open.log.write(&[], true), Err(StoreError::Poisoned(_))));
        let told = Bytes::from(format!("{bad:?}"));
        open.meta.put(&[("damaged", told.clone())]).unwrap();
        assert_eq!(open.meta.get("damaged").unwrap(), Some(told.clone()));
        drop(open);
        open = store.open().unwrap();
        assert_eq!(open.meta.get("damaged").unwrap(), Some(told));
        assert!(open.boot.last <= LogIndex(5), "{bad:?}");
        open.log.write(&[batch(entries(4, 4, 1), 2)], true).unwrap();
    }
}

/// A cut forgets everything up to its position at once and for good; what follows stays, and the log goes on.
pub fn a_cut_moves_the_start_and_hides_what_lies_below(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.log.write(&[batch(entries(1, 10, 1), 10)], true).unwrap();
    open.log.write(&[cut(6, 1)], false).unwrap();
    // A cut that is behind the start changes nothing.
    open.log.write(&[cut(4, 1)], true).unwrap();
    assert_not_found(&open, 6);
    assert_not_found(&open, 1);
    assert_eq!(open.log_reader.entries(LogIndex(7), LogIndex(11), u64::MAX).unwrap(), entries(7, 10, 1));
    drop(open);

    let mut open = store.open().unwrap();
    assert_eq!((open.boot.start, open.boot.last), (start(6, 1), LogIndex(10)));
    open.log.write(&[batch(entries(11, 12, 2), 12), cut(12, 2)], true).unwrap();
    drop(open);

    // The log is empty now, and remembers where it ended.
    let mut open = store.open().unwrap();
    assert_eq!((open.boot.start, open.boot.last), (start(12, 2), LogIndex(12)));
    assert_eq!(open.boot.terms, vec![]);
    open.log.write(&[batch(entries(13, 13, 3), 12)], true).unwrap();
    assert_eq!(open.log_reader.entries(LogIndex(13), LogIndex(14), 0).unwrap(), entries(13, 13, 3));
}

/// A cut over more entries than any store deletes at once is whole from the first moment, and over a reopen.
pub fn a_large_cut_comes_back_whole(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.log.write(&[batch(entries(1, 10_000, 1), 10_000)], true).unwrap();
    open.log.write(&[cut(9_990, 1)], true).unwrap();
    assert_not_found(&open, 9_990);
    assert_not_found(&open, 9_000);
    for _ in 0..2 {
        drop(open);
        open = store.open().unwrap();
        assert_eq!((open.boot.start, open.boot.last), (start(9_990, 1), LogIndex(10_000)));
        assert_eq!(open.boot.terms, vec![(LogIndex(9_991), Term(1))]);
        assert_not_found(&open, 9_990);
        assert_eq!(whole_log(&open, &open.boot), entries(9_991, 10_000, 1));
        open.log.write(&[], true).unwrap();
    }
}

/// Boot says where each term begins, of the entries after the start only.
pub fn boot_names_the_runs_of_equal_terms(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    let log = [entries(1, 4, 1), entries(5, 5, 2), entries(6, 9, 5)].concat();
    open.log.write(&[batch(log, 7)], true).unwrap();
    drop(open);
    let mut open = store.open().unwrap();
    assert_eq!(open.boot.terms, vec![(LogIndex(1), Term(1)), (LogIndex(5), Term(2)), (LogIndex(6), Term(5))]);
    open.log.write(&[cut(7, 5)], true).unwrap();
    drop(open);
    let open = store.open().unwrap();
    assert_eq!(open.boot.terms, vec![(LogIndex(8), Term(5))]);
    assert_eq!(open.boot.start, start(7, 5));
}

/// The byte limit counts payload, and one entry is always given, however large.
pub fn a_range_is_limited_by_bytes_but_gives_at_least_one(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    let mut large = entries(1, 6, 1);
    for entry in &mut large {
        entry.data = Bytes::from(vec![7; 1_000]);
        entry.context = Bytes::new();
    }
    open.log.write(&[batch(large.clone(), 0)], true).unwrap();
    let get = |to, bytes| open.log_reader.entries(LogIndex(2), LogIndex(to), bytes).unwrap();
    assert_eq!(get(7, 0), large[1..2]);
    assert_eq!(get(7, 999), large[1..2]);
    assert_eq!(get(7, 2_000), large[1..3]);
    assert_eq!(get(7, 2_999), large[1..3]);
    assert_eq!(get(7, u64::MAX), large[1..]);
    assert_eq!(get(4, u64::MAX), large[1..3]);
    assert_eq!(get(2, u64::MAX), vec![]);
}

/// `NotFound` says which entry, and does not make the store final.
pub fn entries_that_are_not_there_are_not_found(store: &mut dyn StoreUnderTest) {
    let mut open = store.open().unwrap();
    open.log.write(&[batch(entries(1, 5, 1), 5), cut(3, 1)], true).unwrap();
    for index in [0, 1, 3, 6, 99] {
        assert_not_found(&open, index);
    }
    assert_eq!(open.log_reader.entries(LogIndex(4), LogIndex(99), u64::MAX).unwrap(), entries(4, 5, 1));
    open.log.write(&[batch(entries(6, 6, 1), 5)], true).unwrap();
}
