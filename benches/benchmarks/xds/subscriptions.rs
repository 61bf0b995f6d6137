//! Many clients, each of a service of its own.

use anyhow::Result;

use super::{
    Outcome,
    ads::{AdsStream, StateOfTheWorld},
    connect_clients, count,
    target::{Target, Writer},
};
use crate::client::service_name;

/// Number of clients at the first measurement of changes, and in the end.
const FEW: usize = 1_000;
const CLIENTS: usize = 10_000;
/// Measured changes, each of another service.
pub const CHANGES: usize = 200;

type Client = AdsStream<StateOfTheWorld>;

/// Measures memory and CPU time of a client, and CPU time of a change of one service beside few and beside many clients.
pub async fn run(target: &Target) -> Result<Outcome> {
    let writer = target.handle.writer().await?;
    let channels = connect_clients(target.handle.address, CLIENTS).await?;
    // One client on each connection, so that the server has allocated what a connection needs.
    let mut clients = Vec::with_capacity(CLIENTS);
    for channel in &channels {
        clients.push(subscribed(channel, clients.len()).await?);
    }
    while clients.len() < FEW {
        clients.push(subscribed(&channels[clients.len() % channels.len()], clients.len()).await?);
    }
    let beside_few = changes(target, &writer, &mut clients, 1).await?;
    let (before, memory, cpu) = (clients.len(), target.server.memory().await?, target.server.cpu()?);
    while clients.len() < CLIENTS {
        clients.push(subscribed(&channels[clients.len() % channels.len()], clients.len()).await?);
    }
    let opened = count(clients.len() - before);
    let cpu = target.server.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6;
    let bytes = target.server.memory().await?.saturating_sub(memory);
    let beside_many = changes(target, &writer, &mut clients, 0).await?;
    #[expect(clippy::cast_precision_loss, reason = "bytes of a process")]
    let memory = bytes as f64 / opened;
    Ok(vec![
        ("memory_per_client", "B", memory.round()),
        ("cpu_per_client", "µs", cpu / opened),
        ("cpu_per_change_of_1000", "µs", beside_few),
        ("cpu_per_change_of_10000", "µs", beside_many),
    ])
}

/// Opens a client of the service with the same number.
async fn subscribed(channel: &tonic::transport::Channel, number: usize) -> Result<Client> {
    let mut client = Client::open(channel, number).await?;
    client.subscribe_to_service(&service_name(number)).await?;
    Ok(client)
}

/// Changes services one after the other. Returns the microseconds of CPU time of each change.
async fn changes(target: &Target, writer: &Writer, clients: &mut [Client], variant: u32) -> Result<f64> {
    let cpu = target.server.cpu()?;
    for (service, client) in clients.iter_mut().take(CHANGES).enumerate() {
        writer.change(service, variant).await?;
        client.response().await?;
    }
    Ok(target.server.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / count(CHANGES))
}
