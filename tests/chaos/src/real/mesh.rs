//! The network between managers: a forwarder of datagrams before each, with a rule for every directed link.
//!
//! Owns the forwarders, their rules and their counts, which are the proof that a fault took effect. A manager says the
//! forwarder's address as its own; clients go straight to where it listens, so that both sides of a cut can be asked. With
//! the kernel's filter there is no forwarder, and links can only be cut.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, JoinSet};

use super::firewall::Firewall;
use super::{Done, Net, harness};

const LARGEST_DATAGRAM: usize = 65_535;
/// Datagrams that may be held back at a time; what comes beyond is lost, as in any queue.
const HELD_MOST: usize = 20_000;

/// What becomes of datagrams on one directed link; the default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) cut: bool,
    /// Of a thousand.
    pub(super) lost: u16,
    /// Of a thousand, sent twice.
    pub(super) twice: u16,
    /// Of a thousand, one byte changed.
    pub(super) corrupt: u16,
    /// Between these many milliseconds late, each drawn for itself: so they also overtake each other.
    pub(super) delay_ms: (u64, u64),
    /// Larger ones are lost without a word; 0 is no limit.
    pub(super) largest: usize,
}

/// What was done to datagrams of one directed link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) passed: u64,
    pub(super) dropped: u64,
    pub(super) twice: u64,
    pub(super) corrupted: u64,
    pub(super) delayed: u64,
    pub(super) oversize: u64,
    pub(super) rebound: u64,
}

impl Count {
    fn minus(self, before: Self) -> Self {
        Self {
            passed: self.passed - before.passed,
            dropped: self.dropped - before.dropped,
            twice: self.twice - before.twice,
            corrupted: self.corrupted - before.corrupted,
            delayed: self.delayed - before.delayed,
            oversize: self.oversize - before.oversize,
            rebound: self.rebound - before.rebound,
        }
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.dropped += more.dropped;
        self.twice += more.twice;
        self.corrupted += more.corrupted;
        self.delayed += more.delayed;
        self.oversize += more.oversize;
        self.rebound += more.rebound;
    }
}

#[derive(Debug)]
struct Plan {
    listening: Vec<SocketAddr>,
    /// By sender and receiver; the last of each is whoever is no manager.
    rules: Vec<Vec<Rule>>,
    counts: Vec<Vec<Count>>,
    /// Raised to give every way to this manager another source port.
    bound: Vec<u64>,
    dice: fastrand::Rng,
    held: usize,
    /// What went over the wires, for the scan.
    capture: Option<Vec<u8>>,
}

/// What is to become of one datagram.
struct Fate {
    copies: u8,
    delay: Duration,
    corrupt: Option<usize>,
}

impl Plan {
    fn manager(&self, address: SocketAddr) -> usize {
        self.listening.iter().position(|known| *known == address).unwrap_or(self.listening.len())
    }

    fn fate(&mut self, from: usize, to: usize, datagram: &[u8]) -> Fate {
        let lost = Fate { copies: 0, delay: Duration::ZERO, corrupt: None };
        let rule = self.rules[from][to];
        let dice = &mut self.dice;
        let mut of = |permille: u16| permille > 0 && dice.u16(0..1000) < permille;
        let (drop, twice, corrupt) = (rule.cut || of(rule.lost), of(rule.twice), of(rule.corrupt));
        let (low, high) = rule.delay_ms;
        let delay = if high > 0 { Duration::from_millis(dice.u64(low..=high.max(low))) } else { Duration::ZERO };
        let byte = (corrupt && !datagram.is_empty()).then(|| dice.usize(..datagram.len()));
        let count = &mut self.counts[from][to];
        if drop {
            count.dropped += 1;
            return lost;
        }
        if rule.largest > 0 && datagram.len() > rule.largest {
            count.oversize += 1;
            return lost;
        }
        if !delay.is_zero() && self.held >= HELD_MOST {
            count.dropped += 1;
            return lost;
        }
        count.passed += 1;
        count.twice += u64::from(twice);
        count.corrupted += u64::from(byte.is_some());
        count.delayed += u64::from(!delay.is_zero());
        self.held += usize::from(!delay.is_zero());
        if let Some(capture) = self.capture.as_mut().filter(|capture| capture.len() < 64 << 20) {
            capture.extend_from_slice(datagram);
        }
        Fate { copies: 1 + u8::from(twice), delay, corrupt: byte }
    }
}

type Shared = Arc<Mutex<Plan>>;

fn lock(plan: &Shared) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All links of a cluster.
#[derive(Debug)]
pub(super) struct Mesh {
    plan: Shared,
    fronts: Vec<SocketAddr>,
    forwarders: Vec<JoinHandle<()>>,
    wall: Option<Firewall>,
}

impl Mesh {
    /// Links for so many managers; or why this machine has no such network.
    pub(super) async fn new(root: &Path, net: Net, managers: usize, seed: u64) -> Done<Result<Self, String>> {
        let listening = (0..managers).map(|_| lasting_address()).collect::<Done<Vec<_>>>()?;
        let plan = Arc::new(Mutex::new(Plan {
            rules: vec![vec![Rule::default(); managers + 1]; managers + 1],
            counts: vec![vec![Count::default(); managers + 1]; managers + 1],
            bound: vec![0; managers],
            listening: listening.clone(),
            dice: fastrand::Rng::with_seed(seed ^ 0x6e65_7477_6f72_6b00),
            held: 0,
            capture: None,
        }));
        let mut mesh = Self { plan, fronts: listening, forwarders: Vec::new(), wall: None };
        match net {
            Net::Nft => match Firewall::new(root).await? {
                Ok(wall) => mesh.wall = Some(wall),
                Err(why) => return Ok(Err(why)),
            },
            Net::Proxy => {
                for manager in 0..managers {
                    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
                    mesh.fronts[manager] = front.local_addr()?;
                    mesh.forwarders.push(tokio::spawn(forward(front, manager, Arc::clone(&mesh.plan))));
                }
            }
        }
        Ok(Ok(mesh))
    }

    /// Where a manager listens.
    pub(super) fn listening(&self, manager: usize) -> SocketAddr {
        lock(&self.plan).listening[manager]
    }

    /// Where the others reach it.
    pub(super) fn front(&self, manager: usize) -> SocketAddr {
        self.fronts[manager]
    }

    pub(super) fn managers(&self) -> usize {
        self.fronts.len()
    }

    /// Whoever is no manager: clients and workers that go by the forwarders.
    pub(super) fn outside(&self) -> usize {
        self.fronts.len()
    }

    /// Whether links can do more than be cut.
    pub(super) const fn is_proxy(&self) -> bool {
        self.wall.is_none()
    }

    /// These rules, and no other.
    pub(super) async fn set(&self, rules: &[(usize, usize, Rule)]) -> Done {
        let cuts: Vec<(SocketAddr, SocketAddr)> = {
            let mut plan = lock(&self.plan);
            for from in &mut plan.rules {
                from.fill(Rule::default());
            }
            for (from, to, rule) in rules {
                plan.rules[*from][*to] = *rule;
            }
            let known = plan.listening.len();
            let cut = rules.iter().filter(|(from, to, rule)| rule.cut && *from < known && *to < known);
            cut.map(|(from, to, _rule)| (plan.listening[*from], plan.listening[*to])).collect()
        };
        if let Some(wall) = &self.wall {
            wall.cut(&cuts).await?;
        }
        Ok(())
    }

    /// What was done to datagrams since the counts given, summed over these links.
    pub(super) async fn since(&self, before: &[Vec<Count>], links: &[(usize, usize)]) -> Done<Count> {
        let mut sum = Count::default();
        for (from, to) in links {
            sum += lock(&self.plan).counts[*from][*to].minus(before[*from][*to]);
        }
        if let Some(wall) = &self.wall {
            // (Its rules are made anew with every change, and count from there.)
            sum.dropped += wall.dropped().await?;
        }
        Ok(sum)
    }

    pub(super) fn counts(&self) -> Vec<Vec<Count>> {
        lock(&self.plan).counts.clone()
    }

    /// Every way to this manager gets another source port, as behind a box that forgets.
    pub(super) fn rebind(&self, manager: usize) {
        lock(&self.plan).bound[manager] += 1;
    }

    /// Keeps what goes over the wires from now on, up to a bound.
    pub(super) fn capture(&self) {
        lock(&self.plan).capture = Some(Vec::new());
    }

    pub(super) fn captured(&self) -> Option<Vec<u8>> {
        lock(&self.plan).capture.take()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for forwarder in &self.forwarders {
            forwarder.abort();
        }
    }
}

struct Way {
    socket: Arc<UdpSocket>,
    bound: u64,
}

/// What comes for one manager goes on from a socket for each sender, and back the same way.
async fn forward(front: Arc<UdpSocket>, to: usize, plan: Shared) {
    let mut ways: HashMap<SocketAddr, Way> = HashMap::new();
    let mut back = JoinSet::new();
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    loop {
        let Ok((length, from)) = front.recv_from(&mut datagram).await else { continue };
        let Some(bytes) = datagram.get_mut(..length) else { continue };
        let (target, bound, sender, fate) = {
            let mut plan = lock(&plan);
            let sender = plan.manager(from);
            (plan.listening[to], plan.bound[to], sender, plan.fate(sender, to, bytes))
        };
        if fate.copies == 0 {
            continue;
        }
        let is_new = ways.get(&from).is_none_or(|way| way.bound != bound);
        if is_new {
            let Ok(socket) = UdpSocket::bind("127.0.0.1:0").await else { continue };
            if socket.connect(target).await.is_err() {
                continue;
            }
            let socket = Arc::new(socket);
            back.spawn(answer(Arc::clone(&socket), Arc::clone(&front), from, (to, sender), Arc::clone(&plan)));
            if ways.insert(from, Way { socket, bound }).is_some() {
                lock(&plan).counts[sender][to].rebound += 1;
            }
        }
        let Some(way) = ways.get(&from) else { continue };
        deliver(bytes, fate, &way.socket, None, &plan).await;
    }
}

async fn answer(way: Arc<UdpSocket>, front: Arc<UdpSocket>, to: SocketAddr, link: (usize, usize), plan: Shared) {
    let mut datagram = vec![0; LARGEST_DATAGRAM];
    loop {
        // (A manager that is off refuses; datagrams may be lost.)
        let Ok(length) = way.recv(&mut datagram).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let Some(bytes) = datagram.get_mut(..length) else { continue };
        let fate = lock(&plan).fate(link.0, link.1, bytes);
        if fate.copies > 0 {
            deliver(bytes, fate, &front, Some(to), &plan).await;
        }
    }
}

/// Sends it, now or later, once or twice.
async fn deliver(bytes: &mut [u8], fate: Fate, socket: &Arc<UdpSocket>, to: Option<SocketAddr>, plan: &Shared) {
    if let Some(byte) = fate.corrupt.and_then(|at| bytes.get_mut(at)) {
        *byte ^= 0x55;
    }
    if fate.delay.is_zero() {
        for _ in 0..fate.copies {
            send(socket, bytes, to).await;
        }
        return;
    }
    let (held, socket, plan) = (bytes.to_vec(), Arc::clone(socket), Arc::clone(plan));
    tokio::spawn(async move {
        tokio::time::sleep(fate.delay).await;
        lock(&plan).held -= 1;
        for _ in 0..fate.copies {
            send(&socket, &held, to).await;
        }
    });
}

async fn send(socket: &UdpSocket, bytes: &[u8], to: Option<SocketAddr>) {
    // A datagram that is not taken is lost, as datagrams are.
    let _lost = match to {
        Some(to) => socket.send_to(bytes, to).await,
        None => socket.send(bytes).await,
    };
}

/// A loopback address that stays this run's also while nobody listens on it: the system hands ports of its ephemeral range to
/// whatever client asks next, and a killed manager would find its port taken.
fn lasting_address() -> Done<SocketAddr> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768_u16);
    for _ in 0..1_000 {
        // A port that the system gives is a random number; shifted below the range it gives from.
        let random = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr())?.port();
        let port = 1_024 + random % first.saturating_sub(1_024).max(1);
        if std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
        }
    }
    harness("there is no free UDP port below the ephemeral range")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo(at: SocketAddr) -> JoinHandle<()> {
        let socket = UdpSocket::bind(at).await.unwrap();
        tokio::spawn(async move {
            let mut bytes = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                let _ = socket.send_to(&bytes[..length], from).await;
            }
        })
    }

    async fn asked(socket: &UdpSocket, to: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        socket.send_to(bytes, to).await.unwrap();
        let mut answer = [0; 2048];
        let (length, _) =
            tokio::time::timeout(Duration::from_millis(300), socket.recv_from(&mut answer)).await.ok()?.unwrap();
        Some(answer[..length].to_vec())
    }

    #[tokio::test]
    async fn each_rule_does_what_it_says_in_its_direction_only_and_counts_it() {
        // Given two managers, of which the second echoes
        let temp = tempfile::tempdir().unwrap();
        let mesh = Mesh::new(temp.path(), Net::Proxy, 2, 7).await.unwrap().unwrap();
        let _echo = echo(mesh.listening(1)).await;
        let first = UdpSocket::bind(mesh.listening(0)).await.unwrap();
        let front = mesh.front(1);
        assert_eq!(asked(&first, front, b"calm").await.as_deref(), Some(&b"calm"[..]));
        // When the way there is cut, the question is lost; when the way back is, the answer
        for (link, counted) in [((0, 1), (1, 0)), ((1, 0), (0, 1))] {
            let before = mesh.counts();
            mesh.set(&[(link.0, link.1, Rule { cut: true, ..Rule::default() })]).await.unwrap();
            assert_eq!(asked(&first, front, b"cut").await, None);
            let there = mesh.since(&before, &[(0, 1)]).await.unwrap().dropped;
            let back = mesh.since(&before, &[(1, 0)]).await.unwrap().dropped;
            assert_eq!((there, back), counted);
        }
        // When it is damaged, one byte is; when it is too long, it is gone; when it is late, it comes
        let before = mesh.counts();
        mesh.set(&[(0, 1, Rule { corrupt: 1000, ..Rule::default() })]).await.unwrap();
        let damaged = asked(&first, front, b"damaged").await.unwrap();
        assert_eq!(damaged.iter().zip(b"damaged").filter(|(one, other)| one != other).count(), 1);
        mesh.set(&[(0, 1, Rule { largest: 4, ..Rule::default() })]).await.unwrap();
        assert_eq!(asked(&first, front, b"too long").await, None);
        mesh.set(&[(0, 1, Rule { delay_ms: (50, 60), ..Rule::default() })]).await.unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(asked(&first, front, b"late").await.as_deref(), Some(&b"late"[..]));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        mesh.rebind(1);
        mesh.set(&[]).await.unwrap();
        assert_eq!(asked(&first, front, b"elsewhere").await.as_deref(), Some(&b"elsewhere"[..]));
        let count = mesh.since(&before, &[(0, 1)]).await.unwrap();
        assert_eq!((count.corrupted, count.oversize, count.delayed, count.rebound), (1, 1, 1, 1));
    }
}
