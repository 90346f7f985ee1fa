//! The identity of a client from outside, kept fresh.
//!
//! Owns when an operator's certificate is renewed: when it is half over, before the next connection is made; connections that
//! stand go on with the old one. And as soon as a manager shows that the cluster's CA is being replaced. Asked for over the join plane by proof of the key, so that it also works when the certificate
//! ran out meanwhile. Never writes a file: whoever read it may ask for the identity in use. Called by [`super::remote`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use quorate_transport::{CertRole, Clock, Connection, Identity, JoinError, JoinRequest, KeyPair, Network};

use super::SOFTWARE;

/// How long a renewal may hold up a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// After an attempt that came to nothing.
const PAUSE: Duration = Duration::from_secs(60);
/// The same where the cluster's CA is being replaced, and waits for it: before the managers send it away once more for that.
const PAUSE_OF_NEW_CA: Duration = Duration::from_secs(8);

struct Held {
    identity: Arc<Identity>,
    due: SystemTime,
    /// When a renewal was asked for last.
    asked: Option<SystemTime>,
}

pub(super) struct Papers(Mutex<Held>);

fn half(identity: &Identity) -> SystemTime {
    let subject = identity.subject();
    subject.issued() + subject.life() / 2
}

impl Papers {
    pub(super) fn new(identity: Identity) -> Self {
        let (due, identity) = (half(&identity), Arc::new(identity));
        Self(Mutex::new(Held { identity, due, asked: None }))
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current(&self) -> Arc<Identity> {
        Arc::clone(&self.held().identity)
    }

    /// A manager has shown its certificate: where another root has signed this identity's, the cluster's CA is being replaced, and a
    /// new one is asked for. Whether there is one now: it counts once it is shown.
    pub(super) async fn met(
        &self,
        manager: &Connection,
        managers: &[String],
        network: &Network,
        timeout: Duration,
    ) -> bool {
        let own = self.current().subject().issuer;
        match manager.remote_issuer() {
            None => false,
            Some(issuer) if issuer == own => {
                self.trust_no_more_than(manager);
                false
            }
            Some(_another) if !self.ask_now() => false,
            Some(_another) => self.fresh(managers, network, timeout).await.subject().issuer != own,
        }
    }

    /// A manager that proves the same root trusts and shows no more than this: a replacement of the CA is over, the older root goes.
    fn trust_no_more_than(&self, manager: &Connection) {
        let mut held = self.held();
        if let Some(identity) = held.identity.narrowed(manager.remote_authorities()) {
            held.identity = Arc::new(identity);
        }
    }

    /// Lets the next look find that it is time, unless somebody has asked a moment ago.
    fn ask_now(&self) -> bool {
        let mut held = self.held();
        let now = SystemTime::now();
        let asked = held.asked.is_some_and(|asked| now < asked + PAUSE_OF_NEW_CA);
        if !asked {
            held.due = now;
        }
        !asked
    }

    /// The identity for a connection that is made now.
    pub(super) async fn fresh(&self, managers: &[String], network: &Network, timeout: Duration) -> Arc<Identity> {
        let current = {
            let mut held = self.held();
            let now = SystemTime::now();
            if now < held.due || held.identity.subject().role != CertRole::Operator {
                return Arc::clone(&held.identity);
            }
            // One asks, and not again at once.
            (held.due, held.asked) = (now + PAUSE, Some(now));
            Arc::clone(&held.identity)
        };
        match renewed(&current, managers, network, timeout.min(PATIENCE)).await {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                *self.held() = Held { due: half(&fresh), identity: Arc::clone(&fresh), asked: None };
                tracing::info!("the operator's certificate was renewed");
                fresh
            }
            Err(error) => {
                // What is wrong with the one that there is, if anything is, is told by who does not take it.
                tracing::info!(%error, "the operator's certificate was not renewed");
                current
            }
        }
    }
}

/// The same key with a new certificate.
async fn renewed(
    identity: &Identity,
    managers: &[String],
    network: &Network,
    timeout: Duration,
) -> Result<Identity, JoinError> {
    let clock = Clock::default();
    let bad = |why: String| JoinError::BadReply(why);
    let key = KeyPair::from_pkcs8(identity.key().pkcs8_der()).map_err(|error| bad(error.to_string()))?;
    let csr = key.csr().map_err(|error| bad(error.to_string()))?;
    let mut request = JoinRequest::renewal(csr, identity.subject().node_id, clock);
    request.software = SOFTWARE.to_owned();
    let joined = quorate_transport::renew(managers, &identity.trusted(), request, timeout, clock, network).await?;
    let authorities = std::iter::once(joined.ca_certificate).chain(joined.authorities).map(Into::into).collect();
    identity.renewed_under(joined.certificate.into(), authorities).map_err(|error| bad(error.to_string()))
}
