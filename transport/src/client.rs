//! The client's side: from addresses and an identity to a connection that takes requests.
//!
//! Owns the connection and the socket under it. Has no threads of its own and works on any tokio runtime. Never retries: the
//! client library above knows what may be repeated. Called by clients, workers and operators.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::CertificateDer;

use crate::ca::IssuerId;
use crate::calls::Calls;
use crate::clock::Clock;
use crate::codes;
use crate::dial::{self, ConnectError};
use crate::feed::{self, FeedReceiver};
use crate::greet;
use crate::handler::{Down, Plane};
use crate::hello::Hello;
use crate::identity::Identity;
use crate::lanes;
use crate::network::Network;
use crate::peers::greet_error;
use crate::request::{self, RequestError};
use crate::session::{self, Session};
use crate::socket;
use crate::tls::Credentials;

/// One UDP socket that many connections share: for a process that holds many.
#[derive(Debug, Clone)]
pub struct ClientSocket(quinn::Endpoint);

impl ClientSocket {
    /// A socket that reaches addresses of the same family as `towards`. To be called inside a tokio runtime, which carries it.
    ///
    /// # Errors
    /// The machine gave no socket, or there is no runtime.
    pub fn open(towards: SocketAddr) -> Result<Self, ConnectError> {
        Network::default().dialler(towards, true).map(Self)
    }
}

/// Makes connections on the client plane.
#[derive(Debug, Clone)]
pub struct Connector {
    /// How often something is sent at least; default 5 s.
    pub keep_alive: Duration,
    /// Silence after which the connection is given up; default 15 s.
    pub idle: Duration,
    /// How long an address has for itself before the next one is tried beside it; default 100 ms.
    pub stagger: Duration,
    /// Unread bytes of one stream; default 4 MiB. Of all streams of a connection together it is 32 MiB.
    pub stream_window: u32,
    /// The socket to use; by default each connection has its own.
    pub socket: Option<ClientSocket>,
    /// The clock that certificates are checked by; default the system's.
    pub clock: Clock,
    /// What carries its datagrams; default the machine's UDP.
    pub network: Network,
}

impl Default for Connector {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            idle: Duration::from_secs(15),
            stagger: dial::STAGGER,
            stream_window: socket::STREAM_WINDOW,
            socket: None,
            clock: Clock::default(),
            network: Network::default(),
        }
    }
}

impl Connector {
    /// Connects to the first of `addresses` that answers, all tried side by side with a small stagger, with the default
    /// times.
    ///
    /// Cancel safe: dropped, nothing is left behind.
    ///
    /// # Errors
    /// See [`ConnectError`]; with several addresses [`ConnectError::All`], the most telling reason first.
    pub async fn connect(
        addresses: &[String],
        identity: Arc<Identity>,
        hello: Hello,
        timeout: Duration,
    ) -> Result<Connection, ConnectError> {
        Self::default().connect_to(addresses, identity, hello, timeout).await
    }

    /// As [`Connector::connect`], with this connector's times.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn connect_to(
        &self,
        addresses: &[String],
        identity: Arc<Identity>,
        hello: Hello,
        timeout: Duration,
    ) -> Result<Connection, ConnectError> {
        let credentials = Credentials::new(identity, self.clock);
        let credentials = Arc::new(credentials.map_err(|error| ConnectError::Local(error.to_string()))?);
        credentials.check_time().map_err(ConnectError::OwnCertificate)?;
        let hello = Arc::new(hello);
        let (keep_alive, idle, window) = (self.keep_alive, self.idle, self.stream_window);
        let (network, shared) = (self.network.clone(), self.socket.clone());
        let (place, inner) = dial::race(addresses, timeout, self.stagger, move |address| {
            let transport = socket::client_transport(keep_alive, idle, window);
            attempt(network.clone(), address, timeout, transport, credentials.clone(), hello.clone(), shared.clone())
        })
        .await?;
        Ok(Connection { inner: Arc::new(inner), place })
    }
}

async fn attempt(
    network: Network,
    address: SocketAddr,
    timeout: Duration,
    transport: Arc<quinn::TransportConfig>,
    credentials: Arc<Credentials>,
    hello: Arc<Hello>,
    shared: Option<ClientSocket>,
) -> Result<Inner, ConnectError> {
    let own = shared.is_none();
    let endpoint = match shared {
        Some(ClientSocket(endpoint)) => endpoint,
        None => network.dialler(address, false)?,
    };
    let tls = |verdict: &_| credentials.client(Plane::Client, None, verdict);
    let connection = dial::on(&network, &endpoint, address, timeout, transport, tls).await?;
    let greeting = async {
        // A client takes whoever its CA certifies as a manager of a fitting lineage: it has no records to check.
        let asked = greet::ask(&connection, Plane::Client, &hello, 0, |_, _| Ok(())).await?;
        asked.confirm(&connection).await
    };
    let greeted = tokio::time::timeout(timeout, greeting)
        .await
        .map_err(|_elapsed| ConnectError::Timeout { address: address.to_string(), after: timeout })?
        .map_err(|error| greet_error(error, address))?;
    Ok(Inner {
        endpoint,
        own,
        connection,
        hello: greeted.hello,
        address,
        calls: Calls::on(tokio::runtime::Handle::current()),
    })
}

struct Inner {
    endpoint: quinn::Endpoint,
    /// Nobody else uses the endpoint.
    own: bool,
    connection: quinn::Connection,
    hello: Hello,
    address: SocketAddr,
    calls: Calls,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(codes::DONE.into(), b"the client is done");
        if self.own {
            self.endpoint.close(codes::DONE.into(), b"the client is done");
        }
    }
}

/// A connection to one manager. Clone it; it closes when the last clone is dropped.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
    place: usize,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

impl Connection {
    /// Asks and waits for the answer, at most until the deadline. Any number may be under way at once.
    ///
    /// Cancel safe for this side; the outcome of a cancelled request is unknown.
    ///
    /// # Errors
    /// [`RequestError::NotSent`]: not executed. [`RequestError::Unknown`]: may have been.
    pub async fn request(&self, body: Bytes, deadline: Duration) -> Result<Bytes, RequestError> {
        request::ask(&self.inner.connection, body, deadline).await
    }

    /// As [`Connection::request`], for a short body with a short answer: it goes with others on one stream, and costs a
    /// fraction.
    ///
    /// Cancel safe for this side; the outcome of a cancelled request is unknown.
    ///
    /// # Errors
    /// As [`Connection::request`].
    pub async fn call(&self, body: Bytes, deadline: Duration) -> Result<Bytes, RequestError> {
        self.inner.calls.ask(&self.inner.connection, body, deadline).await
    }

    /// Asks what is answered for as long as the receiver lives. Waits when as many streams are open as may be.
    ///
    /// Cancel safe for this side: dropped half-way, the other side sees no question.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn feed(&self, body: Bytes) -> Result<FeedReceiver, Down> {
        feed::open(&self.inner.connection, body).await
    }

    /// Opens the session of a worker: one per connection, and only with a worker's certificate.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn session(&self) -> Result<Session, Down> {
        session::open(&self.inner.connection).await
    }

    /// UDP datagrams that have arrived on it: while it grows, the manager lives.
    pub fn heard(&self) -> u64 {
        self.inner.connection.stats().udp_rx.datagrams
    }

    /// Waits until the connection has ended, and says why.
    ///
    /// Cancel safe.
    pub async fn closed(&self) -> Down {
        lanes::down(&self.inner.connection.closed().await)
    }

    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.inner.connection.close_reason().is_some()
    }

    /// What the manager said of itself; its lineage may be longer than the client's, which then adopts it.
    pub fn remote_hello(&self) -> &Hello {
        &self.inner.hello
    }

    /// Which root signed the manager's certificate.
    pub fn remote_issuer(&self) -> Option<IssuerId> {
        greet::subject_of(&self.inner.connection).map(|subject| subject.issuer)
    }

    /// What the manager has shown with its certificate: the root that signed it first, then what else is trusted.
    pub fn remote_authorities(&self) -> Vec<CertificateDer<'static>> {
        let mut chain = greet::chain_of(&self.inner.connection).unwrap_or_default();
        if !chain.is_empty() {
            chain.remove(0);
        }
        chain
    }

    /// Where the manager is.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Which of the addresses that were given led there, counted from 0.
    pub const fn place(&self) -> usize {
        self.place
    }

    /// Round-trip time.
    pub fn rtt(&self) -> Duration {
        self.inner.connection.rtt()
    }

    /// The largest UDP payload that this way is known to carry, bytes.
    pub fn mtu(&self) -> u16 {
        self.inner.connection.stats().path.current_mtu
    }

    /// Closes and waits until the other side knows, at most 1 s.
    pub async fn close(&self) {
        self.inner.connection.close(codes::DONE.into(), b"the client is done");
        if self.inner.own {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.inner.endpoint.wait_idle()).await;
        }
    }
}
