//! `operator issue | revoke | ls`.
//!
//! Owns their words, and that a new identity is written where nothing was. Never prints a key. Called by `main`.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate::Client;
use quorate::membership::{OperatorInfo, RevokedOperator};
use quorate::status::{date, span};
use serde_json::{Value, json};

use crate::args::Global;
use crate::args_operator::{Issue, OperatorVerb};
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::target;

pub(crate) async fn run(verb: OperatorVerb, global: &Global, output: Output) -> Result<(), Failure> {
    let client = target::client(global).await?;
    match verb {
        OperatorVerb::Issue(issue) => self::issue(issue, &client, output).await,
        OperatorVerb::Revoke { name } => {
            let revoked = client.operators().revoke(&name).await?;
            if output.json {
                return output.document(&document(&revoked)?);
            }
            output.line(&revoked_words(&revoked))
        }
        OperatorVerb::Ls => list(&client, output).await,
    }
}

fn revoked_words(revoked: &RevokedOperator) -> String {
    let issue = "quorate operator issue --name NAME --out FILE --data-dir DIR";
    let mut words =
        format!("the operator `{}` counts nowhere any more; its connections are closed", revoked.operator.name);
    if revoked.own {
        words += "\nthat was the identity of this command: with it nothing is answered from now on";
    }
    if revoked.left == 0 {
        words += "\nno identity is left that may change anything from elsewhere; on a manager's own machine --data-dir needs none";
    }
    if revoked.own || revoked.left == 0 {
        words += &format!("\nnext: on a manager's own machine, for another one: {issue}");
    }
    words
}

fn document(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| Failure::local(format!("the answer cannot be written as JSON: {error}")))
}

/// Before anything is asked: an identity that cannot be kept is of no use, and one that is there is not overwritten.
fn check_free(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        let path = path.display();
        return Err(Failure::usage(format!("{path} is there already, and is not overwritten. Nothing was asked")));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        let directory = directory.display();
        return Err(Failure::usage(format!("there is no directory {directory} to write it into. Nothing was asked")));
    }
    Ok(())
}

async fn issue(issue: Issue, client: &Client, output: Output) -> Result<(), Failure> {
    let Issue { name, read_only, ttl, out } = issue;
    check_free(&out)?;
    let builder = client.operators().issue(&name);
    let builder = if read_only { builder.read_only() } else { builder };
    let builder = match ttl {
        Some(ttl) => builder.ttl(ttl),
        None => builder,
    };
    let made = builder.await?;
    made.identity.write(&out).map_err(|error| {
        Failure::local(format!(
            "the identity was made and could not be written: {error}. Take it back: quorate operator revoke {name}"
        ))
        .all_the_same()
    })?;
    if output.json {
        let mut document = document(&made.info)?;
        if let Value::Object(fields) = &mut document {
            fields.insert("file".into(), out.display().to_string().into());
        }
        return output.document(&document);
    }
    let what = if read_only { "may look and change nothing" } else { "may do everything" };
    let ends = ttl.map_or_else(|| "until it is revoked".to_owned(), |ttl| format!("for {}", span(ttl)));
    output.line(&format!(
        "{} has the identity of `{name}`, which {what}, {ends}. Use it with --identity; whoever has the file is `{name}`",
        out.display()
    ))?;
    let certificate = date(made.info.certificate_ends_unix);
    if ttl.is_none() {
        output.line(&format!(
            "its certificate ends on {certificate}; commands that use the file renew it there, also after that, for as long as the CA is not replaced meanwhile"
        ))?;
    }
    Ok(())
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let operators = client.operators().list().await?;
    if output.json {
        return output.document(&json!({ "operators": document(&operators)? }));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    output.line(&render(&operators, now))
}

fn render(operators: &[OperatorInfo], now: u64) -> String {
    let until = |moment: u64| match moment.checked_sub(now) {
        None | Some(0) => "is over".to_owned(),
        Some(seconds) => format!("in {}", span(Duration::from_secs(seconds))),
    };
    let rows = operators
        .iter()
        .map(|operator| {
            let state = match (operator.stands, operator.revoked_unix) {
                (true, _) => "stands",
                (false, 0) => "ended",
                (false, _) => "revoked",
            };
            vec![
                operator.name.clone(),
                if operator.read_only { "read-only" } else { "operator" }.to_owned(),
                state.to_owned(),
                if operator.ends_unix == 0 { "when revoked".to_owned() } else { until(operator.ends_unix) },
                until(operator.certificate_ends_unix),
                operator.fingerprint.clone(),
            ]
        })
        .collect();
    table(&["NAME", "ROLE", "STATE", "ENDS", "CERTIFICATE ENDS", "KEY"], &[], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_back_the_last_identity_or_its_own_is_told_how_to_get_in_again() {
        let ann = OperatorInfo { name: "ann".into(), ..OperatorInfo::default() };
        let said = |own, left| revoked_words(&RevokedOperator { operator: ann.clone(), own, left });
        assert_eq!(said(false, 1), "the operator `ann` counts nowhere any more; its connections are closed");
        assert!(said(true, 1).contains("of this command") && said(true, 1).contains("operator issue"));
        assert!(!said(true, 1).contains("no identity is left"));
        assert!(said(false, 0).contains("no identity is left") && said(false, 0).contains("operator issue"));
    }

    #[test]
    fn a_list_says_who_counts_and_until_when() {
        let ann = OperatorInfo {
            name: "ann".into(),
            fingerprint: "00ff".into(),
            certificate_ends_unix: 3_700,
            stands: true,
            ..OperatorInfo::default()
        };
        let visitor =
            OperatorInfo { name: "visitor".into(), read_only: true, ends_unix: 50, stands: false, ..ann.clone() };
        let gone = OperatorInfo { name: "bob".into(), revoked_unix: 60, stands: false, ..ann.clone() };
        let text = render(&[ann, visitor, gone], 100);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["ann", "operator", "stands", "when", "revoked", "in", "1h", "00ff"]);
        assert_eq!(lines[2], ["visitor", "read-only", "ended", "is", "over", "in", "1h", "00ff"]);
        assert_eq!(lines[3][..3], ["bob", "operator", "revoked"]);
    }
}
