//! What becomes of connections and streams.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// There are as many as there may be.
    All,
    /// Its address has as many as it may have.
    Address,
    /// The system has no descriptor for it.
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
            Self::All => "as many connections are open as may be: raise --max-connections, or the limit on descriptors",
            Self::Address => "one address has as many connections as it may have: raise --max-connections-per-address",
            Self::Descriptors => "the system has no descriptors left: raise the limit, or find out who uses them",
        }
    }
}

/// Why a connection is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictReason {
    /// It did not finish its handshake, or send a first request, in time.
    Handshake,
    /// Its socket takes nothing.
    Socket,
    /// A stream does not take what it is sent, or hardly.
    Stream,
    /// Streams that were asked to end did not.
    Age,
    /// It does not answer pings.
    Ping,
    /// It opens streams and gives them up, again and again.
    Resets,
    /// It sends frames of HTTP/2 as only floods do.
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

    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Handshake => "no handshake or first request came in time",
            Self::Socket => "its socket took nothing for 28 s",
            Self::Stream => "a stream did not take what it was sent for 28 s",
            Self::Age => "streams did not end within the grace after its age",
            Self::Ping => "it did not answer a ping for 10 s",
            Self::Resets => {
                "it cancelled more calls within a second than it may: raise --max-cancelled-calls if it means well"
            }
            Self::Flood => "it sent frames of HTTP/2 as only floods do",
        }
    }
}

/// Connections and streams, by what became of them.
#[derive(Debug)]
pub struct ConnectionMetrics {
    open: Family<PortLabel, Gauge>,
    failed: Family<PortLabel, Counter>,
    refused: [LoggedCounter; 3],
    evicted: [LoggedCounter; 7],
    retired: Counter,
    /// Calls refused because too many streams were open or too many answers unread.
    pub streams_refused: Counter,
}

/// A counter that also knows what the log has not been told.
#[derive(Debug)]
struct LoggedCounter {
    counter: Counter,
    untold: AtomicU64,
}

impl LoggedCounter {
    fn count(&self) {
        self.counter.inc();
        self.untold.fetch_add(1, Relaxed);
    }
}

impl ConnectionMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (open, failed) = (Family::default(), Family::default());
        registry.register("open_connections", "Open connections, by listener", open.clone());
        registry.register("failed_handshakes", "Connections that ended before a handshake", failed.clone());
        let (refused, evicted) = (Family::<ReasonLabel, Counter>::default(), Family::<ReasonLabel, Counter>::default());
        registry.register("refused_connections", "Connections that were not let in", refused.clone());
        registry.register("evicted_connections", "Connections that were cut off", evicted.clone());
        let (retired, streams_refused) = (Counter::default(), Counter::default());
        registry.register("retired_connections", "Connections that were asked to come back of age", retired.clone());
        registry.register("refused_streams", "Calls refused for want of room", streams_refused.clone());
        let counted = |family: &Family<ReasonLabel, Counter>, reason| LoggedCounter {
            counter: family.get_or_create_owned(&ReasonLabel { reason }),
            untold: AtomicU64::new(0),
        };
        Self {
            open,
            failed,
            refused: RejectReason::ALL.map(|why| counted(&refused, why.label())),
            evicted: EvictReason::ALL.map(|why| counted(&evicted, why.label())),
            retired,
            streams_refused,
        }
    }

    /// A gauge of what is open on a listener.
    #[must_use]
    pub fn open(&self, port: &'static str) -> Gauge {
        self.open.get_or_create_owned(&PortLabel { port })
    }

    /// A connection ended before its handshake.
    pub fn handshake_failed(&self, port: &'static str) {
        self.failed.get_or_create(&PortLabel { port }).inc();
    }

    /// A connection was not let in.
    pub fn refused(&self, why: RejectReason) {
        self.refused[why as usize].count();
    }

    /// A connection was cut off.
    pub fn evicted(&self, why: EvictReason) {
        self.evicted[why as usize].count();
    }

    /// A connection was asked to come back of age.
    pub fn retired(&self) {
        self.retired.inc();
    }

    /// What was refused and cut off since this was last asked, in words: a line for each reason, however many there were.
    pub fn news(&self) -> Vec<(&'static str, &'static str, u64)> {
        let untold = |counted: &LoggedCounter| counted.untold.swap(0, Relaxed);
        let refused =
            RejectReason::ALL.map(|why| ("connections refused", why.text(), untold(&self.refused[why as usize])));
        let evicted =
            EvictReason::ALL.map(|why| ("connections cut off", why.text(), untold(&self.evicted[why as usize])));
        refused.into_iter().chain(evicted).filter(|(.., number)| *number > 0).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}
