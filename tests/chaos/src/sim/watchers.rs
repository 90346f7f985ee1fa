//! Watchers: they follow random keys from random revisions at random members, over whatever happens to these.
//!
//! Owns both ends of each watch, which run the very code of a node and of its clients ([`quorate_core::watch`]), and who moves where.
//! What is held against what a watcher is told is in `watcher`. Called by the world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::check::broken;
use super::config::MILLIS;
use super::event::Event;
use super::watcher::{Standing, Watcher};
use super::world::{Step, World};
use quorate_core::command::{Command, CommandKind, Compact};
use quorate_core::id::RaftId;
use quorate_core::keyspace::{Section, prefix_end};
use quorate_core::state::contract::{Applied, Refusal};
use quorate_core::state::read::{self, ReadError};
use quorate_core::txn::{Delete, Op, Put, Range, Txn};
use quorate_core::user;
use quorate_core::watch::{self, End, Filter, Follower, Hub, HubLimits, Round, Taken, Told, Unit, WatchId, WatchPart};

/// Names of keys that scribblers write: few, so that they are written, removed and made again.
pub(super) const KEYS: u64 = 12;

/// A bug that is planted to see that it is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchBug {
    /// A watcher that comes again asks for its last revision once more, and believes what it is told.
    ResumesOneEarly,
    /// A watcher that was cut goes on one revision too late.
    SkipsOnCut,
    /// A member forgets to tell its watches that a snapshot was installed.
    InstallsUnnoticed,
    /// A member vouches for one revision more than it has applied.
    BookmarksTheFuture,
}

/// Bounds that are met often.
pub(super) const LIMITS: HubLimits = HubLimits {
    watches: 64,
    queue_changes: 12,
    queue_bytes: 4_000,
    all_bytes: 12_000,
    unit_bytes: 1_500,
    take_bytes: 700,
};

impl World {
    /// A member has applied a round: the observer notes what it did, and the member's watches are told.
    pub(super) fn watched(&mut self, id: RaftId, applied: &Applied) -> Step {
        let checks = self.checks_of(id);
        for unit in &applied.units {
            checks.happened(id, unit)?;
        }
        checks.newest_revision = checks.newest_revision.max(applied.revision.0);
        let gathered = !applied.recovered && !self.watching.chance(100);
        let units: Option<&[Arc<Unit>]> = gathered.then_some(&applied.units);
        if let Some(process) = self.process(id) {
            process.hub.applied(Round { revision: applied.revision.0, units });
            process.woken.extend(process.hub.woken());
        }
        Ok(())
    }

    /// A member has installed a snapshot.
    pub(super) fn watched_install(&mut self, id: RaftId, revision: u64) {
        let checks = self.checks_of(id);
        checks.newest_revision = checks.newest_revision.max(revision);
        if self.config.watch_bug == Some(WatchBug::InstallsUnnoticed) {
            return;
        }
        if let Some(process) = self.process(id) {
            process.hub.installed(revision);
            process.woken.extend(process.hub.woken());
        }
    }

    /// One look of one watcher.
    pub(super) fn watcher_looks(&mut self, index: usize) -> Step {
        let Some(mut watcher) = self.watchers.get_mut(index).and_then(Option::take) else { return Ok(()) };
        let looked = self.look(&mut watcher);
        // After peace everybody reads on, or nobody could say whether something is missing.
        let sleeps = watcher.at.as_ref().is_some_and(|standing| standing.sleeps);
        let pace = match (self.faults, sleeps) {
            (true, false) => watcher.pace,
            // Who waits to be woken looks less often whether it was.
            (true, true) => watcher.pace.max(25 * MILLIS),
            (false, true) => 25 * MILLIS,
            (false, false) => 5 * MILLIS,
        };
        if let Some(place) = self.watchers.get_mut(index) {
            *place = Some(watcher);
        }
        let at = self.now + self.watching.between(MILLIS, 2 * pace);
        self.schedule(at, Event::Watcher { index });
        looked
    }

    fn look(&mut self, watcher: &mut Watcher) -> Step {
        let breaks = self.faults && self.watching.chance(15);
        // Who is in no configuration hears from no quorum: a node that does not sends its watches elsewhere.
        let out_of_touch = watcher.at.as_ref().is_some_and(|standing| !self.is_member(standing.member));
        if breaks || (out_of_touch && self.watching.chance(50)) {
            self.leave(watcher);
        }
        let Some(standing) = &watcher.at else { return self.come(watcher) };
        let (member, id) = (standing.member, standing.id);
        if !self.is_current(member, standing.boot) {
            watcher.at = None;
            watcher.follower.ended();
            return Ok(());
        }
        if self.watching.chance(40)
            && let Some(process) = self.process(member)
        {
            process.hub.bookmark();
            process.woken.extend(process.hub.woken());
        }
        self.serve_watch(watcher, member, id)
    }

    fn leave(&mut self, watcher: &mut Watcher) {
        let Some(standing) = watcher.at.take() else { return };
        if self.is_current(standing.member, standing.boot)
            && let Some(process) = self.process(standing.member)
        {
            process.hub.close(standing.id);
        }
        watcher.follower.ended();
    }

    /// The watcher goes to a member of its incarnation, or of a newer one.
    fn come(&mut self, watcher: &mut Watcher) -> Step {
        let up: Vec<RaftId> = self
            .ids()
            .into_iter()
            .filter(|id| self.is_up(*id) && self.incarnation(*id) >= watcher.incarnation)
            .collect();
        let Some(member) = self.watching.pick(&up) else { return Ok(()) };
        if self.incarnation(member) > watcher.incarnation {
            // What it is told from now on is of that one. Whether it may go on where it was the member will say.
            watcher.incarnation = self.incarnation(member);
        }
        if watcher.due == 0 {
            self.begin(watcher, member)?;
        }
        let bug =
            self.config.watch_bug == Some(WatchBug::ResumesOneEarly) && watcher.follower.next() > watcher.start.from;
        let early = u64::from(bug);
        let from = watcher.follower.next() - early;
        if early > 0 {
            watcher.follower = Follower::new(from);
        }
        let Some(boot) = self.members.get(&member).map(|member| member.boot) else { return Ok(()) };
        let Some(process) = self.process(member) else { return Ok(()) };
        let Ok(id) = process.hub.open(watcher.filter.clone(), Some(from)) else { return Ok(()) };
        watcher.at = Some(Standing { member, boot, id, sleeps: false, read: None });
        self.report.watches += 1;
        Ok(())
    }

    /// A new watch, from the past, from the future, or from a list of what there is.
    fn begin(&mut self, watcher: &mut Watcher, member: RaftId) -> Step {
        watcher.draw(&mut self.watching);
        watcher.filter = match Filter::new(&watcher.start) {
            Ok(filter) => filter,
            Err(refusal) => return broken("a_watch_is_taken", refusal.to_string()),
        };
        watcher.mirror = None;
        let Some(view) = self.view(member) else { return Ok(()) };
        let Ok(now) = read::status(&*view).map(|status| status.revision.0) else {
            return broken("a_view_can_be_read", member.to_string());
        };
        let from = match self.watching.between(0, 3) {
            0 => now.saturating_sub(self.watching.between(0, 60)).max(1),
            1 => now + self.watching.between(1, 40),
            _ => {
                let whole = watcher.filter.puts && watcher.filter.deletes && watcher.filter.values;
                match whole.then(|| listed(&*view, &watcher.filter)).transpose() {
                    Ok(mirror) => watcher.mirror = mirror,
                    Err(ReadError::Store(error)) => return self.unreadable(member, "a_view_can_be_read", error),
                    Err(ReadError::Refused(refusal)) => return broken("a_view_can_be_read", refusal.to_string()),
                }
                now + 1
            }
        };
        watcher.start.from = from;
        watcher.follower = Follower::new(from);
        watcher.due = from;
        Ok(())
    }

    fn serve_watch(&mut self, watcher: &mut Watcher, member: RaftId, id: WatchId) -> Step {
        let Some(standing) = &mut watcher.at else { return Ok(()) };
        let Some(process) = self.members.get_mut(&member).and_then(|member| member.process.as_mut()) else {
            return Ok(());
        };
        let woken = process.woken.remove(&id);
        if standing.sleeps && !woken {
            return Ok(());
        }
        standing.sleeps = false;
        if let Some(next) = standing.read.take() {
            process.hub.read(id, next);
            process.woken.extend(process.hub.woken());
        }
        let view = process.reader.view();
        let taken = process.hub.take(id);
        process.woken.extend(process.hub.woken());
        match taken {
            Taken::Tell(told) => self.say(watcher, &told),
            Taken::Read { from, upto } => match watch::read(&*view, &watcher.filter, from, upto) {
                Ok(chunk) => {
                    self.report.watch_reads += 1;
                    if chunk.next <= from {
                        return broken("a_reader_gets_on", format!("from {from} to {}", chunk.next));
                    }
                    standing.read = Some(chunk.next);
                    self.say(watcher, &chunk.told)
                }
                Err(ReadError::Refused(refusal)) => self.turned_away(watcher, member, from, &refusal),
                Err(ReadError::Store(error)) => self.unreadable(member, "history_can_be_read", error),
            },
            Taken::Wait => {
                standing.sleeps = true;
                Ok(())
            }
            Taken::Ended(End::Cut { resume }) => self.was_cut(watcher, resume),
            Taken::Ended(end) => broken("a_watch_ends_for_a_reason", format!("{end:?}")),
        }
    }

    fn say(&mut self, watcher: &mut Watcher, told: &[Told]) -> Step {
        for told in told {
            for message in told.messages(&watcher.filter) {
                let Ok(mut part) = WatchPart::decode(message.join()) else {
                    return broken("what_is_told_can_be_read", format!("{told:?}"));
                };
                let bookmark = matches!(told, Told::Bookmark(_));
                if bookmark && self.config.watch_bug == Some(WatchBug::BookmarksTheFuture) {
                    part.revision += 1;
                }
                let Some(checks) = self.checks.get(watcher.incarnation) else { return Ok(()) };
                if let Err(mut broken) = watcher.hear(part, checks) {
                    broken.detail = format!("{} ({:?} from {})", broken.detail, watcher.start.key, watcher.start.from);
                    return Err(broken);
                }
                self.report.watch_messages += 1;
                if self.faults && self.watching.chance(3) {
                    // In the middle of it.
                    self.leave(watcher);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Everything below `resume` was handed out: a watcher may go on from there.
    fn was_cut(&mut self, watcher: &mut Watcher, resume: u64) -> Step {
        self.report.watches_cut += 1;
        let Some(checks) = self.checks.get(watcher.incarnation) else { return Ok(()) };
        if let Some(missed) = checks.missed(&watcher.filter, watcher.due, resume) {
            return broken("watch_cut_skips_nothing", format!("go on from {resume}, but {missed} was not told"));
        }
        self.leave(watcher);
        if self.config.watch_bug == Some(WatchBug::SkipsOnCut) {
            watcher.follower = Follower::new(resume + 1);
        }
        Ok(())
    }

    /// What the watcher asks for is not in the history: it begins anew.
    fn turned_away(&mut self, watcher: &mut Watcher, member: RaftId, from: u64, refusal: &Refusal) -> Step {
        let Some(view) = self.view(member) else { return Ok(()) };
        let (Ok(status), Ok(recovery)) = (read::status(&*view), read::recovery(&*view)) else {
            return broken("a_view_can_be_read", member.to_string());
        };
        let rightly = match refusal {
            Refusal::Compacted { oldest, .. } => {
                self.report.watches_compacted += 1;
                from < *oldest && *oldest == status.compact_revision.0 + 1
            }
            Refusal::NewGeneration { kept_revision, .. } => {
                from < recovery.first_revision.0 && *kept_revision == recovery.kept_revision.0
            }
            Refusal::Limit { .. }
            | Refusal::EmptyKey
            | Refusal::DuplicateKey { .. }
            | Refusal::FutureRevision { .. }
            | Refusal::Fenced { .. }
            | Refusal::RequestExpired { .. }
            | Refusal::ReplayFull { .. }
            | Refusal::StoreFull { .. }
            | Refusal::LeaseNotFound { .. }
            | Refusal::LeaseTtl { .. }
            | Refusal::StaleKey { .. }
            | Refusal::InUse { .. }
            | Refusal::NoSuchObject { .. }
            | Refusal::Malformed { .. } => false,
        };
        if !rightly {
            return broken("watch_is_turned_away_rightly", format!("{member}, from {from}: {refusal}"));
        }
        self.leave(watcher);
        watcher.due = 0;
        Ok(())
    }

    /// Random writes to few keys, and now and then a compaction.
    pub(super) fn scribble(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let next = self.now + self.watching.between(MILLIS, 2 * self.config.scribble_every);
        self.schedule(next, Event::Scribble);
        let up: Vec<RaftId> = self.ids().into_iter().filter(|id| self.is_up(*id)).collect();
        let Some(at) = self.watching.pick(&up) else { return Ok(()) };
        let command: Command = if self.watching.chance(30) {
            let newest = self.checks_of(at).newest();
            let revision = newest.saturating_sub(self.watching.between(0, 80));
            CommandKind::Compact(Compact { revision }).into()
        } else {
            CommandKind::System(self.scribbled()).into()
        };
        let asked = self.command(at, command);
        asked.map(|_ticket| ()).map_err(|violation| violation.broken())
    }

    fn scribbled(&mut self) -> Txn {
        let rng = &mut self.watching;
        if rng.chance(60) {
            let (key, end) = (Section::User.key(b"k"), Section::User.key(&prefix_end(b"k")));
            return Txn::of(Delete { key, end, previous: false });
        }
        let mut names = BTreeSet::new();
        for _ in 0..rng.between(1, 4) {
            names.insert(rng.between(0, KEYS - 1));
        }
        let then = names.into_iter().map(|name| {
            let key = Section::User.key(format!("k{name}").as_bytes());
            if rng.chance(250) {
                return Op::from(Delete { key, ..Delete::default() });
            }
            let length = if rng.chance(30) { 2_000 } else { rng.between(0, 120) };
            let value = Bytes::from(vec![b's'; usize::try_from(length).unwrap_or(0)]);
            Op::from(Put { key, value, ..Put::default() })
        });
        Txn { then: then.collect(), ..Txn::default() }
    }

    /// Every watcher that is due something has been told it; `None` when nothing is missing.
    pub(super) fn watchers_wait(&self) -> Option<String> {
        let behind = self.watchers.iter().flatten().find(|watcher| {
            let Some(checks) = self.checks.get(watcher.incarnation) else { return false };
            watcher.due == 0 || checks.missed(&watcher.filter, watcher.due, checks.newest() + 1).is_some()
        });
        behind.map(|watcher| format!("the watcher from {} was told up to {}", watcher.start.from, watcher.due))
    }

    /// Who began with a list, and was told everything since, knows what there is.
    pub(super) fn mirrors_are_right(&self) -> Step {
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(view) = self.view(leader) else { return Ok(()) };
        for watcher in self.watchers.iter().flatten().filter(|watcher| watcher.incarnation == self.incarnation(leader))
        {
            let Some(mirror) = &watcher.mirror else { continue };
            match listed(&*view, &watcher.filter) {
                Ok(there) if there == *mirror => {}
                Ok(_) => return broken("watch_mirrors_the_state", format!("from {}", watcher.start.from)),
                Err(error) => return broken("a_view_can_be_read", error.to_string()),
            }
        }
        Ok(())
    }
}

/// Everything that there is in the range of a filter, by keys without their section.
fn listed(view: &dyn quorate_core::ports::StateRead, filter: &Filter) -> Result<BTreeMap<Bytes, Bytes>, ReadError> {
    let mut all = BTreeMap::new();
    let mut from = filter.key.clone();
    loop {
        let range = Range { key: from.clone(), end: filter.end.clone(), ..Range::default() };
        let page = read::range(view, &range)?;
        let last = page.entries.last().map(|entry| entry.key.clone());
        for mut entry in page.entries {
            user::strip(&mut entry);
            all.insert(entry.key, entry.value);
        }
        match last {
            Some(last) if page.more => from = [&last[..], &[0]].concat().into(),
            Some(_) | None => return Ok(all),
        }
    }
}

/// A hub for a member's process.
pub(super) fn hub(revision: u64) -> Hub {
    Hub::new(revision, LIMITS)
}
