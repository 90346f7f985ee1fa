//! Of many who need a connection one dials, and the others wait for what comes of it.
//!
//! Owns which dials are under way, to whom, and that whoever waits for one learns of its end: done, failed, or given up by its
//! caller. No lock is held while somebody dials or waits. Never dials, and never knows what a connection is. Called by the way to
//! the managers over the network.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::CallError;

/// What is connected, of whatever kind, and the dials for more of it.
#[derive(Debug)]
pub(super) struct Dials<S> {
    inner: Mutex<Inner<S>>,
}

#[derive(Debug)]
struct Inner<S> {
    known: S,
    under_way: Vec<UnderWay>,
    next: u64,
}

/// A dial of somebody's.
#[derive(Debug)]
struct UnderWay {
    number: u64,
    /// The managers, by their numbers.
    to: Vec<usize>,
    end: watch::Receiver<Option<End>>,
}

/// How a dial ended. What was made is with what is known.
type End = Result<(), CallError>;

/// What somebody who needs a connection is to do.
pub(super) enum Looked<'a, S, T> {
    /// Use this one.
    Found(T),
    /// Wait until somebody else's dial has ended, and look again.
    Wait(Waiting),
    /// Dial.
    Dial(Dial<'a, S>),
}

/// For the end of somebody else's dial.
pub(super) struct Waiting(watch::Receiver<Option<End>>);

impl Waiting {
    /// Why it came to nothing, if it did; nothing where it was given up. Cancel safe.
    pub(super) async fn failure(mut self) -> Option<CallError> {
        match self.0.wait_for(Option::is_some).await {
            Ok(end) => end.clone().and_then(Result::err),
            Err(_given_up) => None,
        }
    }
}

/// The turn to dial. Dropped without an end it is given up, and somebody who waits has the next.
pub(super) struct Dial<'a, S> {
    dials: &'a Dials<S>,
    number: u64,
    to: Vec<usize>,
    end: watch::Sender<Option<End>>,
}

impl<S> Dials<S> {
    pub(super) fn new(known: S) -> Self {
        Self { inner: Mutex::new(Inner { known, under_way: Vec::new(), next: 0 }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known.
    pub(super) fn note<R>(&self, note: impl FnOnce(&mut S) -> R) -> R {
        note(&mut self.inner().known)
    }

    /// Looks for one that is there (`find`), else for a dial to managers that will do (`would_do`), else gives the turn to dial
    /// `to` these.
    pub(super) fn look<T>(
        &self,
        find: impl FnOnce(&mut S) -> Option<T>,
        would_do: impl Fn(&[usize]) -> bool,
        to: impl FnOnce(&mut S) -> Vec<usize>,
    ) -> Looked<'_, S, T> {
        let mut inner = self.inner();
        if let Some(found) = find(&mut inner.known) {
            return Looked::Found(found);
        }
        if let Some(dial) = inner.under_way.iter().find(|dial| would_do(&dial.to)) {
            return Looked::Wait(Waiting(dial.end.clone()));
        }
        let to = to(&mut inner.known);
        let (end, ended) = watch::channel(None);
        let number = inner.next;
        inner.next += 1;
        inner.under_way.push(UnderWay { number, to: to.clone(), end: ended });
        Looked::Dial(Dial { dials: self, number, to, end })
    }
}

impl<S> Dial<'_, S> {
    /// Whom to dial, in this order.
    pub(super) fn to(&self) -> &[usize] {
        &self.to
    }

    /// It stands; `note` takes it in before anybody who waits looks for it.
    pub(super) fn done<R>(self, note: impl FnOnce(&mut S) -> R) -> R {
        let noted = note(&mut self.over().known);
        self.end.send_replace(Some(Ok(())));
        noted
    }

    /// It came to nothing, and so would that of everybody who waits for it; not of those who come from now on.
    pub(super) fn failed(self, error: &CallError) {
        drop(self.over());
        self.end.send_replace(Some(Err(error.clone())));
    }

    /// Nobody begins to wait for it any more.
    fn over(&self) -> MutexGuard<'_, Inner<S>> {
        let mut inner = self.dials.inner();
        inner.under_way.retain(|dial| dial.number != self.number);
        inner
    }
}

impl<S> Drop for Dial<'_, S> {
    fn drop(&mut self) {
        drop(self.over());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known: connections, by the manager that each leads to.
    type Known = Vec<usize>;

    fn look<'a>(dials: &'a Dials<Known>, without: &[usize]) -> Looked<'a, Known, usize> {
        let without = without.to_vec();
        let others = without.clone();
        dials.look(
            |known| known.iter().copied().find(|manager| !without.contains(manager)),
            |to| to.iter().all(|manager| !others.contains(manager)),
            |_| (0..3).filter(|manager| !others.contains(manager)).collect(),
        )
    }

    fn dial(looked: Looked<'_, Known, usize>) -> Dial<'_, Known> {
        match looked {
            Looked::Dial(dial) => dial,
            Looked::Found(found) => panic!("{found} was found"),
            Looked::Wait(_) => panic!("it is to wait"),
        }
    }

    fn wait(looked: Looked<'_, Known, usize>) -> Waiting {
        match looked {
            Looked::Wait(waiting) => waiting,
            Looked::Found(found) => panic!("{found} was found"),
            Looked::Dial(_) => panic!("it is to dial"),
        }
    }

    #[tokio::test]
    async fn one_dials_and_all_who_wait_find_what_it_made() {
        let dials = Dials::new(Known::new());
        let first = dial(look(&dials, &[]));
        assert_eq!(first.to(), [0, 1, 2]);
        let waiting: Vec<Waiting> = (0..50).map(|_| wait(look(&dials, &[]))).collect();
        // Who may not be led to one of these dials for itself, beside the first.
        let beside = dial(look(&dials, &[1]));
        assert_eq!(beside.to(), [0, 2]);
        first.done(|known| known.push(2));
        for waiting in waiting {
            assert!(waiting.failure().await.is_none());
            assert!(matches!(look(&dials, &[]), Looked::Found(2)));
        }
        drop(beside);
        assert!(dials.inner().under_way.is_empty());
    }

    #[tokio::test]
    async fn whoever_waits_learns_that_it_failed_and_dials_itself_where_it_was_given_up() {
        let dials = Dials::new(Known::new());
        // Given a dial that fails: nobody who waited for it dials the same again
        let failing = dial(look(&dials, &[]));
        let waiting = wait(look(&dials, &[]));
        failing.failed(&CallError { unreachable: vec![0, 1, 2], ..CallError::not_taken("nobody is there") });
        assert_eq!(waiting.failure().await.map(|error| error.unreachable), Some(vec![0, 1, 2]));
        // but whoever comes later does. When its caller gives it up, then nothing of it is left, and one who waits goes on.
        let given_up = dial(look(&dials, &[]));
        let waiting = wait(look(&dials, &[]));
        drop(given_up);
        assert!(waiting.failure().await.is_none());
        let next = dial(look(&dials, &[]));
        assert_eq!(dials.inner().under_way.len(), 1);
        // (What is known can be looked at meanwhile: nobody holds it.)
        assert!(dials.note(|known| known.is_empty()));
        drop(next);
    }
}
