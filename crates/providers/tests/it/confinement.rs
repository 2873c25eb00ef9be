//! Where calls cannot be made to go: into the own network by any spelling, through the system's proxy, or on without end.

use std::process::Command;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::Url;
use valetkey_core::{Connector, Endpoints, TokenKind};
use valetkey_providers::{
    AuthorizationServer, HttpAuthorizationServer, NotSent, OutboundSettings, RevokeOutcome, TokenOutcome,
    UnknownOutcome,
};

use crate::{
    calls::every_call,
    support::{Act, Server, connector, generic, loopback, provider, provider_with, refresh, secrets},
};

/// Hosts that are or may be ours, in every notation that some parser knows, and tricks that hide them.
const HOSTS: &[&str] = &[
    // loopback: dotted, short, decimal, octal, hexadecimal, mixed, encoded, full-width, with dots at the end
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7F.0x0.0x0.0x1",
    "0177.0x0.0.1",
    "00000177.0.0.1",
    "%31%32%37.0.0.1",
    "%6c%6f%63%61%6c%68%6f%73%74",
    "１２７.0.0.1",
    "127。0。0。1",
    "127．0．0．1",
    "①②⑦.0.0.1",
    "ｌｏｃａｌｈｏｓｔ",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "127.0.0.2",
    "127.127.127.127",
    "127.255.255.255",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "0",
    "0.0.0.0",
    "0x0",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "[::0.0.0.1]",
    // version 4 inside of version 6: mapped, compatible, translated, 6to4, Teredo, NAT64
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[2002:7f00:1::]",
    "[2002:7f00:0001::1]",
    "[2001:0:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    // link-local, with a zone too; unique local; site-local; multicast; documentation; discard
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fe80::1%lo]",
    "[fc00::1]",
    "[fd12:3456:789a::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[100::1]",
    "169.254.1.1",
    // private, shared, benchmarks, relays, multicast, reserved, broadcast
    "10.0.0.1",
    "167772161",
    "012.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "0xc0.0xa8.1.1",
    "192.168.257",
    "100.64.0.1",
    "100.127.255.254",
    "198.18.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "4294967295",
    // the clouds' own services
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "100.100.100.200",
    "metadata.google.internal",
    "METADATA.GOOGLE.INTERNAL.",
    "metadata",
    "instance-data",
    // who reads the host from the wrong side of a sign
    "example.com@127.0.0.1",
    "example.com:secret@127.0.0.1",
    "127.0.0.1#@example.com",
    "127.0.0.1\\@example.com",
    "example.com\\.127.0.0.1",
    "127.0.0.1%2f@example.com",
    "127.0.0.1\t",
    "127.0.0.1%00.example.com",
];

/// The addresses that one host becomes at the port of the sink, and at others of its own.
fn spellings(host: &str, port: u16) -> Vec<String> {
    let mut found = vec![format!("https://{host}:{port}"), format!("http://{host}:{port}"), format!("https://{host}")];
    found.push(format!("HTTPS://{host}:0{port}"));
    found
}

fn at(base: &str) -> Connector {
    let mut connector = connector("oauth2");
    connector.endpoints = Endpoints {
        authorization: Some(format!("{base}/authorize")),
        token: Some(format!("{base}/token")),
        revocation: Some(format!("{base}/revoke")),
        userinfo: Some(format!("{base}/userinfo")),
    };
    connector
}

/// How many connections came to the server before this one, which is made to be counted after all of them.
async fn reached(server: &Server) -> usize {
    let before = server.connections();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0; 8]).await.unwrap();
    let after = server.connections();
    assert!(after > before);
    after - 1
}

#[tokio::test]
async fn no_spelling_of_an_address_inside_is_connected_to() {
    assert!(HOSTS.len() >= 60, "{}", HOSTS.len());
    let sink = Server::start(vec![Act::json(200, r#"{"access_token":"a"}"#)]).await;
    let mut tried = 0;
    for host in HOSTS {
        for base in spellings(host, sink.address.port()) {
            // Only the rule on addresses stands in the way: plain HTTP is open for the very host.
            let parsed = Url::parse(&base).ok().and_then(|url| url.host_str().map(str::to_owned));
            let open = OutboundSettings { allow_http_hosts: parsed.into_iter().collect(), ..Default::default() };
            for settings in [OutboundSettings::default(), open] {
                let provider = provider_with(settings);
                refuses(&provider, &base).await;
                tried += 1;
            }
        }
    }
    assert!(tried >= 480, "{tried}");
    assert_eq!(reached(&sink).await, 0);
}

/// Every call with this base of its addresses ends before anything is sent.
async fn refuses(provider: &HttpAuthorizationServer, base: &str) {
    let generic = at(base);
    let outcome = refresh(provider, &generic).await;
    let TokenOutcome::NotSent(cause) = &outcome else { panic!("{base}: {outcome:?}") };
    // A name with a dot at its end is asked for at name servers, which may not know it.
    let is_refused = matches!(cause, NotSent::AddressRefused | NotSent::Misconfigured);
    assert!(is_refused || (base.contains("localhost.") && *cause == NotSent::Dns), "{base}: {cause:?}");
    let token = valetkey_core::Secret::from("t-1");
    let revoked = provider.revoke(&generic, &secrets(&["s-1"]), &token, TokenKind::Refresh).await;
    let is_refused = matches!(revoked, RevokeOutcome::Failed { .. } | RevokeOutcome::Unsupported);
    let is_unknown = matches!(revoked, RevokeOutcome::Retry { code: "dns_failed", .. });
    assert!(is_refused || (base.contains("localhost.") && is_unknown), "{base}: {revoked:?}");
    let mut by_discovery = connector("oidc");
    by_discovery.issuer = Some(base.to_owned());
    assert!(provider.facts(&by_discovery).await.is_err(), "{base}");
}

#[tokio::test]
async fn the_sink_is_reached_where_the_operator_lists_it() {
    let sink = Server::start(vec![Act::json(200, r#"{"access_token":"a"}"#)]).await;
    let port = sink.address.port();
    for host in ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "127.0.0.1.", "%31%32%37.0.0.1", "１２７.0.0.1"] {
        let outcome = refresh(&provider(&sink), &at(&format!("http://{host}:{port}"))).await;
        assert_eq!(outcome.code(), "granted", "{host}");
    }
    assert!(sink.connections() > 0);
}

/// What the next test runs in an environment of its own; by itself it is an ordinary test.
#[tokio::test]
async fn a_call_goes_straight_to_the_provider() {
    let server = Server::start(vec![Act::json(200, r#"{"access_token":"a"}"#)]).await;
    assert_eq!(refresh(&provider(&server), &generic(&server)).await.code(), "granted");
    assert_eq!(server.connections(), 1);
    assert!(server.seen()[0].head.starts_with("POST /token "), "{}", server.seen()[0].head);
}

#[tokio::test]
async fn the_proxy_of_the_system_is_not_used() {
    let proxy = Server::start(vec![Act::json(200, r#"{"access_token":"of the proxy"}"#)]).await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "confinement::a_call_goes_straight_to_the_provider"]).env_remove("NO_PROXY");
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(name, proxy.url("")).env(name.to_lowercase(), proxy.url(""));
    }
    let run = tokio::task::spawn_blocking(move || command.env_remove("no_proxy").output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(reached(&proxy).await, 0);
}

#[tokio::test]
async fn an_answer_with_too_many_headers_is_no_answer() {
    let body = r#"{"access_token":"a"}"#;
    let with = |count: usize| Act::json_with(&"x-more: 1\r\n".repeat(count), body);
    for (count, code) in [(90, "granted"), (101, "connection_lost"), (5_000, "connection_lost")] {
        let server = Server::start(vec![with(count)]).await;
        assert_eq!(refresh(&provider(&server), &generic(&server)).await.code(), code, "{count} headers");
    }
    let long = Act::json_with(&format!("x-long: {}\r\n", "a".repeat(2_000_000)), body);
    let server = Server::start(vec![long]).await;
    assert_eq!(refresh(&provider(&server), &generic(&server)).await.code(), "connection_lost");
}

#[tokio::test]
async fn an_answer_is_not_unpacked() {
    let server = Server::start(vec![Act::json_with("content-encoding: gzip\r\n", "\u{1f}not unpacked")]).await;
    assert_eq!(refresh(&provider(&server), &generic(&server)).await.code(), "unreadable");
    assert_eq!(server.seen()[0].header("accept-encoding"), None);
}

#[tokio::test]
async fn an_answer_that_trickles_is_cut_off_by_the_deadline_of_the_whole_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let trickling = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 60000\r\n\r\n").await.unwrap();
        // Each byte comes well in time.
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let outcome = refresh(&provider_with(loopback(address)), &at(&format!("http://{address}"))).await;
    assert!(matches!(outcome, TokenOutcome::Unknown { cause: UnknownOutcome::Timeout, .. }), "{outcome:?}");
    // We hung up: its next write fails.
    trickling.await.unwrap();
}

#[tokio::test]
async fn nothing_but_the_listed_hosts_is_excepted() {
    let server = Server::start(vec![Act::json(200, r#"{"access_token":"a"}"#)]).await;
    let other = Server::start(vec![Act::json(200, r#"{"access_token":"a"}"#)]).await;
    let provider = provider(&server);
    for call in every_call(&provider, &other).await {
        assert!(!call.went_well, "{}", call.name);
    }
    assert_eq!(reached(&other).await, 0);
    assert_eq!(refresh(&provider, &generic(&server)).await.code(), "granted");
}
