//! `policy show | set`.
//!
//! Owns their words. Called by `main`.

use std::time::Duration;

use quorate::membership::PolicyInfo;
use quorate::status::{size, span};

use crate::args::Global;
use crate::args_membership::{PolicySet, PolicyVerb, Switch};
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::target;

pub(crate) async fn run(verb: PolicyVerb, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    let policy = match verb {
        PolicyVerb::Show => client.policy().show().await?,
        PolicyVerb::Set(PolicySet {
            max_voters,
            lost_after,
            promote_after,
            stable,
            auto_replace,
            timing,
            store_quota,
            history_revisions,
            history,
        }) => {
            let mut change = client.policy().set();
            if let Some(max) = max_voters {
                change = change.max_voters(max);
            }
            if let Some(time) = lost_after {
                change = change.lost_after(time);
            }
            if let Some(time) = promote_after {
                change = change.promote_after(time);
            }
            if let Some(time) = stable {
                change = change.stable(time);
            }
            if let Some(switch) = auto_replace {
                change = change.auto_replace(switch == Switch::On);
            }
            if let Some(timing) = timing {
                change = change.timing(timing);
            }
            if let Some(bytes) = store_quota {
                change = change.store_quota(bytes);
            }
            if let Some(revisions) = history_revisions {
                change = change.history_revisions(revisions);
            }
            if let Some(age) = history {
                change = change.history_age(age);
            }
            change.await?
        }
    };
    if output.json {
        let document = serde_json::to_value(&policy)
            .map_err(|error| Failure::local(format!("the policy cannot be written as JSON: {error}")))?;
        return output.document(&document);
    }
    output.line(&render(&policy))
}

fn render(policy: &PolicyInfo) -> String {
    let tick_ms = policy.tick_micros / 1_000;
    let rows = vec![
        vec!["max-voters".into(), policy.max_voters.to_string(), "further managers stand by".into()],
        vec![
            "lost-after".into(),
            span(Duration::from_millis(policy.lost_after_ms)),
            "a voter silent for so long is replaced".into(),
        ],
        vec![
            "promote-after".into(),
            span(Duration::from_millis(policy.promote_after_ms)),
            "without a standby, a worker labelled quorate.manager=yes is promoted".into(),
        ],
        vec![
            "stable".into(),
            span(Duration::from_millis(policy.stable_ms)),
            "a standby is caught up for so long before it gets a seat".into(),
        ],
        vec![
            "auto-replace".into(),
            if policy.auto_replace { "on" } else { "off" }.into(),
            "whether lost voters are replaced".into(),
        ],
        vec![
            "timing".into(),
            policy.timing.clone(),
            format!("tick {tick_ms}ms, base election timeout {}", span(Duration::from_millis(policy.election_ms))),
        ],
        vec![
            "store-quota".into(),
            size(policy.store_quota_bytes),
            "live records and history together; over it writes are refused, and all history goes".into(),
        ],
        vec![
            "history-revisions".into(),
            policy.history_revisions.to_string(),
            "old revisions that can be read and watched from".into(),
        ],
        vec!["history".into(), span(Duration::from_millis(policy.history_ms)), "for how long they can".into()],
    ];
    table(&["SETTING", "VALUE", "MEANING"], &[], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_shown_as_they_are_typed() {
        let policy = PolicyInfo {
            max_voters: 5,
            lost_after_ms: 30_000,
            promote_after_ms: 300_000,
            stable_ms: 2_000,
            auto_replace: true,
            timing: "lan".into(),
            tick_micros: 20_000,
            election_ms: 400,
            store_quota_bytes: 8 << 30,
            history_revisions: 100_000,
            history_ms: 3_600_000,
        };
        let text = render(&policy);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        assert!(line("lost-after").contains(" 30s "), "{text}");
        assert!(line("promote-after").contains(" 5m "), "{text}");
        assert!(line("store-quota").contains(" 8GiB "), "{text}");
        assert!(line("timing").ends_with("tick 20ms, base election timeout 400ms"), "{text}");
    }
}
