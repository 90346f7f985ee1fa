//! A node changes its role: a worker that is asked to be a manager gets a raft id, a manager that was demoted becomes a
//! worker again.
//!
//! Owns the node's side of both. What the managers decided is on disk before anything is done about it, and
//! [`super::state_file::settle`] does it, so that a crash anywhere ends in the same role. Both are level-triggered: they
//! are tried until they are done or no longer asked for.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::StoreId;
use quorate_core::membership::hearsay::{self, After};
use quorate_core::state::read;
use quorate_transport::api::{request, response};
use quorate_transport::{Connection, Identity, JoinError, JoinRefused, KeyPair, api};
use zeroize::Zeroizing;

use super::builder::{NodeBuilder, off_thread, random, random_seed};
use super::dialback::ListenWhileJoining;
use super::directory::resolve;
use super::facts::{Facts, KnownManager, Layout, wiped};
use super::newcomer::{SUPPORT, take_over};
use super::own_identity;
use super::state_file::StateFile;
use super::stop::{StartError, StopReason};
use super::worker::ask_standing;
use crate::client::SOFTWARE;

/// How long the managers may take to decide.
const PATIENCE: Duration = Duration::from_secs(10);
/// First and longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Asks for a raft id over the worker's own connection; on success the file says what the node is from now on.
pub(super) async fn enrol(
    layout: &Layout,
    file: &StateFile,
    identity: &Identity,
    connection: &Connection,
) -> Result<StateFile, String> {
    let mut file = file.clone();
    if file.facts.store_id.is_empty() {
        // Kept before anybody hears of it: asked again after a crash, it is the same store.
        let drawn = random(StoreId::from_bytes).map_err(|error| error.to_string())?;
        file.facts.store_id = Bytes::copy_from_slice(drawn.as_bytes());
        file.facts.sealing = random_seed().map_err(|error| error.to_string())?;
        save(layout, &file).await?;
    }
    let csr = identity.key().csr().map_err(|error| error.to_string())?;
    // A manager must be reached where it will listen: they dial back before they give anything out.
    let key = KeyPair::from_pkcs8(identity.key().pkcs8_der()).map_err(|error| error.to_string())?;
    let listen = resolve(&file.facts.listen).map_err(|error| error.to_string())?;
    let listening = ListenWhileJoining::begin(layout.ground(), listen, key).await.map_err(|error| error.to_string())?;
    let deaf = listening.failed().map(str::to_owned);
    let kind = request::Kind::Enrol(api::Enrol {
        store_id: file.facts.store_id.clone(),
        advertise: file.facts.advertise.clone(),
        command_version: SUPPORT.newest,
        command_version_min: SUPPORT.oldest,
        software: SOFTWARE.to_owned(),
        csr: csr.into(),
        sealing_key: file.facts.sealing_key(),
    });
    let deadline_ms = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
    let body = api::Request { deadline_ms, kind: Some(kind) }.encode_to_vec().into();
    let answer = connection.request(body, PATIENCE).await;
    // The port is free again before the manager binds it.
    listening.end().await;
    let answer = answer.map_err(|error| error.to_string())?;
    let done = match api::Response::decode(answer).map(|response| response.kind) {
        Ok(Some(response::Kind::Enrol(done))) => done,
        Ok(Some(response::Kind::Error(error))) => {
            return Err(deaf.map_or(error.message.clone(), |why| format!("{why}; and so: {}", error.message)));
        }
        Ok(_) | Err(_) => return Err("the manager's answer cannot be read".into()),
    };
    file.facts.raft_id = done.raft_id;
    file.certificate = done.certificate;
    file.ca = done.ca;
    file.authorities = done.authorities;
    file.facts.lineage = done.lineage;
    if !done.advertise.is_empty() {
        file.facts.advertise = done.advertise;
    }
    file.facts.managers = done
        .managers
        .into_iter()
        .map(|known| KnownManager { raft_id: known.raft_id, node_id: known.node_id, addresses: known.addresses })
        .collect();
    save(layout, &file).await?;
    tracing::info!(raft_id = file.facts.raft_id, "this node goes on as a manager");
    Ok(file)
}

async fn save(layout: &Layout, file: &StateFile) -> Result<(), String> {
    let (layout, file) = (layout.clone(), file.clone());
    off_thread(move || file.save(&layout)).await.map_err(|error| error.to_string())
}

/// This manager's raft id is none any more, by its own records or by a quorum's word (what others say only makes it ask, see
/// [`super::identity`]). Asks what the node is now, until a quorum's word for it comes; when it returns without a reason to stop, the
/// directory says what the node is.
///
/// Cancel safe: asked again it comes to the same.
pub(super) async fn after_removal(builder: &NodeBuilder) -> Option<StopReason> {
    let mut pause = PAUSE.0;
    loop {
        match ask(builder).await {
            Ok(reason) => return reason,
            Err(why) => {
                tracing::warn!(
                    why,
                    "the raft id of this manager was taken from it; what the node is now is not known yet"
                );
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The role is settled, or there is a reason to stop, or nobody could tell.
async fn ask(builder: &NodeBuilder) -> Result<Option<StopReason>, String> {
    let layout = builder.layout();
    let at = layout.clone();
    let (facts, identity, compromised) = off_thread(move || {
        let store = super::directory::open_store(&at)?;
        let facts = Facts::load(&*store.meta)?;
        // Thrown out by the last word that this store has heard: nobody who would tell it more is trusted by it any more.
        let node = facts.as_ref().map(Facts::node).unwrap_or_default();
        let compromised = read::node(&*store.state, node)?.is_some_and(|own| own.compromised);
        Ok((facts, own_identity::load(&at)?, compromised))
    })
    .await
    .map_err(|error: StartError| error.to_string())?;
    if compromised {
        return Ok(Some(StopReason::Removed));
    }
    let facts = facts.ok_or("the store has no facts about the node")?;
    let managers: Vec<String> =
        facts.managers.iter().flat_map(|manager| &manager.addresses).chain(&builder.hints).cloned().collect();
    let (clock, network) = (builder.certificates.clock, &builder.ground.network);
    let joined =
        match ask_standing(&identity, Some(facts.store()), facts.lineage_list(), &managers, clock, network).await {
            Ok(joined) => joined,
            Err(JoinError::Refused(JoinRefused::NotAMember)) => return Ok(Some(StopReason::Removed)),
            Err(JoinError::Refused(refused @ JoinRefused::AlreadyKnown(_))) => {
                return Ok(Some(StopReason::IdentityRefused(refused.to_string())));
            }
            Err(error) => return Err(error.to_string()),
        };
    match hearsay::after_removal(facts.raft(), joined.raft_id) {
        After::Worker => {}
        After::Manager => {
            tracing::warn!(
                raft_id = facts.raft_id,
                "somebody said that the raft id of this manager was taken from it, and the cluster says that it was not: it goes on as the manager that it is"
            );
            return Ok(None);
        }
        After::Elsewhere => {
            let why = format!(
                "the cluster knows this node under raft id {}, and this directory is the one of raft id {}: it was put back to what it was before the node had another store, or it is a copy. Nothing was harmed. Next: if {name} runs elsewhere, remove this copy; else come back with a fresh store (this one is moved aside, not deleted): quorate join --replace --token TOKEN --manager HOST:PORT --data-dir {}",
                joined.raft_id,
                facts.raft_id,
                builder.directory.display(),
                name = facts.display_name()
            );
            return Ok(Some(StopReason::IdentityRefused(why)));
        }
    }
    // What was of the time as a manager stays behind: the managers say anew what counts of it.
    let kept = Facts { raft_id: 0, store_id: Bytes::new(), sealing: Bytes::new(), ..facts.clone() };
    let mut file = StateFile { facts: kept, ..StateFile::default() };
    take_over(&mut file, *joined);
    // A worker has no key that could open it.
    file.joining_key = wiped(Zeroizing::new(identity.key().pkcs8_der().to_vec()));
    // As a manager it would listen where it did before, whatever the others now call that.
    file.facts.advertise = facts.advertise;
    // From here on this is a worker's directory, whatever happens next.
    off_thread(move || file.save(&layout)).await.map_err(|error: StartError| error.to_string())?;
    tracing::info!("this node was demoted: it goes on as a worker, without its log");
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::node::Node;
    use crate::status::NodeRole;
    use crate::{Start, inspect};

    fn builder(directory: &Path) -> NodeBuilder {
        Node::builder(directory).listen("127.0.0.1:0").tick(Duration::from_millis(10))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_manager_that_was_lied_to_is_told_by_the_others_that_it_still_is_one() {
        // Given two managers, of which the second has stopped because somebody said that its raft id was gone
        let root = tempfile::tempdir().unwrap();
        let first = builder(&root.path().join("m1")).name("m1").start(Start::OpenOrInit).await.unwrap();
        first.ready().await.unwrap();
        let token = first.client().join_token("manager").await.unwrap();
        let start = Start::OpenOrJoin { token, managers: vec![first.address().to_string()] };
        let directory = root.path().join("m2");
        let second = builder(&directory).name("m2").start(start).await.unwrap();
        second.ready().await.unwrap();
        second.shutdown().await;
        let raft_id = inspect(&directory).unwrap().raft_id;
        // When it asks what it is now
        let asked = tokio::time::timeout(Duration::from_secs(60), after_removal(&builder(&directory))).await.unwrap();
        // Then it is the manager that it was, and starts as one.
        assert_eq!(asked, None);
        let second = builder(&directory).start(Start::Open).await.unwrap();
        second.ready().await.unwrap();
        assert_eq!(second.role(), NodeRole::Manager);
        second.shutdown().await;
        assert_eq!(inspect(&directory).unwrap().raft_id, raft_id);
        first.shutdown().await;
    }
}
