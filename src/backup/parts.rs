//! What is sealed in a backup, part by part.
//!
//! Owns the order and the lengths of the parts, the digest over them, and that nothing follows the end. Never looks into the
//! state. Called by whoever takes a backup, and whoever reads one.

use std::io;
use std::io::Read;

use prost::Message as _;
use quorate_transport::api::{self, backup_part::Part};

use super::{BackupError, Sealer};

const MAGIC: &[u8; 8] = b"quorback";
/// The format that this build writes, and the newest it reads.
const FORMAT: u32 = 2;
/// A part has this many bytes at most.
const PART_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Writes the parts, sealed.
pub(crate) struct PartWriter {
    sealer: Sealer,
    hasher: blake3::Hasher,
}

impl PartWriter {
    pub(crate) fn new(sealer: Sealer) -> io::Result<Self> {
        let mut writer = Self { sealer, hasher: blake3::Hasher::new() };
        writer.put(MAGIC)?;
        writer.put(&FORMAT.to_be_bytes())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.sealer.write(bytes)
    }

    /// Adds a part; what is sealed by now.
    pub(crate) fn part(&mut self, part: Part) -> io::Result<bytes::Bytes> {
        let body = api::BackupPart { part: Some(part) }.encode_to_vec();
        let length = u32::try_from(body.len()).ok().filter(|length| *length as usize <= PART_BYTES_MAX);
        let length = length.ok_or_else(|| io::Error::other(format!("a part of {} bytes is too long", body.len())))?;
        self.put(&length.to_be_bytes())?;
        self.put(&body)?;
        Ok(self.sealer.take())
    }

    /// The last part; all that is left of the file.
    pub(crate) fn end(mut self) -> io::Result<bytes::Bytes> {
        let digest = bytes::Bytes::copy_from_slice(self.hasher.finalize().as_bytes());
        self.part(Part::End(api::BackupEnd { digest })).map(|sealed| sealed.to_vec()).and_then(|mut sealed| {
            self.sealer.finish()?;
            sealed.extend_from_slice(&self.sealer.take());
            Ok(sealed.into())
        })
    }
}

/// What reading failed at, in words.
pub(super) fn unread(error: &io::Error, bytes: u64) -> BackupError {
    let kind = error.kind();
    if kind == io::ErrorKind::UnexpectedEof {
        BackupError::Short { bytes }
    } else if kind == io::ErrorKind::InvalidData || kind == io::ErrorKind::InvalidInput {
        BackupError::Damaged(format!(
            "its seal does not hold after {bytes} bytes of what is in it, or it was cut off there"
        ))
    } else {
        BackupError::File(format!("it cannot be read: {error}"))
    }
}

/// Reads the parts.
pub(crate) struct PartReader<R> {
    from: R,
    hasher: blake3::Hasher,
    bytes: u64,
    ended: bool,
}

impl<R: Read> PartReader<R> {
    pub(crate) fn new(from: R) -> Result<Self, BackupError> {
        let mut reader = Self { from, hasher: blake3::Hasher::new(), bytes: 0, ended: false };
        let mut begin = [0; MAGIC.len() + 4];
        reader.take(&mut begin)?;
        let (magic, format) = begin.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(BackupError::NotABackup("the key opens it, and it holds something else".to_owned()));
        }
        let format = u32::from_be_bytes(format.try_into().unwrap_or_default());
        if format != FORMAT {
            return Err(BackupError::NeedsVersion(format!(
                "it has format {format}, and this quorate reads format {FORMAT}: use the quorate that wrote it, or a newer one"
            )));
        }
        Ok(reader)
    }

    fn take(&mut self, into: &mut [u8]) -> Result<(), BackupError> {
        self.from.read_exact(into).map_err(|error| unread(&error, self.bytes))?;
        self.hasher.update(into);
        self.bytes += into.len() as u64;
        Ok(())
    }

    /// The next part; `None` behind the end, once it is sure that the file is whole.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let digest = self.hasher.finalize();
        let mut length = [0; 4];
        self.take(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > PART_BYTES_MAX {
            return Err(BackupError::Damaged(format!("a part of it says to have {length} bytes")));
        }
        let mut body = vec![0; length];
        self.take(&mut body)?;
        let unknown = |why: String| BackupError::Damaged(format!("a part of it cannot be read: {why}"));
        let part = api::BackupPart::decode(bytes::Bytes::from(body)).map_err(|error| unknown(error.to_string()))?;
        match part.part.ok_or_else(|| unknown("it is of no kind that is known here".to_owned()))? {
            Part::End(end) => {
                if end.digest != digest.as_bytes()[..] {
                    return Err(BackupError::Damaged("its digest does not hold".to_owned()));
                }
                self.ended = true;
                // Only at the end of the file its seal has said everything.
                match self.from.read(&mut [0; 1]) {
                    Ok(0) => Ok(None),
                    Ok(_) => Err(BackupError::Damaged("something follows its end".to_owned())),
                    Err(error) => Err(unread(&error, self.bytes)),
                }
            }
            part @ (Part::Head(_) | Part::State(_) | Part::Keyring(_) | Part::Opener(_)) => Ok(Some(part)),
        }
    }
}
