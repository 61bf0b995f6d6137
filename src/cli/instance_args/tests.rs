use bytes::Bytes;
use clap::Parser;
use tonic::Status;

use super::*;
use crate::client::ClientError;

#[derive(Debug, Parser)]
struct TestLine {
    #[command(flatten)]
    instance: InstanceArgs,
}

fn parse(arguments: &str) -> Result<RegisterRequest, clap::Error> {
    let line = TestLine::try_parse_from(format!("register {arguments}").split_whitespace())?;
    Ok(line.instance.request("web".to_owned(), address("127.0.0.1:9001").unwrap(), false))
}

fn printer() -> RegistrationPrinter {
    RegistrationPrinter::new("127.0.0.1:1".to_owned(), &parse("--id a").unwrap())
}

#[test]
fn omitted_options_are_left_to_the_registry() {
    let request = parse("").unwrap();
    assert_eq!(request.id, "127.0.0.1-9001");
    assert_eq!((request.weight, request.ttl, request.disconnect_grace), (None, None, None));
    assert!(request.locality.is_none() && request.tags.is_empty() && !request.replace && !request.starting);
}

#[test]
fn every_option_reaches_the_request() {
    let request = parse(
        "--id a --ttl 5s --disconnect-grace 1s --tag v2 --tag blue --meta team=checkout --meta eq=a=b --weight 3 \
         --zone eu-1a --region eu --sub-zone rack --replace",
    );
    let request = request.unwrap();
    let seconds = |duration: prost_types::Duration| duration.seconds;
    assert_eq!((request.ttl.map(seconds), request.disconnect_grace.map(seconds)), (Some(5), Some(1)));
    assert_eq!(request.tags, ["v2", "blue"]);
    assert_eq!(request.metadata["team"], "checkout");
    assert_eq!(request.metadata["eq"], "a=b");
    let locality = request.locality.unwrap();
    assert_eq!((locality.region.as_str(), locality.zone.as_str(), locality.sub_zone.as_str()), ("eu", "eu-1a", "rack"));
    assert_eq!((request.id.as_str(), request.weight, request.replace), ("a", Some(3), true));
}

#[test]
fn invalid_values_are_usage_errors_with_a_hint() {
    for (arguments, hint) in [
        ("--weight 0", "1..=65535"),
        ("--weight 65536", "1..=65535"),
        ("--meta novalue", "KEY=VALUE"),
        ("--meta =x", "KEY=VALUE"),
        ("--ttl soon", "number"),
    ] {
        let error = parse(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{arguments}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn addresses_are_host_and_port() {
    for (text, host, port) in
        [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:80", "::1", 80), ("web-1.internal:65535", "web-1.internal", 65_535)]
    {
        let parsed = address(text).unwrap();
        assert_eq!((parsed.host.as_str(), parsed.port), (host, port), "{text}");
    }
    for (text, hint) in [
        ("localhost", "HOST:PORT"),
        (":80", "HOST:PORT"),
        ("[]:80", "HOST:PORT"),
        ("::1:80", "[::1]:9001"),
        ("host:0", "1 to 65535"),
        ("host:", "1 to 65535"),
        ("host:70000", "1 to 65535"),
    ] {
        let error = address(text).unwrap_err();
        assert!(error.contains(hint), "{text}: {error}");
    }
}

#[test]
fn event_is_one_object_with_the_lease_id_in_hexadecimal() {
    let event = RegistrationEvent::Registered {
        lease_id: Bytes::from_static(&[0, 0xab]),
        ttl: Duration::from_secs(5),
        revision: 7,
        again: false,
        server: Some("127.0.0.1:1".to_owned()),
    };
    let json = serde_json::to_value(printer().report(&event)).unwrap();
    let expected = serde_json::json!({
        "type": "registered", "service": "web", "id": "a",
        "lease_id": "00ab", "ttl_seconds": 5.0, "revision": 7, "again": false, "server": "127.0.0.1:1",
    });
    assert_eq!(json, expected);
    let text = printer().success(&event).unwrap();
    assert_eq!(text, "registered web/a at 127.0.0.1:9001 (ttl 5s, revision 7)");
    let several = RegistrationPrinter { servers: "127.0.0.1:1,127.0.0.1:2".to_owned(), ..printer() };
    let text = several.success(&event).unwrap();
    assert_eq!(text, "registered web/a at 127.0.0.1:9001 (ttl 5s, revision 7, server 127.0.0.1:1)");
}

#[test]
fn repeated_error_of_a_server_is_printed_once_until_it_ends() {
    let down = |server: &str| RegistrationEvent::Interrupted {
        error: ClientError::Connect("connection refused".to_owned()),
        retry_in: Duration::from_secs(1),
        server: Some(server.to_owned()),
    };
    let mut printer = printer();
    for _ in 0..3 {
        printer.print_error(&down("127.0.0.1:1"));
        printer.print_error(&down("127.0.0.1:2"));
    }
    let errors = printer.errors.printed();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[1].contains("127.0.0.1:2: connection refused"), "{errors:?}");
    printer.print_error(&RegistrationEvent::Resumed { time_left: Duration::ZERO, server: None });
    assert!(printer.errors.printed().is_empty());
}

#[test]
fn exit_code_depends_on_how_the_registration_ended() {
    let rejected = |status| RegistrationEnd::Rejected(ClientError::Rejected(status));
    for (end, code) in [
        (RegistrationEnd::Deregistered { removed: true }, 0),
        (RegistrationEnd::Superseded, 1),
        (RegistrationEnd::Removed, 1),
        (rejected(Status::invalid_argument("service")), 2),
        (rejected(Status::permission_denied("no")), 5),
        (RegistrationEnd::Unconfirmed(ClientError::Timeout(Duration::from_secs(2))), 4),
    ] {
        assert_eq!(exit_code_of_end(&end), code, "{end:?}");
    }
}
