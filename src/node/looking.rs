//! Reads of single keys as they are now: many with one look at the store.
//!
//! Owns the line of those who wait for a look, and how many threads look at once. A look is taken after whoever it answers
//! has joined the line, so that it sees whatever was applied by then. What may take long, a range or the past, has a thread
//! of its own and never stands in this line. Never decides whether a read may be answered. Called by the service.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use quorate_core::id::LogIndex;
use quorate_core::ports::StateReader;
use quorate_core::state::read;
use quorate_core::txn::{Range, RangeResult};
use quorate_core::user;
use quorate_transport::{Place, api};
use tokio::sync::oneshot;

use super::authorize::Allowed;
use super::reading::{AROUND_BYTES, unread};
use super::router::{Failure, fail};
use super::service::broken;

/// Reads answered from one view at most: a view that is held keeps what is written over.
const AT_ONCE: usize = 64;
/// Threads that look at once: a second one begins when the line is longer than one look, as it is where the disk is slow.
const THREADS: usize = 4;
/// Reads in the line: more than all lanes of a busy manager have under way.
const WAITING_MAX: usize = 65_536;

/// Whether a read may stand in the line: it looks at one key, now.
pub(super) const fn is_short(range: &Range) -> bool {
    range.end.is_empty() && range.revision == 0
}

/// The encoded answer, or how large one is that found no room.
type Found = Result<Result<api::ReadDone, usize>, Failure>;

struct Asked {
    range: Allowed<Range>,
    /// Where the answer finds room before it is made.
    place: Place,
    answer: oneshot::Sender<(Place, Found)>,
}

#[derive(Default)]
struct Line {
    asked: VecDeque<Asked>,
    /// Threads that look.
    looking: usize,
}

/// The line.
#[derive(Default)]
pub(super) struct Looking {
    line: Arc<Mutex<Line>>,
}

fn locked(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Looking {
    /// Reads one key. Cancel safe: nothing is looked up for who does not wait any more.
    pub(super) async fn one(&self, reader: Arc<dyn StateReader>, range: Allowed<Range>, place: &mut Place) -> Found {
        let (answer, answered) = oneshot::channel();
        let another = {
            let mut line = locked(&self.line);
            if line.asked.len() >= WAITING_MAX {
                return Err(fail(
                    api::Code::Overloaded,
                    "too many reads wait for this manager's disk. Nothing was done; try again",
                ));
            }
            line.asked.push_back(Asked { range, place: std::mem::take(place), answer });
            let another = line.looking == 0 || (line.looking < THREADS && line.asked.len() > AT_ONCE);
            line.looking += usize::from(another);
            another
        };
        if another {
            let looker = Looker::new(&self.line);
            tokio::task::spawn_blocking(move || looker.work(&*reader));
        }
        let failed = |_dropped| (Place::default(), Err(fail(api::Code::Internal, "a reader failed")));
        let (given_back, found) = answered.await.unwrap_or_else(failed);
        *place = given_back;
        found
    }
}

/// Makes the answer, if there is room for it.
fn placed(mut result: RangeResult, applied: LogIndex, place: &mut Place) -> Result<api::ReadDone, usize> {
    user::strip_range(&mut result);
    let bytes = result.encoded_len() + AROUND_BYTES;
    if !place.take_now(bytes) {
        return Err(bytes);
    }
    Ok(api::ReadDone { result: result.encode_to_vec().into(), applied: applied.0, age_ms: None })
}

/// One thread's turn.
struct Looker {
    line: Arc<Mutex<Line>>,
    /// Those whom it looks for now. Here, so that they are told of its end after the line knows of it: who asks again finds
    /// nobody looking.
    some: VecDeque<Asked>,
    over: bool,
}

impl Looker {
    fn new(line: &Arc<Mutex<Line>>) -> Self {
        Self { line: Arc::clone(line), some: VecDeque::with_capacity(AT_ONCE), over: false }
    }
}

impl Drop for Looker {
    /// Where it ends before its time, or never begins because its runtime has ended, nobody is left standing.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut line = locked(&self.line);
        line.looking -= 1;
        if line.looking == 0 {
            line.asked.clear();
        }
    }
}

impl Looker {
    /// Answers until nobody waits.
    fn work(mut self, reader: &dyn StateReader) {
        loop {
            {
                let mut line = locked(&self.line);
                if line.asked.is_empty() {
                    // Under the lock: whoever joins the line from now on begins another turn.
                    line.looking -= 1;
                    drop(line);
                    self.over = true;
                    return;
                }
                let count = line.asked.len().min(AT_ONCE);
                self.some.extend(line.asked.drain(..count).filter(|asked| !asked.answer.is_closed()));
            }
            if self.some.is_empty() {
                continue;
            }
            let view = reader.view();
            let status = read::status(&*view);
            while let Some(Asked { range, mut place, answer }) = self.some.pop_front() {
                let found = match &status {
                    Ok(status) => read::key_now(&*view, &range, status.revision)
                        .map(|result| placed(result, status.applied, &mut place))
                        .map_err(|error| unread(&error)),
                    Err(error) => Err(broken(error)),
                };
                let _ = answer.send((place, found));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use quorate_core::ports::{StateRead, StoreError, StoreResult, Visit};
    use quorate_core::testing::MemoryStore;

    use super::*;
    use crate::node::authorize;
    use crate::node::gate::{Asker, Who};

    /// The reader of an empty store that counts its views.
    struct Counting(Arc<dyn StateReader>, AtomicUsize);

    impl StateReader for Counting {
        fn view(&self) -> Arc<dyn StateRead> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.view()
        }
    }

    fn empty() -> Arc<Counting> {
        Arc::new(Counting(MemoryStore::new().open().unwrap().state.reader(), AtomicUsize::new(0)))
    }

    async fn look(looking: &Looking, reader: Arc<dyn StateReader>) -> Found {
        let range = Range { key: "uk".into(), ..Range::default() };
        let range = authorize::within(&Asker::here(Who::Local), range).unwrap();
        looking.one(reader, range, &mut Place::default()).await
    }

    #[tokio::test]
    async fn many_are_answered_from_one_view() {
        // Given a line of as many as one look answers, and one more, all of whom wait for somebody to look
        let (looking, reader) = (Looking::default(), empty());
        locked(&looking.line).looking = THREADS;
        let mut waiting = Vec::new();
        for _ in 0..=AT_ONCE {
            let mut one = Box::pin(look(&looking, reader.clone()));
            tokio::select! {
                biased;
                _ = &mut one => panic!("nobody looks yet"),
                () = std::future::ready(()) => {}
            }
            waiting.push(one);
        }
        // When the last one does not wait any more, and somebody looks
        drop(waiting.pop());
        Looker::new(&looking.line).work(&*reader);
        // Then all are answered, from one view
        for one in waiting {
            assert_eq!(one.await.unwrap().unwrap(), api::ReadDone::default());
        }
        assert_eq!(reader.1.load(Ordering::Relaxed), 1);
        assert_eq!(locked(&looking.line).looking, THREADS - 1);
    }

    #[tokio::test]
    async fn a_look_that_fails_leaves_nobody_standing_and_the_next_read_begins_another() {
        struct Broken;
        impl StateReader for Broken {
            fn view(&self) -> Arc<dyn StateRead> {
                panic!("on purpose")
            }
        }
        let looking = Looking::default();
        let failed = look(&looking, Arc::new(Broken)).await.unwrap_err();
        assert_eq!(failed.message, "a reader failed");
        assert!(look(&looking, empty()).await.is_ok());
    }

    #[tokio::test]
    async fn a_damaged_store_is_told_to_each() {
        struct Damaged;
        impl StateRead for Damaged {
            fn get(&self, _key: &[u8]) -> StoreResult<Option<bytes::Bytes>> {
                Err(StoreError::Poisoned("a test".into()))
            }
            fn scan(&self, _: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> StoreResult<()> {
                Ok(())
            }
        }
        impl StateReader for Damaged {
            fn view(&self) -> Arc<dyn StateRead> {
                Arc::new(Self)
            }
        }
        let failed = look(&Looking::default(), Arc::new(Damaged)).await.unwrap_err();
        assert!(failed.message.contains("a test"), "{}", failed.message);
    }
}
