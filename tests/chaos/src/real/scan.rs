//! A search for what must not be anywhere in clear.
//!
//! Owns the forms in which a value may be written. Never decides where to look.

use std::path::Path;

use super::Done;

/// The forms in which a text may be found.
fn forms(text: &str) -> [(&'static str, Vec<u8>); 5] {
    let bytes = text.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // (In the middle of a longer value the first and last letters of base64 differ; the middle does not, at one offset of three.)
    let base64 = data_encoding::BASE64.encode(bytes);
    let base64 = base64.trim_end_matches('=');
    let base64 = base64.get(..base64.len().saturating_sub(2)).unwrap_or_default();
    let wide = bytes.iter().flat_map(|byte| [*byte, 0]).collect();
    [
        ("itself", bytes.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("upper-case hex", hex.to_uppercase().into_bytes()),
        ("base64", base64.as_bytes().to_vec()),
        ("UTF-16", wide),
    ]
}

/// In which form it is there, if it is.
pub(super) fn find(haystack: &[u8], text: &str) -> Option<&'static str> {
    let found = forms(text).into_iter().find(|(_, form)| contains(haystack, form));
    found.map(|(name, _)| name)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut from = 0;
    while let Some(at) = haystack.get(from..).and_then(|tail| tail.iter().position(|byte| byte == first)) {
        let after = from + at + 1;
        if haystack.get(after..after + rest.len()).is_some_and(|found| found == rest) {
            return true;
        }
        from = after;
    }
    false
}

/// Every file below a directory that has it, with the form.
pub(super) fn files(directory: &Path, text: &str) -> Done<Vec<String>> {
    let mut found = Vec::new();
    for file in walk(directory)? {
        let bytes = std::fs::read(&file)?;
        if let Some(form) = find(&bytes, text) {
            found.push(format!("{} (as {form})", file.display()));
        }
    }
    Ok(found)
}

fn walk(directory: &Path) -> Done<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(walk(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_every_form_and_not_where_it_is_not() {
        let secret = "q7Zt9LwXe2Rk5Yb8";
        for (name, form) in forms(secret) {
            let hidden = [b"before ".to_vec(), form, b" after".to_vec()].concat();
            assert_eq!(find(&hidden, secret), Some(name));
        }
        assert_eq!(find(b"q7Zt9LwXe2Rk5Yb", secret), None);
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("below")).unwrap();
        std::fs::write(temp.path().join("below/file"), format!("xx{secret}xx")).unwrap();
        assert_eq!(files(temp.path(), secret).unwrap().len(), 1);
    }
}
