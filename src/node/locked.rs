//! A manager whose store waits for its key.
//!
//! Owns the time between the start of a locked manager and its unlocking: it holds the directory, says on the local socket that
//! it is locked and what to do, and takes the key there. Where it would listen it says that it is locked, and nothing else, to
//! everybody, so that the other managers tell it from one that is gone; nothing proves it, since its own key is sealed, too. A key that does not open the
//! store changes nothing. Called by the start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::{Lineage, RaftId};
use quorate_core::ports::StoreError;
use quorate_transport::api::{request, response};
use quorate_transport::{
    Answer, Caller, Down, Feed, Gate, Handler, Hello, IncomingSnapshot, JoinRefused, JoinReply, JoinRequest, Lane,
    LocalListener, LockedDoor, Plane, Refused, Shown, api,
};
use tokio::sync::{mpsc, oneshot};

use super::builder::{NodeBuilder, off_thread};
use super::directory::resolve;
use super::facts::Layout;
use super::ground::{Drives, Part};
use super::lock::lock;
use super::noted::Noted;
use super::own_identity;
use super::service::{failure, json};
use super::stop::StartError;
use crate::client::SOFTWARE;
use crate::keys::{self, Key, KeyKind, KeySlot, Keys};
use crate::status::{ClusterStatus, Health, NodeReport, NodeRole};

/// How long the socket stays after the key was taken, so that whoever gave it hears so.
const GOODBYE: Duration = Duration::from_millis(250);

/// A store that people have to unlock.
struct Locked {
    layout: Layout,
    slots: Vec<KeySlot>,
    /// Who it is, as its certificate says; nothing where that cannot be read.
    shown: Option<Shown>,
}

impl Locked {
    /// Of a directory whose key nobody has given; none of any other, whatever else may be wrong with it.
    fn of(layout: Layout) -> Option<Self> {
        let store = layout.store();
        if !quorate_storage::exists(&store) {
            return None;
        }
        let slots = quorate_storage::key_slots(&store).ok()?;
        let by_hand = slots.iter().any(|slot| matches!(slot.kind, KeyKind::Unlock | KeyKind::Passphrase));
        let wanted = || matches!(quorate_storage::opens(&store, &layout.keys()), Err(StoreError::KeyWanted { .. }));
        if !by_hand || !wanted() {
            return None;
        }
        let shown = own_identity::shown(&layout).ok();
        Some(Self { layout, slots, shown })
    }

    fn id(&self) -> String {
        self.shown.as_ref().map(|shown| shown.subject().node_id.to_string()).unwrap_or_default()
    }

    /// Its name, as far as that is known without its store; else its id.
    fn name(&self) -> String {
        let noted = Noted::read(&self.layout).map(|noted| noted.name).filter(|name| !name.is_empty());
        noted.unwrap_or_else(|| self.id())
    }

    fn cluster(&self) -> String {
        self.shown.as_ref().map(|shown| shown.subject().cluster.to_string()).unwrap_or_default()
    }

    /// What is, and what to do.
    fn words(&self) -> String {
        let wanted: Vec<String> = self.slots.iter().map(ToString::to_string).collect();
        format!(
            "this manager is locked: its store is sealed with {}. It serves nothing and votes nowhere until it is unlocked, and nothing on its disk is harmed. Next: quorate unlock --data-dir {}",
            wanted.join(", or "),
            self.layout.root().display()
        )
    }

    fn status(&self) -> ClusterStatus {
        ClusterStatus {
            cluster_id: self.cluster(),
            health: Health::Locked,
            advice: vec![self.words()],
            answered_by: self.name(),
            ..ClusterStatus::default()
        }
    }

    fn report(&self) -> NodeReport {
        NodeReport {
            id: self.id(),
            name: self.name(),
            cluster_id: self.cluster(),
            role: NodeRole::Manager,
            trouble: "locked".to_owned(),
            key: Some(keys::report(self.layout.root(), &self.slots)),
            ..NodeReport::default()
        }
    }

    /// What was typed, as the keys that it may mean.
    fn typed(&self, text: &str) -> Result<Vec<Key>, String> {
        let mut found = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.kind == KeyKind::Passphrase) {
            found.push(keys::stretch(text, &slot.salt).map_err(|error| error.to_string())?);
        }
        match Key::from_text(text) {
            Ok(key) => found.push(key),
            Err(error) if found.is_empty() => return Err(error.to_string()),
            Err(_) => {}
        }
        Ok(found)
    }

    /// The key that opens the store out of what was typed, or why there is none. Blocks.
    fn unlock(&self, text: &str) -> Result<Key, String> {
        let mut last = None;
        for key in self.typed(text)? {
            match quorate_storage::opens(&self.layout.store(), &quorate_storage::GivenKey(key.clone())) {
                Ok(()) => return Ok(key),
                Err(error) => last = last.or(Some(error.to_string())),
            }
        }
        Err(last.unwrap_or_else(|| "no key was given".to_owned()))
    }
}

struct Door {
    locked: Arc<Locked>,
    opened: mpsc::Sender<Key>,
}

impl Door {
    fn answer(&self, body: Bytes, reply: Answer) {
        let kind = match api::Request::decode(body) {
            Ok(request) => request.kind,
            Err(error) => {
                let why = format!("the request cannot be read: {error}. Nothing was done");
                return reply.send(failure(api::Code::Invalid, why).encode_to_vec().into());
            }
        };
        let say = |kind: Result<response::Kind, super::router::Failure>| {
            let kind = kind.unwrap_or_else(response::Kind::Error);
            Bytes::from(api::Response { kind: Some(kind) }.encode_to_vec())
        };
        if let Some(request::Kind::Unlock(unlock)) = kind {
            let (locked, opened) = (Arc::clone(&self.locked), self.opened.clone());
            tokio::spawn(async move {
                let text = zeroize::Zeroizing::new(unlock.key);
                let unlocking = Arc::clone(&locked);
                let tried = tokio::task::spawn_blocking(move || unlocking.unlock(&text)).await;
                match tried.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(key) => {
                        reply.send(say(json(&locked.report()).map(|json| {
                            response::Kind::KeyOrder(api::KeyOrderDone { json, ..api::KeyOrderDone::default() })
                        })));
                        let _ = opened.send(key).await;
                    }
                    Err(why) => {
                        let why = format!("{why}. Nothing was changed, and the manager stays locked");
                        reply.send(failure(api::Code::Refused, why).encode_to_vec().into());
                    }
                }
            });
            return;
        }
        let answer = match kind {
            Some(request::Kind::Status(_)) => {
                say(json(&self.locked.status()).map(|json| response::Kind::Status(api::StatusDone { json })))
            }
            Some(request::Kind::NodeReport(_)) => {
                say(json(&self.locked.report()).map(|json| response::Kind::NodeReport(api::NodeReportDone { json })))
            }
            // Whatever it is, and will be: a locked manager can do none of it.
            Some(_) | None => failure(api::Code::Refused, self.refusal()).encode_to_vec().into(),
        };
        reply.send(answer);
    }

    fn refusal(&self) -> String {
        format!("{}. Nothing was done", self.locked.words())
    }
}

impl Gate for Door {
    fn admit(&self, _plane: Plane, _caller: &Caller, _hello: &Hello) -> Result<(), Refused> {
        Ok(())
    }

    fn hello(&self) -> Hello {
        let (cluster, node) = self
            .locked
            .shown
            .as_ref()
            .map(|shown| (shown.subject().cluster, shown.subject().node_id))
            .unwrap_or_default();
        Hello { raft_id: RaftId(0), ..Hello::client(cluster, node, Lineage::default(), SOFTWARE) }
    }
}

impl Handler for Door {
    fn message(&self, _from: RaftId, _lane: Lane, _body: Bytes) {}
    fn peer_up(&self, _peer: RaftId) {}
    fn peer_down(&self, _peer: RaftId, _reason: Down) {}
    fn snapshot(&self, _from: RaftId, incoming: IncomingSnapshot) {
        let _ = incoming.done.send(Err("this manager is locked".into()));
    }
    fn request(&self, _caller: Caller, body: Bytes, reply: Answer) {
        self.answer(body, reply);
    }
    fn feed(&self, _caller: Caller, _body: Bytes, feed: Feed) {
        let word = failure(api::Code::Refused, self.refusal()).encode_to_vec();
        tokio::spawn(async move {
            let _ = feed.sender.finish(word.into()).await;
        });
    }
    fn join(&self, _source: SocketAddr, _request: JoinRequest, reply: oneshot::Sender<JoinReply>) {
        let _ = reply.send(JoinReply::Refused(JoinRefused::Locked));
    }
    fn lineage_newer(&self, _hello: &Hello) {}
}

/// What tells everybody outside, on a part of its own: the port is free for certain once it has ended.
struct Telling {
    stop: oneshot::Sender<()>,
    part: Part,
}

impl Telling {
    /// Begins; none where it is not known who this node is or where it listens. That it cannot is told, and is no reason not to
    /// wait for the key.
    async fn begin(builder: &NodeBuilder, locked: &Locked) -> Option<Self> {
        let own = *locked.shown.as_ref()?.subject();
        let layout = builder.layout();
        let asked = builder.listen.clone();
        let listen = off_thread(move || {
            Ok(asked.or_else(|| Some(Noted::read(&layout)?.listen)).and_then(|at| resolve(&at).ok()))
        });
        let listen = listen.await.ok().flatten()?;
        let network = builder.ground.network.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let work = async move {
            match LockedDoor::listen(listen, (own.cluster, own.node_id), &network) {
                Ok(door) => {
                    tokio::select! {
                        () = door.serve() => {}
                        _ = stopped => {}
                    }
                }
                Err(error) => tracing::warn!(%error, "the other managers are not told that this one is locked"),
            }
        };
        let part = builder.ground.start("quorate-locked", Drives::Network, work, |()| {});
        part.ok().map(|part| Self { stop, part })
    }

    async fn end(self) {
        drop(self.stop);
        self.part.join().await;
    }
}

/// Waits, where the store of the directory is locked, until somebody has given the key; the key then.
///
/// Cancel safe: what was begun is given back.
pub(super) async fn unlocked(builder: &NodeBuilder) -> Result<Option<Keys>, StartError> {
    let layout = builder.layout();
    let looked = layout.clone();
    let Some(locked) = off_thread(move || Ok(Locked::of(looked))).await? else { return Ok(None) };
    let locked = Arc::new(locked);
    let holding = layout.clone();
    let held = off_thread(move || lock(&holding)).await?;
    let (opened, mut given) = mpsc::channel(1);
    let listener = LocalListener::bind(layout.root()).map_err(|error| StartError::InUse(error.to_string()))?;
    tracing::warn!("{}", locked.words());
    let telling = Telling::begin(builder, &locked).await;
    let door = Arc::new(Door { locked, opened });
    let serving = listener.serve(Arc::clone(&door) as Arc<dyn Gate>, door as Arc<dyn Handler>);
    tokio::pin!(serving);
    let key = tokio::select! {
        () = &mut serving => None,
        key = given.recv() => key,
    };
    tokio::select! {
        () = &mut serving => {}
        () = tokio::time::sleep(GOODBYE) => {}
    }
    if let Some(telling) = telling {
        telling.end().await;
    }
    drop(held);
    tracing::info!("unlocked");
    Ok(key.map(Keys::key))
}
