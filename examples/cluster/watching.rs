//! How the demo sees what the cluster does: it asks for the status until that is as it has to be.
//!
//! Owns how long anything is waited for. Checks each status that it sees for an odd number of voters. Called by the chapters.

use std::time::{Duration, Instant};

use quorate::Client;
use quorate::status::{ClusterStatus, ManagerStatus};

use crate::Demo;
use crate::processes::Told;
use crate::reading;

/// How long anything that is waited for may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is looked.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

impl Demo {
    /// A client that knows this one node only, over a new connection.
    pub(crate) async fn client(&self, name: &str) -> Told<Client> {
        reading::only(self.processes.member(name)?, &self.processes.identity()).await
    }

    pub(crate) fn addresses(&self, names: &[String]) -> Told<Vec<String>> {
        names.iter().map(|name| Ok(self.processes.member(name)?.address.clone())).collect()
    }

    /// Asks one manager for its status until `found` answers; the error is the last thing seen.
    pub(crate) fn until<T>(&self, name: &str, mut found: impl FnMut(&ClusterStatus) -> Option<T>) -> Told<T> {
        let until = Instant::now() + PATIENCE;
        self.runtime.block_on(async {
            let client = self.client(name).await?;
            loop {
                let last = match client.status().await {
                    Ok(status) => {
                        check_odd(&status)?;
                        match found(&status) {
                            Some(found) => return Ok(found),
                            None => format!("{name} says {}: {}", status.health.word(), described(&status)),
                        }
                    }
                    Err(error) => error.to_string(),
                };
                if Instant::now() > until {
                    return Err(format!("{last} (after {} s)", PATIENCE.as_secs()));
                }
                tokio::time::sleep(LOOK).await;
            }
        })
    }

    /// Waits until there are so many managers with so many voters among them, and all of them have all.
    pub(crate) fn until_all_are_there(&self, name: &str, managers: usize, voters: usize) -> Told<()> {
        self.until(name, |status| {
            let there = members(status).filter(|manager| has_all(manager)).count();
            (members(status).count() == managers && there == managers && status.voters == voters).then_some(())
        })
        .map_err(|last| format!("there are not {managers} managers with {voters} voters that have everything: {last}"))
    }
}

/// The managers of the cluster, without those that a recovery has left behind.
pub(crate) fn members(status: &ClusterStatus) -> impl Iterator<Item = &ManagerStatus> {
    status.managers.iter().filter(|manager| manager.seat != "lost")
}

/// It answers and has applied everything that is known to be committed.
pub(crate) fn has_all(manager: &ManagerStatus) -> bool {
    manager.reachable && manager.lag == 0
}

/// The number of seats of so many managers: odd, so that of four or six one stays standby, and five at most.
pub(crate) const fn seats(managers: usize) -> usize {
    match managers {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

/// The rule of quorate, checked in every status that the demo sees. A newcomer that has not heard of its cluster says 0.
fn check_odd(status: &ClusterStatus) -> Told<()> {
    if status.voters == 0 || status.voters % 2 == 1 {
        return Ok(());
    }
    Err(format!("{} voters, an even number: {}", status.voters, described(status)))
}

fn described(status: &ClusterStatus) -> String {
    let managers = status.managers.iter().map(|manager| {
        let reached = if manager.reachable { "reachable" } else { "not reachable" };
        format!("{} {} {reached} applied {} lag {}", manager.name, manager.seat, manager.applied, manager.lag)
    });
    managers.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_number_of_voters_fails_the_demo() {
        let status = |voters| ClusterStatus { voters, ..ClusterStatus::default() };
        assert!([0, 1, 3, 5].into_iter().all(|voters| check_odd(&status(voters)).is_ok()));
        assert!(check_odd(&status(2)).is_err() && check_odd(&status(4)).is_err());
    }
}
