//! `callboard clients`: the clients that read services, and how far each is behind.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, pages, with_deadline},
    error::CliError,
    output::{self, OutputArgs, Printable},
    view::{duration, or_dash, set, time},
};
use crate::pb::callboard::v1::{ListSubscribersRequest, Subscriber};

#[derive(Debug, Args)]
pub(crate) struct ClientsArgs {
    /// Only clients that receive changes of this service
    #[arg(long)]
    service: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct ClientView {
    id: u64,
    peer: String,
    identity: Option<String>,
    user_agent: Option<String>,
    services: Vec<String>,
    prefix: Option<String>,
    everything: bool,
    filter: Option<String>,
    connected_at: Option<String>,
    synced_at: Option<String>,
    sent_revision: u64,
    pending_changes: u32,
    lag_seconds: f64,
    resets: u32,
    waiting: bool,
}

impl From<Subscriber> for ClientView {
    fn from(subscriber: Subscriber) -> Self {
        Self {
            id: subscriber.id,
            peer: subscriber.peer,
            identity: set(subscriber.identity),
            user_agent: set(subscriber.user_agent),
            services: subscriber.services,
            prefix: set(subscriber.prefix),
            everything: subscriber.everything,
            filter: set(subscriber.filter),
            connected_at: time(subscriber.connected_at),
            synced_at: time(subscriber.synced_at),
            sent_revision: subscriber.sent_revision,
            pending_changes: subscriber.pending_changes,
            lag_seconds: duration(subscriber.lag).unwrap_or_default().as_secs_f64(),
            resets: subscriber.resets,
            waiting: subscriber.waiting,
        }
    }
}

impl ClientView {
    fn watched(&self) -> String {
        if self.everything {
            return "everything".to_owned();
        }
        match (&self.prefix, self.services.as_slice()) {
            (Some(prefix), _) => format!("{prefix}*"),
            (None, [one, two, three, more @ ..]) if !more.is_empty() => {
                format!("{one},{two},{three} and {} more", more.len())
            }
            (None, services) => services.join(","),
        }
    }
}

impl Printable for ClientView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (
        &["ID", "PEER", "WATCHES", "PENDING", "LAG", "RESETS", "CONNECTED"],
        &["IDENTITY", "SYNCED", "SENT REVISION", "FILTER", "USER AGENT"],
    );

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            self.peer.clone(),
            self.watched(),
            // Until the registry has settled, the number of missing changes is unknown.
            if self.waiting { "waiting".to_owned() } else { self.pending_changes.to_string() },
            if self.waiting { or_dash(None) } else { format!("{:.3}s", self.lag_seconds) },
            self.resets.to_string(),
            or_dash(self.connected_at.as_deref()),
            or_dash(self.identity.as_deref()),
            or_dash(self.synced_at.as_deref()),
            self.sent_revision.to_string(),
            or_dash(self.filter.as_deref()),
            or_dash(self.user_agent.as_deref()),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

pub(crate) async fn run(args: ClientsArgs) -> Result<ExitCode, CliError> {
    let connection = args.server.connect()?;
    let service = args.service.unwrap_or_default();
    let clients = pages(usize::MAX, async |page_token| {
        let request = with_deadline(ListSubscribersRequest { service: service.clone(), page_size: 0, page_token });
        let page = connection.call(connection.admin().list_subscribers(request)).await?;
        Ok((page.subscribers, page.next_page_token))
    });
    let clients: Vec<ClientView> = clients.await?.into_iter().map(ClientView::from).collect();
    output::list(args.output.format, &clients, "no clients")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watched_services_are_abbreviated_in_the_table() {
        let watched = |services: &[&str], prefix: &str, everything| {
            let services = services.iter().map(ToString::to_string).collect();
            let subscriber = Subscriber { services, prefix: prefix.to_owned(), everything, ..Subscriber::default() };
            ClientView::from(subscriber).watched()
        };
        assert_eq!(watched(&["a", "b", "c"], "", false), "a,b,c");
        assert_eq!(watched(&["a", "b", "c", "d", "e"], "", false), "a,b,c and 2 more");
        assert_eq!(watched(&[], "pay", false), "pay*");
        assert_eq!(watched(&[], "", true), "everything");
    }
}
