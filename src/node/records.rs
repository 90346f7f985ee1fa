//! Records of the managers' own: join tokens, the cluster CA, and which CA is trusted.
//!
//! Owns their keys and encoding in [`Section::Identity`]. Their secrets are sealed by the barrier ([`super::barrier`]) and bound
//! to these keys; nothing here prints them. Called by founding, joining, renewals and `token show`.

use bytes::Bytes;
use prost::Message as _;
use quorate_core::keyring::SealedRecord;
use quorate_core::keyspace::Section;
use quorate_core::membership::record::Role;
use quorate_core::membership::trust::TrustRecord;
use quorate_core::ports::{StateRead, StoreError, StoreResult};
use quorate_core::state::read;
use quorate_core::txn::{KeyValue, Range};
use quorate_transport::{ClusterCa, TokenSecret, api};
use zeroize::Zeroizing;

use super::barrier::Barrier;
use super::router::{Failure, fail};

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
    Ok(entry(view, key)?.map(|entry| (entry.value, entry.mod_revision)))
}

fn entry(view: &dyn StateRead, key: Bytes) -> StoreResult<Option<KeyValue>> {
    let record = format!("{}", key.escape_ascii());
    match read::range(view, &Range { key, ..Range::default() }) {
        Ok(found) => Ok(found.entries.into_iter().next()),
        Err(read::ReadError::Store(error)) => Err(error),
        Err(read::ReadError::Refused(refusal)) => Err(StoreError::Corrupt { record, detail: refusal.to_string() }),
    }
}

/// One live value of the state, by its full key, with the revision that made it.
pub(crate) fn made(view: &dyn StateRead, key: Bytes) -> StoreResult<Option<(Bytes, u64)>> {
    Ok(entry(view, key)?.map(|entry| (entry.value, entry.create_revision)))
}

pub(super) fn corrupt(record: &str, detail: impl ToString) -> StoreError {
    StoreError::Corrupt { record: record.to_owned(), detail: detail.to_string() }
}

/// The role's standing join token: all of it is sealed.
pub(crate) fn token(view: &dyn StateRead, role: Role, barrier: &Barrier) -> StoreResult<Option<TokenSecret>> {
    let key = token_key(role);
    let Some((bytes, _)) = value(view, key.clone())? else { return Ok(None) };
    let (_, secret) = barrier.open(view, &key, &bytes)?;
    let secret = Zeroizing::new(
        <[u8; 16]>::try_from(secret.as_slice())
            .map_err(|_length| corrupt("join token", "its secret is not 16 bytes"))?,
    );
    Ok(Some(TokenSecret::from_bytes(*secret)))
}

/// What is trusted: of a cluster whose root was never replaced its CA.
pub(crate) fn trust(view: &dyn StateRead) -> StoreResult<TrustRecord> {
    if let Some(trust) = read::trust(view)? {
        return Ok(trust);
    }
    let root = ca_certificate(view)?;
    Ok(root.map(|root| first_trust(&root)).unwrap_or_default())
}

/// As founding leaves it, with this root.
pub(crate) fn first_trust(root: &[u8]) -> TrustRecord {
    let issuer = quorate_transport::subject_id(&root.to_vec().into());
    TrustRecord::first(Bytes::copy_from_slice(root), Bytes::copy_from_slice(&issuer))
}

/// The cluster CA: the certificate is in clear, its key sealed.
pub(crate) fn ca(view: &dyn StateRead, barrier: &Barrier) -> StoreResult<Option<ClusterCa>> {
    let Some((bytes, _)) = value(view, ca_key())? else { return Ok(None) };
    let (certificate, key) = barrier.open(view, &ca_key(), &bytes)?;
    ClusterCa::from_parts(&certificate, &key).map(Some).map_err(|error| corrupt("cluster CA", error))
}

/// The certificate of the cluster CA alone.
pub(crate) fn ca_certificate(view: &dyn StateRead) -> StoreResult<Option<Bytes>> {
    let Some((bytes, _)) = value(view, ca_key())? else { return Ok(None) };
    SealedRecord::decode(bytes).map(|record| Some(record.clear)).map_err(|error| corrupt("cluster CA", error))
}
