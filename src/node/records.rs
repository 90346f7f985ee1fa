//! Records of the managers' own: join tokens and the cluster CA.
//!
//! Owns their keys and encoding in [`Section::Identity`]. Their secrets lie in the state as they are until the barrier
//! of a later version seals them; nothing here prints them. Called by founding, joining and `token show`.

use bytes::Bytes;
use prost::Message as _;
use quorate_core::keyspace::Section;
use quorate_core::membership::record::Role;
use quorate_core::membership::trust::TrustRecord;
use quorate_core::ports::{StateRead, StoreError, StoreResult};
use quorate_core::state::read;
use quorate_core::txn::Range;
use quorate_transport::{ClusterCa, TokenSecret, api};

use super::router::{Failure, fail};

/// The role's standing join token. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TokenRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) secret: Bytes,
}

/// The cluster CA. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CaRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) certificate: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) key: Bytes,
}

/// The role with this name.
pub(super) fn role_named(name: &str) -> Result<Role, Failure> {
    [Role::Manager, Role::Worker].into_iter().find(|role| role.name() == name).ok_or_else(|| {
        let given: String = name.chars().take(40).collect();
        fail(api::Code::Invalid, format!("there is no role `{given}`; say manager or worker. Nothing was changed"))
    })
}

pub(crate) fn token_key(role: Role) -> Bytes {
    Section::Identity.key(format!("token/{}", role.name()).as_bytes())
}

pub(crate) fn ca_key() -> Bytes {
    Section::Identity.key(b"ca")
}

/// One live value of the state, by its full key.
pub(crate) fn value(view: &dyn StateRead, key: Bytes) -> StoreResult<Option<(Bytes, u64)>> {
    let record = format!("{}", key.escape_ascii());
    match read::range(view, &Range { key, ..Range::default() }) {
        Ok(found) => Ok(found.entries.into_iter().next().map(|entry| (entry.value, entry.mod_revision))),
        Err(read::ReadError::Store(error)) => Err(error),
        Err(read::ReadError::Refused(refusal)) => Err(StoreError::Corrupt { record, detail: refusal.to_string() }),
    }
}

pub(super) fn corrupt(record: &str, detail: impl ToString) -> StoreError {
    StoreError::Corrupt { record: record.to_owned(), detail: detail.to_string() }
}

pub(crate) fn token(view: &dyn StateRead, role: Role) -> StoreResult<Option<TokenSecret>> {
    let Some((bytes, _)) = value(view, token_key(role))? else { return Ok(None) };
    let record = TokenRecord::decode(bytes).map_err(|error| corrupt("join token", error))?;
    let secret =
        record.secret.as_ref().try_into().map_err(|_length| corrupt("join token", "its secret is not 16 bytes"))?;
    Ok(Some(TokenSecret::from_bytes(secret)))
}

/// What is trusted: of a cluster whose root was never replaced its CA.
pub(crate) fn trust(view: &dyn StateRead) -> StoreResult<TrustRecord> {
    if let Some(trust) = read::trust(view)? {
        return Ok(trust);
    }
    let ca = ca(view)?;
    Ok(ca.map(|ca| first_trust(&ca)).unwrap_or_default())
}

/// As founding leaves it.
pub(crate) fn first_trust(ca: &ClusterCa) -> TrustRecord {
    TrustRecord::first(Bytes::copy_from_slice(ca.certificate()), Bytes::copy_from_slice(&ca.issuer_id()))
}

pub(crate) fn ca(view: &dyn StateRead) -> StoreResult<Option<ClusterCa>> {
    let Some((bytes, _)) = value(view, ca_key())? else { return Ok(None) };
    let record = CaRecord::decode(bytes).map_err(|error| corrupt("cluster CA", error))?;
    ClusterCa::from_parts(&record.certificate, &record.key).map(Some).map_err(|error| corrupt("cluster CA", error))
}
