//! When a certificate is renewed, and what new ones say.
//!
//! Owns the moment: at half of its life and a random bit later, so that ten thousand nodes that joined together do not come
//! together. Of a certificate that a node finds on its disk the issuer's clock counts, which may differ from this node's; of
//! one that it was given just now its own clock counts, so that a clock that is far off renews no more often than others.
//! Called by workers and managers, each for itself.

use std::time::{Duration, SystemTime};

use quorate_transport::{Clock, Subject};

use crate::config;

/// Shortest and longest pause after an attempt that failed: half of a life is left for it.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// The same while the cluster's CA is being replaced.
const PAUSE_OF_NEW_CA: Duration = Duration::from_secs(2);

/// What certificates are made with here.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "manager"), derive(Default))]
pub(super) struct Terms {
    /// How long one holds that this node makes, as a manager.
    #[cfg(feature = "manager")]
    pub(super) life: Duration,
    /// This node's clock.
    pub(super) clock: Clock,
}

#[cfg(feature = "manager")]
impl Default for Terms {
    fn default() -> Self {
        Self { life: config::CERTIFICATE, clock: Clock::default() }
    }
}

/// Half of a life, and up to a tenth of it later.
fn half(subject: &Subject) -> Duration {
    subject.life().mul_f64(0.5 + config::chance() / 10.0)
}

/// When a certificate that was found on disk is renewed.
pub(super) fn due_of_known(subject: &Subject) -> SystemTime {
    subject.issued() + half(subject)
}

/// When one is renewed that was issued a moment ago.
pub(super) fn due_of_new(subject: &Subject, clock: Clock) -> SystemTime {
    clock.now() + half(subject)
}

/// How long after an attempt that came to nothing the next one is made.
pub(super) fn pause(subject: &Subject) -> Duration {
    (subject.life() / 1_000).clamp(PAUSE.0, PAUSE.1).mul_f64(0.5 + config::chance() / 2.0)
}

/// How long after an attempt that came to nothing the next one is made while the cluster's CA is being replaced: it waits for each of
/// its nodes. All of them together come no faster than over `spread`.
pub(super) fn pause_of_new_ca(spread: Duration) -> Duration {
    spread.max(PAUSE_OF_NEW_CA).mul_f64(0.5 + config::chance() / 2.0)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use quorate_core::id::{ClusterId, NodeId};
    use quorate_transport::{CertRole, CertSubject, ClusterCa, KeyPair};

    use super::*;

    fn issued(at: SystemTime, life: Duration) -> Subject {
        let cluster = ClusterId::from_bytes([1; 16]);
        let ca = ClusterCa::create(cluster, at).unwrap();
        let subject =
            CertSubject { cluster, node_id: NodeId::from_bytes([2; 16]), role: CertRole::Worker, enrolled: None };
        let csr = KeyPair::generate().unwrap().csr().unwrap();
        Subject::of(&ca.issue(&csr, &subject, life, at).unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_at_half_its_life_or_a_tenth_of_it_later_and_not_all_at_once() {
        let at = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for life in [Duration::from_secs(10), Duration::from_secs(3_600), config::CERTIFICATE] {
            let subject = issued(at, life);
            assert_eq!((subject.issued(), subject.life()), (at, life), "what is backdated is no part of its life");
            let after: Vec<Duration> = (0..100).map(|_| due_of_known(&subject).duration_since(at).unwrap()).collect();
            assert!(after.iter().all(|after| *after >= life / 2 && *after <= life.mul_f64(0.6001)), "{after:?}");
            assert!(after.iter().collect::<std::collections::BTreeSet<_>>().len() > 90);
        }
    }

    #[test]
    fn a_clock_that_is_off_renews_no_more_often_than_others() {
        // Given a certificate that was issued just now, by a clock from which this node's is far ahead or behind.
        let life = Duration::from_secs(3_600);
        for ahead in [-86_400, 0, 86_400] {
            let subject = issued(SystemTime::now(), life);
            let clock = Clock::ahead(ahead);
            let left = due_of_new(&subject, clock).duration_since(clock.now()).unwrap();
            assert!(left > life.mul_f64(0.49) && left < life.mul_f64(0.61), "{ahead}: {left:?}");
        }
    }
}
