//! Room for answers: how much memory those who are answered can take, and for how long.
//!
//! Owns the bounds in bytes on what is answered and not taken yet, of one connection and of all connections of a plane,
//! and the deadline after which somebody who does not take its answer is cut. An answer whose size is not known before it
//! is made finds its place behind its making ([`Place::queue`]), and when as much as may waits already it is thrown away:
//! what became of the request is then unknown to its caller, who asks again. What can be read again later asks for its
//! place first ([`Place::take_now`], [`Place::take`]), and is not kept meanwhile. Never looks into a body. Called by the
//! serving ends of requests, calls and the local socket, and by the node's handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::room::{Full, Held, Room};

/// What answers may take, of one plane, bytes.
pub(crate) const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// How long a caller may take to take one: what a request that is sent slowly gets, too.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// The answers of one plane.
#[derive(Debug)]
pub(crate) struct Answers {
    room: Arc<Room>,
    bytes_each: usize,
    deadline: Duration,
    cut: AtomicU64,
}

/// Those of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    room: Arc<Room>,
    all: Arc<Answers>,
}

impl Answers {
    pub(crate) fn of(bytes: usize, bytes_each: usize, deadline: Duration) -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Room::of(bytes)), bytes_each, deadline, cut: AtomicU64::new(0) })
    }

    /// For one more connection.
    pub(crate) fn connection(self: &Arc<Self>) -> Own {
        Own { room: Arc::new(Room::of(self.bytes_each)), all: Arc::clone(self) }
    }

    /// Bytes of the answers that are made and not taken yet.
    pub(crate) fn bytes(&self) -> usize {
        self.room.bytes()
    }

    /// How many callers were cut because they did not take their answers in time.
    pub(crate) fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}

impl Own {
    /// Where an answer on this connection will find room.
    pub(crate) fn place(&self) -> Place {
        let rooms = [Some(Arc::clone(&self.room)), Some(Arc::clone(&self.all.room))];
        Place { rooms, held: <[Held; 2]>::default(), bytes: 0 }
    }

    /// Gives an answer to its caller; `None` when that has not taken it within the deadline, and is to be cut.
    ///
    /// Not cancel safe: part of the answer may be gone.
    pub(crate) async fn give<T>(&self, writing: impl Future<Output = T>) -> Option<T> {
        let given = tokio::time::timeout(self.all.deadline, writing).await.ok();
        if given.is_none() {
            self.all.cut.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                seconds = self.all.deadline.as_secs_f64(),
                "a caller did not take its answer within the deadline and was cut"
            );
        }
        given
    }
}

/// Where one answer finds room: within what its connection may take, and within what all may. The default is for an answer
/// that stays in this process: it has all the room there is.
#[derive(Debug, Default)]
pub struct Place {
    /// The connection's before that of all: who waits for its own answers keeps nobody else waiting.
    rooms: [Option<Arc<Room>>; 2],
    held: [Held; 2],
    bytes: usize,
}

impl Place {
    /// Takes room for an answer of so many bytes, if there is some now. What is held above that is given back.
    pub fn take_now(&mut self, bytes: usize) -> bool {
        if bytes <= self.bytes {
            self.shrink(bytes);
            return true;
        }
        self.give_back();
        for (room, held) in self.rooms.iter().zip(&mut self.held) {
            let Some(room) = room else { continue };
            match room.enter_now(bytes) {
                Some(taken) => *held = taken,
                None => {
                    self.give_back();
                    return false;
                }
            }
        }
        self.bytes = bytes;
        true
    }

    /// As [`take_now`](Self::take_now), waiting for it in the order of asking.
    ///
    /// Cancel safe: it leaves the line, and holds nothing.
    pub async fn take(&mut self, bytes: usize) {
        if bytes <= self.bytes {
            self.shrink(bytes);
            return;
        }
        self.give_back();
        let mut taken = <[Held; 2]>::default();
        for (room, held) in self.rooms.iter().zip(&mut taken) {
            let Some(room) = room else { continue };
            *held = room.enter(bytes).await;
        }
        (self.held, self.bytes) = (taken, bytes);
    }

    /// As [`take`](Self::take) for an answer that is made already and is kept meanwhile, unless too many such wait.
    ///
    /// Cancel safe, as that.
    pub(crate) async fn queue(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes <= self.bytes {
            self.shrink(bytes);
            return Ok(());
        }
        self.give_back();
        let mut taken = <[Held; 2]>::default();
        for (room, held) in self.rooms.iter().zip(&mut taken) {
            let Some(room) = room else { continue };
            *held = room.queue(bytes).await?;
        }
        (self.held, self.bytes) = (taken, bytes);
        Ok(())
    }

    /// Whether it holds any room: what is small takes none.
    pub(crate) fn holds_some(&self) -> bool {
        self.held.iter().any(Held::is_some)
    }

    fn shrink(&mut self, bytes: usize) {
        for (room, held) in self.rooms.iter().zip(&mut self.held) {
            if let Some(room) = room {
                held.shrink(room, bytes);
            }
        }
        self.bytes = bytes;
    }

    fn give_back(&mut self) {
        self.held = <[Held; 2]>::default();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    const PAGE: usize = 4 * 1024;

    fn answers() -> Arc<Answers> {
        Answers::of(4 * PAGE, 2 * PAGE, Duration::from_secs(1))
    }

    #[tokio::test]
    async fn one_connection_takes_its_own_room_and_leaves_that_of_the_others() {
        let answers = answers();
        let (greedy, other) = (answers.connection(), answers.connection());
        // Given a connection whose answers take all that it may
        let mut first = greedy.place();
        assert!(first.take_now(2 * PAGE));
        // then there is no more for it,
        let mut second = greedy.place();
        assert!(!second.take_now(PAGE));
        assert_eq!(answers.bytes(), 2 * PAGE, "what found no room of both kinds holds nothing");
        // but for small ones, and for others,
        assert!(second.take_now(PAGE - 1));
        let mut elsewhere = other.place();
        assert!(elsewhere.take_now(2 * PAGE));
        // until there is none for anybody.
        assert!(!answers.connection().place().take_now(PAGE));
        // What turns out smaller gives back the rest, and what is dropped all of it.
        assert!(first.take_now(PAGE));
        assert_eq!(answers.bytes(), 3 * PAGE);
        assert!(second.take_now(PAGE));
        drop((first, second, elsewhere));
        assert_eq!(answers.bytes(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_and_who_leaves_the_line_holds_nothing() {
        let answers = answers();
        let own = answers.connection();
        let mut first = own.place();
        assert!(first.take_now(2 * PAGE));
        let mut second = own.place();
        tokio::select! {
            biased;
            () = second.take(2 * PAGE) => panic!("there was room"),
            () = ready(()) => {}
        }
        assert_eq!(answers.bytes(), 2 * PAGE);
        let mut third = own.place();
        {
            let mut waiting = std::pin::pin!(third.take(2 * PAGE));
            tokio::select! {
                biased;
                () = &mut waiting => panic!("there was room"),
                () = ready(()) => {}
            }
            drop(first);
            waiting.await;
        }
        assert!(third.holds_some() && !second.holds_some());
        // Of answers that are made already as much may wait as there is room for; the next one is thrown away.
        let mut made = own.place();
        let mut waiting = std::pin::pin!(made.queue(2 * PAGE));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there was room"),
            () = ready(()) => {}
        }
        let mut more = own.place();
        let mut behind = std::pin::pin!(more.queue(2 * PAGE));
        tokio::select! {
            biased;
            _ = &mut behind => panic!("there was room"),
            () = ready(()) => {}
        }
        assert_eq!(own.place().queue(PAGE).await, Err(Full));
        drop(third);
        assert_eq!(waiting.await, Ok(()));
    }

    #[tokio::test]
    async fn an_answer_that_stays_here_has_all_the_room_there_is() {
        let mut place = Place::default();
        assert!(place.take_now(usize::MAX));
        assert!(!place.holds_some());
    }
}
