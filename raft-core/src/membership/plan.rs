//! temporary
use crate::id::RaftId;
use crate::log::Configuration;
pub struct Policy {
    pub max_voters: usize,
}
pub struct Standing {
    pub id: RaftId,
    pub replaces: Option<RaftId>,
    pub connected: bool,
    pub caught_up: bool,
    pub stable: bool,
}
pub struct SeatView {
    pub configuration: Configuration,
    pub managers: Vec<Standing>,
    pub leader: RaftId,
}
pub struct Plan {
    pub voters: Vec<RaftId>,
    pub learners: Vec<RaftId>,
}
pub fn plan(v: &SeatView, p: &Policy) -> Option<Plan> {
    if v.configuration.is_joint() {
        return None;
    }
    let c = &v.configuration;
    for m in &v.managers {
        if m.connected && !c.contains(m.id) {
            let mut l = c.learners.clone();
            l.push(m.id);
            l.sort();
            return Some(Plan { voters: c.voters.clone(), learners: l });
        }
    }
    if c.voters.len() + 2 <= p.max_voters {
        let s: Vec<RaftId> = v
            .managers
            .iter()
            .filter(|m| c.learners.contains(&m.id) && m.stable && m.connected && m.caught_up)
            .map(|m| m.id)
            .take(2)
            .collect();
        if s.len() == 2 {
            let mut voters = c.voters.clone();
            voters.extend(&s);
            voters.sort();
            let learners = c.learners.iter().copied().filter(|l| !s.contains(l)).collect();
            return Some(Plan { voters, learners });
        }
    }
    None
}
