//! Reasons of errors, as `google.rpc.ErrorInfo` carries them.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain in `ErrorInfo`.
const DOMAIN: &str = "callboard.dev";

/// Declares the enum, its names, and the table for the reference page in one place.
macro_rules! error_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = ($code:ident, $name:literal);)+) => {
        /// Reason of an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum ErrorReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl ErrorReason {
            /// All reasons.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Returns the status code of the reason.
            pub(crate) fn code(self) -> Code {
                match self {
                    $(Self::$variant => Code::$code,)+
                }
            }

            /// Returns the name that `ErrorInfo.reason` has.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Returns the meaning of the reason, in one or two sentences.
            pub(crate) fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+).trim_ascii_start(),)+
                }
            }
        }
    };
}

impl ErrorReason {
    /// Returns the status of an error with this reason, its message and further details.
    pub(crate) fn status(self, message: impl Into<String>, mut details: ErrorDetails) -> Status {
        details.set_error_info(self.name(), DOMAIN, [("version".into(), env!("CARGO_PKG_VERSION").into())]);
        Status::with_error_details(self.code(), message, details)
    }
}

/// Delay in `RetryInfo` for a replica that shuts down or is at a limit.
pub(crate) const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Message for streams that end because this process shuts down.
pub(crate) const SHUTTING_DOWN: &str = "this replica is shutting down, or this connection has reached its maximum age: open the \
                                        stream again, here in a moment or on another replica";
/// Message for streams that end because this replica cannot reach its store.
pub(crate) const REPLICA_DEGRADED: &str = "this replica cannot reach its store, so it neither sees changes nor tells other \
                                           replicas about heartbeats: open the stream again on another replica, or here if \
                                           there is none";

error_reasons! {
    /// A field has an invalid value. `BadRequest` names the field.
    InvalidField = (InvalidArgument, "INVALID_FIELD");
    /// The filter does not parse, or compares values of different types.
    InvalidFilter = (InvalidArgument, "INVALID_FILTER");
    /// The request cannot be decoded as the message that the method takes.
    MalformedMessage = (InvalidArgument, "MALFORMED_MESSAGE");
    /// An xDS request has no type, or one that is too long.
    InvalidResourceType = (InvalidArgument, "INVALID_RESOURCE_TYPE");
    /// The registry runs the check itself, so it accepts no reports for it.
    NotATtlCheck = (InvalidArgument, "NOT_A_TTL_CHECK");
    /// The instance is not registered.
    NoSuchInstance = (NotFound, "NO_SUCH_INSTANCE");
    /// The instance has no check with this id.
    NoSuchCheck = (NotFound, "NO_SUCH_CHECK");
    /// The policy of the service has no subset with this name.
    NoSuchSubset = (NotFound, "NO_SUCH_SUBSET");
    /// The service has no instances (health protocol).
    NoSuchService = (NotFound, "NO_SUCH_SERVICE");
    /// The health-only listener answers for the registry itself, not for services.
    HealthOnlyListener = (NotFound, "HEALTH_ONLY_LISTENER");
    /// Another boot holds the id and is alive. `RetryInfo` says when its lease can be taken over.
    HeldByOtherBoot = (AlreadyExists, "HELD_BY_OTHER_BOOT");
    /// The id is registered with a lease, and the request has none.
    HeldByLease = (AlreadyExists, "HELD_BY_LEASE");
    /// The id is registered without a lease, through Consul's API.
    HeldWithoutLease = (AlreadyExists, "HELD_WITHOUT_LEASE");
    /// The lease in the request no longer holds the instance.
    LeaseLost = (Aborted, "LEASE_LOST");
    /// The policy has another revision than the request expects.
    OtherPolicyRevision = (Aborted, "OTHER_POLICY_REVISION");
    /// There are 10,000 policies, and the request would add one.
    TooManyPolicies = (ResourceExhausted, "TOO_MANY_POLICIES");
    /// A request is larger than `--max-message-size`, or a write is larger than etcd accepts.
    MessageTooLarge = (ResourceExhausted, "MESSAGE_TOO_LARGE");
    /// An xDS stream subscribes to too many resources.
    TooManyResources = (ResourceExhausted, "TOO_MANY_RESOURCES");
    /// A client reports its load too often, or that of too many localities.
    TooManyLoadReports = (ResourceExhausted, "TOO_MANY_LOAD_REPORTS");
    /// More services exist than one response can hold. `ListServices` returns them in pages.
    TooManyServices = (ResourceExhausted, "TOO_MANY_SERVICES");
    /// A limit on open calls and streams is reached.
    TooManyStreams = (ResourceExhausted, "TOO_MANY_STREAMS");
    /// Too many responses wait for their reader to read them.
    TooManyUnreadResponses = (ResourceExhausted, "TOO_MANY_UNREAD_RESPONSES");
    /// The response waited too long behind other large responses.
    ResponseQueueTimeout = (ResourceExhausted, "RESPONSE_QUEUE_TIMEOUT");
    /// No heartbeat arrived on the stream within its timeout.
    HeartbeatTimeout = (DeadlineExceeded, "HEARTBEAT_TIMEOUT");
    /// No request arrived on an xDS stream within its timeout.
    StreamTimeout = (DeadlineExceeded, "STREAM_TIMEOUT");
    /// The request did not arrive completely within its timeout. Nothing was done.
    RequestTimeout = (DeadlineExceeded, "REQUEST_TIMEOUT");
    /// Too many writes wait for the engine. `RetryInfo` says when to try again.
    Overloaded = (Unavailable, "OVERLOADED");
    /// The engine cannot reach its store. Nothing was done. `RetryInfo` says when to try again.
    StoreUnavailable = (Unavailable, "STORE_UNAVAILABLE");
    /// The engine has stopped. Nothing was done.
    EngineStopped = (Unavailable, "ENGINE_STOPPED");
    /// The write may or may not have been done. Repeating it is safe, unless it deregisters without a lease or boot id.
    OutcomeUnknown = (Unavailable, "OUTCOME_UNKNOWN");
    /// The replica is shutting down, or the connection has reached its maximum age.
    ShuttingDown = (Unavailable, "SHUTTING_DOWN");
    /// The replica cannot reach its store, and ends streams so that clients use another replica. If there is none, open the stream again:
    /// leases are kept.
    ReplicaDegraded = (Unavailable, "REPLICA_DEGRADED");
    /// The method does not exist.
    UnknownMethod = (Unimplemented, "UNKNOWN_METHOD");
    /// A defect of the registry.
    Internal = (Internal, "INTERNAL");
}
