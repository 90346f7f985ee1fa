//! The keys of a manager's store, as an operator on its machine sees and changes them.
//!
//! Owns the requests. They are taken over the local socket and from within the node's own process only: a key never goes over
//! the network. Called by embedders and the command line.

use quorate_transport::api::{self, key_order, request, response};

use super::{Client, unexpected};
use crate::error::{Error, Result};
use crate::status::KeyReport;

/// What became of an order about keys.
#[derive(Clone)]
#[non_exhaustive]
pub struct KeysChanged {
    /// What there is now.
    pub report: KeyReport,
    /// The unlock key, where it was asked for; empty otherwise. Whoever has it can open the store.
    pub secret: String,
    /// What else is to be said, for people.
    pub notes: Vec<String>,
}

/// The keys that open the store of the manager on this machine.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    client: Client,
}

impl NodeKeys {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// What there is; no secret in it.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Denied` from anywhere but the manager's own machine.
    pub async fn show(&self) -> Result<KeyReport> {
        Ok(self.order(key_order::Order::Show(true)).await?.report)
    }

    /// Another key in the key file, and another data key. What the old one has sealed is sealed anew, in the background.
    ///
    /// Cancel safe: dropped before the answer, it may have been done or not; [`show`](Self::show) says which key counts.
    ///
    /// # Errors
    /// `Refused` when the key file cannot be written; see [`Error`].
    pub async fn rotate(&self) -> Result<KeysChanged> {
        self.order(key_order::Order::Rotate(true)).await
    }

    /// The key file lies at `path` from now on, on the manager's machine, with another key in it; one that is there already is
    /// used as it is. Refused where its directory is not there.
    ///
    /// Cancel safe: dropped before the answer, it may have been done or not; [`show`](Self::show) says which key counts.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub async fn move_to(&self, path: &str) -> Result<KeysChanged> {
        self.order(key_order::Order::Move(path.to_owned())).await
    }

    /// Makes an unlock key, which nothing on the machine holds: from the next start on the manager waits for it. It counts once
    /// it is [confirmed](Self::confirm); until then the old key opens the store as well.
    ///
    /// Cancel safe: what is not confirmed does not count.
    ///
    /// # Errors
    /// `Refused` when autolock is on already.
    pub async fn autolock_on(&self) -> Result<KeysChanged> {
        self.order(key_order::Order::AutolockOn(true)).await
    }

    /// Back to a key file: at `path`, or at the usual place.
    ///
    /// Cancel safe: dropped before the answer, it may have been done or not; [`show`](Self::show) says which key counts.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub async fn autolock_off(&self, path: Option<&str>) -> Result<KeysChanged> {
        self.order(key_order::Order::AutolockOff(path.unwrap_or_default().to_owned())).await
    }

    /// The unlock key, once more.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Refused` when there is none.
    pub async fn unlock_key(&self) -> Result<KeysChanged> {
        self.order(key_order::Order::UnlockKeyShow(true)).await
    }

    /// Another unlock key, which counts once it is [confirmed](Self::confirm).
    ///
    /// Cancel safe: what is not confirmed does not count.
    ///
    /// # Errors
    /// `Refused` when there is none.
    pub async fn rotate_unlock_key(&self) -> Result<KeysChanged> {
        self.order(key_order::Order::UnlockKeyRotate(true)).await
    }

    /// The new unlock key was written down: from now on nothing else opens the store.
    ///
    /// Cancel safe: dropped before the answer, it may have been done or not; [`show`](Self::show) says which key counts.
    ///
    /// # Errors
    /// `Refused` when none waits.
    pub async fn confirm(&self) -> Result<KeysChanged> {
        self.order(key_order::Order::Confirm(true)).await
    }

    /// From now on this passphrase opens the store.
    ///
    /// Cancel safe: dropped before the answer, it may have been done or not; [`show`](Self::show) says which key counts.
    ///
    /// # Errors
    /// `Limit` with `PASSPHRASE_CHARS_MIN` where it is shorter.
    pub async fn passphrase(&self, passphrase: &str) -> Result<KeysChanged> {
        self.order(key_order::Order::Passphrase(passphrase.to_owned())).await
    }

    /// Gives a locked manager its unlock key or passphrase.
    ///
    /// Cancel safe: dropped before the answer, it may be unlocked or not.
    ///
    /// # Errors
    /// `Refused` when it is the wrong one, or the manager is not locked.
    pub async fn unlock(&self, key: &str) -> Result<KeyReport> {
        Ok(changed(self.client.ask(request::Kind::Unlock(api::Unlock { key: key.to_owned() })).await?)?.report)
    }

    async fn order(&self, order: key_order::Order) -> Result<KeysChanged> {
        changed(self.client.ask(request::Kind::KeyOrder(api::KeyOrder { order: Some(order) })).await?)
    }
}

fn changed(answer: response::Kind) -> Result<KeysChanged> {
    let response::Kind::KeyOrder(done) = answer else { return Err(unexpected()) };
    let report = serde_json::from_slice(&done.json)
        .map_err(|error| Error::Internal(format!("the node's answer cannot be read: {error}")))?;
    Ok(KeysChanged { report, secret: done.secret, notes: done.notes })
}
