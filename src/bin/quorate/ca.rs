//! `ca rotate | status`.
//!
//! Owns their words. Called by `main`, and by the removal of a compromised node.

use std::time::{Duration, Instant};

use quorate::Client;
use quorate::membership::CaInfo;
use quorate::status::span;

use crate::args::Global;
use crate::args_ca::{CaVerb, Rotate};
use crate::failure::Failure;
use crate::output::{Output, Progress, table};
use crate::target;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);
/// Why nothing was begun.
const UNDER_WAY: &str = "a rotation is under way already: no other one was begun, and its deadline stays as it is. `quorate ca status` shows how far it is; if the root that signs now has to go, too: quorate ca rotate --another";

pub(crate) async fn run(verb: CaVerb, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    match verb {
        CaVerb::Rotate(Rotate { deadline, another, wait }) => {
            let ca = client.ca();
            let begun = if another { ca.rotate_anew(deadline).await? } else { ca.rotate(deadline).await? };
            if !begun.begun && !output.json {
                output.note(UNDER_WAY);
            }
            let info = match wait {
                Some(wait) => followed(&client, begun, wait).await?,
                None => begun,
            };
            show(&info, output)
        }
        CaVerb::Status => show(&client.ca().status().await?, output),
    }
}

/// Shows how far it is until it is over, or for so long.
pub(crate) async fn followed(client: &Client, mut info: CaInfo, wait: Duration) -> Result<CaInfo, Failure> {
    let until = Instant::now() + wait;
    let progress = Progress::of(info.all as u64, "certificates renewed");
    while (info.rotating || info.another_follows) && Instant::now() < until {
        progress.at(info.renewed as u64);
        tokio::time::sleep(EVERY).await;
        info = CaInfo { begun: info.begun, ..client.ca().status().await? };
    }
    progress.done();
    Ok(info)
}

pub(crate) fn show(info: &CaInfo, output: Output) -> Result<(), Failure> {
    if output.json {
        let document = serde_json::to_value(info)
            .map_err(|error| Failure::local(format!("the answer cannot be written as JSON: {error}")))?;
        return output.document(&document);
    }
    output.line(&render(info))
}

fn render(info: &CaInfo) -> String {
    let replaced = match info.serial {
        0 => "never replaced".to_owned(),
        1 => "replaced once".to_owned(),
        times => format!("replaced {times} times"),
    };
    let mut lines = vec![format!("root {} signs; {replaced}", info.root)];
    if !info.rotating {
        let follows = if info.another_follows { "; another one, which stood in line, begins in a moment" } else { "" };
        lines.push(format!("no rotation is under way: nothing else is trusted{follows}"));
        return lines.join("\n");
    }
    let left = span(Duration::from_secs(info.deadline_in_s.unwrap_or_default()));
    lines.push(format!(
        "rotating: {} of {} have renewed; at the latest in {left} the older root is trusted no more",
        info.renewed, info.all
    ));
    if info.another_follows {
        lines.push(
            "another rotation stands in line, for a node that was thrown out: it begins when these are over, and until then who has that node's disk may have the key of the root that signs".into(),
        );
    }
    let rows = info.waits_for.iter().map(|waits| vec![waits.name.clone(), waits.kind.clone()]).collect();
    if !info.waits_for.is_empty() {
        lines.push(table(&["NOT RENEWED YET", "KIND"], &[], rows));
        let more = (info.all - info.renewed).saturating_sub(info.waits_for.len());
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines.push("nodes renew by themselves while they run, an operator's identity when it is used".into());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use quorate::membership::CaWaits;

    use super::*;

    #[test]
    fn the_status_says_who_is_waited_for_and_until_when() {
        let info = CaInfo { root: "abc".into(), serial: 1, all: 5, renewed: 5, ..CaInfo::default() };
        assert!(render(&info).contains("replaced once\nno rotation is under way"));
        let waits = |name: &str, kind: &str| CaWaits { name: name.into(), kind: kind.into() };
        let waits_for = vec![waits("w7", "worker"), waits("ann", "operator")];
        let rotating = CaInfo { rotating: true, deadline_in_s: Some(7_200), renewed: 2, waits_for, ..info };
        let text = render(&rotating);
        assert!(text.contains("2 of 5 have renewed; at the latest in 2h"), "{text}");
        assert!(!text.contains("in line"), "{text}");
        let full = CaInfo { another_follows: true, ..rotating };
        assert!(render(&full).contains("another rotation stands in line"), "{}", render(&full));
        let between = CaInfo { rotating: false, ..full };
        assert!(render(&between).contains("begins in a moment"), "{}", render(&between));
        assert!(text.contains("w7") && text.contains("operator") && text.contains("and 1 more"), "{text}");
    }
}
