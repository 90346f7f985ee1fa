//! Room for the bodies of requests, and of answers ([`crate::answers`]): how much memory those who ask can take.
//!
//! Owns the bound in bytes on what requests of one plane have under way: read, and not answered yet. Room is taken before
//! a body is read, so that who waits for it is held back by QUIC's flow control and costs its stream's window at most (the
//! short bodies of a lane of calls are read, a bounded number of them, and wait);
//! when as much again is waiting, the next one is turned away at once, as certainly not executed. Never looks into a
//! body. Peers and clients have rooms of their own: what one manager passes on to the leader never waits for what waits
//! for it. Called by the serving ends of requests and calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What bodies are counted in. One that is smaller counts nothing: such ones are bounded by their number.
const PAGE_BYTES: usize = 4 * 1024;

/// The room of one plane.
#[derive(Debug)]
pub(crate) struct Room {
    /// For those inside and those who wait.
    line: Arc<Semaphore>,
    inside: Arc<Semaphore>,
    pages: u32,
    turned_away: AtomicU64,
}

/// What a body, or an answer, takes for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Held {
    inside: Option<OwnedSemaphorePermit>,
    line: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Whether it takes any room.
    pub(crate) const fn is_some(&self) -> bool {
        self.inside.is_some()
    }

    /// Gives back what is above the place of so many bytes in this room.
    pub(crate) fn shrink(&mut self, room: &Room, bytes: usize) {
        let pages = room.pages_of(bytes);
        for permit in [&mut self.inside, &mut self.line] {
            if pages == 0 {
                *permit = None;
            } else if let Some(permit) = permit {
                let over = permit.num_permits().saturating_sub(usize::try_from(pages).unwrap_or(usize::MAX));
                drop(permit.split(over));
            }
        }
    }
}

/// As much as may is waiting already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Room {
    pub(crate) fn of(bytes: usize) -> Self {
        let pages = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX / 4).clamp(1, u32::MAX / 4);
        let count = |pages: u32| Arc::new(Semaphore::new(usize::try_from(pages).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { line: count(pages * 2), inside: count(pages), pages, turned_away: AtomicU64::new(0) }
    }

    /// One that is larger than the room has it for itself.
    fn pages_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX).min(self.pages)
    }

    /// Waits for room for a body of so many bytes, in the order of asking.
    ///
    /// Cancel safe: it leaves the line.
    pub(crate) fn enter(&self, bytes: usize) -> impl Future<Output = Held> + Send + use<> {
        let (pages, inside) = (self.pages_of(bytes), Arc::clone(&self.inside));
        async move {
            if pages == 0 {
                return Held::default();
            }
            // It is never closed.
            Held { inside: inside.acquire_many_owned(pages).await.ok(), line: None }
        }
    }

    /// As [`enter`](Self::enter), where nothing is to be waited for.
    pub(crate) fn enter_now(&self, bytes: usize) -> Option<Held> {
        let pages = self.pages_of(bytes);
        if pages == 0 {
            return Some(Held::default());
        }
        let inside = Arc::clone(&self.inside).try_acquire_many_owned(pages).ok()?;
        Some(Held { inside: Some(inside), line: None })
    }

    /// As [`enter`](Self::enter), unless too much waits already.
    pub(crate) async fn queue(&self, bytes: usize) -> Result<Held, Full> {
        let pages = self.pages_of(bytes);
        if pages == 0 {
            return Ok(Held::default());
        }
        let Ok(line) = Arc::clone(&self.line).try_acquire_many_owned(pages) else {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            return Err(Full);
        };
        Ok(Held { line: Some(line), ..self.enter(bytes).await })
    }

    /// Bytes of the bodies inside.
    pub(crate) fn bytes(&self) -> usize {
        let free = self.inside.available_permits();
        usize::try_from(self.pages).unwrap_or_default().saturating_sub(free) * PAGE_BYTES
    }

    /// How many were turned away.
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn who_finds_no_room_waits_its_turn_and_when_as_much_waits_the_next_one_is_turned_away() {
        let room = Room::of(8 * PAGE_BYTES);
        // Given a room that is full, and a line as long as it may be,
        let (first, second) = (room.queue(4 * PAGE_BYTES).await, room.queue(4 * PAGE_BYTES).await);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(room.bytes(), 8 * PAGE_BYTES);
        let mut waiting = std::pin::pin!(room.queue(8 * PAGE_BYTES));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there was room"),
            () = ready(()) => {}
        }
        // then the next one is turned away, a small one goes in,
        assert!(room.queue(PAGE_BYTES).await.is_err());
        assert_eq!(room.turned_away(), 1);
        assert!(room.queue(PAGE_BYTES - 1).await.is_ok());
        // and who waits gets in once there is room for all of it.
        drop(first);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there was room"),
            () = ready(()) => {}
        }
        drop(second);
        assert!(waiting.await.is_ok());
        assert_eq!(room.bytes(), 0);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_room_has_it_for_itself() {
        let room = Room::of(2 * PAGE_BYTES);
        let held = room.queue(100 * PAGE_BYTES).await.unwrap();
        assert_eq!(room.bytes(), 2 * PAGE_BYTES);
        drop(held);
        assert_eq!(room.bytes(), 0);
    }
}
