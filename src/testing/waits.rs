//! What a test waits for.
//!
//! Owns the looks at the managers that a test would else write itself: polls of what each manager says of itself, on the
//! clock of the test. Changes nothing. Called by tests.

use std::sync::Arc;
use std::time::Duration;

use quorate_core::consensus::io::Status;
use tokio::time::Instant;

use super::cluster::Cluster;
use crate::config;
use crate::error::{Error, Result};

/// How long is waited at most, and between two looks.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

impl Cluster {
    /// Waits until `holds`, which is asked again and again; for a minute of the test's clock at most.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` after that minute, with `what` was waited for.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> quorate::Result<()> {
    /// # let cluster = quorate::testing::Cluster::start(3).await?;
    /// let leader = cluster.leader().await?;
    /// cluster.fill_the_disk(leader)?;
    /// cluster.until("somebody with space leads", async || cluster.leader_now() .is_some_and(|now| now != leader)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !holds().await {
            if Instant::now() >= until {
                return Err(Error::Unavailable(format!("not within {} s: {what}", PATIENCE.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Who leads: the manager whose leadership holds right now, as far as it knows. At most one does at a time, also while
    /// the network is cut.
    pub fn leader_now(&self) -> Option<usize> {
        let leading = self.running().filter_map(|(number, node)| Some((node.leads()?, number)));
        leading.max().map(|(_, number)| number)
    }

    /// Waits until somebody leads, and says who; for a minute of the test's clock at most.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NoLeader` after that minute.
    pub async fn leader(&self) -> Result<usize> {
        let led = self.until("somebody leads", async || self.leader_now().is_some()).await;
        match (self.leader_now(), led) {
            (Some(leader), _) => Ok(leader),
            (None, Err(error)) => Err(Error::NoLeader(error.to_string())),
            (None, Ok(())) => Err(Error::NoLeader("who led has just stopped to".into())),
        }
    }

    /// Waits until all that run follow one leader and have applied everything that it has; for a minute of the test's clock
    /// at most. While somebody writes that may never be.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` after that minute.
    pub async fn settled(&self) -> Result<()> {
        self.until("all managers that run follow one leader and have applied what it has", async || self.is_settled())
            .await
    }

    fn is_settled(&self) -> bool {
        let Some(leader) = self.leader_now().and_then(|leader| self.node(leader).ok()?.seen()) else { return false };
        let follows = |status: &Arc<Status>| {
            status.leader == Some(leader.id) && status.term == leader.term && status.applied == leader.last
        };
        self.running().all(|(_, node)| node.seen().is_some_and(|status| follows(&status)))
    }

    /// Waits until this manager has applied everything that the leader had committed when this was called; for a minute of
    /// the test's clock at most.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `NoLeader` when nobody leads, `Unavailable` after that minute or when the manager is not running.
    pub async fn caught_up(&self, manager: usize) -> Result<()> {
        let leader = self.leader().await?;
        let wanted = self.node(leader)?.seen().map(|status| status.commit).unwrap_or_default();
        let node = self.node(manager)?;
        let there = async || node.seen().is_some_and(|status| status.applied >= wanted);
        self.until("the manager has caught up", there).await
    }

    /// Waits until every manager has the seat that it is to have.
    pub(super) async fn seated(&self) -> Result<()> {
        let most = usize::try_from(config::MAX_VOTERS).unwrap_or(usize::MAX).min(self.managers());
        // An even number is one too many.
        let voters = most - usize::from(most.is_multiple_of(2));
        let seated = |status: &Arc<Status>| {
            status.configuration.voters.len() == voters
                && status.configuration.members().len() == self.managers()
                && !status.configuration.is_joint()
                && !status.changing
        };
        let all = async || self.running().all(|(_, node)| node.seen().is_some_and(|status| seated(&status)));
        self.until("every manager has its seat", all).await?;
        self.settled().await
    }
}
