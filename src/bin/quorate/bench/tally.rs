//! What a load has seen: how long answers took, and what failed how.
//!
//! Owns the histograms and the words for their quantiles. Never sends. Called by `load`, which fills it, and by whoever shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer than any deadline of a request; nanoseconds.
const LONGEST: u64 = 600_000_000_000;
/// Of each figure, so many digits are right.
const DIGITS: u8 = 3;

/// A request that was not answered as it should be.
#[derive(Debug)]
pub(crate) struct Failed {
    /// One word.
    pub(crate) kind: &'static str,
    /// It may have been done.
    pub(crate) unknown: bool,
    pub(crate) message: String,
}

#[derive(Debug)]
struct Failures {
    count: u64,
    unknown: bool,
    /// What the first one said.
    message: String,
}

/// Everything that was seen.
#[derive(Debug)]
pub(crate) struct Tally {
    kinds: Vec<Histogram<u64>>,
    failures: BTreeMap<&'static str, Failures>,
    /// From the first request to the last answer.
    pub(crate) took: Duration,
}

impl Tally {
    /// Of so many kinds of requests.
    ///
    /// # Errors
    /// A sentence: there is no such histogram.
    pub(crate) fn new(kinds: usize) -> Result<Self, String> {
        let histogram = |_| Histogram::new_with_bounds(1, LONGEST, DIGITS).map_err(|error| error.to_string());
        let kinds = (0..kinds).map(histogram).collect::<Result<_, _>>()?;
        Ok(Self { kinds, failures: BTreeMap::new(), took: Duration::ZERO })
    }

    pub(crate) fn answered(&mut self, kind: usize, took: Duration) {
        if let Some(histogram) = self.kinds.get_mut(kind) {
            histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LONGEST));
        }
    }

    pub(crate) fn failed(&mut self, failed: Failed) {
        let Failed { kind, unknown, message } = failed;
        let failures = self.failures.entry(kind).or_insert(Failures { count: 0, unknown, message });
        failures.count += 1;
    }

    /// What another one has seen, too.
    pub(crate) fn add(&mut self, other: &Self) {
        for (histogram, more) in self.kinds.iter_mut().zip(&other.kinds) {
            // Both have the same bounds.
            let _same_bounds = histogram.add(more);
        }
        for (kind, more) in &other.failures {
            let Failures { unknown, message, .. } = more;
            let known = Failures { count: 0, unknown: *unknown, message: message.clone() };
            self.failures.entry(kind).or_insert(known).count += more.count;
        }
    }

    /// In figures; `names` are those of the kinds.
    pub(crate) fn summary(&self, names: &[&'static str]) -> Summary {
        let mut all = None::<Histogram<u64>>;
        for histogram in &self.kinds {
            match &mut all {
                Some(all) => {
                    let _same_bounds = all.add(histogram);
                }
                None => all = Some(histogram.clone()),
            }
        }
        let seconds = self.took.as_secs_f64();
        let rate = |requests: u64| if seconds > 0.0 { requests as f64 / seconds } else { 0.0 };
        let count = |unknown: bool| {
            self.failures.values().filter(|failures| failures.unknown == unknown).map(|failures| failures.count).sum()
        };
        let kinds = names.iter().zip(&self.kinds).map(|(name, histogram)| Kind {
            name,
            requests: histogram.len(),
            latency_us: Latency::of(histogram),
        });
        let requests = self.kinds.iter().map(Histogram::len).sum();
        Summary {
            requests,
            seconds,
            rate: rate(requests),
            latency_us: all.as_ref().map(Latency::of).unwrap_or_default(),
            failed: Counts { refused: count(false), unknown: count(true) },
            errors: self
                .failures
                .iter()
                .map(|(kind, failures)| Errors {
                    kind,
                    outcome: if failures.unknown { "unknown" } else { "not_done" },
                    count: failures.count,
                    message: failures.message.clone(),
                })
                .collect(),
            kinds: kinds.collect(),
        }
    }
}

/// A load in figures.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Answered as they should be; only these count in rate and latency.
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    /// Answered requests a second.
    pub(crate) rate: f64,
    pub(crate) latency_us: Latency,
    pub(crate) failed: Counts,
    pub(crate) errors: Vec<Errors>,
    /// Each kind of request for itself.
    pub(crate) kinds: Vec<Kind>,
}

/// Requests that failed.
#[derive(Debug, Serialize)]
pub(crate) struct Counts {
    /// Not done, for sure.
    pub(crate) refused: u64,
    /// They may have been done.
    pub(crate) unknown: u64,
}

/// One kind of error.
#[derive(Debug, Serialize)]
pub(crate) struct Errors {
    pub(crate) kind: &'static str,
    pub(crate) outcome: &'static str,
    pub(crate) count: u64,
    /// What the first one said.
    pub(crate) message: String,
}

/// One kind of request.
#[derive(Debug, Serialize)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) requests: u64,
    pub(crate) latency_us: Latency,
}

/// How long answers took, microseconds.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Latency {
    pub(crate) average: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    #[serde(rename = "p99.9")]
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self {
            average: histogram.mean() / 1_000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1_000.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_answered_wherever_it_was_counted() {
        // Given 1 to 1000 ms, half of them in another tally, and failures in both
        let (mut one, mut other) = (Tally::new(1).unwrap(), Tally::new(1).unwrap());
        for ms in 1..=1_000 {
            let tally = if ms % 2 == 0 { &mut one } else { &mut other };
            tally.answered(0, Duration::from_millis(ms));
        }
        for (tally, message) in [(&mut one, "first"), (&mut other, "later")] {
            tally.failed(Failed { kind: "overloaded", unknown: false, message: message.into() });
            tally.failed(Failed { kind: "unknown", unknown: true, message: message.into() });
        }
        one.add(&other);
        one.took = Duration::from_secs(10);
        let summary = one.summary(&["put"]);
        let near = |value: f64, wanted: f64| (value - wanted).abs() <= wanted / 500.0;
        let latency = summary.latency_us;
        assert!(near(summary.rate, 100.0) && summary.requests == 1_000, "{summary:?}");
        assert!(near(latency.average, 500_500.0) && near(latency.p50, 500_000.0), "{latency:?}");
        assert!(near(latency.p99, 990_000.0) && near(latency.p999, 999_000.0), "{latency:?}");
        assert!(near(latency.max, 1_000_000.0), "{latency:?}");
        assert_eq!((summary.failed.refused, summary.failed.unknown), (2, 2));
        let told: Vec<_> = summary.errors.iter().map(|error| (error.kind, error.count, error.outcome)).collect();
        assert_eq!(told, [("overloaded", 2, "not_done"), ("unknown", 2, "unknown")]);
        assert_eq!(summary.errors[0].message, "first");
    }

    #[test]
    fn nothing_seen_is_zero_everywhere() {
        let summary = Tally::new(2).unwrap().summary(&["read", "write"]);
        assert!(summary.rate == 0.0 && summary.latency_us.max == 0.0 && summary.kinds.len() == 2);
    }
}
