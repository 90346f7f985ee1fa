//! temporary
use crate::id::RaftId;
use crate::log::Configuration;
pub struct Quorum<'a>(&'a Configuration);
impl<'a> Quorum<'a> {
    pub fn of(c: &'a Configuration) -> Self {
        Self(c)
    }
    pub fn voters(&self) -> Vec<RaftId> {
        let mut v: Vec<_> = self.0.voters.iter().chain(&self.0.voters_outgoing).copied().collect();
        v.sort();
        v.dedup();
        v
    }
    pub fn is_met(&self, up: impl Fn(&RaftId) -> bool) -> bool {
        let half = |v: &[RaftId]| v.is_empty() || v.iter().filter(|i| up(i)).count() * 2 > v.len();
        half(&self.0.voters) && half(&self.0.voters_outgoing)
    }
}
