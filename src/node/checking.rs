//! A manager's answers for `quorate check`: its machine, and the ways to the others, both of them.
//!
//! Owns who is dialled: the addresses on record and no others, so that nobody can make a manager dial strangers. Connections
//! are fresh ones, beside those in use, and carry nothing but the question. Called by the service.

use std::time::Duration;

use quorate_core::id::NodeId;
use quorate_core::membership::record::NodeRecord;
use quorate_transport::api;
use tokio::task::JoinSet;

use super::gate::{Asker, Who};
use super::nodes::is_manager;
use super::service::{Service, display_name};
use crate::check::{ManagerCheck, PathCheck, Seen, Way, look_both_ways, reach, unix_ms};
use crate::client::SOFTWARE;

/// How long another manager is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

impl Service {
    /// What this manager says of its machine and, where they are asked for, of the ways to the others.
    pub(super) async fn check(&self, asker: &Asker, asked: api::Check) -> ManagerCheck {
        let mut check = self.own_check();
        if let Who::Node(node) = asker.who
            && asked.back
        {
            check.back = Some(self.back(node).await);
        }
        if asked.paths {
            check.paths = self.paths().await;
        }
        check
    }

    fn own_check(&self) -> ManagerCheck {
        let buffers = self.udp_buffers;
        ManagerCheck {
            name: self.own_name(),
            address: self.facts.advertise.clone(),
            version: SOFTWARE.to_owned(),
            unix_ms: unix_ms(self.certificates.clock.now()),
            udp_receive_bytes: buffers.receive as u64,
            udp_send_bytes: buffers.send as u64,
            udp_wanted_bytes: buffers.wanted as u64,
            #[expect(clippy::cast_possible_truncation, reason = "seconds of a certificate's life")]
            certificate_seconds: self.certificate_seconds() as i64,
            free_bytes: self.space.free(),
            log_syncs: self.syncs.times(),
            paths: Vec::new(),
            back: None,
        }
    }

    /// The way to a manager that has asked, at the addresses on record.
    async fn back(&self, node: NodeId) -> Way {
        let records = self.records.borrow().clone();
        let known = records.nodes.members().find(|known| known.node_id() == Some(node) && is_manager(known));
        match known {
            Some(known) => reach(&known.addresses, &self.identity(), PATIENCE, self.peers.network()).await,
            None => Way::failed("no manager of this cluster has asked"),
        }
    }

    async fn paths(&self) -> Vec<PathCheck> {
        let records = self.records.borrow().clone();
        let own = self.facts.node();
        let others: Vec<NodeRecord> =
            records.nodes.members().filter(|node| is_manager(node) && node.node_id() != Some(own)).cloned().collect();
        let mut looking = JoinSet::new();
        for (at, other) in others.into_iter().enumerate() {
            let (identity, network) = (self.identity(), self.peers.network());
            looking.spawn(async move {
                let (there, looked) = look_both_ways(&other.addresses, &identity, PATIENCE, network).await;
                let (back, other_says) = match looked {
                    Some((check, clock_offset_ms)) => {
                        (check.back, Some(Seen { clock_offset_ms, version: check.version }))
                    }
                    None => (None, None),
                };
                let address = other.addresses.first().cloned().unwrap_or_default();
                (at, PathCheck { to: display_name(&other), address, there, back, other: other_says })
            });
        }
        let mut paths = Vec::new();
        while let Some(looked) = looking.join_next().await {
            paths.extend(looked);
        }
        paths.sort_by_key(|(at, _)| *at);
        paths.into_iter().map(|(_, path)| path).collect()
    }
}
