//! What operators may say about a node.
//!
//! Owns the limits of labels and which of them are quorate's own. Pure. Called by `node update`.

use quorate_core::membership::record::{LABEL_LEADER, LABEL_MANAGER, NodeRecord};
use quorate_transport::api;

use crate::membership::Rule;
use crate::node::router::{Failure, fail, refused_by};

/// Most labels of one node.
const LABELS_MAX: usize = 64;
/// Longest key, bytes.
const KEY_BYTES_MAX: usize = 255;
/// Longest value, bytes.
const VALUE_BYTES_MAX: usize = 1024;
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
    if node.labels.len() > LABELS_MAX {
        return Err(fail(
            api::Code::Invalid,
            format!(
                "the node would have {} labels, at most {LABELS_MAX} are allowed. Nothing was changed",
                node.labels.len()
            ),
        ));
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), Failure> {
    let shown: String = key.chars().take(40).collect();
    if key.is_empty()
        || key.len() > KEY_BYTES_MAX
        || key.chars().any(|c| c.is_control() || c.is_whitespace() || c == '=')
    {
        return Err(fail(
            api::Code::Invalid,
            format!(
                "`{shown}` is no label: a key has 1 to {KEY_BYTES_MAX} bytes, no `=` and no spaces. Nothing was changed"
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
    if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(fail(
            api::Code::Invalid,
            format!(
                "the value of label `{key}` must have at most {VALUE_BYTES_MAX} bytes and no control characters. Nothing was changed"
            ),
        ));
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
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        for key in ["", "a=b", "a b", "a\n", long.as_str()] {
            assert_eq!(updated(&[(key, "v")], &[]).unwrap_err().code(), api::Code::Invalid, "{key:?}");
        }
        assert!(updated(&[("k", &"v".repeat(VALUE_BYTES_MAX + 1))], &[]).is_err());
        let many: Vec<String> = (0..=LABELS_MAX).map(|number| format!("k{number}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
        assert!(updated(&many, &[]).unwrap_err().message.contains("64"));
    }
}
