//! What the receiving end makes of what it is told.
//!
//! Owns the revision to go on from, and the pieces of a revision that is not whole yet: of a stream that ends in the middle of
//! one nothing counts. A manager that tells what was told before, or goes back, is not believed. Never sends. Called by
//! clients, and by the simulator's.

use crate::mutants::{Mutant, on};
use crate::watch::message::{PartKind, WatchChange, WatchPart};

/// Where a receiver stands, over all streams that it has had.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Follower {
    /// The first revision not told yet; 0: not known, the watch has no start of its own and was never opened.
    next: u64,
    partial: Option<(u64, Vec<WatchChange>)>,
}

/// What a piece came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Followed {
    /// Nothing yet.
    Nothing,
    /// The watch stands.
    Opened,
    /// Everything that one revision did, as far as it was asked for.
    Changes(u64, Vec<WatchChange>),
    /// Everything up to and including this revision was told.
    Bookmark(u64),
}

/// The manager told what does not follow on what was told before: it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the manager went on with revision {got} where {next} or a later one was due")]
pub struct OutOfOrder {
    /// What was due at the earliest.
    pub next: u64,
    /// What came.
    pub got: u64,
}

impl Follower {
    /// From this revision on; 0: from where the first manager opens it.
    pub const fn new(from: u64) -> Self {
        Self { next: from, partial: None }
    }

    /// The first revision that was not told yet: what to ask the next manager for. 0 when there is none yet.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Takes a piece.
    ///
    /// # Errors
    /// It does not follow on what was told before; nothing of it counts.
    pub fn take(&mut self, part: WatchPart) -> Result<Followed, OutOfOrder> {
        let WatchPart { revision, kind, last, changes } = part;
        let wrong = OutOfOrder { next: self.next, got: revision };
        match PartKind::try_from(kind) {
            Ok(PartKind::Opened) => {
                if self.next == 0 {
                    self.next = revision;
                }
                if self.next == revision { Ok(Followed::Opened) } else { Err(wrong) }
            }
            Ok(PartKind::Bookmark) => {
                if self.partial.is_some() || revision + 1 < self.next || self.next == 0 {
                    return Err(wrong);
                }
                self.next = revision + 1;
                Ok(Followed::Bookmark(revision))
            }
            Ok(PartKind::Changes) => {
                let begun = self.partial.as_ref().map(|(revision, _)| *revision);
                if revision < self.next || self.next == 0 || begun.is_some_and(|begun| begun != revision) {
                    return Err(wrong);
                }
                let (_, whole) = self.partial.get_or_insert((revision, Vec::new()));
                whole.extend(changes);
                if !last {
                    return Ok(Followed::Nothing);
                }
                self.next = revision + 1;
                let whole = self.partial.take().map(|(_, whole)| whole).unwrap_or_default();
                Ok(Followed::Changes(revision, whole))
            }
            // Of a newer manager: what it may mean changes nothing of what else is told.
            Err(_unknown) => Ok(Followed::Nothing),
        }
    }

    /// The stream has ended: half a revision is none.
    pub fn ended(&mut self) {
        self.partial = None;
        if on(Mutant::WatchFromTheStart) {
            self.next = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: PartKind, revision: u64, last: bool) -> WatchPart {
        let changes = if kind == PartKind::Changes { vec![WatchChange::default()] } else { Vec::new() };
        WatchPart { revision, kind: kind.into(), last, changes }
    }

    #[test]
    fn a_revision_counts_when_it_is_whole() {
        let mut follower = Follower::new(0);
        assert_eq!(follower.take(part(PartKind::Opened, 5, true)), Ok(Followed::Opened));
        assert_eq!(follower.take(part(PartKind::Changes, 7, false)), Ok(Followed::Nothing));
        // The stream breaks in its middle: it is asked for anew.
        follower.ended();
        assert_eq!(follower.next(), 5);
        assert_eq!(follower.take(part(PartKind::Opened, 5, true)), Ok(Followed::Opened));
        assert_eq!(follower.take(part(PartKind::Changes, 7, false)), Ok(Followed::Nothing));
        let whole = follower.take(part(PartKind::Changes, 7, true));
        assert_eq!(whole, Ok(Followed::Changes(7, vec![WatchChange::default(); 2])));
        assert_eq!(follower.next(), 8);
    }

    #[test]
    fn a_manager_that_goes_back_is_not_believed() {
        let mut follower = Follower::new(5);
        for (kind, revision) in
            [(PartKind::Opened, 4), (PartKind::Opened, 6), (PartKind::Changes, 4), (PartKind::Bookmark, 3)]
        {
            let wrong = follower.take(part(kind, revision, true));
            assert_eq!(wrong, Err(OutOfOrder { next: 5, got: revision }), "{kind:?}");
        }
        assert_eq!(follower.take(part(PartKind::Bookmark, 9, true)), Ok(Followed::Bookmark(9)));
        assert!(follower.take(part(PartKind::Changes, 9, true)).is_err(), "a duplicate");
        assert_eq!(follower.take(part(PartKind::Bookmark, 9, true)), Ok(Followed::Bookmark(9)));
        // Two revisions do not mix.
        assert_eq!(follower.take(part(PartKind::Changes, 10, false)), Ok(Followed::Nothing));
        assert!(follower.take(part(PartKind::Changes, 11, true)).is_err());
        assert!(follower.take(part(PartKind::Bookmark, 11, true)).is_err());
    }

    #[test]
    fn nothing_is_told_before_the_watch_stands() {
        let mut follower = Follower::new(0);
        assert!(follower.take(part(PartKind::Bookmark, 9, true)).is_err());
        assert!(follower.take(part(PartKind::Changes, 9, true)).is_err());
    }
}
