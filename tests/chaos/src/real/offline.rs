//! What lies on the disks once every process has ended.
//!
//! Owns what is asked of `quorate inspect`, and how the answers must fit together. Changes nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::check::Finding;

use super::judge::finding;
use super::scan;
use super::scenarios::{CANARY, CANARY_KEY};
use super::world::World;
use super::{Done, Trouble};

impl World {
    /// Decodes every store, and compares.
    pub(super) async fn stores(&self) -> Done<Vec<Finding>> {
        let mut wrong = Vec::new();
        let mut by_applied: BTreeMap<(u64, u64), (String, String)> = BTreeMap::new();
        let (mut configurations, mut even, mut looked) = (0, Vec::new(), 0);
        for index in self.fleet.managers() {
            let name = &self.fleet.members[index].name;
            let found = match self.fleet.tool(index, &["inspect", "--json"]).await? {
                Ok(text) => json(&text)?,
                Err(why) => {
                    wrong.push(format!("{name} cannot be read: {why}"));
                    continue;
                }
            };
            if found["role"] == "worker" {
                continue;
            }
            looked += 1;
            let number = |field: &str| found[field].as_u64().unwrap_or(0);
            let (hash, recorded) = (found["state_hash"].to_string(), found["recorded_hash"].to_string());
            if hash != recorded {
                wrong.push(format!("{name} holds a state of digest {hash}, and says {recorded}"));
            }
            let (applied, commit, last) = (number("applied"), number("commit"), number("last_index"));
            if applied > last || commit > last || number("first_index") > last + 1 {
                wrong.push(format!("{name}: applied {applied}, commit {commit}, last {last} do not fit"));
            }
            let key = (number("generation"), applied);
            match by_applied.get(&key) {
                Some((other, theirs)) if *theirs != hash => {
                    wrong.push(format!("{other} and {name} have both applied {applied}, and their states differ"));
                }
                Some(_same) => {}
                None => {
                    by_applied.insert(key, (name.clone(), hash));
                }
            }
            let rows = match self.fleet.tool(index, &["inspect", "--configurations", "--json"]).await? {
                Ok(text) => json(&text)?,
                Err(why) => {
                    wrong.push(format!("the configurations of {name} cannot be read: {why}"));
                    continue;
                }
            };
            let entries = rows["entries"].as_array().cloned().unwrap_or_default();
            for row in entries.iter().chain([&rows["in_force"]]) {
                configurations += 1;
                let count = |field: &str| row[field].as_array().map_or(0, Vec::len);
                let (incoming, outgoing) = (count("voters"), count("voters_outgoing"));
                if incoming.is_multiple_of(2) || (outgoing > 0 && outgoing.is_multiple_of(2)) {
                    even.push(format!("{name}: {row}"));
                }
            }
        }
        let word = |wrong: Vec<String>, right: String| wrong.first().map_or(Ok(right), |first| Err(first.clone()));
        if looked == 0 {
            wrong.push("no store of a manager was found".to_owned());
        }
        Ok(vec![
            finding(
                "stores",
                word(wrong, format!("{looked} stores decoded, {} applied indices compared", by_applied.len())),
            ),
            finding("odd configurations", word(even, format!("{configurations} configurations in {looked} stores"))),
        ])
    }

    /// Marked values are nowhere in clear; what lies in clear is found, or the search would prove nothing.
    pub(super) fn secrecy(&self) -> Done<Finding> {
        let mut found = Vec::new();
        let mut controls = 0;
        for member in &self.fleet.members {
            found.extend(scan::files(&member.directory(), CANARY)?);
            controls += scan::files(&member.directory(), CANARY_KEY)?.len();
        }
        for log in self.fleet.logs().iter().filter(|log| log.exists()) {
            if let Some(form) = scan::find(&std::fs::read(log)?, CANARY) {
                found.push(format!("{} (as {form})", log.display()));
            }
        }
        let what = format!(
            "a marked value in no file of {} nodes; its key, which lies in clear, in {controls}",
            self.fleet.members.len()
        );
        Ok(finding(
            "secrecy",
            match found.first() {
                Some(first) => Err(format!("a marked value lies in clear in {first}")),
                None if controls == 0 => {
                    Err("not even the key that lies in clear was found: the search is blind".to_owned())
                }
                None => Ok(what),
            },
        ))
    }
}

fn json(text: &str) -> Done<Value> {
    serde_json::from_str(text).map_err(|why| Trouble::Harness(format!("quorate inspect says no JSON: {why}: {text}")))
}
