//! What a manager says of itself in clear: where it listens, where it is reached, and its name.
//!
//! Owns the file `node.listen`. Its facts lie in its store, sealed; this is for when that cannot be opened: a locked manager says at
//! its address that it is locked, and one whose key is lost comes back as who it was. Never decides anything. Blocks.

use super::facts::{Facts, Layout};
use super::files;

/// What the file says: three lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) listen: String,
    pub(super) advertise: String,
    /// May be empty.
    pub(super) name: String,
}

impl Noted {
    pub(super) fn of(facts: &Facts) -> Self {
        let Facts { listen, advertise, name, .. } = facts.clone();
        Self { listen, advertise, name }
    }

    /// What was kept last; nothing where it cannot be read.
    pub(super) fn read(layout: &Layout) -> Option<Self> {
        let noted = files::read(&layout.listen()).ok().flatten()?;
        let text = String::from_utf8(noted.to_vec()).ok()?;
        let mut lines = text.splitn(3, '\n').map(str::to_owned);
        Some(Self { listen: lines.next()?, advertise: lines.next()?, name: lines.next()? })
    }

    /// That it cannot be kept is told, and keeps nobody from starting.
    pub(super) fn keep(&self, layout: &Layout) {
        if Self::read(layout).as_ref() == Some(self) {
            return;
        }
        let text = format!("{}\n{}\n{}", self.listen, self.advertise, self.name);
        if let Err(error) = files::replace(&layout.listen(), text.as_bytes()) {
            tracing::warn!(%error, "where this manager listens cannot be kept: should it be locked, the others will not be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_also_of_one_without_a_name() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::new(place.path());
        assert_eq!(Noted::read(&layout), None);
        for name in ["n1", "", "n 1\n"] {
            let noted = Noted { listen: "[::]:4701".into(), advertise: "n1.invalid:4701".into(), name: name.into() };
            noted.keep(&layout);
            assert_eq!(Noted::read(&layout), Some(noted));
        }
    }
}
