//! Names, and those of their addresses that we speak to.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::{AddressFault, Guard};

/// What a name stands for just now.
#[async_trait]
pub(crate) trait Lookup: fmt::Debug + Send + Sync {
    async fn lookup(&self, host: &str) -> io::Result<Vec<SocketAddr>>;
}

/// What the system says.
#[derive(Debug)]
pub(crate) struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        tokio::net::lookup_host((host, 0)).await.map(Iterator::collect)
    }
}

/// A lookup, less the addresses that we do not speak to. The HTTP client connects to what this returns and nothing else,
/// so that a name cannot change between check and use.
#[derive(Debug)]
pub(crate) struct GuardedResolver {
    pub(crate) guard: Guard,
    pub(crate) lookup: Arc<dyn Lookup>,
}

#[derive(Debug, thiserror::Error)]
#[error("every address of the name is refused: {0}")]
pub(crate) struct ResolveRefused(pub(crate) AddressFault);

#[derive(Debug, thiserror::Error)]
#[error("the name does not resolve")]
pub(crate) struct ResolveFailed(#[source] pub(crate) io::Error);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, lookup) = (self.guard.clone(), self.lookup.clone());
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
                Ok(ip) => vec![SocketAddr::new(ip, 0)],
                Err(_) => lookup.lookup(host).await.map_err(ResolveFailed)?,
            };
            let kept = guard.keep_allowed(host, found).map_err(ResolveRefused)?;
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    //! `127.0.0.2` stands for a public address: it is the only one that the guard lets through. Behind `127.0.0.1`, on the
    //! same port, waits the sink.

    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use http::Request;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        task::JoinHandle,
        time::Instant,
    };

    use super::*;
    use crate::{
        NotSent, OutboundSettings,
        outbound::{DEADLINE, Outbound, SendFault},
    };

    const HONEST: &str = "127.0.0.2";
    const SINK: &str = "127.0.0.1";

    /// Gives each answer once, and then the last one again.
    #[derive(Debug)]
    struct Scripted {
        answers: Mutex<Vec<Vec<IpAddr>>>,
        asked: AtomicUsize,
    }

    impl Scripted {
        fn new(answers: &[&[&str]]) -> Arc<Self> {
            let parse = |ips: &&[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect();
            Arc::new(Self { answers: Mutex::new(answers.iter().map(parse).collect()), asked: AtomicUsize::new(0) })
        }
    }

    #[async_trait]
    impl Lookup for Scripted {
        async fn lookup(&self, _: &str) -> io::Result<Vec<SocketAddr>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let mut answers = self.answers.lock().unwrap();
            let next = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
            Ok(next.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect())
        }
    }

    /// Counts connections, answers one request on each, and closes it.
    struct Listening {
        connections: Arc<AtomicUsize>,
        task: JoinHandle<()>,
    }

    impl Drop for Listening {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Listening {
        fn on(listener: TcpListener) -> Self {
            let connections = Arc::new(AtomicUsize::new(0));
            let counted = connections.clone();
            let task = tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    counted.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
                }
            });
            Self { connections, task }
        }
    }

    /// An honest server and a sink on one port.
    async fn both() -> (u16, Listening, Listening) {
        loop {
            let honest = TcpListener::bind((HONEST, 0)).await.unwrap();
            let port = honest.local_addr().unwrap().port();
            // Somebody else may have the port at the other address.
            if let Ok(sink) = TcpListener::bind((SINK, port)).await {
                return (port, Listening::on(honest), Listening::on(sink));
            }
        }
    }

    fn outbound(lookup: Arc<dyn Lookup>, networks: &[&str]) -> Outbound {
        let settings = OutboundSettings {
            allow_networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
            allow_http_hosts: vec!["rebinding.example".to_owned()],
            ..OutboundSettings::default()
        };
        Outbound::with_lookup(settings, lookup).unwrap()
    }

    async fn post(outbound: &Outbound, port: u16) -> Result<u16, SendFault> {
        let request = Request::post(format!("http://rebinding.example:{port}/token")).body(b"code=1".to_vec()).unwrap();
        outbound.send(request, Instant::now() + DEADLINE).await.map(|answer| answer.status.as_u16())
    }

    /// How many came to the sink before this call, which comes there itself.
    async fn reached(sink: &Listening, port: u16) -> usize {
        let mut stream = TcpStream::connect((SINK, port)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        // It is answered after everybody who came earlier.
        stream.read_exact(&mut [0; 8]).await.unwrap();
        sink.connections.load(Ordering::SeqCst) - 1
    }

    #[tokio::test]
    async fn a_name_that_changes_after_its_first_answer_is_refused_from_then_on() {
        let (port, honest, sink) = both().await;
        let outbound = outbound(Scripted::new(&[&[HONEST], &[SINK]]), &["127.0.0.2/32"]);
        assert_eq!(post(&outbound, port).await, Ok(200));
        for _ in 0..5 {
            assert_eq!(post(&outbound, port).await, Err(SendFault::NotSent(NotSent::AddressRefused)));
        }
        assert_eq!(honest.connections.load(Ordering::SeqCst), 1);
        assert_eq!(reached(&sink, port).await, 0);
    }

    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
        let (port, honest, sink) = both().await;
        // A second look between check and use would get the other address each time.
        let turns: Vec<&[&str]> = [&[HONEST][..], &[SINK][..]].into_iter().cycle().take(40).collect();
        let lookup = Scripted::new(&turns);
        let outbound = outbound(lookup.clone(), &["127.0.0.2/32"]);
        for turn in 0..40 {
            let wanted = if turn % 2 == 0 { Ok(200) } else { Err(SendFault::NotSent(NotSent::AddressRefused)) };
            assert_eq!(post(&outbound, port).await, wanted, "turn {turn}");
        }
        assert_eq!(lookup.asked.load(Ordering::SeqCst), 40, "once for each connection");
        assert_eq!(honest.connections.load(Ordering::SeqCst), 20);
        assert_eq!(reached(&sink, port).await, 0);
    }

    #[tokio::test]
    async fn of_mixed_answers_only_the_allowed_address_is_tried() {
        let mixes: [&[&str]; 4] = [
            &[SINK, HONEST],
            &[HONEST, SINK],
            &[SINK, "10.0.0.1", "::1", HONEST, "::ffff:127.0.0.1"],
            &[SINK, SINK, HONEST],
        ];
        for mix in mixes {
            let (port, honest, sink) = both().await;
            assert_eq!(post(&outbound(Scripted::new(&[mix]), &["127.0.0.2/32"]), port).await, Ok(200), "{mix:?}");
            // Nor when the allowed one does not answer.
            drop(honest);
            let gone = "127.0.0.3";
            let mix: Vec<&str> = mix.iter().map(|ip| if *ip == HONEST { gone } else { ip }).collect();
            let outbound = outbound(Scripted::new(&[&mix]), &["127.0.0.3/32"]);
            assert_eq!(post(&outbound, port).await, Err(SendFault::NotSent(NotSent::Connect)), "{mix:?}");
            assert_eq!(reached(&sink, port).await, 0, "{mix:?}");
        }
    }

    #[tokio::test]
    async fn a_sink_that_the_operator_lists_is_reached() {
        // The same way, without the guard in it: the tests above could fail.
        let (port, _honest, sink) = both().await;
        assert_eq!(post(&outbound(Scripted::new(&[&[SINK]]), &["127.0.0.0/8"]), port).await, Ok(200));
        assert_eq!(reached(&sink, port).await, 1);
    }
}
