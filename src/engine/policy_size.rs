//! Limit of the size of a policy, so that the store of all policies is limited.

use super::disk::record::policy::document_json;
use crate::model::{FieldError, ServicePolicy};

/// Maximum size of the document of a policy as JSON, in bytes.
pub const MAX_POLICY_BYTES: usize = 64 * 1024;

/// Verifies the size of a policy. A policy is set only if this succeeds.
///
/// # Errors
///
/// When the document has more than [`MAX_POLICY_BYTES`].
pub fn validate_policy_size(policy: &ServicePolicy) -> Result<(), FieldError> {
    let bytes = document_json(policy).len();
    if bytes <= MAX_POLICY_BYTES {
        return Ok(());
    }
    let problem = format!("has {bytes} bytes as JSON, and at most {MAX_POLICY_BYTES} are stored");
    Err(FieldError::without_value("policy", problem, "shorten filters and routes, or move calls to other services"))
}
