//! What RocksDB and the system say, in the words of the ports.
//!
//! Owns the mapping of errors. Never hides one. Called wherever the disk is touched.

use std::io;

use quorate_core::ports::StoreError;
use rocksdb::ErrorKind;

/// A failure of a file operation of our own.
pub(crate) fn io_error(doing: &'static str, error: &io::Error) -> StoreError {
    if error.kind() == io::ErrorKind::StorageFull {
        return StoreError::Full { doing, detail: error.to_string() };
    }
    StoreError::Io { doing, detail: error.to_string() }
}

/// A failure that RocksDB reports. Its messages name the file.
pub(crate) fn rocks_error(doing: &'static str, error: &rocksdb::Error) -> StoreError {
    let detail = error.to_string();
    if detail.contains("No space left on device") {
        return StoreError::Full { doing, detail };
    }
    // A file of large values is opened when the first of them is read.
    let is_gone = detail.contains("No such file or directory") && file_in(&detail).ends_with(".blob");
    if error.kind() == ErrorKind::Corruption || is_gone {
        return StoreError::Corrupt { record: file_in(&detail), detail };
    }
    StoreError::Io { doing, detail }
}

/// A failure to open the database: there a file that is not there is damage, not a refusal of the disk.
pub(crate) fn open_error(error: &rocksdb::Error) -> StoreError {
    let doing = "opening the database";
    let detail = error.to_string();
    if detail.contains("lock hold by") || detail.contains("While lock file") {
        return StoreError::Locked { holder: None };
    }
    if detail.contains("No such file or directory") || error.kind() == ErrorKind::InvalidArgument {
        return StoreError::Corrupt { record: file_in(&detail), detail };
    }
    rocks_error(doing, error)
}

/// The file that a message of RocksDB is about, as far as it names one.
fn file_in(message: &str) -> String {
    message
        .split(|c: char| c.is_whitespace() || c == ':')
        .map(|word| word.trim_matches(|c: char| ",;()'\"".contains(c)))
        .find(|word| [".sst", ".log", ".blob"].iter().any(|end| word.ends_with(end)) || word.contains("MANIFEST-"))
        .and_then(|path| path.rsplit('/').next())
        .map_or_else(|| "database".to_owned(), |name| format!("file {name}"))
}
