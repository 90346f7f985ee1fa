//! quorate's wire: one QUIC endpoint per node, mutual TLS under the cluster's own CA, hello, streams, and the Unix socket.
//!
//! Owns how nodes find, trust and hear each other. Never decides from replicated state and never looks into a message:
//! bodies are opaque bytes, checks that need records are the node's ([`Gate`]), and so is everything that comes in
//! ([`Handler`]). Needs neither raft, RocksDB nor protoc. Called by the node and the client in the root crate.
//!
//! | module | what |
//! |---|---|
//! | `ca`, `identity`, `token`, `tls` | who is who |
//! | `word` | who stands for a new incarnation |
//! | `frame`, `hello`, `greet` | the first words, and the form of all others |
//! | `endpoint`, `peers`, `lanes`, `snapshot`, `request`, `session`, `feed`, `holds` | the node's port |
//! | `dial`, `client`, `join`, `dialback`, `rate`, `local` | the ways in |
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
mod join;
mod lanes;
mod local;
#[cfg(feature = "testing")]
mod memory;
mod network;
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
pub use identity::{CertificateProblem, Identity, IdentityError, KeyPair, Subject, trust_id};
pub use join::{JoinError, JoinRefused, JoinReply, JoinRequest, Joined, ManagerAddress, join, renew};
pub use lanes::{QueueLimit, SendError};
pub use local::{LocalConnection, LocalError, LocalListener};
#[cfg(feature = "testing")]
pub use memory::{MemoryHost, MemoryNetwork};
pub use network::Network;
pub use peers::{PeerAddress, PeerInfo, Peers};
pub use request::RequestError;
pub use session::{Session, SessionReceiver, SessionSender};
pub use snapshot::SnapshotSendError;
pub use socket::{BindError, UdpBuffers};
pub use standing::{NodeStanding, StandingRecord, standing};
pub use tls::TlsError;
pub use token::{CaHash, JoinToken, ParseTokenError, TokenDigest, TokenSecret};
