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

/// Seals and then opens the buffer.
type Cipher = Box<dyn FnMut(u64, &mut [u8], bool, &mut Vec<u8>)>;

fn ring(algorithm: &'static Algorithm) -> Cipher {
    let Ok(key) = UnboundKey::new(algorithm, &[7; 32]) else { unreachable!("a key of 32 bytes fits") };
    let key = LessSafeKey::new(key);
    Box::new(move |count, buffer, open, tag| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&count.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        if open {
            tag.splice(..0, buffer.iter().copied());
            let opened = key.open_in_place(nonce, Aad::from(AAD), tag);
            black_box(opened.map(|plain| plain.len()).unwrap_or_default());
        } else if let Ok(sealed) = key.seal_in_place_separate_tag(nonce, Aad::from(AAD), buffer) {
            tag.clear();
            tag.extend_from_slice(sealed.as_ref());
        }
    })
}

fn rust<C: AeadInPlace + 'static>(cipher: C, nonce_bytes: usize) -> Cipher {
    Box::new(move |count, buffer, open, tag| {
        let mut nonce = vec![0; nonce_bytes];
        nonce[nonce_bytes - 8..].copy_from_slice(&count.to_be_bytes());
        let nonce = aes_gcm::aead::generic_array::GenericArray::from_slice(&nonce);
        if open {
            let sum = aes_gcm::aead::Tag::<C>::clone_from_slice(tag);
            black_box(cipher.decrypt_in_place_detached(nonce, AAD, buffer, &sum).is_ok());
        } else if let Ok(sealed) = cipher.encrypt_in_place_detached(nonce, AAD, buffer) {
            tag.clear();
            tag.extend_from_slice(&sealed);
        }
    })
}

/// The best of some rounds, nanoseconds a record.
fn measured(cipher: &mut Cipher, size: usize, open: bool) -> f64 {
    let turns = (4_000_000 / (size + 200)).max(200);
    let mut best = f64::MAX;
    let mut count = 0;
    for _ in 0..ROUNDS {
        let (mut spent, mut tag) = (0.0, Vec::with_capacity(size + 64));
        let mut buffer = vec![5; size];
        let began = Instant::now();
        for _ in 0..turns {
            count += 1;
            if open {
                cipher(count, &mut buffer, false, &mut tag);
                let now = Instant::now();
                cipher(count, &mut buffer, true, &mut tag);
                spent += now.elapsed().as_nanos() as f64;
            } else {
                cipher(count, &mut buffer, false, &mut tag);
            }
        }
        let all = if open { spent } else { began.elapsed().as_nanos() as f64 };
        best = best.min(all / turns as f64);
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
    println!("ns a record, best of {ROUNDS} rounds: seal / open (opening includes one look at the clock, about 25 ns)\n");
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
