//! What log writer and applier tell the consensus task: one queue, and a bell.
//!
//! Owns the queue of their reports, in order, and who is woken for them: the task is, where the machine waits for the report; any
//! other lies there until something else wakes it, a tick at the latest. Never decides what is waited for. Called by the
//! three threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use quorate_core::consensus::awaited::Awaited;
use quorate_core::consensus::io::Input;
use tokio::sync::Notify;

/// What is waited for, as the task last said, and how it is woken.
#[derive(Debug, Default)]
pub(super) struct Bell {
    disk: AtomicBool,
    applier: AtomicBool,
    rung: Notify,
}

/// A writer's end.
#[derive(Clone)]
pub(super) struct Teller {
    /// There are at most as many reports as there are jobs, so it is as bounded as the queues of those.
    reports: Sender<Input>,
    bell: Arc<Bell>,
}

/// The consensus task's end.
pub(super) struct Told {
    reports: Receiver<Input>,
    bell: Arc<Bell>,
}

/// The two ends.
pub(super) fn reports() -> (Teller, Told) {
    let (reports, told) = channel();
    let bell = Arc::new(Bell::default());
    (Teller { reports, bell: Arc::clone(&bell) }, Told { reports: told, bell })
}

impl Teller {
    /// Never waits; false when nobody takes it any more.
    pub(super) fn tell(&self, report: Input) -> bool {
        let bell = &self.bell;
        // What brings something by itself is waited for by everybody.
        let anyhow = Awaited::default().is_for(&report);
        let of_disk = Awaited { disk: true, applier: false }.is_for(&report);
        if self.reports.send(report).is_err() {
            return false;
        }
        // Either this sees what the task waits for, or the task, which looks once more when it has said so, sees the report.
        fence(Ordering::SeqCst);
        let waits = if of_disk { &bell.disk } else { &bell.applier };
        if anyhow || waits.load(Ordering::Relaxed) {
            bell.rung.notify_one();
        }
        true
    }
}

impl Bell {
    /// Ends when something was told that is waited for. Cancel safe: what was told stays.
    pub(super) async fn rung(&self) {
        self.rung.notified().await;
    }
}

impl Told {
    pub(super) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// Moves everything there is, in order; false when there is nothing, and nobody will tell anything any more.
    pub(super) fn take(&self, into: &mut Vec<Input>) -> bool {
        loop {
            match self.reports.try_recv() {
                Ok(report) => into.push(report),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return !into.is_empty(),
            }
        }
    }

    /// From now on this is waited for. To be followed by a look at what there is.
    pub(super) fn wait_for(&self, awaited: Awaited) {
        self.bell.disk.store(awaited.disk, Ordering::Relaxed);
        self.bell.applier.store(awaited.applier, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use quorate_core::id::LogIndex;

    use super::*;

    async fn is_rung(told: &Told) -> bool {
        tokio::time::timeout(Duration::ZERO, told.bell.rung()).await.is_ok()
    }

    #[tokio::test]
    async fn only_what_is_waited_for_wakes_and_everything_comes_in_order() {
        let applied = |index| Input::Applied { index: LogIndex(index), records: None, leases: Vec::new() };
        let (teller, told) = reports();
        // Given a task that waits for its disk
        told.wait_for(Awaited { disk: true, applier: false });
        // When something is applied, then it is left alone;
        assert!(teller.tell(applied(1)));
        assert!(!is_rung(&told).await);
        // when something is on disk, it is not, and finds both.
        assert!(teller.tell(Input::Persisted { number: 2 }));
        assert!(is_rung(&told).await);
        let mut all = Vec::new();
        assert!(told.take(&mut all));
        assert!(matches!(all[..], [Input::Applied { .. }, Input::Persisted { number: 2 }]), "{all:?}");
        // A failure is waited for by everybody.
        told.wait_for(Awaited::default());
        assert!(teller.tell(Input::Persisted { number: 3 }));
        assert!(!is_rung(&told).await);
        let failed = quorate_core::ports::StoreError::Poisoned("a test".into());
        assert!(teller.tell(Input::StoreFailed(failed)));
        assert!(is_rung(&told).await);
        // What was told before the end is taken, and then nothing comes any more.
        drop(teller);
        all.clear();
        assert!(told.take(&mut all));
        assert!(matches!(all[..], [Input::Persisted { number: 3 }, Input::StoreFailed(_)]), "{all:?}");
        all.clear();
        assert!(!told.take(&mut all));
    }
}
