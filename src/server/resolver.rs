//! The DNS listener. It may be missing: its default port is that of a Consul agent, which may run on the same machine.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::runtime;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::{
    app::ServerContext,
    config::Config,
    protocol::dns::{Authority, DnsListener, Zone},
    transport::{ConnectionLimiter, FatalReporter},
};

/// Binds the configured address. `None`: DNS is off, or the default address is in use.
pub(super) fn bind(config: &Config) -> Result<Option<DnsListener>, StartError> {
    let Some(address) = config.dns else { return Ok(None) };
    match DnsListener::bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if config.dns_may_fail => {
            tracing::warn!(
                %address,
                %error,
                "DNS is not answered: choose another address with --dns ADDR, or turn it off with --dns off"
            );
            Ok(None)
        }
        Err(source) => Err(StartError::Listen { listener: "DNS", flag: "--dns", address, source }),
    }
}

/// Name of the thread, by which liveness reports it.
const THREAD_NAME: &str = "callboard-dns";

/// Answers DNS on a thread of its own until `shutdown` is cancelled, so that questions delay neither expiry nor the acceptors.
pub(super) fn start(
    listener: DnsListener,
    config: &Config,
    context: &Arc<ServerContext>,
    limiter: Arc<ConnectionLimiter>,
    (shutdown, fatal): (CancellationToken, FatalReporter),
) -> io::Result<JoinHandle<()>> {
    let node = config.node_name();
    let listens = Some(listener.address().ip()).filter(|ip| !ip.is_unspecified());
    let address = config.consul.node_address.or(listens).unwrap_or_else(|| config.node_address());
    let zone = Zone::new(&config.dns_domain, &config.consul.datacenter, &node, config.dns_ttl, address);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (packets, connections) = {
        let _runtime = runtime.enter();
        listener.open(context, Authority::new(zone, &context.views, &context.weights), limiter, &shutdown)?
    };
    let clock = Arc::clone(&context.clock);
    thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
        let packets = fatal.clone().guard("DNS over UDP", packets);
        let connections = fatal.guard("DNS over TCP", connections);
        runtime.block_on(clock.monitored(THREAD_NAME, async { tokio::join!(packets, connections) }));
    })
}
