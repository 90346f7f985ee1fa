//! What carries datagrams: the machine's UDP, or, in test clusters, memory.
//!
//! Owns the one choice between the two; everything above it, QUIC, TLS and hello, is the same over either. Never looks into
//! a datagram. Called wherever an endpoint is made or an address is dialled.

use std::io;
use std::net::{SocketAddr, UdpSocket};
#[cfg(feature = "testing")]
use std::sync::Arc;

use quinn::{EndpointConfig, ServerConfig};

use crate::dial::{self, ConnectError};
#[cfg(feature = "testing")]
use crate::memory::MemoryHost;
use crate::socket::{self, BindError, UdpBuffers};

/// What carries a node's datagrams; the default is the machine's UDP.
#[derive(Debug, Clone, Default)]
pub struct Network(Carrier);

#[derive(Debug, Clone, Default)]
enum Carrier {
    #[default]
    Udp,
    #[cfg(feature = "testing")]
    Memory(MemoryHost),
}

#[cfg(feature = "testing")]
impl From<MemoryHost> for Network {
    fn from(host: MemoryHost) -> Self {
        Self(Carrier::Memory(host))
    }
}

impl Network {
    /// Whether somebody else on this machine listens there now, as far as can be seen: whoever is to listen there cannot.
    pub fn is_taken(&self, address: SocketAddr) -> bool {
        match &self.0 {
            Carrier::Udp => UdpSocket::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse),
            // There each host has addresses of its own.
            #[cfg(feature = "testing")]
            Carrier::Memory(_) => false,
        }
    }

    /// An endpoint that listens on `address`, with the buffers that its socket got.
    pub(crate) fn listen(
        &self,
        address: SocketAddr,
        config: EndpointConfig,
        server: ServerConfig,
    ) -> Result<(quinn::Endpoint, UdpBuffers), BindError> {
        let failed = |source| BindError::Address { address, source };
        let runtime = quinn::default_runtime().ok_or(BindError::NoRuntime)?;
        match &self.0 {
            Carrier::Udp => {
                let udp = socket::bind(address)?;
                let buffers = socket::buffers(&udp);
                Ok((quinn::Endpoint::new(config, Some(server), udp, runtime).map_err(failed)?, buffers))
            }
            #[cfg(feature = "testing")]
            Carrier::Memory(host) => {
                let socket = Arc::new(host.bind(address).map_err(failed)?);
                let endpoint = quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime);
                Ok((endpoint.map_err(failed)?, UdpBuffers::default()))
            }
        }
    }

    /// An endpoint for dialling only, towards addresses of this family; `shared` by many connections, or for one.
    pub(crate) fn dialler(&self, towards: SocketAddr, shared: bool) -> Result<quinn::Endpoint, ConnectError> {
        let local = |error: io::Error| ConnectError::Local(error.to_string());
        let runtime =
            quinn::default_runtime().ok_or_else(|| ConnectError::Local("no tokio runtime here".to_owned()))?;
        let config = EndpointConfig::default();
        match &self.0 {
            Carrier::Udp => {
                let udp = if shared { socket::bind_many(towards) } else { socket::bind_client(towards) };
                quinn::Endpoint::new(config, None, udp.map_err(local)?, runtime).map_err(local)
            }
            #[cfg(feature = "testing")]
            Carrier::Memory(host) => {
                let socket = Arc::new(host.bind_any().map_err(local)?);
                quinn::Endpoint::new_with_abstract_socket(config, None, socket, runtime).map_err(local)
            }
        }
    }

    /// Ends only when whoever is at `address` says that nobody has the port.
    pub(crate) async fn closed_port(&self, address: SocketAddr) -> ConnectError {
        match &self.0 {
            Carrier::Udp => dial::closed_port(address).await,
            #[cfg(feature = "testing")]
            Carrier::Memory(host) if host.is_closed(address) => ConnectError::PortClosed(address),
            #[cfg(feature = "testing")]
            Carrier::Memory(_) => std::future::pending().await,
        }
    }
}
