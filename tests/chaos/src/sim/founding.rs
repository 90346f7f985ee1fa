//! How a world begins: the cluster of one that is founded, and what is scheduled for it.
//!
//! Owns the founding's records and the first event of everything that comes again by itself. Called by the world when it is made.

use bytes::Bytes;

use super::acts::Act;
use super::check::broken;
use super::config::{ELECTION, MILLIS};
use super::event::Event;
use super::secrets;
use super::world::{Step, World, node_id};
use quorate_core::id::{ClusterId, Lineage, RaftId};
use quorate_core::keyring::KeyringRecord;
use quorate_core::membership::record::{ClusterRecord, NodeRecord};
use quorate_core::state::{Founding, found};

impl World {
    pub(super) fn found(&mut self) -> Step {
        let record = |node: u64| self.node_record(node, RaftId(node));
        let recorded = self.config.recorded.clamp(1, self.config.members);
        let founding = Founding {
            cluster: ClusterRecord {
                cluster_id: Bytes::copy_from_slice(ClusterId::from_bytes([1; 16]).as_bytes()),
                lineage: self.incarnations.first().map(Lineage::to_bytes).unwrap_or_default().into(),
                // Of whom there is no record yet was given no raft id that others know of.
                next_raft_id: if self.config.gates { recorded + 1 } else { self.next_raft_id },
                version: self.config.version(),
                max_voters: self.config.max_voters,
                lost_after_ms: self.config.lost_after / MILLIS,
                promote_after_ms: self.config.promote_after / MILLIS,
                tick_micros: super::config::TICK / 1000,
                ..ClusterRecord::default()
            },
            node: record(1),
            records: (2..=recorded).map(|node| (NodeRecord::key(node_id(node)), record(node).to_bytes())).collect(),
            keyring: if self.config.secrets { secrets::founded() } else { KeyringRecord::default() },
        };
        self.unrecorded = (recorded + 1..=self.config.members).map(record).collect();
        let founded = match found(&founding) {
            Ok(founded) => founded,
            Err(refusal) => return broken("founding", refusal.to_string()),
        };
        if let Some(first) = self.members.get(&RaftId(1)) {
            let opened = first.disk.open().and_then(|mut open| open.state.found(founded.writes, founded.reset));
            if let Err(error) = opened {
                return broken("founding", error.to_string());
            }
        }
        let ids: Vec<RaftId> = self.members.keys().copied().collect();
        for id in ids {
            self.start(id)?;
        }
        for client in 0..self.config.clients {
            for slot in 0..self.config.slots {
                let at = self.now + self.work.between(ELECTION, 3 * ELECTION);
                self.schedule(at, Event::Client { client, slot });
            }
        }
        for holder in 0..self.config.holders {
            let at = self.now + self.holding.between(ELECTION, 3 * ELECTION);
            self.schedule(at, Event::Holder { holder });
        }
        for index in 0..self.registers.len() {
            let at = self.now + self.registering.between(ELECTION, 3 * ELECTION);
            self.schedule(at, Event::Register { index });
        }
        self.schedule_faults();
        for index in 0..self.watchers.len() {
            let at = self.now + self.watching.between(ELECTION, 6 * ELECTION);
            self.schedule(at, Event::Watcher { index });
        }
        if self.config.scribble_every > 0 {
            self.schedule(self.now + 2 * ELECTION, Event::Scribble);
        }
        if self.config.secrets {
            self.begin_secrets();
        }
        self.begin_sessions();
        self.begin_gates();
        if self.config.churn {
            self.let_workers_enrol();
        }
        Ok(())
    }

    /// What goes wrong, and when: drawn, or from a list.
    fn schedule_faults(&mut self) {
        if let Some(script) = &self.config.script {
            let times: Vec<u64> = script.iter().map(|timed| timed.at).collect();
            for (index, at) in times.into_iter().enumerate() {
                self.schedule(at, Event::Scripted { index });
            }
            return;
        }
        if !self.faults {
            return;
        }
        self.schedule(self.now + 2 * ELECTION, Event::Nemesis);
        if self.config.disk_hangs || self.config.shortages {
            self.schedule(self.now + 4 * ELECTION, Event::DiskTrouble);
        }
        if self.config.rot {
            let at = self.rotting.between(self.config.duration / 5, self.config.duration * 4 / 5);
            self.schedule(at, Event::Rot);
        }
        if self.config.clocks || self.config.clogs {
            self.schedule(self.now + 3 * ELECTION, Event::Bend);
        }
        if self.config.upgrades {
            self.schedule(self.now + 4 * ELECTION, Event::Upgrade);
        }
        if self.config.churn {
            self.schedule(self.now + 3 * ELECTION, Event::Churn);
        }
        if self.config.recoveries > 0 {
            let first = self.bending.between(self.config.duration / 4, self.config.duration / 2);
            self.schedule(first, Event::Disaster);
        }
    }

    /// One act of the list.
    pub(super) fn scripted(&mut self, index: usize) -> Step {
        let act: Option<Act> =
            self.config.script.as_ref().and_then(|script| script.get(index)).map(|timed| timed.act.clone());
        match act {
            Some(act) if self.faults => self.perform_act(act),
            Some(_) | None => Ok(()),
        }
    }
}
