//! `mutants`.
//!
//! Owns how the hunt is told. Called by `main`.

use quorate_chaos::hunt::{CAN_PLANT, CATALOGUE, Entry, Hunted};
use serde_json::json;

use crate::args::Mutants;
use crate::output::{Exit, Output};

pub(crate) fn mutants(output: Output, asked: &Mutants) -> Result<Exit, String> {
    if !CAN_PLANT {
        return Err("this build has no deliberate bugs to plant; `make mutants` builds one that has (feature `chaos-mutants`), \
                    and nothing was hunted"
            .to_owned());
    }
    let entries: Vec<Entry> = match &asked.only {
        None => CATALOGUE.to_vec(),
        Some(name) => {
            vec![Entry::named(name).ok_or_else(|| format!("there is no {name}; `chaos list` says which there are"))?]
        }
    };
    // A bug may well panic, thousands of times: that it did is told, how is not.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut missed, mut rows) = (0, Vec::new());
    for entry in entries {
        let hunted = entry.hunt(asked.first_seed, asked.max_seeds.unwrap_or(entry.budget));
        let mut told = "";
        let (word, seeds, by) = match &hunted {
            Hunted::Caught { seeds, by, detail } => {
                told = detail;
                ("caught", seeds.to_string(), by.clone())
            }
            Hunted::Missed(seeds) => {
                missed += 1;
                ("MISSED", seeds.to_string(), "a hole in the harness".to_owned())
            }
            Hunted::Skipped(why) => ("not applicable", "-".to_owned(), (*why).to_owned()),
            Hunted::Elsewhere(place) => ("elsewhere", "-".to_owned(), (*place).to_owned()),
        };
        if output.json {
            rows.push(json!({"id": format!("M{:02}", entry.number), "about": entry.about, "verdict": word, "seeds": seeds, "by": by, "detail": told}));
        } else {
            output.line(&format!("M{:02} {word:<15} {seeds:>5} seeds  {by:<34} {}", entry.number, entry.about))?;
            if asked.only.is_some() && !told.is_empty() {
                output.line(&format!("    {told}"))?;
            }
        }
    }
    if output.json {
        output.json(&json!({"mutants": rows, "missed": missed}))?;
    } else {
        output.line(&if missed == 0 { "PASS".to_owned() } else { format!("FAIL: {missed} were not caught") })?;
    }
    Ok(if missed == 0 { Exit::Pass } else { Exit::Violation })
}
