//! Join tokens as an operator sees them.
//!
//! Owns what is drawn for new tokens, id and secret. Never sees the secret of a token but when it is made or shown. Called
//! by embedders and the command line.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use quorate_transport::api::{self, request, response};

use super::{Client, unexpected, whole_seconds};
use crate::config;
use crate::error::Result;
use crate::membership::{NewToken, Role, TokenInfo};

/// Join tokens: a standing one for each role, and those made for a time and a number of uses.
#[derive(Debug, Clone)]
pub struct Tokens {
    client: Client,
}

impl Tokens {
    pub(super) const fn new(client: Client) -> Self {
        Self { client }
    }

    /// The standing token of a role: whoever has it can join as that.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// `Denied` unless the identity is an operator's.
    pub async fn show(&self, role: Role) -> Result<String> {
        let show = api::TokenShow { role: role.word().to_owned() };
        revealed(self.client.ask(request::Kind::TokenShow(show)).await?)
    }

    /// Gives a role another standing token, and answers it. The old one lets nobody in any more; who is in stays in.
    ///
    /// Cancel safe: dropped before the answer, it may have been done, once, or not at all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn rotate(&self, role: Role) -> Result<String> {
        let (role, secret) = (role.word().to_owned(), drawn()?);
        let wrap =
            |once| request::Kind::TokenRotate(api::TokenRotate { role: role.clone(), secret: secret.clone(), once });
        revealed(self.client.wish(wrap).await?)
    }

    /// Makes a token for a role: valid for 24 hours and one node, unless said otherwise.
    pub fn create(&self, role: Role) -> TokenBuilder {
        TokenBuilder { client: self.client.clone(), role, ttl: Some(config::TOKEN_TTL), uses: 1 }
    }

    /// Every token, without its secret.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self) -> Result<Vec<TokenInfo>> {
        self.client.document(request::Kind::TokenList(api::TokenList {})).await
    }

    /// Takes a token back: it lets nobody in any more; who is in stays in.
    ///
    /// Cancel safe: dropped before the answer, it may have been done, once, or not at all.
    ///
    /// # Errors
    /// `NotFound` when there is none with this id.
    pub async fn revoke(&self, id: &str) -> Result<()> {
        let wrap = |once| request::Kind::TokenRevoke(api::TokenRevoke { id: id.to_owned(), once });
        self.client.wished(wrap).await
    }
}

fn revealed(answer: response::Kind) -> Result<String> {
    let response::Kind::Token(done) = answer else { return Err(unexpected()) };
    Ok(done.token)
}

/// A new token's secret is drawn here, so that every copy of a request is answered with the same token.
pub(super) fn drawn() -> Result<Bytes> {
    config::random_id(|bytes: [u8; 16]| Bytes::copy_from_slice(&bytes))
}

/// A token being put together; await it to make it.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until it is awaited"]
pub struct TokenBuilder {
    client: Client,
    role: Role,
    ttl: Option<Duration>,
    uses: u64,
}

impl TokenBuilder {
    /// How long it holds, by the clocks of the managers; whole seconds, at most 365 days.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// It holds until it is revoked.
    pub const fn forever(mut self) -> Self {
        self.ttl = None;
        self
    }

    /// How many nodes it lets in; 0 is any number.
    pub const fn uses(mut self, uses: u64) -> Self {
        self.uses = uses;
        self
    }
}

impl IntoFuture for TokenBuilder {
    type Output = Result<NewToken>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let ttl_s = whole_seconds(self.ttl, "a token holds for a second at least. Nothing was changed")?;
            let id = config::random_id(|bytes: [u8; 16]| bytes)?;
            let id = data_encoding::BASE32_NOPAD_NOCASE.encode(&id).to_ascii_lowercase().chars().take(8).collect();
            let (role, secret) = (self.role.word().to_owned(), drawn()?);
            let create = api::TokenCreate { id, role, ttl_s, uses: self.uses, secret, once: None };
            let wrap = |once| request::Kind::TokenCreate(api::TokenCreate { once, ..create.clone() });
            self.client.wished(wrap).await
        })
    }
}
