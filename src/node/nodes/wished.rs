//! What a record becomes by a wish, and what is never wished for.
//!
//! Owns the rules of one record. Pure: what follows for the seats is checked elsewhere. Called by the requests about nodes.

use quorate_core::membership::record::{Availability, NodeRecord, Role};
use quorate_transport::api;

use super::{HOLD_MAX, Rewritten, labels};
use crate::membership::Rule;
use crate::node::router::{Failure, fail, refused_by};
use crate::node::service::display_name;

fn refuse_lost(node: &NodeRecord) -> Result<(), Failure> {
    if !node.lost {
        return Ok(());
    }
    let name = display_name(node);
    Err(refused_by(
        Rule::NodeLost,
        format!(
            "{name} was left behind by a force-new-cluster and is no member any more; `quorate node rm {name}` takes it off the list, and the node itself comes back by `quorate join --replace --token T`. Nothing was changed"
        ),
    ))
}

/// What was thrown out as somebody else's is not taken back: everything that it knew was replaced for that.
fn refuse_compromised(node: &NodeRecord) -> Result<(), Failure> {
    if !node.compromised {
        return Ok(());
    }
    let name = display_name(node);
    Err(refused_by(
        Rule::BeingRemoved,
        format!(
            "{name} is being removed because somebody else may have its keys, and that is not taken back. Nothing was changed; prepare the node anew in an empty directory, and join it with a token"
        ),
    ))
}

fn refuse_unwishable(node: &NodeRecord) -> Result<(), Failure> {
    refuse_lost(node)?;
    refuse_compromised(node)?;
    if node.removing {
        let name = display_name(node);
        return Err(refused_by(
            Rule::BeingRemoved,
            format!(
                "{name} is being removed. As long as that waits for something, `quorate node promote {name}` takes it back; once it is gone it may join anew. Nothing was changed"
            ),
        ));
    }
    Ok(())
}

/// A node that is leaving is asked to stay by it: what was wished last counts.
pub(super) fn promoted(node: &NodeRecord) -> Rewritten {
    refuse_lost(node)?;
    refuse_compromised(node)?;
    if node.raft_id == 0 && node.command_version == 0 {
        let name = display_name(node);
        return Err(refused_by(
            Rule::NotBuiltAsManager,
            format!(
                "NotBuiltAsManager: {name} runs a program that was built without the `manager` feature, and can be no manager. Nothing was changed; run {name} with a program that has it (its session tells the managers), then ask again"
            ),
        ));
    }
    // By a person: it is not taken back by itself, whatever it was promoted for at first.
    let wished =
        NodeRecord { role: Role::Manager.into(), forced: false, stands_in: false, removing: false, ..node.clone() };
    Ok(Some(wished))
}

pub(super) fn demoted(node: &NodeRecord, forced: bool) -> Rewritten {
    refuse_unwishable(node)?;
    let is_worker = node.role == i32::from(Role::Worker);
    if is_worker && node.raft_id == 0 {
        return Ok(None);
    }
    let forced = forced || (is_worker && node.forced);
    let hindrance = String::new();
    Ok(Some(NodeRecord { role: Role::Worker.into(), forced, stands_in: false, hindrance, ..node.clone() }))
}

pub(super) fn updated(node: &NodeRecord, update: &api::NodeUpdate) -> Rewritten {
    refuse_unwishable(node)?;
    let mut updated = node.clone();
    labels::apply(&mut updated, update)?;
    if !update.availability.is_empty() {
        let availability = Availability::from_name(&update.availability).ok_or_else(|| {
            let given: String = update.availability.chars().take(40).collect();
            fail(
                api::Code::Invalid,
                format!("there is no availability `{given}`; say active, pause or drain. Nothing was changed"),
            )
        })?;
        updated.availability = availability.into();
    }
    if let Some(hold_ms) = update.hold_ms {
        if u128::from(hold_ms) > HOLD_MAX.as_millis() {
            return Err(refused_by(
                Rule::TimesDoNotFit,
                format!(
                    "a replacement may be paused for 24 hours at most; who stays away longer is better removed (`quorate node rm {}`). Nothing was changed",
                    display_name(node)
                ),
            ));
        }
        if hold_ms > 0 && node.role != i32::from(Role::Manager) {
            return Err(refused_by(
                Rule::NotAManager,
                format!("{} is no manager: nobody would replace it. Nothing was changed", display_name(node)),
            ));
        }
        if hold_ms > 0 || node.hold_ms > 0 {
            updated.hold_ms = hold_ms;
            // The leader counts anew, also for the same time once more.
            updated.hold_serial += 1;
        }
    }
    Ok(Some(updated))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> NodeRecord {
        NodeRecord { name: "n1".into(), role: Role::Manager.into(), raft_id: 1, ..NodeRecord::default() }
    }

    #[test]
    fn who_is_to_leave_is_asked_to_stay_by_a_promotion() {
        let leaving = NodeRecord { removing: true, forced: true, ..manager() };
        assert_eq!(promoted(&leaving), Ok(Some(manager())));
        // Not when somebody else may be that node.
        let taken = NodeRecord { compromised: true, ..leaving };
        let refused = promoted(&taken).unwrap_err();
        assert_eq!(refused.rule, "being_removed");
        assert!(refused.message.contains("not taken back"), "{refused:?}");
    }

    #[test]
    fn a_node_without_a_manager_in_its_program_is_not_promoted() {
        let worker = NodeRecord { role: Role::Worker.into(), raft_id: 0, command_version: 0, ..manager() };
        let refused = promoted(&worker).unwrap_err();
        assert_eq!(refused.rule, "not_built_as_manager");
        assert!(refused.message.contains("n1") && refused.message.contains("`manager` feature"), "{refused:?}");
        let able = NodeRecord { command_version: 1, ..worker };
        assert!(promoted(&able).is_ok());
    }

    #[test]
    fn a_wish_that_holds_already_changes_nothing() {
        let worker = NodeRecord { role: Role::Worker.into(), raft_id: 0, ..manager() };
        assert_eq!(promoted(&manager()), Ok(Some(manager())));
        assert_eq!(demoted(&worker, true), Ok(None));
        // A demotion that is under way stays as forced as it was asked for.
        let leaving = NodeRecord { role: Role::Worker.into(), forced: true, ..manager() };
        assert_eq!(demoted(&leaving, false), Ok(Some(leaving.clone())));
        assert_eq!(promoted(&leaving).unwrap().unwrap(), manager(), "and may be taken back");
    }

    #[test]
    fn who_stands_in_for_somebody_and_is_promoted_by_a_person_stays() {
        let stand_in = NodeRecord { stands_in: true, ..manager() };
        assert_eq!(promoted(&stand_in), Ok(Some(manager())));
    }

    #[test]
    fn nothing_else_is_wished_for_a_node_that_goes_or_is_lost() {
        let removing = NodeRecord { removing: true, ..manager() };
        let lost = NodeRecord { lost: true, ..manager() };
        assert_eq!(promoted(&lost).unwrap_err().rule, "node_lost");
        for (node, rule) in [(removing, "being_removed"), (lost, "node_lost")] {
            assert_eq!(demoted(&node, true).unwrap_err().rule, rule);
            assert_eq!(updated(&node, &api::NodeUpdate::default()).unwrap_err().rule, rule);
        }
    }

    #[test]
    fn a_pause_of_the_replacement_is_counted_anew_each_time_it_is_asked_for() {
        let asked = |node: &NodeRecord, hold_ms: u64| {
            updated(node, &api::NodeUpdate { hold_ms: Some(hold_ms), ..api::NodeUpdate::default() })
        };
        let held = asked(&manager(), 60_000).unwrap().unwrap();
        assert_eq!((held.hold_ms, held.hold_serial), (60_000, 1));
        let again = asked(&held, 60_000).unwrap().unwrap();
        assert_eq!((again.hold_ms, again.hold_serial), (60_000, 2));
        let over = asked(&again, 0).unwrap().unwrap();
        assert_eq!((over.hold_ms, over.hold_serial), (0, 3));
        assert_eq!(asked(&over, 0), Ok(Some(over.clone())));
        assert_eq!(asked(&manager(), 25 * 3_600_000).unwrap_err().rule, "times_do_not_fit");
        let worker = NodeRecord { role: Role::Worker.into(), ..manager() };
        assert_eq!(asked(&worker, 1).unwrap_err().rule, "not_a_manager");
    }

    #[test]
    fn an_availability_is_one_of_three_words() {
        let asked = |word: &str| {
            updated(&manager(), &api::NodeUpdate { availability: word.into(), ..api::NodeUpdate::default() })
        };
        assert_eq!(asked("drain").unwrap().unwrap().availability, i32::from(Availability::Drain));
        assert_eq!(asked("").unwrap().unwrap().availability, i32::from(Availability::Active));
        assert!(asked("gone").unwrap_err().message.contains("active, pause or drain"));
    }
}
