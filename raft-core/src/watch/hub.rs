//! Who watches what on one manager, and what waits for whom.
//!
//! Owns the queues and their bounds, and the moment when a watch becomes live, falls behind or is cut. What one revision did is
//! held once, whoever waits for it. Never sends, reads or waits: it says who is to be woken. Called by the applier after
//! each round, and by the task of each watch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::limits;
use crate::mutants::{Mutant, on};
use crate::watch::index::RangeIndex;
use crate::watch::unit::{Filter, Pick, Told, ToldOf, Unit};

/// A watch, by its number on this manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(u64);

/// The bounds, each a limit of [`crate::limits`] unless a test says otherwise.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "named as the limits are")]
pub struct HubLimits {
    pub watches: usize,
    pub queue_changes: usize,
    pub queue_bytes: usize,
    pub all_bytes: usize,
    pub unit_bytes: usize,
    /// Bytes handed to a task at once; it holds them until it asks again.
    pub take_bytes: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            watches: limits::WATCHES_MAX,
            queue_changes: limits::WATCH_QUEUE_CHANGES_MAX,
            queue_bytes: limits::WATCH_QUEUE_BYTES_MAX,
            all_bytes: limits::WATCHES_BYTES_MAX,
            unit_bytes: limits::WATCH_UNIT_BYTES_MAX,
            take_bytes: limits::WATCH_PART_BYTES,
        }
    }
}

/// No more watches are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many there may be.
    pub max: usize,
}

/// What a round of applying did to user keys.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    /// The revision after it.
    pub revision: u64,
    /// What each of its revisions did; `None` when that was not gathered, or a recovery let the revision jump: whoever is
    /// concerned reads it from the store.
    pub units: Option<&'a [Arc<Unit>]>,
}

/// Why a watch ends by the manager's will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// More waited for it than may: go on from this revision.
    Cut {
        /// Everything that it asked for below was handed out.
        resume: u64,
    },
    /// The manager stops.
    Stopping,
    /// The manager has not heard from a quorum for long: others know more.
    Behind,
}

/// What the task of a watch is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Tell this, in this order.
    Tell(Vec<Told>),
    /// Read what the revisions `from..=upto` did from a view of the store made from now on, and say how far it came with
    /// [`Hub::read`].
    Read {
        /// The first revision.
        from: u64,
        /// The last one.
        upto: u64,
    },
    /// Wait to be woken.
    Wait,
    /// It is over; nothing else is told.
    Ended(End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Everything applied is in the queue, or was.
    Live,
    /// What is at or above `next` is to be read; nothing is gathered.
    Behind { next: u64 },
    /// `next..=upto` is being read, what comes after is gathered, unless that was too much.
    Reading { next: u64, upto: u64, lost: bool },
}

struct Watch {
    filter: Arc<Filter>,
    /// The first revision told.
    start: u64,
    phase: Phase,
    queue: VecDeque<Told>,
    changes: usize,
    bytes: usize,
    /// Handed out, and held until the task asks again.
    flight: Vec<Arc<Unit>>,
    flight_bytes: usize,
    /// Up to here the queue has spoken.
    told: u64,
    /// Up to here it was handed out.
    taken: u64,
    /// Its task sleeps.
    waits: bool,
    end: Option<End>,
}

struct Held {
    bytes: usize,
    holders: usize,
}

/// All watches of one manager.
pub struct Hub {
    limits: HubLimits,
    applied: u64,
    watches: BTreeMap<WatchId, Watch>,
    next: u64,
    index: RangeIndex,
    /// What waits for somebody or is on its way, by revision.
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    woken: Vec<WatchId>,
    cuts: u64,
}

impl Hub {
    /// For a state that stands at `revision`.
    pub fn new(revision: u64, limits: HubLimits) -> Self {
        Self {
            limits,
            applied: revision,
            watches: BTreeMap::new(),
            next: 0,
            index: RangeIndex::default(),
            held: BTreeMap::new(),
            held_bytes: 0,
            woken: Vec::new(),
            cuts: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.watches.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// Bytes that wait for somebody or are on their way.
    pub const fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// How many were cut, since there is this hub.
    pub const fn cuts(&self) -> u64 {
        self.cuts
    }

    /// The tasks to wake since this was last asked.
    pub fn woken(&mut self) -> Vec<WatchId> {
        std::mem::take(&mut self.woken)
    }

    /// A new watch: of what is at or above `from`, or, without one, of what comes after everything applied here. For that to
    /// be after everything acknowledged the caller has asked a quorum.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn open(&mut self, filter: Filter, from: Option<u64>) -> Result<WatchId, Full> {
        if self.watches.len() >= self.limits.watches {
            return Err(Full { max: self.limits.watches });
        }
        self.next += 1;
        let id = WatchId(self.next);
        let start = from.filter(|from| *from > 0).unwrap_or(self.applied + 1);
        let phase = if start > self.applied { Phase::Live } else { Phase::Behind { next: start } };
        self.index.insert(&filter.key, &filter.end, id.0);
        let told = start - 1;
        self.watches.insert(
            id,
            Watch {
                filter: Arc::new(filter),
                start,
                phase,
                queue: VecDeque::from([Told::Opened(start)]),
                changes: 0,
                bytes: 0,
                flight: Vec::new(),
                flight_bytes: 0,
                told,
                taken: told,
                waits: false,
                end: None,
            },
        );
        Ok(id)
    }

    /// It is over: nothing is kept of it.
    pub fn close(&mut self, id: WatchId) {
        let Some(mut watch) = self.watches.remove(&id) else { return };
        self.index.remove(&watch.filter.key, &watch.filter.end, id.0);
        self.clear(&mut watch);
        self.land(&mut watch);
    }

    /// What a watch is for.
    pub fn filter(&self, id: WatchId) -> Option<Arc<Filter>> {
        self.watches.get(&id).map(|watch| Arc::clone(&watch.filter))
    }

    /// A round was applied: the state stands there now.
    pub fn applied(&mut self, round: Round<'_>) {
        match round.units {
            Some(units) => units.iter().for_each(|unit| self.tell(unit)),
            None => self.fall_behind(),
        }
        self.applied = round.revision;
    }

    /// A snapshot was installed: the state stands there now, and nobody has told what happened on the way.
    pub fn installed(&mut self, revision: u64) {
        self.fall_behind();
        self.applied = revision;
    }

    /// To every live watch that has not heard of the present: up to here everything was told.
    pub fn bookmark(&mut self) {
        let applied = self.applied;
        for (id, watch) in &mut self.watches {
            let due = watch.phase == Phase::Live && watch.end.is_none() && applied >= watch.start;
            if !due || applied <= watch.told {
                continue;
            }
            watch.told = applied;
            match watch.queue.back_mut() {
                Some(Told::Bookmark(revision)) => *revision = applied,
                _ => watch.queue.push_back(Told::Bookmark(applied)),
            }
            if std::mem::take(&mut watch.waits) {
                self.woken.push(*id);
            }
        }
    }

    /// Every watch ends.
    pub fn end_all(&mut self, end: End) {
        let ids: Vec<WatchId> = self.watches.keys().copied().collect();
        for id in ids {
            self.with(id, |hub, watch| hub.end(id, watch, end));
        }
    }

    /// What the task of a watch is to do next. What was handed out before it has sent.
    pub fn take(&mut self, id: WatchId) -> Taken {
        let mut taken = Taken::Ended(End::Stopping);
        self.with(id, |hub, watch| taken = hub.take_of(watch));
        taken
    }

    /// It takes what it is told more slowly than its manager can bear: it goes on from the store, here or elsewhere.
    pub fn cut_off(&mut self, id: WatchId) {
        self.with(id, |hub, watch| hub.cut(id, watch));
    }

    /// Whether the watch has an end that its task was not told yet: it may be in the middle of sending.
    pub fn has_ended(&self, id: WatchId) -> bool {
        self.watches.get(&id).is_none_or(|watch| watch.end.is_some())
    }

    /// The task has read, and told, everything below `next`.
    pub fn read(&mut self, id: WatchId, next: u64) {
        self.with(id, |_, watch| {
            let Phase::Reading { upto, lost, .. } = watch.phase else { return };
            watch.taken = watch.taken.max(next - 1);
            watch.phase = match (next > upto, lost) {
                (false, _) => Phase::Reading { next, upto, lost },
                (true, true) => Phase::Behind { next },
                (true, false) => Phase::Live,
            };
            if next > upto {
                watch.told = watch.told.max(upto);
                watch.queue.push_front(Told::Bookmark(upto));
            }
        });
    }

    /// Does something to one watch, which is out of the table meanwhile.
    fn with(&mut self, id: WatchId, act: impl FnOnce(&mut Self, &mut Watch)) {
        let Some(mut watch) = self.watches.remove(&id) else { return };
        act(self, &mut watch);
        self.watches.insert(id, watch);
    }

    fn take_of(&mut self, watch: &mut Watch) -> Taken {
        self.land(watch);
        if let Some(end) = watch.end {
            return Taken::Ended(end);
        }
        if let Phase::Reading { next, upto, .. } = watch.phase {
            return Taken::Read { from: next, upto };
        }
        if !watch.queue.is_empty() {
            return Taken::Tell(self.batch(watch));
        }
        if let Phase::Behind { next } = watch.phase {
            if next <= self.applied {
                watch.phase = Phase::Reading { next, upto: self.applied, lost: false };
                return Taken::Read { from: next, upto: self.applied };
            }
            watch.phase = Phase::Live;
        }
        watch.waits = true;
        Taken::Wait
    }

    fn batch(&self, watch: &mut Watch) -> Vec<Told> {
        let mut batch = Vec::new();
        while let Some(told) = watch.queue.pop_front() {
            watch.taken = watch.taken.max(match told {
                // It says from where on, and not up to where.
                Told::Opened(start) => start - 1,
                Told::Changes(..) | Told::Bookmark(_) => told.revision(),
            });
            if let Told::Changes(unit, ToldOf(pick)) = &told {
                watch.changes = watch.changes.saturating_sub(pick.len(unit));
                watch.bytes = watch.bytes.saturating_sub(unit.bytes());
                watch.flight_bytes += unit.bytes();
                watch.flight.push(Arc::clone(unit));
            }
            batch.push(told);
            if watch.flight_bytes >= self.limits.take_bytes {
                break;
            }
        }
        batch
    }

    /// What was handed out is sent.
    fn land(&mut self, watch: &mut Watch) {
        watch.flight_bytes = 0;
        for unit in watch.flight.drain(..) {
            self.let_go(&unit);
        }
    }

    /// What waits is forgotten.
    fn clear(&mut self, watch: &mut Watch) {
        watch.changes = 0;
        watch.bytes = 0;
        for told in watch.queue.drain(..) {
            if let Told::Changes(unit, _) = told {
                self.let_go(&unit);
            }
        }
    }

    fn let_go(&mut self, unit: &Unit) {
        let Some(held) = self.held.get_mut(&unit.revision()) else { return };
        held.holders -= 1;
        if held.holders == 0 {
            self.held_bytes -= held.bytes;
            self.held.remove(&unit.revision());
        }
    }

    fn hold(&mut self, unit: &Unit) {
        let bytes = unit.bytes();
        let held_bytes = &mut self.held_bytes;
        let held = self.held.entry(unit.revision()).or_insert_with(|| {
            *held_bytes += bytes;
            Held { bytes, holders: 0 }
        });
        held.holders += 1;
    }

    fn end(&mut self, id: WatchId, watch: &mut Watch, end: End) {
        if watch.end.is_some() {
            return;
        }
        self.clear(watch);
        watch.end = Some(end);
        // Also when it does not sleep: it may be sending to somebody who does not read.
        watch.waits = false;
        self.woken.push(id);
    }

    fn cut(&mut self, id: WatchId, watch: &mut Watch) {
        if watch.end.is_none() {
            self.cuts += 1;
        }
        let resume = watch.taken + 1;
        self.end(id, watch, End::Cut { resume });
    }

    /// What one revision did goes into the queue of everybody whom it concerns.
    fn tell(&mut self, unit: &Arc<Unit>) {
        let mut concerned: BTreeMap<WatchId, Vec<u32>> = BTreeMap::new();
        for (place, changed) in (0u32..).zip(unit.changes()) {
            let _looked_at =
                self.index.find(&changed.key, &mut |watch| concerned.entry(WatchId(watch)).or_default().push(place));
        }
        for (id, places) in concerned {
            self.with(id, |hub, watch| hub.queue(id, watch, unit, places));
        }
        self.bound_all();
    }

    /// While more is held than may be, whoever holds most is cut. What is on its way is let go when its task has noticed.
    fn bound_all(&mut self) {
        let mut over = self.held_bytes.saturating_sub(self.limits.all_bytes);
        while over > 0 {
            let weight = |watch: &Watch| watch.bytes + watch.flight_bytes;
            let holding = self.watches.iter().filter(|(_, watch)| watch.end.is_none() && weight(watch) > 0);
            let Some((id, flight)) =
                holding.max_by_key(|(_, watch)| weight(watch)).map(|(id, watch)| (*id, watch.flight_bytes))
            else {
                return;
            };
            let before = self.held_bytes;
            self.with(id, |hub, watch| hub.cut(id, watch));
            over = over.saturating_sub(before - self.held_bytes + flight.max(1));
        }
    }

    fn queue(&mut self, id: WatchId, watch: &mut Watch, unit: &Arc<Unit>, mut places: Vec<u32>) {
        if watch.end.is_some() || unit.revision() < watch.start {
            return;
        }
        places.retain(|place| {
            let changed = usize::try_from(*place).ok().and_then(|place| unit.changes().get(place));
            changed.is_some_and(|changed| watch.filter.wants(changed.new.is_none()))
        });
        if places.is_empty() {
            return;
        }
        let changes = watch.changes + places.len();
        let bytes = watch.bytes + unit.bytes();
        // One revision always fits, or a watch of a large one could never go on.
        let full = watch.bytes > 0 && (changes > self.limits.queue_changes || bytes > self.limits.queue_bytes);
        match watch.phase {
            Phase::Behind { .. } | Phase::Reading { lost: true, .. } => return,
            Phase::Reading { next, upto, .. } if full || unit.bytes() > self.limits.unit_bytes => {
                watch.phase = Phase::Reading { next, upto, lost: true };
                self.clear(watch);
                return;
            }
            Phase::Live if full && on(Mutant::WatchDrops) => return,
            Phase::Live if full => return self.cut(id, watch),
            Phase::Live if unit.bytes() > self.limits.unit_bytes => {
                watch.phase = Phase::Behind { next: unit.revision() };
            }
            Phase::Live | Phase::Reading { .. } => {
                (watch.changes, watch.bytes, watch.told) = (changes, bytes, unit.revision());
                self.hold(unit);
                watch.queue.push_back(Told::Changes(Arc::clone(unit), ToldOf(Pick::of(unit, places))));
            }
        }
        if std::mem::take(&mut watch.waits) {
            self.woken.push(id);
        }
    }

    /// Nobody was told what happened since the last round.
    fn fall_behind(&mut self) {
        let next = self.applied + 1;
        let ids: Vec<WatchId> = self.watches.keys().copied().collect();
        for id in ids {
            self.with(id, |hub, watch| {
                watch.phase = match watch.phase {
                    Phase::Live => Phase::Behind { next: next.max(watch.start) },
                    Phase::Behind { next } => Phase::Behind { next },
                    Phase::Reading { next, upto, .. } => {
                        hub.clear(watch);
                        Phase::Reading { next, upto, lost: true }
                    }
                };
                if std::mem::take(&mut watch.waits) {
                    hub.woken.push(id);
                }
            });
        }
    }
}
