//! Who may ask what: one table, and one function for everything that a request names.
//!
//! Owns the answer for every pair of asker and request. A request without a row does not compile. Where a row says
//! [`May::Keys`], what is allowed depends on the keys: the request is flattened to a list of accesses
//! ([`quorate_core::access`]) and all of them have to lie within the asker's rights; [`within`] says so of what is read and
//! watched, [`command`] of every command that is proposed, whoever's it is. What they have passed is an [`Allowed`], without
//! which nothing is read, watched or proposed: nobody else makes one. The leader asks the same questions again
//! for whoever asked another manager: its own records may know more. Called once per request, before anything is done.

use quorate_core::access::{Access, Right, Touch, allows, touches};
use quorate_core::command::{Command, CommandKind};
use quorate_core::keyring::{KeyringOrder, KeyringOrderKind};
use quorate_core::keyspace::Section;
use quorate_core::txn::{Range, Txn};
use quorate_core::watch::WatchStart;
use quorate_transport::api;
use quorate_transport::api::request::Kind;

use super::gate::{Asker, Who};
use super::router::{Failure, fail};

/// What an asker may do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum May {
    /// Nothing.
    No,
    /// Ask it.
    Yes,
    /// Ask it as far as the keys in it are within its rights.
    Keys,
    /// Ask it about itself only: the handler looks at no other.
    Own,
    /// Ask it on the manager's own machine only.
    Here,
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// The word for counting and for the log.
    pub(super) word: &'static str,
    operator: May,
    reader: May,
    manager: May,
    node: May,
    /// What the command may read and write that comes of it, where that is not the keys that it names.
    records: &'static [Right<'static>],
}

/// Rights over whole sections.
macro_rules! over {
    ($($access:ident $section:ident),*) => {
        &[$(Right {
            access: Access::$access,
            from: &[Section::$section as u8],
            end: &[Section::$section as u8 + 1],
        }),*]
    };
}

/// Which requests a row is for: all of a kind, unless the row says which of them.
macro_rules! these {
    ($variant:ident) => {
        Kind::$variant(_)
    };
    ($variant:ident $pattern:pat) => {
        $pattern
    };
}

/// The table, the number of each row, and its words.
macro_rules! table {
    ($($variant:ident $(as ($pattern:pat))? $word:literal: $operator:ident $reader:ident $manager:ident $node:ident $([$($access:ident $section:ident),*])?;)*) => {
        #[derive(Debug, Clone, Copy)]
        #[repr(usize)]
        enum Number { $($variant),* }

        /// One row for each kind of request.
        pub(super) const TABLE: &[Row] = &[$(Row {
            word: $word,
            operator: May::$operator,
            reader: May::$reader,
            manager: May::$manager,
            node: May::$node,
            records: over!($($($access $section),*)?),
        }),*];

        /// The words, in the order of the rows.
        pub(super) const KINDS: &[&str] = &[$($word),*];

        /// Which row this request has.
        pub(super) const fn row(kind: &Kind) -> usize {
            let row = match kind { $(these!($variant $($pattern)?) => Number::$variant),* };
            row as usize
        }
    };
}

table! {
    //                                       operator reader manager node   what a wish reads and writes
    Write             "write":               Keys     Keys   No      No;
    Read              "read":                Keys     Keys   No      No;
    Watch             "watch":               Keys     Keys   No      No;
    Backup            "backup":              Yes      No     No      No;
    Status            "status":              Yes      Yes    Yes     Yes;
    MemberStatus      "member_status":       No       No     Yes     No;
    OperatorIssue     "operator_issue":      Yes      No     No      No     [Read Identity, Write Identity];
    OperatorRevoke    "operator_revoke":     Yes      No     No      No     [Read Identity, Write Identity];
    OperatorList      "operator_list":       Yes      Yes    No      No;
    CaRotate          "ca_rotate":           Yes      No     No      No     [Read Identity, Write Identity];
    CaStatus          "ca_status":           Yes      Yes    No      No;
    TokenShow         "token_show":          Yes      No     No      No;
    TokenRotate       "token_rotate":        Yes      No     No      No     [Read Identity, Write Identity];
    TokenCreate       "token_create":        Yes      No     No      No     [Read Identity, Write Identity];
    TokenList         "token_list":          Yes      No     No      No;
    TokenRevoke       "token_revoke":        Yes      No     No      No     [Read Identity, Write Identity];
    Transfer          "transfer":            Yes      No     No      No;
    Command           "command":             No       No     Yes     No;
    PassedOn          "passed_on":           No       No     Yes     No;
    Rejoin            "rejoin":              No       No     No      Own;
    Enrol             "enrol":               No       No     No      Own;
    NodeList          "node_list":           Yes      Yes    No      No;
    NodeInspect       "node_inspect":        Yes      Yes    No      Own;
    NodeRole          "node_role":           Yes      No     No      No     [Read Node, Write Node];
    NodeUpdate        "node_update":         Yes      No     No      No     [Read Node, Write Node];
    NodeRemove        "node_remove":         Yes      No     No      No     [Read Node, Write Node, Read Identity, Write Identity];
    NodeLeave         "node_leave":          No       No     No      Own    [Read Node, Write Node];
    NodeReport        "node_report":         Yes      Yes    Yes     Yes;
    PolicyShow        "policy_show":         Yes      Yes    No      No;
    PolicySet         "policy_set":          Yes      No     No      No     [Read Cluster, Write Cluster];
    AssignmentsWrite  "assignments_write":   Keys     No     No      No;
    AssignmentsRead   "assignments_read":    Keys     Keys   No      No;
    ReportRead        "report_read":         Keys     Keys   No      No;
    Sessions          "sessions":            No       No     Yes     No;
    Addresses         "addresses":           No       No     Yes     No;
    Standing          "standing":            Yes      Yes    Yes     Yes;
    CheckPaths as (Kind::Check(api::Check { paths: true, .. }))
                      "check_paths":         Yes      No     No      No;
    Check             "check":               Yes      Yes    Yes     Yes;
    LeaseWrite        "lease_write":         Yes      No     No      No;
    LeaseKeepAlive    "lease_keep_alive":    Yes      No     No      No;
    LeaseList         "lease_list":          Yes      Yes    No      No;
    LeaseShow         "lease_show":          Yes      Yes    No      No;
    UpgradeStatus     "upgrade_status":      Yes      Yes    No      No;
    UpgradeFinish     "upgrade_finish":      Yes      No     No      No     [Read Cluster, Write Cluster, Read Node];
    KeyringShow       "keyring_show":        Yes      Yes    No      No;
    KeyringRotate     "keyring_rotate":      Yes      No     No      No;
    ObjectCreate      "object_create":       Yes      No     No      No     [Read Config, Write Config, Read Secret, Write Secret];
    ObjectList        "object_list":         Yes      Yes    No      No;
    ObjectInspect     "object_inspect":      Yes      Yes    No      No;
    ObjectUpdate      "object_update":       Yes      No     No      No     [Read Config, Write Config, Read Secret, Write Secret];
    ObjectRemove      "object_remove":       Yes      No     No      No     [Read Config, Write Config, Read Secret, Write Secret];
    SecretReveal      "secret_reveal":       Yes      No     No      No;
    ConfigRead        "config_read":         Yes      Yes    No      No;
    KeyOrder          "key_order":           Here     No     No      No;
    Unlock            "unlock":              Here     No     No      No;
}

/// What an operator may do with keys. Records are no keys of anybody: requests of their own change them.
const OPERATOR: &[Right<'static>] = over!(
    Read User,
    Write User,
    Attach User,
    Read Assignment,
    Write Assignment,
    Read Report,
    Read Node
);
/// What an operator may do who may only look.
const READER: &[Right<'static>] = over!(Read User, Read Assignment, Read Report, Read Node);
/// What every command may look at that comes of a wish.
const EVERY_WISH: &[Right<'static>] = over!(Read Cluster);

const fn rights(who: Who) -> &'static [Right<'static>] {
    match who {
        Who::Operator(_) | Who::Local => OPERATOR,
        Who::Reader(_) => READER,
        Who::Manager | Who::Node(_) => &[],
    }
}

/// The row of the table with this word.
fn row_named(word: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.word == word)
}

impl Row {
    const fn of(&self, who: Who) -> May {
        match who {
            Who::Operator(_) | Who::Local => self.operator,
            Who::Reader(_) => self.reader,
            Who::Manager => self.manager,
            Who::Node(_) => self.node,
        }
    }

    /// Whether it may be asked at all; `here`: on this manager's own machine.
    const fn lets(&self, who: Who, here: bool) -> bool {
        match self.of(who) {
            May::No => false,
            May::Yes | May::Keys | May::Own => true,
            May::Here => here && matches!(who, Who::Local),
        }
    }
}

/// Whether the asker may send this kind of request; what it names is for [`within`].
///
/// # Errors
/// Why not, for people.
pub(super) fn check(asker: &Asker, kind: &Kind) -> Result<(), Failure> {
    let lets = TABLE.get(row(kind)).is_some_and(|row| row.lets(asker.who, !asker.passed_on));
    if lets { Ok(()) } else { Err(denied(asker, kind)) }
}

const MAY_ONLY_LOOK: &str = "this operator may only look: it neither writes, nor is it shown tokens and secrets. Nothing was done; `quorate operator issue` without --read-only makes one that may";

/// Why not, for people.
pub(super) fn denied(asker: &Asker, kind: &Kind) -> Failure {
    if matches!(kind, Kind::KeyOrder(_) | Kind::Unlock(_)) {
        let why = "the keys of a manager's store are seen and changed on its own machine only: ask there, with --data-dir. Nothing was done";
        return fail(api::Code::Denied, why);
    }
    let why = match asker.who {
        Who::Node(_) => {
            "a node's own identity may not do that, and a worker's directory speaks for that worker only. Nothing was done; ask on a manager's machine with --data-dir of the manager, or from here with --connect HOST:PORT --identity operator.id (`quorate init` wrote that file on the first manager)"
        }
        Who::Reader(_) => MAY_ONLY_LOOK,
        Who::Operator(_) | Who::Manager | Who::Local => {
            "this identity may not do that; use an operator's identity file. Nothing was done"
        }
    };
    fail(api::Code::Denied, why)
}

/// What was looked at as a whole and may be done: read, watched, proposed. Made here only.
#[derive(Debug, Clone)]
pub(super) struct Allowed<T>(T);

impl<T> Allowed<T> {
    pub(super) fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Allowed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What names keys, all of them.
pub(super) trait Names {
    /// The flattened list.
    fn names(&self) -> impl Iterator<Item = Touch<'_>>;
}

impl Names for Txn {
    fn names(&self) -> impl Iterator<Item = Touch<'_>> {
        touches(self)
    }
}

impl Names for Range {
    fn names(&self) -> impl Iterator<Item = Touch<'_>> {
        std::iter::once(Touch::from(self))
    }
}

/// The very range that the watch follows, keys that come to be later among them.
impl Names for WatchStart {
    fn names(&self) -> impl Iterator<Item = Touch<'_>> {
        std::iter::once(Touch { access: Access::Read, key: &self.key, end: &self.end })
    }
}

/// Passes what names only keys, full ones, that the asker may touch in that way.
///
/// # Errors
/// One part of it is not allowed, and so nothing is.
pub(super) fn within<T: Names>(asker: &Asker, asked: T) -> Result<Allowed<T>, Failure> {
    covered(rights(asker.who), &asked).map_err(|access| {
        if matches!(asker.who, Who::Reader(_)) && access != Access::Read {
            return fail(api::Code::Denied, MAY_ONLY_LOOK);
        }
        let what = match access {
            Access::Read => "reads",
            Access::Write => "writes",
            Access::Attach => "attaches to a lease",
        };
        fail(
            api::Code::Denied,
            format!("it {what} keys that this identity may not touch in that way. Nothing of it was done"),
        )
    })?;
    Ok(Allowed(asked))
}

fn covered(rights: &[Right<'_>], asked: &impl Names) -> Result<(), Access> {
    match asked.names().find(|touch| !allows(rights, touch)) {
        Some(touch) => Err(touch.access),
        None => Ok(()),
    }
}

/// Passes a command that may be proposed: one that was made of somebody's request is judged by who asked, by what was asked,
/// and by everything that it touches, here and once more by a leader that it is passed on to. A manager's own commands are nobody's,
/// and of other kinds.
///
/// # Errors
/// Why not.
pub(super) fn command(behalf: Option<&Asker>, command: Command) -> Result<Allowed<Command>, Failure> {
    judged(behalf, &command).map(|()| Allowed(command))
}

fn judged(behalf: Option<&Asker>, command: &Command) -> Result<(), Failure> {
    let refuse = |why: &str| Err(fail(api::Code::Denied, format!("{why}. Nothing was done")));
    match (&command.kind, behalf) {
        (Some(CommandKind::Request(request)), Some(asker)) => {
            let Some(row) = row_named(asker.of).filter(|row| row.lets(asker.who, false)) else {
                return refuse("whoever asked the manager that passes this on may not do that");
            };
            if request.lease.is_some() && KINDS.get(Number::LeaseWrite as usize) != Some(&row.word) {
                return refuse("an order for a lease was passed on as something else");
            }
            let Some(txn) = &request.txn else { return Ok(()) };
            let fine = match row.of(asker.who) {
                May::Keys => covered(rights(asker.who), txn),
                May::No | May::Yes | May::Own | May::Here => {
                    let outside = |touch: &Touch<'_>| !allows(row.records, touch) && !allows(EVERY_WISH, touch);
                    txn.names().find(outside).map_or(Ok(()), |touch| Err(touch.access))
                }
            };
            fine.or_else(|_access| refuse("it touches what whoever asked may not touch"))
        }
        (Some(CommandKind::Request(_)), None) => refuse("a client's request was passed on without saying whose it is"),
        // The one order for the keyring that somebody may ask for; all others are the managers' own.
        (Some(CommandKind::Keyring(KeyringOrder { kind: Some(KeyringOrderKind::Ask(_)) })), Some(asker)) => {
            let asked = TABLE.get(Number::KeyringRotate as usize);
            match asked.is_some_and(|row| row.word == asker.of && row.lets(asker.who, false)) {
                true => Ok(()),
                false => {
                    refuse("whoever asked the manager that passes this on may not have the barrier's key replaced")
                }
            }
        }
        (Some(CommandKind::Keyring(KeyringOrder { kind: Some(KeyringOrderKind::Ask(_)) })), None) => {
            refuse("another barrier key was asked for without saying who wants it")
        }
        (
            Some(
                CommandKind::System(_)
                | CommandKind::Compact(_)
                | CommandKind::ExpireClients(_)
                | CommandKind::ExpireLeases(_)
                | CommandKind::Keyring(_),
            ),
            None,
        ) => Ok(()),
        // Never proposed by anybody; the consensus machine refuses it, too.
        (Some(CommandKind::Recovered(_)), None) => refuse("a recovery is not proposed"),
        (Some(_), Some(_)) => refuse("a manager's own command was passed on in somebody's name"),
        (None, _) => refuse("the command is of no kind that this manager knows"),
    }
}

#[cfg(test)]
#[path = "authorize_tests.rs"]
mod tests;
