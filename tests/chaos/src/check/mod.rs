//! Checkers over histories, for both tiers.
//!
//! Owns what a verdict is and which checkers there are. Never talks to a cluster. Called by `chaos check`, by the audit of a
//! simulated run and at the end of a real one.
//!
//! Linearizability is judged twice, by two checkers that share nothing: [`chain`], which knows that every write has a
//! revision and takes time in proportion to the history, and [`wgl`], a search that knows nothing of revisions and may run
//! out of its limit. Where both have a verdict they must agree.

pub mod chain;
pub mod wgl;

use crate::history::Operation;

/// What a checker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything holds.
    Pass,
    /// It does not.
    Fail,
    /// It could not be judged within the limit. Not a pass.
    Inconclusive,
}

/// One checker's verdict on a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub checker: &'static str,
    /// What it says.
    pub verdict: Verdict,
    /// Which operations show it, or how much was looked at.
    pub detail: String,
}

impl Finding {
    fn pass(checker: &'static str, detail: impl Into<String>) -> Self {
        Self { checker, verdict: Verdict::Pass, detail: detail.into() }
    }

    fn fail(checker: &'static str, detail: impl Into<String>) -> Self {
        Self { checker, verdict: Verdict::Fail, detail: detail.into() }
    }

    fn inconclusive(checker: &'static str, detail: impl Into<String>) -> Self {
        Self { checker, verdict: Verdict::Inconclusive, detail: detail.into() }
    }
}

/// How much a search may take.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Steps of the search, for each key.
    pub steps: u64,
    /// Wall time for all keys; none in the simulator, where a verdict may not depend on it.
    pub until: Option<std::time::Instant>,
}

impl Limit {
    /// So many steps a key, and no clock.
    #[must_use]
    pub const fn steps(steps: u64) -> Self {
        Self { steps, until: None }
    }

    /// So much wall time from now on.
    #[must_use]
    pub fn time(time: std::time::Duration) -> Self {
        Self { steps: u64::MAX, until: std::time::Instant::now().checked_add(time) }
    }
}

/// Judges a history by every checker.
#[must_use]
pub fn check(history: &[Operation], limit: Limit) -> Vec<Finding> {
    let chain = chain::check(history);
    let wgl = wgl::check(history, limit);
    let disagree =
        matches!((&chain.verdict, &wgl.verdict), (Verdict::Pass, Verdict::Fail) | (Verdict::Fail, Verdict::Pass));
    // The chain knows more: revisions that go back while values do not are its alone to see.
    let only_revisions =
        chain.verdict == Verdict::Fail && wgl.verdict == Verdict::Pass && chain.detail.starts_with("revision");
    let mut findings = vec![chain, wgl];
    if disagree && !only_revisions {
        findings
            .push(Finding::fail("agreement", "the two checkers of linearizability do not agree: one of them is wrong"));
    }
    findings
}

/// The worst of several verdicts.
#[must_use]
pub fn worst(findings: &[Finding]) -> Verdict {
    if findings.iter().any(|finding| finding.verdict == Verdict::Fail) {
        Verdict::Fail
    } else if findings.iter().any(|finding| finding.verdict == Verdict::Inconclusive) {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    }
}
