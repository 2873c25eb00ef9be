//! A network between the server and PostgreSQL that can swallow everything: packets vanish, and nobody is told.
//!
//! What was swallowed is not lost to it: once it carries again it delivers what is left of it late, as a network does
//! whose senders repeat themselves. A statement may so arrive after its sender has given it up.

use std::{
    net::{SocketAddr, TcpListener as Socket},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use valetkey_core::Secret;
use valetkey_server::{Config, DatabaseConfig};

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Carried {
    requests: bool,
    answers: bool,
    /// Calls before this one are swallowed for ever.
    since: usize,
}

/// A network; it carries everything until it is told otherwise.
#[derive(Debug, Clone)]
pub struct Network {
    address: SocketAddr,
    socket: Arc<Mutex<Option<Socket>>>,
    carried: watch::Sender<Carried>,
    /// After a request with these bytes no answer arrives any more.
    last: Arc<Mutex<Option<&'static [u8]>>>,
    calls: watch::Sender<usize>,
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Network {
    /// A network that leads nowhere yet.
    pub fn new() -> Self {
        let socket = Socket::bind(("127.0.0.1", 0)).expect("a port");
        socket.set_nonblocking(true).expect("a socket");
        let address = socket.local_addr().expect("an address");
        let carried = watch::Sender::new(Carried { requests: true, answers: true, since: 0 });
        let socket = Arc::new(Mutex::new(Some(socket)));
        Self { address, socket, carried, last: Arc::default(), calls: watch::Sender::new(0) }
    }

    /// Puts it between the server and its database, which is PostgreSQL.
    pub fn put_between(&self, config: &mut Config) {
        let DatabaseConfig::Postgres { url } = &mut config.database else { panic!("only PostgreSQL is far away") };
        let mut address: url::Url = url.expose().parse().expect("an address");
        let there = format!("{}:{}", address.host_str().expect("a host"), address.port().unwrap_or(5432));
        address.set_ip_host(self.address.ip()).expect("a host");
        address.set_port(Some(self.address.port())).expect("a port");
        *url = Secret::from(String::from(address));
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it is put once");
        let network = self.clone();
        tokio::spawn(async move {
            let socket = TcpListener::from_std(socket).expect("a socket");
            while let Ok((here, _)) = socket.accept().await {
                network.calls.send_modify(|calls| *calls += 1);
                let (network, there, call) = (network.clone(), there.clone(), *network.calls.borrow());
                tokio::spawn(async move { network.carry_between(here, &there, call).await });
            }
        });
    }

    /// From now on nothing arrives anywhere.
    pub fn swallow(&self) {
        self.carried.send_modify(|carried| (carried.requests, carried.answers) = (false, false));
    }

    /// From the next request on that holds these bytes no answer arrives; requests do.
    pub fn swallow_answers_from(&self, request: &'static [u8]) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
    }

    /// Returns when that request has come.
    pub async fn swallows(&self) {
        let mut carried = self.carried.subscribe();
        carried.wait_for(|carried| !carried.answers).await.expect("the network is there");
    }

    /// Returns when somebody calls anew.
    pub async fn is_called(&self) {
        let mut calls = self.calls.subscribe();
        calls.changed().await.expect("the network is there");
    }

    /// Everything arrives again, and what was swallowed does so late.
    pub fn carry(&self) {
        self.carried.send_modify(|carried| (carried.requests, carried.answers) = (true, true));
    }

    /// Who calls from now on is carried; of calls that began before nothing is heard any more, on either side.
    pub fn carry_anew(&self) {
        let next = *self.calls.borrow() + 1;
        self.carried.send_replace(Carried { requests: true, answers: true, since: next });
    }

    async fn carry_between(&self, here: TcpStream, there: &str, call: usize) {
        let mut carried = self.carried.subscribe();
        if carried.wait_for(|carried| carried.requests && carried.since <= call).await.is_err() {
            return;
        }
        let Ok(there) = TcpStream::connect(there).await else { return };
        let ((asks, hears), (answers, is_asked)) = (here.into_split(), there.into_split());
        tokio::join!(
            self.pass(asks, is_asked, move |carried| carried.requests && carried.since <= call, true),
            self.pass(answers, hears, move |carried| carried.answers && carried.since <= call, false)
        );
    }

    async fn pass(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        passes: impl Fn(&Carried) -> bool,
        looks: bool,
    ) {
        let mut carried = self.carried.subscribe();
        let mut bytes = vec![0; 16 * 1_024];
        loop {
            let read = from.read(&mut bytes).await.unwrap_or(0);
            // An end is swallowed like everything else.
            if carried.wait_for(&passes).await.is_err() || read == 0 {
                break;
            }
            if looks {
                self.look_for_the_last(&bytes[..read]);
            }
            if to.write_all(&bytes[..read]).await.is_err() {
                break;
            }
        }
        // Whoever went away may have done so already.
        let _ = to.shutdown().await;
    }

    fn look_for_the_last(&self, bytes: &[u8]) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| bytes.windows(last.len()).any(|window| window == last)) {
            *last = None;
            self.carried.send_modify(|carried| carried.answers = false);
        }
    }
}
