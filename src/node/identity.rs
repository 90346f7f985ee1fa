//! A manager's identity: whether the others still take it for who it says it is, and its certificate.
//!
//! Owns the stop of a node whose raft id is no longer its own: its store was replaced under its old identity (design
//! section 4, rule 4), so that its votes and its log are gone, or the raft id was taken from it for ever, because it was
//! demoted or removed, or it is thrown out because somebody else may have its keys. Whether that is believed of who says it is decided
//! in [`quorate_core::membership::hearsay`]; that the raft id is gone only makes a manager ask a quorum, and it goes on until one says
//! so: two that stopped on a word each could be the quorum that both of them ask. (One that is being demoted asks once it has stopped.) Owns the renewal of a manager's certificate,
//! which it signs itself with the CA key out of its own state: nobody is asked and nothing is written to the log. Never stops a
//! node for what it refuses others. Called by the running node.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::consensus::io::{Nanos, Records};
use quorate_core::id::{Enrolled, RaftId};
use quorate_core::membership::hearsay::{self, After, Hearsay, NoMore, Own, Said};
use quorate_core::membership::trust::TrustRecord;
use quorate_core::membership::upgrade::{Support, Unfit};
use quorate_core::ports::StateRead;
use quorate_transport::{
    CertSubject, ConnectError, Endpoint, Identity, JoinError, JoinRefused, Network, Peers, Refused, trust_id,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::barrier::Barrier;
use super::builder::off_thread;
use super::ca;
use super::ending::Ending;
use super::enrolling::enrolled;
use super::facts::{Facts, Layout};
use super::own_identity;
use super::records;
use super::renewal::{self, Terms};
use super::service::Service;
use super::stop::{StartError, StopReason};
use super::worker::ask_standing;

/// Between two looks; dialling itself is paced by the transport.
const EVERY: Duration = Duration::from_millis(500);
/// Between two looks at the clock while the certificate holds.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);
/// How long a quorum may take to say that what is known here is what there is.
const PATIENCE: Duration = Duration::from_secs(5);

/// First and longest pause between two questions what this node is.
const ASKED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Watches what the dials of this node came to, and its own records; stops it once its raft id is none of its own.
pub(super) async fn keep_identity(
    service: Arc<Service>,
    peers: Peers,
    mut records: watch::Receiver<Arc<Records>>,
    ending: Ending,
    network: Network,
) {
    let facts = &service.facts;
    let (mut ask, mut pause) = (Instant::now(), ASKED.0);
    let began = Instant::now();
    let now = || Nanos(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let own = Own { raft_id: facts.raft(), store_id: facts.store(), support: Support::THIS };
    let mut hearsay = Hearsay::new(own, now());
    let reason = loop {
        if let Ok(Err(_stopped)) = tokio::time::timeout(EVERY, records.changed()).await {
            return;
        }
        let current = records.borrow_and_update().clone();
        hearsay.connected(now(), &current, peers.connected().into_iter().map(|(id, _)| id));
        if let Some(why) = hearsay.by_the_records(&current) {
            break stopped(why, facts, "its own records");
        }
        // The managers that were known at the start, and those that are recorded now.
        let known = facts.managers.iter().map(|manager| RaftId(manager.raft_id));
        let known = known.chain(current.nodes.members().filter_map(|node| node.raft()));
        let believed = known.filter_map(|peer| peers.last_failure(peer)).find_map(|error| {
            // What this node thinks of another one says nothing about itself.
            let ConnectError::Refused { address, refused, ours: false } = error.root() else { return None };
            let why = hearsay.believe(now(), &current, said(refused)?)?;
            Some((why, format!("the manager at {address}")))
        });
        match believed {
            Some((why @ NoMore::Removed, by)) if hearsay.is_leaving(&current) => break stopped(why, facts, &by),
            Some((NoMore::Removed, by)) if Instant::now() >= ask => {
                let own = records.clone();
                let gone = tokio::select! {
                    gone = is_gone(&service, &current, &by, &network) => gone,
                    // Its own records may say so meanwhile, and need no answer.
                    () = until_gone(own, &hearsay) => continue,
                };
                if gone {
                    break StopReason::Removed;
                }
                ask = Instant::now() + pause;
                pause = (pause * 2).min(ASKED.1);
            }
            Some((NoMore::Removed, _)) => {}
            Some((why, by)) => break stopped(why, facts, &by),
            None => pause = ASKED.0,
        }
    };
    ending.stop(reason);
}

/// Waits until the own records say it, or nobody tells them any more.
async fn until_gone(mut records: watch::Receiver<Arc<Records>>, hearsay: &Hearsay) {
    let _closed = records.wait_for(|records| hearsay.by_the_records(records).is_some()).await;
}

/// Whether a quorum says that this raft id is none any more. Somebody has said so (`by`), and may be wrong, or lie.
async fn is_gone(service: &Service, records: &Records, by: &str, network: &Network) -> bool {
    let facts = &service.facts;
    let others = records.nodes.members().filter(|node| node.raft_id != facts.raft_id);
    let recorded = others.filter(|node| node.raft_id != 0).flat_map(|node| &node.addresses);
    let kept = facts.managers.iter().flat_map(|manager| &manager.addresses);
    let mut managers: Vec<String> = recorded.chain(kept).cloned().collect();
    managers.sort_unstable();
    managers.dedup();
    let (identity, clock) = (service.identity(), service.certificates.clock);
    match ask_standing(&identity, Some(facts.store()), service.lineage(), &managers, clock, network).await {
        Ok(joined) if hearsay::after_removal(facts.raft(), joined.raft_id) == After::Manager => {
            tracing::warn!(
                by,
                "somebody says that the raft id of this manager was taken from it, and the cluster says that it was not: it goes on"
            );
            false
        }
        // It asks once more what it is when it has stopped.
        Ok(_) | Err(JoinError::Refused(JoinRefused::NotAMember | JoinRefused::AlreadyKnown(_))) => true,
        Err(error) => {
            tracing::warn!(
                by, %error,
                "somebody says that the raft id of this manager was taken from it, and no quorum can be asked: it goes on until one says so"
            );
            false
        }
    }
}

/// What a refusal says about who is refused; most say nothing that lasts.
const fn said(refused: &Refused) -> Option<Said> {
    match refused {
        Refused::Removed => Some(Said::Removed),
        Refused::ClusterVersion(Unfit::TooOld { cluster, .. } | Unfit::TooNew { cluster, .. }) => {
            Some(Said::Version(*cluster))
        }
        Refused::StoreReplaced => Some(Said::StoreReplaced),
        Refused::WrongCluster { .. }
        | Refused::Superseded { .. }
        | Refused::Forked { .. }
        | Refused::NotAMember
        | Refused::WrongNode(_)
        | Refused::NoCertificate
        | Refused::WrongRole { .. }
        | Refused::Revoked
        | Refused::VersionTooOld { .. }
        | Refused::VersionTooNew { .. }
        | Refused::Locked
        | Refused::Fenced
        | Refused::Duplicate
        | Refused::Busy(_)
        | Refused::Malformed
        | Refused::Other(_) => None,
    }
}

/// Why this node stops, by whom it was found out.
fn stopped(why: NoMore, facts: &Facts, by: &str) -> StopReason {
    match why {
        NoMore::Removed => StopReason::Removed,
        NoMore::Unfit(unfit) => StopReason::NeedsVersion(format!("{by} does not take this one: {unfit}")),
        NoMore::StoreReplaced => StopReason::IdentityRefused(format!(
            "{by} knows raft id {} with another store: this directory was wiped or put back to an older state, and what this node had promised is gone with it, or it is a copy. It never votes again under that identity. Nothing was harmed. Next: come back with a fresh store (this one is moved aside, not deleted): quorate join --replace --token TOKEN --manager HOST:PORT --data-dir DIR; if {} runs elsewhere, remove this copy instead",
            facts.raft_id,
            facts.display_name()
        )),
    }
}

/// What the certificate of this manager is to say of its raft id; nothing while its own records do not know it as a manager.
fn to_be_enrolled(facts: &Facts, records: &Records) -> Option<Enrolled> {
    enrolled(records.by_raft_id(facts.raft())?, records).filter(|enrolled| enrolled.store_id == facts.store())
}

/// A new certificate for a node whose own has run out, was made by a clock that was far ahead, or does not say which raft id it was
/// given; none where it holds, or where [`signed`] makes none.
pub(super) fn renewed(
    identity: &Identity,
    facts: &Facts,
    known: &Records,
    state: &dyn StateRead,
    terms: Terms,
) -> Result<Option<Identity>, StartError> {
    let holds = identity.subject().check_time(terms.clock.now()).is_ok();
    if holds && to_be_enrolled(facts, known).is_none_or(|own| identity.subject().enrolled == Some(own)) {
        return Ok(None);
    }
    signed(identity, facts, known, state, terms)
}

/// A new certificate for this manager's key, signed with the cluster's CA key out of its own state; none for a node that its
/// own records, which are those of that state, do not know as a manager (design section 9).
fn signed(
    identity: &Identity,
    facts: &Facts,
    known: &Records,
    state: &dyn StateRead,
    terms: Terms,
) -> Result<Option<Identity>, StartError> {
    let removed = known.removed.contains(&facts.raft());
    // Who is none, or none any more, has no copies of the barrier's keys either.
    let opens = known.by_raft_id(facts.raft()).is_some_and(|own| known.keyring.opens(own));
    if removed || !opens {
        return Ok(None);
    }
    let Some(ca) = records::ca(state, &Barrier::of(facts))? else { return Ok(None) };
    let trust = records::trust(state)?;
    let internal = |error: &dyn std::fmt::Display| {
        StartError::Internal(format!("the node's certificate cannot be renewed: {error}. Nothing was changed"))
    };
    let csr = identity.key().csr().map_err(|error| internal(&error))?;
    let subject = CertSubject { enrolled: to_be_enrolled(facts, known), ..identity.subject().named() };
    let certificate = ca.issue(&csr, &subject, terms.life, terms.clock.now()).map_err(|error| internal(&error))?;
    let authorities = trust.authorities.iter().map(|authority| authority.to_vec().into()).collect();
    identity.renewed_under(certificate, authorities).map(Some).map_err(|error| internal(&error))
}

/// Whether this manager trusts and shows something else than its records say.
fn is_other_trust(identity: &Identity, trust: &TrustRecord) -> bool {
    let named = trust_id(trust.authorities.iter().map(|authority| &authority[..]));
    !trust.authorities.is_empty() && identity.trust_id() != named
}

/// Renews the certificate of a running manager at half its life. The new one is on disk before it is shown; connections that
/// stand go on, and every handshake from then on has the new one.
pub(super) async fn keep_certificate(service: Arc<Service>, endpoint: Endpoint, directory: PathBuf) {
    let terms = service.certificates;
    let mut records = service.records.clone();
    let mut due = renewal::due_of_known(endpoint.identity().subject());
    let mut tried = TrustRecord::default();
    let mut tried_as = None;
    loop {
        while let Ok(left) = due.duration_since(terms.clock.now())
            && !left.is_zero()
        {
            // Of a CA that is being replaced, or has been, at once: whoever asks this manager has to find the way to it. Where that
            // came to nothing, it is tried again as any other.
            let (trust, own) = {
                let records = records.borrow_and_update();
                (records.trust.clone(), to_be_enrolled(&service.facts, &records))
            };
            // One that says nothing of the raft id, as after it came back with a fresh store: who has missed that could not let it in.
            if own.is_some() && own != tried_as && endpoint.identity().subject().enrolled != own {
                tried_as = own;
                break;
            }
            if trust != tried && is_other_trust(&endpoint.identity(), &trust) {
                // A state that went back to an older one, as after a power cut, is no reason to go back to an older CA: nobody
                // else might trust that any more. A quorum says what is true.
                if service.router.read_index(Instant::now() + PATIENCE).await.is_err() {
                    if let Ok(Err(_stopped)) = tokio::time::timeout(EVERY, records.changed()).await {
                        return;
                    }
                    continue;
                }
                if service.records.borrow().trust == trust {
                    tried = trust;
                    break;
                }
                continue;
            }
            // In steps: a machine that slept, and a clock that was set, are noticed. By a clock that was set back after it had
            // been far ahead, the certificate made meanwhile does not hold yet, for nobody.
            if let Ok(Err(_stopped)) = tokio::time::timeout(left.min(LOOK_AT_CLOCK), records.changed()).await {
                return;
            }
            if endpoint.identity().subject().check_time(terms.clock.now()).is_err() {
                break;
            }
        }
        let current = endpoint.identity();
        // (A certificate that a rotation waits for, or that is to say something else, is tried again soon: there are few managers.)
        let unnamed = tried_as.is_some() && current.subject().enrolled != tried_as;
        let pause = match unnamed || is_other_trust(&current, &records.borrow().trust) {
            true => renewal::pause_of_new_ca(Duration::ZERO),
            false => renewal::pause(current.subject()),
        };
        due = terms.clock.now() + pause;
        let Ok(store) = service.store() else { return };
        let (facts, layout, old) = (service.facts.clone(), Layout::new(&directory), Arc::clone(&current));
        let written = off_thread(move || {
            let view = store.reader.view();
            let known = Records::read(&*view)?;
            let Some(fresh) = signed(&old, &facts, &known, &*view, terms)? else { return Ok(None) };
            let told = if fresh.trust_id() == old.trust_id() { None } else { Some(known) };
            own_identity::write(&layout, &fresh)?;
            Ok(Some((Arc::new(fresh), told)))
        })
        .await;
        let (fresh, told) = match written {
            Ok(Some(written)) => written,
            // Not a manager by its own records, or not yet: the others say what it is.
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "the certificate was not renewed; it is tried again");
                continue;
            }
        };
        service.is_now(&fresh);
        match endpoint.set_identity(Arc::clone(&fresh)) {
            Ok(()) => {
                due = renewal::due_of_new(fresh.subject(), terms.clock);
                tracing::info!("the certificate was renewed");
                if let Some(records) = told {
                    ca::send_away(&endpoint, &records);
                }
                service.announce().await;
            }
            Err(error) => tracing::warn!(%error, "the renewed certificate is not used; it is tried again"),
        }
    }
}
