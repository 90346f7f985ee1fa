//! What managers ask each other across incarnations: lineage before a campaign, the standing before a recovery, and the
//! news of a recovery for those it left behind; and a newcomer of its leader, for a client that is born.
//!
//! Owns the questions and their patience. Never decides what an answer means for a log. Called by the running node, its service, and
//! a recovery.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use quorate_core::consensus::io::{Input, Records, Status};
use quorate_core::id::{Lineage, NodeId, RaftId};
use quorate_core::membership::record::NodeRecord;
use quorate_transport::api::{self, request, response};
use quorate_transport::{ConnectError, Connector, Endpoint, Hello, Identity, Refused};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::facts::Facts;
use super::fence::Incarnations;
use super::gate::Asker;
use super::router::{Failure, fail};
use super::service::Service;
use super::tasks::Call;
use crate::client::SOFTWARE;

/// How long another manager is waited for: before a campaign, and before a recovery.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at whether all have answered.
const LOOK: Duration = Duration::from_millis(10);
/// Between two attempts to tell a lost manager that it is one.
const TELL_EVERY: Duration = Duration::from_secs(3);
/// One that has heard it may not have believed it yet, and forgets it when it is started anew: it is told again each so many attempts.
const TELL_AGAIN: u64 = 20;

impl Service {
    /// What this manager's log holds and whom it follows.
    pub(super) fn standing(&self) -> api::StandingDone {
        let status = self.status.borrow().clone();
        api::StandingDone {
            lineage: self.lineage().to_bytes().into(),
            raft_id: status.id.0,
            term: status.term.0,
            last_term: status.last_term.0,
            last_index: status.last.0,
            commit: status.commit.0,
            leader: status.leader.map_or(0, |leader| leader.0),
            voter: status.configuration.is_voter(status.id),
        }
    }

    /// What whoever asks is told. For a birth any index counts that is committed: a newcomer whose snapshot is still on the way
    /// knows of none, and asks the leader, to whom the writes go that are to follow.
    pub(super) async fn standing_for(
        &self,
        asker: &Asker,
        asked: api::Standing,
        until: Instant,
    ) -> Result<api::StandingDone, Failure> {
        let own = self.standing();
        let is_followed = own.leader != 0 && own.leader != own.raft_id;
        if !asked.birth || own.commit > 0 || asker.passed_on || !is_followed {
            return Ok(own);
        }
        // A leader that has died does not answer: whoever asked comes again, and by then another one may lead.
        let until = until.min(Instant::now() + self.router.election());
        let answer = self.ask_manager(asker, RaftId(own.leader), request::Kind::Standing(asked), until).await?;
        let response::Kind::Standing(done) = answer else {
            return Err(fail(api::Code::Internal, "the leader answered something else than was asked"));
        };
        Ok(done)
    }

    /// The lineage in force: that of the records, or of the files before there are records.
    pub(super) fn lineage(&self) -> Lineage {
        let lineage = self.records.borrow().lineage();
        if lineage.generation() == 0 { self.facts.lineage_list() } else { lineage }
    }
}

/// A starting manager campaigns and votes only when every manager it knows has said its lineage or cannot be reached; the machine
/// itself ends the wait after [`PATIENCE`]. One that learns of a newer incarnation never says so: it is about to stop.
pub(super) async fn lineages(
    endpoint: Endpoint,
    facts: Facts,
    records: watch::Receiver<Arc<Records>>,
    incarnations: Arc<Incarnations>,
    inbox: mpsc::Sender<Call>,
) {
    let known = known_managers(&facts, &records.borrow());
    let peers = endpoint.peers();
    for id in &known {
        peers.nudge(*id);
    }
    loop {
        let connected: BTreeSet<RaftId> = peers.connected().into_iter().map(|(id, _)| id).collect();
        let answered =
            |id: &RaftId| connected.contains(id) || peers.last_failure(*id).is_some_and(|error| says_enough(&error));
        if incarnations.is_superseded() {
            return;
        }
        if known.iter().all(answered) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let _ = inbox.send(Call::Input(Input::LineagesAsked)).await;
}

/// Whether a failed dial means that nobody is there now, or that the one who is has told of its lineage. Anything else,
/// as of one that is busy, may hide a newer incarnation.
fn says_enough(error: &ConnectError) -> bool {
    match error {
        ConnectError::NoAddress
        | ConnectError::Resolve { .. }
        | ConnectError::PortClosed(_)
        | ConnectError::Unreachable { .. }
        | ConnectError::Timeout { .. } => true,
        // One that is locked does no more than one that does not run.
        ConnectError::Refused { refused: Refused::Locked, .. } => true,
        ConnectError::Refused { refused, .. } => tells_lineage(refused),
        ConnectError::OwnCertificate(_)
        | ConnectError::Certificate { .. }
        | ConnectError::NotAccepted { .. }
        | ConnectError::WrongProtocol(_)
        | ConnectError::Broken { .. }
        | ConnectError::Local(_) => false,
        // Any of its addresses may be the one at which it lives.
        ConnectError::All(errors) => errors.iter().all(says_enough),
    }
}

/// Some of it is said only after the lineages were compared.
const fn tells_lineage(refused: &Refused) -> bool {
    matches!(
        refused,
        Refused::Superseded { .. }
            | Refused::Forked { .. }
            | Refused::VersionTooOld { .. }
            | Refused::VersionTooNew { .. }
            | Refused::ClusterVersion(_)
            | Refused::NotAMember
            | Refused::Removed
            | Refused::StoreReplaced
    )
}

/// The raft ids of the other managers, by the records, or by the files before there are records.
fn known_managers(facts: &Facts, records: &Records) -> Vec<RaftId> {
    let listed: Vec<RaftId> = if records.nodes.is_empty() {
        facts.managers.iter().map(|manager| RaftId(manager.raft_id)).collect()
    } else {
        records.nodes.iter().filter_map(NodeRecord::raft).collect()
    };
    let own = facts.raft();
    listed.into_iter().filter(|id| *id != own && !records.removed.contains(id)).collect()
}

/// Tells the managers that a recovery left behind that they are: they may know none of the addresses at which they could
/// learn it. So it does with a disk whose record a restore gave to another one. Whoever leads does it, without end: nobody knows
/// whether one that does not answer is gone for good.
pub(super) async fn tell_the_lost(service: Arc<Service>, endpoint: Endpoint, mut status: watch::Receiver<Arc<Status>>) {
    let mut told: BTreeSet<NodeId> = BTreeSet::new();
    for attempt in 0_u64.. {
        if status.wait_for(|status| status.lease.is_some()).await.is_err() {
            return;
        }
        let records = service.records.borrow().clone();
        let all = attempt.is_multiple_of(TELL_AGAIN);
        let mut telling = JoinSet::new();
        for (id, addresses) in left_behind(&records) {
            if told.contains(&id) && !all {
                continue;
            }
            let (identity, lineage) = (endpoint.identity(), service.lineage());
            let (advertise, successions) = (service.facts.advertise.clone(), records.recovery.successions.clone());
            let connector = Connector { network: endpoint.peers().network(), ..Connector::default() };
            telling.spawn(async move {
                let subject = identity.subject();
                let mut hello = Hello::client(subject.cluster, subject.node_id, lineage, SOFTWARE);
                hello.advertise = advertise;
                hello.successions = successions;
                (id, connector.connect_to(&addresses, identity, hello, PATIENCE).await)
            });
        }
        while let Some(answer) = telling.join_next().await {
            let Ok((id, Err(error))) = answer else { continue };
            let ConnectError::Refused { address, refused, .. } = error.root() else { continue };
            if matches!(refused, Refused::Superseded { .. } | Refused::Fenced) {
                if told.insert(id) {
                    tracing::info!(node = %id, %address, "a manager of the generation before was told of the recovery");
                }
            } else if let Refused::Forked { ours, .. } = refused {
                service.incarnations.note_fork(&service.lineage(), id, ours, &address.to_string());
            }
        }
        tokio::time::sleep(TELL_EVERY).await;
    }
}

/// Who does not know that the cluster has gone on without it, and where it was last.
fn left_behind(records: &Records) -> Vec<(NodeId, Vec<String>)> {
    let lost = |node: &NodeRecord| if node.lost { node.addresses.clone() } else { Vec::new() };
    let mut found: Vec<(NodeId, Vec<String>)> = Vec::new();
    for node in records.nodes.members() {
        let Some(id) = node.node_id() else { continue };
        // Two disks may have had one record, one after the other.
        let at = [lost(node), node.left_at.clone()].into_iter().filter(|at| !at.is_empty());
        found.extend(at.map(|at| (id, at)));
    }
    found
}

/// One manager's answer to the question before a recovery.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// It runs, and says this.
    Standing(Box<api::StandingDone>, Hello),
    /// It runs, and does not say more: another version, or it is stopping.
    Runs(Hello),
    /// It runs, and does not know the node that asks as a member: in words.
    Disowned(String),
    /// It does not run, or cannot be reached: in words.
    Silent(String),
}

/// Asks managers at their addresses for their standing, all at once, for [`PATIENCE`] at most.
pub(super) async fn standings(
    identity: Arc<Identity>,
    managers: Vec<(NodeId, Vec<String>)>,
) -> BTreeMap<NodeId, Answer> {
    let mut asking = JoinSet::new();
    for (id, addresses) in managers {
        let identity = Arc::clone(&identity);
        asking.spawn(async move {
            // One that does not run says so at once, by its closed port; only one that hangs is waited for.
            let answered = tokio::time::timeout(PATIENCE + PATIENCE / 2, standing(identity, id, &addresses)).await;
            let late = || Answer::Silent(format!("no answer within {} s", PATIENCE.as_secs()));
            (id, answered.unwrap_or_else(|_elapsed| late()))
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(answer) = asking.join_next().await {
        if let Ok((id, answer)) = answer {
            answers.insert(id, answer);
        }
    }
    answers
}

/// Whether somebody runs there who does not take this node for a member: by its records, or, since the CA was replaced while this
/// node was away, by its certificate.
const fn disowns(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused { refused, .. } => {
            matches!(refused, Refused::Removed | Refused::NotAMember | Refused::StoreReplaced)
        }
        ConnectError::Certificate { .. } | ConnectError::NotAccepted { .. } => true,
        ConnectError::OwnCertificate(_)
        | ConnectError::PortClosed(_)
        | ConnectError::Unreachable { .. }
        | ConnectError::Timeout { .. }
        | ConnectError::Resolve { .. }
        | ConnectError::WrongProtocol(_)
        | ConnectError::Broken { .. }
        | ConnectError::Local(_)
        | ConnectError::NoAddress
        | ConnectError::All(_) => false,
    }
}

async fn standing(identity: Arc<Identity>, id: NodeId, addresses: &[String]) -> Answer {
    let subject = identity.subject();
    // Without a lineage of its own: who only asks must not fence anybody.
    let hello = Hello::client(subject.cluster, subject.node_id, Lineage::default(), SOFTWARE);
    let connection = match Connector::connect(addresses, Arc::clone(&identity), hello, PATIENCE).await {
        Ok(connection) => connection,
        Err(error) => {
            let why = error.to_string();
            return if disowns(error.root()) { Answer::Disowned(why) } else { Answer::Silent(why) };
        }
    };
    let theirs = connection.remote_hello().clone();
    if theirs.node_id != id {
        return Answer::Silent(format!("another node, {}, answers at {}", theirs.node_id, connection.address()));
    }
    let deadline_ms = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
    let kind = Some(request::Kind::Standing(api::Standing { birth: false }));
    let body = api::Request { deadline_ms, kind }.encode_to_vec().into();
    let reply = connection.request(body, PATIENCE).await;
    match reply.ok().and_then(|body| api::Response::decode(body).ok()?.kind) {
        Some(response::Kind::Standing(done)) => Answer::Standing(Box::new(done), theirs),
        _ => Answer::Runs(theirs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_and_a_word_about_the_lineage_end_the_wait_before_a_campaign() {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let refused = |refused| ConnectError::Refused { address, refused, ours: false };
        let timeout = || ConnectError::Timeout { address: address.to_string(), after: PATIENCE };
        let superseded = Refused::Superseded { ours: Lineage::default(), theirs: Lineage::default() };
        let locked = refused(Refused::Locked);
        for error in
            [ConnectError::PortClosed(address), timeout(), ConnectError::NoAddress, refused(superseded), locked]
        {
            assert!(says_enough(&error), "{error}");
        }
        let busy = || refused(Refused::Busy("full".into()));
        let broken = ConnectError::Broken { address, why: "reset".into() };
        let either = ConnectError::All(vec![timeout(), busy()]);
        for error in [busy(), broken, refused(Refused::Fenced), ConnectError::Local("none".into()), either] {
            assert!(!says_enough(&error), "{error}");
        }
    }

    #[test]
    fn who_runs_and_does_not_take_this_node_for_a_member_is_not_silent() {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let refused = |refused| ConnectError::Refused { address, refused, ours: false };
        // By the records, or since the CA was replaced while this node was away,
        let theirs = ConnectError::NotAccepted { address, why: "of another CA".into() };
        for error in [refused(Refused::Removed), refused(Refused::NotAMember), theirs] {
            assert!(disowns(&error), "{error}");
        }
        // and whoever does not answer is.
        for error in [ConnectError::PortClosed(address), ConnectError::NoAddress, refused(Refused::Busy("full".into()))]
        {
            assert!(!disowns(&error), "{error}");
        }
    }
}
