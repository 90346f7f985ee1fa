//! Numbers that look random, from a seed given as an input.
//!
//! Owns one small generator (SplitMix64, Steele, Lea and Flood, OOPSLA 2014). Not for keys: only for election
//! timeouts and read contexts.

#[derive(Debug, Clone)]
pub(crate) struct Entropy(u64);

impl Entropy {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        #[cfg(feature = "chaos-mutants")]
        if crate::mutants::on(crate::mutants::Mutant::HashOrder) {
            use std::hash::BuildHasher as _;
            self.0 ^= std::hash::RandomState::new().hash_one(self.0);
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
}
