//! Fields of a policy that connected clients would not follow.

use callboard::pb::callboard::v1::{ListPolicyLimitationsRequest, xds_service_client::XdsServiceClient};
use prost_types::{Struct, value::Kind};
use tonic::Code;
use tonic_types::StatusExt;

use super::{XdsClient, channel};
use crate::harness::{TestServer, within};

/// Document of a policy.
fn document(fields: &[(&str, Kind)]) -> Struct {
    let fields =
        fields.iter().map(|(name, kind)| ((*name).to_owned(), prost_types::Value { kind: Some(kind.clone()) }));
    Struct { fields: fields.collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limitations_of_a_policy_are_those_of_the_connected_clients_of_the_service() {
    let server = TestServer::open();
    let address = server.grpc().to_string();
    let mut streams = Vec::new();
    for (library, version, service) in [
        ("gRPC Go", "1.44.0", "web"),
        ("gRPC Go", "1.44.0", "web"),
        ("gRPC Go", "1.85.0", "web"),
        ("gRPC Node Pure JS", "1.14.1", "web"),
        ("gRPC Java", "1.40.0", "other"),
    ] {
        streams.push(XdsClient::subscribe_with(&address, "node", (library, version), service).await);
    }
    let mut client = XdsServiceClient::new(channel(&address).await);
    let outlier = document(&[("failure_percent", Kind::NumberValue(50.0))]);
    let policy =
        document(&[("lb", Kind::StringValue("least_request".to_owned())), ("outlier", Kind::StructValue(outlier))]);
    let request = |service: &str, policy| ListPolicyLimitationsRequest {
        service: service.to_owned(),
        policy,
        ..Default::default()
    };
    let asked = request("web", Some(policy.clone()));
    let found = within("the limitations", client.list_policy_limitations(asked)).await.unwrap().into_inner();
    let found: Vec<_> = found
        .limitations
        .iter()
        .map(|found| (&*found.field, &*found.agent, found.streams, &*found.behaviour, &*found.since))
        .collect();
    let expected = [
        ("lb", "gRPC Go 1.44.0", 2, "uses round robin", "1.73"),
        ("lb", "gRPC Node Pure JS 1.14.1", 1, "uses round robin", ""),
        ("outlier", "gRPC Go 1.44.0", 2, "ejects no instances", "1.50"),
    ];
    assert_eq!(found, expected);

    // The defaults concern the clients of all services; there are none yet.
    let of_all = client.list_policy_limitations(request("", Some(policy)));
    let of_all = within("the limitations", of_all).await.unwrap().into_inner();
    assert!(of_all.limitations.iter().any(|found| found.agent == "gRPC Java 1.40.0" && found.since == "1.48"));
    let present = ListPolicyLimitationsRequest::default();
    let present = within("the limitations", client.list_policy_limitations(present)).await.unwrap().into_inner();
    assert_eq!(present.limitations, []);

    for (service, policy, field) in [
        ("a b", None, "service"),
        ("web", Some(document(&[("lb", Kind::StringValue("least_reqest".to_owned()))])), "lb"),
        ("", Some(document(&[("default", Kind::NullValue(0))])), "default"),
    ] {
        let rejected = client.list_policy_limitations(request(service, policy));
        let status = within("the limitations", rejected).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field, "{status:?}");
    }
}
