//! A change of seats, and what comes of it.
//!
//! Owns the steps as raft takes them and the configurations they lead to. Pure.

use std::fmt;

use crate::id::RaftId;
use crate::log::Configuration;

/// One step of a change, as raft's configuration change takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeatStep {
    /// Give a vote.
    AddVoter(RaftId),
    /// Make it a member without a vote; a voter loses its vote.
    AddLearner(RaftId),
    /// No member any more.
    Remove(RaftId),
}

impl fmt::Display for SeatStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddVoter(id) => write!(f, "seat {id}"),
            Self::AddLearner(id) => write!(f, "standby {id}"),
            Self::Remove(id) => write!(f, "remove {id}"),
        }
    }
}

/// What is to be proposed now, as ONE configuration change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeatChange {
    /// Voters change: explicit joint consensus, to be left by a further entry.
    Joint {
        /// The steps, in ascending order of kind and raft id.
        steps: Vec<SeatStep>,
    },
    /// One learner changes: a simple change.
    Learner {
        /// The step; never about a voter.
        step: SeatStep,
    },
}

impl fmt::Display for SeatChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps().iter().enumerate() {
            write!(f, "{}{step}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl SeatChange {
    /// The steps.
    pub fn steps(&self) -> &[SeatStep] {
        match self {
            Self::Joint { steps } => steps,
            Self::Learner { step } => std::slice::from_ref(step),
        }
    }

    /// The configuration that is in force once the change has been applied: a joint one for a change of voters. What
    /// raft itself computes for the same steps.
    #[must_use]
    pub fn apply_to(&self, from: &Configuration) -> Configuration {
        let mut to = from.clone();
        if matches!(self, Self::Joint { .. }) {
            to.voters_outgoing.clone_from(&from.voters);
        }
        for step in self.steps() {
            let (SeatStep::AddVoter(id) | SeatStep::AddLearner(id) | SeatStep::Remove(id)) = *step;
            for set in [&mut to.voters, &mut to.learners, &mut to.learners_next] {
                set.retain(|member| *member != id);
            }
            match step {
                SeatStep::AddVoter(_) => to.voters.push(id),
                // An outgoing voter is a learner only once the joint configuration is left.
                SeatStep::AddLearner(_) if to.voters_outgoing.contains(&id) => to.learners_next.push(id),
                SeatStep::AddLearner(_) => to.learners.push(id),
                SeatStep::Remove(_) => {}
            }
        }
        to.sorted()
    }
}

/// The configuration after a joint one has been left.
#[must_use]
pub fn leave(joint: &Configuration) -> Configuration {
    let mut left = joint.clone();
    left.voters_outgoing.clear();
    left.learners.append(&mut left.learners_next);
    left.sorted()
}
