//! Join tokens: `QRT-1-<hash of the CA certificate>-<secret>`.
//!
//! Owns their form. Never prints a secret unless asked by [`JoinToken::reveal`]. The hash is what makes the first contact
//! safe: the newcomer takes no CA but that one. Called by the node (to make and check tokens) and by the newcomer.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::text::base32;

const PREFIX: &str = "QRT";
const VERSION: &str = "1";
const HASH_SYMBOLS: usize = 52;
const SECRET_SYMBOLS: usize = 26;

/// The secret half of a join token: 16 random bytes, wiped when dropped.
#[derive(Clone)]
pub struct TokenSecret([u8; 16]);

impl Drop for TokenSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl TokenSecret {
    /// Wraps 128 random bits drawn by the caller.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes. Do not log them.
    pub const fn expose(&self) -> &[u8; 16] {
        &self.0
    }

    /// Compares in a time that does not depend on where the two differ.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.as_slice().ct_eq(other).into()
    }

    /// What is kept of a token that is shown once.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0).into())
    }
}

/// SHA-256 of a token's secret: what is kept of a token that is shown once. The secret has 128 random bits, so that nobody
/// finds it by trying.
#[derive(Debug, Clone, Copy)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The bytes, to be kept.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in a time that does not depend on where the two differ.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.as_slice().ct_eq(other).into()
    }
}

impl PartialEq for TokenSecret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for TokenSecret {}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(redacted)")
    }
}

/// SHA-256 of a cluster's CA certificate (DER).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CaHash([u8; 32]);

impl CaHash {
    /// The hash of this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }

    /// The hash with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads what is displayed back.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        base32().decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }
}

/// Reads the printed form: 52 symbols, as between the dashes of a join token.
impl TryFrom<&str> for CaHash {
    type Error = ParseTokenError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        part("CA hash", Some(text.trim()), HASH_SYMBOLS).map(Self)
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0))
    }
}

impl fmt::Debug for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaHash({self})")
    }
}

/// What lets a new node in. It has no `Display`: printing it is [`JoinToken::reveal`], on purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    ca: CaHash,
    secret: TokenSecret,
}

impl JoinToken {
    /// A token for the cluster of this CA certificate.
    pub const fn new(ca: CaHash, secret: TokenSecret) -> Self {
        Self { ca, secret }
    }

    /// The CA that the newcomer will accept, and no other.
    pub const fn ca_hash(&self) -> &CaHash {
        &self.ca
    }

    /// The secret half.
    pub const fn secret(&self) -> &TokenSecret {
        &self.secret
    }

    /// The token as text, secret included: for `token show` and for nothing else.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}-{VERSION}-{}-{}", self.ca, base32().encode(&self.secret.0))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken {{ ca: {}, secret: redacted }}", self.ca)
    }
}

/// A text that is not a join token. It never repeats the text, which may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// Not even the beginning of one.
    #[error("this is not a join token: one begins with `QRT-1-`; print it on a manager with `quorate token show`")]
    NotAToken,
    /// A token of another version.
    #[error("this join token has version {0}, this build knows version 1; use a build as new as the cluster")]
    WrongVersion(String),
    /// A part is missing or too short.
    #[error(
        "the join token is cut off: its {part} has {found} of {expected} characters; copy the whole line of `quorate token show`"
    )]
    Truncated {
        /// Which part.
        part: &'static str,
        /// Characters found.
        found: usize,
        /// Characters expected.
        expected: usize,
    },
    /// A part is too long, or there is more after it.
    #[error("the join token is too long at its {part}: two lines may have run together")]
    TooLong {
        /// Which part.
        part: &'static str,
    },
    /// A character that is not base32.
    #[error(
        "the {part} of the join token has a character that no token has (a-z and 2-7 are allowed): it was mistyped"
    )]
    BadCharacter {
        /// Which part.
        part: &'static str,
    },
}

fn part<const N: usize>(name: &'static str, text: Option<&str>, symbols: usize) -> Result<[u8; N], ParseTokenError> {
    let text = text.unwrap_or_default();
    let found = text.chars().count();
    if found < symbols {
        return Err(ParseTokenError::Truncated { part: name, found, expected: symbols });
    }
    if found > symbols {
        return Err(ParseTokenError::TooLong { part: name });
    }
    let bad = ParseTokenError::BadCharacter { part: name };
    let mut bytes = base32().decode(text.to_ascii_lowercase().as_bytes()).ok().ok_or_else(|| bad.clone())?;
    let fixed = bytes.as_slice().try_into().ok().ok_or(bad);
    bytes.zeroize();
    fixed
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let mut parts = text.trim().split('-');
        if !parts.next().is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX)) {
            return Err(ParseTokenError::NotAToken);
        }
        match parts.next() {
            Some(VERSION) => {}
            Some(other) if !other.is_empty() && other.len() <= 4 && other.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(ParseTokenError::WrongVersion(other.to_owned()));
            }
            _ => return Err(ParseTokenError::NotAToken),
        }
        let ca = part("CA hash", parts.next(), HASH_SYMBOLS)?;
        let secret = part("secret", parts.next(), SECRET_SYMBOLS)?;
        if parts.next().is_some() {
            return Err(ParseTokenError::TooLong { part: "secret" });
        }
        Ok(Self { ca: CaHash(ca), secret: TokenSecret(secret) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(CaHash([7; 32]), TokenSecret::from_bytes([9; 16]))
    }

    #[test]
    fn a_token_survives_its_text_also_in_capitals_and_with_a_line_end() {
        let text = token().reveal();
        assert!(text.starts_with("QRT-1-"));
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!(" {}\n", text.to_uppercase()).parse(), Ok(token()));
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let shown = format!("{:?} {:?}", token(), token().secret());
        let secret = base32().encode(&[9; 16]);
        assert!(!shown.contains(&secret), "{shown}");
        assert!(token().reveal().contains(&secret), "the positive control");
    }

    #[test]
    fn a_wrong_text_is_told_what_is_wrong_with_it() {
        let text = token().reveal();
        assert_eq!("SWMTKN-1-abc-def".parse::<JoinToken>(), Err(ParseTokenError::NotAToken));
        assert_eq!("".parse::<JoinToken>(), Err(ParseTokenError::NotAToken));
        assert_eq!("QRT".parse::<JoinToken>(), Err(ParseTokenError::NotAToken));
        assert_eq!(text.replace("QRT-1", "QRT-2").parse::<JoinToken>(), Err(ParseTokenError::WrongVersion("2".into())));
        assert_eq!(
            text[..40].parse::<JoinToken>(),
            Err(ParseTokenError::Truncated { part: "CA hash", found: 34, expected: 52 })
        );
        assert_eq!(
            text[..text.len() - 3].parse::<JoinToken>(),
            Err(ParseTokenError::Truncated { part: "secret", found: 23, expected: 26 })
        );
        assert_eq!(format!("{text}a").parse::<JoinToken>(), Err(ParseTokenError::TooLong { part: "secret" }));
        assert_eq!(format!("{text}-a").parse::<JoinToken>(), Err(ParseTokenError::TooLong { part: "secret" }));
        let mistyped = format!("{}1", &text[..text.len() - 1]);
        assert_eq!(mistyped.parse::<JoinToken>(), Err(ParseTokenError::BadCharacter { part: "secret" }));
    }

    #[test]
    fn a_digest_is_that_of_one_secret() {
        let (one, other) = (TokenSecret::from_bytes([9; 16]).digest(), TokenSecret::from_bytes([8; 16]).digest());
        assert!(one.matches(TokenSecret::from_bytes([9; 16]).digest().as_bytes()));
        assert!(!one.matches(other.as_bytes()) && !one.matches(&[]) && !one.matches(&[9; 16]));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_never_echoed(text in "\\PC{0,120}") {
            if let Err(error) = text.parse::<JoinToken>() && text.len() > 8 {
                prop_assert!(!error.to_string().contains(text.as_str()));
            }
        }
    }
}
