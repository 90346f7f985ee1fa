//! Churn: managers come and go while everything else goes wrong.
//!
//! Owns the draws of what operators ask for and what is lost for good, from a stream of its own. Never more than the
//! promises allow: a member is lost for good only while no other one that is lost for good is a member, and only in seeds
//! in which nobody ends fault tolerance by force. Called by the world at the moments that this file schedules.

use super::check::Broken;
use super::config::{ELECTION, MILLIS};
use super::world::{Event, Step, World};
use quorate_core::id::RaftId;
use quorate_core::membership::record::{LABEL_LEADER, LABEL_ZONE, Role};
use quorate_core::membership::wish::Wish;

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
        self.draw_churn().map_err(|violation| Broken { invariant: violation.invariant, detail: violation.detail })
    }

    fn draw_churn(&mut self) -> super::Run {
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
        match self.churn.between(0, 13) {
            0 | 1 if room => {
                self.add_manager()?;
            }
            2 if room => {
                let eligible = self.churn.chance(700);
                self.add_worker(eligible)?;
            }
            3 | 4 => {
                if let Some(node) = self.churn.pick(&workers) {
                    self.promote(node)?;
                }
            }
            5..=7 => self.wish(target, false)?,
            8 => self.wish(target, true)?,
            9 => {
                let max = *[3, 5, 5, 7].get(self.churn.index(4)).unwrap_or(&5);
                self.edit_cluster(|cluster| cluster.max_voters = max)?;
            }
            10 => {
                // Away for longer than is waited for.
                self.crash(target, usize::MAX);
                let away = self.config.lost_after + self.churn.between(ELECTION, 6 * ELECTION);
                self.schedule(self.now + away, Event::Restart { id: target });
            }
            11 if self.config.kills && self.is_whole() => {
                self.report.killed += 1;
                self.destroy(target);
            }
            12 => {
                let zone = (*["a", "b", "c"].get(self.churn.index(3)).unwrap_or(&"a")).to_owned();
                let leader = self.churn.chance(200).then(|| LABEL_LEADER.1.to_owned());
                if let Some(node) = self.node_of(target) {
                    self.edit(node, |record| {
                        record.set_label(LABEL_ZONE, Some(zone));
                        record.set_label(LABEL_LEADER.0, leader);
                    })?;
                }
            }
            13 => {
                let hold = self.churn.between(MILLIS, 3000 * MILLIS) / MILLIS;
                if let Some(node) = self.node_of(target) {
                    self.edit(node, |record| {
                        (record.hold_ms, record.hold_serial) = (hold, record.hold_serial + 1);
                    })?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// As an operator does it: what is refused is not written.
    fn wish(&mut self, target: RaftId, remove: bool) -> super::Run {
        let forced = !self.config.kills && self.churn.chance(300);
        let wish = if remove { Wish::Remove { forced } } else { Wish::Demote { forced } };
        if self.may(target, wish).is_err() {
            self.report.wishes_refused += 1;
            return Ok(());
        }
        self.report.wishes += 1;
        let asked = if remove { self.remove(target, forced) } else { self.demote(target, forced) };
        asked.map(|_| ())
    }

    /// Nobody that is a member is lost for good, and losing one of them is survived.
    pub(super) fn is_whole(&self) -> bool {
        let newest = self.checks.last().and_then(super::check::Checks::newest_configuration);
        newest.is_some_and(|configuration| {
            let gone = |id: &RaftId| self.members.get(id).is_some_and(|member| member.retired || member.stopped);
            configuration.voters.len() >= 3 && !configuration.is_joint() && !configuration.members().iter().any(gone)
        })
    }
}
