//! What must hold once everything is healed, in the running cluster.
//!
//! Owns the convergence and the final reads: everybody alike, every acknowledged key at every manager, each once. What lies on
//! the disks is judged in `offline`, the history by the checkers that both tiers share.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use quorate::status::ClusterStatus;

use crate::check::{Finding, Verdict};
use crate::history::{Action, Operation, Outcome};

use super::load::{COUNTER, KEYS, number_in, word};
use super::world::World;
use super::{BUDGET, Done, Trouble, harness, violation};

/// Requests that must all succeed once all is well.
const PROBES: u64 = 10;

/// One checker's word.
pub(super) fn finding(checker: &'static str, result: Result<String, String>) -> Finding {
    match result {
        Ok(detail) => Finding { checker, verdict: Verdict::Pass, detail },
        Err(detail) => Finding { checker, verdict: Verdict::Fail, detail },
    }
}

impl World {
    /// Everything is healed, and it must work: a write is acknowledged in time, and a few more of everything.
    pub(super) async fn recovers(&mut self) -> Done<Finding> {
        self.heal().await?;
        for index in self.fleet.running() {
            self.fleet.ready(index).await?;
        }
        let healed = self.now();
        self.acknowledging(healed, "after everything was healed").await?;
        let took = Duration::from_nanos(self.now() - healed);
        let client = self.any().await?;
        for number in 0..PROBES {
            let key = format!("probe/{number}");
            let put = client.kv().put(key.clone(), "x").await;
            let got = client.kv().get(key).await;
            if let (Err(why), _) | (_, Err(why)) = (put, got) {
                return violation(format!("everything is healed, and a request fails: {why}"));
            }
        }
        let elections = took.as_secs_f64() / self.election.as_secs_f64();
        let detail =
            format!("a write {:.1} elections after everything was healed, then {PROBES} writes and reads", elections);
        // (Short elections say little on a machine that is busy with other things.)
        let in_time = elections <= 10.0 || took < Duration::from_secs(20);
        Ok(finding("live", if in_time { Ok(detail) } else { Err(detail) }))
    }

    /// Waits until all managers are reachable, without lag, and with the same digest.
    pub(super) async fn settled(&mut self) -> Done<ClusterStatus> {
        let until = Instant::now() + BUDGET;
        loop {
            self.sound()?;
            let answers = self.answers().await;
            if let Some(status) = answers.iter().find(|status| is_settled(status, self.fleet.running().len())) {
                return Ok(status.clone());
            }
            if Instant::now() > until {
                let seen = serde_json::to_string(&answers).unwrap_or_default();
                return Err(self
                    .recorder
                    .too_late(format!("the managers are not alike {BUDGET:?} after the last write: {seen}")));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Every key that was written once, as each manager has it now.
    pub(super) async fn final_reads(&self) -> Done<Vec<(String, BTreeMap<String, Kept>)>> {
        let mut all = Vec::new();
        for index in self.fleet.running() {
            let name = self.fleet.members[index].name.clone();
            let client = self.fleet.client(&[index]).await?.with_deadline(BUDGET);
            let entries = match client.kv().prefix(KEYS).all().await {
                Ok(entries) => entries,
                Err(why) => return violation(format!("{name} cannot be read once all is well: {why}")),
            };
            let kept = entries.into_iter().map(|entry| {
                let kept = Kept { word: word(&entry.value)?, revision: entry.mod_revision, version: entry.version };
                Ok((String::from_utf8_lossy(&entry.key).into_owned(), kept))
            });
            all.push((name, kept.collect::<Done<_>>()?));
        }
        if all.is_empty() { harness("nobody is left to be read") } else { Ok(all) }
    }

    /// The counter at every manager, against what was acknowledged.
    pub(super) async fn counter(&self) -> Done<Finding> {
        const CHECKER: &str = "exactly once (counter)";
        let (counted, unknown) = self.recorder.counts();
        if let Some((value, times)) = counted.iter().find(|(_, times)| **times > 1) {
            let detail = format!("{times} increments to {value} were acknowledged: all but one are lost");
            return Ok(finding(CHECKER, Err(detail)));
        }
        let least = counted.len() as u64;
        for index in self.fleet.running() {
            let name = &self.fleet.members[index].name;
            let client = self.fleet.client(&[index]).await?.with_deadline(BUDGET);
            let entry = client.kv().get(COUNTER).await.map_err(|why| Trouble::Violation(format!("{name}: {why}")))?;
            let (value, version) = match &entry {
                Some(entry) => (number_in(entry)?, entry.version),
                None => (0, 0),
            };
            if value < least || value > least + unknown || version != value {
                let detail = format!(
                    "the counter is {value} at {name}, written {version} times; {least} increments were acknowledged, {unknown} are unknown"
                );
                return Ok(finding(CHECKER, Err(detail)));
            }
        }
        Ok(finding(CHECKER, Ok(format!("{least} increments, {unknown} unknown"))))
    }

    /// What the watchers were told, against what was acknowledged.
    pub(super) async fn watched(&self, history: &[Operation]) -> Finding {
        const CHECKER: &str = "watch";
        let wanted: Vec<(&str, u64)> =
            acknowledged(history).filter_map(|put| Some((put.key.as_str(), put.revision?))).collect();
        let Some(load) = &self.load else { return finding(CHECKER, Err("nobody watched".to_owned())) };
        let until = Instant::now() + Duration::from_secs(30);
        let mut events = 0;
        for (number, told) in load.told.iter().enumerate() {
            loop {
                let missing = {
                    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    events = told.writes.len();
                    if told.gap {
                        None
                    } else {
                        wanted.iter().find(|(key, revision)| told.writes.get(*key) != Some(revision)).copied()
                    }
                };
                let Some((key, revision)) = missing else { break };
                if Instant::now() > until {
                    let detail = format!("watcher {number} was not told of {key}, acknowledged at revision {revision}");
                    return finding(CHECKER, Err(detail));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        finding(
            CHECKER,
            Ok(format!("{} watchers, {events} events each, in order, none missing, none twice", load.told.len())),
        )
    }
}

/// A key at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    word: String,
    revision: u64,
    version: u64,
}

fn is_settled(status: &ClusterStatus, running: usize) -> bool {
    let counted = status.managers.iter().filter(|manager| manager.seat == "voter" || manager.seat == "standby");
    let all: Vec<_> = counted.collect();
    let hash = all.first().and_then(|first| first.state_hash.clone());
    let revision = all.first().and_then(|first| first.hash_revision);
    status.leader.is_some()
        && all.len() >= running.min(status.voters)
        && all.iter().all(|manager| manager.reachable && manager.lag == 0 && manager.state_hash == hash)
        && hash.is_some()
        && revision == Some(status.revision)
}

fn acknowledged(history: &[Operation]) -> impl Iterator<Item = &Operation> {
    history.iter().filter(|operation| {
        operation.outcome == Outcome::Ok
            && matches!(operation.action, Action::Put(_))
            && operation.key.starts_with(KEYS)
    })
}

/// Every key that was written once: there where it was acknowledged, as it was written, once; not there where it was refused.
pub(super) fn durable(history: &[Operation], managers: &[(String, BTreeMap<String, Kept>)]) -> Vec<Finding> {
    const DURABLE: &str = "durable";
    const ONCE: &str = "exactly once (keys)";
    let (mut lost, mut twice) = (Vec::new(), Vec::new());
    let mut sent = BTreeMap::new();
    for operation in history.iter().filter(|operation| operation.key.starts_with(KEYS)) {
        if let Action::Put(word) = &operation.action {
            sent.insert(operation.key.as_str(), (word.as_str(), operation));
        }
    }
    for (name, kept) in managers {
        for (key, (word, operation)) in &sent {
            match (operation.outcome, kept.get(*key)) {
                (Outcome::Ok, None) => lost.push(format!("LOST: {key} was acknowledged and is not at {name}")),
                (Outcome::Ok, Some(there)) if there.word != *word || Some(there.revision) != operation.revision => {
                    lost.push(format!(
                        "{key} is {there:?} at {name}; acknowledged was {word} at {:?}",
                        operation.revision
                    ));
                }
                (Outcome::Fail, Some(_)) => {
                    lost.push(format!("{key} is at {name}, and its writer was told that it was not done"))
                }
                (Outcome::Ok | Outcome::Unknown | Outcome::Fail, _) => {}
            }
        }
        for (key, there) in kept {
            if there.version != 1 {
                twice.push(format!("{key} was written {} times at {name}, sent once", there.version));
            }
            if !sent.contains_key(key.as_str()) {
                lost.push(format!("{key} is at {name}, and was never sent"));
            }
        }
    }
    let of = |operation: Outcome| sent.values().filter(|(_, sent)| sent.outcome == operation).count();
    let what = format!(
        "{} acknowledged, {} unknown, {} refused keys at {} managers",
        of(Outcome::Ok),
        of(Outcome::Unknown),
        of(Outcome::Fail),
        managers.len()
    );
    let word = |wrong: Vec<String>| match wrong.first() {
        None => Ok(what.clone()),
        Some(first) => Err(format!("{first} ({} of the kind)", wrong.len())),
    };
    vec![finding(DURABLE, word(lost)), finding(ONCE, word(twice))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Answer;

    fn put(key: &str, outcome: Outcome, revision: Option<u64>) -> Operation {
        Operation {
            process: 1,
            action: Action::Put("1-1".into()),
            key: format!("{KEYS}{key}"),
            result: Answer::Value(None),
            revision,
            node: None,
            call_ns: 1,
            return_ns: Some(2),
            outcome,
        }
    }

    fn kept(key: &str, version: u64) -> (String, Kept) {
        (format!("{KEYS}{key}"), Kept { word: "1-1".into(), revision: 7, version })
    }

    fn verdicts(keys: &[(String, Kept)]) -> Vec<Verdict> {
        let history = [put("a", Outcome::Ok, Some(7)), put("b", Outcome::Unknown, None), put("c", Outcome::Fail, None)];
        let managers = vec![("m1".to_owned(), keys.iter().cloned().collect())];
        durable(&history, &managers).into_iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn a_key_must_be_there_as_it_was_acknowledged_and_only_then() {
        use Verdict::{Fail, Pass};
        assert_eq!(verdicts(&[kept("a", 1)]), [Pass, Pass]);
        assert_eq!(verdicts(&[kept("a", 1), kept("b", 1)]), [Pass, Pass]);
        assert_eq!(verdicts(&[]), [Fail, Pass]);
        assert_eq!(verdicts(&[kept("a", 2)]), [Pass, Fail]);
        assert_eq!(verdicts(&[kept("a", 1), kept("c", 1)]), [Fail, Pass]);
        assert_eq!(verdicts(&[kept("a", 1), kept("nobody", 1)]), [Fail, Pass]);
    }
}
