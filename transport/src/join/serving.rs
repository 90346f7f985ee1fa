//! The manager's end of a join: one request, one answer, within the deadline.
//!
//! Owns the exchange and the count of a source's attempts. Never compares a secret: the node does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::{JoinRefused, JoinReply, JoinRequest};
use crate::endpoint::Shared;
use crate::frame::{self, FrameKind};
use crate::hello::Refused;
use crate::proto;

/// How long a newcomer has to take its answer and close.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// Serves one newcomer: one request, one answer, within the deadline.
pub(crate) async fn serve(shared: &Arc<Shared>, connection: &quinn::Connection, source: SocketAddr) {
    let refuse = |refused: Refused| {
        let (code, reason) = refused.to_close();
        connection.close(code.into(), &reason);
    };
    if !shared.join_limit.allow(source.ip()) {
        refuse(Refused::Busy("too many join attempts from this address".to_owned()));
        return;
    }
    let exchange = async {
        let (mut send, mut receive) = connection.accept_bi().await.ok()?;
        let request = frame::read_kind(&mut receive, FrameKind::Join, frame::JOIN_BYTES_MAX)
            .await
            .ok()
            .and_then(|body| proto::JoinRequest::decode(body).ok())
            .and_then(JoinRequest::from_wire);
        let reply = match request {
            None => JoinReply::Refused(JoinRefused::Malformed("it is no join request".to_owned())),
            Some(request) => {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                shared.handler.join(source, request, sender);
                // A handler that gives no answer says that it does not know.
                let reply = receiver.await.ok()?;
                let known = match &reply {
                    JoinReply::Joined(_) => true,
                    JoinReply::Standing(standing) => standing.record.is_some(),
                    JoinReply::Refused(_) => false,
                };
                if known {
                    // Who knew a secret, or has a record, was no guess: many workers may stand behind one address.
                    shared.join_limit.give_back(source.ip());
                }
                reply
            }
        };
        let frame = frame::encode(FrameKind::JoinReply, &reply.to_wire().encode_to_vec())?;
        send.write_chunk(frame).await.ok()?;
        send.finish().ok()?;
        // The last receiver closes: closing here at once would throw the answer away.
        let _ = tokio::time::timeout(ANSWER_GRACE, connection.closed()).await;
        Some(())
    };
    match tokio::time::timeout(shared.options.join_deadline, exchange).await {
        Ok(Some(())) => {}
        Ok(None) => connection.close(crate::codes::PROTOCOL.into(), b"no answer"),
        Err(_elapsed) => connection.close(crate::codes::PROTOCOL.into(), b"the join took too long"),
    }
}
