//! `kv del --in-parts`: more keys than may go at one revision.
//!
//! Owns the way from part to part, and what is said of those that are done when it is cut off. Called by `kv`.

use quorate::status::counted;
use quorate::{Error, Kv};
use serde_json::json;

use super::prefix_end;
use crate::failure::Failure;
use crate::output::{Output, Progress};

/// Keys of one part: far fewer than may go at once, for those that are written meanwhile.
const PART: u64 = 2_000;

/// What to say to who wants more removed at once than may be.
pub(super) fn instead(error: Error) -> Failure {
    let over = error.limit().is_some();
    let failure = Failure::from(error);
    if !over {
        return failure;
    }
    failure.after("Nothing was removed: with --in-parts they go a part at a time, each at a revision of its own")
}

/// Removes every key with this prefix, from the first to the last: what is written behind the part that is under way stays.
pub(super) async fn delete(kv: &Kv, prefix: &[u8], output: Output) -> Result<(), Failure> {
    let (mut from, end) = (prefix.to_vec(), prefix_end(prefix));
    let (mut deleted, mut revision, mut parts) = (0_u64, 0_u64, 0_u64);
    let mut most = PART;
    let progress = Progress::counting("keys deleted");
    let cut_off = |error: Error, deleted: u64, parts: u64| {
        let how = format!(
            "Removed until then: {}, in {}; the same command goes on with the others",
            counted(deleted, "key"),
            counted(parts, "part")
        );
        Failure::from(error).after(&how).with(json!({ "deleted": deleted, "parts": parts }))
    };
    loop {
        let page = kv.range(from.clone(), end.clone()).keys_only().limit(most).await;
        let page = page.map_err(|error| cut_off(error, deleted, parts))?;
        revision = revision.max(page.revision);
        let Some(last) = page.entries.last() else { break };
        // The successor of a key is the key with a zero byte behind it.
        let to = [&last.key[..], &[0]].concat();
        match kv.delete_range(from.clone(), to.clone()).await {
            Ok(done) => {
                (deleted, revision, parts) = (deleted + done.deleted, done.revision, parts + 1);
                progress.at(deleted);
                from = to;
                most = PART;
                if !page.more {
                    break;
                }
            }
            // Their values are large: fewer of them at once.
            Err(Error::Limit { .. }) if page.entries.len() > 1 => most = page.entries.len() as u64 / 2,
            Err(error) => return Err(cut_off(error, deleted, parts)),
        }
    }
    progress.done();
    if output.json {
        return output.document(&json!({ "deleted": deleted, "revision": revision, "parts": parts }));
    }
    output.line(&format!("{} deleted in {}, revision {revision}", counted(deleted, "key"), counted(parts, "part")))
}
