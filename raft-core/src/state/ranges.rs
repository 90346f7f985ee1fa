//! A range, read step by step: now, or as of an older revision.
//!
//! Owns how an older revision is put together from live and superseded records, and how much is looked at in one step: a
//! range of the past looks at every event since, and a count at every key, and whoever waits for either may be gone
//! long before that is done. Never waits, and never decides whether a view is fresh enough. Called by [`super::read`] and by
//! request handlers.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ports::{StateRead, StoreResult, Visit};
use crate::state::check::check_range;
use crate::state::contract::Refusal;
use crate::state::layout::{Record, RecordView};
use crate::state::page::Page;
use crate::state::read::{ReadError, STEPS, compact_revision, ended_by, live, progress, recovery, scan_live};
use crate::state::stored::{Event, EventChange};
use crate::txn::{Range, RangeResult};

/// Bytes of superseded records that are held at once while they are merged with the live ones: each time that it takes more,
/// the events are read once more.
const MERGE_BYTES: usize = 16 * 1024 * 1024;
/// What a record is counted with besides its bytes.
const RECORD_BYTES: usize = 128;

/// A range that is being read. All steps are to be made on the view that it was begun on.
#[derive(Debug)]
pub struct Reading {
    range: Range,
    page: Page,
    /// The revision of the answer; that of the view unless it is of the past.
    revision: u64,
    at: At,
}

/// What comes next.
#[derive(Debug)]
enum At {
    /// One key: its record now, and from there back.
    Key,
    /// One key that was written too often since: the events from this revision on, until one names it.
    KeysEvents(u64),
    /// The events from revision `next` on: they say what the keys of `from..until` were.
    Events { from: Bytes, next: u64, stretch: Stretch },
    /// Live records from `from` on, with what they were.
    Merge { from: Bytes, stretch: Stretch },
}

/// What came of a step.
enum Step {
    On(At),
    Done,
}

/// What a stretch of keys was, as far as it has changed since: `None` was not there.
#[derive(Debug)]
struct Stretch {
    past: BTreeMap<Bytes, Option<Record>>,
    /// What they take in memory.
    bytes: usize,
    /// The full key up to which that is all.
    until: Bytes,
}

impl Stretch {
    fn to(end: &Bytes) -> Self {
        Self { past: BTreeMap::new(), bytes: 0, until: end.clone() }
    }

    const fn size(key: &Bytes, record: Option<&Record>) -> usize {
        RECORD_BYTES
            + key.len()
            + match record {
                Some(record) => record.raw().len(),
                None => 0,
            }
    }

    /// Takes what a key was before an event: the first that names it says what counts.
    fn take(&mut self, from: &Bytes, change: &EventChange, without_values: bool) -> StoreResult<()> {
        if change.key < *from || change.key >= self.until || self.past.contains_key(&change.key) {
            return Ok(());
        }
        // Bytes of their own: what is kept must not keep the whole event.
        let own = |old: Record| {
            let view = old.view();
            Record::new(RecordView { value: if without_values { &[] } else { view.value }, ..view })
        };
        let old = change.old()?.map(own);
        let key = Bytes::copy_from_slice(&change.key);
        self.bytes += Self::size(&key, old.as_ref());
        self.past.insert(key, old);
        while self.past.len() > 1
            && self.bytes > MERGE_BYTES
            && let Some((last, dropped)) = self.past.pop_last()
        {
            self.bytes -= Self::size(&last, dropped.as_ref());
            self.until = last;
        }
        Ok(())
    }
}

impl Reading {
    /// Begins to read a range of `view`, now (revision 0) or as of an older revision that is not compacted. Nothing but
    /// whether it can be read is looked at.
    ///
    /// # Errors
    /// As those of [`super::read::range`].
    pub fn begin(view: &dyn StateRead, range: Range) -> Result<Self, ReadError> {
        check_range(&range)?;
        let current = progress(view)?.map_or(0, |progress| progress.revision);
        let revision = if range.revision == 0 { current } else { range.revision };
        if revision > current {
            return Err(Refusal::FutureRevision { asked: revision, current }.into());
        }
        if revision < current {
            let oldest = compact_revision(view)?;
            if revision < oldest {
                let recovery = recovery(view)?;
                if revision < recovery.first_revision.0 {
                    let kept_revision = recovery.kept_revision.0;
                    return Err(Refusal::NewGeneration { asked: revision, kept_revision }.into());
                }
                return Err(Refusal::Compacted { asked: revision, oldest }.into());
            }
        }
        let stretch = Stretch::to(&range.end);
        let at = if range.end.is_empty() {
            At::Key
        } else if revision == current {
            At::Merge { from: range.key.clone(), stretch }
        } else {
            At::Events { from: range.key.clone(), next: revision + 1, stretch }
        };
        Ok(Self { page: Page::new(&range), range, revision, at })
    }

    /// Whether events have to be searched: that may be all of the history, and takes up to 16 MiB for as long as it lasts.
    pub const fn is_of_the_past(&self) -> bool {
        matches!(self.at, At::KeysEvents(_) | At::Events { .. })
    }

    /// Looks at about `budget` bytes of the view it was begun on, at least at one record; the answer once that was the last.
    ///
    /// # Errors
    /// Those of the store.
    pub fn step(&mut self, view: &dyn StateRead, budget: usize) -> StoreResult<Option<RangeResult>> {
        let at = std::mem::replace(&mut self.at, At::Key);
        let step = match at {
            At::Key => self.back(view),
            At::KeysEvents(next) => self.search(view, next, budget),
            At::Events { from, next, stretch } => self.collect(view, (from, next, stretch), budget),
            At::Merge { from, stretch } => self.merge(view, (from, stretch), budget),
        }?;
        match step {
            Step::On(at) => self.at = at,
            Step::Done => {
                let page = std::mem::replace(&mut self.page, Page::new(&self.range));
                return Ok(Some(page.result(self.revision)));
            }
        }
        Ok(None)
    }

    fn found(&mut self, record: Option<&Record>) -> Step {
        if let Some(record) = record {
            let _ = self.page.offer(&self.range.key, record.view());
        }
        Step::Done
    }

    /// One key, from version to version, as long as one ended the other.
    fn back(&mut self, view: &dyn StateRead) -> StoreResult<Step> {
        let key = self.range.key.clone();
        let mut record = live(view, &key)?;
        for _ in 0..STEPS {
            match record {
                Some(found) if found.view().modified <= self.revision => return Ok(self.found(Some(&found))),
                Some(newer) => record = ended_by(view, &key, newer.view().modified)?,
                None => break,
            }
        }
        Ok(Step::On(At::KeysEvents(self.revision + 1)))
    }

    fn search(&mut self, view: &dyn StateRead, next: u64, budget: usize) -> StoreResult<Step> {
        let (mut was, mut spent, mut stopped) = (None, 0, None);
        let key = &self.range.key;
        Event::scan(view, (next, u64::MAX), &mut |revision, event| {
            if spent >= budget && revision != next {
                stopped = Some(revision);
                return Ok(Visit::Enough);
            }
            spent += size(&event);
            match event.changes.iter().find(|change| change.key == *key) {
                Some(change) => {
                    was = change.old()?;
                    Ok(Visit::Enough)
                }
                None => Ok(Visit::More),
            }
        })?;
        Ok(match stopped {
            Some(next) => Step::On(At::KeysEvents(next)),
            None => self.found(was.as_ref()),
        })
    }

    /// What the keys of a stretch were, if anything has changed them since. A revision is looked at whole.
    fn collect(
        &self,
        view: &dyn StateRead,
        (from, next, mut stretch): (Bytes, u64, Stretch),
        budget: usize,
    ) -> StoreResult<Step> {
        let (mut spent, mut last, mut stopped) = (0, next, None);
        Event::scan(view, (next, u64::MAX), &mut |revision, event| {
            if spent >= budget && revision != last {
                stopped = Some(revision);
                return Ok(Visit::Enough);
            }
            last = revision;
            spent += size(&event);
            for change in &event.changes {
                stretch.take(&from, change, self.page.without_values())?;
            }
            Ok(Visit::More)
        })?;
        Ok(Step::On(match stopped {
            Some(next) => At::Events { from, next, stretch },
            None => At::Merge { from, stretch },
        }))
    }

    /// Live and superseded records in the order of their keys, until the page is full.
    fn merge(
        &mut self,
        view: &dyn StateRead,
        (from, mut stretch): (Bytes, Stretch),
        budget: usize,
    ) -> StoreResult<Step> {
        let (mut spent, mut full, mut stopped) = (0, false, None);
        let (page, past) = (&mut self.page, &mut stretch.past);
        scan_live(view, &from, &stretch.until, &mut |key, record| {
            if spent > 0 && spent >= budget {
                stopped = Some(Bytes::copy_from_slice(key));
                return Ok(Visit::Enough);
            }
            spent += RECORD_BYTES + key.len() + record.value.len();
            while let Some(first) = past.first_entry()
                && first.key()[..] < *key
            {
                let (older, record) = first.remove_entry();
                if let Some(record) = record
                    && page.offer(&older, record.view()) == Visit::Enough
                {
                    full = true;
                    return Ok(Visit::Enough);
                }
            }
            let wish = match past.remove(key) {
                // It was written since: what counts is what that ended.
                Some(Some(older)) => page.offer(key, older.view()),
                Some(None) => Visit::More,
                None => page.offer(key, record),
            };
            full = wish == Visit::Enough;
            Ok(wish)
        })?;
        if full {
            return Ok(Step::Done);
        }
        if let Some(from) = stopped {
            return Ok(Step::On(At::Merge { from, stretch }));
        }
        while let Some((key, record)) = stretch.past.pop_first() {
            if let Some(record) = record
                && self.page.offer(&key, record.view()) == Visit::Enough
            {
                return Ok(Step::Done);
            }
        }
        let from = stretch.until;
        if from >= self.range.end {
            return Ok(Step::Done);
        }
        // What did not fit into memory comes next, and takes another look at the events.
        Ok(Step::On(At::Events { from, next: self.revision + 1, stretch: Stretch::to(&self.range.end) }))
    }
}

/// What looking at an event costs.
fn size(event: &Event) -> usize {
    event.changes.iter().map(|change| RECORD_BYTES + change.key.len() + change.old.len()).sum()
}
