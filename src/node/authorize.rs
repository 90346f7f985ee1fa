//! Who may ask what: one table.
//!
//! Owns the answer for every pair of asker and request. A request without a row does not compile: the match has no
//! wildcard. Called once per request, before anything is proposed or read.

use quorate_transport::api::request::Kind;

use super::gate::Asker;

/// Why not, for people.
pub(super) const fn denied(asker: Asker, kind: &Kind) -> &'static str {
    if matches!(kind, Kind::KeyOrder(_) | Kind::Unlock(_)) {
        return "the keys of a manager's store are seen and changed on its own machine only: ask there, with --data-dir. Nothing was done";
    }
    match asker {
        Asker::Node(_) => {
            "a node's own identity may not do that, and a worker's directory speaks for that worker only. Nothing was done; ask on a manager's machine with --data-dir of the manager, or from here with --connect HOST:PORT --identity operator.id (`quorate init` wrote that file on the first manager)"
        }
        Asker::Operator | Asker::Manager | Asker::Local => {
            "this identity may not do that; use an operator's identity file. Nothing was done"
        }
    }
}

/// Whether `asker` may send this kind of request.
///
/// | request | operator | manager (peer plane) | node's certificate |
/// |---|---|---|---|
/// | write, read, watch | yes | no | no |
/// | a backup of everything | yes | no | no |
/// | status | yes | yes | yes |
/// | a member's own status | no | yes | no |
/// | show, rotate, make, list, revoke join tokens | yes | no | no |
/// | list nodes, update one; show the policy | yes | no | no |
/// | look at one node | yes | yes, for an operator | yes, at itself |
/// | promote, demote, remove a node; set the policy | yes | yes, for an operator | no |
/// | how far an upgrade is | yes | no | no |
/// | finish an upgrade | yes | yes, for an operator | no |
/// | leave | no | no | yes, for itself (its own socket speaks for it) |
/// | transfer leadership | yes | yes, for an operator | no |
/// | a forwarded command | no | yes | no |
/// | what a manager's log holds | yes | yes | yes |
/// | rejoin with a fresh store | no | no | yes, for itself |
/// | become a manager | no | no | yes, for itself |
/// | what the asked node says of itself | yes | yes | yes |
/// | write and read assignments and reports | yes | no | no |
/// | sessions held, addresses met | no | yes | no |
/// | what a manager says of its machine | yes | yes | yes; the ways between managers are for operators (the handler sees to it) |
/// | make, list, look at, label, remove configs and secrets; read a config, reveal a secret | yes | no | no: a node gets the data of what its items refer to, in its session |
/// | show the barrier's keyring, ask for another key | yes | no | no |
/// | grant and revoke leases | yes | no | no |
/// | the keys of the store, unlocking | no; on the manager's own machine only (`Asker::Local`) | no | no |
/// | keep a lease alive, look at leases | yes | yes, for an operator | no |
pub(super) const fn allowed(asker: Asker, kind: &Kind) -> bool {
    match kind {
        Kind::Write(_)
        | Kind::Read(_)
        | Kind::Watch(_)
        | Kind::Backup(_)
        | Kind::TokenShow(_)
        | Kind::TokenRotate(_)
        | Kind::TokenCreate(_)
        | Kind::TokenList(_)
        | Kind::TokenRevoke(_)
        | Kind::NodeList(_)
        | Kind::NodeUpdate(_)
        | Kind::PolicyShow(_)
        | Kind::AssignmentsWrite(_)
        | Kind::AssignmentsRead(_)
        | Kind::ReportRead(_)
        | Kind::LeaseWrite(_)
        | Kind::KeyringShow(_)
        | Kind::KeyringRotate(_)
        | Kind::ObjectCreate(_)
        | Kind::ObjectList(_)
        | Kind::ObjectInspect(_)
        | Kind::ObjectUpdate(_)
        | Kind::ObjectRemove(_)
        | Kind::SecretReveal(_)
        | Kind::ConfigRead(_)
        | Kind::UpgradeStatus(_) => matches!(asker, Asker::Operator),
        // A manager passes an operator's wish on to the leader.
        Kind::Transfer(_)
        | Kind::NodeRole(_)
        | Kind::NodeRemove(_)
        | Kind::PolicySet(_)
        | Kind::UpgradeFinish(_)
        | Kind::LeaseKeepAlive(_)
        | Kind::LeaseList(_)
        | Kind::LeaseShow(_) => {
            matches!(asker, Asker::Operator | Asker::Manager)
        }
        Kind::KeyOrder(_) | Kind::Unlock(_) => matches!(asker, Asker::Local),
        // Its own record is all that a node gets to see: the handler looks at no other.
        Kind::NodeInspect(_) => true,
        // Who is to be recovered asks with its node's certificate, and a survivor is chosen by what all of them say.
        Kind::Status(_) | Kind::Standing(_) | Kind::NodeReport(_) | Kind::Check(_) => true,
        Kind::Rejoin(_) | Kind::Enrol(_) | Kind::NodeLeave(_) => matches!(asker, Asker::Node(_)),
        Kind::MemberStatus(_) | Kind::Command(_) | Kind::Sessions(_) | Kind::Addresses(_) => {
            matches!(asker, Asker::Manager)
        }
    }
}
