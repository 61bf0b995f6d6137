//! Limits of connections, from the configuration.

use std::num::NonZeroU32;

use crate::{
    config::Config,
    transport::{ConnectionLimits, PerAddress, max_connections_by_descriptors},
};

/// Returns the limits of connections. No more connections are admitted than there are descriptors for.
pub(super) fn connection_limits(config: &Config) -> ConnectionLimits {
    let number = |limit: NonZeroU32| limit.get() as usize;
    let possible = max_connections_by_descriptors();
    let connections = config.max_connections.map_or(possible, number);
    if connections > possible {
        tracing::warn!(
            configured = connections,
            possible,
            "fewer connections than --max-connections are possible: raise the limit on file descriptors (ulimit -n, LimitNOFILE=)"
        );
    }
    // A configured limit also applies to loopback addresses.
    let per_address = |limit: Option<NonZeroU32>, default| match limit {
        Some(limit) => PerAddress { max: number(limit), loopback: true },
        None => PerAddress { max: default, loopback: false },
    };
    ConnectionLimits {
        connections: connections.min(possible),
        connections_per_address: per_address(config.max_connections_per_address, 200),
        streams: number(config.max_streams),
        streams_per_address: per_address(config.max_streams_per_address, 20_000),
        streams_per_connection: config.max_streams_per_connection.get(),
        cancelled_calls: number(config.max_cancelled_calls_per_second),
        unread_answers: config.max_unread_responses,
        handshake: config.handshake_timeout,
        age: config.max_connection_age,
        grace: config.max_connection_age_grace,
    }
}
