//! What is lost with an answer that nobody takes: a listing, the news that something is done, or the only copy of a key.
//!
//! Owns that rule, one row for each verb. Never prints: `output` does, and goes by it. Called by `main`.

use crate::args::{Assign, Leader, Verb};
use crate::args_backup::{Backup, BackupVerb};
use crate::args_ca::CaVerb;
use crate::args_keys::{AutolockVerb, KeyVerb, UnlockKeyVerb};
use crate::args_kv::Kv;
use crate::args_lease::LeaseVerb;
use crate::args_membership::{NodeVerb, PolicyVerb, Token};
use crate::args_objects::{ConfigVerb, KeyringVerb, SecretVerb};
use crate::args_operator::OperatorVerb;
use crate::args_upgrade::UpgradeVerb;

/// What is lost when nobody takes the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing: it can be asked for again, and who stops reading has read enough (`| head`).
    Nothing,
    /// The news that it is done, which it stays.
    Receipt,
    /// All of it: a part is of no use, and must not pass for the whole.
    Whole(&'static str),
    /// What it names, for ever: nobody else has it, and it cannot be shown again.
    OnlyCopy(&'static str),
}

/// What is lost with the answer of a verb.
pub(crate) fn loss(verb: &Verb) -> Loss {
    match verb {
        Verb::Status | Verb::Inspect(_) | Verb::Check | Verb::Bench(_) | Verb::Completions { .. } => Loss::Nothing,
        // What is written to stdout is their command's.
        Verb::Lock(_) | Verb::UnderLock(_) => Loss::Nothing,
        Verb::Init(_)
        | Verb::Join(_)
        | Verb::Run(_)
        | Verb::Leave(_)
        | Verb::Restore(_)
        | Verb::Recover(_)
        | Verb::Unlock
        | Verb::Leader(Leader::Transfer { .. })
        | Verb::Man { .. } => Loss::Receipt,
        Verb::Kv(verb) => of_kv(verb),
        Verb::Lease(LeaseVerb::List | LeaseVerb::Show { .. }) => Loss::Nothing,
        // The lease is in `lease list`, and ends by itself.
        Verb::Lease(LeaseVerb::Grant { .. } | LeaseVerb::KeepAlive { .. } | LeaseVerb::Revoke { .. }) => Loss::Receipt,
        Verb::Node(NodeVerb::Ls | NodeVerb::Inspect { .. }) => Loss::Nothing,
        Verb::Node(NodeVerb::Promote { .. } | NodeVerb::Demote { .. } | NodeVerb::Update(_) | NodeVerb::Rm { .. }) => {
            Loss::Receipt
        }
        Verb::Assign(Assign::Ls { .. }) => Loss::Nothing,
        Verb::Assign(Assign::Set { .. } | Assign::Rm { .. }) => Loss::Receipt,
        Verb::Ca(CaVerb::Status) => Loss::Nothing,
        Verb::Ca(CaVerb::Rotate(_)) => Loss::Receipt,
        Verb::Operator(OperatorVerb::Ls) => Loss::Nothing,
        Verb::Operator(OperatorVerb::Issue(_) | OperatorVerb::Revoke { .. }) => Loss::Receipt,
        Verb::Token(Token::Create(_)) => Loss::OnlyCopy("the token"),
        // A role's standing token can be shown again.
        Verb::Token(Token::Show { .. } | Token::Ls) => Loss::Nothing,
        Verb::Token(Token::Rotate { .. } | Token::Revoke { .. }) => Loss::Receipt,
        Verb::Config(ConfigVerb::Ls(_) | ConfigVerb::Inspect { .. }) => Loss::Nothing,
        Verb::Config(ConfigVerb::Create(_) | ConfigVerb::Update(_) | ConfigVerb::Rm { .. }) => Loss::Receipt,
        Verb::Secret(SecretVerb::Ls(_) | SecretVerb::Inspect { .. }) => Loss::Nothing,
        Verb::Secret(
            SecretVerb::Create(_) | SecretVerb::Update(_) | SecretVerb::Rotate { .. } | SecretVerb::Rm { .. },
        ) => Loss::Receipt,
        Verb::Keyring(KeyringVerb::Show) => Loss::Nothing,
        Verb::Keyring(KeyringVerb::Rotate { .. }) => Loss::Receipt,
        Verb::Policy(PolicyVerb::Show) => Loss::Nothing,
        Verb::Policy(PolicyVerb::Set(_)) => Loss::Receipt,
        Verb::Upgrade(UpgradeVerb::Status) => Loss::Nothing,
        Verb::Upgrade(UpgradeVerb::Finish) => Loss::Receipt,
        #[cfg(feature = "next-version")]
        Verb::Upgrade(UpgradeVerb::Note { .. }) => Loss::Receipt,
        Verb::Backup(Backup { verb: None, .. }) => Loss::Receipt,
        Verb::Backup(Backup { verb: Some(BackupVerb::Verify { .. }), .. }) => Loss::Nothing,
        Verb::Backup(Backup { verb: Some(BackupVerb::NewKey), .. }) => Loss::OnlyCopy("the key"),
        Verb::Key(KeyVerb::New) => Loss::OnlyCopy("the key"),
        Verb::Key(KeyVerb::Show) => Loss::Nothing,
        Verb::Key(KeyVerb::Rotate(_) | KeyVerb::Move { .. } | KeyVerb::Passphrase(_)) => Loss::Receipt,
        Verb::Autolock(AutolockVerb::On(_)) | Verb::UnlockKey(UnlockKeyVerb::Rotate(_)) => {
            Loss::OnlyCopy("the new key")
        }
        Verb::Autolock(AutolockVerb::Off { .. }) => Loss::Receipt,
        Verb::UnlockKey(UnlockKeyVerb::Show(_)) => Loss::Whole("the unlock key"),
    }
}

fn of_kv(verb: &Kv) -> Loss {
    match verb {
        Kv::Get(_) | Kv::Ls(_) | Kv::Watch(_) => Loss::Nothing,
        Kv::Export(export) if export.output.is_none() => Loss::Whole("the export"),
        Kv::Put(_) | Kv::Del(_) | Kv::Cas(_) | Kv::Export(_) | Kv::Import(_) | Kv::Txn(_) => Loss::Receipt,
    }
}
