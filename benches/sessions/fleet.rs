//! The workers' ends: the library's own sessions, and what is seen of them from here.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate::testing::{SharedSocket, WorkerSession};
use quorate::{Node, NodeBuilder};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::{Told, told};

/// UDP sockets that the workers share.
const SOCKETS: usize = 64;
/// Workers that look for their first manager at the same time.
const AT_ONCE: usize = 100;
/// How long one may take to join: many want to.
const PATIENCE: Duration = Duration::from_secs(60);

struct Member {
    directory: PathBuf,
    /// Of the file with its first certificate: a renewed one is another file.
    first: u64,
    session: Option<WorkerSession>,
}

/// All of them.
pub(crate) struct Fleet {
    members: Vec<Member>,
    managers: Vec<String>,
    _place: TempDir,
}

fn builder(directory: &Path) -> NodeBuilder {
    Node::builder(directory).listen("127.0.0.1:0").patience(PATIENCE)
}

fn certificate(directory: &Path) -> u64 {
    std::fs::metadata(directory.join("node.id")).map_or(0, |file| file.ino())
}

impl Fleet {
    /// Lets so many workers join, and prepares their directories.
    pub(crate) async fn join(
        place: &Path,
        token: &str,
        managers: Vec<String>,
        count: usize,
        at_once: usize,
    ) -> Told<Self> {
        let place = tempfile::Builder::new().prefix("quorate-workers-").tempdir_in(place).map_err(told)?;
        let turns = Arc::new(Semaphore::new(at_once));
        let mut joining = JoinSet::new();
        for number in 0..count {
            let directory = place.path().join(format!("w{number}"));
            let (token, mut managers, turns) = (token.to_owned(), managers.clone(), Arc::clone(&turns));
            let turn = number % managers.len().max(1);
            managers.rotate_left(turn);
            joining.spawn(async move {
                let _turn = turns.acquire_owned().await;
                let builder = builder(&directory).name(format!("w{number}"));
                builder.join(&token, managers).await.map_err(told)?;
                Ok::<_, String>(Member { first: certificate(&directory), directory, session: None })
            });
        }
        let mut members = Vec::with_capacity(count);
        while let Some(joined) = joining.join_next().await {
            members.push(joined.map_err(told)??);
        }
        Ok(Self { members, managers, _place: place })
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Every worker looks for a manager from now on.
    pub(crate) async fn open(&mut self) -> Told<()> {
        let towards = self.managers.first().and_then(|address| address.parse().ok()).ok_or("no manager")?;
        let sockets: Vec<SharedSocket> =
            (0..SOCKETS).map(|_| SharedSocket::open(towards)).collect::<Result<_, _>>().map_err(told)?;
        let mut opening = JoinSet::new();
        for (member, socket) in self.members.iter_mut().zip(sockets.iter().cycle()) {
            let session = WorkerSession::start(Node::builder(&member.directory), socket).await.map_err(told)?;
            opening.spawn(session.ready());
            member.session = Some(session);
            // All handshakes of all workers at once would measure this process, which has to do all of their ends.
            while opening.len() >= AT_ONCE {
                let _ = opening.join_next().await;
            }
        }
        Ok(())
    }

    fn running(&self) -> impl Iterator<Item = &WorkerSession> {
        self.members.iter().filter_map(|member| member.session.as_ref())
    }

    /// How many have a session that a manager has welcomed.
    pub(crate) fn sessions(&self) -> usize {
        self.running().filter(|session| session.manager().is_some()).count()
    }

    /// How many have theirs with this manager.
    pub(crate) fn with(&self, manager: &str) -> usize {
        self.running().filter(|session| session.manager().as_deref() == Some(manager)).count()
    }

    /// How many sessions have begun so far.
    pub(crate) fn moved(&self) -> u64 {
        self.running().map(WorkerSession::begun).sum()
    }

    /// How many have another certificate than the one that they joined with.
    pub(crate) fn renewed(&self) -> usize {
        self.members.iter().filter(|member| certificate(&member.directory) != member.first).count()
    }
}
