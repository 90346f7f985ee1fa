//! Journals written by hand, harmed in every way that matters.

use super::*;

/// Writes a journal file as RocksDB does.
struct Writer {
    bytes: Vec<u8>,
    next: u64,
}

impl Writer {
    fn from(next: u64) -> Self {
        Self { bytes: Vec::new(), next }
    }

    /// One record of `count` changes and `length` bytes.
    fn record(mut self, count: u32, length: usize) -> Self {
        let mut payload = self.next.to_le_bytes().to_vec();
        payload.extend_from_slice(&count.to_le_bytes());
        payload.resize(length.max(BATCH_HEADER_BYTES), 0x5a);
        self.next += u64::from(count);
        let mut rest = &payload[..];
        let mut first = true;
        loop {
            let room = BLOCK_BYTES - self.bytes.len() % BLOCK_BYTES;
            if room < FRAGMENT_HEADER_BYTES {
                self.bytes.resize(self.bytes.len() + room, 0);
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room - FRAGMENT_HEADER_BYTES));
            let kind = match (first, later.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, true) => LAST,
                (false, false) => 3,
            };
            let sum = mask(crc32c::crc32c_append(crc32c::crc32c(&[kind]), now));
            self.bytes.extend_from_slice(&sum.to_le_bytes());
            self.bytes.extend_from_slice(&u16::try_from(now.len()).unwrap().to_le_bytes());
            self.bytes.push(kind);
            self.bytes.extend_from_slice(now);
            (rest, first) = (later, false);
            if rest.is_empty() {
                return self;
            }
        }
    }
}

fn judge(files: &[&[u8]]) -> StoreResult<Scan> {
    let dir = tempfile::tempdir().unwrap();
    for (number, bytes) in files.iter().enumerate() {
        fs::write(dir.path().join(format!("{:06}.log", number * 3 + 8)), bytes).unwrap();
    }
    fs::write(dir.path().join("000001.sst"), b"not a journal").unwrap();
    fs::write(dir.path().join("LOG.log"), b"neither").unwrap();
    scan(dir.path())
}

fn cuts(scan: &Scan) -> Vec<(String, u64, u64)> {
    let name = |cut: &Cut| cut.file.file_name().unwrap().to_str().unwrap().to_owned();
    scan.cuts.iter().map(|cut| (name(cut), cut.keep, cut.lose)).collect()
}

fn refused(files: &[&[u8]], words: &str) {
    let error = judge(files).map(|scan| scan.cuts).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(words), "`{words}` is not in: {error}");
}

#[test]
fn whole_journals_are_read_to_their_end() {
    // lengths around the block size make records that fill a block, and ends too short for a header
    for length in [12, 100, 5_000, 32_749, 32_754, 32_755, 32_758, 32_761, 32_762, 70_000, 200_000] {
        let first = Writer::from(1).record(3, length).record(1, 100).record(0, 12).record(2, length).record(7, length);
        let second = Writer::from(first.next).record(1, length);
        let scan = judge(&[&first.bytes, &second.bytes, b""]).unwrap();
        assert_eq!((scan.last_sequence, cuts(&scan)), (Some(14), vec![]), "{length}");
    }
    assert_eq!(judge(&[]).unwrap().last_sequence, None);
}

#[test]
fn an_unfinished_last_record_is_a_torn_end_wherever_it_stops() {
    for length in [60, 70_000] {
        let whole = Writer::from(5).record(1, 100).record(2, 50);
        let good = whole.bytes.len();
        let torn = whole.record(1, length).bytes;
        for keep in (good + 1..torn.len()).step_by(if length > 100 { 997 } else { 1 }) {
            let scan = judge(&[&torn[..keep]]).unwrap();
            assert_eq!(scan.last_sequence, Some(7), "{length} {keep}");
            let expected = vec![("000008.log".to_owned(), good as u64, (keep - good) as u64)];
            assert_eq!(cuts(&scan), expected, "{length} {keep}");
        }
    }
}

#[test]
fn a_flip_before_a_whole_record_is_damage_and_is_named() {
    let one = Writer::from(1).record(1, 40);
    let middle = one.bytes.len();
    let bytes = one.record(1, 40).record(1, 40).bytes;
    for at in middle..2 * middle {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            refused(&[&flipped], &format!("000008.log, byte {middle}"));
        }
    }
}

#[test]
fn a_flip_before_the_end_of_a_record_of_many_blocks_is_damage() {
    let bytes = Writer::from(1).record(1, 40).record(1, 100_000).bytes;
    for at in [60, 20_000, 32_770, 60_000] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        refused(&[&flipped], "whole records follow it");
    }
}

#[test]
fn a_torn_end_before_a_file_with_records_is_damage() {
    let first = Writer::from(1).record(1, 40).record(1, 40);
    let second = Writer::from(first.next).record(1, 40).bytes;
    let torn = &first.bytes[..first.bytes.len() - 4];
    refused(&[torn, &second], "000008.log");
    // but not before files that hold none
    let scan = judge(&[torn, b"", &second[..9]]).unwrap();
    assert_eq!(scan.last_sequence, Some(1));
    assert_eq!(cuts(&scan), vec![("000008.log".to_owned(), 47, 43), ("000014.log".to_owned(), 0, 9)]);
}

#[test]
fn a_missing_or_shortened_file_between_others_leaves_a_hole_that_is_seen() {
    let first = Writer::from(1).record(1, 40).record(1, 40);
    let second = Writer::from(first.next).record(4, 40);
    let third = Writer::from(second.next).record(1, 40);
    refused(&[&first.bytes, &third.bytes], "changes 3 to 6 are missing");
    refused(&[&first.bytes[..47], &second.bytes, &third.bytes], "changes 2 to 2 are missing");
    refused(&[&first.bytes, b"", &third.bytes], "changes 3 to 6 are missing");
    // old files that are gone from the front were written to tables
    assert_eq!(judge(&[&second.bytes, &third.bytes]).unwrap().last_sequence, Some(7));
}

#[test]
fn fragments_out_of_order_are_damage() {
    let long = Writer::from(1).record(1, 70_000).bytes;
    refused(&[&long[BLOCK_BYTES..]], "without its beginning");
    let mut mixed = long[..BLOCK_BYTES].to_vec();
    mixed.extend_from_slice(&Writer::from(2).record(1, 40).bytes);
    refused(&[&mixed], "has no end");
}
