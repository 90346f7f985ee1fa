//! quorate's wire: one QUIC endpoint per node, mutual TLS under the cluster's own CA, hello, streams, and the Unix socket.
//!
//! Owns how nodes find, trust and hear each other. Never decides from replicated state and never looks into a message:
//! bodies are opaque bytes, checks that need records are the node's ([`Gate`]), and so is everything that comes in
//! ([`Handler`]). Needs neither raft, RocksDB nor protoc. Called by the node and the client in the root crate.
//!
//! | module | what |
//! |---|---|
//! | `ca`, `identity`, `identity_file`, `token`, `tls` | who is who |
//! | `word` | who stands for a new incarnation |
//! | `frame`, `hello`, `greet` | the first words, and the form of all others |
//! | `endpoint`, `peers`, `lanes`, `snapshot`, `request`, `session`, `feed`, `holds` | the node's port |
//! | `dial`, `client`, `join`, `dialback`, `locked`, `rate`, `local` | the ways in |
//! | `network` | what carries datagrams: UDP, or memory in test clusters (`memory`) |
//! | `socket`, `codes` | numbers |

pub mod frame;

mod answers;
mod ca;
mod calls;
mod client;
mod clock;
mod codes;
mod dial;
mod dialback;
mod endpoint;
mod feed;
mod greet;
mod handler;
mod hello;
mod holds;
mod identity;
mod identity_file;
mod join;
mod lanes;
mod local;
mod locked;
#[cfg(feature = "testing")]
mod memory;
mod network;
mod parting;
mod peers;
mod rate;
mod request;
mod room;
mod session;
mod snapshot;
mod socket;
mod standing;
mod streams;
mod text;
mod tls;
mod token;
pub mod word;

/// Generated from `proto/wire.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, reason = "generated code")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/quorate.wire.v1.rs"));

    /// The secret of a token is never printed.
    impl std::fmt::Debug for JoinRequest {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("JoinRequest").field("name", &self.name).finish_non_exhaustive()
        }
    }
}

/// What a worker and its manager tell each other in a session, generated from `proto/session.proto`. Their meaning is
/// the node's; the wire sees bytes.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod session_api {
    include!(concat!(env!("OUT_DIR"), "/quorate.session.v1.rs"));

    /// What may hold a secret is never printed.
    impl std::fmt::Debug for Object {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Object").field("name", &self.name).field("revision", &self.revision).finish_non_exhaustive()
        }
    }
}

/// Requests and answers, generated from `proto/api.proto`. Their meaning is the node's; the wire sees bytes.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod api {
    include!(concat!(env!("OUT_DIR"), "/quorate.api.v1.rs"));

    /// What may hold a key is never printed.
    macro_rules! unprinted {
        ($($name:path),+) => { $(impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        })+ };
    }
    unprinted!(KeyOrder, key_order::Order, KeyOrderDone, Unlock, ObjectCreate, ObjectDataDone);
    unprinted!(TokenRotate, TokenCreate, TokenDone, Compromised, PassedOn);
}

pub use answers::Place;
pub use ca::{CaError, CertRole, CertSubject, ClusterCa, IssuerId, is_root, subject_id};
pub use client::{ClientSocket, Connection, Connector};
pub use clock::Clock;
pub use dial::ConnectError;
pub use dialback::DialBack;
pub use endpoint::{Endpoint, EndpointConfig, EndpointOptions};
pub use feed::{Asker, Fed, Feed, FeedReceiver, FeedSender};
pub use handler::{Answer, Caller, Down, Gate, Handler, IncomingSnapshot, Lane, Plane, SnapshotPiece};
pub use hello::{Hello, PROTOCOL_MAX, PROTOCOL_MIN, Refused};
pub use holds::Hold;
pub use identity::{CertificateProblem, Identity, IdentityError, KeyPair, Shown, Subject, trust_id};
pub use identity_file::{FileKey, IdentityFile, sweep};
pub use join::{JoinError, JoinRefused, JoinReply, JoinRequest, Joined, ManagerAddress, join, renew};
pub use lanes::{QueueLimit, SendError};
pub use local::{LocalConnection, LocalError, LocalListener};
pub use locked::LockedDoor;
#[cfg(feature = "testing")]
pub use memory::{MemoryHost, MemoryNetwork};
pub use network::Network;
pub use parting::Parting;
pub use peers::{PeerAddress, PeerInfo, Peers};
pub use request::RequestError;
pub use session::{Session, SessionReceiver, SessionSender};
pub use snapshot::SnapshotSendError;
pub use socket::{BindError, UdpBuffers};
pub use standing::{NodeStanding, StandingRecord, standing};
pub use text::utc;
pub use tls::TlsError;
pub use token::{CaHash, JoinToken, ParseTokenError, TokenDigest, TokenSecret};

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{api, proto, session_api};

    #[test]
    fn what_may_hold_a_secret_is_never_printed() {
        // Given one of each message with a secret in it
        let (word, data) = ("swordfish", Bytes::from_static(b"swordfish"));
        let compromised = api::Compromised { manager_secret: data.clone(), worker_secret: data.clone(), deadline_s: 1 };
        let remove = api::NodeRemove { compromised: Some(compromised.clone()), ..api::NodeRemove::default() };
        let create = api::ObjectCreate { data: data.clone(), ..api::ObjectCreate::default() };
        let join = proto::JoinRequest { secret: data.clone(), ..proto::JoinRequest::default() };
        let object = session_api::Object { data: data.clone(), ..session_api::Object::default() };
        let part = session_api::Part { objects: vec![object], ..session_api::Part::default() };
        let rotate = api::TokenRotate { secret: data.clone(), ..api::TokenRotate::default() };
        let asked = api::Request { kind: Some(api::request::Kind::TokenRotate(rotate.clone())), ..Default::default() };
        let printed = [
            format!("{rotate:?}{asked:?}"),
            format!("{:?}", api::TokenCreate { secret: data.clone(), ..api::TokenCreate::default() }),
            format!("{:?}", api::TokenDone { token: word.into() }),
            format!("{compromised:?}{remove:?}"),
            format!("{:?}", api::PassedOn { request: data.clone(), ..api::PassedOn::default() }),
            format!("{:?}", api::Unlock { key: word.into() }),
            format!("{create:?}"),
            format!("{:?}", api::ObjectDataDone { data: data.clone(), ..api::ObjectDataDone::default() }),
            format!("{join:?}"),
            format!("{part:?}"),
        ];
        // Then none of them shows it, and what is none is shown
        let shows =
            |printed: &String| printed.contains(word) || printed.contains(&format!("{:?}", data.to_vec())[1..9]);
        for printed in &printed {
            assert!(!shows(printed), "{printed}");
        }
        let control = api::OperatorIssue { csr: data.clone(), ..api::OperatorIssue::default() };
        assert!(shows(&format!("{control:?}")));
    }
}
