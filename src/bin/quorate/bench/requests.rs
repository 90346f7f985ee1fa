//! The requests of each verb: one is one put, one get, or one transaction.
//!
//! Owns which request a client sends next. Never repeats one and never batches. Called by `load`, once for each.

use quorate::{Client, Error, Outcome, TxnBuilder, operation};

use super::load::{Draw, Store};
use super::tally::Failed;
use crate::args_bench::Consistency;
use crate::failure::Failure;

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kinds {
    Put,
    Get {
        consistency: Consistency,
    },
    /// So many reads for each write of so many puts.
    Mixed {
        consistency: Consistency,
        reads: f64,
        puts: u16,
    },
}

/// The first kind in the tally, and the second.
const FIRST: usize = 0;
const SECOND: usize = 1;

impl Kinds {
    /// Whether there must be something to read.
    pub(super) const fn reads(self) -> bool {
        match self {
            Self::Put => false,
            Self::Get { .. } | Self::Mixed { .. } => true,
        }
    }

    /// The names of what is told apart.
    pub(super) const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Put => &["put"],
            Self::Get { .. } => &["get"],
            Self::Mixed { .. } => &["read", "write"],
        }
    }
}

/// The clients' requests, over the connections that they share in turn.
pub(super) struct Requests {
    pub(super) connections: Vec<Client>,
    pub(super) kinds: Kinds,
}

impl Requests {
    /// One request; answers its kind.
    pub(super) async fn attempt(&self, client: usize, draw: &mut Draw) -> Result<usize, Error> {
        let number = client.checked_rem(self.connections.len()).unwrap_or(0);
        let Some(connection) = self.connections.get(number) else {
            return Err(Error::Unavailable("there is no connection".into()));
        };
        match self.kinds {
            Kinds::Put => {
                connection.kv().put(draw.key(), draw.value()).await?;
                Ok(FIRST)
            }
            Kinds::Get { consistency } => get(connection, consistency, draw).await,
            Kinds::Mixed { consistency, reads, .. } if draw.odds(reads) => get(connection, consistency, draw).await,
            Kinds::Mixed { puts, .. } => {
                let puts = (0..puts).map(|_| operation::put(draw.key(), draw.value()));
                puts.fold(connection.kv().txn(), TxnBuilder::then).await?;
                Ok(SECOND)
            }
        }
    }
}

/// A key of a filled key space is there: that it is not is a failure of what is measured.
async fn get(connection: &Client, consistency: Consistency, draw: &mut Draw) -> Result<usize, Error> {
    let key = draw.key();
    let range = connection.kv().one(key.clone());
    let page = match consistency {
        Consistency::L => range.await?,
        Consistency::S => range.serializable().await?,
    };
    match page.entries.first() {
        Some(entry) if entry.key == key.as_bytes() => Ok(FIRST),
        Some(_) | None => Err(Error::NotFound(format!("`{key}` was written and is not there"))),
    }
}

impl Store for Requests {
    async fn request(&self, client: usize, draw: &mut Draw) -> Result<usize, Failed> {
        self.attempt(client, draw).await.map_err(failed)
    }
}

/// As the tally keeps it.
pub(super) fn failed(error: Error) -> Failed {
    let unknown = error.outcome() == Outcome::Unknown;
    let failure = Failure::from(error);
    Failed { kind: failure.kind(), unknown, message: failure.message().to_owned() }
}
