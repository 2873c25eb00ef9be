//! The cipher and the derivation that records are made of, against the vectors of Project Wycheproof: known attacks,
//! edge cases and forgeries.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use wycheproof::{TestResult, aead, hkdf as kdf};

/// Opens as a record is opened: into a copy, with the tag apart.
fn open(test: &aead::Test, tag: &[u8]) -> Option<Vec<u8>> {
    let cipher = Aes256Gcm::new_from_slice(&test.key).unwrap();
    let nonce: [u8; 12] = test.nonce[..].try_into().unwrap();
    let tag: &Tag = tag.try_into().ok()?;
    let mut body = test.ct.to_vec();
    cipher.decrypt_inout_detached(&nonce.into(), &test.aad, body.as_mut_slice().into(), tag).ok()?;
    Some(body)
}

#[test]
fn aes_256_gcm_passes_every_vector_of_its_size() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let (mut good, mut bad) = (0, 0);
    let groups = set.test_groups.iter();
    for group in groups.filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128)) {
        for test in &group.tests {
            let opened = open(test, &test.tag);
            if test.result == TestResult::Invalid {
                bad += 1;
                assert_eq!(opened, None, "vector {}: {}", test.tc_id, test.comment);
                continue;
            }
            good += 1;
            assert_eq!(opened.as_deref(), Some(&test.pt[..]), "vector {}: {}", test.tc_id, test.comment);
            let cipher = Aes256Gcm::new_from_slice(&test.key).unwrap();
            let nonce: [u8; 12] = test.nonce[..].try_into().unwrap();
            let mut body = test.pt.to_vec();
            let tag = cipher.encrypt_inout_detached(&nonce.into(), &test.aad, body.as_mut_slice().into()).unwrap();
            assert_eq!((&body[..], &tag[..]), (&test.ct[..], &test.tag[..]), "vector {}", test.tc_id);
            for position in 0..16 {
                let mut tag = test.tag.to_vec();
                tag[position] ^= 1;
                assert_eq!(open(test, &tag), None, "vector {} with another tag", test.tc_id);
            }
        }
    }
    assert_eq!((good, bad), (39, 27), "the set is not what it was");
}

#[test]
fn hkdf_sha_256_passes_every_vector() {
    let set = kdf::TestSet::load(kdf::TestName::HkdfSha256).unwrap();
    let mut count = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        count += 1;
        let mut okm = vec![0; test.size];
        let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
        match test.result {
            TestResult::Invalid => assert!(expanded.is_err(), "vector {}: {}", test.tc_id, test.comment),
            _ => assert_eq!((expanded.is_ok(), &okm[..]), (true, &test.okm[..]), "vector {}", test.tc_id),
        }
    }
    assert!(count >= 80, "{count} vectors: the set is not what it was");
}
