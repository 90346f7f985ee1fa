//! Seeds that once broke something.
//!
//! Owns the list: every one that failed on the way is in `tests/seeds.txt` with what it was, and is run again before any other. Files
//! of runs that were made small lie in `repros`. Called by `chaos sim --kept` and by the tests.

use crate::sim::{Profile, SimConfig};

const LIST: &str = include_str!("../tests/seeds.txt");

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The seed.
    pub seed: u64,
    /// What it draws.
    pub profile: Profile,
    /// It was found before rot, frozen cores, workers and gates were drawn, and is run without them.
    pub early: bool,
}

impl Kept {
    /// Its knobs.
    #[must_use]
    pub fn config(&self) -> SimConfig {
        let config = SimConfig::draw(self.seed, self.profile);
        if self.early { SimConfig { rot: false, frozen: false, sessions: 0, gates: false, ..config } } else { config }
    }

    fn of(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (seed, profile) = (words.next()?.parse().ok()?, Profile::named(words.next()?)?);
        Some(Self { seed, profile, early: words.next() == Some("early") })
    }
}

fn lines() -> impl Iterator<Item = &'static str> {
    LIST.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}

/// All of them, in the order of the list.
#[must_use]
pub fn all() -> Vec<Kept> {
    lines().filter_map(Kept::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_says_a_seed_and_a_profile() {
        assert!(lines().count() > 10);
        assert_eq!(all().len(), lines().count());
        assert!(Kept::of("nonsense swarm").is_none() && Kept::of("7 nonsense").is_none());
    }
}
