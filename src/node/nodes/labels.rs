//! What operators may say about a node.
//!
//! Owns what a label may be and which of them are quorate's own. Pure. Called by `node update`.

use quorate_core::limits::{LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, Met};
use quorate_core::membership::naming::hides;
use quorate_core::membership::record::{LABEL_LEADER, LABEL_MANAGER, NodeRecord};
use quorate_transport::api;

use crate::membership::Rule;
use crate::node::router::{Failure, fail, limited, refused_by};

/// Keys that begin so are quorate's own.
const OWN: &str = "quorate.";

/// Writes and removes labels.
pub(super) fn apply(node: &mut NodeRecord, update: &api::NodeUpdate) -> Result<(), Failure> {
    for key in &update.label_rm {
        check_key(key)?;
        node.set_label(key, None);
    }
    for label in &update.label_add {
        check_key(&label.key)?;
        check_value(&label.key, &label.value)?;
        node.set_label(&label.key, Some(label.value.clone()));
    }
    within("the set of labels that the node would have", "items", node.labels.len(), "LABELS_MAX", LABELS_MAX)
}

/// Refuses what is over a limit, by the limit's name.
fn within(what: &str, of: &str, actual: usize, name: &'static str, max: usize) -> Result<(), Failure> {
    if actual <= max {
        return Ok(());
    }
    let why = format!("{what} has {actual} {of}, the limit `{name}` is {max}. Nothing was changed");
    Err(limited(api::Code::Invalid, Met { name, bound: max as u64, actual: actual as u64 }, why))
}

fn check_key(key: &str) -> Result<(), Failure> {
    let shown: String = key.chars().take(40).collect();
    within(&format!("the key `{shown}` of a label"), "bytes", key.len(), "LABEL_KEY_BYTES_MAX", LABEL_KEY_BYTES_MAX)?;
    if key.is_empty() || key.chars().any(|c| hides(c) || c.is_whitespace() || c == '=') {
        return Err(fail(
            api::Code::Invalid,
            format!(
                "`{shown}` is no label: a key has 1 to {LABEL_KEY_BYTES_MAX} bytes, no `=`, no spaces, and nothing that cannot be seen. Nothing was changed"
            ),
        ));
    }
    if key.starts_with(OWN) && ![LABEL_MANAGER, LABEL_LEADER].iter().any(|(own, _)| *own == key) {
        return Err(refused_by(
            Rule::ReservedLabel,
            format!(
                "labels that begin with `{OWN}` are quorate's own; of these operators set {}={} and {}={}. Nothing was changed",
                LABEL_MANAGER.0, LABEL_MANAGER.1, LABEL_LEADER.0, LABEL_LEADER.1
            ),
        ));
    }
    Ok(())
}

fn check_value(key: &str, value: &str) -> Result<(), Failure> {
    let what = || format!("the value of label `{key}`");
    within(&what(), "bytes", value.len(), "LABEL_VALUE_BYTES_MAX", LABEL_VALUE_BYTES_MAX)?;
    if value.chars().any(hides) {
        let why =
            format!("{} must have no control characters, or others that cannot be seen. Nothing was changed", what());
        return Err(fail(api::Code::Invalid, why));
    }
    // Anything else would look as if it had an effect.
    let own = [LABEL_MANAGER, LABEL_LEADER].into_iter().find(|(own, _)| *own == key);
    match own {
        Some((_, only)) if only != value => Err(refused_by(
            Rule::ReservedLabel,
            format!(
                "the label `{key}` is quorate's own and has one value: {key}={only}; to take it back, remove the label. Nothing was changed"
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updated(add: &[(&str, &str)], rm: &[&str]) -> Result<NodeRecord, Failure> {
        let mut node = NodeRecord::default();
        node.set_label("zone", Some("a".into()));
        let label = |(key, value): &(&str, &str)| api::Label { key: (*key).into(), value: (*value).into() };
        let update = api::NodeUpdate {
            label_add: add.iter().map(label).collect(),
            label_rm: rm.iter().map(|key| (*key).to_owned()).collect(),
            ..api::NodeUpdate::default()
        };
        apply(&mut node, &update).map(|()| node)
    }

    #[test]
    fn labels_come_and_go_and_stay_in_order() {
        let node = updated(&[("rack", "7"), ("disk", ""), ("zone", "b")], &[]).unwrap();
        let labels: Vec<_> = node.labels.iter().map(|label| (label.key.as_str(), label.value.as_str())).collect();
        assert_eq!(labels, [("disk", ""), ("rack", "7"), ("zone", "b")]);
        assert!(updated(&[], &["zone", "absent"]).unwrap().labels.is_empty());
    }

    #[test]
    fn quorates_own_labels_are_set_as_they_are_meant_or_refused() {
        assert!(updated(&[("quorate.manager", "yes"), ("quorate.leader", "preferred")], &[]).is_ok());
        for (key, value) in [("quorate.manager", "true"), ("quorate.leader", "yes"), ("quorate.x", "y")] {
            let refused = updated(&[(key, value)], &[]).unwrap_err();
            assert_eq!(refused.rule, "reserved_label", "{key}={value}");
            assert!(refused.message.contains("Nothing was changed"));
        }
        assert!(updated(&[], &["quorate.manager"]).is_ok());
        assert_eq!(updated(&[], &["quorate.x"]).unwrap_err().rule, "reserved_label");
    }

    #[test]
    fn what_is_no_label_is_refused() {
        for key in ["", "a=b", "a b", "a\n", "a\u{200b}"] {
            assert_eq!(updated(&[(key, "v")], &[]).unwrap_err().code(), api::Code::Invalid, "{key:?}");
        }
        for value in ["a\nb", "\u{202e}a"] {
            assert_eq!(updated(&[("k", value)], &[]).unwrap_err().code(), api::Code::Invalid, "{value:?}");
        }
    }

    #[test]
    fn each_limit_is_told_by_its_name_and_holds_from_both_sides() {
        let refused = |add: &[(&str, &str)], name: &str, bound: usize| {
            let failure = updated(add, &[]).unwrap_err();
            let (bound, actual) = (bound as u64, bound as u64 + 1);
            let limit = api::Limit { name: name.into(), bound, actual };
            assert_eq!(failure.limit.as_deref(), Some(&limit), "{}", failure.message);
            assert!(failure.code() == api::Code::Invalid && failure.message.contains(name), "{}", failure.message);
        };
        let key = "k".repeat(LABEL_KEY_BYTES_MAX);
        assert!(updated(&[(&key, "v")], &[]).is_ok());
        refused(&[(&(key + "k"), "v")], "LABEL_KEY_BYTES_MAX", LABEL_KEY_BYTES_MAX);
        let value = "v".repeat(LABEL_VALUE_BYTES_MAX);
        assert!(updated(&[("k", &value)], &[]).is_ok());
        refused(&[("k", &(value + "v"))], "LABEL_VALUE_BYTES_MAX", LABEL_VALUE_BYTES_MAX);
        // The node has one before
        let many: Vec<String> = (0..LABELS_MAX).map(|number| format!("k{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
        assert!(updated(&many[1..], &[]).is_ok());
        refused(&many, "LABELS_MAX", LABELS_MAX);
    }
}
