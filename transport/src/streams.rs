//! What comes on a connection that was let in: its streams, each by its first byte.
//!
//! Owns the loop that takes them, a task for each, and which kinds a caller may open how often. Never looks into what they
//! carry. Called by the endpoint for clients, and for peers beside their lanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_core::id::RaftId;
use tokio::task::JoinSet;

use crate::ca::CertRole;
use crate::calls;
use crate::codes;
use crate::endpoint::Shared;
use crate::feed;
use crate::greet::Greeted;
use crate::handler::Down;
use crate::lanes::{self, StreamKind};
use crate::request;
use crate::session::Session;
use crate::snapshot;

/// Serves requests, and snapshots of a peer, until the connection ends. Each has a task of its own; all end with this one.
pub(crate) async fn accept_streams(
    shared: Arc<Shared>,
    connection: quinn::Connection,
    greeted: Greeted,
    peer: Option<RaftId>,
) -> Down {
    let mut tasks = JoinSet::new();
    let answers = shared.answers(peer.is_some()).connection();
    let (session, calling) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    loop {
        let (mut send, mut receive) = tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok(streams) => streams,
                Err(error) => return lanes::down(&error),
            },
            Some(_ended) = tasks.join_next() => continue,
        };
        let (handler, caller, deadline) =
            (shared.handler.clone(), greeted.caller.clone(), shared.options.handshake_deadline);
        let (connection, session, calling) = (connection.clone(), session.clone(), calling.clone());
        let (stall, shared, answers) = (shared.options.stall_deadline, shared.clone(), answers.clone());
        tasks.spawn(async move {
            let mut first = [0; 1];
            let read = tokio::time::timeout(deadline, receive.read_exact(&mut first)).await;
            match (read, StreamKind::from_byte(first[0]), peer) {
                (Ok(Ok(())), Some(StreamKind::Request), _) => {
                    request::serve(handler, caller, shared.room(peer.is_some()), &answers, send, receive).await;
                }
                // One per connection at a time; a worker has nothing to ask so often.
                (Ok(Ok(())), Some(StreamKind::Calls), _)
                    if caller.role != CertRole::Worker && !calling.swap(true, Ordering::AcqRel) =>
                {
                    calls::serve(handler, caller, shared.room(peer.is_some()), &answers, send, receive).await;
                    calling.store(false, Ordering::Release);
                }
                (Ok(Ok(())), Some(StreamKind::Snapshot), Some(from)) => {
                    snapshot::receive(handler, from, send, receive).await;
                }
                (Ok(Ok(())), Some(StreamKind::Feed), None) => {
                    feed::serve(handler, connection, Arc::clone(&shared.holds), caller, send, receive).await;
                }
                // A worker's, one per connection.
                (Ok(Ok(())), Some(StreamKind::Session), None)
                    if caller.role == CertRole::Worker && !session.swap(true, Ordering::AcqRel) =>
                {
                    handler.session(caller, Session::new(connection, send, receive, stall));
                }
                // Garbage costs its own stream and nothing else.
                _ => request::refuse(&mut send, &mut receive, codes::STREAM_PROTOCOL),
            }
        });
    }
}
