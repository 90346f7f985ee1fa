//! What goes through a worker's session: its items down, their statuses up.
//!
//! Owns a set on its way, part by part, and the pace at which statuses are sent. Takes nothing that is older than what the
//! worker has. Called by [`super::session`].

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::id::Lineage;
use quorate_transport::SessionSender;
use quorate_transport::session_api::{Part, up};
use tokio::sync::watch;

use crate::node::items::{Data, Item, Set};
use crate::node::work::Work;

/// Statuses are sent at most so often.
const STATUSES_EVERY: Duration = Duration::from_millis(200);

/// Sends what the embedder says of its items, all of it each time, and again when an earlier process turns out to have said
/// more.
pub(super) async fn report(mut sender: SessionSender, work: Work, mut instance: watch::Receiver<u64>) {
    let mut statuses = work.statuses();
    let mut sent = (0, 0);
    loop {
        let (now, instance_now) = (statuses.borrow_and_update().clone(), *instance.borrow_and_update());
        let order = (instance_now, now.sequence);
        // Nothing said yet in this process: what an earlier one said stands.
        if now.sequence > 0 && order != sent {
            if super::session::send(&mut sender, up::Kind::Report(now.to_report(instance_now))).await.is_err() {
                return;
            }
            sent = order;
        }
        tokio::time::sleep(STATUSES_EVERY).await;
        let changed = tokio::select! {
            changed = statuses.changed() => changed,
            changed = instance.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// A set or a difference on its way, part by part.
#[derive(Default)]
pub(super) struct Parts {
    /// What has come of it, by id; `None` until the first part.
    coming: Option<(BTreeMap<String, Item>, Data)>,
}

impl Parts {
    pub(super) async fn take(&mut self, work: &Work, part: Part) -> Result<(), String> {
        let Some(lineage) = Lineage::from_slice(&part.lineage) else {
            return Err("a set came with a malformed lineage".into());
        };
        let have = work.current();
        if !have.admits(&lineage, part.revision) {
            return Err(format!(
                "the manager told a set of revision {} in generation {}, this worker has one of revision {} in generation {}: it is behind",
                part.revision,
                lineage.generation(),
                have.revision,
                have.lineage.generation()
            ));
        }
        if part.unchanged {
            let set = Set::told(lineage, part.revision, have.items.clone(), have.data.clone());
            work.put(set).await;
            return Ok(());
        }
        let (mut items, mut data) = match self.coming.take() {
            Some(coming) => coming,
            None if part.complete => (BTreeMap::new(), Data::default()),
            None => (have.items.clone(), have.data.clone()),
        };
        for name in part.withdrawn {
            data.remove(&(name.secret, name.name));
        }
        for object in part.objects {
            let name = object.name.unwrap_or_default();
            data.put((name.secret, name.name), object.revision, &object.data);
        }
        for id in &part.removed {
            items.remove(id);
        }
        items.extend(part.items.into_iter().map(|item| (item.id.clone(), Item::from(item))));
        if part.last {
            work.put(Set::told(lineage, part.revision, items, data)).await;
        } else {
            self.coming = Some((items, data));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::id::LineageId;
    use quorate_transport::session_api::{self, Object, ObjectName};

    use super::*;
    use crate::node::facts::Layout;

    fn name(secret: bool, name: &str) -> ObjectName {
        ObjectName { secret, name: name.to_owned() }
    }

    fn object(secret: bool, of: &str, data: &'static str) -> Object {
        Object { name: Some(name(secret, of)), revision: 1, data: data.into() }
    }

    /// As a manager tells it at this revision; the last part.
    fn part(revision: u64) -> Part {
        let lineage = Lineage(vec![LineageId::from_bytes([1; 16])]);
        Part { lineage: lineage.to_bytes().into(), revision, last: true, ..Part::default() }
    }

    fn item(id: &str, secrets: &[&str], configs: &[&str]) -> session_api::Item {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (secrets, configs) = (names(secrets), names(configs));
        session_api::Item { id: id.into(), revision: 1, payload: "run".into(), secrets, configs }
    }

    #[tokio::test]
    async fn what_is_withdrawn_is_here_no_more_and_what_is_not_stays() {
        let place = tempfile::tempdir().unwrap();
        let (work, mut parts) = (Work::open(&Layout::new(place.path())), Parts::default());
        // Given two items with what they refer to, told in two parts
        let objects = vec![object(true, "db", "hunter2"), object(false, "db", "listen 80")];
        parts.take(&work, Part { complete: true, last: false, objects, ..part(3) }).await.unwrap();
        assert!(!work.current().known, "nothing counts before the last part");
        let items = vec![item("a", &["db", "other"], &["db"]), item("b", &["db"], &[])];
        let objects = vec![object(true, "other", "swordfish")];
        parts.take(&work, Part { complete: true, items, objects, ..part(3) }).await.unwrap();
        assert_eq!(work.current().data.revisions().len(), 3);
        // When one goes with what nobody else refers to, then that is gone from memory,
        let withdrawn = vec![name(true, "other"), name(false, "db")];
        let removed = vec!["a".to_owned()];
        parts.take(&work, Part { removed, withdrawn, ..part(4) }).await.unwrap();
        let left: Vec<_> = work.current().data.revisions().into_keys().collect();
        assert_eq!(left, [(true, "db".to_owned())]);
        assert_eq!(work.current().items["b"].secret("db").unwrap().expose(), b"hunter2");
        // and with the last item all of it, as when a complete set no longer has it.
        let gone = || Part { removed: vec!["b".into()], withdrawn: vec![name(true, "db")], ..part(5) };
        parts.take(&work, gone()).await.unwrap();
        assert_eq!(work.current().data, Data::default());
        let objects = vec![object(true, "db", "hunter2")];
        parts
            .take(&work, Part { complete: true, objects, items: vec![item("b", &["db"], &[])], ..part(6) })
            .await
            .unwrap();
        assert_ne!(work.current().data, Data::default());
        parts.take(&work, Part { complete: true, ..part(7) }).await.unwrap();
        assert_eq!(work.current().data, Data::default());
    }
}
