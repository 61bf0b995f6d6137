//! Encoding and verification of signed records.

use super::*;
use crate::{
    engine::{
        disk::signer::{RecordSigner, TagMismatch, unverified_tag},
        record::{StoredLease, decode},
    },
    model::{BootId, Conditions, LeaseId, Locality, Metadata, Tags, UnixMillis},
    registry::test_support::entry,
};

fn signer() -> RecordSigner {
    RecordSigner::new(3 << 64 | 4)
}

fn stored() -> StoredInstance {
    let mut instance = entry("web", "a", 7).instance.clone();
    instance.tags = Tags::parse(&["v1", "canary"]).unwrap();
    let metadata = std::collections::BTreeMap::from([("k".to_owned(), "v".to_owned()), ("e".into(), String::new())]);
    instance.metadata = Metadata::parse(metadata.iter()).unwrap();
    instance.locality = Locality::parse("eu", "eu-1", "").unwrap();
    instance.conditions = Conditions { operator_draining: true, suspect: true, ..Conditions::default() };
    instance.registered_at = UnixMillis(1_700_000_000_123);
    instance.registered_revision = Revision(u64::MAX - 1);
    let terms = LeaseTerms::grant(Some(Duration::from_secs(9)), Some(Duration::ZERO));
    let lease = StoredLease { id: LeaseId(u128::MAX - 5), boot: BootId::parse("boot").unwrap(), terms };
    StoredInstance { instance, lease: Some(lease) }
}

#[test]
fn record_survives_encoding() {
    for stored in [stored(), StoredInstance { lease: None, ..stored() }] {
        let (bytes, tag) = signer().encode_instance(&stored.instance, stored.lease);
        let (message, read) = signer().verify("web", "a", &bytes).unwrap();
        assert_eq!((read, unverified_tag(&bytes)), (tag, Some(tag)));
        assert_eq!(decode("web", "a", message), Ok(stored));
    }
}

#[test]
fn record_with_flipped_bit_or_missing_end_fails_verification() {
    let (bytes, _) = signer().encode_instance(&stored().instance, stored().lease);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(signer().verify("web", "a", &bytes), Err(TagMismatch));
    }
    for length in 0..bytes.len() {
        assert_eq!(signer().verify("web", "a", &bytes[..length]), Err(TagMismatch));
    }
}

#[test]
fn record_of_another_instance_or_store_fails_verification() {
    let (bytes, _) = signer().encode_instance(&stored().instance, None);
    for (service, id) in [("web", "b"), ("we", "ba"), ("weba", "")] {
        assert_eq!(signer().verify(service, id, &bytes), Err(TagMismatch));
    }
    assert_eq!(RecordSigner::new(9).verify("web", "a", &bytes), Err(TagMismatch));
}
