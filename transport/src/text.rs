//! Printed forms that the certificates and tokens need: instants in UTC, PEM blocks, base32.
//!
//! Owns no state. Never reads a clock: instants come in as arguments. Called by the certificate and token code.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, Encoding, Specification};
use zeroize::Zeroizing;

/// Base32, lower case, no padding: the alphabet of every printed id and token.
pub(crate) fn base32() -> &'static Encoding {
    use std::sync::OnceLock;
    static ENCODING: OnceLock<Encoding> = OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        spec.encoding().unwrap_or(data_encoding::BASE32_NOPAD_NOCASE)
    })
}

/// Seconds since 1970, 0 for an instant before.
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// An instant, seconds since 1970, as people read it: RFC 3339 in UTC, `2026-03-01T09:30:00Z`.
pub fn utc(unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400;
    let second = unix_seconds % 86_400;
    // Civil date from a day count: eras of 400 years that begin on a 1 March, so that the leap day is the last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// One PEM block. The text is wiped when it is dropped, since it may hold a key.
pub(crate) fn pem_block(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 64));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for (position, symbol) in body.char_indices() {
        if position != 0 && position % 64 == 0 {
            text.push('\n');
        }
        text.push(symbol);
    }
    text.push_str("\n-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// What the first PEM block of this label holds; the inner one is `None` where it does not parse.
pub(crate) fn pem_content(text: &[u8], label: &str) -> Option<Option<Vec<u8>>> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let body = rest.split_once(&format!("-----END {label}-----")).map(|(body, _)| body);
    Some(body.and_then(|body| BASE64.decode(body.split_whitespace().collect::<String>().as_bytes()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_print_as_people_read_them() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_772_357_400), "2026-03-01T09:30:00Z");
        assert_eq!(utc(4_102_444_799), "2099-12-31T23:59:59Z");
    }

    #[test]
    fn a_pem_block_reads_back() {
        use rustls_pki_types::CertificateDer;
        use rustls_pki_types::pem::PemObject;
        for length in [1, 47, 48, 49, 500] {
            let der = vec![7; length];
            let text = pem_block("CERTIFICATE", &der);
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(), der.as_slice());
            assert_eq!(pem_content(text.as_bytes(), "CERTIFICATE"), Some(Some(der)));
            assert_eq!(pem_content(text.as_bytes(), "OTHER"), None);
            assert_eq!(pem_content(&text.as_bytes()[..40], "CERTIFICATE"), Some(None));
        }
    }
}
