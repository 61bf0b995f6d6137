//! `callboard clients`: the clients that read services, and how far each is behind.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::{
    connection::{ServerArgs, ServerClient, pages, with_deadline},
    error::CliError,
    output::{OutputArgs, Printable},
    replicas::{self, ReplicaItem, ask_each},
    view::{duration, or_dash, set, time},
    xds::XdsStreamView,
};
use crate::{
    client::ClientError,
    pb::callboard::v1::{ListWatchersRequest, QueryRate, WatchProtocol, Watcher},
};

#[derive(Debug, Args)]
pub(crate) struct ClientsArgs {
    /// Only watches that read this service
    #[arg(long)]
    service: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// An open watch, or the queries of a protocol that has no watches.
#[derive(Debug, Default, Serialize)]
struct ClientView {
    id: u64,
    protocol: &'static str,
    peer: Option<String>,
    identity: Option<String>,
    user_agent: Option<String>,
    services: Vec<String>,
    prefix: Option<String>,
    everything: bool,
    resource: Option<String>,
    filter: Option<String>,
    connected_at: Option<String>,
    synced_at: Option<String>,
    sent_revision: u64,
    pending_changes: u32,
    lag_seconds: f64,
    resets: u32,
    waiting: bool,
    queries_per_second: Option<BTreeMap<String, f64>>,
    xds: Option<XdsStreamView>,
}

impl From<Watcher> for ClientView {
    fn from(watcher: Watcher) -> Self {
        Self {
            id: watcher.id,
            protocol: match watcher.protocol() {
                WatchProtocol::Grpc => "grpc",
                WatchProtocol::GrpcHealth => "grpc_health",
                WatchProtocol::Consul => "consul",
                WatchProtocol::Xds => "xds",
                WatchProtocol::Unspecified => "unspecified",
            },
            peer: set(watcher.peer),
            identity: set(watcher.identity),
            user_agent: set(watcher.user_agent),
            services: watcher.services,
            prefix: set(watcher.prefix),
            everything: watcher.everything,
            resource: set(watcher.resource),
            filter: set(watcher.filter),
            connected_at: time(watcher.connected_at),
            synced_at: time(watcher.synced_at),
            sent_revision: watcher.sent_revision,
            pending_changes: watcher.pending_changes,
            lag_seconds: duration(watcher.lag).unwrap_or_default().as_secs_f64(),
            resets: watcher.resets,
            waiting: watcher.waiting,
            queries_per_second: None,
            xds: watcher.xds.map(XdsStreamView::from),
        }
    }
}

impl ClientView {
    /// Returns one row for the queries of all DNS clients, if there were any.
    fn of_dns(rates: &[QueryRate]) -> Option<Self> {
        let dns = rates.iter().filter(|rate| rate.protocol == "dns" && rate.per_second > 0.0);
        let rates: BTreeMap<_, _> = dns.map(|rate| (rate.transport.clone(), rate.per_second)).collect();
        let row = Self { protocol: "dns", queries_per_second: Some(rates), ..Self::default() };
        row.queries_per_second.as_ref().is_some_and(|rates| !rates.is_empty()).then_some(row)
    }

    fn watched(&self) -> String {
        if self.everything {
            return "everything".to_owned();
        }
        if let Some(rates) = &self.queries_per_second {
            let rates: Vec<_> = rates.iter().map(|(transport, rate)| format!("{rate:.1}/s over {transport}")).collect();
            return rates.join(", ");
        }
        if let Some(stream) = &self.xds {
            return stream.watched();
        }
        match (&self.prefix, &self.resource, self.services.as_slice()) {
            (Some(prefix), ..) => format!("{prefix}*"),
            (None, Some(resource), _) => resource.clone(),
            (None, None, [one, two, three, more @ ..]) if !more.is_empty() => {
                format!("{one},{two},{three} and {} more", more.len())
            }
            (None, None, services) => services.join(","),
        }
    }
}

impl Printable for ClientView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (
        &["ID", "PROTOCOL", "PEER", "WATCHES", "PENDING", "LAG", "RESETS", "CONNECTED", "XDS STATE"],
        &["IDENTITY", "SYNCED", "SENT REVISION", "FILTER", "USER AGENT", "NODE", "LIBRARY", "SERVICES", "ERROR"],
    );

    fn cells(&self) -> Vec<String> {
        let stream = self.xds.as_ref();
        // An xDS stream has states instead of numbers.
        let counted = |number| if stream.is_some() { or_dash(None) } else { number };
        vec![
            if self.id == 0 { or_dash(None) } else { self.id.to_string() },
            self.protocol.to_owned(),
            or_dash(self.peer.as_deref()),
            self.watched(),
            // Until the registry has settled, the number of missing changes is unknown.
            if self.waiting { "waiting".to_owned() } else { counted(self.pending_changes.to_string()) },
            if self.waiting { or_dash(None) } else { counted(format!("{:.3}s", self.lag_seconds)) },
            counted(self.resets.to_string()),
            or_dash(self.connected_at.as_deref()),
            or_dash(stream.and_then(XdsStreamView::state).as_deref()),
            or_dash(self.identity.as_deref()),
            or_dash(self.synced_at.as_deref()),
            self.sent_revision.to_string(),
            or_dash(self.filter.as_deref()),
            or_dash(self.user_agent.as_deref()),
            or_dash(stream.and_then(|stream| stream.node_id.as_deref())),
            or_dash(stream.and_then(|stream| stream.agent.as_deref())),
            or_dash(set(self.services.join(",")).as_deref()),
            or_dash(stream.and_then(XdsStreamView::errors).as_deref()),
        ]
    }

    fn name(&self) -> String {
        self.id.to_string()
    }
}

pub(crate) async fn run(args: ClientsArgs) -> Result<ExitCode, CliError> {
    let service = args.service.unwrap_or_default();
    let mut found = ask_each(&args.server, async |server| clients_of(server, &service).await).await?;
    let mut clients = Vec::new();
    for (replica, views) in &mut found.answers {
        clients.extend(views.drain(..).map(|item| ReplicaItem { replica: replica.clone(), item }));
    }
    replicas::list(args.output.format, clients, found.are_several(), "no clients")?;
    Ok(found.finish(0))
}

/// Fetches the name of a replica and its clients.
async fn clients_of(server: &ServerClient, service: &str) -> Result<(String, Vec<ClientView>), ClientError> {
    let (mut replica, mut rates) = (String::new(), Vec::new());
    let watchers = pages(usize::MAX, async |page_token| {
        let request = with_deadline(ListWatchersRequest { service: service.to_owned(), page_size: 0, page_token });
        let page = server.call(server.admin().list_watchers(request)).await?;
        replica = page.replica;
        rates.extend(page.query_rates);
        Ok((page.watchers, page.next_page_token))
    });
    let mut clients: Vec<ClientView> = watchers.await?.into_iter().map(ClientView::from).collect();
    clients.extend(ClientView::of_dns(&rates).filter(|_| service.is_empty()));
    Ok((replica, clients))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::callboard::v1::{XdsState, XdsStream, XdsSubscription};

    #[test]
    fn watched_services_are_abbreviated_in_the_table() {
        let watched = |services: &[&str], prefix: &str, everything| {
            let services = services.iter().map(ToString::to_string).collect();
            let watcher = Watcher { services, prefix: prefix.to_owned(), everything, ..Watcher::default() };
            ClientView::from(watcher).watched()
        };
        assert_eq!(watched(&["a", "b", "c"], "", false), "a,b,c");
        assert_eq!(watched(&["a", "b", "c", "d", "e"], "", false), "a,b,c and 2 more");
        assert_eq!(watched(&[], "pay", false), "pay*");
        assert_eq!(watched(&[], "", true), "everything");
        let node = Watcher { resource: "node n1".to_owned(), ..Watcher::default() };
        assert_eq!(ClientView::from(node).watched(), "node n1");
    }

    #[test]
    fn dns_queries_are_one_row_if_there_were_any() {
        let rate = |transport: &str, per_second| QueryRate {
            protocol: "dns".to_owned(),
            transport: transport.to_owned(),
            per_second,
        };
        assert!(ClientView::of_dns(&[rate("udp", 0.0), rate("tcp", 0.0)]).is_none());
        let row = ClientView::of_dns(&[rate("udp", 120.25), rate("tcp", 0.5)]).unwrap();
        assert_eq!(row.cells()[..4], ["-", "dns", "-", "0.5/s over tcp, 120.2/s over udp"]);
    }

    #[test]
    fn xds_stream_is_a_row_with_states_instead_of_numbers() {
        let subscription =
            XdsSubscription { r#type: "EDS".to_owned(), resources: 1, error: "no".to_owned(), ..Default::default() };
        let stream = XdsStream {
            node_id: "n1".to_owned(),
            agent: "gRPC Go 1.85.0".to_owned(),
            delta: false,
            subscriptions: vec![XdsSubscription { state: XdsState::Nacked.into(), ..subscription }],
        };
        let services = vec!["web".to_owned()];
        let watcher =
            Watcher { id: 7, protocol: WatchProtocol::Xds.into(), services, xds: Some(stream), ..Watcher::default() };
        let row = ClientView::from(watcher);
        assert_eq!(row.cells()[..9], ["7", "xds", "-", "EDS 1", "-", "-", "-", "-", "EDS NACKED: no"]);
        assert_eq!(row.cells()[14..], ["n1", "gRPC Go 1.85.0", "web", "EDS: no"]);
        assert_eq!(row.cells().len(), ClientView::COLUMNS.0.len() + ClientView::COLUMNS.1.len());
        let json: serde_json::Value = serde_json::to_value(&row).unwrap();
        assert_eq!(
            (&json["xds"]["node_id"], &json["xds"]["subscriptions"][0]["state"]),
            (&"n1".into(), &"NACKED".into())
        );
    }
}
