//! `assign`: items of work by hand, to try out what an orchestrator does through the library.
//!
//! Owns their words. Called by `main`.

use serde_json::{Map, Value, json};

use crate::args::{Assign, Global};
use crate::failure::Failure;
use crate::kv;
use crate::output::{Output, preview, table};
use crate::target;

pub(crate) async fn run(verb: Assign, global: &Global, output: Output) -> Result<(), Failure> {
    match verb {
        Assign::Set { node, item, value, secret, config } => {
            let payload = kv::value(value, false)?;
            let mut set = target::client(global).await?.assignments().set(&node, &item, payload);
            set = secret.into_iter().fold(set, quorate::AssignmentTxn::secret);
            set = config.into_iter().fold(set, quorate::AssignmentTxn::config);
            let done = set.await?;
            if !done.succeeded {
                return Err(Failure::not_found(format!("{node} was removed meanwhile. Nothing was changed")));
            }
            written(output, &node, &item, "given to", done.revision)
        }
        Assign::Rm { node, item } => {
            let done = target::client(global).await?.assignments().remove(&node, &item).await?;
            if output.json {
                let (revision, removed) = (done.revision, done.removed);
                return output
                    .document(&json!({ "node": node, "item": item, "revision": revision, "removed": removed }));
            }
            if done.removed == 0 {
                return output.line(&format!("{node} has no item {item}: nothing to take from it"));
            }
            written(output, &node, &item, "taken from", done.revision)
        }
        Assign::Ls { node } => list(&node, global, output).await,
    }
}

fn written(output: Output, node: &str, item: &str, what: &str, revision: u64) -> Result<(), Failure> {
    if output.json {
        return output.document(&json!({ "node": node, "item": item, "revision": revision }));
    }
    output.line(&format!("{item} {what} {node} at revision {revision}"))
}

async fn list(node: &str, global: &Global, output: Output) -> Result<(), Failure> {
    let work = target::client(global).await?.assignments();
    let (items, report) = (work.get(node).await?, work.reports(node).await?);
    if output.json {
        let items: Vec<_> = items
            .iter()
            .map(|item| {
                let mut document = Map::new();
                document.insert("id".into(), item.id.clone().into());
                document.insert("revision".into(), item.revision.into());
                kv::text_or_base64(&mut document, "payload", &item.payload);
                document.insert("secrets".into(), json!(item.secrets));
                document.insert("configs".into(), json!(item.configs));
                match report.statuses.get(&item.id) {
                    Some(status) => kv::text_or_base64(&mut document, "status", status),
                    None => drop(document.insert("status".into(), Value::Null)),
                }
                Value::Object(document)
            })
            .collect();
        return output.document(&json!({ "node": node, "items": items, "report_revision": report.revision }));
    }
    let rows = items
        .iter()
        .map(|item| {
            let said = report.statuses.get(&item.id).map_or_else(|| "-".into(), |status| preview(status, 60));
            vec![item.id.clone(), item.revision.to_string(), item.payload.len().to_string(), said]
        })
        .collect();
    output.line(&table(&["ITEM", "REVISION", "BYTES", "STATUS"], &[1, 2], rows))
}
