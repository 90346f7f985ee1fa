//! What tikv raft logs, one step quieter.
//!
//! Owns the translation. Raft tells of every vote and every step as information, and of what happens in every election as
//! a warning; what an operator must know of them the node says in its own words. Only what raft calls an error is one here:
//! everything else is for who debugs it, under the target `raft`.

use std::fmt::Write as _;

use slog::{Drain, KV, Key, Level, Never, OwnedKVList, Record, Serializer};

use crate::id::RaftId;

/// The logger of one member.
pub(super) fn logger(id: RaftId) -> slog::Logger {
    slog::Logger::root(Quieter(id), slog::o!())
}

struct Quieter(RaftId);

impl Drain for Quieter {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let raft_id = self.0;
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", %raft_id, "{}", Words(record, values)),
            Level::Warning | Level::Info => tracing::debug!(target: "raft", %raft_id, "{}", Words(record, values)),
            Level::Debug | Level::Trace => tracing::trace!(target: "raft", %raft_id, "{}", Words(record, values)),
        }
        Ok(())
    }
}

/// The message and what goes with it; put together only for who listens.
struct Words<'a>(&'a Record<'a>, &'a OwnedKVList);

impl std::fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(record, values) = self;
        let mut pairs = Pairs(String::new());
        // A value that cannot be shown is left out.
        let _shown = record.kv().serialize(record, &mut pairs).and_then(|()| values.serialize(record, &mut pairs));
        write!(f, "{}{}", record.msg(), pairs.0)
    }
}

struct Pairs(String);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record as SpanRecord};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Keeps the level, the target and the message of every event.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<(tracing::Level, String, String)>>>);

    struct Message(String);

    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }

    impl Subscriber for Kept {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &SpanRecord<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut message = Message(String::new());
            event.record(&mut message);
            let (level, target) = (*event.metadata().level(), event.metadata().target().to_owned());
            self.0.lock().unwrap().push((level, target, message.0));
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn only_what_raft_calls_an_error_is_heard_without_asking() {
        let kept = Kept::default();
        tracing::subscriber::with_default(kept.clone(), || {
            let log = logger(RaftId(7));
            slog::error!(log, "invalid"; "error" => "why");
            slog::warn!(log, "stepped down to follower since quorum is not active");
            slog::info!(log, "became follower at term {}", 3; "term" => 3);
        });
        let said = kept.0.lock().unwrap().clone();
        let levels: Vec<tracing::Level> = said.iter().map(|(level, ..)| *level).collect();
        assert_eq!(levels, [tracing::Level::ERROR, tracing::Level::DEBUG, tracing::Level::DEBUG]);
        assert!(said.iter().all(|(_, target, _)| target == "raft"), "{said:?}");
        assert_eq!((said[0].2.as_str(), said[2].2.as_str()), ("invalid error=why", "became follower at term 3 term=3"));
    }
}
