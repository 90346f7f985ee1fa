//! What one revision did to user keys, shared by everybody whom it concerns.
//!
//! Owns which of its changes a filter lets through, and how they become messages: values are passed on, never copied, so
//! that ten thousand watches of a large value hold it once. Never queues. Called by the machine, the hub and the readers
//! of history.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::limits::{WATCH_PART_BYTES, WATCH_PREVIOUS_BYTES_MAX};
use crate::state::check_range;
use crate::state::contract::Refusal;
use crate::state::layout::{Record, successor};
use crate::txn::{KeyValue, Range};
use crate::user;
use crate::watch::message::{PartKind, WatchPart, WatchStart};

/// Values from this size on are passed on as they are; smaller ones are cheaper to copy.
const SHARED: usize = 2 * 1024;

/// What a watch is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The first full key.
    pub key: Bytes,
    /// The end of the full keys, excluded.
    pub end: Bytes,
    /// Tell of writes.
    pub puts: bool,
    /// Tell of removals.
    pub deletes: bool,
    /// Tell what was there before.
    pub previous: bool,
    /// Tell values.
    pub values: bool,
}

impl Filter {
    /// The filter of a watch whose keys have their section.
    ///
    /// # Errors
    /// A limit on keys, or a watch that could never be told anything.
    pub fn new(start: &WatchStart) -> Result<Self, Refusal> {
        check_range(&Range { key: start.key.clone(), end: start.end.clone(), ..Range::default() })?;
        let malformed = |what: &str| Err(Refusal::Malformed { what: what.to_owned() });
        if start.no_puts && start.no_deletes {
            return malformed("watch that leaves out puts and deletes alike");
        }
        let end = if start.end.is_empty() { successor(&start.key) } else { start.end.clone() };
        if start.key >= end {
            return malformed("watch of a range that ends before it begins");
        }
        Ok(Self {
            key: start.key.clone(),
            end,
            puts: !start.no_puts,
            deletes: !start.no_deletes,
            previous: start.previous,
            values: !start.keys_only,
        })
    }

    /// Whether a change of this kind is asked for.
    pub(crate) const fn wants(&self, deleted: bool) -> bool {
        if deleted { self.deletes } else { self.puts }
    }

    /// Whether this key lies in the range.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.key[..] <= *key && *key < self.end[..]
    }
}

/// What a revision did to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    /// The full key.
    pub(crate) key: Bytes,
    /// As it is since; `None` is removed.
    pub(crate) new: Option<Record>,
    /// As it was.
    pub(crate) old: Option<Record>,
    /// It was something, and that is not here.
    pub(crate) old_omitted: bool,
}

impl Changed {
    pub(crate) fn bytes(&self) -> usize {
        let of = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.raw().len());
        self.key.len() + of(&self.new) + of(&self.old)
    }
}

/// What one revision did to user keys. Cheap to share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    revision: u64,
    changes: Vec<Changed>,
    bytes: usize,
}

impl Unit {
    pub(crate) fn new(revision: u64, changes: Vec<Changed>) -> Self {
        let bytes = changes.iter().map(Changed::bytes).sum();
        Self { revision, changes, bytes }
    }

    /// The revision.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What it holds, bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many keys it changed.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it changed nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What it did, for an observer: of each full key what is there now and what was there before.
    #[cfg(feature = "testing")]
    pub fn told(&self) -> impl Iterator<Item = (Bytes, Option<KeyValue>, Option<KeyValue>)> + '_ {
        self.changes().iter().map(|changed| {
            let of = |record: Option<&Record>| record.map(|record| record.to_key_value(changed.key.clone()));
            (changed.key.clone(), of(changed.new.as_ref()), of(changed.old.as_ref()))
        })
    }

    /// The full keys that it changed, and whether each is gone since, for an observer.
    #[cfg(feature = "testing")]
    pub fn touched(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.changes.iter().map(|changed| (&changed.key[..], changed.new.is_none()))
    }

    pub(crate) fn changes(&self) -> &[Changed] {
        &self.changes
    }
}

/// Which changes of a unit a watch is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pick {
    All,
    /// By their places, ascending.
    Some(Box<[u32]>),
}

impl Pick {
    /// These places of `unit`, ascending.
    pub(crate) fn of(unit: &Unit, places: Vec<u32>) -> Self {
        if places.len() == unit.len() { Self::All } else { Self::Some(places.into()) }
    }

    pub(crate) fn len(&self, unit: &Unit) -> usize {
        match self {
            Self::All => unit.len(),
            Self::Some(places) => places.len(),
        }
    }
}

/// What a watch is told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// What a revision did, as far as the watch asked for it.
    Changes(Arc<Unit>, ToldOf),
    /// Everything up to and including this revision was told.
    Bookmark(u64),
    /// The watch stands, from this revision on.
    Opened(u64),
}

/// Which changes of a unit are told; opaque outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldOf(pub(crate) Pick);

/// One message, in pieces that share the values' bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The pieces in order; together they are the message.
    pub pieces: Vec<Bytes>,
    /// Of all pieces, bytes.
    pub bytes: usize,
}

impl Encoded {
    /// The message in one piece.
    pub fn join(self) -> Bytes {
        let mut pieces = self.pieces.into_iter();
        match (pieces.next(), pieces.len()) {
            (None, _) => Bytes::new(),
            (Some(only), 0) => only,
            (Some(first), _) => {
                let mut whole = BytesMut::with_capacity(self.bytes);
                whole.put_slice(&first);
                pieces.for_each(|piece| whole.put_slice(&piece));
                whole.freeze()
            }
        }
    }
}

impl Told {
    /// The revision it is of.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Changes(unit, _) => unit.revision,
            Self::Bookmark(revision) | Self::Opened(revision) => *revision,
        }
    }

    /// The messages that say it, each a [`WatchPart`]; user keys lose their section here.
    pub fn messages(&self, filter: &Filter) -> Vec<Encoded> {
        let plain = |revision: u64, kind: PartKind| {
            let part = WatchPart { revision, kind: kind.into(), last: true, changes: Vec::new() };
            let bytes = Bytes::from(part.encode_to_vec());
            vec![Encoded { bytes: bytes.len(), pieces: vec![bytes] }]
        };
        match self {
            Self::Changes(unit, ToldOf(pick)) => parts(unit, pick, filter),
            Self::Bookmark(revision) => plain(*revision, PartKind::Bookmark),
            Self::Opened(revision) => plain(*revision, PartKind::Opened),
        }
    }
}

fn parts(unit: &Unit, pick: &Pick, filter: &Filter) -> Vec<Encoded> {
    let mut told: Vec<&Changed> = match pick {
        Pick::All => unit.changes.iter().collect(),
        Pick::Some(places) => {
            places.iter().filter_map(|place| unit.changes.get(usize::try_from(*place).ok()?)).collect()
        }
    };
    // Only a filter that is not a range of keys can make this smaller.
    told.retain(|changed| filter.wants(changed.new.is_none()));
    let mut messages = Vec::new();
    let mut pieces = Pieces::default();
    let mut before = 0usize;
    let count = told.len();
    for (place, changed) in told.into_iter().enumerate() {
        if pieces.bytes == 0 {
            pieces.number(1, unit.revision);
        }
        change(changed, unit.revision, filter, &mut before, &mut pieces);
        let last = place + 1 == count;
        if last {
            pieces.number(3, 1);
        }
        if last || pieces.bytes >= WATCH_PART_BYTES {
            messages.push(std::mem::take(&mut pieces).done());
        }
    }
    messages
}

/// Bytes of a previous record that count.
pub(crate) fn previous_bytes(old: &Record) -> usize {
    old.view().value.len()
}

/// One change as field 4 of a part.
fn change(changed: &Changed, revision: u64, filter: &Filter, before: &mut usize, pieces: &mut Pieces) {
    let entry = match &changed.new {
        Some(new) => shown(new, &changed.key, filter.values),
        None => {
            let bare = KeyValue { key: changed.key.clone(), mod_revision: revision, ..KeyValue::default() };
            Shown::new(bare)
        }
    };
    let mut omitted = filter.previous && changed.old_omitted;
    let previous = changed.old.as_ref().filter(|_| filter.previous).and_then(|old| {
        if filter.values {
            *before = before.saturating_add(previous_bytes(old));
        }
        omitted |= *before > WATCH_PREVIOUS_BYTES_MAX;
        (!omitted).then(|| shown(old, &changed.key, filter.values))
    });
    let deleted = changed.new.is_none();
    let nested = |shown: &Shown| 1 + encoded_len_varint(shown.bytes as u64) + shown.bytes;
    let length =
        nested(&entry) + previous.as_ref().map_or(0, nested) + 2 * (usize::from(deleted) + usize::from(omitted));
    pieces.length(4, length);
    if deleted {
        pieces.number(2, 1);
    }
    if omitted {
        pieces.number(4, 1);
    }
    pieces.entry(1, entry);
    if let Some(previous) = previous {
        pieces.entry(3, previous);
    }
}

/// A record as told: everything but the value encoded, the value beside it.
struct Shown {
    head: Vec<u8>,
    value: Bytes,
    bytes: usize,
}

impl Shown {
    fn new(mut entry: KeyValue) -> Self {
        user::strip(&mut entry);
        let value = std::mem::take(&mut entry.value);
        let head = entry.encode_to_vec();
        let length = value.len();
        let tail = if length == 0 { 0 } else { 1 + encoded_len_varint(length as u64) + length };
        Self { bytes: head.len() + tail, head, value }
    }
}

fn shown(record: &Record, key: &Bytes, values: bool) -> Shown {
    let entry = record.to_key_value(key.clone());
    Shown::new(if values { entry } else { KeyValue { value: Bytes::new(), ..entry } })
}

/// Protobuf fields, put together by hand so that values need not be copied.
#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
    bytes: usize,
}

impl Pieces {
    fn number(&mut self, field: u8, value: u64) {
        let before = self.open.len();
        self.open.put_u8(field << 3);
        encode_varint(value, &mut self.open);
        self.bytes += self.open.len() - before;
    }

    /// The beginning of a field of so many bytes.
    fn length(&mut self, field: u8, length: usize) {
        let before = self.open.len();
        self.open.put_u8(field << 3 | 2);
        encode_varint(length as u64, &mut self.open);
        self.bytes += self.open.len() - before;
    }

    fn entry(&mut self, field: u8, shown: Shown) {
        self.length(field, shown.bytes);
        self.open.put_slice(&shown.head);
        self.bytes += shown.head.len();
        if shown.value.is_empty() {
            return;
        }
        self.length(2, shown.value.len());
        self.bytes += shown.value.len();
        if shown.value.len() < SHARED {
            self.open.put_slice(&shown.value);
        } else {
            self.done.push(self.open.split().freeze());
            self.done.push(shown.value);
        }
    }

    fn done(mut self) -> Encoded {
        if !self.open.is_empty() {
            self.done.push(self.open.freeze());
        }
        Encoded { pieces: self.done, bytes: self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::Section;
    use crate::state::layout::RecordView;
    use crate::watch::message::WatchChange;
    use proptest::prelude::*;

    fn record(revision: u64, value: &[u8]) -> Record {
        Record::new(RecordView { created: 1, modified: revision, version: 2, lease: 3, value })
    }

    fn all() -> Filter {
        let start = WatchStart { key: Section::User.key(b"a"), end: Section::User.end(), ..WatchStart::default() };
        Filter::new(&start).unwrap()
    }

    fn decoded(told: &Told, filter: &Filter) -> Vec<WatchPart> {
        told.messages(filter)
            .into_iter()
            .map(|message| {
                let bytes = message.bytes;
                let whole = message.join();
                assert_eq!(whole.len(), bytes);
                WatchPart::decode(whole).unwrap()
            })
            .collect()
    }

    fn whole(unit: Unit) -> Told {
        Told::Changes(Arc::new(unit), ToldOf(Pick::All))
    }

    fn entry(key: &'static [u8], revision: u64, value: Vec<u8>) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(key),
            value: value.into(),
            create_revision: 1,
            mod_revision: revision,
            version: 2,
            lease: 3,
        }
    }

    proptest! {
        #[test]
        fn what_is_put_together_by_hand_is_the_message_that_it_is(
            value in prop_oneof![Just(0usize), 1usize..50, 2000usize..2100, Just(1 << 20)],
            old in prop_oneof![Just(None), (0usize..5000).prop_map(Some)],
            deleted: bool, previous: bool, values: bool,
        ) {
            let changed = Changed {
                key: Section::User.key(b"abc"),
                new: (!deleted).then(|| record(9, &vec![7; value])),
                old: old.map(|length| record(4, &vec![8; length])),
                old_omitted: false,
            };
            let filter = Filter { previous, values, ..all() };
            let parts = decoded(&whole(Unit::new(9, vec![changed])), &filter);
            let kept = |length: usize| if values { length } else { 0 };
            let expected = WatchChange {
                entry: Some(if deleted {
                    KeyValue { key: Bytes::from_static(b"abc"), mod_revision: 9, ..KeyValue::default() }
                } else {
                    entry(b"abc", 9, vec![7; kept(value)])
                }),
                deleted,
                previous: old.filter(|_| previous).map(|length| entry(b"abc", 4, vec![8; kept(length)])),
                previous_omitted: false,
            };
            let part = WatchPart { revision: 9, kind: 0, last: true, changes: vec![expected] };
            prop_assert_eq!(parts, vec![part]);
        }
    }

    #[test]
    fn a_large_value_is_shared_and_not_copied() {
        let large = record(9, &vec![7; 100_000]);
        let raw = large.raw().clone();
        let changed = Changed { key: Section::User.key(b"k"), new: Some(large), old: None, old_omitted: false };
        let messages = whole(Unit::new(9, vec![changed])).messages(&all());
        let inside = raw.as_ptr_range();
        assert!(messages[0].pieces.iter().any(|piece| piece.len() == 100_000 && inside.contains(&piece.as_ptr())));
    }

    #[test]
    fn a_large_revision_comes_in_parts_of_which_one_is_the_last() {
        let changes = (0..10u8).map(|n| Changed {
            key: Section::User.key(&[b'k', n]),
            new: Some(record(9, &vec![n; WATCH_PART_BYTES / 3])),
            old: None,
            old_omitted: false,
        });
        let parts = decoded(&whole(Unit::new(9, changes.collect())), &all());
        assert!(parts.len() > 2);
        let lasts: Vec<bool> = parts.iter().map(|part| part.last).collect();
        assert_eq!(lasts.iter().filter(|last| **last).count(), 1);
        assert!(lasts.last().unwrap());
        let keys: Vec<u8> =
            parts.iter().flat_map(|part| &part.changes).map(|c| c.entry.as_ref().unwrap().key[1]).collect();
        assert_eq!(keys, (0..10).collect::<Vec<u8>>());
    }

    #[test]
    fn what_was_there_before_is_told_up_to_a_limit_and_then_said_to_be_left_out() {
        let each = WATCH_PREVIOUS_BYTES_MAX / 4;
        let changes = (0..6u8).map(|n| Changed {
            key: Section::User.key(&[b'k', n]),
            new: None,
            old: Some(record(4, &vec![n; each])),
            old_omitted: false,
        });
        let told = whole(Unit::new(9, changes.collect()));
        let parts = decoded(&told, &Filter { previous: true, ..all() });
        let said: Vec<(bool, bool)> =
            parts.iter().flat_map(|part| &part.changes).map(|c| (c.previous.is_some(), c.previous_omitted)).collect();
        assert_eq!(said, [[(true, false); 4].as_slice(), &[(false, true); 2]].concat());
        // Without values nothing is too much.
        let parts = decoded(&told, &Filter { previous: true, values: false, ..all() });
        assert!(parts.iter().flat_map(|part| &part.changes).all(|c| c.previous.is_some() && !c.previous_omitted));
    }

    #[test]
    fn a_watch_that_could_never_be_told_anything_is_refused() {
        let key = Section::User.key(b"k");
        let start = WatchStart { key: key.clone(), no_puts: true, no_deletes: true, ..WatchStart::default() };
        assert!(matches!(Filter::new(&start), Err(Refusal::Malformed { .. })));
        let start = WatchStart { key: key.clone(), end: key, ..WatchStart::default() };
        assert!(matches!(Filter::new(&start), Err(Refusal::Malformed { .. })));
        let start = WatchStart { key: Section::User.key(b""), ..WatchStart::default() };
        assert_eq!(Filter::new(&start), Err(Refusal::EmptyKey));
    }
}
