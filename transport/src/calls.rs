//! Many requests on one long-lived stream: what small requests cost is mostly their streams.
//!
//! Owns the lane of calls at both ends: frames with numbers, answers in the order in which they are ready, and who is told
//! what when it breaks. Never looks into a body, and takes only short ones: a large request or answer would keep the others
//! waiting, so it has a stream of its own ([`crate::request`]). Called by clients and peers (asking) and by the endpoint
//! (serving).
//!
//! A frame's payload is a u64 number, big endian, and the body. A lane that breaks takes its calls with it: those that were
//! handed to QUIC are of unknown outcome, the others were not sent; the next call opens another one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::answers::Own;
use crate::codes;
use crate::frame::{self, FrameKind};
use crate::handler::{Answer, Caller, Handler, Placed, Plane};
use crate::lanes::StreamKind;
use crate::request::{self, RequestError};
use crate::room::{Held, Room};

/// Largest body that goes here, bytes.
pub(crate) const BODY_BYTES_MAX: usize = 32 * 1024;
/// Largest answer that may come back here: more than that is a stream's own business, but an answer must have a way.
const ANSWER_BYTES_MAX: usize = frame::REQUEST_BYTES_MAX;
/// Calls of one lane that are under way at the serving side; more wait in QUIC's flow control.
const UNDER_WAY_MAX: usize = 1024;
/// Calls that wait to be written.
const QUEUE: usize = 1024;
/// Frames written at once, at most,
const BATCH: usize = 128;
/// and bytes of bodies after which no further one is added.
const BATCH_BYTES: usize = 256 * 1024;
/// Bodies of a client's lane that wait for room; more wait in QUIC's flow control. What clients have read is to be bounded
/// by the room, not by how many of them there are. Managers are few, and renewals come behind what they pass on.
const CLIENT_BODIES_MAX: usize = 64;
/// Bytes asked of QUIC at once.
const READ_BYTES: usize = 64 * 1024;
/// The number in front of a body.
const NUMBER_BYTES: usize = 8;

/// A body that waits to be written, with its number.
type Numbered = (u64, Bytes);

/// A call that has no answer yet.
struct Open {
    /// Handed to QUIC: from here on its outcome is unknown until there is an answer.
    sent: bool,
    answer: oneshot::Sender<Result<Bytes, RequestError>>,
}

/// The calls of one lane; `None` once it is broken.
type Pending = Arc<Mutex<Option<BTreeMap<u64, Open>>>>;

fn locked(pending: &Pending) -> std::sync::MutexGuard<'_, Option<BTreeMap<u64, Open>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The asking end of one lane.
struct Lane {
    queue: mpsc::Sender<Numbered>,
    pending: Pending,
    next: AtomicU64,
}

/// The asking end of a connection's calls: opens the lane with the first one, and another when it broke.
pub(crate) struct Calls {
    runtime: tokio::runtime::Handle,
    lane: tokio::sync::Mutex<Option<Arc<Lane>>>,
}

/// Takes the call out of the list when its caller is gone.
struct Waiting<'a> {
    pending: &'a Pending,
    number: u64,
}

impl Waiting<'_> {
    fn give_up(&self) -> Option<Open> {
        locked(self.pending).as_mut()?.remove(&self.number)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Calls {
    /// `runtime` carries the lane, whoever asks on it.
    pub(crate) fn on(runtime: tokio::runtime::Handle) -> Self {
        Self { runtime, lane: tokio::sync::Mutex::default() }
    }

    /// Asks. Cancel safe for this side; the outcome of a cancelled request is unknown.
    pub(crate) async fn ask(
        &self,
        connection: &quinn::Connection,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RequestError> {
        if body.len() > BODY_BYTES_MAX {
            return request::ask(connection, body, deadline).await;
        }
        let until = Instant::now() + deadline;
        let late = || format!("no answer within {} ms", deadline.as_millis());
        let lane = match tokio::time::timeout_at(until, self.lane(connection)).await {
            Ok(lane) => lane?,
            Err(_elapsed) => return Err(RequestError::NotSent(late())),
        };
        let number = lane.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        match locked(&lane.pending).as_mut() {
            Some(pending) => pending.insert(number, Open { sent: false, answer: sender }),
            None => return Err(RequestError::NotSent(broken(connection))),
        };
        let waiting = Waiting { pending: &lane.pending, number };
        let answered = async {
            if lane.queue.send((number, body)).await.is_err() {
                return Err(RequestError::NotSent(broken(connection)));
            }
            answer.await.unwrap_or_else(|_dropped| Err(RequestError::Unknown(broken(connection))))
        };
        let answered = tokio::time::timeout_at(until, answered).await;
        answered.unwrap_or_else(|_elapsed| {
            // Taken out of the list and looked at in one go: what is not in it is not sent any more.
            let open = waiting.give_up();
            let unsent = open.is_some_and(|open| !open.sent);
            Err(if unsent { RequestError::NotSent(late()) } else { RequestError::Unknown(late()) })
        })
    }

    async fn lane(&self, connection: &quinn::Connection) -> Result<Arc<Lane>, RequestError> {
        let mut current = self.lane.lock().await;
        if let Some(lane) = current.as_ref()
            && !lane.queue.is_closed()
        {
            return Ok(Arc::clone(lane));
        }
        let (send, receive) = connection.open_bi().await.map_err(|error| RequestError::NotSent(error.to_string()))?;
        let _ = send.set_priority(StreamKind::Calls.priority());
        let pending: Pending = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let (queue, waiting) = mpsc::channel(QUEUE);
        let lane = Arc::new(Lane { queue, pending: Arc::clone(&pending), next: AtomicU64::new(1) });
        let mut end = LaneEnd { pending, connection: connection.clone(), unread: false };
        self.runtime.spawn(async move {
            // All of it: a flag that is captured alone would be a copy.
            let end = &mut end;
            end.unread = tokio::select! {
                () = write_calls(send, waiting, &end.pending) => false,
                unread = read_answers(receive, &end.pending) => unread,
            };
        });
        *current = Some(Arc::clone(&lane));
        Ok(lane)
    }
}

fn broken(connection: &quinn::Connection) -> String {
    connection.close_reason().map_or_else(|| "the stream broke".to_owned(), |reason| reason.to_string())
}

/// Everybody who waits on a lane is told when it ends, also when the runtime that carries it does.
struct LaneEnd {
    pending: Pending,
    connection: quinn::Connection,
    /// This side did not read its answers, and the other one has cut it.
    unread: bool,
}

impl Drop for LaneEnd {
    fn drop(&mut self) {
        let open = locked(&self.pending).take().unwrap_or_default();
        for Open { sent, answer } in open.into_values() {
            let why = broken(&self.connection);
            let _ = answer.send(Err(match sent {
                true if self.unread => RequestError::Unread,
                true => RequestError::Unknown(why),
                false => RequestError::NotSent(why),
            }));
        }
    }
}

/// Puts one frame behind the others.
fn put_frame(into: &mut BytesMut, kind: FrameKind, number: u64, body: &[u8]) {
    let number = number.to_be_bytes();
    if let Some(header) = frame::header_of(kind, &[&number[..], body]) {
        into.reserve(header.len() + number.len() + body.len());
        into.put_slice(&header);
        into.put_slice(&number);
        into.put_slice(body);
    }
}

/// Takes what waits to be written; false when nothing will any more.
///
/// Whoever is ready to run goes first, and may add to it: what is put to QUIC one by one leaves in a packet each, and a
/// packet costs more than what is in it.
async fn take<T>(queue: &mut mpsc::Receiver<T>, batch: &mut Vec<T>, bytes_of: impl Fn(&T) -> usize) -> bool {
    let Some(first) = queue.recv().await else { return false };
    let mut bytes = bytes_of(&first);
    batch.push(first);
    tokio::task::yield_now().await;
    while batch.len() < BATCH
        && bytes < BATCH_BYTES
        && let Ok(next) = queue.try_recv()
    {
        bytes += bytes_of(&next);
        batch.push(next);
    }
    true
}

async fn write_calls(mut send: quinn::SendStream, mut waiting: mpsc::Receiver<Numbered>, pending: &Pending) {
    if send.write_chunk(StreamKind::Calls.opening()).await.is_err() {
        return;
    }
    let mut batch = Vec::with_capacity(BATCH);
    while take(&mut waiting, &mut batch, |(_, body)| body.len()).await {
        let mut frames = BytesMut::new();
        {
            let mut pending = locked(pending);
            let Some(pending) = pending.as_mut() else { return };
            for (number, body) in batch.drain(..) {
                // Whoever is gone meanwhile has not sent anything.
                if let Some(open) = pending.get_mut(&number) {
                    open.sent = true;
                    put_frame(&mut frames, FrameKind::Call, number, &body);
                }
            }
        }
        if !frames.is_empty() && send.write_chunk(frames.freeze()).await.is_err() {
            return;
        }
    }
    let _ = send.finish();
}

/// The frames of a lane, as they come.
struct Frames {
    receive: quinn::RecvStream,
    buffer: BytesMut,
    limit: usize,
}

impl Frames {
    fn of(receive: quinn::RecvStream, body_bytes_max: usize) -> Self {
        Self { receive, buffer: BytesMut::new(), limit: NUMBER_BYTES + body_bytes_max }
    }

    /// The next one; `None` when the stream has ended or what comes is no frame.
    async fn next(&mut self) -> Option<(FrameKind, u64, Bytes)> {
        // A lane that is never empty must not keep the others of this thread waiting.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(mut frame) = frame::decode(&mut self.buffer, self.limit).ok()? {
                let number = frame.payload.try_get_u64().ok()?;
                return Some((frame.kind, number, frame.payload));
            }
            let chunk = self.receive.read_chunk(READ_BYTES, true).await.ok()??;
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }
}

/// True when the other side has cut the lane because its answers were not read.
async fn read_answers(receive: quinn::RecvStream, pending: &Pending) -> bool {
    let mut frames = Frames::of(receive, ANSWER_BYTES_MAX);
    while let Some((kind, number, body)) = frames.next().await {
        let answer = if kind == FrameKind::Answer {
            // A body of its own: whoever keeps a value of it must not keep everything that came with it.
            Ok(Bytes::copy_from_slice(&body))
        } else if kind == FrameKind::NoAnswer {
            Err(RequestError::Unknown("the other side gave no answer".to_owned()))
        } else {
            return false;
        };
        // Nobody may wait any more.
        if let Some(open) = locked(pending).as_mut().and_then(|pending| pending.remove(&number)) {
            let _ = open.answer.send(answer);
        }
    }
    matches!(frames.receive.received_reset().await, Ok(Some(code)) if code == codes::STREAM_UNREAD)
}

/// An answer that waits to be written.
type Due = (u64, Option<Placed>, OwnedSemaphorePermit);

/// What goes back on a lane.
#[derive(Debug)]
pub(crate) struct LaneAnswer {
    number: u64,
    queue: mpsc::Sender<Due>,
    /// Its place among those under way, until QUIC has taken the answer: the queue has one for each of them.
    place: OwnedSemaphorePermit,
    /// Its body's, until it is answered.
    _held: Held,
}

impl LaneAnswer {
    /// `None`: there is none, and what became of the request is unknown.
    pub(crate) fn send(self, answer: Option<Placed>) {
        // Full it cannot be; closed when the lane broke.
        let _ = self.queue.try_send((self.number, answer, self.place));
    }

    pub(crate) async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Serves a lane whose stream kind has been read.
pub(crate) async fn serve(
    handler: Arc<dyn Handler>,
    caller: Caller,
    room: &Room,
    own: &Own,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
) {
    let _ = send.set_priority(StreamKind::Calls.priority());
    let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let bodies_max = if caller.plane == Plane::Peer { UNDER_WAY_MAX } else { CLIENT_BODIES_MAX };
    let bodies = Arc::new(Semaphore::new(bodies_max));
    let mut waiting = JoinSet::new();
    let (queue, answers) = mpsc::channel(UNDER_WAY_MAX);
    let mut frames = Frames::of(receive, BODY_BYTES_MAX);
    let reading = async {
        while let Some((FrameKind::Call, number, body)) = frames.next().await {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            let (handler, caller, queue) = (Arc::clone(&handler), caller.clone(), queue.clone());
            let answers = own.place();
            let begin = move |body, held| {
                let answer = LaneAnswer { number, queue, place, _held: held };
                handler.request(caller, body, Answer::on_lane(answer, answers));
            };
            if let Some(held) = room.enter_now(body.len()) {
                begin(body, held);
                continue;
            }
            // It waits by itself: a short one behind it, which needs no room, must not wait with it.
            let Ok(bodies) = Arc::clone(&bodies).acquire_owned().await else { break };
            let entering = room.enter(body.len());
            waiting.spawn(async move {
                let held = entering.await;
                drop(bodies);
                begin(body, held);
            });
            while waiting.try_join_next().is_some() {}
        }
        // The asker has finished; what is under way is still answered.
        drop(queue);
        while waiting.join_next().await.is_some() {}
    };
    let writing = write_answers(own, send, answers);
    tokio::pin!(writing);
    tokio::select! {
        biased;
        // Nobody takes the answers any more: no more calls are begun.
        () = &mut writing => {}
        () = reading => writing.await,
    }
    let _ = frames.receive.stop(codes::STREAM_PROTOCOL);
}

async fn write_answers(own: &Own, mut send: quinn::SendStream, mut answers: mpsc::Receiver<Due>) {
    let mut batch: Vec<Due> = Vec::with_capacity(BATCH);
    let stopped = send.stopped();
    tokio::pin!(stopped);
    loop {
        let taking = take(&mut answers, &mut batch, |(_, answer, _)| answer.as_ref().map_or(0, |(body, _)| body.len()));
        tokio::select! {
            biased;
            some = taking => if !some { break },
            // Nobody wants answers any more.
            _ = &mut stopped => return,
        }
        let mut frames = BytesMut::new();
        for (number, answer, _place) in &mut batch {
            let number = *number;
            match answer.as_mut().map(|(body, _)| std::mem::take(body)).filter(|body| body.len() <= ANSWER_BYTES_MAX) {
                Some(body) => put_frame(&mut frames, FrameKind::Answer, number, &body),
                None => put_frame(&mut frames, FrameKind::NoAnswer, number, &[]),
            }
        }
        match own.give(send.write_chunk(frames.freeze())).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return,
            None => {
                let _ = send.reset(codes::STREAM_UNREAD);
                return;
            }
        }
        // Their places are free from here on: who does not read its answers gets no more of them made.
        batch.clear();
    }
    let _ = send.finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_at_once_is_bounded_in_number_and_in_bytes() {
        let (queue, mut waiting) = mpsc::channel(1_000);
        let mut batch = Vec::new();
        // Given many small bodies, then as many as may be are taken.
        for _ in 0..BATCH + 1 {
            queue.try_send(1).unwrap();
        }
        assert!(take(&mut waiting, &mut batch, |bytes| *bytes).await);
        assert_eq!(batch.len(), BATCH);
        batch.clear();
        assert!(take(&mut waiting, &mut batch, |bytes| *bytes).await);
        assert_eq!(batch.len(), 1);
        // Of large ones no more than fills it.
        batch.clear();
        for _ in 0..4 {
            queue.try_send(BATCH_BYTES / 2).unwrap();
        }
        assert!(take(&mut waiting, &mut batch, |bytes| *bytes).await);
        assert_eq!(batch.len(), 2);
    }
}
