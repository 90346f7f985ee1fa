//! The report of a run: one page that opens with no network.
//!
//! Owns what is on it. The data lies in the page as JSON and is drawn by the script beside it; the verdicts are there in plain
//! words as well, for readers without scripts. Never judges. Called at the end of real and of simulated runs.

mod trace;

use std::collections::BTreeMap;

use serde::Serialize;

pub use trace::of_trace;

use crate::check::{Finding, Verdict};

/// Columns of the chart of operations.
const BUCKETS: u64 = 240;

/// Everything that is shown. Times are nanoseconds since the run began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Page {
    /// What was run.
    pub title: String,
    /// How it ended, in words.
    pub verdict: String,
    /// Whether that is good.
    pub passed: bool,
    /// What times are shown in: `s`.
    pub unit: String,
    /// When it ended.
    pub end: u64,
    /// Names, by number.
    pub nodes: Vec<String>,
    /// What else is worth knowing: a name and a value.
    pub facts: Vec<(String, String)>,
    /// What was done to the cluster.
    pub faults: Vec<Span>,
    /// Who led, by its own word.
    pub leaders: Vec<Led>,
    /// Who had which seat.
    pub seats: Vec<Seated>,
    /// What was asked, by time.
    pub operations: Vec<Bucket>,
    /// What each checker says.
    pub findings: Vec<Judged>,
    /// Remarks.
    pub notes: Vec<Note>,
    /// The ends of logs, where something went wrong.
    pub tails: Vec<(String, Vec<String>)>,
}

/// A fault, from when to when.
#[derive(Debug, Clone, Serialize)]
pub struct Span {
    /// What.
    pub name: String,
    /// To whom, by number; nobody is the whole cluster.
    pub nodes: Vec<usize>,
    /// From.
    pub from: u64,
    /// To.
    pub to: u64,
    /// `installed`, `skipped` or `indeterminate`.
    pub effect: String,
    /// What showed it, or why not.
    pub proof: String,
}

/// A leadership, as far as it was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Led {
    /// Who, by number.
    pub node: usize,
    /// Of which generation.
    pub generation: u64,
    /// In which term.
    pub term: u64,
    /// First seen.
    pub from: u64,
    /// Last seen.
    pub to: u64,
}

/// A configuration that came into sight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seated {
    /// When it was first seen.
    pub at: u64,
    /// Voters, by name.
    pub voters: Vec<String>,
    /// Managers without a seat.
    pub standbys: Vec<String>,
}

/// Operations that were answered within one column of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// Its beginning.
    pub at: u64,
    /// Done.
    pub ok: u64,
    /// Certainly not done.
    pub fail: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// Latency of those that were done, microseconds: median, 99 of 100, longest.
    pub latency: (u64, u64, u64),
}

/// A checker's word.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// Which.
    pub checker: String,
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: String,
    /// What it looked at, or found.
    pub detail: String,
}

/// A remark.
#[derive(Debug, Clone, Serialize)]
pub struct Note {
    /// When.
    pub at: u64,
    /// What.
    pub text: String,
}

impl From<&Finding> for Judged {
    fn from(from: &Finding) -> Self {
        Self { checker: from.checker.to_owned(), verdict: word(&from.verdict).to_owned(), detail: from.detail.clone() }
    }
}

/// A verdict in one word.
#[must_use]
pub const fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Inconclusive => "inconclusive",
    }
}

/// Sorts operations (when answered, how long it took, 0 done / 1 not done / 2 unknown) into columns of time.
#[must_use]
pub fn buckets(operations: impl IntoIterator<Item = (u64, u64, u8)>, end: u64) -> Vec<Bucket> {
    let width = (end / BUCKETS).max(1);
    let mut sorted: BTreeMap<u64, (Bucket, Vec<u64>)> = BTreeMap::new();
    for (returned, took, kind) in operations {
        let at = returned / width * width;
        let (bucket, times) = sorted.entry(at).or_default();
        bucket.at = at;
        match kind {
            0 => {
                bucket.ok += 1;
                times.push(took / 1_000);
            }
            1 => bucket.fail += 1,
            _ => bucket.unknown += 1,
        }
    }
    let summed = sorted.into_values().map(|(mut bucket, mut times)| {
        times.sort_unstable();
        let at = |permille: usize| times.get(times.len().saturating_sub(1) * permille / 1000).copied().unwrap_or(0);
        bucket.latency = (at(500), at(990), at(1000));
        bucket
    });
    summed.collect()
}

impl Page {
    /// What one manager said at a time: whether it leads, and who has which seat.
    pub fn saw(&mut self, at: u64, node: usize, leads: Option<(u64, u64)>, seats: &BTreeMap<String, String>) {
        let open = self.leaders.iter().rposition(|led| led.node == node && led.to == u64::MAX);
        match (open, leads) {
            (Some(open), Some((generation, term)))
                if self.leaders[open].generation == generation && self.leaders[open].term == term => {}
            (open, leads) => {
                if let Some(open) = open {
                    self.leaders[open].to = at;
                }
                if let Some((generation, term)) = leads {
                    // Who led before has been deposed, whether it knows that already or not.
                    for led in self.leaders.iter_mut().filter(|led| led.to == u64::MAX) {
                        led.to = at;
                    }
                    self.leaders.push(Led { node, generation, term, from: at, to: u64::MAX });
                }
            }
        }
        let of =
            |wanted: &str| seats.iter().filter(|(_, seat)| *seat == wanted).map(|(name, _)| name.clone()).collect();
        let seated = Seated { at, voters: of("voter"), standbys: of("standby") };
        // Only the leader knows what is in force; a manager that is behind would tell of the past.
        let is_new =
            self.seats.last().is_none_or(|last| last.voters != seated.voters || last.standbys != seated.standbys);
        if leads.is_some() && is_new {
            self.seats.push(seated);
        }
    }

    /// The page.
    ///
    /// # Errors
    /// What the writer of JSON says.
    pub fn html(&self) -> Result<String, serde_json::Error> {
        let mut shown = self.clone();
        for led in shown.leaders.iter_mut().filter(|led| led.to == u64::MAX) {
            led.to = shown.end;
        }
        // Within a script element nothing but its end is markup.
        let data = serde_json::to_string(&shown)?.replace("</", "<\\/").replace("<!--", "<\\!--");
        let rows = |cells: &[&str]| cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect::<String>();
        let findings: String = self
            .findings
            .iter()
            .map(|found| {
                format!(
                    "<tr class=\"{}\">{}</tr>\n",
                    escaped(&found.verdict),
                    rows(&[&found.verdict, &found.checker, &found.detail])
                )
            })
            .collect();
        let facts: String =
            self.facts.iter().map(|(name, value)| format!("<tr>{}</tr>\n", rows(&[name, value]))).collect();
        let seconds = |ns: u64| format!("{}.{:02}", ns / 1_000_000_000, ns / 10_000_000 % 100);
        let faults: String = self
            .faults
            .iter()
            .map(|fault| {
                let nodes: Vec<&str> =
                    fault.nodes.iter().filter_map(|node| self.nodes.get(*node).map(String::as_str)).collect();
                let cells = rows(&[
                    &seconds(fault.from),
                    &seconds(fault.to),
                    &fault.name,
                    &nodes.join(" "),
                    &fault.effect,
                    &fault.proof,
                ]);
                format!("<tr class=\"{}\">{cells}</tr>\n", escaped(&fault.effect))
            })
            .collect();
        let seats: String = self
            .seats
            .iter()
            .map(|seated| {
                format!(
                    "<tr>{}</tr>\n",
                    rows(&[&seconds(seated.at), &seated.voters.join(" "), &seated.standbys.join(" ")])
                )
            })
            .collect();
        let notes: String =
            self.notes.iter().map(|note| format!("<tr>{}</tr>\n", rows(&[&seconds(note.at), &note.text]))).collect();
        let tails: String = self
            .tails
            .iter()
            .map(|(name, lines)| format!("<h3>{}</h3><pre>{}</pre>\n", escaped(name), escaped(&lines.join("\n"))))
            .collect();
        let class = if self.passed { "pass" } else { "fail" };
        let parts = [
            ("{{title}}", escaped(&self.title)),
            ("{{class}}", class.to_owned()),
            ("{{verdict}}", escaped(&self.verdict)),
            ("{{facts}}", facts),
            ("{{findings}}", findings),
            ("{{faults}}", faults),
            ("{{seats}}", seats),
            ("{{notes}}", notes),
            ("{{tails}}", tails),
            // The last one: what people named must not be filled in again.
            ("{{data}}", data),
        ];
        Ok(filled(include_str!("page.html"), &parts))
    }
}

/// Fills each mark once, and never looks at what it has filled in.
fn filled(template: &str, parts: &[(&str, String)]) -> String {
    let mut page = String::new();
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        let (before, after) = rest.split_at(start);
        page.push_str(before);
        match parts.iter().find(|(mark, _)| after.starts_with(mark)) {
            Some((mark, text)) => {
                page.push_str(text);
                rest = after.get(mark.len()..).unwrap_or_default();
            }
            None => {
                page.push_str("{{");
                rest = after.get(2..).unwrap_or_default();
            }
        }
    }
    page.push_str(rest);
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_sorted_into_columns_with_their_latencies() {
        let done = (1..=100).map(|took| (5, took * 1_000_000, 0));
        let sorted = buckets(done.chain([(5, 1, 1), (239_000, 1, 2)]), 240_000);
        assert_eq!(sorted.len(), 2);
        assert_eq!((sorted[0].ok, sorted[0].fail, sorted[0].latency), (100, 1, (50_000, 99_000, 100_000)));
        assert_eq!((sorted[1].at, sorted[1].unknown), (239_000, 1));
    }

    #[test]
    fn leaderships_end_when_another_begins() {
        let mut page = Page::default();
        let seats = BTreeMap::from([("m1".to_owned(), "voter".to_owned())]);
        page.saw(1, 0, Some((1, 2)), &seats);
        page.saw(2, 0, Some((1, 2)), &seats);
        page.saw(3, 1, Some((1, 3)), &seats);
        page.saw(4, 0, None, &BTreeMap::new());
        let led: Vec<_> = page.leaders.iter().map(|led| (led.node, led.term, led.from, led.to)).collect();
        assert_eq!(led, [(0, 2, 1, 3), (1, 3, 3, u64::MAX)]);
        assert_eq!(page.seats.len(), 1);
    }

    #[test]
    fn what_people_named_cannot_break_the_page() {
        let mut page = Page { title: "a <b> & {{data}}".into(), ..Page::default() };
        page.notes.push(Note { at: 0, text: "</script><script>alert(1)</script>".into() });
        let html = page.html().unwrap();
        assert_eq!(html.matches("</script>").count(), include_str!("page.html").matches("</script>").count());
        assert!(html.contains("a &lt;b&gt; &amp; {{data}}"));
        assert!(!html.contains("http://") && !html.contains("https://"), "it opens with no network");
    }
}
