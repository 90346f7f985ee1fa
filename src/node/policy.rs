//! The settings of the whole cluster: who is replaced when, how many vote, how long a tick is.
//!
//! Owns what may be set together. They live in the cluster's record, changed by one transaction on it as it was; what
//! follows from them is the leader's and the machine's. Called by operators.

use std::time::Duration;

use prost::Message as _;
use quorate_core::consensus::config::election_nanos;
use quorate_core::limits::{HISTORY_REVISIONS_MAX, Met, STORE_QUOTA_BYTES, STORE_QUOTA_BYTES_MIN};
use quorate_core::membership::record::ClusterRecord;
use quorate_core::txn::{Compare, Txn};
use quorate_transport::api::{self, request, response};
use tokio::time::Instant;

use super::gate::Asker;
use super::once;
use super::records;
use super::router::{Failure, fail, over, refused_by};
use super::service::{Service, blocking, broken, document};
use crate::config;
use crate::membership::{PolicyInfo, Rule};

/// A voter is lost after so many base election timeouts at the earliest: less, and an election or a slow disk costs a seat.
const LOST_AFTER_ELECTIONS: u64 = 10;
/// Longest of the times, milliseconds.
const TIME_MS_MAX: u64 = 24 * 3_600_000;
/// Shortest and longest tick that may be set, microseconds.
const TICK_MICROS: std::ops::RangeInclusive<u64> = 5_000..=2_000_000;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What is in force, defaults included.
pub(super) fn in_force(cluster: &ClusterRecord) -> PolicyInfo {
    let or = |set: u64, default: Duration| if set == 0 { millis(default) } else { set };
    let tick_micros = if cluster.tick_micros == 0 { micros(config::TICK_LAN) } else { cluster.tick_micros };
    let timing = match tick_micros {
        tick if tick == micros(config::TICK_LAN) => "lan",
        tick if tick == micros(config::TICK_WAN) => "wan",
        _ => "custom",
    };
    let history = history_in_force(cluster);
    PolicyInfo {
        max_voters: cluster.max_voters,
        lost_after_ms: or(cluster.lost_after_ms, config::LOST_AFTER),
        promote_after_ms: or(cluster.promote_after_ms, config::PROMOTE_AFTER),
        stable_ms: or(cluster.stable_ms, config::STABLE),
        auto_replace: !cluster.keep_lost,
        timing: timing.to_owned(),
        tick_micros,
        election_ms: election_nanos(tick_micros.saturating_mul(1_000)) / 1_000_000,
        store_quota_bytes: if cluster.store_quota_bytes == 0 { STORE_QUOTA_BYTES } else { cluster.store_quota_bytes },
        history_revisions: history.revisions,
        history_ms: millis(history.age),
    }
}

/// The record with what is asked for, if everything then fits together.
fn updated(cluster: &ClusterRecord, asked: &api::PolicySet) -> Result<ClusterRecord, Failure> {
    let mut updated = cluster.clone();
    let refused = |rule, why: String| refused_by(rule, format!("{why}. Nothing was changed"));
    let does_not_fit = |why: String| Err(refused(Rule::TimesDoNotFit, why));
    let out_of_range = |why: String| refused(Rule::OutOfRange, why);
    if let Some(max) = asked.max_voters {
        updated.max_voters = max;
    }
    if let Some(auto_replace) = asked.auto_replace {
        updated.keep_lost = !auto_replace;
    }
    if let Some(tick) = asked.tick_micros {
        if !TICK_MICROS.contains(&tick) {
            return does_not_fit("a tick is between 5 ms and 2 s long".into());
        }
        updated.tick_micros = tick;
    }
    for (time, set) in [
        (asked.lost_after_ms, &mut updated.lost_after_ms),
        (asked.promote_after_ms, &mut updated.promote_after_ms),
        (asked.stable_ms, &mut updated.stable_ms),
        (asked.history_ms, &mut updated.history_ms),
    ] {
        match time {
            Some(0) => return does_not_fit("a time is at least a millisecond".into()),
            Some(ms) if ms > TIME_MS_MAX => return does_not_fit("a time is 24 hours at most".into()),
            Some(ms) => *set = ms,
            None => {}
        }
    }
    match asked.store_quota_bytes {
        Some(quota) if quota < STORE_QUOTA_BYTES_MIN => {
            let least = STORE_QUOTA_BYTES_MIN >> 20;
            let why = format!("the store's quota is at least `STORE_QUOTA_BYTES_MIN`, {least} MiB");
            let met = Met { name: "STORE_QUOTA_BYTES_MIN", bound: STORE_QUOTA_BYTES_MIN, actual: quota };
            return Err(over(met, out_of_range(why)));
        }
        Some(quota) => updated.store_quota_bytes = quota,
        None => {}
    }
    match asked.history_revisions {
        Some(0) => return Err(out_of_range("at least one revision of the past is kept".into())),
        Some(revisions) if revisions > HISTORY_REVISIONS_MAX => {
            let why =
                format!("at most `HISTORY_REVISIONS_MAX` = {HISTORY_REVISIONS_MAX} revisions of the past are kept");
            let met = Met { name: "HISTORY_REVISIONS_MAX", bound: HISTORY_REVISIONS_MAX, actual: revisions };
            return Err(over(met, out_of_range(why)));
        }
        Some(revisions) => updated.history_revisions = revisions,
        None => {}
    }
    let then = in_force(&updated);
    let least = LOST_AFTER_ELECTIONS * then.election_ms;
    if then.lost_after_ms < least {
        return does_not_fit(format!(
            "a voter may be lost after 10 election timeouts at the earliest, that is {} s with this timing, and it would be {} s: give --lost-after {}s (and with it, if wanted, another --timing)",
            seconds(least),
            seconds(then.lost_after_ms),
            seconds(least)
        ));
    }
    Ok(updated)
}

/// What is kept of the past; what is over either of them goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct History {
    pub(super) revisions: u64,
    pub(super) age: Duration,
}

pub(super) const fn history_in_force(cluster: &ClusterRecord) -> History {
    let revisions = if cluster.history_revisions == 0 { config::HISTORY_REVISIONS } else { cluster.history_revisions };
    let age = if cluster.history_ms == 0 { config::HISTORY_AGE } else { Duration::from_millis(cluster.history_ms) };
    History { revisions, age }
}

/// Milliseconds as seconds, without trailing zeros.
fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1_000, ms % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Service {
    pub(super) async fn policy_show(&self, until: Instant) -> Result<response::Kind, Failure> {
        self.router.read_index(until).await?;
        let (cluster, _) = self.cluster_record().await?;
        document(&in_force(&cluster))
    }

    pub(super) async fn policy_set(
        &self,
        asker: &Asker,
        asked: api::PolicySet,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        if let Some(answered) = self.by_the_leader(asker, &request::Kind::PolicySet(asked.clone()), until).await? {
            return Ok(answered);
        }
        let planned = async {
            if let Some(max) = asked.max_voters {
                self.check_max_voters(max)?;
            }
            let (cluster, revision) = self.cluster_record().await?;
            let updated = updated(&cluster, &asked)?;
            let compares = vec![Compare::mod_revision(ClusterRecord::key(), revision)];
            let txn = Txn { compares, ..once::write(ClusterRecord::key(), updated.to_bytes(), false) };
            Ok((updated != cluster).then_some(txn))
        };
        let planned = planned.await;
        let wished = self.once(asker, asked.once, planned, until).await?;
        let policy = match wished.written() {
            Some(written) => in_force(&ClusterRecord::decode(written.value.clone()).map_err(unreadable)?),
            None => in_force(&self.cluster_record().await.map_err(once::already_settled)?.0),
        };
        if wished.is_done() {
            tracing::info!(by = %asker, ?policy, "the cluster's policy was changed");
        }
        document(&policy)
    }

    async fn cluster_record(&self) -> Result<(ClusterRecord, u64), Failure> {
        let reader = self.store()?.reader;
        let found =
            blocking(move || records::value(&*reader.view(), ClusterRecord::key()).map_err(|error| broken(&error)))
                .await?;
        let missing = || fail(api::Code::Internal, "the cluster's record is not there yet; ask another manager");
        let (bytes, revision) = found.ok_or_else(missing)?;
        Ok((ClusterRecord::decode(bytes).map_err(unreadable)?, revision))
    }
}

fn unreadable(error: prost::DecodeError) -> Failure {
    fail(api::Code::Internal, format!("the cluster's record cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterRecord {
        ClusterRecord { max_voters: 5, tick_micros: 20_000, ..ClusterRecord::default() }
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        let policy = in_force(&cluster());
        assert_eq!((policy.lost_after_ms, policy.promote_after_ms, policy.stable_ms), (30_000, 300_000, 2_000));
        assert_eq!((policy.timing.as_str(), policy.election_ms, policy.auto_replace), ("lan", 400, true));
        let wan = in_force(&ClusterRecord { tick_micros: 150_000, ..cluster() });
        assert_eq!((wan.timing.as_str(), wan.election_ms), ("wan", 3_000));
        assert_eq!(in_force(&ClusterRecord { tick_micros: 50_000, ..cluster() }).timing, "custom");
    }

    #[test]
    fn only_what_is_asked_for_changes() {
        let asked =
            api::PolicySet { lost_after_ms: Some(5_000), auto_replace: Some(false), ..api::PolicySet::default() };
        let expected = ClusterRecord { lost_after_ms: 5_000, keep_lost: true, ..cluster() };
        assert_eq!(updated(&cluster(), &asked), Ok(expected));
        assert_eq!(updated(&cluster(), &api::PolicySet::default()), Ok(cluster()));
    }

    #[test]
    fn times_that_do_not_fit_the_timing_are_refused_with_those_that_do() {
        let refused_as = |rule: &str, cluster: &ClusterRecord, asked: api::PolicySet| {
            let refused = updated(cluster, &asked).unwrap_err();
            assert_eq!(refused.rule, rule);
            assert!(refused.message.contains("Nothing was changed"));
            refused.message
        };
        let refused = |cluster: &ClusterRecord, asked| refused_as("times_do_not_fit", cluster, asked);
        let lost_after = |ms| api::PolicySet { lost_after_ms: Some(ms), ..api::PolicySet::default() };
        // Ten election timeouts of 0.4 s.
        assert!(updated(&cluster(), &lost_after(4_000)).is_ok());
        assert!(refused(&cluster(), lost_after(3_999)).contains("--lost-after 4s"));
        // A slower timing asks for more, at once.
        let quick = ClusterRecord { lost_after_ms: 5_000, ..cluster() };
        let wan = api::PolicySet { tick_micros: Some(150_000), ..api::PolicySet::default() };
        assert!(refused(&quick, wan.clone()).contains("--lost-after 30s"));
        assert!(updated(&quick, &api::PolicySet { lost_after_ms: Some(30_000), ..wan.clone() }).is_ok());
        assert!(updated(&cluster(), &wan).is_ok(), "the defaults fit");
        refused(&cluster(), lost_after(0));
        refused(&cluster(), lost_after(TIME_MS_MAX + 1));
        refused(&cluster(), api::PolicySet { tick_micros: Some(4_999), ..api::PolicySet::default() });
        assert_eq!((seconds(4_000), seconds(4_400), seconds(1)), ("4".into(), "4.4".into(), "0.001".into()));
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused_by_its_name_and_the_limit_itself_is_taken() {
        let history = |revisions| api::PolicySet { history_revisions: Some(revisions), ..api::PolicySet::default() };
        let quota = |bytes| api::PolicySet { store_quota_bytes: Some(bytes), ..api::PolicySet::default() };
        let refused = |asked: api::PolicySet| {
            let refused = updated(&cluster(), &asked).unwrap_err();
            assert!(refused.rule == "out_of_range" && refused.message.contains("Nothing was changed"), "{refused:?}");
            refused
        };
        for (at, beyond, name, bound, actual) in [
            (
                history(HISTORY_REVISIONS_MAX),
                history(HISTORY_REVISIONS_MAX + 1),
                "HISTORY_REVISIONS_MAX",
                HISTORY_REVISIONS_MAX,
                HISTORY_REVISIONS_MAX + 1,
            ),
            (
                quota(STORE_QUOTA_BYTES_MIN),
                quota(STORE_QUOTA_BYTES_MIN - 1),
                "STORE_QUOTA_BYTES_MIN",
                STORE_QUOTA_BYTES_MIN,
                STORE_QUOTA_BYTES_MIN - 1,
            ),
        ] {
            assert!(updated(&cluster(), &at).is_ok(), "{name}");
            let refused = refused(beyond);
            assert!(refused.message.contains(name), "{}", refused.message);
            assert_eq!(refused.limit.as_deref(), Some(&api::Limit { name: name.into(), bound, actual }));
        }
        assert_eq!(refused(history(0)).limit, None);
    }
}
