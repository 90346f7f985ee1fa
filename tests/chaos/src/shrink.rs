//! Makes a failing run small: as few acts, clients and members as still break the same promise.
//!
//! Owns the order in which things are tried: acts first (halves, quarters, single ones), then who asks, then knobs, then members,
//! then lengths, and over again until nothing helps. A step is kept when the same invariant fires. Called by `chaos shrink`.

use crate::repro::Repro;
use crate::sim::{MILLIS, SimConfig, Timed};

/// Makes it small, with at most so many runs; says how many it took.
pub fn shrink(repro: Repro, runs_max: u64, mut progress: impl FnMut(&Repro)) -> (Repro, u64) {
    let mut search = Search { best: repro, runs: 0, runs_max };
    loop {
        let before = search.best.clone();
        search.acts();
        progress(&search.best);
        search.knobs();
        search.members();
        search.lengths();
        progress(&search.best);
        if search.best == before || search.runs >= runs_max {
            return (search.best, search.runs);
        }
    }
}

struct Search {
    best: Repro,
    runs: u64,
    runs_max: u64,
}

impl Search {
    /// Keeps a smaller one if it still fails.
    fn tries(&mut self, smaller: Repro) -> bool {
        if smaller == self.best || self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        let Some(violation) = smaller.still_fails() else { return false };
        // What was to be done after it does not matter.
        let acts = smaller.acts.iter().filter(|timed| timed.at <= violation.at).cloned().collect();
        self.best = Repro { detail: violation.detail.clone(), acts, ..smaller };
        true
    }

    fn acts(&mut self) {
        let mut chunk = self.best.acts.len().div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            while from < self.best.acts.len() {
                let acts: Vec<Timed> = self
                    .best
                    .acts
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| !(from..from + chunk).contains(index))
                    .map(|(_, timed)| timed.clone())
                    .collect();
                if !self.tries(Repro { acts, ..self.best.clone() }) {
                    from += chunk;
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk / 2 };
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut SimConfig)) -> bool {
        let mut smaller = self.best.clone();
        change(&mut smaller.config);
        self.tries(smaller)
    }

    fn knobs(&mut self) {
        let quiet = SimConfig::quiet(self.best.config.seed, self.best.config.members);
        let calmer: [fn(&mut SimConfig, &SimConfig); 18] = [
            |config, _| config.watchers = 0,
            |config, _| config.holders = 0,
            |config, _| config.registers = 0,
            |config, _| config.sessions = 0,
            |config, _| config.scribble_every = 0,
            |config, _| config.clients = 0,
            |config, _| config.clients = 1,
            |config, _| config.slots = 1,
            |config, _| config.loss = 0,
            |config, _| config.duplicates = 0,
            |config, _| config.drift = 0,
            |config, _| config.snapshot_failures = 0,
            |config, quiet| config.snapshot_byte = quiet.snapshot_byte,
            |config, quiet| (config.delay_min, config.delay_max) = (quiet.delay_min, quiet.delay_max),
            |config, quiet| (config.sync_min, config.sync_max) = (quiet.sync_min, quiet.sync_max),
            |config, quiet| (config.apply_max, config.fetch_max) = (quiet.apply_max, quiet.fetch_max),
            |config, quiet| (config.cache_bytes, config.message_bytes) = (quiet.cache_bytes, quiet.message_bytes),
            |config, quiet| (config.log_window, config.inflight) = (quiet.log_window, quiet.inflight),
        ];
        for calm in calmer {
            self.change(|config| calm(config, &quiet));
        }
    }

    fn members(&mut self) {
        for members in [1, 3, 5] {
            if members < self.best.config.members
                && self.change(|config| (config.members, config.recorded) = (members, config.recorded.min(members)))
            {
                return;
            }
        }
    }

    fn lengths(&mut self) {
        while self.best.config.duration > 500 * MILLIS && self.change(|config| config.duration /= 2) {}
    }
}
