//! Counters of connections and streams.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::registrar::{LISTENERS, Label, Registrar};

/// Reason for which a new connection is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// The limit on all connections is reached.
    All,
    /// The limit on connections from one address is reached.
    Address,
    /// The process has no file descriptors left.
    Descriptors,
}

impl RejectReason {
    const ALL: [Self; 3] = [Self::All, Self::Address, Self::Descriptors];

    fn label(self) -> &'static str {
        match self {
            Self::All => "max_connections",
            Self::Address => "max_connections_per_address",
            Self::Descriptors => "descriptors",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::All => {
                "the limit on connections is reached: raise --max-connections, or the process's limit on file descriptors"
            }
            Self::Address => {
                "the limit on connections from one address is reached: raise --max-connections-per-address"
            }
            Self::Descriptors => {
                "no file descriptors are left: raise the limit of the process or of the system (ulimit -n, fs.file-max)"
            }
        }
    }
}

/// Reason for which an open connection is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictReason {
    /// The handshake, or the first request, did not arrive within the handshake timeout.
    Handshake,
    /// The peer read nothing from the socket.
    Socket,
    /// The peer read nothing of a stream.
    Stream,
    /// Streams were still open when the grace period after the maximum age ended.
    Age,
    /// The peer did not answer a ping.
    Ping,
    /// The peer cancelled more calls than the limit permits.
    Resets,
    /// The peer sent a flood of HTTP/2 control frames.
    Flood,
}

impl EvictReason {
    const ALL: [Self; 7] =
        [Self::Handshake, Self::Socket, Self::Stream, Self::Age, Self::Ping, Self::Resets, Self::Flood];

    fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake_timeout",
            Self::Socket => "socket_stalled",
            Self::Stream => "stream_stalled",
            Self::Age => "max_connection_age",
            Self::Ping => "ping_timeout",
            Self::Resets => "rapid_reset",
            Self::Flood => "http2_flood",
        }
    }

    /// Returns the reason as a phrase for log lines.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Handshake => "the handshake or the first request did not arrive within --handshake-timeout",
            Self::Socket => "the peer read nothing from its socket for 28 s",
            Self::Stream => "the peer did not read a stream for 28 s",
            Self::Age => "streams were still open after --max-connection-age and its grace period",
            Self::Ping => "the peer did not answer a ping within 10 s",
            Self::Resets => {
                "the peer cancelled too many calls within a second: raise --max-cancelled-calls-per-second if the client is \
                 not at fault"
            }
            Self::Flood => "the peer sent a flood of HTTP/2 control frames",
        }
    }
}

/// Metrics of connections and streams.
#[derive(Debug)]
pub struct ConnectionMetrics {
    open: Family<ListenerLabel, Gauge>,
    failed_handshakes: Family<ListenerLabel, Counter>,
    rejected: [LoggedCounter; 3],
    evicted: [LoggedCounter; 7],
    max_age: Counter,
    /// Calls rejected because a limit on streams or on unread responses was reached.
    pub rejected_streams: Counter,
}

/// Counter that also holds the number of increments since the last log line.
#[derive(Debug)]
struct LoggedCounter {
    counter: Counter,
    unlogged: AtomicU64,
}

impl LoggedCounter {
    fn count(&self) {
        self.counter.inc();
        self.unlogged.fetch_add(1, Relaxed);
    }

    fn take_unlogged(&self) -> u64 {
        self.unlogged.swap(0, Relaxed)
    }
}

impl ConnectionMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let listener = || vec![Label::new("listener", LISTENERS)];
        let reasons = |values: Vec<&'static str>| vec![Label { name: "reason", values }];
        let open = registrar.gauge_family("open_connections", "Open connections", listener());
        let failed_handshakes = registrar.counter_family(
            "failed_handshakes",
            "Connections that ended before the TLS or HTTP/2 handshake was complete",
            listener(),
        );
        let rejected: Family<ReasonLabel, Counter> = registrar.counter_family(
            "rejected_connections",
            "New connections that were rejected because a limit was reached",
            reasons(RejectReason::ALL.map(RejectReason::label).to_vec()),
        );
        let evicted: Family<ReasonLabel, Counter> = registrar.counter_family(
            "evicted_connections",
            "Open connections that the server closed because the peer stalled or misbehaved",
            reasons(EvictReason::ALL.map(EvictReason::label).to_vec()),
        );
        let counted = |family: &Family<ReasonLabel, Counter>, reason| LoggedCounter {
            counter: family.get_or_create_owned(&ReasonLabel { reason }),
            unlogged: AtomicU64::new(0),
        };
        Self {
            open,
            failed_handshakes,
            rejected: RejectReason::ALL.map(|reason| counted(&rejected, reason.label())),
            evicted: EvictReason::ALL.map(|reason| counted(&evicted, reason.label())),
            max_age: registrar.counter(
                "max_age_connections",
                "Connections that were sent GOAWAY because they reached the maximum connection age",
            ),
            rejected_streams: registrar.counter(
                "rejected_streams",
                "Calls that were rejected because a limit on streams or on unread responses was reached",
            ),
        }
    }

    /// Returns the gauge of connections that are open on a listener.
    #[must_use]
    pub fn open(&self, listener: &'static str) -> Gauge {
        self.open.get_or_create_owned(&ListenerLabel { listener })
    }

    /// Counts a connection that ended before its handshake was complete.
    pub fn handshake_failed(&self, listener: &'static str) {
        self.failed_handshakes.get_or_create(&ListenerLabel { listener }).inc();
    }

    /// Counts a connection that was rejected.
    pub fn rejected(&self, reason: RejectReason) {
        self.rejected[reason as usize].count();
    }

    /// Counts a connection that was evicted.
    pub fn evicted(&self, reason: EvictReason) {
        self.evicted[reason as usize].count();
    }

    /// Counts a connection that was sent GOAWAY because it reached the maximum connection age.
    pub fn reached_max_age(&self) {
        self.max_age.inc();
    }

    /// Returns the connections rejected and evicted since the last call: what happened, why, and the number, one entry for
    /// each reason that occurred.
    pub fn take_unlogged(&self) -> Vec<(&'static str, &'static str, u64)> {
        let rejected = RejectReason::ALL
            .map(|reason| ("connections rejected", reason.text(), self.rejected[reason as usize].take_unlogged()));
        let evicted = EvictReason::ALL
            .map(|reason| ("connections evicted", reason.text(), self.evicted[reason as usize].take_unlogged()));
        rejected.into_iter().chain(evicted).filter(|(.., number)| *number > 0).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}
