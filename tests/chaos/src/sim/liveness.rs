//! The liveness phase: a core of quorum size is healed, every other fault stays for ever, and the cluster must go on.
//!
//! Owns the choice of the core and of what stays broken: links between everybody else, in each direction by itself, and members that
//! are down or asleep. At the end everything is healed anyway, and that would hide a cluster that only works when all is well. Called
//! by the world between the faults and the peace.

use std::collections::BTreeSet;

use super::asks::Reply;
use super::check::Checks;
use super::config::{ELECTION, MILLIS};
use super::world::{Run, World};
use quorate_core::id::RaftId;
use quorate_core::testing::Rng;

/// Within this time of virtual time the core must have done a write: elections that were begun badly, snapshots for who is far
/// behind, and a leader's patience with a disk are over by then.
const GOES_ON_WITHIN: u64 = 60_000 * MILLIS;

impl World {
    /// Plays the phase, where the knobs say so.
    pub(super) fn only_a_core_lives(&mut self) -> Run {
        let mut rng = Rng::stream(self.config.seed, 19);
        if !self.config.frozen {
            return Ok(());
        }
        self.look_for_rot().map_err(|broken| self.violation(broken))?;
        let Some(core) = self.draw_core(&mut rng) else { return Ok(()) };
        self.faults = false;
        self.spare();
        self.freeze(&core, &mut rng)?;
        self.marks.hit("frozen faults", "in the liveness phase");
        let begun = self.now();
        for attempt in 0_u64.. {
            let at = core.iter().copied().nth(usize::try_from(attempt).unwrap_or(0) % core.len().max(1));
            let Some(at) = at else { break };
            let write = self.propose(at, 2_000_000 + attempt)?;
            self.run_until(5 * ELECTION, |world| world.reply(write).is_some())?;
            if matches!(self.reply(write), Some(Reply::Outcome(_))) {
                break;
            }
            // Refused at once is no time at all: whoever asks again at once would ask for ever.
            self.run_for(ELECTION)?;
            let late = self.now() - begun > GOES_ON_WITHIN;
            self.expect(!late, "a_healed_core_goes_on", || format!("{core:?} did no write, the last attempt at {at}"))?;
        }
        Ok(())
    }

    /// A random majority of the voters, of both halves of a joint configuration, that can be brought to life.
    fn draw_core(&self, rng: &mut Rng) -> Option<BTreeSet<RaftId>> {
        let newest = self.checks.last().and_then(Checks::newest_configuration)?;
        let incarnation = self.incarnations.len() - 1;
        let can_live = |id: &RaftId| {
            self.members.get(id).is_some_and(|member| {
                !member.retired && !member.stopped && member.outdated.is_none() && member.incarnation == incarnation
            })
        };
        // Seats that are still to be given to somebody outside of the core may be given while it is frozen, and never taken.
        let all = self.config.members.min(u64::from(self.config.max_voters));
        if (newest.voters.len() as u64) < all - (all + 1) % 2 {
            return None;
        }
        let mut core = BTreeSet::new();
        for half in [&newest.voters, &newest.voters_outgoing] {
            let mut alive: Vec<RaftId> = half.iter().copied().filter(can_live).collect();
            let majority = if half.is_empty() { 0 } else { half.len() / 2 + 1 };
            if alive.len() < majority {
                return None;
            }
            for _ in 0..majority {
                core.insert(alive.swap_remove(rng.index(alive.len())));
            }
        }
        // A configuration that is about to change may need somebody outside of the core, who must be heard of.
        (!self.config.upgrades && !self.config.churn && !core.is_empty()).then_some(core)
    }

    /// The core is healed; everything else is broken in its own way, for ever.
    fn freeze(&mut self, core: &BTreeSet<RaftId>, rng: &mut Rng) -> Run {
        let ids = self.ids();
        self.cut.clear();
        for a in &ids {
            for b in &ids {
                if a != b && !(core.contains(a) && core.contains(b)) && rng.chance(500) {
                    self.cut.insert((*a, *b));
                }
            }
        }
        for id in &ids {
            if core.contains(id) {
                if let Some(member) = self.members.get_mut(id) {
                    (member.paused_until, member.slow) = (0, 1);
                    member.disk.fail_no_more();
                }
            } else if rng.chance(300) {
                self.crash(*id, usize::MAX);
            }
        }
        self.core = Some(core.clone());
        for id in core {
            self.restart(*id)?;
            self.mend_disk(*id).map_err(|broken| self.violation(broken))?;
        }
        self.connections_changed();
        Ok(())
    }
}
