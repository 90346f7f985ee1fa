//! A network in memory: datagrams between sockets of one process, and links that can be cut.
//!
//! Owns who can reach whom. A datagram arrives at once, whole, unchanged and in order, or not at all: at a link that is cut,
//! at a machine that is off, and at a queue that is full. What the wire does not promise (loss, order) QUIC makes good
//! either way; time is not modelled here, because it is tokio's, which tests stop. Only in test clusters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Datagrams (or trains of them) that wait at one socket at most; what comes then is lost, as at a socket's buffer.
const WAITING: usize = 4_096;
/// Datagrams that go as one train, as with the kernel's segmentation offload.
const SEGMENTS: usize = 10;
/// Where the ports begin that are given to sockets without one of their own.
const EPHEMERAL: u16 = 32_768;

/// The network. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork {
    wires: Arc<Mutex<Wires>>,
}

#[derive(Debug, Default)]
struct Wires {
    ports: BTreeMap<SocketAddr, Arc<Port>>,
    /// Both ways, each as (lower, higher).
    cut: BTreeSet<(IpAddr, IpAddr)>,
    /// Machines without power.
    off: BTreeSet<IpAddr>,
    given: u16,
}

impl Wires {
    fn carries(&self, from: IpAddr, to: IpAddr) -> bool {
        !self.cut.contains(&link(from, to)) && !self.off.contains(&from) && !self.off.contains(&to)
    }
}

fn link(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    if a < b { (a, b) } else { (b, a) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryNetwork {
    /// The machine with this address.
    #[must_use]
    pub fn host(&self, address: IpAddr) -> MemoryHost {
        MemoryHost { network: self.clone(), address }
    }

    /// Nothing passes between the two any more, in either direction, until [`join`](Self::join).
    pub fn cut(&self, a: IpAddr, b: IpAddr) {
        lock(&self.wires).cut.insert(link(a, b));
    }

    /// What was cut between the two is whole again.
    pub fn join(&self, a: IpAddr, b: IpAddr) {
        lock(&self.wires).cut.remove(&link(a, b));
    }

    /// The machine has no power: its sockets are gone for good, and nobody is told. Others may be bound there once it is on.
    pub fn power_off(&self, address: IpAddr) {
        let mut wires = lock(&self.wires);
        wires.off.insert(address);
        wires.ports.retain(|at, _| at.ip() != address);
    }

    /// The machine has power again.
    pub fn power_on(&self, address: IpAddr) {
        lock(&self.wires).off.remove(&address);
    }
}

/// One machine of the network.
#[derive(Debug, Clone)]
pub struct MemoryHost {
    network: MemoryNetwork,
    address: IpAddr,
}

impl MemoryHost {
    /// A socket at `address`, which is taken over from whoever has it.
    pub(crate) fn bind(&self, address: SocketAddr) -> io::Result<MemorySocket> {
        let ip = if address.ip().is_unspecified() { self.address } else { address.ip() };
        let mut wires = lock(&self.network.wires);
        if ip != self.address || wires.off.contains(&ip) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        Ok(self.socket(&mut wires, SocketAddr::new(ip, address.port())))
    }

    /// A socket on a port that nobody has.
    pub(crate) fn bind_any(&self) -> io::Result<MemorySocket> {
        let mut wires = lock(&self.network.wires);
        if wires.off.contains(&self.address) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        for _ in EPHEMERAL..u16::MAX {
            wires.given = wires.given.max(EPHEMERAL).checked_add(1).unwrap_or(EPHEMERAL);
            let address = SocketAddr::new(self.address, wires.given);
            if !wires.ports.contains_key(&address) {
                return Ok(self.socket(&mut wires, address));
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    fn socket(&self, wires: &mut Wires, address: SocketAddr) -> MemorySocket {
        let port = Arc::new(Port { address, inbox: Mutex::default() });
        wires.ports.insert(address, Arc::clone(&port));
        MemorySocket { wires: Arc::clone(&self.network.wires), port }
    }

    /// Whether the machine at `address` can be reached and says that nobody listens there.
    pub(crate) fn is_closed(&self, address: SocketAddr) -> bool {
        let wires = lock(&self.network.wires);
        wires.carries(self.address, address.ip()) && !wires.ports.contains_key(&address)
    }
}

#[derive(Debug)]
struct Port {
    address: SocketAddr,
    inbox: Mutex<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    waiting: VecDeque<Train>,
    waker: Option<Waker>,
}

/// Datagrams of one length, the last perhaps shorter, that were sent together.
#[derive(Debug)]
struct Train {
    from: SocketAddr,
    ecn: Option<EcnCodepoint>,
    stride: usize,
    bytes: Bytes,
}

/// A socket of the network, for quinn.
#[derive(Debug)]
pub(crate) struct MemorySocket {
    wires: Arc<Mutex<Wires>>,
    port: Arc<Port>,
}

impl MemorySocket {
    /// Whether it is still the one at its address.
    fn is_bound(&self, wires: &Wires) -> bool {
        wires.ports.get(&self.port.address).is_some_and(|port| Arc::ptr_eq(port, &self.port))
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        let mut wires = lock(&self.wires);
        if self.is_bound(&wires) {
            wires.ports.remove(&self.port.address);
        }
    }
}

impl AsyncUdpSocket for MemorySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let (from, to) = (self.port.address, transmit.destination);
        let port = {
            let wires = lock(&self.wires);
            let carried = self.is_bound(&wires) && wires.carries(from.ip(), to.ip());
            // Lost on the way is no error.
            let Some(port) = wires.ports.get(&to).filter(|_| carried) else { return Ok(()) };
            Arc::clone(port)
        };
        let bytes = Bytes::copy_from_slice(transmit.contents);
        let stride = transmit.segment_size.unwrap_or(bytes.len());
        let mut inbox = lock(&port.inbox);
        if inbox.waiting.len() < WAITING {
            inbox.waiting.push_back(Train { from, ecn: transmit.ecn, stride, bytes });
        }
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = lock(&self.port.inbox);
        let mut taken = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            let Some(Train { from, ecn, stride, bytes }) = inbox.waiting.pop_front() else { break };
            // What does not fit is cut off, as by a socket.
            let len = bytes.len().min(buffer.len());
            if let (Some(into), Some(bytes)) = (buffer.get_mut(..len), bytes.get(..len)) {
                into.copy_from_slice(bytes);
            }
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride, meta.ecn) = (from, len, stride, ecn);
            meta.dst_ip = Some(self.port.address.ip());
            taken += 1;
        }
        if taken > 0 {
            return Poll::Ready(Ok(taken));
        }
        inbox.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.port.address)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    fn max_receive_segments(&self) -> usize {
        SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// What cannot be queued is lost: nobody waits to send.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
