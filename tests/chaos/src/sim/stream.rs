//! Snapshots on their way from one member to another.
//!
//! Owns the stream: it takes time, breaks midway, is verified and synced aside, and is always reported to its sender.
//! Called by the world.

use bytes::Bytes;

use super::check::broken;
use super::event::Event;
use super::world::{Step, World};
use quorate_core::consensus::io::Input;
use quorate_core::id::RaftId;
use quorate_core::ports::{StagedId, StoreError};
use quorate_core::state::{SnapshotError, SnapshotReader, SnapshotWriter};

impl World {
    /// Streams a view; it may break on the way.
    pub(super) fn stream(&mut self, from: RaftId, boot: u64, to: RaftId, message: Bytes, view: u64) -> Step {
        let Some(view) = self.process(from).and_then(|process| process.views.get(&view).cloned()) else {
            return broken("a_view_is_sent_before_it_is_dropped", format!("{from} to {to}"));
        };
        let mut chunks = Vec::new();
        let mut bytes = 0;
        let made = SnapshotWriter::new(view).and_then(|mut writer| {
            while let Some(chunk) = writer.next_chunk()? {
                bytes += chunk.len() as u64;
                chunks.push(chunk);
            }
            Ok(())
        });
        if let Err(error) = made {
            return self.unreadable(from, "a_view_can_be_read", error);
        }
        let failures = self.config.snapshot_failures;
        let breaks = self.link(from, to).chance(failures);
        self.trace.line(self.now, || format!("{from} streams {bytes} bytes to {to}, breaks: {breaks}"));
        let at = self.now + self.link_takes(from, to) + bytes.saturating_mul(20);
        self.schedule(at, Event::Snapshot { from, to, boot, message, chunks, breaks });
        Ok(())
    }

    pub(super) fn receive(
        &mut self,
        from: RaftId,
        to: RaftId,
        sender: u64,
        message: Bytes,
        chunks: &[Bytes],
        breaks: bool,
    ) -> Step {
        let strangers = !self.may_talk(self.incarnation(from), self.incarnation(to)) || !self.talk(from, to);
        let lost = breaks || strangers || !self.link_is_up(from, to) || !self.is_current(from, sender);
        let staged = if lost { Ok(None) } else { self.stage(to, chunks) };
        let staged = match staged {
            Ok(staged) => staged,
            Err(error) => {
                self.input(to, [Input::StoreFailed(error)])?;
                None
            }
        };
        let back = self.now + self.link_takes(to, from);
        let delivered = staged.is_some();
        if let Some(staged) = staged {
            let boot = self.members.get(&to).map_or(0, |member| member.boot);
            let at = self.now + self.disk_takes(to, self.config.sync_min, self.config.sync_max);
            self.schedule(at, Event::Staged { from, to, boot, message, staged });
            self.report.snapshots_sent += 1;
        } else {
            self.report.snapshots_failed += 1;
        }
        self.schedule(back + self.report_delay, Event::SnapshotReport { at: from, boot: sender, to, delivered });
        Ok(())
    }

    /// Verifies and syncs a stream aside; `None` when it is damaged or nobody is there.
    pub(super) fn stage(&mut self, to: RaftId, chunks: &[Bytes]) -> Result<Option<StagedId>, StoreError> {
        let knows = self.members.get(&to).map_or(0, |member| member.knows);
        let Some(process) = self.process(to) else { return Ok(None) };
        if process.staged {
            // One at a time: a second one would forget the first, which may be on its way into the state.
            return Ok(None);
        }
        let mut reader = SnapshotReader::new(process.staging.begin()?).knowing(knows);
        let read = chunks.iter().try_for_each(|chunk| reader.chunk(chunk)).and_then(|()| reader.finish());
        match read {
            Ok((_, staged)) => {
                process.staged = true;
                Ok(Some(staged))
            }
            Err(SnapshotError::Store(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}
