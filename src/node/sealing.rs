//! A running manager and the keys of its store.
//!
//! Owns what goes on by itself (a change that a crash cut off is brought to one of its two ends when the node starts, and the
//! node's own key, where it lies in clear as it did in older versions, is sealed; records
//! that an older data key has sealed are sealed anew, a few at a time) and the operator's orders about keys, which are taken on
//! the machine itself only. Called by the start, run beside the requests, and asked by the service.

use std::sync::Arc;
use std::time::Duration;

use quorate_transport::api::{self, key_order, response};
use zeroize::Zeroizing;

use super::gate::Asker;
use super::router::{Failure, fail, limited};
use super::service::{Service, blocking, json};
use super::stop::StartError;
use crate::keys::{Desk, KeyOrder, Refusal, too_short};

/// Between two steps of sealing anew: writers have the disk for most of the time.
const BREATH: Duration = Duration::from_millis(5);
/// Between two looks whether there is something to seal anew.
const REST: Duration = Duration::from_millis(500);

/// Ends what a crash left between two keys.
pub(super) fn settle(desk: &Desk) -> Result<(), StartError> {
    match desk.settle() {
        Ok((cut_off, left)) => {
            if cut_off {
                tracing::warn!("a change of the key was cut off: the key that was given is the one in force");
            }
            if let Some(left) = left {
                tracing::warn!("{left}");
            }
        }
        Err(Refusal::Store(error)) => return Err(error.into()),
        Err(Refusal::Identity(error)) => return Err(error),
        // The store is open: what lies about is told, and does no harm.
        Err(error @ (Refusal::Refused(_) | Refusal::Key(_))) => {
            tracing::warn!(%error, "an old key could not be cleared away")
        }
    }
    Ok(())
}

/// Seals anew what an older data key has sealed, until the node stops; not while the disk is low on space.
pub(super) async fn keep(service: Arc<Service>) {
    loop {
        // It would take the space that is left for what is committed already, and a full disk stops the manager.
        if service.status.borrow().low_space.is_some() {
            tokio::time::sleep(REST).await;
            continue;
        }
        let Ok(store) = service.store() else { return };
        let Some(keys) = store.keys else { return };
        let step = tokio::task::spawn_blocking(move || keys.reseal_step()).await;
        match step {
            Ok(Ok(true)) => tokio::time::sleep(BREATH).await,
            Ok(Ok(false)) => tokio::time::sleep(REST).await,
            // The store remembers: whoever writes next stops the node.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn order_of(order: api::KeyOrder) -> Result<KeyOrder, Failure> {
    let path = |text: String| (!text.is_empty()).then(|| text.into());
    Ok(match order.order {
        Some(key_order::Order::Show(_)) => KeyOrder::Show,
        Some(key_order::Order::Rotate(_)) => KeyOrder::Rotate,
        Some(key_order::Order::Move(text)) => KeyOrder::Move(text.into()),
        Some(key_order::Order::AutolockOn(_)) => KeyOrder::AutolockOn,
        Some(key_order::Order::AutolockOff(text)) => KeyOrder::AutolockOff(path(text)),
        Some(key_order::Order::UnlockKeyShow(_)) => KeyOrder::UnlockKeyShow,
        Some(key_order::Order::UnlockKeyRotate(_)) => KeyOrder::UnlockKeyRotate,
        Some(key_order::Order::Confirm(_)) => KeyOrder::Confirm,
        Some(key_order::Order::Passphrase(text)) => KeyOrder::Passphrase(Zeroizing::new(text)),
        None => {
            return Err(fail(api::Code::Invalid, "the order about keys cannot be read. Nothing was changed"));
        }
    })
}

impl Service {
    /// An operator on this machine changes the keys of this manager's store, or looks at them.
    pub(super) async fn key_order(&self, asker: &Asker, order: api::KeyOrder) -> Result<response::Kind, Failure> {
        let order = order_of(order)?;
        if let KeyOrder::Passphrase(phrase) = &order
            && let Some((met, why)) = too_short(phrase)
        {
            return Err(limited(api::Code::Invalid, met, format!("{why}. Nothing was changed")));
        }
        let Some(desk) = self.store()?.keys else {
            return Err(fail(
                api::Code::Refused,
                "the store of this manager is in memory, and not sealed. Nothing was changed",
            ));
        };
        let (looks, shows) = (matches!(order, KeyOrder::Show), matches!(order, KeyOrder::UnlockKeyShow));
        let answer = blocking(move || {
            desk.order(&order).map_err(|refusal| match refusal {
                Refusal::Refused(why) => fail(api::Code::Refused, why),
                error @ (Refusal::Key(_) | Refusal::Identity(_)) => fail(api::Code::Refused, error.to_string()),
                Refusal::Store(error) => {
                    fail(api::Code::Unknown, format!("the disk refused, and the manager stops: {error}"))
                }
            })
        })
        .await?;
        if shows {
            tracing::info!(by = %asker, key = answer.report.id, "the unlock key of the store is shown");
        } else if !looks {
            tracing::info!(by = %asker, kind = answer.report.kind, key = answer.report.id, "the keys of the store were changed");
        }
        let secret = answer.secret.map(|secret| secret.to_string()).unwrap_or_default();
        let json = json(&answer.report)?;
        Ok(response::Kind::KeyOrder(api::KeyOrderDone { json, secret, notes: answer.notes }))
    }
}
