//! What becomes of a typed value on its way into the store and back.
//!
//! Owns the trait, and JSON as the codec that everybody has. Called by tables.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a value could not be encoded or decoded: the codec's own word.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Turns values of a table into bytes and back.
///
/// Bring your own where JSON does not fit: this one is for prost's messages.
///
/// ```
/// use bytes::Bytes;
/// use quorate::{Codec, CodecError};
///
/// #[derive(Clone)]
/// struct Protobuf;
///
/// impl<T: prost::Message + Default> Codec<T> for Protobuf {
///     fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
///         Ok(value.encode_to_vec().into())
///     }
///
///     fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
///         Ok(T::decode(bytes.clone())?)
///     }
/// }
///
/// # async fn example(client: quorate::Client) -> quorate::Result<()> {
/// # type Pod = ();
/// let pods = client.table::<Pod>("pods/").with_codec(Protobuf);
/// # let _ = pods.get("a").await?;
/// # Ok(())
/// # }
/// ```
///
/// What was written by an earlier version of a program is read by a later one, and during an upgrade also the other way round: let
/// values decode where fields are missing, and where there are some that are not known.
pub trait Codec<T>: Clone + Send + Sync + 'static {
    /// The bytes of a value. The same value has the same bytes each time, or a change that changes nothing is written.
    ///
    /// # Errors
    /// The value cannot be written down; nothing is sent then.
    fn encode(&self, value: &T) -> Result<Bytes, CodecError>;

    /// The value of these bytes, which anybody may have written. Must not panic.
    ///
    /// # Errors
    /// They are not a value of this type.
    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError>;
}

/// Values as JSON, by serde: what tables have unless they are given another codec. Readable with `quorate kv get`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json;

impl<T: Serialize + DeserializeOwned> Codec<T> for Json {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        Ok(serde_json::to_vec(value)?.into())
    }

    fn decode(&self, bytes: &Bytes) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}
