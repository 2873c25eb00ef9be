//! TCP connections that a fault, or the end of the sandbox, can cut from inside.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// A handle on one connection, given to every request that comes over it.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Switch>);

#[derive(Default)]
struct Switch {
    cut: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl Connection {
    /// Makes every further read and write fail, so that the peer sees a reset.
    pub(crate) fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
        if let Some(waker) = lock(&self.0.reader).take() {
            waker.wake();
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.0.cut.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// The open connections of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: HashMap<u64, Connection>,
    closed: bool,
}

impl Connections {
    fn add(&self) -> (u64, Connection) {
        let connection = Connection(Arc::new(Switch::default()));
        let mut open = lock(&self.open);
        if open.closed {
            connection.cut();
        }
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, connection.clone());
        (number, connection)
    }

    /// Cuts all connections, and those that come later.
    pub(crate) fn close(&self) {
        let mut open = lock(&self.open);
        open.closed = true;
        for connection in open.by_number.values() {
            connection.cut();
        }
    }
}

/// Accepts connections and wraps them.
#[derive(Debug)]
pub(crate) struct CuttableListener {
    inner: TcpListener,
    connections: Arc<Connections>,
}

impl CuttableListener {
    pub(crate) fn new(inner: TcpListener, connections: Arc<Connections>) -> Self {
        Self { inner, connections }
    }
}

impl Listener for CuttableListener {
    type Io = CuttableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, address)) => {
                    // Without it small answers wait for the peer's delayed acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let (number, connection) = self.connections.add();
                    let connections = Arc::clone(&self.connections);
                    return (CuttableStream { stream, number, connection, connections }, address);
                }
                // Out of file descriptors, or the peer has gone already: try again a little later.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A TCP stream with a switch.
#[derive(Debug)]
pub(crate) struct CuttableStream {
    stream: TcpStream,
    number: u64,
    connection: Connection,
    connections: Arc<Connections>,
}

impl CuttableStream {
    fn check(&self) -> io::Result<()> {
        self.connection.check().inspect_err(|_| {
            // A reset instead of an orderly end; if it fails the peer sees the latter.
            let _ = self.stream.set_zero_linger();
        })
    }
}

impl Drop for CuttableStream {
    fn drop(&mut self) {
        lock(&self.connections.open).by_number.remove(&self.number);
    }
}

impl AsyncRead for CuttableStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if outcome.is_pending() {
            *lock(&self.connection.0.reader) = Some(cx.waker().clone());
            // The cut may have come between the first look and the waker's arrival.
            self.check()?;
        }
        outcome
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for Connection {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        stream.io().connection.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
