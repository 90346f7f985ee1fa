//! The proof in the log: every configuration that there ever was had an odd number of voters.
//!
//! Owns the reading of `quorate inspect --configurations --json`. Judges nothing else. Called by the chapters in which nodes
//! are stopped.

use serde_json::Value;

use crate::Demo;
use crate::processes::Told;
use crate::replacement::Replaced;
use crate::story::Story;

/// One configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Configuration {
    index: u64,
    /// How many configurations took effect up to it.
    number: u64,
    voters: Vec<u64>,
    /// The other half of a joint one.
    outgoing: Vec<u64>,
}

impl Demo {
    /// The survivor's log shows the replacement as one joint configuration and its leave.
    pub(crate) fn prove_replacement(&self, story: &Story, survivor: &str, replaced: &Replaced) -> Told<()> {
        let shown = self.processes.quorate(story, &["inspect", "--configurations", "--data-dir", survivor])?;
        story.say(&shown);
        let log = self.configurations(story, survivor)?;
        check_odd(&log)?;
        let (joint, leave) = replacement(&log, replaced.raft_id, replaced.by_raft_id)?;
        story.say(&format!(
            "{} configurations, all of them odd in both halves. {} took the seat of {} in one joint change: entry {joint}, and \
             its leave, entry {leave}",
            log.len(),
            replaced.by,
            replaced.name
        ));
        Ok(())
    }

    /// Every directory of the story, stopped.
    pub(crate) fn prove_odd(&self, story: &mut Story, survivor: &str) -> Told<()> {
        story.chapter("Every configuration in the log of every node was odd");
        let shown = self.processes.quorate(story, &["inspect", "--configurations", "--data-dir", survivor])?;
        story.say(&shown);
        let mut count = 0;
        for member in self.processes.managers.iter().chain(&self.processes.workers) {
            let log = self.configurations(story, &member.name)?;
            check_odd(&log).map_err(|error| format!("{}: {error}", member.name))?;
            count += log.len();
        }
        story.say(&format!("{count} configurations in all these logs, every half of every one odd"));
        Ok(())
    }

    fn configurations(&self, story: &Story, name: &str) -> Told<Vec<Configuration>> {
        let json = self.processes.quorate(story, &["inspect", "--configurations", "--json", "--data-dir", name])?;
        configurations(&json).ok_or_else(|| format!("the configurations of {name} cannot be read: {json}"))
    }
}

/// Those in the log, and the one in force.
fn configurations(json: &str) -> Option<Vec<Configuration>> {
    let document: Value = serde_json::from_str(json).ok()?;
    let rows = document.get("entries")?.as_array()?.iter().chain([document.get("in_force")?]);
    rows.map(|row| {
        let ids = |name| row.get(name)?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>();
        let number = |name| row.get(name)?.as_u64();
        Some(Configuration {
            index: number("index")?,
            number: number("number")?,
            voters: ids("voters")?,
            outgoing: ids("voters_outgoing")?,
        })
    })
    .collect()
}

/// Both halves of each are odd.
fn check_odd(log: &[Configuration]) -> Told<()> {
    for one in log {
        if one.voters.len() % 2 == 0 || (!one.outgoing.is_empty() && one.outgoing.len() % 2 == 0) {
            return Err(format!("entry {} is a configuration with an even number of voters: {one:?}", one.index));
        }
    }
    Ok(())
}

/// The entries of the one joint configuration in which `gone` gives its seat to `new`, and of its leave.
fn replacement(log: &[Configuration], gone: u64, new: u64) -> Told<(u64, u64)> {
    let swaps = |one: &&Configuration| {
        let (before, after) = (&one.outgoing, &one.voters);
        before.contains(&gone) && !before.contains(&new) && after.contains(&new) && !after.contains(&gone)
    };
    let joint: Vec<&Configuration> = log.iter().filter(swaps).collect();
    let [joint] = joint.as_slice() else {
        return Err(format!("{} joint configurations give the seat of raft id {gone} to {new}, not one", joint.len()));
    };
    let of_one: Vec<u64> = joint.outgoing.iter().filter(|id| **id != gone).copied().collect();
    if !of_one.iter().all(|id| joint.voters.contains(id)) || joint.voters.len() != joint.outgoing.len() {
        return Err(format!("entry {} changes more than the one seat: {joint:?}", joint.index));
    }
    let leave = log.iter().find(|one| one.number == joint.number + 1);
    match leave {
        Some(leave) if leave.outgoing.is_empty() && leave.voters == joint.voters => Ok((joint.index, leave.index)),
        other => Err(format!("after the joint configuration of entry {} comes no leave: {other:?}", joint.index)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(rows: &[(&[u64], &[u64])]) -> Vec<Configuration> {
        let row = |(at, (voters, outgoing)): (usize, &(&[u64], &[u64]))| Configuration {
            index: 10 + at as u64,
            number: 1 + at as u64,
            voters: voters.to_vec(),
            outgoing: outgoing.to_vec(),
        };
        rows.iter().enumerate().map(row).collect()
    }

    #[test]
    fn an_even_half_fails_the_demo() {
        assert!(check_odd(&log(&[(&[1], &[]), (&[1, 2, 3], &[1]), (&[1, 2, 3], &[])])).is_ok());
        assert!(check_odd(&log(&[(&[1, 2], &[])])).is_err());
        assert!(check_odd(&log(&[(&[1, 2, 3], &[1, 2])])).is_err());
        assert!(check_odd(&log(&[(&[], &[])])).is_err());
    }

    #[test]
    fn a_replacement_is_one_joint_configuration_and_its_leave() {
        let joint: (&[u64], &[u64]) = (&[1, 2, 4], &[1, 2, 3]);
        let leave: (&[u64], &[u64]) = (&[1, 2, 4], &[]);
        let back: (&[u64], &[u64]) = (&[1, 2, 3], &[1, 2, 4]);
        assert_eq!(replacement(&log(&[(&[1, 2, 3], &[]), joint, leave, back]), 3, 4), Ok((11, 12)));
        assert!(replacement(&log(&[joint, back]), 3, 4).is_err(), "no leave");
        assert!(replacement(&log(&[leave]), 3, 4).is_err(), "no joint one");
        assert!(replacement(&log(&[joint, leave, joint, leave]), 3, 4).is_err(), "twice");
        assert!(replacement(&log(&[(&[1, 4, 5], &[1, 2, 3]), (&[1, 4, 5], &[])]), 3, 4).is_err(), "two seats");
    }

    #[test]
    fn the_document_of_the_command_is_read_whole() {
        let row =
            |index: u64| format!(r#"{{"index":{index},"number":{index},"voters":[1,2,3],"voters_outgoing":[1]}}"#);
        let json = format!(r#"{{"entries":[{}],"in_force":{}}}"#, row(6), row(9));
        let read = configurations(&json).unwrap();
        assert_eq!(read.iter().map(|one| one.index).collect::<Vec<_>>(), [6, 9]);
        assert_eq!((read[0].voters.len(), read[0].outgoing.len()), (3, 1));
        assert_eq!(configurations(r#"{"entries":[{}],"in_force":{}}"#), None);
    }
}
