//! Decoding of invalid records, and the output of `Debug`.

use std::time::Duration;

use super::{
    message::{InstanceRecord, RecordLease},
    *,
};
use crate::model::{Revision, UnixMillis};
use crate::registry::test_support::entry;

fn stored() -> StoredInstance {
    let instance =
        Instance { registered_at: UnixMillis(1), revision: Revision(7), ..entry("web", "a", 7).instance.clone() };
    let terms = LeaseTerms::grant(Some(Duration::from_secs(9)), Some(Duration::ZERO));
    let lease = StoredLease { id: LeaseId(u128::MAX - 5), boot: BootId::parse("boot").unwrap(), terms };
    StoredInstance { instance, lease: Some(lease) }
}

#[test]
fn record_with_invalid_value_fails_to_decode() {
    assert_eq!(decode("web", "a", &[0xff]), Err(DecodeError::Message));
    assert!(matches!(decode("web", "a", &[]), Err(DecodeError::Field(_))), "no address");
    let record = |lease| InstanceRecord::new(&stored().instance, lease);
    assert!(matches!(decode("", "a", &record(None).encode_to_vec()), Err(DecodeError::Field(_))));
    let short = RecordLease { id: vec![1], ..RecordLease::new(stored().lease.unwrap()) };
    let record = InstanceRecord { lease: Some(short), ..record(None) };
    assert_eq!(decode("web", "a", &record.encode_to_vec()), Err(DecodeError::Lease));
}

#[test]
fn debug_output_of_a_record_has_neither_lease_id_nor_boot_id() {
    let record = InstanceRecord::new(&stored().instance, stored().lease);
    let lease = record.lease.clone().unwrap();
    let text = format!("{record:?} {record:#?} {:?}", stored());
    for secret in [lease.id, lease.boot] {
        assert!(!text.contains(format!("{secret:?}").trim_matches(['[', ']'])), "{text}");
    }
    assert!(text.contains("ttl_ms: 9000"), "{text}");
}
