//! Who may ask what: one table.
//!
//! Owns the answer for every pair of asker and request. A request without a row does not compile: the match has no
//! wildcard. Called once per request, before anything is proposed or read.

use quorate_transport::api::request::Kind;

use super::gate::Asker;

/// Whether `asker` may send this kind of request.
///
/// | request | operator | manager (peer plane) | node's certificate |
/// |---|---|---|---|
/// | write, read | yes | no | no |
/// | status | yes | yes | yes |
/// | a member's own status | no | yes | no |
/// | show a join token | yes | no | no |
/// | transfer leadership | yes | yes, for an operator | no |
/// | a forwarded command | no | yes | no |
/// | rejoin with a fresh store | no | no | yes, for itself |
/// | become a manager | no | no | yes, for itself |
/// | what the asked node says of itself | yes | yes | yes |
/// | write and read assignments and reports | yes | no | no |
/// | sessions held, addresses met | no | yes | no |
pub(super) const fn allowed(asker: Asker, kind: &Kind) -> bool {
    match kind {
        Kind::Write(_)
        | Kind::Read(_)
        | Kind::TokenShow(_)
        | Kind::AssignmentsWrite(_)
        | Kind::AssignmentsRead(_)
        | Kind::ReportRead(_) => matches!(asker, Asker::Operator),
        // A manager passes an operator's wish on to the leader.
        Kind::Transfer(_) => matches!(asker, Asker::Operator | Asker::Manager),
        Kind::Status(_) | Kind::NodeReport(_) => true,
        Kind::Rejoin(_) | Kind::Enrol(_) => matches!(asker, Asker::Node(_)),
        Kind::MemberStatus(_) | Kind::Command(_) | Kind::Sessions(_) | Kind::Addresses(_) => {
            matches!(asker, Asker::Manager)
        }
    }
}
