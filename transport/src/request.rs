//! One request, one bidirectional stream: both ends.
//!
//! Owns the exchange and the question that matters when it fails: can the request have been executed? Never looks into a
//! body. Called by clients and peers (asking) and by the endpoint (serving).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::answers::Own;
use crate::codes;
use crate::frame::{self, Frame, FrameKind, REQUEST_BYTES_MAX};
use crate::handler::{Answer, Caller, Handler};
use crate::lanes::StreamKind;
use crate::room::Room;

/// How long a caller may take to send the request it has begun.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The other side cannot have seen the whole request: it was not executed. Trying again, here or elsewhere, is safe.
    #[error("the request was not sent: {0}; nothing was changed by it")]
    NotSent(String),
    /// The other side has too much under way to take it: it was not executed. Trying again a little later is safe.
    #[error("the other side has too much under way; nothing was changed by the request")]
    Busy,
    /// The answer came, and this side did not take it in time: the other side has cut it off.
    #[error(
        "the answer was not read in time, and the other side cut it off: the request may or may not have been executed"
    )]
    Unread,
    /// The request left, and no answer came: it may have been executed or not.
    #[error("the outcome is unknown: {0}; the request may or may not have been executed")]
    Unknown(String),
}

impl RequestError {
    /// Whether the request may have been executed.
    pub const fn may_have_executed(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Unread)
    }
}

/// Asks. Cancel safe for this side: dropped half-way, the other side sees no request or its answer is thrown away.
pub(crate) async fn ask(
    connection: &quinn::Connection,
    body: Bytes,
    deadline: Duration,
) -> Result<Bytes, RequestError> {
    let until = tokio::time::Instant::now() + deadline;
    let late = || format!("no answer within {} ms", deadline.as_millis());
    if body.len() > REQUEST_BYTES_MAX {
        return Err(RequestError::NotSent(format!(
            "it has {} bytes, at most {REQUEST_BYTES_MAX} are taken",
            body.len()
        )));
    }
    let not_sent = |error: &dyn std::fmt::Display| RequestError::NotSent(error.to_string());
    // Opening waits without a word when the other side's stream limit is reached.
    let (mut send, mut receive) = tokio::time::timeout_at(until, connection.open_bi())
        .await
        .map_err(|_elapsed| RequestError::NotSent(format!("{}; too many requests are under way", late())))?
        .map_err(|error| not_sent(&error))?;
    let _ = send.set_priority(StreamKind::Request.priority());
    let header = frame::header(FrameKind::Request, &body).ok_or_else(|| not_sent(&"it is too long"))?;
    let mut chunks = [StreamKind::Request.opening(), Bytes::copy_from_slice(&header), body];
    // Unless every byte was handed to QUIC the other side cannot have a whole frame.
    match tokio::time::timeout_at(until, send.write_all_chunks(&mut chunks)).await {
        Ok(Ok(())) => {}
        Ok(Err(quinn::WriteError::Stopped(code))) if code == codes::STREAM_BUSY => {
            return Err(RequestError::Busy);
        }
        Ok(Err(error)) => return Err(not_sent(&error)),
        Err(_elapsed) => {
            let _ = send.reset(codes::STREAM_ABORTED);
            return Err(RequestError::NotSent(late()));
        }
    }
    let _ = send.finish();
    let answer = read_answer(&mut receive);
    match tokio::time::timeout_at(until, answer).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(AnswerError::Busy)) => Err(RequestError::Busy),
        Ok(Err(AnswerError::Unread)) => Err(RequestError::Unread),
        Ok(Err(AnswerError::Lost(why))) => {
            // The stream's error says little when the whole connection went.
            let why = connection.close_reason().map_or(why, |reason| reason.to_string());
            Err(RequestError::Unknown(why))
        }
        Err(_elapsed) => Err(RequestError::Unknown(late())),
    }
}

/// No answer on a request stream.
enum AnswerError {
    /// Not looked at.
    Busy,
    /// Cut off because it was not read here.
    Unread,
    /// Anything else.
    Lost(String),
}

async fn read_answer(receive: &mut quinn::RecvStream) -> Result<Bytes, AnswerError> {
    match frame::read_kind(receive, FrameKind::Response, REQUEST_BYTES_MAX).await {
        Ok(body) => Ok(body),
        Err(error) => match receive.received_reset().await {
            Ok(Some(code)) if code == codes::STREAM_BUSY => Err(AnswerError::Busy),
            Ok(Some(code)) if code == codes::STREAM_UNREAD => Err(AnswerError::Unread),
            Ok(Some(code)) if code == codes::STREAM_UNANSWERED => {
                Err(AnswerError::Lost("the other side gave no answer".to_owned()))
            }
            _ => Err(AnswerError::Lost(error.to_string())),
        },
    }
}

/// Serves one request whose stream kind has been read.
pub(crate) async fn serve(
    handler: Arc<dyn Handler>,
    caller: Caller,
    room: &Room,
    answers: &Own,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) {
    let _ = send.set_priority(StreamKind::Request.priority());
    let header = tokio::time::timeout(BODY_DEADLINE, frame::read_header(&mut receive, REQUEST_BYTES_MAX)).await;
    let Ok(Ok(Some(header))) = header else {
        refuse(&mut send, &mut receive, codes::STREAM_PROTOCOL);
        return;
    };
    let held = tokio::select! {
        held = room.queue(header.length()) => held,
        // The caller does not wait any more.
        _ = send.stopped() => return,
    };
    let Ok(_held) = held else {
        refuse(&mut send, &mut receive, codes::STREAM_BUSY);
        return;
    };
    let is_request = header.kind() == FrameKind::Request;
    let body = tokio::time::timeout(BODY_DEADLINE, header.read_payload(&mut receive)).await;
    let (true, Ok(Ok(Frame { payload: body, .. }))) = (is_request, body) else {
        refuse(&mut send, &mut receive, codes::STREAM_PROTOCOL);
        return;
    };
    let (sender, receiver) = oneshot::channel();
    handler.request(caller, body, Answer::alone(sender, answers.place()));
    let answer = tokio::select! {
        answer = receiver => answer.ok(),
        // The caller is gone or gave up; the handler sees its sender closed.
        _ = send.stopped() => return,
    };
    let framed = answer.filter(|(body, _)| body.len() <= REQUEST_BYTES_MAX).and_then(|(body, place)| {
        let header = frame::header(FrameKind::Response, &body)?;
        Some(([Bytes::copy_from_slice(&header), body], place))
    });
    match framed {
        Some((mut chunks, place)) => {
            let writing = async {
                if send.write_all_chunks(&mut chunks).await.is_err() {
                    return;
                }
                let _ = send.finish();
                if place.holds_some() {
                    // Until then it is QUIC that holds it.
                    let _ = send.stopped().await;
                }
            };
            if answers.give(writing).await.is_none() {
                let _ = send.reset(codes::STREAM_UNREAD);
            }
        }
        // No answer, or one that no caller would take: finishing would look like an empty one.
        None => {
            let _ = send.reset(codes::STREAM_UNANSWERED);
        }
    }
}

pub(crate) fn refuse(send: &mut quinn::SendStream, receive: &mut quinn::RecvStream, code: quinn::VarInt) {
    let _ = send.reset(code);
    let _ = receive.stop(code);
}
