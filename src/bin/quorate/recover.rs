//! `recover` and `inspect --configurations`: what is done when managers are lost, and the proof in the log.
//!
//! Owns the words. Never judges a directory: the library does. Called by `main`.

use std::fmt::Write as _;

use quorate::recovery::{AskedManager, RecoveryReport};
use quorate::status::counted;

use crate::args::Global;
use crate::args_keys::KeyOptions;
use crate::args_node::Recover;
use crate::failure::Failure;
use crate::node::directory;
use crate::output::{Output, Tone, table};

pub(crate) async fn run(recover: Recover, global: &Global, output: Output) -> Result<(), Failure> {
    let directory = directory(global)?;
    let mut wish = quorate::Recover::from(directory).keys(recover.keys.keys()?).despite_peers(recover.despite_peers);
    if let Some(address) = recover.address {
        wish = wish.address(address);
    }
    let report = if recover.dry_run { wish.dry_run().await? } else { wish.run().await? };
    let document = serde_json::to_value(&report)
        .map_err(|error| Failure::local(format!("the report cannot be written as JSON: {error}")))?;
    if !output.json {
        output.line(&render(&report, &directory.display().to_string(), recover.dry_run, output))?;
    }
    if would_be_refused(&report, recover.dry_run) {
        // What speaks against it is the first thing on the page, and a field of the document.
        let words =
            "a recovery from this directory would be refused, for the reason that is given first. Nothing was changed";
        return Err(Failure::refused("would_be_refused", words).with(document));
    }
    if output.json { output.document(&document) } else { Ok(()) }
}

/// A dry run ends as the recovery would.
fn would_be_refused(report: &RecoveryReport, dry_run: bool) -> bool {
    dry_run && report.verdict == "recover" && report.refusal.is_some()
}

/// The whole page.
fn render(report: &RecoveryReport, directory: &str, dry_run: bool, output: Output) -> String {
    let mut page = String::new();
    let _infallible = writeln!(page, "{}", headline(report, dry_run, output));
    page.push('\n');
    let _infallible = writeln!(
        page,
        "cluster {}  generation {}  lineage {}",
        report.cluster_id,
        report.generation,
        report.lineage.join(" ")
    );
    let _infallible = writeln!(page, "survivor {}  raft id {}  {}", report.name, report.raft_id, seats(report));
    let _infallible = writeln!(
        page,
        "rank     generation {}, last term {}, last index {}   (of several survivors take the one that is highest, read left to right)",
        report.generation, report.last_term, report.last_index
    );
    let _infallible = writeln!(
        page,
        "log      commit {}, applied {}, revision {} at applied",
        report.commit, report.applied, report.revision
    );
    if !report.managers.is_empty() {
        let _infallible = writeln!(page, "\n{}", asked(&report.managers));
    }
    page.push('\n');
    page.push_str(&consequences(report));
    page.push_str(&next(report, directory, dry_run));
    page.trim_end().to_owned()
}

fn headline(report: &RecoveryReport, dry_run: bool, output: Output) -> String {
    match report.verdict.as_str() {
        "alone" => format!(
            "{}: {} is the only member already, and its log changes nothing about that. Nothing was changed.",
            output.tint(Tone::Good, "NOTHING TO RECOVER"),
            report.name
        ),
        "begun" => format!(
            "{}: generation {} was begun here and is finished by the next start. Nothing was changed.",
            output.tint(Tone::Good, "RECOVERED ALREADY"),
            report.generation
        ),
        _ if dry_run && report.refusal.is_some() => {
            format!("{}: {}", output.tint(Tone::Bad, "WOULD BE REFUSED"), report.refusal.as_deref().unwrap_or_default())
        }
        _ if dry_run => format!(
            "{}: nothing speaks against it. Nothing was changed.",
            output.tint(Tone::Warning, "COULD BE RECOVERED")
        ),
        _ => format!(
            "{}: generation {} is ended, generation {} begins with {} alone.",
            output.tint(Tone::Good, "RECOVERED"),
            report.generation,
            report.new_generation,
            report.name
        ),
    }
}

fn list(ids: &[u64]) -> String {
    if ids.is_empty() { "none".to_owned() } else { ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ") }
}

fn seats(report: &RecoveryReport) -> String {
    let mut seats = format!("voters {}", list(&report.voters));
    if !report.voters_outgoing.is_empty() {
        let _infallible = write!(seats, " (joint, coming from {})", list(&report.voters_outgoing));
    }
    if !report.learners.is_empty() {
        let _infallible = write!(seats, ", standbys {}", list(&report.learners));
    }
    seats
}

fn asked(managers: &[AskedManager]) -> String {
    let rows = managers
        .iter()
        .map(|manager| {
            vec![
                manager.name.clone(),
                manager.address.clone(),
                manager.raft_id.to_string(),
                manager.seat.clone(),
                if manager.answers { "YES" } else { "no" }.to_owned(),
                manager.answer.clone(),
            ]
        })
        .collect();
    table(&["OTHER MANAGER", "ADDRESS", "RAFT ID", "SEAT", "ANSWERS", "WHAT IT SAYS"], &[2], rows)
}

fn consequences(report: &RecoveryReport) -> String {
    let (Some(kept), Some(first)) = (report.kept_revision, report.first_revision) else { return String::new() };
    let tail = match (report.unapplied, report.uncommitted) {
        (0, _) => String::new(),
        (unapplied, 0) => format!(", {} of it not applied yet", counted(unapplied, "entry")),
        (unapplied, above) => {
            format!(", {} of it not applied yet, {above} of them above the commit index", counted(unapplied, "entry"))
        }
    };
    let verb = if report.written { "kept" } else { "keeps" };
    let mut text = format!(
        "{verb:<8} everything in the log up to entry {}{tail}: all revisions up to {kept}\n",
        report.last_index
    );
    let _infallible = writeln!(
        text,
        "unknown  writes after that which only the other managers had acknowledged: they are gone, and nobody can count them"
    );
    if let Some(last) = report.rolled_back {
        let _infallible = writeln!(
            text,
            "missing  this directory was put back to an older state, and once held the log up to entry {last}: another manager may have that"
        );
    }
    if let Some(what) = &report.damaged {
        let _infallible =
            writeln!(text, "suspect  the manager stopped for damage that every check finds mended now: {what}");
    }
    if !report.void_configurations.is_empty() {
        let _infallible = writeln!(
            text,
            "void     changes of the managers in the log that do not take effect: entries {}",
            list(&report.void_configurations)
        );
    }
    let _infallible = writeln!(
        text,
        "then     generation {}, revisions go on at {first}, this manager at {}; every other manager is lost and fenced",
        report.new_generation, report.address
    );
    text
}

fn next(report: &RecoveryReport, directory: &str, dry_run: bool) -> String {
    let run = format!("next     quorate run --data-dir {directory}");
    match report.verdict.as_str() {
        "recover" if report.written => format!(
            "{run}\n         quorate token show manager --data-dir {directory}     # then join two managers again"
        ),
        "recover" if dry_run && report.refusal.is_none() => {
            let rank = "compare the rank on every machine that is left";
            format!("next     {rank}; on the best one  quorate recover --data-dir {directory}")
        }
        "recover" => String::new(),
        _ => run,
    }
}

/// `inspect --configurations`.
pub(crate) fn configurations(keys: &KeyOptions, global: &Global, output: Output) -> Result<(), Failure> {
    let found = quorate::inspect_configurations_with(directory(global)?, &keys.keys()?)?;
    if output.json {
        let document = serde_json::to_value(&found)
            .map_err(|error| Failure::local(format!("the configurations cannot be written as JSON: {error}")))?;
        return output.document(&document);
    }
    output.line(&format!(
        "{}  raft id {}  generation {}  log from entry {}",
        found.name, found.raft_id, found.generation, found.first_index
    ))?;
    output.line("")?;
    let rows = found
        .entries
        .iter()
        .chain([&found.in_force])
        .map(|row| {
            vec![
                row.index.to_string(),
                row.term.to_string(),
                if row.generation == 0 { "-".into() } else { row.generation.to_string() },
                row.number.to_string(),
                list(&row.voters),
                if row.voters_outgoing.is_empty() { "-".into() } else { list(&row.voters_outgoing) },
                row.learners.as_ref().map_or_else(|| "-".into(), |learners| list(learners)),
                if row.change.is_empty() { "-".into() } else { row.change.clone() },
                row.standing.clone(),
            ]
        })
        .collect();
    let header = ["INDEX", "TERM", "GENERATION", "NUMBER", "VOTERS", "OUTGOING", "STANDBYS", "CHANGE", "STANDING"];
    output.line(&table(&header, &[0, 1, 2, 3], rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Loss;
    use crate::args::When;

    fn report() -> RecoveryReport {
        let mut report = RecoveryReport::default();
        report.name = "n3".into();
        report.verdict = "recover".into();
        (report.generation, report.new_generation) = (1, 2);
        (report.last_term, report.last_index, report.commit, report.applied) = (4, 812, 810, 809);
        (report.unapplied, report.uncommitted) = (3, 2);
        (report.kept_revision, report.first_revision) = (Some(790), Some(1_000_000_000_790));
        report
    }

    #[test]
    fn a_dry_run_says_what_is_kept_what_nobody_knows_and_what_to_do() {
        let page = render(&report(), "/d", true, Output::new(false, When::Never, Loss::Nothing));
        assert!(page.starts_with("COULD BE RECOVERED: nothing speaks against it. Nothing was changed."), "{page}");
        for words in [
            "generation 1, last term 4, last index 812",
            "3 entries of it not applied yet, 2 of them above the commit index: all revisions up to 790",
            "nobody can count them",
            "on the best one  quorate recover --data-dir /d",
        ] {
            assert!(page.contains(words), "`{words}` is not in {page}");
        }
    }

    #[test]
    fn a_survivor_that_was_put_back_is_told_to_lack_what_it_once_held() {
        let page = |report: &RecoveryReport| render(report, "/d", true, Output::new(false, When::Never, Loss::Nothing));
        assert!(!page(&report()).contains("put back"));
        let mut old = report();
        old.rolled_back = Some(900);
        assert!(
            page(&old).contains("once held the log up to entry 900: another manager may have that"),
            "{}",
            page(&old)
        );
    }

    #[test]
    fn a_survivor_that_was_found_damaged_is_told_to_have_been() {
        let mut found = report();
        found.damaged = Some("its records are not those".to_owned());
        let page = render(&found, "/d", true, Output::new(false, When::Never, Loss::Nothing));
        assert!(page.contains("suspect  ") && page.contains("mended now: its records are not those\n"), "{page}");
    }

    #[test]
    fn a_refusal_comes_first() {
        let mut report = report();
        report.refusal = Some("manager n1 leads".into());
        let page = render(&report, "/d", true, Output::new(false, When::Never, Loss::Nothing));
        assert!(page.starts_with("WOULD BE REFUSED: manager n1 leads"), "{page}");
        assert!(!page.contains("on the best one"), "{page}");
    }

    #[test]
    fn afterwards_it_says_how_to_go_on() {
        let mut report = report();
        report.written = true;
        let page = render(&report, "/d", false, Output::new(false, When::Never, Loss::Nothing));
        assert!(page.starts_with("RECOVERED: generation 1 is ended, generation 2 begins with n3 alone."), "{page}");
        assert!(page.contains("next     quorate run --data-dir /d"), "{page}");
    }
}
