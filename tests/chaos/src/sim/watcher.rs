//! One watcher, and what an observer who knows every revision holds against what it is told.
//!
//! Owns the facts, noted where members apply them, apart from all code of watches. Called by `watchers`, which moves watchers about.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::check::{Checks, broken};
use super::config::MILLIS;
use super::watchers::KEYS;
use super::world::Step;
use quorate_core::id::RaftId;
use quorate_core::keyspace::{Section, prefix_end};
use quorate_core::testing::Rng;
use quorate_core::txn::KeyValue;
use quorate_core::user;
use quorate_core::watch::{Filter, Followed, Follower, Unit, WatchChange, WatchId, WatchPart, WatchStart};

/// What every revision did to user keys, from whoever applied it first.
pub(super) type Facts = BTreeMap<u64, Arc<Unit>>;

/// Whether a filter lets a change of this key through.
fn asks_for(filter: &Filter, key: &[u8], deleted: bool) -> bool {
    filter.covers(key) && if deleted { filter.deletes } else { filter.puts }
}

/// Whether it lets anything through of a revision.
fn concerns(filter: &Filter, unit: &Unit) -> bool {
    unit.touched().any(|(key, deleted)| asks_for(filter, key, deleted))
}

impl Checks {
    /// What a revision did is the same wherever it is applied.
    pub(super) fn happened(&mut self, id: RaftId, unit: &Arc<Unit>) -> Step {
        let known = self.facts.entry(unit.revision()).or_insert_with(|| Arc::clone(unit));
        if *known == *unit {
            return Ok(());
        }
        broken("equal_events", format!("{id} did something else at revision {}", unit.revision()))
    }

    /// A survivor knows of revisions up to this one; what came after is decided anew.
    pub(super) fn forget_above(&mut self, revision: u64) {
        self.facts.retain(|known, _| *known <= revision);
        self.newest_revision = revision;
    }

    /// What a filter lets through of a revision; nothing when that is nothing.
    pub(super) fn expected(&self, filter: &Filter, revision: u64) -> Vec<WatchChange> {
        let Some(unit) = self.facts.get(&revision).filter(|unit| concerns(filter, unit)) else { return Vec::new() };
        let told = |mut entry: KeyValue| {
            user::strip(&mut entry);
            if !filter.values {
                entry.value = Bytes::new();
            }
            entry
        };
        let change = |(key, new, old): (Bytes, Option<KeyValue>, Option<KeyValue>)| {
            let deleted = new.is_none();
            let bare = || KeyValue { key, mod_revision: revision, ..KeyValue::default() };
            WatchChange {
                entry: Some(told(new.unwrap_or_else(bare))),
                deleted,
                previous: old.filter(|_| filter.previous).map(told),
                previous_omitted: false,
            }
        };
        unit.told().filter(|(key, new, _)| asks_for(filter, key, new.is_none())).map(change).collect()
    }

    /// The first revision in `from..to` that a filter lets something through of.
    pub(super) fn missed(&self, filter: &Filter, from: u64, to: u64) -> Option<u64> {
        if from >= to {
            return None;
        }
        self.facts.range(from..to).find(|(_, unit)| concerns(filter, unit)).map(|(revision, _)| *revision)
    }

    pub(super) fn newest(&self) -> u64 {
        self.newest_revision
    }
}

/// One watcher, both ends.
pub(super) struct Watcher {
    pub(super) start: WatchStart,
    pub(super) filter: Filter,
    pub(super) follower: Follower,
    /// Checked: everything below that concerns it was told.
    pub(super) due: u64,
    pub(super) at: Option<Standing>,
    pub(super) incarnation: usize,
    /// Its own picture, when it began with a list of all that there was.
    pub(super) mirror: Option<BTreeMap<Bytes, Bytes>>,
    /// Mean time between two looks.
    pub(super) pace: u64,
}

pub(super) struct Standing {
    pub(super) member: RaftId,
    pub(super) boot: u64,
    pub(super) id: WatchId,
    pub(super) sleeps: bool,
    /// Read, and told, up to here; the hub hears of it at the next look.
    pub(super) read: Option<u64>,
}

impl Watcher {
    pub(super) fn new() -> Self {
        let start = WatchStart { key: Section::User.key(b"x"), ..WatchStart::default() };
        let filter = Filter {
            key: start.key.clone(),
            end: Section::User.end(),
            puts: true,
            deletes: true,
            previous: false,
            values: true,
        };
        let follower = Follower::new(0);
        Self { start, filter, follower, due: 0, at: None, incarnation: 0, mirror: None, pace: 5 * MILLIS }
    }

    pub(super) fn draw(&mut self, rng: &mut Rng) {
        let name = format!("k{}", rng.between(0, KEYS - 1));
        let (key, end) = match rng.between(0, 4) {
            0 => (Section::User.key(name.as_bytes()), Bytes::new()),
            1 => (Section::User.key(b"k"), Section::User.key(&prefix_end(b"k"))),
            2 => (Section::User.key(b"c1"), Section::User.key(&prefix_end(b"c1"))),
            3 => (Section::User.key(b"k2"), Section::User.key(b"k7")),
            _ => (Section::User.key(b"\0"), Section::User.end()),
        };
        let kind = rng.between(0, 5);
        self.start = WatchStart {
            key,
            end,
            from: 0,
            no_puts: kind == 1,
            no_deletes: kind == 2,
            previous: rng.chance(400),
            keys_only: rng.chance(200),
        };
        self.pace = if rng.chance(250) { rng.between(100, 1500) } else { rng.between(1, 15) } * MILLIS;
    }

    /// Takes a piece; says whether it must begin anew at another manager.
    pub(super) fn hear(&mut self, part: WatchPart, checks: &Checks) -> Step {
        let followed = match self.follower.take(part) {
            Ok(followed) => followed,
            Err(error) => return broken("watch_ordered_unique", error.to_string()),
        };
        let due = self.due;
        match followed {
            Followed::Nothing | Followed::Opened => Ok(()),
            Followed::Changes(revision, changes) => {
                if revision < due {
                    return broken("watch_ordered_unique", format!("revision {revision} was told, {due} was due"));
                }
                if let Some(missed) = checks.missed(&self.filter, due, revision) {
                    return broken("watch_reliable", format!("revision {missed} was skipped, {revision} was told"));
                }
                let expected = checks.expected(&self.filter, revision);
                if expected != changes {
                    let detail = format!("revision {revision} was told as {changes:?}, it was {expected:?}");
                    return broken("watch_atomic", detail);
                }
                self.due = revision + 1;
                if let Some(mirror) = &mut self.mirror {
                    for change in changes {
                        let Some(entry) = change.entry else { continue };
                        if change.deleted {
                            mirror.remove(&entry.key);
                        } else {
                            mirror.insert(entry.key, entry.value);
                        }
                    }
                }
                Ok(())
            }
            Followed::Bookmark(revision) => {
                if revision > checks.newest() {
                    let detail = format!("bookmark {revision}, the newest revision is {}", checks.newest());
                    return broken("watch_bookmarks_hold", detail);
                }
                if let Some(missed) = checks.missed(&self.filter, due, revision + 1) {
                    return broken("watch_bookmarks_hold", format!("bookmark {revision}, but {missed} was not told"));
                }
                self.due = self.due.max(revision + 1);
                Ok(())
            }
        }
    }
}
