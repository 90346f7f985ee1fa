//! The rows of the table: what each is called, and what load it is.
//!
//! Owns these names, which `results.json` promises. Never runs anything. Called by `main`.

use crate::Told;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Put,
    Get {
        serializable: bool,
    },
    /// So many reads for each write.
    Mixed {
        reads: f64,
    },
    /// Puts that so many watches are told of.
    Told {
        watchers: usize,
    },
}

/// A row that is a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadRow {
    pub(crate) kind: Kind,
    pub(crate) clients: usize,
    /// Bytes of a value.
    pub(crate) size: usize,
    /// What its keys begin with, and how many there are.
    pub(crate) keys: (&'static str, u64),
}

/// What a row measures.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measure {
    /// Requests a second.
    Load(LoadRow),
    /// Memory after a million puts over 100,000 keys.
    Memory,
    /// Puts by so many callers inside the leader's process.
    Inside(usize),
    /// SIGKILL of the leader, to the next acknowledged write.
    LeaderKilled,
    /// SIGTERM to the leader: the longest gap, and what failed.
    LeaderStopped,
    /// Start of a member that has a million keys, to its first linearizable answer.
    Restart,
    /// Start of a new member, to when it has a million keys.
    CatchUp,
    /// From a put to when the last of a hundred watches is told.
    Told,
    /// Loads with more and more managers.
    Managers,
    /// Loads with more and more keys.
    Keys,
    /// Loads with more and more watches.
    Watches,
}

/// A row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) measure: Measure,
}

/// Each size of values has keys of its own, so many that all of one fits into memory and on the disk.
const fn load(name: &'static str, kind: Kind, clients: usize, size: usize) -> Row {
    let keys = match size {
        0..=1_024 => ("bench/", 100_000),
        1_025..=8_192 => ("bench4k/", 10_000),
        _ => ("bench64k/", 1_000),
    };
    Row { name, measure: Measure::Load(LoadRow { kind, clients, size, keys }) }
}

const L: Kind = Kind::Get { serializable: false };
const S: Kind = Kind::Get { serializable: true };

/// All rows, in the order of the table.
pub(crate) const ROWS: &[Row] = &[
    load("put 1 256B", Kind::Put, 1, 256),
    load("put 100 256B", Kind::Put, 100, 256),
    load("put 1000 256B", Kind::Put, 1_000, 256),
    load("get l 1", L, 1, 256),
    load("get l 1000", L, 1_000, 256),
    load("get s 1", S, 1, 256),
    load("get s 1000", S, 1_000, 256),
    load("put 100 4KiB", Kind::Put, 100, 4 << 10),
    load("put 100 64KiB", Kind::Put, 100, 64 << 10),
    load("mixed 4:1 100 256B", Kind::Mixed { reads: 4.0 }, 100, 256),
    load("mixed 4:1 1000 256B", Kind::Mixed { reads: 4.0 }, 1_000, 256),
    Row { name: "memory", measure: Measure::Memory },
    Row { name: "put inside 1", measure: Measure::Inside(1) },
    Row { name: "put inside 64", measure: Measure::Inside(64) },
    Row { name: "put inside 1000", measure: Measure::Inside(1_000) },
    Row { name: "leader killed", measure: Measure::LeaderKilled },
    Row { name: "leader stopped", measure: Measure::LeaderStopped },
    Row { name: "restart with 1M keys", measure: Measure::Restart },
    Row { name: "catch-up with 1M keys", measure: Measure::CatchUp },
    Row { name: "watch 100", measure: Measure::Told },
    Row { name: "managers", measure: Measure::Managers },
    Row { name: "keys", measure: Measure::Keys },
    Row { name: "watches", measure: Measure::Watches },
];

/// Those that were asked for, by their names.
///
/// # Errors
/// There is no such row; the message lists them.
pub(crate) fn chosen(names: &[String]) -> Told<Vec<Row>> {
    if names.iter().all(|name| name.trim().is_empty()) {
        return Ok(ROWS.to_vec());
    }
    let find = |name: &String| {
        let found = ROWS.iter().find(|row| row.name == name.trim());
        found.cloned().ok_or_else(|| {
            let all = ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            format!("there is no row `{name}`; there are: {all}")
        })
    };
    names.iter().filter(|name| !name.trim().is_empty()).map(find).collect()
}

impl LoadRow {
    /// One connection for ten clients.
    pub(crate) const fn connections(&self) -> usize {
        self.clients.div_ceil(10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_their_names_and_nothing_is_all() {
        let chosen = |names: &[&str]| chosen(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(chosen(&[""]).unwrap().len(), ROWS.len());
        let two: Vec<_> = chosen(&["put 1 256B", " get l 1000"]).unwrap().iter().map(|row| row.name).collect();
        assert_eq!(two, ["put 1 256B", "get l 1000"]);
        assert!(chosen(&["put 2"]).unwrap_err().contains("put 1 256B"));
    }
}
