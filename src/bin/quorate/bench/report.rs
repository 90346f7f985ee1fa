//! The figures of a load, for people and for scripts.
//!
//! Owns the words. Never measures. Called when a load has ended.

use std::fmt::Write as _;

use quorate::status::counted;
use serde_json::{Value, json};

use super::tally::{Latency, Summary};
use crate::args_bench::Shape;
use crate::failure::{self, Failure};
use crate::output::table;

/// What was asked, and what came of it.
pub(super) struct Report<'a> {
    pub(super) verb: &'static str,
    pub(super) shape: &'a Shape,
    /// How many managers were given.
    pub(super) managers: usize,
    /// Keys that were written before, to be read.
    pub(super) filled: u64,
    pub(super) summary: Summary,
}

impl Report<'_> {
    /// For people.
    pub(super) fn page(&self) -> String {
        let Self { verb, shape, managers, summary, .. } = self;
        let mut page = format!(
            "{verb}: {} on {} to {}, {} B values\n",
            counted(shape.clients, "client"),
            counted(shape.conns(), "connection"),
            counted(*managers, "manager"),
            shape.val_size
        );
        let _infallible = writeln!(
            page,
            "rate {:.0}/s: {} answered in {:.2} s\n",
            summary.rate,
            counted(summary.requests, "request"),
            summary.seconds
        );
        let mut rows = vec![row("all", summary.requests, &summary.latency_us)];
        if summary.kinds.len() > 1 {
            rows.extend(summary.kinds.iter().map(|kind| row(kind.name, kind.requests, &kind.latency_us)));
        }
        let header = ["LATENCY, ms", "REQUESTS", "AVERAGE", "P50", "P90", "P99", "P99.9", "MAX"];
        page.push_str(&table(&header, &[1, 2, 3, 4, 5, 6, 7], rows));
        if !summary.errors.is_empty() {
            let rows = summary.errors.iter().map(|error| {
                let outcome = if error.outcome == "unknown" { "unknown" } else { "not done" };
                vec![error.kind.to_owned(), error.count.to_string(), outcome.to_owned(), error.message.clone()]
            });
            page.push_str("\n\n");
            page.push_str(&table(&["FAILED", "REQUESTS", "OUTCOME", "THE FIRST ONE SAID"], &[1], rows.collect()));
        }
        page
    }

    /// For scripts.
    pub(super) fn document(&self) -> Result<Value, Failure> {
        let Self { verb, shape, managers, filled, summary } = self;
        let mut document = serde_json::to_value(summary)
            .map_err(|error| Failure::local(format!("the figures cannot be written as JSON: {error}")))?;
        if let Value::Object(fields) = &mut document {
            let asked = json!({
                "verb": verb,
                "clients": shape.clients,
                "connections": shape.conns(),
                "managers": managers,
                "key_size": shape.key_size,
                "val_size": shape.val_size,
                "key_space_size": shape.key_space_size,
                "prefix": shape.prefix,
                "rate": shape.rate,
                "warm_up_ms": u64::try_from(shape.warm_up.as_millis()).unwrap_or(u64::MAX),
                "filled": filled,
            });
            fields.insert("asked".into(), asked);
        }
        Ok(document)
    }

    /// Requests that failed make the command fail, by the worst of them.
    pub(super) fn failure(&self) -> Option<Failure> {
        let failed = &self.summary.failed;
        let sum = failed.refused + failed.unknown;
        if sum == 0 {
            return None;
        }
        let message = format!(
            "{} failed: {} not done, {} with an unknown outcome. The figures are those of the answered ones",
            counted(sum, "request"),
            failed.refused,
            failed.unknown
        );
        let exit = if failed.unknown > 0 { failure::exit::UNKNOWN } else { failure::exit::REFUSED };
        Some(Failure::requests_failed(exit, message))
    }
}

fn row(name: &str, requests: u64, latency: &Latency) -> Vec<String> {
    let ms = |us: f64| format!("{:.3}", us / 1_000.0);
    let Latency { average, p50, p90, p99, p999, max } = *latency;
    let mut row = vec![name.to_owned(), requests.to_string()];
    row.extend([average, p50, p90, p99, p999, max].map(ms));
    row
}
