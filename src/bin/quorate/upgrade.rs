//! `upgrade status | finish`.
//!
//! Owns their words. Never decides whether an upgrade can be finished: the managers do. Called by `main`.

use std::fmt::Write as _;

use quorate::upgrade::{ManagerVersion, UpgradeState, UpgradeStatus};

use crate::args::Global;
use crate::args_upgrade::UpgradeVerb;
use crate::failure::Failure;
use crate::output::{Output, Tone, table};
use crate::target;

pub(crate) async fn run(verb: UpgradeVerb, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    let (mut status, done) = match verb {
        UpgradeVerb::Status => (client.upgrade().status().await?, Done::Asked),
        UpgradeVerb::Finish => {
            let before = client.upgrade().status().await?.cluster_version;
            let after = client.upgrade().finish().await?;
            let done = if after.cluster_version == before { Done::Nothing } else { Done::Finished };
            (after, done)
        }
        #[cfg(feature = "next-version")]
        UpgradeVerb::Note { text } => {
            client.upgrade().note(&text).await?;
            (client.upgrade().status().await?, Done::Asked)
        }
    };
    status.managers.sort_by_key(|manager| manager.raft_id);
    if output.json {
        let document = serde_json::to_value(&status)
            .map_err(|error| Failure::local(format!("the upgrade's status cannot be written as JSON: {error}")))?;
        return output.document(&document);
    }
    output.line(&render(&status, done, output))
}

/// What the command has done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    /// It was only asked.
    Asked,
    /// The upgrade is finished.
    Finished,
    /// There was none to finish.
    Nothing,
}

/// Which versions a program supports, as people read them.
pub(crate) fn range(oldest: u32, newest: u32) -> String {
    match (oldest, newest) {
        (_, 0) => "-".to_owned(),
        (oldest, newest) if oldest < newest && oldest > 0 => format!("{oldest}-{newest}"),
        (_, newest) => newest.to_string(),
    }
}

fn render(status: &UpgradeStatus, done: Done, output: Output) -> String {
    let (at, target) = (status.cluster_version, status.target_version);
    let mut page = match status.state {
        UpgradeState::UpToDate if done == Done::Finished => {
            format!("{}: the cluster is at version {at}.", output.tint(Tone::Good, "FINISHED"))
        }
        UpgradeState::UpToDate => format!(
            "{}: the cluster is at version {at}, and no manager supports a newer one.{}",
            output.tint(Tone::Good, "UP TO DATE"),
            if done == Done::Nothing { " Nothing was changed." } else { "" }
        ),
        UpgradeState::Rolling => format!(
            "{}: the cluster is at version {at}; version {target} is held back by {}.",
            output.tint(Tone::Warning, "ROLLING"),
            status.held_back_by.join(", ")
        ),
        UpgradeState::Ready => {
            format!("{}: the cluster is at version {at} and may go on to {target}.", output.tint(Tone::Good, "READY"))
        }
    };
    page.push('\n');
    for line in &status.next {
        let _infallible = writeln!(page, "  {line}");
    }
    #[cfg(feature = "next-version")]
    if let Some(note) = &status.note {
        let _infallible = writeln!(page, "  note: {note}");
    }
    page.push('\n');
    let row = |manager: &ManagerVersion| {
        vec![
            manager.name.clone(),
            manager.address.clone(),
            manager.software.clone(),
            range(manager.oldest, manager.newest),
            if manager.reachable { "yes" } else { "NO" }.to_owned(),
            if manager.holds_back { "holds it back" } else { "" }.to_owned(),
        ]
    };
    let rows = status.managers.iter().map(row).collect();
    page.push_str(&table(&["MANAGER", "ADDRESS", "SOFTWARE", "SUPPORTS", "REACHABLE", "UPGRADE"], &[], rows));
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Loss;
    use crate::args::When;

    #[test]
    fn the_first_word_says_how_far_it_is_and_the_table_who_is_behind() {
        let output = Output::new(false, When::Never, Loss::Nothing);
        let manager = |name: &str, newest, holds_back| ManagerVersion {
            name: name.into(),
            software: format!("quorate 0.{newest}.0"),
            oldest: 1,
            newest,
            reachable: true,
            holds_back,
            ..ManagerVersion::default()
        };
        let mut status = UpgradeStatus {
            state: UpgradeState::Rolling,
            cluster_version: 1,
            target_version: 2,
            held_back_by: vec!["n2".into()],
            next: vec!["n2: install the newer quorate".into()],
            managers: vec![manager("n1", 2, false), manager("n2", 1, true)],
            #[cfg(feature = "next-version")]
            note: None,
        };
        let page = render(&status, Done::Asked, output);
        let begins =
            "ROLLING: the cluster is at version 1; version 2 is held back by n2.\n  n2: install the newer quorate\n";
        assert!(page.starts_with(begins), "{page}");
        let line = |name: &str| page.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        assert!(line("n1").contains(" 1-2 ") && !line("n1").contains("holds"), "{page}");
        assert!(line("n2").ends_with("holds it back") && line("n2").contains(" 1 "), "{page}");
        (status.state, status.cluster_version) = (UpgradeState::UpToDate, 2);
        status.next.clear();
        assert!(render(&status, Done::Finished, output).starts_with("FINISHED: the cluster is at version 2.\n"));
        let (asked, nothing) = (render(&status, Done::Asked, output), render(&status, Done::Nothing, output));
        assert!(asked.starts_with("UP TO DATE: the cluster is at version 2") && !asked.contains("changed"), "{asked}");
        assert!(nothing.starts_with("UP TO DATE: ") && nothing.contains("Nothing was changed"), "{nothing}");
        assert_eq!((range(0, 0).as_str(), range(0, 3).as_str(), range(2, 2).as_str()), ("-", "3", "2"));
    }
}
