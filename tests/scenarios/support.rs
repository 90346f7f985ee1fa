//! Domain verbs for scenarios: a cluster of real nodes in one process, each in its own directory.
//!
//! Owns waiting: on a condition, with a generous budget, never on a time that decides.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate::{Client, Identity, Node, NodeBuilder, Start, StartError, status::ClusterStatus};
use quorate_core::id::Lineage;
use quorate_storage::{GivenKey, Key};
use tempfile::TempDir;

/// How long anything that must happen may take on a slow machine.
pub const BUDGET: Duration = Duration::from_secs(60);

/// The settings with which a test opens the store of a node's directory: its key lies beside the data.
pub fn store_options(directory: &Path) -> quorate_storage::Options {
    let text = std::fs::read_to_string(directory.join("key")).unwrap();
    let key = Key::from_text(text.lines().last().unwrap()).unwrap();
    quorate_storage::Options::new(Arc::new(GivenKey(key)))
}

/// Polls until the condition gives something.
pub async fn eventually<T, F, Fut>(what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let until = tokio::time::Instant::now() + BUDGET;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < until, "not within {BUDGET:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One manager: its directory outlives it.
pub struct Member {
    pub directory: PathBuf,
    pub node: Option<Node>,
}

pub struct Cluster {
    pub members: Vec<Member>,
    root: TempDir,
    pub log_window: u64,
    tick: Duration,
    /// Of members that start from now on; the library's own where nothing is said.
    pub space_marks: Option<(u64, u64)>,
    /// Of the certificates that members make; the library's own where nothing is said.
    certificate_life: Option<Duration>,
}

impl Cluster {
    pub fn builder(&self, directory: &Path, name: &str) -> NodeBuilder {
        let builder = Node::builder(directory)
            .listen("127.0.0.1:0")
            .name(name)
            .tick(self.tick)
            .log_window(self.log_window)
            .stable(Duration::from_millis(200));
        let builder = match self.certificate_life {
            Some(life) => builder.certificate_life(life),
            None => builder,
        };
        match self.space_marks {
            Some((low, enough)) => builder.space_marks(low, enough),
            None => builder,
        }
    }

    /// Nobody yet.
    pub fn empty() -> Self {
        if std::env::var_os("QUORATE_TEST_LOG").is_some() {
            let filter = tracing_subscriber::EnvFilter::from_env("QUORATE_TEST_LOG");
            let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        }
        let (root, tick) = (tempfile::tempdir().unwrap(), Duration::from_millis(20));
        Self { members: Vec::new(), root, log_window: 10_000, tick, space_marks: None, certificate_life: None }
    }

    /// This node is one of the members from now on.
    pub fn add(&mut self, directory: PathBuf, node: Node) {
        self.members.push(Member { directory, node: Some(node) });
    }

    /// One founded manager.
    pub async fn founded() -> Self {
        Self::founded_with_window(10_000).await
    }

    pub async fn founded_with_window(log_window: u64) -> Self {
        Self::founded_with(log_window, Duration::from_millis(20), None).await
    }

    /// A cluster of `count` managers with longer ticks: for what must not depend on how busy the machine is.
    pub async fn unhurried(count: usize, tick: Duration) -> Self {
        Self::founded_with(10_000, tick, None).await.grow(count).await
    }

    /// A cluster of `count` managers whose certificates hold for so long.
    pub async fn with_certificates(count: usize, life: Duration) -> Self {
        Self::founded_with(10_000, Duration::from_millis(20), Some(life)).await.grow(count).await
    }

    async fn founded_with(log_window: u64, tick: Duration, certificate_life: Option<Duration>) -> Self {
        let mut cluster = Self { log_window, tick, certificate_life, ..Self::empty() };
        let directory = cluster.path("m1");
        let node = cluster.builder(&directory, "m1").start(Start::OpenOrInit).await.unwrap();
        node.ready().await.unwrap();
        cluster.add(directory, node);
        cluster
    }

    /// A founded cluster grown to `count` managers, all in their seats.
    pub async fn of(count: usize) -> Self {
        Self::grown(count, 10_000).await
    }

    pub async fn grown(count: usize, log_window: u64) -> Self {
        Self::founded_with_window(log_window).await.grow(count).await
    }

    async fn grow(self, count: usize) -> Self {
        let mut cluster = self;
        while cluster.members.len() < count {
            cluster.join().await;
        }
        let seats = if count.is_multiple_of(2) { count - 1 } else { count };
        cluster.settled(seats).await;
        cluster
    }

    /// One more manager joins and runs.
    pub async fn join(&mut self) -> usize {
        let directory = self.path(&format!("m{}", self.members.len() + 1));
        self.join_in(directory).await
    }

    /// A path that is the cluster's own and goes away with it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub async fn token(&self) -> String {
        self.any().client().join_token("manager").await.unwrap()
    }

    pub fn addresses(&self) -> Vec<String> {
        self.running().into_iter().map(|index| self.node(index).address().to_string()).collect()
    }

    /// How a newcomer joins through any running member.
    pub async fn joining(&self) -> Start {
        Start::OpenOrJoin { token: self.token().await, managers: vec![self.any().address().to_string()] }
    }

    /// One more manager joins and runs in this directory.
    pub async fn join_in(&mut self, directory: PathBuf) -> usize {
        let name = format!("m{}", self.members.len() + 1);
        let node = self.builder(&directory, &name).start(self.joining().await).await.unwrap();
        self.add(directory, node);
        self.members.len() - 1
    }

    /// How a worker joins through any running member.
    pub async fn joining_as_worker(&self) -> Start {
        let token = self.any().client().join_token("worker").await.unwrap();
        Start::OpenOrJoin { token, managers: self.addresses() }
    }

    /// A worker joins, runs and has its session.
    pub async fn worker(&self, name: &str) -> Node {
        let start = self.joining_as_worker().await;
        let node = self.builder(&self.path(name), name).start(start).await.unwrap();
        node.ready().await.unwrap();
        node
    }

    /// A worker's directory is run again; it may have nobody to talk to.
    pub async fn worker_again(&self, name: &str) -> Node {
        self.builder(&self.path(name), "").start(Start::Open).await.unwrap()
    }

    /// Every running member says the same of a worker.
    pub async fn sees_worker(&self, name: &str, state: &str) {
        let until = tokio::time::Instant::now() + BUDGET;
        loop {
            let mut seen = Vec::new();
            for index in self.running() {
                let workers = self.node(index).status().await.workers;
                seen.push(workers.into_iter().find(|worker| worker.name == name).map(|worker| worker.state.word()));
            }
            if seen.iter().all(|seen| *seen == Some(state)) {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "not within {BUDGET:?}: {name} is {state}, seen is {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn node(&self, index: usize) -> &Node {
        self.members[index].node.as_ref().expect("the member runs")
    }

    /// Any running member.
    pub fn any(&self) -> &Node {
        self.members.iter().find_map(|member| member.node.as_ref()).expect("one member runs")
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|index| self.members[*index].node.is_some()).collect()
    }

    /// Everybody running sees so many voters, a leader, and everybody else.
    pub async fn settled(&self, voters: usize) -> ClusterStatus {
        let until = tokio::time::Instant::now() + BUDGET;
        loop {
            let mut seen = Vec::new();
            for index in self.running() {
                seen.push(self.node(index).status().await);
            }
            if seen.iter().all(|status| self.is_settled(status, voters)) {
                return seen.pop().expect("one member runs");
            }
            assert!(
                tokio::time::Instant::now() < until,
                "not within {BUDGET:?}: {voters} voters settle: {}",
                serde_json::to_string_pretty(&seen).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_settled(&self, status: &ClusterStatus, voters: usize) -> bool {
        let reachable = status.managers.iter().filter(|manager| manager.reachable).count();
        let alive = i64::try_from(self.running().len().min(voters)).unwrap();
        let tolerance = alive - i64::try_from(voters / 2 + 1).unwrap();
        status.voters == voters
            && status.fault_tolerance == tolerance
            && status.leader.is_some()
            && reachable == self.running().len()
    }

    /// The index of the member that leads.
    pub async fn leader(&self) -> usize {
        eventually("a leader", || async {
            let status = self.any().status().await;
            let leader = status.leader?;
            self.running().into_iter().find(|index| self.node(*index).name() == leader)
        })
        .await
    }

    /// Stops a member without a farewell.
    pub async fn kill(&mut self, index: usize) {
        let node = self.members[index].node.take().expect("the member runs");
        let waiting = node.clone();
        drop(node);
        waiting.abandon();
        waiting.stopped().await;
    }

    pub async fn restart(&mut self, index: usize) {
        self.members[index].node = Some(self.try_restart(index).await.unwrap());
    }

    /// Kills a member and starts it again as `change` has it.
    pub async fn restart_as(&mut self, index: usize, change: impl FnOnce(NodeBuilder) -> NodeBuilder) {
        self.kill(index).await;
        self.members[index].node = Some(change(self.builder_of(index)).start(Start::Open).await.unwrap());
    }

    /// What comes of starting a stopped member again.
    pub async fn try_restart(&self, index: usize) -> Result<Node, StartError> {
        self.builder(&self.members[index].directory, "").start(Start::Open).await
    }

    /// The other members that run.
    pub fn others(&self, index: usize) -> Vec<usize> {
        self.running().into_iter().filter(|other| *other != index).collect()
    }

    /// Waits for the leader to be this member, and sends leadership there when it is not.
    pub async fn lead_by(&self, index: usize) {
        let name = self.node(index).name();
        eventually("leadership goes where it is sent", || async {
            if self.leader().await == index {
                return Some(());
            }
            let _ = self.any().client().transfer_leadership(Some(&name)).await;
            None
        })
        .await;
    }

    pub fn builder_of(&self, index: usize) -> NodeBuilder {
        self.builder(&self.members[index].directory, "")
    }

    /// A builder that names no address: those on record count.
    pub fn builder_of_as_recorded(&self, index: usize) -> NodeBuilder {
        Node::builder(&self.members[index].directory)
    }

    /// Flips a byte in the middle of a stopped member's newest journal file.
    pub fn damage_journal(&self, index: usize) {
        let database = walk(&self.members[index].directory);
        let journal = database
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .max_by_key(|path| std::fs::metadata(path).unwrap().len())
            .expect("a journal file");
        let mut bytes = std::fs::read(&journal).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&journal, bytes).unwrap();
    }

    pub fn operator(&self) -> Identity {
        Identity::load(&self.members[0].directory.join("operator.id")).unwrap()
    }

    /// A client from outside, over QUIC, to these members.
    pub async fn outside(&self, members: &[usize]) -> Client {
        let managers = members.iter().map(|index| self.node(*index).address().to_string());
        Client::connect(managers, self.operator()).await.unwrap()
    }

    /// Every running member's digest at one revision is the same.
    pub async fn agrees(&self) {
        eventually("all members have the same state hash", || async {
            let status = self.any().status().await;
            let reachable: Vec<_> = status.managers.iter().filter(|manager| manager.reachable).collect();
            let first = reachable.first()?.state_hash.clone()?;
            let whole = reachable.len() == self.running().len() && reachable.iter().all(|manager| manager.lag == 0);
            (whole && reachable.iter().all(|manager| manager.state_hash.as_ref() == Some(&first))).then_some(())
        })
        .await;
    }

    pub async fn stop(mut self) {
        for index in self.running() {
            let node = self.members[index].node.take().unwrap();
            assert_eq!(node.shutdown().await, quorate::StopReason::Asked);
        }
    }
}

/// A copy of a stopped member's directory, to be hurt.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if path.is_file() {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Every file below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

/// A UDP address on loopback where nothing listens.
pub fn closed_port() -> String {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Every one of `words` must be in what a person reads.
pub fn says(error: &impl std::fmt::Display, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

/// A connection to one member with an operator's identity, for bytes that no client would send.
pub async fn raw(cluster: &Cluster, index: usize) -> quorate_transport::Connection {
    raw_as(cluster, index, cluster.operator()).await
}

/// The same with anybody's.
pub async fn raw_as(cluster: &Cluster, index: usize, identity: Identity) -> quorate_transport::Connection {
    let identity = Arc::new(identity);
    let subject = identity.subject();
    let hello = quorate_transport::Hello::client(subject.cluster, subject.node_id, Lineage::default(), "scenario");
    let address = [cluster.node(index).address().to_string()];
    quorate_transport::Connector::connect(&address, identity, hello, BUDGET).await.unwrap()
}
