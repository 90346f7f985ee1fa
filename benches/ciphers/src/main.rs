//! How long sealing and opening one record takes, by cipher and size, on one core of this machine.
//!
//! Owns the comparison behind the choice of cipher in `storage/src/sealer.rs`; figures are in `benches/RESULTS.md`. Run it with
//! `cargo run --release` in this directory. Every cipher seals in place in a buffer that is used again, with the key of the
//! record as associated data, as the store does.

use std::hint::black_box;
use std::time::Instant;

use aes_gcm::aead::{AeadInPlace, KeyInit};
use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

const SIZES: [usize; 5] = [16, 64, 256, 1_024, 16 * 1_024];
const ROUNDS: usize = 7;
const AAD: &[u8] = b"user/some/name/of/a/key";

/// Seals the buffer and appends the tag, or opens it with its tag; both in place.
type Cipher = Box<dyn FnMut(u64, &mut Vec<u8>, bool)>;

const TAG_BYTES: usize = 16;

fn ring(algorithm: &'static Algorithm) -> Cipher {
    let Ok(key) = UnboundKey::new(algorithm, &[7; 32]) else { unreachable!("a key of 32 bytes fits") };
    let key = LessSafeKey::new(key);
    Box::new(move |count, buffer, open| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&count.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        if open {
            let opened = key.open_in_place(nonce, Aad::from(AAD), buffer);
            assert!(black_box(opened).is_ok());
        } else if let Ok(tag) = key.seal_in_place_separate_tag(nonce, Aad::from(AAD), buffer) {
            buffer.extend_from_slice(tag.as_ref());
        }
    })
}

fn rust<C: AeadInPlace + 'static>(cipher: C, nonce_bytes: usize) -> Cipher {
    Box::new(move |count, buffer, open| {
        let mut nonce = [0; 24];
        nonce[nonce_bytes - 8..nonce_bytes].copy_from_slice(&count.to_be_bytes());
        let nonce = aes_gcm::aead::generic_array::GenericArray::from_slice(&nonce[..nonce_bytes]);
        if open {
            let payload = buffer.len() - TAG_BYTES;
            let (sealed, tag) = buffer.split_at_mut(payload);
            let tag = aes_gcm::aead::Tag::<C>::clone_from_slice(tag);
            assert!(black_box(cipher.decrypt_in_place_detached(nonce, AAD, sealed, &tag)).is_ok());
        } else if let Ok(tag) = cipher.encrypt_in_place_detached(nonce, AAD, buffer) {
            buffer.extend_from_slice(&tag);
        }
    })
}

/// The best of some rounds, nanoseconds a record, one look at the clock included.
fn measured(cipher: &mut Cipher, size: usize, open: bool) -> f64 {
    let turns = (4_000_000 / (size + 200)).max(200);
    let mut best = f64::MAX;
    let mut count = 0;
    let mut buffer = Vec::with_capacity(size + TAG_BYTES);
    for _ in 0..ROUNDS {
        let mut spent = 0.0;
        for _ in 0..turns {
            count += 1;
            buffer.clear();
            buffer.resize(size, 5);
            let mut began = Instant::now();
            cipher(count, &mut buffer, false);
            if open {
                began = Instant::now();
                cipher(count, &mut buffer, true);
            }
            spent += began.elapsed().as_nanos() as f64;
        }
        best = best.min(spent / turns as f64);
    }
    best
}

fn main() {
    let ciphers: [(&str, Cipher); 6] = [
        ("AES-256-GCM (ring)", ring(&AES_256_GCM)),
        ("AES-256-GCM (aes-gcm)", rust(aes_gcm::Aes256Gcm::new(&[7; 32].into()), 12)),
        ("AES-256-GCM-SIV (aes-gcm-siv)", rust(aes_gcm_siv::Aes256GcmSiv::new(&[7; 32].into()), 12)),
        ("ChaCha20-Poly1305 (ring)", ring(&CHACHA20_POLY1305)),
        ("ChaCha20-Poly1305 (chacha20poly1305)", rust(chacha20poly1305::ChaCha20Poly1305::new(&[7; 32].into()), 12)),
        ("XChaCha20-Poly1305 (chacha20poly1305)", rust(chacha20poly1305::XChaCha20Poly1305::new(&[7; 32].into()), 24)),
    ];
    println!("ns a record, best of {ROUNDS} rounds: seal / open, one look at the clock (about 25 ns) included\n");
    println!("| cipher | {} |", SIZES.map(|size| format!("{size} B")).join(" | "));
    println!("|---|{}", "---|".repeat(SIZES.len()));
    for (name, mut cipher) in ciphers {
        let cells = SIZES.map(|size| {
            let (seal, open) = (measured(&mut cipher, size, false), measured(&mut cipher, size, true));
            format!("{seal:.0} / {open:.0}")
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
}
