//! Join tokens: the standing one of each role, and those made for a time and a number of uses.
//!
//! Owns what a token lets in, and that a use is counted in the transaction that lets somebody in. A token that was made is
//! kept as the SHA-256 of its secret; whether it has expired is judged by the clock of the manager that is asked to let
//! somebody in. Called by joins, and by operators.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use quorate_core::keyspace::{Section, prefix_end};
use quorate_core::limits::{Met, TOKENS_MAX};
use quorate_core::membership::record::Role;
use quorate_core::ports::{StateRead, StoreResult};
use quorate_core::state::read;
use quorate_core::txn::{Compare, Delete, Op, Put, Range, Txn};
use quorate_transport::api::{self, response};
use quorate_transport::{CaHash, JoinRefused, JoinToken, TokenSecret};
use tokio::time::Instant;

use super::barrier::Barrier;
use super::gate::Asker;
use super::once::{self, already_settled};
use super::records;
use super::router::{Failure, fail, over, refused_by};
use super::service::{Service, blocking, broken, document};
use crate::membership::{NewToken, Role as PublicRole, Rule, TokenInfo};

/// Longest life of a token, seconds: what shall hold longer is the standing one.
const TTL_S_MAX: u64 = 365 * 86_400;
/// Most uses of a token.
const USES_MAX: u64 = 100_000;
/// Where they lie in [`Section::Identity`].
const MADE: &[u8] = b"made-token/";

/// A token made for a time and a number of uses. Field numbers are for ever.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MadeToken {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(enumeration = "Role", tag = "2")]
    role: i32,
    /// SHA-256 of the secret, 32 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    digest: Bytes,
    /// Seconds since 1970.
    #[prost(uint64, tag = "4")]
    created: u64,
    /// Seconds since 1970; 0 is never.
    #[prost(uint64, tag = "5")]
    expires: u64,
    /// 0 is any number.
    #[prost(uint64, tag = "6")]
    uses: u64,
    #[prost(uint64, tag = "7")]
    used: u64,
}

impl MadeToken {
    fn key(id: &str) -> Bytes {
        Section::Identity.key(&[MADE, id.as_bytes()].concat())
    }

    const fn is_expired(&self, now: u64) -> bool {
        self.expires != 0 && now >= self.expires
    }

    const fn is_used_up(&self) -> bool {
        self.uses != 0 && self.used >= self.uses
    }

    fn info(&self, now: u64) -> TokenInfo {
        TokenInfo {
            id: self.id.clone(),
            role: public(self.role),
            standing: false,
            created_unix: self.created,
            expires_unix: self.expires,
            expires_in_s: (self.expires != 0).then(|| self.expires.saturating_sub(now)),
            uses: self.uses,
            uses_left: (self.uses != 0).then(|| self.uses.saturating_sub(self.used)),
            valid: !self.is_expired(now) && !self.is_used_up(),
        }
    }
}

fn public(role: i32) -> PublicRole {
    if role == i32::from(Role::Manager) { PublicRole::Manager } else { PublicRole::Worker }
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Every token, as one view has them.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    manager: Option<Standing>,
    worker: Option<Standing>,
    made: Vec<Kept>,
}

/// The standing token of a role.
#[derive(Debug)]
struct Standing {
    secret: TokenSecret,
    /// The revision that last wrote it.
    revision: u64,
}

impl Standing {
    fn read(view: &dyn StateRead, role: Role, barrier: &Barrier) -> StoreResult<Option<Self>> {
        let revision = records::value(view, records::token_key(role))?.map_or(0, |(_, revision)| revision);
        Ok(records::token(view, role, barrier)?.map(|secret| Self { secret, revision }))
    }
}

/// A token that was made, as it lies in the state.
#[derive(Debug, Clone)]
struct Kept {
    token: MadeToken,
    /// The revision that made it: their order.
    made: u64,
    /// The revision that last wrote it.
    revision: u64,
}

/// A token that lets its bearer in.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) role: Role,
    /// What counts its use, in the transaction that lets the bearer in.
    pub(super) compares: Vec<Compare>,
    pub(super) then: Vec<Op>,
}

impl Tokens {
    pub(super) fn read(view: &dyn StateRead, barrier: &Barrier) -> StoreResult<Self> {
        let from = Section::Identity.key(MADE);
        let range = Range { end: prefix_end(&from), key: from, ..Range::default() };
        let page = match read::range(view, &range) {
            Ok(page) => page,
            Err(read::ReadError::Store(error)) => return Err(error),
            Err(read::ReadError::Refused(refusal)) => return Err(records::corrupt("join tokens", refusal)),
        };
        let made = page.entries.into_iter().map(|entry| {
            let token = MadeToken::decode(entry.value).map_err(|error| records::corrupt("join token", error))?;
            Ok(Kept { token, made: entry.create_revision, revision: entry.mod_revision })
        });
        Ok(Self {
            manager: Standing::read(view, Role::Manager, barrier)?,
            worker: Standing::read(view, Role::Worker, barrier)?,
            made: made.collect::<StoreResult<_>>()?,
        })
    }

    /// What the secret opens. `known`: its bearer has been let in before and asks again, which costs no use and no time.
    ///
    /// Every token is compared, each in constant time: how long it takes says nothing about which one it was.
    pub(super) fn pass(&self, secret: &TokenSecret, known: bool, now: u64) -> Result<Pass, JoinRefused> {
        let digest = secret.digest();
        let opens =
            |standing: &Option<Standing>| standing.as_ref().is_some_and(|token| token.secret.matches(secret.expose()));
        let (manager, worker) = (opens(&self.manager), opens(&self.worker));
        let mut made = None;
        for kept in &self.made {
            if digest.matches(&kept.token.digest) {
                made = Some(kept);
            }
        }
        // One that is replaced at the same moment lets nobody in any more.
        let standing = |role: Role, token: &Option<Standing>| {
            let revision = token.as_ref().map_or(0, |token| token.revision);
            let still = Compare::mod_revision(records::token_key(role), revision);
            Pass { role, compares: vec![still], then: Vec::new() }
        };
        let Kept { token, revision, .. } = match (manager, worker, made) {
            (true, _, _) => return Ok(standing(Role::Manager, &self.manager)),
            (_, true, _) => return Ok(standing(Role::Worker, &self.worker)),
            (_, _, Some(made)) => made,
            (_, _, None) => return Err(JoinRefused::BadToken),
        };
        let role = Role::try_from(token.role).map_err(|_unknown| JoinRefused::BadToken)?;
        if known {
            return Ok(Pass { role, compares: Vec::new(), then: Vec::new() });
        }
        if token.is_expired(now) {
            return Err(JoinRefused::TokenExpired);
        }
        if token.is_used_up() {
            return Err(JoinRefused::TokenUsedUp);
        }
        let key = MadeToken::key(&token.id);
        let spent = MadeToken { used: token.used + 1, ..token.clone() };
        Ok(Pass {
            role,
            compares: vec![Compare::mod_revision(key.clone(), *revision)],
            then: vec![Put { key, value: spent.encode_to_vec().into(), ..Put::default() }.into()],
        })
    }

    /// What makes this one; its id is its own.
    fn with(&self, token: &MadeToken, now: u64) -> Result<Txn, Failure> {
        if self.made.iter().any(|kept| kept.token.id == token.id) {
            return Err(fail(
                api::Code::Invalid,
                format!("there is a token with the id {} already. Nothing was changed", token.id),
            ));
        }
        let key = MadeToken::key(&token.id);
        let mut txn = once::write(key.clone(), token.encode_to_vec().into(), false);
        txn.then.extend(self.room(now)?);
        txn.compares.push(Compare::absent(key));
        Ok(txn)
    }

    /// Deletes that make room for one more: tokens that let nobody in any more, the oldest first.
    fn room(&self, now: u64) -> Result<Vec<Op>, Failure> {
        let too_many = (self.made.len() + 1).saturating_sub(TOKENS_MAX);
        let mut dead: Vec<&Kept> = self.made.iter().filter(|kept| !kept.token.info(now).valid).collect();
        dead.sort_by_key(|kept| kept.made);
        if dead.len() < too_many {
            let valid = self.made.len();
            let why = format!(
                "there are {valid} join tokens that are valid, the limit `TOKENS_MAX` is {TOKENS_MAX}; `quorate token ls` lists them, revoke some (`quorate token revoke ID`). Nothing was changed"
            );
            let met = Met { name: "TOKENS_MAX", bound: TOKENS_MAX as u64, actual: valid as u64 + 1 };
            return Err(over(met, refused_by(Rule::TooManyTokens, why)));
        }
        let gone = dead.into_iter().take(too_many);
        Ok(gone.map(|kept| Delete { key: MadeToken::key(&kept.token.id), ..Delete::default() }.into()).collect())
    }
}

impl Service {
    async fn tokens(&self, until: Instant) -> Result<Tokens, Failure> {
        self.router.read_index(until).await?;
        let (reader, barrier) = (self.store()?.reader, Arc::clone(&self.barrier));
        blocking(move || Tokens::read(&*reader.view(), &barrier).map_err(|error| broken(&error))).await
    }

    async fn revealed(&self, secret: TokenSecret) -> Result<String, Failure> {
        let reader = self.store()?.reader;
        let ca = blocking(move || records::ca_certificate(&*reader.view()).map_err(|error| broken(&error))).await?;
        let ca = ca.ok_or_else(|| fail(api::Code::NotFound, "the cluster has no CA"))?;
        Ok(JoinToken::new(CaHash::of(&ca.to_vec().into()), secret).reveal())
    }

    /// The standing token of a role.
    pub(super) async fn token_show(
        &self,
        asker: &Asker,
        role: &str,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let role = records::role_named(role)?;
        let tokens = self.tokens(until).await?;
        let standing = if role == Role::Manager { tokens.manager } else { tokens.worker };
        let standing = standing.ok_or_else(|| {
            fail(
                api::Code::NotFound,
                format!("the cluster has no {} token; `quorate token rotate` makes one", role.name()),
            )
        })?;
        tracing::info!(by = %asker, role = role.name(), "a join token is shown");
        Ok(response::Kind::Token(api::TokenDone { token: self.revealed(standing.secret).await? }))
    }

    /// What makes every join token that there is worthless, and each role another standing one.
    pub(super) fn all_replaced(
        view: &dyn StateRead,
        barrier: &Barrier,
        asked: &api::Compromised,
    ) -> Result<Vec<Op>, Failure> {
        let from = Section::Identity.key(MADE);
        let made = Delete { end: prefix_end(&from), key: from, previous: false };
        let mut ops = vec![made.into()];
        for (role, secret) in [(Role::Manager, &asked.manager_secret), (Role::Worker, &asked.worker_secret)] {
            ops.push(standing(view, barrier, role, &drawn(secret)?)?.into());
        }
        Ok(ops)
    }

    /// Gives a role another standing token; the old one lets nobody in any more.
    pub(super) async fn token_rotate(
        &self,
        asker: &Asker,
        asked: api::TokenRotate,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let role = records::role_named(&asked.role)?;
        let secret = drawn(&asked.secret)?;
        let sealed = secret.clone();
        let plan =
            move |view: &dyn StateRead, barrier: &Barrier| Ok(Some(Txn::of(standing(view, barrier, role, &sealed)?)));
        self.once_planned(asker, asked.once, Arc::new(plan), until).await?;
        tracing::info!(by = %asker, role = role.name(), "the join token was rotated");
        Ok(response::Kind::Token(api::TokenDone { token: self.revealed(secret).await.map_err(already_settled)? }))
    }

    /// Makes a token for a time and a number of uses.
    pub(super) async fn token_create(
        &self,
        asker: &Asker,
        asked: api::TokenCreate,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let role = records::role_named(&asked.role)?;
        check_create(&asked)?;
        let secret = drawn(&asked.secret)?;
        let (tokens, now) = (self.tokens(until).await?, unix_now());
        let token = MadeToken {
            id: asked.id,
            role: role.into(),
            digest: Bytes::copy_from_slice(secret.digest().as_bytes()),
            created: now,
            expires: if asked.ttl_s == 0 { 0 } else { now + asked.ttl_s },
            uses: asked.uses,
            used: 0,
        };
        let wished = self.once(asker, asked.once, tokens.with(&token, now).map(Some), until).await?;
        // As the first copy of the request made it.
        let token = match wished.written().map(|written| MadeToken::decode(written.value.clone())) {
            Some(Ok(made)) => made,
            Some(Err(error)) => return Err(broken(&records::corrupt("join token", error))),
            None => token,
        };
        tracing::info!(by = %asker, id = token.id, role = role.name(), "a join token was made");
        document(&NewToken { token: self.revealed(secret).await.map_err(already_settled)?, info: token.info(now) })
    }

    /// Every token, without its secret.
    pub(super) async fn token_list(&self, until: Instant) -> Result<response::Kind, Failure> {
        let (tokens, now) = (self.tokens(until).await?, unix_now());
        let standing = [(Role::Manager, &tokens.manager), (Role::Worker, &tokens.worker)];
        let standing = standing.into_iter().filter(|(_, secret)| secret.is_some());
        let mut list: Vec<TokenInfo> = standing
            .map(|(role, _)| TokenInfo {
                role: public(role.into()),
                standing: true,
                valid: true,
                ..TokenInfo::default()
            })
            .collect();
        let mut made = tokens.made;
        made.sort_by_key(|kept| kept.made);
        list.extend(made.iter().map(|kept| kept.token.info(now)));
        document(&list)
    }

    /// Takes a token back.
    pub(super) async fn token_revoke(
        &self,
        asker: &Asker,
        asked: api::TokenRevoke,
        until: Instant,
    ) -> Result<response::Kind, Failure> {
        let tokens = self.tokens(until).await?;
        let planned = match tokens.made.iter().any(|kept| kept.token.id == asked.id) {
            true => Ok(Some(Txn::of(Delete { key: MadeToken::key(&asked.id), ..Delete::default() }))),
            false => Err(fail(
                api::Code::NotFound,
                format!(
                    "there is no token `{}`; `quorate token ls` lists them. A role's standing token is changed with `quorate token rotate`. Nothing was changed",
                    asked.id.chars().take(40).collect::<String>()
                ),
            )),
        };
        self.once(asker, asked.once, planned, until).await?;
        tracing::info!(by = %asker, id = asked.id, "a join token was revoked");
        document(&())
    }
}

/// What makes this the standing token of a role, sealed.
fn standing(view: &dyn StateRead, barrier: &Barrier, role: Role, secret: &TokenSecret) -> Result<Put, Failure> {
    let key = records::token_key(role);
    let value = barrier.seal(view, &key, Bytes::new(), secret.expose()).map_err(|error| broken(&error))?;
    Ok(Put { key, value, ..Put::default() })
}

/// The secret that the asker drew for a new token.
fn drawn(secret: &[u8]) -> Result<TokenSecret, Failure> {
    let secret: [u8; 16] = secret.try_into().map_err(|_length| {
        fail(
            api::Code::Invalid,
            "the secret of a new token has 16 bytes, drawn by who asks for it. Nothing was changed",
        )
    })?;
    Ok(TokenSecret::from_bytes(secret))
}

fn check_create(asked: &api::TokenCreate) -> Result<(), Failure> {
    let invalid = |why: String| Err(fail(api::Code::Invalid, why));
    if asked.id.is_empty() || asked.id.len() > 32 || !asked.id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return invalid("the id of a token has 1 to 32 letters and digits. Nothing was changed".into());
    }
    if asked.ttl_s > TTL_S_MAX {
        return invalid("a token holds for 365 days at most; what shall hold longer is the standing one (`quorate token show`). Nothing was changed".into());
    }
    if asked.uses > USES_MAX {
        return invalid(format!("a token lets in {USES_MAX} nodes at most, or any number (0). Nothing was changed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> TokenSecret {
        TokenSecret::from_bytes([byte; 16])
    }

    fn made(byte: u8, expires: u64, uses: u64, used: u64) -> Kept {
        let token = MadeToken {
            id: format!("t{byte}"),
            role: Role::Worker.into(),
            digest: Bytes::copy_from_slice(secret(byte).digest().as_bytes()),
            created: u64::from(byte),
            expires,
            uses,
            used,
        };
        Kept { token, made: u64::from(byte), revision: 7 }
    }

    fn tokens(made: Vec<Kept>) -> Tokens {
        let standing = |byte, revision| Some(Standing { secret: secret(byte), revision });
        Tokens { manager: standing(1, 4), worker: standing(2, 5), made }
    }

    #[test]
    fn the_role_comes_from_the_token() {
        let tokens = tokens(vec![made(3, 100, 2, 0)]);
        let role = |byte| tokens.pass(&secret(byte), false, 50).map(|pass| pass.role);
        assert_eq!(role(1), Ok(Role::Manager));
        assert_eq!(role(2), Ok(Role::Worker));
        assert_eq!(role(3), Ok(Role::Worker));
        assert_eq!(role(4), Err(JoinRefused::BadToken));
    }

    #[test]
    fn a_use_is_counted_by_the_transaction_that_lets_the_bearer_in() {
        let standing = tokens(Vec::new()).pass(&secret(1), false, 0).unwrap();
        // A standing one has any number of uses; that it still stands is judged with the write.
        assert_eq!(standing.compares, [Compare::mod_revision(records::token_key(Role::Manager), 4)]);
        assert!(standing.then.is_empty());
        let known = tokens(Vec::new()).pass(&secret(1), true, 0).unwrap();
        assert!(known.then.is_empty());
        let pass = tokens(vec![made(3, 0, 2, 1)]).pass(&secret(3), false, 0).unwrap();
        assert_eq!(pass.compares, [Compare::mod_revision(MadeToken::key("t3"), 7)]);
        let Some(quorate_core::txn::OpKind::Put(put)) = &pass.then[0].kind else { panic!("a put") };
        assert_eq!(MadeToken::decode(put.value.clone()).unwrap(), made(3, 0, 2, 2).token);
    }

    #[test]
    fn a_token_ends_with_its_time_and_with_its_uses_and_says_which() {
        let tokens = tokens(vec![made(3, 100, 0, 9), made(4, 0, 2, 2), made(5, 100, 2, 2)]);
        let pass = |byte, known, now| tokens.pass(&secret(byte), known, now).map(|pass| pass.then.len());
        assert_eq!((pass(3, false, 99), pass(3, false, 100)), (Ok(1), Err(JoinRefused::TokenExpired)));
        assert_eq!(pass(4, false, 0), Err(JoinRefused::TokenUsedUp));
        assert_eq!(pass(5, false, 500), Err(JoinRefused::TokenExpired));
        // Who was let in and lost the answer asks again, at no cost.
        assert_eq!((pass(3, true, 500), pass(4, true, 0)), (Ok(0), Ok(0)));
        assert_eq!(pass(9, true, 0), Err(JoinRefused::BadToken));
    }

    #[test]
    fn tokens_that_let_nobody_in_make_room_the_oldest_first() {
        let mut kept: Vec<_> = (0..TOKENS_MAX).map(|_| made(9, 0, 0, 0)).collect();
        kept[20] = made(5, 10, 0, 0);
        kept[30] = made(4, 10, 0, 0);
        let room = tokens(kept.clone()).room(50).unwrap();
        assert_eq!(room, [Delete { key: MadeToken::key("t4"), ..Delete::default() }.into()]);
        assert_eq!(tokens(kept).room(5).unwrap_err().rule, "too_many_tokens", "all are valid by then");
        assert!(tokens(vec![made(5, 10, 0, 0)]).room(50).unwrap().is_empty(), "no need");
    }

    #[test]
    fn a_list_says_what_is_left_and_holds_no_secret() {
        let token = made(3, 100, 5, 2).token;
        let info = token.info(40);
        assert_eq!((info.expires_in_s, info.uses_left, info.valid), (Some(60), Some(3), true));
        assert!(!token.info(100).valid);
        let text = serde_json::to_string(&info).unwrap();
        assert!(!text.contains(&data_encoding::HEXLOWER.encode(&token.digest)), "{text}");
    }

    #[test]
    fn what_is_asked_for_has_limits() {
        let asked = |id: &str, ttl_s, uses| {
            check_create(&api::TokenCreate { id: id.into(), ttl_s, uses, ..Default::default() })
        };
        assert!(asked("abc123", TTL_S_MAX, USES_MAX).is_ok());
        for (id, ttl_s, uses) in [("", 1, 1), ("a/b", 1, 1), ("a", TTL_S_MAX + 1, 1), ("a", 1, USES_MAX + 1)] {
            assert!(asked(id, ttl_s, uses).unwrap_err().message.contains("Nothing was changed"));
        }
    }
}
