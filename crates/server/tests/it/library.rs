//! The server as tests, demonstrations and benchmarks start it.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::Duration,
};

use valetkey_core::{Clock, ManualClock};
use valetkey_server::{Config, Server, StartError};

/// The status of a GET.
async fn get(address: SocketAddr, path: &'static str) -> u16 {
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    });
    asked.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_run_in_one_process() {
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut servers = Vec::new();
    for home in &homes {
        servers.push(Server::start(Config::local(home.path().join("data"))).await.unwrap());
    }
    assert_ne!(servers[0].local_addr(), servers[1].local_addr());
    for server in &servers {
        assert_eq!(server.public_url().port(), Some(server.local_addr().port()));
        assert_eq!(get(server.local_addr(), "/health/ready").await, 200);
    }
    for server in servers {
        assert!(server.stop().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_lets_go_of_everything_and_can_be_started_again() {
    let home = tempfile::tempdir().unwrap();
    let config = Config::local(home.path().join("data"));
    let server = Server::start(config.clone()).await.unwrap();
    let refused = Server::start(config.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::DataDir(_)) && refused.may_pass(), "{refused}");
    let address = server.local_addr();
    assert!(server.stop().await);
    assert!(TcpStream::connect(address).is_err());
    assert!(Server::start(config).await.unwrap().stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_private_even_where_nobody_set_the_umask() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(Config::local(home.path().join("data"))).await.unwrap();
    for entry in fs::read_dir(server.data_dir()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{}", entry.path().display());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_is_the_clock_that_was_given() {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new());
    clock.advance(Duration::from_secs(86_400));
    let builder = Server::builder(Config::local(home.path().join("data"))).clock(clock.clone()).without_jobs();
    let server = builder.start().await.unwrap();
    let made = |server: &Server| {
        let broker = server.broker().clone();
        async move { broker.list_spaces(&operator()).await.unwrap()[0].1 }
    };
    assert!(clock.now().since(made(&server).await) < Duration::from_secs(60));
    server.stop().await;
}

fn operator() -> valetkey_core::Caller {
    valetkey_core::Caller {
        kind: valetkey_core::CallerKind::CommandLine,
        space: valetkey_core::SpaceId::default_space(),
        roles: vec![valetkey_core::Role::Admin],
        connectors: None,
    }
}
