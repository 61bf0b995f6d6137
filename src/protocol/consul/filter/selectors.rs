//! Selectors of each kind of answer: all of its fields, including those that answers leave out when empty.
//!
//! Consul derives its selectors from its own types, and leaves out `CreateIndex`, `ModifyIndex`, `CheckDefinition`, `Locality`, the `Config`
//! of a proxy, and `Datacenter` of an agent's services. They can be used here.

use super::{ConsulField, FilterSelector, Schema, SelectorKind};

type Selectors = &'static [FilterSelector<ConsulField>];

const fn selector(path: &'static str, kind: SelectorKind) -> FilterSelector<ConsulField> {
    FilterSelector { path, kind, field: ConsulField { path, kind } }
}
const fn text(path: &'static str) -> FilterSelector<ConsulField> {
    selector(path, SelectorKind::Text)
}
const fn number(path: &'static str) -> FilterSelector<ConsulField> {
    selector(path, SelectorKind::Number)
}
const fn boolean(path: &'static str) -> FilterSelector<ConsulField> {
    selector(path, SelectorKind::Boolean)
}
const fn list(path: &'static str) -> FilterSelector<ConsulField> {
    selector(path, SelectorKind::List)
}
const fn map(path: &'static str) -> FilterSelector<ConsulField> {
    selector(path, SelectorKind::Map)
}
const fn records(path: &'static str) -> FilterSelector<ConsulField> {
    selector(path, SelectorKind::Records)
}

/// Number of selectors in several tables.
const fn count(tables: &[Selectors]) -> usize {
    let (mut table, mut count) = (0, 0);
    while table < tables.len() {
        count += tables[table].len();
        table += 1;
    }
    count
}

/// Joins several tables.
const fn joined<const N: usize>(tables: &[Selectors]) -> [FilterSelector<ConsulField>; N] {
    let mut all = [text(""); N];
    let (mut table, mut next) = (0, 0);
    while table < tables.len() {
        let mut row = 0;
        while row < tables[table].len() {
            all[next] = tables[table][row];
            next += 1;
            row += 1;
        }
        table += 1;
    }
    all
}

macro_rules! schema {
    ($($table:expr),+ $(,)?) => {{
        const TABLES: &[Selectors] = &[$($table),+];
        const ALL: &[FilterSelector<ConsulField>] = &joined::<{ count(TABLES) }>(TABLES);
        Schema::new(ALL)
    }};
}

/// Fields of a node.
macro_rules! node {
    ($at:literal) => {
        &[
            text(concat!($at, "ID")),
            text(concat!($at, "Node")),
            text(concat!($at, "Address")),
            text(concat!($at, "Datacenter")),
            text(concat!($at, "Partition")),
            text(concat!($at, "PeerName")),
            map(concat!($at, "TaggedAddresses")),
            text(concat!($at, "TaggedAddresses.*")),
            map(concat!($at, "Meta")),
            text(concat!($at, "Meta.*")),
            number(concat!($at, "CreateIndex")),
            number(concat!($at, "ModifyIndex")),
        ]
    };
}

/// Fields of a service that `/v1/catalog/service` shows with `Service` before their names.
macro_rules! definition {
    ($at:literal) => {
        &[
            text(concat!($at, "Kind")),
            text(concat!($at, "ID")),
            list(concat!($at, "Tags")),
            text(concat!($at, "Address")),
            map(concat!($at, "TaggedAddresses")),
            text(concat!($at, "TaggedAddresses.*.Address")),
            number(concat!($at, "TaggedAddresses.*.Port")),
            map(concat!($at, "Meta")),
            text(concat!($at, "Meta.*")),
            number(concat!($at, "Port")),
            text(concat!($at, "SocketPath")),
            number(concat!($at, "Weights.Passing")),
            number(concat!($at, "Weights.Warning")),
            boolean(concat!($at, "EnableTagOverride")),
            text(concat!($at, "Locality.Region")),
            text(concat!($at, "Locality.Zone")),
            boolean(concat!($at, "Connect.Native")),
            text(concat!($at, "Proxy.DestinationServiceName")),
            text(concat!($at, "Proxy.DestinationServiceID")),
            text(concat!($at, "Proxy.LocalServiceAddress")),
            number(concat!($at, "Proxy.LocalServicePort")),
            text(concat!($at, "Proxy.LocalServiceSocketPath")),
            text(concat!($at, "Proxy.Mode")),
            text(concat!($at, "Proxy.MutualTLSMode")),
            map(concat!($at, "Proxy.Config")),
            text(concat!($at, "Proxy.Config.*")),
            text(concat!($at, "Proxy.MeshGateway.Mode")),
            number(concat!($at, "Proxy.TransparentProxy.OutboundListenerPort")),
            boolean(concat!($at, "Proxy.TransparentProxy.DialedDirectly")),
            boolean(concat!($at, "Proxy.AccessLogs.Enabled")),
            boolean(concat!($at, "Proxy.AccessLogs.DisableListenerLogs")),
            text(concat!($at, "Proxy.AccessLogs.Type")),
            text(concat!($at, "Proxy.AccessLogs.Path")),
            text(concat!($at, "Proxy.AccessLogs.JSONFormat")),
            text(concat!($at, "Proxy.AccessLogs.TextFormat")),
            boolean(concat!($at, "Proxy.Expose.Checks")),
            records(concat!($at, "Proxy.Expose.Paths[]")),
            number(concat!($at, "Proxy.Expose.Paths[].ListenerPort")),
            text(concat!($at, "Proxy.Expose.Paths[].Path")),
            number(concat!($at, "Proxy.Expose.Paths[].LocalPathPort")),
            text(concat!($at, "Proxy.Expose.Paths[].Protocol")),
            boolean(concat!($at, "Proxy.Expose.Paths[].ParsedFromCheck")),
            records(concat!($at, "Proxy.EnvoyExtensions[]")),
            text(concat!($at, "Proxy.EnvoyExtensions[].Name")),
            boolean(concat!($at, "Proxy.EnvoyExtensions[].Required")),
            map(concat!($at, "Proxy.EnvoyExtensions[].Arguments")),
            text(concat!($at, "Proxy.EnvoyExtensions[].Arguments.*")),
            text(concat!($at, "Proxy.EnvoyExtensions[].ConsulVersion")),
            text(concat!($at, "Proxy.EnvoyExtensions[].EnvoyVersion")),
            records(concat!($at, "Proxy.Upstreams[]")),
            text(concat!($at, "Proxy.Upstreams[].DestinationType")),
            text(concat!($at, "Proxy.Upstreams[].DestinationNamespace")),
            text(concat!($at, "Proxy.Upstreams[].DestinationPartition")),
            text(concat!($at, "Proxy.Upstreams[].DestinationPeer")),
            text(concat!($at, "Proxy.Upstreams[].DestinationName")),
            text(concat!($at, "Proxy.Upstreams[].Datacenter")),
            text(concat!($at, "Proxy.Upstreams[].LocalBindAddress")),
            number(concat!($at, "Proxy.Upstreams[].LocalBindPort")),
            text(concat!($at, "Proxy.Upstreams[].LocalBindSocketPath")),
            text(concat!($at, "Proxy.Upstreams[].LocalBindSocketMode")),
            map(concat!($at, "Proxy.Upstreams[].Config")),
            text(concat!($at, "Proxy.Upstreams[].Config.*")),
            text(concat!($at, "Proxy.Upstreams[].MeshGateway.Mode")),
        ]
    };
}

/// Fields of a service that have the same names in all answers that contain only services.
macro_rules! service {
    ($at:literal) => {
        &[
            text(concat!($at, "Service")),
            text(concat!($at, "Datacenter")),
            text(concat!($at, "PeerName")),
            number(concat!($at, "CreateIndex")),
            number(concat!($at, "ModifyIndex")),
        ]
    };
}

/// Fields of a check.
macro_rules! check {
    ($at:literal) => {
        &[
            text(concat!($at, "Node")),
            text(concat!($at, "CheckID")),
            text(concat!($at, "Name")),
            text(concat!($at, "Status")),
            text(concat!($at, "Notes")),
            text(concat!($at, "Output")),
            text(concat!($at, "ServiceID")),
            text(concat!($at, "ServiceName")),
            list(concat!($at, "ServiceTags")),
            text(concat!($at, "Type")),
            text(concat!($at, "Interval")),
            text(concat!($at, "Timeout")),
            number(concat!($at, "ExposedPort")),
            text(concat!($at, "PeerName")),
            number(concat!($at, "CreateIndex")),
            number(concat!($at, "ModifyIndex")),
            text(concat!($at, "Definition.Interval")),
            text(concat!($at, "Definition.Timeout")),
            text(concat!($at, "Definition.TTL")),
            text(concat!($at, "Definition.DeregisterCriticalServiceAfter")),
            number(concat!($at, "Definition.OutputMaxSize")),
            text(concat!($at, "Definition.HTTP")),
            text(concat!($at, "Definition.Method")),
            text(concat!($at, "Definition.Body")),
            map(concat!($at, "Definition.Header")),
            list(concat!($at, "Definition.Header.*")),
            boolean(concat!($at, "Definition.DisableRedirects")),
            text(concat!($at, "Definition.TLSServerName")),
            boolean(concat!($at, "Definition.TLSSkipVerify")),
            text(concat!($at, "Definition.TCP")),
            boolean(concat!($at, "Definition.TCPUseTLS")),
            text(concat!($at, "Definition.UDP")),
            text(concat!($at, "Definition.GRPC")),
            boolean(concat!($at, "Definition.GRPCUseTLS")),
            text(concat!($at, "Definition.H2PING")),
            boolean(concat!($at, "Definition.H2PingUseTLS")),
            text(concat!($at, "Definition.OSService")),
            list(concat!($at, "Definition.ScriptArgs")),
            text(concat!($at, "Definition.DockerContainerID")),
            text(concat!($at, "Definition.Shell")),
            text(concat!($at, "Definition.AliasNode")),
            text(concat!($at, "Definition.AliasService")),
        ]
    };
}

/// Entries of `/v1/health/service`.
pub(in crate::protocol::consul) const ENTRIES: Schema<ConsulField> = schema!(
    node!("Node."),
    service!("Service."),
    definition!("Service."),
    &[records("Checks[]")],
    check!("Checks[]."),
);

/// Services of `/v1/catalog/service`.
pub(in crate::protocol::consul) const CATALOG: Schema<ConsulField> = schema!(
    &[
        text("ID"),
        text("Node"),
        text("Address"),
        text("Datacenter"),
        map("TaggedAddresses"),
        text("TaggedAddresses.*"),
        map("NodeMeta"),
        text("NodeMeta.*"),
        text("ServiceName"),
        text("PeerName"),
        number("CreateIndex"),
        number("ModifyIndex"),
    ],
    definition!("Service"),
);

/// Checks.
pub(in crate::protocol::consul) const CHECKS: Schema<ConsulField> = schema!(check!(""));

/// Services of an agent, and of a node.
pub(in crate::protocol::consul) const SERVICES: Schema<ConsulField> = schema!(service!(""), definition!(""));

/// Nodes.
pub(in crate::protocol::consul) const NODES: Schema<ConsulField> = schema!(node!(""));
