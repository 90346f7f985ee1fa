//! Reads of ranges: now, and as of an older revision.
//!
//! Owns how many reads of the past are under way and at work at once, that a read ends when its deadline does or nobody
//! waits for it any more, and that no answer is kept before there is room for it. How a range is put together is
//! [`quorate_core::state::ranges`]'s. Called by the service.

use std::sync::Arc;

use prost::Message as _;
use quorate_core::ports::StateRead;
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
const AROUND_BYTES: usize = 64;

/// A range that is being read, on the view that it was begun on.
struct Begun {
    view: Arc<dyn StateRead>,
    reading: Reading,
}

impl Begun {
    fn now(view: Arc<dyn StateRead>, range: Range) -> Result<Self, Failure> {
        let reading = Reading::begin(&*view, range).map_err(|error| match error {
            ReadError::Refused(refusal) => refused(&refusal),
            ReadError::Store(error) => broken(&error),
        })?;
        Ok(Self { view, reading })
    }

    fn step(&mut self) -> Result<Option<RangeResult>, Failure> {
        self.reading.step(&*self.view, STEP_BYTES).map_err(|error| broken(&error))
    }
}

/// What a read has come to.
enum Got {
    /// The encoded answer, and the index it is of.
    Done(api::ReadDone),
    /// There is more to look at.
    On(Box<Begun>),
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
        let mut next: Option<Box<Begun>> = None;
        let mut under_way: Option<OwnedSemaphorePermit> = None;
        loop {
            let of_the_past = next.as_ref().is_some_and(|begun| begun.reading.is_of_the_past());
            if of_the_past && under_way.is_none() {
                under_way = Some(permit(&self.past.under_way, until).await?);
            }
            let turn = if of_the_past { Some(permit(&self.past.at_work, until).await?) } else { None };
            let (reader, range, mut held) = (Arc::clone(&reader), range.clone(), std::mem::take(place));
            let (got, given_back, permit_back) = blocking(move || {
                // Held by the thread: a caller that does not wait any more gives no turn to another one.
                let (_turn, under_way) = (turn, under_way);
                let mut begun = match next {
                    Some(begun) => begun,
                    None => Box::new(Begun::now(reader.view(), range.into_inner())?),
                };
                // What of it is of the past needs a turn first.
                let found = if begun.reading.is_of_the_past() && !of_the_past { None } else { begun.step()? };
                let Some(mut result) = found else { return Ok((Got::On(begun), held, under_way)) };
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
            match got {
                Got::Done(done) => return Ok(Ok(done)),
                Got::NoRoom(bytes) => return Ok(Err(bytes)),
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
