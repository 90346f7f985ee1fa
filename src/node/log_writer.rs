//! The log writer: one thread, one inbox, synced writes.
//!
//! Owns the log half of the journal. Takes everything that waits as ONE group, writes it as one batch with one sync, and
//! only then reports. After a failure it never writes again. Called by the consensus task.

use std::sync::Arc;
use std::time::Instant;

use quorate_core::consensus::io::Input;
use quorate_core::ports::{LogBatch, LogWriter};
use tokio::sync::mpsc;

use super::syncs::Syncs;
use crate::metrics::Meters;

/// Groups above this many bytes are written in parts, so that one sync never waits for a whole backlog.
const GROUP_BYTES_MAX: usize = 8 << 20;

pub(super) struct Job {
    pub(super) number: u64,
    pub(super) batch: LogBatch,
}

/// Runs until the inbox closes or the store fails.
pub(super) async fn run(
    mut log: Box<dyn LogWriter>,
    mut inbox: mpsc::Receiver<Job>,
    reports: mpsc::Sender<Input>,
    (meters, syncs): (Arc<Meters>, Arc<Syncs>),
) {
    while let Some(first) = inbox.recv().await {
        let mut number = first.number;
        let mut bytes = size(&first.batch);
        let mut group = vec![first.batch];
        while bytes < GROUP_BYTES_MAX
            && let Ok(next) = inbox.try_recv()
        {
            number = next.number;
            bytes += size(&next.batch);
            group.push(next.batch);
        }
        let began = Instant::now();
        let written = log.write(&group, true);
        let took = began.elapsed();
        meters.log_fsync.record(took);
        syncs.note(took);
        meters.log_bytes.increment(bytes as u64);
        meters.log_entries.increment(group.iter().map(|batch| batch.entries.len() as u64).sum());
        let failed = written.is_err();
        let report = match written {
            Ok(()) => Input::Persisted { number },
            Err(error) => Input::StoreFailed(error),
        };
        if reports.send(report).await.is_err() || failed {
            return;
        }
    }
}

fn size(batch: &LogBatch) -> usize {
    batch.entries.iter().map(|entry| entry.data.len() + entry.context.len()).sum()
}
