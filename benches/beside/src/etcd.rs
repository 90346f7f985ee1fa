//! etcd's members, real processes, and a load on them. They end when this is dropped.
//!
//! Owns their directories, below one temporary one, and the loopback ports that they are given. The distribution's service is
//! not touched. Called by the rows.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, GetOptions, MemberAddOptions, PutOptions, Txn, TxnOp};
use tempfile::TempDir;

use crate::load::{Draw, Keys, Store};
use crate::managers::terminate;
use crate::rows::Kind;
use crate::tally::Failed;
use crate::{Targets, Told, told};

/// As for the managers.
const READY: Duration = Duration::from_secs(60);
/// As long as a request of quorate waits.
const DEADLINE: Duration = Duration::from_secs(10);
/// Puts in one transaction of the preparation: etcd takes 128.
const FILL_PUTS: u64 = 100;

struct Member {
    name: String,
    client: String,
    peer: String,
    child: Option<Child>,
}

/// The processes; they go when this is dropped.
pub(crate) struct Members {
    binary: PathBuf,
    place: TempDir,
    members: Vec<Member>,
    /// What a member that is started takes its cluster for.
    state: &'static str,
}

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                let _gone_already = child.kill();
                let _gone_already = child.wait();
            }
        }
    }
}

impl Members {
    /// So many members of a new cluster, all ready.
    pub(crate) async fn start(binary: &Path, count: usize) -> Told<Self> {
        let place = tempfile::Builder::new().prefix("etcd-bench-").tempdir().map_err(told)?;
        let members = Self::addressed(1, count)?;
        let mut members = Self { binary: binary.to_owned(), place, members, state: "new" };
        for name in members.names() {
            members.spawn(&name)?;
        }
        for name in members.names() {
            members.wait_ready(&name).await?;
        }
        Ok(members)
    }

    /// So many, numbered from `first`, each with two free ports.
    fn addressed(first: usize, count: usize) -> Told<Vec<Member>> {
        // All are open at once, so that no port comes twice.
        let ports =
            (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>().map_err(told)?;
        let url = |port: &TcpListener| Ok::<_, String>(format!("http://{}", port.local_addr().map_err(told)?));
        let member = |(number, ports): (usize, &[TcpListener])| match ports {
            [client, peer] => {
                Ok(Member { name: format!("e{}", number + first), client: url(client)?, peer: url(peer)?, child: None })
            }
            _ => Err("no ports".to_owned()),
        };
        ports.chunks(2).enumerate().map(member).collect()
    }

    /// One more member, as a learner; answers when it was started and where it is.
    pub(crate) async fn grow(&mut self) -> Told<(Instant, String)> {
        let mut client = self.connections(1, Targets::Leader).await?.pop().ok_or("no connection")?;
        let new = Self::addressed(self.members.len() + 1, 1)?.pop().ok_or("no member")?;
        let learner = MemberAddOptions::new().with_is_learner();
        client.member_add([new.peer.as_str()], Some(learner)).await.map_err(told)?;
        let (name, url) = (new.name.clone(), new.client.clone());
        self.members.push(new);
        self.state = "existing";
        let began = Instant::now();
        self.spawn(&name)?;
        Ok((began, url))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name.clone()).collect()
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.child.as_ref()).map(Child::id).collect()
    }

    fn member(&mut self, name: &str) -> Told<&mut Member> {
        self.members.iter_mut().find(|member| member.name == name).ok_or_else(|| format!("there is no member {name}"))
    }

    fn spawn(&mut self, name: &str) -> Told<()> {
        let every = self.members.iter().map(|member| format!("{}={}", member.name, member.peer));
        let cluster = every.collect::<Vec<_>>().join(",");
        let (binary, directory, state) = (self.binary.clone(), self.place.path().join(name), self.state);
        let member = self.member(name)?;
        let log = std::fs::File::create(directory.with_extension("log")).map_err(told)?;
        let child = Command::new(&binary)
            .args(["--name", name, "--data-dir"])
            .arg(&directory)
            .args(["--listen-client-urls", &member.client, "--advertise-client-urls", &member.client])
            .args(["--listen-peer-urls", &member.peer, "--initial-advertise-peer-urls", &member.peer])
            .args(["--initial-cluster", &cluster, "--initial-cluster-state", state])
            .args([
                "--quota-backend-bytes=8589934592",
                "--auto-compaction-retention=0",
                "--logger=zap",
                "--log-level=error",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", binary.display()))?;
        member.child = Some(child);
        Ok(())
    }

    /// Starts one that has ended, and waits until it answers.
    pub(crate) async fn run(&mut self, name: &str) -> Told<()> {
        self.spawn(name)?;
        self.wait_ready(name).await
    }

    /// Until it answers a linearizable read.
    async fn wait_ready(&mut self, name: &str) -> Told<()> {
        let url = self.member(name)?.client.clone();
        let until = Instant::now() + READY;
        loop {
            if let Ok(mut client) = connect(&url).await
                && client.get("ready", None).await.is_ok()
            {
                return Ok(());
            }
            if Instant::now() > until {
                let log =
                    std::fs::read_to_string(self.place.path().join(name).with_extension("log")).unwrap_or_default();
                return Err(format!("the etcd member {name} was not ready: {log}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL; answers when it was sent.
    pub(crate) fn kill(&mut self, name: &str) -> Told<Instant> {
        let mut child = self.member(name)?.child.take().ok_or_else(|| format!("{name} does not run"))?;
        let sent = Instant::now();
        child.kill().and_then(|()| child.wait()).map_err(told)?;
        Ok(sent)
    }

    /// SIGTERM; answers when it was sent, once it has ended.
    pub(crate) fn stop(&mut self, name: &str) -> Told<Instant> {
        let mut child = self.member(name)?.child.take().ok_or_else(|| format!("{name} does not run"))?;
        let sent = Instant::now();
        terminate(child.id())?;
        child.wait().map_err(told)?;
        Ok(sent)
    }

    /// The member that leads.
    pub(crate) async fn leader(&self) -> Told<String> {
        for member in &self.members {
            let Ok(mut client) = connect(&member.client).await else { continue };
            let Ok(status) = client.status().await else { continue };
            if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                return Ok(member.name.clone());
            }
        }
        Err("no etcd member leads".into())
    }

    /// Where the members are, the leader first.
    pub(crate) async fn urls(&self) -> Told<Vec<String>> {
        let leader = self.leader().await?;
        let mut members: Vec<&Member> = self.members.iter().collect();
        members.sort_by_key(|member| member.name != leader);
        Ok(members.iter().map(|member| member.client.clone()).collect())
    }

    /// So many connections, each to the next of the members, the first to the leader.
    pub(crate) async fn connections(&self, count: usize, targets: Targets) -> Told<Vec<Client>> {
        let mut urls = self.urls().await?;
        urls.truncate(targets.count(urls.len()));
        let mut connections = Vec::new();
        for url in urls.iter().cycle().take(count) {
            connections.push(connect(url).await?);
        }
        Ok(connections)
    }

    /// Writes every key of the key space, unless as many are there.
    pub(crate) async fn fill(&self, keys: &Keys, mut draw: Draw) -> Told<()> {
        let mut client = self.connections(1, Targets::Leader).await?.pop().ok_or("no connection")?;
        let counted = GetOptions::new().with_prefix().with_count_only();
        let there = client.get(keys.prefix.as_str(), Some(counted)).await.map_err(told)?.count();
        if u64::try_from(there).unwrap_or(0) >= keys.count {
            return Ok(());
        }
        let at_once = ((1 << 20) / (draw.value().len() as u64 + 64)).clamp(1, FILL_PUTS);
        let mut from = 0;
        while from < keys.count {
            let to = keys.count.min(from + at_once);
            let puts = (from..to).map(|number| TxnOp::put(keys.key(number), draw.value(), None::<PutOptions>));
            client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.map_err(told)?;
            from = to;
        }
        Ok(())
    }
}

/// One HTTP/2 connection to one member.
pub(crate) async fn connect(url: &str) -> Told<Client> {
    let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(1)).with_timeout(DEADLINE);
    Client::connect([url], Some(options)).await.map_err(told)
}

/// The requests of a row, over the connections that the clients share in turn.
pub(crate) struct Requests {
    pub(crate) connections: Vec<Client>,
    pub(crate) kind: Kind,
}

impl Requests {
    async fn attempt(&self, client: usize, draw: &mut Draw) -> Result<usize, etcd_client::Error> {
        let number = client.checked_rem(self.connections.len()).unwrap_or(0);
        let Some(connection) = self.connections.get(number) else {
            return Err(etcd_client::Error::InvalidArgs("there is no connection".into()));
        };
        let mut kv = connection.kv_client();
        let get = |serializable: bool| serializable.then(|| GetOptions::new().with_serializable());
        let read = match self.kind {
            Kind::Put | Kind::Told { .. } => None,
            Kind::Get { serializable } => Some(serializable),
            Kind::Mixed { reads } => draw.odds(reads).then_some(false),
        };
        let Some(serializable) = read else {
            kv.put(draw.key(), draw.value(), None).await?;
            return Ok(if matches!(self.kind, Kind::Mixed { .. }) { 1 } else { 0 });
        };
        let key = draw.key();
        let found = kv.get(key.as_str(), get(serializable)).await?;
        match found.kvs() {
            [entry] if entry.key() == key.as_bytes() => Ok(0),
            _ => Err(etcd_client::Error::InvalidArgs(format!("`{key}` was written and is not there"))),
        }
    }
}

impl Store for Requests {
    async fn request(&self, client: usize, draw: &mut Draw) -> Result<usize, Failed> {
        self.attempt(client, draw).await.map_err(|error| Failed {
            kind: "etcd",
            // What it was is in the message; etcd's client does not say of each error whether it may have been done.
            unknown: !matches!(error, etcd_client::Error::InvalidArgs(_)),
            message: error.to_string(),
        })
    }
}
