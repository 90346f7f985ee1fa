//! Who has been told of what: a put counts as told when the last watcher has it.
//!
//! Owns the numbers that mark values, and who waits for which. Knows no store, so that two stores are measured by the very
//! same rule (`benches/beside` does that). Called by whoever puts, and by each watcher.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::oneshot;

/// Bytes of the number at the head of a marked value.
pub(crate) const MARK_BYTES: usize = 8;
/// After so long a put has not been told.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is open: how many watchers have not been told yet, and who waits for them.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    waiting: BTreeMap<u64, (usize, Option<oneshot::Sender<()>>)>,
    /// Why a watcher has ended.
    ended: Option<String>,
}

/// The puts that watchers have not been told of. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    watchers: usize,
    open: Arc<Mutex<Open>>,
}

/// A put that is not told yet.
#[derive(Debug)]
pub(crate) struct Announced {
    board: Board,
    number: u64,
    told: oneshot::Receiver<()>,
}

impl Board {
    /// For so many watchers.
    pub(crate) fn new(watchers: usize) -> Self {
        Self { watchers, open: Arc::default() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a value, before it is put; one that is shorter than the mark becomes the mark.
    pub(crate) fn announce(&self, value: &Bytes) -> (Announced, Bytes) {
        let (sender, told) = oneshot::channel();
        let number = {
            let mut open = self.open();
            open.next += 1;
            let number = open.next;
            // Without all of its watchers it never will be told.
            let waiting = open.ended.is_none().then_some(sender);
            open.waiting.insert(number, (self.watchers, waiting));
            number
        };
        let mut marked = BytesMut::with_capacity(value.len().max(MARK_BYTES));
        marked.put_u64(number);
        marked.put_slice(value.get(MARK_BYTES..).unwrap_or_default());
        (Announced { board: self.clone(), number, told }, marked.freeze())
    }

    /// One watcher has been told of this value.
    pub(crate) fn seen(&self, value: &[u8]) {
        let Some((mark, _)) = value.split_first_chunk::<MARK_BYTES>() else { return };
        let number = u64::from_be_bytes(*mark);
        let mut open = self.open();
        let Some((left, _)) = open.waiting.get_mut(&number) else { return };
        *left -= 1;
        if *left == 0
            && let Some((_, Some(waiting))) = open.waiting.remove(&number)
        {
            let _nobody_waits_any_more = waiting.send(());
        }
    }

    /// A watcher ends, and never will be told again.
    pub(crate) fn ended(&self, why: String) {
        let mut open = self.open();
        open.ended.get_or_insert(why);
        for (_, waiting) in open.waiting.values_mut() {
            *waiting = None;
        }
    }
}

impl Announced {
    /// Until the last watcher has been told.
    ///
    /// # Errors
    /// A sentence: a watcher was not told, or has ended.
    pub(crate) async fn told(mut self) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, &mut self.told).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let open = self.board.open();
                let left = open.waiting.get(&self.number).map_or(0, |(left, _)| *left);
                let why = open.ended.clone().unwrap_or_else(|| format!("nothing came for {} s", PATIENCE.as_secs()));
                Err(format!("{left} of {} watchers were not told: {why}", self.board.watchers))
            }
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.board.open().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_put_is_told_when_the_last_watcher_has_seen_it() {
        // Given a board for three watchers, and two puts
        let board = Board::new(3);
        let (first, one) = board.announce(&Bytes::from_static(b"a value that is longer than its mark"));
        let (second, two) = board.announce(&Bytes::new());
        assert!(one.ends_with(b"longer than its mark") && two.len() == MARK_BYTES && one[..8] != two[..8]);
        // When the second is seen by all of them and the first by two
        let second = tokio::spawn(second.told());
        let first = tokio::spawn(first.told());
        for seen in [&one, &two, &two, &one, &two] {
            board.seen(seen);
        }
        // Then the second is told, and the first once the third watcher has seen it
        assert_eq!(second.await.unwrap(), Ok(()));
        assert!(!first.is_finished());
        board.seen(b"short");
        board.seen(&one);
        assert_eq!(first.await.unwrap(), Ok(()));
        assert!(board.open().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_watcher_that_ended_is_named() {
        let board = Board::new(2);
        let (put, value) = board.announce(&Bytes::new());
        board.seen(&value);
        board.ended("watcher 2: the cluster is gone".into());
        let said = put.told().await.unwrap_err();
        assert!(said.contains("1 of 2 watchers") && said.contains("the cluster is gone"), "{said}");
        // And so is every put after it, at once.
        let (put, _) = board.announce(&Bytes::new());
        assert!(put.told().await.unwrap_err().contains("2 of 2"));
        assert!(board.open().waiting.is_empty());
    }
}
