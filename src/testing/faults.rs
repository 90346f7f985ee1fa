//! What happens to the machines of a test cluster.
//!
//! Owns the verbs of a test. Each does to a machine what the world does, below everything that the node knows of: the node
//! is not told. Called by tests.

use super::cluster::Cluster;
use crate::error::{Error, Result};

impl Cluster {
    /// The machine of this manager loses power: it is gone from the network without a word, and what its disk had not
    /// synced is lost. Nothing acknowledged is, as long as a majority of the voters keeps its disks.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// `Invalid` when there is no such manager, `Unavailable` when it is not running.
    pub async fn kill(&self, manager: usize) -> Result<()> {
        let node = self.take(manager)?;
        let machine = self.machine(manager)?;
        self.network.power_off(machine.address);
        node.abandon();
        node.stopped().await;
        machine.disk.lose_power();
        Ok(())
    }

    /// This manager is stopped in order, as `quorate stop` or the end of a program does: it hands leadership over first, and
    /// says goodbye.
    ///
    /// Cancel safe once polled: the stop goes on.
    ///
    /// # Errors
    /// `Invalid` when there is no such manager, `Unavailable` when it is not running.
    pub async fn stop(&self, manager: usize) -> Result<()> {
        self.take(manager)?.shutdown().await;
        Ok(())
    }

    /// The machine of this manager has power again, and what is on its disk is started. It answers once the manager
    /// listens; [`caught_up`](Self::caught_up) and [`settled`](Self::settled) wait for more.
    ///
    /// Cancel safe: dropped half-way, the machine has power and nothing runs on it; restart it again.
    ///
    /// # Errors
    /// `Invalid` when there is no such manager, or it is running; `Unavailable` with the reason when it cannot be started.
    pub async fn restart(&self, manager: usize) -> Result<()> {
        if self.node(manager).is_ok() {
            return Err(Error::Invalid(format!("m{manager} is running: kill it or stop it first")));
        }
        self.network.power_on(self.machine(manager)?.address);
        self.open(manager).await
    }

    /// Kills whoever leads and waits until somebody else does; says who was killed.
    ///
    /// Not cancel safe: dropped while it waits, somebody was killed all the same, and it is not said who.
    ///
    /// # Errors
    /// `NoLeader` when nobody led within a minute, before or after.
    pub async fn lose_the_leader(&self) -> Result<usize> {
        let leader = self.leader().await?;
        self.kill(leader).await?;
        self.leader().await?;
        Ok(leader)
    }

    /// Cuts the network between these groups of managers: within a group all reach each other, and nobody else; a manager
    /// that is in no group is alone. What was cut before is whole again. [`client`](Self::client) goes on to reach every
    /// manager; [`client_of`](Self::client_of) is where its manager is.
    ///
    /// Nobody is told: connections are silent from now on.
    ///
    /// # Errors
    /// `Invalid` when there is no such manager, or one is in two groups; nothing was cut then.
    pub fn partition(&self, groups: &[&[usize]]) -> Result<()> {
        let mut side = vec![None; self.managers()];
        for (group, members) in groups.iter().enumerate() {
            for manager in *members {
                self.machine(*manager)?;
                let Some(side) = side.get_mut(manager.wrapping_sub(1)) else { continue };
                if side.replace(group).is_some() {
                    return Err(Error::Invalid(format!("manager {manager} cannot be on two sides of a cut")));
                }
            }
        }
        for (at, one) in self.machines.iter().enumerate() {
            for (other_at, other) in self.machines.iter().enumerate().skip(at + 1) {
                let (one_side, other_side) = (side.get(at).copied().flatten(), side.get(other_at).copied().flatten());
                if one_side.is_some() && one_side == other_side {
                    self.network.join(one.address, other.address);
                } else {
                    self.network.cut(one.address, other.address);
                }
            }
        }
        Ok(())
    }

    /// Every manager reaches every other one again.
    pub fn heal(&self) {
        for (at, one) in self.machines.iter().enumerate() {
            for other in self.machines.iter().skip(at + 1) {
                self.network.join(one.address, other.address);
            }
        }
    }

    /// No space is left on the disk of this manager. It notices within half a second, takes no more writes and neither leads
    /// nor votes, until [`free_the_disk`](Self::free_the_disk).
    ///
    /// # Errors
    /// `Invalid` when there is no such manager.
    pub fn fill_the_disk(&self, manager: usize) -> Result<()> {
        self.machine(manager)?.disk.set_free_space(0);
        Ok(())
    }

    /// There is space on the disk of this manager again.
    ///
    /// # Errors
    /// `Invalid` when there is no such manager.
    pub fn free_the_disk(&self, manager: usize) -> Result<()> {
        self.machine(manager)?.disk.set_free_space(super::cluster::DISK);
        Ok(())
    }

    /// The next write to the disk of this manager fails: it stops for good with [`StopReason::DiskFailed`], and can be
    /// restarted once it has.
    ///
    /// # Errors
    /// `Invalid` when there is no such manager.
    ///
    /// [`StopReason::DiskFailed`]: crate::StopReason::DiskFailed
    pub fn break_the_disk(&self, manager: usize) -> Result<()> {
        self.machine(manager)?.disk.fail_next_write();
        Ok(())
    }
}
