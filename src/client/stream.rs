//! Watches as streams, for who has combinators for those.
//!
//! Owns the box in which a watch waits for what is next. What is told, and when it is over, is the watch's own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::error::Result;

/// A watch that waits, and gives itself back with what it was told.
type Turn<W, T> = Pin<Box<dyn Future<Output = (W, Result<T>)> + Send>>;

/// What a watch tells, one after the other. Ends after an error that is final.
pub(super) struct WatchStream<W, T> {
    turn: Option<Turn<W, T>>,
    next: fn(W) -> Turn<W, T>,
}

impl<W, T> WatchStream<W, T> {
    pub(super) fn new(watch: W, next: fn(W) -> Turn<W, T>) -> Self {
        Self { turn: Some(next(watch)), next }
    }
}

impl<W, T> Stream for WatchStream<W, T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(turn) = &mut self.turn else { return Poll::Ready(None) };
        let (watch, told) = ready!(turn.as_mut().poll(context));
        let goes_on = told.as_ref().err().is_none_or(|error| error.is_retryable());
        self.turn = goes_on.then(|| (self.next)(watch));
        Poll::Ready(Some(told))
    }
}
