//! What speaks against a recovery: what the other managers say.
//!
//! Owns the weighing of their answers, and the words for each. Never asks and never writes.

use std::collections::BTreeMap;

use quorate_core::id::{Lineage, LineageOrder, LogIndex, NodeId, RaftId, Term};
use quorate_core::membership::quorum::Quorum;
use quorate_core::succession::weigh as weigh_word;

use super::Opened;
use crate::node::asking::Answer;
use crate::node::fence::{self, FenceRecord};
use crate::node::service::display_name;
use crate::node::stop::StartError;
use crate::recovery::{AskedManager, RecoveryReport};

/// What speaks against a recovery.
pub(super) struct Against {
    pub(super) error: StartError,
    /// This directory is of an old incarnation: that is written down.
    pub(super) fence: Option<FenceRecord>,
    /// No wish overrides it.
    pub(super) final_: bool,
}

/// Fills in what each manager said, and finds what speaks against the recovery: the gravest first.
pub(super) fn against(
    opened: &Opened,
    answers: &BTreeMap<NodeId, Answer>,
    report: &mut RecoveryReport,
) -> Option<Against> {
    let found = &opened.recovery.findings;
    let configuration = &found.configuration;
    let mut reasons: Vec<(u8, Against)> = Vec::new();
    let mut alive: Vec<RaftId> = vec![opened.facts.raft()];
    for (id, answer) in answers {
        let record = opened.recovery.records.nodes.iter().find(|node| node.node_id() == Some(*id));
        let raft_id = record.map_or(0, |node| node.raft_id);
        let name = record.map_or_else(|| id.to_string(), display_name);
        let seat = if configuration.is_voter(RaftId(raft_id)) { "voter" } else { "standby" };
        let mut told = AskedManager {
            id: id.to_string(),
            name: name.clone(),
            address: record.and_then(|node| node.addresses.first().cloned()).unwrap_or_default(),
            raft_id,
            seat: seat.to_owned(),
            ..AskedManager::default()
        };
        let (hello, standing) = match answer {
            Answer::Silent(why) => {
                told.answer.clone_from(why);
                report.managers.push(told);
                continue;
            }
            Answer::Disowned(why) => {
                told.answers = true;
                told.answer = format!("runs, and does not know this node any more: {why}");
                report.managers.push(told);
                let error = StartError::ClusterAlive(format!(
                    "manager {name} runs and does not know this node as a member: it was removed, or its store was replaced, and the others may have gone on without what this directory holds. Nothing was changed; look at the cluster with `quorate status` there, and come back to it with `quorate join --replace --token TOKEN --manager HOST:PORT`. To recover from here all the same, and fence the others: --despite-peers"
                ));
                reasons.push((2, Against { error, fence: None, final_: false }));
                continue;
            }
            Answer::Runs(hello) => (hello, None),
            Answer::Standing(standing, hello) => (hello, Some(standing)),
        };
        told.answers = true;
        let (words, against) = weigh(opened, &name, hello, standing.map(|standing| &**standing), &mut alive);
        told.answer = words;
        told.last_term = standing.as_ref().map(|standing| standing.last_term);
        told.last_index = standing.as_ref().map(|standing| standing.last_index);
        reasons.extend(against);
        report.managers.push(told);
    }
    report.managers.sort_by_key(|manager| manager.raft_id);
    if reasons.is_empty() && alive.len() > 1 && Quorum::of(configuration).is_alive(|id| alive.contains(&id)) {
        let error = StartError::ClusterAlive(
            "together with the managers that answer this one is a majority: start it, and the cluster goes on with nothing lost. Nothing was changed; to recover all the same, and fence the others: --despite-peers".to_owned(),
        );
        reasons.push((0, Against { error, fence: None, final_: false }));
    }
    reasons.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    reasons.into_iter().next().map(|(_, against)| against)
}

/// Whether somebody stands for the newer incarnation. Nobody leads here: what the CA's key has signed is enough.
fn is_believed(opened: &Opened, hello: &quorate_transport::Hello) -> bool {
    let records = &opened.recovery.records;
    fence::checked(&opened.recovery.findings.lineage, hello, &opened.identity)
        .is_some_and(|checked| weigh_word(&records.nodes, &records.removed, &checked).fences(u64::MAX))
}

/// What one manager that runs means for the recovery: in words, and as a reason against it with its weight.
fn weigh(
    opened: &Opened,
    name: &str,
    hello: &quorate_transport::Hello,
    standing: Option<&quorate_transport::api::StandingDone>,
    alive: &mut Vec<RaftId>,
) -> (String, Option<(u8, Against)>) {
    let found = &opened.recovery.findings;
    let theirs =
        standing.and_then(|standing| Lineage::from_slice(&standing.lineage)).unwrap_or_else(|| hello.lineage.clone());
    let refused = |error: StartError| Against { error, fence: None, final_: false };
    match found.lineage.compare(&theirs) {
        LineageOrder::Older => {
            let hello = quorate_transport::Hello { lineage: theirs.clone(), ..hello.clone() };
            let generation = theirs.generation();
            if !is_believed(opened, &hello) {
                let error = StartError::ClusterAlive(format!(
                    "manager {name} says that it is of generation {generation}, this directory of generation {}, and shows nothing for it that counts here: either the cluster was recovered elsewhere, or that node lies. Nothing was changed; look at it with `quorate status`. To recover all the same: --despite-peers",
                    found.lineage.generation()
                ));
                return (format!("says that it is of generation {generation}, unproven"), Some((2, refused(error))));
            }
            let fence = FenceRecord::of(&hello, &opened.recovery.records);
            let error = StartError::Superseded(format!(
                "manager {name} is of generation {generation}, this directory of generation {}: the cluster was recovered elsewhere already, and a second recovery would be another cluster. Next: come back to it with `quorate join --replace --token TOKEN --manager {}`",
                found.lineage.generation(),
                fence.known_address().unwrap_or("HOST:PORT")
            ));
            let against = Against { error, fence: Some(fence), final_: true };
            return (format!("runs, of the newer generation {generation}"), Some((3, against)));
        }
        LineageOrder::Forked => {
            let error = StartError::Forked(format!(
                "manager {name} is of another recovery of this cluster (generation {}). Nothing was changed; keep one of the two and wipe the other",
                theirs.generation()
            ));
            return ("runs, of another recovery".to_owned(), Some((2, Against { final_: true, ..refused(error) })));
        }
        LineageOrder::Newer => return ("runs, of an older generation".to_owned(), None),
        LineageOrder::Equal => {}
    }
    alive.push(hello.raft_id);
    let Some(standing) = standing else {
        let error = StartError::ClusterAlive(format!(
            "manager {name} runs and does not say what it holds. Nothing was changed; look at it with `quorate status`. To recover all the same, and fence it: --despite-peers"
        ));
        return ("runs, and does not say what it holds".to_owned(), Some((1, refused(error))));
    };
    let (term, last) = (Term(standing.last_term), LogIndex(standing.last_index));
    let held = format!("log to {last} of term {term}");
    if standing.leader != 0 {
        let leader = opened
            .recovery
            .records
            .by_raft_id(RaftId(standing.leader))
            .map_or_else(|| format!("raft id {}", standing.leader), display_name);
        let error = StartError::ClusterAlive(format!(
            "manager {name} runs and {}: the cluster is alive and needs no recovery. Nothing was changed; start this manager, or look at the cluster with `quorate status`. To recover all the same, and fence the others: --despite-peers",
            if hello.raft_id == RaftId(standing.leader) {
                "leads".to_owned()
            } else {
                format!("follows leader {leader}")
            }
        ));
        let words =
            if hello.raft_id == RaftId(standing.leader) { "leads".to_owned() } else { format!("follows {leader}") };
        return (format!("runs, {words}, {held}"), Some((2, refused(error))));
    }
    if found.is_behind(term, last) {
        let error = StartError::ClusterAlive(format!(
            "manager {name} runs without a leader and holds a fresher log than this one: up to entry {last} of term {term}, here up to {} of term {}. Nothing was changed; recover from {name} instead, or give --despite-peers and lose what only it holds",
            found.last, found.last_term
        ));
        return (format!("runs without a leader, FRESHER: {held}"), Some((1, refused(error))));
    }
    (format!("runs without a leader, {held}"), None)
}
