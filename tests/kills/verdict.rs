//! What must hold when everything has come back.
//!
//! Owns the final reads: every acknowledged key at every manager, over connections made for that.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quorate::status::ClusterStatus;

use crate::Outcome;
use crate::fleet::{BUDGET, Fleet, MANAGERS};
use crate::ledger::{Fate, Ledger};
use crate::load::{COUNTER, KEYS, value_in, value_of};

/// Waits until all three are voters, reachable, without lag and with the same digest.
pub async fn settled(fleet: &mut Fleet) -> Outcome<ClusterStatus> {
    let client = fleet.client(&[0, 1, 2]).await?;
    let until = Instant::now() + BUDGET;
    loop {
        fleet.all_run()?;
        let status = client.status().await.map_err(|error| format!("no status at the end: {error}"))?;
        let whole = status.voters == MANAGERS
            && status.managers.len() == MANAGERS
            && status.leader.is_some()
            && status.managers.iter().all(|manager| manager.reachable && manager.lag == 0);
        let hash = status.managers.first().and_then(|first| first.state_hash.clone());
        let revision = status.managers.first().and_then(|first| first.hash_revision);
        let alike = hash.is_some()
            && revision == Some(status.revision)
            && status.managers.iter().all(|manager| manager.state_hash == hash);
        if whole && alike {
            println!(
                "settled: {} voters, lag 0, revision {}, term {}, state hash {}",
                status.voters,
                status.revision,
                status.term,
                hash.as_deref().map_or("", |hash| hash.get(..16).unwrap_or(hash))
            );
            return Ok(status);
        }
        if Instant::now() > until {
            let last = serde_json::to_string(&status).unwrap_or_default();
            return Err(format!("the managers are not alike {BUDGET:?} after the last write: {last}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub async fn check(fleet: &Fleet, ledger: &Ledger) -> Outcome {
    let writes = ledger.writes();
    let (counted, count_unknown) = ledger.counts();
    let acknowledged = writes.iter().filter(|(_, fate)| **fate == Fate::Acknowledged);
    let mut lines: BTreeSet<String> = acknowledged.map(|(key, _)| format!("w {key}")).collect();
    lines.extend(counted.keys().map(|value| format!("c {value}")));
    let on_disk: BTreeSet<String> = ledger.on_disk()?.into_iter().collect();
    if on_disk != lines {
        ledger.violation(format!("the list on disk has {} entries, the one in memory {}", on_disk.len(), lines.len()));
    }
    for (value, times) in counted.iter().filter(|(_, times)| **times > 1) {
        ledger.violation(format!("{times} increments to {value} were acknowledged: all but one are lost"));
    }
    for index in 0..MANAGERS {
        let name = &fleet.members[index].name;
        let kv = fleet.client(&[index]).await?.kv();
        let entries = kv.prefix(KEYS).all().await.map_err(|error| format!("{name} cannot be read: {error}"))?;
        let mut found = std::collections::BTreeMap::new();
        for entry in entries {
            let key = String::from_utf8_lossy(&entry.key).into_owned();
            if entry.version != 1 {
                ledger.violation(format!("{key} was written {} times at {name}, sent once", entry.version));
            }
            if entry.value != value_of(&key).as_bytes() {
                ledger.violation(format!("{key} holds another value at {name} than was written"));
            }
            if !writes.contains_key(&key) {
                ledger.violation(format!("{key} is at {name}, and was never sent"));
            }
            found.insert(key, entry);
        }
        for (key, fate) in &writes {
            match fate {
                Fate::Acknowledged if !found.contains_key(key) => {
                    ledger.violation(format!("LOST: {key} was acknowledged and is not at {name}"));
                }
                Fate::NotDone(why) if found.contains_key(key) => {
                    ledger
                        .violation(format!("{key} is at {name}, and its writer was told that it was not done: {why}"));
                }
                Fate::Acknowledged | Fate::Unknown | Fate::NotDone(_) => {}
            }
        }
        let counter = kv.get(COUNTER).await.map_err(|error| format!("{name} cannot be read: {error}"))?;
        let counter = counter.ok_or_else(|| format!("the counter is not at {name}"))?;
        let value = value_in(&counter)?;
        let least = counted.len() as u64;
        if value < least || value > least + count_unknown || counter.version != value {
            ledger.violation(format!(
                "the counter is {value} at {name}, written {} times; {least} increments were acknowledged, {count_unknown} are unknown",
                counter.version
            ));
        }
        println!("{name}: {} unique keys, each written once; counter {value}", found.len());
    }
    Ok(())
}
