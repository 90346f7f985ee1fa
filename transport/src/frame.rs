//! The frame: how one message lies on a stream.
//!
//! ```text
//! u32 length | u8 kind | u8 flags | u32 crc32c | payload          (big endian; length counts the payload)
//! ```
//!
//! The checksum covers kind, flags and payload. Length and checksum are there because a stream that is dropped half-way looks
//! finished to the reader: only a whole frame counts. Never trusts a length before it is compared with the limit of
//! the stream. Called by every task that owns a stream, on QUIC and on the Unix socket.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes in front of the payload.
pub const HEADER_BYTES: usize = 10;

/// Largest payload on the control lane.
pub const CONTROL_BYTES_MAX: usize = 256 * 1024;
/// Largest payload on the append lane.
pub const APPEND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest snapshot chunk on the wire; longer pieces are split.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Largest snapshot header.
pub const SNAPSHOT_HEADER_BYTES_MAX: usize = 1024 * 1024;
/// Largest request or answer body.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest hello.
pub const HELLO_BYTES_MAX: usize = 64 * 1024;
/// Largest message of a session: one item of work with what goes around it.
pub const SESSION_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest message of a feed: one key's change with its value and what was there before.
pub const FEED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest join request or answer.
pub const JOIN_BYTES_MAX: usize = 64 * 1024;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The dialler's hello.
    Hello = 1,
    /// The acceptor's answer.
    HelloReply = 2,
    /// The dialler's last word of the hello.
    HelloConfirm = 3,
    /// A message on a lane.
    Message = 4,
    /// Nothing: keeps a quiet lane alive and finds out early that the other process is gone.
    Ping = 5,
    /// A request.
    Request = 6,
    /// The answer to a request.
    Response = 7,
    /// First frame of a snapshot: the sender's header.
    SnapshotHeader = 8,
    /// A piece of a snapshot.
    SnapshotChunk = 9,
    /// Last frame of a snapshot: u64 length and 32 bytes digest of all pieces.
    SnapshotEnd = 10,
    /// The receiver's verdict on a snapshot: empty when it is on disk, else why not.
    SnapshotVerdict = 11,
    /// A newcomer's request.
    Join = 12,
    /// The answer to it.
    JoinReply = 13,
    /// A request with a number, among others on one stream.
    Call = 14,
    /// The answer to the call with this number.
    Answer = 15,
    /// There is no answer to the call with this number.
    NoAnswer = 16,
    /// A question that is answered for as long as the asker listens.
    Feed = 17,
}

impl FrameKind {
    /// The kind with this number.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::HelloReply,
            3 => Self::HelloConfirm,
            4 => Self::Message,
            5 => Self::Ping,
            6 => Self::Request,
            7 => Self::Response,
            8 => Self::SnapshotHeader,
            9 => Self::SnapshotChunk,
            10 => Self::SnapshotEnd,
            11 => Self::SnapshotVerdict,
            12 => Self::Join,
            13 => Self::JoinReply,
            14 => Self::Call,
            15 => Self::Answer,
            16 => Self::NoAnswer,
            17 => Self::Feed,
            _ => return None,
        })
    }
}

/// One whole frame whose checksum holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// The message.
    pub payload: Bytes,
}

/// Bytes that are no frame. The stream they came on is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than this stream allows; nothing of it was read.
    #[error("a frame of {length} bytes is over the limit of {limit} bytes on this stream")]
    TooLong {
        /// What the header says.
        length: usize,
        /// What the stream allows.
        limit: usize,
    },
    /// A kind that this version does not know.
    #[error("frame kind {0} is not known")]
    UnknownKind(u8),
    /// Flags that this version does not know.
    #[error("frame flags {0:#04x} are not known")]
    UnknownFlags(u8),
    /// A known kind at the wrong place.
    #[error("a frame of another kind was due here")]
    Unexpected,
    /// Damaged on the way, or never a frame.
    #[error("the checksum of a frame does not hold")]
    Checksum,
    /// The stream ended inside a frame: its writer gave up or died.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The payload does not decode as what the kind says.
    #[error("the payload of a frame is malformed")]
    Malformed,
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(String),
}

fn checksum<B: AsRef<[u8]>>(kind: u8, flags: u8, pieces: &[B]) -> u32 {
    pieces.iter().fold(crc32c::crc32c(&[kind, flags]), |sum, piece| crc32c::crc32c_append(sum, piece.as_ref()))
}

/// The bytes in front of `payload`; `None` when it does not fit a u32.
pub fn header(kind: FrameKind, payload: &[u8]) -> Option<[u8; HEADER_BYTES]> {
    header_of(kind, &[payload])
}

/// The same for a payload in several pieces.
pub(crate) fn header_of<B: AsRef<[u8]>>(kind: FrameKind, pieces: &[B]) -> Option<[u8; HEADER_BYTES]> {
    let length = u32::try_from(pieces.iter().map(|piece| piece.as_ref().len()).sum::<usize>()).ok()?.to_be_bytes();
    let crc = checksum(kind as u8, 0, pieces).to_be_bytes();
    Some([length[0], length[1], length[2], length[3], kind as u8, 0, crc[0], crc[1], crc[2], crc[3]])
}

/// Header and payload in one piece, for short frames.
pub fn encode(kind: FrameKind, payload: &[u8]) -> Option<Bytes> {
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + payload.len());
    bytes.put_slice(&header(kind, payload)?);
    bytes.put_slice(payload);
    Some(bytes.freeze())
}

pub(crate) struct Header {
    length: usize,
    kind: FrameKind,
    kind_byte: u8,
    flags: u8,
    crc: u32,
}

impl Header {
    fn parse(bytes: [u8; HEADER_BYTES], limit: usize) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind_byte, flags, c0, c1, c2, c3] = bytes;
        // Kind first: garbage is then called garbage, and not a frame of an absurd length.
        let kind = FrameKind::from_byte(kind_byte).ok_or(FrameError::UnknownKind(kind_byte))?;
        if flags != 0 {
            return Err(FrameError::UnknownFlags(flags));
        }
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        Ok(Self { length, kind, kind_byte, flags, crc: u32::from_be_bytes([c0, c1, c2, c3]) })
    }

    fn check(&self, payload: Bytes) -> Result<Frame, FrameError> {
        if checksum(self.kind_byte, self.flags, &[&payload]) != self.crc {
            return Err(FrameError::Checksum);
        }
        Ok(Frame { kind: self.kind, payload })
    }

    /// Bytes of the payload that follows.
    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// What it stands in front of.
    pub(crate) const fn kind(&self) -> FrameKind {
        self.kind
    }

    /// Reads the payload.
    pub(crate) async fn read_payload<R: AsyncRead + Unpin>(self, stream: &mut R) -> Result<Frame, FrameError> {
        // Memory follows what has arrived, not what the header claims: a stranger's 8 MiB claim costs nothing.
        let mut payload = BytesMut::with_capacity(self.length.min(64 * 1024));
        while payload.len() < self.length {
            let missing = self.length - payload.len();
            payload.reserve(missing.min(256 * 1024));
            let mut window = (&mut payload).limit(missing);
            match stream.read_buf(&mut window).await {
                Ok(0) => return Err(FrameError::Truncated),
                Ok(_) => {}
                Err(error) => return Err(FrameError::Io(error.to_string())),
            }
        }
        self.check(payload.freeze())
    }
}

/// Takes one frame off the front of `buffer`; `Ok(None)` when more bytes are needed.
///
/// # Errors
/// The bytes are no frame, or one over `limit`.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some(bytes) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::parse(*bytes, limit)?;
    if buffer.len() < HEADER_BYTES + header.length {
        return Ok(None);
    }
    let mut whole = buffer.split_to(HEADER_BYTES + header.length);
    let payload = whole.split_off(HEADER_BYTES).freeze();
    header.check(payload).map(Some)
}

/// Reads one frame; `Ok(None)` when the stream ended cleanly before it.
///
/// Not cancel safe: half a frame may have been read. Give the stream to one task, or drop it afterwards.
///
/// # Errors
/// The bytes are no frame, one over `limit`, or the stream broke.
pub async fn read<R: AsyncRead + Unpin>(stream: &mut R, limit: usize) -> Result<Option<Frame>, FrameError> {
    match read_header(stream, limit).await? {
        Some(header) => header.read_payload(stream).await.map(Some),
        None => Ok(None),
    }
}

/// The head of a frame, checked as far as it can be without its payload.
pub(crate) async fn read_header<R: AsyncRead + Unpin>(
    stream: &mut R,
    limit: usize,
) -> Result<Option<Header>, FrameError> {
    let mut bytes = [0; HEADER_BYTES];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest).await {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Truncated),
            Ok(count) => filled += count,
            Err(error) => return Err(FrameError::Io(error.to_string())),
        }
    }
    Header::parse(bytes, limit).map(Some)
}

/// Reads one frame that must be of `kind`; the end of the stream is an error.
///
/// # Errors
/// As [`read`], and [`FrameError::Unexpected`] for another kind.
pub async fn read_kind<R: AsyncRead + Unpin>(
    stream: &mut R,
    kind: FrameKind,
    limit: usize,
) -> Result<Bytes, FrameError> {
    let frame = read(stream, limit).await?.ok_or(FrameError::Truncated)?;
    if frame.kind == kind { Ok(frame.payload) } else { Err(FrameError::Unexpected) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = FrameKind> {
        (1u8..=17).prop_map(|byte| FrameKind::from_byte(byte).unwrap())
    }

    async fn read_all(mut bytes: &[u8], limit: usize) -> (Vec<Frame>, Option<FrameError>) {
        let mut frames = Vec::new();
        loop {
            match read(&mut bytes, limit).await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, None),
                Err(error) => return (frames, Some(error)),
            }
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_however_it_is_cut(
            messages in prop::collection::vec((kinds(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            cut in 1usize..64,
        ) {
            let mut wire = Vec::new();
            for (kind, payload) in &messages {
                wire.extend_from_slice(&encode(*kind, payload).unwrap());
            }
            let mut buffer = BytesMut::new();
            let mut decoded = Vec::new();
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decode(&mut buffer, 300).unwrap() {
                    decoded.push((frame.kind, frame.payload.to_vec()));
                }
            }
            prop_assert_eq!(&decoded, &messages);
            let (streamed, error) = block_on(read_all(&wire, 300));
            prop_assert_eq!(error, None);
            prop_assert_eq!(streamed.len(), messages.len());
        }

        #[test]
        fn garbage_never_panics_and_never_reads_over_the_limit(garbage in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut buffer = BytesMut::from(garbage.as_slice());
            let outcome = loop {
                match decode(&mut buffer, 1000) {
                    Ok(Some(frame)) => prop_assert!(frame.payload.len() <= 1000),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            let (_, streamed) = block_on(read_all(&garbage, 1000));
            if let Some(error) = outcome {
                prop_assert_eq!(streamed, Some(error), "both decoders agree on what is wrong");
            }
        }

        #[test]
        fn one_flipped_bit_is_noticed(payload in prop::collection::vec(any::<u8>(), 1..200), bit in any::<prop::sample::Index>()) {
            let mut wire = BytesMut::from(&encode(FrameKind::Message, &payload).unwrap()[..]);
            let bit = bit.index(wire.len() * 8);
            wire[bit / 8] ^= 1 << (bit % 8);
            let whole = wire.clone();
            match decode(&mut wire, 1 << 20) {
                // A longer length waits for bytes that never come: the stream ends inside the frame.
                Ok(None) => prop_assert!(block_on(read_all(&whole, 1 << 20)).1.is_some()),
                Ok(Some(frame)) => prop_assert!(false, "accepted as {:?}", frame.kind),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_not_a_shorter_message() {
        let wire = encode(FrameKind::Message, b"all of it").unwrap();
        for cut in 1..wire.len() {
            let (frames, error) = block_on(read_all(&wire[..cut], 100));
            assert!(frames.is_empty());
            assert_eq!(error, Some(FrameError::Truncated));
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_by_its_header_alone() {
        let wire = encode(FrameKind::Message, &[0; 101]).unwrap();
        let mut buffer = BytesMut::from(&wire[..HEADER_BYTES]);
        assert_eq!(decode(&mut buffer, 100), Err(FrameError::TooLong { length: 101, limit: 100 }));
    }
}
