//! A running manager and the keys of its store.
//!
//! Owns what goes on by itself: a change of a key that a crash cut off is brought to one of its two ends when the node starts,
//! and records that an older data key has sealed are sealed anew, a few at a time. Never shows a key. Called by the start,
//! and run beside the requests.

use std::sync::Arc;
use std::time::Duration;

use quorate_storage::{KeyKeeper, KeyKind};

use super::facts::Layout;
use super::files;
use super::service::Service;
use super::stop::StartError;
use crate::keys::{BESIDE, file_holds};

/// Between two steps of sealing anew: writers have the disk for most of the time.
const BREATH: Duration = Duration::from_millis(5);
/// Between two looks whether there is something to seal anew.
const REST: Duration = Duration::from_millis(500);

/// Ends what a crash left between two keys: the key that opened the store is the one in force, and a key file beside the
/// data that opens nothing any more goes.
pub(super) fn settle(layout: &Layout, keys: &KeyKeeper) -> Result<(), StartError> {
    if keys.settle()? {
        tracing::warn!("a change of the key was cut off: the key that was given is the one in force");
    }
    let beside = layout.root().join(BESIDE);
    let in_use = keys.status().slots.iter().any(|slot| slot.kind == KeyKind::File && file_holds(&beside, slot.id));
    if !in_use && beside.exists() {
        files::remove(&beside).map_err(|error| StartError::Disk(format!("removing an old key file: {error}")))?;
        tracing::info!("the key file beside the data opened nothing any more, and was removed");
    }
    Ok(())
}

/// Seals anew what an older data key has sealed, until the node stops.
pub(super) async fn keep(service: Arc<Service>) {
    loop {
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
