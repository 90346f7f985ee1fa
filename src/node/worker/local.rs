//! The local socket of a worker: it answers for itself, and passes the rest on with this node's own rights.
//!
//! Owns nothing but that choice. Called by the local listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_core::id::RaftId;
use quorate_transport::api::{request, response};
use quorate_transport::{
    Answer, Caller, Down, Feed, Gate, Handler, Hello, IncomingSnapshot, JoinRefused, JoinReply, JoinRequest, Lane,
    Plane, Refused, api,
};
use tokio::sync::{oneshot, watch};

use super::Link;
use crate::client::{SOFTWARE, Unanswered};
use crate::node::state_file::StateFile;
use crate::node::work::Work;

/// What the socket answers from.
pub(super) struct Socket {
    file: StateFile,
    link: watch::Receiver<Link>,
    work: Work,
}

impl Socket {
    pub(super) fn new(file: &StateFile, link: watch::Receiver<Link>, work: Work) -> Self {
        Self { file: file.clone(), link, work }
    }
}

fn failed(code: api::Code, message: String) -> api::Response {
    let error = api::Error { code: code.into(), message, ..api::Error::default() };
    api::Response { kind: Some(response::Kind::Error(error)) }
}

async fn answer(file: StateFile, link: watch::Receiver<Link>, work: Work, body: Bytes) -> api::Response {
    let request = match api::Request::decode(body) {
        Ok(request) => request,
        Err(error) => return failed(api::Code::Invalid, format!("the request cannot be read: {error}")),
    };
    if matches!(request.kind, Some(request::Kind::NodeReport(_))) {
        let report = super::report(&file, &link.borrow(), &work);
        return match serde_json::to_vec(&report) {
            Ok(json) => {
                api::Response { kind: Some(response::Kind::NodeReport(api::NodeReportDone { json: json.into() })) }
            }
            Err(error) => failed(api::Code::Internal, error.to_string()),
        };
    }
    if matches!(request.kind, Some(request::Kind::KeyOrder(_) | request::Kind::Unlock(_))) {
        // Not passed on: what it may hold is nobody else's.
        return failed(api::Code::Refused, "a worker keeps no sealed store: there is no key. Nothing was done".into());
    }
    let patience = Duration::from_millis(request.deadline_ms).min(Duration::from_secs(600));
    match super::ask(link, request, patience).await {
        Ok(response) => response,
        Err(error) if error.left == Unanswered::Unknown => failed(api::Code::Unknown, error.message),
        Err(error) => failed(api::Code::Deadline, error.message),
    }
}

impl Gate for Socket {
    fn admit(&self, _plane: Plane, _caller: &Caller, _hello: &Hello) -> Result<(), Refused> {
        Ok(())
    }

    fn hello(&self) -> Hello {
        let lineage = self.work.current().lineage.clone();
        Hello {
            raft_id: RaftId(0),
            ..Hello::client(self.file.facts.cluster(), self.file.facts.node(), lineage, SOFTWARE)
        }
    }
}

impl Handler for Socket {
    fn message(&self, _from: RaftId, _lane: Lane, _body: Bytes) {}
    fn peer_up(&self, _peer: RaftId) {}
    fn peer_down(&self, _peer: RaftId, _reason: Down) {}
    fn snapshot(&self, _from: RaftId, incoming: IncomingSnapshot) {
        let _ = incoming.done.send(Err("a worker holds no state".into()));
    }
    fn request(&self, _caller: Caller, body: Bytes, reply: Answer) {
        let answering = answer(self.file.clone(), self.link.clone(), self.work.clone(), body);
        tokio::spawn(async move {
            reply.send(answering.await.encode_to_vec().into());
        });
    }
    fn feed(&self, _caller: Caller, body: Bytes, feed: Feed) {
        // As a request: the manager says why this node's own rights are not enough.
        let answering = answer(self.file.clone(), self.link.clone(), self.work.clone(), body);
        tokio::spawn(async move {
            let _ = feed.sender.finish(answering.await.encode_to_vec().into()).await;
        });
    }
    fn join(&self, _source: SocketAddr, _request: JoinRequest, reply: oneshot::Sender<JoinReply>) {
        let _ = reply.send(JoinReply::Refused(JoinRefused::Other("a worker lets nobody in; ask a manager".into())));
    }
    fn lineage_newer(&self, _hello: &Hello) {}
}

/// One socket serves as gate and as handler.
const _: fn(Arc<Socket>) -> Arc<dyn Gate> = |socket| socket;
