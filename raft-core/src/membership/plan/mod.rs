//! The seat planner: who gets a vote, as a pure function.
//!
//! Owns the odd rule (design section 5). Never proposes, never waits, never counts time: the view says for how long
//! something has been so. Called by the leader on every tick and every event; the answer depends on nothing but view and
//! policy, so whoever leads next goes on.
//!
//! | file | rule |
//! |---|---|
//! | `seats` | what the rules ask of a view, and the change that they put together |
//! | `loss` | a lost voter's seat goes to a standby; two lost ones and nobody to seat: both seats go |
//! | `shrink` | who is to be no manager hands its seat on, or two seats go; fewer voters are allowed than there are |
//! | `grow` | two standbys are seated at once; managers become standbys; who is none is no member |
//! | `choose` | zones: who fills a seat, and who gives one up |
//! | `stand_in` | when a worker is to be promoted |
//!
//! One change may do several of these. Each part is taken only if both halves stay odd and both majorities are alive.

mod change;
mod choose;
mod grow;
mod loss;
mod policy;
mod seats;
mod shrink;
mod stand_in;
mod view;

pub use change::{SeatChange, SeatStep, leave};
pub use choose::preferred_leader;
pub use policy::{EvenMaxVoters, LOST_AFTER_TICKS_MIN, SeatPolicy, SeatTimes};
pub use stand_in::{Short, StandIn, stand_in};
pub use view::{ManagerView, SeatView, WorkerView};

pub(super) use seats::{Seats, Standing};

use crate::membership::quorum::check_odd;

/// The change to propose now; `None` when there is nothing to do, or nothing that may be done yet: a configuration
/// change under way, a joint configuration in force (the consensus machine leaves it), or a majority, old or new, that is
/// not alive.
///
/// A change may take the leader's own seat, and then does nothing else: the leader hands leadership over first.
pub fn plan(view: &SeatView, policy: &SeatPolicy) -> Option<SeatChange> {
    if view.pending || view.configuration.is_joint() || check_odd(&view.configuration).is_err() {
        return None;
    }
    let seats = Seats::new(view, policy);
    seats.voters().or_else(|| seats.learners())
}
