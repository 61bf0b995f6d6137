//! Encoding of instances, check states and policies, which the engines with a store share.
//!
//! A record is a Protocol Buffers message, so that fields can be added without a new format. The messages have no `.proto` file: they
//! are private to Callboard, and some of them are JSON in an export as well.

pub mod check;
mod consul_registration;
pub(super) mod message;
pub mod policy;
pub mod saved;
mod span;
pub mod unknown_fields;

#[cfg(test)]
pub(super) mod test_values;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use prost::Message as _;

use message::InstanceRecord;
use policy::{PolicyRecord, StoredPolicy};
use saved::SavedCheckRecord;

use crate::{
    engine::SavedCheck,
    model::{BootId, CheckId, FieldError, Instance, LeaseId, LeaseTerms, Revision},
    registry::{Lease, LeaseTime},
};

pub use consul_registration::RecordConsulRegistration;

/// Instance with its lease, as the store keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredInstance {
    /// The instance, as readers see it.
    pub instance: Instance,
    /// Lease of the instance. `None` for a registration that lasts until it is removed.
    pub lease: Option<StoredLease>,
}

/// Lease without its deadline, because heartbeats are not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredLease {
    /// Id of the lease.
    pub id: LeaseId,
    /// Boot id of the program that holds the lease.
    pub boot: BootId,
    /// TTL and grace of the lease.
    pub terms: LeaseTerms,
}

impl StoredLease {
    /// Returns the stored part of a lease.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        Self { id: lease.id, boot: lease.boot, terms: lease.terms() }
    }

    /// Replaces the terms by newly granted ones, if there are any.
    #[must_use]
    pub fn with_terms(self, granted: Option<LeaseTerms>) -> Self {
        Self { terms: granted.unwrap_or(self.terms), ..self }
    }
}

impl StoredInstance {
    /// Returns the lease for a process that starts at this lease time. It has its full TTL.
    #[must_use]
    pub fn restore_lease(&self, now: LeaseTime) -> Option<Arc<Lease>> {
        let Instance { service, id, .. } = &self.instance;
        self.lease.map(|StoredLease { id: lease, boot, terms }| {
            Arc::new(Lease::new(lease, service.clone(), id.clone(), boot, terms, now))
        })
    }
}

/// Error of bytes that are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not a Protocol Buffers message of a record.
    #[error("the bytes are not a valid message")]
    Message,
    /// A field has a value that this version does not accept.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// The id of a lease or of a boot has a wrong length.
    #[error("invalid lease encoding")]
    Lease,
}

/// Replaces a stored revision that is 0, for the revision of the record itself, or above it, which no revision in a record can be.
pub(super) fn resolve_revision(stored: &mut u64, this: Revision) {
    if *stored == 0 || *stored > this.0 {
        *stored = this.0;
    }
}

/// Decodes the message of the instance under this key.
///
/// # Errors
///
/// When the bytes are not a message of an instance.
pub fn decode(service: &str, id: &str, message: &[u8]) -> Result<StoredInstance, DecodeError> {
    InstanceRecord::decode(message).map_err(|_| DecodeError::Message)?.into_stored(service, id)
}

/// Decodes the message of a saved check state, with the id of its check.
///
/// # Errors
///
/// When the bytes are not a message of a check state.
pub fn decode_check_state(message: &[u8]) -> Result<(CheckId, SavedCheck), DecodeError> {
    Ok(SavedCheckRecord::decode(message).map_err(|_| DecodeError::Message)?.into_saved()?)
}

/// Decodes the message of the policy under this key.
///
/// # Errors
///
/// When the bytes are not a message of a policy.
pub fn decode_policy(key: &str, message: &[u8]) -> Result<StoredPolicy, DecodeError> {
    PolicyRecord::decode(message).map_err(|_| DecodeError::Message)?.into_stored(key)
}
