//! The DNS door, which may be missing: its usual port is that of Consul's agent, and who has one beside us asked for neither.

use std::{io, sync::Arc};

use tokio::{sync::watch, task::JoinSet};

use super::StartError;
use crate::{
    app::ServerContext,
    config::Config,
    protocol::dns::{Authority, DnsListener, Zone},
    transport::{ConnectionLimiter, FatalReporter},
};

/// Binds it where it is configured. `None`: it is off, or the address that nobody chose is taken.
pub(super) fn bind(config: &Config) -> Result<Option<DnsListener>, StartError> {
    let Some(address) = config.dns else { return Ok(None) };
    match DnsListener::bind(address) {
        Ok(door) => Ok(Some(door)),
        Err(error) if config.dns_may_fail => {
            tracing::warn!(
                %address,
                %error,
                "DNS is not answered: choose another address with --dns ADDR, or say --dns off"
            );
            Ok(None)
        }
        Err(source) => Err(StartError::Listen { door: "DNS", flag: "--dns", address, source }),
    }
}

/// Opens it: from here on it answers.
pub(super) fn open(
    door: DnsListener,
    config: &Config,
    (shared, gate): (&Arc<ServerContext>, Arc<ConnectionLimiter>),
    (alarm, tasks): (&FatalReporter, &mut JoinSet<()>),
    leaving: watch::Receiver<bool>,
) -> io::Result<()> {
    let node = config.node_name();
    let listens = Some(door.address().ip()).filter(|ip| !ip.is_unspecified());
    let address = listens.unwrap_or_else(|| config.node_address());
    let zone = Zone::new(&config.dns_domain, &config.consul.datacenter, &node, config.dns_ttl, address);
    let (packets, connections) = door.open(shared, Authority::new(zone, &shared.views), gate, leaving)?;
    tasks.spawn(alarm.clone().guard("DNS over UDP", packets));
    tasks.spawn(alarm.clone().guard("DNS over TCP", connections));
    Ok(())
}
