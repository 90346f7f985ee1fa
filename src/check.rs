//! Whether machine and network are as a manager needs them: what `quorate check` looks at.
//!
//! Owns the measures, and how one manager is asked for its own. Nothing of the cluster is changed, and nothing is written but
//! one file beside the store, which goes again. Called by the command line and by embedders; a manager answers the questions
//! in `node/checking.rs`.

#[cfg(feature = "manager")]
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use quorate_core::id::Lineage;
use quorate_transport::{Connection, Connector, Hello, Identity, Network, api};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::client::SOFTWARE;
use crate::error::{Error, Result};

/// How long the size of packets that a way carries is looked for.
const MTU_PATIENCE: Duration = Duration::from_millis(300);
/// What an ordinary Ethernet carries: whether it is more is not waited for.
const MTU_ETHERNET: u16 = 1452;

/// Until when the certificate of the node in a directory holds, running or stopped. Its key is not looked at.
///
/// # Errors
/// `Directory` when there is none, or this user may not read it.
#[cfg(feature = "manager")]
pub fn certificate_ends(directory: &Path) -> std::result::Result<SystemTime, crate::StartError> {
    let seconds = crate::node::certificate_ends(&crate::node::Layout::new(directory))?;
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// What one manager says of its machine, and of the ways to the others: the documented JSON.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ManagerCheck {
    /// Its name; its id when it has none.
    pub name: String,
    /// Where others reach it.
    pub address: String,
    /// Its software.
    pub version: String,
    /// Its clock: milliseconds since 1970.
    pub unix_ms: u64,
    /// UDP buffers that the kernel gave, bytes.
    pub udp_receive_bytes: u64,
    /// The same for sending.
    pub udp_send_bytes: u64,
    /// What it had asked for.
    pub udp_wanted_bytes: u64,
    /// Seconds until its certificate runs out; negative: since when it has.
    pub certificate_seconds: i64,
    /// Free bytes beside its store; null where that cannot be told.
    pub free_bytes: Option<u64>,
    /// The newest syncs of its log, at most 1,024 of them; null before the first.
    pub log_syncs: Option<SyncTimes>,
    /// The ways to the other managers; empty unless asked for.
    pub paths: Vec<PathCheck>,
    /// The way back to the manager that asked; null when none did.
    pub back: Option<Way>,
}

/// How long syncs took.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SyncTimes {
    /// How many were measured.
    pub syncs: usize,
    /// The middle one, milliseconds.
    pub p50_ms: f64,
    /// All but one in a hundred were as fast, milliseconds.
    pub p99_ms: f64,
    /// The slowest, milliseconds.
    pub max_ms: f64,
}

#[cfg(feature = "manager")]
impl SyncTimes {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
        let of = |part| at(part).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        Self { syncs: times.len(), p50_ms: of(50), p99_ms: of(99), max_ms: of(100) }
    }
}

/// From one manager to another, and back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PathCheck {
    /// The other's name.
    pub to: String,
    /// Its address.
    pub address: String,
    /// The way there.
    pub there: Way,
    /// The way back, dialled by the other; null when it could not be asked.
    pub back: Option<Way>,
    /// What the other says of itself; null when it could not be asked.
    pub other: Option<Seen>,
}

/// What another manager said of itself on the way.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Seen {
    /// By how much its clock is ahead, milliseconds; negative is behind. Right to half a round trip.
    pub clock_offset_ms: i64,
    /// Its software.
    pub version: String,
}

/// A fresh connection over UDP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Way {
    /// Why there is none; empty when there is.
    pub failure: String,
    /// The round trip, milliseconds.
    pub rtt_ms: f64,
    /// The largest UDP payload that the way was seen to carry, bytes.
    pub mtu: u16,
}

/// A manager, looked at from here.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Looked {
    /// The way to it.
    pub way: Way,
    /// By how much its clock is ahead of ours, milliseconds; negative is behind.
    pub clock_offset_ms: i64,
    /// What it says.
    pub check: ManagerCheck,
}

impl Way {
    fn of(connection: &Connection) -> Self {
        Self { failure: String::new(), rtt_ms: connection.rtt().as_secs_f64() * 1e3, mtu: connection.mtu() }
    }

    #[cfg(feature = "manager")]
    pub(crate) fn failed(why: impl ToString) -> Self {
        Self { failure: why.to_string(), ..Self::default() }
    }

    /// Whether there is one.
    pub const fn is_open(&self) -> bool {
        self.failure.is_empty()
    }
}

pub(crate) fn unix_ms(now: SystemTime) -> u64 {
    u64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// A connection to the first of these addresses that answers. It carries no lineage: who only looks must fence nobody.
async fn dial(
    addresses: &[String],
    identity: &Arc<Identity>,
    patience: Duration,
    network: Network,
) -> std::result::Result<Connection, String> {
    let subject = identity.subject();
    let hello = Hello::client(subject.cluster, subject.node_id, Lineage::default(), SOFTWARE);
    let connector = Connector { network, ..Connector::default() };
    let dialled = connector.connect_to(addresses, Arc::clone(identity), hello, patience).await;
    dialled.map_err(|error| error.to_string())
}

/// The largest packets are found in the first round trips.
async fn way(connection: &Connection) -> Way {
    let until = Instant::now() + MTU_PATIENCE;
    while connection.mtu() < MTU_ETHERNET && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Way::of(connection)
}

/// Only whether there is a way.
#[cfg(feature = "manager")]
pub(crate) async fn reach(addresses: &[String], identity: &Arc<Identity>, patience: Duration, network: Network) -> Way {
    match dial(addresses, identity, patience, network).await {
        Ok(connection) => way(&connection).await,
        Err(why) => Way::failed(why),
    }
}

/// Asks over a connection, and tells by how much the other's clock is ahead of ours.
async fn ask(connection: &Connection, asked: api::Check, patience: Duration) -> Result<(ManagerCheck, i64)> {
    let sent = SystemTime::now();
    let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let request = api::Request { deadline_ms, kind: Some(api::request::Kind::Check(asked)) };
    let answer = connection.request(request.encode_to_vec().into(), patience).await;
    let body = answer.map_err(|error| Error::Unavailable(error.to_string()))?;
    let half = sent.elapsed().unwrap_or_default() / 2;
    let unreadable = |why: String| Error::Internal(format!("the manager's answer cannot be read: {why}"));
    match api::Response::decode(body).map(|response| response.kind) {
        Ok(Some(api::response::Kind::Document(done))) => {
            let check: ManagerCheck =
                serde_json::from_slice(&done.json).map_err(|error| unreadable(error.to_string()))?;
            let ours = i64::try_from(unix_ms(sent + half)).unwrap_or(i64::MAX);
            let offset = i64::try_from(check.unix_ms).unwrap_or(i64::MAX).saturating_sub(ours);
            Ok((check, offset))
        }
        Ok(Some(api::response::Kind::Error(error))) => Err(Error::Unavailable(error.message)),
        Ok(_) => Err(unreadable("it is of another kind".into())),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

/// One manager as another sees it, with the way back to that other.
#[cfg(feature = "manager")]
pub(crate) async fn look_both_ways(
    addresses: &[String],
    identity: &Arc<Identity>,
    patience: Duration,
    network: Network,
) -> (Way, Option<(ManagerCheck, i64)>) {
    let connection = match dial(addresses, identity, patience, network).await {
        Ok(connection) => connection,
        Err(why) => return (Way::failed(why), None),
    };
    // The first is for the clock: the second waits for the way back.
    let clock = ask(&connection, api::Check { paths: false, back: false }, patience).await;
    let back = ask(&connection, api::Check { paths: false, back: true }, patience * 2).await;
    let looked = clock.ok().zip(back.ok()).map(|((_, offset), (check, _))| (check, offset));
    (way(&connection).await, looked)
}

/// Looks at one manager from here, over UDP, with an operator's identity; it looks at its ways to all others.
/// Changes nothing; cancel safe.
///
/// # Errors
/// `Unavailable` when there is no way to it, or no answer, within `patience` each.
pub async fn look_at(manager: &str, identity: impl Into<Arc<Identity>>, patience: Duration) -> Result<Looked> {
    let identity = identity.into();
    let connection =
        dial(&[manager.to_owned()], &identity, patience, Network::default()).await.map_err(Error::Unavailable)?;
    let (_, clock_offset_ms) = ask(&connection, api::Check { paths: false, back: false }, patience).await?;
    let (check, _) = ask(&connection, api::Check { paths: true, back: false }, patience * 2).await?;
    Ok(Looked { way: way(&connection).await, clock_offset_ms, check })
}

/// What a disk does, as measured just now.
#[cfg(feature = "manager")]
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DiskCheck {
    /// Synced writes of 4 KiB.
    pub times: SyncTimes,
    /// Free bytes.
    pub free_bytes: u64,
}

/// Measures the disk that a directory lies on: writes and syncs a small file of its own there for at most two seconds, and
/// removes it. Blocks.
///
/// # Errors
/// The directory cannot be written to, or its free space cannot be told.
#[cfg(feature = "manager")]
pub fn disk(directory: &Path) -> std::io::Result<DiskCheck> {
    use std::io::{Seek as _, SeekFrom, Write as _};

    const MOST: usize = 400;
    let path = directory.join(format!("check.{}", std::process::id()));
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::with_capacity(MOST);
    let began = std::time::Instant::now();
    let measured = loop {
        if times.len() == MOST || began.elapsed() > Duration::from_secs(2) {
            break Ok(());
        }
        let one = std::time::Instant::now();
        // The same place again and again: what is measured is the sync, not the growth of a file.
        let written = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&[0x5a; 4096]));
        if let Err(error) = written.and_then(|()| file.sync_data()) {
            break Err(error);
        }
        times.push(one.elapsed());
    };
    drop(file);
    let removed = std::fs::remove_file(&path);
    measured.and(removed)?;
    Ok(DiskCheck { times: SyncTimes::of(times), free_bytes: quorate_storage::free_space(directory)? })
}
