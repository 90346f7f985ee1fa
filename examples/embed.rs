//! A controller that works only while it leads: the shape of an orchestrator on top of quorate.
//!
//! Run it on three machines (or in three directories of one), each with the same line:
//! `embed DIR 127.0.0.1:4701` on the first, `embed DIR 127.0.0.1:4702 TOKEN 127.0.0.1:4701` on the others, with the
//! token of `quorate token show manager --data-dir DIR`. Whichever leads counts in `controller/round`; kill it and
//! another goes on where it stopped, without a round lost or done twice.

use std::time::Duration;

use quorate::{Lead, Node, Start, StopReason};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: embed DIR LISTEN [TOKEN MANAGER]")?;
    let listen = arguments.next().ok_or("usage: embed DIR LISTEN [TOKEN MANAGER]")?;
    // The same at every boot: an empty directory founds or joins, a known one opens.
    let start = match (arguments.next(), arguments.next()) {
        (Some(token), Some(manager)) => Start::OpenOrJoin { token, managers: vec![manager] },
        _ => Start::OpenOrInit,
    };
    let node = Node::builder(directory).listen(listen).start(start).await?;

    let why = tokio::select! {
        ended = node.lead(control) => return Ok(ended??),
        why = node.stopped() => why,
        _ = tokio::signal::ctrl_c() => node.shutdown().await,
    };
    if why == StopReason::Asked { Ok(()) } else { Err(why.to_string().into()) }
}

/// Runs only while this node leads: dropped when the leadership ends, called again in the next one.
async fn control(lead: Lead) -> quorate::Result<()> {
    // Every write of this client carries the leadership's fencing token: a leader that was deposed cannot write.
    let kv = lead.client().kv();
    loop {
        let last = kv.get("controller/round").await?;
        let round = last.and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok()).unwrap_or(0u64) + 1;
        kv.put("controller/round", round.to_string()).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
