//! The last word of a manager that is not to be started again as it is.
//!
//! Owns the kinds and their codes. Never says what to do about it. Called where an endpoint stops, and where a peer goes.

use crate::codes;

/// Why a manager stopped that starting it again does not bring back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// Its directory was put back to an older state, or is a copy.
    RolledBack,
    /// The leader contradicts what is acknowledged: another one's directory was put back.
    Overruled,
    /// Its store is damaged.
    Damaged,
}

impl Parting {
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::RolledBack => codes::ROLLED_BACK,
            Self::Overruled => codes::OVERRULED,
            Self::Damaged => codes::DAMAGED,
        }
    }

    /// What the other side said when it closed the connection.
    pub(crate) fn told(closed: &quinn::ConnectionError) -> Option<Self> {
        let quinn::ConnectionError::ApplicationClosed(close) = closed else { return None };
        [Self::RolledBack, Self::Overruled, Self::Damaged]
            .into_iter()
            .find(|told| close.error_code == told.code().into())
    }
}
