//! Random streams, all from one seed.
//!
//! Owns one small generator (SplitMix64, Steele, Lea and Flood, OOPSLA 2014) and the derivation of independent streams,
//! so that a draw more for one purpose shifts nothing for another. Called by everything that draws.

/// One stream of draws.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed` for one purpose.
    #[must_use]
    pub const fn stream(seed: u64, purpose: u64) -> Self {
        let mut rng = Self(seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        // Neighbouring seeds must not begin alike.
        rng.next();
        Self(rng.next())
    }

    /// 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `low..=high`; `low` when the range is empty.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        if high <= low {
            return low;
        }
        low + self.next() % (high - low + 1)
    }

    /// True in `permille` of 1000 draws.
    pub const fn chance(&mut self, permille: u64) -> bool {
        self.next() % 1000 < permille
    }

    /// An index below `len`; 0 when there is none.
    pub fn index(&mut self, len: usize) -> usize {
        let drawn = self.between(0, (len as u64).saturating_sub(1));
        usize::try_from(drawn).unwrap_or(0)
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        let index = self.index(items.len());
        items.get(index).copied()
    }
}
