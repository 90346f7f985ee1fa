//! Links: what is sent, lost, copied, delayed, cut and held back.
//!
//! Owns the fate of each message, drawn from one stream for each directed link, and what scenarios do to links. Never looks into a
//! message, but for the name of its kind. Called by the world, and by directed scenarios.

use bytes::Bytes;

use super::config::{ELECTION, MILLIS};
use super::event::Event;
use super::world::World;
use quorate_core::consensus::io::Lane;
use quorate_core::id::RaftId;

/// A message as a scenario sees it before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    /// The sender.
    pub from: RaftId,
    /// The receiver.
    pub to: RaftId,
    /// Raft's name of its kind, such as `MsgTimeoutNow`.
    pub kind: &'static str,
}

/// Decides which messages are held back.
pub type Hold = Box<dyn FnMut(Passing) -> bool>;

impl World {
    /// Sends over a link, as the network pleases.
    pub(super) fn send(&mut self, from: RaftId, to: RaftId, lane: Lane, body: Bytes) {
        if let Some(hold) = &mut self.hold
            && hold(Passing { from, to, kind: kind(&body) })
        {
            let incarnation = self.incarnation(from);
            self.held.push(Event::Deliver { from, to, body, incarnation });
            return;
        }
        let (now, loss, duplicates) = (self.now, self.config.loss, self.config.duplicates);
        let (low, high) = (self.config.delay_min, self.config.delay_max);
        let cut = self.cut.contains(&(from, to));
        let clogged = self.clogged.get(&(from, to)).copied().filter(|until| *until > now);
        let link = self.link(from, to);
        if cut || link.chance(loss) {
            if link.chance(300) {
                let at = now + link.between(0, 5 * MILLIS);
                if let Some(boot) = self.members.get(&from).map(|member| member.boot) {
                    self.schedule(at, Event::Unreachable { id: from, boot, to });
                }
            }
            return;
        }
        let copies = if link.chance(duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            let link = self.link(from, to);
            let mut delay = link.between(low, high);
            if duplicates > 0 && link.chance(20) {
                // A straggler: it arrives in another time.
                delay += link.between(0, 2 * ELECTION);
            }
            if lane == Lane::Append {
                delay += (body.len() as u64).saturating_mul(10);
            }
            let (body, incarnation) = (body.clone(), self.incarnation(from));
            let at = clogged.unwrap_or(now) + delay;
            self.schedule(at, Event::Deliver { from, to, body, incarnation });
        }
    }

    /// Holds back every message for which `hold` says so, until [`World::release`].
    pub fn hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    /// Delivers what was held back, and holds nothing more.
    pub fn release(&mut self) {
        self.hold = None;
        for event in std::mem::take(&mut self.held) {
            self.schedule(self.now + MILLIS, event);
        }
    }

    /// What was held back is lost; nothing more is held.
    pub fn drop_held(&mut self) {
        self.hold = None;
        self.held.clear();
    }

    /// From now on the word that a snapshot was delivered takes so much longer to reach the sender, in nanoseconds.
    pub const fn delay_reports(&mut self, nanos: u64) {
        self.report_delay = nanos;
    }

    /// How many messages are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn link_is_up(&self, a: RaftId, b: RaftId) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    /// Everybody notices after a while who can be reached now.
    pub(super) fn connections_changed(&mut self) {
        let all: Vec<(RaftId, u64)> = self.members.iter().map(|(id, member)| (*id, member.boot)).collect();
        for (id, boot) in all {
            let at = self.now + self.noticing.between(MILLIS, 40 * MILLIS);
            self.schedule(at, Event::Connections { id, boot });
        }
    }

    /// Nothing passes from `from` to `to` any more.
    pub fn cut(&mut self, from: RaftId, to: RaftId) {
        self.cut.insert((from, to));
        self.connections_changed();
    }

    /// Nothing passes to or from `id` any more.
    pub fn isolate(&mut self, id: RaftId) {
        let others: Vec<RaftId> = self.members.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
        self.connections_changed();
    }

    /// Every link works again.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.connections_changed();
    }
}

/// Raft's name of a message's kind.
pub(super) fn kind(body: &[u8]) -> &'static str {
    use prost011::Message as _;
    raft::eraftpb::Message::decode(body).map_or("garbage", |message| message.msg_type().as_str_name())
}
