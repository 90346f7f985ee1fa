//! Real processes: the shipped binary over real QUIC and RocksDB, under faults that are proven to have taken effect.
//!
//! Owns the launcher, the faults, the load and the judgement of runs of real clusters. Never simulates, and never takes a
//! fault for done that was not seen to be: what a machine cannot do is reported as skipped. Called by `chaos real`, and by
//! tests through [`run`].
//!
//! | file | what it has |
//! |---|---|
//! | `machine` | programs that are run, and what is undone first and last |
//! | `disk`, `mesh`, `firewall`, `preload` | disks, networks and calls that can be made to fail |
//! | `fleet` | the processes |
//! | `load`, `recorder` | clients, and the history that they leave |
//! | `observe` | who leads, and who has which seat, as the managers say |
//! | `world`, `faults`, `nemesis` | what a scenario can do, each with its proof |
//! | `scenarios` | S01 to S32 |
//! | `judge`, `offline`, `scan` | what must hold, in the running cluster and on its disks |
//! | `run` | one run from the first process to the report |

mod disk;
mod faults;
mod firewall;
mod fleet;
mod judge;
mod load;
mod machine;
mod mesh;
mod nemesis;
mod observe;
mod offline;
mod preload;
mod recorder;
mod run;
mod scan;
mod scenarios;
mod timeline;
mod world;

use std::time::Duration;

pub use run::{Net, Options, Outcome, beside, run};
pub use scenarios::{Scenario, find, list};
pub use timeline::{Effect, Fault};

/// The length of a tick: elections then take 1.65 to 2.25 s, so that stalls of a small machine are not taken for faults.
pub const TICK: Duration = Duration::from_millis(75);
/// How long anything that must happen may take on a slow machine.
pub const BUDGET: Duration = Duration::from_secs(90);

/// Why a run came to no good end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A promise was broken.
    #[error("VIOLATION: {0}")]
    Violation(String),
    /// It cannot be judged.
    #[error("inconclusive: {0}")]
    Inconclusive(String),
    /// The harness failed, not the cluster.
    #[error("the harness failed: {0}")]
    Harness(String),
    /// A fault that the scenario is about was not reached.
    #[error("a required fault was not reached: {0}")]
    NotReached(String),
}

impl Trouble {
    /// What the process ends with.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Violation(_) => 1,
            Self::Inconclusive(_) => 2,
            Self::Harness(_) => 3,
            Self::NotReached(_) => 4,
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Harness(error.to_string())
    }
}

/// A result of anything here.
pub type Done<T = ()> = Result<T, Trouble>;

fn harness<T>(why: impl Into<String>) -> Done<T> {
    Err(Trouble::Harness(why.into()))
}

fn violation<T>(why: impl Into<String>) -> Done<T> {
    Err(Trouble::Violation(why.into()))
}
