//! What was measured, kept: `results.json` for programs, and the table in `RESULTS.md` made from it.
//!
//! Owns both files' form. A row that is measured again takes its old place; what else stands in RESULTS.md stays. Called by `main`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::loads::Round;
use crate::machine::SyncTime;
use crate::rows::{ROWS, Row};
use crate::{Told, picture, told};

const BEGIN: &str = "<!-- beside: begin; `make bench` writes from here to the end mark -->";
/// How cost grows, drawn.
const PICTURE: &str = "growth.svg";
/// Beside whom nearly all is measured.
const ETCD: &str = "etcd";
const END: &str = "<!-- beside: end -->";

const HEADING: &str = "\
## quorate beside etcd

Three managers (the `quorate` binary: QUIC with mutual TLS 1.3, fsync before every acknowledgement) and three etcd members
(Debian's, plain HTTP/2 without TLS, fsync, `--quota-backend-bytes=8589934592 --auto-compaction-retention=0`) stand side by side on
one machine, over loopback, each on directories of its own on the same disk. They are loaded turn about by the same closed loop, in a
process of its own: `quorate bench` over QUIC with an operator's identity, and for etcd the same source file over the `etcd-client`
crate. One request is one put of one random key with random bytes; ten clients share a connection; connections go to the leader
first and then to the others in turn; the key space is filled before, on both sides. Each round begins with 2 s that do not count.

- `ratio` is quorate's figure by etcd's, each the median of its rounds (the last columns have all of them). With ms and MiB less is
  better, with 1/s and MiB/s more.
- `p50 ms`, `p99 ms`, `syncs/s`, `cpu us` are medians, too, quorate / etcd. Syncs are calls of fsync and fdatasync by all three members,
  counted in the kernel by `perf stat`; processor time is that of all members, and of the client, for each request.
- `leader killed`: SIGKILL of the leader, until a put that was sent after it is acknowledged; one writer begins at each member and goes
  on to the next when it has no answer within 440 ms. `leader stopped`: SIGTERM, the longest time without an acknowledgement.
- `memory`: resident memory of the largest member after a million puts over 100,000 keys by 1000 clients.
- `put inside N`: N callers inside the leader's process; beside hiqlite, three nodes in one process as well, without TLS, the log synced
  before the answer, one upsert for each put.
- `restart with 1M keys`: from the start of a follower to its first linearizable answer. `catch-up with 1M keys`: a new member, until it
  can be read there what was written last; keys and values by that time.
- `watch 100`: from sending a put to when the last of 100 watches of its key space was told of it, one put after the other.
- `managers N ...`, `keys N ...`, `watches N ...`: 100 clients while that grows, and each watch of one key; drawn
  in `growth.svg` beside this page once they were measured.
";

/// One row, measured.
#[derive(Debug)]
pub(crate) struct Measured {
    row: String,
    quorate: f64,
    /// Whom it stands beside.
    peer: &'static str,
    peers: Option<f64>,
    unit: &'static str,
    rounds: Option<(Vec<Round>, Vec<Round>)>,
    more: Map<String, Value>,
}

impl Measured {
    pub(crate) fn new(row: &str, quorate: f64, etcd: Option<f64>, unit: &'static str) -> Self {
        Self { row: row.to_owned(), quorate, peer: ETCD, peers: etcd, unit, rounds: None, more: Map::new() }
    }

    /// The peer is not etcd but this one.
    pub(crate) fn beside(self, peer: &'static str) -> Self {
        Self { peer, ..self }
    }

    pub(crate) fn rounds(self, quorate: Vec<Round>, peers: Vec<Round>) -> Self {
        Self { rounds: Some((quorate, peers)), ..self }
    }

    /// The same under another name.
    pub(crate) fn named(self, row: String) -> Self {
        Self { row, ..self }
    }

    /// Something that only this row has.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

/// Under which circumstances.
#[derive(Debug, Serialize)]
pub(crate) struct Environment {
    pub(crate) measured: String,
    pub(crate) commit: String,
    pub(crate) quorate: String,
    pub(crate) etcd: String,
    pub(crate) machine: String,
    pub(crate) load_before: String,
    pub(crate) disk: Vec<SyncTime>,
}

impl Environment {
    pub(crate) fn disk_in_words(&self) -> String {
        let words = self.disk.iter().map(|disk| {
            let writers = if disk.writers == 1 { "1 writer".to_owned() } else { format!("{} writers", disk.writers) };
            format!(
                "fdatasync with {writers} p50 {:.0} us, p99 {:.0} us, {:.0}/s",
                disk.p50_us, disk.p99_us, disk.per_second
            )
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

/// All rows that were ever measured.
#[derive(Debug)]
pub(crate) struct Figures(Vec<Value>);

impl Figures {
    pub(crate) fn load(results: &Path) -> Told<Self> {
        let path = results.join("results.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Self).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self(Vec::new())),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    pub(crate) fn put(&mut self, measured: Measured, environment: &Environment, command: &str) {
        let Measured { row, quorate, peer, peers, unit, rounds, more } = measured;
        let ratio = peers.filter(|peers| *peers > 0.0).map(|peers| rounded(quorate / peers));
        let mut entry = json!({
            "row": row, "quorate": rounded(quorate), ETCD: null, "unit": unit, "ratio": ratio, "peer": peer,
        });
        let extra = json!({ "command": command, "environment": environment });
        if let (Value::Object(entry), Value::Object(extra)) = (&mut entry, extra) {
            entry.insert(peer.into(), json!(peers.map(rounded)));
            if let Some((quorate, peers)) = rounds {
                entry.insert("rounds".into(), json!({ "quorate": quorate, peer: peers }));
            }
            entry.extend(more);
            entry.extend(extra);
        }
        match self.0.iter_mut().find(|known| known["row"] == entry["row"]) {
            Some(known) => *known = entry,
            None => self.0.push(entry),
        }
    }

    pub(crate) fn save(&mut self, results: &Path) -> Told<()> {
        self.0.sort_by_key(|entry| place(entry["row"].as_str().unwrap_or_default()));
        let text = serde_json::to_string_pretty(&self.0).map_err(told)?;
        std::fs::write(results.join("results.json"), text + "\n").map_err(told)?;
        let path = results.join("RESULTS.md");
        let page = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        std::fs::write(&path, between(&page, &self.page())).map_err(told)?;
        match picture::svg(&self.0)? {
            Some(picture) => std::fs::write(results.join(PICTURE), picture + "\n").map_err(told),
            None => Ok(()),
        }
    }

    /// A line for each run that a row is of: when, of which commit, by which command, and what the disk could do then.
    fn runs(&self) -> String {
        let of = |entry: &Value| {
            let environment = &entry["environment"];
            let word = |name: &str| environment[name].as_str().unwrap_or("unknown").to_owned();
            let disk = environment["disk"].as_array().into_iter().flatten().map(|disk| {
                let (writers, figure) = (&disk["writers"], |name: &str| disk[name].as_f64().unwrap_or_default());
                format!(
                    "with {writers} at a time p50 {:.0} us, p99 {:.0} us, {:.0}/s",
                    figure("p50_us"),
                    figure("p99_us"),
                    figure("per_second")
                )
            });
            format!(
                "- {}, {}: `{}`; {}; {}; {}. fdatasync of 512 appended bytes: {}.\n",
                word("measured"),
                word("commit"),
                entry["command"].as_str().unwrap_or("unknown").trim(),
                word("machine"),
                word("quorate"),
                word("etcd"),
                disk.collect::<Vec<_>>().join("; ")
            )
        };
        self.0.iter().map(of).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn page(&self) -> String {
        let mut page = format!("{HEADING}\nThe runs:\n\n{}\n", self.runs());
        page.push_str(
            "| row | quorate | etcd | unit | ratio | p50 ms | p99 ms | syncs/s | cpu us, members | cpu us, client | rounds, quorate | rounds, etcd | when |\n\
             |---|---:|---:|---|---:|---:|---:|---:|---:|---:|---|---|---|\n",
        );
        for entry in &self.0 {
            let peer = entry["peer"].as_str().unwrap_or(ETCD);
            let number = |value: &Value| value.as_f64().map_or_else(|| "–".to_owned(), shown);
            let of = |side: &str, field: &str, scale: f64| {
                let rounds = entry["rounds"][side].as_array()?;
                let values: Option<Vec<f64>> = rounds.iter().map(|round| round[field].as_f64()).collect();
                values.map(|values| shown(median(values.into_iter()) * scale))
            };
            let both = |field: &str, scale: f64| match (of("quorate", field, scale), of(peer, field, scale)) {
                (Some(ours), Some(theirs)) => format!("{ours} / {theirs}"),
                (Some(ours), None) => ours,
                (None, _) => "–".into(),
            };
            let rates = |side: &str| {
                let rounds = entry["rounds"][side].as_array().cloned().unwrap_or_default();
                rounds.iter().map(|round| number(&round["rate"])).collect::<Vec<_>>().join(" ")
            };
            let _infallible = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {} |",
                entry["row"].as_str().unwrap_or_default(),
                number(&entry["quorate"]),
                if peer == ETCD { number(&entry[ETCD]) } else { format!("{} ({peer})", number(&entry[peer])) },
                entry["unit"].as_str().unwrap_or_default(),
                entry["ratio"].as_f64().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
                both("p50_us", 1e-3),
                both("p99_us", 1e-3),
                both("syncs_per_second", 1.0),
                both("cpu_us", 1.0),
                both("client_cpu_us", 1.0),
                rates("quorate"),
                rates(peer),
                entry["environment"]["measured"].as_str().unwrap_or_default(),
                entry["environment"]["commit"].as_str().unwrap_or_default(),
            );
        }
        page
    }
}

/// Where in the table this row stands; one that is told in several figures has a word behind its name.
fn place(name: &str) -> usize {
    let is = |row: &Row| name.strip_prefix(row.name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    ROWS.iter().position(is).unwrap_or(ROWS.len())
}

/// The page with what stands between the marks replaced; marks that are missing come to the end.
fn between(page: &str, text: &str) -> String {
    match (page.find(BEGIN), page.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            format!(
                "{}{BEGIN}\n\n{text}\n{}",
                page.get(..begin).unwrap_or_default(),
                page.get(end..).unwrap_or_default()
            )
        }
        _ => format!("{}\n\n{BEGIN}\n\n{text}\n{END}\n", page.trim_end()),
    }
}

/// Three digits after the point at most, and not more digits than there are.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn shown(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// The value below which this share of all lies, the nearest one that was seen.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * share).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

/// The one in the middle, or the mean of the two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or_default();
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { (at(half.wrapping_sub(1)) + at(half)) / 2.0 } else { at(half) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_around_the_table_stays() {
        let page = between("# Results\n\n## Sessions\n", "table 1");
        assert!(page.starts_with("# Results\n\n## Sessions\n\n<!--") && page.contains("table 1"), "{page}");
        let again = between(&format!("{page}\n## More\n"), "table 2");
        assert!(again.contains("table 2") && !again.contains("table 1") && again.ends_with("\n## More\n"), "{again}");
    }

    #[test]
    fn rows_stand_in_their_order_also_those_told_in_several_figures() {
        let names = [
            "put 1 256B",
            "get l 1",
            "get l 1000",
            "put inside 1",
            "put inside 64",
            "put inside 1000",
            "leader killed p99",
        ];
        assert!(names.map(place).is_sorted() && place("leader killed p99") < ROWS.len(), "{:?}", names.map(place));
        assert_eq!(place("something else"), ROWS.len());
    }

    #[test]
    fn every_run_that_a_row_is_of_is_named_once_with_its_command_and_disk() {
        let row = |row: &str, measured: &str| {
            let disk = json!([{ "writers": 1, "p50_us": 5.0, "p99_us": 9.0, "per_second": 100.0 }]);
            let environment = json!({ "measured": measured, "commit": "abc", "disk": disk });
            json!({ "row": row, "command": "make bench ROUNDS=2", "environment": environment })
        };
        let runs = Figures(vec![row("a", "1 May"), row("b", "2 May"), row("c", "1 May")]).runs();
        assert_eq!(runs.lines().count(), 2, "{runs}");
        let first = "- 1 May, abc: `make bench ROUNDS=2`; ";
        assert!(runs.starts_with(first) && runs.contains("with 1 at a time p50 5 us, p99 9 us, 100/s"), "{runs}");
    }

    #[test]
    fn a_quantile_is_one_that_was_seen() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median(std::iter::empty()), 0.0);
    }
}
