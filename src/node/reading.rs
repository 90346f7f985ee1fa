//! Reads of ranges: now, and as of an older revision.
//!
//! Owns how many reads of the past are under way and at work at once, that a read ends when its deadline does or nobody
//! waits for it any more, that a view is taken when it is its turn and not before (a view that is held keeps what is written
//! over), and that no answer is kept before there is room for it. How a range is put together is
//! [`quorate_core::state::ranges`]'s. Called by the service.

use std::sync::Arc;

use prost::Message as _;
use quorate_core::ports::{StateRead, StateReader};
use quorate_core::state::check_range;
use quorate_core::state::ranges::Reading;
use quorate_core::state::read::{self, ReadError};
use quorate_core::txn::{Range, RangeResult};
use quorate_core::user;
use quorate_transport::{Place, api};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::authorize::{self, Allowed};
use super::gate::Asker;
use super::looking;
use super::router::{Failure, fail, refused};
use super::service::{Service, blocking, broken};

/// Reads of the past at work at once, of the threads that all blocking reads share: they take turns, step by step.
const PAST_AT_ONCE: usize = 2;
/// Reads of the past under way: each may hold 16 MiB for as long as it lasts.
const PAST_UNDER_WAY: usize = 4;
/// Bytes of the store that are looked at before the thread is given back: more than a page of what is there now takes, and a
/// few ten milliseconds of events.
const STEP_BYTES: usize = 8 * 1024 * 1024;

/// Who reads of the past.
#[derive(Debug)]
pub(super) struct Past {
    under_way: Arc<Semaphore>,
    at_work: Arc<Semaphore>,
}

impl Default for Past {
    fn default() -> Self {
        Self { under_way: Arc::new(Semaphore::new(PAST_UNDER_WAY)), at_work: Arc::new(Semaphore::new(PAST_AT_ONCE)) }
    }
}

/// What an answer has around its result, at most.
pub(super) const AROUND_BYTES: usize = 64;

/// A range that is being read, on the view that it was begun on.
struct Begun {
    view: Arc<dyn StateRead>,
    reading: Reading,
}

impl Begun {
    fn now(view: Arc<dyn StateRead>, range: Range) -> Result<Self, Failure> {
        let reading = Reading::begin(&*view, range).map_err(|error| unread(&error))?;
        Ok(Self { view, reading })
    }

    /// Whether it has to be given back: it is of the past, and was begun without a turn.
    const fn needs_turn(&self, has_turn: bool) -> bool {
        self.reading.is_of_the_past() && !has_turn
    }

    fn step(&mut self) -> Result<Option<RangeResult>, Failure> {
        self.reading.step(&*self.view, STEP_BYTES).map_err(|error| broken(&error))
    }
}

/// A look at the store that takes no longer than its request has: unlike a write that is held up, one that is not done by then is
/// known to be done nowhere.
pub(super) async fn in_time<T>(
    until: Instant,
    looking: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout_at(until, looking).await.unwrap_or_else(|_elapsed| {
        Err(fail(
            api::Code::Deadline,
            "this manager's disk did not answer a read in time. Nothing was done; ask another manager",
        ))
    })
}

/// Why a range was not read.
pub(super) fn unread(error: &ReadError) -> Failure {
    match error {
        ReadError::Refused(refusal) => refused(refusal),
        ReadError::Store(error) => broken(error),
    }
}

/// What a read has come to.
enum Got {
    /// The encoded answer, and the index it is of.
    Done(api::ReadDone),
    /// There is more to look at.
    On(Box<Begun>),
    /// It is of the past, and has no turn yet: it begins when it has one, on a view of its own.
    Past,
    /// There is no room for an answer of so many bytes.
    NoRoom(usize),
}

impl Service {
    /// Reads a range; its answer has found its place.
    ///
    /// Cancel safe: a read that is dropped ends with the step that it is in.
    pub(super) async fn read(
        &self,
        asker: &Asker,
        read: api::Read,
        until: Instant,
        place: &mut Place,
    ) -> Result<api::ReadDone, Failure> {
        let mut range = Range::decode(read.range)
            .map_err(|error| fail(api::Code::Invalid, format!("the range cannot be read: {error}")))?;
        user::qualify_range(&mut range);
        let range = authorize::within(asker, range)?;
        check_range(&range).map_err(|refusal| refused(&refusal))?;
        if !read.serializable {
            self.router.read_index(until).await?;
        }
        loop {
            // Before the view is taken: what comes in between only makes it younger.
            let age_ms = if read.serializable { self.age_ms() } else { Some(0) };
            match self.read_once(range.clone(), until, place).await? {
                Ok(done) => return Ok(api::ReadDone { age_ms, ..done }),
                // It is read again once there is room, and not kept until then.
                Err(bytes) => tokio::time::timeout_at(until, place.take(bytes)).await.map_err(|_elapsed| {
                    fail(
                        api::Code::Overloaded,
                        "answers that nobody has taken yet are all this manager has room for, or all that this client may \
                         have. Nothing was done; take the answers, and try again",
                    )
                })?,
            }
        }
    }

    /// From one view; else how large an answer is that found no room.
    async fn read_once(
        &self,
        range: Allowed<Range>,
        until: Instant,
        place: &mut Place,
    ) -> Result<Result<api::ReadDone, usize>, Failure> {
        let reader = self.store()?.reader;
        if looking::is_short(&range) {
            return in_time(until, self.looking.one(reader, range, place)).await;
        }
        self.past.read(reader, range, until, place).await
    }
}

impl Past {
    /// Reads a range from one view; else how large an answer is that found no room.
    async fn read(
        &self,
        reader: Arc<dyn StateReader>,
        range: Allowed<Range>,
        until: Instant,
        place: &mut Place,
    ) -> Result<Result<api::ReadDone, usize>, Failure> {
        let mut next: Option<Box<Begun>> = None;
        let mut under_way: Option<OwnedSemaphorePermit> = None;
        let mut of_the_past = false;
        loop {
            if of_the_past && under_way.is_none() {
                under_way = Some(permit(&self.under_way, until).await?);
            }
            let turn = if of_the_past { Some(permit(&self.at_work, until).await?) } else { None };
            let (reader, range, mut held) = (Arc::clone(&reader), range.clone(), std::mem::take(place));
            let (got, given_back, permit_back) = blocking(move || {
                // Held by the thread: a caller that does not wait any more gives no turn to another one.
                let (_turn, under_way) = (turn, under_way);
                let mut begun = match next {
                    Some(begun) => begun,
                    None => Box::new(Begun::now(reader.view(), range.into_inner())?),
                };
                let found = match begun.needs_turn(of_the_past) {
                    true => None,
                    false => begun.step()?,
                };
                let Some(mut result) = found else {
                    let got = if begun.needs_turn(of_the_past) { Got::Past } else { Got::On(begun) };
                    return Ok((got, held, under_way));
                };
                user::strip_range(&mut result);
                let bytes = result.encoded_len() + AROUND_BYTES;
                if !held.take_now(bytes) {
                    return Ok((Got::NoRoom(bytes), held, under_way));
                }
                let applied = read::status(&*begun.view).map_err(|error| broken(&error))?.applied.0;
                let result = result.encode_to_vec().into();
                Ok((Got::Done(api::ReadDone { result, applied, age_ms: None }), held, under_way))
            })
            .await?;
            (*place, under_way) = (given_back, permit_back);
            next = None;
            match got {
                Got::Done(done) => return Ok(Ok(done)),
                Got::NoRoom(bytes) => return Ok(Err(bytes)),
                Got::Past => of_the_past = true,
                Got::On(_) if Instant::now() >= until => {
                    return Err(fail(
                        api::Code::Deadline,
                        "the deadline passed while the range was read: what was asked for takes a look at everything that \
                         was written since that revision, or at every key of it. Nothing was done; give it more time, or \
                         ask for less",
                    ));
                }
                Got::On(begun) => next = Some(begun),
            }
        }
    }
}

async fn permit(of: &Arc<Semaphore>, until: Instant) -> Result<OwnedSemaphorePermit, Failure> {
    match tokio::time::timeout_at(until, Arc::clone(of).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(fail(
            api::Code::Overloaded,
            "this manager is busy with other reads of the past. Nothing was done; try again",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, Weak};
    use std::time::Duration;

    use bytes::Bytes;
    use quorate_core::command::{Batch, CommandKind};
    use quorate_core::id::{Lineage, LineageId, Term};
    use quorate_core::keyspace::Section;
    use quorate_core::membership::record::{ClusterRecord, NodeRecord, Role};
    use quorate_core::state::contract::{Committed, Payload};
    use quorate_core::state::{Founding, Machine, found};
    use quorate_core::testing::MemoryStore;
    use quorate_core::txn::{Put, Txn};

    use super::*;
    use crate::node::gate::Who;

    /// A reader that remembers the views it has given.
    struct Watched(Arc<dyn StateReader>, Mutex<Vec<Weak<dyn StateRead>>>);

    impl StateReader for Watched {
        fn view(&self) -> Arc<dyn StateRead> {
            let view = self.0.view();
            self.1.lock().unwrap().push(Arc::downgrade(&view));
            view
        }
    }

    impl Watched {
        fn held(&self) -> usize {
            self.1.lock().unwrap().iter().filter(|view| view.strong_count() > 0).count()
        }
    }

    /// A state in which one key was written a few times more than its versions are followed back.
    fn written() -> Watched {
        let mut store = MemoryStore::new().open().unwrap().state;
        let role = Role::Manager.into();
        let node = NodeRecord { id: vec![1; 16].into(), raft_id: 1, role, ..NodeRecord::default() };
        let cluster = ClusterRecord {
            cluster_id: vec![9; 16].into(),
            lineage: Lineage(vec![LineageId::from_bytes([8; 16])]).to_bytes().into(),
            next_raft_id: 2,
            version: 1,
            max_voters: 5,
            tick_micros: 20_000,
            ..ClusterRecord::default()
        };
        let first = found(&Founding { cluster, node, ..Founding::default() }).unwrap();
        store.found(first.writes, first.reset).unwrap();
        let mut machine = Machine::open(store).unwrap();
        for number in 1..=40u64 {
            let put = Put { key: Section::User.key(b"k"), value: number.to_string().into(), ..Put::default() };
            let data = Batch::new(vec![CommandKind::System(Txn::of(put)).into()]).to_bytes();
            let index = machine.status().applied.next();
            let payload = Payload::Commands { data, wanted: true };
            machine.apply(&[Committed { index, term: Term(1), payload }]).unwrap();
        }
        Watched(machine.reader(), Mutex::default())
    }

    fn range(revision: u64, prefix: bool) -> Allowed<Range> {
        let end = if prefix { "ul".into() } else { Bytes::new() };
        let range = Range { key: "uk".into(), end, revision, ..Range::default() };
        authorize::within(&Asker::here(Who::Local), range).unwrap()
    }

    #[tokio::test]
    async fn a_read_of_the_past_holds_no_view_before_its_turn() {
        let reader = Arc::new(written());
        let newest = read::status(&*reader.view()).unwrap().revision.0;
        // Given so many reads of the past that others have to wait
        for (busy, prefix) in [(PAST_UNDER_WAY, true), (PAST_UNDER_WAY, false), (0, true)] {
            let past = Arc::new(Past::default());
            let under_way = Arc::clone(&past.under_way).acquire_many_owned(u32::try_from(busy).unwrap()).await.unwrap();
            let at_work =
                Arc::clone(&past.at_work).acquire_many_owned(u32::try_from(PAST_AT_ONCE).unwrap()).await.unwrap();
            // When another one comes
            let (asked, by) = (Arc::clone(&past), Arc::clone(&reader));
            let reading = tokio::spawn(async move {
                let until = Instant::now() + Duration::from_secs(600);
                asked.read(by, range(newest - 30, prefix), until, &mut Place::default()).await
            });
            // Then it has found out what it is, and waits without a view
            let begun = reader.1.lock().unwrap().len();
            while reader.1.lock().unwrap().len() == begun || reader.held() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_eq!(reader.held(), 0);
            }
            assert!(!reading.is_finished());
            // And reads once it has its turn
            drop((under_way, at_work));
            let done = reading.await.unwrap().unwrap().unwrap();
            let entries = RangeResult::decode(done.result).unwrap().entries;
            assert_eq!(entries.first().map(|entry| entry.value.clone()), Some("10".into()));
            assert_eq!(reader.held(), 0);
        }
    }
}
