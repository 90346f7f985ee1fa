//! How a test cluster comes to life, what a test gets hold of in it, and how it ends.
//!
//! Owns the machines (an address, a disk, a directory, and the node that runs there, if one does) and their network. What
//! happens to them is `faults`, what a test waits for is `waits`. Called by tests.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_transport::MemoryNetwork;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::client::{Client, Identity};
use crate::config;
use crate::error::{Error, Result};
use crate::membership::Role;
use crate::node::{Ground, MemoryDisk, Node, NodeBuilder, Start, StartError};

/// Bytes on an empty disk.
pub(super) const DISK: u64 = 1 << 40;
/// Most machines of a kind: their addresses are of one small network.
const MACHINES_MAX: usize = 99;
/// How long a standby waits for its seat: a test does not wait for a flapping machine to settle.
const STABLE: Duration = Duration::from_millis(100);

type Configure = Arc<dyn Fn(NodeBuilder) -> NodeBuilder + Send + Sync>;

/// One machine.
pub(super) struct Machine {
    pub(super) address: IpAddr,
    pub(super) disk: MemoryDisk,
    directory: PathBuf,
    node: Mutex<Option<Node>>,
}

/// Several managers in this process, for the tests of whoever embeds quorate.
///
/// The managers are the real ones, consensus, storage protocol, QUIC, TLS and all, in the same number of tasks as they have
/// threads elsewhere. Only the machine below them is made of memory: disks that forget what was not synced when the power
/// goes, and a network whose links can be cut. So a test sees what its program will see: the same errors, the same waits, the
/// same retries.
///
/// **Time.** Everything runs on the runtime of the test and goes by its clock. With `#[tokio::test(start_paused = true)]`
/// (tokio's feature `test-util`) time stands still while anybody has work to do and jumps to the next timer when nobody
/// has: an election, a lease of a minute or an hour of waiting is over at once, and how busy the machine is that runs the
/// test changes nothing. Without it a cluster works as well, and waits as long as a real one.
///
/// **Managers** are numbered from 1, and called `m1`, `m2` and so on in status and messages. [`worker`](Self::worker) adds
/// workers.
///
/// **Faults** are [`kill`](Self::kill), [`restart`](Self::restart), [`stop`](Self::stop),
/// [`lose_the_leader`](Self::lose_the_leader), [`partition`](Self::partition), [`heal`](Self::heal),
/// [`fill_the_disk`](Self::fill_the_disk), [`free_the_disk`](Self::free_the_disk) and
/// [`break_the_disk`](Self::break_the_disk); [`until`](Self::until), [`leader`](Self::leader), [`settled`](Self::settled)
/// and [`caught_up`](Self::caught_up) wait for what follows from them.
///
/// Dropped, all of it stops. A few small files (certificates, locks) are in a temporary directory meanwhile, in memory where
/// the machine has `/dev/shm`.
///
/// ```
/// use quorate::testing::Cluster;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> quorate::Result<()> {
/// // In a test: #[tokio::test(start_paused = true)]
/// let cluster = Cluster::start(3).await?;
/// let kv = cluster.client().kv();
/// kv.put("app/config", "v1").await?;
///
/// // The leader's machine loses power: what was acknowledged is there, and somebody else leads.
/// let lost = cluster.lose_the_leader().await?;
/// assert_eq!(kv.get("app/config").await?.unwrap().value, "v1");
/// kv.put("app/config", "v2").await?;
///
/// // It comes back, and catches up.
/// cluster.restart(lost).await?;
/// cluster.caught_up(lost).await?;
/// let there = cluster.client_of(lost)?.kv().one("app/config").serializable().await?;
/// assert_eq!(there.entries[0].value, "v2");
/// # Ok(())
/// # }
/// ```
pub struct Cluster {
    pub(super) machines: Vec<Machine>,
    pub(super) network: MemoryNetwork,
    client: Client,
    configure: Configure,
    workers: Mutex<Vec<Node>>,
    /// Numbers given to workers so far.
    numbers: AtomicU8,
    directory: TempDir,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.running().map(|(number, _)| number);
        f.debug_struct("Cluster")
            .field("managers", &self.managers())
            .field("running", &running.collect::<Vec<_>>())
            .finish()
    }
}

/// Settings of a test cluster.
#[must_use = "a builder does nothing until it is started"]
pub struct ClusterBuilder {
    managers: usize,
    configure: Configure,
}

impl std::fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterBuilder").field("managers", &self.managers).finish_non_exhaustive()
    }
}

impl ClusterBuilder {
    /// How many managers; default 3. Of an even number one is a standby, as everywhere, and of more than five the rest.
    pub fn managers(mut self, managers: usize) -> Self {
        self.managers = managers;
        self
    }

    /// What each manager is started with, besides name, addresses and directory: its timing, how much of the log it keeps.
    ///
    /// ```no_run
    /// # async fn example() -> quorate::Result<()> {
    /// use quorate::testing::Cluster;
    /// // Who is away for more than 16 entries comes back by a snapshot.
    /// let cluster = Cluster::builder().configure(|node| node.log_window(16)).start().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn configure(mut self, configure: impl Fn(NodeBuilder) -> NodeBuilder + Send + Sync + 'static) -> Self {
        self.configure = Arc::new(configure);
        self
    }

    /// Starts them, and waits until every one has its seat, knows the leader and has applied what there is.
    ///
    /// Cancel safe: dropped half-way, what was started stops.
    ///
    /// # Errors
    /// `Invalid` for no manager at all, or more than 99; else what kept one from starting.
    pub async fn start(self) -> Result<Cluster> {
        if !(1..=MACHINES_MAX).contains(&self.managers) {
            return Err(Error::Invalid(format!("a test cluster has 1 to {MACHINES_MAX} managers")));
        }
        let failed = |error: std::io::Error| Error::Unavailable(format!("no temporary directory: {error}"));
        let directory = directory().map_err(failed)?;
        let network = MemoryNetwork::default();
        let machine = |number: u8| Machine {
            address: Ipv4Addr::new(10, 0, 0, number).into(),
            disk: MemoryDisk::new(DISK),
            directory: directory.path().join(format!("m{number}")),
            node: Mutex::default(),
        };
        let machines: Vec<Machine> = (1..).take(self.managers).map(machine).collect();
        for machine in &machines {
            std::fs::create_dir(&machine.directory).map_err(failed)?;
        }
        let first = begin(&network, &self.configure, &machines, 1, Start::OpenOrInit).await?;
        first.ready().await?;
        let client = outside(&network, &machines).await?;
        let token = first.client().tokens().show(Role::Manager).await?;
        let (configure, workers, numbers) = (self.configure, Mutex::default(), AtomicU8::new(0));
        let cluster = Cluster { machines, network, client, configure, workers, numbers, directory };
        cluster.put(1, first)?;
        let mut joining = JoinSet::new();
        for number in 2..=self.managers {
            let start = Start::OpenOrJoin { token: token.clone(), managers: vec![cluster.address(1)?] };
            let starting = begin(&cluster.network, &cluster.configure, &cluster.machines, number, start);
            joining.spawn(async move { (number, starting.await) });
        }
        while let Some(joined) = joining.join_next().await {
            let (number, node) = joined.map_err(|error| Error::Internal(format!("a start failed: {error}")))?;
            cluster.put(number, node?)?;
        }
        cluster.seated().await?;
        Ok(cluster)
    }
}

/// A directory for the few files that a node needs besides its store: in memory where there is such a place.
fn directory() -> std::io::Result<TempDir> {
    let named = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("quorate-");
        builder
    };
    named().tempdir_in("/dev/shm").or_else(|_none| named().tempdir())
}

/// Starts the node of a machine.
fn begin(
    network: &MemoryNetwork,
    configure: &Configure,
    machines: &[Machine],
    number: usize,
    start: Start,
) -> impl Future<Output = Result<Node>> + Send + use<> {
    let named = machines.get(number.wrapping_sub(1)).map(|machine| {
        let address = format!("{}:{}", machine.address, config::PORT);
        let ground = Ground::in_memory(network.host(machine.address), machine.disk.clone());
        let builder = Node::builder(&machine.directory).stable(STABLE);
        configure(builder).name(format!("m{number}")).listen(address).ground(ground)
    });
    async move {
        let Some(builder) = named else { return Err(nobody(number)) };
        builder.start(start).await.map_err(|error: StartError| Error::Unavailable(format!("m{number}: {error}")))
    }
}

/// A client on a machine of its own.
async fn outside(network: &MemoryNetwork, machines: &[Machine]) -> Result<Client> {
    let first = machines.first().ok_or_else(|| nobody(1))?;
    let identity = Identity::load(&first.directory.join("operator.id"));
    let identity = identity.map_err(|error| Error::Internal(format!("the operator's identity: {error}")))?;
    let host = network.host(Ipv4Addr::new(10, 0, 1, 1).into());
    let managers = machines.iter().map(|machine| format!("{}:{}", machine.address, config::PORT)).collect();
    Client::connect_over(host.into(), managers, identity, config::REQUEST_DEADLINE).await
}

fn nobody(number: usize) -> Error {
    Error::Invalid(format!("there is no manager {number}: they are numbered from 1"))
}

impl Cluster {
    /// Starts so many managers, and waits until every one has its seat.
    ///
    /// Cancel safe: dropped half-way, what was started stops.
    ///
    /// # Errors
    /// As [`ClusterBuilder::start`].
    pub async fn start(managers: usize) -> Result<Self> {
        Self::builder().managers(managers).start().await
    }

    /// Settings for one.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder { managers: 3, configure: Arc::new(|node| node) }
    }

    /// How many managers there are, running or not.
    pub fn managers(&self) -> usize {
        self.machines.len()
    }

    /// A client outside the managers, connected over QUIC with an operator's identity, as a program elsewhere would be: it
    /// knows all of them and goes on with another one when its manager is gone. All clones are one client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The client in the process of this manager, which asks that manager alone: what a program has that embeds it.
    ///
    /// # Errors
    /// As [`node`](Self::node).
    pub fn client_of(&self, manager: usize) -> Result<Client> {
        Ok(self.node(manager)?.client())
    }

    /// The node of this manager: to lead with, for its status, for what a program does that embeds it. It is another one
    /// after each restart.
    ///
    /// # Errors
    /// `Invalid` when there is no such manager, `Unavailable` when it is not running.
    pub fn node(&self, manager: usize) -> Result<Node> {
        let node = self.machine(manager)?.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        node.ok_or_else(|| Error::Unavailable(format!("m{manager} is not running; restart it first")))
    }

    /// The UDP address of this manager, which only this cluster's own network knows.
    ///
    /// # Errors
    /// `Invalid` when there is no such manager.
    pub fn address(&self, manager: usize) -> Result<String> {
        Ok(format!("{}:{}", self.machine(manager)?.address, config::PORT))
    }

    /// Starts a worker of this name on a machine of its own, and waits for its session with a manager: for programs that run
    /// what they are assigned. What becomes of it, and of the role it has, is up to the test; with the cluster it ends.
    ///
    /// Cancel safe: dropped half-way, what was started stops.
    ///
    /// # Errors
    /// `Invalid` when there are 99 already, `Unavailable` with the reason when it cannot join.
    pub async fn worker(&self, name: &str) -> Result<Node> {
        let given = |number: u8| number.checked_add(1).filter(|number| usize::from(*number) <= MACHINES_MAX);
        let before = self.numbers.fetch_update(Ordering::AcqRel, Ordering::Acquire, given);
        let Ok(before) = before else {
            return Err(Error::Invalid(format!("a test cluster has {MACHINES_MAX} workers at most")));
        };
        let number = before + 1;
        let token = self.client.tokens().show(Role::Worker).await?;
        let managers = (1..=self.managers()).map(|manager| self.address(manager)).collect::<Result<_>>()?;
        let address = IpAddr::from(Ipv4Addr::new(10, 0, 2, number));
        let node = Node::builder(self.directory.path().join(format!("w{number}")))
            .name(name)
            .listen(format!("{address}:{}", config::PORT))
            .stable(STABLE)
            .ground(Ground::in_memory(self.network.host(address), MemoryDisk::new(DISK)))
            .start(Start::OpenOrJoin { token, managers })
            .await
            .map_err(|error: StartError| Error::Unavailable(format!("{name}: {error}")))?;
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(node.clone());
        node.ready().await?;
        Ok(node)
    }

    pub(super) fn machine(&self, manager: usize) -> Result<&Machine> {
        self.machines.get(manager.wrapping_sub(1)).ok_or_else(|| nobody(manager))
    }

    /// Those that run, with their numbers.
    pub(super) fn running(&self) -> impl Iterator<Item = (usize, Node)> + '_ {
        let node = |machine: &Machine| machine.node.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (1..).zip(&self.machines).filter_map(move |(number, machine)| Some((number, node(machine)?)))
    }

    fn put(&self, manager: usize, node: Node) -> Result<()> {
        *self.machine(manager)?.node.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
        Ok(())
    }

    /// The node of this manager, which is none from now on.
    pub(super) fn take(&self, manager: usize) -> Result<Node> {
        let node = self.machine(manager)?.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        node.ok_or_else(|| Error::Unavailable(format!("m{manager} is not running")))
    }

    /// Starts what is on the disk of this machine.
    pub(super) async fn open(&self, manager: usize) -> Result<()> {
        let node = begin(&self.network, &self.configure, &self.machines, manager, Start::Open).await?;
        self.put(manager, node)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for node in self.running().map(|(_, node)| node).chain(workers) {
            node.abandon();
        }
    }
}
