//! What this node is to run, and how it says it goes: the embedder's side of assignments.
//!
//! Owns the set of items in force here and the statuses that the embedder gave, for as long as the node lives, whatever
//! its role is at the moment. A worker's newest complete set is on disk before anybody acts on it, and is there again after
//! a restart without any manager, marked stale. A manager's is in memory only: its own state gives it again, and has it
//! sealed, while this file is in clear. Fed by the session of a worker, or by a manager's own state; never asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_core::limits::{Met, REPORT_BYTES_MAX, STATUS_BYTES_MAX};
use quorate_transport::session_api;
use tokio::sync::watch;

use super::facts::Layout;
use super::files;
use super::items::{Item, Set};
use crate::error::{Error, Result};

/// What an [`Assignments`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AssignmentEvent {
    /// Everything that this node is to run. The first event, and once more when a stale set has been confirmed.
    #[non_exhaustive]
    Complete {
        /// Ascending by id.
        items: Vec<Item>,
        /// The store's revision that it was read at.
        revision: u64,
        /// It is what this node had when it last ran; no manager has confirmed it since.
        stale: bool,
    },
    /// What has changed since the event before.
    #[non_exhaustive]
    Changed {
        /// New items, and items written anew, ascending by id.
        added: Vec<Item>,
        /// The ids of items that are gone, ascending.
        removed: Vec<String>,
        /// The store's revision that it was read at.
        revision: u64,
    },
}

/// The statuses the embedder gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Statuses {
    /// Rises with every change, from 1.
    pub(crate) sequence: u64,
    pub(crate) items: BTreeMap<String, Bytes>,
}

impl Statuses {
    fn bytes(&self) -> usize {
        self.items.iter().map(|(id, status)| id.len() + status.len() + 16).sum()
    }

    /// As it is sent and stored.
    pub(crate) fn to_report(&self, instance: u64) -> session_api::Report {
        let item = |(id, status): (&String, &Bytes)| session_api::ItemStatus { id: id.clone(), status: status.clone() };
        session_api::Report { instance, sequence: self.sequence, items: self.items.iter().map(item).collect() }
    }
}

fn kept_in(layout: &Layout) -> PathBuf {
    layout.root().join("assignments")
}

/// Takes what was kept off the disk for good, with a draft that a crash left: the node is a manager now. Blocks.
#[cfg(feature = "manager")]
pub(super) fn forget(layout: &Layout) -> std::io::Result<()> {
    let path = kept_in(layout);
    files::remove(&files::draft_of(&path))?;
    files::remove(&path)
}

struct Inner {
    path: PathBuf,
    /// The set in force is on disk, but for its revision.
    kept: AtomicBool,
    set: watch::Sender<Arc<Set>>,
    statuses: watch::Sender<Arc<Statuses>>,
    /// Orders this process's reports after those of earlier ones; `None` until somebody has told what those were.
    instance: Mutex<Option<u64>>,
    /// The node has stopped.
    ended: watch::Sender<bool>,
}

/// The node's work. Clones are the same.
#[derive(Clone)]
pub(crate) struct Work(Arc<Inner>);

impl Work {
    /// With what the directory kept. Blocks. What cannot be read is as good as nothing: managers tell it again.
    pub(crate) fn open(layout: &Layout) -> Self {
        let path = kept_in(layout);
        let kept = match files::read(&path) {
            Ok(bytes) => bytes.and_then(Set::from_bytes),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the kept assignments cannot be used; managers tell them again");
                None
            }
        };
        let is_kept = AtomicBool::new(kept.is_some());
        let set = watch::Sender::new(Arc::new(kept.unwrap_or_default()));
        let (statuses, ended) = (watch::Sender::default(), watch::Sender::new(false));
        Self(Arc::new(Inner { path, kept: is_kept, set, statuses, instance: Mutex::new(None), ended }))
    }

    /// The set in force.
    pub(crate) fn current(&self) -> Arc<Set> {
        self.0.set.borrow().clone()
    }

    /// Puts a worker's set in force: on disk first. One feeder at a time. A set that cannot be kept is in force all the same:
    /// what is to run must not wait for a disk.
    pub(crate) async fn put(&self, set: Set) {
        let (before, kept) = (self.current(), self.0.kept.load(Ordering::Relaxed));
        if kept && *before == set {
            return;
        }
        // A revision alone is not worth a write: what is on disk is a true set of a little earlier.
        if !(kept && before.known && before.to_bytes_without_revision() == set.to_bytes_without_revision()) {
            let (path, bytes) = (self.0.path.clone(), set.to_bytes());
            let written = tokio::task::spawn_blocking(move || files::replace(&path, &bytes)).await;
            match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(path = %self.0.path.display(), %error, "the assignments could not be kept: after a restart without managers older ones would be in force");
                }
                Err(error) => tracing::error!(%error, "the thread that keeps the assignments failed"),
            }
            // Tried once for each set: a disk that is full is not asked at every word of a manager.
            self.0.kept.store(true, Ordering::Relaxed);
        }
        self.in_force(set);
    }

    /// Puts a manager's set in force, in memory only. One feeder at a time.
    #[cfg(feature = "manager")]
    pub(crate) fn hold(&self, set: Set) {
        self.0.kept.store(false, Ordering::Relaxed);
        if *self.current() != set {
            self.in_force(set);
        }
    }

    fn in_force(&self, set: Set) {
        let set = Arc::new(set);
        self.0.set.send_replace(Arc::clone(&set));
        self.0.statuses.send_if_modified(|statuses| {
            let gone = statuses.items.keys().any(|id| !set.items.contains_key(id));
            if gone {
                let statuses = Arc::make_mut(statuses);
                statuses.sequence += 1;
                statuses.items.retain(|id, _| set.items.contains_key(id));
            }
            gone
        });
    }

    /// Notes the status of an item.
    pub(crate) fn report(&self, item: &str, status: Bytes) -> Result<()> {
        if status.len() > STATUS_BYTES_MAX {
            let met = Met { name: "STATUS_BYTES_MAX", bound: STATUS_BYTES_MAX as u64, actual: status.len() as u64 };
            let message = format!(
                "the status of {item} has {} bytes, the limit `STATUS_BYTES_MAX` is {STATUS_BYTES_MAX}. The status before stands",
                status.len()
            );
            return Err(Error::Limit { limit: met.into(), message });
        }
        if !self.0.set.borrow().items.contains_key(item) {
            return Err(Error::NotFound(format!("{item} is no item of this node; its status was not noted")));
        }
        let mut refused = None;
        self.0.statuses.send_if_modified(|statuses| {
            if statuses.items.get(item) == Some(&status) {
                return false;
            }
            let before = statuses.items.get(item).map_or(0, |before| item.len() + before.len() + 16);
            let bytes = statuses.bytes() - before + item.len() + status.len() + 16;
            if bytes > REPORT_BYTES_MAX {
                refused = Some(bytes);
                return false;
            }
            let statuses = Arc::make_mut(statuses);
            statuses.sequence += 1;
            statuses.items.insert(item.to_owned(), status);
            true
        });
        match refused {
            None => Ok(()),
            Some(bytes) => {
                let met = Met { name: "REPORT_BYTES_MAX", bound: REPORT_BYTES_MAX as u64, actual: bytes as u64 };
                let message = format!(
                    "with the status of {item} this node's statuses would have {bytes} bytes, the limit `REPORT_BYTES_MAX` is {REPORT_BYTES_MAX}. The status before stands"
                );
                Err(Error::Limit { limit: met.into(), message })
            }
        }
    }

    /// Wakes whenever a status changes.
    pub(crate) fn statuses(&self) -> watch::Receiver<Arc<Statuses>> {
        self.0.statuses.subscribe()
    }

    /// What orders this process's reports, given that the managers have one of `recorded`; chosen once, and again when
    /// another process turns out to have reported later.
    pub(crate) fn instance(&self, recorded: u64) -> u64 {
        let mut instance = self.0.instance.lock().unwrap_or_else(PoisonError::into_inner);
        *instance.get_or_insert(recorded + 1)
    }

    /// Somebody reported as `recorded`, and it was not this process.
    pub(crate) fn overtake(&self, recorded: u64) -> u64 {
        let mut instance = self.0.instance.lock().unwrap_or_else(PoisonError::into_inner);
        let next = instance.unwrap_or(0).max(recorded) + 1;
        *instance = Some(next);
        next
    }

    /// A stream for the embedder.
    pub(crate) fn events(&self) -> Assignments {
        Assignments { set: self.0.set.subscribe(), given: None, ended: self.0.ended.subscribe() }
    }

    /// The node has stopped: its streams end.
    pub(crate) fn end(&self) {
        self.0.ended.send_replace(true);
    }
}

/// What this node is to run: the complete set first, then what changes. Any number of streams may be held; each gives
/// everything, and none holds up the node: who is slow gets several changes as one.
#[derive(Debug)]
#[must_use = "a stream gives nothing until it is asked"]
pub struct Assignments {
    set: watch::Receiver<Arc<Set>>,
    given: Option<Arc<Set>>,
    ended: watch::Receiver<bool>,
}

impl Assignments {
    /// The next event; `None` once the node has stopped.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<AssignmentEvent> {
        loop {
            let current = self.set.borrow_and_update().clone();
            let event = step(self.given.as_deref(), &current);
            if current.known {
                self.given = Some(current);
            }
            if event.is_some() {
                return event;
            }
            tokio::select! {
                changed = self.set.changed() => changed.ok()?,
                _ = self.ended.wait_for(|ended| *ended) => return None,
            }
        }
    }
}

/// What lies between two sets.
fn step(given: Option<&Set>, current: &Set) -> Option<AssignmentEvent> {
    if !current.known {
        return None;
    }
    let revision = current.revision;
    let given = match given {
        Some(given) if !given.stale || current.stale => given,
        Some(_) | None => {
            let items = current.items.values().cloned().collect();
            return Some(AssignmentEvent::Complete { items, revision, stale: current.stale });
        }
    };
    let added: Vec<Item> =
        current.items.values().filter(|item| given.items.get(&item.id) != Some(item)).cloned().collect();
    let removed: Vec<String> = given.items.keys().filter(|id| !current.items.contains_key(*id)).cloned().collect();
    let changed = !(added.is_empty() && removed.is_empty());
    changed.then_some(AssignmentEvent::Changed { added, removed, revision })
}

#[cfg(test)]
mod tests {
    use quorate_core::id::{Lineage, LineageId};

    use super::super::items::Data;
    use super::*;

    fn item(id: &str, revision: u64) -> Item {
        Item {
            id: id.into(),
            payload: Bytes::from_static(b"run"),
            revision,
            secrets: vec![],
            configs: vec![],
            data: Data::default(),
        }
    }

    fn lineage(ids: &[u8]) -> Lineage {
        Lineage(ids.iter().map(|id| LineageId::from_bytes([*id; 16])).collect())
    }

    fn set(revision: u64, items: &[Item]) -> Set {
        Set {
            known: true,
            stale: false,
            lineage: lineage(&[1]),
            revision,
            items: items.iter().map(|item| (item.id.clone(), item.clone())).collect(),
            data: Data::default(),
        }
    }

    #[tokio::test]
    async fn items_have_their_data_and_after_a_restart_what_is_secret_is_gone_from_them_and_from_the_disk() {
        const CANARY: &str = "correct horse battery staple";
        // Given items that refer to a secret and to configs
        let place = tempfile::tempdir().unwrap();
        let work = Work::open(&Layout::new(place.path()));
        let mut web = item("web", 3);
        (web.secrets, web.configs) = (vec!["db".into()], vec!["conf".into()]);
        let mut other = item("other", 4);
        other.configs = vec!["conf".into()];
        let mut data = Data::default();
        data.put((true, "db".into()), 1, CANARY.as_bytes());
        data.put((false, "conf".into()), 2, b"listen 80");
        let items = [web, other].map(|item| (item.id.clone(), item));
        let told = Set::told(lineage(&[1]), 5, BTreeMap::from(items), data);
        // When they are in force, then each has its own data, and no other
        work.put(told.clone()).await;
        let set = work.current();
        let (web, other) = (&set.items["web"], &set.items["other"]);
        assert_eq!(web.secret("db").unwrap().expose(), CANARY.as_bytes());
        assert_eq!(other.config("conf").map(|data| &data[..]), Some(&b"listen 80"[..]));
        assert!(web.is_complete() && other.is_complete() && other.secret("db").is_none());
        assert!(!format!("{set:?}").contains("horse"));
        // And after a restart the config is there, the secret is not, and the file has never had it
        drop(work);
        let kept = Work::open(&Layout::new(place.path())).current();
        assert!(kept.stale && kept.items["other"].is_complete() && !kept.items["web"].is_complete());
        let file = std::fs::read(place.path().join("assignments")).unwrap();
        let holds = |needle: &[u8]| file.windows(needle.len()).any(|window| window == needle);
        assert!(holds(b"listen 80"), "the scan finds what is there");
        assert!(!holds(CANARY.as_bytes()));
        // And it says so to the managers, who then tell it anew
        assert_ne!(kept.digest(), told.digest());
    }

    #[tokio::test]
    async fn the_complete_set_comes_first_and_then_what_changes_as_one() {
        let place = tempfile::tempdir().unwrap();
        let work = Work::open(&Layout::new(place.path()));
        let mut stream = work.events();
        work.put(set(5, &[item("a", 3), item("b", 4)])).await;
        let complete = AssignmentEvent::Complete { items: vec![item("a", 3), item("b", 4)], revision: 5, stale: false };
        assert_eq!(stream.next().await, Some(complete));
        // Two changes while nobody looked.
        work.put(set(6, &[item("a", 3), item("c", 6)])).await;
        work.put(set(7, &[item("a", 7), item("c", 6)])).await;
        let changed = AssignmentEvent::Changed {
            added: vec![item("a", 7), item("c", 6)],
            removed: vec!["b".into()],
            revision: 7,
        };
        assert_eq!(stream.next().await, Some(changed));
        // A newer revision of the same set is no event.
        work.put(set(9, &[item("a", 7), item("c", 6)])).await;
        work.end();
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test]
    async fn what_was_in_force_is_in_force_after_a_restart_and_marked_stale() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(place.path());
        let work = Work::open(&layout);
        work.put(set(5, &[item("a", 3)])).await;
        drop(work);
        let work = Work::open(&layout);
        let mut stream = work.events();
        let stale = AssignmentEvent::Complete { items: vec![item("a", 3)], revision: 5, stale: true };
        assert_eq!(stream.next().await, Some(stale));
        // Confirmed unchanged, it is told again, as fresh.
        work.put(set(5, &[item("a", 3)])).await;
        let fresh = AssignmentEvent::Complete { items: vec![item("a", 3)], revision: 5, stale: false };
        assert_eq!(stream.next().await, Some(fresh));
        // A damaged file is as good as none.
        drop(work);
        std::fs::write(place.path().join("assignments"), b"garbage").unwrap();
        assert!(!Work::open(&layout).current().known);
    }

    #[tokio::test]
    async fn a_manager_keeps_its_set_in_memory_and_a_worker_again_keeps_it_on_disk() {
        let place = tempfile::tempdir().unwrap();
        let (layout, path) = (Layout::new(place.path()), place.path().join("assignments"));
        let work = Work::open(&layout);
        // Given a worker's set, which is on disk, and a draft of a write that was cut off
        work.put(set(5, &[item("a", 3)])).await;
        std::fs::write(files::draft_of(&path), b"run").unwrap();
        // When the node becomes a manager, then both go, what it is to run is in force still,
        forget(&layout).unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        assert_eq!(work.current().items.len(), 1);
        // and what its state says comes into force without a file.
        let mut stream = work.events();
        assert!(matches!(stream.next().await, Some(AssignmentEvent::Complete { .. })));
        work.hold(set(6, &[item("a", 3), item("b", 6)]));
        assert!(matches!(stream.next().await, Some(AssignmentEvent::Changed { added, .. }) if added == [item("b", 6)]));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        // When it is a worker again and is told that nothing has changed, then that is on disk.
        work.put(set(6, &[item("a", 3), item("b", 6)])).await;
        assert_eq!(Work::open(&layout).current().items.len(), 2);
    }

    #[test]
    fn nothing_older_is_taken() {
        let have = set(5, &[]);
        assert!(have.admits(&lineage(&[1]), 5) && have.admits(&lineage(&[1]), 6));
        assert!(!have.admits(&lineage(&[1]), 4));
        assert!(have.admits(&lineage(&[1, 2]), 1), "a newer incarnation counts from wherever it stands");
        assert!(!Set { lineage: lineage(&[1, 2]), ..have.clone() }.admits(&lineage(&[1]), 9), "an older one never");
        assert!(!have.admits(&lineage(&[2]), 9), "nor another recovery");
        assert!(Set::default().admits(&lineage(&[1]), 0));
    }

    #[tokio::test]
    async fn statuses_are_bounded_and_go_with_their_items() {
        let place = tempfile::tempdir().unwrap();
        let work = Work::open(&Layout::new(place.path()));
        assert!(matches!(work.report("a", Bytes::new()), Err(Error::NotFound(_))));
        work.put(set(5, &[item("a", 3), item("b", 3)])).await;
        work.report("a", Bytes::from_static(b"up")).unwrap();
        work.report("b", Bytes::from_static(b"up")).unwrap();
        work.report("b", Bytes::from_static(b"up")).unwrap();
        let statuses = work.statuses();
        assert_eq!((statuses.borrow().sequence, statuses.borrow().items.len()), (2, 2));
        let long = Bytes::from(vec![0; STATUS_BYTES_MAX + 1]);
        let over = work.report("a", long).unwrap_err();
        let limit = over.limit().map(|limit| (limit.name.as_str(), limit.bound, limit.actual));
        assert_eq!(limit, Some(("STATUS_BYTES_MAX", 4_096, 4_097)), "{over}");
        work.put(set(6, &[item("b", 3)])).await;
        assert_eq!((statuses.borrow().sequence, statuses.borrow().items.len()), (3, 1));
        let many: Vec<Item> = (0..200).map(|n| item(&format!("{n:03}"), 7)).collect();
        work.put(set(7, &many)).await;
        let full = Bytes::from(vec![0; STATUS_BYTES_MAX]);
        let taken = (0..200).take_while(|n| work.report(&format!("{n:03}"), full.clone()).is_ok()).count();
        assert_eq!(taken, REPORT_BYTES_MAX / (STATUS_BYTES_MAX + 3 + 16));
    }

    #[test]
    fn reports_of_this_process_come_after_those_of_earlier_ones() {
        let place = tempfile::tempdir().unwrap();
        let work = Work::open(&Layout::new(place.path()));
        assert_eq!((work.instance(4), work.instance(9)), (5, 5), "chosen once");
        assert_eq!(work.overtake(7), 8);
        assert_eq!(work.instance(0), 8);
    }
}
