//! The header of everything that quorate seals: records on a manager's disk, and what the barrier seals above the log.
//!
//! Owns the layout of the envelope, `version 1 | algorithm 1 | key id 4 | epoch 16, number 8 | sealed payload | tag 16`, so
//! that there is one. Never seals nor opens: who holds the keys does. Called by the store, by the barrier, and at apply, which
//! only has to know which key a sealed part names.

/// The layout that this build writes and reads.
pub const VERSION: u8 = 1;
/// AES-256-GCM under a key that is derived from the named key and the epoch, with the number as its nonce.
pub const ALGORITHM_AES_256_GCM: u8 = 1;
/// Bytes of an epoch: with it a sealing key is derived that nobody else uses.
pub const EPOCH_BYTES: usize = 16;
/// Version, algorithm, key id, epoch, number.
pub const HEADER_BYTES: usize = 6 + EPOCH_BYTES + 8;
/// Bytes of the tag behind the sealed payload.
pub const TAG_BYTES: usize = 16;

/// How a payload is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// With which cipher.
    pub algorithm: u8,
    /// With which key.
    pub key: u32,
    /// What the sealing key was derived with.
    pub epoch: [u8; EPOCH_BYTES],
    /// The nonce: no two payloads of one epoch have the same.
    pub number: u64,
}

/// Why a header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It is shorter than header and tag.
    Short,
    /// It is of a layout that this build does not know.
    Version(u8),
}

impl Header {
    /// Appends it.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.push(VERSION);
        into.push(self.algorithm);
        into.extend_from_slice(&self.key.to_be_bytes());
        into.extend_from_slice(&self.epoch);
        into.extend_from_slice(&self.number.to_be_bytes());
    }

    /// Reads the header of a whole envelope.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn parse(envelope: &[u8]) -> Result<Self, Unreadable> {
        if envelope.len() < HEADER_BYTES + TAG_BYTES {
            return Err(Unreadable::Short);
        }
        Self::read(envelope).ok_or(Unreadable::Short)?
    }

    fn read(envelope: &[u8]) -> Option<Result<Self, Unreadable>> {
        let (kind, rest) = envelope.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_first_chunk::<4>()?;
        let (epoch, rest) = rest.split_first_chunk::<EPOCH_BYTES>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        let [version, algorithm] = *kind;
        if version != VERSION {
            return Some(Err(Unreadable::Version(version)));
        }
        let (key, number) = (u32::from_be_bytes(*key), u64::from_be_bytes(*number));
        Some(Ok(Self { algorithm, key, epoch: *epoch, number }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_a_short_or_foreign_one_does_not() {
        let header = Header { algorithm: ALGORITHM_AES_256_GCM, key: 7, epoch: [3; EPOCH_BYTES], number: 9 };
        let mut envelope = Vec::new();
        header.write(&mut envelope);
        assert_eq!(envelope.len(), HEADER_BYTES);
        assert_eq!(Header::parse(&envelope), Err(Unreadable::Short), "no tag");
        envelope.extend_from_slice(&[0; TAG_BYTES]);
        assert_eq!(Header::parse(&envelope), Ok(header));
        for short in 0..envelope.len() {
            assert_eq!(Header::parse(&envelope[..short]), Err(Unreadable::Short), "{short}");
        }
        envelope[0] = 2;
        assert_eq!(Header::parse(&envelope), Err(Unreadable::Version(2)));
    }
}
