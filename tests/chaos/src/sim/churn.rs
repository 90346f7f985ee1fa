//! Churn: managers come and go while everything else goes wrong.
//!
//! Owns the draws of what operators ask for and what is lost for good, from a stream of its own. Never more than the
//! promises allow: a member is lost for good only while no other one that is lost for good is a member, and only in seeds
//! in which nobody ends fault tolerance by force. Called by the world at the moments that this file schedules.

use super::acts::Act;
use super::config::{ELECTION, MILLIS};
use super::event::Event;
use super::world::{Step, World};
use quorate_core::id::RaftId;
use quorate_core::membership::record::Role;

/// Nodes in all.
const NODES_MAX: u64 = 11;

impl World {
    /// One event of the life of a cluster, and the time of the next.
    pub(super) fn churn_somehow(&mut self) -> Step {
        if !self.faults {
            return Ok(());
        }
        let next = self.now + self.churn.between(ELECTION, 5 * ELECTION);
        self.schedule(next, Event::Churn);
        self.draw_churn()
    }

    fn draw_churn(&mut self) -> Step {
        let Some(records) = self.leader_records() else { return Ok(()) };
        let managers: Vec<RaftId> = records.nodes.iter().filter_map(|node| node.raft()).collect();
        let workers: Vec<u64> = records
            .nodes
            .iter()
            .filter(|node| node.role == i32::from(Role::Worker) && node.raft_id == 0 && !node.removing)
            .filter_map(|node| node.node_id().map(super::operator::number))
            .collect();
        let Some(target) = self.churn.pick(&managers) else { return Ok(()) };
        let room = self.operator.next_node < NODES_MAX;
        let id = target.0;
        let act = match self.churn.between(0, 13) {
            0 | 1 if room => Act::AddManager,
            2 if room => Act::AddWorker { eligible: self.churn.chance(700) },
            3 | 4 => match self.churn.pick(&workers) {
                Some(node) => Act::Promote { node },
                None => return Ok(()),
            },
            5..=7 => self.draw_wish(id, false),
            8 => self.draw_wish(id, true),
            9 => Act::MaxVoters { max: *[3, 5, 5, 7].get(self.churn.index(4)).unwrap_or(&5) },
            // Away for longer than is waited for.
            10 => Act::Away { id, lasts: self.config.lost_after + self.churn.between(ELECTION, 6 * ELECTION) },
            11 if self.config.kills && self.is_whole() => Act::Destroy { id },
            12 => {
                let zone = (*["a", "b", "c"].get(self.churn.index(3)).unwrap_or(&"a")).to_owned();
                Act::Label { id, zone, leader: self.churn.chance(200) }
            }
            13 => Act::Hold { id, millis: self.churn.between(MILLIS, 3000 * MILLIS) / MILLIS },
            _ => return Ok(()),
        };
        self.perform_act(act)
    }

    fn draw_wish(&mut self, id: u64, remove: bool) -> Act {
        let forced = !self.config.kills && self.churn.chance(300);
        Act::Wish { id, remove, forced }
    }

    /// Nobody that is a member is lost for good, and losing one of them is survived.
    pub(super) fn is_whole(&self) -> bool {
        let newest = self.checks.last().and_then(super::check::Checks::newest_configuration);
        newest.is_some_and(|configuration| {
            let gone = |id: &RaftId| {
                self.members.get(id).is_some_and(|member| member.retired || member.stopped || member.disk.is_rotten())
            };
            configuration.voters.len() >= 3 && !configuration.is_joint() && !configuration.members().iter().any(gone)
        })
    }
}
