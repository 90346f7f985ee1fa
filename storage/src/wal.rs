//! Reads the write-ahead log before RocksDB does, to tell a torn tail from damage.
//!
//! Owns the judgement that RocksDB's own recovery modes cannot make: a power cut leaves an unfinished end, and that must
//! open; anything wrong BEFORE a record that is whole means that records were lost which people were told are safe, and
//! that must not. It walks every file in order: blocks of 32 KiB, in them fragments with a masked CRC-32C, together one
//! record, whose first 12 bytes are a sequence number and a count. Records follow each other without a hole, also across
//! files. Never changes a file by itself: [`Scan::cuts`] says what to cut. Called once per opening.
//!
//! The layout is that of RocksDB's `log_format.h` without recycling, which the store never switches on.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use quorate_core::ports::{StoreError, StoreResult};

use crate::error::io_error;

const BLOCK_BYTES: usize = 32 * 1024;
const FRAGMENT_HEADER_BYTES: usize = 7;
/// Sequence number (8) and count (4) at the head of every record.
const BATCH_HEADER_BYTES: usize = 12;
const FULL: u8 = 1;
const FIRST: u8 = 2;

const LAST: u8 = 4;

/// A file whose end is to be cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) file: PathBuf,
    /// How much of it is whole.
    pub(crate) keep: u64,
    /// How much is not.
    pub(crate) lose: u64,
}

/// What the log files hold.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Sequence number of the last whole record's last change; none when no file holds a record.
    pub(crate) last_sequence: Option<u64>,
    /// Torn ends, in the order of the files.
    pub(crate) cuts: Vec<Cut>,
    /// Where each record ends: file number in order, offset, last sequence. Kept only when asked for.
    #[cfg(feature = "testing")]
    pub(crate) ends: Vec<(PathBuf, u64, u64)>,
}

/// Walks all log files in `dir`.
///
/// # Errors
/// `Corrupt` when a whole record comes after a damaged place or after a hole; `Io` when a file cannot be read.
pub(crate) fn scan(dir: &Path) -> StoreResult<Scan> {
    let mut walk = Walk::default();
    for file in files(dir)? {
        walk.file(&file)?;
    }
    Ok(walk.scan)
}

/// The log files in order of their numbers.
pub(crate) fn files(dir: &Path) -> StoreResult<Vec<PathBuf>> {
    let doing = "listing the write-ahead log";
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| io_error(doing, &error))? {
        let path = entry.map_err(|error| io_error(doing, &error))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), Some("log")) = (number, path.extension().and_then(|ext| ext.to_str())) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// One fragment, found whole.
struct Fragment<'a> {
    kind: u8,
    payload: &'a [u8],
}

/// The fragment at the head of `bytes`, when it is whole.
fn fragment(bytes: &[u8]) -> Option<Fragment<'_>> {
    let (header, rest) = bytes.split_at_checked(FRAGMENT_HEADER_BYTES)?;
    let (sum, header) = header.split_first_chunk::<4>()?;
    let (length, kind) = header.split_first_chunk::<2>()?;
    let kind = *kind.first()?;
    if !(FULL..=LAST).contains(&kind) {
        return None;
    }
    let payload = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
    let found = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
    (u32::from_le_bytes(*sum) == mask(found)).then_some(Fragment { kind, payload })
}

/// RocksDB stores checksums rotated and shifted, because a checksum over data that holds checksums is weak.
const fn mask(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[derive(Default)]
struct Walk {
    scan: Scan,
    /// The sequence number the next record must begin with.
    next: Option<u64>,
    /// The first bad place seen: nothing whole may follow it.
    bad: Option<String>,
}

/// The walk inside one file.
struct InFile<'a> {
    path: &'a Path,
    /// Where the record begins that is being put together, and the head of it.
    open: Option<Vec<u8>>,
    /// End of the last whole record.
    good: u64,
    offset: u64,
}

impl InFile<'_> {
    fn name(&self, at: u64) -> String {
        let name = self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        format!("write-ahead log {name}, byte {at}")
    }
}

impl Walk {
    fn file(&mut self, path: &Path) -> StoreResult<()> {
        let doing = "reading the write-ahead log";
        let mut source = File::open(path).map_err(|error| io_error(doing, &error))?;
        let mut at = InFile { path, open: None, good: 0, offset: 0 };
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        loop {
            fill(&mut source, &mut block).map_err(|error| io_error(doing, &error))?;
            if block.is_empty() {
                break;
            }
            self.block(&mut at, &block)?;
            at.offset += block.len() as u64;
        }
        if at.good < at.offset {
            if self.bad.is_none() {
                self.bad = Some(at.name(at.good));
            }
            self.scan.cuts.push(Cut { file: path.to_owned(), keep: at.good, lose: at.offset - at.good });
        }
        Ok(())
    }

    fn block(&mut self, at: &mut InFile<'_>, block: &[u8]) -> StoreResult<()> {
        let mut position = 0;
        while let Some(rest) = block.get(position..).filter(|rest| !rest.is_empty()) {
            let whole_block = block.len() == BLOCK_BYTES;
            if whole_block && rest.len() < FRAGMENT_HEADER_BYTES {
                // The writer leaves an end too short for a header empty; it belongs to what came before it.
                if at.open.is_none() && self.bad.is_none() {
                    at.good = at.offset + block.len() as u64;
                }
                break;
            }
            match fragment(rest) {
                Some(found) => {
                    let begins = at.offset + position as u64;
                    position += FRAGMENT_HEADER_BYTES + found.payload.len();
                    self.fragment(at, begins, at.offset + position as u64, &found)?;
                }
                None => {
                    if self.bad.is_none() {
                        self.bad = Some(at.name(at.offset + position as u64));
                    }
                    // Lengths cannot be trusted any more: look for a whole fragment at every byte.
                    position += 1;
                }
            }
        }
        Ok(())
    }

    fn fragment(&mut self, at: &mut InFile<'_>, begins: u64, ends: u64, found: &Fragment<'_>) -> StoreResult<()> {
        if let Some(bad) = &self.bad {
            return Err(StoreError::Corrupt {
                record: bad.clone(),
                detail: format!(
                    "it is damaged, and whole records follow it ({}): this is no torn tail, records that were synced are \
                     lost; nothing was changed",
                    at.name(begins)
                ),
            });
        }
        let place = at.name(begins);
        let out_of_order = |detail: &str| Err(StoreError::Corrupt { record: place, detail: detail.to_owned() });
        match (found.kind, &mut at.open) {
            (FULL, None) => self.record(at, begins, ends, found.payload),
            (FIRST, None) => {
                at.open = Some(found.payload.iter().take(BATCH_HEADER_BYTES).copied().collect());
                Ok(())
            }
            (_, None) => out_of_order("the middle of a record without its beginning; nothing was changed"),
            (FULL | FIRST, Some(_)) => out_of_order("the record before it has no end; nothing was changed"),
            (_, Some(head)) => {
                let missing = BATCH_HEADER_BYTES.saturating_sub(head.len());
                head.extend(found.payload.iter().take(missing));
                if found.kind == LAST {
                    let head = std::mem::take(head);
                    at.open = None;
                    self.record(at, begins, ends, &head)?;
                }
                Ok(())
            }
        }
    }

    /// A whole record: it must go on where the one before it ended.
    fn record(&mut self, at: &mut InFile<'_>, begins: u64, ends: u64, head: &[u8]) -> StoreResult<()> {
        let refuse = |detail: String| Err(StoreError::Corrupt { record: at.name(begins), detail });
        let header =
            head.split_first_chunk::<8>().and_then(|(sequence, rest)| Some((sequence, rest.first_chunk::<4>()?)));
        let Some((sequence, count)) = header else {
            return refuse("a record without sequence number and count; nothing was changed".to_owned());
        };
        let (sequence, count) = (u64::from_le_bytes(*sequence), u32::from_le_bytes(*count));
        if let Some(next) = self.next
            && sequence != next
        {
            return refuse(format!(
                "changes {next} to {} are missing before it: a part of the log was removed; nothing was changed",
                sequence.saturating_sub(1)
            ));
        }
        let next = sequence.saturating_add(u64::from(count));
        self.next = Some(next);
        self.scan.last_sequence = Some(next.saturating_sub(1));
        at.good = ends;
        #[cfg(feature = "testing")]
        self.scan.ends.push((at.path.to_owned(), ends, next.saturating_sub(1)));
        Ok(())
    }
}

/// Reads one block, or what is left of the file.
fn fill(source: &mut File, block: &mut Vec<u8>) -> io::Result<()> {
    block.clear();
    source.by_ref().take(BLOCK_BYTES as u64).read_to_end(block).map(drop)
}

#[cfg(test)]
mod tests;
