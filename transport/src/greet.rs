//! The hello on the wire, both ends.
//!
//! ```text
//! dialler  -> Hello            on the first bidirectional stream
//! acceptor -> HelloReply       its own hello, and a refusal if it refuses
//! dialler  -> HelloConfirm     or it closes with a refusal of its own
//! ```
//!
//! Only after the confirm does either side take anything else. Called by the endpoint, by peers and the connector.

use std::time::Duration;

use prost::Message;
use quorate_core::id::RaftId;
use rustls_pki_types::CertificateDer;

use crate::ca::CertRole;
use crate::frame::{self, FrameKind, HELLO_BYTES_MAX};
use crate::handler::{Caller, Plane};
use crate::hello::{self, Hello, Refused};
use crate::identity::Subject;
use crate::proto;

/// How long a refused dialler has to take note before the connection is closed under it.
const REFUSAL_GRACE: Duration = Duration::from_secs(1);

/// The other end, after both hellos were found to fit.
pub(crate) struct Greeted {
    pub(crate) caller: Caller,
    pub(crate) hello: Hello,
    pub(crate) instance: u64,
}

/// Why a hello led to nothing.
pub(crate) enum GreetError {
    /// The other side refused this one, or spoke out of turn; the connection is closed.
    Refused(Refused),
    /// This side refused the other one; the connection is closed.
    Ours(Refused),
    /// The connection ended.
    Lost(quinn::ConnectionError),
}

/// What the certificate of the other end says; `None` when it showed none.
pub(crate) fn subject_of(connection: &quinn::Connection) -> Option<Subject> {
    Subject::of(chain_of(connection)?.first()?).ok()
}

/// The certificate of the other end, and what it has shown with it.
pub(crate) fn chain_of(connection: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    connection.peer_identity()?.downcast().ok().map(|chain| *chain)
}

/// The other end as its certificate has it.
pub(crate) fn caller_of(connection: &quinn::Connection, plane: Plane) -> Option<Caller> {
    let subject = subject_of(connection)?;
    let address = connection.remote_address();
    Some(Caller {
        plane,
        role: subject.role,
        node_id: subject.node_id,
        raft_id: None,
        address: Some(std::net::SocketAddr::new(address.ip().to_canonical(), address.port())),
        key_digest: subject.key_digest,
        enrolled: subject.enrolled,
        issuer: subject.issuer,
    })
}

pub(crate) fn close(connection: &quinn::Connection, refused: &Refused) {
    let (code, reason) = refused.to_close();
    connection.close(code.into(), &reason);
}

/// The raft id that a caller may act as: only a manager has one, whatever the hello of another says.
pub(crate) fn raft_id_of(caller: &Caller, hello: &Hello) -> Option<RaftId> {
    (caller.role == CertRole::Manager && hello.raft_id != RaftId(0)).then_some(hello.raft_id)
}

fn bound(mut caller: Caller, hello: Hello, instance: u64) -> Greeted {
    caller.raft_id = raft_id_of(&caller, &hello);
    Greeted { caller, hello, instance }
}

/// A stream failed: if the whole connection did, that is the reason worth telling.
async fn lost(connection: &quinn::Connection) -> GreetError {
    // A close frame may be a moment behind the stream's end.
    let closed = tokio::time::timeout(Duration::from_millis(250), connection.closed()).await;
    match closed {
        Ok(error) => crate::dial::refusal(&error).map_or(GreetError::Lost(error), GreetError::Refused),
        Err(_elapsed) => {
            close(connection, &Refused::Malformed);
            GreetError::Refused(Refused::Malformed)
        }
    }
}

async fn write(send: &mut quinn::SendStream, kind: FrameKind, body: &[u8]) -> bool {
    match frame::encode(kind, body) {
        Some(frame) => send.write_chunk(frame).await.is_ok(),
        None => false,
    }
}

/// The dialler's half up to the acceptor's answer.
pub(crate) struct Asked {
    greeted: Greeted,
    send: quinn::SendStream,
}

impl Asked {
    /// Takes the connection.
    pub(crate) async fn confirm(mut self, connection: &quinn::Connection) -> Result<Greeted, GreetError> {
        if !write(&mut self.send, FrameKind::HelloConfirm, &proto::HelloConfirm {}.encode_to_vec()).await
            || self.send.finish().is_err()
        {
            return Err(lost(connection).await);
        }
        Ok(self.greeted)
    }
}

/// Dialler: sends the hello and judges the answer. `judge` sees the other's hello in any case, also when it refused us.
pub(crate) async fn ask(
    connection: &quinn::Connection,
    plane: Plane,
    ours: &Hello,
    instance: u64,
    judge: impl FnOnce(&Caller, &Hello) -> Result<(), Refused>,
) -> Result<Asked, GreetError> {
    let Some(caller) = caller_of(connection, plane) else {
        close(connection, &Refused::NoCertificate);
        return Err(GreetError::Refused(Refused::NoCertificate));
    };
    let Ok((mut send, mut receive)) = connection.open_bi().await else { return Err(lost(connection).await) };
    // The first word decides about everything after it; nothing goes before it.
    let _ = send.set_priority(10);
    if !write(&mut send, FrameKind::Hello, &ours.to_wire(instance).encode_to_vec()).await {
        return Err(lost(connection).await);
    }
    let Ok(body) = frame::read_kind(&mut receive, FrameKind::HelloReply, HELLO_BYTES_MAX).await else {
        return Err(lost(connection).await);
    };
    let reply = proto::HelloReply::decode(body).ok();
    let parsed = reply.and_then(|reply| {
        let hello = reply.hello?;
        let their_instance = hello.instance;
        Some((Hello::from_wire(hello)?, their_instance, reply.refused))
    });
    let Some((hello, their_instance, refused)) = parsed else {
        close(connection, &Refused::Malformed);
        return Err(GreetError::Refused(Refused::Malformed));
    };
    let greeted = bound(caller, hello, their_instance);
    let ours_says = hello::check(plane, ours, &greeted.caller, &greeted.hello, true);
    let judged = judge(&greeted.caller, &greeted.hello);
    if let Some(refused) = refused {
        let refused = Refused::from_wire(&refused);
        close(connection, &refused);
        return Err(GreetError::Refused(refused));
    }
    if let Err(refused) = ours_says.and(judged) {
        close(connection, &refused);
        return Err(GreetError::Ours(refused));
    }
    Ok(Asked { greeted, send })
}

/// Acceptor: waits for the hello, answers with its own, refuses or waits for the confirm.
pub(crate) async fn answer(
    connection: &quinn::Connection,
    caller: Caller,
    ours: &Hello,
    instance: u64,
    judge: impl FnOnce(&Caller, &Hello) -> Result<(), Refused>,
) -> Result<Greeted, GreetError> {
    let Ok((mut send, mut receive)) = connection.accept_bi().await else { return Err(lost(connection).await) };
    let _ = send.set_priority(10);
    let parsed = match frame::read_kind(&mut receive, FrameKind::Hello, HELLO_BYTES_MAX).await {
        Ok(body) => proto::Hello::decode(body).ok().and_then(|wire| {
            let their_instance = wire.instance;
            Some((Hello::from_wire(wire)?, their_instance))
        }),
        Err(_not_a_hello) => None,
    };
    let Some((hello, their_instance)) = parsed else {
        close(connection, &Refused::Malformed);
        return Err(GreetError::Refused(Refused::Malformed));
    };
    let plane = caller.plane;
    let greeted = bound(caller, hello, their_instance);
    let verdict = hello::check(plane, ours, &greeted.caller, &greeted.hello, false);
    // The judge sees every hello: a newer lineage counts also on a connection that is refused for it.
    let judged = judge(&greeted.caller, &greeted.hello);
    let refused = match judged {
        // It knows no lineage that could be compared: that is in what is locked.
        Err(Refused::Locked) => Some(Refused::Locked),
        judged => verdict.and(judged).err(),
    };
    let reply =
        proto::HelloReply { hello: Some(ours.to_wire(instance)), refused: refused.as_ref().map(Refused::to_wire) };
    if !write(&mut send, FrameKind::HelloReply, &reply.encode_to_vec()).await {
        return Err(lost(connection).await);
    }
    // Finishing cannot fail here: nobody else has the stream.
    let _ = send.finish();
    if let Some(refused) = refused {
        let _ = tokio::time::timeout(REFUSAL_GRACE, connection.closed()).await;
        close(connection, &refused);
        return Err(GreetError::Refused(refused));
    }
    if frame::read_kind(&mut receive, FrameKind::HelloConfirm, HELLO_BYTES_MAX).await.is_err() {
        return Err(lost(connection).await);
    }
    Ok(greeted)
}
