//! Whether workers are there, as the leader has recorded it.
//!
//! Owns the reading of [`Section::Liveness`]; never judges. What is not recorded is unknown. Called by the requests about
//! nodes, and by status.

use std::collections::BTreeMap;

use prost::Message as _;
use quorate_core::id::NodeId;
use quorate_core::keyspace::Section;
use quorate_core::ports::{StateRead, StoreResult};
use quorate_core::state::read;
use quorate_core::txn::Range;

use super::records;

/// What is recorded of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Presence {
    /// It has a session.
    Ready = 1,
    /// It has had none for longer than the grace.
    Down = 2,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct LivenessRecord {
    #[prost(int32, tag = "1")]
    presence: i32,
}

/// A record that cannot be read was written by a newer quorate: unknown.
fn parse(value: bytes::Bytes) -> Option<Presence> {
    LivenessRecord::decode(value).ok().and_then(|record| Presence::try_from(record.presence).ok())
}

/// One worker's.
pub(super) fn of(view: &dyn StateRead, node: NodeId) -> StoreResult<Option<Presence>> {
    Ok(records::value(view, Section::Liveness.key(node.as_bytes()))?.and_then(|(value, _)| parse(value)))
}

/// Every worker's.
pub(super) fn all(view: &dyn StateRead) -> StoreResult<BTreeMap<NodeId, Presence>> {
    let mut found = BTreeMap::new();
    let mut range = Range { key: Section::Liveness.key(b""), end: Section::Liveness.end(), ..Range::default() };
    loop {
        let page = match read::range(view, &range) {
            Ok(page) => page,
            Err(read::ReadError::Store(error)) => return Err(error),
            Err(read::ReadError::Refused(refusal)) => return Err(records::corrupt("liveness", refusal)),
        };
        let Some(last) = page.entries.last().map(|entry| entry.key.clone()) else { return Ok(found) };
        for entry in page.entries {
            let id = Section::Liveness.strip(&entry.key).and_then(|key| NodeId::from_slice(&key));
            found.extend(id.zip(parse(entry.value)));
        }
        if !page.more {
            return Ok(found);
        }
        range.key = [&last[..], &[0]].concat().into();
    }
}
