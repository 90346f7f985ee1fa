//! How often a source may try.
//!
//! Owns one bucket per source address, in a bounded table. Never counts who has proven a certificate. Called by the join plane.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often one source address may try to join: a bucket per address, the table bounded.
pub(crate) struct RateLimit {
    burst: u32,
    refill: Duration,
    buckets: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

/// Sources remembered at once; beyond it the ones that are full again are forgotten.
const SOURCES_MAX: usize = 4_096;

impl RateLimit {
    pub(crate) fn new(burst: u32, refill: Duration) -> Self {
        Self { burst: burst.max(1), refill: refill.max(Duration::from_millis(1)), buckets: Mutex::default() }
    }

    pub(crate) fn allow(&self, source: IpAddr) -> bool {
        self.allow_at(source, Instant::now())
    }

    /// An attempt that was no guess does not count.
    pub(crate) fn give_back(&self, source: IpAddr) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((tokens, _)) = buckets.get_mut(&group(source)) {
            *tokens = (*tokens + 1).min(self.burst);
        }
    }

    fn allow_at(&self, source: IpAddr, now: Instant) -> bool {
        let source = group(source);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full_after = self.refill.saturating_mul(self.burst);
        if buckets.len() >= SOURCES_MAX && !buckets.contains_key(&source) {
            buckets.retain(|_, (_, since)| now.duration_since(*since) < full_after);
            if buckets.len() >= SOURCES_MAX {
                return false;
            }
        }
        let (tokens, since) = buckets.entry(source).or_insert((self.burst, now));
        let gained = now.duration_since(*since).as_nanos() / self.refill.as_nanos();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        if gained > 0 {
            *tokens = tokens.saturating_add(gained).min(self.burst);
            *since = if *tokens == self.burst { now } else { *since + self.refill * gained };
        }
        if *tokens == 0 {
            return false;
        }
        *tokens -= 1;
        true
    }
}

/// One IPv6 customer has a /64 at least: counting single addresses would count nothing.
fn group(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_try_in_bursts_and_then_at_the_refill_rate() {
        let limit = RateLimit::new(3, Duration::from_secs(1));
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.2".parse().unwrap();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((0..5).filter(|_| limit.allow_at(source, at(0))).count(), 3);
        assert!(limit.allow_at(other, at(0)), "another source has its own bucket");
        assert_eq!((0..5).filter(|_| limit.allow_at(source, at(2))).count(), 2);
        assert_eq!((0..9).filter(|_| limit.allow_at(source, at(1000))).count(), 3);
    }

    #[test]
    fn an_attempt_that_is_given_back_does_not_count() {
        let limit = RateLimit::new(2, Duration::from_secs(3_600));
        let source: IpAddr = "10.0.0.1".parse().unwrap();
        for _ in 0..100 {
            assert!(limit.allow(source));
            limit.give_back(source);
        }
        assert!(limit.allow(source) && limit.allow(source) && !limit.allow(source));
    }

    #[test]
    fn the_table_of_sources_is_bounded() {
        let limit = RateLimit::new(1, Duration::from_secs(1));
        let now = Instant::now();
        for n in 0..10_000u32 {
            limit.allow_at(std::net::Ipv4Addr::from_bits(n).into(), now);
        }
        assert!(limit.buckets.lock().unwrap().len() <= SOURCES_MAX);
        assert!(limit.allow_at("9.9.9.9".parse().unwrap(), now + Duration::from_secs(5)), "old ones are forgotten");
    }
}
