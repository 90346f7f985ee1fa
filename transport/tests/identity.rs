//! Certificates, requests to sign, identity files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use quorate_core::id::ClusterId;
use quorate_transport::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};
use support::*;

const VALIDITY: Duration = Duration::from_secs(90 * 86_400);

fn subject(cluster: &TestCluster) -> CertSubject {
    CertSubject { cluster: cluster.id, node_id: node_id(5), role: CertRole::Worker, enrolled: None }
}

#[test]
fn a_request_that_asks_for_a_ca_other_names_and_usages_gets_none_of_them() {
    let cluster = TestCluster::new(1);
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut asked = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        asked.distinguished_name.push(DnType::CommonName, node_id(1).to_string());
        asked.distinguished_name.push(DnType::OrganizationalUnitName, "manager");
        asked.distinguished_name.push(DnType::OrganizationName, ClusterId::from_bytes([9; 16]).to_string());
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        asked.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::CodeSigning];
        let csr = asked.serialize_request(&key).unwrap();

        let now = SystemTime::now();
        let certificate = cluster.ca.issue(csr.der(), &subject(&cluster), VALIDITY, now).unwrap();

        let found = Subject::of(&certificate).unwrap();
        assert_eq!(found.named(), subject(&cluster));
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(found.not_before, seconds - 2 * 3_600);
        assert_eq!(found.not_after, seconds + VALIDITY.as_secs());
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        assert!(!parsed.is_ca());
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        let extended = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth && !extended.code_signing);
        let text = String::from_utf8_lossy(&certificate).into_owned();
        assert!(!text.contains("evil.example"));
        assert_eq!(parsed.subject().iter_organizational_unit().count(), 1);
    }
}

#[test]
fn a_request_with_an_unknown_extension_is_refused_or_cleaned_never_honoured() {
    let cluster = TestCluster::new(1);
    let key = rcgen::KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut asked = CertificateParams::default();
    asked.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 25, 77], b"\x04\x06marker".to_vec())];
    let csr = asked.serialize_request(&key).unwrap();
    match cluster.ca.issue(csr.der(), &subject(&cluster), VALIDITY, SystemTime::now()) {
        Ok(certificate) => assert!(!certificate.windows(6).any(|window| window == b"marker")),
        Err(error) => assert!(matches!(error, CaError::BadRequest(_)), "{error}"),
    }
}

#[test]
fn a_request_that_is_not_signed_by_its_own_key_is_refused() {
    let cluster = TestCluster::new(1);
    let mut csr = KeyPair::generate().unwrap().csr().unwrap();
    let last = csr.len() - 1;
    csr[last] ^= 1;
    let refused = cluster.ca.issue(&csr, &subject(&cluster), VALIDITY, SystemTime::now());
    assert!(matches!(refused, Err(CaError::BadRequest(_))), "{refused:?}");
}

#[test]
fn a_ca_signs_for_its_own_cluster_only_and_not_beyond_its_own_life() {
    let cluster = TestCluster::new(1);
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let other = CertSubject { cluster: ClusterId::from_bytes([2; 16]), ..subject(&cluster) };
    assert!(matches!(cluster.ca.issue(&csr, &other, VALIDITY, SystemTime::now()), Err(CaError::WrongCluster { .. })));
    let late = SystemTime::now() + Duration::from_secs(19 * 365 * 86_400);
    let certificate = cluster.ca.issue(&csr, &subject(&cluster), Duration::from_secs(u64::MAX / 4), late).unwrap();
    let root =
        x509_parser::parse_x509_certificate(cluster.ca.certificate()).unwrap().1.validity().not_after.timestamp();
    assert_eq!(i64::try_from(Subject::of(&certificate).unwrap().not_after).unwrap(), root);
    let too_late = SystemTime::now() + Duration::from_secs(21 * 365 * 86_400);
    assert!(matches!(cluster.ca.issue(&csr, &subject(&cluster), VALIDITY, too_late), Err(CaError::OutOfTime(_))));
}

#[test]
fn a_cross_certificate_holds_whenever_the_root_holds_that_made_it() {
    // Given a root that is years old, and one that follows it, made where the clock is a day ahead
    let cluster = TestCluster::new(1);
    let now = SystemTime::now() + Duration::from_secs(3 * 365 * 86_400 + 86_400);
    let next = ClusterCa::create(cluster.id, now).unwrap();
    // When the old one signs it across
    let cross = cluster.ca.cross_sign(&next, now).unwrap();
    let parsed = |der: &[u8]| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        let validity = certificate.validity();
        let names = (certificate.subject().as_raw().to_vec(), certificate.issuer().as_raw().to_vec());
        (validity.not_before.timestamp(), validity.not_after.timestamp(), names)
    };
    // Then it holds from when the old one does, for whoever's clock is behind, and not for longer than that;
    let (old_begins, old_ends, (old_name, _)) = parsed(cluster.ca.certificate());
    let (begins, ends, names) = parsed(&cross);
    assert_eq!((begins, ends), (old_begins, old_ends));
    assert!(old_ends < parsed(next.certificate()).1, "the new one holds for longer");
    // it is the word of the old one for the new one.
    assert_eq!(names, (parsed(next.certificate()).2.0, old_name));
    // Nobody signs for another cluster.
    let other = TestCluster::new(2);
    assert!(matches!(cluster.ca.cross_sign(&other.ca, now), Err(CaError::WrongCluster { .. })));
}

#[test]
fn a_ca_survives_its_parts_and_refuses_parts_of_two_cas() {
    let one = TestCluster::new(1);
    let two = TestCluster::new(2);
    let (certificate, key) = one.ca.to_parts();
    let again = ClusterCa::from_parts(&certificate, &key).unwrap();
    assert_eq!((again.cluster_id(), again.hash()), (one.id, one.ca.hash()));
    let (_, other_key) = two.ca.to_parts();
    assert!(matches!(ClusterCa::from_parts(&certificate, &other_key), Err(CaError::BadParts(_))));
    assert!(matches!(ClusterCa::from_parts(b"nonsense", &key), Err(CaError::BadParts(_))));
}

#[test]
fn two_certificates_of_one_key_have_different_serials() {
    let cluster = TestCluster::new(1);
    let csr = KeyPair::generate().unwrap().csr().unwrap();
    let serial = || {
        let certificate = cluster.ca.issue(&csr, &subject(&cluster), VALIDITY, SystemTime::now()).unwrap();
        x509_parser::parse_x509_certificate(&certificate).unwrap().1.raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn an_identity_file_is_private_and_reads_back() {
    let cluster = TestCluster::new(1);
    let identity = cluster.identity(3, CertRole::Operator);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("operator.id");
    identity.write(&path).unwrap();
    identity.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let read = Identity::load(&path).unwrap();
    assert_eq!(read.subject(), identity.subject());
    assert_eq!(read.ca_hash(), cluster.ca.hash());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn an_identity_file_whose_key_is_sealed_shows_everything_else() {
    let cluster = TestCluster::new(1);
    let identity = cluster.identity(3, CertRole::Manager);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.id");
    // Given what a crash has left, and a file of somebody else
    let (left, other) = (directory.path().join(".node.id.7.0.tmp"), directory.path().join(".node.idle.tmp"));
    for draft in [&left, &other] {
        std::fs::write(draft, identity.to_pem().as_bytes()).unwrap();
    }
    identity.write_sealed(&path, b"sealed by its owner").unwrap();
    sweep(&path).unwrap();
    assert!(!left.exists() && other.exists());
    // Then it is nobody's identity, and says whose
    assert!(matches!(Identity::load(&path), Err(IdentityError::Sealed { .. })));
    let file = IdentityFile::load(&path).unwrap();
    assert_eq!(file.shown.subject(), identity.subject());
    assert!(file.shown.knows(&cluster.ca.hash()));
    let FileKey::Sealed(sealed) = file.key else { panic!("it is in clear") };
    assert_eq!(sealed, b"sealed by its owner");
    let key = KeyPair::from_pkcs8(identity.key().pkcs8_der()).unwrap();
    assert_eq!(Identity::of(file.shown.clone(), key).unwrap().subject(), identity.subject());
    assert!(Identity::of(file.shown, KeyPair::generate().unwrap()).is_err());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("BEGIN PRIVATE KEY"), "{text}");
    // and one of which half is gone is refused.
    std::fs::write(&path, &text[..text.find("-----END QUORATE").unwrap()]).unwrap();
    let error = Identity::load(&path).unwrap_err().to_string();
    assert!(error.contains("sealed key in it does not parse"), "{error}");
}

#[test]
fn a_broken_identity_file_says_what_is_wrong_and_shows_no_key() {
    let cluster = TestCluster::new(1);
    let (one, two) = (cluster.identity(3, CertRole::Operator), cluster.identity(4, CertRole::Operator));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("operator.id");
    let missing = Identity::load(&path).unwrap_err();
    assert!(missing.to_string().contains("operator.id"), "{missing}");
    let pem = one.to_pem();
    let key_at = pem.find("-----BEGIN PRIVATE KEY").unwrap();
    let swapped =
        format!("{}{}", &pem[..key_at], &two.to_pem()[two.to_pem().find("-----BEGIN PRIVATE KEY").unwrap()..]);
    for (text, what) in [
        (&pem[..key_at], "no private key"),
        (&pem[key_at..], "0 certificates"),
        (swapped.as_str(), "not the certificate's"),
        ("", "0 certificates"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Identity::load(&path).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let shown = format!("{one:?} {:?}", one.key());
    assert!(!shown.contains(&data_encoding::BASE64.encode(one.key().pkcs8_der())[20..60]));
}

#[test]
fn a_renewed_identity_keeps_its_key() {
    let cluster = TestCluster::new(1);
    let identity = cluster.identity(3, CertRole::Manager);
    let fresh = cluster
        .ca
        .issue(&identity.key().csr().unwrap(), &identity.subject().named(), VALIDITY, SystemTime::now())
        .unwrap();
    let renewed = identity.renewed(fresh).unwrap();
    assert_eq!(renewed.subject().key_digest, identity.subject().key_digest);
    assert!(renewed.subject().not_after > identity.subject().not_after);
    let other = cluster.identity(4, CertRole::Manager);
    assert!(identity.renewed(other.certificate().clone()).is_err());
}

#[test]
fn an_expired_certificate_names_both_clocks() {
    let cluster = TestCluster::new(1);
    let identity = cluster.identity_at(3, CertRole::Manager, DAY, SystemTime::UNIX_EPOCH + 20_000 * DAY);
    let error = identity.subject().check_time(SystemTime::UNIX_EPOCH + 20_010 * DAY).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the certificate expired at 2024-10-05T00:00:00Z; the clock here says 2024-10-14T00:00:00Z: renew it, or set the clock that is wrong"
    );
    let early = identity.subject().check_time(SystemTime::UNIX_EPOCH + 19_000 * DAY).unwrap_err();
    assert!(matches!(early, CertificateProblem::NotYetValid { .. }), "{early}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_is_never_a_request_a_certificate_or_an_identity(garbage in prop::collection::vec(any::<u8>(), 0..600)) {
        use std::sync::OnceLock;
        static CLUSTER: OnceLock<Arc<TestCluster>> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| Arc::new(TestCluster::new(1)));
        prop_assert!(cluster.ca.issue(&garbage, &subject(cluster), VALIDITY, SystemTime::now()).is_err());
        prop_assert!(Subject::of(&garbage.clone().into()).is_err());
        prop_assert!(Identity::from_pem(&garbage, std::path::Path::new("x")).is_err());
    }
}

#[test]
fn an_identity_of_a_new_root_reads_back_with_what_it_trusts_and_remembers_its_old_roots() {
    // Given an identity of a first root, and one that comes after it
    let cluster = TestCluster::new(1);
    let old = cluster.identity(3, CertRole::Worker);
    let next = ClusterCa::create(cluster.id, SystemTime::now()).unwrap();
    let cross = cluster.ca.cross_sign(&next, SystemTime::now()).unwrap();
    assert!(is_root(next.certificate()) && !is_root(&cross));
    let csr = old.key().csr().unwrap();
    let certificate = next.issue(&csr, &old.subject().named(), VALIDITY, SystemTime::now()).unwrap();
    // When it is renewed while both are trusted, and read back
    let (first, second) = (cluster.ca.certificate().clone(), next.certificate().clone());
    let both = old.renewed_under(certificate.clone(), vec![second.clone(), cross, first]).unwrap();
    assert_ne!(both.subject().issuer, old.subject().issuer);
    assert_eq!(both.subject().issuer, next.issuer_id());
    let read =
        |identity: &Identity| Identity::from_pem(identity.to_pem().as_bytes(), std::path::Path::new("id")).unwrap();
    assert_eq!((read(&both).authorities().count(), read(&both).trust_id()), (3, both.trust_id()));
    // Then, when that is over, it trusts the new one alone, and still knows tokens of the old one as its cluster's.
    let over = both.renewed_under(certificate, vec![second.clone()]).unwrap();
    let again = read(&over);
    assert_eq!((again.authorities().count(), again.ca_hash()), (1, next.hash()));
    assert!(again.knows(&next.hash()) && again.knows(&cluster.ca.hash()));
    assert!(!again.knows(&TestCluster::new(1).ca.hash()), "another cluster's");
    // Who sees that a manager trusts less, trusts no more than that; not another root, and not more.
    assert_eq!(both.narrowed(vec![second]).unwrap().trust_id(), over.trust_id());
    assert!(both.narrowed(vec![cluster.ca.certificate().clone()]).is_none());
    assert!(both.narrowed(Vec::new()).is_none() && over.narrowed(vec![next.certificate().clone()]).is_none());
}
